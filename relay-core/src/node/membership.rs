//! Who owns the flows, by the simple rule for two nodes: a node that was silent for the timeout is
//! dead, and the survivor decides alone. (Consensus comes with larger clusters; terms,
//! incarnations and the refusal of old ones are those of the rules 2 to 11 already.)

use core::cmp::Reverse;

use relay_abi::peer::{Message, Session, View};

use super::{Command, Node, blank_replicas, blank_shard};
use crate::canary::{Canary, breaks};
use crate::id::{Incarnation, NodeId};
use crate::reason::Reason;
use crate::replica::{Event, OUTBOX_MAX, Role, Standing};
use crate::time::{Duration, Instant};

/// A starting node looks for an owner for this many timeouts, unless it hears of every peer.
const LOOK_TIMEOUTS: u32 = 5;

/// A backup that applies nothing for this many timeouts is ejected (rule 19).
const STALL_TIMEOUTS: u32 = 20;

/// Unacknowledged bytes toward a learner above which no further flow is given to it: traffic of
/// the flows that it has goes first.
const LEARNING_BACKLOG_MAX: usize = 1024 * 1024;

/// Added to TCP timestamps at a takeover: covers the age of what was heard of the owner's clock.
const CLOCK_MARGIN_MS: u32 = 50;

/// Gratuitous frames are repeated after these times: a switch may lose one.
const ANNOUNCEMENTS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_millis(1000),
];

impl Node {
    /// A peer was heard.
    pub(super) fn heard(&mut self, now: Instant, index: usize, event: Event) {
        // What waited in the rings during a pause is no sign of the present.
        let fresh = now - self.resumed >= self.settings.cluster.heartbeat;
        if fresh {
            self.quarantine = None;
        }
        let peer = &mut self.replicas.peers[index];
        let (id, Some(status)) = (peer.id, peer.link.status()) else { return };
        if fresh && status.role == Role::Owner {
            self.doubtful = false;
        }
        if event == Event::NewIncarnation {
            peer.applied_epoch = 0;
            if self.role == Role::Owner && peer.standing != Standing::Out {
                self.eject(index);
            }
            if self.role == Role::Backup && self.view.owner == id.0 {
                self.owner_lost = true;
            }
        }
        match (status.role, self.role) {
            (Role::Owner, Role::Owner) => {
                // Of two owners of one term the one with the longer history goes on.
                let theirs = (status.term, status.view, Reverse(id));
                let ours = (self.view.term, self.view.number, Reverse(self.settings.node));
                if theirs > ours && !breaks(Canary::IgnoreTerms) {
                    self.step_down(now, status.term);
                }
            }
            (Role::Owner, _) if status.term >= self.promised => {
                if self.view.owner != id.0 || status.term > self.view.term {
                    self.follow(id, status.term);
                }
                self.owner_lost = false;
                self.owner_view = self.owner_view.max(status.view);
                let lead = status.clock_ms.saturating_sub(now.as_millis());
                self.owner_lead = u32::try_from(lead).unwrap_or(u32::MAX);
            }
            // An owner's term is its own: only another owner's ends it.
            (_, Role::Owner) => {}
            _ => self.promised = self.promised.max(status.term),
        }
    }

    /// Applies what arrived from a peer, in order. What is refused is not acknowledged.
    pub(super) fn apply_messages(&mut self, now: Instant, index: usize) -> Result<(), Reason> {
        let mut stale_owner = false;
        let peer = &mut self.replicas.peers[index];
        let id = peer.id;
        let epoch = peer.link.stream_epoch();
        if peer.link.inbox().is_broken() {
            return Err(Reason::PeerMalformed);
        }
        let mut applied = false;
        let result = loop {
            let Some(bytes) = peer.link.inbox().next_message() else { break Ok(()) };
            let Ok(message) = Message::decode(bytes) else { break Err(Reason::PeerMalformed) };
            if let Message::View(view) = &message {
                if view.term < self.promised || self.role == Role::Owner {
                    stale_owner = view.term > self.promised;
                    break Err(Reason::PeerStaleTerm);
                }
                self.promised = view.term;
                if peer.applied_epoch != epoch {
                    peer.applied_epoch = epoch;
                    self.shadows.begin_bases();
                }
                self.view = view.clone();
                self.role = Role::Backup;
            } else if self.role != Role::Backup
                || self.view.owner != id.0
                || self.view.term != self.promised
                || peer.applied_epoch != epoch
            {
                if breaks(Canary::IgnoreTerms) {
                    peer.link.inbox().mark_applied();
                    applied = true;
                    continue;
                }
                break Err(Reason::PeerStaleTerm);
            }
            let result = match &message {
                Message::Session(session) => {
                    self.sessions.learn(session);
                    Ok(())
                }
                message => self.shadows.apply(message),
            };
            if let Err(reason) = result {
                break Err(reason);
            }
            peer.link.inbox().mark_applied();
            applied = true;
        };
        if applied {
            peer.link.acknowledge();
        }
        if stale_owner {
            self.step_down(now, self.promised);
        }
        result
    }

