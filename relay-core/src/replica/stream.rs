//! The ordered stream of messages from an owner to one backup, over datagrams that may be lost.
//!
//! The acknowledgement is what the receiver has *applied*, so it is at once the transport's and
//! the protocol's (rule 8): a message that a backup refuses is never acknowledged.

use std::collections::{BTreeMap, VecDeque};

use relay_abi::peer::{MESSAGE_MAX, Message};

use crate::time::{Duration, Instant};

/// Unacknowledged bytes that wait for a peer at most, over the streams of all units; a peer that needs
/// more is too slow and leaves the view (rule 20).
pub const OUTBOX_MAX: usize = 64 * 1024 * 1024;

/// The least that a unit's part of it may be: what the largest flow needs at once, and as much again.
const OUTBOX_LEAST: usize = 16 * 1024 * 1024;

/// Bytes in flight toward a peer at most, over the streams of all units: less than the receive ring of
/// a cluster port holds. Each unit has one owner, so what all relays send to one of them is no more.
const FLIGHT_MAX: u64 = 1024 * 1024;

/// Bytes that arrived ahead of a gap and wait for it at most.
const REORDER_MAX: usize = 2 * 1024 * 1024;

/// Datagrams that wait for a gap at most.
const REORDER_CHUNKS_MAX: usize = 2048;

/// First retransmission of a lost datagram; doubled up to [`RETRY_MAX`] without progress.
const RETRY_MIN: Duration = Duration::from_millis(5);

/// Longest wait before the next retransmission.
const RETRY_MAX: Duration = Duration::from_millis(40);

const LENGTH: usize = 4;

/// The sending side.
pub struct Outbox {
    /// Bytes in flight at most.
    flight_max: u64,
    /// Bytes that wait at most.
    backlog_max: usize,
    /// Bytes in `acked..end`.
    buffer: VecDeque<u8>,
    acked: u64,
    sent: u64,
    retry_at: Option<Instant>,
    retry_after: Duration,
    scratch: Vec<u8>,
    probe: Option<(u64, Instant)>,
    rtt: Option<Duration>,
    /// Since when the peer has applied nothing of what it was sent.
    stalled_since: Option<Instant>,
}

impl Outbox {
    /// The stream of one of `units` units.
    pub fn new(units: u8) -> Self {
        Outbox {
            flight_max: FLIGHT_MAX / u64::from(units.max(1)),
            backlog_max: (OUTBOX_MAX / usize::from(units.max(1))).max(OUTBOX_LEAST),
            buffer: VecDeque::new(),
            acked: 0,
            sent: 0,
            retry_at: None,
            retry_after: Duration::ZERO,
            scratch: Vec::new(),
            probe: None,
            rtt: None,
            stalled_since: None,
        }
    }

    /// Queues a message and returns the position behind it.
    pub fn push(&mut self, message: &Message<'_>) -> u64 {
        self.scratch.clear();
        message.encode(&mut self.scratch);
        debug_assert!(self.scratch.len() <= MESSAGE_MAX);
        self.buffer.extend((self.scratch.len() as u32).to_be_bytes());
        self.buffer.extend(&self.scratch);
        self.end()
    }

    /// Position behind the last message.
    pub fn end(&self) -> u64 {
        self.acked + self.buffer.len() as u64
    }

    /// Everything below was applied by the peer.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Bytes that the peer has not applied.
    pub fn backlog(&self) -> usize {
        self.buffer.len()
    }

    /// Since when the peer has applied nothing although it was sent something (rule 19).
    pub fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// The time in which we did nothing is not the peer's fault.
    pub fn discount_pause(&mut self, pause: Duration) {
        self.stalled_since = self.stalled_since.map(|since| since + pause);
    }

