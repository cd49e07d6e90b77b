//! The maps that the XDP program and its loader share, and the reasons it gives for its verdicts.
//!
//! | map       | type              | key            | value                                      |
//! |-----------|-------------------|----------------|--------------------------------------------|
//! | ADDRESSES | hash              | [`AddressKey`] | [`Kind::to_word`]                          |
//! | CONFIG    | array             | `config::*`    | `u64`, written once before the attachment  |
//! | CONTROL   | array, mapped     | `control::*`   | `u64`, written by the worker loop          |
//! | OWNERS    | array, mapped     | [`owner_slot`] | `u8`, node id                              |
//! | PORTS     | array, mapped     | node id        | [`mac_to_word`]; zero: not known           |
//! | COUNTERS  | array per CPU     | [`Reason`]     | `u64`, frames                              |
//! | XSKS      | sockets           | receive queue  | socket                                     |

use crate::bucket::BUCKETS;

/// Addresses that one interface can serve.
pub const MAX_ADDRESSES: u32 = 1024;

/// Receive queues, and so AF_XDP sockets, of one interface.
pub const MAX_QUEUES: u32 = 128;

/// The kernel lays the values of an array map out in steps of eight bytes.
pub const VALUE_STRIDE: usize = 8;

/// Entries of OWNERS: two halves, of which `control::OWNER_HALF` names the one in force.
pub const OWNER_SLOTS: u32 = 2 * BUCKETS;

/// The owner of a bucket that no node owns.
pub const NOBODY: u8 = u8::MAX;

/// Nodes that can own buckets, and that frames can be forwarded to.
pub const MAX_NODES: u32 = 256;

/// A MAC address in PORTS and CONFIG.
#[inline(always)]
pub const fn mac_to_word(mac: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]])
}

/// The inverse of [`mac_to_word`].
#[inline(always)]
pub const fn word_to_mac(word: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = word.to_be_bytes();
    [a, b, c, d, e, f]
}

/// Words of CONFIG.
pub mod config {
    /// The id of this node, as in OWNERS.
    pub const SELF_NODE: u32 = 0;
    /// Nanoseconds for which one renewal of the lease is good.
    pub const LEASE_NANOS: u32 = 1;
    /// The cluster's MAC address on this network: only frames to it are forwarded.
    pub const CLUSTER_MAC: u32 = 2;
    /// The interface's own MAC address: frames that are forwarded come from it.
    pub const PORT_MAC: u32 = 3;
    /// Number of words.
    pub const WORDS: u32 = 4;
}

/// Words of CONTROL.
pub mod control {
    /// CLOCK_MONOTONIC of the last renewal of the lease in nanoseconds; zero: never renewed.
    pub const RENEWED_AT: u32 = 0;
    /// Not zero: this node answers for the service addresses (ARP, neighbor discovery, echo).
    pub const HOLDS_MAC: u32 = 1;
    /// Which half of OWNERS is in force: 0 or 1.
    pub const OWNER_HALF: u32 = 2;
    /// Number of words.
    pub const WORDS: u32 = 3;
}

/// An address in network byte order; an IPv4 address as an IPv4-mapped IPv6 address
/// (RFC 4291 section 2.5.5.2).
pub type AddressKey = [u8; 16];

/// The key of an IPv4 address.
#[inline(always)]
pub const fn v4_key(o: [u8; 4]) -> AddressKey {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, o[0], o[1], o[2], o[3]]
}

/// The place of `bucket` in OWNERS while `half` is in force. Any `half` gives a valid place.
#[inline(always)]
pub const fn owner_slot(half: u64, bucket: u32) -> u32 {
    (half as u32 & 1) * BUCKETS + (bucket & (BUCKETS - 1))
}

/// Whether a lease that was last renewed at `renewed_at` still holds at `now`. Nanoseconds of
/// CLOCK_MONOTONIC.
///
/// A renewal on another CPU may be later than `now`; it counts as fresh.
#[inline(always)]
pub const fn lease_holds(now: u64, renewed_at: u64, lease_nanos: u64) -> bool {
    renewed_at != 0 && now.saturating_sub(renewed_at) < lease_nanos
}

