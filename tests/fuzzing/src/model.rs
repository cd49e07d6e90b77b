//! What the receiver must hold: of every byte of the stream, the first that was taken.

use core::ops::Range;

use relay_core::tcp::{Connection, Phase};

/// The peer's stream as far as it was taken.
#[derive(Debug, Default)]
pub struct Model {
    bytes: Vec<Option<u8>>,
    held: u64,
}

impl Model {
    /// The connection was given `payload` at offset `start`, and did not refuse it as a whole if
    /// `taken`: what it now holds beyond what it held is from this payload, and nothing is lost.
    pub fn follow(&mut self, connection: &Connection, start: i64, payload: &[u8], taken: bool) {
        let received = 0..connection.received();
        let held: Vec<Range<u64>> =
            core::iter::once(received).chain(connection.out_of_order()).collect();
        if taken {
            held.iter().for_each(|range| self.mark(range, start, payload));
        }
        let now: u64 = held.iter().map(|range| range.end - range.start).sum();
        let is_over = matches!(connection.phase(), Phase::Closed(_));
        if is_over && held.len() == 1 {
            // What lay beyond a hole is forgotten.
            self.held = self.bytes.iter().take(now as usize).flatten().count() as u64;
        }
        assert_eq!(now, self.held, "held {held:?} after {} bytes at {start}", payload.len());
        assert!(held.windows(2).all(|pair| pair[0].end < pair[1].start), "{held:?}");
    }

    /// Everything that can be read is what came first.
    pub fn compare(&self, connection: &Connection) {
        let retained = connection.retained();
        let mut bytes = vec![0; (connection.received() - retained) as usize];
        // Who is closed and has been read has no buffer any more.
        let length = connection.copy_received(retained, &mut bytes);
        self.compare_range(retained, &bytes[..length]);
        if matches!(connection.phase(), Phase::Closed(_)) {
            return; // What lies beyond a hole will never be in order.
        }
        for range in connection.out_of_order() {
            let mut bytes = Vec::new();
            connection.copy_out_of_order(range.clone(), &mut bytes);
            self.compare_range(range.start, &bytes);
        }
    }

    fn compare_range(&self, from: u64, bytes: &[u8]) {
        for (at, byte) in (from..).zip(bytes) {
            assert_eq!(self.bytes[at as usize], Some(*byte), "at {at}");
        }
    }

    fn mark(&mut self, held: &Range<u64>, start: i64, payload: &[u8]) {
        let end = start + payload.len() as i64;
        let from = start.max(held.start as i64);
        for at in from..end.min(held.end as i64) {
            let index = at as usize;
            if self.bytes.len() <= index {
                self.bytes.resize(index + 1, None);
            }
            let byte = payload[(at - start) as usize];
            if self.bytes[index].is_none() {
                self.bytes[index] = Some(byte);
                self.held += 1;
            }
        }
    }
}
