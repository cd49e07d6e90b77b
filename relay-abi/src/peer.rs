//! The messages between nodes: what an owner tells its backups, in the order in which it tells it.
//!
//! They travel in one ordered byte stream per pair of incarnations, each behind a 32-bit length.
//! Offsets are 64-bit stream offsets; byte 0 is the first one after the SYN.

mod entry;
mod mark;
mod opening;

use alloc::vec::Vec;

pub use self::entry::{ENTRIES_MAX, Entry};
use self::entry::{decode_entries, encode_entries};
pub use self::mark::Mark;
pub use self::opening::Opening;
pub use crate::wire::Malformed;
use crate::wire::{Reader, Writer};

/// Version of datagrams whose keys follow from the cluster's pre-shared key alone.
pub const VERSION_SHARED: u8 = 4;

/// Version of datagrams whose keys follow from a secret of the pair, too. The messages in them are
/// those of version 4.
pub const VERSION_PAIR: u8 = 5;

const _: () = assert!(VERSION_SHARED < VERSION_PAIR);

/// The longest encoded message. A base carries all log entries of a flow.
pub const MESSAGE_MAX: usize = 256 * 1024;

/// Payload bytes that one [`Message::Data`] carries at most.
pub const DATA_MAX: usize = 16 * 1024;

/// Members that a view names at most.
pub const MEMBERS_MAX: usize = 16;

/// Bytes of a TLS session at most: its secret, and the client's certificates.
pub const SESSION_MAX: usize = 4096;

/// What an owner tells its backups.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "messages are built and encoded one at a time, never stored"
)]
pub enum Message<'a> {
    /// The view that holds from here on; the messages behind it are of its term.
    View(View),
    /// A flow in its TLS handshake as a whole: replaces what the backup knows about it (rule 7).
    Opening(Opening<'a>),
    /// What a handshake has taken in and been answered since; `offset` is where `input` begins in
    /// the client's stream.
    Transcript { flow: u64, offset: u32, input: &'a [u8], consumed: u32, journal: &'a [u8] },
    /// An established flow as a whole: replaces what the backup knows about it (rule 7).
    Base(Base<'a>),
    /// Every flow has been based: those that were not named since the last `View` are over.
    BasesEnd,
    /// New entries of a flow's log; `index` is the position of the first one (rule 8).
    Entries { flow: u64, index: u64, entries: Vec<Entry> },
    /// The settled points of a flow moved; `window` is the client's, in bytes.
    Progress { flow: u64, up: Settled, down: Delivered, window: u32 },
    /// Bytes of a stream that no endpoint holds any more once they are acknowledged.
    Data { flow: u64, direction: Direction, offset: u64, fin: bool, bytes: &'a [u8] },
    /// The flow is over.
    End { flow: u64 },
    /// A TLS 1.2 session that a client may resume by its id; belongs to no flow.
    Session(Session<'a>),
    /// Where the acknowledgement toward the sender of a stream stands, once everything before this
    /// message is committed.
    Mark { flow: u64, direction: Direction, mark: Mark },
    /// From a former owner to the one to whom it has handed over: a frame that still came to it, from
    /// the client if `direction` is up, else from the backend.
    Stray { direction: Direction, frame: &'a [u8] },
}

/// Who owns the buckets and who may take over (rule 1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Grows with every change.
    pub number: u64,
    /// Grows whenever the owner changes (rule 2).
    pub term: u64,
    /// The owner's node id.
    pub owner: u8,
    /// Node id and boot incarnation of everybody who may take over, the owner included.
    pub in_sync: Vec<(u8, u64)>,
}

/// Which of a flow's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to backend: ciphertext as the client sent it.
    Up,
    /// Backend to client: plaintext as the backend sent it.
    Down,
}

/// R of the design: the client's bytes below `client` are settled, their plaintext lies below
/// `backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Offset in the client's stream, at a record boundary.
    pub client: u64,
    /// Offset in the stream to the backend.
    pub backend: u64,
    /// Sequence number of the record at `client`.
    pub sequence: u64,
    /// Key generation of the record at `client` (rule 15).
    pub generation: u32,
    /// The client's stream ended (close_notify or FIN) at `client`.
    pub ended: bool,
    /// The client's FIN is settled, too.
    pub fin: bool,
    /// The client has asked below `client` for a KeyUpdate that is not in the log yet.
    pub owes_key_update: bool,
}

/// W of the design: everything below is sealed, sent and acknowledged by the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Offset in the backend's stream.
    pub backend: u64,
    /// Offset in the stream to the client, at a record boundary.
    pub client: u64,
    /// Sequence number of the record at `client`.
    pub sequence: u64,
    /// Key generation of the record at `client` (rule 15).
    pub generation: u32,
    /// Log entries below this index are delivered.
    pub index: u64,
    /// The client acknowledged our FIN.
    pub fin: bool,
}

