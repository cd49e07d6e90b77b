//! One connection of a trial: its two ends, and what the receiving one notices.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Bytes per write and read of a bulk transfer.
const STEP: usize = 64 << 10;
/// Bytes of a burst: enough for a sender to be in full swing.
const BURST: usize = 512 << 10;
/// Bytes of a request and of its response.
const REQUEST: usize = 100;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Shape {
    /// The backend sends without end.
    BulkDown,
    /// The client sends without end.
    BulkUp,
    /// The backend sends a burst, then nothing.
    TailDown,
    /// The client sends a burst, then nothing.
    TailUp,
    /// One small request at a time.
    Request,
}

impl Shape {
    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Shape::BulkDown => "bulk down",
            Shape::BulkUp => "bulk up",
            Shape::TailDown => "tail down",
            Shape::TailUp => "tail up",
            Shape::Request => "request",
        }
    }

    fn is_bulk(self) -> bool {
        matches!(self, Shape::BulkDown | Shape::BulkUp)
    }

    fn is_tail(self) -> bool {
        matches!(self, Shape::TailDown | Shape::TailUp)
    }
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Speaks TLS.
    Client,
    /// Speaks plain TCP.
    Backend,
}

/// What all connections of a trial share.
#[derive(Default)]
pub struct Stage {
    killed: OnceLock<Instant>,
    over: AtomicBool,
    /// Bursts that were asked for, and bursts that were written by all connections together.
    round: Mutex<u64>,
    next_round: Condvar,
    written: AtomicU64,
}

impl Stage {
    /// The moment of the loss, which is the present.
    pub fn kill_now(&self) -> Instant {
        *self.killed.get_or_init(Instant::now)
    }

    /// Ends everything.
    pub fn end(&self) {
        self.over.store(true, Relaxed);
        self.next_round.notify_all();
    }

    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Asks for a burst; returns its number.
    pub fn begin_burst(&self) -> u64 {
        let mut round = lock(&self.round);
        *round += 1;
        self.next_round.notify_all();
        *round
    }

    /// Asks for a burst and waits until it was written `writers` times.
    pub fn burst(&self, writers: u64, limit: Duration) -> Result<()> {
        let round = self.begin_burst();
        let deadline = Instant::now() + limit;
        while self.written.load(Relaxed) < round * writers {
            ensure!(Instant::now() < deadline, "a burst was not taken");
            thread::yield_now();
        }
        Ok(())
    }

    /// Waits until a burst behind number `last` is asked for; none at the end.
    fn await_burst(&self, last: u64) -> Option<u64> {
        let waits = |round: &mut u64| *round <= last && !self.is_over();
        let tick = Duration::from_millis(100);
        let mut round = lock(&self.round);
        while waits(&mut round) {
            round = self
                .next_round
                .wait_timeout(round, tick)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
        }
        (!self.is_over()).then_some(*round)
    }
}

/// One connection of a trial.
pub struct Flow {
    pub shape: Shape,
    progress: Mutex<Progress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    bytes: u64,
    last: Option<Instant>,
    /// The last progress before the loss.
    before: Option<Instant>,
    /// The longest time without progress that ended after the loss.
    longest: Duration,
    /// When the first burst behind the loss was complete.
    complete: Option<Instant>,
    broken: bool,
}

impl Flow {
    /// Before anything happened.
    pub fn new(shape: Shape) -> Flow {
        Flow { shape, progress: Mutex::default() }
    }

    /// Whether its receiver has received anything.
    pub fn has_begun(&self) -> bool {
        lock(&self.progress).bytes > 0
    }

    /// Whether most of burst number `round` has arrived.
    pub fn is_ending_burst(&self, round: u64) -> bool {
        let burst = BURST as u64;
        self.shape.is_tail() && lock(&self.progress).bytes >= round * burst - burst / 4
    }

    /// Whether it ended before its time.
    pub fn is_broken(&self) -> bool {
        lock(&self.progress).broken
    }

    /// Whether it goes on behind `takeover`.
    pub fn goes_on(&self, takeover: Instant) -> bool {
        let progress = lock(&self.progress);
        match self.shape.is_tail() {
            true => progress.bytes.is_multiple_of(BURST as u64),
            false => progress.last.is_some_and(|last| last > takeover),
        }
    }

    /// How long its receiver had to wait. None when nothing was lost.
    pub fn pause(&self, takeover: Instant) -> Option<Duration> {
        let progress = lock(&self.progress);
        if self.shape.is_tail() {
            let complete = progress.complete.filter(|at| *at >= takeover)?;
            return Some(complete - progress.before?);
        }
        let open = progress.last.map(|last| last.elapsed()).unwrap_or_default();
        Some(progress.longest.max(open))
    }

    /// Plays one end until the trial is over.
    pub fn play(&self, end: End, stream: &mut (impl Read + Write), stage: &Stage) {
        let sender = match self.shape {
            Shape::BulkDown | Shape::TailDown => End::Backend,
            Shape::BulkUp | Shape::TailUp => End::Client,
            Shape::Request => End::Client,
        };
        let played = match self.shape {
            Shape::Request if end == sender => self.ask(stream, stage),
            Shape::Request => answer(stream, stage),
            _ if end != sender => self.receive(stream, stage),
            shape if shape.is_bulk() => send(stream, stage),
            _ => send_bursts(stream, stage),
        };
        if played.is_err() && !stage.is_over() {
            lock(&self.progress).broken = true;
        }
    }

    fn receive(&self, stream: &mut impl Read, stage: &Stage) -> Result<()> {
        let mut buffer = vec![0; STEP];
        while !stage.is_over() {
            let count = stream.read(&mut buffer)?;
            ensure!(count > 0, "the stream ended");
            self.progress(count, stage);
        }
        Ok(())
    }

    fn ask(&self, stream: &mut (impl Read + Write), stage: &Stage) -> Result<()> {
        let mut buffer = [0; REQUEST];
        while !stage.is_over() {
            stream.write_all(&buffer)?;
            stream.read_exact(&mut buffer)?;
            self.progress(REQUEST, stage);
        }
        Ok(())
    }

    fn progress(&self, bytes: usize, stage: &Stage) {
        let mut progress = lock(&self.progress);
        let now = Instant::now();
        progress.bytes += bytes as u64;
        if stage.killed.get().is_some() {
            let last = progress.last.unwrap_or(now);
            progress.before.get_or_insert(last);
            progress.longest = progress.longest.max(now - last);
            if progress.bytes.is_multiple_of(BURST as u64) {
                progress.complete.get_or_insert(now);
            }
        }
        progress.last = Some(now);
    }
}

fn send(stream: &mut impl Write, stage: &Stage) -> Result<()> {
    let block = vec![7; STEP];
    while !stage.is_over() {
        stream.write_all(&block)?;
    }
    Ok(())
}

fn send_bursts(stream: &mut impl Write, stage: &Stage) -> Result<()> {
    let burst = vec![7; BURST];
    let mut last = 0;
    while let Some(round) = stage.await_burst(last) {
        last = round;
        stream.write_all(&burst)?;
        stream.flush()?;
        stage.written.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn answer(stream: &mut (impl Read + Write), stage: &Stage) -> Result<()> {
    let mut buffer = [0; REQUEST];
    while !stage.is_over() {
        stream.read_exact(&mut buffer)?;
        stream.write_all(&buffer)?;
    }
    Ok(())
}

/// A thread that panicked has told why; the data stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
