//! Which datagrams came before.

/// Counters below the highest one seen that are still told apart.
const REPLAY_WINDOW: u64 = 1024;

/// The counters seen, as in RFC 4303 section 3.4.3.
#[derive(Default)]
pub(super) struct ReplayWindow {
    highest: u64,
    seen: [u64; (REPLAY_WINDOW / 64) as usize],
}

impl ReplayWindow {
    /// Whether a datagram with this counter came before, or is too old to tell.
    pub fn is_seen(&self, counter: u64) -> bool {
        if counter > self.highest {
            return false;
        }
        if self.highest - counter >= REPLAY_WINDOW {
            return true;
        }
        let (word, bit) = Self::place(counter);
        self.seen[word] & bit != 0
    }

    /// One came.
    pub fn mark(&mut self, counter: u64) {
        if counter > self.highest {
            let first = self.highest + 1;
            for passed in first.max(counter.saturating_sub(REPLAY_WINDOW - 1))..=counter {
                let (word, bit) = Self::place(passed);
                self.seen[word] &= !bit;
            }
            self.highest = counter;
        }
        let (word, bit) = Self::place(counter);
        self.seen[word] |= bit;
    }

    fn place(counter: u64) -> (usize, u64) {
        let slot = counter % REPLAY_WINDOW;
        ((slot / 64) as usize, 1 << (slot % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replay_window_moves_on() {
        let mut window = ReplayWindow::default();
        for counter in [1, 5, 3, 2000, 1990, 1000] {
            assert!(!window.is_seen(counter), "{counter}");
            window.mark(counter);
            assert!(window.is_seen(counter));
        }
        assert!(window.is_seen(5), "below the window");
        assert!(!window.is_seen(1991));
    }
}
