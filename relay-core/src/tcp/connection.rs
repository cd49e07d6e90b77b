//! The connection as the relay sees it.

use core::ops::Range;

use super::active_open::Opening;
use super::close::{Cause, Phase};
use super::config::Config;
use super::cookie::Accepted;
use super::established::{Mark, Patience, Receiver, ReceiverStart, Sender, SenderStart};
use super::ring::Memory;
use super::segment::{Action, Options};
use super::sequence::Numbering;
use super::standing::Standing;
use super::wake::Waking;
use crate::frame::{TcpRepr, Tuple};
use crate::reason::Reason;
use crate::time::{Duration, Instant};

/// One TCP connection, opened by either side.
#[derive(Debug)]
pub struct Connection {
    pub(super) tuple: Tuple,
    pub(super) phase: Phase,
    /// What the handshake agreed on.
    pub(super) options: Options,
    /// Numbering of what is sent.
    pub(super) outbound: Numbering,
    /// Numbering of what is received.
    pub(super) inbound: Numbering,
    pub(super) opening: Option<Opening>,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) patience: Patience,
    /// The time of the last call that told it.
    pub(super) clock: Instant,
    /// When the timestamp of the peer was last new.
    pub(super) timestamp_at: Instant,
    /// When the next challenge ACK may be sent.
    pub(super) challenge_at: Instant,
    pub(super) time_wait_until: Instant,
    pub(super) reset_due: bool,
    /// See [`wake`](Self::wake).
    pub(super) waking: Waking,
    /// Our FIN left before we acknowledged the peer's: TIME-WAIT follows.
    pub(super) active_close: bool,
    /// See [`Config::outlives_peer`].
    pub(super) outlives_peer: bool,
}

impl Connection {
    /// Opens a connection actively: the SYN comes out of [`poll_transmit`](Self::poll_transmit).
    /// Nothing follows the peer's SYN-ACK until [`release_handshake`](Self::release_handshake).
    ///
    /// `iss` is the initial sequence number (RFC 6528), `ts_offset` what is added to the clock in
    /// milliseconds to give timestamps.
    pub fn connect(
        config: &Config,
        tuple: Tuple,
        iss: u32,
        ts_offset: u32,
        now: Instant,
    ) -> Connection {
        let mut connection = Connection::new(config, tuple, Options::default(), (iss, 0), now);
        connection.opening = Some(Opening::new(*config, ts_offset));
        connection
    }

    /// Completes a passive open. The segment that `accepted` was taken from goes into
    /// [`handle_segment`](Self::handle_segment) next; it may carry data.
    pub fn accept(config: &Config, tuple: Tuple, accepted: &Accepted, now: Instant) -> Connection {
        let options = Options::from_accepted(config, &tuple, accepted);
        let numbers = (accepted.iss, accepted.irs);
        let mut connection = Connection::new(config, tuple, options, numbers, now);
        connection.establish(config, 0);
        connection.phase = Phase::Open;
        connection
    }

    /// A connection without buffers.
    pub(super) fn new(
        config: &Config,
        tuple: Tuple,
        options: Options,
        (iss, irs): (u32, u32),
        now: Instant,
    ) -> Connection {
        let (sender, receiver) = fresh_halves(config, &options, 0);
        Connection {
            tuple,
            phase: Phase::SynSent,
            options,
            outbound: Numbering { initial: iss },
            inbound: Numbering { initial: irs },
            opening: None,
            sender: Sender::new(now, &sender, 0),
            receiver: Receiver::new(&receiver, 0),
            patience: Patience::new(config.patience, now),
            outlives_peer: config.outlives_peer,
            clock: now,
            timestamp_at: now,
            challenge_at: now,
            time_wait_until: now,
            reset_due: false,
            waking: Waking::default(),
            active_close: false,
        }
    }

    /// Allocates the buffers, when the options are agreed on.
    pub(super) fn establish(&mut self, config: &Config, peer_window: u64) {
        let (sender, receiver) = fresh_halves(config, &self.options, peer_window);
        self.sender = Sender::new(self.clock, &sender, config.send_buffer);
        self.receiver = Receiver::new(&receiver, config.receive_buffer);
    }

    /// Where the connection stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What an operator wants to know of one that stands still.
    pub fn standing(&self) -> Standing {
        let (acked, next) = (self.receiver.acked(), self.receiver.next());
        Standing {
            received: self.received(),
            kept: self.received() - self.receiver.retained(),
            withheld: next.saturating_sub(acked),
            offered: self.receiver.right_edge().saturating_sub(acked),
            written: self.written(),
            unacked: self.written().saturating_sub(self.acked()),
            sendable: self.sender.limit().min(self.written()).saturating_sub(self.acked()),
            window: self.sender.peer_window(),
        }
    }

    /// The two ends.
    pub fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    /// Lets the ACK that completes an active open leave, and data after it. To be called when the
    /// choice of this backend is committed (rule 12).
    pub fn release_handshake(&mut self) {
        if self.phase == Phase::HandshakeHeld {
            self.phase = Phase::Open;
            self.receiver.ack_now();
        }
    }

