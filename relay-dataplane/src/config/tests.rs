//! One case for each kind of mistake, with the exact message.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff\n";

/// Line numbers in the cases count from here.
const VALID: &str = r#"[node]
id = 1
control = "relay.sock"
[ports]
client = "client0"
backend = "backend0"
cluster = "cluster0"
mode = "busy"
[cluster]
key_file = "cluster.key"
address = "10.99.3.21"
udp_port = 7305
heartbeat_ms = 5
timeout_ms = 100
[[cluster.peer]]
id = 3
address = "10.99.3.23"
[[cluster.peer]]
id = 2
address = "10.99.3.22"
[virtual_mac]
client = "02:00:5e:01:00:64"
backend = "02:00:5E:02:00:64"
[worker]
core = 1
[limits]
flows = 1000
hold_ms = 2.5
[[listener]]
addresses = ["10.99.1.100", "fd99:1::100"]
port = 443
snat = ["10.99.2.100", "fd99:2::100"]
backends = ["10.99.2.10:8080", "[fd99:2::10]:8080"]
[[listener.certificate]]
chain = "chain.pem"
key = "key.pem"
[[listener]]
addresses = ["10.99.1.100"]
port = 8443
snat = ["10.99.2.100"]
backends = ["10.99.2.10:9000"]
[[listener.certificate]]
chain = "chain.pem"
key = "key.pem"
"#;

#[test]
fn a_valid_file_resolves_to_plain_values() {
    let directory = Directory::new();
    let config = directory.load(VALID).unwrap();
    assert_eq!(config.node.id, 1);
    assert_eq!(config.node.control, directory.path.join("relay.sock"));
    assert_eq!(config.ports.client, "client0");
    assert_eq!(config.ports.mode, PortMode::Busy);
    assert_eq!(config.worker.core, Some(1));
    assert!(!config.worker.realtime, "a worker that never sleeps starves its core");
    assert_eq!((config.cluster.key[0], config.cluster.key[1], config.cluster.key[31]), (0, 1, 255));
    assert_eq!(config.cluster.heartbeat, Duration::from_millis(5));
    assert_eq!(config.cluster.timeout, Duration::from_millis(100));
    let peer = |id, address: &str| Peer { id, address: address.parse().unwrap() };
    assert_eq!(config.cluster.peers, [peer(2, "10.99.3.22"), peer(3, "10.99.3.23")]);
    assert_eq!(config.virtual_mac.client, [2, 0, 0x5e, 1, 0, 0x64]);
    assert_eq!(config.virtual_mac.backend, [2, 0, 0x5e, 2, 0, 0x64]);
    assert_eq!((config.limits.flows, config.limits.send_buffer), (1000, 4 << 20));
    assert_eq!(config.limits.hold, HoldTime::Fixed(Duration::from_micros(2500)));
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.listeners[0].backends[1], "[fd99:2::10]:8080".parse().unwrap());
    assert!(config.listeners[1].certificates[0].key.starts_with(b"-----BEGIN PRIVATE KEY"));
    assert!(config.listeners.iter().all(|listener| listener.client_auth.is_none()));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn listeners_choose_their_congestion_control() {
    let directory = Directory::new();
    let congestion = |lines: &str| {
        let text = VALID.replace("port = 443\n", &format!("port = 443\n{lines}"));
        directory.load(&text).unwrap().listeners[0].congestion
    };
    assert_eq!(congestion(""), Algorithm::Cubic);
    assert_eq!(congestion("congestion = \"cubic\"\n"), Algorithm::Cubic);
    assert_eq!(congestion("congestion = \"bbr\"\n"), Algorithm::Bbr);
}

#[test]
fn clients_may_be_asked_for_certificates() {
    let directory = Directory::new();
    let required = |lines: &str| {
        let text = VALID.replace("port = 443\n", &format!("port = 443\n{lines}"));
        let client_auth = directory.load(&text).unwrap().listeners[0].client_auth.clone().unwrap();
        assert!(client_auth.authorities.starts_with(b"-----BEGIN CERTIFICATE"));
        client_auth.required
    };
    assert!(required("client_ca = \"chain.pem\"\n"));
    assert!(required("client_ca = \"chain.pem\"\nclient_auth = \"required\"\n"));
    assert!(!required("client_ca = \"chain.pem\"\nclient_auth = \"optional\"\n"));
}

