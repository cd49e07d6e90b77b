//! Who owns the flows, by views that consensus has committed (rules 1 to 5, 17 and 19). A node obeys
//! the newest view that it was shown, and proposes what it needs; it decides nothing.
//!
//! A node is about one unit of ownership, for which one bucket of the view stands.

use std::collections::VecDeque;
use std::sync::Arc;

use relay_abi::peer::{self as abi, Message};
use relay_views::id::NodeSet;
use relay_views::view::{Bucket, State};
use relay_views::{Command as Proposal, View, placement};

use super::membership::Reading;
use super::{Command, Node};
use crate::canary::{Canary, breaks};
use crate::id::{Incarnation, NodeId};
use crate::replica::{Author, Event, Peer, Role, Standing};
use crate::time::{Duration, Instant};
use crate::unit::Unit;

/// The same proposal is repeated after this many heartbeats: it may have been lost.
const REPEAT_HEARTBEATS: u32 = 10;

/// A peer with which no key is agreed on is suspected after this many timeouts: it is out of reach.
const UNKEYED_TIMEOUTS: u32 = 20;

/// Units that are handed over at a time.
const MOVES_MAX: usize = 4;

/// Proposals that are remembered, so as not to repeat them at once.
const ASKED_MAX: usize = 16;

/// What a node knows of the views.
#[derive(Default)]
pub(super) struct Agreed {
    view: Option<Arc<View>>,
    asked: VecDeque<(Proposal, Instant)>,
    /// Of whom nothing is heard, as it was told last, and when.
    suspected: (NodeSet, Instant),
    /// This node had itself drained since it cannot serve.
    retreated: bool,
    /// To whom the unit should be handed over, by the view that is known.
    pub(super) planned: Option<NodeId>,
}

impl Agreed {
    pub(super) fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    pub(super) fn bucket(&self, unit: Unit) -> Option<&Bucket> {
        self.view.as_ref()?.bucket(unit.index().into())
    }

    /// The life of `node` that the view is about, if it is alive.
    fn life(&self, node: NodeId) -> Option<Incarnation> {
        let member = self.view.as_ref()?.members.get(&node)?;
        (member.state != State::Dead).then_some(member.incarnation)
    }
}

impl Node {
    /// Takes in a view, if it is newer than the one that is known. Views in between may be missing.
    pub fn handle_view(&mut self, now: Instant, view: &Arc<View>) {
        let known = self.agreed.view.as_ref().map(|known| known.number);
        let Some(bucket) = view.bucket(self.settings.unit.index().into()).copied() else { return };
        if known.is_some_and(|known| known >= view.number) {
            return;
        }
        for peer in &mut self.replicas.peers {
            let life =
                |view: &View| view.lives(view.alive().intersection(NodeSet::of(peer.id))).next();
            let before = self.agreed.view.as_ref().and_then(|known| life(known));
            if life(view) != before {
                peer.welcomed = now;
            }
        }
        self.agree_on(&view.configuration);
        let me = self.settings.node;
        let unit = self.settings.unit.index().into();
        let planned = placement::level(view, MOVES_MAX).into_iter();
        let ours = planned.filter(|planned| planned.bucket == unit && planned.from == me);
        self.agreed.planned = ours.map(|planned| planned.to).next();
        self.agreed.view = Some(Arc::clone(view));
        let is_me = view.members.get(&me).is_some_and(|m| m.incarnation == self.incarnation);
        let lives = is_me && view.names(me, self.incarnation);
        // A dead member in a set in sync: all of them are dead, and who comes back goes on.
        let holds = is_me && bucket.in_sync.contains(me) && bucket.since <= self.view.term;
        let owns = lives && bucket.owner == Some(me);
        let next = summary(view, &bucket);
        if owns && self.role == Role::Owner && next.term == self.view.term {
            self.view = next;
            self.update_gates(&bucket);
        } else {
            self.change_owner(now, next, (owns, lives, holds));
        }
        for index in 0..self.replicas.peers.len() {
            // What the new owner has said already could not be read before.
            if let Err(reason) = self.apply_messages(now, index) {
                self.counters.count(reason);
            }
        }
    }

    /// The council vouches, as of `now`, that no newer view than the one that was shown last can be
    /// in force (rule 17). Good for a timeout.
    pub fn handle_lease(&mut self, now: Instant) {
        self.lease_until = now + self.settings.cluster.timeout;
    }