    /// The last measured time from a datagram to its acknowledgement.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The peer applied everything below `position`, and is missing bytes if `gap`.
    pub fn handle_ack(&mut self, now: Instant, position: u64, gap: bool) {
        if position > self.end() {
            return; // authenticated, so a peer's bug: never let it open the gate
        }
        if position > self.acked {
            self.buffer.drain(..(position - self.acked) as usize);
            self.acked = position;
            self.stalled_since = (position < self.end()).then_some(now);
            self.sent = self.sent.max(position);
            self.retry_after = RETRY_MIN;
            self.retry_at = (self.sent > self.acked).then(|| now + RETRY_MIN);
        } else if gap && self.retry_after <= RETRY_MIN {
            // Once per loss: the next retransmission waits for the timer.
            self.sent = self.acked;
            self.retry_after = RETRY_MIN * 2;
        }
        if let Some((end, at)) = self.probe.take_if(|(end, _)| *end <= position) {
            let _ = end;
            self.rtt = Some(now - at);
        }
    }

    /// Goes back to the last acknowledgement when the retransmission timer has run out.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.sent = self.acked;
            self.retry_after = (self.retry_after.max(RETRY_MIN) * 2).min(RETRY_MAX);
            self.retry_at = None;
            self.probe = None;
        }
    }

    /// Takes back the chunk that was polled last: it could not be sent.
    pub fn rewind(&mut self) {
        self.sent = self.acked;
    }

    /// When [`Outbox::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether more waits than a peer may need.
    pub fn is_over(&self) -> bool {
        self.backlog() > self.backlog_max
    }

    /// Whether a chunk waits to be sent.
    pub fn wants_transmit(&self) -> bool {
        self.sent < self.end() && self.sent - self.acked < self.flight_max
    }

    /// Appends the next chunk of at most `room` bytes to `out` and returns its position.
    pub fn poll_chunk(&mut self, now: Instant, room: usize, out: &mut Vec<u8>) -> Option<u64> {
        if !self.wants_transmit() || room == 0 {
            return None;
        }
        let from = (self.sent - self.acked) as usize;
        let to = self.buffer.len().min(from + room);
        let (front, back) = self.buffer.as_slices();
        let split = front.len();
        out.extend_from_slice(&front[from.min(split)..to.min(split)]);
        out.extend_from_slice(&back[from.max(split) - split..to.max(split) - split]);
        let position = self.sent;
        self.sent += (to - from) as u64;
        self.stalled_since.get_or_insert(now);
        self.probe.get_or_insert((self.sent, now));
        self.retry_at.get_or_insert(now + self.retry_after.max(RETRY_MIN));
        Some(position)
    }
}

/// The receiving side.
#[derive(Default)]
pub struct Inbox {
    /// Contiguous bytes from `applied` on start at `cursor`.
    buffer: Vec<u8>,
    cursor: usize,
    applied: u64,
    early: BTreeMap<u64, Vec<u8>>,
    early_bytes: usize,
}

impl Inbox {
    /// Everything below was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Whether bytes are missing that were sent before others that arrived.
    pub fn has_gap(&self) -> bool {
        !self.early.is_empty()
    }

    /// Takes in a chunk. What does not fit is dropped and comes again.
    pub fn handle_chunk(&mut self, position: u64, bytes: &[u8]) {
        let next = self.next();
        let Some(end) = position.checked_add(bytes.len() as u64) else { return };
        if end <= next {
            return;
        }
        if position > next {
            let fits = self.early_bytes + bytes.len() <= REORDER_MAX
                && self.early.len() < REORDER_CHUNKS_MAX;
            if fits && !self.early.contains_key(&position) {
                self.early_bytes += bytes.len();
                self.early.insert(position, bytes.to_vec());
            }
            return;
        }
        self.buffer.extend_from_slice(&bytes[(next - position) as usize..]);
        while let Some(entry) = self.early.first_entry() {
            let next = self.applied + (self.buffer.len() - self.cursor) as u64;
            if *entry.key() > next {
                break;
            }
            let (position, chunk) = entry.remove_entry();
            self.early_bytes -= chunk.len();
            let known = ((next - position) as usize).min(chunk.len());
            self.buffer.extend_from_slice(&chunk[known..]);
        }
    }

    /// The next whole message. It stays the next one until [`Inbox::mark_applied`].
    pub fn next_message(&self) -> Option<&[u8]> {
        let pending = &self.buffer[self.cursor..];
        let (length, rest) = pending.split_first_chunk::<LENGTH>()?;
        rest.get(..u32::from_be_bytes(*length) as usize)
    }

