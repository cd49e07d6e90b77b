//! What a voter has to remember, and where: records, batches of them, and the log behind a trait.

use raft::eraftpb::{Entry, HardState, Snapshot};

use crate::Malformed;
use crate::council::wire;
use crate::id::Seat;

/// Something to remember. In a log the later record wins: an entry replaces those with its index
/// and above, a hard state the one before.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A proposal at its place in the common history.
    Entry(Entry),
    /// The term, the vote and how far the history is committed.
    Hard(HardState),
    /// The view at some place of the history; everything before it is forgotten. The first record
    /// of a log, and nowhere else.
    Snapshot(Snapshot),
}

/// Records to be written together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// In this order.
    pub records: Vec<Record>,
    /// Whether they have to be on the disk before [`crate::Council::written`] is called. If not, it
    /// is enough that they come before all later ones.
    pub sync: bool,
    /// Whether they replace all that was written before, at once or not at all.
    pub replace: bool,
}

/// A log, the memory of one seat.
pub trait Log {
    /// Writes a batch. After an error nothing of it counts, and it may be tried again.
    fn write(&mut self, batch: &Batch) -> Result<(), Failure>;
}

/// Why a log could not be written. The node must not act as if it was: it abstains.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The disk is full. Writing may be tried again when there is room.
    #[error("{path}: the disk is full: this node neither votes nor decides until there is room")]
    Full {
        /// The file.
        path: String,
    },
    /// What is on the disk is not known any more: only reading it again, at a restart, can tell.
    #[error("{path}: {cause}: this node neither votes nor decides until it is restarted")]
    Unknown {
        /// The file.
        path: String,
        /// What the system said.
        cause: String,
    },
}

/// What a log held when it was opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// Whose log it is.
    pub seat: Seat,
    /// Its records in order; none in a new log.
    pub records: Vec<Record>,
}

impl Record {
    /// The record as bytes, of its own format: what was written once can be read for ever.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_record(self)
    }

    /// The record that [`Record::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Record, Malformed> {
        wire::decode_record(bytes)
    }
}
