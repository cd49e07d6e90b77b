//! One node's end of everything between it and one peer: session, heartbeat, message streams.

use relay_abi::wire::{Reader, Writer};

use super::channel::{Channel, OVERHEAD, Opened, PairKey};
use super::stream::{Inbox, Outbox};
use crate::frame::EthernetAddress;
use crate::id::{Incarnation, NodeId};
use crate::reason::Reason;
use crate::time::{Duration, Instant};
use crate::unit::Unit;

/// What a node says about itself in every datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub role: Role,
    /// The highest term that the node promised or holds (rule 6).
    pub term: u64,
    /// Number of the node's view.
    pub view: u64,
    /// The owner in that view.
    pub owner: NodeId,
    /// The node's clock in milliseconds; TCP timestamps follow it.
    pub clock_ms: u64,
    /// The MAC addresses of the node's ports toward clients and backends: where frames of flows go
    /// that it owns.
    pub ports: [EthernetAddress; 2],
}

/// What a node does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Looks for an owner.
    Starting = 0,
    /// Owns the buckets.
    Owner = 1,
    /// Follows an owner.
    Backup = 2,
}

impl Role {
    /// What a relay does that has these roles for two units.
    #[must_use]
    pub(crate) fn of_both(self, other: Role) -> Role {
        match (self, other) {
            (Role::Owner, _) | (_, Role::Owner) => Role::Owner,
            (Role::Starting, _) | (_, Role::Starting) => Role::Starting,
            (Role::Backup, Role::Backup) => Role::Backup,
        }
    }
}

/// What a datagram changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A greeting, which proves nothing about the present: it may be a replay.
    Greeted,
    /// The peer has another secret: nothing else follows from it.
    Rekeyed,
    /// The peer lives.
    Heard,
    /// The peer runs as a new incarnation; its former streams are gone.
    NewIncarnation,
}

/// One peer.
pub struct Link {
    unit: Unit,
    channel: Channel,
    heartbeat: Duration,
    outbox: Outbox,
    inbox: Inbox,
    /// Counts the streams that we began toward this incarnation.
    out_epoch: u32,
    in_epoch: u32,
    status: Option<Status>,
    last_heard: Option<Instant>,
    last_greeted: Option<Instant>,
    heartbeat_at: Instant,
    hello_at: Instant,
    /// When the peer is shown next that we have the newest secret, until it has shown the same.
    rekey_at: Instant,
    ack_due: bool,
    chunk: Vec<u8>,
}

/// status, acknowledged epoch and position, gap, chunk's epoch and position.
const FIXED: usize = 1 + 8 + 8 + 1 + 8 + 2 * 6 + 4 + 8 + 1 + 4 + 8;

impl Link {
    /// A link to `peer`, which nobody has heard of yet, with the cluster's key and for one unit. It is
    /// silent until [`Link::handle_pair_key`].
    pub fn new(
        (key, unit): ([u8; 32], Unit),
        me: (NodeId, Incarnation),
        peer: NodeId,
        heartbeat: Duration,
    ) -> Self {
        Link {
            channel: Channel::new((key, unit.index()), me, peer),
            heartbeat,
            outbox: Outbox::new(unit.count()),
            unit,
            inbox: Inbox::default(),
            out_epoch: 1,
            in_epoch: 0,
            status: None,
            last_heard: None,
            last_greeted: None,
            heartbeat_at: Instant::ZERO,
            hello_at: Instant::ZERO,
            rekey_at: Instant::ZERO,
            ack_due: false,
            chunk: Vec::new(),
        }
    }

