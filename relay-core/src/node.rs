//! One node: membership, replication and the shard. What the simulator runs and the worker drives.

mod agreed;
mod answer;
mod configuration;
mod handover;
mod membership;
mod report;
mod silence;
#[cfg(test)]
mod tests;

pub use report::{Load, NodeReport, PeerReport};

use std::collections::VecDeque;

use relay_abi::peer::{Message, Session, View};
use relay_views::Command as Proposal;
use relay_views::id::NodeSet;

use crate::canary::{Canary, breaks};
use crate::config::{Authority, Settings, Side};
use crate::crypto;
use crate::entropy::Entropy;
use crate::frame::{
    EthernetAddress, Inbound, IpAddress, IpEndpoint, Link as Addresses, emit_udp, parse,
};
use crate::id::{Incarnation, NodeId};
use crate::reason::{Counters, Reason};
use crate::replica::{
    Channel, Event, Link, OVERHEAD, PairKey, Peer, Replicas, Role, Shadows, Status,
};
use crate::shard::Shard;
use crate::time::{Duration, Instant};
use crate::tls::Sessions;

/// Bytes of IPv6 and UDP headers around a cluster datagram.
const DATAGRAM_HEADERS: usize = 40 + 8;

/// The longest cluster datagram, whatever the MTU.
const DATAGRAM_MAX: usize = 9000;

/// One unit of ownership at one relay, without its clocks, threads and interfaces. A relay is the
/// nodes of all units, see [`crate::units::Units`].
///
/// `Node` has four kinds of methods:
/// - getters, which take `&self`;
/// - `handle_*`, which take in what happened: a frame, a resolved neighbor, a change of carrier;
/// - [`Node::turn`], which does everything that can be done now, once all input of a turn is in;
/// - `poll_*`, which give out what has to be done: [`Node::poll_command`] first, then
///   [`Node::poll_peer`] (replication leaves before what waits for it), then
///   [`Node::poll_transmit`] for both sides until each gives None, and last
///   [`Node::poll_timeout`], which says when to call [`Node::turn`] without input.
pub struct Node {
    settings: Settings,
    entropy: Entropy,
    incarnation: Incarnation,
    role: Role,
    view: View,
    /// The highest term that this node has seen (rule 6).
    promised: u64,
    replicas: Replicas,
    shadows: Shadows,
    /// TLS sessions, our own and those of other owners: they belong to no flow and no term.
    sessions: Sessions,
    shard: Shard,
    counters: Counters,
    commands: VecDeque<Command>,
    carrier: Carrier,
    /// When the node began to look for an owner.
    since: Instant,
    last_turn: Instant,
    /// When the node noticed last that it had not run for a while.
    resumed: Instant,
    /// After a pause nothing leaves until a peer was heard, or this instant.
    quarantine: Option<Instant>,
    /// After a pause of a backup: the owner may have gone on without it.
    doubtful: bool,
    /// The owner restarted, so its flows are ours.
    owner_lost: bool,
    /// The highest view number that the owner has named: a backup that has not been told of that
    /// view may have been ejected by it.
    owner_view: u64,
    /// Since when an owner cannot serve for want of a carrier.
    cut_off_since: Option<Instant>,
    announce_at: VecDeque<Instant>,
    agreed: agreed::Agreed,
    handover: handover::Handover,
    /// What came in meanwhile.
    strays: handover::Strays,
    /// Until then the council has vouched for the view.
    lease_until: Instant,
    takeovers: u64,
    takeover: Option<Duration>,
    datagram: Vec<u8>,
}

/// What the process around the node has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Who owns the unit has changed: frames of its buckets, and if it holds the addresses, those
    /// to the cluster's MACs, go elsewhere. See [`Node::steers_to`].
    Steer,
    /// Frames to this address come to us on one side from now on: connections go on that have it.
    Serve(Side, IpAddress),
    /// Find out the next hop toward an address on one side, and tell it to
    /// [`Node::handle_neighbor`].
    Resolve(Side, IpAddress),
    /// Propose a change of the view. It may be lost; what is still wanted is proposed again.
    Propose(Proposal),
    /// Tell the council of whom nothing is heard at present.
    Suspect(NodeSet),
}

