//! Where the two streams of a connection are.

/// What an operator is shown of a connection, in bytes. Those of the peer come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Received in order.
    pub received: u64,
    /// Of these, those that are still needed.
    pub kept: u64,
    /// Of these, those that were not acknowledged: the cluster does not hold them yet, or the ACK lags.
    pub withheld: u64,
    /// What the peer may send beyond our last acknowledgement.
    pub offered: u64,
    /// Written to the peer, sent or not.
    pub written: u64,
    /// Of these, those that the peer has not acknowledged.
    pub unacked: u64,
    /// Of those, the ones that may leave, since the cluster could send them, too.
    pub sendable: u64,
    /// What the peer takes beyond its last acknowledgement.
    pub window: u64,
}
