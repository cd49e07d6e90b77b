//! The packet memory of a port and its free chunks.

use super::Error;
use std::num::NonZeroU32;
use xsk_rs::{FrameDesc, Umem, config::UmemConfig};

/// Chunk sizes that the kernel admits. The small one holds a frame of MTU 1500.
const SMALL_CHUNK: u32 = 2048;
const LARGE_CHUNK: u32 = 4096;

/// What the kernel leaves free before a received frame (XDP_PACKET_HEADROOM).
const HEADROOM: usize = 256;

/// "Another chunk of this frame follows" (XDP_PKT_CONTD).
const CONTINUED: u32 = 1;

/// The packet memory: chunks of one size, which are either free, or lent to a ring.
///
/// Chunks are reused last in, first out, so that few of them are hot in the cache.
pub(super) struct Frames {
    umem: Umem,
    free: Vec<FrameDesc>,
    chunk_room: usize,
    frame_len: usize,
    /// A long frame that `fill` wrote, before it is cut into chunks.
    joined: Vec<u8>,
}

impl Frames {
    /// Memory for `chunks` chunks, and frames of up to `frame_len` bytes. `ring`: entries of the
    /// fill and completion rings.
    pub(super) fn new(chunks: u32, frame_len: usize, ring: u32) -> Result<Frames, Error> {
        let size = chunk_size(frame_len);
        let ring = ring.try_into().map_err(configuration)?;
        let config = UmemConfig::builder()
            .frame_size(size.try_into().map_err(configuration)?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(configuration)?;
        let count = NonZeroU32::new(chunks).unwrap_or(NonZeroU32::MIN);
        let bytes = u64::from(chunks) * u64::from(size);
        let (umem, free) =
            Umem::new(config, count, false).map_err(|source| Error::Buffers { bytes, source })?;
        let chunk_room = config.mtu() as usize;
        Ok(Frames { umem, free, chunk_room, frame_len, joined: vec![0; frame_len] })
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Whether a frame can take more than one chunk.
    pub(super) fn is_multi_buffer(&self) -> bool {
        self.frame_len > self.chunk_room
    }

    /// Chunks of the longest frame.
    pub(super) fn chunks_per_frame(&self) -> usize {
        self.frame_len.div_ceil(self.chunk_room)
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Up to `wanted` free chunks, which the caller lends to a ring.
    pub(super) fn lend(&mut self, wanted: usize) -> std::vec::Drain<'_, FrameDesc> {
        let kept = self.free.len().saturating_sub(wanted);
        self.free.drain(kept..)
    }

    /// Takes chunks back that a ring gave back.
    pub(super) fn take_back(&mut self, chunks: &[FrameDesc]) {
        self.free.extend_from_slice(chunks);
    }

    /// The bytes of a received chunk.
    ///
    /// # Safety
    /// `chunk` must come from the receive ring of this memory, and must not have been lent again.
    pub(super) unsafe fn received(&self, chunk: &FrameDesc) -> &[u8] {
        // SAFETY: the caller's promise: the kernel is done with the chunk, and its length is what
        // the kernel wrote.
        unsafe { self.umem.data(chunk) }.contents()
    }

    /// Lets `fill` write a frame, and appends its chunks to `staged`. The caller makes sure that
    /// [`Frames::chunks_per_frame`] chunks are free. Returns whether there was a frame.
    pub(super) fn write(
        &mut self,
        staged: &mut Vec<FrameDesc>,
        fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>,
    ) -> bool {
        if self.is_multi_buffer() {
            return self.write_chunks(staged, fill);
        }
        let Some(mut chunk) = self.free.pop() else { return false };
        let Some(len) = self.write_chunk(&mut chunk, fill) else {
            self.free.push(chunk);
            return false;
        };
        debug_assert!(len <= self.frame_len);
        staged.push(chunk);
        true
    }

    fn write_chunk(
        &self,
        chunk: &mut FrameDesc,
        fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        chunk.set_options(0);
        // SAFETY: the chunk is from the free list, so neither a ring nor the kernel has it.
        let mut data = unsafe { self.umem.data_mut(chunk) };
        data.cursor().set_pos(self.frame_len);
        let len = fill(data.contents_mut())?.min(self.frame_len);
        data.cursor().set_pos(len);
        Some(len)
    }

    fn write_chunks(
        &mut self,
        staged: &mut Vec<FrameDesc>,
        fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>,
    ) -> bool {
        let Some(len) = fill(&mut self.joined) else { return false };
        let len = len.min(self.frame_len);
        let first = staged.len();
        for part in self.joined[..len].chunks(self.chunk_room) {
            // Its caller made sure that there are enough.
            let Some(mut chunk) = self.free.pop() else { break };
            chunk.set_options(CONTINUED);
            // SAFETY: as in `write_chunk`.
            let mut data = unsafe { self.umem.data_mut(&mut chunk) };
            data.cursor().set_pos(part.len());
            data.contents_mut().copy_from_slice(part);
            staged.push(chunk);
        }
        if let Some(last) = staged[first..].last_mut() {
            last.set_options(0);
        }
        true
    }
}

fn chunk_size(frame_len: usize) -> u32 {
    if frame_len + HEADROOM <= SMALL_CHUNK as usize { SMALL_CHUNK } else { LARGE_CHUNK }
}

fn configuration(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Configuration(Box::new(error))
}
