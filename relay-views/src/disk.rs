//! The log on a disk: one file that grows, rewritten now and then. The only module with files.
//!
//! ```text
//! file    header record*
//! header  "RLYVOTES" version:u32 seat:u64 crc32c:u32
//! record  "RvR1" length:u32 crc32c(length, payload):u32 payload
//! ```
//!
//! All numbers are big-endian. A record that is damaged with no sound one behind it was being
//! written when the power failed: nobody acted on it, and it is cut off. Damage anywhere else means
//! that votes may be forgotten, and the log is not opened.

#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "the edge to the disk")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::council::wire::MESSAGE_MAX;
use crate::id::{NodeId, Seat};
use crate::log::{Batch, Failure, Log, Memory, Record};

const LOG: &str = "votes.log";
const NEXT: &str = "votes.next";
const LOCK: &str = "votes.lock";

const MAGIC: &[u8; 8] = b"RLYVOTES";
/// Version 1 had members and ejections without stays ([`crate::view::Member::joined`]).
const VERSION: u32 = 2;
const HEADER: usize = 24;

const MARK: &[u8; 4] = b"RvR1";
const FRAME: usize = 12;

/// The longest record: a snapshot.
const RECORD_MAX: usize = MESSAGE_MAX + 1024;

/// The longest file that is read. It is rewritten after some thousand records.
const FILE_MAX: u64 = 1 << 30;

/// A log in a directory of its own, used by one process at a time.
pub struct DiskLog {
    directory: PathBuf,
    seat: Seat,
    file: Box<dyn Medium>,
    /// Bytes that are sound; whatever is behind them is not.
    length: u64,
    /// What is in the file is not known any more.
    poisoned: Option<String>,
    _lock: File,
}

/// What was found in the directory.
#[derive(Debug)]
pub struct Found {
    /// What the log remembers.
    pub memory: Memory,
    /// Bytes that were cut off: of a write during which the power failed.
    pub cut: u64,
}

/// Why a log can not be opened. The node must not vote.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A record, or the header, is not what was written.
    #[error(
        "{path}: damaged at byte {offset}: this node can not know what it voted for and takes no \
         part. Remedy: as long as a majority of the other voters is healthy, move the directory \
         away and start again: the node gets a new seat and learns everything from them"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Where.
        offset: u64,
    },
    /// Another process has it.
    #[error("{path}: in use by another process: is this node running twice?")]
    InUse {
        /// The directory.
        path: String,
    },
    /// The system refuses.
    #[error("{path}: {cause}")]
    Io {
        /// The file or directory.
        path: String,
        /// What it said.
        cause: io::Error,
    },
    /// It is another node's.
    #[error("{path}: the log of node {node}: is the configured node id right?")]
    OtherNode {
        /// The file.
        path: String,
        /// Whose it is.
        node: NodeId,
    },
    /// Written by a program that this one does not know.
    #[error(
        "{path}: version {version} of the format, and this program knows {VERSION}: run the program \
         that wrote it, or, as long as a majority of the other voters is healthy, move the directory \
         away and start again"
    )]
    Version {
        /// The file.
        path: String,
        /// Which.
        version: u32,
    },
}

/// A file as far as a log needs one.
trait Medium: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

impl DiskLog {
    /// Opens the log of `node` in `directory`, or makes a blank one there, whose seat gets `serial`:
    /// a number drawn at random.
    pub fn open(
        directory: &Path,
        node: NodeId,
        serial: u64,
    ) -> Result<(DiskLog, Found), OpenError> {
        let io = |cause| OpenError::Io { path: shown(directory), cause };
        fs::create_dir_all(directory).map_err(io)?;
        let lock = lock(directory)?;
        let path = directory.join(LOG);
        // A rewrite that was not finished.
        let _ = fs::remove_file(directory.join(NEXT));
        if !path.try_exists().map_err(io)? {
            let seat = Seat::new(node, serial);
            let file = write_whole(directory, &header(seat)).map_err(io)?;
            let memory = Memory { seat, records: Vec::new() };
            let log = DiskLog::of(directory, seat, Box::new(file), HEADER as u64, lock);
            return Ok((log, Found { memory, cut: 0 }));
        }
        let io = |cause| OpenError::Io { path: shown(&path), cause };
        let file = OpenOptions::new().read(true).append(true).open(&path).map_err(io)?;
        let mut bytes = Vec::new();
        if file.metadata().map_err(io)?.len() > FILE_MAX {
            return Err(io(ErrorKind::FileTooLarge.into()));
        }
        (&file).read_to_end(&mut bytes).map_err(io)?;
        let seat = read_header(&path, &bytes)?;
        if seat.node() != node {
            return Err(OpenError::OtherNode { path: shown(&path), node: seat.node() });
        }
        let (records, end) = read_records(&path, &bytes)?;
        let cut = (bytes.len() - end) as u64;
        if cut > 0 {
            file.set_len(end as u64).and_then(|()| file.sync_all()).map_err(io)?;
        }
        let memory = Memory { seat, records };
        let log = DiskLog::of(directory, seat, Box::new(file), end as u64, lock);
        Ok((log, Found { memory, cut }))
    }