#[test]
fn the_complete_file_of_the_manual_is_valid() {
    let manual = include_str!("../../../docs/CONFIG.md");
    let (_, rest) = manual.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let directory = Directory::new();
    let text = text.replace("relay.test.", "");
    directory.write("node-1.pem", &fs::read_to_string(directory.path.join("chain.pem")).unwrap());
    directory.write("ca.pem", &fs::read_to_string(directory.path.join("chain.pem")).unwrap());
    directory.write("node-1.key", &fs::read_to_string(directory.path.join("key.pem")).unwrap());
    let config = directory.load(&text).unwrap();
    assert_eq!((config.listeners.len(), config.cluster.council.unwrap().members.len()), (1, 3));
    let (_, rest) = rest.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    directory.write("node-9.pem", &fs::read_to_string(directory.path.join("chain.pem")).unwrap());
    directory.write("node-9.key", &fs::read_to_string(directory.path.join("key.pem")).unwrap());
    assert_eq!(directory.witness(text).unwrap().council.members.len(), 3);
}

/// The same relays as in [`VALID`], and a witness. Line numbers in the cases count from here.
const COUNCIL: &str = r#"[cluster.council]
directory = "votes"
certificate = "chain.pem"
key = "key.pem"
ca = "chain.pem"
[[cluster.council.member]]
id = 9
address = "10.99.4.9:7001"
kind = "witness"
[[cluster.council.member]]
id = 2
address = "10.99.3.22:7001"
[[cluster.council.member]]
id = 3
address = "10.99.3.23:7001"
[[cluster.council.member]]
id = 1
address = "10.99.3.21:7001"
kind = "relay"
"#;

#[test]
fn a_council_is_resolved_and_may_be_left_out() {
    let directory = Directory::new();
    assert!(directory.load(VALID).unwrap().cluster.council.is_none());
    let council = directory.load(&format!("{VALID}{COUNCIL}")).unwrap().cluster.council.unwrap();
    assert_eq!(council.members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2, 3, 9]);
    assert_eq!((council.node, council.own().kind), (1, Kind::Relay));
    assert_eq!(council.own().address, "10.99.3.21:7001".parse().unwrap());
    assert!(council.members.iter().all(|member| member.votes));
    assert_eq!(council.directory, directory.path.join("votes"));
    assert_eq!(council.worker_timeout, Duration::from_millis(100));
    assert!(!council.realtime, "like the worker");
}

#[test]
fn a_witness_needs_two_sections() {
    let directory = Directory::new();
    let text = format!("[node]\nid = 9\ncontrol = \"c.sock\"\n{COUNCIL}");
    let witness = directory.witness(&text).unwrap();
    assert_eq!((witness.node.id, witness.council.own().kind), (9, Kind::Witness));
    let message = |text: &str| directory.witness(text).unwrap_err().to_string();
    let refused = message(&text.replace("id = 9\ncontrol", "id = 2\ncontrol"));
    let expected = ":14: cluster.council.member[2].id: this node, 2, is a relay: start it without \
                    --witness, or change its kind to witness";
    assert!(refused.ends_with(expected), "{refused}");
    let refused = message(&format!("[ports]\n{text}"));
    assert!(refused.contains(":1: ports: unknown field `ports`"), "{refused}");
}

#[test]
fn two_relays_without_a_witness_are_spelled_out() {
    let directory = Directory::new();
    let peer = "[[cluster.peer]]\nid = 3\naddress = \"10.99.3.23\"\n";
    let witness =
        "[[cluster.council.member]]\nid = 9\naddress = \"10.99.4.9:7001\"\nkind = \"witness\"\n";
    let third = "[[cluster.council.member]]\nid = 3\naddress = \"10.99.3.23:7001\"\n";
    let pair =
        format!("{}{}", VALID.replace(peer, ""), COUNCIL.replace(witness, "").replace(third, ""));
    let refused = directory.load(&pair).unwrap_err().to_string();
    let expected = ": cluster.council.member[1]: two relays and no witness: relay 1 would decide alone, \
                    and when it is lost, relay 2 takes nothing over and all connections are lost: \
                    add a member of kind witness on a third machine, or accept that with \
                    cluster.council.without_witness = true";
    assert!(refused.ends_with(expected), "{refused}");
    let key = "key = \"key.pem\"\nca";
    let said = pair.replace(key, &format!("without_witness = true\n{key}"));
    let council = directory.load(&said).unwrap().cluster.council.unwrap();
    let votes: Vec<_> = council.members.iter().map(|member| (member.id, member.votes)).collect();
    assert_eq!(votes, [(1, true), (2, false)]);
}

