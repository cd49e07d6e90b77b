//! Whom the leader believes. Everybody may report silence; a node that is deaf would report all
//! others, and where a link between two fails each of them reports the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Council;
use crate::command::Command;
use crate::id::{Incarnation, NodeId, NodeSet, Seat};

/// Whom the leader heard within this time is not dead for it, whoever says so.
const HEARD_RECENTLY: Duration = Duration::from_millis(25);

/// How long the leader waits for other opinions about somebody whom it hears.
const WINDOW: Duration = Duration::from_millis(50);

/// A report that is not repeated is forgotten after this time.
const MEMORY: Duration = Duration::from_millis(400);

/// Who reported whom, since when, and when it was said last.
#[derive(Default)]
pub(super) struct Reports(BTreeMap<(NodeId, NodeId), (Duration, Duration)>);

impl Council {
    /// A command as the leader may propose it: of an ejection, what it believes at once. The rest
    /// it keeps in mind.
    pub(super) fn temper(&mut self, command: &Command, author: Seat) -> Option<Command> {
        let Command::Eject { victims, by, seen } = command else { return Some(command.clone()) };
        if !self.hears_majority_without(victims) {
            return None;
        }
        let has_stayed = |life: (NodeId, Incarnation)| self.view().has_stayed(life, *seen);
        if !has_stayed(*by) || !victims.iter().any(|victim| has_stayed(*victim)) {
            return None;
        }
        // Who says so of oneself is believed.
        let leaves = |victim: (NodeId, Incarnation)| victim == *by && author.node() == by.0;
        let sure = victims.iter().copied();
        let sure = sure.filter(|victim| leaves(*victim) || self.believes(*victim, *by));
        let sure: Vec<_> = sure.collect();
        for (victim, _) in victims {
            let report = (self.now, self.now);
            let kept = self.duties.reports.0.entry((by.0, *victim)).or_insert(report);
            kept.1 = self.now;
        }
        let sure = match sure.is_empty() {
            true => {
                let agreed = victims.iter().copied().filter(|victim| self.many_say(victim.0));
                agreed.collect()
            }
            false => sure,
        };
        (!sure.is_empty()).then_some(Command::Eject { victims: sure, by: *by, seen: *seen })
    }

    /// Reports that nobody confirmed: ejects the one who is at odds with most others.
    pub(super) fn resolve_reports(&mut self) {
        let (now, view) = (self.now, std::sync::Arc::clone(self.view()));
        let alive = view.alive();
        let current =
            |(by, victim): &(NodeId, NodeId)| alive.contains(*by) && alive.contains(*victim);
        let reports = &mut self.duties.reports.0;
        reports.retain(|pair, (_, last)| current(pair) && now.saturating_sub(*last) <= MEMORY);
        let ripe = |since: &Duration| now.saturating_sub(*since) > WINDOW;
        let Some((pair, _)) = reports.iter().find(|(_, (since, _))| ripe(since)) else { return };
        let at_odds = |node: NodeId| {
            let others = reports.keys().filter_map(|(a, b)| match (*a == node, *b == node) {
                (true, _) => Some(*b),
                (_, true) => Some(*a),
                _ => None,
            });
            others.collect::<BTreeSet<_>>().len()
        };
        let (reporter, victim) = *pair;
        // In doubt the one who was reported.
        let worst = if at_odds(reporter) > at_odds(victim) { reporter } else { victim };
        let other = if worst == reporter { victim } else { reporter };
        reports.retain(|(a, b), _| *a != worst && *b != worst);
        if let Some(by) = view.members.get(&other) {
            let by = (other, by.incarnation);
            self.propose_believed(view.eject(NodeSet::of(worst), by));
        }
    }

    /// Whether the leader heard the member's seat just now.
    pub(super) fn hears(&self, node: NodeId) -> bool {
        let seat = self.view().members.get(&node).map(|member| member.seat);
        let heard = seat.and_then(|seat| self.heard.get(&seat));
        heard.is_some_and(|at| self.now.saturating_sub(*at) <= HEARD_RECENTLY)
    }

    /// Whether a majority of the voters, `victims` left out, was heard just now. A leader that hears none may be
    /// deaf itself: it can decide nothing, but what it proposes gets into the logs of others, and the next leader
    /// decides it.
    pub(super) fn hears_majority_without(&self, victims: &[(NodeId, Incarnation)]) -> bool {
        let victims = victims.iter().map(|(node, _)| *node).collect();
        self.has_heard_majority(victims, |at| self.now.saturating_sub(at) <= HEARD_RECENTLY)
    }

    /// Whether such a majority was heard after somebody fell silent.
    pub(super) fn hears_majority_since(&self, victims: NodeSet) -> bool {
        self.has_heard_majority(victims, |at| at > self.silent_since)
    }

    fn has_heard_majority(&self, victims: NodeSet, counts: impl Fn(Duration) -> bool) -> bool {
        let counts =
            |(seat, at): &(&Seat, &Duration)| counts(**at) && !victims.contains(seat.node());
        let heard = self.heard.iter().filter(counts).map(|(seat, _)| seat.number());
        let heard = heard.chain([self.settings.seat.number()]).collect();
        self.raw.raft.prs().has_quorum(&heard)
    }

    fn believes(&self, victim: (NodeId, Incarnation), by: (NodeId, Incarnation)) -> bool {
        let me = self.settings.seat.node();
        victim.0 != me && (by.0 == me || self.silent.contains(victim.0) || !self.hears(victim.0))
    }

    /// Whether most of the others reported it: its council runs, but its workers do not.
    fn many_say(&self, victim: NodeId) -> bool {
        let reporters = self.duties.reports.0.keys().filter(|(_, who)| *who == victim).count();
        let others = self.view().alive().without(victim).len();
        reporters * 2 > others
    }
}