    /// Whether the peer claims a message that is longer than any message may be.
    pub fn is_broken(&self) -> bool {
        let length = self.buffer[self.cursor..].first_chunk::<LENGTH>();
        length.is_some_and(|length| u32::from_be_bytes(*length) as usize > MESSAGE_MAX)
    }

    /// The message given by [`Inbox::next_message`] was applied.
    pub fn mark_applied(&mut self) {
        let Some(message) = self.next_message() else { return };
        let length = LENGTH + message.len();
        self.cursor += length;
        self.applied += length as u64;
        if self.cursor == self.buffer.len() {
            self.buffer.clear();
            self.cursor = 0;
        } else if self.cursor > MESSAGE_MAX {
            self.buffer.drain(..self.cursor);
            self.cursor = 0;
        }
    }

    fn next(&self) -> u64 {
        self.applied + (self.buffer.len() - self.cursor) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_abi::peer::Direction;

    fn data(offset: u64, bytes: &[u8]) -> Message<'_> {
        Message::Data { flow: 1, direction: Direction::Up, offset, fin: false, bytes }
    }

    #[test]
    fn units_share_what_may_be_in_flight() {
        for units in [1, 16] {
            let mut out = Outbox::new(units);
            for _ in 0..100 {
                out.push(&data(0, &[0; 16_000]));
            }
            let mut chunk = Vec::new();
            while out.poll_chunk(Instant::ZERO, 1_000, &mut chunk).is_some() {}
            let limit = FLIGHT_MAX / u64::from(units);
            assert!((limit..limit + 1_000).contains(&(chunk.len() as u64)), "{}", chunk.len());
        }
    }

    #[test]
    fn units_share_what_may_wait() {
        let bytes = [0; 64 << 10];
        for (units, limit) in [(1, OUTBOX_MAX), (2, OUTBOX_MAX / 2), (64, OUTBOX_LEAST)] {
            let mut out = Outbox::new(units);
            while out.backlog() + (128 << 10) < limit {
                out.push(&data(0, &bytes));
                assert!(!out.is_over(), "{units} units: {}", out.backlog());
            }
            for _ in 0..3 {
                out.push(&data(0, &bytes));
            }
            assert!(out.is_over(), "{units} units: {}", out.backlog());
        }
    }

    /// Sends 200 messages through a link that loses, doubles and reorders by a fixed pattern.
    #[test]
    fn messages_arrive_once_and_in_order() {
        let (mut out, mut inbox) = (Outbox::new(1), Inbox::default());
        let bytes = [3; 700];
        for i in 0..200 {
            out.push(&data(i, &bytes[..(i as usize * 37) % 700]));
        }
        let (mut now, mut got, mut turn) = (Instant::ZERO, 0, 0u64);
        let mut late: Option<(u64, Vec<u8>)> = None;
        while got < 200 {
            now += Duration::from_millis(1);
            out.handle_timeout(now);
            let mut chunk = Vec::new();
            while let Some(position) = out.poll_chunk(now, 300, &mut chunk) {
                turn += 1;
                match ((turn * 2654435761) >> 7) & 7 {
                    0 => {}
                    1 => late = Some((position, chunk.clone())),
                    2 => {
                        inbox.handle_chunk(position, &chunk);
                        inbox.handle_chunk(position, &chunk);
                    }
                    _ => inbox.handle_chunk(position, &chunk),
                }
                if turn % 5 == 0
                    && let Some((position, chunk)) = late.take()
                {
                    inbox.handle_chunk(position, &chunk);
                }
                chunk.clear();
            }
            while let Some(message) = inbox.next_message() {
                match Message::decode(message) {
                    Ok(Message::Data { offset, .. }) => assert_eq!(offset, got),
                    other => panic!("{other:?}"),
                }
                got += 1;
                inbox.mark_applied();
            }
            out.handle_ack(now, inbox.applied(), inbox.has_gap());
            assert!(now < Instant::from_millis(60_000), "stalled at {got}");
        }
        assert_eq!((out.backlog(), out.acked()), (0, inbox.applied()));
    }

    #[test]
    fn an_acknowledgement_of_the_future_is_ignored() {
        let mut out = Outbox::new(1);
        let end = out.push(&data(0, b"x"));
        out.handle_ack(Instant::ZERO, end + 1, false);
        assert_eq!(out.acked(), 0);
    }
}
