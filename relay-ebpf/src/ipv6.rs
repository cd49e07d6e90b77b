//! IPv6 (RFC 8200) and the neighbor solicitations of RFC 4861.

use crate::{
    icmp,
    ipv4::{TCP, UDP},
    maps,
    packet::Packet,
    packet::take,
    steer,
};
use relay_abi::{
    bucket,
    xdp::{AddressKey, Kind, Reason},
};

const HEADER_LEN: usize = 40;

/// Next-header values of RFC 8200 section 4 and the IANA list of extension headers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ENCAPSULATING_SECURITY: u8 = 50;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Extension headers that are skipped at most.
const EXTENSIONS_MAX: u32 = 4;
/// The largest length field of one of them: 64 bytes. A mask, so that the verifier sees the bound.
const EXTENSION_WORDS_MAX: u8 = 7;

#[inline(always)]
pub fn inspect(packet: &Packet, at: usize) -> Reason {
    let Some(header) = Header::read(packet, at) else { return Reason::NotForUs };
    if header.next == ICMPV6 && solicits_service(packet, at + HEADER_LEN) {
        return steer::by_mac(Reason::Neighbor);
    }
    match maps::kind(&header.destination) {
        None => Reason::NotForUs,
        Some(Kind::Cluster(port)) => cluster(packet, &header, port),
        Some(Kind::Service) => service(packet, &header).unwrap_or(Reason::Malformed),
    }
}

/// As [`crate::ipv4::quoted_bucket`].
#[inline(always)]
pub fn quoted_bucket(packet: &Packet, at: usize) -> Option<u32> {
    let quoted = Header::read(packet, at)?;
    if quoted.version != 6 || quoted.next != TCP {
        return None;
    }
    let local_port = packet.read_u16(quoted.payload)?;
    let remote_port = packet.read_u16(quoted.payload + 2)?;
    let (local, remote) = (bucket::v6(&quoted.source), bucket::v6(&quoted.destination));
    Some(bucket::bucket(&remote, remote_port, &local, local_port))
}

pub struct Header {
    version: u8,
    pub next: u8,
    pub source: AddressKey,
    pub destination: AddressKey,
    payload: usize,
}

impl Header {
    #[inline(always)]
    pub fn read(packet: &Packet, at: usize) -> Option<Header> {
        let bytes = packet.read::<HEADER_LEN>(at)?;
        Some(Header {
            version: bytes[0] >> 4,
            next: bytes[6],
            source: take::<8, 16>(&bytes),
            destination: take::<24, 16>(&bytes),
            payload: at + HEADER_LEN,
        })
    }

    /// Source and destination port, if the packet has such.
    #[inline(always)]
    pub fn ports(&self, packet: &Packet) -> Option<(u16, u16)> {
        if self.next != TCP && self.next != UDP {
            return None;
        }
        Some((packet.read_u16(self.payload)?, packet.read_u16(self.payload + 2)?))
    }
}

/// Solicitations go to a multicast address, so the target decides, not the destination.
#[inline(always)]
fn solicits_service(packet: &Packet, at: usize) -> bool {
    match icmp::solicited(packet, at) {
        Some(target) => maps::kind(&target) == Some(Kind::Service),
        None => false,
    }
}

#[inline(always)]
fn service(packet: &Packet, header: &Header) -> Option<Reason> {
    if header.version != 6 {
        return None;
    }
    let (next, payload) = skip_extensions(packet, header.next, header.payload)?;
    match next {
        TCP => {
            let source_port = packet.read_u16(payload)?;
            let destination_port = packet.read_u16(payload + 2)?;
            let (source, destination) =
                (bucket::v6(&header.source), bucket::v6(&header.destination));
            let bucket = bucket::bucket(&source, source_port, &destination, destination_port);
            Some(steer::by_bucket(packet, bucket, Reason::Service))
        }
        ICMPV6 => icmp::inspect_v6(packet, payload),
        FRAGMENT => Some(Reason::Fragment),
        HOP_BY_HOP
        | ROUTING
        | ENCAPSULATING_SECURITY
        | AUTHENTICATION
        | DESTINATION_OPTIONS
        | MOBILITY
        | HIP
        | SHIM6 => Some(Reason::ExtensionHeader),
        _ => Some(Reason::UnsupportedProtocol),
    }
}

/// What lies behind extension headers that may be skipped: its type and offset. The node reads them,
/// with the same bounds; what is beyond these stays an extension header.
#[inline(always)]
fn skip_extensions(packet: &Packet, mut next: u8, mut at: usize) -> Option<(u8, usize)> {
    let mut count = 0;
    while count < EXTENSIONS_MAX && matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
        let [after, words] = packet.read::<2>(at)?;
        if words > EXTENSION_WORDS_MAX {
            return Some((next, at));
        }
        next = after;
        at += (words & EXTENSION_WORDS_MAX) as usize * 8 + 8;
        count += 1;
    }
    Some((next, at))
}

#[inline(always)]
fn cluster(packet: &Packet, header: &Header, port: u16) -> Reason {
    if header.version == 6
        && header.next == UDP
        && packet.read_u16(header.payload + 2) == Some(port)
    {
        Reason::Cluster
    } else {
        Reason::NotForUs
    }
}