#[test]
fn mistakes_in_the_council_name_their_remedy() {
    let directory = Directory::new();
    let before = VALID.lines().count();
    for (from, to, line, expected) in COUNCILS {
        let text = format!("{VALID}{}", COUNCIL.replacen(from, to, 1));
        let message = directory.load(&text).unwrap_err().to_string();
        let here = format!("{}/", directory.path.display());
        let expected = format!(":{}: {}", before + line, expected.replace("DIR", &here));
        assert!(message.ends_with(&expected), "\n{message}\n{expected}");
    }
}

const COUNCILS: &[(&str, &str, usize, &str)] = &[
    (
        "\"votes\"",
        "\"\"",
        2,
        "cluster.council.directory: there is no directory: name one of its own such as /var/lib/relay/votes",
    ),
    (
        "certificate = \"chain.pem\"",
        "certificate = \"key.pem\"",
        3,
        "cluster.council.certificate: DIRkey.pem holds no certificate: name the PEM file that `relay-ctl cluster certificate` wrote for this node",
    ),
    (
        "key = \"key.pem\"",
        "key = \"chain.pem\"",
        4,
        "cluster.council.key: DIRchain.pem holds no private key: name the key that `relay-ctl cluster certificate` wrote for this node",
    ),
    (
        "ca = \"chain.pem\"",
        "ca = \"key.pem\"",
        5,
        "cluster.council.ca: DIRkey.pem holds no certificate: name ca.pem, as `relay-ctl cluster init` wrote it",
    ),
    ("id = 9", "id = 64", 7, "cluster.council.member[1].id: 64 is out of range: set it to 1 to 63"),
    (
        "id = 9",
        "id = 2",
        11,
        "cluster.council.member[2].id: 2 is already the id of another member: give each node its own id",
    ),
    (
        "10.99.4.9:7001",
        "10.99.4.9",
        8,
        "cluster.council.member[1].address: \"10.99.4.9\" is no address and port: write it as 192.0.2.1:7001 or [2001:db8::1]:7001",
    ),
    (
        "10.99.4.9:7001",
        "0.0.0.0:7001",
        8,
        "cluster.council.member[1].address: 0.0.0.0 is the unspecified address: use a unicast address that every member can reach",
    ),
    (
        "10.99.4.9:7001",
        "127.0.0.1:7001",
        8,
        "cluster.council.member[1].address: 127.0.0.1:7001 is a loopback address, and others are not: use a unicast address that every member can reach",
    ),
    (
        "10.99.4.9:7001",
        "10.99.3.22:7001",
        12,
        "cluster.council.member[2].address: 10.99.3.22:7001 is already the address of another member: give each council its own address or port",
    ),
    (
        "\"witness\"",
        "\"arbiter\"",
        9,
        "cluster.council.member[1].kind: \"arbiter\" is no kind of member: set it to relay or witness",
    ),
    (
        "\"relay\"",
        "\"witness\"",
        17,
        "cluster.council.member[4].id: this node, 1, is a witness: start it with --witness, or change its kind to relay",
    ),
    (
        "id = 1\n",
        "id = 4\n",
        6,
        "cluster.council.member[1]: this node, 1, is not among the members: list every node, this one too: the list is the same everywhere",
    ),
    (
        "id = 3\n",
        "id = 5\n",
        6,
        "cluster.council.member[1]: cluster.peer 3 is no member of kind relay: list the other relays in both places",
    ),
    (
        "key = ",
        "without_witness = true\nkey = ",
        4,
        "cluster.council.without_witness: it is for two relays without a witness: remove it: these members decide by majority",
    ),
];

