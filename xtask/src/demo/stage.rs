//! What all transfers of the demo share: the moment of the loss, and how far they are.

use std::io::{IsTerminal, Write, stderr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
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
        }
    }

    /// A transfer's first byte went through.
    pub fn began(&self) {
        self.began.fetch_add(1, Relaxed);
    }

    /// A transfer ended, well or not.
    pub fn finished(&self) {
        self.finished.fetch_add(1, Relaxed);
    }

    /// `bytes` more went through.
    pub fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Remembers the present as the moment of the loss.
    pub fn kill_now(&self) -> Instant {
        *self.killed.get_or_init(Instant::now)
    }

    /// The moment of the loss.
    pub fn killed(&self) -> Option<Instant> {
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