/// What an address is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A VIP or a SNAT address: it belongs to the cluster, and the kernel never sees its packets.
    Service,
    /// This node's own address, which it shares with the kernel: only UDP to this port is ours.
    Cluster(u16),
}

impl Kind {
    /// A word that no port can be.
    const SERVICE: u32 = 1 << 16;

    /// The value in ADDRESSES.
    pub const fn to_word(self) -> u32 {
        match self {
            Kind::Service => Kind::SERVICE,
            Kind::Cluster(port) => port as u32,
        }
    }

    /// The inverse of [`Kind::to_word`].
    #[inline(always)]
    pub const fn from_word(word: u32) -> Kind {
        if word == Kind::SERVICE { Kind::Service } else { Kind::Cluster(word as u16) }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a frame got its verdict; the key of COUNTERS (alphabetical).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The name under which the counter is shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// ARP for a service address, and this node answers for them (RFC 826).
    Arp = "xdp_arp",
    /// A cluster datagram for this node.
    Cluster = "xdp_cluster",
    /// An echo request to a service address, and this node answers for them (RFC 792, RFC 4443).
    Echo = "xdp_echo",
    /// An IPv6 extension header in a packet to a service address (RFC 8200 section 4).
    ExtensionHeader = "xdp_extension_header",
    /// Of a flow of another node's: sent on to that node.
    Forwarded = "xdp_forwarded",
    /// A fragment to a service address; TCP fragments are never reassembled.
    Fragment = "xdp_fragment",
    /// An ICMP error about a packet that this node's flow sent (RFC 1191, RFC 8201).
    IcmpError = "xdp_icmp_error",
    /// The worker loop has not renewed the lease in time.
    LeaseExpired = "xdp_lease_expired",
    /// For a service address, but another node answers for them.
    MacNotHeld = "xdp_mac_not_held",
    /// A packet to a service address whose headers are cut off or contradict each other.
    Malformed = "xdp_malformed",
    /// A neighbor solicitation for a service address (RFC 4861 section 4.3).
    Neighbor = "xdp_neighbor",
    /// No socket is registered on the frame's receive queue.
    NoSocket = "xdp_no_socket",
    /// The kernel's, not ours.
    NotForUs = "xdp_not_for_us",
    /// Another node owns the bucket.
    NotOwner = "xdp_not_owner",
    /// TCP to a service address in a bucket that this node owns.
    Service = "xdp_service",
    /// A VLAN-tagged packet to a service address: the addresses live on the untagged network.
    Tagged = "xdp_tagged",
    /// To a service address, but neither TCP, nor an echo request, nor an ICMP error.
    UnsupportedProtocol = "xdp_unsupported_protocol",
}

/// Number of counters.
pub const REASONS: u32 = Reason::ALL.len() as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_map() {
        for kind in [Kind::Service, Kind::Cluster(0), Kind::Cluster(u16::MAX)] {
            assert_eq!(Kind::from_word(kind.to_word()), kind);
        }
    }

    #[test]
    fn mac_addresses_survive_the_map() {
        let mac = [2, 0, 0x5e, 1, 0, 0xff];
        assert_eq!(word_to_mac(mac_to_word(mac)), mac);
        assert_eq!(mac_to_word([0; 6]), 0);
    }

    #[test]
    fn a_lease_ends_exactly_at_its_length() {
        assert!(!lease_holds(5, 0, 100), "never renewed");
        assert!(lease_holds(1_099, 1_000, 100));
        assert!(!lease_holds(1_100, 1_000, 100));
        assert!(lease_holds(999, 1_000, 100), "renewed by another CPU after `now` was read");
    }

    #[test]
    fn every_half_and_bucket_has_its_own_slot() {
        assert_eq!(owner_slot(0, BUCKETS - 1) + 1, owner_slot(1, 0));
        assert_eq!(owner_slot(3, BUCKETS + 1), owner_slot(1, 1));
        assert!(owner_slot(u64::MAX, u32::MAX) < OWNER_SLOTS);
    }
}
