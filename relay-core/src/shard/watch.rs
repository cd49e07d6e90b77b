//! Clients whose segments belong to no flow: which of them are told so, and when.

use std::collections::BTreeMap;

use crate::frame::Tuple;
use crate::time::{Duration, Instant};

/// A client's segment that belongs to nothing is answered with a reset only when its segments have
/// belonged to nothing for so long. Later data may overtake what opens a connection, and go on
/// overtaking it for as long as that is lost; a client whose relay has died before anything was
/// replicated begins again only when it retransmits (RFC 6298: after a second, or two).
const PATIENCE: Duration = Duration::from_secs(3);

/// Segments that are so far apart have nothing to do with each other: ends may be used again.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Clients that are watched at a time; when there are more, the watch begins anew.
const STRANGERS_MAX: usize = 4096;

/// When a client's segments were seen first, and last.
#[derive(Debug, Default)]
pub(super) struct Watch {
    strangers: BTreeMap<Tuple, (Instant, Instant)>,
}

impl Watch {
    /// A segment of this client belongs to no flow. Returns whether it has to be told: then the
    /// watch begins anew.
    pub fn is_persistent(&mut self, now: Instant, tuple: &Tuple) -> bool {
        if self.strangers.len() >= STRANGERS_MAX && !self.strangers.contains_key(tuple) {
            self.strangers.clear();
        }
        let (first, last) = self.strangers.entry(*tuple).or_insert((now, now));
        if now - *last >= PAUSE_MAX {
            *first = now;
        }
        *last = now;
        let is_persistent = now - *first >= PATIENCE;
        if is_persistent {
            self.forget(tuple);
        }
        is_persistent
    }

    /// This client has a flow now.
    pub fn forget(&mut self, tuple: &Tuple) {
        self.strangers.remove(tuple);
    }

    pub fn len(&self) -> usize {
        self.strangers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{IpAddress, IpEndpoint};

    fn tuple(port: u16) -> Tuple {
        let end = |last, port| IpEndpoint::new(IpAddress::v4(10, 99, 1, last), port);
        Tuple { local: end(100, 443), remote: end(10, port) }
    }

    #[test]
    fn who_goes_on_is_told_and_who_comes_back_is_not() {
        let at = |ms: u64| Instant::from_millis(100_000 + ms);
        let mut watch = Watch::default();
        let told =
            [0, 100, 1_000, 2_999, 3_000, 3_001].map(|ms| watch.is_persistent(at(ms), &tuple(1)));
        assert_eq!(told, [false, false, false, false, true, false]);
        assert!(!watch.is_persistent(at(90_000), &tuple(1)), "another connection, perhaps");
        watch.forget(&tuple(1));
        assert!(!watch.is_persistent(at(94_000), &tuple(1)));
    }

    #[test]
    fn the_watch_is_bounded() {
        let mut watch = Watch::default();
        for port in 0..=u16::MAX {
            watch.is_persistent(Instant::ZERO, &tuple(port));
            assert!(watch.len() <= STRANGERS_MAX);
        }
    }
}