/// An address and a port; IPv4 addresses are IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: [u8; 16],
    pub port: u16,
}

/// What the two ends of one TCP connection agreed on, and where the peer's window was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    pub local: Endpoint,
    pub remote: Endpoint,
    /// Next hop toward the remote end.
    pub next_hop: [u8; 6],
    pub iss: u32,
    pub irs: u32,
    /// The peer's MSS.
    pub mss: u16,
    /// The peer's window scale, if both sides sent the option.
    pub send_scale: Option<u8>,
    pub receive_scale: u8,
    pub sack: bool,
    pub timestamps: Option<Timestamps>,
    /// The peer's window in bytes.
    pub window: u32,
}

/// RFC 7323 timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// The peer's last TSval.
    pub recent: u32,
    /// Added to the owner's clock in milliseconds.
    pub offset: u32,
}

/// Traffic keys of one direction, at the settled point of that direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    pub generation: u32,
    pub sequence: u64,
    pub secret: &'a [u8],
}

/// An established flow as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base<'a> {
    pub flow: u64,
    pub client: Leg,
    pub backend: Leg,
    /// IANA number of the cipher suite.
    pub suite: u16,
    pub server_name: &'a [u8],
    /// Keys toward the client, at `down`.
    pub write: Keys<'a>,
    /// Keys from the client, at `up`.
    pub read: Keys<'a>,
    pub up: Settled,
    pub down: Delivered,
    /// Handshake output that the client has not acknowledged; it ends where the log begins.
    pub raw: &'a [u8],
    /// The log from `down.index` on.
    pub entries: Vec<Entry>,
    /// The owner's clock in milliseconds when the flow began.
    pub created_ms: u64,
}

/// A TLS session that is kept at the server (RFC 5246 section 7.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Session<'a> {
    /// Digest of the session's id and of all that a client must meet again to resume it.
    pub key: [u8; 32],
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// What the TLS library needs to resume it, at most [`SESSION_MAX`] bytes; holds secrets.
    pub value: &'a [u8],
}

const VIEW: u8 = 1;
const BASE: u8 = 2;
const BASES_END: u8 = 3;
const ENTRIES: u8 = 4;
const PROGRESS: u8 = 5;
const DATA: u8 = 6;
const END: u8 = 7;
const OPENING: u8 = 8;
const TRANSCRIPT: u8 = 9;
const SESSION: u8 = 10;
const MARK: u8 = 11;
const STRAY: u8 = 12;
const OPENING_OF: u8 = 13;

