//! Arbitrary frames: what parses can be said again.

use relay_core::frame::{
    EthernetAddress, HEADERS_MAX, Inbound, IpAddress, Link, TcpRepr, Tuple, emit_arp_reply,
    emit_echo_reply, emit_neighbor_advertisement, emit_tcp, emit_udp, parse,
};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpProtocol, Ipv4Packet,
    Ipv6Packet, TcpControl, TcpPacket, UdpPacket,
};

/// Bytes of options that a TCP header has room for, with the header.
const TCP_HEADER_MAX: usize = 60;
const OURS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

/// The first byte says whether checksums are put right, without which hardly anything is parsed;
/// the rest is a frame.
pub fn frame(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if choice & 1 == 0 {
        let _ = put_right(&mut bytes);
    }
    let mut buf = vec![0; bytes.len() + HEADERS_MAX];
    match parse(&bytes) {
        Ok(Inbound::Tcp { source, tuple, segment }) => say_again(source, &tuple, &segment),
        Ok(Inbound::Udp { source, from, to, payload }) => {
            let link = Link { source, destination: OURS };
            let write = |out: &mut [u8]| out.copy_from_slice(payload);
            let length = emit_udp(&link, (from, to), payload.len(), write, &mut buf);
            let again = parse(&buf[..length]);
            assert_eq!(again, Ok(Inbound::Udp { source, from, to, payload }));
        }
        Ok(Inbound::ArpRequest { source, sender, target }) => {
            let link = Link { source: OURS, destination: source };
            emit_arp_reply(&link, target, sender, &mut buf);
        }
        Ok(Inbound::NeighborSolicit { source, sender, target }) => {
            let link = Link { source: OURS, destination: source };
            emit_neighbor_advertisement(&link, target, Some(sender), &mut buf);
        }
        Ok(Inbound::EchoRequest { source, from, to, echo }) => {
            let link = Link { source: OURS, destination: source };
            let length = emit_echo_reply(&link, to, from, &echo, &mut buf);
            assert!(length > echo.data.len() && length <= buf.len());
        }
        Ok(Inbound::IcmpError(_)) | Err(_) => {}
    }
}

/// A segment is the same after it was written and read once more.
fn say_again(source: EthernetAddress, tuple: &Tuple, segment: &TcpRepr) {
    // We never send so many options as fit into a header only because they are not aligned.
    let tells_blocks = segment.ack_number.is_some() && !segment.sack_permitted;
    let sack_ranges = if tells_blocks { segment.sack_ranges } else { [None; 3] };
    // A block behind a missing one would move to its place.
    let mut blocks = sack_ranges.into_iter().flatten();
    let sack_ranges = [blocks.next(), blocks.next(), blocks.next()];
    let segment = TcpRepr { sack_ranges, ..*segment };
    if segment.header_len() > TCP_HEADER_MAX {
        return;
    }
    let link = Link { source, destination: OURS };
    let back = Tuple { local: tuple.remote, remote: tuple.local };
    let mut buf = vec![0; segment.payload.len() + HEADERS_MAX];
    let length = emit_tcp(&link, &back, &segment, &mut buf);
    match parse(&buf[..length]) {
        Ok(Inbound::Tcp { tuple: again, segment: read, .. }) => {
            assert_eq!((again, read), (*tuple, segment));
            assert!(read.control != TcpControl::Syn || read.segment_len() > 0);
        }
        other => panic!("{segment:?} is read as {other:?}"),
    }
}

/// Writes all checksums of a frame, as far as there is one.
fn put_right(bytes: &mut [u8]) -> Option<()> {
    let mut ethernet = EthernetFrame::new_checked(bytes).ok()?;
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let mut ip = Ipv4Packet::new_checked(ethernet.payload_mut()).ok()?;
            let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
            let protocol = ip.next_header();
            ip.fill_checksum();
            put_payload_right(protocol, (from, to), ip.payload_mut())
        }
        EthernetProtocol::Ipv6 => {
            let mut ip = Ipv6Packet::new_checked(ethernet.payload_mut()).ok()?;
            let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
            let protocol = ip.next_header();
            put_payload_right(protocol, (from, to), ip.payload_mut())
        }
        _ => None,
    }
}

fn put_payload_right(
    protocol: IpProtocol,
    (from, to): (IpAddress, IpAddress),
    bytes: &mut [u8],
) -> Option<()> {
    match (protocol, from, to) {
        (IpProtocol::Tcp, ..) => TcpPacket::new_checked(bytes).ok()?.fill_checksum(&from, &to),
        (IpProtocol::Udp, ..) => UdpPacket::new_checked(bytes).ok()?.fill_checksum(&from, &to),
        (IpProtocol::Icmp, ..) => Icmpv4Packet::new_checked(bytes).ok()?.fill_checksum(),
        (IpProtocol::Icmpv6, IpAddress::Ipv6(from), IpAddress::Ipv6(to)) => {
            Icmpv6Packet::new_checked(bytes).ok()?.fill_checksum(&from, &to);
        }
        _ => return None,
    }
    Some(())
}