    fn change_owner(
        &mut self,
        now: Instant,
        next: abi::View,
        (owns, lives, holds): (bool, bool, bool),
    ) {
        let former = NodeId(self.view.owner);
        let was_following = self.role == Role::Backup && former != self.settings.node;
        let same = (next.term, next.owner) == (self.view.term, self.view.owner);
        if self.role == Role::Owner {
            self.lay_down(now);
            self.cease(now, &next, lives);
        }
        // Who is ejected and back within a term may go on to be taught: the owner may not see the
        // view in between, and then takes for known what was known.
        if !holds && !same {
            self.shadows.take();
            // What is still under way describes flows that are not known any more.
            self.replicas.peers.iter_mut().for_each(|peer| peer.applied_epoch = 0);
        }
        self.promised = next.term;
        if !owns {
            if next.owner != self.view.owner {
                self.commands.push_back(Command::Steer);
            }
            self.view = next;
            self.role = if lives { Role::Backup } else { Role::Starting };
            return;
        }
        if holds {
            let peers = self.replicas.peers.iter();
            let owner = peers.filter(|_| was_following).find(|peer| peer.id == former);
            let silent_since = owner.and_then(|peer| peer.last_heard());
            self.take_over(now, next, silent_since);
        } else {
            self.become_owner(now, next);
        }
    }

    /// From an owner to somebody who knows what the owner knew.
    fn lay_down(&mut self, now: Instant) {
        self.shadows.take();
        let recorded = self.shard.lay_down(now, &mut self.counters, &self.settings);
        let from = Author { node: self.settings.node, term: self.view.term };
        for bytes in recorded {
            if let Ok(message) = Message::decode(&bytes) {
                // What we have written ourselves is never malformed.
                let _ = self.shadows.apply(from, &message);
            }
        }
        for peer in &mut self.replicas.peers {
            peer.put_out();
        }
        self.announce_at.clear();
    }

    /// Only a committed view makes the gates fewer (rule 4).
    fn update_gates(&mut self, bucket: &Bucket) {
        for peer in &mut self.replicas.peers {
            let is_same = self.agreed.life(peer.id) == peer.link.incarnation();
            let in_sync = bucket.in_sync.contains(peer.id);
            match peer.standing {
                Standing::Proposed(_) | Standing::InSync if in_sync && is_same => {
                    peer.standing = Standing::InSync;
                }
                Standing::Found(_) if in_sync && is_same => {}
                _ if in_sync => peer.standing = Standing::Lost,
                Standing::Learning(_) | Standing::Taught(_) | Standing::Proposed(_)
                    if bucket.learners.contains(peer.id) && is_same => {}
                Standing::Out => {}
                _ => peer.put_out(),
            }
        }
    }

    pub(super) fn heard_by_views(&mut self, now: Instant, index: usize, event: Event) {
        if event != Event::NewIncarnation || self.role != Role::Owner {
            return;
        }
        let bucket = self.agreed.bucket(self.settings.unit);
        let peer = &mut self.replicas.peers[index];
        let in_sync = bucket.is_some_and(|bucket| bucket.in_sync.contains(peer.id));
        let is_same = self.agreed.life(peer.id) == peer.link.incarnation();
        match peer.standing {
            Standing::Lost if in_sync && is_same => self.base_all(now, index),
            _ if peer.is_gate() => peer.standing = Standing::Lost,
            _ => peer.put_out(),
        }
    }

    /// A member in sync that was not heard of when this node became the owner is given what the others
    /// were given then.
    fn base_all(&mut self, now: Instant, index: usize) {
        self.replicas.peers[index].put_out();
        self.replicas.peers[index].standing = Standing::Found(u64::MAX);
        self.replicas.push_to(index, &Message::View(self.view.clone()));
        self.replicas.address(Some(index));
        let mut upto = None;
        while let Some(flow) = self.shard.next_replicated(upto) {
            upto = Some(flow);
            let io = (now, &mut self.replicas);
            self.shard.replicate(flow, io, &mut self.counters, &self.settings);
        }
        self.replicas.address(None);
        let end = self.replicas.push_to(index, &Message::BasesEnd);
        self.replicas.peers[index].standing = Standing::Found(end);
    }

    /// A stream is read in the view in which it was written.
    pub(super) fn read_view_by_views(&self, index: usize, view: &abi::View) -> Reading {
        let peer = &self.replicas.peers[index];
        let is_owner = self.view.owner == peer.id.0 && self.role == Role::Backup;
        let life = self.agreed.life(peer.id);
        if view.term > self.promised {
            return Reading::Wait;
        }
        if breaks(Canary::IgnoreTerms) {
            return Reading::Apply;
        }
        match is_owner && view.term == self.promised && life == peer.link.incarnation() {
            true => Reading::Apply,
            false => Reading::Stale,
        }
    }

