//! The clients: rustls over smoltcp or over an odd TCP, all on one machine.

use std::io::{Read, Write};

use relay_core::frame::IpAddress;
use relay_core::time::{Duration, Instant};
use rustls::{AlertDescription, ClientConnection};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::host::{Buffers, Host};
use crate::odd::{Path, Tcp};
use crate::plan::{
    Conduct, Direction, End, Plan, Resumption, Version, content, difference, is_awake, turns_over,
};
use crate::random::Random;
use crate::rest::Rest;
use crate::transport::Transport;
use crate::{setup, tls, wire};

/// Bytes read from a socket at a time.
const CHUNK: usize = 4096;

/// How long a client whose backend may reset its connection waits before it asks whether the relay
/// still knows it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Key changes of one client: rustls takes 32 answers without data between them for an attack.
const REKEYS_MAX: u32 = 20;

/// A name that no certificate has.
const OTHER_NAME: &str = "other.test";

/// All clients.
pub struct Clients {
    pub host: Host,
    pub flows: Vec<Client>,
    vip: (IpAddress, u16),
    rest: Rest,
}

/// One client.
pub struct Client {
    pub plan: Plan,
    pub port: u16,
    /// Plaintext bytes that have arrived.
    pub read: u64,
    /// How the connection ended.
    pub outcome: Option<Outcome>,
    handle: SocketHandle,
    /// Its TCP, if it is not that of `handle`.
    odd: Option<Tcp>,
    tls: ClientConnection,
    /// Bytes for the socket.
    pending: Vec<u8>,
    /// Plaintext bytes that were written, the request included.
    written: u64,
    started: bool,
    told_close: bool,
    finished: bool,
    peer_closed: bool,
    fin_seen: bool,
    begin: Instant,
    random: Random,
    rekeyed: u32,
}

/// How a connection ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both streams ended in order.
    Done,
    /// A TCP reset, or no answer at all.
    Reset,
    /// A FIN without close_notify.
    Truncated,
    /// A fatal alert.
    Alert(AlertDescription),
    /// Anything else, which is always an error.
    Wrong(String),
}

impl Clients {
    /// Clients of the service at `vip`, the first from port `first_port`.
    pub fn new(
        mut host: Host,
        vip: (IpAddress, u16),
        plans: &[Plan],
        (begin, first_port): (Instant, u16),
        random: &mut Random,
    ) -> Self {
        let flows = plans
            .iter()
            .zip(first_port..)
            .map(|(plan, port)| {
                let buffers = Buffers { receive: 50_000, send: 30_000 };
                let handle = host.add_socket(buffers, random.chance(700));
                if matches!(plan.conduct, Conduct::BackendResets { .. }) {
                    host.socket(handle).set_keep_alive(Some(KEEP_ALIVE.into()));
                }
                let mut client = Client::new(plan, (port, handle), begin, random.fork());
                client.odd = plan.odd.map(|seed| Tcp::new(path(vip, port), Random::new(seed)));
                client
            })
            .collect();
        Clients { host, flows, vip, rest: Rest::default() }
    }

    /// Lets every client do what it can.
    pub fn poll(&mut self, now: Instant) {
        if !self.rest.ends(now) {
            return;
        }
        self.host.poll(now);
        for flow in &mut self.flows {
            if !flow.started && flow.begin <= now {
                flow.start();
                if let Some(odd) = &mut flow.odd {
                    odd.connect(now);
                } else {
                    let result = self.host.connect(flow.handle, self.vip, flow.port);
                    result.expect("every client has its own port");
                }
            }
            if flow.started {
                flow.drive_any(now, &mut self.host);
            }
        }
        self.host.poll(now);
    }

    /// Takes in a frame: for an odd client, or for the machine.
    pub fn receive(&mut self, frame: Vec<u8>) {
        self.rest.disturb();
        let port = wire::tcp(&frame).map(|seen| seen.destination.port());
        let odd = self.flows.iter_mut().find(|flow| Some(flow.port) == port && flow.started);
        match odd.and_then(|flow| flow.odd.as_mut()) {
            Some(odd) => odd.receive(frame),
            None => self.host.receive(frame),
        }
    }

