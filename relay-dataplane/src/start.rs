//! From a configuration to running workers.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use relay_abi::xdp::Kind;
use relay_core::config::{Authority, Cluster, Listener, Macs, Settings};
use relay_core::frame::{EthernetAddress, IpEndpoint};
use relay_core::id::NodeId;
use relay_core::node::cluster_secret;
use relay_core::spread::Spread;
use relay_core::time::{Duration, Instant};
use relay_core::unit::Unit;
use relay_core::units::{Part, Units};
use relay_core::{tcp, tls};

use crate::clock::{Clock, WallClock};
use crate::config::{Config, PortMode};
use crate::control::{ControlError, ControlServer};
use crate::council::{self, Views};
use crate::crew::Crew;
use crate::document::Operator;
use crate::neighbors::Neighbors;
use crate::port::{self, Mode, Port, PortOptions, XskPort};
use crate::worker::{Interface, Worker};
use crate::xdp::{self, DropLog, DropLogger, Program};

/// Control requests that wait for the worker at most.
const QUERIES_MAX: usize = 16;

/// Bytes of IPv4 and TCP headers in a full segment (RFC 6691).
const HEADERS: usize = 40;

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's certificates cannot be used.
    #[error("listener on port {port}: {cause}")]
    Tls { port: u16, cause: Box<tls::ConfigError> },
    /// An interface does not take the XDP program.
    #[error("interface {interface}: {cause}")]
    Xdp { interface: String, cause: Box<xdp::Error> },
    /// An interface gives no AF_XDP socket.
    #[error("interface {interface}: {cause}")]
    Port { interface: String, cause: Box<port::Error> },
    /// The control socket cannot be served.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The kernel's routes cannot be read.
    #[error("netlink: {0}: the relay needs CAP_NET_ADMIN to resolve next hops")]
    Neighbors(std::io::Error),
    /// This node cannot vote.
    #[error(transparent)]
    Council(#[from] council::Error),
    /// The system gives no descriptors.
    #[error(
        "the workers cannot be told of each other's frames: {0}: raise the limit of open files"
    )]
    Crew(std::io::Error),
    /// The system gives no thread.
    #[error("the log of dropped frames has no thread: {0}")]
    Log(std::io::Error),
    /// The system has no randomness.
    #[error("the system gives no random numbers: {0}")]
    Entropy(std::io::Error),
}

/// The workers and the control socket that they answer; dropping the latter removes the socket.
pub struct Relay {
    pub workers: Vec<Worker>,
    pub control: ControlServer,
    /// If dropped frames are logged.
    pub drops: Option<DropLogger>,
}

/// The listeners with their certificates, which are checked.
pub fn listeners(config: &Config) -> Result<Vec<Listener>, StartError> {
    resolve_all(&config.listeners, &config.cluster.key)
}

/// The same for any listeners of a cluster with this key.
pub fn resolve_all(
    listeners: &[crate::config::Listener],
    key: &[u8; 32],
) -> Result<Vec<Listener>, StartError> {
    listeners.iter().map(|listener| resolve(listener, key)).collect()
}

/// Loads the XDP programs, opens the ports and makes the nodes.
pub fn start(config: &Config) -> Result<Relay, StartError> {
    let clock = Clock::start();
    // What the operator can have written wrong, before anything is touched.
    let listeners = listeners(config)?;
    let service = |list: fn(&crate::config::Listener) -> &Vec<IpAddr>| -> Vec<(IpAddr, Kind)> {
        // Listeners may share addresses.
        let all: BTreeSet<_> = config.listeners.iter().flat_map(list).collect();
        all.into_iter().map(|address| (*address, Kind::Service)).collect()
    };
    // The cluster port first: a node that can be heard is not taken for dead while it starts.
    let own = vec![(config.cluster.address, Kind::Cluster(config.cluster.udp_port))];
    let mut cluster = open(config, &config.ports.cluster, (own, None))?;
    let to_clients = (service(|l| &l.addresses), Some(config.virtual_mac.client));
    let mut client = open(config, &config.ports.client, to_clients)?;
    let to_backends = (service(|l| &l.snat), Some(config.virtual_mac.backend));
    let mut backend = open(config, &config.ports.backend, to_backends)?;
    let drops = log_drops([&mut client, &mut backend, &mut cluster])?;

    let settings = settings(config, [&client, &backend, &cluster], listeners);
    let units = parts_of_units(config, &settings, clock.now())?;
    let life = (settings.node, units[0].incarnation());
    let council = config.cluster.council.as_ref();
    let council = council.map(|council| council::start(council, life)).transpose()?;
    let reporter = council.as_ref().map(Views::reporter);
    let basis = config.cluster.council.as_ref().and_then(|council| council.documents.clone());
    let operator = reporter.zip(basis).map(|(reporter, basis)| Operator::new(reporter, basis));
    let mut views = council.map(Views::of_all).unwrap_or_default().into_iter();
    let crew = Crew::new(config.worker.count).map_err(StartError::Crew)?;
    let (mut workers, mut queries) = (Vec::new(), Vec::new());
    for (part, units) in parts(config).zip(units) {
        let (sender, asked) = crossbeam_channel::bounded(QUERIES_MAX);
        queries.push(sender);
        let neighbors = Neighbors::start().map_err(StartError::Neighbors)?;
        let ports = [&mut client, &mut backend, &mut cluster].map(Opened::next);
        let others = (neighbors, asked);
        let worker = Worker::new((part, Arc::clone(&crew)), units, ports, others, clock);
        let worker = worker.with_mode(config.ports.mode == PortMode::Busy);
        workers.push(worker.with_rest(config.cluster.heartbeat).with_views(views.next()));
    }
    let control = ControlServer::start_with(&config.node.control, queries, operator)?;
    Ok(Relay { workers, control, drops })
}

