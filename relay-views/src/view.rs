//! The view: plain data, the same at every node that has the same number.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use relay_abi::bucket::BUCKETS;

use crate::command::Command;
use crate::id::{Incarnation, NodeId, NodeSet, Seat};

/// Members of a cluster, witnesses and dead ones included. Every leader talks to all of them.
pub const MEMBERS_MAX: usize = 16;

/// Virtual addresses with a holder.
pub const VIPS_MAX: usize = 256;

/// The heaviest node. Small enough that placement computes in 64 bits.
pub const WEIGHT_MAX: u16 = 1000;

/// The longest configuration document, in bytes. It travels in one entry of the log.
pub const DOCUMENT_MAX: usize = 256 * 1024;

/// The longest reason of an objection, in bytes.
pub const OBJECTION_MAX: usize = 512;

/// What consensus decided: who is alive, and who owns and backs up every bucket.
///
/// Made by [`View::genesis`], [`View::apply`] and [`View::decode`] only; fields are for reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Counts accepted commands: two views with one number are equal.
    pub number: u64,
    /// Copies of each bucket, the owner's included; 0 is as many as there are relays.
    pub replicas: u8,
    /// Everybody who ever joined and was not removed.
    pub members: BTreeMap<NodeId, Member>,
    /// Seats that must not vote any more: their disks were replaced, or their members forgotten.
    /// The latest [`MEMBERS_MAX`].
    pub retired: Vec<Seat>,
    /// Ownership by bucket.
    pub buckets: Vec<Bucket>,
    /// The cluster's configuration.
    pub configuration: Configuration,
    /// Who answers ARP and neighbor discovery for which virtual address.
    pub vips: BTreeMap<IpAddr, Holder>,
}

/// A node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its life that this view is about.
    pub incarnation: Incarnation,
    /// Where its votes are kept.
    pub seat: Seat,
    /// What it does.
    pub kind: Kind,
    /// Whether it votes. All do, unless the operator spelled out a cluster without a witness.
    pub votes: bool,
    /// What it may be used for.
    pub state: State,
    /// Its share of the buckets, relative to the others': 1 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// The view that last changed incarnation or state.
    pub changed: u64,
    /// The view in which it joined, this time.
    pub joined: u64,
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Carries traffic.
    Relay,
    /// Only votes, and keeps views.
    Witness,
}

/// What a member may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Alive; it does not have the state of all its buckets yet.
    Joining,
    /// Alive, with all state that it should have.
    Live,
    /// Alive; its buckets are moved away.
    Draining,
    /// Suspected and voted out, or gone.
    Dead,
}

/// Ownership of one bucket (rule 1).
///
/// A node in a set means its incarnation in [`View::members`]: another incarnation is taken out of
/// every set first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Changes iff the owner changes (rule 2). 0 before the first owner.
    pub term: u64,
    /// The term in which the bucket's history begins. Shadows of older terms are void (rule 18).
    pub since: u64,
    /// The view that last changed this bucket: what a promotion is compared with (rule 3).
    pub changed: u64,
    /// Who releases.
    pub owner: Option<NodeId>,
    /// To whom the owner is asked to hand the bucket over.
    pub heir: Option<NodeId>,
    /// Who has the bucket's state, the owner included: who may become owner.
    pub in_sync: NodeSet,
    /// Whom the owner teaches.
    pub learners: NodeSet,
}

/// The configuration that is in force, and the one that is being prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// In force at every member; generation 0 with no bytes before the first.
    pub active: Document,
    /// The next one, until every live relay holds it.
    pub proposed: Option<Document>,
    /// Who holds the proposed one: lives, since who joins anew is taken out.
    pub prepared: NodeSet,
    /// The last one that did not come into force.
    pub withdrawn: Option<Withdrawn>,
}

/// A document that was dropped. Its number is not used again: whoever holds it, or says late that it
/// does, means no other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// Which.
    pub generation: u64,
    /// Who could not apply it, and why; none if an operator thought better.
    pub objection: Option<Objection>,
}

/// Why a document can not come into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Who can not apply it.
    pub node: NodeId,
    /// For people; at most [`OBJECTION_MAX`] long.
    pub reason: Arc<str>,
}

/// A configuration document. Witnesses keep it, too: it names secrets, and holds none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Grows with every document that is proposed.
    pub generation: u64,
    /// Opaque here; at most [`DOCUMENT_MAX`] long.
    pub bytes: Arc<[u8]>,
    /// The virtual addresses that it names; at most [`VIPS_MAX`].
    pub vips: Arc<[IpAddr]>,
}

/// Who holds a virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The relay that answers for the address, unless there is none alive.
    pub node: Option<NodeId>,
    /// The view that last changed it: announcements of an older one are stale.
    pub changed: u64,
}

impl Configuration {
    /// The generation of the next document.
    pub fn next(&self) -> u64 {
        let withdrawn = self.withdrawn.as_ref().map_or(0, |withdrawn| withdrawn.generation);
        self.active.generation.max(withdrawn) + 1
    }
}

impl Objection {
    /// An objection whose reason is cut where it gets too long.
    pub fn new(node: NodeId, reason: &str) -> Objection {
        let end = reason.floor_char_boundary(OBJECTION_MAX);
        Objection { node, reason: reason[..end].into() }
    }
}

