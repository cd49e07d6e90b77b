//! From values to addresses, keys and durations, and every check that looks at more than one value.

mod council;
mod document;
mod limits;
mod workers;

pub(super) use document::resolve_document;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use relay_core::tcp::Algorithm;
use relay_views::view::Kind;
use toml::Spanned;

use self::council::Context;

use super::error::{ConfigError, Source};
use super::parse;
use super::{
    Basis, Certificate, ClientAuth, Cluster, Config, Listener, MAX_LISTENERS, MAX_PEERS,
    MAX_PER_LISTENER, Node, Peer, PortMode, Ports, VirtualMac, Witness, Worker, files,
};

/// A peer is suspected only after this many heartbeats went missing: a few may be lost.
const HEARTBEATS_PER_TIMEOUT: i64 = 4;
/// Bounds of `cluster.heartbeat_ms`.
const HEARTBEAT_MS: RangeInclusive<i64> = 1..=1_000;
/// Longest `cluster.timeout_ms`: clients give up on a stalled connection soon after.
const TIMEOUT_MS_MAX: i64 = 60_000;
/// Longest interface name (`IFNAMSIZ` less the terminator).
const INTERFACE_NAME_MAX: usize = 15;
/// Longest socket path (`sun_path` less the terminator).
const SOCKET_PATH_MAX: usize = 107;

/// Turns the parsed file into a configuration.
pub(super) fn resolve(file: &parse::File, source: &Source<'_>) -> Result<Config> {
    let mut resolver = Resolver::new(source);
    let worker = resolver.worker(&file.worker, &file.ports)?;
    let (node, ports) = (resolver.node(&file.node)?, resolver.ports(&file.ports)?);
    let cluster = resolver.cluster(&file.cluster, *file.node.id.get_ref(), &worker)?;
    let units = cluster.council.as_ref().map_or(1, |council| council.units);
    resolver.enough_units(&file.worker, worker.count, units)?;
    Ok(Config {
        node,
        ports,
        cluster,
        worker,
        virtual_mac: resolver.virtual_mac(&file.virtual_mac)?,
        limits: resolver.limits(&file.limits)?,
        listeners: resolver.listeners(&file.listener)?,
        warnings: resolver.warnings,
    })
}

/// The same for a witness.
pub(super) fn resolve_witness(file: &parse::WitnessFile, source: &Source<'_>) -> Result<Witness> {
    let mut resolver = Resolver::new(source);
    let node = resolver.node(&file.node)?;
    let context = Context {
        own: node.id,
        kind: Kind::Witness,
        workers: 1,
        worker_timeout: Duration::MAX,
        realtime: true,
        peers: None,
    };
    let council = resolver.council(&file.cluster.council, &context)?;
    Ok(Witness { node, council, warnings: resolver.warnings })
}

/// What an address is for. One address has one role in the whole cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Node,
    Vip,
    Snat,
    Backend,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Role::Node => "the cluster address of a node",
            Role::Vip => "an address of a listener",
            Role::Snat => "a SNAT address",
            Role::Backend => "the address of a backend",
        }
    }
}

struct Resolver<'a> {
    source: &'a Source<'a>,
    directory: &'a Path,
    roles: BTreeMap<IpAddr, Role>,
    served: BTreeSet<(IpAddr, u16)>,
    warnings: Vec<String>,
}

type Result<T> = std::result::Result<T, ConfigError>;

impl<'a> Resolver<'a> {
    fn new(source: &'a Source<'a>) -> Self {
        Resolver {
            source,
            directory: source.path.parent().unwrap_or(Path::new("")),
            roles: BTreeMap::new(),
            served: BTreeSet::new(),
            warnings: Vec::new(),
        }
    }
}

