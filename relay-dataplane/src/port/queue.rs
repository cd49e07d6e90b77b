//! One AF_XDP socket: the four rings of one queue of the interface.

use super::{BATCH, Error, Mode, error::errno, frames::Frames};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    thread,
    time::{Duration, Instant},
};
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue,
    config::{BindFlags, Interface, LibxdpFlags, SocketConfig},
    socket::XdpStatistics,
};

/// Chunks that a queue starts with for reception. Few chunks stay hot in the cache; too few lose
/// bursts, so the level doubles when the kernel has run out of them.
const FIRST_FILL_LEVEL: u32 = 1024;

/// The kernel gives a queue free a while after its last socket was closed: how long to go on
/// trying, and how often.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
const BIND_INTERVAL: Duration = Duration::from_millis(10);

/// The longest frame that is joined from chunks in bytes. The kernel makes none longer.
const MAX_JOINED: usize = 1 << 16;

/// Bytes of frames that may wait in the driver, see socket(7) `SO_SNDBUF`.
const SEND_BUFFER: i32 = 16 << 20;

/// Frames that one wake-up may send at most, where the kernel lets us say so; else it sends 32.
/// It takes no number beyond the size of the ring.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
const SEND_BUDGET: u32 = 1024;

/// Microseconds that one system call may poll the driver, and frames that it may take from it
/// (socket(7), `SO_BUSY_POLL` and the like).
const BUSY_POLL_MICROS: i32 = 20;
const BUSY_POLL_BUDGET: i32 = 64;

/// What the kernel calls this on a socket.
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;

pub(super) struct Queue {
    receive: RxQueue,
    transmit: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    ring: u32,
    /// Chunks that reception may have, and has.
    fill_level: u32,
    filled: u32,
    /// The kernel's count of lacks when the level was last looked at.
    fill_lacks: u64,
    /// Chunks that transmission has.
    sending: u32,
    /// The start of a frame whose other chunks have not arrived.
    partial: Vec<u8>,
    /// The rest of this frame is thrown away.
    discarding: bool,
    oversized: u64,
    /// Chunks on their way between a ring and the free list: consumed from one ...
    batch: Box<[FrameDesc; BATCH]>,
    /// ... or collected for one.
    staged: Vec<FrameDesc>,
}

