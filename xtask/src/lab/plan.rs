//! The lab's address plan: one formula for every name, address and port in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Certificates, configurations, logs, process ids, control sockets and the origin's files.
pub const STATE_DIR: &str = "/run/relay-lab";

/// Namespace of the clients.
pub const CLIENT_NS: &str = "rl-client";
/// Namespace of the origin.
pub const BACKEND_NS: &str = "rl-backend";
/// Namespace of the three bridges.
pub const SWITCH_NS: &str = "rl-switch";

/// The name in the relays' certificate.
pub const SERVER_NAME: &str = "relay.test";
/// VIP port whose connections go to the origin's HTTP server.
pub const PORT: u16 = 443;
/// VIP port whose connections go to [`BACKEND_RAW_PORT`].
pub const RAW_PORT: u16 = 8443;
/// VIP port whose connections go to the origin's HTTP server, for clients with a certificate.
pub const CLIENT_AUTH_PORT: u16 = 9443;
/// The origin's HTTP server.
pub const BACKEND_PORT: u16 = 8080;
/// Nothing listens here until a test starts a server in the backend's namespace.
pub const BACKEND_RAW_PORT: u16 = 9000;
/// The relays' own protocol.
pub const CLUSTER_PORT: u16 = 7305;
/// The councils, over TCP.
pub const COUNCIL_PORT: u16 = 7306;

/// Client and backend are host 10 of their networks.
pub const ENDPOINT_HOST: u8 = 10;
/// VIP and SNAT address are host 100 of their networks. The kernel never has them.
pub const VIRTUAL_HOST: u8 = 100;
/// Relay N is host 20 + N, so that there is room for eight before the next plan.
pub const RELAYS_MAX: u8 = 8;
/// Witness N is host 40 + N of the cluster network, and node 40 + N.
pub const WITNESSES_MAX: u8 = 7;

/// Relays claim the VIP under this address, whichever of them is the owner.
pub const CLIENT_VIRTUAL_MAC: &str = "02:00:5e:01:00:64";
/// The same toward the backends.
pub const BACKEND_VIRTUAL_MAC: &str = "02:00:5e:02:00:64";

/// One of the lab's three networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Clients and VIP.
    Client,
    /// Relays and origin.
    Backend,
    /// Relays among themselves.
    Cluster,
}

impl Network {
    /// All three, in the order of their numbers.
    pub const ALL: [Network; 3] = [Network::Client, Network::Backend, Network::Cluster];

    /// Name of the bridge, and of nothing else.
    pub fn bridge(self) -> &'static str {
        match self {
            Network::Client => "client",
            Network::Backend => "backend",
            Network::Cluster => "cluster",
        }
    }

    /// Name of a node's interface in this network, the same in every namespace.
    pub fn device(self) -> String {
        format!("{}0", self.bridge())
    }

    /// The bridge's port toward `node` (`client`, `backend` or `relay-N`); short, since interface
    /// names end at 15 characters.
    pub fn switch_port(self, node: &str) -> String {
        format!("{}-{node}", &self.bridge()[..3])
    }

    /// The IPv4 address of `host`, in a /24.
    pub fn v4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.number(), host)
    }

    /// The IPv6 address of `host`, in a /64. Its last group shows the decimal host number, so that
    /// `10.99.1.21` and `fd99:1::21` are the same node.
    pub fn v6(self, host: u8) -> Ipv6Addr {
        let digits = u16::from(host / 100) << 8 | u16::from(host / 10 % 10) << 4;
        let low = digits | u16::from(host % 10);
        Ipv6Addr::new(0xfd99, self.number().into(), 0, 0, 0, 0, 0, low)
    }

    /// The MAC address of `host`'s kernel interface.
    pub fn mac(self, host: u8) -> String {
        format!("02:00:0a:63:{:02x}:{host:02x}", self.number())
    }

    fn number(self) -> u8 {
        match self {
            Network::Client => 1,
            Network::Backend => 2,
            Network::Cluster => 3,
        }
    }
}

/// The VIP of the wanted family.
pub fn vip(ipv6: bool) -> IpAddr {
    match ipv6 {
        true => Network::Client.v6(VIRTUAL_HOST).into(),
        false => Network::Client.v4(VIRTUAL_HOST).into(),
    }
}

/// Name of relay `id`, as in `lab kill relay-1`.
pub fn relay_name(id: u8) -> String {
    format!("relay-{id}")
}

/// Name of witness `number`, from 1 on.
pub fn witness_name(number: u8) -> String {
    format!("witness-{number}")
}

/// Node id, and host number in the cluster's network, of witness `number`.
pub fn witness_host(number: u8) -> u8 {
    40 + number
}

/// Network namespace of the node `name`.
pub fn namespace(name: &str) -> String {
    format!("rl-{name}")
}

/// Host number of relay `id` in every network.
pub fn relay_host(id: u8) -> u8 {
    20 + id
}

/// Control socket of the relay `name`.
pub fn control_socket(name: &str) -> PathBuf {
    state_file(&format!("{name}.sock"))
}

/// A file in [`STATE_DIR`].
pub fn state_file(name: &str) -> PathBuf {
    PathBuf::from(STATE_DIR).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_show_the_same_host() {
        assert_eq!(Network::Client.v6(VIRTUAL_HOST).to_string(), "fd99:1::100");
        assert_eq!(Network::Backend.v6(relay_host(3)).to_string(), "fd99:2::23");
        assert_eq!(Network::Client.v4(VIRTUAL_HOST).to_string(), "10.99.1.100");
    }

    #[test]
    fn interface_names_fit_and_differ() {
        let relay = relay_name(RELAYS_MAX);
        let ports = Network::ALL.map(|network| network.switch_port(&relay));
        let witness = Network::Cluster.switch_port(&witness_name(WITNESSES_MAX));
        assert!(ports.iter().chain([&witness]).all(|port| port.len() <= 15));
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
    }
}
