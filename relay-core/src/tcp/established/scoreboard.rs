//! What was sent and not yet acknowledged: the SACK scoreboard (RFC 2018, RFC 6675), searched for
//! losses as RACK tells (RFC 8985 section 6.2).

use std::collections::VecDeque;

use super::rack::Rack;
use super::rate::{Rate, Stamp};
use crate::time::{Duration, Instant};

/// Segments that may be outstanding. With full segments the send buffer is the tighter limit;
/// this one bounds the memory that many small segments take.
const OUTSTANDING_MAX: usize = 12_288;

/// Segments whose memory is kept while nothing is outstanding.
const IDLE_MAX: usize = 64;

/// SACK blocks of one segment: as many as are sent beside a timestamp.
pub(super) type Blocks = [Option<(u64, u64)>; 3];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Sent, and not known to be lost or delivered.
    Flight,
    /// Must be sent again.
    Lost,
    /// The peer holds it, although it may still forget it (RFC 2018 section 8).
    Sacked,
}

/// One segment as it was sent; it is sent again with the same boundaries. A FIN is the byte
/// behind the last one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    start: u64,
    pub end: u64,
    pub sent_at: Instant,
    fate: Fate,
    /// It was sent more than once, so an acknowledgement does not tell which copy arrived.
    pub ambiguous: bool,
    /// This node sent it more than once.
    resent: bool,
    pub stamp: Stamp,
}

impl Sent {
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    fn is_flying_again(&self) -> bool {
        self.resent && self.fate == Fate::Flight
    }
}

/// What an acknowledgement delivered.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Bytes that were not known to be delivered before.
    pub bytes: u64,
    /// When the oldest segment that was sent just once was sent.
    pub oldest: Option<Instant>,
    /// When the newest of those was sent.
    pub newest: Option<Instant>,
    /// The lowest end of a segment that this node did not send again.
    pub original: Option<u64>,
}

impl Delivered {
    fn add(&mut self, sent: &Sent) {
        self.bytes += sent.len();
        if !sent.ambiguous {
            self.oldest = Some(self.oldest.map_or(sent.sent_at, |at| at.min(sent.sent_at)));
            self.newest = self.newest.max(Some(sent.sent_at));
        }
        if !sent.resent {
            self.original = Some(self.original.map_or(sent.end, |end| end.min(sent.end)));
        }
    }
}

/// The result of a search for losses.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Bytes that were found lost.
    pub bytes: u64,
    /// When to search again: the reordering window of some segment ends.
    pub again_at: Option<Instant>,
}

/// All outstanding segments, in the order of their offsets.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    sent: VecDeque<Sent>,
    in_flight: u64,
    lost: u64,
    /// No lost segment begins below it.
    lost_from: u64,
    sacked: usize,
    /// The blocks that were told last: only what is beyond them is new.
    told: Blocks,
    /// No segment below is in flight for the first time.
    first_from: u64,
    /// Segments that were sent again and are in flight.
    flying_again: usize,
    /// Segments that were sent again, by time and end; those that are not in flight any more are
    /// still among them.
    again: VecDeque<(Instant, u64)>,
    pub rack: Rack,
    pub rate: Rate,
}

impl Scoreboard {
    /// Nothing is outstanding.
    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Exactly one segment is outstanding.
    pub fn is_single(&self) -> bool {
        self.sent.len() == 1
    }

    /// No further segment can be recorded.
    pub fn is_full(&self) -> bool {
        self.sent.len() >= OUTSTANDING_MAX
    }

    /// Bytes in the network, as far as is known: pipe of RFC 6675.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes that wait for their retransmission.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Segments that the peer holds beyond a hole.
    pub fn sacked(&self) -> usize {
        self.sacked
    }

    /// Segments that were sent again and are in flight.
    pub fn flying_again(&self) -> usize {
        self.flying_again
    }

    /// The first segment that must be sent again.
    pub fn next_lost(&self) -> Option<(u64, u64)> {
        if self.lost == 0 {
            return None;
        }
        let at = self.sent.partition_point(|sent| sent.start < self.lost_from);
        let lost = self.sent.range(at..).find(|sent| sent.fate == Fate::Lost)?;
        Some((lost.start, lost.end))
    }

    /// The outstanding segment with the lowest offset.
    pub fn first(&self) -> Option<(u64, u64)> {
        self.sent.front().map(|sent| (sent.start, sent.end))
    }