#[derive(Clone, Copy, Debug)]
struct Carrier {
    client: bool,
    backend: bool,
    cluster: bool,
}

impl Carrier {
    /// Notes whether `side` has a carrier; true when it had lost it before.
    fn note(&mut self, side: Side, carrier: bool) -> bool {
        let link = match side {
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
            Side::Cluster => &mut self.cluster,
        };
        let had = core::mem::replace(link, carrier);
        carrier && !had
    }
}

impl Node {
    /// A blank node. Everything unpredictable follows from `seed`.
    pub fn new(mut settings: Settings, seed: [u8; 16], now: Instant) -> Self {
        let sessions = Sessions::default();
        settings.listeners.keep_sessions_in(&sessions);
        let mut entropy = Entropy::new(seed);
        let incarnation = Incarnation(entropy.u64().max(1));
        Self::with_life(settings, (incarnation, sessions), entropy, now)
    }

    /// A blank node that shares its life and its TLS sessions with those of other units.
    pub(crate) fn with_life(
        settings: Settings,
        (incarnation, sessions): (Incarnation, Sessions),
        mut entropy: Entropy,
        now: Instant,
    ) -> Self {
        let shard = blank_shard(&settings, &mut entropy, incarnation);
        let replicas = blank_replicas(&settings, incarnation);
        Node {
            settings,
            entropy,
            incarnation,
            role: Role::Starting,
            view: View::default(),
            promised: 0,
            replicas,
            shadows: Shadows::default(),
            sessions,
            shard,
            counters: Counters::default(),
            commands: VecDeque::new(),
            carrier: Carrier { client: true, backend: true, cluster: true },
            since: now,
            last_turn: now,
            resumed: Instant::ZERO,
            quarantine: None,
            doubtful: false,
            owner_lost: false,
            owner_view: 0,
            cut_off_since: None,
            announce_at: VecDeque::new(),
            agreed: agreed::Agreed::default(),
            handover: handover::Handover::default(),
            strays: handover::Strays::default(),
            lease_until: Instant::ZERO,
            takeovers: 0,
            takeover: None,
            datagram: Vec::new(),
        }
    }

    /// What the node does at present.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether the node may take in clients' and backends' frames. The worker renews the XDP
    /// program's lease as long as this holds.
    pub fn is_serving(&self) -> bool {
        let vouched = self.has_lease() || self.replicas.has_gates();
        self.role == Role::Owner && self.quarantine.is_none() && vouched
    }

    /// Whether the node may do what no gate has to agree to: release alone, take in new flows,
    /// reset those that it does not know, answer for the cluster's addresses (rule 17).
    fn has_lease(&self) -> bool {
        let is_vouched = self.lease_until > self.last_turn || breaks(Canary::IgnoreLease);
        self.settings.cluster.authority == Authority::Silence || is_vouched
    }

    /// Takes in a whole Ethernet frame.
    pub fn handle_frame(&mut self, now: Instant, side: Side, frame: &[u8]) {
        match parse(frame) {
            Ok(inbound) => self.handle_inbound(now, (side, frame), inbound),
            Err(reason) => self.counters.count(reason),
        }
    }

    /// Takes in a frame that was parsed.
    pub(crate) fn handle_inbound(
        &mut self,
        now: Instant,
        (side, frame): (Side, &[u8]),
        inbound: Inbound<'_>,
    ) {
        let result = match (inbound, side) {
            (Inbound::Udp { source, from, to, payload }, Side::Cluster) => {
                self.handle_datagram(now, source, (from, to), payload)
            }
            (_, Side::Cluster) => Err(Reason::NotForUs),
            (Inbound::Tcp { .. }, side) if self.keep(side, frame) => Ok(()),
            (_, _) if !self.is_serving() => Err(Reason::NotOwner),
            (Inbound::Tcp { source, tuple, segment }, side) => {
                let source = (!self.is_forwarded(side, frame)).then_some(source);
                match self.is_ours(side, tuple.local.addr) {
                    true => self.shard.handle_tcp(
                        now,
                        (side, source),
                        (&tuple, &segment),
                        &self.settings,
                    ),
                    false => Err(Reason::NotForUs),
                }
            }
            (Inbound::IcmpError(quote), _) => self.shard.handle_complaint(now, &quote),
            (inbound, side) => self.answer(side, &inbound),
        };
        if let Err(reason) = result {
            self.counters.count(reason);
        }
    }

