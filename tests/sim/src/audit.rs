//! Compares what an owner sends with what those know who could take over from it. Nothing may
//! leave that they could not repeat: this is commit before release, seen from outside.
//!
//! What a backup knows is read at the instant in which a frame leaves; what it has acknowledged can
//! only be less.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use relay_abi::peer::{Direction, Endpoint, Leg};
use relay_core::flow::Description;
use relay_core::frame::IpEndpoint;
use relay_core::id::FlowId;
use relay_core::node::{Load, Node};
use relay_core::replica::{OUTBOX_MAX, Role, Shadow};
use smoltcp::wire::TcpPacket;

use crate::flights::Flights;
use crate::wire::{Ends, Seen};

/// Effects that may wait in a node of these runs.
const EFFECTS_MAX: usize = 50_000;

/// Sessions of these runs' few clients, and strangers: clients whose relay was lost, and noise.
const SESSIONS_MAX: usize = 20;
const STRANGERS_MAX: usize = 100;

/// Bytes that a shadow may hold: the receive buffers of both legs, of 4 MiB each.
const HELD_MAX: usize = 8 << 20;

/// Bytes that the TCP buffers of one flow may take: four of 4 MiB, in pages.
const BUFFERS_MAX: usize = 17 << 20;

/// The first and the last byte of a window may differ by one in what is "expected": an owner stays
/// one below the right edge (RFC 9293 section 3.10.7.4).
const EDGE: i32 = 1;

/// An acknowledgement lags by four segments at most, and a part of one.
const LAG_MAX: u32 = 5 * 1460;

/// A life of a node and a term of it. Who owns again knows what it was told as a backup meanwhile,
/// and not what it did in an earlier term.
type Tenure = (u64, u64);

/// Checks of everything that relays send.
#[derive(Default)]
pub struct Audit {
    /// Who sent for a client in which term, or from an end of ours to a backend.
    senders: BTreeMap<(SocketAddr, u64), u64>,
    /// Backend connections that were completed.
    completed: BTreeSet<Ends>,
    /// What an owner has sent: the end of the highest segment.
    sent: BTreeMap<(Tenure, Ends), u32>,
    /// The highest acknowledgement that an endpoint has sent, by the stream that it acknowledges.
    acked: BTreeMap<Ends, u32>,
    /// The highest acknowledgement that relays have sent, and the term of the sender.
    promised: BTreeMap<Ends, (u64, u32)>,
    /// What an owner has shown to know of a stream while its acknowledgement lags.
    shown: BTreeMap<(Tenure, Ends), u32>,
    /// Frames that were compared with what a backup holds.
    pub compared: u64,
    /// Segments with a server's flight that were compared with what a backup would have said.
    pub flights: u64,
    /// The largest amounts that were seen.
    pub load: Load,
    pub failures: Vec<String>,
}

/// Who sends.
#[derive(Clone, Debug, Default)]
pub struct Sender {
    pub incarnation: u64,
    pub node: u8,
    pub term: u64,
    pub view: u64,
    /// The members of its view.
    pub members: Vec<(u8, u64)>,
    /// Its connections with clients that have no backend yet; our end first.
    pub openings: BTreeSet<Ends>,
}

/// What one backup could repeat, for all flows.
#[derive(Default)]
pub struct Cover {
    streams: BTreeMap<Ends, Covered>,
}

/// One leg as a backup knows it; keyed by (our end, the peer's end).
struct Covered {
    iss: u32,
    irs: u32,
    /// End of what a handshake or the log determines; None: nothing of that.
    sendable: Option<u64>,
    /// It has no backend yet.
    is_opening: bool,
    /// What may be acknowledged.
    held: Vec<Range<u64>>,
}

impl Sender {
    /// A node that is about to send.
    pub fn of(node: &Node) -> Self {
        let view = node.view();
        Sender {
            incarnation: node.incarnation().0,
            node: view.owner,
            term: view.term,
            view: view.number,
            members: view.in_sync.clone(),
            openings: node.flows().filter(is_opening).map(|flow| ends(&flow)).collect(),
        }
    }

