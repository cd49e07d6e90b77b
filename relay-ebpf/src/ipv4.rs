//! IPv4 (RFC 791).

use crate::{icmp, maps, packet::Packet, packet::take, steer};
use relay_abi::{
    bucket,
    xdp::{Kind, Reason, v4_key},
};

const HEADER_LEN: usize = 20;
/// More-fragments flag and fragment offset.
const FRAGMENT: u16 = 0x3fff;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

#[inline(always)]
pub fn inspect(packet: &Packet, at: usize) -> Reason {
    let Some(header) = Header::read(packet, at) else { return Reason::NotForUs };
    match maps::kind(&v4_key(header.destination)) {
        None => Reason::NotForUs,
        Some(Kind::Cluster(port)) => cluster(packet, &header, port),
        Some(Kind::Service) => service(packet, &header).unwrap_or(Reason::Malformed),
    }
}

/// The bucket of the flow that sent the packet which an ICMP error quotes at offset `at`. The
/// quoted source is this side's address.
#[inline(always)]
pub fn quoted_bucket(packet: &Packet, at: usize) -> Option<u32> {
    let quoted = Header::read(packet, at)?;
    let payload = quoted.payload()?;
    if quoted.protocol != TCP {
        return None;
    }
    let local_port = packet.read_u16(payload)?;
    let remote_port = packet.read_u16(payload + 2)?;
    let (local, remote) = (bucket::v4(quoted.source), bucket::v4(quoted.destination));
    Some(bucket::bucket(&remote, remote_port, &local, local_port))
}

pub struct Header {
    at: usize,
    version_and_words: u8,
    fragment: u16,
    pub protocol: u8,
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

impl Header {
    #[inline(always)]
    pub fn read(packet: &Packet, at: usize) -> Option<Header> {
        let bytes = packet.read::<HEADER_LEN>(at)?;
        Some(Header {
            at,
            version_and_words: bytes[0],
            fragment: u16::from_be_bytes(take::<6, 2>(&bytes)) & FRAGMENT,
            protocol: bytes[9],
            source: take::<12, 4>(&bytes),
            destination: take::<16, 4>(&bytes),
        })
    }

    /// Where the payload begins, behind the options.
    #[inline(always)]
    fn payload(&self) -> Option<usize> {
        let len = (self.version_and_words as usize & 0xf) * 4;
        if self.version_and_words >> 4 != 4 || len < HEADER_LEN {
            return None;
        }
        Some(self.at + len)
    }

    /// Source and destination port, if the packet has such.
    #[inline(always)]
    pub fn ports(&self, packet: &Packet) -> Option<(u16, u16)> {
        let payload = self.payload()?;
        if self.fragment != 0 || self.protocol != TCP && self.protocol != UDP {
            return None;
        }
        Some((packet.read_u16(payload)?, packet.read_u16(payload + 2)?))
    }
}

#[inline(always)]
fn service(packet: &Packet, header: &Header) -> Option<Reason> {
    let payload = header.payload()?;
    if header.fragment != 0 {
        return Some(Reason::Fragment);
    }
    match header.protocol {
        TCP => {
            let source_port = packet.read_u16(payload)?;
            let destination_port = packet.read_u16(payload + 2)?;
            let (source, destination) = (bucket::v4(header.source), bucket::v4(header.destination));
            let bucket = bucket::bucket(&source, source_port, &destination, destination_port);
            Some(steer::by_bucket(packet, bucket, Reason::Service))
        }
        ICMP => icmp::inspect_v4(packet, payload),
        _ => Some(Reason::UnsupportedProtocol),
    }
}

#[inline(always)]
fn cluster(packet: &Packet, header: &Header, port: u16) -> Reason {
    let Some(payload) = header.payload() else { return Reason::NotForUs };
    if header.protocol == UDP && header.fragment == 0 && packet.read_u16(payload + 2) == Some(port)
    {
        Reason::Cluster
    } else {
        Reason::NotForUs
    }
}