    /// Whether another relay sent the frame on, so that it does not show the way back. It need not have
    /// meant this one: a switch that has not seen its relay yet shows the frame to all.
    fn is_forwarded(&self, side: Side, frame: &[u8]) -> bool {
        let cluster = self.settings.macs(side).cluster;
        let is_direct = side == Side::Cluster || frame.first_chunk() == Some(&cluster.0);
        !is_direct && !breaks(Canary::TrustForwarder)
    }

    /// Takes in where frames for `address` go.
    pub fn handle_neighbor(&mut self, side: Side, address: IpAddress, mac: EthernetAddress) {
        self.shard.handle_neighbor(side, address, mac);
    }

    /// Takes in whether an interface has a carrier.
    pub fn handle_carrier(&mut self, now: Instant, side: Side, carrier: bool) {
        let is_back = self.carrier.note(side, carrier);
        if is_back && self.role == Role::Owner && !self.replicas.peers.is_empty() {
            // Nobody could tell us meanwhile that we were deposed: listen first.
            match self.settings.cluster.authority {
                Authority::Silence => self.quarantine(now),
                Authority::Views => self.doubt(now),
            }
        }
    }

    /// Takes in what this node and `peer` have in common from now on. With a council nothing is said to a
    /// peer before that; without one, the pre-shared key is all.
    pub fn handle_pair_key(&mut self, now: Instant, peer: NodeId, key: &PairKey) {
        for peer in self.replicas.peers.iter_mut().filter(|known| known.id == peer) {
            if !peer.link.has_key() {
                // It could not be heard before.
                peer.welcomed = now;
            }
            peer.link.handle_pair_key(key);
        }
    }

    /// Does everything that can be done now. To be called after every batch of input, and when
    /// [`Node::poll_timeout`] says so.
    pub fn turn(&mut self, now: Instant) {
        self.notice_pause(now);
        for peer in &mut self.replicas.peers {
            peer.link.handle_timeout(now);
        }
        self.update_membership(now);
        if self.role == Role::Owner {
            self.shard.set_lease(self.has_lease());
            self.shard.turn(now, &mut self.replicas, &mut self.counters, &self.settings);
            self.tell_sessions();
            self.announce(now);
        }
        while let Some((side, address)) = self.shard.poll_unresolved() {
            self.commands.push_back(Command::Resolve(side, address));
        }
    }

    /// The next thing to do outside of the node.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Writes the next frame for the cluster interface into `buf`; poll until None.
    #[must_use]
    pub fn poll_peer(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        let status = self.status(now);
        let cluster = &self.settings.cluster;
        let room = cluster.mtu.min(DATAGRAM_MAX).saturating_sub(DATAGRAM_HEADERS);
        self.datagram.resize(room.max(OVERHEAD * 2), 0);
        for peer in &mut self.replicas.peers {
            let Some(length) = peer.link.poll_datagram(now, &status, &mut self.datagram) else {
                continue;
            };
            let addresses = Addresses { source: cluster.mac, destination: peer.mac };
            let from = IpEndpoint::new(cluster.address.into(), cluster.udp_port);
            let to = IpEndpoint::new(peer.address.into(), cluster.udp_port);
            let datagram = &self.datagram[..length];
            let write = |payload: &mut [u8]| payload.copy_from_slice(datagram);
            return Some(emit_udp(&addresses, (from, to), length, write, buf));
        }
        None
    }