    fn tenure(&self) -> Tenure {
        (self.incarnation, self.term)
    }
}

/// Whether a flow is in its handshake or has no backend yet.
fn is_opening(flow: &Description) -> bool {
    matches!(flow.state, "handshake" | "connecting")
}

fn ends(flow: &Description) -> Ends {
    let end = |end: IpEndpoint| SocketAddr::new(end.addr.into(), end.port);
    (end(flow.vip), end(flow.client))
}

impl Cover {
    /// What `backup` knows, if `sender` counts on it. Where views are `agreed` it does that, too, as
    /// long as the backup does not know of its term yet: then nothing may leave but what the former
    /// owner has committed (rule 10).
    pub fn of(
        sender: &Sender,
        (id, backup): (u8, &Node),
        flights: &mut Flights,
        agreed: bool,
    ) -> Option<Cover> {
        let view = backup.view();
        let life = (id, backup.incarnation().0);
        // A view that the sender has not seen yet may have ejected the backup, which then forgets.
        let was_ejected = view.number > sender.view && !view.in_sync.contains(&life);
        let follows = backup.role() == Role::Backup
            && sender.members.contains(&life)
            && !(agreed && was_ejected)
            && ((view.owner, view.term) == (sender.node, sender.term)
                || (agreed && view.term < sender.term));
        if !follows {
            return None;
        }
        let mut cover = Cover::default();
        backup.shadows().iter().for_each(|(id, shadow)| cover.cover(id, shadow, flights));
        Some(cover)
    }

    fn cover(&mut self, id: FlowId, shadow: &Shadow, flights: &mut Flights) {
        match shadow {
            Shadow::Opening(opening) => {
                let input = 0..opening.input.len() as u64;
                let said = Some(flights.said(id, opening).unwrap_or(0));
                self.leg(&opening.client, said, Vec::from([input])).is_opening = true;
            }
            Shadow::Open(open) => {
                let sendable = open.log.end().client + u64::from(open.log.is_finished());
                self.leg(&open.client, Some(sendable), open.holds(Direction::Up));
                self.leg(&open.backend, None, open.holds(Direction::Down));
            }
        }
    }

    fn leg(&mut self, leg: &Leg, sendable: Option<u64>, held: Vec<Range<u64>>) -> &mut Covered {
        let covered = Covered { iss: leg.iss, irs: leg.irs, sendable, is_opening: false, held };
        let slot = self.streams.entry((socket(&leg.local), socket(&leg.remote)));
        slot.insert_entry(covered).into_mut()
    }
}

impl Covered {
    /// Why a segment must not leave, if so.
    fn objection(&self, seen: &Seen<'_>) -> Option<String> {
        let packet = &seen.packet;
        let length = packet.payload().len() as u64 + u64::from(packet.fin());
        let end = u64::from(offset(packet.seq_number().0, self.iss)) + length;
        if length > 0 && self.sendable.is_some_and(|sendable| end > sendable) {
            let what = if self.is_opening { "of the server's flight " } else { "" };
            return Some(format!("sends {what}up to {end}, committed {:?}", self.sendable));
        }
        let ack = u64::from(offset(packet.ack_number().0, self.irs));
        let held = &self.held;
        if packet.ack() && !covers(held, 0..ack) {
            return Some(format!("acknowledges {ack}, held {held:?}"));
        }
        let blocks = packet.selective_ack_ranges().unwrap_or_default();
        for (start, end) in blocks.into_iter().flatten() {
            let block = [start, end].map(|at| u64::from(offset(at as i32, self.irs)));
            if !covers(held, block[0]..block[1]) {
                return Some(format!("reports {block:?} as received, held {held:?}"));
            }
        }
        None
    }
}

