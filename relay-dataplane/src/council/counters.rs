//! What happens on links and queues, counted; and complaints, not all of which are logged.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two complaints of one kind in the log.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);

/// The same complaint comes again after this time.
const COMPLAINT_REPEAT: Duration = Duration::from_secs(60);

/// Events since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections to peers that came about.
    pub connected: AtomicU64,
    /// Connections from peers that were let in.
    pub accepted: AtomicU64,
    /// Peers whose certificate is not of the cluster's authority.
    pub refused_authority: AtomicU64,
    /// Peers whose certificate is for another node than was expected, or for no member.
    pub refused_name: AtomicU64,
    /// Peers that refuse this node's certificate.
    pub refused_by_peer: AtomicU64,
    /// Connections that ended before a greeting was understood, for other reasons.
    pub refused_other: AtomicU64,
    /// Connections for which there was no room.
    pub refused_crowd: AtomicU64,
    /// Messages that were too many for a link.
    pub outbox_full: AtomicU64,
    /// Messages that the council did not take.
    pub dropped: AtomicU64,
    /// Proposals of the worker that were too many.
    pub proposals_full: AtomicU64,
    /// Times that the worker hung.
    pub worker_hung: AtomicU64,
}

/// One more of them.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// All of them by name.
    pub fn all(&self) -> [(&'static str, u64); 11] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("connected", value(&self.connected)),
            ("accepted", value(&self.accepted)),
            ("refused_authority", value(&self.refused_authority)),
            ("refused_name", value(&self.refused_name)),
            ("refused_by_peer", value(&self.refused_by_peer)),
            ("refused_other", value(&self.refused_other)),
            ("refused_crowd", value(&self.refused_crowd)),
            ("outbox_full", value(&self.outbox_full)),
            ("dropped", value(&self.dropped)),
            ("proposals_full", value(&self.proposals_full)),
            ("worker_hung", value(&self.worker_hung)),
        ]
    }
}

/// Decides which of many complaints are worth a line: strangers must not fill the log.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Option<(String, Instant)>>);

impl Complaints {
    /// Logs `text`, unless it was said lately, or something else was just now.
    pub fn warn(&self, text: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = last.as_ref().is_some_and(|(said, at)| {
            let since = at.elapsed();
            since < COMPLAINT_PAUSE || said == text && since < COMPLAINT_REPEAT
        });
        if !silent {
            tracing::warn!("{text}");
            *last = Some((text.to_owned(), Instant::now()));
        }
    }

    /// What was complained about is over.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