    /// A process that did not run must not take its own silence for the others'.
    pub(super) fn notice_pause(&mut self, now: Instant) {
        let cluster = &self.settings.cluster;
        if now - self.last_turn > cluster.timeout / 2 && !self.replicas.peers.is_empty() {
            let pause = now - self.last_turn;
            for peer in &mut self.replicas.peers {
                peer.link.discount_pause(pause);
            }
            if self.role == Role::Owner && self.replicas.peers.iter().any(|p| self.lives(now, p)) {
                self.quarantine(now);
            }
            self.since += pause;
            self.doubtful = self.role == Role::Backup;
            self.resumed = now;
        }
        if self.quarantine.is_some_and(|until| until <= now) {
            self.quarantine = None;
        }
        self.last_turn = now;
    }

    /// Nothing leaves, and silence counts anew, until a peer was heard or the timeout has passed.
    pub(super) fn quarantine(&mut self, now: Instant) {
        let timeout = self.settings.cluster.timeout;
        self.quarantine = Some(now + timeout);
        self.resumed = now;
    }

    pub(super) fn update_membership(&mut self, now: Instant) {
        match self.role {
            Role::Starting => self.look_for_owner(now),
            Role::Backup => self.watch_owner(now),
            Role::Owner => self.watch_backups(now),
        }
    }

    /// Whether this node may take over: it is in the in-sync set of the latest view it knows of.
    pub(super) fn is_eligible(&self) -> bool {
        let me = (self.settings.node.0, self.incarnation.0);
        if breaks(Canary::TakeOverUnfit) {
            return self.role == Role::Backup;
        }
        self.role == Role::Backup
            && !self.doubtful
            && self.view.term == self.promised
            && self.view.in_sync.contains(&me)
            && self.view.number >= self.owner_view
    }

    fn look_for_owner(&mut self, now: Instant) {
        let peers = &self.replicas.peers;
        let living = || peers.iter().filter(|peer| self.lives(now, peer));
        let role_of = |role| {
            move |peer: &&crate::replica::Peer| peer.link.status().is_some_and(|s| s.role == role)
        };
        let all_known = living().count() == peers.len();
        // Who greets us is there and does not hear us: it may be an owner, and must not be deposed
        // by a blank node as soon as it hears us again.
        let timeout = self.settings.cluster.timeout;
        let greets = |peer: &crate::replica::Peer| {
            peer.link.last_greeted().is_some_and(|at| now - at < timeout)
        };
        let looked = now - self.since >= timeout * LOOK_TIMEOUTS && !peers.iter().any(greets);
        let settled = living().any(|p| role_of(Role::Owner)(&p) || role_of(Role::Backup)(&p));
        let first = living().all(|peer| self.settings.node < peer.id);
        // A blank node that nobody could have told of an owner must not claim to be one.
        let could_hear = self.carrier.cluster || peers.is_empty();
        if (all_known || looked) && !settled && first && could_hear && self.can_serve() {
            self.shadows.take();
            self.become_owner(now);
        }
    }

