//! From a received frame to its meaning.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet,
    Icmpv4Repr, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv6Packet,
    NdiscRepr, TcpPacket, UdpPacket,
};

use super::{
    Echo, EthernetAddress, Inbound, IpAddress, IpEndpoint, Ipv4Address, Ipv6Address, TcpRepr,
    Tuple, extensions, quote,
};
use crate::reason::Reason;

/// Reads one Ethernet frame.
///
/// Every checksum is verified (IPv4 header, TCP, UDP, ICMP). IPv4 options are skipped (RFC 1122
/// section 3.2.1.8), as are IPv6 extension headers within bounds; fragments are never reassembled.
/// Bytes behind the length that the IP header names are Ethernet padding.
pub fn parse(frame: &[u8]) -> Result<Inbound<'_>, Reason> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Reason::Malformed)?;
    let source = ethernet.src_addr();
    if !source.is_unicast() {
        return Err(Reason::Malformed);
    }
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => ipv4(source, ethernet.payload()),
        EthernetProtocol::Ipv6 => ipv6(source, ethernet.payload()),
        EthernetProtocol::Arp => arp(source, ethernet.payload()),
        EthernetProtocol::Unknown(_) => Err(Reason::NotForUs),
    }
}

/// Checksums are verified here, before smoltcp reads a header, so that they have their own reason.
fn verified() -> ChecksumCapabilities {
    ChecksumCapabilities::ignored()
}

/// The addresses of an IP packet, and the frame's sender.
#[derive(Clone, Copy)]
struct Envelope {
    source: EthernetAddress,
    from: IpAddress,
    to: IpAddress,
}

fn arp(source: EthernetAddress, bytes: &[u8]) -> Result<Inbound<'_>, Reason> {
    let packet = ArpPacket::new_checked(bytes).map_err(|_| Reason::Malformed)?;
    match ArpRepr::parse(&packet) {
        Ok(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_protocol_addr: sender,
            target_protocol_addr: target,
            ..
        }) => Ok(Inbound::ArpRequest { source, sender, target }),
        Ok(_) => Err(Reason::NotForUs),
        Err(_) => Err(Reason::Malformed),
    }
}

fn ipv4(source: EthernetAddress, bytes: &[u8]) -> Result<Inbound<'_>, Reason> {
    let packet = Ipv4Packet::new_checked(bytes).map_err(|_| Reason::Malformed)?;
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    if packet.version() != 4 || !is_host_v4(from) || !is_host_v4(to) {
        return Err(Reason::Malformed);
    }
    if !packet.verify_checksum() {
        return Err(Reason::BadChecksum);
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Err(Reason::Fragment);
    }
    let envelope = Envelope { source, from: from.into(), to: to.into() };
    match packet.next_header() {
        IpProtocol::Tcp => tcp(envelope, packet.payload()),
        IpProtocol::Udp => udp(envelope, packet.payload()),
        IpProtocol::Icmp => icmpv4(envelope, to, packet.payload()),
        _ => Err(Reason::NotForUs),
    }
}

fn ipv6(source: EthernetAddress, bytes: &[u8]) -> Result<Inbound<'_>, Reason> {
    let packet = Ipv6Packet::new_checked(bytes).map_err(|_| Reason::Malformed)?;
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    if packet.version() != 6 || from.is_multicast() || from.is_loopback() {
        return Err(Reason::Malformed);
    }
    let (protocol, payload) = extensions::skip(packet.next_header(), packet.payload())?;
    if protocol == IpProtocol::Icmpv6 {
        return icmpv6(source, &packet, payload);
    }
    if from.is_unspecified() || to.is_multicast() || to.is_unspecified() {
        return Err(Reason::Malformed);
    }
    let envelope = Envelope { source, from: from.into(), to: to.into() };
    match protocol {
        IpProtocol::Tcp => tcp(envelope, payload),
        IpProtocol::Udp => udp(envelope, payload),
        _ => Err(Reason::NotForUs),
    }
}

/// Whether one host may have this address: RFC 1122 section 3.2.1.3.
fn is_host_v4(address: Ipv4Address) -> bool {
    !(address.is_multicast()
        || address.is_broadcast()
        || address.is_unspecified()
        || address.is_loopback())
}