/// In a handshake not even an ACK leaves before a backup knows of it: what the client has said until
/// then is in its SYN cookie and in its retransmissions alone.
fn unheard(sender: &Sender, cover: &Cover, ends: Ends) -> Option<String> {
    let is_known = cover.streams.contains_key(&ends);
    let is_early = !is_known && sender.openings.contains(&ends);
    is_early.then(|| "answers a handshake that no backup knows of".to_owned())
}

/// An endpoint of a message.
pub fn socket(end: &Endpoint) -> SocketAddr {
    let address = Ipv6Addr::from(end.address);
    let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
    SocketAddr::new(address, end.port)
}

/// Offset in the stream whose initial sequence number is `initial`.
fn offset(sequence: i32, initial: u32) -> u32 {
    (sequence as u32).wrapping_sub(initial).wrapping_sub(1)
}

/// Whether the union of `held` has all of `range`.
fn covers(held: &[Range<u64>], range: Range<u64>) -> bool {
    let mut at = range.start;
    // Most are in order, so that one round does; each gets further or is the last.
    while at < range.end {
        let before = at;
        for next in held.iter().filter(|next| next.start <= range.end) {
            at = if next.start <= at { at.max(next.end) } else { at };
        }
        if at == before {
            return false;
        }
    }
    true
}

