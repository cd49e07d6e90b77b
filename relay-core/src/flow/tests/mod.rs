//! A flow that was saved and restored does what it would have done: in the middle of anything, the
//! same inputs give the same bytes at both ends.

mod peer;
mod property;

use relay_abi::peer::{
    Base, Delivered, Endpoint, Keys, Leg as WireLeg, Message, Settled, Timestamps,
};

use self::peer::{MSS, Peer};
use super::{Effects, Flow, Next, Restoration, Turn};
use crate::id::{FlowId, Incarnation, NodeId};
use crate::reason::Counters;
use crate::relay::HoldTime;
use crate::replica::{self, Author, Link, Replicas, Shadows, Standing};
use crate::tcp;
use crate::time::{Duration, Instant};
use crate::tls::{ContentType, DirectionState, Opener, Sealer, Secret, Suite, record_header};

/// TLS_AES_128_GCM_SHA256 and TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256.
const SUITES: [u16; 2] = [0x1301, 0xc02b];

/// Bytes of the handshake in the client's stream and in the relay's.
const HELLO: usize = 300;
const ANSWER: usize = 500;

/// Initial sequence numbers: the client's, ours to it, ours to the backend, the backend's.
const NUMBERS: [u32; 4] = [0xffff_f000, 77, 0xffff_ff00, 99];

const FLOW: FlowId = FlowId(7);
const CONFIG: tcp::Config = tcp::Config {
    mss: 1460,
    receive_buffer: 30_000,
    send_buffer: 60_000,
    wake: tcp::Wake { lag: true, delay: Duration::from_micros(500) },
    // A backend whose reset was lost is noticed by this alone, when there is nothing to send to it.
    patience: tcp::Limits { keepalive: Some(Duration::from_secs(60)), stall_max: None },
    outlives_peer: false,
    congestion: tcp::Algorithm::Cubic,
};

/// What happens before the relay dies.
#[derive(Clone, Debug)]
enum Event {
    /// An end says so many bytes more, after having kept some to itself: those come later.
    Says(Who, u16, u16),
    Acknowledges(Who),
    /// From now on it hears the relay, or does not.
    Hears(Who, bool),
    /// The backend resets its connection.
    Resets,
    /// The backup acknowledges everything.
    Commits,
    Passes(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client,
    Backend,
}

/// A record of the client.
#[derive(Clone, Copy, Debug)]
enum Record {
    Data(u16),
    KeyUpdate { request: bool },
}

/// A connection, and what happens until it has to be saved.
#[derive(Clone, Debug)]
struct Case {
    suite: u16,
    hold_ms: Option<u64>,
    up: Vec<Record>,
    down: u16,
    /// The client has heard the handshake's answer.
    is_answered: bool,
    events: Vec<Event>,
}

/// A flow, its two ends and a backup.
struct World {
    now: Instant,
    hold: HoldTime,
    flow: Flow,
    client: Peer,
    backend: Peer,
    replicas: Replicas,
    effects: Effects,
    backup: Backup,
    over: bool,
}

const AUTHOR: Author = Author { node: NodeId(1), term: 1 };

/// What another node has been given.
struct Backup {
    link: Link,
    shadows: Shadows,
}

/// What both ends have to show at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    /// Whether the client was given new keys.
    rekeyed: bool,
    /// At the backend.
    up: Bytes,
    up_ended: bool,
    /// At the client.
    down: Bytes,
    down_ended: bool,
    close_notify: bool,
    acknowledged: (u64, u64),
    reset: (bool, bool),
    over: bool,
}

/// Bytes of which a failure shows the number only.
#[derive(Clone, PartialEq, Eq)]
struct Bytes(Vec<u8>);

impl core::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

fn content(length: usize, salt: usize) -> Vec<u8> {
    (0..length).map(|at| (((at + salt) * 31) >> 3) as u8).collect()
}

fn suite(id: u16) -> Suite {
    Suite::from_id(id).expect("a suite that we know")
}

/// Keys of a direction in the middle of its life.
fn keys(suite: Suite, salt: u8) -> DirectionState {
    let secret = Secret::from_bytes(&vec![salt; suite.secret_len()]).expect("short enough");
    DirectionState { generation: 0, sequence: u64::from(salt), secret }
}

