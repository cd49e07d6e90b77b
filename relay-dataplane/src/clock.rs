//! The process's clock for the core: it begins at the wall clock, so that nodes roughly agree, and
//! then follows the monotonic clock, so that it never jumps.

use std::time::{Instant as Monotonic, SystemTime, UNIX_EPOCH};

use relay_core::time::Instant;
use relay_core::tls::{TimeProvider, UnixTime};

/// Gives the core its time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Monotonic,
    began_at: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::try_from(since_epoch.as_nanos()).unwrap_or_default();
        Clock { began: Monotonic::now(), began_at: Instant::from_nanos(nanos) }
    }

    /// The time of this turn.
    pub fn now(&self) -> Instant {
        self.began_at + self.began.elapsed()
    }

    /// Milliseconds since the process began.
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The wall clock for TLS: dates of tickets and certificates.
#[derive(Debug)]
pub struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::now())
    }
}