/// Whether sequence number `a` lies above `b`.
fn is_above(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

impl Audit {
    /// Takes in a frame that an endpoint sends to a relay.
    pub fn hear(&mut self, seen: &Seen<'_>) {
        let packet = &seen.packet;
        if packet.ack() && !packet.rst() {
            let ack = packet.ack_number().0 as u32;
            let slot = self.acked.entry((seen.destination, seen.source)).or_insert(ack);
            if ack.wrapping_sub(*slot) as i32 > 0 || packet.syn() {
                *slot = ack;
            }
        }
    }

    /// Takes in a segment that a relay sends. `to_client` says on which side.
    pub fn watch(
        &mut self,
        sender: &Sender,
        covers: &[Cover],
        (seen, to_client): (&Seen<'_>, bool),
    ) {
        let packet = &seen.packet;
        let ends = (seen.source, seen.destination);
        if packet.syn() {
            self.sent.remove(&(sender.tenure(), ends));
            self.completed.remove(&ends);
            self.promised.remove(&ends);
            self.shown.remove(&(sender.tenure(), ends));
            return;
        }
        if packet.rst() {
            return;
        }
        let is_completion = !to_client && self.completed.insert(ends);
        let mut objections = vec![
            self.one_owner(sender, if to_client { seen.destination } else { seen.source }),
            self.sequence(sender, seen),
            self.memory(sender, seen),
        ];
        for cover in covers {
            objections.push(match to_client {
                true => unheard(sender, cover, ends),
                false => early(is_completion, cover, ends),
            });
            let covered = cover.streams.get(&ends);
            objections.push(covered.and_then(|covered| covered.objection(seen)));
            self.compared += u64::from(covered.is_some());
            let is_flight = covered.is_some_and(|covered| covered.is_opening);
            self.flights += u64::from(is_flight && !packet.payload().is_empty());
        }
        for objection in objections.into_iter().flatten() {
            let Sender { node, term, .. } = sender;
            let (from, to) = ends;
            self.failures.push(format!("node {node} (term {term}) {from} > {to}: {objection}"));
        }
    }

    /// Takes in how much waits in a node.
    pub fn weigh(&mut self, load: Load) {
        let Load { backlog, effects, held, buffers, sessions, strangers } = load;
        self.load.backlog = self.load.backlog.max(backlog);
        self.load.effects = self.load.effects.max(effects);
        self.load.held = self.load.held.max(held);
        self.load.buffers = self.load.buffers.max(buffers);
        // One message may come on top of a full queue before it is noticed.
        let is_much = backlog > OUTBOX_MAX * 2 || effects > EFFECTS_MAX || held > HELD_MAX;
        // What nobody needs any more has to be given back at once, not only below a bound.
        let is_kept = buffers.taken > BUFFERS_MAX || buffers.unexplained > 0;
        if is_much || is_kept || sessions > SESSIONS_MAX || strangers > STRANGERS_MAX {
            self.failures.push(format!("a node keeps too much: {load:?}"));
        }
    }

    /// Two nodes must not speak for one flow in one term, neither to its client nor to its backend.
    fn one_owner(&mut self, sender: &Sender, end: SocketAddr) -> Option<String> {
        let first = *self.senders.entry((end, sender.term)).or_insert(sender.incarnation);
        (first != sender.incarnation).then(|| "another node has sent in this term".to_owned())
    }

    /// A pure ACK must not be old to its peer, or the peer ignores it (rule 16). What lies below
    /// everything acknowledged is a window probe, which wants to be old.
    fn sequence(&mut self, sender: &Sender, seen: &Seen<'_>) -> Option<String> {
        let packet = &seen.packet;
        let ends = (seen.source, seen.destination);
        let first = packet.seq_number().0 as u32;
        let length = packet.payload().len() as u32 + u32::from(packet.fin());
        let end = first.wrapping_add(length);
        let key = (sender.tenure(), ends);
        if length > 0 {
            let sent = self.sent.entry(key).or_insert(end);
            *sent = if (end.wrapping_sub(*sent) as i32) > 0 { end } else { *sent };
            return None;
        }
        let (sent, acked) = (self.sent.get(&key)?, self.acked.get(&ends)?);
        let behind = sent.wrapping_sub(first) as i32;
        let is_probe = (first.wrapping_sub(*acked) as i32) < 0;
        (behind > EDGE && !is_probe).then(|| format!("a pure ACK is {behind} bytes old"))
    }

    /// Whoever goes on with a flow knows of every acknowledgement that has ever left. To wake its
    /// peer it may stay behind that by a few segments, if it SACKs what lies above a hole; the former
    /// owner may have acknowledged a part of one segment more.
    fn memory(&mut self, sender: &Sender, seen: &Seen<'_>) -> Option<String> {
        let key = (seen.source, seen.destination);
        let ack = seen.packet.ack_number().0 as u32;
        let known = self.known(sender, key, &seen.packet);
        let (term, promised) = self.promised.entry(key).or_insert((sender.term, ack));
        if sender.term < *term {
            return None; // it has not heard yet that it was deposed
        }
        *term = sender.term;
        *promised = if is_above(ack, *promised) { ack } else { *promised };
        let forgotten = promised.wrapping_sub(known) as i32;
        (forgotten > 0).then(|| format!("forgets {forgotten} acknowledged bytes"))
    }

    /// The end of what the sender knows: its acknowledgement, or what a SACK above it has shown.
    fn known(&mut self, sender: &Sender, ends: Ends, packet: &TcpPacket<&[u8]>) -> u32 {
        let ack = packet.ack_number().0 as u32;
        let key = (sender.tenure(), ends);
        let blocks = packet.selective_ack_ranges().unwrap_or_default();
        let above = blocks.iter().flatten().filter(|(left, _)| is_above(*left, ack));
        for (left, right) in above {
            let end = right.wrapping_add(left.wrapping_sub(ack));
            let shown = self.shown.entry(key).or_insert(end);
            *shown = if is_above(end, *shown) { end } else { *shown };
        }
        let shown = self.shown.get(&key).copied().unwrap_or(ack);
        let lagging = ack.wrapping_add(LAG_MAX);
        let shown = if is_above(shown, lagging) { lagging } else { shown };
        if is_above(shown, ack) { shown } else { ack }
    }

    /// The handshake of a client begins anew at another relay.
    pub fn forget(&mut self, client_port: u16) {
        self.promised.retain(|(_, to), _| to.port() != client_port);
    }
}

/// A backend's handshake must not be completed before EST is committed (rule 12).
fn early(is_completion: bool, cover: &Cover, ends: Ends) -> Option<String> {
    let is_early = is_completion && !cover.streams.contains_key(&ends);
    is_early.then(|| "completes a handshake that a backup does not know of".to_owned())
}
