//! A relay as a whole: the nodes of all units of ownership, behind the interface of one.
//!
//! Units know nothing of each other. Each has its own term, its own streams to the other relays and
//! its own gates, so that what was shown for one holds for all; they share the relay's life, its TLS
//! sessions and its ports.
//!
//! A relay may have several workers. Each has the nodes of some units, and the interface of one: see
//! [`Part`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use relay_abi::bucket::BUCKETS;
use relay_views::View;
use relay_views::id::NodeSet;

use crate::config::{Listener, Settings, Side, Unit};
use crate::entropy::Entropy;
use crate::frame::{EthernetAddress, Inbound, IpAddress, parse};
use crate::id::{Incarnation, NodeId};
use crate::listeners::TooManyAddresses;
use crate::node::{Command, Node, NodeReport};
use crate::parting::Duty;
use crate::reason::{Counters, Reason};
use crate::replica::{Channel, PairKey, Role};
use crate::shard::bucket_of;
use crate::time::Instant;
use crate::tls::Sessions;

/// Which units one worker of a relay has: every `of`-th, beginning with its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The worker, from 0 on.
    pub worker: u8,
    /// Workers of the relay; at most one for each unit.
    pub of: u8,
}

impl Part {
    /// A relay with one worker.
    pub const WHOLE: Part = Part { worker: 0, of: 1 };

    /// The worker that has `unit`.
    pub fn worker_of(self, unit: usize) -> u8 {
        (unit % usize::from(self.of)) as u8
    }

    /// The place of `unit` among those of this worker, if it has it.
    fn place(self, unit: usize) -> Option<usize> {
        (self.worker_of(unit) == self.worker).then_some(unit / usize::from(self.of))
    }

    /// The inverse of [`Part::place`].
    fn unit(self, place: usize) -> usize {
        place * usize::from(self.of) + usize::from(self.worker)
    }
}

/// When another relay was heard last, in which of its lives.
pub type Sign = (NodeId, Incarnation, Instant);

/// The nodes of one relay, or of one of its workers. Methods are those of [`Node`], and are to be called
/// in the same order.
pub struct Units {
    part: Part,
    /// Units of the cluster.
    count: usize,
    nodes: Vec<Node>,
    /// Nodes that have taken something in since their last turn.
    touched: Vec<bool>,
    /// The node that is polled next for each side: those before it have nothing.
    polled: [usize; 3],
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
    pub fn new(settings: Settings, count: u8, seed: [u8; 16], now: Instant) -> Self {
        Units::of_worker(Part::WHOLE, settings, (count, &Sessions::default()), seed, now)
    }