    /// End of the contiguous bytes that have been received.
    pub fn received(&self) -> u64 {
        self.receiver.received()
    }

    /// The peer's FIN is in order: its stream ends at [`received`](Self::received).
    pub fn fin_received(&self) -> bool {
        self.receiver.fin_received()
    }

    /// Offset of the first byte that can still be read.
    pub fn retained(&self) -> u64 {
        self.receiver.retained()
    }

    /// Contiguous bytes from offset `from` on: at most `max`, and fewer at the end of what has been
    /// received or where the ring wraps.
    pub fn peek(&self, from: u64, max: usize) -> &[u8] {
        self.receiver.peek(from, max)
    }

    /// Copies bytes from offset `from` on into `out` and returns how many.
    pub fn copy_received(&self, from: u64, out: &mut [u8]) -> usize {
        self.receiver.copy(from, out)
    }

    /// Forgets the bytes below `to`, which opens the window. `to` is at most
    /// [`received`](Self::received).
    pub fn release(&mut self, to: u64) {
        self.receiver.release(to);
        if matches!(self.phase, Phase::TimeWait | Phase::Closed(_)) {
            self.receiver.free();
        }
    }

    /// Offers the peer no more than `bytes` beyond what was released. Within that, and within the
    /// buffer's size, the window grows as the reader keeps up. What was offered before stays offered (RFC 9293 section 3.8.6).
    pub fn set_receive_window(&mut self, bytes: usize) {
        self.receiver.set_window(bytes);
    }

    /// What was received is kept until it has left another connection, which could carry `bytes` in
    /// that time. The window is then no smaller than that, as far as the buffer goes.
    pub fn set_receive_demand(&mut self, bytes: u64) {
        self.receiver.demand(bytes);
    }

    /// The ranges that are held beyond [`received`](Self::received), ascending.
    pub fn out_of_order(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.receiver.out_of_order()
    }

    /// Appends the bytes of `range` to `out`; none unless the whole range is held out of order.
    pub fn copy_out_of_order(&self, range: Range<u64>, out: &mut Vec<u8>) {
        self.receiver.copy_out_of_order(range, out);
    }

    /// After [`restore`](Self::restore): bytes that the cluster has kept.
    pub fn insert_received(&mut self, offset: u64, bytes: &[u8]) {
        self.receiver.insert(offset, bytes);
    }

    /// After [`restore`](Self::restore): the peer's stream ends at `at`.
    pub fn insert_fin(&mut self, at: u64) {
        self.receiver.insert_fin(at);
    }

    /// Allows acknowledgements up to `offset`; a FIN counts as one more byte. The limit only
    /// grows, and at first nothing but the SYN is acknowledged.
    pub fn set_ack_limit(&mut self, offset: u64) {
        self.receiver.set_limit(self.clock, offset);
    }

    /// Says which ranges may be SACKed: those that the cluster holds, so that they are never
    /// forgotten (rule 14). What is in order but withheld may be among them; a range is left out
    /// when there is no hole below it.
    pub fn set_sackable(&mut self, ranges: &[Range<u64>]) {
        self.receiver.set_sackable(ranges);
    }

    /// Where the acknowledgement will stand when the limit is `limit`, on a leg in full swing; for
    /// [`wake`](Self::wake) at another node.
    pub fn mark(&self, limit: u64) -> Option<Mark> {
        self.receiver.mark_at(limit)
    }

    /// Allows bytes below `offset` to leave; our FIN counts as one more byte. The limit only grows,
    /// and is zero at first.
    pub fn set_send_limit(&mut self, offset: u64) {
        self.sender.set_limit(offset);
    }

    /// The highest offset that the peer has acknowledged, without the FIN. After a
    /// [`restore`](Self::restore) it may exceed [`written`](Self::written).
    pub fn acked(&self) -> u64 {
        let una = self.sender.una();
        self.sender.fin().map_or(una, |fin| una.min(fin))
    }

    /// The peer has acknowledged our FIN.
    pub fn fin_acked(&self) -> bool {
        self.sender.fin_acked()
    }

    /// End of the bytes that are queued.
    pub fn written(&self) -> u64 {
        self.sender.written()
    }

    /// Bytes that [`write`](Self::write) would take.
    pub fn send_space(&self) -> usize {
        self.sender.space()
    }

    /// What both buffers take.
    pub fn memory(&self) -> Memory {
        self.sender.memory().and(self.receiver.memory())
    }

    /// Bytes beyond [`written`](Self::written) that the peer's window and the congestion window
    /// could carry now.
    pub fn send_budget(&self) -> usize {
        self.sender.budget()
    }

    /// The smoothed round trip; zero before the first sample.
    pub fn round_trip(&self) -> Duration {
        self.sender.round_trip()
    }

