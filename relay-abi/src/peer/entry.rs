//! Entries of a flow's log toward the client.

use alloc::vec::Vec;

use crate::wire::{Malformed, Reader, Writer};

/// Log entries in one message at most; a flow's log is kept shorter by the send window.
pub const ENTRIES_MAX: usize = 8192;

/// One entry of a flow's append-only log toward the client. Each but `Fin` is one TLS record, so
/// the framing is a function of the log. The tag is the record's AEAD tag (rule 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Application data: the next `length` bytes of the backend's stream.
    Data { length: u16, tag: [u8; 16] },
    /// A TLS 1.3 KeyUpdate; the entries behind it are of the next key generation.
    KeyUpdate { request: bool, tag: [u8; 16] },
    /// An alert.
    Alert { level: u8, description: u8, tag: [u8; 16] },
    /// The FIN of the client leg.
    Fin,
}

pub(super) fn encode_entries(entries: &[Entry], out: &mut Vec<u8>) {
    let entries = &entries[..entries.len().min(ENTRIES_MAX)];
    out.u16(entries.len() as u16);
    for entry in entries {
        match entry {
            Entry::Data { length, tag } => {
                out.u8(0);
                out.u16(*length);
                out.bytes(tag);
            }
            Entry::KeyUpdate { request, tag } => {
                out.u8(1);
                out.bool(*request);
                out.bytes(tag);
            }
            Entry::Alert { level, description, tag } => {
                out.u8(2);
                out.bytes(&[*level, *description]);
                out.bytes(tag);
            }
            Entry::Fin => out.u8(3),
        }
    }
}

pub(super) fn decode_entries(r: &mut Reader<'_>) -> Result<Vec<Entry>, Malformed> {
    let count = usize::from(r.u16()?);
    if count > ENTRIES_MAX {
        return Err(Malformed);
    }
    (0..count)
        .map(|_| {
            Ok(match r.u8()? {
                0 => Entry::Data { length: r.u16()?, tag: r.array()? },
                1 => Entry::KeyUpdate { request: r.bool()?, tag: r.array()? },
                2 => Entry::Alert { level: r.u8()?, description: r.u8()?, tag: r.array()? },
                3 => Entry::Fin,
                _ => return Err(Malformed),
            })
        })
        .collect()
}