/// What belongs to each worker.
fn parts(config: &Config) -> impl Iterator<Item = Part> {
    let of = config.worker.count;
    (0..of).map(move |worker| Part { worker, of })
}

/// The nodes of each worker: of one life, with the same sessions.
fn parts_of_units(
    config: &Config,
    settings: &Settings,
    now: Instant,
) -> Result<Vec<Units>, StartError> {
    let mut seed = [0; 16];
    fill_random(&mut seed).map_err(StartError::Entropy)?;
    let count = config.cluster.council.as_ref().map_or(1, |council| council.units);
    let sessions = tls::Sessions::default();
    let units = |part| Units::of_worker(part, settings.clone(), (count, &sessions), seed, now);
    Ok(parts(config).map(units).collect())
}

/// An interface with the rings of all workers.
struct Opened {
    name: String,
    /// Before the program, see [`Interface`].
    ports: VecDeque<XskPort>,
    program: Arc<Program>,
    log: Option<DropLog>,
}

impl Opened {
    /// What is the same for all workers.
    fn any(&self) -> &XskPort {
        &self.ports[0]
    }

    /// The next worker's interface.
    fn next(&mut self) -> Interface {
        let port = self.ports.pop_front().expect("there is one for each worker");
        Interface { name: self.name.clone(), port, program: Arc::clone(&self.program) }
    }
}

fn log_drops(interfaces: [&mut Opened; 3]) -> Result<Option<DropLogger>, StartError> {
    let logs: Vec<DropLog> = interfaces.into_iter().filter_map(|one| one.log.take()).collect();
    if logs.is_empty() {
        return Ok(None);
    }
    DropLogger::start(logs).map(Some).map_err(StartError::Log)
}

fn open(
    config: &Config,
    interface: &str,
    (addresses, cluster_mac): (Vec<(IpAddr, Kind)>, Option<[u8; 6]>),
) -> Result<Opened, StartError> {
    let name = || interface.to_owned();
    let lease = config.cluster.timeout / 2;
    let log_drops = tracing::enabled!(target: xdp::LOG_TARGET, tracing::Level::DEBUG);
    // What is wrong with the interface is said when the program is loaded.
    let own_mac = port::mac_of(interface).unwrap_or_default();
    let macs = [cluster_mac.unwrap_or(own_mac), own_mac];
    let settings = xdp::Settings { self_node: config.node.id, lease, addresses, macs, log_drops };
    let mut program = Program::load(interface, &settings)
        .map_err(|cause| StartError::Xdp { interface: name(), cause: cause.into() })?;
    let mode = match config.ports.mode {
        PortMode::Poll => Mode::Poll,
        PortMode::Busy => Mode::Busy,
    };
    let options = PortOptions { mode, ..PortOptions::default() };
    let ports =
        parts(config).map(|part| XskPort::open_part(interface, &mut program, options, part));
    let ports = ports
        .collect::<Result<_, port::Error>>()
        .map_err(|cause| StartError::Port { interface: name(), cause: cause.into() })?;
    let log = program.take_log(interface);
    Ok(Opened { name: name(), ports, program: Arc::new(program), log })
}