    fn watch_owner(&mut self, now: Instant) {
        let owner = self.replicas.peers.iter().find(|peer| peer.id.0 == self.view.owner);
        let silent_since = owner.and_then(|peer| peer.link.last_heard());
        if owner.is_some_and(|peer| self.lives(now, peer)) && !self.owner_lost {
            return;
        }
        if !self.is_eligible() {
            // Whatever the owner knew is lost with it.
            self.role = Role::Starting;
            self.since = now;
            self.owner_lost = false;
            return;
        }
        let before_us = |peer: &&crate::replica::Peer| {
            peer.id.0 != self.view.owner
                && peer.id < self.settings.node
                && self.view.in_sync.iter().any(|(id, _)| *id == peer.id.0)
        };
        let first = !self.replicas.peers.iter().filter(before_us).any(|peer| self.lives(now, peer));
        if first && self.can_serve() {
            self.take_over(now, silent_since);
        }
    }

    fn take_over(&mut self, now: Instant, silent_since: Option<Instant>) {
        let shadows = self.shadows.take();
        self.become_owner(now);
        let outage = silent_since.map_or(Duration::ZERO, |since| now - since);
        let lead = self.owner_lead.saturating_add(CLOCK_MARGIN_MS);
        for entry in shadows {
            let io = (now, &mut self.replicas);
            let counters = &mut self.counters;
            if let Err(reason) =
                self.shard.adopt((entry, (lead, outage)), io, counters, &self.settings)
            {
                self.counters.count(reason);
            }
        }
        self.takeovers += 1;
        self.takeover = silent_since.map(|since| now - since);
    }

    fn become_owner(&mut self, now: Instant) {
        self.promised += 1;
        let me = (self.settings.node.0, self.incarnation.0);
        self.view = View {
            number: self.view.number + 1,
            term: self.promised,
            owner: me.0,
            in_sync: vec![me],
        };
        self.role = Role::Owner;
        self.owner_lost = false;
        for peer in &mut self.replicas.peers {
            peer.put_out();
        }
        self.announce_at = ANNOUNCEMENTS.iter().map(|after| now + *after).collect();
        self.commands.push_back(Command::Own(true));
    }

    /// Somebody else owns the flows now: what we know is void, and we begin anew.
    fn step_down(&mut self, now: Instant, term: u64) {
        self.incarnation = Incarnation(self.entropy.u64().max(1));
        self.shard = blank_shard(&self.settings, &mut self.entropy, self.incarnation);
        let macs: Vec<_> = self.replicas.peers.iter().map(|peer| peer.mac).collect();
        self.replicas = blank_replicas(&self.settings, self.incarnation);
        for (peer, mac) in self.replicas.peers.iter_mut().zip(macs) {
            peer.mac = mac;
        }
        self.shadows.take();
        self.promised = self.promised.max(term);
        self.role = Role::Starting;
        self.since = now;
        self.announce_at.clear();
        self.commands.push_back(Command::Own(false));
    }

    fn follow(&mut self, owner: NodeId, term: u64) {
        self.promised = term;
        self.role = Role::Backup;
        // Not eligible until a view of this term names us.
        self.view = View { number: 0, term, owner: owner.0, in_sync: Vec::new() };
        self.owner_view = 0;
    }

    fn watch_backups(&mut self, now: Instant) {
        if self.quarantine.is_some() || self.make_way(now) {
            return;
        }
        let stall_max = self.settings.cluster.timeout * STALL_TIMEOUTS;
        for index in 0..self.replicas.peers.len() {
            let peer = &self.replicas.peers[index];
            let lives = self.lives(now, peer);
            let outbox = peer.link.outbox_ref();
            let stalled = outbox.stalled_since().is_some_and(|since| now - since > stall_max);
            let slow = stalled || outbox.backlog() > OUTBOX_MAX;
            match peer.standing {
                // Without a carrier the silence is ours: wait, and release nothing (rule 17).
                Standing::Out if !lives => {}
                _ if !lives && !self.can_serve() => {}
                Standing::Out if peer.rest_until > now => {}
                Standing::Out => self.begin_learning(index),
                _ if !lives => self.eject(index),
                _ if slow => {
                    self.eject(index);
                    self.replicas.peers[index].put_to_rest(now);
                }
                Standing::Learning(upto) => self.teach(now, index, upto),
                Standing::Proposed(end) => {
                    if peer.link.outbox_ref().acked() >= end {
                        self.promote(index);
                    }
                }
                Standing::InSync => {}
            }
        }
    }

