//! ICMP errors: what a router or host says about a segment of ours, which it quotes.

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol};

use super::{IpAddress, IpEndpoint, Ipv4Address, Ipv6Address, Tuple};
use crate::reason::Reason;

/// Bytes of an ICMP or ICMPv6 header (RFC 792, RFC 4443 section 2.1).
const ICMP_HEADER: usize = 8;
/// Code of an ICMP "destination unreachable" for "fragmentation needed" (RFC 1191 section 4).
const FRAGMENTATION_NEEDED: u8 = 4;
/// Bytes of an IPv6 header.
const IPV6_HEADER: usize = 40;

/// An ICMP error about a TCP segment of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The connection, as seen by this node.
    pub tuple: Tuple,
    /// Sequence number of the segment: what a blind attacker does not know (RFC 5927 section 4).
    pub sequence: u32,
    pub complaint: Complaint,
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The packet was too big for a link that takes `mtu` bytes; zero: the router does not say
    /// (RFC 1191, RFC 8201).
    TooBig { mtu: u32 },
    /// The segment did not arrive. This may be over before long (RFC 1122 section 4.2.3.9).
    Unreachable,
}

/// Reads an ICMP error to `to`. Its checksum is verified.
pub(super) fn v4(to: Ipv4Address, packet: &Icmpv4Packet<&[u8]>) -> Result<Quote, Reason> {
    let bytes = packet.clone().into_inner();
    let complaint = match (packet.msg_type(), packet.msg_code()) {
        (Icmpv4Message::DstUnreachable, FRAGMENTATION_NEEDED) => {
            let mtu: [u8; 2] = array(bytes, 6)?;
            Complaint::TooBig { mtu: u16::from_be_bytes(mtu).into() }
        }
        (Icmpv4Message::DstUnreachable | Icmpv4Message::TimeExceeded, _) => Complaint::Unreachable,
        _ => return Err(Reason::NotForUs),
    };
    let quoted = bytes.get(ICMP_HEADER..).ok_or(Reason::Malformed)?;
    let [version_and_words, protocol] = [0, 9].map(|at| quoted.get(at).copied().unwrap_or(0));
    let [source, destination]: [[u8; 4]; 2] = [array(quoted, 12)?, array(quoted, 16)?];
    let header = usize::from(version_and_words & 0xf) * 4;
    let is_first = array::<2>(quoted, 6)?[0] & 0x1f == 0 && quoted.get(7) == Some(&0);
    if version_and_words >> 4 != 4 || header < 20 || !is_first || source != to.octets() {
        return Err(Reason::Malformed);
    }
    let ends = [Ipv4Address::from(source).into(), Ipv4Address::from(destination).into()];
    segment(protocol.into(), ends, quoted.get(header..), complaint)
}

/// Reads an ICMPv6 error to `to`. Its checksum is verified.
pub(super) fn v6(to: Ipv6Address, packet: &Icmpv6Packet<&[u8]>) -> Result<Quote, Reason> {
    let complaint = match packet.msg_type() {
        Icmpv6Message::PktTooBig => Complaint::TooBig { mtu: packet.pkt_too_big_mtu() },
        Icmpv6Message::DstUnreachable | Icmpv6Message::TimeExceeded => Complaint::Unreachable,
        _ => return Err(Reason::NotForUs),
    };
    let quoted = packet.payload();
    let [source, destination]: [[u8; 16]; 2] = [array(quoted, 8)?, array(quoted, 24)?];
    let [version, next] = [0, 6].map(|at| quoted.get(at).copied().unwrap_or(0));
    if version >> 4 != 6 || source != to.octets() {
        return Err(Reason::Malformed);
    }
    let ends = [Ipv6Address::from(source).into(), Ipv6Address::from(destination).into()];
    segment(next.into(), ends, quoted.get(IPV6_HEADER..), complaint)
}

fn segment(
    protocol: IpProtocol,
    [local, remote]: [IpAddress; 2],
    header: Option<&[u8]>,
    complaint: Complaint,
) -> Result<Quote, Reason> {
    if protocol != IpProtocol::Tcp {
        return Err(Reason::NotForUs);
    }
    let header = header.ok_or(Reason::Malformed)?;
    let [local_port, remote_port] = [array(header, 0)?, array(header, 2)?].map(u16::from_be_bytes);
    let tuple = Tuple {
        local: IpEndpoint::new(local, local_port),
        remote: IpEndpoint::new(remote, remote_port),
    };
    Ok(Quote { tuple, sequence: u32::from_be_bytes(array(header, 4)?), complaint })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Reason> {
    let chunk = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    chunk.copied().ok_or(Reason::Malformed)
}
