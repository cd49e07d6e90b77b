//! Two interfaces and the lines between them.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::line::{Line, Nanos, Stats};
use crate::plan::Plan;
use crate::port::{Port, Received};

/// Frames of one direction that are taken before it is the other one's turn.
const BATCH: usize = 64;
/// How long [`Bridge::run`] may need to notice that it shall stop.
const STOP_INTERVAL: Nanos = 50_000_000;
/// Frames that leave later than that behind their time are counted.
const LATE: Nanos = 300_000;
/// Above ordinary processes, below the relays (10).
const PRIORITY: u8 = 5;

/// What became of the frames, and how exact the wire was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// From the left to the right.
    pub right: Stats,
    /// From the right to the left.
    pub left: Stats,
    /// Frames that the wire itself lost since it was too slow: the figures are worthless then.
    pub overrun: u64,
    /// Frames that left more than 0.3 ms behind their time.
    pub late: u64,
    /// The longest such time, in microseconds.
    pub late_max_us: u64,
}

/// Two interfaces and the lines between them.
pub struct Bridge {
    left: Port,
    right: Port,
    to_right: Line,
    to_left: Line,
    begin: Instant,
    late: u64,
    late_max: Nanos,
}

impl Bridge {
    /// Binds to the interfaces `left` and `right` of the calling thread's network namespace; from
    /// then on frames wait for [`Bridge::run`]. It needs CAP_NET_RAW; offloads of both interfaces
    /// and of their peers must be off.
    pub fn open(left: &str, right: &str, plan: &Plan) -> Result<Bridge> {
        Ok(Bridge {
            left: Port::open(left)?,
            right: Port::open(right)?,
            to_right: Line::new(plan.right(), plan.seed),
            to_left: Line::new(plan.left(), !plan.seed),
            begin: Instant::now(),
            late: 0,
            late_max: 0,
        })
    }

    /// Carries frames until `stop`. The calling thread gets a real-time priority if it may.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Report> {
        raise();
        while !stop.load(Relaxed) {
            self.turn()?;
        }
        Ok(self.report())
    }

    /// Takes what came, sends what has arrived, and waits for either.
    fn turn(&mut self) -> Result<()> {
        let idle = take(&mut self.left, self.begin, &mut self.to_right)?
            & take(&mut self.right, self.begin, &mut self.to_left)?;
        for (line, port) in
            [(&mut self.to_right, &mut self.right), (&mut self.to_left, &mut self.left)]
        {
            let now = nanos(self.begin.elapsed());
            while let Some((due, frame)) = line.arrived(now) {
                self.late += u64::from(now - due > LATE);
                self.late_max = self.late_max.max(now - due);
                port.send(&frame)?;
            }
        }
        if idle { self.wait() } else { Ok(()) }
    }

    fn wait(&self) -> Result<()> {
        let next = [&self.to_right, &self.to_left].into_iter().filter_map(Line::next_arrival).min();
        let now = nanos(self.begin.elapsed());
        let time = next.map_or(STOP_INTERVAL, |at| at.saturating_sub(now)).min(STOP_INTERVAL);
        let time = TimeSpec::from_duration(Duration::from_nanos(time));
        let mut fds =
            [&self.left, &self.right].map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut fds, Some(time), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("ppoll"),
        }
    }

    fn report(&self) -> Report {
        Report {
            right: self.to_right.stats().clone(),
            left: self.to_left.stats().clone(),
            overrun: self.left.overrun() + self.right.overrun(),
            late: self.late,
            late_max_us: self.late_max / 1000,
        }
    }
}

/// Without it the wire works but is less exact, which the report says.
fn raise() {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    if let Ok(value) = PRIORITY.try_into() {
        let priority = ThreadPriority::Crossplatform(value);
        let _ = set_thread_priority_and_policy(thread_native_id(), priority, policy);
    }
}

/// Moves up to a batch of frames into `line`; whether there were fewer.
fn take(port: &mut Port, begin: Instant, line: &mut Line) -> Result<bool> {
    for _ in 0..BATCH {
        match port.receive()? {
            Received::Frame(frame, age) => {
                line.offer(nanos(begin.elapsed().saturating_sub(age)), frame);
            }
            Received::Outgoing => {}
            Received::Nothing => return Ok(true),
        }
    }
    Ok(false)
}

fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
