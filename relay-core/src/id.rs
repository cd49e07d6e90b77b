//! Names of nodes and flows.

use core::fmt;

pub use relay_abi::id::{Incarnation, NodeId};

/// A flow. Never reused, unlike its 4-tuple (rule 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