    /// The peer's incarnation, once a session stands.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.channel.peer_incarnation()
    }

    /// The version that the session speaks.
    pub fn version(&self) -> Option<u8> {
        self.channel.version()
    }

    /// Whether there is a key to talk under.
    pub fn has_key(&self) -> bool {
        self.channel.has_key()
    }

    /// Takes in what this node and the peer have in common from now on.
    pub fn handle_pair_key(&mut self, key: &PairKey) {
        self.channel.handle_pair_key(key);
        self.rekey_at = Instant::ZERO;
        // A new life of the peer waits for nothing else.
        self.hello_at = Instant::ZERO;
    }

    /// What the peer said last.
    pub fn status(&self) -> Option<Status> {
        self.status
    }

    /// When the peer was heard last.
    pub fn last_heard(&self) -> Option<Instant> {
        self.last_heard
    }

    /// When the peer greeted last. It may be a replay, so it proves no life; but whoever greets
    /// does not hear us, and may have been served by somebody else meanwhile.
    pub fn last_greeted(&self) -> Option<Instant> {
        self.last_greeted
    }

    /// A pause of ours must not count as the peer's silence, nor as its slowness.
    pub fn discount_pause(&mut self, pause: Duration) {
        self.last_heard = self.last_heard.map(|at| at + pause);
        self.outbox.discount_pause(pause);
    }

    /// Messages toward the peer.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Messages toward the peer, to look at.
    pub fn outbox_ref(&self) -> &Outbox {
        &self.outbox
    }

    /// Messages from the peer.
    pub fn inbox(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// Begins a new stream toward the peer; what was queued is void.
    pub fn restart_outbox(&mut self) {
        self.outbox = Outbox::new(self.unit.count());
        self.out_epoch += 1;
    }

    /// Messages were applied: say so soon.
    pub fn acknowledge(&mut self) {
        self.ack_due = true;
    }

    /// Takes in a datagram that claims to come from this peer.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8]) -> Result<Event, Reason> {
        let (payload, event) = match self.channel.open(datagram)? {
            Opened::Hello => {
                self.last_greeted = Some(now);
                return Ok(Event::Greeted);
            }
            Opened::Rekey => {
                // What comes next is under that secret, and so tells the peer the same.
                self.heartbeat_at = now;
                return Ok(Event::Rekeyed);
            }
            Opened::Payload(payload) => (payload, Event::Heard),
            Opened::NewSession(payload) => (payload, Event::NewIncarnation),
        };
        let packet = Packet::decode(payload).map_err(|_| Reason::PeerMalformed)?;
        if event == Event::NewIncarnation {
            self.restart_outbox();
            self.inbox = Inbox::default();
            self.in_epoch = 0;
            self.heartbeat_at = now;
        }
        self.last_heard = Some(now);
        self.status = Some(packet.status);
        if packet.ack_epoch == self.out_epoch {
            self.outbox.handle_ack(now, packet.ack_position, packet.gap);
        }
        if packet.epoch > self.in_epoch {
            self.in_epoch = packet.epoch;
            self.inbox = Inbox::default();
        }
        if packet.epoch == self.in_epoch && !packet.chunk.is_empty() {
            self.inbox.handle_chunk(packet.position, packet.chunk);
            self.ack_due = true;
        }
        Ok(event)
    }

    /// Whether the peer began a new stream since `epoch`.
    pub fn stream_epoch(&self) -> u32 {
        self.in_epoch
    }

    /// Retransmits, if it is time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.outbox.handle_timeout(now);
    }

    /// When [`Link::poll_datagram`] or [`Link::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Instant {
        let heartbeat = self.heartbeat_at.min(self.hello_at);
        self.outbox.poll_timeout().map_or(heartbeat, |retry| heartbeat.min(retry))
    }

    /// Writes the next datagram into `out`; poll until None.
    pub fn poll_datagram(
        &mut self,
        now: Instant,
        status: &Status,
        out: &mut [u8],
    ) -> Option<usize> {
        if self.hello_at <= now {
            self.hello_at = now + self.heartbeat * HELLO_HEARTBEATS;
            if !self.is_fresh(now) {
                return self.channel.seal_hello(out);
            }
        }
        if self.rekey_at <= now {
            self.rekey_at = now + self.heartbeat;
            if let Some(length) = self.channel.seal_rekey(out) {
                return Some(length);
            }
        }
        let room = out.len().saturating_sub(OVERHEAD + FIXED);
        self.chunk.clear();
        let mut chunk = core::mem::take(&mut self.chunk);
        let position = match self.channel.peer_incarnation() {
            Some(_) => self.outbox.poll_chunk(now, room, &mut chunk),
            None => None,
        };
        let due = position.is_some() || self.ack_due || self.heartbeat_at <= now;
        let length = due.then(|| self.seal(now, status, position, &chunk, out)).flatten();
        self.chunk = chunk;
        length
    }

    fn seal(
        &mut self,
        now: Instant,
        status: &Status,
        position: Option<u64>,
        chunk: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        let packet = Packet {
            status: *status,
            ack_epoch: self.in_epoch,
            ack_position: self.inbox.applied(),
            gap: self.inbox.has_gap(),
            epoch: self.out_epoch,
            position: position.unwrap_or(self.outbox.acked()),
            chunk,
        };
        let mut payload = Vec::with_capacity(FIXED + chunk.len());
        packet.encode(&mut payload);
        self.ack_due = false;
        self.heartbeat_at = now + self.heartbeat;
        // A peer that greeted us gets its proof first; the session's peer hears from us again.
        if let Some(length) = self.channel.seal_answer(&Packet::greeting(status), out) {
            self.heartbeat_at = now;
            self.ack_due = true;
            if position.is_some() {
                self.outbox.rewind();
            }
            return Some(length);
        }
        self.channel.seal(&payload, out)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.last_heard.is_some_and(|heard| now - heard < self.heartbeat * HELLO_HEARTBEATS)
    }
}

/// A peer that was silent for this many heartbeats is greeted.
const HELLO_HEARTBEATS: u32 = 4;

