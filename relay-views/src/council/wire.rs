//! The engine's messages and records as bytes: our own bounded codec.
//!
//! The engine's own protobuf decoder can be made to overflow the stack (RUSTSEC-2024-0437), so no
//! byte from the network reaches it. Message types that this cluster does not use do not exist here.

use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState,
    Message, MessageType, Snapshot, SnapshotMetadata,
};
use relay_abi::wire::{Malformed, Reader, Writer};

use crate::command::Command;
use crate::id::Seat;
use crate::log::Record;
use crate::view::{DOCUMENT_MAX, MEMBERS_MAX};

/// The longest message between two councils, in bytes: a snapshot with two full documents.
pub const MESSAGE_MAX: usize = 1024 * 1024;

/// Entries in one message.
const ENTRIES_MAX: usize = 1024;

/// The longest entry: a command with a document, and 16 KiB for all else.
pub const ENTRY_MAX: usize = DOCUMENT_MAX + 16 * 1024;

/// Seats in a configuration: every member, twice while a seat is being replaced.
const SEATS_MAX: usize = 2 * MEMBERS_MAX;

/// Changes of the configuration in one entry. One at a time needs no joint consensus.
const CHANGES_MAX: usize = 1;

// A snapshot: 4096 buckets of 42 bytes, two documents with their addresses, members and holders.
const _: () = assert!(4096 * 42 + 2 * (DOCUMENT_MAX + 256 * 17) + 16 * 1024 < MESSAGE_MAX);

/// What travels between councils.
#[derive(Clone, Debug, PartialEq)]
pub enum Parcel {
    /// A message of the engine.
    Raft(Message),
    /// A proposal on its way to the leader.
    Proposal(Proposal),
}

/// A command with its author's name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Who proposed it.
    pub author: Seat,
    /// The author's number for it.
    pub number: u64,
    /// Whether it was passed on already: nobody passes it on twice.
    pub forwarded: bool,
    /// What is proposed.
    pub command: Command,
}

impl Parcel {
    /// The parcel as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Parcel::Raft(message) => {
                out.u8(1);
                put_message(&mut out, message);
            }
            Parcel::Proposal(proposal) => {
                out.u8(2);
                out.bytes(&proposal.encode());
            }
        }
        out
    }

    /// The parcel that [`Parcel::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Parcel, Malformed> {
        if bytes.len() > MESSAGE_MAX {
            return Err(Malformed);
        }
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            1 => {
                let message = message(&mut reader)?;
                reader.finish()?;
                Ok(Parcel::Raft(message))
            }
            2 => Ok(Parcel::Proposal(Proposal::decode(reader.rest())?)),
            _ => Err(Malformed),
        }
    }
}

impl Proposal {
    /// The proposal as bytes: the data of an entry, too.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.u64(self.author.number());
        out.u64(self.number);
        out.bool(self.forwarded);
        out.bytes(&self.command.encode());
        out
    }

    /// The proposal that [`Proposal::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Proposal, Malformed> {
        let mut reader = Reader::new(bytes);
        let author = seat(&mut reader)?;
        let (number, forwarded) = (reader.u64()?, reader.bool()?);
        Ok(Proposal { author, number, forwarded, command: Command::decode(reader.rest())? })
    }
}

/// A record as bytes.
pub fn encode_record(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    match record {
        Record::Entry(entry) => {
            out.u8(1);
            put_entry(&mut out, entry);
        }
        Record::Hard(hard) => {
            out.u8(2);
            out.u64(hard.term);
            out.u64(hard.vote);
            out.u64(hard.commit);
        }
        Record::Snapshot(snapshot) => {
            out.u8(3);
            put_snapshot(&mut out, snapshot);
        }
    }
    out
}

/// The record that [`encode_record`] wrote.
pub fn decode_record(bytes: &[u8]) -> Result<Record, Malformed> {
    let mut reader = Reader::new(bytes);
    let from = &mut reader;
    let record = match from.u8()? {
        1 => Record::Entry(entry(from)?),
        2 => {
            let mut hard = HardState::default();
            (hard.term, hard.vote, hard.commit) = (from.u64()?, from.u64()?, from.u64()?);
            Record::Hard(hard)
        }
        3 => Record::Snapshot(snapshot(from)?),
        _ => return Err(Malformed),
    };
    reader.finish()?;
    Ok(record)
}

/// The messages that exist, by their number on the wire.
const TYPES: [MessageType; 9] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Whether a message can be said at all: the engine is never asked for any other.
pub fn exists(message: &Message) -> bool {
    TYPES.contains(&message.get_msg_type())
}

fn put_message(out: &mut Vec<u8>, m: &Message) {
    let kind = TYPES.iter().position(|kind| *kind == m.get_msg_type()).unwrap_or(TYPES.len());
    out.u8(kind as u8);
    for number in [m.to, m.from, m.term, m.log_term, m.index, m.commit, m.commit_term] {
        out.u64(number);
    }
    out.bool(m.reject);
    out.u64(m.reject_hint);
    out.u64(m.priority as u64);
    out.u16(m.entries.len() as u16);
    m.entries.iter().for_each(|entry| put_entry(out, entry));
    if m.get_msg_type() == MessageType::MsgSnapshot {
        put_snapshot(out, m.get_snapshot());
    }
}

