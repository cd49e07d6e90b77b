//! One direction of a line: which frames arrive, in which state, and when.
//!
//! ```text
//! frame -> queue (drop-tail) -> rate -> loss, damage, doubling -> delay, reordering -> frame
//! ```
//! The bottleneck is at the begin and the losses are behind it: a lost frame has used the rate.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Where the type of an Ethernet frame is, and the type of ARP (RFC 826).
const ETHERTYPE_AT: usize = 12;
const ARP: [u8; 2] = [0x08, 0x06];
/// The Ethernet header: damage behind it is noticed by receivers, damage in it would be a loss.
const HEADER: usize = 14;

/// Nanoseconds since any fixed moment.
pub type Nanos = u64;

/// What a line is like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Propagation.
    pub delay: Nanos,
    /// Bits per second of Ethernet frames without preamble and checksum; none is unlimited.
    pub rate: Option<u64>,
    /// Bytes that wait for the rate or are being sent, beyond which frames are dropped; none is
    /// unlimited.
    pub queue: Option<usize>,
    /// Probability with which a frame is lost on its own.
    pub loss: f64,
    /// Losses in a row.
    pub burst: Burst,
    /// Probability with which a frame is late.
    pub reorder: f64,
    /// By how much it is late.
    pub reorder_by: Nanos,
    /// Probability with which a frame arrives twice.
    pub duplicate: f64,
    /// Probability with which one bit of a frame is inverted.
    pub corrupt: f64,
}

/// Gilbert's model: the line is good or bad, each frame may change that, and a bad line loses all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Burst {
    /// Probability with which a good line becomes bad.
    pub enter: f64,
    /// Probability with which a bad line becomes good.
    pub leave: f64,
}

impl Burst {
    /// Bursts of `length` frames on average, by which the share `loss` of all frames is lost.
    pub fn of(loss: f64, length: f64) -> Burst {
        let leave = 1.0 / length.max(1.0);
        Burst { enter: (leave * loss / (1.0 - loss)).min(1.0), leave }
    }
}

/// What became of the frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Frames that came in.
    pub offered: u64,
    /// Their bytes.
    pub offered_bytes: u64,
    /// Frames that went out, doubles included.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Dropped since the queue was full.
    pub queue_full: u64,
    /// Lost on their own.
    pub lost: u64,
    /// Lost in bursts.
    pub lost_in_bursts: u64,
    /// Delivered late.
    pub reordered: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered with an inverted bit.
    pub corrupted: u64,
    /// Most bytes that ever were in the queue.
    pub peak_queue: usize,
}

/// One direction. Frames of ARP are delayed like others but never lost or damaged: that would cost
/// a second and say nothing about anybody's TCP.
#[derive(Debug)]
pub struct Line {
    shape: Shape,
    random: Random,
    bad: bool,
    /// When the last frame of the queue will have been sent.
    idle_from: Nanos,
    /// When each frame of the queue will have been sent, and its length.
    queue: VecDeque<(Nanos, usize)>,
    queued: usize,
    flying: BinaryHeap<Reverse<Flying>>,
    number: u64,
    stats: Stats,
}

impl Line {
    /// An empty line.
    pub fn new(shape: Shape, seed: u64) -> Line {
        Line {
            shape,
            random: Random::new(seed),
            bad: false,
            idle_from: 0,
            queue: VecDeque::new(),
            queued: 0,
            flying: BinaryHeap::new(),
            number: 0,
            stats: Stats::default(),
        }
    }

    /// A frame comes in.
    pub fn offer(&mut self, now: Nanos, mut frame: Vec<u8>) {
        self.stats.offered += 1;
        self.stats.offered_bytes += frame.len() as u64;
        let Some(sent) = self.enqueue(now, frame.len()) else {
            self.stats.queue_full += 1;
            return;
        };
        let fate = self.draw();
        let unharmed = frame.get(ETHERTYPE_AT..HEADER) == Some(&ARP);
        if !unharmed && fate.lost(&mut self.stats) {
            return;
        }
        let mut due = sent + self.shape.delay;
        if fate.late {
            self.stats.reordered += 1;
            due += self.shape.reorder_by;
        }
        if fate.corrupt && !unharmed {
            self.stats.corrupted += 1;
            invert_bit(&mut frame, fate.place);
        }
        if fate.duplicate {
            self.stats.duplicated += 1;
            self.launch(due, frame.clone());
        }
        self.launch(due, frame);
    }

