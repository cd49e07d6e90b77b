//! What owners, backups and learners do, whoever decided who they are: `silence` (two nodes by
//! themselves) or `agreed` (views by consensus).

use relay_abi::peer::{Message, Session, View};

use super::{Command, Node};
use crate::canary::{Canary, breaks};
use crate::config::Authority;
use crate::reason::Reason;
use crate::replica::{Author, Event, Peer, Role, Standing};
use crate::time::{Duration, Instant};

/// A backup that applies nothing for this many timeouts is ejected (rule 19).
const STALL_TIMEOUTS: u32 = 20;

/// Unacknowledged bytes toward a learner above which no further flow is given to it: traffic of
/// the flows that it has goes first.
const LEARNING_BACKLOG_MAX: usize = 256 * 1024;

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

/// What becomes of a view that an owner writes into its stream.
pub(super) enum Reading {
    /// What follows is of the view that holds here.
    Apply,
    /// We are behind: it is read when our views have come so far.
    Wait,
    /// The owner is behind.
    Stale,
    /// The same, and so are we.
    Deposed,
}

impl Node {
    /// A peer was heard.
    pub(super) fn heard(&mut self, now: Instant, index: usize, event: Event) {
        // What waited in the rings during a pause is no sign of the present.
        let fresh = now - self.resumed >= self.settings.cluster.heartbeat;
        if fresh {
            self.quarantine = None;
        }
        let peer = &mut self.replicas.peers[index];
        let Some(status) = peer.link.status() else { return };
        let lead = status.clock_ms.saturating_sub(now.as_millis());
        peer.lead_ms = u32::try_from(lead).unwrap_or(u32::MAX);
        if fresh && status.role == Role::Owner {
            self.doubtful = false;
        }
        if event == Event::NewIncarnation {
            peer.applied_epoch = 0;
        }
        match self.settings.cluster.authority {
            Authority::Silence => self.heard_by_silence(now, index, (event, status)),
            Authority::Views => self.heard_by_views(now, index, event),
        }
    }

    /// Applies what arrived from a peer, in order. What is refused is not acknowledged.
    pub(super) fn apply_messages(&mut self, now: Instant, index: usize) -> Result<(), Reason> {
        let peer = &mut self.replicas.peers[index];
        if peer.link.inbox().is_broken() {
            return Err(Reason::PeerMalformed);
        }
        let (mut applied, mut deposed) = (false, false);
        let mut strays = Vec::new();
        let result = loop {
            let follows = self.follows(index);
            let Node { replicas, shadows, sessions, settings, .. } = self;
            let peer = &mut replicas.peers[index];
            let from = Author { node: peer.id, term: self.promised };
            let Some(bytes) = peer.link.inbox().next_message() else { break Ok(()) };
            let result = match Message::decode(bytes) {
                Err(_) => Err(Reason::PeerMalformed),
                Ok(Message::View(view)) => match self.read_view(index, &view) {
                    Reading::Apply => Ok(()),
                    Reading::Wait => break Ok(()),
                    reading => {
                        deposed = matches!(reading, Reading::Deposed);
                        Err(Reason::PeerStaleTerm)
                    }
                },
                Ok(Message::Stray { direction, frame }) => {
                    strays.push((direction, frame.to_vec()));
                    Ok(())
                }
                Ok(_) if !follows && breaks(Canary::IgnoreTerms) => Ok(()),
                Ok(_) if !follows => Err(Reason::PeerStaleTerm),
                Ok(Message::Session(session)) => {
                    sessions.learn(&session);
                    Ok(())
                }
                Ok(message) if settings.listeners.lack(&message) => {
                    Err(Reason::UnknownConfiguration)
                }
                Ok(message) => shadows.apply(from, &message),
            };
            if let Err(reason) = result {
                break Err(reason);
            }
            self.replicas.peers[index].link.inbox().mark_applied();
            applied = true;
        };
        if applied {
            self.replicas.peers[index].link.acknowledge();
        }
        if deposed {
            self.step_down(now, self.promised);
        }
        self.handle_strays(now, strays);
        result
    }

