//! Frames as they come to a relay.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const CLUSTER_PORT: u16 = 4789;
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 10);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 100);
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd99, 1, 0, 0, 0, 0, 0, 0x10);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd99, 1, 0, 0, 0, 0, 0, 0x100);
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd99, 1, 0, 0, 0, 0, 0, 1);

pub fn tcp4(to: Ipv4Addr, source: u16, destination: u16) -> Vec<u8> {
    ethernet(0x0800, &ipv4(to, 6, 0, &[], &ports(source, destination)))
}

pub fn tcp6(to: Ipv6Addr, source: u16, destination: u16) -> Vec<u8> {
    ethernet(0x86dd, &ipv6(to, 6, &ports(source, destination)))
}

pub fn cluster4(to: Ipv4Addr, port: u16) -> Vec<u8> {
    ethernet(0x0800, &ipv4(to, 17, 0, &[], &ports(9, port)))
}

pub fn cluster6(to: Ipv6Addr, port: u16) -> Vec<u8> {
    ethernet(0x86dd, &ipv6(to, 17, &ports(9, port)))
}

pub fn echo4(to: Ipv4Addr) -> Vec<u8> {
    ethernet(0x0800, &ipv4(to, 1, 0, &[], &[8, 0, 0, 0, 0, 1, 0, 1]))
}

pub fn echo6(to: Ipv6Addr) -> Vec<u8> {
    ethernet(0x86dd, &ipv6(to, 58, &[128, 0, 0, 0, 0, 1, 0, 1]))
}

/// "Fragmentation needed" about a segment from the VIP to the client's `port`. It quotes the
/// least that RFC 792 demands: the header and eight bytes, of which the test keeps the ports.
pub fn too_big4(port: u16) -> Vec<u8> {
    let mut quoted = ipv4(CLIENT, 6, 0, &[], &ports(443, port)[..4]);
    quoted[12..16].copy_from_slice(&VIP.octets());
    let mut icmp = vec![3, 4, 0, 0, 0, 0, 5, 0];
    icmp.extend(quoted);
    ethernet(0x0800, &ipv4(VIP, 1, 0, &[], &icmp))
}

/// "Packet too big" about a segment from the VIP to the client's `port`.
pub fn too_big6(port: u16) -> Vec<u8> {
    let mut quoted = ipv6(CLIENT6, 6, &ports(443, port)[..4]);
    quoted[8..24].copy_from_slice(&VIP6.octets());
    let mut icmp = vec![2, 0, 0, 0, 0, 0, 5, 0];
    icmp.extend(quoted);
    ethernet(0x86dd, &ipv6(VIP6, 58, &icmp))
}

pub fn arp(target: Ipv4Addr) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9];
    arp.extend(CLIENT.octets());
    arp.extend([0; 6]);
    arp.extend(target.octets());
    ethernet(0x0806, &arp)
}

/// A neighbor solicitation to the solicited-node multicast address of `target`.
pub fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    let low = target.segments();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | low[6] & 0xff, low[7]);
    let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(target.octets());
    icmp.extend([1, 1, 2, 0, 0, 0, 0, 9]);
    ethernet(0x86dd, &ipv6(group, 58, &icmp))
}

pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0x5e, 0, 1, 100, 2, 0, 0, 0, 0, 9];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    let mut with_tag = frame[..12].to_vec();
    with_tag.extend(tag.to_be_bytes());
    with_tag.extend(7u16.to_be_bytes());
    with_tag.extend(&frame[12..]);
    with_tag
}

pub fn ipv4(to: Ipv4Addr, protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let len = 20 + options.len();
    let mut packet = vec![0x40 | (len / 4) as u8, 0];
    packet.extend(((len + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(CLIENT.octets());
    packet.extend(to.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

pub fn ipv6(to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(CLIENT6.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// The ports, and as many zeros as make it a TCP header.
pub fn ports(source: u16, destination: u16) -> [u8; 20] {
    let mut header = [0; 20];
    header[..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&destination.to_be_bytes());
    header
}
