//! Who owns the flows, by the simple rule for two nodes without a council: a node that was silent for
//! the timeout is dead, and the survivor decides alone.

use core::cmp::Reverse;

use relay_abi::peer::{Message, View};

use super::membership::Reading;
use super::{Command, Node, blank_replicas, blank_shard};
use crate::canary::{Canary, breaks};
use crate::id::{Incarnation, NodeId};
use crate::replica::{Event, Peer, Role, Standing, Status};
use crate::time::Instant;

/// A starting node looks for an owner for this many timeouts, unless it hears of every peer.
const LOOK_TIMEOUTS: u32 = 5;

impl Node {
    /// A peer was heard, and says `status`.
    pub(super) fn heard_by_silence(
        &mut self,
        now: Instant,
        index: usize,
        (event, status): (Event, Status),
    ) {
        let id = self.replicas.peers[index].id;
        if event == Event::NewIncarnation {
            if self.role == Role::Owner && self.replicas.peers[index].standing != Standing::Out {
                self.eject_alone(index);
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
            }
            // An owner's term is its own: only another owner's ends it.
            (_, Role::Owner) => {}
            _ => self.promised = self.promised.max(status.term),
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

    pub(super) fn look_for_owner(&mut self, now: Instant) {
        let peers = &self.replicas.peers;
        let living = || peers.iter().filter(|peer| self.lives(now, peer));
        let role_of = |role| move |peer: &&Peer| peer.link.status().is_some_and(|s| s.role == role);
        let all_known = living().count() == peers.len();
        // Who greets us is there and does not hear us: it may be an owner, and must not be deposed
        // by a blank node as soon as it hears us again.
        let timeout = self.settings.cluster.timeout;
        let greets = |peer: &Peer| peer.link.last_greeted().is_some_and(|at| now - at < timeout);
        let looked = now - self.since >= timeout * LOOK_TIMEOUTS && !peers.iter().any(greets);
        let settled = living().any(|p| role_of(Role::Owner)(&p) || role_of(Role::Backup)(&p));
        let first = living().all(|peer| self.settings.node < peer.id);
        // A blank node that nobody could have told of an owner must not claim to be one.
        let could_hear = self.carrier.cluster || peers.is_empty();
        if (all_known || looked) && !settled && first && could_hear && self.can_serve() {
            self.shadows.take();
            let view = self.next_view();
            self.become_owner(now, view);
        }
    }

    pub(super) fn watch_owner(&mut self, now: Instant) {
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
        let before_us = |peer: &&Peer| {
            peer.id.0 != self.view.owner
                && peer.id < self.settings.node
                && self.view.in_sync.iter().any(|(id, _)| *id == peer.id.0)
        };
        let first = !self.replicas.peers.iter().filter(before_us).any(|peer| self.lives(now, peer));
        if first && self.can_serve() {
            let view = self.next_view();
            self.take_over(now, view, silent_since);
        }
    }

    pub(super) fn read_view_by_silence(&mut self, view: &View) -> Reading {
        if view.term < self.promised || self.role == Role::Owner {
            return if view.term > self.promised { Reading::Deposed } else { Reading::Stale };
        }
        self.promised = view.term;
        self.view = view.clone();
        self.role = Role::Backup;
        Reading::Apply
    }

    /// The view in which this node owns the flows alone.
    fn next_view(&mut self) -> View {
        self.promised += 1;
        let me = (self.settings.node.0, self.incarnation.0);
        View { number: self.view.number + 1, term: self.promised, owner: me.0, in_sync: vec![me] }
    }

    /// Somebody else owns the flows now: what we know is void, and we begin anew.
    pub(super) fn step_down(&mut self, now: Instant, term: u64) {
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
        self.commands.push_back(Command::Steer);
    }

    fn follow(&mut self, owner: NodeId, term: u64) {
        self.promised = term;
        self.role = Role::Backup;
        // Not eligible until a view of this term names us.
        self.view = View { number: 0, term, owner: owner.0, in_sync: Vec::new() };
        self.owner_view = 0;
    }

    /// An owner whose clients or backends are out of reach leaves its flows to a backup that may
    /// reach them: its state is at the backup, so stepping down is all that it takes.
    pub(super) fn make_way(&mut self, now: Instant) -> bool {
        if self.can_serve() {
            self.cut_off_since = None;
            return false;
        }
        let since = *self.cut_off_since.get_or_insert(now);
        let is_backed_up = |peer: &Peer| peer.standing == Standing::InSync && self.lives(now, peer);
        let leaves = now - since >= self.settings.cluster.timeout
            && self.replicas.peers.iter().any(is_backed_up);
        if leaves {
            self.cut_off_since = None;
            self.step_down(now, self.promised);
        }
        leaves
    }

    pub(super) fn promote_alone(&mut self, index: usize) {
        self.replicas.peers[index].standing = Standing::InSync;
        self.admit(index);
        self.commit_view();
    }

    /// Puts a peer into the view.
    pub(super) fn admit(&mut self, index: usize) {
        let peer = &self.replicas.peers[index];
        let Some(incarnation) = peer.link.incarnation() else { return };
        let member = (peer.id.0, incarnation.0);
        self.view.in_sync.retain(|(id, _)| *id != member.0);
        self.view.in_sync.push(member);
    }

    /// Removes a backup from the view, and with that from the gates.
    pub(super) fn eject_alone(&mut self, index: usize) {
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
}
