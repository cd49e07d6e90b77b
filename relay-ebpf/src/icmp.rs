//! ICMP (RFC 792) and ICMPv6 (RFC 4443) to a service address.
//!
//! An echo request concerns the address; an error concerns the flow whose packet it quotes, so
//! that path MTU discovery reaches the node that owns the flow.

use crate::{ipv4, ipv6, packet::Packet, steer};
use relay_abi::xdp::{AddressKey, Reason};

const HEADER_LEN: usize = 8;

mod v4 {
    pub const UNREACHABLE: u8 = 3;
    pub const ECHO_REQUEST: u8 = 8;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
}

mod v6 {
    pub const UNREACHABLE: u8 = 1;
    pub const PACKET_TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO_REQUEST: u8 = 128;
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
}

#[inline(always)]
pub fn inspect_v4(packet: &Packet, at: usize) -> Option<Reason> {
    let [kind, ..] = packet.read::<HEADER_LEN>(at)?;
    match kind {
        v4::ECHO_REQUEST => Some(steer::by_mac(Reason::Echo)),
        v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM => {
            let bucket = ipv4::quoted_bucket(packet, at + HEADER_LEN)?;
            Some(steer::by_bucket(packet, bucket, Reason::IcmpError))
        }
        _ => Some(Reason::UnsupportedProtocol),
    }
}

#[inline(always)]
pub fn inspect_v6(packet: &Packet, at: usize) -> Option<Reason> {
    let [kind, ..] = packet.read::<HEADER_LEN>(at)?;
    match kind {
        v6::ECHO_REQUEST => Some(steer::by_mac(Reason::Echo)),
        v6::UNREACHABLE | v6::PACKET_TOO_BIG | v6::TIME_EXCEEDED | v6::PARAMETER_PROBLEM => {
            let bucket = ipv6::quoted_bucket(packet, at + HEADER_LEN)?;
            Some(steer::by_bucket(packet, bucket, Reason::IcmpError))
        }
        _ => Some(Reason::UnsupportedProtocol),
    }
}

/// The target of a neighbor solicitation (RFC 4861 section 4.3).
#[inline(always)]
pub fn solicited(packet: &Packet, at: usize) -> Option<AddressKey> {
    let [kind] = packet.read::<1>(at)?;
    if kind != v6::NEIGHBOR_SOLICITATION {
        return None;
    }
    packet.read(at + HEADER_LEN)
}
