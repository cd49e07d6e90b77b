//! What all transfers of the demo share: what is being done to the cluster, and how far they are.

use std::io::{IsTerminal, Write, stderr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// How often the progress line is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// Shared by every thread of the demo.
pub struct Stage {
    start: Instant,
    connections: usize,
    began: AtomicUsize,
    finished: AtomicUsize,
    bytes: AtomicU64,
    killed: OnceLock<Instant>,
    step: AtomicUsize,
    finale: AtomicBool,
    early: AtomicUsize,
}

impl Stage {
    /// Before anything began.
    pub fn new(connections: usize) -> Stage {
        Stage {
            start: Instant::now(),
            connections,
            began: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            killed: OnceLock::new(),
            step: AtomicUsize::new(0),
            finale: AtomicBool::new(false),
            early: AtomicUsize::new(0),
        }
    }

    /// A transfer's first byte went through.
    pub fn began(&self) {
        self.began.fetch_add(1, Relaxed);
    }

    /// A transfer ended, well or not.
    pub fn finished(&self) {
        self.early.fetch_add(usize::from(!self.is_finale()), Relaxed);
        self.finished.fetch_add(1, Relaxed);
    }

    /// Transfers that ended before the finale.
    pub fn early(&self) -> usize {
        self.early.load(Relaxed)
    }

    /// `bytes` more went through.
    pub fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// From here on pauses count for the next step (the first one is 1). Returns the moment of the
    /// first one.
    pub fn next_step(&self) -> Instant {
        self.step.fetch_add(1, Relaxed);
        *self.killed.get_or_init(Instant::now)
    }

    /// Pauses that begin from here on count for no step.
    pub fn end_steps(&self) {
        self.step.store(0, Relaxed);
    }

    /// The number of the step for which pauses count; none before the first one.
    pub fn step(&self) -> Option<usize> {
        Some(self.step.load(Relaxed)).filter(|step| *step > 0)
    }

    /// Nothing more will be done to the cluster: transfers that wait for this hurry to their end.
    pub fn begin_finale(&self) {
        self.finale.store(true, Relaxed);
    }

    /// Whether nothing more will be done to the cluster.
    pub fn is_finale(&self) -> bool {
        self.finale.load(Relaxed)
    }

    /// The moment of the first step.
    fn killed(&self) -> Option<Instant> {
        self.killed.get().copied()
    }

    /// Whether every transfer ended.
    pub fn is_over(&self) -> bool {
        self.finished.load(Relaxed) == self.connections
    }

    /// Prints a line that stays.
    pub fn say(&self, line: &str) {
        let clear = if stderr().is_terminal() { "\r\x1b[K" } else { "" };
        eprintln!("{clear}{line}");
    }

    /// Shows progress until every transfer's first byte went through.
    pub fn show_until_all_began(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.show_while(|| self.began.load(Relaxed) < self.connections, deadline);
    }

    /// Shows progress for a while, or until nothing moves any more.
    pub fn show_for(&self, duration: Duration) {
        self.show_while(|| !self.is_over(), Instant::now() + duration);
    }

    /// Shows progress to the end; the transfers have limits of their own.
    pub fn show_until_all_finished(&self) {
        while !self.is_over() {
            self.show_for(Duration::from_secs(1));
        }
        self.say("demo: all transfers ended");
    }

    fn show_while(&self, goes_on: impl Fn() -> bool, deadline: Instant) {
        while goes_on() && Instant::now() < deadline {
            if stderr().is_terminal() {
                self.draw();
            }
            thread::sleep(REDRAW);
        }
    }

    fn draw(&self) {
        const WIDTH: usize = 30;
        let done = self.finished.load(Relaxed);
        let bar = "#".repeat(WIDTH * done / self.connections.max(1));
        let since = self.killed().map(|at| format!("  {:.1} s after", at.elapsed().as_secs_f64()));
        // Progress is for people: nothing depends on it, so a failed write does not matter.
        let _ = write!(
            stderr(),
            "\r\x1b[K[{bar:WIDTH$}] {done}/{} ended  {} MB  {:.1} s{}",
            self.connections,
            self.bytes.load(Relaxed) >> 20,
            self.start.elapsed().as_secs_f64(),
            since.unwrap_or_default(),
        );
    }
}
