//! Many packets that nobody asked for, from the client's machine to the VIP.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber,
};
use wire::port::Port;
use xtask::lab::plan::{
    CLIENT_NS, CLIENT_VIRTUAL_MAC, ENDPOINT_HOST, Network, PORT, RAW_PORT, vip,
};
use xtask::shell::inside;

/// Packets between two looks at the clock.
const BATCH: u32 = 250;
/// So many packets leave in a second: a flood that fills the machine's two cores would only show
/// that the kernel is busy, too.
const RATE: u32 = 100_000;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const TCP: usize = 20;
/// Flags in byte 13 of a TCP header.
const FLAGS_AT: usize = ETHERNET + IPV4 + 13;
/// The more-fragments flag and the offset, in byte 6 of an IPv4 header.
const MORE_FRAGMENTS: u8 = 0x20;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    Syn,
    Ack,
    Rst,
    Fin,
    /// All flags at once.
    ChristmasTree,
    /// First fragments of segments, and later ones that belong to none.
    Fragments,
}

impl Flood {
    /// All of them.
    pub const ALL: [Flood; 6] =
        [Flood::Syn, Flood::Ack, Flood::Rst, Flood::Fin, Flood::ChristmasTree, Flood::Fragments];

    /// Sends `count` packets from all ports of the client, those of its connections included, with
    /// sequence numbers that differ; to both ports of the VIP in turns.
    pub fn send(self, count: u32) -> Result<()> {
        let (IpAddr::V4(target), own) = (vip(false), Network::Client.v4(ENDPOINT_HOST)) else {
            bail!("the VIP has an IPv4 address");
        };
        let mut port = inside(CLIENT_NS, || Port::open(&Network::Client.device()))?;
        let begin = Instant::now();
        for number in 0..count {
            port.send(&self.packet(number, own, target))?;
            if number % BATCH == BATCH - 1 {
                let planned = Duration::from_secs(1) * (number + 1) / RATE;
                thread::sleep(planned.saturating_sub(begin.elapsed()));
            }
        }
        ensure!(port.refused() == 0, "{} packets did not leave", port.refused());
        Ok(())
    }

    fn packet(self, number: u32, own: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        // A walk through all ports and sequence numbers that looks like none.
        let scattered = number.wrapping_mul(0x9e37_79b9);
        let segment = TcpRepr {
            src_port: (scattered >> 16) as u16 | 1024,
            dst_port: if number.is_multiple_of(2) { PORT } else { RAW_PORT },
            control: match self {
                Flood::Syn => TcpControl::Syn,
                Flood::Rst => TcpControl::Rst,
                Flood::Fin => TcpControl::Fin,
                Flood::Ack | Flood::ChristmasTree | Flood::Fragments => TcpControl::None,
            },
            seq_number: TcpSeqNumber(scattered as i32),
            ack_number: (self != Flood::Syn).then_some(TcpSeqNumber(!scattered as i32)),
            window_len: 1024,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let ip = Ipv4Repr {
            src_addr: own,
            dst_addr: target,
            next_header: IpProtocol::Tcp,
            payload_len: TCP,
            hop_limit: 64,
        };
        let mut frame = vec![0; ETHERNET + IPV4 + TCP];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.set_dst_addr(mac(CLIENT_VIRTUAL_MAC));
        ethernet.set_src_addr(mac(&Network::Client.mac(ENDPOINT_HOST)));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]), &checksums);
        let mut tcp = TcpPacket::new_unchecked(&mut frame[ETHERNET + IPV4..]);
        segment.emit(&mut tcp, &own.into(), &target.into(), &checksums);
        match self {
            Flood::ChristmasTree => {
                frame[FLAGS_AT] = 0xff;
                let mut tcp = TcpPacket::new_unchecked(&mut frame[ETHERNET + IPV4..]);
                tcp.fill_checksum(&own.into(), &target.into());
            }
            Flood::Fragments => {
                frame[ETHERNET + 6] = MORE_FRAGMENTS;
                frame[ETHERNET + 7] = (number % 2) as u8 * 100;
                Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]).fill_checksum();
            }
            _ => {}
        }
        frame
    }
}

/// From text of the lab's plan.
fn mac(text: &str) -> EthernetAddress {
    let mut bytes = [0; 6];
    for (byte, digits) in bytes.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16).expect("the plan's addresses are right");
    }
    EthernetAddress(bytes)
}
