//! The receiving half: what was taken in, and what the peer may be told of it.

use core::ops::Range;

use smoltcp::storage::Assembler;

use super::flow_control::ReceiveWindow;
use super::lag::{Lag, Mark, REQUEST_MAX, SWING};
use super::offer::Offer;
use crate::reason::Reason;
use crate::tcp::config::Wake;
use crate::tcp::ring::{Memory, Ring};
use crate::time::{Duration, Instant};

/// How long an ACK may wait for company: data that carries it, or a second segment. RFC 9293
/// section 3.8.6.3 allows 500 ms; the relay holds ACKs long enough elsewhere.
const ACK_DELAY: Duration = Duration::from_millis(2);
/// So many bytes at the start of a stream are acknowledged segment by segment: they are what the
/// peer's slow start grows from.
const QUICK: u64 = 16 * 1460;
/// Ranges that [`Receiver::set_sackable`] keeps: as many as the assembler can hold.
const SACKABLE_MAX: usize = 32;
/// A woken peer has this long to repeat the hole that it was shown; then everything is
/// acknowledged. Linux may wait for three ticks of 4 ms before it does (RFC 8985 section 6.2, step 5).
const WAKE_LIMIT: Duration = Duration::from_millis(25);

/// SACK blocks of one segment: as many as fit beside a timestamp.
pub(crate) type Blocks = [Option<(u64, u64)>; 3];

/// What the opening, or a snapshot, tells the receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Offset below which nothing is kept.
    pub retained: u64,
    /// The acknowledgement that was last sent; counts the FIN.
    pub wire_ack: u64,
    /// The right edge that was advertised.
    pub right_edge: u64,
    /// Where the peer's stream ends, when that is known.
    pub fin: Option<u64>,
    /// Shift of the window field.
    pub scale: u8,
    /// The peer understands SACK.
    pub sack: bool,
    pub wake: Wake,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) struct Receiver {
    ring: Ring,
    capacity: u64,
    offer: Offer,
    /// What lies beyond `received`; it begins at `received`.
    assembler: Assembler,
    retained: u64,
    received: u64,
    fin: Option<u64>,
    sack: bool,
    limit: u64,
    sackable: Vec<Range<u64>>,
    window: ReceiveWindow,
    /// The acknowledgement that was last sent; counts the FIN.
    acked: u64,
    /// The SACK blocks that were last sent.
    told: Blocks,
    /// Start of the segment out of order that came last: its block goes first (RFC 2018
    /// section 4).
    latest: u64,
    /// Bytes that came twice and were acknowledged before (RFC 2883).
    duplicate: Option<(u64, u64)>,
    /// The largest payload so far, in bytes.
    largest: u64,
    ack_now: bool,
    ack_at: Option<Instant>,
    lag: Lag,
    /// The peer is being woken: its acknowledgement stays at the mark until then.
    waking: Option<(Mark, Instant)>,
    /// Nothing has come in order since the peer was woken: what comes may be repeated.
    rouses: bool,
    wake_delay: Duration,
    /// No ACK leaves by itself before.
    not_before: Option<Instant>,
}

