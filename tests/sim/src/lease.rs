//! Rule 17 from outside. Without the council's word a node claims no address, lets nobody in, resets
//! nothing that it does not know, and releases nothing alone. Whether it has the word is not asked of
//! the node: it is known here who was in reach of the council and when, who slept, and whom the
//! view that was decided last has for an owner.
//!
//! Resets of a node's own flows are released by their gates, as everything else (rule 10).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use relay_core::config::Side;
use relay_core::frame::IpEndpoint;
use relay_core::id::{Incarnation, NodeId};
use relay_core::node::Node;
use relay_core::time::{Duration, Instant};
use relay_views::View;
use relay_views::source::Manners;
use smoltcp::wire::{
    ArpPacket, EthernetFrame, EthernetProtocol, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv6Packet,
};

use crate::council::Member;
use crate::setup::TIMEOUT;
use crate::wire::{self, Ends};

/// A node that did not run for longer than this may have been deposed meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// Turns of a slow machine are this far apart at most, and a view that it is told of late takes a
/// few of them until it is known.
const TURNS_MAX: Duration = Duration::from_millis(200);

/// What the council knows of a node in one of its turns.
#[derive(Clone, Debug)]
pub struct Standing {
    unit: usize,
    life: (NodeId, Incarnation),
    term: u64,
    /// The council has vouched for its view in this turn.
    vouched: bool,
    /// In the view that it was shown last nobody else holds its flows.
    alone: bool,
    /// Both ends of its connections, our end first.
    flows: Vec<Ends>,
}

/// The lives of all nodes, and what they did.
pub struct Leases {
    /// A view is known to a node that is in reach after this time.
    late: Duration,
    /// Of every unit.
    lives: BTreeMap<(u64, usize), Life>,
    /// Frames that only the holder of a lease may send.
    pub checked: u64,
    pub failures: Vec<String>,
}

#[derive(Default)]
struct Life {
    turned: Option<Instant>,
    /// When the council vouched for its view last; None: not since it slept.
    vouched: Option<Instant>,
    /// When it was last seen to be the owner, whoever knew of it.
    owned: Option<Instant>,
    term: u64,
    /// Connections that it has had in this term.
    flows: BTreeSet<Ends>,
}

impl Standing {
    /// A unit's node at the end of its turn.
    pub fn of((unit, node): (usize, &Node), member: &Member, vouched: bool) -> Self {
        let end = |end: IpEndpoint| SocketAddr::new(end.addr.into(), end.port);
        let mut flows = Vec::new();
        for flow in node.flows() {
            flows.push((end(flow.vip), end(flow.client)));
            let backend = flow.snat.zip(flow.backend);
            flows.extend(backend.map(|(ours, theirs)| (end(ours), end(theirs))));
        }
        let life = member.life();
        let (term, alone) = (node.view().term, member.is_alone(unit));
        Standing { unit, life, term, vouched, alone, flows }
    }

    /// What is known of the node is kept under this.
    fn key(&self) -> (u64, usize) {
        let (_, incarnation) = self.life;
        (incarnation.0, self.unit)
    }
}

impl Leases {
    /// Of a cluster whose council has these manners.
    pub fn new(manners: Manners) -> Self {
        let late = manners.delivery_max * 2 + TURNS_MAX;
        Leases { late, lives: BTreeMap::new(), checked: 0, failures: Vec::new() }
    }

    /// Takes in that a node had a turn while `newest` was in force.
    pub fn attend(&mut self, now: Instant, newest: &View, standing: &Standing) {
        let owner = newest.bucket(standing.unit as u32).and_then(|bucket| bucket.owner);
        let owner = owner.and_then(|owner| newest.members.get(&owner));
        if let Some(owner) = owner {
            self.lives.entry((owner.incarnation.0, standing.unit)).or_default().owned = Some(now);
        }
        let life = self.lives.entry(standing.key()).or_default();
        let slept = life.turned.is_some_and(|at| now - at > PAUSE);
        life.turned = Some(now);
        match (slept, standing.vouched) {
            (true, _) => life.vouched = None,
            (false, true) => life.vouched = Some(now),
            (false, false) => {}
        }
        if life.term != standing.term {
            life.term = standing.term;
            life.flows.clear();
        }
        life.flows.extend(&standing.flows);
    }

    /// Takes in a frame that a node sends to clients or backends in its turn. Addresses are claimed by
    /// the first unit's, whichever sends the frame.
    pub fn watch(&mut self, now: Instant, standing: &Standing, (side, frame): (Side, &[u8])) {
        let Some(deed) = self.deed(standing, (side, frame)) else { return };
        self.checked += 1;
        let (node, _) = standing.life;
        if let Some(why) = self.objection(now, standing.key()) {
            self.failures.push(format!("node {} {deed} {why}", node.0));
        }
    }

    /// What a frame does, if that takes a lease.
    fn deed(&self, standing: &Standing, (side, frame): (Side, &[u8])) -> Option<String> {
        if claims_address(frame) {
            return Some("claims an address".to_owned());
        }
        if let Some(seen) = wire::tcp(frame) {
            let ends = (seen.source, seen.destination);
            let life = self.lives.get(&standing.key());
            let is_known = life.is_some_and(|life| life.flows.contains(&ends));
            if seen.packet.rst() && !is_known {
                return Some(format!("resets {ends:?}, which it does not know,"));
            }
            if seen.packet.syn() && side == Side::Client {
                return Some(format!("lets {} in", seen.destination));
            }
        }
        standing.alone.then(|| "releases alone".to_owned())
    }

    /// What a node lacks to do something that takes a lease.
    fn objection(&self, now: Instant, key: (u64, usize)) -> Option<&'static str> {
        let life = self.lives.get(&key)?;
        if life.vouched.is_none_or(|at| now - at >= TIMEOUT) {
            return Some("without a lease");
        }
        let is_outdated = life.owned.is_none_or(|at| now - at >= TIMEOUT + self.late);
        is_outdated.then_some("long after it was deposed")
    }
}

/// Whether a frame moves an address to its sender: ARP (a request that is gratuitous, too) or a
/// neighbor advertisement.
fn claims_address(frame: &[u8]) -> bool {
    let Ok(frame) = EthernetFrame::new_checked(frame) else { return false };
    match frame.ethertype() {
        EthernetProtocol::Arp => ArpPacket::new_checked(frame.payload()).is_ok(),
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).ok();
            let packet = packet.filter(|packet| packet.next_header() == IpProtocol::Icmpv6);
            packet.is_some_and(|packet| {
                let message = Icmpv6Packet::new_checked(packet.payload());
                message.is_ok_and(|message| message.msg_type() == Icmpv6Message::NeighborAdvert)
            })
        }
        _ => false,
    }
}