    /// Whether what a peer says on its present stream is of the term that this node promised.
    fn follows(&self, index: usize) -> bool {
        let peer = &self.replicas.peers[index];
        self.role == Role::Backup
            && self.view.owner == peer.id.0
            && self.view.term == self.promised
            && peer.applied_epoch == peer.link.stream_epoch()
    }

    fn read_view(&mut self, index: usize, view: &View) -> Reading {
        let reading = match self.settings.cluster.authority {
            Authority::Silence => self.read_view_by_silence(view),
            Authority::Views => self.read_view_by_views(index, view),
        };
        let peer = &mut self.replicas.peers[index];
        let epoch = peer.link.stream_epoch();
        if matches!(reading, Reading::Apply) && peer.applied_epoch != epoch {
            peer.applied_epoch = epoch;
            self.shadows.begin_bases();
        }
        reading
    }

    /// A process that did not run must not take its own silence for the others'.
    pub(super) fn notice_pause(&mut self, now: Instant) {
        let cluster = &self.settings.cluster;
        if now - self.last_turn > cluster.timeout / 2 && !self.replicas.peers.is_empty() {
            let pause = now - self.last_turn;
            for peer in &mut self.replicas.peers {
                peer.link.discount_pause(pause);
            }
            self.doubt(now);
            self.since += pause;
            self.doubtful = self.role == Role::Backup;
            self.resumed = now;
        }
        if self.quarantine.is_some_and(|until| until <= now) {
            self.quarantine = None;
        }
        self.last_turn = now;
    }

    /// Somebody else may own what was ours, and could not tell us.
    pub(super) fn doubt(&mut self, now: Instant) {
        match self.settings.cluster.authority {
            Authority::Silence => {
                let peers = &self.replicas.peers;
                if self.role == Role::Owner && peers.iter().any(|p| self.lives(now, p)) {
                    self.quarantine(now);
                }
            }
            // Gates refuse what is stale; whatever needs no gate needs a lease (rule 17).
            Authority::Views => self.lease_until = now,
        }
    }

    /// Nothing leaves, and silence counts anew, until a peer was heard or the timeout has passed.
    pub(super) fn quarantine(&mut self, now: Instant) {
        let timeout = self.settings.cluster.timeout;
        self.quarantine = Some(now + timeout);
        self.resumed = now;
    }

    pub(super) fn update_membership(&mut self, now: Instant) {
        match (self.settings.cluster.authority, self.role) {
            (Authority::Silence, Role::Starting) => self.look_for_owner(now),
            (Authority::Silence, Role::Backup) => self.watch_owner(now),
            (Authority::Silence, Role::Owner) => {
                if self.quarantine.is_none() && !self.make_way(now) {
                    self.watch_backups(now);
                }
            }
            (Authority::Views, role) => {
                self.watch_peers(now);
                if role == Role::Owner {
                    self.watch_backups(now);
                }
            }
        }
    }

    /// Goes on with everything that this node knows, as the owner in `view`.
    pub(super) fn take_over(&mut self, now: Instant, view: View, silent_since: Option<Instant>) {
        let shadows = self.shadows.take();
        self.become_owner(now, view);
        let outage = silent_since.map_or(Duration::ZERO, |since| now - since);
        for (id, shadow, from) in shadows {
            self.answer_for(&shadow);
            let of = |peer: &&Peer| peer.id == from.node;
            let lead = self.replicas.peers.iter().find(of).map_or(0, |peer| peer.lead_ms);
            let lead = lead.saturating_add(CLOCK_MARGIN_MS);
            let io = (now, &mut self.replicas);
            let (counters, settings) = (&mut self.counters, &self.settings);
            let adopted = self.shard.adopt(((id, shadow), (lead, outage)), io, counters, settings);
            if let Err(reason) = adopted {
                self.counters.count(reason);
            }
        }
        self.replicas.push(None, &Message::BasesEnd);
        self.takeovers += 1;
        self.takeover = silent_since.map(|since| now - since);
    }

