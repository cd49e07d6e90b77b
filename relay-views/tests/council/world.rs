//! Virtual time: events in order, a network between the nodes, everything drawn from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use relay_views::View;
use relay_views::council::{Event, Outgoing, found};
use relay_views::id::{NodeId, NodeSet, Seat};
use relay_views::log::Log;
use relay_views::view::{Kind, Member, State};

use crate::check::{Checker, unsettled};
use crate::disk::Disk;
use crate::node::Node;

pub const MILLI: Duration = Duration::from_millis(1);

/// How often workers hear each other, and detectors look.
const HEARTBEAT: Duration = Duration::from_millis(5);

/// Small views are cheap.
const BUCKETS: usize = 6;

#[derive(Clone, Copy, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound.max(1))) >> 64) as u64
    }

    pub fn chance(&mut self, of_a_thousand: u64) -> bool {
        self.below(1000) < of_a_thousand
    }

    pub fn within(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.below(max.as_nanos() as u64 + 1))
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

enum Happening {
    Arrive { from: NodeId, to: NodeId, bytes: Vec<u8> },
    Wake(NodeId),
    Heartbeats,
    Fault(Fault),
}

/// What a scenario or the swarm does to a world.
#[derive(Clone, Debug)]
pub enum Fault {
    Crash(NodeId),
    Start(NodeId),
    Pause(NodeId, Duration),
    /// Neither side hears the other.
    Split(NodeSet),
    /// `from` is not heard by `to`.
    Deafen {
        from: NodeSet,
        to: NodeSet,
    },
    Heal,
    DiskFull(NodeId, bool),
    /// The disk is replaced by an empty one.
    Wipe(NodeId),
    Propose(NodeId, relay_views::Command),
}

pub struct World {
    pub now: Duration,
    pub rng: Rng,
    pub nodes: BTreeMap<NodeId, Node>,
    pub checker: Checker,
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Messages lost, of a thousand.
    pub loss: u64,
    /// A hash of all that was sent, when and what.
    pub trace: u64,
    pub sent: u64,
    /// Changes bytes of messages, in a world that is not checked.
    pub mangle: Option<Rng>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
}

