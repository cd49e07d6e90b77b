//! When a member that was ejected asks to be one again. Who is ejected by mistake, on a busy machine or
//! over a bad link, would be so again and again if it came back at once: each time it is taught
//! everything, and each time all wait for its ejection.

use std::time::Duration;

use crate::id::{Incarnation, NodeId};
use crate::view::{State, View};

/// How long an ejected member stays away at first; doubled up to [`REST_MAX`].
const REST_MIN: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(4);

/// Who was a member for so long starts with the shortest rest again.
const FORGIVEN: Duration = Duration::from_secs(5);

/// One life's stays in the view, as far as its own council has seen them.
pub(super) struct Readmission {
    is_in: bool,
    /// Since when that is so.
    since: Duration,
    rest: Duration,
}

impl Readmission {
    pub(super) fn new() -> Self {
        Readmission { is_in: false, since: Duration::ZERO, rest: Duration::ZERO }
    }

    /// Looks at the newest view; true if this life of `node` may ask to join it.
    pub(super) fn look(
        &mut self,
        now: Duration,
        view: &View,
        (node, life): (NodeId, Incarnation),
    ) -> bool {
        let is_in = view.names(node, life);
        if is_in != self.is_in {
            let stay = now.saturating_sub(self.since);
            if !is_in {
                self.rest = if stay < FORGIVEN { self.rest * 2 } else { REST_MIN };
                self.rest = self.rest.clamp(REST_MIN, REST_MAX);
            }
            (self.is_in, self.since) = (is_in, now);
        }
        let member = view.members.get(&node);
        let was_ejected = member.is_some_and(|m| m.incarnation == life && m.state == State::Dead);
        // Where nobody is left its flows are waited for (rule 18).
        let is_needed = view.stalled().next().is_some();
        !was_ejected || is_needed || now.saturating_sub(self.since) >= self.rest
    }
}