/// The payload of a datagram.
struct Packet<'a> {
    status: Status,
    ack_epoch: u32,
    ack_position: u64,
    gap: bool,
    epoch: u32,
    position: u64,
    chunk: &'a [u8],
}

impl<'a> Packet<'a> {
    /// For an incarnation whose streams do not exist yet.
    fn greeting(status: &Status) -> Vec<u8> {
        let mut payload = Vec::with_capacity(FIXED);
        let nothing = Packet {
            status: *status,
            ack_epoch: 0,
            ack_position: 0,
            gap: false,
            epoch: 0,
            position: 0,
            chunk: &[],
        };
        nothing.encode(&mut payload);
        payload
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.u8(self.status.role as u8);
        out.u64(self.status.term);
        out.u64(self.status.view);
        out.u8(self.status.owner.0);
        out.u64(self.status.clock_ms);
        self.status.ports.iter().for_each(|port| out.bytes(&port.0));
        out.u32(self.ack_epoch);
        out.u64(self.ack_position);
        out.bool(self.gap);
        out.u32(self.epoch);
        out.u64(self.position);
        out.bytes(self.chunk);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, relay_abi::wire::Malformed> {
        let mut r = Reader::new(bytes);
        let role = match r.u8()? {
            0 => Role::Starting,
            1 => Role::Owner,
            2 => Role::Backup,
            _ => return Err(relay_abi::wire::Malformed),
        };
        let (term, view) = (r.u64()?, r.u64()?);
        let (owner, clock_ms) = (NodeId(r.u8()?), r.u64()?);
        let ports = [EthernetAddress(r.array()?), EthernetAddress(r.array()?)];
        Ok(Packet {
            status: Status { role, term, view, owner, clock_ms, ports },
            ack_epoch: r.u32()?,
            ack_position: r.u64()?,
            gap: r.bool()?,
            epoch: r.u32()?,
            position: r.u64()?,
            chunk: r.rest(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relay_abi::peer::{Direction, Message};

    const STATUS: Status = Status {
        role: Role::Owner,
        term: 1,
        view: 1,
        owner: NodeId(1),
        clock_ms: 0,
        ports: [EthernetAddress::BROADCAST; 2],
    };
    const BEAT: Duration = Duration::from_millis(5);

    fn link(me: u8, incarnation: u64, peer: u8) -> Link {
        let life = (NodeId(me), Incarnation(incarnation));
        let mut link = Link::new(([1; 32], Unit::WHOLE), life, NodeId(peer), BEAT);
        link.handle_pair_key(&PairKey::Shared);
        link
    }

    /// Hands datagrams over until both are silent; returns whether `b` saw a new incarnation.
    fn exchange(now: Instant, a: &mut Link, b: &mut Link) -> bool {
        let (mut buf, mut new) = ([0; 1400], false);
        loop {
            let mut quiet = true;
            for _ in 0..2 {
                while let Some(n) = a.poll_datagram(now, &STATUS, &mut buf) {
                    quiet = false;
                    new |= b.handle_datagram(now, &mut buf[..n]) == Ok(Event::NewIncarnation);
                }
                while let Some(n) = b.poll_datagram(now, &STATUS, &mut buf) {
                    quiet = false;
                    let _ = a.handle_datagram(now, &mut buf[..n]);
                }
            }
            if quiet {
                return new;
            }
        }
    }

    #[test]
    fn messages_cross_and_are_acknowledged_when_applied() {
        let (mut a, mut b) = (link(1, 10, 2), link(2, 20, 1));
        let mut now = Instant::ZERO;
        exchange(now, &mut a, &mut b);
        let bytes = [5; 16_000];
        let message = Message::Data {
            flow: 1,
            direction: Direction::Up,
            offset: 0,
            fin: false,
            bytes: &bytes,
        };
        let end = a.outbox().push(&message);
        for _ in 0..5 {
            now += BEAT;
            exchange(now, &mut a, &mut b);
        }
        assert_eq!(Message::decode(b.inbox().next_message().unwrap()), Ok(message));
        assert!(a.outbox().acked() < end, "it arrived, but was not applied");
        b.inbox().mark_applied();
        b.acknowledge();
        exchange(now, &mut a, &mut b);
        assert_eq!(a.outbox().acked(), end);
    }

    #[test]
    fn a_restarted_peer_begins_anew() {
        let (mut a, mut b) = (link(1, 10, 2), link(2, 20, 1));
        let mut now = Instant::ZERO;
        exchange(now, &mut a, &mut b);
        let mut a = link(1, 11, 2);
        now += BEAT * 10;
        assert!(exchange(now, &mut a, &mut b));
        assert_eq!(b.incarnation(), Some(Incarnation(11)));
        let end = a.outbox().push(&Message::BasesEnd);
        exchange(now, &mut a, &mut b);
        b.inbox().mark_applied();
        b.acknowledge();
        exchange(now, &mut a, &mut b);
        assert_eq!(a.outbox().acked(), end);
    }
}
