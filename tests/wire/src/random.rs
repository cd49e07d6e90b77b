//! Numbers that follow from a seed.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Another seed is another sequence.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// True with the probability `of`, from 0 to 1. It always takes one number, so that one
    /// probability does not change what the others do.
    pub fn chance(&mut self, of: f64) -> bool {
        const BITS: u32 = 53;
        let unit = (self.next() >> (u64::BITS - BITS)) as f64 / (1_u64 << BITS) as f64;
        unit < of
    }
}
