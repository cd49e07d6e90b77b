use super::*;
use crate::reason::Reason;
use smoltcp::wire::{TcpControl, TcpSeqNumber as SeqNumber};

const OURS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const THEIRS: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);
const LINK: Link = Link { source: OURS, destination: THEIRS };

fn v4(port: u16, last: u8) -> IpEndpoint {
    IpEndpoint::new(IpAddress::v4(10, 99, 1, last), port)
}

fn v6(port: u16, last: u16) -> IpEndpoint {
    IpEndpoint::new(IpAddress::v6(0xfd99, 0, 0, 1, 0, 0, 0, last), port)
}

fn segment(payload: &[u8]) -> TcpRepr<'_> {
    TcpRepr {
        src_port: 0,
        dst_port: 0,
        control: TcpControl::Psh,
        seq_number: SeqNumber(-7),
        ack_number: Some(SeqNumber(9)),
        window_len: 512,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [Some((1, 2)), Some((3, 4)), Some((5, 6))],
        timestamp: Some(smoltcp::wire::TcpTimestampRepr::new(11, 12)),
        payload,
    }
}

fn tcp_frame(local: IpEndpoint, remote: IpEndpoint) -> Vec<u8> {
    let mut buf = [0xaa; 2048];
    let length = emit_tcp(&LINK, &Tuple { local, remote }, &segment(b"payload"), &mut buf);
    buf[..length].to_vec()
}

#[test]
fn a_segment_survives_the_wire_over_both_families() {
    for (local, remote) in [(v4(443, 100), v4(5000, 10)), (v6(443, 100), v6(5000, 10))] {
        let mut frame = tcp_frame(local, remote);
        frame.extend([0; 20]); // Ethernet padding is not payload.
        let Ok(Inbound::Tcp { source, tuple, segment: got }) = parse(&frame) else {
            panic!("not a segment: {:?}", parse(&frame));
        };
        assert_eq!((source, tuple), (OURS, Tuple { local: remote, remote: local }));
        let sent = TcpRepr { src_port: 443, dst_port: 5000, ..segment(b"payload") };
        assert_eq!(got, sent);
    }
}

#[test]
fn every_flipped_byte_of_an_ipv4_packet_is_noticed() {
    let frame = tcp_frame(v4(443, 100), v4(5000, 10));
    for at in 14..frame.len() {
        let mut broken = frame.clone();
        broken[at] ^= 0x40;
        assert!(parse(&broken).is_err(), "byte {at}");
    }
}

#[test]
fn a_datagram_survives_the_wire_and_ipv6_demands_its_checksum() {
    for (from, to) in [(v4(700, 1), v4(701, 2)), (v6(700, 1), v6(701, 2))] {
        let mut buf = [0; 256];
        let length = emit_udp(&LINK, (from, to), 4, |p| p.copy_from_slice(b"ping"), &mut buf);
        let expected = Inbound::Udp { source: OURS, from, to, payload: b"ping" };
        assert_eq!(parse(&buf[..length]), Ok(expected));
        let checksum = length - 4 - 2;
        buf[checksum..checksum + 2].fill(0);
        let want = matches!(to.addr, IpAddress::Ipv4(_));
        assert_eq!(parse(&buf[..length]).is_ok(), want);
    }
}

#[test]
fn rfc_1122_fragments_and_impossible_sources_are_refused() {
    let fix = |mut frame: Vec<u8>, edit: &dyn Fn(&mut [u8])| {
        edit(&mut frame[14..]);
        smoltcp::wire::Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        frame
    };
    let frame = tcp_frame(v4(443, 100), v4(5000, 10));
    let first = fix(frame.clone(), &|ip| ip[6] = 0x20);
    assert_eq!(parse(&first), Err(Reason::Fragment));
    let later = fix(frame.clone(), &|ip| ip[7] = 4);
    assert_eq!(parse(&later), Err(Reason::Fragment));
    let multicast = fix(frame.clone(), &|ip| ip[12] = 224);
    assert_eq!(parse(&multicast), Err(Reason::Malformed));
    let long = fix(frame.clone(), &|ip| ip[2] = 0xff);
    assert_eq!(parse(&long), Err(Reason::Malformed));
    let other = fix(frame, &|ip| ip[9] = 47);
    assert_eq!(parse(&other), Err(Reason::NotForUs));
}