impl Resolver<'_> {
    fn node(&self, node: &parse::Node) -> Result<Node> {
        if node.control.get_ref().is_empty() {
            return Err(self.wrong(
                &node.control,
                "the path of the socket is empty",
                "name a file such as /run/relay/control.sock",
            ));
        }
        let control = self.directory.join(node.control.get_ref());
        let length = control.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            return Err(self.wrong(
                &node.control,
                format!("the path of the socket has {length} bytes"),
                format!("keep it within {SOCKET_PATH_MAX}"),
            ));
        }
        Ok(Node { id: self.integer(&node.id, 1..=255)?, control })
    }

    fn ports(&self, ports: &parse::Ports) -> Result<Ports> {
        let names = [&ports.client, &ports.backend, &ports.cluster];
        let mut seen = BTreeSet::new();
        for name in names {
            let text = name.get_ref();
            let fits = (1..=INTERFACE_NAME_MAX).contains(&text.len());
            if !fits || text.contains(|c: char| c == '/' || c.is_whitespace()) {
                return Err(self.wrong(
                    name,
                    format!("{text:?} is no name of a network interface"),
                    "choose one that `ip link` shows",
                ));
            }
            if !seen.insert(text) {
                return Err(self.wrong(
                    name,
                    format!("{text} is already another port"),
                    "give client, backend and cluster an interface each",
                ));
            }
        }
        let [client, backend, cluster] = names.map(|name| name.get_ref().clone());
        Ok(Ports { client, backend, cluster, mode: self.mode(ports.mode.as_ref())? })
    }

    fn mode(&self, mode: Option<&Spanned<String>>) -> Result<PortMode> {
        let Some(mode) = mode else { return Ok(PortMode::Poll) };
        match mode.get_ref().as_str() {
            "poll" => Ok(PortMode::Poll),
            "busy" => Ok(PortMode::Busy),
            other => {
                Err(self.wrong(mode, format!("{other:?} is no mode"), "set it to poll or busy"))
            }
        }
    }

    fn cluster(
        &mut self,
        cluster: &parse::Cluster,
        own_id: i64,
        worker: &Worker,
    ) -> Result<Cluster> {
        let address = self.node_address(&cluster.address)?;
        let heartbeat: u64 = self.integer(&cluster.heartbeat_ms, HEARTBEAT_MS)?;
        let peers = self.peers(&cluster.peer, address, own_id)?;
        let timeout = self.timeout(cluster)?;
        let context = Context {
            own: u8::try_from(own_id).unwrap_or(u8::MAX),
            kind: Kind::Relay,
            workers: worker.count.into(),
            worker_timeout: timeout,
            realtime: worker.realtime,
            peers: Some(&peers),
        };
        self.without_council(cluster)?;
        let council = cluster.council.as_ref();
        let mut council = council.map(|council| self.council(council, &context)).transpose()?;
        let key = self.cluster_key(&cluster.key_file)?;
        if let Some(council) = &mut council {
            let nodes = peers.iter().map(|peer| peer.address).chain([address]).collect();
            council.documents = Some(Basis { directory: self.directory.to_owned(), nodes, key });
        }
        Ok(Cluster {
            key,
            address,
            udp_port: self.port(&cluster.udp_port)?,
            heartbeat: Duration::from_millis(heartbeat),
            timeout,
            peers,
            council,
        })
    }

    /// Whether relays decide by silence, which the operator has to say.
    fn without_council(&self, cluster: &parse::Cluster) -> Result<()> {
        let said = cluster.without_council.as_ref().filter(|said| *said.get_ref());
        match (said, &cluster.council, cluster.peer.first()) {
            (None, None, Some(peer)) => Err(self.wrong(
                &peer.id,
                "there is another relay and no council: who hears nothing of the other for \
                 timeout_ms owns everything, so that a cut between the two makes two owners, and \
                 connections are lost",
                "add a section [cluster.council] with a witness, or accept that with \
                 cluster.without_council = true",
            )),
            (Some(said), Some(_), _) => Err(self.wrong(
                said,
                "there is a section [cluster.council]",
                "remove one of the two: with a council, views decide",
            )),
            _ => Ok(()),
        }
    }

    fn timeout(&self, cluster: &parse::Cluster) -> Result<Duration> {
        let heartbeat = cluster.heartbeat_ms.get_ref();
        let timeout = cluster.timeout_ms.get_ref();
        let least = HEARTBEATS_PER_TIMEOUT * heartbeat;
        if *timeout < least {
            return Err(self.wrong(
                &cluster.timeout_ms,
                format!("{timeout} is less than four heartbeats ({heartbeat} ms each)"),
                format!("set it to {least} or more"),
            ));
        }
        self.integer(&cluster.timeout_ms, least..=TIMEOUT_MS_MAX).map(Duration::from_millis)
    }

    fn cluster_key(&mut self, key_file: &Spanned<String>) -> Result<[u8; 32]> {
        let (path, bytes) = self.secret(key_file)?;
        files::parse_key(&bytes).ok_or_else(|| {
            self.wrong(
                key_file,
                format!("{} does not hold 64 hexadecimal digits", path.display()),
                format!(
                    "write one key for all nodes with `openssl rand -hex 32 > {}`",
                    path.display()
                ),
            )
        })
    }

    fn peers(&mut self, peers: &[parse::Peer], own: IpAddr, own_id: i64) -> Result<Vec<Peer>> {
        let mut by_id = BTreeMap::new();
        for peer in peers {
            let id = self.integer(&peer.id, 1..=255)?;
            if by_id.len() == MAX_PEERS {
                return Err(self.wrong(
                    &peer.id,
                    format!("more than {MAX_PEERS} peers"),
                    "serve more traffic with a second cluster",
                ));
            }
            if i64::from(id) == own_id {
                return Err(self.wrong(
                    &peer.id,
                    format!("{id} is this node's own id"),
                    "list only the other nodes, and give each its own id",
                ));
            }
            let address = self.node_address(&peer.address)?;
            if address.is_ipv4() != own.is_ipv4() {
                return Err(self.wrong(
                    &peer.address,
                    format!("{address} and this node's {own} are of different families"),
                    "use IPv4 or IPv6 for the whole cluster network",
                ));
            }
            if by_id.insert(id, Peer { id, address }).is_some() {
                return Err(self.wrong(
                    &peer.id,
                    format!("{id} is already the id of another peer"),
                    "give each node its own id",
                ));
            }
        }
        Ok(by_id.into_values().collect())
    }

    fn virtual_mac(&self, macs: &parse::VirtualMac) -> Result<VirtualMac> {
        let client = self.mac(&macs.client)?;
        let backend = self.mac(&macs.backend)?;
        if client == backend {
            return Err(self.wrong(
                &macs.backend,
                "it is the client side's address, too",
                "give the two sides different addresses",
            ));
        }
        Ok(VirtualMac { client, backend })
    }

    fn listeners(&mut self, listeners: &Spanned<Vec<parse::Listener>>) -> Result<Vec<Listener>> {
        self.some(listeners, MAX_LISTENERS, "listeners")?;
        listeners.get_ref().iter().map(|listener| self.listener(listener)).collect()
    }

    fn listener(&mut self, listener: &parse::Listener) -> Result<Listener> {
        self.some(&listener.addresses, MAX_PER_LISTENER, "addresses")?;
        self.some(&listener.backends, MAX_PER_LISTENER, "backends")?;
        self.some(&listener.certificate, MAX_PER_LISTENER, "certificates")?;
        let port = self.port(&listener.port)?;
        let mut addresses = Vec::new();
        for text in listener.addresses.get_ref() {
            let address = self.address(text, Role::Vip)?;
            if !self.served.insert((address, port)) {
                return Err(self.wrong(
                    text,
                    format!("{} is listened on twice", SocketAddr::new(address, port)),
                    "keep one listener for an address and port",
                ));
            }
            addresses.push(address);
        }
        let snat = self.snat(&listener.snat)?;
        let backends = self.backends(listener, &snat)?;
        let certificates = listener.certificate.get_ref().iter();
        let certificates =
            certificates.map(|pair| self.certificate(pair)).collect::<Result<_>>()?;
        let congestion = self.congestion(listener.congestion.as_ref())?;
        let client_auth = self.client_auth(listener)?;
        Ok(Listener { addresses, port, snat, backends, congestion, certificates, client_auth })
    }

    fn congestion(&self, name: Option<&Spanned<String>>) -> Result<Algorithm> {
        match name.map(|name| (name, name.get_ref().as_str())) {
            None | Some((_, "cubic")) => Ok(Algorithm::Cubic),
            Some((_, "bbr")) => Ok(Algorithm::Bbr),
            Some((name, other)) => {
                let problem = format!("{other:?} is no congestion control");
                Err(self.wrong(name, problem, "set it to cubic or bbr"))
            }
        }
    }

    fn snat(&mut self, snat: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<IpAddr>> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in snat.get_ref() {
            let address = self.address(text, Role::Snat)?;
            if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err(self.wrong(
                    text,
                    format!("{address} is the second {} address", family(address)),
                    "keep one of each family",
                ));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    fn backends(&mut self, listener: &parse::Listener, snat: &[IpAddr]) -> Result<Vec<SocketAddr>> {
        let mut backends = Vec::new();
        for text in listener.backends.get_ref() {
            let backend = text.get_ref().parse().ok().filter(|b: &SocketAddr| b.port() != 0);
            let Some(backend) = backend else {
                return Err(self.wrong(
                    text,
                    format!("{:?} is no address and port", text.get_ref()),
                    "write it as 192.0.2.1:8080 or [2001:db8::1]:8080",
                ));
            };
            self.claim(text.span(), backend.ip(), Role::Backend)?;
            if !snat.iter().any(|address| address.is_ipv4() == backend.is_ipv4()) {
                return Err(self.wrong(
                    text,
                    format!("{backend} has no SNAT address of its family"),
                    format!("add an {} address to snat", family(backend.ip())),
                ));
            }
            backends.push(backend);
        }
        Ok(backends)
    }

    fn certificate(&mut self, pair: &parse::Certificate) -> Result<Certificate> {
        let (path, chain) = self.file(&pair.chain)?;
        if !files::has_section(&chain.bytes, "CERTIFICATE") {
            return Err(self.wrong(
                &pair.chain,
                format!("{} holds no certificate", path.display()),
                "name a PEM file with the chain, the server's certificate first",
            ));
        }
        let (path, key) = self.secret(&pair.key)?;
        if !files::has_section(&key, "PRIVATE KEY") {
            return Err(self.wrong(
                &pair.key,
                format!("{} holds no private key", path.display()),
                "name a PEM file with the unencrypted key of this certificate",
            ));
        }
        Ok(Certificate { chain: chain.bytes, key })
    }

    fn client_auth(&self, listener: &parse::Listener) -> Result<Option<ClientAuth>> {
        let (name, word) = match (&listener.client_ca, &listener.client_auth) {
            (None, None) => return Ok(None),
            (None, Some(word)) => {
                return Err(self.wrong(
                    word,
                    "there is no client_ca to verify clients with",
                    "name the authorities with client_ca, or remove it",
                ));
            }
            (Some(name), word) => (name, word.as_ref()),
        };
        let required = match word.map(|word| (word, word.get_ref().as_str())) {
            None | Some((_, "required")) => true,
            Some((_, "optional")) => false,
            Some((word, other)) => {
                return Err(self.wrong(
                    word,
                    format!("{other:?} is no demand on clients"),
                    "set it to required or optional",
                ));
            }
        };
        let (path, authorities) = self.file(name)?;
        if !files::has_section(&authorities.bytes, "CERTIFICATE") {
            return Err(self.wrong(
                name,
                format!("{} holds no certificate", path.display()),
                "name a PEM file with the authorities that issue clients' certificates",
            ));
        }
        Ok(Some(ClientAuth { authorities: authorities.bytes, required }))
    }

    /// A file that only its owner should be able to read.
    fn secret(&mut self, name: &Spanned<String>) -> Result<(PathBuf, Vec<u8>)> {
        let (path, contents) = self.file(name)?;
        if contents.exposed {
            let path = path.display();
            self.warnings.push(format!("{path} is open to other users: `chmod 600 {path}`"));
        }
        Ok((path, contents.bytes))
    }

    fn file(&self, name: &Spanned<String>) -> Result<(PathBuf, files::Contents)> {
        let path = self.directory.join(name.get_ref());
        match files::read(&path) {
            Ok(contents) => Ok((path, contents)),
            Err(problem) => Err(self.wrong(
                name,
                format!("{} {problem}", path.display()),
                "name a file that the relay may read",
            )),
        }
    }

    fn node_address(&mut self, text: &Spanned<String>) -> Result<IpAddr> {
        self.address(text, Role::Node)
    }

    fn address(&mut self, text: &Spanned<String>, role: Role) -> Result<IpAddr> {
        let Ok(address) = text.get_ref().parse() else {
            return Err(self.wrong(
                text,
                format!("{:?} is no IP address", text.get_ref()),
                "write it as 192.0.2.1 or 2001:db8::1",
            ));
        };
        self.claim(text.span(), address, role)?;
        Ok(address)
    }

    /// Gives `address` its role; nodes do not share addresses, and roles never do.
    fn claim(&mut self, span: Range<usize>, address: IpAddr, role: Role) -> Result<()> {
        if let Some(kind) = unusable(address) {
            return Err(self.source.error(
                span,
                format!("{address} is {kind}"),
                "use a unicast address that the whole network segment can reach",
            ));
        }
        match self.roles.insert(address, role) {
            Some(other) if other != role || role == Role::Node => Err(self.source.error(
                span,
                format!("{address} is already {}", other.name()),
                "give each role its own address",
            )),
            _ => Ok(()),
        }
    }

    fn mac(&self, text: &Spanned<String>) -> Result<[u8; 6]> {
        let Some(mac) = parse_mac(text.get_ref()) else {
            return Err(self.wrong(
                text,
                format!("{:?} is no MAC address", text.get_ref()),
                "write it as 02:00:5e:01:00:64",
            ));
        };
        // The lowest bit of the first octet marks groups (IEEE 802 section 8.2.2).
        if mac[0] & 1 == 1 || mac == [0; 6] {
            return Err(self.wrong(
                text,
                format!("{} is no address of a single station", text.get_ref()),
                "use one that begins with 02",
            ));
        }
        Ok(mac)
    }

    fn port(&self, port: &Spanned<i64>) -> Result<u16> {
        self.integer(port, 1..=65_535)
    }

    fn integer<T: TryFrom<i64>>(
        &self,
        value: &Spanned<i64>,
        range: RangeInclusive<i64>,
    ) -> Result<T> {
        let number = *value.get_ref();
        let within = range.contains(&number).then_some(number);
        within.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            self.wrong(
                value,
                format!("{number} is out of range"),
                format!("set it to {} to {}", range.start(), range.end()),
            )
        })
    }

    /// Refuses lists that are empty or too long.
    fn some<T>(&self, list: &Spanned<Vec<T>>, most: usize, what: &str) -> Result<()> {
        match list.get_ref().len() {
            0 => Err(self.wrong(list, format!("there are no {what}"), "add at least one")),
            n if n > most => Err(self.wrong(
                list,
                format!("{n} {what} are too many"),
                format!("keep at most {most}"),
            )),
            _ => Ok(()),
        }
    }

    fn wrong<T>(
        &self,
        value: &Spanned<T>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        self.source.error(value.span(), problem, remedy)
    }
}

/// What keeps an address from being used by a relay.
fn unusable(address: IpAddr) -> Option<&'static str> {
    let special = match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        // On the wire and in the tables it would be the IPv4 address.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
        _ => None,
    };
    special
        .or(address.is_unspecified().then_some("the unspecified address"))
        .or(address.is_multicast().then_some("a multicast address"))
        .or(address.is_loopback().then_some("a loopback address"))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut octets = text.split(':');
    let mut mac = [0; 6];
    for octet in &mut mac {
        let digits = octets.next().filter(|digits| digits.len() == 2)?;
        // `from_str_radix` alone would take a sign.
        digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
        *octet = u8::from_str_radix(digits, 16).ok()?;
    }
    octets.next().is_none().then_some(mac)
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