    /// The next frame that has arrived by `now`, and when it did.
    pub fn arrived(&mut self, now: Nanos) -> Option<(Nanos, Vec<u8>)> {
        let next = self.flying.peek_mut().filter(|next| next.0.due <= now)?;
        let Reverse(flying) = std::collections::binary_heap::PeekMut::pop(next);
        self.stats.delivered += 1;
        self.stats.delivered_bytes += flying.frame.len() as u64;
        Some((flying.due, flying.frame))
    }

    /// When the next frame arrives.
    pub fn next_arrival(&self) -> Option<Nanos> {
        self.flying.peek().map(|next| next.0.due)
    }

    /// What became of the frames so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// When a frame that comes in now will have been sent; none if the queue is full.
    fn enqueue(&mut self, now: Nanos, length: usize) -> Option<Nanos> {
        let Some(rate) = self.shape.rate else { return Some(now) };
        while let Some((_, length)) = self.queue.pop_front_if(|(sent, _)| *sent <= now) {
            self.queued -= length;
        }
        if self.shape.queue.is_some_and(|limit| self.queued + length > limit) {
            return None;
        }
        let takes = length as u128 * 8 * 1_000_000_000 / u128::from(rate);
        self.idle_from = self.idle_from.max(now) + takes as Nanos;
        self.queue.push_back((self.idle_from, length));
        self.queued += length;
        self.stats.peak_queue = self.stats.peak_queue.max(self.queued);
        Some(self.idle_from)
    }

    /// Always takes as many random numbers, so that what happens to the n-th frame that passed the
    /// queue depends on n alone.
    fn draw(&mut self) -> Fate {
        let (shape, random) = (&self.shape, &mut self.random);
        let change = if self.bad { shape.burst.leave } else { shape.burst.enter };
        self.bad ^= random.chance(change);
        Fate {
            in_burst: self.bad,
            lost: random.chance(shape.loss),
            late: random.chance(shape.reorder),
            duplicate: random.chance(shape.duplicate),
            corrupt: random.chance(shape.corrupt),
            place: random.next(),
        }
    }

    fn launch(&mut self, due: Nanos, frame: Vec<u8>) {
        self.number += 1;
        self.flying.push(Reverse(Flying { due, number: self.number, frame }));
    }
}

struct Fate {
    in_burst: bool,
    lost: bool,
    late: bool,
    duplicate: bool,
    corrupt: bool,
    place: u64,
}

impl Fate {
    fn lost(&self, stats: &mut Stats) -> bool {
        stats.lost_in_bursts += u64::from(self.in_burst);
        stats.lost += u64::from(self.lost && !self.in_burst);
        self.in_burst || self.lost
    }
}

fn invert_bit(frame: &mut [u8], place: u64) {
    let Some(body) = frame.get_mut(HEADER..).filter(|body| !body.is_empty()) else { return };
    let bit = (place % (body.len() as u64 * 8)) as usize;
    body[bit / 8] ^= 1 << (bit % 8);
}

/// Ordered by arrival, then by departure.
#[derive(Debug, PartialEq, Eq)]
struct Flying {
    due: Nanos,
    number: u64,
    frame: Vec<u8>,
}

