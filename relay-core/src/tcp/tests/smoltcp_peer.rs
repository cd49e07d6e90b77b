//! The same transfers with smoltcp's `tcp::Socket` as an independent peer.

use std::collections::VecDeque;

use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::host::Close;
use super::{CALM, Host, MACS, Network, Peer, Weather, pattern, small_config, tuple};
use crate::frame::{
    Inbound, IpAddress, Link, Tuple, emit_arp_reply, emit_neighbor_advertisement, parse,
};
use crate::tcp::{Cause, Phase};
use crate::time::{Duration, Instant};

/// A smoltcp host with one socket.
struct Smol {
    interface: Interface,
    device: Queues,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    tuple: Tuple,
    side: usize,
    connects: bool,
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
}

#[derive(Default)]
struct Queues {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

fn smol_time(now: Instant) -> SmolInstant {
    SmolInstant::from_micros(now.as_micros() as i64)
}

impl Smol {
    fn new(side: usize, v6: bool, outgoing: usize) -> Self {
        let tuple = tuple(side, v6);
        let mut config = InterfaceConfig::new(HardwareAddress::Ethernet(MACS[side]));
        config.random_seed = 42;
        let mut device = Queues::default();
        let mut interface = Interface::new(config, &mut device, smol_time(super::START));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(tuple.local.addr, 24)).expect("room for an address");
        });
        let buffer = || SocketBuffer::new(vec![0; 60_000]);
        let mut socket = Socket::new(buffer(), buffer());
        if side == 0 {
            socket.listen(tuple.local).expect("listening");
        }
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        let outgoing = pattern(0, outgoing);
        let (sent, incoming, connects) = (0, Vec::new(), side == 1);
        Smol { interface, device, sockets, handle, tuple, side, connects, outgoing, sent, incoming }
    }

    fn pump(&mut self) {
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        if core::mem::take(&mut self.connects) {
            let Tuple { local, remote } = self.tuple;
            socket.connect(self.interface.context(), remote, local).expect("connecting");
        }
        if socket.can_send() && self.sent < self.outgoing.len() {
            self.sent += socket.send_slice(&self.outgoing[self.sent..]).expect("sending");
        }
        if socket.may_send() && self.sent == self.outgoing.len() {
            socket.close();
        }
        while socket.can_recv() {
            let at = self.incoming.len() as u64;
            let bytes = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).expect("receiving");
            assert_eq!(bytes, pattern(at, bytes.len()), "bytes from {at} on");
            self.incoming.extend(bytes);
        }
    }

    fn state(&self) -> State {
        self.sockets.get::<Socket>(self.handle).state()
    }

    /// Our hosts do not resolve addresses; this answers in their place.
    fn resolve(&mut self, frame: &[u8]) -> bool {
        let link = Link { source: MACS[1 - self.side], destination: MACS[self.side] };
        let mut buf = [0; 128];
        let length = match parse(frame) {
            Ok(Inbound::ArpRequest { sender, target, .. }) => {
                emit_arp_reply(&link, target, sender, &mut buf)
            }
            Ok(Inbound::NeighborSolicit { sender, target, .. }) => {
                emit_neighbor_advertisement(&link, target, Some(sender), &mut buf)
            }
            _ => return false,
        };
        self.device.received.push_back(buf[..length].to_vec());
        true
    }
}

impl Peer for Smol {
    fn receive(&mut self, _: Instant, frame: &[u8]) {
        self.device.received.push_back(frame.to_vec());
    }

    fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        loop {
            self.pump();
            self.interface.poll(smol_time(now), &mut self.device, &mut self.sockets);
            self.pump();
            let frames: Vec<_> = self.device.sent.drain(..).collect();
            if frames.is_empty() && self.device.received.is_empty() {
                break;
            }
            for frame in frames {
                // Router solicitations and the like are of no interest.
                if !self.resolve(&frame) && matches!(parse(&frame), Ok(Inbound::Tcp { .. })) {
                    out.push(frame);
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None // See `Ticking`.
    }

    fn is_done(&self) -> bool {
        matches!(self.state(), State::Closed | State::TimeWait)
    }
}

/// smoltcp's next deadline needs mutable access, so it is polled every few milliseconds.
struct Ticking {
    smol: Smol,
    next: Instant,
}

impl Peer for Ticking {
    fn receive(&mut self, now: Instant, frame: &[u8]) {
        self.smol.receive(now, frame);
    }

    fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        self.smol.poll(now, out);
        self.next = now + Duration::from_millis(5);
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.next)
    }

    fn is_done(&self) -> bool {
        self.smol.is_done()
    }
}

fn ticking(smol: Smol) -> Ticking {
    Ticking { smol, next: super::START }
}

fn weather(seed: u64) -> Weather {
    Weather {
        loss: seed % 4 * 8,
        duplication: seed % 3 * 10,
        jitter: Duration::from_micros(seed * 50),
        ..CALM
    }
}

#[test]
fn smoltcp_connects_to_us() {
    for seed in 0..12 {
        let v6 = seed % 2 == 1;
        let mut ours = Host::listening(small_config(), v6, 300_000);
        ours.hold = Duration::from_millis(seed % 5 * 3);
        ours.close = if seed % 3 == 0 { Close::AfterPeer } else { Close::AtOnce };
        let theirs = ticking(Smol::new(1, v6, 200_000));
        let mut network = Network::new(ours, theirs, weather(seed), seed);
        network.run();
        assert_eq!(network.a.incoming.len(), 200_000);
        assert_eq!(network.b.smol.incoming.len(), 300_000);
    }
}

#[test]
fn we_connect_to_smoltcp() {
    for seed in 0..12 {
        let v6 = seed % 2 == 1;
        let theirs = ticking(Smol::new(0, v6, 200_000));
        let mut ours = Host::connecting(small_config(), v6, 300_000);
        ours.hold = Duration::from_millis(seed % 4 * 2);
        let mut network = Network::new(theirs, ours, weather(seed), seed);
        network.run();
        assert_eq!(network.b.incoming.len(), 200_000);
        assert_eq!(network.a.smol.incoming.len(), 300_000);
    }
}

#[test]
fn nobody_listens() {
    let theirs = ticking(Smol::new(0, false, 0));
    let mut ours = Host::connecting(small_config(), false, 10);
    ours.tuple.remote.port = 444;
    let config = small_config();
    ours.connection =
        Some(crate::tcp::Connection::connect(&config, ours.tuple, 5, 6, super::START));
    let mut network = Network::new(theirs, ours, CALM, 1);
    network.run_until(|_, b| b.is_closed());
    assert_eq!(network.b.phase(), Some(Phase::Closed(Cause::Refused)));
    assert!(matches!(network.b.tuple.remote.addr, IpAddress::Ipv4(_)));
}
