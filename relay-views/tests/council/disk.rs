//! A disk in memory: what was not synced may be gone after a crash, from the end.

use relay_views::id::Seat;
use relay_views::log::{Batch, Failure, Log, Memory, Record};

pub struct Disk {
    seat: Seat,
    records: Vec<Record>,
    /// How many of them survive for certain.
    synced: usize,
    pub full: bool,
    /// Breaks its promise: what was synced may be gone, too.
    pub forgetful: bool,
}

impl Disk {
    pub fn new(seat: Seat) -> Disk {
        Disk { seat, records: Vec::new(), synced: 0, full: false, forgetful: false }
    }

    pub fn seat(&self) -> Seat {
        self.seat
    }

    /// Power fails: `draw` decides how much of the rest had reached the disk.
    pub fn crash(&mut self, draw: impl Fn(usize) -> usize) {
        let safe = if self.forgetful { self.synced.min(1) } else { self.synced };
        let rest = self.records.len() - safe;
        self.records.truncate(safe + draw(rest + 1));
        self.synced = self.records.len();
        self.full = false;
    }

    pub fn memory(&self) -> Memory {
        // By way of the bytes: what is remembered is what can be written down.
        let records = self.records.iter().map(|r| Record::decode(&r.encode()).unwrap());
        Memory { seat: self.seat, records: records.collect() }
    }
}

impl Log for Disk {
    fn write(&mut self, batch: &Batch) -> Result<(), Failure> {
        if self.full {
            return Err(Failure::Full { path: "disk".to_owned() });
        }
        if batch.replace {
            self.records.clear();
            self.synced = 0;
        }
        self.records.extend(batch.records.iter().cloned());
        if batch.sync || batch.replace {
            self.synced = self.records.len();
        }
        Ok(())
    }
}