fn settings(
    config: &Config,
    [client, backend, cluster]: [&Opened; 3],
    listeners: Vec<Listener>,
) -> Settings {
    let limits = &config.limits;
    let macs = |cluster: [u8; 6], interface: &Opened| Macs {
        cluster: EthernetAddress(cluster),
        port: EthernetAddress(interface.any().mac()),
    };
    let tcp = |port: &XskPort| tcp::Config {
        mss: u16::try_from(port.mtu().saturating_sub(HEADERS)).unwrap_or(u16::MAX),
        receive_buffer: limits.receive_buffer,
        send_buffer: limits.send_buffer,
        wake: wake(),
        congestion: tcp::Algorithm::default(),
        patience: tcp::Limits { keepalive: limits.keepalive, stall_max: limits.stalled },
        outlives_peer: false,
    };
    let peers = config.cluster.peers.iter().map(|peer| (NodeId(peer.id), peer.address));
    Settings {
        node: NodeId(config.node.id),
        cluster: Cluster {
            key: config.cluster.key,
            address: config.cluster.address,
            udp_port: config.cluster.udp_port,
            mac: EthernetAddress(cluster.any().mac()),
            mtu: cluster.any().mtu(),
            peers: peers.collect(),
            heartbeat: config.cluster.heartbeat,
            timeout: config.cluster.timeout,
            authority: match config.cluster.council {
                Some(_) => Authority::Views,
                None => Authority::Silence,
            },
        },
        unit: Unit::WHOLE,
        client_mac: macs(config.virtual_mac.client, client),
        backend_mac: macs(config.virtual_mac.backend, backend),
        listeners: listeners.into(),
        client_tcp: tcp(client.any()),
        backend_tcp: tcp(backend.any()),
        backend_spread: spread(config, &backend.name),
        hold: limits.hold,
        idle_max: limits.idle,
        replicated_max: limits.replicated,
        accepts_per_second: limits.accepts_per_second,
        flows_max: limits.flows,
    }
}

/// Which worker gets what, if the port toward backends says so. Most virtual ones do not: then frames cross
/// over.
fn spread(config: &Config, interface: &str) -> Option<Spread> {
    let of = u32::from(config.worker.count);
    if of == 1 {
        return None;
    }
    let (key, queues) = port::spread_of(interface)?;
    let workers: Vec<u8> = queues.iter().map(|queue| (queue % of) as u8).collect();
    Spread::new(&key, &workers)
}

/// Waking peers is switched off, as a whole or in part, to measure what it is worth
/// (`xtask bench pause`): "lag", "delay" or both, separated by commas, leave these on.
fn wake() -> tcp::Wake {
    let mut wake = tcp::Wake::default();
    if let Ok(measures) = std::env::var("RELAY_WAKE") {
        let has = |name| measures.split(',').any(|measure| measure == name);
        wake.lag = has("lag");
        if !has("delay") {
            wake.delay = Duration::ZERO;
        }
    }
    wake
}

fn resolve(listener: &crate::config::Listener, key: &[u8; 32]) -> Result<Listener, StartError> {
    let identities = listener.certificates.iter().map(|certificate| tls::Identity {
        certificate_chain_pem: certificate.chain.clone(),
        key_pem: certificate.key.clone(),
    });
    let client_auth = listener.client_auth.as_ref().map(|client_auth| tls::ClientAuth {
        authorities_pem: client_auth.authorities.clone(),
        required: client_auth.required,
    });
    let options = tls::ServerOptions {
        name: name(listener),
        identities: identities.collect(),
        alpn: Vec::new(),
        client_auth,
        ticket_key: cluster_secret(key, "tickets"),
        clock: Arc::new(WallClock),
        entropy: None,
    };
    let tls = tls::ServerConfig::new(options)
        .map_err(|cause| StartError::Tls { port: listener.port, cause: cause.into() })?;
    let endpoint =
        |backend: &std::net::SocketAddr| IpEndpoint::new(backend.ip().into(), backend.port());
    Ok(Listener {
        addresses: listener.addresses.iter().map(|address| (*address).into()).collect(),
        port: listener.port,
        snat: listener.snat.iter().map(|address| (*address).into()).collect(),
        backends: listener.backends.iter().map(endpoint).collect(),
        congestion: listener.congestion,
        tls,
    })
}

/// A listener's name, the same at every node: its addresses, in whatever order they are written.
fn name(listener: &crate::config::Listener) -> Vec<u8> {
    let addresses: BTreeSet<_> = listener.addresses.iter().collect();
    format!("{addresses:?} {}", listener.port).into_bytes()
}

fn fill_random(seed: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read;
    std::fs::File::open(Path::new("/dev/urandom"))?.read_exact(seed)
}
