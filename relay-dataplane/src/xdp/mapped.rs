//! An array map in this process's memory: a store takes effect without a system call.

use super::{Error, VALUE_STRIDE};
use aya::{Ebpf, maps::Map};
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

#[cfg(target_endian = "big")]
compile_error!("a narrow value is the first bytes of its slot only on a little-endian machine");

/// The slots of an array map, each as wide as [`VALUE_STRIDE`]. A value that is narrower than its
/// slot is the low end of the number.
pub(super) struct Mapped {
    base: NonNull<AtomicU64>,
    slots: u32,
}

// SAFETY: the memory is shared with the kernel anyway, and is only accessed atomically.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the `slots` values of the array `name`, which must have been made with
    /// BPF_F_MMAPABLE.
    pub(super) fn new(ebpf: &mut Ebpf, name: &'static str, slots: u32) -> Result<Mapped, Error> {
        let Some(Map::Array(map)) = ebpf.take_map(name) else { return Err(Error::Object(name)) };
        if map.info().map_err(Error::map(name))?.max_entries() != slots {
            return Err(Error::Object(name));
        }
        let descriptor = map.fd().as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len(slots),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                descriptor,
                0,
            )
        };
        match NonNull::new(base.cast::<AtomicU64>()) {
            Some(start) if base != libc::MAP_FAILED => Ok(Mapped { base: start, slots }),
            _ => Err(Error::Mapping(io::Error::last_os_error())),
        }
    }

    /// Stores `value` after every store before it.
    pub(super) fn store(&self, slot: u32, value: u64) {
        self.slot(slot).store(value, Ordering::Release);
    }

    pub(super) fn load(&self, slot: u32) -> u64 {
        self.slot(slot).load(Ordering::Acquire)
    }

    fn slot(&self, slot: u32) -> &AtomicU64 {
        assert!(slot < self.slots);
        // SAFETY: the slot lies within the mapping, which lives as long as `self` and is aligned
        // to a page.
        unsafe { self.base.add(slot as usize).as_ref() }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is this struct's own, and no reference into it outlives it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), len(self.slots)) };
    }
}

fn len(slots: u32) -> usize {
    const { assert!(size_of::<AtomicU64>() == VALUE_STRIDE) };
    slots as usize * VALUE_STRIDE
}
