//! Unpredictable numbers from one seed that the caller gives.

use core::hash::{Hash, Hasher};

use siphasher::sip::SipHasher24;

use crate::frame::Tuple;
use crate::time::Instant;

/// Initial sequence numbers by RFC 6528, and timestamp offsets in the same way: a keyed hash of
/// the 4-tuple, so that a tuple that is used again goes on above its former numbers, at any node.
#[derive(Clone, Debug)]
pub struct TupleHash([u8; 16]);

impl TupleHash {
    /// `key` is the same at every node.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&key[..16]);
        TupleHash(half)
    }

    /// Initial sequence number and timestamp offset of a connection that begins now.
    pub fn initial(&self, tuple: &Tuple, now: Instant) -> (u32, u32) {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        tuple.hash(&mut hasher);
        let hash = hasher.finish();
        // M of RFC 6528: a clock that ticks every four microseconds.
        let ticks = (now.as_micros() / 4) as u32;
        ((hash as u32).wrapping_add(ticks), (hash >> 32) as u32)
    }
}

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

    /// An independent generator.
    pub fn fork(&mut self) -> Entropy {
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&self.u64().to_be_bytes());
        seed[8..].copy_from_slice(&self.u64().to_be_bytes());
        Entropy::new(seed)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> u32 {
        (self.u64() >> 32) as u32
    }
}
