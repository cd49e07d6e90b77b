//! Segments in frames.

use relay_core::frame::{EthernetAddress, IpAddress};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpPacket, TcpRepr,
};

const ETHERNET_HEADER: usize = 14;

/// As most systems have it.
const HOP_LIMIT: u8 = 64;

/// A connection's ends, with the MAC addresses of their next hops.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub local: (IpAddress, u16),
    pub local_mac: EthernetAddress,
    pub remote: (IpAddress, u16),
    pub remote_mac: EthernetAddress,
}

impl Path {
    /// A frame with a segment, whose ports are filled in.
    pub fn frame(&self, segment: &TcpRepr<'_>) -> Vec<u8> {
        let segment = TcpRepr { src_port: self.local.1, dst_port: self.remote.1, ..*segment };
        let (from, to) = (self.local.0, self.remote.0);
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, segment.buffer_len(), HOP_LIMIT);
        let mut bytes = vec![0; ETHERNET_HEADER + ip.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        frame.set_src_addr(self.local_mac);
        frame.set_dst_addr(self.remote_mac);
        frame.set_ethertype(match from {
            IpAddress::Ipv4(_) => EthernetProtocol::Ipv4,
            IpAddress::Ipv6(_) => EthernetProtocol::Ipv6,
        });
        let checksums = ChecksumCapabilities::default();
        ip.emit(frame.payload_mut(), &checksums);
        let payload = &mut frame.payload_mut()[ip.header_len()..];
        segment.emit(&mut TcpPacket::new_unchecked(payload), &from, &to, &checksums);
        bytes
    }

    /// The segment in a frame that is for this connection and undamaged.
    pub fn segment<'a>(&self, frame: &'a [u8]) -> Option<TcpRepr<'a>> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let (from, to, payload): (IpAddress, IpAddress, &[u8]) = match frame.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
                let is_whole = packet.verify_checksum() && packet.next_header() == IpProtocol::Tcp;
                is_whole
                    .then(|| (packet.src_addr().into(), packet.dst_addr().into(), packet.payload()))
            }
            EthernetProtocol::Ipv6 => {
                let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
                let is_tcp = packet.next_header() == IpProtocol::Tcp;
                is_tcp
                    .then(|| (packet.src_addr().into(), packet.dst_addr().into(), packet.payload()))
            }
            _ => None,
        }?;
        let packet = TcpPacket::new_checked(payload).ok()?;
        let segment = TcpRepr::parse(&packet, &from, &to, &ChecksumCapabilities::default()).ok()?;
        let ends = ((to, segment.dst_port), (from, segment.src_port));
        (ends == (self.local, self.remote)).then_some(segment)
    }
}
