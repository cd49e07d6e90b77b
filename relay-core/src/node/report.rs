//! What the operator is shown of a node.

use relay_abi::peer::View;

use super::Node;
use crate::flow::Description;
use crate::frame::EthernetAddress;
use crate::id::{Incarnation, NodeId};
use crate::reason::Counters;
use crate::replica::{Role, Shadow, Shadows, Standing, Status};
use crate::tcp::Memory;
use crate::time::{Duration, Instant};

/// A node at a glance.
#[derive(Clone, Debug)]
pub struct NodeReport {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub role: Role,
    /// The owner: somebody could take over. A backup: it could take over.
    pub in_sync: bool,
    /// The owner has no carrier and waits.
    pub isolated: bool,
    pub term: u64,
    pub view: u64,
    /// Who owns the flows in the view that this node knows.
    pub owner: Option<NodeId>,
    /// Units that this node owns.
    pub owned: usize,
    pub flows: usize,
    pub shadows: usize,
    pub flows_total: u64,
    pub takeovers: u64,
    /// From the former owner's last sign of life to ours, at the last takeover.
    pub takeover: Option<Duration>,
    pub peers: Vec<PeerReport>,
}

impl NodeReport {
    /// This report and another unit's as one: numbers are added, or the later ones.
    #[must_use]
    pub(crate) fn with(mut self, other: NodeReport) -> NodeReport {
        self.role = self.role.of_both(other.role);
        self.in_sync &= other.in_sync;
        self.term = self.term.max(other.term);
        self.view = self.view.max(other.view);
        self.owner = self.owner.filter(|owner| Some(*owner) == other.owner);
        self.owned += other.owned;
        self.flows += other.flows;
        self.shadows += other.shadows;
        self.flows_total += other.flows_total;
        self.takeovers = self.takeovers.max(other.takeovers);
        self.takeover = self.takeover.max(other.takeover);
        for (peer, other) in self.peers.iter_mut().zip(other.peers) {
            peer.alive |= other.alive;
            peer.backlog += other.backlog;
            peer.in_sync &= other.in_sync;
            peer.silence = peer.silence.min(other.silence);
            peer.version = peer.version.min(other.version);
        }
        self
    }
}

/// What a node knows of a peer.
#[derive(Clone, Debug)]
pub struct PeerReport {
    pub id: NodeId,
    pub address: core::net::IpAddr,
    pub alive: bool,
    pub incarnation: Option<Incarnation>,
    pub status: Option<Status>,
    pub rtt: Option<Duration>,
    /// Replicated bytes that the peer has not applied.
    pub backlog: usize,
    pub silence: Option<Duration>,
    pub in_sync: bool,
    /// Of the datagrams that are exchanged with it.
    pub version: Option<u8>,
}

/// What waits in a node, each of it bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes that the slowest peer has not applied.
    pub backlog: usize,
    /// Effects that wait for their commit.
    pub effects: usize,
    /// Bytes that the largest shadow holds.
    pub held: usize,
    /// Bytes that the TCP buffers of one flow take at most, and that no byte in them explains.
    pub buffers: Memory,
    /// TLS sessions that can be resumed by their id.
    pub sessions: usize,
    /// Senders of segments that belong to no flow.
    pub strangers: usize,
}

impl Node {
    /// The node at a glance.
    pub fn report(&self, now: Instant) -> NodeReport {
        let peers: Vec<_> =
            self.replicas.peers.iter().map(|peer| self.report_peer(now, peer)).collect();
        let in_sync = match self.role {
            Role::Owner => peers.iter().any(|peer: &PeerReport| peer.in_sync),
            Role::Backup => self.is_eligible(),
            Role::Starting => false,
        };
        NodeReport {
            node: self.settings.node,
            incarnation: self.incarnation,
            role: self.role,
            in_sync,
            isolated: !self.carrier.client || !self.carrier.backend,
            term: self.view.term,
            view: self.view.number,
            owner: (self.view.term > 0).then_some(NodeId(self.view.owner)),
            owned: usize::from(self.role == Role::Owner),
            flows: self.shard.len(),
            shadows: self.shadows.len(),
            flows_total: self.shard.total(),
            takeovers: self.takeovers,
            takeover: self.takeover,
            peers,
        }
    }

