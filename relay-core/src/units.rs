//! A relay as a whole: the nodes of all units of ownership, behind the interface of one.
//!
//! Units know nothing of each other. Each has its own term, its own streams to the other relays and
//! its own gates, so that what was shown for one holds for all; they share the relay's life, its TLS
//! sessions and its ports.

use std::collections::VecDeque;
use std::sync::Arc;

use relay_abi::bucket::BUCKETS;
use relay_views::View;
use relay_views::id::NodeSet;

use crate::config::{Settings, Side, Unit};
use crate::entropy::Entropy;
use crate::frame::{EthernetAddress, Inbound, IpAddress, parse};
use crate::id::{Incarnation, NodeId};
use crate::node::{Command, Node, NodeReport};
use crate::reason::{Counters, Reason};
use crate::replica::{Channel, Role};
use crate::shard::bucket_of;
use crate::time::Instant;
use crate::tls::Sessions;

/// All nodes of one relay. Methods are those of [`Node`], and are to be called in the same order.
pub struct Units {
    nodes: Vec<Node>,
    commands: VecDeque<Command>,
    /// Of whom each unit hears nothing.
    silent: Vec<NodeSet>,
    /// The suspicion that was told last.
    told: Option<NodeSet>,
    /// Frames that no unit took.
    counters: Counters,
}

impl Units {
    /// The blank nodes of a relay in a cluster of `count` units. `settings.unit` is not looked at.
    /// Each unit has its part of the relay's limits: one relay may come to own all.
    pub fn new(mut settings: Settings, count: u8, seed: [u8; 16], now: Instant) -> Self {
        let units = Unit::all(count);
        settings.flows_max = settings.flows_max.div_ceil(units.len());
        settings.replicated_max = settings.replicated_max.div_ceil(units.len() as u64);
        settings.accepts_per_second =
            settings.accepts_per_second.map(|limit| limit.div_ceil(units.len() as u32));
        let sessions = Sessions::default();
        for listener in &mut settings.listeners {
            listener.tls.keep_sessions_in(&sessions);
        }
        let mut entropy = Entropy::new(seed);
        let incarnation = Incarnation(entropy.u64().max(1));
        let others: Vec<Entropy> = (1..units.len()).map(|_| entropy.fork()).collect();
        // The first unit goes on with the relay's own: a relay of one unit is a node.
        let entropies = core::iter::once(entropy).chain(others);
        let node = |(unit, entropy): (Unit, Entropy)| {
            let settings = Settings { unit, ..settings.clone() };
            Node::with_life(settings, (incarnation, sessions.clone()), entropy, now)
        };
        let nodes: Vec<Node> = units.zip(entropies).map(node).collect();
        Units {
            silent: vec![NodeSet::EMPTY; nodes.len()],
            told: Some(NodeSet::EMPTY),
            nodes,
            commands: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Every unit's node, in the units' order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// This life of the relay.
    pub fn incarnation(&self) -> Incarnation {
        self.nodes[0].incarnation()
    }

    /// What the relay does: it is an owner if it owns any unit.
    pub fn role(&self) -> Role {
        let roles = self.nodes.iter().map(Node::role);
        roles.reduce(Role::of_both).unwrap_or(Role::Starting)
    }

    /// Whether frames of clients and backends may be taken in for any unit.
    pub fn is_serving(&self) -> bool {
        self.nodes.iter().any(Node::is_serving)
    }

    /// Buckets of the units that this relay owns.
    pub fn buckets_owned(&self) -> u32 {
        let owns =
            |bucket: &u32| self.nodes[Unit::of(*bucket, self.nodes.len())].role() == Role::Owner;
        (0..BUCKETS).filter(owns).count() as u32
    }

    /// Whether this relay answers for the cluster's addresses.
    pub fn holds_addresses(&self) -> bool {
        self.nodes[0].role() == Role::Owner
    }

    /// The relay to which the frames of each unit go. A bucket's unit is [`Unit::of`].
    pub fn steering(&self) -> impl Iterator<Item = Option<NodeId>> + '_ {
        self.nodes.iter().map(Node::steers_to)
    }

    /// The other relays.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + use<> {
        let peers: Vec<NodeId> = self.nodes[0].peers().collect();
        peers.into_iter()
    }

    /// Where another relay's ports are, see [`Node::ports_of`].
    pub fn ports_of(&self, node: NodeId) -> Option<[EthernetAddress; 2]> {
        self.nodes.iter().find_map(|unit| unit.ports_of(node))
    }