    /// Whether enough is queued for the time being, so that the caller may collect bytes until
    /// [`send_budget`](Self::send_budget) allows more of them.
    pub fn is_supplied(&self) -> bool {
        self.sender.is_supplied()
    }

    /// Bytes that may be on their way to the peer at a time: its window, or the congestion window
    /// when that is smaller.
    pub fn send_capacity(&self) -> u64 {
        self.sender.capacity()
    }

    /// Queues bytes behind [`written`](Self::written) and returns how many. Those that the peer
    /// has acknowledged already are dropped, but count.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.sender.write(bytes)
    }

    /// Advances [`written`](Self::written) by `count` without bytes, not beyond
    /// [`acked`](Self::acked).
    pub fn skip(&mut self, count: u64) {
        self.sender.skip(count);
    }

    /// Ends our stream at [`written`](Self::written).
    pub fn finish(&mut self) {
        self.sender.finish();
    }

    /// Ends the connection with a reset (RFC 9293 section 3.10.5).
    pub fn abort(&mut self) {
        match self.phase {
            Phase::SynSent | Phase::TimeWait => self.close(Cause::Aborted),
            Phase::HandshakeHeld | Phase::Open => self.reset_due = true,
            Phase::Closed(_) => {}
        }
    }

    /// After [`restore`](Self::restore): lets the peer notice at once. A pure ACK leaves first,
    /// with a sequence number that is not old to the peer (rule 16), then everything buffered
    /// above [`acked`](Self::acked).
    ///
    /// With a `mark`, which is where the former node's acknowledgement stood, the ACK stays there
    /// and the segments above the next one are SACKed. The caller sees to it that they are
    /// settled, or kept.
    pub fn wake(&mut self, mark: Option<Mark>) {
        if self.phase == Phase::Open {
            self.receiver.wake(self.clock, mark);
            self.waking.begin(self.receiver.may_swing());
            self.sender.resend_all();
        }
    }

    /// Takes a segment of this connection. The reason for dropping it, or a part of it, is an
    /// error; the answer, where there is one, comes out of [`poll_transmit`](Self::poll_transmit).
    pub fn handle_segment(&mut self, now: Instant, segment: &TcpRepr) -> Result<(), Reason> {
        self.clock = self.clock.max(now);
        match self.phase {
            Phase::SynSent => self.handle_syn_sent(now, segment),
            Phase::HandshakeHeld => self.handle_held(segment),
            Phase::Open => self.handle_open(now, segment),
            Phase::TimeWait => self.handle_time_wait(now, segment),
            Phase::Closed(_) => Err(Reason::UnknownFlow),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        match self.phase {
            Phase::SynSent => self.handle_syn_timeout(now),
            Phase::Open => {
                self.receiver.on_timeout(now);
                self.waking.on_timeout(now);
                let goes_on = self.sender.on_timeout(now) && self.patience.on_timeout(now);
                self.escape_black_hole();
                if !goes_on {
                    self.close(Cause::TimedOut);
                }
            }
            Phase::TimeWait if self.time_wait_until <= now => self.close(Cause::Normal),
            Phase::HandshakeHeld | Phase::TimeWait | Phase::Closed(_) => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll_transmit`](Self::poll_transmit)
    /// must be called next, unless something happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::SynSent => self.opening.as_ref().and_then(Opening::poll_timeout),
            Phase::HandshakeHeld | Phase::Closed(_) => None,
            Phase::Open => {
                let Connection { sender, receiver, patience, waking, .. } = self;
                let others = [patience.poll_timeout(), waking.poll_timeout()];
                let timers = [sender.poll_timeout(), receiver.poll_timeout(), others[0], others[1]];
                timers.into_iter().flatten().min()
            }
            Phase::TimeWait => Some(self.time_wait_until),
        }
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) would return a segment.
    pub fn wants_transmit(&self, now: Instant) -> bool {
        self.action(now).is_some()
    }

    /// The next segment that leaves now.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant) -> Option<TcpRepr<'_>> {
        self.clock = self.clock.max(now);
        match self.action(now)? {
            Action::Syn => Some(self.syn(now)),
            Action::Reset => Some(self.reset(now)),
            Action::Ack => Some(self.ack(now)),
            Action::Probe => Some(self.probe(now)),
            Action::Piece(piece) => Some(self.data(now, piece)),
        }
    }
}

/// The halves of a connection on which nothing was sent yet.
fn fresh_halves(
    config: &Config,
    options: &Options,
    peer_window: u64,
) -> (SenderStart, ReceiverStart) {
    let sender = SenderStart {
        mss: options.payload,
        sack: options.sack,
        acked: 0,
        known: 0,
        window: peer_window,
        fin: None,
        congestion: config.congestion,
    };
    let receiver = ReceiverStart {
        retained: 0,
        wire_ack: 0,
        right_edge: u64::from(config.syn_window()),
        fin: None,
        scale: options.receive_scale(),
        sack: options.sack,
        wake: config.wake,
    };
    (sender, receiver)
}
