//! An owner and a gate that is there and does nothing; leases; carriers.

mod configuration;

use core::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use relay_abi::peer::Message;
use relay_views::command::Candidate;
use relay_views::id::Seat;
use relay_views::view::Kind;
use relay_views::{Command as Proposal, View};

use super::*;
use crate::config::{Cluster, Macs, Unit};
use crate::frame::EthernetAddress;
use crate::id::NodeId;
use crate::relay::HoldTime;
use crate::tcp;

const BEAT: Duration = Duration::from_millis(5);
const TIMEOUT: Duration = Duration::from_millis(100);
const GATE: (NodeId, Incarnation) = (NodeId(2), Incarnation(20));
const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 3, 2]);

/// A node whose only peer is a bare link, and the views of both.
struct World {
    now: Instant,
    node: Node,
    gate: Link,
    view: View,
    /// The gate applies what it is sent.
    applies: bool,
    proposed: Vec<Proposal>,
}

fn address(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 99, 3, host).into()
}

fn macs(network: u8) -> Macs {
    let mac = |last| EthernetAddress([2, 0, 0x5e, network, 0, last]);
    Macs { cluster: mac(1), port: mac(2) }
}

fn settings() -> Settings {
    Settings {
        node: NodeId(1),
        cluster: Cluster {
            key: [7; 32],
            address: address(1),
            udp_port: 7305,
            mac: EthernetAddress([2, 0, 0, 0, 3, 1]),
            mtu: 1500,
            peers: vec![(GATE.0, address(2))],
            heartbeat: BEAT,
            timeout: TIMEOUT,
            authority: Authority::Views,
        },
        unit: Unit::WHOLE,
        client_mac: macs(1),
        backend_mac: macs(2),
        listeners: Vec::new().into(),
        client_tcp: tcp::Config::default(),
        backend_tcp: tcp::Config::default(),
        backend_spread: None,
        hold: HoldTime::Measured,
        idle_max: None,
        replicated_max: 1 << 30,
        accepts_per_second: None,
        flows_max: 10,
    }
}

impl World {
    /// The node owns, and the gate is in sync.
    fn new() -> Self {
        let now = Instant::from_millis(1000);
        let mut node = Node::new(settings(), [1; 16], now);
        let mut gate = Link::new(([7; 32], Unit::WHOLE), GATE, NodeId(1), BEAT);
        node.handle_pair_key(now, GATE.0, &PairKey::Shared);
        gate.handle_pair_key(&PairKey::Shared);
        let view = View::genesis_of(1);
        let mut world = World { now, node, gate, view, applies: true, proposed: Vec::new() };
        for life in [(NodeId(1), world.node.incarnation()), GATE] {
            world.join(life);
        }
        world.run_for(TIMEOUT);
        for promotion in core::mem::take(&mut world.proposed) {
            // Repeated ones are refused.
            let _ = world.view.apply(&promotion).map(|next| world.view = next);
        }
        world.decide_nothing();
        assert!(world.node.replicas.has_gates() && world.node.report(world.now).in_sync);
        world
    }

    fn join(&mut self, (node, incarnation): (NodeId, Incarnation)) {
        self.decide(&Proposal::Join(Candidate {
            node,
            incarnation,
            seat: Seat::new(node, 1),
            kind: Kind::Relay,
            votes: true,
            weight: 1,
            generation: 0,
        }));
    }

    fn decide(&mut self, command: &Proposal) {
        self.view = self.view.apply(command).expect("a lawful change");
        self.decide_nothing();
    }

    /// Shows the newest view.
    fn decide_nothing(&mut self) {
        self.node.handle_view(self.now, &Arc::new(self.view.clone()));
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += BEAT / 5;
            self.node.turn(self.now);
            while let Some(command) = self.node.poll_command() {
                if let Command::Propose(proposal) = command {
                    self.proposed.push(proposal);
                }
            }
            self.exchange();
        }
    }

    fn exchange(&mut self) {
        let mut frame = [0; 2048];
        while let Some(length) = self.node.poll_peer(self.now, &mut frame) {
            let Ok(Inbound::Udp { payload, .. }) = parse(&frame[..length]) else { continue };
            let _ = self.gate.handle_datagram(self.now, &mut payload.to_vec());
        }
        while self.applies && self.gate.inbox().next_message().is_some() {
            self.gate.inbox().mark_applied();
            self.gate.acknowledge();
        }
        let (role, term) = (Role::Backup, self.node.view.term);
        let status =
            Status { role, term, view: 1, owner: NodeId(1), clock_ms: 0, ports: [macs(3).port; 2] };
        let mut datagram = [0; 1400];
        while let Some(length) = self.gate.poll_datagram(self.now, &status, &mut datagram) {
            let ends = [2, 1].map(|host| IpEndpoint::new(address(host).into(), 7305));
            let macs = Addresses { source: MAC, destination: self.node.settings.cluster.mac };
            let write = |payload: &mut [u8]| payload.copy_from_slice(&datagram[..length]);
            let length = emit_udp(&macs, (ends[0], ends[1]), length, write, &mut frame);
            self.node.handle_frame(self.now, Side::Cluster, &frame[..length]);
        }
    }
}

/// Rule 19: a gate that lives and applies nothing is ejected by a view, and nothing that waits for
/// it is released before there is one.
#[test]
fn a_gate_that_applies_nothing_stays_one_until_a_view_ejects_it() {
    let mut world = World::new();
    world.applies = false;
    let waits = world.node.replicas.push(None, &Message::End { flow: 1 });
    world.run_for(TIMEOUT * 15);
    assert_eq!(world.proposed, [], "it may be slow for a while");
    world.run_for(TIMEOUT * 10);
    let by = (NodeId(1), world.node.incarnation());
    let ejection = world.view.eject(NodeSet::of(GATE.0), by);
    assert!(!world.proposed.is_empty() && world.proposed.iter().all(|other| *other == ejection));
    assert!(world.node.replicas.has_gates() && world.node.replicas.committed() < waits);
    world.decide(&ejection);
    assert!(!world.node.replicas.has_gates());
    assert_eq!(world.node.replicas.committed(), world.node.replicas.last());
}

/// Rule 17: what nobody has to agree to is not done after a pause, although the council had vouched
/// for the view just before.
#[test]
fn a_pause_ends_the_lease() {
    let mut world = World::new();
    world.node.handle_lease(world.now);
    assert!(world.node.has_lease());
    world.now += TIMEOUT * 3 / 4;
    world.node.turn(world.now);
    assert!(!world.node.has_lease(), "it had a quarter of its time left");
    world.node.handle_lease(world.now);
    world.run_for(BEAT);
    assert!(world.node.has_lease());
}

#[test]
fn a_lost_carrier_is_remembered_until_it_is_back() {
    let mut carrier = Carrier { client: true, backend: true, cluster: true };
    for side in [Side::Client, Side::Backend, Side::Cluster] {
        assert!(!carrier.note(side, true));
        assert!(!carrier.note(side, false));
    }
    assert!(!carrier.client && !carrier.backend && !carrier.cluster);
    assert!(carrier.note(Side::Client, true));
    assert!(carrier.client && !carrier.backend);
}
