//! ARP for Ethernet and IPv4 (RFC 826).

use crate::{maps, packet::Packet, packet::take, steer};
use relay_abi::xdp::{Kind, Reason, v4_key};

const LEN: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

#[inline(always)]
pub fn inspect(packet: &Packet, at: usize) -> Reason {
    let Some(arp) = packet.read::<LEN>(at) else { return Reason::NotForUs };
    if take::<0, 6>(&arp) != ETHERNET_IPV4 {
        return Reason::NotForUs;
    }
    match maps::kind(&v4_key(take::<24, 4>(&arp))) {
        Some(Kind::Service) => steer::by_mac(Reason::Arp),
        Some(Kind::Cluster(_)) | None => Reason::NotForUs,
    }
}
