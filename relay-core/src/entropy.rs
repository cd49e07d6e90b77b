//! Unpredictable numbers from one seed that the caller gives.

use core::hash::Hasher;

use siphasher::sip::SipHasher24;

/// SipHash-2-4 in counter mode: for initial sequence numbers, port choice and names, where an
/// attacker must not guess the next value. Keys come from the crypto provider instead.
#[derive(Clone, Debug)]
pub struct Entropy {
    key: [u8; 16],
    counter: u64,
}

impl Entropy {
    /// A generator whose whole output follows from `seed`.
    pub fn new(seed: [u8; 16]) -> Self {
        Entropy { key: seed, counter: 0 }
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        self.counter += 1;
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_u64(self.counter);
        hasher.finish()
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> u32 {
        (self.u64() >> 32) as u32
    }
}
