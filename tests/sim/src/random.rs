//! Seeded numbers.

use std::sync::Mutex;

use relay_core::time::Duration;
use rustls::crypto::{GetRandomFailed, SecureRandom};

/// SplitMix64: every number of a run follows from one seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; zero when there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// True `per_mille` times of a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < u64::from(per_mille)
    }

    /// A time below `bound`.
    pub fn duration(&mut self, bound: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// An independent generator.
    pub fn fork(&mut self) -> Random {
        Random(self.next())
    }

    /// 16 bytes.
    pub fn seed(&mut self) -> [u8; 16] {
        let mut seed = [0; 16];
        self.fill(&mut seed);
        seed
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// The output function of SplitMix64: a hash of 64 bits.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A source of entropy for a relay's TLS.
#[derive(Debug)]
pub struct Entropy(Mutex<Random>);

impl Entropy {
    /// Entropy that follows from `random`.
    pub fn new(random: Random) -> Self {
        Entropy(Mutex::new(random))
    }
}

impl SecureRandom for Entropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.0.lock().map_err(|_| GetRandomFailed)?.fill(buffer);
        Ok(())
    }
}
