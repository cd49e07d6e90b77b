//! Replication: what an owner sends to its backups, and how far each of them has applied it.

mod channel;
mod link;
mod punctuality;
mod shadow;
mod stream;

pub use channel::{Channel, OVERHEAD, PairKey, SECRET};
pub use link::{Event, Link, Role, Status};
pub use punctuality::Punctuality;
pub use shadow::{Author, OpenShadow, OpeningShadow, Pieces, Shadow, Shadows};
pub use stream::OUTBOX_MAX;

use std::collections::VecDeque;

use relay_abi::peer::Message;

use crate::canary::{Canary, breaks};
use crate::frame::EthernetAddress;
use crate::id::{FlowId, Incarnation, NodeId};
use crate::time::{Duration, Instant};

/// How long a peer that was ejected for its slowness rests at first; doubled up to [`REST_MAX`].
const REST_MIN: Duration = Duration::from_secs(1);

/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// Numbers everything that an owner replicates; effects wait for one of these.
pub type Lsn = u64;

/// How far a peer is on its way to a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Gets no messages: dead, or we are not the owner.
    Out,
    /// Has been given every flow up to this one (rule 3: a learner).
    Learning(Option<FlowId>),
    /// Has been given every flow, up to this position. Not gated on before it has applied that: what
    /// it is taught must hold nobody up.
    Taught(u64),
    /// Knows every flow and is gated on; promoted when it has applied everything below this
    /// position (rule 4).
    Proposed(u64),
    /// In the view's in-sync set.
    InSync,
    /// In the view's in-sync set, but in another life, so that it knows of nothing, or not heard of
    /// yet: until a view removes it, or it is found, nothing is released (rules 4 and 9).
    Lost,
    /// In the view's in-sync set, and heard of only since this node owns: it was given every flow then,
    /// and nothing is released before it has applied everything below this position (rule 11).
    Found(u64),
}

/// One of the other nodes.
pub struct Peer {
    pub id: NodeId,
    pub address: core::net::IpAddr,
    /// Where its datagrams come from; broadcast until it was heard.
    pub mac: EthernetAddress,
    pub link: Link,
    pub standing: Standing,
    /// How long its silence may last.
    pub punctuality: Punctuality,
    /// Since when its present life is a member: its silence before that is none of it.
    pub welcomed: Instant,
    /// A peer that was ejected for its slowness is not taught again before this instant.
    pub rest_until: Instant,
    /// How long it rests the next time (rule 19: re-admission backs off).
    pub rest: Duration,
    /// Serial number of the last TLS session that the peer was given while it learns.
    pub taught_session: u64,
    /// How far its clock is ahead of ours, in milliseconds; 0 when it is behind.
    pub lead_ms: u32,
    /// When another unit heard this life of it last.
    heard_elsewhere: Option<(Incarnation, Instant)>,
    /// The stream epoch for which the messages were applied last.
    pub applied_epoch: u32,
    /// Ends of messages in the peer's stream, and their numbers.
    marks: VecDeque<(u64, Lsn)>,
}

/// The other nodes, and what they have acknowledged.
pub struct Replicas {
    pub peers: Vec<Peer>,
    last: Lsn,
    /// Messages go to this peer alone, while it is given what the others know.
    only: Option<usize>,
    /// Messages are kept here and go to nobody, while an owner becomes a backup.
    kept: Option<Vec<Vec<u8>>>,
}

impl Peer {
    /// A peer that nobody has heard of yet.
    pub fn new(id: NodeId, address: core::net::IpAddr, link: Link) -> Self {
        Peer {
            id,
            address,
            mac: EthernetAddress::BROADCAST,
            link,
            standing: Standing::Out,
            punctuality: Punctuality::default(),
            welcomed: Instant::ZERO,
            rest_until: Instant::ZERO,
            rest: REST_MIN,
            taught_session: 0,
            lead_ms: 0,
            heard_elsewhere: None,
            applied_epoch: 0,
            marks: VecDeque::new(),
        }
    }

    /// When this life of it was heard last, in whatever unit: they share its worker.
    pub fn last_heard(&self) -> Option<Instant> {
        let elsewhere = self.heard_elsewhere;
        let same = elsewhere.filter(|(life, _)| Some(*life) == self.link.incarnation());
        self.link.last_heard().max(same.map(|(_, at)| at))
    }