    /// The next frame to send.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        let odd = self.flows.iter_mut().find_map(|flow| flow.odd.as_mut()?.transmit());
        odd.or_else(|| self.host.transmit())
    }

    /// A relay has failed: some choose this moment to say nothing.
    pub fn startle(&mut self, now: Instant) {
        self.rest.disturb();
        self.flows.iter_mut().filter_map(|flow| flow.odd.as_mut()).for_each(|odd| odd.startle(now));
    }

    /// When [`Clients::poll`] has something to do.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        if let Some(at) = self.rest.next_at() {
            return at;
        }
        let own = self.flows.iter().filter(|flow| flow.outcome.is_none()).flat_map(|flow| {
            let begun = now >= flow.begin;
            let nap = begun.then(|| turns_over(now, flow.begin, flow.plan.naps)).flatten();
            [Some(flow.begin), Some(flow.begin + flow.plan.client_reads_after), nap]
                .map(|at| at.filter(|at| *at > now))
        });
        let odd =
            self.flows.iter().filter(|flow| flow.started).filter_map(|flow| flow.odd.as_ref());
        let odd: Vec<_> = odd.map(|odd| odd.poll_at(now)).collect();
        let next = own.chain([self.host.poll_at(now)]).chain(odd).flatten().min();
        self.rest.until(next)
    }
}

impl Client {
    fn new(
        plan: &Plan,
        (port, handle): (u16, SocketHandle),
        begin: Instant,
        random: Random,
    ) -> Self {
        let mut client = Client {
            plan: plan.clone(),
            port,
            read: 0,
            outcome: None,
            handle,
            odd: None,
            tls: tls_client(plan),
            pending: Vec::new(),
            written: 0,
            started: false,
            told_close: false,
            finished: false,
            peer_closed: false,
            fin_seen: false,
            begin: begin + plan.start,
            random,
            rekeyed: 0,
        };
        match plan.conduct {
            Conduct::Garbage => {
                client.pending = vec![0; 500];
                client.random.fill(&mut client.pending);
                client.pending[0] = 0x99; // no content type
            }
            Conduct::PlainHttp => client.pending = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            _ => {}
        }
        client
    }

    fn start(&mut self) {
        self.started = true;
        if self.plan.resumption != Resumption::Never {
            // Now the sessions of those before it are there.
            self.tls = tls_client(&self.plan);
        }
    }

    /// Whether the client goes on with an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Whether the client has begun to connect.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// One line for a report.
    pub fn describe(&mut self, host: &mut Host) -> String {
        let state = match &self.odd {
            Some(odd) => odd.state(),
            None => host.socket(self.handle).state(),
        };
        let Client { port, read, written, peer_closed, outcome, plan, .. } = self;
        format!(
            "client {} port {port} {state} read {read} of {} wrote {written} of {} peer closed \
             {peer_closed} outcome {outcome:?}",
            plan.id, plan.down, plan.up
        )
    }

    fn drive_any(&mut self, now: Instant, host: &mut Host) {
        let Some(mut odd) = self.odd.take() else {
            self.drive(now, host.socket(self.handle));
            return;
        };
        odd.poll(now);
        self.drive(now, &mut odd);
        odd.poll(now);
        self.odd = Some(odd);
    }

    fn drive(&mut self, now: Instant, socket: &mut dyn Transport) {
        if self.outcome.is_some() {
            return;
        }
        self.fin_seen |= matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        let awake = now >= self.begin + self.plan.client_reads_after
            && is_awake(now, self.begin, self.plan.naps);
        if (awake || self.tls.is_handshaking())
            && let Err(outcome) = self.read_all(socket)
        {
            socket.abort();
            self.outcome = Some(outcome);
            return;
        }
        self.write_all(socket);
        self.outcome = self.verdict(socket);
    }

    fn read_all(&mut self, socket: &mut dyn Transport) -> Result<(), Outcome> {
        let mut chunk = [0; CHUNK];
        while socket.can_recv() {
            let length = socket.recv(&mut chunk);
            if matches!(self.plan.conduct, Conduct::Garbage | Conduct::PlainHttp) {
                continue;
            }
            let mut input = &chunk[..length];
            while !input.is_empty() {
                let taken = self.tls.read_tls(&mut input);
                taken.map_err(|e| Outcome::Wrong(format!("read_tls: {e}")))?;
                let result = self.tls.process_new_packets();
                self.read_plaintext()?;
                match result {
                    Ok(state) => self.peer_closed |= state.peer_has_closed(),
                    Err(rustls::Error::AlertReceived(alert)) => return Err(Outcome::Alert(alert)),
                    Err(error) => return Err(Outcome::Wrong(format!("TLS: {error}"))),
                }
            }
        }
        Ok(())
    }

