//! A host with one [`Connection`] and an application that sends, receives and closes.

use std::collections::VecDeque;

use super::{MACS, Peer, pattern, tuple};
use crate::frame::{HEADERS_MAX, Inbound, Link, Tuple, emit_tcp, parse};
use crate::reason::Reason;
use crate::tcp::{Config, Connection, Cookies, Phase};
use crate::time::{Duration, Instant};

pub(in crate::tcp) struct Host {
    pub connection: Option<Connection>,
    pub config: Config,
    pub tuple: Tuple,
    side: usize,
    cookies: Option<Cookies>,
    /// Bytes to send, the first of which is at offset zero.
    outgoing: Vec<u8>,
    /// Bytes of the peer that the application has read.
    pub incoming: Vec<u8>,
    /// Finish after the last byte: at once, or when the peer has finished.
    pub close: Close,
    /// How long acknowledgements are withheld.
    pub hold: Duration,
    held: VecDeque<(Instant, u64)>,
    /// The application does not read; what arrives is acknowledged, but not released.
    pub paused: bool,
    /// Segments may be SACKed.
    pub sack: bool,
    /// Answers to SYNs that wait for the next poll.
    syn_acks: Vec<Vec<u8>>,
    /// Why segments were dropped.
    pub reasons: Vec<Reason>,
    pub frames_sent: u64,
}

#[derive(Clone, Copy, PartialEq)]
pub(in crate::tcp) enum Close {
    Never,
    AtOnce,
    AfterPeer,
}

impl Host {
    /// Side 0: listens.
    pub fn listening(config: Config, v6: bool, outgoing: usize) -> Self {
        let mut host = Host::idle(config, 0, v6, outgoing);
        host.cookies = Some(Cookies::new([7; 32]));
        host
    }

    /// Side 1: connects.
    pub fn connecting(config: Config, v6: bool, outgoing: usize) -> Self {
        let mut host = Host::idle(config, 1, v6, outgoing);
        let iss = 0xffff_ff00; // The sequence numbers wrap soon.
        host.connection = Some(Connection::connect(&config, host.tuple, iss, 99, super::START));
        host
    }

    fn idle(config: Config, side: usize, v6: bool, outgoing: usize) -> Self {
        Host {
            connection: None,
            config,
            tuple: tuple(side, v6),
            side,
            cookies: None,
            outgoing: pattern(0, outgoing),
            incoming: Vec::new(),
            close: Close::AtOnce,
            hold: Duration::ZERO,
            held: VecDeque::new(),
            paused: false,
            sack: true,
            syn_acks: Vec::new(),
            reasons: Vec::new(),
            frames_sent: 0,
        }
    }

    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a connection")
    }

    pub fn phase(&self) -> Option<Phase> {
        self.connection.as_ref().map(Connection::phase)
    }

    fn link(&self) -> Link {
        Link { source: MACS[self.side], destination: MACS[1 - self.side] }
    }

    fn listen(&mut self, now: Instant, frame: &[u8], out: &mut Vec<Vec<u8>>) {
        let Ok(Inbound::Tcp { tuple, segment, .. }) = parse(frame) else { return };
        let Some(cookies) = &self.cookies else { return };
        if segment.control == smoltcp::wire::TcpControl::Syn {
            let answer = cookies.syn_ack(now, &tuple, &segment, &self.config);
            out.push(emit(&self.link(), &tuple, &answer));
        } else if let Ok(accepted) = cookies.check(now, &tuple, &segment, &self.config) {
            let mut connection = Connection::accept(&self.config, tuple, &accepted, now);
            connection.handle_segment(now, &segment).expect("the completing ACK");
            self.connection = Some(connection);
        }
    }

    /// What the relay does after each event.
    fn pump(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        if connection.phase() == Phase::HandshakeHeld {
            connection.release_handshake();
        }
        if connection.phase() != Phase::Open {
            self.held.clear(); // Nobody waits for it any more.
            return;
        }
        connection.set_send_limit(u64::MAX);
        let written = connection.written() as usize;
        let rest = &self.outgoing[written.min(self.outgoing.len())..];
        let budget = connection.send_budget();
        connection.write(&rest[..rest.len().min(budget)]);
        let all = connection.written() as usize >= self.outgoing.len();
        let may_close = match self.close {
            Close::Never => false,
            Close::AtOnce => true,
            Close::AfterPeer => connection.fin_received(),
        };
        if all && may_close {
            connection.finish();
        }
        if self.sack {
            connection.set_sackable(core::slice::from_ref(&(0..u64::MAX)));
        }
        if self.paused {
            connection.set_ack_limit(connection.received());
        } else {
            self.read(now);
        }
    }

    fn read(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        let from = self.incoming.len();
        let fresh = (connection.received() as usize).saturating_sub(from);
        let mut bytes = vec![0; fresh];
        assert_eq!(connection.copy_received(from as u64, &mut bytes), fresh);
        assert_eq!(bytes, pattern(from as u64, fresh), "bytes from {from} on");
        self.incoming.extend(bytes);
        let have = connection.received() + u64::from(connection.fin_received());
        if self.held.back().is_none_or(|(_, offset)| *offset < have) {
            self.held.push_back((now + self.hold, have));
        }
        while let Some((_, offset)) = self.held.front().copied().filter(|(at, _)| *at <= now) {
            connection.set_ack_limit(offset);
            connection.release(offset.min(connection.received()));
            self.held.pop_front();
        }
    }
}

