//! One relay of the lab: its configuration, its process, what it says about itself.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::plan::{
    BACKEND_PORT, BACKEND_RAW_PORT, BACKEND_VIRTUAL_MAC, CLIENT_AUTH_PORT, CLIENT_VIRTUAL_MAC,
    CLUSTER_PORT, ENDPOINT_HOST, Network, PORT, RAW_PORT, VIRTUAL_HOST, control_socket, namespace,
    relay_host, relay_name, state_file, vip,
};
use super::process::Process;
use super::{Mode, Options, council, pki};
use crate::shell::{self, in_namespace};

/// Seconds that a relay has for its answer; a stopped one never gives it.
const STATUS_LIMIT_S: &str = "2";

/// Buckets that all flows fall into.
pub(super) const BUCKETS: u32 = 4096;

/// A relay's own view of itself, as `relay-ctl status --json` prints it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// `owner`, `backup`, or another role without connections.
    pub role: String,
    /// Whether it holds everything that it needs to take over.
    #[serde(default)]
    pub in_sync: bool,
    /// Milliseconds that its last takeover took, if there was one.
    #[serde(default)]
    pub takeover_ms: Option<f64>,
    /// Flows that it owns.
    #[serde(default)]
    pub flows: u64,
    /// Flows that it ever owned.
    #[serde(default)]
    pub flows_total: u64,
    /// Buckets that it owns.
    #[serde(default)]
    pub buckets_owned: u32,
    /// It answers for the cluster's addresses.
    #[serde(default)]
    pub holds_addresses: bool,
    /// What its council does, if it has one.
    #[serde(default)]
    pub council: Option<CouncilStatus>,
}

/// A council's own view of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct CouncilStatus {
    /// Node id of the leader.
    pub leader: Option<u8>,
    /// Number of the newest view.
    pub view: u64,
    /// Who is in it.
    pub members: Vec<MemberStatus>,
    /// What keeps it from taking part.
    pub trouble: Option<String>,
}

/// A member of a view.
#[derive(Clone, Debug, Deserialize)]
pub struct MemberStatus {
    /// Its node id.
    pub id: u8,
    /// `joining`, `live`, `draining` or `dead`.
    pub state: String,
    /// Whether its vote counts.
    pub votes: bool,
}

impl CouncilStatus {
    /// Whether somebody leads, and so many members are there, all alive.
    pub fn is_complete(&self, members: u8) -> bool {
        let alive = self.members.iter().filter(|member| member.state != "dead");
        self.leader.is_some() && alive.count() == usize::from(members)
    }
}

impl Status {
    /// Whether it serves the connections.
    pub fn is_owner(&self) -> bool {
        self.role == "owner"
    }

    /// Whether it could take over at this moment whatever others own.
    pub fn is_ready_backup(&self) -> bool {
        let shares = self.is_owner() && self.buckets_owned < BUCKETS;
        (self.role == "backup" || shares) && self.in_sync
    }
}

/// Asks the relay `name`.
pub fn status(bin_dir: &Path, name: &str) -> Result<Status> {
    let mut command = std::process::Command::new("timeout");
    command.arg(STATUS_LIMIT_S).arg(bin_dir.join("relay-ctl"));
    command.arg("--control").arg(control_socket(name)).args(["status", "--json"]);
    let text = shell::output(&mut command).with_context(|| format!("{name} does not answer"))?;
    serde_json::from_str(&text).with_context(|| format!("status of {name}: {text}"))
}

/// Starts relay `id`.
pub fn start(bin_dir: &Path, id: u8) -> Result<Process> {
    let name = relay_name(id);
    let mut command = in_namespace(&namespace(&name), bin_dir.join("relay-dataplane"));
    command.arg("--config").arg(config_file(&name));
    Process::spawn(&mut command, &log(&name))
}

/// Where the relay `name` writes what it has to say.
pub fn log(name: &str) -> PathBuf {
    state_file(&format!("{name}.log"))
}

/// Writes the key that all relays share.
pub fn write_cluster_key() -> Result<()> {
    let mut key = [0; 32];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut key)?;
    let digits = key.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let path = key_file();
    fs::write(&path, "")?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(fs::write(&path, digits + "\n")?)
}

/// Writes the configuration of relay `id`.
pub fn write_config(id: u8, options: &Options) -> Result<()> {
    if id == 0 || id > options.relays {
        bail!("there is no relay {id} in a lab of {}", options.relays);
    }
    Ok(fs::write(config_file(&relay_name(id)), config(id, options)?)?)
}

