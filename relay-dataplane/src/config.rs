//! The configuration: one TOML file per node.
//!
//! It is read in two stages. `parse` gives the file its shape, with the place of every value;
//! `resolve` turns values into addresses, keys and durations, reads the files that are named, and
//! checks what can only be checked together. So a relay either starts with a configuration that
//! makes sense or says in one line what to write instead.

mod document;
mod error;
mod files;
mod parse;
mod resolve;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use relay_core::relay::HoldTime;
use relay_core::tcp::Algorithm;
use relay_views::view::Kind;

pub use document::{Basis, Document};
pub use error::ConfigError;

/// Most peers of a node: a cluster has at most eight relays, so that a commit stays one short
/// round trip to few nodes.
pub const MAX_PEERS: usize = 7;
/// Most listeners of a node.
pub const MAX_LISTENERS: usize = 64;
/// Most addresses, backends or certificates of one listener.
pub const MAX_PER_LISTENER: usize = 64;
/// Most workers of a node.
pub const WORKERS_MAX: u8 = 32;
/// Size of the configuration file and of every file that it names, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// A relay's configuration, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// The network interfaces.
    pub ports: Ports,
    /// The worker thread.
    pub worker: Worker,
    /// The other relays and how to talk to them.
    pub cluster: Cluster,
    /// The MAC addresses that the cluster shares.
    pub virtual_mac: VirtualMac,
    /// Sizes of tables and buffers.
    pub limits: Limits,
    /// What is served; at least one.
    pub listeners: Vec<Listener>,
    /// What is not wrong but should be looked at, one sentence each; for the log.
    pub warnings: Vec<String>,
}

/// A witness's configuration, complete and checked.
#[derive(Clone, Debug)]
pub struct Witness {
    /// This node.
    pub node: Node,
    /// Who decides, this node among them.
    pub council: Council,
    /// As [`Config::warnings`].
    pub warnings: Vec<String>,
}

/// `[node]`.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique in the cluster, 1 to 255.
    pub id: u8,
    /// Path of the control socket.
    pub control: PathBuf,
}

/// `[ports]`: names of three different network interfaces.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Toward the clients.
    pub client: String,
    /// Toward the backends.
    pub backend: String,
    /// Toward the other relays.
    pub cluster: String,
    /// How the worker waits for frames.
    pub mode: PortMode,
}

/// How the worker waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// Sleeps in `poll` while nothing arrives.
    Poll,
    /// Polls without sleeping: the least latency for a whole core.
    Busy,
}

/// `[worker]`.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Threads that carry traffic, each with receive queues and units of its own: 1 to [`WORKERS_MAX`].
    pub count: u8,
    /// The core that each of them is pinned to; empty: none is.
    pub cores: Vec<usize>,
    /// Whether they run before every ordinary process (SCHED_FIFO). In [`PortMode::Busy`] nothing
    /// else would run on its core then.
    pub realtime: bool,
}

/// `[cluster]`.
#[derive(Clone)]
pub struct Cluster {
    /// The pre-shared key of the cluster.
    pub key: [u8; 32],
    /// This node's address on the cluster network.
    pub address: IpAddr,
    /// UDP port of every node.
    pub udp_port: u16,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Silence after which a peer is suspected; at least four heartbeats.
    pub timeout: Duration,
    /// The other relays, by rising id.
    pub peers: Vec<Peer>,
    /// Who decides about views; `None`: there is no council.
    pub council: Option<Council>,
}

/// `[cluster.council]`.
#[derive(Clone, Debug)]
pub struct Council {
    /// This node.
    pub node: u8,
    /// All members, this node among them, by rising id.
    pub members: Vec<Member>,
    /// Where the vote log is; a directory of its own.
    pub directory: PathBuf,
    /// This node's certificate and key.
    pub identity: Certificate,
    /// PEM of the authority that issues the members' certificates.
    pub ca: Vec<u8>,
    /// Units of ownership that flows are divided into; the same at every member.
    pub units: u8,
    /// The highest version of messages that this node speaks.
    pub protocol: u8,
    /// A link to another member is dialed anew after this time, so that what follows from its secrets
    /// does not last: not a setting.
    pub redial_after: Duration,
    /// Workers of this node.
    pub workers: usize,
    /// A worker that does not call the council for this long hangs.
    pub worker_timeout: Duration,
    /// Whether the control thread runs before every ordinary process.
    pub realtime: bool,
    /// What this node adds to the cluster's configuration; a witness has nothing to do with it.
    pub documents: Option<Basis>,
}

