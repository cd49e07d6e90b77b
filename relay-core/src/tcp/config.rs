//! What the operator chooses for every connection, and what follows from it.

use super::established::{Algorithm, Limits};
use crate::frame::IpAddress;
use crate::time::Duration;

/// The largest shift of a window scale option (RFC 7323 section 2.3).
pub(super) const WINDOW_SCALE_MAX: u8 = 14;

/// Bytes that an IPv6 header is longer than an IPv4 header.
const IPV6_EXTRA: u16 = 20;

/// What every connection of a node is opened with. All nodes of a cluster use the same values:
/// a SYN cookie does not carry what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The largest TCP payload that our link carries over IPv4, in bytes: MTU less 40 (RFC 6691).
    /// Over IPv6 it is 20 less.
    pub mss: u16,
    /// Bytes that are taken in beyond those that the relay has released.
    pub receive_buffer: usize,
    /// Bytes that can be written beyond those that the peer has acknowledged.
    pub send_buffer: usize,
    /// What is done so that peers notice a takeover at once.
    pub wake: Wake,
    /// How much is sent at a time, and how fast.
    pub congestion: Algorithm,
    /// How long a silent peer is waited for.
    pub patience: Limits,
    /// A peer that resets the connection behind its FIN and ours had finished: what it said has to reach its
    /// destination.
    pub outlives_peer: bool,
}

/// What is done so that peers notice a takeover at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// Keep the wire ACK behind on legs in full swing.
    pub lag: bool,
    /// How long the first ACKs to a woken peer wait.
    pub delay: Duration,
}

impl Default for Wake {
    fn default() -> Self {
        Wake { lag: true, delay: Duration::from_micros(500) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mss: 1460,
            receive_buffer: 4 << 20,
            send_buffer: 4 << 20,
            wake: Wake::default(),
            congestion: Algorithm::default(),
            patience: Limits::default(),
            outlives_peer: false,
        }
    }
}

impl Config {
    /// The MSS option of a SYN to or from `address`.
    pub(super) fn mss_for(&self, address: IpAddress) -> u16 {
        match address {
            IpAddress::Ipv4(_) => self.mss,
            IpAddress::Ipv6(_) => self.mss.saturating_sub(IPV6_EXTRA),
        }
    }

    /// The smallest shift that lets the window field express the whole receive buffer.
    pub(super) fn window_scale(&self) -> u8 {
        let mut scale = 0;
        while scale < WINDOW_SCALE_MAX && self.receive_buffer >> scale > usize::from(u16::MAX) {
            scale += 1;
        }
        scale
    }

    /// The window field of a SYN, which is never scaled (RFC 7323 section 2.2).
    pub(super) fn syn_window(&self) -> u16 {
        u16::try_from(self.receive_buffer).unwrap_or(u16::MAX)
    }
}
