//! Ethernet II and IEEE 802.1Q headers.

use crate::{arp, ipv4, ipv6, packet::Packet};
use relay_abi::xdp::Reason;

const HEADER_LEN: usize = 14;
const TYPE_AT: usize = 12;
const TAG_LEN: usize = 4;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// The reason for the frame's verdict.
#[inline(always)]
pub fn inspect(packet: &Packet) -> Reason {
    let Some(outer) = packet.read_u16(TYPE_AT) else { return Reason::NotForUs };
    let tagged = outer == VLAN || outer == SERVICE_VLAN;
    let tags = if tagged { TAG_LEN } else { 0 };
    let Some(ether_type) = packet.read_u16(TYPE_AT + tags) else { return Reason::NotForUs };
    let reason = match ether_type {
        ARP => arp::inspect(packet, HEADER_LEN + tags),
        IPV4 => ipv4::inspect(packet, HEADER_LEN + tags),
        IPV6 => ipv6::inspect(packet, HEADER_LEN + tags),
        _ => Reason::NotForUs,
    };
    match (tagged, reason) {
        (false, reason) => reason,
        (true, Reason::NotForUs | Reason::Cluster) => Reason::NotForUs,
        (true, _) => Reason::Tagged,
    }
}
