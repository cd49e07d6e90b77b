//! Bytes that name their own place: pseudo-random, different at every offset, computed from a seed
//! and the offset alone. A lost, doubled or swapped block cannot look right.

/// Writes the bytes of the stream `seed` that begin at `offset` (a multiple of 8) into `buffer`.
pub fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    debug_assert_eq!(offset % WORD as u64, 0, "words are not split");
    for (word, index) in buffer.chunks_mut(WORD).zip(offset / WORD as u64..) {
        let bytes = mix(mix(seed) ^ index).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

const WORD: usize = 8;

/// The output function of SplitMix64.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_same_as_the_whole() {
        let (mut whole, mut piece) = ([0; 100], [0; 36]);
        fill(7, 64, &mut whole);
        fill(7, 128, &mut piece);
        assert_eq!(whole[64..], piece);
        fill(8, 128, &mut piece);
        assert_ne!(whole[64..], piece);
    }
}