impl<'a> Message<'a> {
    /// Appends the encoded message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::View(view) => {
                out.u8(VIEW);
                view.encode(out);
            }
            Message::Opening(opening) => opening.encode(out),
            Message::Transcript { flow, offset, input, consumed, journal } => {
                out.u8(TRANSCRIPT);
                out.u64(*flow);
                out.u32(*offset);
                out.prefixed(input);
                out.u32(*consumed);
                out.prefixed(journal);
            }
            Message::Base(base) => {
                out.u8(BASE);
                base.encode(out);
            }
            Message::BasesEnd => out.u8(BASES_END),
            Message::Entries { flow, index, entries } => {
                out.u8(ENTRIES);
                out.u64(*flow);
                out.u64(*index);
                encode_entries(entries, out);
            }
            Message::Progress { flow, up, down, window } => {
                out.u8(PROGRESS);
                out.u64(*flow);
                up.encode(out);
                down.encode(out);
                out.u32(*window);
            }
            Message::Data { flow, direction, offset, fin, bytes } => {
                out.u8(DATA);
                out.u64(*flow);
                direction.encode(out);
                out.u64(*offset);
                out.bool(*fin);
                out.bytes(bytes);
            }
            Message::End { flow } => {
                out.u8(END);
                out.u64(*flow);
            }
            Message::Session(session) => {
                out.u8(SESSION);
                session.encode(out);
            }
            Message::Mark { flow, direction, mark } => {
                out.u8(MARK);
                out.u64(*flow);
                direction.encode(out);
                mark.encode(out);
            }
            Message::Stray { direction, frame } => {
                out.u8(STRAY);
                direction.encode(out);
                out.bytes(frame);
            }
        }
    }

    /// Decodes one whole message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let message = match r.u8()? {
            VIEW => Message::View(View::decode(&mut r)?),
            BASE => Message::Base(Base::decode(&mut r)?),
            BASES_END => Message::BasesEnd,
            ENTRIES => Message::Entries {
                flow: r.u64()?,
                index: r.u64()?,
                entries: decode_entries(&mut r)?,
            },
            PROGRESS => Message::Progress {
                flow: r.u64()?,
                up: Settled::decode(&mut r)?,
                down: Delivered::decode(&mut r)?,
                window: r.u32()?,
            },
            DATA => {
                let flow = r.u64()?;
                let direction = Direction::decode(&mut r)?;
                let (offset, fin) = (r.u64()?, r.bool()?);
                let bytes = r.rest();
                if bytes.len() > DATA_MAX {
                    return Err(Malformed);
                }
                return Ok(Message::Data { flow, direction, offset, fin, bytes });
            }
            END => Message::End { flow: r.u64()? },
            SESSION => Message::Session(Session::decode(&mut r)?),
            MARK => Message::Mark {
                flow: r.u64()?,
                direction: Direction::decode(&mut r)?,
                mark: Mark::decode(&mut r)?,
            },
            STRAY => {
                return Ok(Message::Stray {
                    direction: Direction::decode(&mut r)?,
                    frame: r.rest(),
                });
            }
            kind @ (OPENING | OPENING_OF) => Message::Opening(Opening::decode(kind, &mut r)?),
            TRANSCRIPT => Message::Transcript {
                flow: r.u64()?,
                offset: r.u32()?,
                input: r.prefixed()?,
                consumed: r.u32()?,
                journal: r.prefixed()?,
            },
            _ => return Err(Malformed),
        };
        r.finish()?;
        Ok(message)
    }
}

impl View {
    fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.number);
        out.u64(self.term);
        out.u8(self.owner);
        let members = &self.in_sync[..self.in_sync.len().min(MEMBERS_MAX)];
        out.u8(members.len() as u8);
        for (node, incarnation) in members {
            out.u8(*node);
            out.u64(*incarnation);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (number, term, owner) = (r.u64()?, r.u64()?, r.u8()?);
        let count = usize::from(r.u8()?);
        if count > MEMBERS_MAX {
            return Err(Malformed);
        }
        let in_sync =
            (0..count).map(|_| Ok((r.u8()?, r.u64()?))).collect::<Result<Vec<_>, Malformed>>()?;
        Ok(View { number, term, owner, in_sync })
    }
}

impl Direction {
    fn encode(self, out: &mut Vec<u8>) {
        out.bool(self == Direction::Down);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(if r.bool()? { Direction::Down } else { Direction::Up })
    }
}

