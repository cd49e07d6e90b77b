//! An endless stream with an end: blocks that say whether another one follows, and whose bytes
//! follow from a seed and their place, so that the receiver checks each of them.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::content;

/// Bytes of a block. The first one says whether it is the last block.
const BLOCK: usize = 64 << 10;
/// Bytes per second up to the least length: the kills shall fall into it.
const RATE: f64 = 32e6;
/// Bytes per second beyond the least length, while the kills go on.
const TRICKLE: f64 = 4e6;
/// How far a sender may fall behind its pace before it forgets about it.
const LAG_LIMIT: Duration = Duration::from_secs(1);

/// When a stream may end, and how fast it goes until then.
pub struct Pace {
    least: u64,
    finishing: AtomicBool,
}

impl Pace {
    /// Streams of at least `least` bytes.
    pub fn new(least: u64) -> Pace {
        Pace { least, finishing: AtomicBool::new(false) }
    }

    /// Streams go at full speed from here on, and end at their least length.
    pub fn finish(&self) {
        self.finishing.store(true, Relaxed);
    }

    fn is_last(&self, sent: u64) -> bool {
        self.finishing.load(Relaxed) && sent + BLOCK as u64 >= self.least
    }

    fn block_time(&self, sent: u64) -> Duration {
        let rate = if sent < self.least { RATE } else { TRICKLE };
        match self.finishing.load(Relaxed) {
            true => Duration::ZERO,
            false => Duration::from_secs_f64(BLOCK as f64 / rate),
        }
    }
}

/// Sends the stream `seed`; returns its length.
pub fn send(to: &mut impl Write, seed: u64, pace: &Pace) -> Result<u64> {
    let mut block = vec![0; BLOCK];
    let (mut sent, mut due) = (0, Instant::now());
    loop {
        let last = pace.is_last(sent);
        content::fill(seed, sent, &mut block);
        block[0] = last.into();
        to.write_all(&block).with_context(|| format!("sending after {sent} bytes"))?;
        sent += BLOCK as u64;
        if last {
            to.flush()?;
            return Ok(sent);
        }
        let now = Instant::now();
        due = (due + pace.block_time(sent)).max(now.checked_sub(LAG_LIMIT).unwrap_or(now));
        thread::sleep(due.saturating_duration_since(now));
    }
}

/// Receives the stream `seed` up to its last block; returns its length.
pub fn receive(from: &mut impl Read, seed: u64) -> Result<u64> {
    let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut received = 0;
    loop {
        from.read_exact(&mut block).with_context(|| format!("receiving after {received} bytes"))?;
        content::fill(seed, received, &mut expected);
        let last = block[0] == 1;
        expected[0] = last.into();
        let wrong = block.iter().zip(&expected).position(|(one, other)| one != other);
        let place = wrong.map(|index| received + index as u64);
        ensure!(place.is_none(), "the byte at offset {} is wrong", place.unwrap_or_default());
        received += BLOCK as u64;
        if last {
            return Ok(received);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let pace = Pace::new(3 * BLOCK as u64);
        pace.finish();
        let mut bytes = Vec::new();
        assert_eq!(send(&mut bytes, 5, &pace).unwrap(), bytes.len() as u64);
        bytes
    }

    #[test]
    fn arrives_whole() {
        let bytes = stream();
        assert_eq!(bytes.len(), 3 * BLOCK);
        assert_eq!(receive(&mut &bytes[..], 5).unwrap(), bytes.len() as u64);
    }

    #[test]
    fn lost_doubled_and_changed_bytes_are_found() {
        let whole = stream();
        let mut changed = whole.clone();
        changed[BLOCK + 7] ^= 1;
        let error = receive(&mut &changed[..], 5).unwrap_err().to_string();
        assert_eq!(error, format!("the byte at offset {} is wrong", BLOCK + 7));
        let lost = [&whole[..BLOCK], &whole[BLOCK + 1..]].concat();
        assert!(receive(&mut &lost[..], 5).is_err());
        let doubled = [&whole[..BLOCK], &whole[..]].concat();
        assert!(receive(&mut &doubled[..], 5).is_err());
        assert!(receive(&mut &whole[..2 * BLOCK], 5).is_err());
    }
}
