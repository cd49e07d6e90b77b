//! Names of nodes and of their lives.

#[cfg(feature = "alloc")]
use alloc::{format, string::String};
use core::fmt;

/// A node of the cluster, as the operator numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

/// One life of a node's state: new at every start and whenever a node throws its state away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// What a node's name in its certificate ends in.
pub const CERTIFICATE_DOMAIN: &str = ".cluster.relay";

/// The name of `node` in its certificate: a DNS name among the subject's alternative names, and
/// the only one there.
#[cfg(feature = "alloc")]
pub fn certificate_name(node: NodeId) -> String {
    format!("node-{node}{CERTIFICATE_DOMAIN}")
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
