//! One core's byte path: the flow table, and what goes in and out of it.

mod admission;
mod complaint;
mod dial;
mod hops;
mod office;
mod stranger;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use relay_abi::bucket;
use relay_abi::peer::Message;
use smoltcp::wire::TcpControl;

use crate::canary::{Canary, breaks};
use crate::config::{Settings, Side, Unit};
use crate::entropy::{Entropy, TupleHash};
use crate::flow::{Description, Effect, Effects, Flow, FlowIds, Next, Restoration, Turn};
use crate::frame::{EthernetAddress, IpAddress, Link, TcpRepr, Tuple, emit_tcp};
use crate::id::{FlowId, Incarnation};
use crate::reason::{Counters, Reason};
use crate::replica::{Replicas, Shadow};
use crate::tcp::{Cookies, Memory, Phase};
use crate::time::{Duration, Instant};

/// Frames without a flow (SYN cookies, resets, ARP) that wait for the transmit ring at most.
const REPLIES_MAX: usize = 1024;

/// The largest frame that is answered without a flow.
const REPLY_FRAME_MAX: usize = 256;

/// The flows that this node owns.
pub struct Shard {
    flows: BTreeMap<FlowId, Slot>,
    legs: HashMap<Tuple, (FlowId, Side)>,
    dirty: VecDeque<FlowId>,
    client_ready: VecDeque<FlowId>,
    backend_ready: VecDeque<FlowId>,
    timers: BTreeSet<(Instant, FlowId)>,
    effects: Effects,
    client_replies: VecDeque<Vec<u8>>,
    backend_replies: VecDeque<Vec<u8>>,
    cookies: Cookies,
    admission: admission::Admission,
    entropy: Entropy,
    ids: FlowIds,
    numbers: TupleHash,
    /// Flows that are over but for TIME-WAIT, oldest first: they make room when the table is full.
    lingering: VecDeque<FlowId>,
    /// How many of them are still there.
    lingerers: usize,
    /// Flows that had to make room, and that followers still know.
    forgotten: Vec<FlowId>,
    strangers: watch::Watch,
    hops: hops::Hops,
    dialed: usize,
    total: u64,
    /// Bytes of all flows that backups hold as data.
    replicated: u64,
    /// Whether what no gate has to agree to may be done (rule 17).
    has_lease: bool,
    /// What is received is replicated as it comes: another node goes on soon.
    hurries: bool,
}

struct Slot {
    flow: Flow,
    dirty: bool,
    client_ready: bool,
    backend_ready: bool,
    deadline: Option<Instant>,
    /// The backend leg's entry in `legs`.
    dialed: Option<Tuple>,
    /// It is in the list of flows that are over but for TIME-WAIT.
    lingers: bool,
    /// Its share of `replicated`.
    replicated: u64,
    /// It was taken over, and nothing leaves until every gate has its base: one that takes over
    /// before would go on from what it had of the former owner (rule 10).
    is_unbased: bool,
}

impl Slot {
    /// Brings the flow's share of the bytes that backups hold up to date.
    fn count_replicated(&mut self, total: &mut u64) {
        *total -= self.replicated;
        self.replicated = self.flow.replicated_bytes();
        *total += self.replicated;
    }
}

impl Shard {
    /// An empty shard. The keys for SYN cookies and sequence numbers are the same at every node.
    pub fn new(
        (cookie_key, number_key): ([u8; 32], [u8; 32]),
        entropy: Entropy,
        (incarnation, unit): (Incarnation, Unit),
    ) -> Self {
        Shard {
            flows: BTreeMap::new(),
            legs: HashMap::new(),
            dirty: VecDeque::new(),
            client_ready: VecDeque::new(),
            backend_ready: VecDeque::new(),
            timers: BTreeSet::new(),
            effects: Effects::new(),
            client_replies: VecDeque::new(),
            backend_replies: VecDeque::new(),
            cookies: Cookies::new(cookie_key),
            admission: admission::Admission::default(),
            entropy,
            ids: FlowIds::new(incarnation, unit),
            numbers: TupleHash::new(&number_key),
            lingering: VecDeque::new(),
            lingerers: 0,
            forgotten: Vec::new(),
            strangers: watch::Watch::default(),
            hops: hops::Hops::default(),
            dialed: 0,
            total: 0,
            replicated: 0,
            has_lease: true,
            hurries: false,
        }
    }

