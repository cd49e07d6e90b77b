//! A receiver as kernels have it: every second segment is acknowledged, what is out of order at
//! once, with the newest SACK blocks and duplicates (RFC 5681, 2018, 2883, 7323).

use std::collections::{BTreeMap, VecDeque};

use crate::time::{Duration, Instant};

/// How long the ACK of a lone segment waits.
const ACK_DELAY: Duration = Duration::from_millis(40);

/// A segment of the sender, in stream offsets.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    pub flow: usize,
    pub start: u64,
    pub end: u64,
    pub stamp: u32,
}

/// What the receiver answers.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub flow: usize,
    pub ack: u64,
    pub blocks: [Option<(u64, u64)>; 3],
    pub echo: u32,
}

#[derive(Default)]
pub struct Receiver {
    next: u64,
    arrived: u64,
    /// What lies beyond, by start.
    held: BTreeMap<u64, u64>,
    /// Where the newest segments out of order began.
    recent: VecDeque<u64>,
    echo: u32,
    unanswered: u32,
    answer_at: Option<Instant>,
}

impl Receiver {
    /// `echo` is the timestamp of the handshake.
    pub fn new(echo: u32) -> Self {
        Receiver { echo, ..Receiver::default() }
    }

    /// Bytes that arrived, in order or not.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.answer_at
    }

    pub fn on_timeout(&mut self, now: Instant, flow: usize) -> Option<Ack> {
        self.answer_at.is_some_and(|at| at <= now).then(|| self.answer(flow, None))
    }

    pub fn take(&mut self, now: Instant, data: &Data) -> Option<Ack> {
        let covered = self.held.range(..=data.start).next_back();
        let again = data.end <= self.next || covered.is_some_and(|(_, end)| data.end <= *end);
        if again {
            return Some(self.answer(data.flow, Some((data.start, data.end))));
        }
        self.arrived += data.end - data.start;
        if data.start > self.next {
            self.hold(data.start, data.end);
            return Some(self.answer(data.flow, None));
        }
        let gap = !self.held.is_empty();
        self.echo = data.stamp;
        self.next = data.end;
        while let Some(entry) = self.held.first_entry().filter(|entry| *entry.key() <= self.next) {
            self.next = self.next.max(entry.remove());
        }
        self.unanswered += 1;
        if gap || self.unanswered >= 2 {
            return Some(self.answer(data.flow, None));
        }
        self.answer_at.get_or_insert(now + ACK_DELAY);
        None
    }

    fn hold(&mut self, mut start: u64, mut end: u64) {
        self.recent.retain(|at| *at != start);
        self.recent.push_front(start);
        self.recent.truncate(16);
        while let Some((from, to)) = self.held.range(..=end).next_back().map(|(f, t)| (*f, *t))
            && to >= start
        {
            self.held.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.held.insert(start, end);
    }

    fn answer(&mut self, flow: usize, duplicate: Option<(u64, u64)>) -> Ack {
        (self.unanswered, self.answer_at) = (0, None);
        let mut blocks = [None; 3];
        let mut count = 0;
        let mut add = |block| {
            if count < blocks.len() && !blocks.contains(&Some(block)) {
                blocks[count] = Some(block);
                count += 1;
            }
        };
        duplicate.into_iter().for_each(&mut add);
        for at in &self.recent {
            let block = self.held.range(..=*at).next_back().filter(|(_, end)| *end > at);
            block.map(|(start, end)| (*start, *end)).into_iter().for_each(&mut add);
        }
        Ack { flow, ack: self.next, blocks, echo: self.echo }
    }
}