/// `[[cluster.council.member]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its node id, 1 to 63.
    pub id: u8,
    /// Where its council listens: TCP, by the kernel.
    pub address: SocketAddr,
    /// What it does.
    pub kind: Kind,
    /// Whether it votes; of two relays without a witness only the first does.
    pub votes: bool,
}

impl Council {
    /// This node as a member.
    pub fn own(&self) -> &Member {
        let own = self.members.iter().find(|member| member.id == self.node);
        own.expect("the configuration lists this node, or it is refused")
    }
}

/// `[[cluster.peer]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The peer's node id.
    pub id: u8,
    /// Its address on the cluster network; of the same family as [`Cluster::address`].
    pub address: IpAddr,
}

/// `[virtual_mac]`: two different unicast MAC addresses.
#[derive(Clone, Debug)]
pub struct VirtualMac {
    /// Of the VIPs.
    pub client: [u8; 6],
    /// Of the SNAT addresses.
    pub backend: [u8; 6],
}

/// `[limits]`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most flows at a time.
    pub flows: usize,
    /// Receive buffer of one leg, in bytes.
    pub receive_buffer: usize,
    /// Send buffer of one leg, in bytes.
    pub send_buffer: usize,
    /// How long received bytes wait to be settled before they are replicated as data.
    pub hold: HoldTime,
    /// A flow whose ends have been silent for this long is reset; `None`: never.
    pub idle: Option<Duration>,
    /// A silent peer is asked after this long whether it is there; `None`: never.
    pub keepalive: Option<Duration>,
    /// A peer that takes nothing for this long is given up; `None`: not while it answers.
    pub stalled: Option<Duration>,
    /// New connections that are let in per second; `None`: all.
    pub accepts_per_second: Option<u32>,
    /// Bytes that backups hold as data before flows get a small window.
    pub replicated: u64,
}

/// `[[listener]]`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The VIPs; at least one.
    pub addresses: Vec<IpAddr>,
    /// TCP port on each of them.
    pub port: u16,
    /// Source addresses toward backends, at most one of each family; one for every family that a
    /// backend has.
    pub snat: Vec<IpAddr>,
    /// The backends; at least one.
    pub backends: Vec<SocketAddr>,
    /// Congestion control toward the clients.
    pub congestion: Algorithm,
    /// The certificates; at least one. The first serves clients that name no known server.
    pub certificates: Vec<Certificate>,
    /// What is demanded of clients; None: they are not asked for certificates.
    pub client_auth: Option<ClientAuth>,
}

/// `listener.client_ca` and `listener.client_auth`.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// PEM of the authorities that issue clients' certificates.
    pub authorities: Vec<u8>,
    /// Whether a client without a certificate is refused.
    pub required: bool,
}

/// `[[listener.certificate]]`.
#[derive(Clone)]
pub struct Certificate {
    /// PEM of the chain, end entity first.
    pub chain: Vec<u8>,
    /// PEM of the private key.
    pub key: Vec<u8>,
}

impl Config {
    /// Reads and checks the file at `path` and the files that it names; relative names count from
    /// the directory of `path`.
    ///
    /// # Errors
    /// The first mistake, with its place and remedy.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = read(path)?;
        let source = error::Source { path, text: &text };
        resolve::resolve(&parse::parse(&source)?, &source)
    }
}

impl Witness {
    /// Reads and checks the file of a witness, which has the sections `[node]` and
    /// `[cluster.council]` only.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(path: &Path) -> Result<Witness, ConfigError> {
        let text = read(path)?;
        let source = error::Source { path, text: &text };
        resolve::resolve_witness(&parse::parse(&source)?, &source)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    files::read_text(path)
        .map_err(|problem| ConfigError::of_file(path, problem, "check the path given to --config"))
}

// Keys never reach a log, not even through a debugging line.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("address", &self.address)
            .field("udp_port", &self.udp_port)
            .field("heartbeat", &self.heartbeat)
            .field("timeout", &self.timeout)
            .field("peers", &self.peers)
            .field("council", &self.council)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("chain_bytes", &self.chain.len())
            .finish_non_exhaustive()
    }
}