#[test]
fn flags_that_exclude_each_other_are_refused() {
    for (flags, legal) in [(0x03u8, false), (0x06, false), (0x05, false), (0x19, true)] {
        let mut frame = tcp_frame(v4(443, 100), v4(5000, 10));
        frame[14 + 20 + 13] = flags;
        let (from, to) = (v4(443, 100).addr, v4(5000, 10).addr);
        smoltcp::wire::TcpPacket::new_unchecked(&mut frame[34..]).fill_checksum(&from, &to);
        assert_eq!(parse(&frame).is_ok(), legal, "flags {flags:#x}");
    }
}

#[test]
fn rfc_826_arp_request_and_gratuitous_announcement() {
    let mut buf = [0; 64];
    let ip = Ipv4Address::new(10, 99, 1, 100);
    let length = emit_gratuitous_arp(OURS, ip, &mut buf);
    assert_eq!(
        parse(&buf[..length]),
        Ok(Inbound::ArpRequest { source: OURS, sender: ip, target: ip })
    );
    let length = emit_arp_reply(&LINK, ip, Ipv4Address::new(10, 99, 1, 10), &mut buf);
    assert_eq!((length, parse(&buf[..length])), (42, Err(Reason::NotForUs)));
    assert_eq!(buf[20..22], [0, 2]);
}

#[test]
fn rfc_4861_advertisements_go_to_the_solicitor_or_to_all_nodes() {
    let mut buf = [0; 128];
    let ours = Ipv6Address::new(0xfd99, 0, 0, 1, 0, 0, 0, 0x100);
    let asker = Ipv6Address::new(0xfd99, 0, 0, 1, 0, 0, 0, 0x10);
    let length = emit_neighbor_advertisement(&LINK, ours, Some(asker), &mut buf);
    assert_eq!((length, buf[21], buf[14 + 40 + 4]), (86, 255, 0x60));
    assert_eq!(parse(&buf[..length]), Err(Reason::NotForUs));
    for solicitor in [None, Some(Ipv6Address::UNSPECIFIED)] {
        let length = emit_neighbor_advertisement(&LINK, ours, solicitor, &mut buf);
        assert_eq!((length, buf[14 + 40 + 4]), (86, 0x20));
        assert_eq!(buf[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(parse(&buf[..length]), Err(Reason::NotForUs), "the checksum holds");
    }
}

#[test]
fn a_neighbor_solicitation_counts_only_with_hop_limit_255() {
    use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, NdiscRepr};
    let caps = smoltcp::phy::ChecksumCapabilities::default();
    let sender = Ipv6Address::new(0xfd99, 0, 0, 1, 0, 0, 0, 0x10);
    let target = Ipv6Address::new(0xfd99, 0, 0, 1, 0, 0, 0, 0x100);
    let message = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr: Some(THEIRS.into()),
    });
    for (hops, expected) in [
        (255, Ok(Inbound::NeighborSolicit { source: THEIRS, sender, target })),
        (254, Err(Reason::Malformed)),
    ] {
        let mut frame = [0; 128];
        frame[6..12].copy_from_slice(&THEIRS.0);
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        let length = message.buffer_len();
        let ip = IpRepr::new(sender.into(), target.into(), IpProtocol::Icmpv6, length, hops);
        ip.emit(&mut frame[14..54], &caps);
        let mut packet = Icmpv6Packet::new_unchecked(&mut frame[54..54 + length]);
        message.emit(&sender, &target, &mut packet, &caps);
        assert_eq!(parse(&frame[..54 + length]), expected);
    }
}

#[test]
fn a_ping_is_answered_with_its_own_bytes() {
    let echo = Echo { ident: 7, seq_no: 8, data: b"abcdefgh" };
    for (ours, asker) in [(v4(0, 1).addr, v4(0, 2).addr), (v6(0, 1).addr, v6(0, 2).addr)] {
        let mut buf = [0; 128];
        let length = emit_echo_reply(&LINK, ours, asker, &echo, &mut buf);
        assert_eq!(parse(&buf[..length]), Err(Reason::NotForUs), "a reply, with a good checksum");
        assert_eq!(&buf[length - 8..length], b"abcdefgh");
    }
}

/// Makes the checksums of a mangled frame right where that can be done, so that what lies behind
/// them is reached.
fn repair(frame: &mut [u8]) {
    use smoltcp::wire::{IpProtocol, Ipv4Packet, TcpPacket};
    let Some(bytes) = frame.get_mut(14..) else { return };
    let Ok(mut ip) = Ipv4Packet::new_checked(&mut *bytes) else { return };
    ip.fill_checksum();
    let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
    if ip.next_header() == IpProtocol::Tcp
        && let Ok(mut tcp) = TcpPacket::new_checked(ip.payload_mut())
    {
        tcp.fill_checksum(&from, &to);
    }
}

