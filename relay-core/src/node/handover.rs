//! A planned change of the owner. Nobody's retransmission timer shall run out: the new owner starts where
//! the old one stopped.
//!
//! 1. An owner with an heir keeps the frames that come in, and gives its gates whatever it has received.
//! 2. When the heir has acknowledged all of it, the view is asked for in which the heir owns.
//! 3. The former owner gives the heir, as soon as that says that it owns, the frames that it kept and
//!    those that still come, until switches have learned where the cluster's addresses are now.

use std::collections::VecDeque;

use relay_abi::peer::{self as abi, Direction, Message};
use relay_views::Command as Proposal;
use relay_views::view::State;

use super::{Command, Node};
use crate::config::Side;
use crate::id::NodeId;
use crate::parting::Duty;
use crate::reason::Reason;
use crate::replica::{Peer, Role, Standing};
use crate::time::{Duration, Instant};

/// Bytes of frames that are kept at most; of more the new ones are lost, as on a network.
const KEPT_MAX: usize = 4 * 1024 * 1024;

/// How long frames are forwarded after the view: gratuitous announcements are out by then.
const FORWARD: Duration = Duration::from_millis(100);

/// Where a handover is.
#[derive(Default)]
pub(super) enum Handover {
    /// There is none, or the heir is not waited for any more.
    #[default]
    None,
    /// Frames are kept since then.
    Keeping(Instant),
    /// It took too long: frames are taken in as ever, and the heir gets what it can be given.
    Hurried,
    /// Another node owns, and frames are for it.
    Forwarding { to: NodeId, term: u64, until: Instant },
}

/// Frames that wait to be forwarded.
#[derive(Default)]
pub(super) struct Strays {
    frames: VecDeque<(Side, Vec<u8>)>,
    bytes: usize,
}

impl Strays {
    /// False if there is no room for it.
    fn keep(&mut self, side: Side, frame: &[u8]) -> bool {
        let fits = self.bytes + frame.len() <= KEPT_MAX;
        if fits {
            self.bytes += frame.len();
            self.frames.push_back((side, frame.to_vec()));
        }
        fits
    }

    fn take(&mut self) -> VecDeque<(Side, Vec<u8>)> {
        core::mem::take(self).frames
    }
}

impl Node {
    /// Whether frames of connections are for this node, to serve or to forward.
    pub fn takes_in(&self) -> bool {
        self.is_serving() || self.is_forwarding()
    }

    /// Whether frames still go from this node to the one that owns now.
    pub fn is_forwarding(&self) -> bool {
        matches!(self.handover, Handover::Forwarding { .. })
    }

    /// What others still need of this node, when its relay was asked to end at `since`.
    pub fn duty(&self, now: Instant, since: Instant) -> Duty {
        let alive = || self.replicas.peers.iter().filter(|peer| self.lives(now, peer));
        match self.role {
            Role::Owner if alive().any(|peer| self.may_inherit(peer.id)) => Duty::Owner,
            // Those that are about to end themselves: the view decides which of them is next.
            Role::Owner if alive().any(|peer| peer.standing == Standing::InSync) => Duty::Member,
            Role::Backup if !self.has_heard_owner(since) => Duty::Unsure,
            Role::Backup => Duty::Member,
            _ if self.is_forwarding() => Duty::Member,
            _ => Duty::None,
        }
    }

    /// Whether the view gives a relay new units.
    fn may_inherit(&self, node: NodeId) -> bool {
        let member = self.agreed.view().and_then(|view| view.members.get(&node));
        member.is_some_and(|member| matches!(member.state, State::Joining | State::Live))
    }

    fn has_heard_owner(&self, since: Instant) -> bool {
        let owner = NodeId(self.view.owner);
        let owner = self.replicas.peers.iter().find(|peer| peer.id == owner);
        owner.and_then(Peer::last_heard).is_some_and(|at| at >= since)
    }

    /// Keeps a frame for the next owner; false if it is this node's own.
    pub(super) fn keep(&mut self, side: Side, frame: &[u8]) -> bool {
        let keeps = matches!(self.handover, Handover::Keeping(_) | Handover::Forwarding { .. });
        if keeps && !self.strays.keep(side, frame) {
            self.counters.count(Reason::HandedNowhere);
        }
        keeps
    }

