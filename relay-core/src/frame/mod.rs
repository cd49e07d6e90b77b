//! Frames: Ethernet, ARP, NDP, IPv4, IPv6, ICMP echo, UDP and TCP over byte slices.
//!
//! [`parse`] turns one received frame into an [`Inbound`] or into the [`Reason`] for dropping it;
//! the `emit_*` functions write whole frames with all checksums. The formats themselves are
//! smoltcp's `wire`; what is decided here is which frames a relay takes in at all. Above this
//! layer there is no difference between IPv4 and IPv6.

mod emit;
mod extensions;
mod parse;
mod quote;
#[cfg(test)]
mod tests;

pub use core::net::{Ipv4Addr as Ipv4Address, Ipv6Addr as Ipv6Address};
pub use smoltcp::wire::{EthernetAddress, IpAddress, IpEndpoint, TcpRepr};

pub use emit::{
    emit_arp_reply, emit_echo_reply, emit_gratuitous_arp, emit_neighbor_advertisement, emit_tcp,
    emit_udp,
};
pub use parse::parse;
pub use quote::{Complaint, Quote};

/// Bytes that the headers of a frame can take at most: Ethernet, IPv6, TCP with all options. A
/// buffer of this size plus the payload holds every frame that this module emits.
pub const HEADERS_MAX: usize = 14 + 40 + 60;

/// The two ends of a TCP connection as seen by this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Our end: destination of what is received, source of what is sent.
    pub local: IpEndpoint,
    /// The peer's end.
    pub remote: IpEndpoint,
}

/// The Ethernet addresses of a frame that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Our address.
    pub source: EthernetAddress,
    /// The next hop's address.
    pub destination: EthernetAddress,
}

/// An ICMP or ICMPv6 echo message (RFC 792, RFC 4443 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Chosen by the one who asks; returned unchanged.
    pub ident: u16,
    /// Chosen by the one who asks; returned unchanged.
    pub seq_no: u16,
    /// Returned unchanged.
    pub data: &'a [u8],
}

/// What a received frame says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Inbound<'a> {
    /// A TCP segment.
    Tcp { source: EthernetAddress, tuple: Tuple, segment: TcpRepr<'a> },
    /// Who has `target`? (RFC 826)
    ArpRequest { source: EthernetAddress, sender: Ipv4Address, target: Ipv4Address },
    /// Who has `target`? `sender` is unspecified during duplicate address detection (RFC 4861).
    NeighborSolicit { source: EthernetAddress, sender: Ipv6Address, target: Ipv6Address },
    /// A ping of one of our addresses.
    EchoRequest { source: EthernetAddress, from: IpAddress, to: IpAddress, echo: Echo<'a> },
    /// A segment of ours did not get through.
    IcmpError(Quote),
    /// A UDP datagram.
    Udp { source: EthernetAddress, from: IpEndpoint, to: IpEndpoint, payload: &'a [u8] },
}
