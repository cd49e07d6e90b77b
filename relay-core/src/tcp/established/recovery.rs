//! What was sent and not yet acknowledged: the SACK scoreboard (RFC 2018) and RACK's time-based
//! detection of losses (RFC 8985).

use std::collections::VecDeque;

use super::rtt::Rtt;
use crate::time::{Duration, Instant};

/// Segments that may be outstanding. With full segments the send buffer is the tighter limit;
/// this one bounds the memory that many small segments take.
const OUTSTANDING_MAX: usize = 4096;
/// SACKed segments above a hole that prove a loss without any waiting (RFC 8985 section 6.2).
const DUP_THRESH: usize = 3;

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
#[derive(Debug)]
struct Sent {
    start: u64,
    end: u64,
    sent_at: Instant,
    fate: Fate,
    /// It was sent more than once, so an acknowledgement does not tell which copy arrived.
    ambiguous: bool,
}

impl Sent {
    fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// What an acknowledgement delivered.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Bytes that were not known to be delivered before.
    pub bytes: u64,
    /// The round trip of the oldest segment that was sent just once.
    pub sample: Option<Duration>,
}

/// The result of a search for losses.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Segments were found lost.
    pub found: bool,
    /// When to search again: the reordering window of some segment ends.
    pub again_at: Option<Instant>,
}

/// State of RACK (RFC 8985 section 5.2).
#[derive(Debug, Default)]
struct Rack {
    /// Of the delivered segments the one that was sent last: when, and its end.
    newest: Option<(Instant, u64)>,
    rtt: Duration,
    /// Highest end that was delivered: RACK.fack.
    highest: u64,
    reordering_seen: bool,
}

impl Rack {
    fn deliver(&mut self, now: Instant, sent: &Sent, min_rtt: Duration) {
        let rtt = now.since(sent.sent_at);
        if sent.ambiguous && rtt < min_rtt {
            return; // The earlier copy was acknowledged.
        }
        self.reordering_seen |= !sent.ambiguous && sent.end < self.highest;
        self.highest = self.highest.max(sent.end);
        if self.newest.is_none_or(|newest| (sent.sent_at, sent.end) > newest) {
            self.newest = Some((sent.sent_at, sent.end));
            self.rtt = rtt;
        }
    }
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
    rack: Rack,
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

    /// The first segment that must be sent again.
    pub fn next_lost(&self) -> Option<(u64, u64)> {
        if self.lost == 0 {
            return None;
        }
        let at = self.sent.partition_point(|sent| sent.start < self.lost_from);
        let lost = self.sent.range(at..).find(|sent| sent.fate == Fate::Lost)?;
        Some((lost.start, lost.end))
    }

