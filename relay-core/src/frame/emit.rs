//! From a meaning to a frame.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, NdiscNeighborFlags, NdiscRepr, TcpPacket,
    UdpPacket,
};

use super::{
    Echo, EthernetAddress, IpAddress, IpEndpoint, Ipv4Address, Ipv6Address, Link, TcpRepr, Tuple,
};

/// Hop limit of what is sent (the value that Linux uses).
const HOP_LIMIT: u8 = 64;
/// Hop limit of neighbor discovery (RFC 4861 section 7.1.2).
const NDP_HOP_LIMIT: u8 = 255;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of a UDP header.
const UDP: usize = 8;
/// All nodes on this link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Address = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The Ethernet group of [`ALL_NODES`] (RFC 2464 section 7).
const ALL_NODES_LINK: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);

/// Writes a TCP segment from `tuple.local` to `tuple.remote` and returns the frame's length. The
/// ports are the tuple's, whatever the segment says.
///
/// # Panics
/// If `buf` is shorter than [`HEADERS_MAX`](super::HEADERS_MAX) plus the payload, or if the tuple
/// mixes IPv4 and IPv6.
pub fn emit_tcp(link: &Link, tuple: &Tuple, segment: &TcpRepr, buf: &mut [u8]) -> usize {
    let (from, to) = (tuple.local.addr, tuple.remote.addr);
    let segment = TcpRepr { src_port: tuple.local.port, dst_port: tuple.remote.port, ..*segment };
    let ip = IpRepr::new(from, to, IpProtocol::Tcp, segment.buffer_len(), HOP_LIMIT);
    emit_ip(link, &ip, buf, |payload| {
        let mut packet = TcpPacket::new_unchecked(payload);
        segment.emit(&mut packet, &from, &to, &ChecksumCapabilities::default());
    })
}

/// Writes a UDP datagram whose `payload_len` bytes are filled in by `write`, and returns the
/// frame's length.
///
/// # Panics
/// If `buf` is shorter than [`HEADERS_MAX`](super::HEADERS_MAX) plus the payload, or if the
/// endpoints mix IPv4 and IPv6.
pub fn emit_udp(
    link: &Link,
    (from, to): (IpEndpoint, IpEndpoint),
    payload_len: usize,
    write: impl FnOnce(&mut [u8]),
    buf: &mut [u8],
) -> usize {
    let ip = IpRepr::new(from.addr, to.addr, IpProtocol::Udp, UDP + payload_len, HOP_LIMIT);
    emit_ip(link, &ip, buf, |payload| {
        let length = payload.len() as u16;
        let mut packet = UdpPacket::new_unchecked(payload);
        packet.set_src_port(from.port);
        packet.set_dst_port(to.port);
        packet.set_len(length);
        write(packet.payload_mut());
        packet.fill_checksum(&from.addr, &to.addr);
    })
}

/// Answers an ARP request of `sender` at `link.destination`: `ours` is at `link.source` (RFC 826).
pub fn emit_arp_reply(
    link: &Link,
    ours: Ipv4Address,
    sender: Ipv4Address,
    buf: &mut [u8],
) -> usize {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: link.source,
        source_protocol_addr: ours,
        target_hardware_addr: link.destination,
        target_protocol_addr: sender,
    };
    emit_arp(link, &arp, buf)
}

/// Announces to the whole link that `ip` is at `mac`, in the form of a request (RFC 5227
/// section 3), which every neighbour takes into its cache.
pub fn emit_gratuitous_arp(mac: EthernetAddress, ip: Ipv4Address, buf: &mut [u8]) -> usize {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: ip,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: ip,
    };
    emit_arp(&Link { source: mac, destination: EthernetAddress::BROADCAST }, &arp, buf)
}