impl View {
    /// The view of a new cluster, with nobody in it.
    pub fn genesis() -> Self {
        Self::genesis_of(BUCKETS as usize)
    }

    /// A genesis with another number of buckets, 1 to [`BUCKETS`]: small worlds simulate faster.
    pub fn genesis_of(buckets: usize) -> Self {
        View {
            number: 0,
            replicas: 0,
            members: BTreeMap::new(),
            retired: Vec::new(),
            buckets: vec![Bucket::default(); buckets.clamp(1, BUCKETS as usize)],
            configuration: Configuration::default(),
            vips: BTreeMap::new(),
        }
    }

    /// The bucket `index`, if there is such a one.
    pub fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.buckets.get(index as usize)
    }

    /// Members that carry traffic and are not dead.
    pub fn alive(&self) -> NodeSet {
        self.relays(|state| state != State::Dead)
    }

    /// Members that carry traffic and whose state fulfils a condition.
    pub fn relays(&self, condition: impl Fn(State) -> bool) -> NodeSet {
        let relays = self.members.iter().filter(|(_, member)| member.kind == Kind::Relay);
        relays.filter(|(_, member)| condition(member.state)).map(|(node, _)| *node).collect()
    }

    /// Whether `node` is in this life a member that is not dead.
    pub fn names(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.members
            .get(&node)
            .is_some_and(|m| m.incarnation == incarnation && m.state != State::Dead)
    }

    /// A set with the incarnations that are meant, as messages between nodes carry it.
    pub fn lives(&self, set: NodeSet) -> impl Iterator<Item = (NodeId, Incarnation)> {
        set.iter().filter_map(|node| Some((node, self.members.get(&node)?.incarnation)))
    }

    /// The command that ends the present stays of `victims`, and no later ones.
    pub fn eject(&self, victims: NodeSet, by: (NodeId, Incarnation)) -> Command {
        let all = victims.with(by.0).iter();
        let joined = all.filter_map(|node| Some(self.members.get(&node)?.joined));
        let seen = joined.max().unwrap_or_default();
        Command::Eject { victims: self.lives(victims).collect(), by, seen }
    }

    /// Whether `node` is in this life a member, and was one in the view `seen` without a break.
    pub fn has_stayed(&self, (node, incarnation): (NodeId, Incarnation), seen: u64) -> bool {
        self.names(node, incarnation) && self.members[&node].joined <= seen
    }

    /// Whether `node` has nothing to do with any bucket: it can be switched off.
    pub fn is_empty_of(&self, node: NodeId) -> bool {
        let touches = |bucket: &Bucket| {
            bucket.owner == Some(node) || bucket.in_sync.union(bucket.learners).contains(node)
        };
        !self.buckets.iter().any(touches)
    }

    /// Buckets whose members in sync are all dead (rule 18).
    pub fn stalled(&self) -> impl Iterator<Item = u16> {
        let alive = self.alive();
        let stalls = move |bucket: &Bucket| {
            !bucket.in_sync.is_empty() && bucket.in_sync.intersection(alive).is_empty()
        };
        (0..).zip(&self.buckets).filter(move |(_, bucket)| stalls(bucket)).map(|(index, _)| index)
    }

    /// What is wrong with this view by itself; nothing is with one that [`View::apply`] returned.
    pub fn flaw(&self) -> Option<&'static str> {
        let relays = self.relays(|_| true);
        let alive = self.alive();
        let flaws = |bucket: &Bucket| match bucket.owner {
            _ if bucket.since > bucket.term => Some("a history begins after the term"),
            None if bucket.term != 0 => Some("a term without an owner"),
            None if !bucket.in_sync.union(bucket.learners).is_empty() => {
                Some("members without an owner")
            }
            None => None,
            Some(_) if bucket.term == 0 => Some("an owner without a term"),
            Some(owner) if !bucket.in_sync.contains(owner) => Some("the owner is not in sync"),
            Some(_) if !bucket.in_sync.is_within(relays) => Some("in sync without being a relay"),
            Some(_) if !bucket.learners.is_within(alive) => Some("a learner is not alive"),
            Some(_) if !bucket.learners.intersection(bucket.in_sync).is_empty() => {
                Some("a learner is in sync")
            }
            Some(owner) if !alive.contains(owner) => {
                let stalled = bucket.in_sync.intersection(alive).is_empty();
                (!stalled).then_some("a dead owner where one alive is in sync")
            }
            Some(_) if !bucket.in_sync.is_within(alive) => Some("a dead member beside a live one"),
            Some(owner) => {
                let fit = |heir| heir != owner && bucket.in_sync.contains(heir);
                (!bucket.heir.is_none_or(fit)).then_some("an heir that can not inherit")
            }
        };
        let late = self.buckets.iter().any(|bucket| bucket.changed > self.number);
        let crowd = self.members.len() > MEMBERS_MAX;
        let early = crowd.then_some("too many members");
        let early = early.or(late.then_some("a bucket that changed in the future"));
        early.or_else(|| self.buckets.iter().find_map(flaws))
    }
}