impl World {
    /// A cluster of relays 1.. and witnesses 10.., founded by the first `founders` of them.
    pub fn new(seed: u64, relays: u8, witnesses: u8, founders: usize) -> World {
        let mut world = World {
            now: MILLI,
            rng: Rng(seed.wrapping_mul(7919)),
            nodes: BTreeMap::new(),
            checker: Checker::default(),
            cut: BTreeSet::new(),
            loss: 0,
            trace: 0,
            sent: 0,
            mangle: None,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
        };
        let relays = (1..=relays).map(|id| (NodeId(id), Kind::Relay));
        let all = relays.chain((10..10 + witnesses).map(|id| (NodeId(id), Kind::Witness)));
        for (id, kind) in all {
            let disk = Disk::new(Seat::new(id, world.rng.draw()));
            world.nodes.insert(id, Node::new(id, kind, disk));
        }
        let seats: Vec<_> = world.nodes.values().map(|node| node.disk.seat()).collect();
        let batch = found(&seats[..founders], &View::genesis_of(BUCKETS));
        for node in world.nodes.values_mut().take(founders) {
            node.disk.write(&batch).unwrap();
        }
        for id in world.ids() {
            let at = world.now + world.rng.within(MILLI * 50);
            world.at(at, Happening::Fault(Fault::Start(id)));
        }
        world.at(world.now, Happening::Heartbeats);
        world
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub fn relays(&self) -> Vec<NodeId> {
        self.nodes.values().filter(|node| node.is_relay()).map(|node| node.id).collect()
    }

    pub fn up(&self) -> Vec<NodeId> {
        self.nodes.values().filter(|node| node.council.is_some()).map(|node| node.id).collect()
    }

    pub fn leader(&self) -> Option<NodeId> {
        let leads = |node: &&Node| node.council.as_ref().is_some_and(|c| c.is_leader());
        self.nodes
            .values()
            .filter(leads)
            .max_by_key(|node| node.council.as_ref().map_or(0, |council| council.status().term))
            .map(|node| node.id)
    }

    pub fn fault_in(&mut self, delay: Duration, fault: Fault) {
        self.at(self.now + delay, Happening::Fault(fault));
    }

    /// Runs until `done`, at most for `limit`; how long it took.
    pub fn run_until(
        &mut self,
        limit: Duration,
        done: impl Fn(&World) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while !done(self) {
            if self.now - start > limit {
                return None;
            }
            self.step();
        }
        Some(self.now - start)
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(time, |world| world.now >= end);
    }

    /// Why the cluster has not come to rest yet.
    pub fn unrest(&self) -> Option<String> {
        let views: Vec<_> = self.nodes.values().filter_map(Node::view).collect();
        if views.len() < self.nodes.len() {
            return Some("somebody is down".to_owned());
        }
        let all: NodeSet = self.ids().into_iter().collect();
        let relays: NodeSet = self.relays().into_iter().collect();
        let voters = self.leader().and_then(|id| self.nodes[&id].council.as_ref());
        let voters = voters.map_or(0, |council| council.status().voters.len());
        let few = voters != all.len();
        let old = |node: &&Node| !views[0].names(node.id, node.incarnation);
        if let Some(node) = self.nodes.values().find(old) {
            return Some(format!("{} is not in the view in life {}", node.id, node.incarnation));
        }
        few.then(|| format!("{voters} voters")).or_else(|| unsettled(&views, relays, all))
    }

    /// Everything about everybody, for a failure's message.
    pub fn picture(&self) -> String {
        let line = |node: &Node| {
            let status = node.council.as_ref().map(|council| council.status());
            let view = node.view().map(|view| {
                let state =
                    |(id, member): (&NodeId, &Member)| (id.0, member.incarnation.0, member.state);
                (view.number, view.members.iter().map(state).collect::<Vec<_>>())
            });
            format!("{} life {}: {status:?} {view:?}\n", node.id, node.incarnation.0)
        };
        let lines: String = self.nodes.values().map(line).collect();
        format!("{:?}\n{:?}: cut {:?}\n{lines}", self.unrest(), self.now, self.cut)
    }

    pub fn step(&mut self) {
        let Some(Reverse((at, number))) = self.queue.pop() else { return };
        self.now = at;
        match self.happenings.remove(&number) {
            Some(Happening::Arrive { from, to, bytes }) => self.arrive(from, to, bytes),
            Some(Happening::Wake(id)) => self.wake(id),
            Some(Happening::Heartbeats) => self.heartbeats(),
            Some(Happening::Fault(fault)) => self.happen(fault),
            None => {}
        }
    }

    fn at(&mut self, at: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn arrive(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        if self.cut.contains(&(from, to)) {
            return;
        }
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&to) else { return };
        if node.paused_until > now {
            // It waits in the kernel.
            let until = node.paused_until;
            self.at(until, Happening::Arrive { from, to, bytes });
            return;
        }
        if let Some(council) = &mut node.council {
            let _ = council.handle_message(now, from, &bytes);
            self.settle(to);
        }
    }

    fn wake(&mut self, id: NodeId) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.wake_at != now {
            return;
        }
        if node.paused_until > now {
            node.wake_at = node.paused_until;
            let until = node.wake_at;
            self.at(until, Happening::Wake(id));
            return;
        }
        if let Some(council) = &mut node.council {
            council.handle_timeout(now);
            node.work(now);
            self.settle(id);
        }
    }

    /// Workers hear each other, unless their nodes do not run or the network is cut.
    fn heartbeats(&mut self) {
        let (now, relays) = (self.now, self.relays());
        let runs = |node: &Node| node.council.is_some() && node.paused_until <= now;
        let running: Vec<_> = relays.iter().copied().filter(|id| runs(&self.nodes[id])).collect();
        for to in &running {
            let lost: Vec<bool> = running.iter().map(|_| self.rng.chance(self.loss)).collect();
            let lives: Vec<_> = running.iter().map(|id| self.nodes[id].incarnation).collect();
            let node = self.nodes.get_mut(to).unwrap();
            for ((from, life), lost) in running.iter().zip(lives).zip(lost) {
                let view = node.view().cloned();
                let member = view.as_ref().and_then(|view| view.members.get(from));
                // Another life of the peer is not the one that the view is about.
                let same = member
                    .is_none_or(|member| member.incarnation == life || member.state == State::Dead);
                if same && !lost && !self.cut.contains(&(*from, *to)) {
                    node.heard.insert(*from, now);
                    if !self.cut.contains(&(*to, *from)) {
                        node.acknowledged.insert(*from, now);
                    }
                }
            }
            let peers: Vec<_> = relays.iter().copied().filter(|peer| peer != to).collect();
            node.detect(now, &peers);
            self.settle(*to);
        }
        self.at(now + HEARTBEAT, Happening::Heartbeats);
    }