fn tcp(envelope: Envelope, bytes: &[u8]) -> Result<Inbound<'_>, Reason> {
    let Envelope { source, from, to } = envelope;
    let packet = TcpPacket::new_checked(bytes).map_err(|_| Reason::Malformed)?;
    if !packet.verify_checksum(&from, &to) {
        return Err(Reason::BadChecksum);
    }
    // This refuses port zero, broken options and the flags that exclude each other (SYN and FIN,
    // SYN and RST). Urgent data stays in line (RFC 6093 section 4).
    let segment =
        TcpRepr::parse(&packet, &from, &to, &verified()).map_err(|_| Reason::Malformed)?;
    let tuple = Tuple {
        local: IpEndpoint::new(to, segment.dst_port),
        remote: IpEndpoint::new(from, segment.src_port),
    };
    if tuple.local == tuple.remote {
        return Err(Reason::Malformed);
    }
    Ok(Inbound::Tcp { source, tuple, segment })
}

fn udp(envelope: Envelope, bytes: &[u8]) -> Result<Inbound<'_>, Reason> {
    let Envelope { source, from, to } = envelope;
    let packet = UdpPacket::new_checked(bytes).map_err(|_| Reason::Malformed)?;
    // Only IPv4 may go without a checksum (RFC 8200 section 8.1).
    let unchecked_v6 = packet.checksum() == 0 && matches!(to, IpAddress::Ipv6(_));
    if unchecked_v6 || !packet.verify_checksum(&from, &to) {
        return Err(Reason::BadChecksum);
    }
    if packet.dst_port() == 0 {
        return Err(Reason::Malformed);
    }
    let from = IpEndpoint::new(from, packet.src_port());
    let to = IpEndpoint::new(to, packet.dst_port());
    Ok(Inbound::Udp { source, from, to, payload: packet.payload() })
}

fn icmpv4(
    Envelope { source, from, to }: Envelope,
    ours: Ipv4Address,
    bytes: &[u8],
) -> Result<Inbound<'_>, Reason> {
    let packet = Icmpv4Packet::new_checked(bytes).map_err(|_| Reason::Malformed)?;
    if !packet.verify_checksum() {
        return Err(Reason::BadChecksum);
    }
    if packet.msg_type() != Icmpv4Message::EchoRequest {
        return Ok(Inbound::IcmpError(quote::v4(ours, &packet)?));
    }
    match Icmpv4Repr::parse(&packet, &verified()) {
        Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) => {
            Ok(Inbound::EchoRequest { source, from, to, echo: Echo { ident, seq_no, data } })
        }
        _ => Err(Reason::Malformed),
    }
}

/// Hop limit of neighbor discovery messages: anything less was forwarded by a router, so it does
/// not come from this link (RFC 4861 section 7.1).
const NDP_HOP_LIMIT: u8 = 255;

fn icmpv6<'a>(
    source: EthernetAddress,
    ip: &Ipv6Packet<&'a [u8]>,
    bytes: &'a [u8],
) -> Result<Inbound<'a>, Reason> {
    let (from, to): (Ipv6Address, Ipv6Address) = (ip.src_addr(), ip.dst_addr());
    let packet = Icmpv6Packet::new_checked(bytes).map_err(|_| Reason::Malformed)?;
    if !packet.verify_checksum(&from, &to) {
        return Err(Reason::BadChecksum);
    }
    if !matches!(packet.msg_type(), Icmpv6Message::EchoRequest | Icmpv6Message::NeighborSolicit) {
        return Ok(Inbound::IcmpError(quote::v6(to, &packet)?));
    }
    match Icmpv6Repr::parse(&from, &to, &packet, &verified()) {
        Ok(Icmpv6Repr::EchoRequest { ident, seq_no, data }) => {
            if from.is_unspecified() || to.is_multicast() {
                return Err(Reason::NotForUs);
            }
            let echo = Echo { ident, seq_no, data };
            Ok(Inbound::EchoRequest { source, from: from.into(), to: to.into(), echo })
        }
        Ok(Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, .. })) => {
            if ip.hop_limit() != NDP_HOP_LIMIT || packet.msg_code() != 0 || target.is_multicast() {
                return Err(Reason::Malformed);
            }
            Ok(Inbound::NeighborSolicit { source, sender: from, target })
        }
        _ => Err(Reason::Malformed),
    }
}
