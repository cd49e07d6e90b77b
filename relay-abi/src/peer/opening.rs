//! A flow in its TLS handshake.

use alloc::vec::Vec;

use super::{Leg, Malformed, OPENING, OPENING_OF};
use crate::wire::{Reader, Writer};

/// A flow in its TLS handshake as a whole. A node that repeats the handshake with this input and
/// these answers comes to the identical state, with the identical output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    pub flow: u64,
    /// Of the configuration under which the handshake began; 0 is each relay's own.
    pub generation: u64,
    pub client: Leg,
    /// The client's stream from offset 0.
    pub input: &'a [u8],
    /// Bytes of `input` that are whole records and were fed to the handshake.
    pub consumed: u32,
    /// The crypto provider's answers so far.
    pub journal: &'a [u8],
    /// The owner's clock in milliseconds when the flow began.
    pub created_ms: u64,
}

impl<'a> Opening<'a> {
    /// With its kind. Of a relay's own configuration it is what it was before there were agreed ones.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if self.generation == 0 {
            out.u8(OPENING);
        } else {
            out.u8(OPENING_OF);
            out.u64(self.generation);
        }
        out.u64(self.flow);
        self.client.encode(out);
        out.prefixed(self.input);
        out.u32(self.consumed);
        out.prefixed(self.journal);
        out.u64(self.created_ms);
    }

    /// What follows its kind.
    pub(super) fn decode(kind: u8, r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let generation = if kind == OPENING_OF { r.u64()? } else { 0 };
        if kind == OPENING_OF && generation == 0 {
            return Err(Malformed);
        }
        Ok(Opening {
            flow: r.u64()?,
            generation,
            client: Leg::decode(r)?,
            input: r.prefixed()?,
            consumed: r.u32()?,
            journal: r.prefixed()?,
            created_ms: r.u64()?,
        })
    }
}
