//! One machine: disk, council, and as much of a data plane as views depend on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use relay_views::command::Candidate;
use relay_views::council::{Council, Event, Outgoing, Settings};
use relay_views::id::{Incarnation, NodeId, NodeSet};
use relay_views::placement;
use relay_views::view::{Kind, State};
use relay_views::{Command, View};

use crate::disk::Disk;

/// Silence of a peer's workers that makes it suspect.
pub const DETECTION: Duration = Duration::from_millis(12);

/// How often an owner looks after its learners.
const TEACHING: Duration = Duration::from_millis(20);

/// A gate that acknowledges nothing for this long is ejected (rule 19).
const EJECTION: Duration = Duration::from_millis(60);

pub struct Node {
    pub id: NodeId,
    pub disk: Disk,
    pub council: Option<Council>,
    pub incarnation: Incarnation,
    pub paused_until: Duration,
    pub wake_at: Duration,
    /// When the workers of which peer were heard last.
    pub heard: BTreeMap<NodeId, Duration>,
    /// When which peer acknowledged something last: it hears us, and we hear it.
    pub acknowledged: BTreeMap<NodeId, Duration>,
    kind: Kind,
    taught: Duration,
}

impl Node {
    pub fn new(id: NodeId, kind: Kind, disk: Disk) -> Node {
        Node {
            id,
            disk,
            council: None,
            incarnation: Incarnation(0),
            paused_until: Duration::ZERO,
            wake_at: Duration::MAX,
            heard: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            kind,
            taught: Duration::ZERO,
        }
    }

    pub fn is_relay(&self) -> bool {
        self.kind == Kind::Relay
    }

    /// Boots: a new life, whatever is on the disk.
    pub fn start(&mut self, now: Duration, contacts: &[NodeId], entropy: u64) {
        let settings = Settings {
            witness: self.kind == Kind::Witness,
            witness_timeout: Duration::from_millis(400),
            loss_timeout: Duration::from_millis(800),
            // Few, so that snapshots are sent.
            compact_after: 24,
            ..Settings::new(self.disk.seat(), contacts.to_vec(), entropy)
        };
        self.incarnation.0 += 1;
        self.heard.clear();
        self.acknowledged.clear();
        let council = Council::new(settings, &self.disk.memory(), now);
        self.council = Some(council.expect("its own disk is consistent"));
        self.enlist(now);
    }

    pub fn view(&self) -> Option<&Arc<View>> {
        self.council.as_ref().map(Council::view)
    }

    /// Runs the council until nothing is left; what became known.
    pub fn settle(&mut self, send: &mut dyn FnMut(Outgoing)) -> Vec<Event> {
        let Some(council) = &mut self.council else { return Vec::new() };
        // A full disk: the node abstains until there is room.
        let _ = council.run(&mut self.disk, send);
        std::iter::from_fn(|| council.poll_event()).collect()
    }

    /// Wants to be a member with the configuration that it knows.
    pub fn enlist(&mut self, now: Duration) {
        let Some(council) = &mut self.council else { return };
        let candidate = Candidate {
            node: self.id,
            incarnation: self.incarnation,
            seat: self.disk.seat(),
            kind: self.kind,
            votes: true,
            weight: 100,
            generation: council.view().configuration.active.generation,
        };
        council.enlist(now, Some(candidate));
    }

    /// The workers' opinion of their peers.
    pub fn detect(&mut self, now: Duration, peers: &[NodeId]) {
        let is_silent = |peer: &&NodeId| {
            let heard = self.heard.get(*peer).copied().unwrap_or(now);
            now.saturating_sub(heard) > DETECTION
        };
        let silent: NodeSet = peers.iter().filter(is_silent).copied().collect();
        for peer in peers {
            self.heard.entry(*peer).or_insert(now);
        }
        if let Some(council) = &mut self.council {
            council.suspect(now, silent);
        }
    }

    /// What a data plane proposes: promotions, handovers, prepared documents.
    pub fn work(&mut self, now: Duration) {
        if now.saturating_sub(self.taught) < TEACHING || !self.is_relay() {
            return;
        }
        self.taught = now;
        let life = (self.id, self.incarnation);
        let Some(view) = self.view().cloned() else { return };
        if !view.names(life.0, life.1) {
            return;
        }
        let mut commands = self.promotions(&view, life);
        let mine = |place: &usize| view.buckets[*place].owner == Some(self.id);
        let asked = |place: &usize| view.buckets[*place].heir.is_some();
        let seen = view.number;
        let leaving: Vec<_> = (0..view.buckets.len()).filter(mine).filter(asked).collect();
        if !leaving.is_empty() {
            let buckets = leaving.iter().map(|place| *place as u16).collect();
            commands.push(Command::HandedOver { seen, buckets, from: life });
        }
        let unprepared = !view.configuration.prepared.contains(self.id);
        if let Some(document) = view.configuration.proposed.as_ref().filter(|_| unprepared) {
            commands.push(Command::Prepared { node: life, generation: document.generation });
        }
        let gates = view.buckets.iter().filter(|bucket| bucket.owner == Some(self.id));
        let gates = gates.fold(NodeSet::EMPTY, |all, bucket| all.union(bucket.in_sync));
        let mut stuck = |gate: &NodeId| {
            let acknowledged = *self.acknowledged.entry(*gate).or_insert(now);
            now.saturating_sub(acknowledged) > EJECTION
        };
        let victims: NodeSet = gates.without(self.id).iter().filter(|gate| stuck(gate)).collect();
        if !victims.is_empty() {
            commands.push(view.eject(victims, life));
        }
        let Some(council) = &mut self.council else { return };
        if council.is_leader() {
            for planned in placement::rebalance(&view, 3) {
                let buckets = vec![planned.bucket];
                commands.push(Command::HandOver { seen, buckets, to: planned.to });
            }
        }
        for command in commands {
            council.propose(now, command);
        }
    }

    fn promotions(&self, view: &View, owner: (NodeId, Incarnation)) -> Vec<Command> {
        let heard = |peer: &NodeId| self.heard.contains_key(peer);
        let learners = view.relays(|state| state != State::Dead);
        let learners = view.lives(learners).filter(|life| heard(&life.0));
        let promote = |learner: (NodeId, Incarnation)| {
            let due = |place: &u16| {
                let bucket = &view.buckets[usize::from(*place)];
                bucket.owner == Some(owner.0) && bucket.learners.contains(learner.0)
            };
            let buckets: Vec<u16> = (0..view.buckets.len() as u16).filter(due).collect();
            let seen = view.number;
            let promote = Command::Promote { seen, buckets, owner, learner };
            (!matches!(&promote, Command::Promote { buckets, .. } if buckets.is_empty()))
                .then_some(promote)
        };
        learners.filter_map(promote).collect()
    }
}
