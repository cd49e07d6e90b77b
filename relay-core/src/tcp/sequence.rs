//! Stream offsets and sequence numbers.
//!
//! Inside, a byte is named by its 64-bit offset from the first byte after the SYN; 32-bit
//! sequence numbers exist on the wire only. A FIN occupies the offset behind the last byte.

use smoltcp::wire::TcpSeqNumber;

/// The numbering of one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbering {
    /// The SYN's sequence number: ISS or IRS of RFC 9293.
    pub initial: u32,
}

impl Numbering {
    /// The sequence number of the byte at `offset`.
    pub fn sequence(self, offset: u64) -> TcpSeqNumber {
        // Truncation is the modulus of the sequence space.
        TcpSeqNumber(self.initial.wrapping_add(1).wrapping_add(offset as u32) as i32)
    }

    /// The offset nearest to `near` that has this sequence number. The SYN itself is at -1.
    pub fn offset(self, sequence: TcpSeqNumber, near: u64) -> i64 {
        let distance = sequence.0.wrapping_sub(self.sequence(near).0);
        (near as i64).saturating_add(i64::from(distance))
    }
}

/// Whether `a` is before `b` among 32-bit timestamps (RFC 7323 section 5.2).
pub(super) fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_go_on_where_sequence_numbers_wrap() {
        let numbering = Numbering { initial: u32::MAX - 2 };
        assert_eq!(numbering.offset(TcpSeqNumber(-3), 0), -1);
        let near = 3 << 32;
        for distance in [-100_000i64, -1, 0, 1, 1 << 30] {
            let offset = near as i64 + distance;
            assert_eq!(numbering.offset(numbering.sequence(offset as u64), near), offset);
        }
    }

    #[test]
    fn rfc_7323_timestamps_compare_modulo_their_space() {
        assert!(is_before(u32::MAX, 0) && !is_before(0, u32::MAX) && !is_before(7, 7));
    }
}
