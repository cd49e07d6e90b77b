//! What an owner may do, and what becomes of it when it owns no more.

use super::Shard;
use crate::canary::{Canary, breaks};
use crate::config::Settings;
use crate::flow::{Effects, Turn};
use crate::reason::Counters;
use crate::replica::Replicas;
use crate::time::Instant;

impl Shard {
    /// Whether what no gate has to agree to may be done (rule 17). If not, answers that wait do not
    /// leave either: frames that came in during a pause were answered before the pause was noticed.
    pub fn set_lease(&mut self, has_lease: bool) {
        self.has_lease = has_lease;
        if !has_lease && !breaks(Canary::KeepAnswers) {
            self.client_replies.clear();
            self.backend_replies.clear();
            self.hops.forget_waiting();
        }
    }

    /// Whether everything that was received, and what still comes, is replicated as it comes: another
    /// node goes on soon.
    pub fn set_hurry(&mut self, hurries: bool) {
        if hurries && !self.hurries {
            let ids: Vec<_> = self.flows.keys().copied().collect();
            ids.into_iter().for_each(|id| self.touch(id));
        }
        self.hurries = hurries;
    }

    /// Stops owning: everything is forgotten, but what others must know to go on is returned, as
    /// encoded messages. Nobody is told.
    pub fn lay_down(
        &mut self,
        now: Instant,
        counters: &mut Counters,
        settings: &Settings,
    ) -> Vec<Vec<u8>> {
        let (mut recorder, mut effects) = (Replicas::recorder(), Effects::new());
        for slot in self.flows.values_mut().filter(|slot| slot.flow.is_replicated()) {
            let io = (now, &mut recorder);
            slot.flow.replicate(&mut Turn::new(io, &mut effects, counters, settings));
        }
        self.flows.clear();
        self.legs.clear();
        self.timers.clear();
        self.effects.clear();
        for queue in [&mut self.dirty, &mut self.client_ready, &mut self.backend_ready] {
            queue.clear();
        }
        for replies in [&mut self.client_replies, &mut self.backend_replies] {
            replies.clear();
        }
        self.hops.forget_waiting();
        self.lingering.clear();
        self.forgotten.clear();
        (self.lingerers, self.replicated, self.hurries) = (0, 0, false);
        recorder.into_recorded()
    }
}
