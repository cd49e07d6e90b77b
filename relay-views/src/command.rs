//! Commands: what may be proposed, and why it may be refused.
//!
//! Every command is a compare-and-swap: on an incarnation, on a generation, or on the view that
//! last changed a bucket. So a command that arrives late or twice is refused and does no harm.

use std::net::IpAddr;
use std::sync::Arc;

use crate::id::{Incarnation, NodeId, Seat};
use crate::view::{Kind, Objection};

/// A change of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Proposed by the leader or an operator: the next configuration document. It is in force when
    /// every live relay said [`Command::Prepared`].
    Configure {
        /// See [`crate::view::Configuration::next`].
        generation: u64,
        /// At most [`crate::view::DOCUMENT_MAX`].
        bytes: Arc<[u8]>,
        /// At most [`crate::view::VIPS_MAX`].
        vips: Arc<[IpAddr]>,
    },
    /// A drain is over, or was not meant.
    Undrain {
        /// Who.
        node: NodeId,
    },
    /// Moves all buckets away from a node, and gives it no new ones.
    Drain {
        /// Who.
        node: NodeId,
    },
    /// Takes nodes out: suspected, silent as a gate (rule 19), or leaving.
    Eject {
        /// The lives that are over; others are left alone.
        victims: Vec<(NodeId, Incarnation)>,
        /// Who says so: its word counts as long as it is in the view itself.
        by: (NodeId, Incarnation),
        /// Counts between those who have not joined again since: what is repeated, or late, must not
        /// eject who is back, nor does it count when its author was away meanwhile.
        seen: u64,
    },
    /// Removes a dead member for good.
    Forget {
        /// Who.
        node: NodeId,
    },
    /// Asks the owners to hand buckets over to a member in sync; to the owner itself: to keep it.
    HandOver {
        /// The proposer's view: buckets that changed since are left out.
        seen: u64,
        /// Which.
        buckets: Vec<u16>,
        /// To whom.
        to: NodeId,
    },
    /// By the owner: the heir has everything, and owns from now on.
    HandedOver {
        /// The proposer's view: buckets that changed since are left out.
        seen: u64,
        /// Which.
        buckets: Vec<u16>,
        /// The owner.
        from: (NodeId, Incarnation),
    },
    /// Moves a virtual address.
    Hold {
        /// Which.
        vip: IpAddr,
        /// The view that last changed its holder.
        seen: u64,
        /// The new holder.
        node: NodeId,
    },
    /// A node is there: new, restarted, or back.
    Join(Candidate),
    /// The flows of stalled buckets are given up: nobody who has them came back in time (rule 18).
    Lose {
        /// The proposer's view: buckets that changed since are left out.
        seen: u64,
        /// Which.
        buckets: Vec<u16>,
    },
    /// By a relay: it holds the proposed document.
    Prepared {
        /// Who.
        node: (NodeId, Incarnation),
        /// Which document.
        generation: u64,
    },
    /// By the owner: a learner has everything, and the owner gates on it already (rule 4).
    Promote {
        /// The proposer's view: buckets that changed since are left out (rule 3).
        seen: u64,
        /// Which.
        buckets: Vec<u16>,
        /// The owner.
        owner: (NodeId, Incarnation),
        /// The learner.
        learner: (NodeId, Incarnation),
    },
    /// Drops the proposed document: somebody can not apply it, or the operator thought better.
    Withdraw {
        /// Which document.
        generation: u64,
        /// Who can not apply it, if that is why.
        objection: Option<Objection>,
    },
    /// Changes the number of copies; 0 is as many as there are relays.
    Replicas {
        /// How many, the owner's included.
        replicas: u8,
    },
    /// Changes a node's share.
    Weigh {
        /// Who.
        node: NodeId,
        /// 1 to [`crate::view::WEIGHT_MAX`].
        weight: u16,
    },
}

/// Who wants to be a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub node: NodeId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Where its votes are kept.
    pub seat: Seat,
    /// What it does.
    pub kind: Kind,
    /// Whether it votes.
    pub votes: bool,
    /// The share of a new member, 1 to [`crate::view::WEIGHT_MAX`]; later ones are
    /// [`Command::Weigh`]'s.
    pub weight: u16,
    /// The generation of the configuration that it holds; a witness needs none.
    pub generation: u64,
}

/// Why a command changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody with this id and another disk is alive. If it is not the same machine before its
    /// disk was replaced, two machines have one id.
    #[error("a node with this id and another disk is alive")]
    Alive,
    /// The node is dead, unknown, or another incarnation lives now.
    #[error("the node is not in the view with this incarnation")]
    Gone,
    /// The node holds another generation of the configuration, or the document is not the next.
    #[error("another generation of the configuration is in force or proposed")]
    Generation,
    /// A number is beyond its limit.
    #[error("out of range")]
    Range,
    /// Every bucket that is named has changed since, or is not in the state that is needed.
    #[error("the view has changed meanwhile")]
    Stale,
    /// It is so already.
    #[error("nothing would change")]
    Unchanged,
    /// The node can not be used for that: a witness, or one that is draining.
    #[error("the node is not fit for it")]
    Unfit,
}
