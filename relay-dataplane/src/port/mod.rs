//! Ports: whole Ethernet frames in and out of one interface, in batches.

mod error;
mod frames;
mod link;
mod queue;
mod xsk;

pub use error::Error;
pub use xsk::{Mode, PortOptions, Statistics, XskPort};

use std::{os::fd::RawFd, ptr, time::Duration};

/// Frames that one [`Port::receive`] hands out at most. Large enough to spread the cost of a turn
/// over many frames, small enough that the transmit side of the turn starts soon.
pub const BATCH: usize = 256;

/// One interface's frames. A turn is: receive, work, transmit, flush.
///
/// Checksums are the frames' own: nothing between this trait and the wire computes or checks any.
pub trait Port {
    /// The interface's own hardware address.
    fn mac(&self) -> [u8; 6];

    /// The longest payload of a frame in bytes, without the Ethernet header.
    fn mtu(&self) -> usize;

    /// Hands every received frame of one batch (at most [`BATCH`]) to `each`; returns how many.
    /// A frame begins with the Ethernet header and has no frame check sequence.
    fn receive(&mut self, each: &mut dyn FnMut(&[u8])) -> usize;

    /// Asks `fill` for frames until it has none (`None`) or the transmit ring is full; returns
    /// how many were queued. `fill` gets a buffer as long as the longest frame, writes a frame to
    /// its start, and returns the frame's length in bytes. Frames leave in this order.
    fn transmit(&mut self, fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>) -> usize;

    /// Wakes the kernel if it needs that, and takes back the buffers of sent frames. Once per
    /// turn. Calls [`Port::refresh`] from time to time.
    fn flush(&mut self);

    /// Whether the link was usable when last looked at, see [`Port::refresh`].
    fn has_carrier(&self) -> bool;

    /// Looks at the link's state.
    fn refresh(&mut self);

    /// What becomes readable when frames arrive, see [`wait`].
    fn fds(&self) -> Vec<RawFd>;
}

/// Waits until one of `ports` has frames to receive, one of `wakes` is readable, `timeout` has passed, or
/// a signal came.
pub fn wait(ports: &[&dyn Port], wakes: &[RawFd], timeout: Duration) {
    let mut polled: Vec<libc::pollfd> = ports
        .iter()
        .flat_map(|port| port.fds())
        .chain(wakes.iter().copied())
        .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
        .collect();
    let limit = libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // SAFETY: a valid array of descriptors with its length, a valid time, and no signal mask.
    // What comes back needs no look: the caller asks the ports themselves.
    unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as u64, &raw const limit, ptr::null()) };
}

/// The MAC address of an interface.
///
/// # Errors
/// When there is no such interface.
pub fn mac_of(interface: &str) -> Result<[u8; 6], Error> {
    link::Link::open(interface)?.mac()
}

/// How an interface spreads what it receives: the key of its Toeplitz hash, and the queue for each entry of
/// its table. None when it does not say, or hashes otherwise.
pub fn spread_of(interface: &str) -> Option<(Vec<u8>, Vec<u32>)> {
    link::Link::open(interface).ok()?.spread()
}
