//! What a file says, and what is said about it: kinds of mistakes in `mistakes`, councils in `council`.

mod council;
mod mistakes;

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
without_council = true
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
    assert_eq!((config.worker.count, &*config.worker.cores), (1, &[1][..]));
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
    let manual = include_str!("../../../../docs/CONFIG.md");
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

#[test]
fn what_may_be_left_out_has_its_default() {
    let directory = Directory::new();
    let text = VALID.replace("mode = \"busy\"\n", "").replace("[worker]\ncore = 1\n", "");
    let text = text.replace("[limits]\nflows = 1000\nhold_ms = 2.5\n", "");
    let config = directory.load(&text).unwrap();
    assert_eq!(config.ports.mode, PortMode::Poll);
    assert_eq!((config.worker.count, &*config.worker.cores), (1, &[][..]));
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
