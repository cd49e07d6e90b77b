//! Segments that leave: what is next, and their headers.

use smoltcp::wire::{TcpControl, TcpSeqNumber, TcpTimestampRepr};

use super::close::{Cause, Phase};
use super::config::Config;
use super::connection::Connection;
use super::cookie::Accepted;
use super::established::Piece;
use super::state::Timestamps;
use crate::canary::{Canary, breaks};
use crate::frame::{IpAddress, TcpRepr, Tuple};
use crate::time::Instant;

/// MSS of a peer that does not name one (RFC 9293 section 3.7.1).
const MSS_DEFAULT_V4: u16 = 536;
/// The same over IPv6.
const MSS_DEFAULT_V6: u16 = 1220;
/// The least MSS that is believed: a smaller one only serves to make us send many packets.
const MSS_MIN: u16 = 216;
/// Bytes that a timestamp takes of every segment, with its padding (RFC 7323 appendix A).
pub(super) const TIMESTAMP_BYTES: u16 = 12;

/// The RST that answers `segment` when there is no connection for it (RFC 9293 section 3.10.7.1).
pub fn reset_for(segment: &TcpRepr) -> Option<TcpRepr<'static>> {
    if segment.control == TcpControl::Rst {
        return None;
    }
    let mut reset = TcpRepr {
        src_port: segment.dst_port,
        dst_port: segment.src_port,
        control: TcpControl::Rst,
        ..blank()
    };
    match segment.ack_number {
        Some(ack) => reset.seq_number = ack,
        None => reset.ack_number = Some(segment.seq_number + segment.segment_len()),
    }
    Some(reset)
}

/// A segment that says nothing yet.
pub(super) fn blank() -> TcpRepr<'static> {
    TcpRepr {
        src_port: 0,
        dst_port: 0,
        control: TcpControl::None,
        seq_number: TcpSeqNumber(0),
        ack_number: None,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// What the handshake agreed on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    /// The peer's MSS, in bytes.
    pub peer_mss: u16,
    /// Payload of a full segment of ours, in bytes.
    pub payload: u16,
    /// Shift of the peer's window field; `None` when windows are not scaled at all.
    pub send_wscale: Option<u8>,
    /// Shift of our window field, if windows are scaled.
    pub receive_wscale: u8,
    pub sack: bool,
    pub timestamps: Option<Timestamps>,
}

impl Options {
    /// From the options of the peer's SYN; `timestamps` are those that both sides use.
    pub fn from_syn(
        config: &Config,
        tuple: &Tuple,
        syn: &TcpRepr,
        timestamps: Option<Timestamps>,
    ) -> Self {
        let peer_mss = syn_mss(tuple, syn);
        Options {
            peer_mss,
            payload: payload(config, tuple, peer_mss, timestamps.is_some()),
            send_wscale: syn.window_scale,
            receive_wscale: config.window_scale(),
            sack: syn.sack_permitted,
            timestamps,
        }
    }

    pub fn from_accepted(config: &Config, tuple: &Tuple, accepted: &Accepted) -> Self {
        let timestamps = accepted.timestamps;
        Options {
            peer_mss: accepted.peer_mss,
            payload: payload(config, tuple, accepted.peer_mss, timestamps.is_some()),
            send_wscale: accepted.send_wscale,
            receive_wscale: accepted.receive_wscale,
            sack: accepted.sack,
            timestamps,
        }
    }

    /// Shift of our window field.
    pub fn receive_scale(&self) -> u8 {
        self.send_wscale.map_or(0, |_| self.receive_wscale)
    }
}

/// The MSS that a SYN asks for.
pub(super) fn syn_mss(tuple: &Tuple, syn: &TcpRepr) -> u16 {
    let default = match tuple.remote.addr {
        IpAddress::Ipv4(_) => MSS_DEFAULT_V4,
        IpAddress::Ipv6(_) => MSS_DEFAULT_V6,
    };
    syn.max_seg_size.unwrap_or(default).max(MSS_MIN)
}

/// Payload of a full segment: the MSS counts no options (RFC 6691).
pub(super) fn payload(config: &Config, tuple: &Tuple, peer_mss: u16, timestamps: bool) -> u16 {
    let mss = peer_mss.min(config.mss_for(tuple.remote.addr)).max(MSS_MIN);
    if timestamps { mss - TIMESTAMP_BYTES } else { mss }
}

/// What leaves next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Syn,
    Reset,
    Ack,
    Probe,
    Piece(Piece),
}