    /// Owns from now on, with the flows that there are: those in sync are gates.
    pub(super) fn become_owner(&mut self, now: Instant, view: View) {
        self.view = view;
        self.role = Role::Owner;
        self.owner_lost = false;
        for peer in &mut self.replicas.peers {
            peer.put_out();
            let life = peer.link.incarnation();
            let member = self.view.in_sync.iter().find(|(id, _)| *id == peer.id.0);
            peer.standing = match member {
                Some((_, member)) if life.is_some_and(|life| life.0 == *member) => Standing::InSync,
                Some(_) => Standing::Lost,
                None => Standing::Out,
            };
        }
        self.replicas.push(None, &Message::View(self.view.clone()));
        if self.claims_addresses() {
            self.announce_at = ANNOUNCEMENTS.iter().map(|after| now + *after).collect();
        }
        self.commands.push_back(Command::Steer);
    }

    fn watch_backups(&mut self, now: Instant) {
        let by_silence = self.settings.cluster.authority == Authority::Silence;
        let stall_max = self.settings.cluster.timeout * STALL_TIMEOUTS;
        for index in 0..self.replicas.peers.len() {
            let peer = &self.replicas.peers[index];
            let lives = self.lives(now, peer);
            let outbox = peer.link.outbox_ref();
            let stalled = outbox.stalled_since().is_some_and(|since| now - since > stall_max);
            let slow = stalled || outbox.is_over();
            match peer.standing {
                // Without a carrier the silence is ours: wait, and release nothing (rule 17).
                Standing::Out if !lives => {}
                _ if !lives && !self.can_serve() => {}
                Standing::Out if peer.rest_until > now => {}
                Standing::Out => self.begin_learning(index),
                // Who is silent is for the council to say.
                _ if !lives && !by_silence => {}
                _ if !lives => self.eject_alone(index),
                _ if slow && by_silence => {
                    self.eject_alone(index);
                    self.replicas.peers[index].put_to_rest(now);
                }
                _ if slow => self.ask_to_eject(now, index),
                Standing::Learning(upto) => self.teach(now, index, upto),
                Standing::Taught(end) => {
                    if outbox.acked() >= end {
                        let end = outbox.end();
                        self.replicas.peers[index].standing = Standing::Proposed(end);
                    }
                }
                Standing::Proposed(end) => {
                    if peer.link.outbox_ref().acked() >= end {
                        match by_silence {
                            true => self.promote_alone(index),
                            false => self.ask_to_promote(now, index),
                        }
                    }
                }
                Standing::Found(end) if peer.link.outbox_ref().acked() >= end => {
                    self.replicas.peers[index].standing = Standing::InSync;
                }
                Standing::InSync | Standing::Lost | Standing::Found(_) => {}
            }
        }
    }

    fn begin_learning(&mut self, index: usize) {
        let peer = &self.replicas.peers[index];
        let follows = peer.link.status().is_some_and(|status| status.role != Role::Owner);
        let wanted = match self.settings.cluster.authority {
            Authority::Silence => follows && peer.link.incarnation().is_some(),
            Authority::Views => self.is_learner(peer),
        };
        if !wanted {
            return;
        }
        let peer = &mut self.replicas.peers[index];
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
                let end = self.replicas.push_to(index, &Message::BasesEnd);
                self.replicas.peers[index].standing = Standing::Taught(end);
                if breaks(Canary::PromoteUngated) {
                    self.admit(index);
                    let end = self.replicas.push_to(index, &Message::View(self.view.clone()));
                    self.replicas.peers[index].standing = Standing::Proposed(end);
                }
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

    pub(super) fn can_serve(&self) -> bool {
        self.carrier.client && self.carrier.backend
    }

    pub(super) fn lives(&self, now: Instant, peer: &Peer) -> bool {
        peer.last_heard().is_some_and(|at| now - at < self.settings.cluster.timeout)
    }
}
