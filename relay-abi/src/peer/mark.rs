//! Where an acknowledgement stands that lags on purpose.

use alloc::vec::Vec;

use crate::wire::{Malformed, Reader, Writer};

/// A wire ACK that lags behind what is settled or held, in the sender's segments: a new owner wakes
/// the sender by acknowledging `ack` and by SACKing what follows on the segment behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Offset in the sender's stream.
    pub ack: u64,
    /// Bytes of the segment behind `ack`.
    pub hole: u32,
    /// Bytes of the segments behind that one; they are settled, or held as data.
    pub held: u32,
}

impl Mark {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.ack);
        out.u32(self.hole);
        out.u32(self.held);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Mark { ack: r.u64()?, hole: r.u32()?, held: r.u32()? })
    }
}