#[test]
fn what_may_be_left_out_has_its_default() {
    let directory = Directory::new();
    let text = VALID.replace("mode = \"busy\"\n", "").replace("[worker]\ncore = 1\n", "");
    let text = text.replace("[limits]\nflows = 1000\nhold_ms = 2.5\n", "");
    let config = directory.load(&text).unwrap();
    assert_eq!(config.ports.mode, PortMode::Poll);
    assert_eq!(config.worker.core, None);
    assert!(config.worker.realtime);
    assert_eq!((config.limits.flows, config.limits.receive_buffer), (65_536, 4 << 20));
    assert_eq!(config.limits.hold, HoldTime::Measured);
    assert_eq!(config.limits.replicated, 1 << 30);
    let limits = &config.limits;
    assert_eq!(limits.keepalive, Some(Duration::from_secs(7200)));
    assert_eq!((limits.idle, limits.stalled, limits.accepts_per_second), (None, None, None));
    let given = "[limits]\nkeepalive_s = 0\nstalled_s = 9\naccepts_per_s = 7\n";
    let limits = directory.load(&VALID.replace("[limits]\n", given)).unwrap().limits;
    assert_eq!((limits.keepalive, limits.stalled), (None, Some(Duration::from_secs(9))));
    assert_eq!(limits.accepts_per_second, Some(7));
}

#[test]
fn real_time_is_the_operators_choice_in_either_mode() {
    let directory = Directory::new();
    for mode in ["poll", "busy"] {
        let text = VALID.replace("mode = \"busy\"", &format!("mode = \"{mode}\""));
        for chosen in [true, false] {
            let text = text.replace("core = 1", &format!("core = 1\nrealtime = {chosen}"));
            assert_eq!(directory.load(&text).unwrap().worker.realtime, chosen);
        }
    }
}

#[test]
fn hold_may_be_always_or_never() {
    let directory = Directory::new();
    let hold = |value| directory.load(&VALID.replace("hold_ms = 2.5", value)).unwrap().limits.hold;
    assert_eq!(hold("hold_ms = 0"), HoldTime::Fixed(Duration::ZERO));
    assert_eq!(hold("hold_ms = \"measured\""), HoldTime::Measured);
    assert_eq!(hold("hold_ms = \"infinite\""), HoldTime::Never);
}

