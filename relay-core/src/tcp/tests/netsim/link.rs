//! A bottleneck: rate, delay, a drop-tail queue, loss at random or in bursts, reordering.

use std::collections::BTreeMap;

use super::super::Random;
use crate::time::{Duration, Instant};

/// Bytes of a frame that are not payload: Ethernet, IPv4, TCP with timestamps.
pub const OVERHEAD: u64 = 66;
/// Frames that even the smallest queue holds: an initial window.
const QUEUE_FRAMES_MIN: u64 = 10;
/// Frames that a burst of losses takes on average.
const BURST_LEN: u64 = 4;
/// A burst does not outlast such a silence.
const BURST_GAP: Duration = Duration::from_millis(10);
/// Losses are given in so many parts of the whole.
const WHOLE: u64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each frame on its own, in 1/100000.
    Random(u64),
    /// As many on average, but in bursts (Gilbert's model).
    Burst(u64),
    /// None is lost, but so many arrive a quarter of a round trip late.
    Reorder(u64),
}

/// What lies between the sender and the receiver.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// In Mbit/s.
    pub rate: u64,
    pub rtt: Duration,
    /// In hundredths of the bandwidth-delay product.
    pub queue: u64,
    pub loss: Loss,
}

impl Path {
    fn queue_bytes(&self) -> u64 {
        let bdp = self.rate * self.rtt.as_micros() as u64 / 8;
        (bdp * self.queue / 100).max(QUEUE_FRAMES_MIN * 1514)
    }
}

/// One direction of the path; what it carries is of the type `T`.
pub struct Link<T> {
    path: Path,
    random: Random,
    /// When the last bit of the queue will have left.
    busy_until: Instant,
    in_burst: bool,
    flying: BTreeMap<(Instant, u64), T>,
    count: u64,
}

impl<T> Link<T> {
    pub fn new(path: Path, now: Instant, seed: u64) -> Self {
        let random = Random::new(seed);
        Link { path, random, busy_until: now, in_burst: false, flying: BTreeMap::new(), count: 0 }
    }

    /// Takes a frame with `payload` bytes; it may never arrive.
    pub fn send(&mut self, now: Instant, payload: u64, frame: T) {
        let length = payload + OVERHEAD;
        let waiting = self.busy_until.since(now).as_nanos() as u64 * self.path.rate / 8_000;
        if waiting + length > self.path.queue_bytes() {
            return;
        }
        let time = Duration::from_nanos(length * 8_000 / self.path.rate);
        self.in_burst &= now.since(self.busy_until) < BURST_GAP;
        self.busy_until = self.busy_until.max(now) + time;
        if self.is_lost() {
            return;
        }
        let mut at = self.busy_until + self.path.rtt / 2;
        if let Loss::Reorder(share) = self.path.loss
            && self.random.below(WHOLE) < share
        {
            at += self.path.rtt / 4;
        }
        self.fly(at, frame);
    }

    /// Takes a frame that nothing befalls: an acknowledgement.
    pub fn send_back(&mut self, now: Instant, frame: T) {
        self.fly(now + self.path.rtt / 2, frame);
    }

    pub fn next_arrival(&self) -> Option<Instant> {
        self.flying.keys().next().map(|(at, _)| *at)
    }

    pub fn receive(&mut self, now: Instant) -> Option<T> {
        let entry = self.flying.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    fn fly(&mut self, at: Instant, frame: T) {
        self.count += 1;
        self.flying.insert((at, self.count), frame);
    }

    fn is_lost(&mut self) -> bool {
        match self.path.loss {
            Loss::Random(share) => self.random.below(WHOLE) < share,
            Loss::Burst(share) => {
                // The share of time in the bad state is begin / (begin + end).
                let end = WHOLE / BURST_LEN;
                let begin = share * end / (WHOLE - share);
                let change = if self.in_burst { end } else { begin };
                self.in_burst ^= self.random.below(WHOLE) < change;
                self.in_burst
            }
            Loss::Reorder(_) => false,
        }
    }
}