impl Receiver {
    /// `capacity` is the size of the receive buffer in bytes.
    pub fn new(start: &Start, capacity: usize) -> Self {
        Receiver {
            ring: Ring::new(capacity),
            capacity: capacity as u64,
            offer: Offer::new(capacity as u64, start.right_edge),
            assembler: Assembler::new(),
            retained: start.retained,
            received: start.retained,
            fin: start.fin,
            sack: start.sack,
            limit: start.wire_ack,
            sackable: Vec::new(),
            window: ReceiveWindow::new(start.right_edge, start.scale),
            acked: start.wire_ack,
            told: [None; 3],
            latest: 0,
            duplicate: None,
            largest: 1,
            ack_now: false,
            ack_at: None,
            lag: Lag::new(start.wake.lag && start.sack),
            waking: None,
            rouses: false,
            wake_delay: start.wake.delay,
            not_before: None,
        }
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn retained(&self) -> u64 {
        self.retained
    }

    pub fn fin(&self) -> Option<u64> {
        self.fin
    }

    pub fn fin_received(&self) -> bool {
        self.fin == Some(self.received)
    }

    /// RCV.NXT as this node knows it; counts the FIN.
    pub fn next(&self) -> u64 {
        self.received + u64::from(self.fin_received())
    }

    /// The acknowledgement that may be sent now; counts the FIN.
    pub fn wire_ack(&self) -> u64 {
        let kept = self.waking.map(|(mark, _)| mark.ack).or_else(|| self.lag.ack());
        self.next().min(self.limit).min(kept.unwrap_or(u64::MAX)).max(self.acked)
    }

    /// Where the acknowledgement will stand when the limit is `limit`.
    pub fn mark_at(&self, limit: u64) -> Option<Mark> {
        self.lag.mark_at(limit.min(self.received))
    }

    /// The peer may have lost what it sent. The ACK stays at `mark`, if there is one, and SACKs what
    /// lies above the hole, until the peer fills it.
    pub fn wake(&mut self, now: Instant, mark: Option<Mark>) {
        self.rouses = true;
        let end = self.received.min(self.limit);
        let mark = mark.filter(|mark| self.sack && mark.end <= end && self.acked <= mark.ack);
        self.waking = mark.map(|mark| (mark, now + WAKE_LIMIT));
    }

    /// So much has come that acknowledgements may have been kept back.
    pub fn may_swing(&self) -> bool {
        self.received >= SWING
    }

    /// The acknowledgement that was last sent; counts the FIN.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The right edge that was advertised.
    pub fn right_edge(&self) -> u64 {
        self.window.right()
    }

    /// First offset that is not acceptable.
    pub fn limit_of_window(&self) -> u64 {
        self.window.right().max(self.retained + self.capacity)
    }

    pub fn peek(&self, from: u64, max: usize) -> &[u8] {
        if from < self.retained || from >= self.received {
            return &[];
        }
        self.ring.slice(from, max.min((self.received - from) as usize))
    }

    pub fn copy(&self, from: u64, out: &mut [u8]) -> usize {
        if from < self.retained || from >= self.received {
            return 0;
        }
        let count = out.len().min((self.received - from) as usize);
        self.ring.copy(from, &mut out[..count]);
        count
    }

    pub fn out_of_order(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let base = self.received;
        self.assembler.iter_data().map(move |(start, end)| base + start as u64..base + end as u64)
    }

    pub fn copy_out_of_order(&self, range: Range<u64>, out: &mut Vec<u8>) {
        if !self.out_of_order().any(|held| held.start <= range.start && range.end <= held.end) {
            return;
        }
        let at = out.len();
        out.resize(at + range.end.saturating_sub(range.start) as usize, 0);
        self.ring.copy(range.start, &mut out[at..]);
    }

    /// Forgets the bytes below `to`; the window that this opens is advertised at once when the
    /// peer may be waiting for it.
    pub fn release(&mut self, to: u64) {
        debug_assert!(to <= self.received, "released what was not received");
        self.retained = self.retained.max(to.min(self.received));
        self.ring.release(self.retained);
        self.offer.on_release(self.received - self.retained);
        let offered = self.window.right().saturating_sub(self.wire_ack());
        let promise = self.window.promise(self.retained + self.offer.bytes());
        let gain = promise.saturating_sub(self.window.right());
        let starved = offered < self.largest && gain >= self.window_step();
        if self.fin.is_none() && (starved || gain >= self.offer.bytes() / 4) {
            self.ack_now = true;
        }
    }

    /// Gives the buffer back, when nobody has to read it any more. What lies beyond a hole is
    /// forgotten, since the hole will not be filled.
    pub fn free(&mut self) {
        if self.retained == self.received {
            self.ring.free();
            self.assembler.clear();
        }
    }

    /// What the buffer takes.
    pub fn memory(&self) -> Memory {
        let end = self.out_of_order().last().map_or(self.received, |held| held.end);
        self.ring.memory(end - self.retained)
    }

    pub fn set_window(&mut self, bytes: usize) {
        // A larger window is news to a peer that waits for it.
        self.ack_now |= self.offer.cap(bytes as u64) && self.fin.is_none();
    }

    /// The reader could carry on so many bytes while it keeps them.
    pub fn demand(&mut self, bytes: u64) {
        self.offer.demand(bytes);
    }

    pub fn set_limit(&mut self, now: Instant, offset: u64) {
        self.limit = self.limit.max(offset);
        self.lag.limit(now, self.limit.min(self.received));
        self.schedule_ack(now);
    }

    /// A round trip takes `rtt`, as far as is known.
    pub fn set_round_trip(&mut self, rtt: Duration) {
        self.lag.set_round_trip(rtt);
    }

    pub fn set_sackable(&mut self, ranges: &[Range<u64>]) {
        self.sackable.clear();
        self.sackable.extend(ranges.iter().take(SACKABLE_MAX).cloned());
        self.ack_now |= self.has_news();
    }

    /// Bytes that the cluster has kept: they are here as if they had been received.
    pub fn insert(&mut self, offset: u64, bytes: &[u8]) {
        // What a shadow holds fits and agrees, since the owner took it in by the same rules.
        let _ = self.store(offset as i64, bytes);
    }

    /// The peer's stream ends at `at`.
    pub fn insert_fin(&mut self, at: u64) {
        self.fin.get_or_insert(at);
    }

    /// Takes the payload that begins at `start`, and the FIN behind it.
    ///
    /// # Errors
    /// `WindowExceeded` when some of it did not fit, `OverlapInconsistent` when some of it differs
    /// from what came before, which stays.
    pub fn take(
        &mut self,
        now: Instant,
        start: i64,
        payload: &[u8],
        fin: bool,
    ) -> Result<(), Reason> {
        let end = start + payload.len() as i64;
        self.largest = self.largest.max(payload.len() as u64);
        let gap = !self.assembler.is_empty();
        let before = self.next();
        let (was, top) = (self.received, self.top());
        let again = self.is_here(start, end);
        self.note_duplicate(start, end, fin);
        let result = self.store(start, payload);
        let stored = result.is_ok();
        if fin && stored {
            self.take_fin(end);
        }
        if again && !fin {
            self.lag.on_repeat(u64::try_from(start).unwrap_or(0), self.received);
        } else {
            self.note_order(now, (start, end), (was, top));
        }
        self.lag.limit(now, self.limit.min(self.received));
        self.note_awake(now, start, end);
        let out_of_order = !payload.is_empty() && self.received < end as u64;
        self.rouses &= self.received == was;
        if out_of_order && self.rouses {
            // What a tail loss probe repeats, say: see `note_awake`.
            self.not_before.get_or_insert(now + self.wake_delay);
        }
        if self.sack && out_of_order {
            // Without a block the peer learns nothing: the ACK waits until there is one to tell.
            self.ack_now |= self.has_news();
        } else {
            let filled = gap && self.next() > before;
            self.ack_now |= out_of_order || filled || fin || !stored;
        }
        self.schedule_ack(now);
        result
    }

    /// Stores what is new and fits; the part on the right that does not is cut off.
    fn store(&mut self, start: i64, payload: &[u8]) -> Result<(), Reason> {
        let end = start + payload.len() as i64;
        let room = (self.retained + self.capacity).min(self.fin.unwrap_or(u64::MAX));
        let from = start.max(self.received as i64);
        let to = end.min(i64::try_from(room).unwrap_or(i64::MAX));
        let mut agrees = self.agrees(start, payload);
        if from < to {
            let bytes = &payload[(from - start) as usize..(to - start) as usize];
            let held: Vec<_> = self.out_of_order().collect();
            let at = (from as u64 - self.received) as usize;
            let Ok(grown) = self.assembler.add_then_remove_front(at, bytes.len()) else {
                return Err(Reason::WindowExceeded); // Too many holes; the peer sends it again.
            };
            agrees &= self.fill(from as u64, bytes, &held);
            self.received += grown as u64;
            self.offer.on_received(self.received, self.window.right());
            if grown == 0 {
                self.latest = from as u64;
            }
        }
        match to == end || end <= self.received as i64 {
            _ if !agrees => Err(Reason::OverlapInconsistent),
            true => Ok(()),
            false => Err(Reason::WindowExceeded),
        }
    }

    /// Writes `bytes` where nothing is `held` yet: the cluster may have what came first, and may
    /// have acknowledged it. False when that is something else.
    fn fill(&mut self, start: u64, bytes: &[u8], held: &[Range<u64>]) -> bool {
        let end = start + bytes.len() as u64;
        let part = |from: u64, to: u64| &bytes[(from - start) as usize..(to - start) as usize];
        let (mut at, mut agrees) = (start, true);
        for range in held.iter().filter(|range| start < range.end && range.start < end) {
            let (left, right) = (range.start.max(start), range.end.min(end));
            self.ring.write(at, part(at, left));
            agrees &= self.ring.holds(left, part(left, right));
            at = right;
        }
        self.ring.write(at, part(at, end));
        agrees
    }

    /// Whether what is repeated of the bytes in order is what came before.
    fn agrees(&self, start: i64, payload: &[u8]) -> bool {
        let from = start.max(self.retained as i64);
        let to = (start + payload.len() as i64).min(self.received as i64);
        from >= to
            || self
                .ring
                .holds(from as u64, &payload[(from - start) as usize..(to - start) as usize])
    }

    /// What a segment from `start` to `end` was for the order of the stream, which had been in order
    /// up to `was` and had ended at `top`.
    fn note_order(&mut self, now: Instant, (start, end): (i64, i64), (was, top): (u64, u64)) {
        let (received, highest) = (self.received, self.top());
        let in_order = self.assembler.is_empty();
        if self.fin.is_some() {
            self.lag.stop(received);
        } else if start == was as i64 && received == end as u64 && was == top {
            self.lag.on_segment(now, (was, received), self.acked);
        } else if highest > top && !in_order && start >= top as i64 {
            self.lag.on_early(now, (start as u64, highest), received);
        } else if highest > top {
            self.lag.stop(received);
        } else {
            self.lag.on_repair(now, received, in_order);
        }
    }

    /// Whether all of a segment has come before.
    fn is_here(&self, start: i64, end: i64) -> bool {
        let holds = |range: Range<u64>| range.start as i64 <= start && end <= range.end as i64;
        end <= self.received as i64 || self.out_of_order().any(holds)
    }

    /// End of everything that is here.
    fn top(&self) -> u64 {
        self.out_of_order().last().map_or(self.received, |range| range.end)
    }

    fn take_fin(&mut self, at: i64) {
        let Ok(at) = u64::try_from(at) else { return };
        // An end below what the peer has sent already is a lie.
        if at >= self.top() {
            self.fin.get_or_insert(at);
        }
    }

    fn note_duplicate(&mut self, start: i64, end: i64, fin: bool) {
        self.note_old(start, end);
        // The peer does not know that this has arrived, or our ACK was lost.
        self.ack_now |= start < self.received as i64 || (fin && self.fin_received());
    }

    /// Notes a segment of which nothing is new.
    pub fn note_old(&mut self, start: i64, end: i64) {
        let old = end.min(self.acked as i64);
        if start >= 0 && start < old {
            self.duplicate = Some((start as u64, old as u64));
        }
    }

    /// The next poll sends an ACK.
    pub fn ack_now(&mut self) {
        self.ack_now = true;
    }

    /// Whether an ACK must leave without company.
    pub fn ack_due(&self, now: Instant) -> bool {
        let waits = self.not_before.is_some_and(|at| now < at);
        !waits && (self.ack_now || self.ack_at.is_some_and(|at| at <= now))
    }

    /// Whether an ACK must leave that has blocks to tell, which no data segment has room for.
    pub fn sack_due(&self, now: Instant) -> bool {
        self.ack_now
            && self.ack_due(now)
            && self.sack
            && (self.duplicate.is_some() || self.blocks()[0].is_some())
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let waking = self.waking.map(|(_, until)| until);
        let ack_at = match self.not_before {
            Some(at) if self.ack_now => Some(at),
            Some(at) => self.ack_at.map(|ack_at| ack_at.max(at)),
            None => self.ack_at,
        };
        [ack_at, waking, self.lag.poll_timeout()].into_iter().flatten().min()
    }

    /// Acknowledges what was kept back for too long.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.lag.on_timeout(now) {
            self.ack_now |= self.wire_ack() > self.acked || self.has_news();
        }
        if self.waking.is_some_and(|(_, until)| until <= now) {
            self.waking = None;
            self.ack_now = true;
        }
    }

    /// The peer fills the hole that it was shown. An answer that comes sooner than any before
    /// would not count (RFC 8985 section 6.2, step 2).
    fn note_awake(&mut self, now: Instant, start: i64, end: i64) {
        let Some((mark, _)) = self.waking else { return };
        if (start..end).contains(&(mark.ack as i64)) {
            self.waking = None;
            self.ack_now = true;
            self.not_before = Some(now + self.wake_delay);
        }
    }

    /// Takes the fields of a segment that leaves now: the acknowledgement and the window field.
    pub fn on_sent(&mut self) -> (u64, u16) {
        let ack = self.wire_ack();
        let room = self.retained + self.offer.bytes();
        let window = self.window.advertise(ack, room, self.window_step());
        self.acked = ack;
        self.ack_now = false;
        self.ack_at = None;
        self.not_before = None;
        (ack, window)
    }

    /// Takes the SACK blocks of an ACK that leaves now.
    pub fn on_blocks_sent(&mut self) -> Blocks {
        let blocks = self.blocks();
        self.told = blocks;
        self.lag.on_told(blocks.iter().flatten().map(|(_, end)| *end).max().unwrap_or(0));
        match self.duplicate.take() {
            Some(duplicate) if self.sack => [Some(duplicate), blocks[0], blocks[1]],
            _ => blocks,
        }
    }

    fn schedule_ack(&mut self, now: Instant) {
        let news = self.wire_ack() - self.acked;
        let is_quick = self.received <= QUICK && news >= REQUEST_MAX;
        if news >= 2 * self.largest || is_quick || (news > 0 && self.fin_received()) {
            self.ack_now = true;
        } else if news > 0 && self.ack_at.is_none() {
            self.ack_at = Some(now + ACK_DELAY);
        }
    }

    fn has_news(&self) -> bool {
        let blocks = self.blocks();
        blocks[0].is_some() && blocks != self.told
    }

    fn window_step(&self) -> u64 {
        self.largest.min(self.capacity / 2).max(1)
    }

    /// What may be SACKed: held, replicated, and with a hole below it. Bytes whose ACK is withheld
    /// count as held, so that the relay can leave a hole at the wire ACK on purpose.
    fn blocks(&self) -> Blocks {
        let mut blocks = [None; 3];
        if let Some((mark, _)) = self.waking {
            blocks[0] = Some((mark.hole_end, mark.end));
        }
        if !self.sack || self.sackable.is_empty() {
            return blocks;
        }
        let ack = self.wire_ack();
        let ceiling = self.lag.ceiling().unwrap_or(u64::MAX);
        let mut newest = None;
        let held = core::iter::once(self.retained..self.received).chain(self.out_of_order());
        for held in held {
            for kept in &self.sackable {
                let start = held.start.max(kept.start);
                let end = held.end.min(kept.end).min(ceiling);
                if start >= end || start <= ack {
                    continue;
                }
                if (start..end).contains(&self.latest) {
                    newest = Some((start, end));
                } else {
                    blocks = [Some((start, end)), blocks[0], blocks[1]];
                }
            }
        }
        if newest.is_some() {
            blocks = [newest, blocks[0], blocks[1]];
        }
        blocks
    }
}
