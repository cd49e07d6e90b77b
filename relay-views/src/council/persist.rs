//! What has to be in the log before it may be acted upon, and what follows when it is.

use std::sync::Arc;

use raft::eraftpb::{Entry, Message};
use raft::{Ready, StateRole};

use super::wire::{self, Parcel, Proposal};
use super::{Council, Event};
use crate::id::Seat;
use crate::log::{Batch, Record};

/// A batch that is being written, and what it is for.
pub(super) struct Waiting {
    batch: Batch,
    ready: Option<Box<Ready>>,
}

impl Council {
    /// What has to be written next, if anything: the same batch until [`Council::written`] is
    /// called.
    pub fn poll_batch(&mut self) -> Option<&Batch> {
        while self.waiting.is_none() {
            let (batch, ready) = if self.raw.has_ready() {
                let (batch, ready) = self.take_ready();
                (batch, Some(Box::new(ready)))
            } else if self.unsaved {
                // Before any later entry: else a restart could forget who votes (two leaders).
                let hard = self.raw.raft.hard_state();
                let batch = Batch { records: vec![Record::Hard(hard)], ..Batch::default() };
                self.unsaved = false;
                (batch, None)
            } else {
                (self.raw.mut_store().compact(self.settings.compact_after)?, None)
            };
            self.waiting = Some(Waiting { batch, ready });
            if self.waiting.as_ref().is_some_and(|waiting| waiting.batch.records.is_empty()) {
                self.written();
            }
        }
        self.waiting.as_ref().map(|waiting| &waiting.batch)
    }

    /// The batch is in the log, and on the disk if it asked for that.
    pub fn written(&mut self) {
        let Some(Waiting { ready, .. }) = self.waiting.take() else { return };
        if let Some(ready) = ready {
            self.settle_ready(*ready);
        }
        self.draw_timeout();
    }

    fn take_ready(&mut self) -> (Batch, Ready) {
        let mut ready = self.raw.ready();
        self.post(ready.take_messages());
        let mut batch = Batch { sync: ready.must_sync(), ..Batch::default() };
        if !ready.snapshot().is_empty() {
            batch.replace = true;
            batch.records.push(Record::Snapshot(ready.snapshot().clone()));
        }
        if self.unsaved && ready.hs().is_none() {
            batch.records.push(Record::Hard(self.raw.raft.hard_state()));
        }
        batch.records.extend(ready.hs().cloned().map(Record::Hard));
        if batch.replace && ready.hs().is_none() {
            batch.records.push(Record::Hard(self.raw.raft.hard_state()));
        }
        batch.records.extend(ready.entries().iter().cloned().map(Record::Entry));
        if !batch.records.is_empty() {
            self.unsaved = false;
        }
        (batch, ready)
    }

    fn settle_ready(&mut self, mut ready: Ready) {
        let store = self.raw.mut_store();
        if !ready.snapshot().is_empty() {
            // Its view was decoded when it came.
            let _ = store.install(ready.snapshot());
            let view = Arc::clone(store.view());
            self.tell([Event::View(view)]);
        }
        let store = self.raw.mut_store();
        for entry in ready.entries() {
            // The engine's own entries follow each other.
            let _ = store.append(entry);
        }
        if let Some(hard) = ready.hs() {
            store.set_hard(hard.clone());
        }
        self.post(ready.take_persisted_messages());
        self.apply(ready.take_committed_entries());
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().set_commit(commit);
            self.unsaved = true;
        }
        self.post(light.take_messages());
        self.apply(light.take_committed_entries());
        self.raw.advance_apply();
    }

    fn post(&mut self, messages: Vec<Message>) {
        for message in messages.into_iter().filter(wire::exists) {
            if let Some(seat) = Seat::from_number(message.to) {
                self.send(seat.node(), &Parcel::Raft(message));
            }
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if let Some(changes) = wire::changes(&entry) {
                // One that can not be applied changes nothing, at every node alike.
                let configuration = self.raw.apply_conf_change(&changes).ok();
                self.raw.mut_store().apply(entry.index, None, configuration);
                self.step_down_if_removed();
            } else {
                let view = self.decide(&entry);
                let news = view.is_some();
                self.raw.mut_store().apply(entry.index, view, None);
                let view = news.then(|| Event::View(Arc::clone(self.view())));
                self.tell(view);
            }
        }
    }

    /// The view after an entry, if it makes one. What nobody can read is refused by everybody.
    fn decide(&mut self, entry: &Entry) -> Option<crate::View> {
        let proposal = Proposal::decode(&entry.data).ok()?;
        let result = self.view().apply(&proposal.command);
        if proposal.author == self.settings.seat {
            let number = result.as_ref().map(|view| view.number).map_err(|refusal| *refusal);
            let ticket = self.proposals.settle(proposal.number, number.err());
            self.tell(ticket.map(|ticket| Event::Decided(ticket, number)));
        }
        result.ok()
    }

    /// A leader that is no voter any more would go on leading, and panic at the next commit.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            let term = raft.term;
            raft.become_follower(term, 0);
            self.draw_timeout();
        }
    }
}
