//! Names of nodes, of their lives, and of their places in the council.

use core::fmt;

pub use relay_abi::id::{Incarnation, NodeId};

/// Node ids of a council are below this: a set of nodes is one word.
pub const NODE_IDS: u8 = 64;

/// A place in the council: a node together with the disk that remembers its votes.
///
/// A node whose disk was lost comes back with another seat. The old one can not vote again, so
/// forgotten votes do no harm (rule 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(u64);

impl Seat {
    /// The seat of `node` with the disk `serial`, of which the low 56 bits count; a serial is
    /// drawn at random when a log is created.
    pub const fn new(node: NodeId, serial: u64) -> Self {
        // Not zero: the engine takes that for nobody.
        let serial = if serial << 8 == 0 { 1 } else { serial };
        Seat(serial << 8 | node.0 as u64)
    }

    /// The seat that [`Seat::number`] returned.
    pub const fn from_number(number: u64) -> Option<Self> {
        if number >> 8 == 0 || (number as u8) >= NODE_IDS { None } else { Some(Seat(number)) }
    }

    /// The seat as a number that is not zero.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Whose seat it is.
    pub const fn node(self) -> NodeId {
        NodeId(self.0 as u8)
    }
}

/// A set of nodes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSet(u64);

impl NodeSet {
    /// Nobody.
    pub const EMPTY: NodeSet = NodeSet(0);

    /// The set of one.
    pub const fn of(node: NodeId) -> Self {
        NodeSet::EMPTY.with(node)
    }

    /// The set that [`NodeSet::bits`] returned.
    pub const fn from_bits(bits: u64) -> Self {
        NodeSet(bits)
    }

    /// One bit for each id.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// This set and `node`.
    #[must_use]
    pub const fn with(self, node: NodeId) -> Self {
        NodeSet(self.0 | bit(node))
    }

    /// This set but `node`.
    #[must_use]
    pub const fn without(self, node: NodeId) -> Self {
        NodeSet(self.0 & !bit(node))
    }

    /// Whether `node` is a member.
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & bit(node) != 0
    }

    /// Members of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        NodeSet(self.0 | other.0)
    }

    /// Members of both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        NodeSet(self.0 & other.0)
    }

    /// Members of this set that are not in `other`.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        NodeSet(self.0 & !other.0)
    }

    /// Whether every member is in `other`.
    pub const fn is_within(self, other: Self) -> bool {
        self.minus(other).is_empty()
    }

    /// Whether nobody is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of members.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Members by id.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..NODE_IDS).map(NodeId).filter(move |node| self.contains(*node))
    }
}

/// Ids out of range have no bit: they are members of nothing.
const fn bit(node: NodeId) -> u64 {
    if node.0 < NODE_IDS { 1 << node.0 } else { 0 }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        nodes.into_iter().fold(NodeSet::EMPTY, NodeSet::with)
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|node| node.0)).finish()
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:014x}", self.node(), self.0 >> 8)
    }
}