impl Case {
    fn suite(&self) -> Suite {
        suite(self.suite)
    }

    /// All that the client says: its handshake, its records and close_notify.
    fn client_stream(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut stream, mut plain) = (content(HELLO, 0), Vec::new());
        let mut sealer = Sealer::new(self.suite(), &keys(self.suite(), 3)).expect("keys");
        for record in &self.up {
            match *record {
                Record::Data(length) => {
                    let bytes = content(length.into(), plain.len());
                    let parts = (bytes.as_slice(), &[][..]);
                    sealer.seal(ContentType::ApplicationData, parts, &mut stream).expect("fits");
                    plain.extend_from_slice(&bytes);
                }
                Record::KeyUpdate { request } if self.has_key_updates() => {
                    sealer.key_update(&mut stream, request).expect("TLS 1.3");
                }
                Record::KeyUpdate { .. } => {}
            }
        }
        sealer.seal(ContentType::Alert, (&[1, 0], &[]), &mut stream).expect("fits");
        (stream, plain)
    }

    fn has_key_updates(&self) -> bool {
        self.suite().version() == crate::tls::Version::Tls13
    }

    fn asks_for_keys(&self) -> bool {
        let asks = |record: &Record| matches!(record, Record::KeyUpdate { request: true });
        self.has_key_updates() && self.up.iter().any(asks)
    }

    fn hold(&self) -> HoldTime {
        self.hold_ms.map_or(HoldTime::Never, |ms| HoldTime::Fixed(Duration::from_millis(ms)))
    }

    /// What the backend will have heard, and the client.
    fn expected(&self) -> (Vec<u8>, Vec<u8>) {
        (self.client_stream().1, content(self.down.into(), 5))
    }

    /// The connection when its backend has just answered.
    fn world(&self) -> World {
        self.world_after(Settled::default())
    }

    /// The same, where so much more is true of what the client has said.
    fn world_after(&self, up: Settled) -> World {
        let suite = self.suite();
        let (write, read) = (keys(suite, 2), keys(suite, 3));
        let wire = |port: u16, (iss, irs): (u32, u32)| WireLeg {
            local: endpoint(1, port),
            remote: endpoint(2, port + 1),
            next_hop: [2, 0, 0, 0, 0, port as u8],
            iss,
            irs,
            mss: MSS as u16,
            send_scale: None,
            receive_scale: 0,
            sack: true,
            timestamps: Some(Timestamps { recent: 0, offset: u32::from(port) * 1000 }),
            window: Peer::window(),
        };
        let [client, to_client, to_backend, backend] = NUMBERS;
        let raw = content(ANSWER, 1);
        let base = Base {
            flow: FLOW.0,
            client: wire(443, (to_client, client)),
            backend: wire(8080, (to_backend, backend)),
            suite: self.suite,
            server_name: b"relay.test",
            write: wire_keys(&write),
            read: wire_keys(&read),
            up: Settled { client: HELLO as u64, sequence: read.sequence, ..up },
            down: Delivered {
                client: ANSWER as u64,
                sequence: write.sequence,
                ..Delivered::default()
            },
            raw: &raw,
            entries: Vec::new(),
            created_ms: 12_345,
        };
        let mut shadows = Shadows::default();
        shadows.apply(AUTHOR, &Message::Base(base)).expect("a base");
        let mut client = Peer::new((client, to_client), self.client_stream().0, HELLO as u64);
        client.is_deaf = !self.is_answered;
        let backend = Peer::new((backend, to_backend), self.expected().1, 0);
        World::restored(shadows, (self.hold(), Instant::from_millis(100_000)), (client, backend))
    }
}

fn wire_keys(keys: &DirectionState) -> Keys<'_> {
    Keys { generation: keys.generation, sequence: keys.sequence, secret: keys.secret.as_bytes() }
}

fn endpoint(host: u8, port: u16) -> Endpoint {
    let address = core::net::Ipv4Addr::new(10, 0, 0, host).to_ipv6_mapped().octets();
    Endpoint { address, port }
}

fn link(from: u8, to: u8) -> Link {
    let me = (NodeId(from), Incarnation(from.into()));
    Link::new(([0; 32], crate::unit::Unit::WHOLE), me, NodeId(to), Duration::from_millis(5))
}