    /// Another unit heard it.
    pub fn note_heard(&mut self, life: Incarnation, at: Instant) {
        if self.heard_elsewhere.is_none_or(|(_, before)| before <= at) {
            self.heard_elsewhere = Some((life, at));
        }
    }

    /// Whether releases wait for this peer (rule 4).
    pub fn is_gate(&self) -> bool {
        match self.standing {
            Standing::Proposed(_) => !breaks(Canary::PromoteUngated),
            Standing::InSync | Standing::Lost | Standing::Found(_) => true,
            Standing::Out | Standing::Learning(_) | Standing::Taught(_) => false,
        }
    }

    /// Stops sending messages; the stream begins anew when the peer learns again.
    pub fn put_out(&mut self) {
        self.standing = Standing::Out;
        self.taught_session = 0;
        self.link.restart_outbox();
        self.marks.clear();
    }

    /// The peer was too slow: it rests before it is taught again.
    pub fn put_to_rest(&mut self, now: Instant) {
        self.put_out();
        self.rest_from(now);
    }

    /// The same, while it is a gate still.
    pub fn rest_from(&mut self, now: Instant) {
        if self.rest_until > now {
            return;
        }
        self.rest_until = now + self.rest;
        self.rest = (self.rest * 2).min(REST_MAX);
    }

    fn takes(&self, flow: Option<FlowId>) -> bool {
        match (self.standing, flow) {
            (Standing::Out | Standing::Lost, _) => false,
            (Standing::Learning(_), None) => true,
            (Standing::Learning(upto), Some(flow)) => upto.is_some_and(|upto| flow <= upto),
            (Standing::Taught(_) | Standing::Proposed(_), _) => true,
            (Standing::InSync | Standing::Found(_), _) => true,
        }
    }

    fn acked(&mut self, last: Lsn) -> Lsn {
        let position = self.link.outbox_ref().acked();
        match self.standing {
            Standing::Lost => return 0,
            Standing::Found(end) if position < end => return 0,
            _ => {}
        }
        while self.marks.front().is_some_and(|(end, _)| *end <= position) {
            self.marks.pop_front();
        }
        self.marks.front().map_or(last, |(_, lsn)| lsn - 1)
    }
}

impl Replicas {
    /// The given peers, none of which is a backup yet.
    pub fn new(peers: Vec<Peer>) -> Self {
        Replicas { peers, last: 0, only: None, kept: None }
    }

    /// Takes down what would be sent to a backup.
    pub fn recorder() -> Self {
        Replicas { kept: Some(Vec::new()), ..Self::new(Vec::new()) }
    }

    /// The encoded messages since [`Replicas::recorder`].
    pub fn into_recorded(self) -> Vec<Vec<u8>> {
        self.kept.unwrap_or_default()
    }

    /// Sends `message` to every peer that follows `flow` (all followers, if None).
    pub fn push(&mut self, flow: Option<FlowId>, message: &Message<'_>) -> Lsn {
        self.last += 1;
        if let Some(kept) = &mut self.kept {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            kept.push(bytes);
        }
        let only = self.only;
        let peers = self.peers.iter_mut().enumerate();
        for (_, peer) in peers.filter(|(i, p)| p.takes(flow) && only.is_none_or(|o| o == *i)) {
            let end = peer.link.outbox().push(message);
            peer.marks.push_back((end, self.last));
        }
        self.last
    }

    /// Until the next call, messages go to one peer alone; None: to every follower.
    pub fn address(&mut self, only: Option<usize>) {
        self.only = only;
    }

    /// Sends `message` to one peer, whatever its standing.
    pub fn push_to(&mut self, index: usize, message: &Message<'_>) -> u64 {
        self.last += 1;
        let peer = &mut self.peers[index];
        let end = peer.link.outbox().push(message);
        peer.marks.push_back((end, self.last));
        end
    }

    /// Number of the last message.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Everything up to this number is held by every gate (rules 4, 9 and 10).
    pub fn committed(&mut self) -> Lsn {
        let last = self.last;
        self.peers.iter_mut().filter(|p| p.is_gate()).map(|p| p.acked(last)).min().unwrap_or(last)
    }

    /// Whether nobody takes any message.
    pub fn is_alone(&self) -> bool {
        self.peers.iter().all(|peer| peer.standing == Standing::Out)
    }

    /// Whether somebody has to acknowledge anything.
    pub fn has_gates(&self) -> bool {
        self.peers.iter().any(Peer::is_gate)
    }
}