/// Truncated and mangled frames of every kind must be refused or read, never panic.
#[test]
fn mangled_frames_never_panic() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut frames =
        vec![tcp_frame(v4(443, 100), v4(5000, 10)), tcp_frame(v6(443, 100), v6(5000, 10))];
    let mut buf = [0; 128];
    let length = emit_gratuitous_arp(OURS, Ipv4Address::new(10, 0, 0, 1), &mut buf);
    frames.push(buf[..length].to_vec());
    let ours = Ipv6Address::new(0xfd99, 0, 0, 1, 0, 0, 0, 0x100);
    let length = emit_neighbor_advertisement(&LINK, ours, None, &mut buf);
    frames.push(buf[..length].to_vec());
    let length = emit_udp(&LINK, (v6(700, 1), v6(701, 2)), 4, |p| p.fill(1), &mut buf);
    frames.push(buf[..length].to_vec());
    for frame in &frames {
        for cut in 0..frame.len() {
            let _ = parse(&frame[..cut]);
        }
        for _ in 0..20_000 {
            let mut broken = frame.clone();
            for _ in 0..=next() % 4 {
                let at = next() as usize % broken.len();
                broken[at] = next() as u8;
            }
            broken.truncate(broken.len() - next() as usize % 8);
            let _ = parse(&broken);
            repair(&mut broken);
            let _ = parse(&broken);
        }
    }
}

/// What a router says about `frame`, an IP packet behind an Ethernet header.
fn complaint_v4(code: u8, mtu: u16, frame: &[u8]) -> Vec<u8> {
    use smoltcp::wire::{Icmpv4Packet, Ipv4Packet};
    let quoted = &frame[14..14 + 28];
    let mut bytes = tcp_frame(v4(1, 7), v4(2, 100));
    bytes.truncate(14 + 20);
    bytes.extend([3, code, 0, 0, 0, 0]);
    bytes.extend(mtu.to_be_bytes());
    bytes.extend(quoted);
    Icmpv4Packet::new_unchecked(&mut bytes[34..]).fill_checksum();
    let length = (bytes.len() - 14) as u16;
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes[14..]);
    ip.set_total_len(length);
    ip.set_next_header(smoltcp::wire::IpProtocol::Icmp);
    ip.fill_checksum();
    bytes
}

#[test]
fn rfc_1191_a_router_that_needs_smaller_packets_is_heard() {
    let (local, remote) = (v4(443, 100), v4(5000, 10));
    let frame = tcp_frame(local, remote);
    let expect = |complaint| {
        let tuple = Tuple { local, remote };
        Ok(Inbound::IcmpError(Quote { tuple, sequence: (-7i32) as u32, complaint }))
    };
    let too_big = complaint_v4(4, 1400, &frame);
    assert_eq!(parse(&too_big), expect(Complaint::TooBig { mtu: 1400 }));
    assert_eq!(parse(&complaint_v4(1, 0, &frame)), expect(Complaint::Unreachable));
    let other = tcp_frame(v4(443, 101), remote);
    assert_eq!(parse(&complaint_v4(4, 1400, &other)), Err(Reason::Malformed), "not ours");
    for cut in 34..too_big.len() {
        assert!(parse(&too_big[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn rfc_8201_a_router_that_needs_smaller_ipv6_packets_is_heard() {
    use smoltcp::wire::{Icmpv6Packet, IpProtocol, Ipv6Packet};
    let (local, remote) = (v6(443, 100), v6(5000, 10));
    let frame = tcp_frame(local, remote);
    let quoted = &frame[14..14 + 60];
    let mut bytes = tcp_frame(v6(1, 7), local);
    bytes.truncate(14 + 40);
    bytes.extend([2, 0, 0, 0]);
    bytes.extend(1300u32.to_be_bytes());
    bytes.extend(quoted);
    let (from, to) = (Ipv6Address::new(0xfd99, 0, 0, 1, 0, 0, 0, 7), local.addr);
    let IpAddress::Ipv6(to) = to else { unreachable!("an IPv6 address") };
    Icmpv6Packet::new_unchecked(&mut bytes[54..]).fill_checksum(&from, &to);
    let length = (bytes.len() - 54) as u16;
    let mut ip = Ipv6Packet::new_unchecked(&mut bytes[14..]);
    ip.set_payload_len(length);
    ip.set_next_header(IpProtocol::Icmpv6);
    ip.set_src_addr(from);
    ip.set_dst_addr(to);
    let complaint = Complaint::TooBig { mtu: 1300 };
    let tuple = Tuple { local, remote };
    let quote = Quote { tuple, sequence: (-7i32) as u32, complaint };
    assert_eq!(parse(&bytes), Ok(Inbound::IcmpError(quote)));
}