impl Queue {
    /// Binds a socket to `queue` of `interface`, with rings of `ring` entries.
    pub(super) fn bind(
        frames: &Frames,
        interface: &str,
        queue: u32,
        ring: u32,
    ) -> Result<Queue, Error> {
        let mut flags = BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP;
        if frames.is_multi_buffer() {
            flags |= BindFlags::XDP_USE_SG;
        }
        let size = ring.try_into().map_err(|error| Error::Configuration(Box::new(error)))?;
        let config = SocketConfig::builder()
            .rx_queue_size(size)
            .tx_queue_size(size)
            .bind_flags(flags)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .build();
        let (transmit, receive, fill, completion) = bind(frames, interface, queue, config)?;
        let socket = receive.fd().as_raw_fd();
        // Neither is needed to work, only to work fast; older kernels know no budget.
        let budget = SEND_BUDGET.min(ring) as i32;
        let _ = set_option(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, budget);
        let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER);
        Ok(Queue {
            receive,
            transmit,
            fill,
            completion,
            ring,
            fill_level: FIRST_FILL_LEVEL.min(ring),
            filled: 0,
            fill_lacks: 0,
            sending: 0,
            partial: Vec::new(),
            discarding: false,
            oversized: 0,
            batch: Box::new([FrameDesc::default(); BATCH]),
            staged: Vec::with_capacity(ring as usize),
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.receive.fd().as_raw_fd()
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the rings of this struct keep the socket open as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.fd()) }
    }

    pub(super) fn set_mode(&self, mode: Mode) -> Result<(), Error> {
        if mode == Mode::Poll {
            return Ok(());
        }
        for (name, option, value) in [
            ("SO_PREFER_BUSY_POLL", SO_PREFER_BUSY_POLL, 1),
            ("SO_BUSY_POLL", libc::SO_BUSY_POLL, BUSY_POLL_MICROS),
            ("SO_BUSY_POLL_BUDGET", SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET),
        ] {
            set_option(self.fd(), libc::SOL_SOCKET, option, value)
                .map_err(|source| Error::Option { option: name, source })?;
        }
        Ok(())
    }

    /// Hands up to `limit` frames to `each` and lends their chunks to the kernel again; returns
    /// how many frames there were.
    pub(super) fn receive(
        &mut self,
        frames: &mut Frames,
        limit: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> usize {
        let mut received = 0;
        while received < limit {
            // A chunk completes one frame at most, so the limit holds for chunks of long frames.
            let wanted = BATCH.min(limit - received);
            // SAFETY: all rings of this queue belong to `frames`.
            let count = unsafe { self.receive.consume(&mut self.batch[..wanted]) };
            for index in 0..count {
                let chunk = self.batch[index];
                // SAFETY: the chunk was just consumed, and is lent again only below.
                let bytes = unsafe { frames.received(&chunk) };
                received += usize::from(self.join(bytes, chunk.has_more_frames(), each));
            }
            frames.take_back(&self.batch[..count]);
            self.filled -= count as u32;
            self.refill(frames);
            if count < wanted {
                break;
            }
        }
        received
    }

    /// Lends free chunks to the kernel, up to the fill level.
    pub(super) fn refill(&mut self, frames: &mut Frames) {
        let wanted = self.fill_level.saturating_sub(self.filled);
        if wanted == 0 {
            return;
        }
        self.staged.clear();
        self.staged.extend(frames.lend(wanted as usize));
        // SAFETY: free chunks of the memory that the ring belongs to.
        let produced = unsafe { self.fill.produce(&self.staged) };
        // The ring takes all or none. None would be a miscount; the chunks are not lost by it.
        frames.take_back(&self.staged[produced..]);
        self.filled += produced as u32;
    }

    /// Raises the fill level if the kernel ran out of chunks since the last call.
    pub(super) fn adapt(&mut self, frames: &mut Frames) {
        let Ok(statistics) = self.statistics() else { return };
        let lacks = statistics.rx_fill_ring_empty_descs();
        if lacks > self.fill_lacks && self.fill_level < self.ring {
            self.fill_level = (self.fill_level * 2).min(self.ring);
            self.refill(frames);
        }
        self.fill_lacks = lacks;
    }

    /// Queues frames from `fill` until it has none or there is no room; returns how many.
    pub(super) fn transmit(
        &mut self,
        frames: &mut Frames,
        fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>,
    ) -> usize {
        let needed = frames.chunks_per_frame();
        if self.room(frames) < needed {
            self.reclaim(frames);
        }
        self.staged.clear();
        let room = self.room(frames);
        let mut queued = 0;
        while room - self.staged.len() >= needed && frames.write(&mut self.staged, fill) {
            queued += 1;
        }
        // SAFETY: chunks of the memory that the ring belongs to, just taken from its free list.
        let produced = unsafe { self.transmit.produce(&self.staged) };
        debug_assert_eq!(produced, self.staged.len(), "room was counted before");
        self.sending += produced as u32;
        queued
    }

    /// Makes the kernel send what is queued and receive into what was lent, if it waits for that.
    pub(super) fn wake(&mut self) {
        if self.sending > 0 && self.transmit.needs_wakeup() {
            self.send();
        }
        if self.fill.needs_wakeup() {
            // A failure to wake shows as frames that do not come; there is nothing else to do.
            let _ = self.fill.wakeup(self.receive.fd_mut(), 0);
        }
    }

    /// Takes back the chunks of sent frames.
    pub(super) fn reclaim(&mut self, frames: &mut Frames) {
        loop {
            // SAFETY: all rings of this queue belong to `frames`.
            let count = unsafe { self.completion.consume(&mut self.batch[..]) };
            frames.take_back(&self.batch[..count]);
            self.sending -= count as u32;
            if count < BATCH {
                return;
            }
        }
    }

    pub(super) fn statistics(&self) -> io::Result<XdpStatistics> {
        self.receive.fd().xdp_statistics()
    }

    /// Frames that were longer than a frame can be.
    pub(super) fn oversized(&self) -> u64 {
        self.oversized
    }

    /// Adds a chunk to its frame; returns whether that completed a frame for `each`.
    fn join(&mut self, bytes: &[u8], more: bool, each: &mut dyn FnMut(&[u8])) -> bool {
        if !more && self.partial.is_empty() && !self.discarding {
            each(bytes);
            return true;
        }
        if self.partial.len() + bytes.len() > MAX_JOINED {
            self.discarding = true;
        }
        if !self.discarding {
            self.partial.extend_from_slice(bytes);
        }
        if more {
            return false;
        }
        let whole = !std::mem::take(&mut self.discarding);
        if whole {
            each(&self.partial);
        } else {
            self.oversized += 1;
        }
        self.partial.clear();
        whole
    }

    /// Chunks that can be queued for transmission. As many as the ring has entries can be on
    /// their way, so that the rest is always there for reception.
    fn room(&mut self, frames: &Frames) -> usize {
        let unsent = self.transmit.nb_free(self.ring) as usize;
        unsent.min((self.ring - self.sending) as usize).min(frames.free())
    }

    /// One wake-up sends a limited number of frames: go on as long as it sends any.
    fn send(&mut self) {
        let mut waiting = self.ring - self.transmit.nb_free_exact();
        while waiting > 0 {
            // A device that is down or busy keeps the frames queued for the next turn.
            if self.transmit.wakeup().is_err() {
                return;
            }
            let now = self.ring - self.transmit.nb_free_exact();
            if now >= waiting {
                return;
            }
            waiting = now;
        }
    }
}

type Rings = (TxQueue, RxQueue, FillQueue, CompQueue);

/// Binds, and waits a while for a queue that a process has just left.
fn bind(
    frames: &Frames,
    interface: &str,
    queue: u32,
    config: SocketConfig,
) -> Result<Rings, Error> {
    let name: Interface = interface
        .parse()
        .map_err(|_| Error::UnknownInterface { interface: interface.to_owned() })?;
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        // SAFETY: no program is loaded by libxdp, and every pair of interface and queue is bound
        // only once from this memory.
        let source = match unsafe { Socket::new(config, frames.umem(), &name, queue) } {
            Ok((transmit, receive, Some((fill, completion)))) => {
                return Ok((transmit, receive, fill, completion));
            }
            Ok((_, _, None)) => {
                return Err(Error::Busy { interface: interface.to_owned(), queue });
            }
            Err(source) => source,
        };
        let interface = interface.to_owned();
        match errno(&source) {
            Some(libc::EBUSY) if Instant::now() < deadline => thread::sleep(BIND_INTERVAL),
            Some(libc::EBUSY) => return Err(Error::Busy { interface, queue }),
            Some(libc::EPERM) => {
                return Err(Error::NotPermitted { action: "open an AF_XDP socket" });
            }
            Some(libc::EAFNOSUPPORT) => return Err(Error::NoAfXdp),
            _ => return Err(Error::Bind { interface, queue, source }),
        }
    }
}

fn set_option(socket: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option's value is an int, given with its size.
    let result = unsafe {
        libc::setsockopt(
            socket,
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