/// A node's only peer, which is in sync.
fn replicas() -> Replicas {
    let address = core::net::Ipv4Addr::LOCALHOST.into();
    let mut peer = replica::Peer::new(NodeId(2), address, link(1, 2));
    peer.standing = Standing::InSync;
    Replicas::new(vec![peer])
}

impl Backup {
    fn new() -> Self {
        Backup { link: link(2, 1), shadows: Shadows::default() }
    }

    /// Takes in everything that it was not given yet.
    fn follow(&mut self, now: Instant, owner: &mut Replicas) {
        let outbox = owner.peers[0].link.outbox();
        let inbox = self.link.inbox();
        let mut chunk = Vec::new();
        while let Some(position) = outbox.poll_chunk(now, 1 << 20, &mut chunk) {
            inbox.handle_chunk(position, &chunk);
            chunk.clear();
            while let Some(message) = inbox.next_message() {
                let message = Message::decode(message).expect("what was encoded");
                self.shadows.apply(AUTHOR, &message).expect("a backup in sync follows");
                inbox.mark_applied();
            }
            outbox.handle_ack(now, inbox.applied(), false);
        }
    }
}

impl World {
    /// A node that goes on with the only flow of `shadows`.
    fn restored(
        mut shadows: Shadows,
        (hold, now): (HoldTime, Instant),
        (client, backend): (Peer, Peer),
    ) -> World {
        let (_, shadow, _) = shadows.take().pop().expect("a flow");
        let with = Restoration {
            now,
            client_config: &CONFIG,
            backend_config: &CONFIG,
            hold,
            clock_lead: 0,
            outage: Duration::from_millis(20),
            listener: None,
        };
        let flow = Flow::restore(FLOW, shadow, &with).expect("a shadow that makes sense");
        let mut world = World {
            now,
            hold,
            flow,
            client,
            backend,
            replicas: replicas(),
            effects: Effects::new(),
            backup: Backup::new(),
            over: false,
        };
        world.turn(|flow, turn| flow.replicate(turn));
        world.commit();
        world.serve();
        world
    }

