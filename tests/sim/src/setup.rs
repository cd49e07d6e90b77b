//! Addresses, and the machines with them.

use std::net::{IpAddr, Ipv4Addr};

use relay_core::config::{Authority, Cluster, Listener, Macs, Settings, Unit};
use relay_core::frame::{EthernetAddress, IpAddress, IpEndpoint, Ipv4Address, Ipv6Address};
use relay_core::id::NodeId;
use relay_core::tcp;
use relay_core::time::{Duration, Instant};
use relay_core::units::Units;

use crate::host::Host;
use crate::random::Random;
use crate::script::Options;
use crate::tls;

/// The port that clients connect to.
pub const PORT: u16 = 443;

/// The port that the backend serves.
pub const BACKEND_PORT: u16 = 8080;

/// The port of cluster datagrams.
pub const CLUSTER_PORT: u16 = 7305;

/// A relay that was silent for this long is taken for dead.
pub const TIMEOUT: Duration = Duration::from_millis(100);

/// A peer that was silent for this long is asked whether it is there: in these runs sooner than the
/// two hours that are usual, since a lost RST is noticed by nothing else.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// MAC address of the backend.
pub const BACKEND_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 2, 10]);

/// MAC address of the clients.
pub const CLIENT_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 1, 10]);
/// MAC address of the service.
pub const VIRTUAL_CLIENT_MAC: EthernetAddress = EthernetAddress([2, 0, 0x5e, 1, 0, 0x64]);
pub const VIRTUAL_BACKEND_MAC: EthernetAddress = EthernetAddress([2, 0, 0x5e, 2, 0, 0x64]);

/// The address `host` of network `net`.
pub fn address(ipv6: bool, net: u8, host: u8) -> IpAddress {
    match ipv6 {
        false => IpAddress::Ipv4(Ipv4Address::new(10, 99, net, host)),
        true => IpAddress::Ipv6(Ipv6Address::new(0xfd99, net.into(), 0, 0, 0, 0, 0, host.into())),
    }
}

/// The service's address.
pub fn vip(ipv6: bool) -> IpAddress {
    address(ipv6, 1, 100)
}

/// The clients' machine.
pub fn client_host(seed: u64, now: Instant) -> Host {
    Host::new(CLIENT_MAC, &[address(false, 1, 10), address(true, 1, 10)], seed, now)
}

/// The backend's machine.
pub fn backend_host(seed: u64, now: Instant) -> Host {
    Host::new(BACKEND_MAC, &[address(false, 2, 10), address(true, 2, 10)], seed, now)
}

/// MAC address of a relay's interface on one of the networks.
pub fn port_mac(network: u8, index: usize) -> EthernetAddress {
    EthernetAddress([2, 0, 0, 1, network, index as u8 + 1])
}

/// Id of the relay at `index`.
pub fn id(index: usize) -> NodeId {
    NodeId(index as u8 + 1)
}

/// What the relay at `index` serves under a generation of the configuration.
pub fn listener(index: usize, options: &Options, (generation, random): (u64, Random)) -> Listener {
    let families = [false, true];
    Listener {
        addresses: families.map(vip).to_vec(),
        port: PORT,
        snat: families.map(|ipv6| address(ipv6, 2, 100)).to_vec(),
        backends: vec![IpEndpoint::new(address(options.ipv6, 2, 10), BACKEND_PORT)],
        // After a takeover the other algorithm goes on.
        congestion: [tcp::Algorithm::Cubic, tcp::Algorithm::Bbr][index % 2],
        tls: tls::server(random, (options.server_key, generation), options.client_auth),
    }
}

/// A new life, with all its units, of the relay at `index`.
pub fn units(index: usize, options: &Options, random: &mut Random, now: Instant) -> Units {
    let cluster_address = |index: usize| IpAddr::V4(Ipv4Addr::new(10, 99, 3, index as u8 + 1));
    let peers = (0..options.relays).filter(|peer| *peer != index);
    let listener = listener(index, options, (0, random.fork()));
    let patience = tcp::Limits { keepalive: Some(KEEP_ALIVE), stall_max: None };
    let patient = tcp::Config { patience, ..tcp::Config::default() };
    let settings = Settings {
        node: id(index),
        cluster: Cluster {
            key: [7; 32],
            address: cluster_address(index),
            udp_port: CLUSTER_PORT,
            mac: port_mac(3, index),
            mtu: 1500,
            peers: peers.map(|peer| (id(peer), cluster_address(peer))).collect(),
            heartbeat: Duration::from_millis(5),
            timeout: TIMEOUT,
            authority: match options.views {
                Some(_) => Authority::Views,
                None => Authority::Silence,
            },
        },
        unit: Unit::WHOLE,
        client_mac: Macs { cluster: VIRTUAL_CLIENT_MAC, port: port_mac(1, index) },
        backend_mac: Macs { cluster: VIRTUAL_BACKEND_MAC, port: port_mac(2, index) },
        listeners: vec![listener].into(),
        client_tcp: patient,
        backend_tcp: patient,
        backend_spread: None,
        hold: options.hold,
        idle_max: options.idle_max,
        replicated_max: options.replicated_max,
        accepts_per_second: None,
        flows_max: 1000,
    };
    Units::new(settings, options.units, random.seed(), now)
}
