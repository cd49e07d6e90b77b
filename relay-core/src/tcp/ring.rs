//! A ring of bytes that is addressed by stream offset.
//!
//! It holds what lies within one capacity of the stream and knows nothing of what is valid in
//! it. That lets bytes beyond a hole be read, which smoltcp's `RingBuffer` does not.

/// The bytes `[x, x + capacity)` of a stream, for an `x` that its user keeps.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: Vec<u8>,
}

impl Ring {
    /// A ring of zeros. The pages are taken from the system when they are first written.
    pub fn new(capacity: usize) -> Self {
        Ring { bytes: vec![0; capacity] }
    }

    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Stores `data` at `offset`; what exceeds the capacity is cut off.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if self.bytes.is_empty() {
            return;
        }
        let data = &data[..data.len().min(self.bytes.len())];
        let at = self.index(offset);
        let (front, back) = data.split_at(data.len().min(self.bytes.len() - at));
        self.bytes[at..at + front.len()].copy_from_slice(front);
        self.bytes[..back.len()].copy_from_slice(back);
    }

    /// Up to `max` bytes from `offset` on, fewer where the ring wraps.
    pub fn slice(&self, offset: u64, max: usize) -> &[u8] {
        if self.bytes.is_empty() {
            return &[];
        }
        let at = self.index(offset);
        &self.bytes[at..at + max.min(self.bytes.len() - at)]
    }

    /// Bytes from `offset` to the end of the ring's storage.
    pub fn until_wrap(&self, offset: u64) -> usize {
        if self.bytes.is_empty() { 0 } else { self.bytes.len() - self.index(offset) }
    }

    /// Copies `out.len()` bytes from `offset` on; the capacity is the most that can be meant.
    pub fn copy(&self, offset: u64, out: &mut [u8]) {
        let front = self.slice(offset, out.len());
        let cut = front.len();
        out[..cut].copy_from_slice(front);
        let rest = out.len() - cut;
        let back = self.slice(offset + cut as u64, rest);
        out[cut..cut + back.len()].copy_from_slice(back);
    }

    /// Gives the memory back.
    pub fn free(&mut self) {
        self.bytes = Vec::new();
    }

    fn index(&self, offset: u64) -> usize {
        (offset % self.bytes.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wrap_and_are_read_back() {
        let mut ring = Ring::new(10);
        ring.write(7, b"abcdef");
        assert_eq!((ring.slice(7, 6), ring.slice(10, 3)), (&b"abc"[..], &b"def"[..]));
        let mut out = [0; 6];
        ring.copy(7, &mut out);
        assert_eq!((&out, ring.until_wrap(7)), (b"abcdef", 3));
        ring.free();
        ring.write(7, b"abcdef");
        assert_eq!((ring.slice(7, 6), ring.until_wrap(7)), (&b""[..], 0));
    }
}