    fn of(dir: &Path, seat: Seat, file: Box<dyn Medium>, length: u64, lock: File) -> DiskLog {
        DiskLog { directory: dir.to_owned(), seat, file, length, poisoned: None, _lock: lock }
    }

    fn append(&mut self, bytes: &[u8], sync: bool) -> Result<(), Failure> {
        if let Err(cause) = self.file.append(bytes) {
            // A part of it may be there: what comes next must not follow that.
            return match self.file.truncate(self.length) {
                Ok(()) if is_full(&cause) => Err(Failure::Full { path: self.path() }),
                _ => Err(self.poison(&cause)),
            };
        }
        if sync {
            // After a failure the kernel may take for clean what never reached the disk: trying
            // again proves nothing.
            self.file.sync().map_err(|cause| self.poison(&cause))?;
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match write_whole(&self.directory, bytes) {
            Ok(file) => {
                self.file = Box::new(file);
                self.length = bytes.len() as u64;
                Ok(())
            }
            Err(cause) if is_full(&cause) => {
                let _ = fs::remove_file(self.directory.join(NEXT));
                Err(Failure::Full { path: self.path() })
            }
            // Which of the two files will be there after a crash is not known.
            Err(cause) => Err(self.poison(&cause)),
        }
    }

    fn poison(&mut self, cause: &io::Error) -> Failure {
        self.poisoned = Some(cause.to_string());
        Failure::Unknown { path: self.path(), cause: cause.to_string() }
    }

    fn path(&self) -> String {
        shown(&self.directory.join(LOG))
    }
}

impl Log for DiskLog {
    fn write(&mut self, batch: &Batch) -> Result<(), Failure> {
        if let Some(cause) = &self.poisoned {
            return Err(Failure::Unknown { path: self.path(), cause: cause.clone() });
        }
        let mut bytes = if batch.replace { header(self.seat) } else { Vec::new() };
        for record in &batch.records {
            put_record(&mut bytes, &record.encode());
        }
        if batch.replace { self.replace(&bytes) } else { self.append(&bytes, batch.sync) }
    }
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK);
    let io = |cause| OpenError::Io { path: shown(&path), cause };
    let options = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = options.map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: shown(directory) }),
        Err(TryLockError::Error(cause)) => Err(io(cause)),
    }
}

/// Makes `bytes` the log, at once or not at all.
fn write_whole(directory: &Path, bytes: &[u8]) -> io::Result<File> {
    let (next, log) = (directory.join(NEXT), directory.join(LOG));
    let _ = fs::remove_file(&next);
    let mut file = OpenOptions::new().create_new(true).append(true).open(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, &log)?;
    File::open(directory)?.sync_all()?;
    Ok(file)
}

fn header(seat: Seat) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend(seat.number().to_be_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}

fn read_header(path: &Path, bytes: &[u8]) -> Result<Seat, OpenError> {
    let damaged = || OpenError::Damaged { path: shown(path), offset: 0 };
    let header = bytes.first_chunk::<HEADER>().ok_or_else(damaged)?;
    let (content, sum) = header.split_at(HEADER - 4);
    let sound = content.starts_with(MAGIC) && crc32c::crc32c(content).to_be_bytes() == *sum;
    let number = |at: usize, count: usize| {
        content[at..at + count].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    if !sound {
        return Err(damaged());
    }
    let version = number(8, 4) as u32;
    if version != VERSION {
        return Err(OpenError::Version { path: shown(path), version });
    }
    Seat::from_number(number(12, 8)).ok_or_else(damaged)
}

fn put_record(out: &mut Vec<u8>, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&length), payload);
    out.extend(MARK);
    out.extend(length);
    out.extend(sum.to_be_bytes());
    out.extend(payload);
}

/// All sound records, and where they end.
fn read_records(path: &Path, bytes: &[u8]) -> Result<(Vec<Record>, usize), OpenError> {
    let (mut records, mut at) = (Vec::new(), HEADER);
    let damaged = |at: usize| OpenError::Damaged { path: shown(path), offset: at as u64 };
    while at < bytes.len() {
        let Some(payload) = record_at(&bytes[at..]) else {
            let rest = &bytes[at + 1..];
            let marks = rest.windows(MARK.len()).enumerate().filter(|(_, four)| four == MARK);
            let torn = !marks.into_iter().any(|(place, _)| record_at(&rest[place..]).is_some());
            return if torn { Ok((records, at)) } else { Err(damaged(at)) };
        };
        // Its sum is right: it is from another program, or from before the sum.
        records.push(Record::decode(payload).map_err(|_| damaged(at))?);
        at += FRAME + payload.len();
    }
    Ok((records, at))
}

/// The payload of the sound record that `bytes` begin with.
fn record_at(bytes: &[u8]) -> Option<&[u8]> {
    let (mark, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let count = u32::from_be_bytes(*length) as usize;
    let payload = rest.get(..count).filter(|_| count <= RECORD_MAX)?;
    let sound = crc32c::crc32c_append(crc32c::crc32c(length), payload).to_be_bytes() == *sum;
    (sound && mark == MARK).then_some(payload)
}

fn is_full(cause: &io::Error) -> bool {
    matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;
