//! Mends one defect of smoltcp 0.14, which clients and the backend are made of: after a fast
//! retransmit that has nothing to send, it never repeats its FIN.
//!
//! Its third duplicate ACK stops the retransmission timer and marks the first segment that is not
//! acknowledged to be sent again; sending would start the timer. But that segment is taken from the
//! queue of data. If all data was acknowledged and only the FIN was not, the queue is empty, nothing
//! is sent, and no timer is left: the socket waits in FIN-WAIT-1, CLOSING or LAST-ACK for ever,
//! although its FIN was lost.
//!
//! In exactly this state the FIN is sent again here, as a retransmission timer would. Nothing else
//! is mended: a socket with data, or with any timer, is left alone; a relay that ignores FINs is
//! sent one after the other in vain.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use relay_core::time::{Duration, Instant};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber,
};

use crate::wire;

/// The least retransmission timeout (RFC 6298 section 2.4); it doubles.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The largest one.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Length of an Ethernet header.
const ETHERNET_HEADER: usize = 14;

/// Both ends of a connection, the machine's own one first.
pub type Ends = (SocketAddr, SocketAddr);

/// The FINs that one machine has sent.
#[derive(Default)]
pub struct Fins {
    sent: BTreeMap<Ends, Sent>,
    /// FINs that were sent again here.
    pub repeated: u64,
}

struct Sent {
    /// Sequence number of the FIN.
    sequence: TcpSeqNumber,
    /// The last frame of the connection: nothing that it acknowledges is newer.
    last: Vec<u8>,
    /// When the FIN is sent again, and after which time; None: smoltcp has not forgotten it.
    due: Option<(Instant, Duration)>,
}

impl Fins {
    /// Takes in a frame that the machine sends.
    pub fn note(&mut self, frame: &[u8]) {
        let Some(seen) = wire::tcp(frame) else { return };
        let (packet, ends) = (&seen.packet, (seen.source, seen.destination));
        if packet.syn() || packet.rst() {
            self.sent.remove(&ends);
        } else if packet.fin() {
            let sequence = packet.seq_number() + packet.payload().len();
            let due = self.sent.get(&ends).and_then(|sent| sent.due);
            self.sent.insert(ends, Sent { sequence, last: frame.to_vec(), due });
        } else if let Some(sent) = self.sent.get_mut(&ends) {
            sent.last = frame.to_vec();
        }
    }

    /// Takes in whether the FIN of a connection is forgotten.
    pub fn watch(&mut self, now: Instant, ends: Ends, is_forgotten: bool) {
        let Some(sent) = self.sent.get_mut(&ends) else { return };
        sent.due = is_forgotten.then(|| sent.due.unwrap_or((now + TIMEOUT, TIMEOUT)));
    }

    /// When the next FIN is due.
    pub fn poll_at(&self) -> Option<Instant> {
        self.sent.values().filter_map(|sent| sent.due).map(|(at, _)| at).min()
    }

    /// A FIN that is due.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        let is_due = |sent: &&mut Sent| sent.due.is_some_and(|(at, _)| at <= now);
        let sent = self.sent.values_mut().find(is_due)?;
        let (_, timeout) = sent.due?;
        let timeout = (timeout * 2).min(TIMEOUT_MAX);
        sent.due = Some((now + timeout, timeout));
        self.repeated += 1;
        sent.fin()
    }
}

impl Sent {
    /// The FIN alone, with the acknowledgement, window and options of the last frame.
    fn fin(&self) -> Option<Vec<u8>> {
        let payload = wire::tcp(&self.last)?.packet.payload().len();
        let mut bytes = self.last.clone();
        let is_ipv4 =
            EthernetFrame::new_checked(&bytes).ok()?.ethertype() == EthernetProtocol::Ipv4;
        let ip = &mut bytes[ETHERNET_HEADER..];
        if is_ipv4 {
            let mut packet = Ipv4Packet::new_checked(ip).ok()?;
            packet.set_total_len(packet.total_len() - payload as u16);
            packet.fill_checksum();
            let (source, destination) = (packet.src_addr(), packet.dst_addr());
            self.fill(packet.payload_mut(), (source.into(), destination.into()));
        } else {
            let mut packet = Ipv6Packet::new_checked(ip).ok()?;
            packet.set_payload_len(packet.payload_len() - payload as u16);
            let (source, destination) = (packet.src_addr(), packet.dst_addr());
            self.fill(packet.payload_mut(), (source.into(), destination.into()));
        }
        bytes.truncate(bytes.len() - payload);
        Some(bytes)
    }

    fn fill(&self, segment: &mut [u8], (source, destination): (IpAddress, IpAddress)) {
        let mut packet = TcpPacket::new_unchecked(segment);
        packet.set_seq_number(self.sequence);
        packet.set_psh(false);
        packet.set_fin(true);
        packet.fill_checksum(&source, &destination);
    }
}
