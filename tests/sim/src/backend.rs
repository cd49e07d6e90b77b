//! The backend: answers every connection with the bytes that its request asks for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use relay_core::time::Instant;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use crate::host::{Buffers, Host};
use crate::plan::{Direction, REQUEST, Request, content, difference, is_awake, turns_over};
use crate::rest::Rest;
use crate::wire;

/// Bytes moved at a time.
const CHUNK: usize = 4096;

/// The backend's machine.
pub struct Backend {
    pub host: Host,
    services: Vec<Service>,
    /// The sequence number of the last SYN from each end.
    opened: BTreeMap<SocketAddr, i32>,
    pub failures: Vec<String>,
    /// How often every request came: never twice.
    pub requests: BTreeMap<u64, u32>,
    rest: Rest,
}

/// One socket that accepts one connection.
struct Service {
    handle: SocketHandle,
    head: Vec<u8>,
    request: Option<(Request, Instant)>,
    received: u64,
    sent: u64,
    fin_seen: bool,
    closed: bool,
    over: bool,
    /// Both streams ended in order.
    done: bool,
}

impl Backend {
    /// A backend that accepts `count` connections on `port`; with none it refuses all.
    pub fn new(mut host: Host, port: u16, count: usize) -> Self {
        let services = (0..count)
            .map(|index| {
                let buffers = Buffers { receive: 40_000, send: 50_000 };
                let handle = host.add_socket(buffers, index % 3 != 2);
                host.socket(handle).listen(port).expect("a port that is not zero");
                Service::new(handle)
            })
            .collect();
        Backend {
            host,
            services,
            opened: BTreeMap::new(),
            failures: Vec::new(),
            requests: BTreeMap::new(),
            rest: Rest::default(),
        }
    }

    /// Lets every connection do what it can.
    pub fn poll(&mut self, now: Instant) {
        if !self.rest.ends(now) {
            return;
        }
        self.host.poll(now);
        for service in &mut self.services {
            let socket = self.host.socket(service.handle);
            let known = service.request.is_some();
            if let Err(failure) = service.drive(now, socket) {
                socket.abort();
                service.over = true;
                self.failures.push(failure);
            }
            if let Some((request, _)) = service.request.filter(|_| !known) {
                *self.requests.entry(request.id).or_default() += 1;
            }
        }
        self.host.poll(now);
    }

    /// Takes in a frame. A SYN that comes twice belongs to the connection that it has opened:
    /// smoltcp would open another one with the next listening socket.
    pub fn receive(&mut self, frame: Vec<u8>) {
        self.rest.disturb();
        if let Some(seen) = wire::tcp(&frame).filter(|seen| seen.packet.syn()) {
            let sequence = seen.packet.seq_number().0;
            let known = self.opened.insert(seen.source, sequence) == Some(sequence);
            let is_there = |service: &Service| {
                let end =
                    self.host.sockets.get::<Socket<'static>>(service.handle).remote_endpoint();
                end.is_some_and(|end| {
                    SocketAddr::new(IpAddr::from(end.addr), end.port) == seen.source
                })
            };
            if known && self.services.iter().any(is_there) {
                return;
            }
        }
        self.host.receive(frame);
    }

