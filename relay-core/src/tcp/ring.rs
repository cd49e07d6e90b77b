//! A window of bytes that is addressed by stream offset.
//!
//! It holds what lies within one capacity of the stream and knows nothing of what is valid in
//! it. That lets bytes beyond a hole be read, which smoltcp's `RingBuffer` does not.

use std::collections::VecDeque;

use crate::canary::{Canary, breaks};

/// Memory is taken in pages of this many bytes, when they are first written, and given back when the
/// stream has passed them. Segments do not cross pages, so much smaller ones would cost packets.
const PAGE: usize = 64 * 1024;

/// What buffers take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub taken: usize,
    /// What is taken although no byte that is needed is in it.
    pub unexplained: usize,
}

impl Memory {
    /// Both together.
    pub fn and(self, other: Memory) -> Memory {
        let Memory { taken, unexplained } = other;
        Memory { taken: self.taken + taken, unexplained: self.unexplained + unexplained }
    }

    /// The larger one of each.
    pub fn max(self, other: Memory) -> Memory {
        let Memory { taken, unexplained } = other;
        Memory { taken: self.taken.max(taken), unexplained: self.unexplained.max(unexplained) }
    }
}

/// The bytes `[x, x + capacity)` of a stream, for an `x` that its user keeps.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// The pages from number `first` on; empty until first written.
    pages: VecDeque<Vec<u8>>,
    first: u64,
    /// A page that was given back last, for the next one that is needed.
    spare: Option<Vec<u8>>,
    capacity: usize,
}

impl Ring {
    /// A ring that has no memory yet.
    pub fn new(capacity: usize) -> Self {
        Ring { capacity, ..Ring::default() }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Stores `data` at `offset`; what exceeds the capacity is cut off.
    pub fn write(&mut self, mut offset: u64, data: &[u8]) {
        let mut data = &data[..data.len().min(self.capacity)];
        while !data.is_empty() {
            let at = (offset % PAGE as u64) as usize;
            let (now, later) = data.split_at(data.len().min(PAGE - at));
            self.page(offset / PAGE as u64)[at..at + now.len()].copy_from_slice(now);
            offset += now.len() as u64;
            data = later;
        }
    }

    /// Up to `max` bytes from `offset` on, fewer at the end of a page. None where nothing was
    /// written.
    pub fn slice(&self, offset: u64, max: usize) -> &[u8] {
        let number = offset / PAGE as u64;
        let page = number.checked_sub(self.first).and_then(|index| self.pages.get(index as usize));
        let at = (offset % PAGE as u64) as usize;
        let bytes = page.and_then(|page| page.get(at..)).unwrap_or_default();
        &bytes[..max.min(bytes.len())]
    }

    /// Bytes from `offset` to the end of the page, which no slice crosses.
    pub fn until_boundary(&self, offset: u64) -> usize {
        PAGE - (offset % PAGE as u64) as usize
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

    /// Whether exactly `bytes` are at `offset`. Nothing is known of memory that was given back.
    pub fn holds(&self, mut offset: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() && self.capacity > 0 {
            let part = self.slice(offset, bytes.len());
            if part.is_empty() || part != &bytes[..part.len()] {
                return false;
            }
            bytes = &bytes[part.len()..];
            offset += part.len() as u64;
        }
        true
    }

    /// Bytes below `offset` are not needed any more.
    pub fn release(&mut self, offset: u64) {
        if breaks(Canary::KeepPages) {
            return;
        }
        while self.first < offset / PAGE as u64 {
            let Some(page) = self.pages.pop_front() else { return };
            self.first += 1;
            self.spare = Some(page).filter(|page| !page.is_empty()).or(self.spare.take());
        }
    }

    /// Bytes of memory that are taken, and those of them that `used` bytes in a row do not explain:
    /// they may share their first and their last page with nothing, and there is the spare one.
    pub fn memory(&self, used: u64) -> Memory {
        let taken = self.pages.iter().chain(&self.spare).map(Vec::len).sum::<usize>();
        let most = usize::try_from(used).unwrap_or(usize::MAX).saturating_add(3 * PAGE);
        Memory { taken, unexplained: taken.saturating_sub(most) }
    }

    /// Gives the memory back.
    pub fn free(&mut self) {
        *self = Ring::default();
    }

    fn page(&mut self, number: u64) -> &mut [u8] {
        if self.pages.is_empty() {
            self.first = number;
        }
        while number < self.first {
            self.pages.push_front(Vec::new());
            self.first -= 1;
        }
        let index = (number - self.first) as usize;
        if self.pages.len() <= index {
            self.pages.resize_with(index + 1, Vec::new);
        }
        let page = &mut self.pages[index];
        if page.is_empty() {
            *page = self.spare.take().unwrap_or_else(|| vec![0; PAGE]);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ring: &Ring) -> usize {
        ring.pages.iter().filter(|page| !page.is_empty()).count()
    }

    #[test]
    fn bytes_are_read_back_across_pages() {
        let mut ring = Ring::new(3 * PAGE);
        let data: Vec<u8> = (0..PAGE + 20).map(|i| i as u8).collect();
        let at = 3 * PAGE as u64 - 5;
        ring.write(at, &data);
        let mut out = vec![0; data.len()];
        ring.copy(at, &mut out);
        assert_eq!(out, data);
        assert!(ring.holds(at, &data) && !ring.holds(at + 1, &data[..9]));
        assert_eq!((ring.slice(at, 9), ring.until_boundary(at)), (&data[..5], 5));
        ring.free();
        assert_eq!((taken(&ring), ring.slice(at, 9)), (0, &b""[..]));
        ring.write(at, &data);
        assert_eq!(taken(&ring), 0, "nothing fits any more");
    }

    #[test]
    fn memory_is_taken_and_given_back_page_by_page() {
        let mut ring = Ring::new(8 * PAGE);
        let page = |number: u64| number * PAGE as u64;
        ring.write(page(3), b"beyond a hole");
        assert_eq!(taken(&ring), 1);
        ring.write(page(1), b"below it");
        assert_eq!((taken(&ring), ring.slice(page(3), 6)), (2, &b"beyond"[..]));
        ring.release(page(2) - 1);
        assert_eq!((taken(&ring), ring.slice(page(1), 8)), (2, &b"below it"[..]));
        ring.release(page(3));
        assert_eq!((taken(&ring), ring.slice(page(3), 6)), (1, &b"beyond"[..]));
        for number in 4..100 {
            ring.write(page(number), b"more");
            ring.release(page(number));
            assert_eq!((taken(&ring), ring.pages.len()), (1, 1));
            let Memory { taken, unexplained } = ring.memory(4);
            assert!(taken <= 2 * PAGE && unexplained == 0);
        }
    }
}
