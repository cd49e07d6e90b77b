//! A packet socket on one interface.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recvmsg, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

/// Longest frame: the largest MTU of the lab, and its header.
const FRAME_MAX: usize = 9216;
/// Memory for frames between the kernel and us: more than a tenth of a second of 300 Mbit/s.
const SOCKET_BUFFER: usize = 32 << 20;
/// Ages of frames beyond this are nonsense, from a clock that was set.
const AGE_MAX: Duration = Duration::from_secs(1);
/// `PACKET_OUTGOING` of packet(7): frames that others send through the same interface.
const OUTGOING: u8 = 4;

/// What the socket had for us.
pub enum Received {
    /// A frame, and how long ago the kernel saw it.
    Frame(Vec<u8>, Duration),
    /// A frame that somebody else sends through this interface.
    Outgoing,
    /// Nothing waits.
    Nothing,
}

/// An interface whose frames we get, and through which we send.
pub struct Port {
    socket: OwnedFd,
    buffer: Vec<u8>,
    control: Vec<u8>,
    /// Frames for which the socket had no room, as the kernel counts them.
    missed: u32,
    /// Frames that the interface did not take.
    refused: u64,
}

impl Port {
    /// Binds to `interface` of the calling thread's network namespace. It needs CAP_NET_RAW.
    pub fn open(interface: &str) -> Result<Port> {
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
        while !matches!(port.receive()?, Received::Nothing) {}
        port.missed = 0;
        Ok(port)
    }

    /// The next frame.
    pub fn receive(&mut self) -> Result<Received> {
        let Port { socket, buffer, control, .. } = self;
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut slices, Some(control), flags) {
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {
                    return Ok(Received::Nothing);
                }
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
        let length = message.bytes;
        if message.address.is_some_and(|address| address.pkttype() == OUTGOING) {
            return Ok(Received::Outgoing);
        }
        Ok(Received::Frame(buffer[..length].to_vec(), age))
    }

    /// Sends a frame, or counts it as refused when the interface does not take it.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
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

    /// Frames that the interface did not take.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Frames that were lost here, between the kernel and us.
    pub fn overrun(&self) -> u64 {
        u64::from(self.missed) + self.refused
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn age_of(stamp: TimeSpec) -> Duration {
    let stamp = SystemTime::UNIX_EPOCH + Duration::from(stamp);
    SystemTime::now().duration_since(stamp).unwrap_or_default().min(AGE_MAX)
}
