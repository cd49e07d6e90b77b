//! A flow's append-only log toward the client: where every record lies in both streams.
//!
//! Each entry but the FIN is one record, so the ciphertext is a function of the log and of the
//! plaintext (rules D1-D3 and 13).

use std::collections::VecDeque;

use relay_abi::peer::{Delivered, ENTRIES_MAX, Entry};

/// A place between two records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Offset in the backend's stream.
    pub backend: u64,
    /// Offset in the stream to the client.
    pub client: u64,
    /// Sequence number of the next record.
    pub sequence: u64,
    /// Key generation of the next record.
    pub generation: u32,
}

/// An entry and the place behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub entry: Entry,
    pub end: Point,
}

/// The entries that the client has not acknowledged.
#[derive(Clone, Debug)]
pub struct Log {
    delivered: Delivered,
    entries: VecDeque<Placed>,
    /// Bytes that a record has in addition to its plaintext.
    overhead: u64,
}

impl Log {
    /// An empty log behind `delivered`.
    pub fn new(delivered: Delivered, overhead: usize) -> Self {
        Log { delivered, entries: VecDeque::new(), overhead: overhead as u64 }
    }

    /// W: everything below is acknowledged by the client.
    pub fn delivered(&self) -> Delivered {
        self.delivered
    }

    /// The place behind the last entry.
    pub fn end(&self) -> Point {
        self.entries.back().map_or_else(|| self.start(), |placed| placed.end)
    }

    /// The place before the first entry.
    pub fn start(&self) -> Point {
        let Delivered { backend, client, sequence, generation, .. } = self.delivered;
        Point { backend, client, sequence, generation }
    }

    /// Index behind the last entry.
    pub fn end_index(&self) -> u64 {
        self.delivered.index + self.entries.len() as u64
    }

    /// The entry at `index`, if the client has not acknowledged it.
    pub fn get(&self, index: u64) -> Option<&Placed> {
        self.entries.get(usize::try_from(index.checked_sub(self.delivered.index)?).ok()?)
    }

    /// Every entry from W on.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.entries.iter().map(|placed| placed.entry)
    }

    /// Whether another entry fits into the log.
    pub fn has_room(&self) -> bool {
        self.entries.len() < ENTRIES_MAX - 2 // close_notify and FIN always fit
    }

    /// Whether the log ends with the FIN.
    pub fn is_finished(&self) -> bool {
        self.delivered.fin || self.entries.back().is_some_and(|p| p.entry == Entry::Fin)
    }

    /// Appends an entry and returns the place behind it.
    pub fn push(&mut self, entry: Entry) -> Point {
        let mut end = self.end();
        end.client += self.record_len(&entry);
        match entry {
            Entry::Data { length, .. } => end.backend += u64::from(length),
            Entry::KeyUpdate { .. } | Entry::Alert { .. } | Entry::Fin => {}
        }
        match entry {
            Entry::Data { .. } | Entry::Alert { .. } => end.sequence += 1,
            Entry::KeyUpdate { .. } => {
                end.generation += 1;
                end.sequence = 0;
            }
            Entry::Fin => {}
        }
        self.entries.push_back(Placed { entry, end });
        end
    }

    /// Forgets the last entry: what no owner may do (a canary).
    pub fn forget_last(&mut self) {
        self.entries.pop_back();
    }

    /// Moves W to what the client acknowledged; returns whether it moved.
    pub fn deliver(&mut self, acked: u64, fin_acked: bool) -> bool {
        let before = self.delivered;
        while let Some(Placed { entry, end }) = self.entries.front().copied() {
            let fin = entry == Entry::Fin;
            if end.client > acked || (fin && !fin_acked) {
                break;
            }
            self.entries.pop_front();
            self.delivered = Delivered {
                backend: end.backend,
                client: end.client,
                sequence: end.sequence,
                generation: end.generation,
                index: self.delivered.index + 1,
                fin,
            };
        }
        self.delivered != before
    }

    /// Moves W to where the owner says it is. False when no entry ends there.
    pub fn trim(&mut self, delivered: Delivered) -> bool {
        let Some(count) = delivered.index.checked_sub(self.delivered.index) else {
            return true; // an older message: W only grows
        };
        let Ok(count) = usize::try_from(count) else { return false };
        if count > self.entries.len() {
            return false;
        }
        self.entries.drain(..count);
        self.delivered = delivered;
        true
    }

    fn record_len(&self, entry: &Entry) -> u64 {
        match entry {
            Entry::Data { length, .. } => self.overhead + u64::from(*length),
            Entry::KeyUpdate { .. } => self.overhead + 5,
            Entry::Alert { .. } => self.overhead + 2,
            Entry::Fin => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: [u8; 16] = [0; 16];

    fn log() -> Log {
        let mut log = Log::new(Delivered { client: 1000, sequence: 1, ..Delivered::default() }, 22);
        log.push(Entry::Data { length: 100, tag: TAG });
        log.push(Entry::KeyUpdate { request: false, tag: TAG });
        log.push(Entry::Alert { level: 1, description: 0, tag: TAG });
        log.push(Entry::Fin);
        log
    }

    #[test]
    fn places_follow_from_the_entries() {
        let log = log();
        let ends: Vec<_> = (0..4).map(|i| log.get(i).unwrap().end).collect();
        assert_eq!(ends[0], Point { backend: 100, client: 1122, sequence: 2, generation: 0 });
        assert_eq!(ends[1], Point { backend: 100, client: 1149, sequence: 0, generation: 1 });
        assert_eq!(ends[2], Point { backend: 100, client: 1173, sequence: 1, generation: 1 });
        assert_eq!(ends[3], ends[2]);
        assert!(log.is_finished());
    }

    #[test]
    fn w_stops_at_record_boundaries_and_waits_for_the_fin() {
        let mut log = log();
        assert!(!log.deliver(1121, false));
        assert!(log.deliver(1148, false));
        assert_eq!((log.delivered().client, log.delivered().index), (1122, 1));
        assert!(log.deliver(1173, false));
        assert!(!log.delivered().fin);
        assert!(log.deliver(1173, true));
        assert!(log.delivered().fin && log.is_finished());
        assert_eq!(log.end_index(), 4);
    }

    #[test]
    fn a_backup_follows_the_owner() {
        let (mut owner, mut backup) = (log(), log());
        owner.deliver(1149, false);
        assert!(backup.trim(owner.delivered()));
        assert_eq!(backup.entries().collect::<Vec<_>>(), owner.entries().collect::<Vec<_>>());
        let beyond = Delivered { index: 9, ..Delivered::default() };
        assert!(!backup.trim(beyond));
    }
}