impl Peer for Host {
    fn receive(&mut self, now: Instant, frame: &[u8]) {
        let Some(connection) = &mut self.connection else {
            let mut out = Vec::new();
            self.listen(now, frame, &mut out);
            self.syn_acks.append(&mut out);
            return;
        };
        if let Ok(Inbound::Tcp { segment, .. }) = parse(frame)
            && let Err(reason) = connection.handle_segment(now, &segment)
        {
            self.reasons.push(reason);
        }
    }

    fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) {
        out.append(&mut self.syn_acks);
        let link = self.link();
        if let Some(connection) = &mut self.connection
            && connection.poll_timeout().is_some_and(|at| at <= now)
        {
            connection.handle_timeout(now);
        }
        self.pump(now);
        let Some(connection) = &mut self.connection else { return };
        loop {
            let wants = connection.wants_transmit(now);
            let Some(segment) = connection.poll_transmit(now) else {
                assert!(!wants, "nothing came although it was wanted");
                break;
            };
            assert!(wants, "unwanted {segment:?}");
            out.push(emit(&link, &self.tuple, &segment));
            self.frames_sent += 1;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let timer = self.connection.as_ref().and_then(Connection::poll_timeout);
        // Nothing is read from a connection that is over.
        let held = self.held.front().filter(|_| !self.is_done()).map(|(at, _)| *at);
        [timer, held].into_iter().flatten().min()
    }

    fn is_done(&self) -> bool {
        matches!(self.phase(), Some(Phase::TimeWait | Phase::Closed(_)))
    }
}

pub(in crate::tcp) fn emit(link: &Link, tuple: &Tuple, segment: &crate::frame::TcpRepr) -> Vec<u8> {
    let mut buf = vec![0; HEADERS_MAX + segment.payload.len()];
    let length = emit_tcp(link, tuple, segment, &mut buf);
    assert!(length <= 1514, "{length} bytes do not fit the link");
    buf.truncate(length);
    buf
}

impl Host {
    pub fn is_closed(&self) -> bool {
        matches!(self.phase(), Some(Phase::Closed(_)))
    }
}

impl Host {
    pub fn phase_is_over(&self) -> bool {
        self.is_done()
    }

    /// Goes on with another connection; the application has read the first `read` bytes.
    pub fn resume(&mut self, connection: Connection, read: u64) {
        self.connection = Some(connection);
        self.incoming.truncate(read as usize);
        self.held.clear();
    }
}