/// Tells `solicitor` at `link.destination` that `ours` is at `link.source` (RFC 4861 section
/// 7.2.4). Without a solicitor, or with an unspecified one, all nodes are told.
pub fn emit_neighbor_advertisement(
    link: &Link,
    ours: Ipv6Address,
    solicitor: Option<Ipv6Address>,
    buf: &mut [u8],
) -> usize {
    let (link, to, solicited) = match solicitor.filter(|address| !address.is_unspecified()) {
        Some(address) => (*link, address, NdiscNeighborFlags::SOLICITED),
        None => {
            let link = Link { destination: ALL_NODES_LINK, ..*link };
            (link, ALL_NODES, NdiscNeighborFlags::empty())
        }
    };
    let message = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: solicited | NdiscNeighborFlags::OVERRIDE,
        target_addr: ours,
        lladdr: Some(link.source.into()),
    });
    emit_icmpv6(&link, (ours, to), &message, NDP_HOP_LIMIT, buf)
}

/// Answers a ping (RFC 1122 section 3.2.2.6, RFC 4443 section 4.2). Returns the frame's length;
/// zero when the addresses are not of one family.
pub fn emit_echo_reply(
    link: &Link,
    ours: IpAddress,
    asker: IpAddress,
    echo: &Echo,
    buf: &mut [u8],
) -> usize {
    let Echo { ident, seq_no, data } = *echo;
    match (ours, asker) {
        (IpAddress::Ipv4(_), IpAddress::Ipv4(_)) => {
            let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
            let ip = IpRepr::new(ours, asker, IpProtocol::Icmp, reply.buffer_len(), HOP_LIMIT);
            emit_ip(link, &ip, buf, |payload| {
                let mut packet = Icmpv4Packet::new_unchecked(payload);
                reply.emit(&mut packet, &ChecksumCapabilities::default());
            })
        }
        (IpAddress::Ipv6(ours), IpAddress::Ipv6(asker)) => {
            let reply = Icmpv6Repr::EchoReply { ident, seq_no, data };
            emit_icmpv6(link, (ours, asker), &reply, HOP_LIMIT, buf)
        }
        _ => 0,
    }
}

fn emit_icmpv6(
    link: &Link,
    (from, to): (Ipv6Address, Ipv6Address),
    message: &Icmpv6Repr,
    hop_limit: u8,
    buf: &mut [u8],
) -> usize {
    let length = message.buffer_len();
    let ip = IpRepr::new(from.into(), to.into(), IpProtocol::Icmpv6, length, hop_limit);
    emit_ip(link, &ip, buf, |payload| {
        let mut packet = Icmpv6Packet::new_unchecked(payload);
        message.emit(&from, &to, &mut packet, &ChecksumCapabilities::default());
    })
}

fn emit_arp(link: &Link, arp: &ArpRepr, buf: &mut [u8]) -> usize {
    let length = ETHERNET + arp.buffer_len();
    let frame = emit_ethernet(link, EthernetProtocol::Arp, &mut buf[..length]);
    arp.emit(&mut ArpPacket::new_unchecked(frame));
    length
}

fn emit_ip(link: &Link, ip: &IpRepr, buf: &mut [u8], write: impl FnOnce(&mut [u8])) -> usize {
    let protocol = match ip {
        IpRepr::Ipv4(_) => EthernetProtocol::Ipv4,
        IpRepr::Ipv6(_) => EthernetProtocol::Ipv6,
    };
    let length = ETHERNET + ip.buffer_len();
    let packet = emit_ethernet(link, protocol, &mut buf[..length]);
    ip.emit(&mut *packet, &ChecksumCapabilities::default());
    write(&mut packet[ip.header_len()..]);
    length
}

/// Writes the Ethernet header and returns what follows it.
fn emit_ethernet<'b>(link: &Link, protocol: EthernetProtocol, frame: &'b mut [u8]) -> &'b mut [u8] {
    let mut ethernet = EthernetFrame::new_unchecked(&mut *frame);
    ethernet.set_src_addr(link.source);
    ethernet.set_dst_addr(link.destination);
    ethernet.set_ethertype(protocol);
    &mut frame[ETHERNET..]
}