    /// The same for the part of one worker. All workers of a relay are given the same settings, seed
    /// and sessions: they live one life.
    pub fn of_worker(
        part: Part,
        mut settings: Settings,
        (count, sessions): (u8, &Sessions),
        seed: [u8; 16],
        now: Instant,
    ) -> Self {
        let units = Unit::all(count);
        let count = units.len();
        settings.flows_max = settings.flows_max.div_ceil(count);
        settings.replicated_max = settings.replicated_max.div_ceil(count as u64);
        settings.accepts_per_second =
            settings.accepts_per_second.map(|limit| limit.div_ceil(count as u32));
        settings.backend_spread = settings.backend_spread.map(|spread| spread.seen_by(part.worker));
        settings.listeners.keep_sessions_in(sessions);
        let mut entropy = Entropy::new(seed);
        let incarnation = Incarnation(entropy.u64().max(1));
        let others: Vec<Entropy> = (1..count).map(|_| entropy.fork()).collect();
        // The first unit goes on with the relay's own: a relay of one unit is a node.
        let entropies = core::iter::once(entropy).chain(others);
        let own =
            units.zip(entropies).filter(|(unit, _)| part.place(unit.index().into()).is_some());
        let node = |(unit, entropy): (Unit, Entropy)| {
            let settings = Settings { unit, ..settings.clone() };
            Node::with_life(settings, (incarnation, sessions.clone()), entropy, now)
        };
        let nodes: Vec<Node> = own.map(node).collect();
        Units {
            part,
            count,
            silent: vec![NodeSet::EMPTY; nodes.len()],
            told: Some(NodeSet::EMPTY),
            touched: vec![true; nodes.len()],
            polled: [0; 3],
            nodes,
            commands: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Units of the cluster, whichever worker has them.
    pub fn count(&self) -> usize {
        self.count
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

    /// How many buckets of this worker's units each relay owns, as far as this one knows; of its own
    /// units, those that it serves.
    pub fn shares(&self) -> BTreeMap<NodeId, u32> {
        let mut shares = BTreeMap::new();
        for bucket in 0..BUCKETS {
            let place = self.part.place(Unit::of(bucket, self.count));
            if let Some(owner) = place.and_then(|place| self.nodes[place].owner()) {
                *shares.entry(owner).or_default() += 1;
            }
        }
        shares
    }

    /// Whether frames of connections are for this relay, to serve or to hand on.
    pub fn takes_in(&self) -> bool {
        self.nodes.iter().any(Node::takes_in)
    }

    /// What others still need of this relay, when it was asked to end at `since`.
    pub fn duty(&self, now: Instant, since: Instant) -> Duty {
        self.nodes.iter().map(|node| node.duty(now, since)).max().unwrap_or(Duty::None)
    }

    /// Whether this relay answers for the cluster's addresses, which is the first worker's matter.
    pub fn holds_addresses(&self) -> bool {
        // After a handover, too, as long as frames that come here still are for the new owner.
        let holder = self.part.place(0).map(|place| &self.nodes[place]);
        holder.is_some_and(|node| node.role() == Role::Owner || node.is_forwarding())
    }

    /// The relay to which the frames of each unit of this worker go. A bucket's unit is [`Unit::of`].
    pub fn steering(&self) -> impl Iterator<Item = (usize, Option<NodeId>)> + '_ {
        let nodes = self.nodes.iter().enumerate();
        nodes.map(|(place, node)| (self.part.unit(place), node.steers_to()))
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

    /// Takes in a whole Ethernet frame. One that is for another worker is left alone: returns whose
    /// it is.
    pub fn handle_frame(&mut self, now: Instant, side: Side, frame: &[u8]) -> Option<u8> {
        let unit = parse(frame).and_then(|inbound| Ok((self.unit_of(side, &inbound)?, inbound)));
        match unit.map(|(unit, inbound)| (unit, self.part.place(unit), inbound)) {
            Ok((_, Some(place), inbound)) => {
                self.touched[place] = true;
                self.nodes[place].handle_inbound(now, (side, frame), inbound);
            }
            Ok((unit, None, _)) => return Some(self.part.worker_of(unit)),
            Err(reason) => self.counters.count(reason),
        }
        None
    }

    /// Takes in where frames for `address` go.
    pub fn handle_neighbor(&mut self, side: Side, address: IpAddress, mac: EthernetAddress) {
        self.touched.fill(true);
        self.nodes.iter_mut().for_each(|node| node.handle_neighbor(side, address, mac));
    }

    /// Takes in what this relay and another one have in common from now on, see
    /// [`Node::handle_pair_key`].
    pub fn handle_pair_key(&mut self, now: Instant, peer: NodeId, key: &PairKey) {
        self.touched.fill(true);
        self.nodes.iter_mut().for_each(|node| node.handle_pair_key(now, peer, key));
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
        if view.buckets.len() != self.count {
            return Err(view.buckets.len());
        }
        self.touched.fill(true);
        self.nodes.iter_mut().for_each(|node| node.handle_view(now, view));
        Ok(())
    }

    /// Takes in listeners to hold, see [`Node::handle_configuration`].
    ///
    /// # Errors
    /// When there is no room for their addresses.
    pub fn handle_configuration(
        &mut self,
        generation: u64,
        listeners: &[Listener],
    ) -> Result<(), TooManyAddresses> {
        self.nodes.iter_mut().try_for_each(|node| node.handle_configuration(generation, listeners))
    }

    /// The council vouches for the view that was shown last, see [`Node::handle_lease`].
    pub fn handle_lease(&mut self, now: Instant) {
        self.nodes.iter_mut().for_each(|node| node.handle_lease(now));
    }

    /// Does everything that can be done now.
    pub fn turn(&mut self, now: Instant) {
        self.share_signs_of_life();
        for unit in 0..self.nodes.len() {
            let node = &mut self.nodes[unit];
            let is_due = node.poll_timeout().is_some_and(|at| at <= now);
            if core::mem::take(&mut self.touched[unit]) || is_due {
                node.turn(now);
                self.take_commands(unit);
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

    fn take_commands(&mut self, unit: usize) {
        while let Some(command) = self.nodes[unit].poll_command() {
            match command {
                // A unit repeats it: then it is repeated as a whole, too.
                Command::Suspect(nodes) => (self.silent[unit], self.told) = (nodes, None),
                // Every unit wants the same of a member; the first to say so is enough.
                command if self.commands.contains(&command) => {}
                command => self.commands.push_back(command),
            }
        }
    }

    /// What one unit heard of a relay is a sign of life for all.
    fn share_signs_of_life(&mut self) {
        for sign in self.signs() {
            self.note_sign(sign);
        }
    }

    /// The last sign of life of every relay that was heard, for the other workers.
    pub fn signs(&self) -> Vec<Sign> {
        let mut heard: Vec<Sign> = Vec::new();
        for sign in self.nodes.iter().flat_map(Node::heard_peers) {
            match heard.iter_mut().find(|(node, ..)| *node == sign.0) {
                Some(known) if known.2 < sign.2 => *known = sign,
                Some(_) => {}
                None => heard.push(sign),
            }
        }
        heard
    }

    /// Takes in what another worker heard.
    pub fn note_sign(&mut self, sign: Sign) {
        self.nodes.iter_mut().for_each(|node| node.note_heard(sign));
    }

    /// The next thing to do outside of the nodes.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Writes the next frame for `side` into `buf`; poll until None.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant, side: Side, buf: &mut [u8]) -> Option<usize> {
        let polled = &mut self.polled[side as usize];
        while let Some(node) = self.nodes.get_mut(*polled) {
            if let Some(length) = node.poll_transmit(now, side, buf) {
                return Some(length);
            }
            *polled += 1;
        }
        *polled = 0;
        None
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
        let count = self.count;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_has_one_worker_and_one_place() {
        for of in 1..=8 {
            let mut places = BTreeMap::new();
            for unit in 0..64 {
                let own = |worker| Part { worker, of };
                let holders: Vec<_> =
                    (0..of).filter_map(|worker| Some((worker, own(worker).place(unit)?))).collect();
                let [(worker, place)] = holders[..] else { panic!("{unit}: {holders:?}") };
                assert_eq!((own(0).worker_of(unit), own(worker).unit(place)), (worker, unit));
                assert_eq!(places.insert((worker, place), unit), None);
            }
        }
    }
}