    /// The outstanding segment with the highest offset.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.sent.back().map(|sent| (sent.start, sent.end))
    }

    /// Records a segment that is sent for the first time; `ambiguous` if another node may have
    /// sent these bytes before.
    pub fn push(&mut self, now: Instant, (start, end): (u64, u64), ambiguous: bool) {
        let stamp = self.rate.stamp(now, self.in_flight, end - start);
        let (fate, resent) = (Fate::Flight, false);
        self.sent.push_back(Sent { start, end, sent_at: now, fate, ambiguous, resent, stamp });
        self.in_flight += end - start;
    }

    /// Records that the outstanding segment at `start` is sent again.
    pub fn resend(&mut self, now: Instant, start: u64) {
        let at = self.sent.partition_point(|sent| sent.start < start);
        let Some(sent) = self.sent.get_mut(at) else { return };
        sent.stamp = self.rate.stamp(now, self.in_flight, sent.len());
        if sent.fate == Fate::Sacked {
            return; // A probe that the peer need not answer otherwise.
        }
        self.flying_again += usize::from(!sent.is_flying_again());
        if sent.fate == Fate::Lost {
            self.lost -= sent.len();
            self.in_flight += sent.len();
            self.lost_from = sent.end;
            sent.fate = Fate::Flight;
        }
        sent.sent_at = now;
        sent.ambiguous = true;
        sent.resent = true;
        let end = sent.end;
        if self.again.len() > 2 * self.sent.len() {
            self.rebuild_again();
        } else {
            self.again.push_back((now, end));
        }
    }

    /// The peer has everything below `una`.
    pub fn acknowledge(&mut self, now: Instant, una: u64, out: &mut Delivered) {
        while let Some(front) = self.sent.front_mut() {
            if front.end > una {
                let part = una.saturating_sub(front.start);
                front.start += part;
                match front.fate {
                    Fate::Flight => self.in_flight -= part,
                    Fate::Lost => self.lost -= part,
                    Fate::Sacked => {}
                }
                out.bytes += part;
                break;
            }
            let Some(sent) = self.sent.pop_front() else { break };
            self.flying_again -= usize::from(sent.is_flying_again());
            match sent.fate {
                Fate::Sacked => {
                    self.sacked -= 1;
                    continue;
                }
                Fate::Flight => self.in_flight -= sent.len(),
                Fate::Lost => self.lost -= sent.len(),
            }
            out.add(&sent);
            self.rack.deliver(now, &sent);
            self.rate.deliver(now, &sent);
        }
        if self.sent.is_empty() && self.sent.capacity() > IDLE_MAX {
            (self.sent, self.again) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// The peer holds these blocks. Segments that are covered in part stay as they are.
    pub fn sack(&mut self, now: Instant, blocks: &Blocks, out: &mut Delivered) {
        let told = self.told;
        let told = || told.iter().flatten().copied();
        for &(start, end) in blocks.iter().flatten() {
            let mut from = start;
            while from < end {
                if let Some((_, to)) = told().find(|(left, right)| (*left..*right).contains(&from))
                {
                    from = to;
                    continue;
                }
                let next = told().map(|(left, _)| left).filter(|left| *left > from).min();
                let to = next.map_or(end, |next| next.min(end));
                self.sack_range(now, (start, end), (from, to), out);
                from = to;
            }
        }
        if blocks.iter().any(Option::is_some) {
            self.told = *blocks;
        }
    }

    /// Takes what lies in `block` as delivered, in so far as some of it is in `fresh`.
    fn sack_range(
        &mut self,
        now: Instant,
        block: (u64, u64),
        fresh: (u64, u64),
        out: &mut Delivered,
    ) {
        let at = self.sent.partition_point(|sent| sent.end <= fresh.0);
        for sent in self.sent.range_mut(at..) {
            if sent.start >= fresh.1 || sent.end > block.1 {
                break;
            }
            if sent.start < block.0 {
                continue;
            }
            self.flying_again -= usize::from(sent.is_flying_again());
            match sent.fate {
                Fate::Sacked => continue,
                Fate::Flight => self.in_flight -= sent.len(),
                Fate::Lost => self.lost -= sent.len(),
            }
            sent.fate = Fate::Sacked;
            self.sacked += 1;
            out.add(sent);
            self.rack.deliver(now, sent);
            self.rate.deliver(now, sent);
        }
    }

    /// Marks as lost what was sent long enough before something that was delivered (RFC 8985
    /// section 6.2, step 5). `window` is how much later than its successors a segment may arrive.
    pub fn detect(&mut self, now: Instant, window: Duration) -> Losses {
        let mut losses = Losses::default();
        let Some((newest, rtt)) = self.rack.newest() else { return losses };
        let limit = |sent: &Sent| {
            ((sent.sent_at, sent.end) < newest).then_some(sent.sent_at + rtt + window)
        };
        self.detect_first(now, &limit, &mut losses);
        self.detect_again(now, &limit, &mut losses);
        self.rate.lost += losses.bytes;
        losses
    }

    /// Among what was sent once, in the order of time since it is in that of offsets.
    fn detect_first(
        &mut self,
        now: Instant,
        limit: &impl Fn(&Sent) -> Option<Instant>,
        losses: &mut Losses,
    ) {
        let at = self.sent.partition_point(|sent| sent.end <= self.first_from);
        for sent in self.sent.range_mut(at..) {
            if sent.fate == Fate::Flight && !sent.resent {
                let Some(until) = limit(sent) else { break };
                if until > now {
                    losses.again_at = Some(until);
                    break;
                }
                sent.fate = Fate::Lost;
                self.in_flight -= sent.len();
                self.lost += sent.len();
                self.lost_from = self.lost_from.min(sent.start);
                losses.bytes += sent.len();
            }
            self.first_from = sent.end;
        }
    }

    /// Among what was sent again, in the order of time.
    fn detect_again(
        &mut self,
        now: Instant,
        limit: &impl Fn(&Sent) -> Option<Instant>,
        losses: &mut Losses,
    ) {
        while let Some(&(sent_at, end)) = self.again.front() {
            let at = self.sent.partition_point(|sent| sent.end < end);
            let sent = self.sent.get_mut(at);
            let is_it = |sent: &&mut Sent| (sent.end, sent.sent_at) == (end, sent_at);
            if let Some(sent) = sent.filter(is_it).filter(|sent| sent.is_flying_again()) {
                let Some(until) = limit(sent) else { break };
                if until > now {
                    losses.again_at = Some(losses.again_at.map_or(until, |at| at.min(until)));
                    break;
                }
                self.flying_again -= 1;
                sent.fate = Fate::Lost;
                self.in_flight -= sent.len();
                self.lost += sent.len();
                self.lost_from = self.lost_from.min(sent.start);
                losses.bytes += sent.len();
            }
            self.again.pop_front();
        }
    }

    /// The first segment is lost: three duplicate ACKs, or a partial one (RFC 6582), from a peer
    /// without SACK.
    pub fn lose_first(&mut self) -> u64 {
        let Some(front) = self.sent.front_mut().filter(|front| front.fate == Fate::Flight) else {
            return 0;
        };
        self.flying_again -= usize::from(front.is_flying_again());
        front.fate = Fate::Lost;
        self.in_flight -= front.len();
        self.lost += front.len();
        self.lost_from = self.lost_from.min(front.start);
        self.rate.lost += front.len();
        front.len()
    }

    /// The retransmission timer expired: the first segment is lost, and what was not sent after
    /// `since` (RFC 8985 section 6.3), unless it is SACKed. When the peer has SACKed the first
    /// segment and yet not acknowledged it, it has forgotten what it had, and nothing of what it
    /// said counts (RFC 2018 section 8).
    pub fn lose_until(&mut self, since: Instant) {
        let reneged = self.sent.front().is_some_and(|front| front.fate == Fate::Sacked);
        for (i, sent) in self.sent.iter_mut().enumerate() {
            if sent.fate == Fate::Lost || (sent.fate == Fate::Sacked && !reneged) {
                continue;
            }
            if i > 0 && sent.sent_at > since && sent.fate == Fate::Flight {
                continue;
            }
            self.flying_again -= usize::from(sent.is_flying_again());
            match sent.fate {
                Fate::Sacked => self.sacked -= 1,
                _ => self.in_flight -= sent.len(),
            }
            sent.fate = Fate::Lost;
            self.lost += sent.len();
        }
        self.lost_from = 0;
        if reneged {
            self.told = [None; 3];
        }
    }

    /// Segments of more than `mss` bytes do not get through: they are cut, and sent again.
    pub fn refit(&mut self, mss: u64) {
        for sent in core::mem::take(&mut self.sent) {
            if sent.len() <= mss || sent.fate == Fate::Sacked {
                self.sent.push_back(sent);
                continue;
            }
            self.flying_again -= usize::from(sent.is_flying_again());
            match sent.fate {
                Fate::Lost => {}
                _ => {
                    self.in_flight -= sent.len();
                    self.lost += sent.len();
                }
            }
            for start in (sent.start..sent.end).step_by(mss as usize) {
                let end = (start + mss).min(sent.end);
                self.sent.push_back(Sent { start, end, fate: Fate::Lost, ambiguous: true, ..sent });
            }
        }
        self.lost_from = 0;
    }

    /// What was taken for lost was not: it counts as in flight again.
    pub fn unlose(&mut self) {
        for sent in self.sent.iter_mut().filter(|sent| sent.fate == Fate::Lost) {
            sent.fate = Fate::Flight;
            self.in_flight += sent.len();
            self.lost -= sent.len();
        }
        self.rebuild_again();
        self.first_from = 0;
    }

    /// Lists anew what was sent again and is in flight.
    fn rebuild_again(&mut self) {
        let flying = self.sent.iter().filter(|sent| sent.is_flying_again());
        self.again = flying.map(|sent| (sent.sent_at, sent.end)).collect();
        self.again.make_contiguous().sort_unstable();
        self.flying_again = self.again.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::established::rtt::Rtt;

    fn sack(board: &mut Scoreboard, now: Instant, block: (u64, u64)) -> Delivered {
        let mut delivered = Delivered::default();
        board.sack(now, &[Some(block), None, None], &mut delivered);
        delivered
    }

    fn acknowledge(board: &mut Scoreboard, now: Instant, una: u64) -> Delivered {
        let mut delivered = Delivered::default();
        board.acknowledge(now, una, &mut delivered);
        delivered
    }

    fn detect(board: &mut Scoreboard, now: Instant, rtt: &Rtt, in_recovery: bool) -> Losses {
        let window = board.rack.window(rtt, in_recovery, board.sacked());
        board.detect(now, window)
    }

    fn lose_all(board: &mut Scoreboard) {
        board.lose_until(Instant::from_nanos(u64::MAX));
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn board(segments: u64) -> Scoreboard {
        let mut board = Scoreboard::default();
        for i in 0..segments {
            board.push(at(i), (i * 10, i * 10 + 10), false);
        }
        board
    }

    #[test]
    fn rfc_8985_three_sacked_segments_prove_a_loss_at_once() {
        let mut board = board(5);
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_millis(100));
        rtt.sample_minimum(at(0), Duration::from_millis(100));
        sack(&mut board, at(101), (10, 30));
        let losses = detect(&mut board, at(102), &rtt, false);
        assert!(losses.bytes == 0 && losses.again_at == Some(at(124)), "{losses:?}");
        sack(&mut board, at(103), (30, 40));
        assert!(detect(&mut board, at(103), &rtt, false).bytes > 0);
        assert_eq!((board.next_lost(), board.lost(), board.in_flight()), (Some((0, 10)), 10, 10));
    }

    #[test]
    fn rfc_8985_a_lost_retransmission_is_lost_again() {
        let mut board = board(6);
        let rtt = Rtt::default();
        sack(&mut board, at(100), (10, 40));
        assert!(detect(&mut board, at(100), &rtt, false).bytes > 0);
        board.resend(at(101), 0);
        board.push(at(102), (60, 70), false);
        assert_eq!(board.next_lost(), None);
        sack(&mut board, at(203), (60, 70));
        assert!(detect(&mut board, at(203), &rtt, true).bytes > 0);
        assert_eq!(board.next_lost(), Some((0, 10)));
    }

    #[test]
    fn rfc_2018_reneging_is_noticed_at_the_timeout() {
        let mut board = board(3);
        sack(&mut board, at(5), (0, 10));
        lose_all(&mut board);
        assert_eq!((board.lost(), board.in_flight()), (30, 0));
    }

    #[test]
    fn a_timeout_spares_what_is_sacked() {
        let mut board = board(3);
        sack(&mut board, at(5), (10, 20));
        lose_all(&mut board);
        assert_eq!((board.lost(), board.in_flight()), (20, 0));
        board.resend(at(6), 0);
        assert_eq!(board.next_lost(), Some((20, 30)));
        assert_eq!(acknowledge(&mut board, at(7), 25).bytes, 15);
        assert_eq!((board.lost(), board.in_flight()), (5, 0));
    }

    #[test]
    fn rfc_6298_samples_come_from_segments_that_were_sent_once() {
        let mut board = board(2);
        board.resend(at(50), 0);
        let delivered = acknowledge(&mut board, at(101), 20);
        assert_eq!((delivered.oldest, delivered.newest), (Some(at(1)), Some(at(1))));
    }

    #[test]
    fn memory_is_bounded_without_sack_too() {
        let mut board = board(200);
        for round in 0..50 {
            lose_all(&mut board);
            while let Some((start, _)) = board.next_lost() {
                board.resend(at(1_000 + round), start);
            }
            assert!(board.again.len() <= 401 && board.flying_again() == 200);
        }
        acknowledge(&mut board, at(9_000), 2_000);
        assert_eq!((board.sent.capacity(), board.flying_again()), (0, 0));
    }
}
