//! One case for each kind of mistake, with the exact message.

use super::*;

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
        ":38: listener[2]: missing field `port`: add it (docs/CONFIG.md shows a complete file)",
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
        ":22: virtual: unknown field `virtual`, expected one of `node`, `ports`, `worker`, `cluster`, `virtual_mac`, `limits`, `listener`: remove it, or correct its spelling",
    ),
];

const VALUES: &[Case] = &[
    ("id = 1\n", "id = 0\n", ":2: node.id: 0 is out of range: set it to 1 to 255"),
    ("id = 3", "id = 256", ":17: cluster.peer[1].id: 256 is out of range: set it to 1 to 255"),
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
    ("core = 1", "core = -1", ":26: worker.core: -1 is out of range: set it to 0 to 1023"),
    ("core = 1", "count = 33", ":26: worker.count: 33 is out of range: set it to 1 to 32"),
    (
        "core = 1",
        "count = 2",
        ":26: worker.count: 2 workers share 1 unit of ownership: set cluster.council.units to 2 or more, the same everywhere",
    ),
    (
        "core = 1",
        "cores = [1, 2]",
        ":26: worker.cores: 2 workers share 1 unit of ownership: set cluster.council.units to 2 or more, the same everywhere",
    ),
    (
        "core = 1",
        "count = 3\ncore = 1",
        ":26: worker.count: 3 workers, but cores for 1: name one core for each in worker.cores",
    ),
    (
        "core = 1",
        "core = 1\ncores = [2]",
        ":27: worker.cores: worker.core names a core, too: keep one of the two",
    ),
    ("core = 1", "cores = []", ":26: worker.cores: there are no cores: add at least one"),
    (
        "core = 1",
        "cores = [1, 1]",
        ":26: worker.cores[2]: another worker runs on core 1: give each worker a core of its own",
    ),
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
        ":31: listener[1].addresses[2]: ::ffff:10.99.1.9 is an IPv4-mapped address: use a unicast address that the whole network segment can reach",
    ),
    (
        "02:00:5e:01:00:64",
        "02:00:5e:01:00",
        ":23: virtual_mac.client: \"02:00:5e:01:00\" is no MAC address: write it as 02:00:5e:01:00:64",
    ),
    (
        "02:00:5e:01:00:64",
        "01:00:5e:01:00:64",
        ":23: virtual_mac.client: 01:00:5e:01:00:64 is no address of a single station: use one that begins with 02",
    ),
    ("flows = 1000", "flows = 0", ":28: limits.flows: 0 is out of range: set it to 1 to 1048576"),
    (
        "flows = 1000",
        "keepalive_s = -1",
        ":28: limits.keepalive_s: -1 is out of range: set it to 0 to 31622400",
    ),
    (
        "flows = 1000",
        "send_buffer = 100",
        ":28: limits.send_buffer: 100 is out of range: set it to 32768 to 16777216",
    ),
    (
        "hold_ms = 2.5",
        "hold_ms = -1",
        ":29: limits.hold_ms: -1 is no time to hold: set it to 0 to 10000 (milliseconds), \"measured\" or \"infinite\"",
    ),
    (
        "hold_ms = 2.5",
        "hold_ms = nan",
        ":29: limits.hold_ms: NaN is no time to hold: set it to 0 to 10000 (milliseconds), \"measured\" or \"infinite\"",
    ),
    (
        "hold_ms = 2.5",
        "hold_ms = \"long\"",
        ":29: limits.hold_ms: \"long\" is no time to hold: set it to 0 to 10000 (milliseconds), \"measured\" or \"infinite\"",
    ),
    (
        "hold_ms = 2.5",
        "hold_ms = true",
        ":29: limits.hold_ms: invalid type: boolean `true`, expected a number of milliseconds, \"measured\" or \"infinite\": docs/CONFIG.md says what belongs here",
    ),
    ("port = 8443", "port = 0", ":40: listener[2].port: 0 is out of range: set it to 1 to 65535"),
    (
        "10.99.2.10:9000",
        "10.99.2.10",
        ":42: listener[2].backends[1]: \"10.99.2.10\" is no address and port: write it as 192.0.2.1:8080 or [2001:db8::1]:8080",
    ),
    (
        "10.99.2.10:9000",
        "10.99.2.10:0",
        ":42: listener[2].backends[1]: \"10.99.2.10:0\" is no address and port: write it as 192.0.2.1:8080 or [2001:db8::1]:8080",
    ),
    (
        "[\"10.99.2.10:9000\"]",
        "[]",
        ":42: listener[2].backends: there are no backends: add at least one",
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
        ":17: cluster.peer[1].id: 1 is this node's own id: list only the other nodes, and give each its own id",
    ),
    (
        "id = 2",
        "id = 3",
        ":20: cluster.peer[2].id: 3 is already the id of another peer: give each node its own id",
    ),
    (
        "10.99.3.22",
        "10.99.3.21",
        ":21: cluster.peer[2].address: 10.99.3.21 is already the cluster address of a node: give each role its own address",
    ),
    (
        "10.99.3.22",
        "fd99:3::22",
        ":21: cluster.peer[2].address: fd99:3::22 and this node's 10.99.3.21 are of different families: use IPv4 or IPv6 for the whole cluster network",
    ),
    (
        "02:00:5E:02:00:64",
        "02:00:5e:01:00:64",
        ":24: virtual_mac.backend: it is the client side's address, too: give the two sides different addresses",
    ),
    (
        "\"10.99.1.100\"",
        "\"10.99.3.21\"",
        ":31: listener[1].addresses[1]: 10.99.3.21 is already the cluster address of a node: give each role its own address",
    ),
    (
        "\"10.99.2.100\"",
        "\"10.99.1.100\"",
        ":33: listener[1].snat[1]: 10.99.1.100 is already an address of a listener: give each role its own address",
    ),
    (
        "10.99.2.10:8080",
        "10.99.2.100:8080",
        ":34: listener[1].backends[1]: 10.99.2.100 is already a SNAT address: give each role its own address",
    ),
    (
        "port = 8443",
        "port = 443",
        ":39: listener[2].addresses[1]: 10.99.1.100:443 is listened on twice: keep one listener for an address and port",
    ),
    (
        "\"fd99:2::100\"",
        "\"10.99.2.101\"",
        ":33: listener[1].snat[2]: 10.99.2.101 is the second IPv4 address: keep one of each family",
    ),
    (
        ", \"fd99:2::100\"",
        "",
        ":34: listener[1].backends[2]: [fd99:2::10]:8080 has no SNAT address of its family: add an IPv6 address to snat",
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
        ":36: listener[1].certificate[1].chain: key.pem holds no certificate: name a PEM file with the chain, the server's certificate first",
    ),
    (
        "key.pem",
        "chain.pem",
        ":37: listener[1].certificate[1].key: chain.pem holds no private key: name a PEM file with the unencrypted key of this certificate",
    ),
    (
        "chain.pem",
        ".",
        ":36: listener[1].certificate[1].chain: . is not a regular file: name a file that the relay may read",
    ),
    (
        "port = 443\n",
        "port = 443\nclient_auth = \"required\"\n",
        ":33: listener[1].client_auth: there is no client_ca to verify clients with: name the authorities with client_ca, or remove it",
    ),
    (
        "port = 443\n",
        "port = 443\ncongestion = \"vegas\"\n",
        ":33: listener[1].congestion: \"vegas\" is no congestion control: set it to cubic or bbr",
    ),
    (
        "port = 443\n",
        "port = 443\nclient_ca = \"chain.pem\"\nclient_auth = \"maybe\"\n",
        ":34: listener[1].client_auth: \"maybe\" is no demand on clients: set it to required or optional",
    ),
    (
        "port = 443\n",
        "port = 443\nclient_ca = \"key.pem\"\n",
        ":33: listener[1].client_ca: key.pem holds no certificate: name a PEM file with the authorities that issue clients' certificates",
    ),
    (
        "port = 443\n",
        "port = 443\nclient_ca = \"absent\"\n",
        ":33: listener[1].client_ca: absent cannot be read (No such file or directory (os error 2)): name a file that the relay may read",
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
    assert!(message.contains(":38: cluster.peer[8].id: more than 7 peers: "), "{message}");
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
