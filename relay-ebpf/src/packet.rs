//! Bounds-checked access to the frame. Every access to packet memory is here.

use aya_ebpf::programs::XdpContext;

/// The linear part of the frame, in which the headers are.
pub struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Packet { start: ctx.data(), end: ctx.data_end() }
    }

    /// The `N` bytes at offset `at`, if the frame has that many.
    #[inline(always)]
    pub fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let from = self.start + at;
        if from + N > self.end {
            return None;
        }
        // SAFETY: the N bytes from `from` lie within the frame, as was just compared; the
        // verifier proves the same.
        Some(unsafe { core::ptr::read_unaligned(from as *const [u8; N]) })
    }

    /// Puts `bytes` at offset `at`; false if the frame does not reach so far.
    #[inline(always)]
    pub fn write<const N: usize>(&self, at: usize, bytes: [u8; N]) -> bool {
        let from = self.start + at;
        if from + N > self.end {
            return false;
        }
        // SAFETY: as in `read`; nobody else accesses the frame while the program runs.
        unsafe { core::ptr::write_unaligned(from as *mut [u8; N], bytes) };
        true
    }

    /// The 16-bit number in network byte order at offset `at`.
    #[inline(always)]
    pub fn read_u16(&self, at: usize) -> Option<u16> {
        self.read(at).map(u16::from_be_bytes)
    }
}

/// `N` bytes of `bytes` from `AT` on, both known to the compiler.
#[inline(always)]
pub fn take<const AT: usize, const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let mut i = 0;
    while i < N {
        taken[i] = bytes[AT + i];
        i += 1;
    }
    taken
}