    /// When [`Backend::poll`] has something to do.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        if let Some(at) = self.rest.next_at() {
            return at;
        }
        let busy = self.services.iter().filter(|service| !service.over);
        let requests = busy.filter_map(|service| service.request);
        let reads = requests.flat_map(|(request, at)| {
            let times = [Some(at + request.reads_after), turns_over(now, at, request.naps)];
            times.into_iter().flatten().filter(|at| *at > now)
        });
        let next = reads.min();
        let next = next.into_iter().chain(self.host.poll_at(now)).min();
        self.rest.until(next)
    }

    /// Whether the request `id` was served to the end.
    pub fn is_done(&self, id: u64) -> bool {
        self.services.iter().any(|service| service.done && service.id() == Some(id))
    }

    /// Bytes that have arrived behind requests.
    pub fn received(&self) -> u64 {
        self.services.iter().map(|service| service.received).sum()
    }

    /// The relays' ends of connections that this side takes for established.
    pub fn established(&mut self) -> Vec<SocketAddr> {
        let Backend { host, services, .. } = self;
        let ends = services.iter().filter_map(|service| {
            let socket = host.socket(service.handle);
            let waiting = matches!(socket.state(), State::Listen | State::SynReceived);
            let remote = socket.remote_endpoint().filter(|_| !waiting)?;
            Some(SocketAddr::new(IpAddr::from(remote.addr), remote.port))
        });
        ends.collect()
    }

    /// One line for each connection, for a report.
    pub fn describe(&mut self) -> Vec<String> {
        let Backend { host, services, .. } = self;
        let used = services.iter().filter(|service| service.request.is_some());
        let lines = used.map(|service| {
            let state = host.socket(service.handle).state();
            let Service { received, sent, done, .. } = service;
            format!(
                "backend {:?} {state} received {received} sent {sent} done {done}",
                service.id()
            )
        });
        lines.collect()
    }
}

impl Service {
    fn new(handle: SocketHandle) -> Self {
        Service {
            handle,
            head: Vec::new(),
            request: None,
            received: 0,
            sent: 0,
            fin_seen: false,
            closed: false,
            over: false,
            done: false,
        }
    }

    fn id(&self) -> Option<u64> {
        self.request.map(|(request, _)| request.id)
    }

    fn drive(&mut self, now: Instant, socket: &mut Socket<'static>) -> Result<(), String> {
        let state = socket.state();
        if self.over || matches!(state, State::Listen | State::SynReceived) {
            return Ok(());
        }
        self.read_request(now, socket);
        let Some((request, since)) = self.request else { return Ok(()) };
        if now >= since + request.reads_after && is_awake(now, since, request.naps) {
            self.read(&request, socket)?;
        }
        self.write(&request, socket);
        self.fin_seen |=
            matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if self.fin_seen && !socket.can_recv() && self.received < request.up {
            let Service { received, .. } = self;
            return Err(format!("backend: FIN of {} after {received} bytes", request.id));
        }
        let ended = matches!(socket.state(), State::Closed | State::TimeWait);
        self.over = ended && !socket.can_recv();
        self.done = self.over && self.fin_seen && self.closed && self.received == request.up;
        Ok(())
    }

    fn read_request(&mut self, now: Instant, socket: &mut Socket<'static>) {
        while self.head.len() < REQUEST && socket.can_recv() {
            let mut rest = vec![0; REQUEST - self.head.len()];
            let length = socket.recv_slice(&mut rest).unwrap_or(0);
            self.head.extend_from_slice(&rest[..length]);
        }
        if self.request.is_none()
            && let Some(head) = self.head.first_chunk()
        {
            self.request = Some((Request::parse(head), now));
        }
    }

    fn read(&mut self, request: &Request, socket: &mut Socket<'static>) -> Result<(), String> {
        let mut chunk = [0; CHUNK];
        while socket.can_recv() {
            let length = socket.recv_slice(&mut chunk).unwrap_or(0);
            let bytes = &chunk[..length];
            if let Some(at) = difference(request.id, Direction::Up, self.received, bytes) {
                return Err(format!("backend: byte {at} of upload {} is wrong", request.id));
            }
            self.received += length as u64;
            if self.received > request.up {
                return Err(format!("backend: too many bytes of upload {}", request.id));
            }
        }
        Ok(())
    }

    fn write(&mut self, request: &Request, socket: &mut Socket<'static>) {
        let end = request.reset_after.unwrap_or(request.down).min(request.down);
        while self.sent < end && socket.can_send() {
            let length = (end - self.sent).min(CHUNK as u64) as usize;
            let bytes = content(request.id, Direction::Down, self.sent, length);
            match socket.send_slice(&bytes) {
                Ok(length @ 1..) => self.sent += length as u64,
                _ => break,
            }
        }
        if request.reset_after.is_some_and(|after| self.sent >= after) {
            socket.abort();
            self.over = true;
        } else if self.sent == request.down
            && !self.closed
            && (request.backend_closes_first || self.fin_seen)
        {
            self.closed = true;
            socket.close();
        }
    }
}