impl Ord for Flying {
    fn cmp(&self, other: &Flying) -> Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Flying) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    /// Frame number `number`, of `length` bytes of IPv4.
    fn frame(number: u16, length: usize) -> Vec<u8> {
        let mut frame = vec![0; length];
        frame[ETHERTYPE_AT] = 8;
        frame[HEADER..HEADER + 2].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn number(frame: &[u8]) -> u16 {
        u16::from_be_bytes([frame[HEADER], frame[HEADER + 1]])
    }

    /// Sends `count` frames at `interval`; returns times of arrival and numbers.
    fn send(line: &mut Line, count: u16, interval: Nanos) -> Vec<(Nanos, u16)> {
        for index in 0..count {
            line.offer(u64::from(index) * interval, frame(index, 1250));
        }
        let arrived = std::iter::from_fn(|| line.arrived(Nanos::MAX));
        arrived.map(|(at, frame)| (at, number(&frame))).collect()
    }

    #[test]
    fn delay_alone_changes_nothing_else() {
        let mut line = Line::new(Shape { delay: 10 * MS, ..Shape::default() }, 1);
        line.offer(5 * MS, frame(7, 100));
        assert_eq!(line.next_arrival(), Some(15 * MS));
        assert_eq!(line.arrived(15 * MS - 1), None);
        assert_eq!(line.arrived(15 * MS), Some((15 * MS, frame(7, 100))));
        assert_eq!(line.next_arrival(), None);
    }

    #[test]
    fn frames_leave_at_the_rate() {
        // 1250 bytes at 10 Mbit/s take 1 ms.
        let shape = Shape { rate: Some(10_000_000), delay: MS, ..Shape::default() };
        let arrived = send(&mut Line::new(shape, 1), 3, 0);
        assert_eq!(arrived, [(2 * MS, 0), (3 * MS, 1), (4 * MS, 2)]);
    }

    #[test]
    fn an_idle_line_saves_nothing_up() {
        let shape = Shape { rate: Some(10_000_000), ..Shape::default() };
        let arrived = send(&mut Line::new(shape, 1), 2, 5 * MS);
        assert_eq!(arrived, [(MS, 0), (6 * MS, 1)]);
    }

    #[test]
    fn a_full_queue_drops_its_tail() {
        let rate = Some(10_000_000);
        let mut line = Line::new(Shape { rate, queue: Some(2500), ..Shape::default() }, 1);
        for index in 0..3 {
            line.offer(0, frame(index, 1250));
        }
        assert_eq!((line.stats().queue_full, line.stats().peak_queue), (1, 2500));
        // The first has been sent by then, and there is room again.
        line.offer(MS, frame(3, 1250));
        assert_eq!((line.stats().queue_full, line.stats().offered), (1, 4));
    }

    #[test]
    fn losses_are_as_many_as_wanted_and_follow_from_the_seed() {
        let shape = Shape { loss: 0.02, ..Shape::default() };
        let arrived = |seed| send(&mut Line::new(shape.clone(), seed), 20_000, 1);
        let first = arrived(1);
        assert!((19_540..=19_660).contains(&first.len()), "{}", first.len());
        assert!(first == arrived(1) && first != arrived(2));
    }

    #[test]
    fn bursts_have_the_length_and_the_share_that_were_wanted() {
        let shape = Shape { burst: Burst::of(0.02, 5.0), ..Shape::default() };
        let mut line = Line::new(shape, 3);
        let arrived = send(&mut line, 60_000, 1);
        let lost = line.stats().lost_in_bursts;
        assert!((900..=1500).contains(&lost), "{lost}");
        let gaps = arrived.windows(2).filter(|pair| pair[1].1 - pair[0].1 > 1).count() as u64;
        assert!((4 * gaps..=6 * gaps).contains(&lost), "{lost} in {gaps} bursts");
    }

    #[test]
    fn other_impairments_do_not_move_the_losses() {
        let lossy = Shape { loss: 0.1, ..Shape::default() };
        let wild = Shape { reorder: 0.2, reorder_by: MS, corrupt: 0.2, ..lossy.clone() };
        let mut lines = [Line::new(lossy, 9), Line::new(wild, 9)];
        let lost = lines.each_mut().map(|line| {
            send(line, 1000, 1);
            line.stats().lost
        });
        assert_eq!(lost[0], lost[1]);
    }

    #[test]
    fn late_frames_are_overtaken() {
        let shape = Shape { reorder: 0.1, reorder_by: 5, ..Shape::default() };
        let mut line = Line::new(shape, 4);
        let arrived = send(&mut line, 1000, 1);
        assert_eq!(arrived.len(), 1000);
        let overtaken = arrived.windows(2).filter(|pair| pair[0].1 > pair[1].1).count();
        assert!(line.stats().reordered > 60 && overtaken > 50, "{overtaken}");
    }

    #[test]
    fn doubles_and_damage_are_counted_and_spare_the_ethernet_header() {
        let shape = Shape { duplicate: 0.1, corrupt: 1.0, ..Shape::default() };
        let mut line = Line::new(shape, 5);
        for index in 0..1000 {
            line.offer(index, frame(0, 60));
        }
        let arrived: Vec<_> = std::iter::from_fn(|| line.arrived(Nanos::MAX)).collect();
        let stats = line.stats();
        assert_eq!(arrived.len() as u64, 1000 + stats.duplicated);
        assert!(stats.duplicated > 60 && stats.corrupted == 1000);
        let sent = frame(0, 60);
        for (_, frame) in arrived {
            let bits = frame.iter().zip(&sent).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
            assert!(bits == 1 && frame[..HEADER] == sent[..HEADER]);
        }
    }

    #[test]
    fn arp_is_not_lost() {
        let mut line = Line::new(Shape { loss: 1.0, corrupt: 1.0, ..Shape::default() }, 1);
        let mut arp = frame(1, 60);
        arp[ETHERTYPE_AT..HEADER].copy_from_slice(&ARP);
        line.offer(0, arp.clone());
        line.offer(0, frame(2, 60));
        assert_eq!(line.arrived(0), Some((0, arp)));
        assert_eq!((line.arrived(0), line.stats().lost), (None, 1));
    }
}