#[test]
fn keys_that_others_may_read_are_warned_about() {
    let directory = Directory::new();
    let key = directory.path.join("cluster.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let key = key.display();
    assert_eq!(
        directory.load(VALID).unwrap().warnings,
        [format!("{key} is open to other users: `chmod 600 {key}`")]
    );
}

#[test]
fn debugging_output_shows_no_key() {
    let directory = Directory::new();
    let text = format!("{:?}", directory.load(VALID).unwrap());
    // The first bytes of the cluster's key, and "-----BEGIN", as lists of numbers.
    for secret in ["0, 1, 2, 3", "45, 45, 45", "PRIVATE"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// What is replaced in [`VALID`], by what, and the message after the path of the file.
type Case = (&'static str, &'static str, &'static str);

#[test]
fn every_mistake_has_its_message() {
    let directory = Directory::new();
    let mut failures = String::new();
    for (old, new, expected) in SHAPE.iter().chain(VALUES).chain(CROSS).chain(FILES) {
        assert!(VALID.contains(old), "{old}");
        let error = directory.load(&VALID.replacen(old, new, 1)).err();
        let message = error.map(|error| error.to_string()).unwrap_or_default();
        let prefix = directory.path.display().to_string();
        let message = message.replace(&format!("{prefix}/"), "");
        if message != format!("relay.toml{expected}") {
            failures += &format!("for {new:?}:\n    is  {message}\n    not relay.toml{expected}\n");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

const SHAPE: &[Case] = &[
    (
        "id = 1\n",
        "id = \n",
        ":2: string values must be quoted, expected literal string: correct the TOML syntax",
    ),
    ("id = 1\n", "", ":1: node: missing field `id`: add it (docs/CONFIG.md shows a complete file)"),
    (
        "mode =",
        "mod =",
        ":8: ports.mod: unknown field `mod`, expected one of `client`, `backend`, `cluster`, `mode`: remove it, or correct its spelling",
    ),
    (
        "id = 1\n",
        "id = \"1\"\n",
        ":2: node.id: invalid type: string \"1\", expected an integer: docs/CONFIG.md says what belongs here",
    ),
    (
        "port = 8443\n",
        "",
        ":37: listener[2]: missing field `port`: add it (docs/CONFIG.md shows a complete file)",
    ),
    (
        "[virtual_mac]\nclient = \"02:00:5e:01:00:64\"\nbackend = \"02:00:5E:02:00:64\"\n",
        "",
        ": missing field `virtual_mac`: add it (docs/CONFIG.md shows a complete file)",
    ),
    ("id = 1\n", "id = 1\nid = 2\n", ":3: duplicate key: keep one of the two"),
    (
        "[virtual_mac]",
        "[virtual]",
        ":21: virtual: unknown field `virtual`, expected one of `node`, `ports`, `worker`, `cluster`, `virtual_mac`, `limits`, `listener`: remove it, or correct its spelling",
    ),
];

const VALUES: &[Case] = &[
    ("id = 1\n", "id = 0\n", ":2: node.id: 0 is out of range: set it to 1 to 255"),
    ("id = 3", "id = 256", ":16: cluster.peer[1].id: 256 is out of range: set it to 1 to 255"),
    (
        "relay.sock",
        "",
        ":3: node.control: the path of the socket is empty: name a file such as /run/relay/control.sock",
    ),
    (
        "relay.sock",
        "/run/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ":3: node.control: the path of the socket has 115 bytes: keep it within 107",
    ),
    (
        "\"client0\"",
        "\"a name too long\"",
        ":5: ports.client: \"a name too long\" is no name of a network interface: choose one that `ip link` shows",
    ),
    ("busy", "fast", ":8: ports.mode: \"fast\" is no mode: set it to poll or busy"),
    ("core = 1", "core = -1", ":25: worker.core: -1 is out of range: set it to 0 to 1023"),
    ("7305", "0", ":12: cluster.udp_port: 0 is out of range: set it to 1 to 65535"),
    (
        "heartbeat_ms = 5",
        "heartbeat_ms = 0",
        ":13: cluster.heartbeat_ms: 0 is out of range: set it to 1 to 1000",
    ),
    (
        "timeout_ms = 100",
        "timeout_ms = 3",
        ":14: cluster.timeout_ms: 3 is less than four heartbeats (5 ms each): set it to 20 or more",
    ),
    (
        "timeout_ms = 100",
        "timeout_ms = 60001",
        ":14: cluster.timeout_ms: 60001 is out of range: set it to 20 to 60000",
    ),
    (
        "10.99.3.21",
        "10.99.3",
        ":11: cluster.address: \"10.99.3\" is no IP address: write it as 192.0.2.1 or 2001:db8::1",
    ),
    (
        "10.99.3.21",
        "127.0.0.1",
        ":11: cluster.address: 127.0.0.1 is a loopback address: use a unicast address that the whole network segment can reach",
    ),
    (
        "fd99:1::100",
        "::ffff:10.99.1.9",
        ":30: listener[1].addresses[2]: ::ffff:10.99.1.9 is an IPv4-mapped address: use a unicast address that the whole network segment can reach",
    ),
    (
        "02:00:5e:01:00:64",
        "02:00:5e:01:00",
        ":22: virtual_mac.client: \"02:00:5e:01:00\" is no MAC address: write it as 02:00:5e:01:00:64",
    ),
    (
        "02:00:5e:01:00:64",
        "01:00:5e:01:00:64",
        ":22: virtual_mac.client: 01:00:5e:01:00:64 is no address of a single station: use one that begins with 02",
    ),
    ("flows = 1000", "flows = 0", ":27: limits.flows: 0 is out of range: set it to 1 to 1048576"),
    (
        "flows = 1000",
        "keepalive_s = -1",
        ":27: limits.keepalive_s: -1 is out of range: set it to 0 to 31622400",
    ),
    (
        "flows = 1000",
        "send_buffer = 100",
        ":27: limits.send_buffer: 100 is out of range: set it to 32768 to 16777216",
    ),
    (
        "hold_ms = 2.5",
        "hold_ms = -1",
        ":28: limits.hold_ms: -1 is no time to hold: set it to 0 to 10000 (milliseconds), \"measured\" or \"infinite\"",
    ),
    (
        "hold_ms = 2.5",
        "hold_ms = nan",
        ":28: limits.hold_ms: NaN is no time to hold: set it to 0 to 10000 (milliseconds), \"measured\" or \"infinite\"",
    ),
    (
        "hold_ms = 2.5",
        "hold_ms = \"long\"",
        ":28: limits.hold_ms: \"long\" is no time to hold: set it to 0 to 10000 (milliseconds), \"measured\" or \"infinite\"",
    ),
    (
        "hold_ms = 2.5",
        "hold_ms = true",
        ":28: limits.hold_ms: invalid type: boolean `true`, expected a number of milliseconds, \"measured\" or \"infinite\": docs/CONFIG.md says what belongs here",
    ),
    ("port = 8443", "port = 0", ":39: listener[2].port: 0 is out of range: set it to 1 to 65535"),
    (
        "10.99.2.10:9000",
        "10.99.2.10",
        ":41: listener[2].backends[1]: \"10.99.2.10\" is no address and port: write it as 192.0.2.1:8080 or [2001:db8::1]:8080",
    ),
    (
        "10.99.2.10:9000",
        "10.99.2.10:0",
        ":41: listener[2].backends[1]: \"10.99.2.10:0\" is no address and port: write it as 192.0.2.1:8080 or [2001:db8::1]:8080",
    ),
    (
        "[\"10.99.2.10:9000\"]",
        "[]",
        ":41: listener[2].backends: there are no backends: add at least one",
    ),
];

const CROSS: &[Case] = &[
    (
        "cluster = \"cluster0\"",
        "cluster = \"client0\"",
        ":7: ports.cluster: client0 is already another port: give client, backend and cluster an interface each",
    ),
    (
        "id = 3",
        "id = 1",
        ":16: cluster.peer[1].id: 1 is this node's own id: list only the other nodes, and give each its own id",
    ),
    (
        "id = 2",
        "id = 3",
        ":19: cluster.peer[2].id: 3 is already the id of another peer: give each node its own id",
    ),
    (
        "10.99.3.22",
        "10.99.3.21",
        ":20: cluster.peer[2].address: 10.99.3.21 is already the cluster address of a node: give each role its own address",
    ),
    (
        "10.99.3.22",
        "fd99:3::22",
        ":20: cluster.peer[2].address: fd99:3::22 and this node's 10.99.3.21 are of different families: use IPv4 or IPv6 for the whole cluster network",
    ),
    (
        "02:00:5E:02:00:64",
        "02:00:5e:01:00:64",
        ":23: virtual_mac.backend: it is the client side's address, too: give the two sides different addresses",
    ),
    (
        "\"10.99.1.100\"",
        "\"10.99.3.21\"",
        ":30: listener[1].addresses[1]: 10.99.3.21 is already the cluster address of a node: give each role its own address",
    ),
    (
        "\"10.99.2.100\"",
        "\"10.99.1.100\"",
        ":32: listener[1].snat[1]: 10.99.1.100 is already an address of a listener: give each role its own address",
    ),
    (
        "10.99.2.10:8080",
        "10.99.2.100:8080",
        ":33: listener[1].backends[1]: 10.99.2.100 is already a SNAT address: give each role its own address",
    ),
    (
        "port = 8443",
        "port = 443",
        ":38: listener[2].addresses[1]: 10.99.1.100:443 is listened on twice: keep one listener for an address and port",
    ),
    (
        "\"fd99:2::100\"",
        "\"10.99.2.101\"",
        ":32: listener[1].snat[2]: 10.99.2.101 is the second IPv4 address: keep one of each family",
    ),
    (
        ", \"fd99:2::100\"",
        "",
        ":33: listener[1].backends[2]: [fd99:2::10]:8080 has no SNAT address of its family: add an IPv6 address to snat",
    ),
];

const FILES: &[Case] = &[
    (
        "cluster.key",
        "absent",
        ":10: cluster.key_file: absent cannot be read (No such file or directory (os error 2)): name a file that the relay may read",
    ),
    (
        "cluster.key",
        "chain.pem",
        ":10: cluster.key_file: chain.pem does not hold 64 hexadecimal digits: write one key for all nodes with `openssl rand -hex 32 > chain.pem`",
    ),
    (
        "cluster.key",
        "long",
        ":10: cluster.key_file: long is longer than 1048576 bytes: name a file that the relay may read",
    ),
    (
        "chain.pem",
        "key.pem",
        ":35: listener[1].certificate[1].chain: key.pem holds no certificate: name a PEM file with the chain, the server's certificate first",
    ),
    (
        "key.pem",
        "chain.pem",
        ":36: listener[1].certificate[1].key: chain.pem holds no private key: name a PEM file with the unencrypted key of this certificate",
    ),
    (
        "chain.pem",
        ".",
        ":35: listener[1].certificate[1].chain: . is not a regular file: name a file that the relay may read",
    ),
    (
        "port = 443\n",
        "port = 443\nclient_auth = \"required\"\n",
        ":32: listener[1].client_auth: there is no client_ca to verify clients with: name the authorities with client_ca, or remove it",
    ),
    (
        "port = 443\n",
        "port = 443\ncongestion = \"vegas\"\n",
        ":32: listener[1].congestion: \"vegas\" is no congestion control: set it to cubic or bbr",
    ),
    (
        "port = 443\n",
        "port = 443\nclient_ca = \"chain.pem\"\nclient_auth = \"maybe\"\n",
        ":33: listener[1].client_auth: \"maybe\" is no demand on clients: set it to required or optional",
    ),
    (
        "port = 443\n",
        "port = 443\nclient_ca = \"key.pem\"\n",
        ":32: listener[1].client_ca: key.pem holds no certificate: name a PEM file with the authorities that issue clients' certificates",
    ),
    (
        "port = 443\n",
        "port = 443\nclient_ca = \"absent\"\n",
        ":32: listener[1].client_ca: absent cannot be read (No such file or directory (os error 2)): name a file that the relay may read",
    ),
];

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/relay.toml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent/relay.toml: cannot be read (No such file or directory (os error 2)): \
         check the path given to --config"
    );
}

#[test]
fn a_file_of_comments_lacks_everything() {
    let directory = Directory::new();
    for text in ["", "\n", "# nothing\n\n"] {
        let message = directory.load(text).unwrap_err().to_string();
        assert!(message.contains("relay.toml: missing field `node`: add it"), "{message}");
    }
    let (_, rest) = VALID.split_once("[ports]").unwrap();
    let message = directory.load(&format!("# about\n\n[ports]{rest}# end\n"));
    let message = message.unwrap_err().to_string();
    assert!(message.contains("relay.toml: missing field `node`: add it"), "{message}");
}

#[test]
fn more_peers_than_the_limit_are_refused() {
    let directory = Directory::new();
    let more: String = (10..16)
        .map(|id| format!("[[cluster.peer]]\nid = {id}\naddress = \"10.99.3.1{id}\"\n"))
        .collect();
    let text = VALID.replace("[virtual_mac]", &format!("{more}[virtual_mac]"));
    let message = directory.load(&text).unwrap_err().to_string();
    assert!(message.contains(":37: cluster.peer[8].id: more than 7 peers: "), "{message}");
}

/// No text makes the loader panic, whatever its spans are.
#[test]
fn a_file_that_ends_or_breaks_anywhere_is_an_error() {
    let directory = Directory::new();
    for end in 0..VALID.len() - "key = \"key.pem\"\n".len() {
        let broken = format!("{}é]\n", &VALID[..end]);
        assert!(directory.load(&broken).is_err(), "{broken}");
    }
}

/// A directory with the files that [`VALID`] names; removed at the end.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-config-{}-{count}", std::process::id());
        let directory = Directory { path: std::env::temp_dir().join(name) };
        fs::create_dir_all(&directory.path).unwrap();
        directory.write("cluster.key", KEY);
        directory.write("long", &"0".repeat(MAX_FILE as usize + 1));
        let section = |label| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        directory.write("chain.pem", &section("CERTIFICATE"));
        directory.write("key.pem", &section("PRIVATE KEY"));
        directory
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }

    fn load(&self, text: &str) -> Result<Config, ConfigError> {
        self.write("relay.toml", text);
        Config::load(&self.path.join("relay.toml"))
    }

    fn witness(&self, text: &str) -> Result<Witness, ConfigError> {
        self.write("witness.toml", text);
        Witness::load(&self.path.join("witness.toml"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