    /// Whether the view wants the owner to teach this life of `peer`.
    pub(super) fn is_learner(&self, peer: &Peer) -> bool {
        let bucket = self.agreed.bucket(self.settings.unit);
        let wanted = bucket.is_some_and(|bucket| bucket.learners.contains(peer.id));
        wanted
            && peer.link.incarnation().is_some()
            && self.agreed.life(peer.id) == peer.link.incarnation()
    }

    /// Tells of silence, hands over what it was asked to, and retreats when it cannot serve.
    pub(super) fn watch_peers(&mut self, now: Instant) {
        self.tell_suspicions(now);
        self.retreat(now);
        match self.role {
            Role::Owner => self.hand_over(now),
            _ => self.forward(now),
        }
    }

    fn tell_suspicions(&mut self, now: Instant) {
        let (told, at) = self.agreed.suspected;
        let alive = self.agreed.view.as_ref().map_or(NodeSet::EMPTY, |view| view.alive());
        let peers = self.replicas.peers.iter().filter(|peer| alive.contains(peer.id));
        let timeout = self.settings.cluster.timeout;
        let is_silent = |peer: &&Peer| {
            // Who was never heard is given some time from our start.
            let heard = peer.last_heard().unwrap_or(self.since + timeout);
            let patience = match peer.link.has_key() {
                true => peer.punctuality.patience(timeout),
                // We cannot hear it: that is no news of it, unless it lasts.
                false => timeout * UNKEYED_TIMEOUTS,
            };
            now - heard.max(peer.welcomed) >= patience
        };
        let silent: NodeSet = peers.filter(is_silent).map(|peer| peer.id).collect();
        let repeats = !silent.is_empty() && now - at >= self.repeat_interval();
        if silent != told || repeats {
            self.agreed.suspected = (silent, now);
            self.commands.push_back(Command::Suspect(silent));
        }
    }

    /// A node whose clients or backends are out of reach leaves its flows to others.
    fn retreat(&mut self, now: Instant) {
        let node = self.settings.node;
        let Some(state) = self.agreed.view.as_ref().and_then(|view| view.members.get(&node)) else {
            return;
        };
        let state = state.state;
        if self.can_serve() {
            self.cut_off_since = None;
            if self.agreed.retreated {
                match state {
                    State::Draining => self.ask(now, Proposal::Undrain { node }),
                    _ => self.agreed.retreated = false,
                }
            }
            return;
        }
        let since = *self.cut_off_since.get_or_insert(now);
        let is_drained = matches!(state, State::Draining | State::Dead);
        if now - since >= self.settings.cluster.timeout && !is_drained {
            self.agreed.retreated = true;
            self.ask(now, Proposal::Drain { node });
        }
    }

    /// The learner has everything, and is gated on already (rule 4).
    pub(super) fn ask_to_promote(&mut self, now: Instant, index: usize) {
        let peer = &self.replicas.peers[index];
        let (Some(view), Some(life)) = (&self.agreed.view, peer.link.incarnation()) else { return };
        let promotion = Proposal::Promote {
            seen: view.number,
            buckets: vec![self.settings.unit.index().into()],
            owner: (self.settings.node, self.incarnation),
            learner: (peer.id, life),
        };
        self.ask(now, promotion);
    }

    /// The gate is too slow (rule 19). It goes on to be one until a view says otherwise.
    pub(super) fn ask_to_eject(&mut self, now: Instant, index: usize) {
        let Some(view) = self.agreed.view.clone() else { return };
        let peer = &mut self.replicas.peers[index];
        peer.rest_from(now);
        let victims = NodeSet::of(peer.id);
        self.ask(now, view.eject(victims, (self.settings.node, self.incarnation)));
    }

    pub(super) fn ask(&mut self, now: Instant, proposal: Proposal) {
        let repeat = self.repeat_interval();
        self.agreed.asked.retain(|(_, at)| now - *at < repeat);
        if self.agreed.asked.iter().any(|(asked, _)| *asked == proposal) {
            return;
        }
        if self.agreed.asked.len() == ASKED_MAX {
            self.agreed.asked.pop_front();
        }
        self.agreed.asked.push_back((proposal.clone(), now));
        self.commands.push_back(Command::Propose(proposal));
    }

    fn repeat_interval(&self) -> Duration {
        self.settings.cluster.heartbeat * REPEAT_HEARTBEATS
    }
}

/// What messages and reports say of a view.
fn summary(view: &View, bucket: &Bucket) -> abi::View {
    abi::View {
        number: view.number,
        term: bucket.term,
        owner: bucket.owner.map_or(u8::MAX, |owner| owner.0),
        in_sync: view.lives(bucket.in_sync).map(|(node, life)| (node.0, life.0)).collect(),
    }
}