impl Connection {
    /// Decides what leaves next; cheap, because it is asked for every connection that is touched.
    pub(super) fn action(&self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Closed(_) => None,
            Phase::SynSent => self.syn_due().then_some(Action::Syn),
            Phase::HandshakeHeld => self.reset_due.then_some(Action::Reset),
            Phase::TimeWait => self.receiver.ack_due(now).then_some(Action::Ack),
            Phase::Open if self.reset_due => Some(Action::Reset),
            Phase::Open => self.open_action(now),
        }
    }

    fn open_action(&self, now: Instant) -> Option<Action> {
        // SACK blocks do not fit beside a full payload, so they travel alone. So does every ACK
        // while data repeats what another node has sent: the peer ignores the headers of such data.
        let is_old = self.sender.known() > self.sender.next() && self.receiver.ack_due(now);
        if self.waking.due || is_old || self.receiver.sack_due(now) {
            return Some(Action::Ack);
        }
        if let Some(piece) = self.sender.next_piece(now) {
            return Some(Action::Piece(piece));
        }
        let asks = self.waking.asks() && self.sender.known() > self.sender.next();
        if self.sender.persist_due() || self.patience.probe_due() || asks {
            return Some(Action::Probe);
        }
        self.receiver.ack_due(now).then_some(Action::Ack)
    }

    /// A segment with `sequence` and everything that all segments carry.
    pub(super) fn header(&self, now: Instant, sequence: TcpSeqNumber) -> TcpRepr<'static> {
        TcpRepr {
            src_port: self.tuple.local.port,
            dst_port: self.tuple.remote.port,
            seq_number: sequence,
            timestamp: self
                .options
                .timestamps
                .map(|timestamps| TcpTimestampRepr::new(timestamps.value(now), timestamps.recent)),
            ..blank()
        }
    }

    /// A segment that acknowledges and advertises what may be.
    fn acknowledging(&mut self, now: Instant, sequence: TcpSeqNumber) -> TcpRepr<'static> {
        let (ack, window_len) = self.receiver.on_sent();
        let ack_number = Some(self.inbound.sequence(ack));
        TcpRepr { ack_number, window_len, ..self.header(now, sequence) }
    }

    /// A pure ACK. Its sequence number is the highest that the peer can be expecting, since peers
    /// ignore the acknowledgement in a segment that is old (rule 16).
    pub(super) fn ack(&mut self, now: Instant) -> TcpRepr<'static> {
        let offset = match breaks(Canary::OldSequence) {
            true => self.sender.una(),
            false => self.highest_expected(),
        };
        self.waking.on_ack(now, offset);
        let mut segment = self.acknowledging(now, self.outbound.sequence(offset));
        let blocks = self.receiver.on_blocks_sent();
        segment.sack_ranges = blocks.map(|block| {
            block.map(|(start, end)| {
                let wire = |offset| self.inbound.sequence(offset).0 as u32;
                (wire(start), wire(end))
            })
        });
        self.after_transmit(now);
        segment
    }

    /// The highest offset that the peer can be expecting and that lies in its window: the right
    /// edge itself is acceptable to Linux, but not by RFC 9293 section 3.10.7.4.
    fn highest_expected(&self) -> u64 {
        let last = self.sender.window.right().saturating_sub(1);
        self.sender.known().min(last).max(self.sender.next())
    }

    /// An empty segment with an old sequence number, which the peer must answer.
    pub(super) fn probe(&mut self, now: Instant) -> TcpRepr<'static> {
        let before = self.outbound.sequence(self.sender.una()).0.wrapping_sub(1);
        if self.sender.persist_due() {
            self.sender.on_persist_sent(now);
        }
        self.patience.on_probe_sent();
        self.waking.on_asked();
        let segment = self.acknowledging(now, TcpSeqNumber(before));
        self.after_transmit(now);
        segment
    }

    pub(super) fn data(&mut self, now: Instant, piece: Piece) -> TcpRepr<'_> {
        let fin = self.sender.fin().is_some_and(|fin| piece.end > fin);
        let control = if fin {
            TcpControl::Fin
        } else if piece.end == self.sender.written() {
            TcpControl::Psh
        } else {
            TcpControl::None
        };
        self.sender.on_sent(now, &piece);
        let header = self.acknowledging(now, self.outbound.sequence(piece.start));
        if fin && !piece.again {
            let peer_fin = self.receiver.fin();
            self.active_close |= peer_fin.is_none_or(|fin| self.receiver.acked() <= fin);
        }
        self.after_transmit(now);
        TcpRepr { control, payload: self.sender.payload(&piece), ..header }
    }

    pub(super) fn reset(&mut self, now: Instant) -> TcpRepr<'static> {
        let offset = self.highest_expected();
        let ack = self.receiver.wire_ack();
        let mut segment = self.header(now, self.outbound.sequence(offset));
        segment.control = TcpControl::Rst;
        segment.ack_number = Some(self.inbound.sequence(ack));
        self.close(Cause::Aborted);
        segment
    }
}