    /// Number of senders whose segments belong to no flow.
    pub fn strangers_len(&self) -> usize {
        self.strangers.len()
    }

    /// Number of flows, without those that are over but for TIME-WAIT.
    pub fn len(&self) -> usize {
        self.flows.len() - self.lingerers
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows since the start, those taken over included.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of all flows that backups hold as data.
    pub fn replicated_bytes(&self) -> u64 {
        self.replicated
    }

    /// Effects that wait for their commit.
    pub fn effects_len(&self) -> usize {
        self.effects.len()
    }

    /// What the TCP buffers of each flow take.
    pub fn memory(&self) -> impl Iterator<Item = Memory> + '_ {
        self.flows.values().map(|slot| slot.flow.memory())
    }

    /// What the operator is shown, in the order of the flows' ids.
    pub fn describe(&self) -> impl Iterator<Item = Description> + '_ {
        self.flows.values().filter(|slot| !slot.lingers).map(|slot| slot.flow.describe())
    }

    /// The first replicated flow behind `after`.
    pub fn next_replicated(&self, after: Option<FlowId>) -> Option<FlowId> {
        use core::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let mut range = self.flows.range((from, Unbounded));
        range.find(|(_, slot)| slot.flow.is_replicated()).map(|(id, _)| *id)
    }

    /// Tells every follower about a flow as a whole.
    pub fn replicate(
        &mut self,
        id: FlowId,
        (now, replicas): (Instant, &mut Replicas),
        counters: &mut Counters,
        settings: &Settings,
    ) {
        if let Some(slot) = self.flows.get_mut(&id) {
            let effects = &mut self.effects;
            let mut turn = Turn::new((now, replicas), effects, counters, settings);
            slot.flow.replicate(&mut turn);
        }
    }

    /// Takes in a TCP segment for one of our addresses, and the frame's sender, unless another relay
    /// forwarded it.
    pub fn handle_tcp(
        &mut self,
        now: Instant,
        (side, source): (Side, Option<EthernetAddress>),
        (tuple, segment): (&Tuple, &TcpRepr<'_>),
        settings: &Settings,
    ) -> Result<(), Reason> {
        let Some((id, side)) = self.legs.get(tuple).copied() else {
            return self.handle_stranger(now, (side, source), (tuple, segment), settings);
        };
        let Some(slot) = self.flows.get_mut(&id) else { return Err(Reason::UnknownFlow) };
        let leg = match side {
            Side::Client => Some(&mut slot.flow.client),
            Side::Backend | Side::Cluster => slot.flow.backend_mut(),
        };
        let Some(leg) = leg else {
            return self.handle_stranger(now, (side, source), (tuple, segment), settings);
        };
        let is_over = matches!(leg.connection.phase(), Phase::TimeWait | Phase::Closed(_));
        if side == Side::Client
            && is_over
            && begins_anew(&self.cookies, now, (tuple, segment), &settings.client_tcp)
        {
            self.remove(id);
            return self.handle_stranger(now, (side, source), (tuple, segment), settings);
        }
        let dialing = leg.connection.phase() == Phase::SynSent;
        let result = leg.connection.handle_segment(now, segment);
        match result {
            Ok(()) => {
                leg.next_hop =
                    source.or(leg.next_hop).or_else(|| self.hops.toward(side, tuple.remote.addr));
            }
            // RFC 9293 section 3.10.7.3: the peer remembers an older connection.
            Err(Reason::AckUnacceptable) if dialing => {
                self.refuse((side, source), tuple, segment, settings);
            }
            Err(_) => {}
        }
        self.touch(id);
        result
    }

    /// One turn: lets committed effects go, and does everything that can be done now.
    pub fn turn(
        &mut self,
        now: Instant,
        replicas: &mut Replicas,
        counters: &mut Counters,
        settings: &Settings,
    ) {
        for id in self.forgotten.drain(..) {
            replicas.push(Some(id), &Message::End { flow: id.0 });
        }
        self.apply_committed(now, replicas);
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(slot) = self.flows.get_mut(&id) {
                slot.deadline = None;
                slot.flow.handle_timeout(now);
                self.touch(id);
            }
        }
        while let Some(id) = self.dirty.pop_front() {
            let Some(slot) = self.flows.get_mut(&id) else { continue };
            slot.dirty = false;
            let effects = &mut self.effects;
            let is_scarce = self.replicated > settings.replicated_max;
            let mut turn = Turn::new((now, replicas), effects, counters, settings);
            (turn.is_scarce, turn.hurries) = (is_scarce, self.hurries);
            let generation = slot.flow.generation();
            turn.is_outdated = generation.is_some_and(|of| settings.listeners.is_outdated(of));
            let next = slot.flow.service(&mut turn);
            slot.count_replicated(&mut self.replicated);
            if slot.flow.is_lingering() && !slot.lingers {
                slot.lingers = true;
                self.lingerers += 1;
                self.lingering.push_back(id);
            }
            match next {
                Next::Wait => self.reschedule(now, id),
                Next::Dial => {
                    if let Err(reason) = self.dial((now, replicas), id, counters, settings) {
                        counters.count(reason);
                    }
                }
                Next::Over => self.remove(id),
            }
        }
        self.apply_committed(now, replicas);
    }

    /// Writes the next frame for `side` into `buf`; poll until None.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        side: Side,
        settings: &Settings,
        buf: &mut [u8],
    ) -> Option<usize> {
        let replies = match side {
            Side::Client => &mut self.client_replies,
            _ => &mut self.backend_replies,
        };
        if let Some(reply) = replies.pop_front() {
            buf.get_mut(..reply.len())?.copy_from_slice(&reply);
            return Some(reply.len());
        }
        loop {
            let queue = match side {
                Side::Client => &mut self.client_ready,
                _ => &mut self.backend_ready,
            };
            let id = *queue.front()?;
            if let Some(length) = self.emit(now, (id, side), settings, buf) {
                return Some(length);
            }
            let (queue, slot) = match side {
                Side::Client => (&mut self.client_ready, self.flows.get_mut(&id)),
                _ => (&mut self.backend_ready, self.flows.get_mut(&id)),
            };
            queue.pop_front();
            if let Some(slot) = slot {
                match side {
                    Side::Client => slot.client_ready = false,
                    _ => slot.backend_ready = false,
                }
                // The last segment may have been all that a flow still waited for.
                if !slot.flow.is_replicated() || slot.flow.has_closed_leg() {
                    self.touch(id);
                }
            }
            self.touch_timer(now, id);
        }
    }

    /// When [`Shard::turn`] has something to do without input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether a turn would do something at once.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Queues a frame that belongs to no flow; a full queue drops it, as a full ring would.
    pub fn reply(&mut self, side: Side, write: impl FnOnce(&mut [u8]) -> usize) {
        let queue = match side {
            Side::Client => &mut self.client_replies,
            _ => &mut self.backend_replies,
        };
        if queue.len() < REPLIES_MAX {
            let mut frame = vec![0; REPLY_FRAME_MAX];
            let length = write(&mut frame);
            frame.truncate(length);
            queue.push_back(frame);
        }
    }

    /// Goes on with a flow of a former owner.
    pub fn adopt(
        &mut self,
        ((id, shadow), (clock_lead, outage)): ((FlowId, Shadow), (u32, Duration)),
        (now, replicas): (Instant, &mut Replicas),
        counters: &mut Counters,
        settings: &Settings,
    ) -> Result<(), Reason> {
        let vip = crate::flow::ip_endpoint(&shadow.client().local);
        let listeners = &settings.listeners;
        let listener = match &shadow {
            Shadow::Opening(_) if breaks(Canary::RepeatUnderAnother) => {
                listeners.find(vip.addr, vip.port)
            }
            Shadow::Opening(opening) => listeners.find_in(opening.generation, vip.addr, vip.port),
            // It needs none any more.
            Shadow::Open(_) => listeners.find_any(vip.addr, vip.port),
        };
        let with = Restoration {
            now,
            client_config: &settings.client_tcp_of(listener.map(|(_, listener)| listener)),
            backend_config: &settings.backend_tcp,
            hold: settings.hold,
            clock_lead,
            outage,
            listener: listener.map(|(place, listener)| (place, &listener.tls)),
        };
        let mut flow = Flow::restore(id, shadow, &with)?;
        let effects = &mut self.effects;
        let mut turn = Turn::new((now, replicas), effects, counters, settings);
        flow.replicate(&mut turn);
        effects.push_back((replicas.last(), id, Effect::Based));
        self.insert(flow);
        if let Some(slot) = self.flows.get_mut(&id) {
            slot.is_unbased = !breaks(Canary::SpeakUnbased);
        }
        Ok(())
    }

    fn emit(
        &mut self,
        now: Instant,
        (id, side): (FlowId, Side),
        settings: &Settings,
        buf: &mut [u8],
    ) -> Option<usize> {
        let slot = self.flows.get_mut(&id)?;
        let leg = match side {
            Side::Client if slot.flow.is_mute() => return None,
            Side::Client => &mut slot.flow.client,
            _ => slot.flow.backend_mut()?,
        };
        let destination = leg.next_hop?;
        let tuple = *leg.connection.tuple();
        let segment = leg.connection.poll_transmit(now)?;
        let link = Link { source: settings.macs(side).port, destination };
        Some(emit_tcp(&link, &tuple, &segment, buf))
    }

    fn apply_committed(&mut self, now: Instant, replicas: &mut Replicas) {
        let committed = match breaks(Canary::ReleaseBeforeCommit) {
            true => replicas.last(),
            false => replicas.committed(),
        };
        let is_free = self.has_lease || replicas.has_gates();
        while is_free && self.effects.front().is_some_and(|(lsn, _, _)| *lsn <= committed) {
            let Some((_, id, effect)) = self.effects.pop_front() else { break };
            if let Some(slot) = self.flows.get_mut(&id) {
                slot.is_unbased &= effect != Effect::Based;
                slot.flow.apply(effect);
                slot.count_replicated(&mut self.replicated);
                if slot.flow.is_ending() {
                    self.touch(id);
                }
                self.reschedule(now, id);
            }
        }
    }

    fn insert(&mut self, mut flow: Flow) {
        let id = flow.id;
        let tuple = *flow.client.connection.tuple();
        let hops = &mut self.hops;
        let mut find = |side, leg: &mut crate::flow::Leg| {
            let remote = leg.connection.tuple().remote.addr;
            leg.next_hop = leg.next_hop.or_else(|| hops.toward(side, remote));
        };
        find(Side::Client, &mut flow.client);
        if let Some(leg) = flow.backend_mut() {
            find(Side::Backend, leg);
        }
        if let Some((old, _)) = self.legs.insert(tuple, (id, Side::Client)) {
            self.remove(old);
            self.legs.insert(tuple, (id, Side::Client));
        }
        let dialed = flow.backend().map(|leg| *leg.connection.tuple());
        if let Some(backend) = dialed {
            self.legs.insert(backend, (id, Side::Backend));
        }
        let slot = Slot {
            flow,
            dirty: false,
            client_ready: false,
            backend_ready: false,
            deadline: None,
            dialed,
            lingers: false,
            replicated: 0,
            is_unbased: false,
        };
        self.flows.insert(id, slot);
        self.total += 1;
        self.touch(id);
    }

    /// Whether there is room for one more flow, if need be instead of one in TIME-WAIT.
    fn make_room(&mut self, flows_max: usize) -> bool {
        while self.flows.len() >= flows_max {
            let Some(oldest) = self.lingering.pop_front() else { return false };
            self.remove(oldest);
        }
        true
    }

    fn remove(&mut self, id: FlowId) {
        let Some(slot) = self.flows.remove(&id) else { return };
        if slot.flow.is_replicated() {
            self.forgotten.push(id);
        }
        self.lingerers -= usize::from(slot.lingers);
        self.replicated -= slot.replicated;
        while self.lingering.front().is_some_and(|oldest| !self.flows.contains_key(oldest)) {
            self.lingering.pop_front();
        }
        if let Some(at) = slot.deadline {
            self.timers.remove(&(at, id));
        }
        let client = *slot.flow.client.connection.tuple();
        for tuple in [Some(client), slot.dialed].into_iter().flatten() {
            if self.legs.get(&tuple).is_some_and(|(owner, _)| *owner == id) {
                self.legs.remove(&tuple);
            }
        }
    }

    fn touch(&mut self, id: FlowId) {
        if let Some(slot) = self.flows.get_mut(&id)
            && !slot.dirty
        {
            slot.dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// Notes which legs want to transmit, and when the flow's next timer runs out.
    fn reschedule(&mut self, now: Instant, id: FlowId) {
        let Some(slot) = self.flows.get_mut(&id) else { return };
        if slot.is_unbased {
            return self.touch_timer(now, id);
        }
        let speaks = !slot.flow.is_mute() && slot.flow.client.connection.wants_transmit(now);
        if !slot.client_ready && speaks {
            slot.client_ready = true;
            self.client_ready.push_back(id);
        }
        let wants = |leg: &crate::flow::Leg| leg.connection.wants_transmit(now);
        if !slot.backend_ready && slot.flow.backend().is_some_and(wants) {
            slot.backend_ready = true;
            self.backend_ready.push_back(id);
        }
        self.touch_timer(now, id);
    }

    fn touch_timer(&mut self, now: Instant, id: FlowId) {
        let Some(slot) = self.flows.get_mut(&id) else { return };
        let deadline = slot.flow.poll_timeout().map(|at| at.max(now));
        if deadline != slot.deadline {
            if let Some(at) = slot.deadline {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, id));
            }
            slot.deadline = deadline;
        }
    }
}

/// Whether a segment for a connection that is over opens a new one (RFC 9293 section 3.6.1).
fn begins_anew(
    cookies: &Cookies,
    now: Instant,
    (tuple, segment): (&Tuple, &TcpRepr<'_>),
    config: &crate::tcp::Config,
) -> bool {
    match (segment.control, segment.ack_number) {
        (TcpControl::Syn, None) => true,
        (TcpControl::None | TcpControl::Psh, Some(_)) => {
            cookies.check(now, tuple, segment, config).is_ok()
        }
        _ => false,
    }
}

/// The bucket of a connection's frames to us.
pub fn bucket_of(tuple: &Tuple) -> u32 {
    bucket::bucket(
        &words(tuple.remote.addr),
        tuple.remote.port,
        &words(tuple.local.addr),
        tuple.local.port,
    )
}

/// The words of an address for the bucket hash.
fn words(address: IpAddress) -> bucket::Words {
    match address {
        IpAddress::Ipv4(v4) => bucket::v4(v4.octets()),
        IpAddress::Ipv6(v6) => bucket::v6(&v6.octets()),
    }
}
