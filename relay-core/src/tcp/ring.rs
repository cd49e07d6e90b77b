//! A ring of bytes that is addressed by stream offset.
//!
//! It holds what lies within one capacity of the stream and knows nothing of what is valid in
//! it. That lets bytes beyond a hole be read, which smoltcp's `RingBuffer` does not.

/// Memory is taken in pages of this many bytes, when they are first written: a small exchange never
/// touches a second one. Segments do not cross pages, so much smaller ones would cost packets.
const PAGE: usize = 64 * 1024;

/// The bytes `[x, x + capacity)` of a stream, for an `x` that its user keeps.
#[derive(Debug)]
pub(super) struct Ring {
    /// Empty until first written; the last one may be shorter than the others.
    pages: Vec<Vec<u8>>,
    capacity: usize,
}

impl Ring {
    /// A ring that has no memory yet.
    pub fn new(capacity: usize) -> Self {
        Ring { pages: vec![Vec::new(); capacity.div_ceil(PAGE)], capacity }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Stores `data` at `offset`; what exceeds the capacity is cut off.
    pub fn write(&mut self, mut offset: u64, data: &[u8]) {
        let mut data = &data[..data.len().min(self.capacity)];
        while !data.is_empty() {
            let (page, at) = self.place(offset);
            let length = self.page_len(page);
            let bytes = &mut self.pages[page];
            if bytes.is_empty() {
                *bytes = vec![0; length];
            }
            let (now, later) = data.split_at(data.len().min(length - at));
            bytes[at..at + now.len()].copy_from_slice(now);
            offset += now.len() as u64;
            data = later;
        }
    }

    /// Up to `max` bytes from `offset` on, fewer at the end of a page. None where nothing was
    /// written.
    pub fn slice(&self, offset: u64, max: usize) -> &[u8] {
        if self.capacity == 0 {
            return &[];
        }
        let (page, at) = self.place(offset);
        let bytes = self.pages[page].get(at..).unwrap_or_default();
        &bytes[..max.min(bytes.len())]
    }

    /// Bytes from `offset` to the end of the page, which no slice crosses.
    pub fn until_wrap(&self, offset: u64) -> usize {
        if self.capacity == 0 {
            return 0;
        }
        let (page, at) = self.place(offset);
        self.page_len(page) - at
    }

    /// Copies `out.len()` bytes from `offset` on; the capacity is the most that can be meant.
    pub fn copy(&self, offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let part = self.slice(offset + done as u64, out.len() - done);
            if part.is_empty() {
                return;
            }
            out[done..done + part.len()].copy_from_slice(part);
            done += part.len();
        }
    }

    /// Gives the memory back.
    pub fn free(&mut self) {
        self.pages = Vec::new();
        self.capacity = 0;
    }

    fn place(&self, offset: u64) -> (usize, usize) {
        let index = (offset % self.capacity as u64) as usize;
        (index / PAGE, index % PAGE)
    }

    fn page_len(&self, page: usize) -> usize {
        PAGE.min(self.capacity - page * PAGE)
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
    #[test]
    fn memory_is_taken_page_by_page() {
        let mut ring = Ring::new(3 * PAGE + 7);
        let data: Vec<u8> = (0..PAGE + 20).map(|i| i as u8).collect();
        ring.write(2 * PAGE as u64, b"one page");
        assert_eq!(ring.pages.iter().filter(|page| !page.is_empty()).count(), 1);
        // Over the short last page and around the end.
        let at = 3 * PAGE as u64 - 5;
        ring.write(at, &data);
        let mut out = vec![0; data.len()];
        ring.copy(at, &mut out);
        assert_eq!(out, data);
        assert_eq!((ring.until_wrap(at), ring.until_wrap(at + 5)), (5, 7));
    }
}