impl Settled {
    fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.client);
        out.u64(self.backend);
        out.u64(self.sequence);
        out.u32(self.generation);
        let flags = [self.ended, self.fin, self.owes_key_update];
        out.u8((0..).zip(flags).map(|(bit, flag)| u8::from(flag) << bit).sum());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (client, backend, sequence) = (r.u64()?, r.u64()?, r.u64()?);
        let (generation, flags) = (r.u32()?, r.u8()?);
        if flags > 7 {
            return Err(Malformed);
        }
        let [ended, fin, owes_key_update] = [0, 1, 2].map(|bit| flags >> bit & 1 != 0);
        Ok(Settled { client, backend, sequence, generation, ended, fin, owes_key_update })
    }
}

impl Delivered {
    fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.backend);
        out.u64(self.client);
        out.u64(self.sequence);
        out.u32(self.generation);
        out.u64(self.index);
        out.bool(self.fin);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Delivered {
            backend: r.u64()?,
            client: r.u64()?,
            sequence: r.u64()?,
            generation: r.u32()?,
            index: r.u64()?,
            fin: r.bool()?,
        })
    }
}

impl Endpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        out.bytes(&self.address);
        out.u16(self.port);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Endpoint { address: r.array()?, port: r.u16()? })
    }
}

impl Leg {
    fn encode(&self, out: &mut Vec<u8>) {
        self.local.encode(out);
        self.remote.encode(out);
        out.bytes(&self.next_hop);
        out.u32(self.iss);
        out.u32(self.irs);
        out.u16(self.mss);
        out.u8(self.send_scale.unwrap_or(u8::MAX));
        out.u8(self.receive_scale);
        out.bool(self.sack);
        out.bool(self.timestamps.is_some());
        if let Some(Timestamps { recent, offset }) = self.timestamps {
            out.u32(recent);
            out.u32(offset);
        }
        out.u32(self.window);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (local, remote) = (Endpoint::decode(r)?, Endpoint::decode(r)?);
        let (next_hop, iss, irs, mss) = (r.array()?, r.u32()?, r.u32()?, r.u16()?);
        let send_scale = match r.u8()? {
            u8::MAX => None,
            scale if scale <= 14 => Some(scale),
            _ => return Err(Malformed),
        };
        let (receive_scale, sack) = (r.u8()?, r.bool()?);
        let timestamps = match r.bool()? {
            true => Some(Timestamps { recent: r.u32()?, offset: r.u32()? }),
            false => None,
        };
        let window = r.u32()?;
        if receive_scale > 14 || mss == 0 {
            return Err(Malformed);
        }
        let leg = Leg {
            local,
            remote,
            next_hop,
            iss,
            irs,
            mss,
            send_scale,
            receive_scale,
            sack,
            timestamps,
            window,
        };
        Ok(leg)
    }
}

impl<'a> Keys<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.u32(self.generation);
        out.u64(self.sequence);
        out.prefixed(self.secret);
    }

    fn decode(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Keys { generation: r.u32()?, sequence: r.u64()?, secret: r.prefixed()? })
    }
}

impl<'a> Session<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.bytes(&self.key);
        out.u64(self.created);
        out.prefixed(self.value);
    }

    fn decode(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let session = Session { key: r.array()?, created: r.u64()?, value: r.prefixed()? };
        if session.value.len() > SESSION_MAX {
            return Err(Malformed);
        }
        Ok(session)
    }
}

impl core::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session").field("created", &self.created).finish_non_exhaustive()
    }
}

impl<'a> Base<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.flow);
        self.client.encode(out);
        self.backend.encode(out);
        out.u16(self.suite);
        out.prefixed(self.server_name);
        self.write.encode(out);
        self.read.encode(out);
        self.up.encode(out);
        self.down.encode(out);
        out.prefixed(self.raw);
        encode_entries(&self.entries, out);
        out.u64(self.created_ms);
    }

    fn decode(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Base {
            flow: r.u64()?,
            client: Leg::decode(r)?,
            backend: Leg::decode(r)?,
            suite: r.u16()?,
            server_name: r.prefixed()?,
            write: Keys::decode(r)?,
            read: Keys::decode(r)?,
            up: Settled::decode(r)?,
            down: Delivered::decode(r)?,
            raw: r.prefixed()?,
            entries: decode_entries(r)?,
            created_ms: r.u64()?,
        })
    }
}

#[cfg(test)]
mod tests;
