//! When a machine has to be looked at again. Between its events nothing changes there, so looking at
//! it whenever anything happens anywhere in the world would cost more than all relays do.

use relay_core::time::Instant;

/// Looks after something has happened: whatever the first one leads to inside of the machine (an
/// application reads, then it ends its stream), the second one finishes.
const LOOKS: u8 = 2;

/// Whether a machine rests.
#[derive(Debug)]
pub struct Rest {
    /// Looks that are still due, whatever the time is.
    looks: u8,
    /// When the machine has something to do by itself, if it was asked.
    next_at: Option<Option<Instant>>,
}

impl Default for Rest {
    fn default() -> Self {
        Rest { looks: LOOKS, next_at: None }
    }
}

impl Rest {
    /// Something comes in from outside.
    pub fn disturb(&mut self) {
        self.looks = LOOKS;
        self.next_at = None;
    }

    /// Whether it is time to look; then the machine is looked at.
    pub fn ends(&mut self, now: Instant) -> bool {
        let is_due = self.next_at.is_none_or(|at| at.is_some_and(|at| at <= now));
        if is_due {
            self.looks = LOOKS;
        }
        if self.looks == 0 {
            return false;
        }
        self.looks -= 1;
        self.next_at = None;
        true
    }

    /// When the machine has something to do by itself, if that is known.
    pub fn next_at(&self) -> Option<Option<Instant>> {
        self.next_at
    }

    /// Notes when the machine has something to do by itself.
    pub fn until(&mut self, next_at: Option<Instant>) -> Option<Instant> {
        self.next_at = Some(next_at);
        next_at
    }
}
