//! What a run has shown, and what was wrong with it.

use super::{BEGIN, World};
use crate::client::{Clients, Outcome};
use crate::council::Council;
use crate::plan::Conduct;
use crate::setup;

impl World {
    pub(super) fn judge(&mut self) {
        for failure in core::mem::take(&mut self.wire.conflicts) {
            self.fail(failure);
        }
        for failure in core::mem::take(&mut self.backend.failures) {
            self.fail(failure);
        }
        for failure in core::mem::take(&mut self.audit.failures) {
            self.fail(failure);
        }
        if let Some(leases) = self.leases.take() {
            self.report.leases = leases.checked;
            leases.failures.into_iter().for_each(|failure| self.fail(failure));
        }
        self.report.seals = self.seals.checked + self.seals.compare(&self.wire);
        for failure in core::mem::take(&mut self.seals.failures) {
            self.fail(failure);
        }
        let repeated: Vec<u64> =
            self.backend.requests.iter().filter(|(_, n)| **n > 1).map(|(id, _)| *id).collect();
        for id in repeated {
            self.fail(format!("request {id} came twice"));
        }
        for index in 0..self.clients.flows.len() {
            self.judge_flow(index);
        }
        for relay in 0..self.relays.len() {
            self.count_dropped(relay);
        }
        let malformed = self.report.dropped.get("peer_malformed").copied().unwrap_or(0);
        if malformed > 0 && !self.options.forges() {
            self.fail(format!("relays refused {malformed} datagrams of each other"));
        }
        if !self.report.failures.is_empty() {
            self.describe();
        }
        self.report.handed_over = self.council.as_ref().map_or(0, Council::handed_over);
        self.report.reconfigured = self.council.as_ref().map_or(0, Council::reconfigured);
        self.report.captured = self.network.captured.take().unwrap_or_default();
        self.report.flows = self.clients.flows.len();
        self.report.records = self.wire.records(setup::PORT);
        self.report.compared = self.audit.compared;
        self.report.flights = self.audit.flights;
        self.report.load = self.audit.load;
        self.report.excused = self.excused.len();
        let flows = self.clients.flows.iter();
        self.report.resets = flows.filter_map(|flow| self.wire.resets.get(&flow.port)).sum();
        self.report.forgotten_fins =
            self.clients.host.fins.repeated + self.backend.host.fins.repeated;
        self.report.digest = self.wire.digest();
        self.report.frames = self.wire.frames;
        self.report.took = self.now - BEGIN;
    }

    fn judge_flow(&mut self, index: usize) {
        let flow = &self.clients.flows[index];
        let id = flow.plan.id;
        let outcome = flow.outcome.clone();
        let served = self.backend.is_done(id);
        self.report.resumed += usize::from(flow.is_resumed());
        self.report.outcomes.push(outcome.clone());
        let good = match (&flow.plan.conduct, &outcome) {
            (_, Some(Outcome::Wrong(_))) => false,
            (Conduct::Honest, _) if !self.options.backend_listens => true,
            (Conduct::Honest, Some(Outcome::Done)) => served,
            (Conduct::Honest, _) => false,
            // What these have to see is for scenarios to say.
            (_, outcome) => outcome.is_some(),
        };
        if good {
            self.report.completed += 1;
        }
        let excused = self.excused.contains(&id) && !matches!(outcome, Some(Outcome::Wrong(_)));
        if !good && !excused {
            self.fail(format!("connection {id} ended with {outcome:?}, served {served}"));
        }
    }

    /// Adds up the counters of a relay whose life ends.
    pub(crate) fn count_dropped(&mut self, index: usize) {
        let Some(units) = &self.relays[index].units else { return };
        for (name, value) in units.counters().iter().filter(|(_, value)| *value > 0) {
            *self.report.dropped.entry(name).or_default() += value;
        }
    }

    fn describe(&mut self) {
        let mut lines = Vec::new();
        let Clients { host, flows, .. } = &mut self.clients;
        lines.extend(flows.iter_mut().map(|flow| flow.describe(host)));
        lines.extend(self.backend.describe());
        for relay in &self.relays {
            for node in relay.units.iter().flat_map(|units| units.nodes()) {
                lines.push(format!("{:?}", node.report(self.now)));
                lines.extend(node.flows().map(|flow| format!("{flow:?}")));
            }
        }
        lines.iter().for_each(|line| self.note(line));
    }
}
