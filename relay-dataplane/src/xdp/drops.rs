//! Dropped frames, one by one: what the XDP program logs, as events of `tracing`.
//!
//! The program writes to a ring that it shares with this process. A thread empties it a few times
//! a second, so the ring's size bounds both the work and the lines: what does not fit is lost, and
//! only its counter tells of it.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use relay_abi::xdp::Reason;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// The target of the events: they are at level debug.
pub const TARGET: &str = "xdp";

/// The ring: [`aya_log`]'s own.
pub(super) const RING: &str = "AYA_LOGS";

/// Time between two looks at the rings. With rings of 128 KiB and records of 256 bytes, an
/// interface logs at most 5,000 frames a second.
const INTERVAL: Duration = Duration::from_millis(100);

/// What one interface's program has to say.
pub struct DropLog {
    ring: EbpfLogger<Forward>,
}

impl DropLog {
    /// The ring of `ebpf`, whose program is loaded; none if it was taken before.
    pub(super) fn take(ebpf: &mut Ebpf, interface: &str) -> Option<DropLog> {
        let forward = Forward { interface: interface.to_owned() };
        let ring = EbpfLogger::init_with_logger(ebpf, forward).ok()?;
        Some(DropLog { ring })
    }

    /// Emits an event for each record in the ring.
    pub fn drain(&mut self) {
        self.ring.flush();
    }
}

/// The thread that drains the rings. It ends, after a last look, when this is dropped.
pub struct DropLogger {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DropLogger {
    /// Starts the thread. It has the priority of its parent, which must be an ordinary one.
    pub fn start(mut logs: Vec<DropLog>) -> io::Result<DropLogger> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            let mut last = false;
            while !last {
                thread::park_timeout(INTERVAL);
                last = stopped.load(Ordering::Relaxed);
                logs.iter_mut().for_each(DropLog::drain);
            }
        };
        let thread = thread::Builder::new().name("xdp-log".to_owned()).spawn(run)?;
        Ok(DropLogger { stop, thread: Some(thread) })
    }
}

impl Drop for DropLogger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Gives a record its interface, and its reason the name of the counter.
struct Forward {
    interface: String,
}

impl Log for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        let (number, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let reason = number.parse().ok().and_then(|number: usize| Reason::ALL.get(number));
        let reason = reason.map_or(number, |reason| reason.as_str());
        tracing::debug!(target: TARGET, interface = self.interface, reason, "dropped {rest}");
    }

    fn flush(&self) {}
}
