//! The edge: two packet sockets and the lines between them.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recvmsg, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::line::{Line, Nanos, Stats};
use crate::plan::Plan;

/// Longest frame: the largest MTU of the lab, and its header.
const FRAME_MAX: usize = 9216;
/// Memory for frames between the kernel and us: more than a tenth of a second of 300 Mbit/s.
const SOCKET_BUFFER: usize = 32 << 20;
/// Frames of one direction that are taken before it is the other one's turn.
const BATCH: usize = 64;
/// How long [`Bridge::run`] may need to notice that it shall stop.
const STOP_INTERVAL: Nanos = 50_000_000;
/// Frames that leave later than that behind their time are counted.
const LATE: Nanos = 300_000;
/// Ages of frames beyond this are nonsense, from a clock that was set.
const AGE_MAX: Duration = Duration::from_secs(1);
/// `PACKET_OUTGOING` of packet(7): frames that others send through the same interface.
const OUTGOING: u8 = 4;
/// Above ordinary processes, below the relays (10).
const PRIORITY: u8 = 5;

/// What became of the frames, and how exact the wire was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// From the left to the right.
    pub right: Stats,
    /// From the right to the left.
    pub left: Stats,
    /// Frames that the wire itself lost since it was too slow: the figures are worthless then.
    pub overrun: u64,
    /// Frames that left more than 0.3 ms behind their time.
    pub late: u64,
    /// The longest such time, in microseconds.
    pub late_max_us: u64,
}

/// Two interfaces and the lines between them.
pub struct Bridge {
    left: Port,
    right: Port,
    to_right: Line,
    to_left: Line,
    begin: Instant,
    late: u64,
    late_max: Nanos,
}

impl Bridge {
    /// Binds to the interfaces `left` and `right` of the calling thread's network namespace; from
    /// then on frames wait for [`Bridge::run`]. It needs CAP_NET_RAW; offloads of both interfaces
    /// and of their peers must be off.
    pub fn open(left: &str, right: &str, plan: &Plan) -> Result<Bridge> {
        Ok(Bridge {
            left: Port::open(left)?,
            right: Port::open(right)?,
            to_right: Line::new(plan.right(), plan.seed),
            to_left: Line::new(plan.left(), !plan.seed),
            begin: Instant::now(),
            late: 0,
            late_max: 0,
        })
    }

    /// Carries frames until `stop`. The calling thread gets a real-time priority if it may.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Report> {
        raise();
        while !stop.load(Relaxed) {
            self.turn()?;
        }
        Ok(self.report())
    }

    /// Takes what came, sends what has arrived, and waits for either.
    fn turn(&mut self) -> Result<()> {
        let idle = self.left.take(self.begin, &mut self.to_right)?
            & self.right.take(self.begin, &mut self.to_left)?;
        for (line, port) in
            [(&mut self.to_right, &mut self.right), (&mut self.to_left, &mut self.left)]
        {
            let now = nanos(self.begin.elapsed());
            while let Some((due, frame)) = line.arrived(now) {
                self.late += u64::from(now - due > LATE);
                self.late_max = self.late_max.max(now - due);
                port.send(&frame)?;
            }
        }
        if idle { self.wait() } else { Ok(()) }
    }

    fn wait(&self) -> Result<()> {
        let next = [&self.to_right, &self.to_left].into_iter().filter_map(Line::next_arrival).min();
        let now = nanos(self.begin.elapsed());
        let time = next.map_or(STOP_INTERVAL, |at| at.saturating_sub(now)).min(STOP_INTERVAL);
        let time = TimeSpec::from_duration(Duration::from_nanos(time));
        let mut fds = [&self.left, &self.right]
            .map(|port| PollFd::new(port.socket.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut fds, Some(time), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("ppoll"),
        }
    }

    fn report(&self) -> Report {
        Report {
            right: self.to_right.stats().clone(),
            left: self.to_left.stats().clone(),
            overrun: self.left.overrun() + self.right.overrun(),
            late: self.late,
            late_max_us: self.late_max / 1000,
        }
    }
}

/// Without it the wire works but is less exact, which the report says.
fn raise() {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    if let Ok(value) = PRIORITY.try_into() {
        let priority = ThreadPriority::Crossplatform(value);
        let _ = set_thread_priority_and_policy(thread_native_id(), priority, policy);
    }
}

struct Port {
    socket: OwnedFd,
    buffer: Vec<u8>,
    control: Vec<u8>,
    /// Frames for which the socket had no room, as the kernel counts them.
    missed: u32,
    /// Frames that the interface did not take.
    refused: u64,
}

impl Port {
    fn open(interface: &str) -> Result<Port> {
        let address = getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .with_context(|| format!("there is no interface {interface}"))?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
            .context("a packet socket needs CAP_NET_RAW")?;
        setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
        setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        bind(socket.as_raw_fd(), &address).with_context(|| format!("bind to {interface}"))?;
        let control = cmsg_space!(TimeSpec, u32);
        let mut port = Port { socket, buffer: vec![0; FRAME_MAX], control, missed: 0, refused: 0 };
        // Until it was bound the socket heard all interfaces.
        while port.receive()?.is_some() {}
        port.missed = 0;
        Ok(port)
    }

    /// Moves up to a batch of frames into `line`; whether there were fewer.
    fn take(&mut self, begin: Instant, line: &mut Line) -> Result<bool> {
        for _ in 0..BATCH {
            let Some((frame, age)) = self.receive()? else { return Ok(true) };
            if let Some(frame) = frame {
                line.offer(nanos(begin.elapsed().saturating_sub(age)), frame);
            }
        }
        Ok(false)
    }

    /// The next frame and how long ago the kernel saw it. No frame if it was one that somebody
    /// else sent; none at all if nothing waits.
    #[expect(clippy::type_complexity, reason = "two ways to have nothing")]
    fn receive(&mut self) -> Result<Option<(Option<Vec<u8>>, Duration)>> {
        let Port { socket, buffer, control, .. } = self;
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut slices, Some(control), flags) {
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
                message => message.context("recvmsg")?,
            };
        ensure!(!message.flags.contains(MsgFlags::MSG_TRUNC), "a frame beyond {FRAME_MAX} bytes");
        let mut age = Duration::ZERO;
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(stamp) => age = age_of(stamp),
                ControlMessageOwned::RxqOvfl(missed) => self.missed = missed,
                _ => {}
            }
        }
        let outgoing = message.address.is_some_and(|address| address.pkttype() == OUTGOING);
        let length = message.bytes;
        Ok(Some(((!outgoing).then(|| buffer[..length].to_vec()), age)))
    }

    fn send(&mut self, frame: &[u8]) -> Result<()> {
        match send(self.socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => Ok(()),
            // A link that is down is somebody's test, not a mistake.
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENETDOWN | Errno::ENXIO) => {
                self.refused += 1;
                Ok(())
            }
            Err(error) => Err(error).context("send"),
        }
    }

    fn overrun(&self) -> u64 {
        u64::from(self.missed) + self.refused
    }
}

fn age_of(stamp: TimeSpec) -> Duration {
    let stamp = SystemTime::UNIX_EPOCH + Duration::from(stamp);
    SystemTime::now().duration_since(stamp).unwrap_or_default().min(AGE_MAX)
}

fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