fn config(id: u8, options: &Options) -> Result<String> {
    let mode = match options.mode {
        Mode::Poll => "poll",
        Mode::Busy => "busy",
    };
    let mut text = format!(
        "[node]
id = {id}
control = \"{control}\"

[ports]
client = \"{client}\"
backend = \"{backend}\"
cluster = \"{cluster}\"
mode = \"{mode}\"

[cluster]
key_file = \"{key}\"
address = \"{address}\"
udp_port = {CLUSTER_PORT}
heartbeat_ms = {heartbeat}
timeout_ms = {timeout}
",
        heartbeat = options.heartbeat_ms,
        timeout = options.timeout_ms,
        control = control_socket(&relay_name(id)).display(),
        client = Network::Client.device(),
        backend = Network::Backend.device(),
        cluster = Network::Cluster.device(),
        key = key_file().display(),
        address = Network::Cluster.v4(relay_host(id)),
    );
    if options.relays > 1 && !options.has_council() {
        text += "without_council = true\n";
    }
    if options.workers > 1 {
        text.insert_str(0, &format!("[worker]\ncount = {}\n\n", options.workers));
    }
    for peer in (1..=options.relays).filter(|peer| *peer != id) {
        let address = Network::Cluster.v4(relay_host(peer));
        write!(text, "\n[[cluster.peer]]\nid = {peer}\naddress = \"{address}\"\n")?;
    }
    write!(
        text,
        "\n[virtual_mac]\nclient = \"{CLIENT_VIRTUAL_MAC}\"\nbackend = \"{BACKEND_VIRTUAL_MAC}\"\n"
    )?;
    let congestion = options
        .relay_congestion
        .map_or_else(String::new, |algorithm| format!("congestion = \"{}\"\n", algorithm.as_str()));
    if options.has_council() {
        text += &council::section(id, options)?;
    }
    text += &listener(PORT, BACKEND_PORT, &congestion)?;
    text += &listener(RAW_PORT, BACKEND_RAW_PORT, &congestion)?;
    let client_auth = format!("{congestion}client_ca = \"{}\"\n", pki::ca().display());
    text += &listener(CLIENT_AUTH_PORT, BACKEND_PORT, &client_auth)?;
    Ok(text)
}

fn listener(port: u16, backend_port: u16, more: &str) -> Result<String> {
    let mut text = format!(
        "
[[listener]]
addresses = [\"{v4}\", \"{v6}\"]
port = {port}
snat = [\"{snat4}\", \"{snat6}\"]
backends = [\"{backend}:{backend_port}\"]
{more}",
        v4 = vip(false),
        v6 = vip(true),
        snat4 = Network::Backend.v4(VIRTUAL_HOST),
        snat6 = Network::Backend.v6(VIRTUAL_HOST),
        backend = Network::Backend.v4(ENDPOINT_HOST),
    );
    for (chain, key) in pki::server_certificates() {
        let (chain, key) = (chain.display(), key.display());
        write!(text, "\n[[listener.certificate]]\nchain = \"{chain}\"\nkey = \"{key}\"\n")?;
    }
    Ok(text)
}

/// The configuration of the node `name`.
pub(super) fn config_file(name: &str) -> PathBuf {
    state_file(&format!("{name}.toml"))
}

fn key_file() -> PathBuf {
    state_file("cluster.key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Congestion;

    #[test]
    fn configuration_is_toml_and_names_every_peer() {
        let options = Options { relays: 3, ..Options::default() };
        let config: toml::Table = config(2, &options).unwrap().parse().unwrap();
        let peers = config["cluster"]["peer"].as_array().unwrap();
        let ids: Vec<i64> = peers.iter().map(|peer| peer["id"].as_integer().unwrap()).collect();
        assert_eq!(ids, [1, 3]);
        assert_eq!(config["cluster"]["address"].as_str(), Some("10.99.3.22"));
        let listeners = config["listener"].as_array().unwrap();
        assert_eq!(listeners[1]["backends"][0].as_str(), Some("10.99.2.10:9000"));
        assert_eq!(listeners[0]["certificate"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_council_is_configured_when_it_is_wanted() {
        let parse =
            |options: &Options| -> toml::Table { config(1, options).unwrap().parse().unwrap() };
        assert!(parse(&Options::default())["cluster"].get("council").is_none());
        let config = parse(&Options { witnesses: 1, ..Options::default() });
        let council = &config["cluster"]["council"];
        let members = council["member"].as_array().unwrap();
        let ids: Vec<i64> = members.iter().map(|one| one["id"].as_integer().unwrap()).collect();
        assert_eq!(ids, [1, 2, 41]);
        assert_eq!(members[2]["address"].as_str(), Some("10.99.3.41:7306"));
        assert!(council.get("without_witness").is_none());
        let pair = parse(&Options { council: true, ..Options::default() });
        assert_eq!(pair["cluster"]["council"]["without_witness"].as_bool(), Some(true));
    }

    #[test]
    fn congestion_control_is_said_only_when_it_was_chosen() {
        let parse =
            |options: &Options| -> toml::Table { config(1, options).unwrap().parse().unwrap() };
        let silent = parse(&Options::default());
        assert!(silent["listener"][0].get("congestion").is_none());
        let relay_congestion = Some(Congestion::Bbr);
        let chosen = parse(&Options { relay_congestion, ..Options::default() });
        for listener in chosen["listener"].as_array().unwrap() {
            assert_eq!(listener["congestion"].as_str(), Some("bbr"));
        }
    }
}