    /// An owner whose clients or backends are out of reach leaves its flows to a backup that may
    /// reach them: its state is at the backup, so stepping down is all that it takes.
    fn make_way(&mut self, now: Instant) -> bool {
        if self.can_serve() {
            self.cut_off_since = None;
            return false;
        }
        let since = *self.cut_off_since.get_or_insert(now);
        let is_backed_up = |peer: &crate::replica::Peer| {
            peer.standing == Standing::InSync && self.lives(now, peer)
        };
        let leaves = now - since >= self.settings.cluster.timeout
            && self.replicas.peers.iter().any(is_backed_up);
        if leaves {
            self.cut_off_since = None;
            self.step_down(now, self.promised);
        }
        leaves
    }

    fn begin_learning(&mut self, index: usize) {
        let peer = &mut self.replicas.peers[index];
        let follows = peer.link.status().is_some_and(|status| status.role != Role::Owner);
        if !follows || peer.link.incarnation().is_none() {
            return;
        }
        peer.put_out();
        peer.standing = Standing::Learning(None);
        if breaks(Canary::CountUnbased) {
            self.admit(index);
        }
        self.replicas.push_to(index, &Message::View(self.view.clone()));
    }

    fn teach(&mut self, now: Instant, index: usize, mut upto: Option<crate::id::FlowId>) {
        while self.replicas.peers[index].link.outbox_ref().backlog() < LEARNING_BACKLOG_MAX {
            if self.teach_session(index) {
                continue;
            }
            let next = self.shard.next_replicated(upto);
            let Some(flow) = next else {
                let mut end = self.replicas.push_to(index, &Message::BasesEnd);
                if breaks(Canary::PromoteUngated) {
                    self.admit(index);
                    end = self.replicas.push_to(index, &Message::View(self.view.clone()));
                }
                self.replicas.peers[index].standing = Standing::Proposed(end);
                return;
            };
            upto = Some(flow);
            self.replicas.peers[index].standing = Standing::Learning(upto);
            self.replicas.address(Some(index));
            let io = (now, &mut self.replicas);
            self.shard.replicate(flow, io, &mut self.counters, &self.settings);
            self.replicas.address(None);
        }
    }

    /// Gives a learner one more session; false when it has them all. Those that are made meanwhile
    /// go to every follower.
    fn teach_session(&mut self, index: usize) -> bool {
        let Node { sessions, replicas, .. } = self;
        let taught = replicas.peers[index].taught_session;
        let tell = |session: &Session<'_>| {
            replicas.push_to(index, &Message::Session(*session));
        };
        let next = sessions.next_after(taught, tell);
        if let Some(serial) = next {
            replicas.peers[index].taught_session = serial;
        }
        next.is_some()
    }

    fn promote(&mut self, index: usize) {
        self.replicas.peers[index].standing = Standing::InSync;
        self.admit(index);
        self.commit_view();
    }

    /// Puts a peer into the view.
    fn admit(&mut self, index: usize) {
        let peer = &self.replicas.peers[index];
        let Some(incarnation) = peer.link.incarnation() else { return };
        let member = (peer.id.0, incarnation.0);
        self.view.in_sync.retain(|(id, _)| *id != member.0);
        self.view.in_sync.push(member);
    }

    /// Removes a backup from the view, and with that from the gates.
    fn eject(&mut self, index: usize) {
        let peer = &mut self.replicas.peers[index];
        peer.put_out();
        let id = peer.id.0;
        self.view.in_sync.retain(|(member, _)| *member != id);
        self.commit_view();
    }

    fn commit_view(&mut self) {
        self.view.number += 1;
        self.replicas.push(None, &Message::View(self.view.clone()));
    }

    fn can_serve(&self) -> bool {
        self.carrier.client && self.carrier.backend
    }

    pub(super) fn lives(&self, now: Instant, peer: &crate::replica::Peer) -> bool {
        peer.link.last_heard().is_some_and(|at| now - at < self.settings.cluster.timeout)
    }
}