    fn read_plaintext(&mut self) -> Result<(), Outcome> {
        let mut chunk = [0; CHUNK];
        // WouldBlock and the end of the stream: that was all of it.
        while let Ok(length @ 1..) = self.tls.reader().read(&mut chunk) {
            let bytes = &chunk[..length];
            if let Some(at) = difference(self.plan.id, Direction::Down, self.read, bytes) {
                return Err(Outcome::Wrong(format!("byte {at} of the download is wrong")));
            }
            self.read += length as u64;
            if self.read > self.plan.down {
                return Err(Outcome::Wrong(format!(
                    "{} bytes too many",
                    self.read - self.plan.down
                )));
            }
        }
        Ok(())
    }

    fn write_all(&mut self, socket: &mut dyn Transport) {
        loop {
            if !self.pending.is_empty() {
                if !socket.may_send() {
                    return;
                }
                let sent = socket.send(&self.pending);
                self.pending.drain(..sent);
                if sent == 0 {
                    return;
                }
                continue;
            }
            if matches!(self.plan.conduct, Conduct::Garbage | Conduct::PlainHttp) {
                return;
            }
            if !self.tls.wants_write() && !self.produce() {
                break;
            }
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.pending).expect("a vector takes everything");
            }
        }
        if self.told_close && !self.finished && socket.may_send() {
            self.finished = true;
            socket.close();
        }
    }

    /// Gives more plaintext to the TLS library; false when there is nothing to do now.
    fn produce(&mut self) -> bool {
        if self.tls.is_handshaking() || self.told_close {
            return false;
        }
        let request = self.plan.request();
        let all = request.len() as u64 + self.plan.up;
        if let Conduct::GarbageAfter { bytes } = self.plan.conduct
            && self.written >= bytes
        {
            self.pending = vec![0x99; 100];
            // Nothing follows, not even a FIN: the relay has to end it.
            (self.told_close, self.finished) = (true, true);
            return true;
        }
        if self.written < all {
            let piece = if self.written < request.len() as u64 {
                request[self.written as usize..].to_vec()
            } else {
                let offset = self.written - request.len() as u64;
                let length = 1 + self.random.below(self.plan.record_max);
                let length = length.min(self.plan.up - offset);
                content(self.plan.id, Direction::Up, offset, length as usize)
            };
            let tls13 = self.plan.version == Version::Tls13;
            if tls13 && self.rekeyed < REKEYS_MAX && self.random.chance(self.plan.rekeys) {
                self.rekeyed += 1;
                self.tls.refresh_traffic_keys().expect("TLS 1.3 changes keys");
            }
            let taken = self.tls.writer().write(&piece).expect("the library buffers it");
            self.written += taken as u64;
            return true;
        }
        let served = self.peer_closed && self.read == self.plan.down;
        if self.plan.first_to_close == End::Client || served {
            self.tls.send_close_notify();
            self.told_close = true;
            return true;
        }
        false
    }

    fn verdict(&self, socket: &dyn Transport) -> Option<Outcome> {
        if socket.can_recv() {
            return None;
        }
        let over = matches!(socket.state(), State::Closed | State::TimeWait);
        if over && self.fin_seen && self.finished && self.peer_closed {
            let whole = self.read == self.plan.down;
            let short = || Outcome::Wrong(format!("only {} bytes came", self.read));
            return Some(if whole { Outcome::Done } else { short() });
        }
        if socket.state() == State::Closed && !self.fin_seen {
            return Some(Outcome::Reset);
        }
        if (self.fin_seen && !self.peer_closed) || over {
            // After a FIN only what was received before it can still say why.
            return Some(Outcome::Truncated);
        }
        None
    }
}

/// The way of an odd client to the service.
fn path(vip: (IpAddress, u16), port: u16) -> Path {
    let is_ipv6 = matches!(vip.0, IpAddress::Ipv6(_));
    Path {
        local: (setup::address(is_ipv6, 1, 10), port),
        local_mac: setup::CLIENT_MAC,
        remote: vip,
        remote_mac: setup::VIRTUAL_CLIENT_MAC,
    }
}

fn tls_client(plan: &Plan) -> ClientConnection {
    let unknown = plan.conduct == Conduct::UnknownName;
    let name = if unknown { OTHER_NAME } else { tls::SERVER_NAME };
    let Plan { version, resumption, groups, certificate: certified, .. } = *plan;
    tls::client(tls::Kind { version, resumption, groups, certified }, name)
}
