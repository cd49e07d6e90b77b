//! A port over AF_XDP: one packet memory, and a socket on every receive queue of the interface, or on those
//! that one worker has.

use super::{BATCH, Error, Port, frames::Frames, link::Link, queue::Queue};
use crate::xdp::Program;
use relay_abi::xdp::MAX_QUEUES;
use relay_core::units::Part;
use std::{
    os::fd::RawFd,
    time::{Duration, Instant},
};

/// Bytes of an Ethernet header.
const ETHERNET_HEADER: usize = 14;

/// The largest MTU: jumbo frames of common hardware.
const MAX_MTU: usize = 9216;

/// Ring sizes. Below the first a batch does not fit; the second makes 8 to 16 MiB per queue.
const MIN_RING: u32 = 512;
const MAX_RING: u32 = 1 << 15;

/// How often [`Port::flush`] looks at the link and the fill rings.
const REFRESH_INTERVAL: Duration = Duration::from_millis(10);

/// How the worker waits for frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It sleeps in [`super::wait`]; the driver's interrupts wake it.
    #[default]
    Poll,
    /// It spins, and its system calls run the driver (`SO_PREFER_BUSY_POLL`).
    Busy,
}

/// The size of a port, and how it waits.
#[derive(Clone, Copy, Debug)]
pub struct PortOptions {
    /// Entries of each ring: a power of two. Every queue has packet memory for as many chunks.
    pub ring: u32,
    /// How the worker waits for frames.
    pub mode: Mode,
}

impl Default for PortOptions {
    fn default() -> Self {
        PortOptions { ring: 2048, mode: Mode::Poll }
    }
}

/// Frames that were lost or refused at the port, summed over its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Received, but lost for want of a free chunk or for another reason of the kernel's.
    pub rx_dropped: u64,
    /// Received, but lost because the receive ring was full.
    pub rx_ring_full: u64,
    /// How often the kernel found no free chunk.
    pub rx_fill_empty: u64,
    /// Chunks for reception that the kernel refused. Always zero unless there is a bug.
    pub rx_invalid: u64,
    /// Received frames that were longer than a frame can be.
    pub rx_oversized: u64,
    /// Frames to be sent that the kernel refused. Always zero unless there is a bug.
    pub tx_invalid: u64,
    /// How often the kernel found nothing to send.
    pub tx_ring_empty: u64,
}

/// An interface's frames through AF_XDP sockets. The interface is promiscuous meanwhile.
pub struct XskPort {
    /// Before the memory that they use: fields are dropped in this order.
    queues: Vec<Queue>,
    frames: Frames,
    link: Link,
    mac: [u8; 6],
    mtu: usize,
    has_carrier: bool,
    refreshed_at: Instant,
    /// The queue to receive from first: each in its turn.
    first: usize,
}

impl XskPort {
    /// Opens a socket on every receive queue of `interface` and registers it with `program`,
    /// which must be the one that is attached to this interface.
    pub fn open(
        interface: &str,
        program: &mut Program,
        options: PortOptions,
    ) -> Result<XskPort, Error> {
        XskPort::open_part(interface, program, options, Part::WHOLE)
    }

    /// The same with every `part.of`-th queue, for one of so many workers.
    pub fn open_part(
        interface: &str,
        program: &mut Program,
        options: PortOptions,
        part: Part,
    ) -> Result<XskPort, Error> {
        let ring = options.ring;
        if !ring.is_power_of_two() || !(MIN_RING..=MAX_RING).contains(&ring) {
            return Err(Error::Ring { ring, min: MIN_RING, max: MAX_RING });
        }
        let link = Link::open(interface)?;
        let (mac, mtu, count) = (link.mac()?, link.mtu()?, link.receive_queues()?);
        let interface = interface.to_owned();
        if count > MAX_QUEUES {
            return Err(Error::Queues { interface, queues: count, max: MAX_QUEUES });
        }
        if count < part.of.into() {
            return Err(Error::TooFewQueues { interface, queues: count, workers: part.of });
        }
        if mtu > MAX_MTU {
            return Err(Error::Mtu { interface, mtu, max: MAX_MTU });
        }
        // As much for each queue's reception, and once more for transmission.
        let own = (0..count).skip(part.worker.into()).step_by(part.of.into());
        let chunks = (own.len() as u32 + 1) * ring;
        let mut frames = Frames::new(chunks, mtu + ETHERNET_HEADER, ring)?;
        let mut queues = Vec::new();
        for index in own {
            let mut queue = Queue::bind(&frames, &interface, index, ring)?;
            queue.set_mode(options.mode)?;
            queue.refill(&mut frames);
            program.register(index, queue.socket())?;
            queues.push(queue);
        }
        link.set_promiscuous()?;
        let has_carrier = link.is_running();
        let refreshed_at = Instant::now();
        Ok(XskPort { queues, frames, link, mac, mtu, has_carrier, refreshed_at, first: 0 })
    }

    /// Frames that were lost or refused so far.
    pub fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for queue in &self.queues {
            sum.rx_oversized += queue.oversized();
            // The kernel answers as long as the socket is open, and the queue keeps it open.
            let Ok(one) = queue.statistics() else { continue };
            sum.rx_dropped += one.rx_dropped();
            sum.rx_ring_full += one.rx_ring_full();
            sum.rx_fill_empty += one.rx_fill_ring_empty_descs();
            sum.rx_invalid += one.rx_invalid_descs();
            sum.tx_invalid += one.tx_invalid_descs();
            sum.tx_ring_empty += one.tx_ring_empty_descs();
        }
        sum
    }
}

impl Port for XskPort {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn receive(&mut self, each: &mut dyn FnMut(&[u8])) -> usize {
        let mut received = 0;
        for turn in 0..self.queues.len() {
            let index = (self.first + turn) % self.queues.len();
            received += self.queues[index].receive(&mut self.frames, BATCH - received, each);
        }
        self.first = (self.first + 1) % self.queues.len();
        received
    }

    /// All frames leave through the first queue: two queues would not keep their order.
    fn transmit(&mut self, fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>) -> usize {
        self.queues[0].transmit(&mut self.frames, fill)
    }

    fn flush(&mut self) {
        for queue in &mut self.queues {
            queue.wake();
        }
        self.queues[0].reclaim(&mut self.frames);
        if self.refreshed_at.elapsed() >= REFRESH_INTERVAL {
            self.refresh();
        }
    }

    fn has_carrier(&self) -> bool {
        self.has_carrier
    }

    fn refresh(&mut self) {
        self.has_carrier = self.link.is_running();
        for queue in &mut self.queues {
            queue.adapt(&mut self.frames);
        }
        self.refreshed_at = Instant::now();
    }

    fn fds(&self) -> Vec<RawFd> {
        self.queues.iter().map(Queue::fd).collect()
    }
}
