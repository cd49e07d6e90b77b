//! A client's or backend's machine: smoltcp over frames in memory.

use std::cell::Cell;
use std::collections::VecDeque;

use relay_core::frame::{EthernetAddress, IpAddress};
use relay_core::time::Instant;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpCidr};

/// Bytes of an Ethernet frame with the usual MTU.
const FRAME_MAX: usize = 1514;

/// smoltcp asserts on larger ones when segments come out of order.
const BUFFER_MAX: usize = 60_000;

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(0) };
}

/// A machine with one interface.
pub struct Host {
    pub sockets: SocketSet<'static>,
    interface: Interface,
    link: Link,
}

/// Buffers of a socket, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    pub receive: usize,
    pub send: usize,
}

impl Host {
    /// A machine with these addresses; all of one prefix are on its link.
    pub fn new(mac: EthernetAddress, addresses: &[IpAddress], seed: u64, now: Instant) -> Self {
        let mut link = Link::default();
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, micros(now));
        interface.update_ip_addrs(|own| {
            for address in addresses {
                let prefix = if matches!(address, IpAddress::Ipv4(_)) { 24 } else { 64 };
                own.push(IpCidr::new(*address, prefix)).expect("one address of each family");
            }
        });
        Host { sockets: SocketSet::new(Vec::new()), interface, link }
    }

    /// A new TCP socket.
    pub fn add_socket(&mut self, buffers: Buffers, timestamps: bool) -> SocketHandle {
        let buffer = |size: usize| tcp::SocketBuffer::new(vec![0; size.min(BUFFER_MAX)]);
        let mut socket = tcp::Socket::new(buffer(buffers.receive), buffer(buffers.send));
        socket.set_nagle_enabled(false);
        if timestamps {
            socket.set_tsval_generator(Some(|| NOW_MS.get() as u32));
        }
        self.sockets.add(socket)
    }

    /// Opens a connection.
    pub fn connect(
        &mut self,
        handle: SocketHandle,
        remote: (IpAddress, u16),
        local_port: u16,
    ) -> Result<(), tcp::ConnectError> {
        let context = self.interface.context();
        self.sockets.get_mut::<tcp::Socket>(handle).connect(context, remote, local_port)
    }

    /// A socket.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Takes in a frame; [`Host::poll`] handles it.
    pub fn receive(&mut self, frame: Vec<u8>) {
        self.link.inbound.push_back(frame);
    }

    /// Handles what came in and sends what can be sent.
    pub fn poll(&mut self, now: Instant) {
        NOW_MS.set(now.as_millis());
        self.interface.poll(micros(now), &mut self.link, &mut self.sockets);
    }

    /// The next frame to send.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.link.outbound.pop_front()
    }

    /// When [`Host::poll`] has something to do.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(micros(now), &self.sockets)?;
        Some(Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)))
    }
}

fn micros(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

#[derive(Default)]
struct Link {
    inbound: VecDeque<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
}

struct Inbound(Vec<u8>);
struct Outbound<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Link {
    type RxToken<'a> = Inbound;
    type TxToken<'a> = Outbound<'a>;

    fn receive(
        &mut self,
        _: smoltcp::time::Instant,
    ) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let frame = self.inbound.pop_front()?;
        Some((Inbound(frame), Outbound(&mut self.outbound)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Self::TxToken<'_>> {
        Some(Outbound(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        capabilities
    }
}

impl RxToken for Inbound {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