fn message(from: &mut Reader<'_>) -> Result<Message, Malformed> {
    let mut m = Message::default();
    let kind = *TYPES.get(usize::from(from.u8()?)).ok_or(Malformed)?;
    m.set_msg_type(kind);
    (m.to, m.from) = (seat(from)?.number(), seat(from)?.number());
    (m.term, m.log_term) = (from.u64()?, from.u64()?);
    (m.index, m.commit, m.commit_term) = (from.u64()?, from.u64()?, from.u64()?);
    (m.reject, m.reject_hint) = (from.bool()?, from.u64()?);
    m.priority = from.u64()? as i64;
    let count = bounded(from.u16()?.into(), ENTRIES_MAX)?;
    let entries = (0..count).map(|_| entry(from)).collect::<Result<Vec<_>, _>>()?;
    m.set_entries(entries.into());
    if kind == MessageType::MsgSnapshot {
        m.set_snapshot(snapshot(from)?);
    }
    Ok(m)
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.u64(entry.term);
    out.u64(entry.index);
    let Some(changes) = changes(entry) else {
        out.u8(0);
        out.u32(entry.data.len() as u32);
        out.bytes(&entry.data);
        return;
    };
    out.u8(1);
    out.u8(changes.changes.len() as u8);
    for change in &changes.changes {
        out.u8(change.get_change_type() as u8);
        out.u64(change.node_id);
    }
}

fn entry(from: &mut Reader<'_>) -> Result<Entry, Malformed> {
    let mut entry = Entry::default();
    (entry.term, entry.index) = (from.u64()?, from.u64()?);
    if entry.term == 0 || entry.index == 0 {
        return Err(Malformed);
    }
    if !from.bool()? {
        let count = usize::try_from(from.u32()?).map_err(|_| Malformed)?;
        let data = from.bytes(bounded(count, ENTRY_MAX)?)?;
        entry.data = data.to_vec().into();
        return Ok(entry);
    }
    let mut all = ConfChangeV2::default();
    for _ in 0..bounded(from.u8()?.into(), CHANGES_MAX)? {
        let mut change = ConfChangeSingle::default();
        let kinds =
            [ConfChangeType::AddNode, ConfChangeType::RemoveNode, ConfChangeType::AddLearnerNode];
        change.set_change_type(*kinds.get(usize::from(from.u8()?)).ok_or(Malformed)?);
        change.node_id = seat(from)?.number();
        all.mut_changes().push(change);
    }
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry.data = all.write_to_bytes().map_err(|_| Malformed)?.into();
    Ok(entry)
}

/// The changes of the configuration that an entry holds. Its bytes are the engine's or were made by
/// [`entry`]: they never came from a network.
pub fn changes(entry: &Entry) -> Option<ConfChangeV2> {
    if entry.get_entry_type() != EntryType::EntryConfChangeV2 {
        return None;
    }
    let mut changes = ConfChangeV2::default();
    changes.merge_from_bytes(&entry.data).ok()?;
    Some(changes)
}

fn put_snapshot(out: &mut Vec<u8>, snapshot: &Snapshot) {
    let metadata = snapshot.get_metadata();
    out.u64(metadata.index);
    out.u64(metadata.term);
    let configuration = metadata.get_conf_state();
    put_seats(out, &configuration.voters);
    put_seats(out, &configuration.learners);
    out.u32(snapshot.data.len() as u32);
    out.bytes(&snapshot.data);
}

fn snapshot(from: &mut Reader<'_>) -> Result<Snapshot, Malformed> {
    let mut metadata = SnapshotMetadata::default();
    (metadata.index, metadata.term) = (from.u64()?, from.u64()?);
    let (voters, learners) = (seats(from)?, seats(from)?);
    let configuration = ConfState { voters, learners, ..ConfState::default() };
    let disjoint = !configuration.learners.iter().any(|one| configuration.voters.contains(one));
    if metadata.index == 0 || metadata.term == 0 || configuration.voters.is_empty() || !disjoint {
        return Err(Malformed);
    }
    metadata.set_conf_state(configuration);
    let count = usize::try_from(from.u32()?).map_err(|_| Malformed)?;
    let data = from.bytes(bounded(count, MESSAGE_MAX)?)?;
    let mut snapshot = Snapshot { data: data.to_vec().into(), ..Snapshot::default() };
    snapshot.set_metadata(metadata);
    Ok(snapshot)
}

fn put_seats(out: &mut Vec<u8>, seats: &[u64]) {
    out.u8(seats.len() as u8);
    seats.iter().for_each(|seat| out.u64(*seat));
}

fn seats(from: &mut Reader<'_>) -> Result<Vec<u64>, Malformed> {
    let count = bounded(from.u8()?.into(), SEATS_MAX)?;
    let seats = (0..count).map(|_| Ok(seat(from)?.number()));
    let seats = seats.collect::<Result<Vec<_>, Malformed>>()?;
    let mut sorted = seats.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() == seats.len() { Ok(seats) } else { Err(Malformed) }
}

fn seat(from: &mut Reader<'_>) -> Result<Seat, Malformed> {
    Seat::from_number(from.u64()?).ok_or(Malformed)
}

fn bounded(count: usize, max: usize) -> Result<usize, Malformed> {
    if count <= max { Ok(count) } else { Err(Malformed) }
}