    /// Takes in a whole Ethernet frame.
    pub fn handle_frame(&mut self, now: Instant, side: Side, frame: &[u8]) {
        let forwarded = self.nodes[0].is_forwarded(side, frame);
        let unit = parse(frame).and_then(|inbound| Ok((self.unit_of(side, &inbound)?, inbound)));
        match unit {
            Ok((unit, inbound)) => {
                self.nodes[unit].handle_inbound(now, (side, forwarded), inbound);
            }
            Err(reason) => self.counters.count(reason),
        }
    }

    /// Takes in where frames for `address` go.
    pub fn handle_neighbor(&mut self, side: Side, address: IpAddress, mac: EthernetAddress) {
        self.nodes.iter_mut().for_each(|node| node.handle_neighbor(side, address, mac));
    }

    /// Takes in whether an interface has a carrier.
    pub fn handle_carrier(&mut self, now: Instant, side: Side, carrier: bool) {
        self.nodes.iter_mut().for_each(|node| node.handle_carrier(now, side, carrier));
    }

    /// Takes in a view of as many buckets as there are units.
    ///
    /// # Errors
    /// The number of units that the cluster was founded with, if it is another one.
    pub fn handle_view(&mut self, now: Instant, view: &Arc<View>) -> Result<(), usize> {
        if view.buckets.len() != self.nodes.len() {
            return Err(view.buckets.len());
        }
        self.nodes.iter_mut().for_each(|node| node.handle_view(now, view));
        Ok(())
    }

    /// The council vouches for the view that was shown last, see [`Node::handle_lease`].
    pub fn handle_lease(&mut self, now: Instant) {
        self.nodes.iter_mut().for_each(|node| node.handle_lease(now));
    }

    /// Does everything that can be done now.
    pub fn turn(&mut self, now: Instant) {
        for (node, silent) in self.nodes.iter_mut().zip(&mut self.silent) {
            node.turn(now);
            while let Some(command) = node.poll_command() {
                match command {
                    // A unit repeats it: then it is repeated as a whole, too.
                    Command::Suspect(nodes) => (*silent, self.told) = (nodes, None),
                    // Every unit wants the same of a member; the first to say so is enough.
                    command if self.commands.contains(&command) => {}
                    command => self.commands.push_back(command),
                }
            }
        }
        // Who is silent is silent for all units: they share its worker.
        let silent = self.silent.iter().copied().reduce(NodeSet::intersection).unwrap_or_default();
        if self.told != Some(silent) {
            self.told = Some(silent);
            // As each of the nodes does: first of whom it hears nothing, then what it wants.
            self.commands.push_front(Command::Suspect(silent));
        }
    }

    /// The next thing to do outside of the nodes.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Writes the next frame for `side` into `buf`; poll until None.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant, side: Side, buf: &mut [u8]) -> Option<usize> {
        self.nodes.iter_mut().find_map(|node| node.poll_transmit(now, side, buf))
    }

    /// When [`Units::turn`] has something to do without input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.nodes.iter().filter_map(Node::poll_timeout).min()
    }

    /// The relay at a glance. It is an owner if it owns any unit, and in sync if it is for all units
    /// that it has to do with.
    pub fn report(&self, now: Instant) -> NodeReport {
        let mut reports = self.nodes.iter().map(|node| node.report(now));
        let first = reports.next().expect("a relay has at least one unit");
        reports.fold(first, NodeReport::with)
    }

    /// What was dropped, and why.
    pub fn counters(&self) -> Counters {
        let mut sum = self.counters.clone();
        self.nodes.iter().for_each(|node| sum.add(node.counters()));
        sum
    }

    fn unit_of(&self, side: Side, inbound: &Inbound<'_>) -> Result<usize, Reason> {
        let count = self.nodes.len();
        Ok(match inbound {
            Inbound::Udp { payload, .. } if side == Side::Cluster => {
                let unit = usize::from(Channel::claimed_unit(payload)?);
                if unit >= count {
                    return Err(Reason::PeerAuthentication);
                }
                unit
            }
            Inbound::Tcp { tuple, .. } => Unit::of(bucket_of(tuple), count),
            Inbound::IcmpError(quote) => Unit::of(bucket_of(&quote.tuple), count),
            _ => 0,
        })
    }
}
