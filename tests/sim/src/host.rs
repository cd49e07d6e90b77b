//! A client's or backend's machine: smoltcp over frames in memory.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use relay_core::frame::{EthernetAddress, IpAddress};
use relay_core::time::Instant;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{Socket, tcp};
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};

use crate::fins::{Ends, Fins};

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
    /// FINs that smoltcp forgets.
    pub fins: Fins,
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
        Host { sockets: SocketSet::new(Vec::new()), fins: Fins::default(), interface, link }
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
        while let Some(frame) = self.fins.poll(now) {
            self.link.outbound.push_back(frame);
        }
    }

    /// The next frame to send.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        let frame = self.link.outbound.pop_front()?;
        self.fins.note(&frame);
        Some(frame)
    }

    /// When [`Host::poll`] has something to do.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.watch_fins(now);
        let at = self.interface.poll_at(micros(now), &self.sockets);
        let at = at.map(|at| Instant::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)));
        at.into_iter().chain(self.fins.poll_at()).min()
    }

    /// Looks for sockets that wait for the ACK of a FIN and will never send it again.
    fn watch_fins(&mut self, now: Instant) {
        let all = self.sockets.iter().filter_map(|(handle, socket)| match socket {
            Socket::Tcp(socket) => Some((handle, is_waiting(socket), ends(socket)?)),
            #[allow(unreachable_patterns, reason = "depends on the features of smoltcp")]
            _ => None,
        });
        for (handle, waiting, ends) in all.collect::<Vec<_>>() {
            let is_forgotten = waiting && self.has_no_timer(handle, now);
            self.fins.watch(now, ends, is_forgotten);
        }
    }

    /// Whether a socket does nothing more by itself. An interface says only when *any* socket of a
    /// set has something to do, so this one is asked for in a set of its own.
    fn has_no_timer(&mut self, handle: SocketHandle, now: Instant) -> bool {
        let mut alone = SocketSet::new(Vec::new());
        let moved = take(&mut self.sockets, handle, &mut alone);
        let is_idle = self.interface.poll_at(micros(now), &alone).is_none();
        let back = take(&mut alone, moved, &mut self.sockets);
        assert_eq!(back, handle, "the only free place is where it was");
        is_idle
    }
}

/// Moves a socket from one set to another one.
fn take(
    from: &mut SocketSet<'static>,
    handle: SocketHandle,
    to: &mut SocketSet<'static>,
) -> SocketHandle {
    match from.remove(handle) {
        Socket::Tcp(socket) => to.add(socket),
        #[allow(unreachable_patterns, reason = "depends on the features of smoltcp")]
        _ => unreachable!("machines have TCP sockets only"),
    }
}

/// Whether all data was acknowledged and the FIN was not.
fn is_waiting(socket: &tcp::Socket<'static>) -> bool {
    let closes =
        matches!(socket.state(), tcp::State::FinWait1 | tcp::State::Closing | tcp::State::LastAck);
    closes && socket.send_queue() == 0
}

fn ends(socket: &tcp::Socket<'static>) -> Option<Ends> {
    let end = |end: IpEndpoint| SocketAddr::new(IpAddr::from(end.addr), end.port);
    Some((end(socket.local_endpoint()?), end(socket.remote_endpoint()?)))
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
