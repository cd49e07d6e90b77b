//! What another node needs to go on with a connection.

use super::close::Phase;
use super::config::{Config, WINDOW_SCALE_MAX};
use super::connection::Connection;
use super::established::{Receiver, ReceiverStart, Sender, SenderStart};
use super::segment::{Options, payload};
use super::sequence::is_before;
use crate::frame::Tuple;
use crate::time::Instant;

/// Timestamps of a connection (RFC 7323 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// The peer's, to be echoed: TS.Recent.
    pub recent: u32,
    /// Ours are the clock in milliseconds plus this, modulo 2^32.
    pub offset: u32,
}

impl Timestamps {
    /// Our timestamp at `now`.
    pub fn value(&self, now: Instant) -> u32 {
        // Truncation is the modulus of the timestamp space.
        (now.as_millis() as u32).wrapping_add(self.offset)
    }

    /// Moves our timestamps forward such that they are not below `floor`, one that the peer has
    /// seen: with an older one it would drop our segments (PAWS).
    pub fn raise(&mut self, now: Instant, floor: u32) {
        let value = self.value(now);
        if is_before(value, floor) {
            self.offset = self.offset.wrapping_add(floor.wrapping_sub(value));
        }
    }
}

/// A connection whose handshake is past the SYN-ACK, without its bytes. Offsets as everywhere;
/// those that say so count a FIN as one byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The two ends.
    pub tuple: Tuple,
    /// Our initial sequence number.
    pub iss: u32,
    /// The peer's initial sequence number.
    pub irs: u32,
    /// The peer's MSS, in bytes.
    pub peer_mss: u16,
    /// Shift of the peer's window field; `None` when windows are not scaled in either direction.
    pub send_wscale: Option<u8>,
    /// Shift of our window field, if windows are scaled.
    pub receive_wscale: u8,
    /// The peer understands SACK.
    pub sack: bool,
    /// Both sides use timestamps.
    pub timestamps: Option<Timestamps>,
    /// What the peer has acknowledged: SND.UNA; counts our FIN. It may be stale.
    pub acked: u64,
    /// The offset below which anything may have been sent; counts our FIN. It may be too high: an
    /// acknowledgement up to here is believed.
    pub sent_max: u64,
    /// Where our stream ends, when that is decided.
    pub fin_at: Option<u64>,
    /// The peer's window above `acked`, in bytes.
    pub peer_window: u32,
    /// Offset below which received bytes are not needed any more.
    pub retained: u64,
    /// The last acknowledgement that was sent; counts the peer's FIN. It may be stale.
    pub wire_ack: u64,
    /// The right edge of the window that was advertised. It may be stale.
    pub right_edge: u64,
    /// Where the peer's stream ends, when that is known.
    pub peer_fin_at: Option<u64>,
    /// The third segment of the handshake may have been sent. Always true after a passive open.
    pub established: bool,
}

/// Why a [`State`] cannot be that of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The ends are not of one address family.
    #[error("the ends are not of one address family")]
    Family,
    /// A window scale above 14.
    #[error("a window scale above 14")]
    WindowScale,
    /// Offsets contradict each other, or are out of all proportion.
    #[error("offsets contradict each other")]
    Offsets,
}

impl State {
    /// No stream is that long; the bound keeps all arithmetic on offsets in range.
    const OFFSET_MAX: u64 = 1 << 56;

    fn check(&self) -> Result<(), StateError> {
        if self.tuple.local.addr.version() != self.tuple.remote.addr.version() {
            return Err(StateError::Family);
        }
        if self.receive_wscale.max(self.send_wscale.unwrap_or(0)) > WINDOW_SCALE_MAX {
            return Err(StateError::WindowScale);
        }
        let highest = self.sent_max.max(self.wire_ack).max(self.right_edge).max(self.retained);
        let ours = self.fin_at.is_none_or(|fin| fin < Self::OFFSET_MAX && self.acked <= fin + 1);
        let theirs = self
            .peer_fin_at
            .is_none_or(|fin| self.wire_ack <= fin.saturating_add(1) && self.retained <= fin);
        let fits = highest.max(self.acked) < Self::OFFSET_MAX;
        if ours && theirs && fits { Ok(()) } else { Err(StateError::Offsets) }
    }
}

impl Connection {
    /// What another node needs. Before the SYN-ACK has come there is nothing that could be
    /// [restored](Self::restore).
    pub fn save(&self) -> State {
        State {
            tuple: self.tuple,
            iss: self.outbound.initial,
            irs: self.inbound.initial,
            peer_mss: self.options.peer_mss,
            send_wscale: self.options.send_wscale,
            receive_wscale: self.options.receive_wscale,
            sack: self.options.sack,
            timestamps: self.options.timestamps,
            acked: self.sender.una(),
            sent_max: self.sender.known(),
            fin_at: self.sender.fin(),
            peer_window: u32::try_from(self.sender.peer_window()).unwrap_or(u32::MAX),
            retained: self.receiver.retained(),
            wire_ack: self.receiver.acked(),
            right_edge: self.receiver.right_edge(),
            peer_fin_at: self.receiver.fin(),
            established: !matches!(self.phase, Phase::SynSent | Phase::HandshakeHeld),
        }
    }

    /// Goes on with a connection. Received bytes from `retained` on are then
    /// [inserted](Self::insert_received), those to send are [written](Self::write) again from
    /// `acked` on, and [`wake`](Self::wake) tells the peer.
    pub fn restore(config: &Config, state: &State, now: Instant) -> Result<Self, StateError> {
        state.check()?;
        let timestamps = state.timestamps;
        let options = Options {
            peer_mss: state.peer_mss,
            payload: payload(config, &state.tuple, state.peer_mss, timestamps.is_some()),
            send_wscale: state.send_wscale,
            receive_wscale: state.receive_wscale,
            sack: state.sack,
            timestamps,
        };
        let sender = SenderStart {
            mss: options.payload,
            sack: state.sack,
            acked: state.acked,
            known: state.sent_max,
            window: u64::from(state.peer_window),
            fin: state.fin_at,
            congestion: config.congestion,
        };
        let receiver = ReceiverStart {
            retained: state.retained,
            wire_ack: state.wire_ack,
            right_edge: state.right_edge,
            fin: state.peer_fin_at,
            scale: options.receive_scale(),
            sack: state.sack,
            wake: config.wake,
        };
        let numbers = (state.iss, state.irs);
        let mut connection = Connection::new(config, state.tuple, options, numbers, now);
        connection.sender = Sender::new(now, &sender, config.send_buffer);
        connection.receiver = Receiver::new(&receiver, config.receive_buffer);
        connection.phase = if state.established { Phase::Open } else { Phase::HandshakeHeld };
        // Who closed first is not part of the state; when in doubt, TIME-WAIT follows.
        connection.active_close = state.fin_at.is_some();
        connection.settle(now);
        Ok(connection)
    }
}