    /// The outstanding segment with the highest offset.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.sent.back().map(|sent| (sent.start, sent.end))
    }

    /// Records a segment that is sent for the first time; `ambiguous` if another node may have
    /// sent these bytes before.
    pub fn push(&mut self, now: Instant, (start, end): (u64, u64), ambiguous: bool) {
        self.sent.push_back(Sent { start, end, sent_at: now, fate: Fate::Flight, ambiguous });
        self.in_flight += end - start;
    }

    /// Records that the outstanding segment at `start` is sent again.
    pub fn resend(&mut self, now: Instant, start: u64) {
        let at = self.sent.partition_point(|sent| sent.start < start);
        let Some(sent) = self.sent.get_mut(at) else { return };
        if sent.fate == Fate::Lost {
            self.lost -= sent.len();
            self.in_flight += sent.len();
            self.lost_from = sent.end;
            sent.fate = Fate::Flight;
        }
        sent.sent_at = now;
        sent.ambiguous = true;
    }

    /// The peer has everything below `una`.
    pub fn acknowledge(&mut self, now: Instant, una: u64, min_rtt: Duration) -> Delivered {
        let mut delivered = Delivered::default();
        while let Some(front) = self.sent.front_mut() {
            if front.end > una {
                let part = una.saturating_sub(front.start);
                front.start += part;
                match front.fate {
                    Fate::Flight => self.in_flight -= part,
                    Fate::Lost => self.lost -= part,
                    Fate::Sacked => {}
                }
                delivered.bytes += part;
                break;
            }
            let Some(sent) = self.sent.pop_front() else { break };
            match sent.fate {
                Fate::Sacked => {
                    self.sacked -= 1;
                    continue;
                }
                Fate::Flight => self.in_flight -= sent.len(),
                Fate::Lost => self.lost -= sent.len(),
            }
            delivered.bytes += sent.len();
            if !sent.ambiguous && delivered.sample.is_none() {
                delivered.sample = Some(now.since(sent.sent_at));
            }
            self.rack.deliver(now, &sent, min_rtt);
        }
        delivered
    }

    /// The peer holds `start..end`. Segments that are covered in part stay as they are.
    pub fn sack(&mut self, now: Instant, (start, end): (u64, u64), min_rtt: Duration) -> u64 {
        let at = self.sent.partition_point(|sent| sent.start < start);
        let mut bytes = 0;
        for sent in self.sent.range_mut(at..) {
            if sent.end > end {
                break;
            }
            match sent.fate {
                Fate::Sacked => continue,
                Fate::Flight => self.in_flight -= sent.len(),
                Fate::Lost => self.lost -= sent.len(),
            }
            sent.fate = Fate::Sacked;
            self.sacked += 1;
            bytes += sent.len();
            self.rack.deliver(now, sent, min_rtt);
        }
        bytes
    }

    /// Marks as lost what was sent long enough before something that was delivered (RFC 8985
    /// section 6.2, steps 4 and 5).
    pub fn detect(&mut self, now: Instant, rtt: &Rtt, in_recovery: bool) -> Losses {
        let mut losses = Losses::default();
        let Some(newest) = self.rack.newest else { return losses };
        let patience = self.rack.rtt + self.reordering_window(rtt, in_recovery);
        let mut lost_from = self.lost_from;
        for sent in &mut self.sent {
            // First transmissions are in the order of time: behind the newest delivered segment
            // only retransmissions, which are below RACK.fack, can be older.
            if sent.start >= self.rack.highest {
                break;
            }
            if sent.fate != Fate::Flight || (sent.sent_at, sent.end) >= newest {
                continue;
            }
            let deadline = sent.sent_at + patience;
            if deadline <= now {
                sent.fate = Fate::Lost;
                self.in_flight -= sent.len();
                self.lost += sent.len();
                lost_from = lost_from.min(sent.start);
                losses.found = true;
            } else {
                let at = losses.again_at.map_or(deadline, |at| at.min(deadline));
                losses.again_at = Some(at);
            }
        }
        self.lost_from = lost_from;
        losses
    }

    /// The first segment is lost: three duplicate ACKs, or a partial one (RFC 6582), from a peer
    /// without SACK.
    pub fn lose_first(&mut self) {
        if let Some(front) = self.sent.front_mut()
            && front.fate == Fate::Flight
        {
            front.fate = Fate::Lost;
            self.in_flight -= front.len();
            self.lost += front.len();
            self.lost_from = self.lost_from.min(front.start);
        }
    }

    /// The retransmission timer expired: everything that is not SACKed is lost. When the peer has
    /// SACKed the first segment and yet not acknowledged it, it has forgotten what it had, and
    /// nothing of what it said counts (RFC 2018 section 8).
    pub fn lose_all(&mut self) {
        let reneged = self.sent.front().is_some_and(|front| front.fate == Fate::Sacked);
        for sent in &mut self.sent {
            if sent.fate == Fate::Sacked && !reneged {
                continue;
            }
            match sent.fate {
                Fate::Flight => self.in_flight -= sent.len(),
                Fate::Sacked => self.sacked -= 1,
                Fate::Lost => continue,
            }
            sent.fate = Fate::Lost;
            self.lost += sent.len();
        }
        self.lost_from = 0;
    }

    /// RFC 8985 section 6.2, step 4: how much later than its successors a segment may arrive.
    fn reordering_window(&self, rtt: &Rtt, in_recovery: bool) -> Duration {
        if !self.rack.reordering_seen && (in_recovery || self.sacked >= DUP_THRESH) {
            return Duration::ZERO;
        }
        (rtt.minimum() / 4).min(rtt.smoothed().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::ZERO;

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
        rtt.sample(at(0), Duration::from_millis(100));
        board.sack(at(101), (10, 30), MIN);
        let losses = board.detect(at(102), &rtt, false);
        assert!(!losses.found && losses.again_at == Some(at(124)), "{losses:?}");
        board.sack(at(103), (30, 40), MIN);
        assert!(board.detect(at(103), &rtt, false).found);
        assert_eq!((board.next_lost(), board.lost(), board.in_flight()), (Some((0, 10)), 10, 10));
    }

    #[test]
    fn rfc_8985_a_lost_retransmission_is_lost_again() {
        let mut board = board(6);
        let rtt = Rtt::default();
        board.sack(at(100), (10, 40), MIN);
        assert!(board.detect(at(100), &rtt, false).found);
        board.resend(at(101), 0);
        board.push(at(102), (60, 70), false);
        assert_eq!(board.next_lost(), None);
        board.sack(at(203), (60, 70), MIN);
        assert!(board.detect(at(203), &rtt, true).found);
        assert_eq!(board.next_lost(), Some((0, 10)));
    }

    #[test]
    fn rfc_2018_reneging_is_noticed_at_the_timeout() {
        let mut board = board(3);
        board.sack(at(5), (0, 10), MIN);
        board.lose_all();
        assert_eq!((board.lost(), board.in_flight()), (30, 0));
    }

    #[test]
    fn a_timeout_spares_what_is_sacked() {
        let mut board = board(3);
        board.sack(at(5), (10, 20), MIN);
        board.lose_all();
        assert_eq!((board.lost(), board.in_flight()), (20, 0));
        board.resend(at(6), 0);
        assert_eq!(board.next_lost(), Some((20, 30)));
        assert_eq!(board.acknowledge(at(7), 25, MIN).bytes, 15);
        assert_eq!((board.lost(), board.in_flight()), (5, 0));
    }

    #[test]
    fn rfc_6298_samples_come_from_segments_that_were_sent_once() {
        let mut board = board(2);
        board.resend(at(50), 0);
        let delivered = board.acknowledge(at(101), 20, MIN);
        assert_eq!(delivered.sample, Some(Duration::from_millis(100)));
    }
}
