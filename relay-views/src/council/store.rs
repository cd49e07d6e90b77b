//! The log in memory, as the engine reads it.

use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use crate::log::{Batch, Record};
use crate::view::View;

/// Everything in a log, and the state that follows from what of it is applied.
#[derive(Clone, Debug)]
pub struct Store {
    hard: HardState,
    /// Of the entry before `entries`.
    before: Place,
    entries: Vec<Entry>,
    applied: Place,
    configuration: ConfState,
    view: Arc<View>,
}

/// Why records can not be a log that this program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Inconsistent(pub &'static str);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    index: u64,
    term: u64,
}

impl Store {
    /// The store of a log with these records; without any it is blank and waits to be told.
    pub fn restore(records: &[Record]) -> Result<Store, Inconsistent> {
        let mut store = Store {
            hard: HardState::default(),
            before: Place::default(),
            entries: Vec::new(),
            applied: Place::default(),
            configuration: ConfState::default(),
            view: Arc::new(View::genesis()),
        };
        // The engine panics on term 0 with priorities.
        store.hard.term = 1;
        for (place, record) in records.iter().enumerate() {
            match record {
                Record::Snapshot(snapshot) if place == 0 => store.install(snapshot)?,
                Record::Snapshot(_) => return Err(Inconsistent("a snapshot amid other records")),
                Record::Hard(hard) => store.hard = hard.clone(),
                Record::Entry(entry) => store.append(entry)?,
            }
        }
        let last = store.last();
        if store.hard.commit > last.index || store.hard.commit < store.before.index {
            return Err(Inconsistent("entries that were committed are not there"));
        }
        if last.term > store.hard.term {
            return Err(Inconsistent("an entry of a term that never was"));
        }
        Ok(store)
    }

    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    pub fn applied(&self) -> u64 {
        self.applied.index
    }

    pub fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    pub fn set_commit(&mut self, commit: u64) -> &HardState {
        self.hard.commit = commit;
        &self.hard
    }

    /// Adds an entry; those with its index and above are void.
    pub fn append(&mut self, entry: &Entry) -> Result<(), Inconsistent> {
        let gap = entry.index > self.last().index + 1;
        if gap || entry.index <= self.before.index {
            return Err(Inconsistent("an entry that does not follow the one before"));
        }
        self.entries.truncate((entry.index - self.before.index - 1) as usize);
        self.entries.push(entry.clone());
        Ok(())
    }

    /// What follows from the entry `index`, or from everything up to it.
    pub fn apply(&mut self, index: u64, change: Option<View>, configuration: Option<ConfState>) {
        self.applied = Place { index, term: self.term_of(index).unwrap_or(self.applied.term) };
        if let Some(view) = change {
            self.view = Arc::new(view);
        }
        if let Some(configuration) = configuration {
            self.configuration = configuration;
        }
    }

    /// Replaces everything by a snapshot.
    pub fn install(&mut self, snapshot: &Snapshot) -> Result<(), Inconsistent> {
        let view = View::decode(&snapshot.data);
        self.view = Arc::new(view.map_err(|_| Inconsistent("a snapshot that is no view"))?);
        let metadata = snapshot.get_metadata();
        self.before = Place { index: metadata.index, term: metadata.term };
        self.applied = self.before;
        self.configuration = metadata.get_conf_state().clone();
        self.entries.clear();
        self.hard.commit = self.hard.commit.max(metadata.index);
        self.hard.term = self.hard.term.max(metadata.term);
        Ok(())
    }

    /// Forgets entries that are applied, when there are more than `max`; the batch that makes the
    /// log do so. A quarter of them is kept in memory for followers that are a little late; others
    /// get a snapshot.
    pub fn compact(&mut self, max: usize) -> Option<Batch> {
        let spent = (self.applied.index - self.before.index) as usize;
        let forgotten = spent - max.min(spent) / 4;
        if spent <= max || forgotten == 0 {
            return None;
        }
        self.before = Place {
            index: self.entries[forgotten - 1].index,
            term: self.entries[forgotten - 1].term,
        };
        self.entries.drain(..forgotten);
        Some(self.whole())
    }

    /// The whole log, as a batch that replaces it.
    pub fn whole(&self) -> Batch {
        let after = self.entries.iter().filter(|entry| entry.index > self.applied.index);
        let mut records = vec![Record::Snapshot(self.present())];
        records.push(Record::Hard(self.hard.clone()));
        records.extend(after.cloned().map(Record::Entry));
        Batch { records, sync: true, replace: true }
    }

    fn present(&self) -> Snapshot {
        let data = self.view.encode().into();
        let mut snapshot = Snapshot { data, ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.applied.index, self.applied.term);
        metadata.set_conf_state(self.configuration.clone());
        snapshot
    }

    fn last(&self) -> Place {
        let last = self.entries.last();
        last.map_or(self.before, |entry| Place { index: entry.index, term: entry.term })
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.before.index {
            return Some(self.before.term);
        }
        let place = index.checked_sub(self.before.index + 1)?;
        self.entries.get(place as usize).map(|entry| entry.term)
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.configuration.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let (max, first) = (max_size.into(), self.before.index + 1);
        let (Some(low), Some(high)) = (low.checked_sub(first), high.checked_sub(first)) else {
            return Err(Error::Store(StorageError::Compacted));
        };
        let range = self.entries.get(low as usize..high as usize);
        let mut entries = range.ok_or(Error::Store(StorageError::Unavailable))?.to_vec();
        raft::util::limit_size(&mut entries, max);
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let compacted = index < self.before.index;
        let missing = if compacted { StorageError::Compacted } else { StorageError::Unavailable };
        self.term_of(index).ok_or(Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.applied.index < request_index.max(1) {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(self.present())
    }
}
