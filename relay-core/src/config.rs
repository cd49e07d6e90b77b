//! What the operator decides, resolved: the core reads no files.

use core::net::IpAddr;

pub use crate::unit::Unit;

use crate::frame::{EthernetAddress, IpAddress, IpEndpoint};
use crate::id::NodeId;
use crate::listeners::Listeners;
use crate::relay::HoldTime;
use crate::spread::Spread;
use crate::tcp;
use crate::time::Duration;
use crate::tls;

/// One of a node's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Toward the clients.
    Client,
    /// Toward the backends.
    Backend,
    /// Toward the other nodes.
    Cluster,
}

/// Everything that a [`crate::node::Node`] is told at its start.
#[derive(Clone)]
pub struct Settings {
    pub node: NodeId,
    /// Which flows the node answers for.
    pub unit: Unit,
    pub cluster: Cluster,
    pub client_mac: Macs,
    pub backend_mac: Macs,
    pub listeners: Listeners,
    pub client_tcp: tcp::Config,
    pub backend_tcp: tcp::Config,
    /// On which queues of the port toward backends their replies arrive, if that is known and several
    /// workers share them.
    pub backend_spread: Option<Spread>,
    /// Bytes that wait longer than this for the far end are replicated.
    pub hold: HoldTime,
    /// A flow whose ends have been silent for this long is reset; None: never.
    pub idle_max: Option<Duration>,
    /// Bytes of its flows that backups hold as data at most, before flows get a small window.
    pub replicated_max: u64,
    /// New connections that are let in per second, in bursts of one second's worth; None: all.
    pub accepts_per_second: Option<u32>,
    /// Flows that this node owns at most.
    pub flows_max: usize,
}

impl Settings {
    /// The MAC addresses of `side`; the cluster side has the same one for both.
    pub fn macs(&self, side: Side) -> Macs {
        match side {
            Side::Client => self.client_mac,
            Side::Backend => self.backend_mac,
            Side::Cluster => Macs { cluster: self.cluster.mac, port: self.cluster.mac },
        }
    }

    /// What connections of clients to this listener are opened with, or go on with if it is gone.
    pub fn client_tcp_of(&self, listener: Option<&Listener>) -> tcp::Config {
        let usual = self.client_tcp.congestion;
        let congestion = listener.map_or(usual, |listener| listener.congestion);
        tcp::Config { congestion, outlives_peer: true, ..self.client_tcp }
    }
}

/// The MAC addresses of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs {
    /// The cluster's: ARP and neighbor discovery answer with it for the cluster's addresses. One
    /// relay holds it, and frames to it are forwarded to the owners of their flows.
    pub cluster: EthernetAddress,
    /// Our own port's: what we send comes from it, and what is forwarded to us goes to it.
    pub port: EthernetAddress,
}

/// The other nodes and how to talk to them.
#[derive(Clone)]
pub struct Cluster {
    /// The pre-shared key; all other keys of the cluster are derived from it.
    pub key: [u8; 32],
    pub address: IpAddr,
    pub udp_port: u16,
    /// The address of our cluster interface.
    pub mac: EthernetAddress,
    /// Bytes of an IP packet that the cluster interface carries.
    pub mtu: usize,
    pub peers: Vec<(NodeId, IpAddr)>,
    /// A node says that it lives at least this often.
    pub heartbeat: Duration,
    /// A node that was silent for this long is taken for dead.
    pub timeout: Duration,
    pub authority: Authority,
}

/// Who decides who owns the flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authority {
    /// Two nodes by themselves: who is silent for the timeout is dead. A cut of the link between
    /// them makes two owners.
    #[default]
    Silence,
    /// Consensus, see [`crate::node::Node::handle_view`].
    Views,
}

/// Where clients connect, and where they are relayed to.
#[derive(Clone)]
pub struct Listener {
    pub addresses: Vec<IpAddress>,
    pub port: u16,
    /// The cluster's source addresses toward the backends.
    pub snat: Vec<IpAddress>,
    pub backends: Vec<IpEndpoint>,
    /// Toward the clients.
    pub congestion: tcp::Algorithm,
    pub tls: tls::ServerConfig,
}