    /// Writes the next frame for `side` into `buf`; poll until None.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant, side: Side, buf: &mut [u8]) -> Option<usize> {
        match side {
            Side::Cluster => self.poll_peer(now, buf),
            _ if !self.is_serving() => None,
            _ => self.shard.poll_transmit(now, side, &self.settings, buf),
        }
    }

    /// When [`Node::turn`] has something to do without input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let links = self.replicas.peers.iter().map(|peer| peer.link.poll_timeout()).min();
        let announce = self.announce_at.front().copied().filter(|_| self.has_lease());
        let shard = match self.shard.is_dirty() {
            true => Some(self.last_turn),
            false => self.shard.poll_timeout(),
        };
        [links, announce, shard, Some(self.last_turn + self.settings.cluster.heartbeat)]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle_datagram(
        &mut self,
        now: Instant,
        source: EthernetAddress,
        (from, to): (IpEndpoint, IpEndpoint),
        payload: &[u8],
    ) -> Result<(), Reason> {
        let cluster = &self.settings.cluster;
        if to.port != cluster.udp_port || core::net::IpAddr::from(to.addr) != cluster.address {
            return Err(Reason::NotForUs);
        }
        let sender = Channel::claimed_sender(payload)?;
        let index = self.replicas.peers.iter().position(|peer| peer.id == sender);
        let index = index.ok_or(Reason::PeerAuthentication)?;
        let peer = &mut self.replicas.peers[index];
        if core::net::IpAddr::from(from.addr) != peer.address {
            return Err(Reason::PeerAuthentication);
        }
        let mut datagram = payload.to_vec();
        let last_heard = peer.last_heard();
        let event = peer.link.handle_datagram(now, &mut datagram)?;
        if matches!(event, Event::Greeted | Event::Rekeyed) {
            return Ok(());
        }
        if let (Some(at), Event::Heard) = (last_heard, event) {
            peer.punctuality.note(now, now - at, self.settings.cluster.timeout);
        }
        peer.mac = source;
        self.heard(now, index, event);
        self.apply_messages(now, index)
    }

    /// Gives followers the sessions that were made since. Nothing waits for them.
    fn tell_sessions(&mut self) {
        let Node { sessions, replicas, .. } = self;
        let mut tell = |session: &Session<'_>| {
            replicas.push(None, &Message::Session(*session));
        };
        while sessions.next_untold(&mut tell) {}
    }

    fn status(&self, now: Instant) -> Status {
        Status {
            role: self.role,
            term: if self.role == Role::Owner { self.view.term } else { self.promised },
            view: self.view.number,
            owner: NodeId(self.view.owner),
            clock_ms: now.as_millis(),
            ports: [self.settings.client_mac.port, self.settings.backend_mac.port],
        }
    }
}

fn blank_shard(settings: &Settings, entropy: &mut Entropy, incarnation: Incarnation) -> Shard {
    let key = &settings.cluster.key;
    let keys = (cluster_secret(key, "syn cookies"), cluster_secret(key, "sequence numbers"));
    Shard::new(keys, entropy.fork(), (incarnation, settings.unit))
}

fn blank_replicas(settings: &Settings, incarnation: Incarnation) -> Replicas {
    let cluster = &settings.cluster;
    let (me, key) = ((settings.node, incarnation), (cluster.key, settings.unit));
    let heartbeat = cluster.heartbeat * settings.unit.heartbeats();
    let peers = cluster.peers.iter().map(|(id, address)| {
        let mut link = Link::new(key, me, *id, heartbeat);
        if cluster.authority == Authority::Silence {
            link.handle_pair_key(&PairKey::Shared);
        }
        Peer::new(*id, *address, link)
    });
    Replicas::new(peers.collect())
}

/// A secret that all nodes of a cluster share, for one purpose.
pub fn cluster_secret(key: &[u8; 32], purpose: &str) -> [u8; 32] {
    *crypto::derive(key, &[b"shared secret", purpose.as_bytes()])
}