    /// Whoever is in sync has everything that was ever released, so that it can go on at any time.
    pub(super) fn hand_over(&mut self, now: Instant) {
        let unit = self.settings.unit;
        let (Some(view), Some(bucket)) =
            (self.agreed.view().cloned(), self.agreed.bucket(unit).copied())
        else {
            return;
        };
        let me = self.settings.node;
        let (seen, buckets) = (view.number, vec![unit.index().into()]);
        if let Some(heir) = bucket.heir {
            let is_told = self.prepare(now);
            if is_told && self.has_everything(heir) {
                let from = (me, self.incarnation);
                self.ask(now, Proposal::HandedOver { seen, buckets, from });
            }
            return;
        }
        self.go_on(now, Handover::None);
        if let Some(to) = self.agreed.planned.filter(|heir| self.is_in_sync(*heir)) {
            self.ask(now, Proposal::HandOver { seen, buckets, to });
        }
    }

    /// Takes in nothing more, and replicates what there is; true when that has been done.
    fn prepare(&mut self, now: Instant) -> bool {
        match self.handover {
            Handover::None => {
                self.handover = Handover::Keeping(now);
                self.shard.set_hurry(true);
                false
            }
            Handover::Keeping(since) if now - since > self.settings.cluster.timeout => {
                self.go_on(now, Handover::Hurried);
                true
            }
            Handover::Keeping(since) => now > since,
            Handover::Hurried | Handover::Forwarding { .. } => true,
        }
    }

    /// The frames that were kept are this node's own after all.
    fn go_on(&mut self, now: Instant, next: Handover) {
        self.handover = next;
        self.shard.set_hurry(false);
        for (side, frame) in self.strays.take() {
            self.handle_frame(now, side, &frame);
        }
    }

    /// This node owns no more. After a handover, it still takes in frames, for the one that does.
    pub(super) fn cease(&mut self, now: Instant, next: &abi::View, lives: bool) {
        if lives && matches!(self.handover, Handover::Keeping(_)) {
            let (to, term) = (NodeId(next.owner), next.term);
            self.handover = Handover::Forwarding { to, term, until: now + FORWARD };
        } else {
            self.end_handover();
        }
    }

    /// Gives the owner what was kept for it.
    pub(super) fn forward(&mut self, now: Instant) {
        let Handover::Forwarding { to, term, until } = self.handover else { return };
        let mut peers = self.replicas.peers.iter();
        let owner = peers.position(|peer| {
            let status = peer.link.status();
            peer.id == to && status.is_some_and(|s| s.role == Role::Owner && s.term == term)
        });
        if let Some(index) = owner {
            for (side, frame) in self.strays.take() {
                let direction = if side == Side::Client { Direction::Up } else { Direction::Down };
                self.replicas.push_to(index, &Message::Stray { direction, frame: &frame });
            }
        }
        if now >= until || self.promised != term {
            self.end_handover();
        }
    }

    fn end_handover(&mut self) {
        self.handover = Handover::None;
        for _ in self.strays.take() {
            self.counters.count(Reason::HandedNowhere);
        }
        self.commands.push_back(Command::Steer);
    }

    /// Takes in what a former owner still got.
    pub(super) fn handle_strays(&mut self, now: Instant, strays: Vec<(Direction, Vec<u8>)>) {
        for (direction, frame) in strays {
            let side = if direction == Direction::Up { Side::Client } else { Side::Backend };
            self.handle_frame(now, side, &frame);
        }
    }

    fn is_in_sync(&self, node: NodeId) -> bool {
        let mut peers = self.replicas.peers.iter();
        peers.any(|peer| peer.id == node && peer.standing == Standing::InSync)
    }

    /// Whether a peer in sync has applied all that it was sent.
    fn has_everything(&self, node: NodeId) -> bool {
        let mut peers = self.replicas.peers.iter();
        peers.any(|peer| {
            peer.id == node
                && peer.standing == Standing::InSync
                && peer.link.outbox_ref().backlog() == 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let (mut strays, frame) = (Strays::default(), [0; 1500]);
        let fit = (0..).take_while(|_| strays.keep(Side::Client, &frame)).count();
        assert_eq!(fit, KEPT_MAX / frame.len());
        assert!(strays.keep(Side::Backend, &[0; 60]), "a shorter one still fits");
        assert_eq!(strays.take().len(), fit + 1);
        assert!(strays.keep(Side::Client, &frame), "there is room again");
    }
}