    /// Sends and checks what follows from a node's last input.
    fn settle(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let mut sent = Vec::new();
        let events = node.settle(&mut |message| sent.push(message));
        for event in events {
            if let Event::View(view) = event {
                if self.mangle.is_none() {
                    self.checker.view(&view);
                }
                node.enlist(self.now);
            }
        }
        let mut wake = None;
        if let Some(council) = &node.council {
            if council.is_leader() && self.mangle.is_none() {
                self.checker.leader(council.status().term, id);
            }
            // A late thread is late by some tenths of a millisecond.
            let next = council.next_timeout().max(self.now);
            if node.wake_at <= self.now || next < node.wake_at {
                node.wake_at = next + self.rng.within(MILLI / 2);
                wake = Some(node.wake_at);
            }
        }
        if let Some(at) = wake {
            self.at(at, Happening::Wake(id));
        }
        sent.into_iter().for_each(|message| self.transmit(id, message));
    }

    fn transmit(&mut self, from: NodeId, message: Outgoing) {
        let Outgoing { to, mut bytes } = message;
        if let Some(rng) = &mut self.mangle
            && rng.chance(100)
        {
            let place = rng.below(bytes.len() as u64) as usize;
            bytes[place] = rng.pick(&[0, 1, 0x7f, 0xff, bytes[place].wrapping_add(1)]);
        }
        self.sent += 1;
        let content = bytes
            .iter()
            .fold(self.sent, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        self.trace = self.trace.rotate_left(5) ^ content ^ self.now.as_nanos() as u64;
        if self.rng.chance(self.loss) {
            return;
        }
        let delay = MILLI / 5 + self.rng.within(MILLI * 3 / 10);
        self.at(self.now + delay, Happening::Arrive { from, to, bytes });
    }

    pub fn happen(&mut self, fault: Fault) {
        let (now, ids) = (self.now, self.ids());
        match fault {
            Fault::Crash(id) => {
                let draw = self.rng.draw();
                let node = self.nodes.get_mut(&id).unwrap();
                node.council = None;
                node.disk.crash(|bound| (draw % bound as u64) as usize);
            }
            Fault::Start(id) => {
                let entropy = self.rng.draw();
                let node = self.nodes.get_mut(&id).unwrap();
                if node.council.is_none() {
                    node.wake_at = Duration::ZERO;
                    node.paused_until = Duration::ZERO;
                    node.start(now, &ids, entropy);
                    self.settle(id);
                }
            }
            Fault::Pause(id, time) => {
                let node = self.nodes.get_mut(&id).unwrap();
                node.paused_until = now + time;
                // Its own silence is not the others'.
                let fresh = now + time;
                node.heard.values_mut().for_each(|heard| *heard = fresh);
            }
            Fault::Split(side) => {
                let pairs = ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b)));
                let across = pairs.filter(|(a, b)| side.contains(*a) != side.contains(*b));
                self.cut.extend(across);
            }
            Fault::Deafen { from, to } => {
                let pairs = from.iter().flat_map(|a| to.iter().map(move |b| (a, b)));
                self.cut.extend(pairs.filter(|(a, b)| a != b));
            }
            Fault::Heal => self.cut.clear(),
            Fault::DiskFull(id, full) => self.nodes.get_mut(&id).unwrap().disk.full = full,
            Fault::Wipe(id) => {
                let serial = self.rng.draw();
                let node = self.nodes.get_mut(&id).unwrap();
                node.disk = Disk::new(Seat::new(id, serial));
            }
            Fault::Propose(id, command) => {
                if let Some(council) = &mut self.nodes.get_mut(&id).unwrap().council {
                    council.propose(now, command);
                    self.settle(id);
                }
            }
        }
    }
}
