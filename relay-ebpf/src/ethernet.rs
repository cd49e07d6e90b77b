//! Ethernet II and IEEE 802.1Q headers.

use crate::{arp, ipv4, ipv6, packet::Packet};
use relay_abi::xdp::Reason;

const HEADER_LEN: usize = 14;
const TYPE_AT: usize = 12;
const TAG_LEN: usize = 4;

pub const ARP: u16 = 0x0806;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// The reason for the frame's verdict.
#[inline(always)]
pub fn inspect(packet: &Packet) -> Reason {
    let Some(Payload { ether_type, at, tagged }) = payload(packet) else {
        return Reason::NotForUs;
    };
    let reason = match ether_type {
        ARP => arp::inspect(packet, at),
        IPV4 => ipv4::inspect(packet, at),
        IPV6 => ipv6::inspect(packet, at),
        _ => Reason::NotForUs,
    };
    match (tagged, reason) {
        (false, reason) => reason,
        (true, Reason::NotForUs | Reason::Cluster) => Reason::NotForUs,
        (true, _) => Reason::Tagged,
    }
}

/// What the Ethernet header says about the rest of the frame.
pub struct Payload {
    pub ether_type: u16,
    /// Where it begins.
    pub at: usize,
    pub tagged: bool,
}

#[inline(always)]
pub fn payload(packet: &Packet) -> Option<Payload> {
    let outer = packet.read_u16(TYPE_AT)?;
    let tagged = outer == VLAN || outer == SERVICE_VLAN;
    let tags = if tagged { TAG_LEN } else { 0 };
    Some(Payload { ether_type: packet.read_u16(TYPE_AT + tags)?, at: HEADER_LEN + tags, tagged })
}