    /// The relay to which frames of the unit's flows go: this one, if it owns them.
    pub fn steers_to(&self) -> Option<NodeId> {
        match self.is_forwarding() {
            true => Some(self.settings.node),
            false => self.owner(),
        }
    }

    /// Who owns the unit, as far as this node knows: it does not, before it serves.
    pub fn owner(&self) -> Option<NodeId> {
        let owner = (self.view.term > 0).then_some(NodeId(self.view.owner))?;
        let is_us = owner == self.settings.node;
        (is_us == (self.role == Role::Owner)).then_some(owner)
    }

    /// The lives of other relays that this unit heard, and when it did so last.
    pub(crate) fn heard_peers(&self) -> impl Iterator<Item = (NodeId, Incarnation, Instant)> + '_ {
        let peers = self.replicas.peers.iter();
        peers.filter_map(|p| Some((p.id, p.link.incarnation()?, p.link.last_heard()?)))
    }

    /// Another unit heard a relay.
    pub(crate) fn note_heard(&mut self, (peer, life, at): (NodeId, Incarnation, Instant)) {
        if let Some(peer) = self.replicas.peers.iter_mut().find(|p| p.id == peer) {
            peer.note_heard(life, at);
        }
    }

    /// The other relays.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.replicas.peers.iter().map(|peer| peer.id)
    }

    /// Where another relay's ports are, once it was heard: toward clients and toward backends.
    pub fn ports_of(&self, node: NodeId) -> Option<[EthernetAddress; 2]> {
        let peer = self.replicas.peers.iter().find(|peer| peer.id == node)?;
        Some(peer.link.status()?.ports)
    }

    /// Who owns, and who may take over.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// This life of the node.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What this node could go on with, if it is a backup.
    pub fn shadows(&self) -> &Shadows {
        &self.shadows
    }

    /// How much waits in this node.
    pub fn load(&self) -> Load {
        let peers = self.replicas.peers.iter();
        let held = self.shadows.iter().map(|(_, shadow)| match shadow {
            Shadow::Opening(opening) => opening.input.len(),
            Shadow::Open(open) => open.held_bytes(),
        });
        Load {
            backlog: peers.map(|peer| peer.link.outbox_ref().backlog()).max().unwrap_or(0),
            effects: self.shard.effects_len(),
            held: held.max().unwrap_or(0),
            buffers: self.shard.memory().fold(Memory::default(), Memory::max),
            sessions: self.sessions.len(),
            strangers: self.shard.strangers_len(),
        }
    }

    /// Every flow that this node owns.
    pub fn flows(&self) -> impl Iterator<Item = Description> + '_ {
        self.shard.describe()
    }

    /// Node ids of the backups of every flow.
    pub fn backups(&self) -> Vec<u8> {
        let members = self.view.in_sync.iter().map(|(id, _)| *id);
        members.filter(|id| *id != self.settings.node.0).collect()
    }

    /// What was dropped, and why.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn report_peer(&self, now: Instant, peer: &crate::replica::Peer) -> PeerReport {
        let incarnation = peer.link.incarnation();
        let member = incarnation.map(|incarnation| (peer.id.0, incarnation.0));
        PeerReport {
            id: peer.id,
            address: peer.address,
            alive: self.lives(now, peer),
            incarnation,
            status: peer.link.status(),
            rtt: peer.link.outbox_ref().rtt(),
            backlog: match peer.standing {
                Standing::Out => 0,
                _ => peer.link.outbox_ref().backlog(),
            },
            silence: peer.last_heard().map(|at| now - at),
            in_sync: member.is_some_and(|member| self.view.in_sync.contains(&member)),
            version: peer.link.version(),
        }
    }
}