    fn turn<T>(&mut self, act: impl FnOnce(&mut Flow, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn {
            now: self.now,
            replicas: &mut self.replicas,
            effects: &mut self.effects,
            counters: &mut Counters::default(),
            hold: self.hold,
            idle_max: None,
            is_scarce: false,
            hurries: false,
            is_outdated: false,
        };
        act(&mut self.flow, &mut turn)
    }

    /// What a shard does in a turn, and then both ends hear what is sent.
    fn serve(&mut self) {
        self.release();
        if self.flow.poll_timeout().is_some_and(|at| at <= self.now) {
            self.flow.handle_timeout(self.now);
        }
        self.over |= self.turn(|flow, turn| flow.service(turn)) == Next::Over;
        self.release();
        self.client.hear(self.now, &mut self.flow.client.connection);
        if let Some(leg) = self.flow.backend_mut() {
            self.backend.hear(self.now, &mut leg.connection);
        }
    }

    fn release(&mut self) {
        let committed = self.replicas.committed();
        while self.effects.front().is_some_and(|(lsn, _, _)| *lsn <= committed) {
            let Some((_, _, effect)) = self.effects.pop_front() else { break };
            self.flow.apply(effect);
        }
    }

    fn commit(&mut self) {
        self.backup.follow(self.now, &mut self.replicas);
    }

    fn end(&mut self, who: Who) -> (&mut Peer, &mut tcp::Connection) {
        let World { flow, client, backend, .. } = self;
        match who {
            Who::Client => (client, &mut flow.client.connection),
            Who::Backend => {
                (backend, &mut flow.backend_mut().expect("an open flow has one").connection)
            }
        }
    }

    fn happen(&mut self, event: &Event) {
        let now = self.now;
        match *event {
            Event::Says(who, skipped, length) => {
                let (peer, relay) = self.end(who);
                if !peer.has_reset {
                    peer.say(now, relay, (skipped.into(), length.into()));
                }
            }
            Event::Acknowledges(who) => {
                let (peer, relay) = self.end(who);
                if !peer.has_reset {
                    peer.acknowledge(now, relay);
                }
            }
            Event::Hears(who, hears) => self.end(who).0.is_deaf = !hears,
            Event::Resets => {
                let (peer, relay) = self.end(Who::Backend);
                peer.reset(now, relay);
            }
            Event::Commits => self.commit(),
            Event::Passes(ms) => self.now += Duration::from_millis(ms.into()),
        }
        self.serve();
    }

    /// The flow as it would be given to a backup that knows nothing of it.
    fn save(&mut self) -> Shadows {
        let (mut backup, mut replicas) = (Backup::new(), replicas());
        let mut turn = Turn {
            now: self.now,
            replicas: &mut replicas,
            effects: &mut Effects::new(),
            counters: &mut Counters::default(),
            hold: self.hold,
            idle_max: None,
            is_scarce: false,
            hurries: false,
            is_outdated: false,
        };
        self.flow.replicate(&mut turn);
        backup.follow(self.now, &mut replicas);
        backup.shadows
    }

    /// Goes on without the backup, as after a view that leaves it out; returns what it has.
    fn lose_backup(&mut self) -> Shadows {
        self.replicas.peers[0].put_out();
        core::mem::take(&mut self.backup.shadows)
    }

    /// Both ends say everything that is left, again and again, until all is said.
    fn finish(mut self, suite: Suite) -> Outcome {
        for round in 0..ROUNDS_MAX {
            // What an end had said last may have died with the owner: it says so once more.
            if round > 0 && self.client.is_done() && self.backend.is_done() {
                break;
            }
            for who in [Who::Client, Who::Backend] {
                let now = self.now;
                let (peer, relay) = self.end(who);
                if !peer.has_reset {
                    peer.repeat(now, relay);
                }
                self.commit();
                self.serve();
            }
            // A retransmission may be far away: whoever was not heard for long has a long timeout.
            let next = self.now + Duration::from_millis(50);
            self.now = self.flow.poll_timeout().map_or(next, |at| at.max(next));
        }
        // TIME-WAIT.
        for _ in 0..10 {
            self.now += Duration::from_secs(100);
            self.commit();
            self.serve();
        }
        self.outcome(suite)
    }

    fn outcome(self, suite: Suite) -> Outcome {
        let World { client, backend, over, .. } = self;
        let raw = client.heard.len().min(ANSWER);
        assert_eq!(client.heard[..raw], content(ANSWER, 1)[..raw], "the handshake's answer");
        let mut rest = client.heard[raw..].to_vec();
        let mut opener = Opener::new(suite, &keys(suite, 2)).expect("keys");
        let (mut down, mut close_notify, mut updates, mut at) = (Vec::new(), false, 0, 0);
        while let Some(length) = record_header(&rest[at..]).expect("a record")
            && at + length <= rest.len()
        {
            let (kind, plain) = opener.open(&mut rest[at..at + length]).expect("it authenticates");
            assert!(!close_notify, "something follows close_notify");
            match kind {
                ContentType::ApplicationData => down.extend_from_slice(plain),
                ContentType::Alert => close_notify = *plain == [1, 0],
                _ => {
                    updates += 1;
                    opener.update().expect("TLS 1.3");
                }
            }
            at += length;
        }
        Outcome {
            rekeyed: updates > 0,
            up_ended: backend.end().is_some(),
            up: Bytes(backend.heard),
            down: Bytes(down),
            down_ended: client.fin.is_some_and(|fin| fin == (raw + rest.len()) as u64),
            close_notify,
            acknowledged: (client.acked, backend.acked),
            reset: (client.is_reset, backend.is_reset),
            over,
        }
    }
}

/// Rounds of an end's patience.
const ROUNDS_MAX: usize = 400;

/// The relay died when it had settled the client's request, and before it could answer it.
#[test]
fn rfc_8446_a_key_update_that_is_owed_is_sent_by_the_next_owner() {
    for owes_key_update in [true, false] {
        let case = Case {
            suite: SUITES[0],
            hold_ms: None,
            up: vec![Record::Data(100)],
            down: 200,
            is_answered: true,
            events: Vec::new(),
        };
        let up = Settled { owes_key_update, ..Settled::default() };
        let outcome = case.world_after(up).finish(case.suite());
        assert_eq!(outcome.rekeyed, owes_key_update, "{outcome:?}");
    }
}
