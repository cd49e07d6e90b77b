//! The lab: a whole cluster in network namespaces, with a client's and a backend's side.
//!
//! ```text
//!  rl-client ── bridge client ──┬─ rl-relay-1 ─┬── bridge backend ── rl-backend (nginx)
//!                               ├─ rl-relay-2 ─┤
//!                               └─ ...        ─┴── bridge cluster (relays and witnesses)
//! ```
//! The bridges are in `rl-switch`. One machine has at most one lab; its state is in
//! [`plan::STATE_DIR`], so that any program can go on with a lab that another one brought up.

pub mod council;
pub mod network;
pub mod origin;
pub mod pki;
pub mod plan;
pub mod process;
pub mod relay;
pub mod serving;
pub mod turn;
pub mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use self::plan::{
    BACKEND_NS, BACKEND_RAW_PORT, CLIENT_NS, ENDPOINT_HOST, Network, PORT, RAW_PORT, RELAYS_MAX,
    SERVER_NAME, STATE_DIR, WITNESSES_MAX, control_socket, namespace, relay_name, state_file, vip,
    witness_name,
};
use self::process::{Process, Signal};
use crate::binaries;
use crate::shell::{in_namespace, wait_for};

/// The origin's name among the processes.
const ORIGIN: &str = "origin";
/// How long a relay may take until its control socket answers.
const START_LIMIT: Duration = Duration::from_secs(15);

/// What kind of lab.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub struct Options {
    /// Number of relays.
    #[arg(long, default_value_t = 2)]
    pub relays: u8,
    /// Number of witnesses: nodes that only vote. With some, there is a council.
    #[arg(long, default_value_t = 0)]
    #[serde(default)]
    pub witnesses: u8,
    /// Let the relays' councils decide about views, without a witness, too.
    #[arg(long)]
    #[serde(default)]
    pub council: bool,
    /// Units of ownership that the flows are divided into, each with an owner of its own; more than
    /// one needs a council.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    #[serde(default = "one")]
    pub units: u8,
    /// Let the demo's clients use the IPv6 VIP (the lab has both families in any case).
    #[arg(long)]
    pub ipv6: bool,
    /// MTU of every link, in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..=9000))]
    pub mtu: u16,
    /// Queues of every link.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub queues: u8,
    /// Workers of every relay: at most one for each unit and for each queue.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    #[serde(default = "one")]
    pub workers: u8,
    /// Congestion control of client and backend.
    #[arg(long, value_enum, default_value_t = Congestion::Cubic)]
    pub congestion: Congestion,
    /// Congestion control of the relays toward clients; not said to them when it is not given.
    #[arg(long, value_enum)]
    pub relay_congestion: Option<Congestion>,
    /// How the relays wait for frames.
    #[arg(long, value_enum, default_value_t = Mode::Poll)]
    pub mode: Mode,
    /// Milliseconds of silence after which a relay counts as dead.
    #[arg(long, default_value_t = 100)]
    pub timeout_ms: u32,
    /// Milliseconds between two signs of life of a relay.
    #[arg(long, default_value_t = 5)]
    pub heartbeat_ms: u32,
    /// Directory of relay-dataplane and relay-ctl; they are built when it is not given.
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
}

/// Labs of old had one unit.
fn one() -> u8 {
    1
}

impl Default for Options {
    fn default() -> Self {
        Options {
            relays: 2,
            witnesses: 0,
            council: false,
            units: 1,
            ipv6: false,
            mtu: 1500,
            queues: 1,
            workers: 1,
            congestion: Congestion::Cubic,
            relay_congestion: None,
            mode: Mode::Poll,
            timeout_ms: 100,
            heartbeat_ms: 5,
            bin_dir: None,
        }
    }
}

impl Options {
    /// Whether councils decide.
    pub fn has_council(&self) -> bool {
        self.relays > 0 && (self.council || self.witnesses > 0)
    }

    /// Whether relays forward frames to each other, because several of them own flows.
    pub fn forwards(&self) -> bool {
        self.units > 1 && self.relays > 1
    }
}

/// A congestion control algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// Bottleneck bandwidth and round-trip time.
    Bbr,
}

impl Congestion {
    /// The kernel's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Congestion::Cubic => "cubic",
            Congestion::Bbr => "bbr",
        }
    }
}

/// How a relay waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Mode {
    /// Sleeps in poll(2).
    Poll,
    /// Spins.
    Busy,
}

/// A way to lose a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// SIGKILL: the process is gone, its links stay up.
    Sigkill,
    /// SIGTERM: the process is asked to end; with a council it hands over first.
    Sigterm,
    /// All links down at once, then SIGKILL: nothing is said any more.
    Powercut,
    /// SIGSTOP: the process pauses and may come back with old beliefs.
    Sigstop,
    /// All links down, the process lives.
    Linkdown,
}

/// What a client of the lab needs to know; `lab up` prints it as one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Namespace of the clients.
    pub client_ns: String,
    /// Namespace of the origin.
    pub backend_ns: String,
    /// The cluster's address for clients.
    pub vip: String,
    /// The same in IPv6.
    pub vip6: String,
    /// Port of the VIP that leads to the origin's HTTP server.
    pub port: u16,
    /// Port of the VIP that leads to `backend_raw_port`.
    pub raw_port: u16,
    /// Name in the certificate.
    pub server_name: String,
    /// Certificate of the authority that clients trust.
    pub ca: PathBuf,
    /// The origin's address.
    pub backend_addr: String,
    /// Port of the origin on which nothing listens until somebody starts a server.
    pub backend_raw_port: u16,
    /// The relays.
    pub relays: Vec<RelayDescription>,
}

/// One relay of a [`Description`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayDescription {
    /// As in `lab kill NAME`.
    pub name: String,
    /// Its network namespace.
    pub ns: String,
    /// Its process, 0 while it has none.
    pub pid: i32,
    /// Its control socket.
    pub control: PathBuf,
}

/// A lab that is up.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lab {
    options: Options,
    bin_dir: PathBuf,
    processes: BTreeMap<String, Process>,
}

impl Lab {
    /// Brings a lab up, in place of any that exists, and waits until it serves.
    pub fn up(options: &Options) -> Result<Lab> {
        if options.relays > RELAYS_MAX {
            bail!("at most {RELAYS_MAX} relays fit into the address plan");
        }
        if options.witnesses > WITNESSES_MAX {
            bail!("at most {WITNESSES_MAX} witnesses fit into the address plan");
        }
        network::allow_congestion_control(options.congestion.as_str())?;
        let bin_dir = match options.relays {
            0 => PathBuf::new(),
            _ => binaries::binaries(options.bin_dir.as_deref())?,
        };
        Lab::down()?;
        fs::create_dir_all(STATE_DIR)?;
        let mut lab = Lab { options: options.clone(), bin_dir, processes: BTreeMap::new() };
        lab.save()?;
        lab.start_everything()?;
        eprintln!("lab: waiting until everything serves");
        serving::wait(&lab)?;
        eprintln!("lab: up");
        Ok(lab)
    }

    /// The lab that is up on this machine.
    pub fn attach() -> Result<Lab> {
        let path = state_file("state.json");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("no lab ({}): run lab up", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is of another version: run lab up", path.display()))
    }

    /// Ends every process of the lab that exists, if any, and removes its traces.
    pub fn down() -> Result<()> {
        if let Ok(lab) = Lab::attach() {
            for (name, process) in &lab.processes {
                // nginx takes its workers along only when it is asked.
                process.end(if name == ORIGIN { Signal::TERM } else { Signal::KILL })?;
            }
        }
        network::remove()?;
        match fs::remove_dir_all(STATE_DIR) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(STATE_DIR)
            }
            _ => Ok(()),
        }
    }

    /// What clients need to know.
    pub fn description(&self) -> Description {
        Description {
            client_ns: CLIENT_NS.to_owned(),
            backend_ns: BACKEND_NS.to_owned(),
            vip: vip(false).to_string(),
            vip6: vip(true).to_string(),
            port: PORT,
            raw_port: RAW_PORT,
            server_name: SERVER_NAME.to_owned(),
            ca: pki::ca(),
            backend_addr: Network::Backend.v4(ENDPOINT_HOST).to_string(),
            backend_raw_port: BACKEND_RAW_PORT,
            relays: self.relays().map(|name| self.describe(name)).collect(),
        }
    }

    /// Names of the relays.
    pub fn relays(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.options.relays).map(relay_name)
    }

    /// What the lab was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Names of the witnesses.
    pub fn witnesses(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.options.witnesses).map(witness_name)
    }

    /// Loses the relay or witness `name` in the way `how`.
    pub fn kill(&mut self, name: &str, how: How) -> Result<()> {
        let process = self.process(name)?;
        match how {
            How::Sigkill => process.end(Signal::KILL),
            How::Sigterm => process.end(Signal::TERM),
            How::Sigstop => process.signal(Signal::STOP),
            How::Linkdown => self.set_links(name, false),
            How::Powercut => {
                self.set_links(name, false)?;
                process.end(Signal::KILL)
            }
        }
    }

    /// Ends the relay or witness `name` as an operator does who upgrades it, and waits for its end.
    pub fn terminate(&mut self, name: &str) -> Result<()> {
        self.process(name)?.end(Signal::TERM)
    }

    /// Undoes whatever was done to the relay or witness `name`: links up, and a process that runs.
    /// One that is stopped does not come back but is replaced, as after a reboot.
    pub fn start(&mut self, name: &str) -> Result<()> {
        self.set_links(name, true)?;
        let old = self.processes.get(name);
        if let Some(process) = old.filter(|process| process.is_stopped()) {
            process.end(Signal::KILL)?;
        }
        if !old.is_some_and(Process::is_alive) {
            let process = match self.witness(name) {
                Some(number) => council::start_witness(&self.bin_dir, number, &self.options)?,
                None => relay::start(&self.bin_dir, self.id(name)?)?,
            };
            self.record(name, process)?;
        }
        wait_for(&format!("start of {name}"), START_LIMIT, || self.status(name)).map(drop)
    }

    /// Lets a stopped relay go on with its old beliefs.
    pub fn resume(&self, name: &str) -> Result<()> {
        self.process(name)?.signal(Signal::CONT)
    }

    /// What the relay `name` says about itself.
    pub fn status(&self, name: &str) -> Result<relay::Status> {
        relay::status(&self.bin_dir, name)
    }

    /// What relay-ctl says when the relay `name` is asked with these arguments.
    pub fn ask(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.bin_dir.join("relay-ctl"));
        command.arg("--control").arg(control_socket(name)).args(arguments);
        crate::shell::output(&mut command)
    }

    /// The relay that serves the connections; `except` is not asked.
    pub fn owner(&self, except: Option<&str>) -> Result<String> {
        let candidates = self.relays().filter(|name| Some(name.as_str()) != except);
        for name in candidates {
            if self.status(&name).is_ok_and(|status| status.is_owner()) {
                return Ok(name);
            }
        }
        bail!("no relay says that it is the owner")
    }

    /// A command in the clients' namespace.
    pub fn client(&self, program: &str) -> Command {
        in_namespace(CLIENT_NS, program)
    }

    /// curl in the clients' namespace: it trusts the lab's authority and knows the server's name
    /// at the VIP of the wanted family.
    pub fn curl(&self, ipv6: bool) -> Command {
        let address = if ipv6 { format!("[{}]", vip(true)) } else { vip(false).to_string() };
        let mut command = self.client("curl");
        command.args(["--silent", "--show-error", "--http1.1", "--fail"]);
        command.arg("--cacert").arg(pki::ca());
        command.arg("--resolve").arg(format!("{SERVER_NAME}:{PORT}:{address}"));
        command
    }

    fn describe(&self, name: String) -> RelayDescription {
        RelayDescription {
            ns: namespace(&name),
            pid: self.processes.get(&name).map_or(0, |process| process.pid),
            control: control_socket(&name),
            name,
        }
    }

    fn start_everything(&mut self) -> Result<()> {
        eprintln!("lab: namespaces and links");
        network::create(&self.options)?;
        eprintln!("lab: certificates");
        pki::create()?;
        eprintln!("lab: origin");
        let origin = origin::start()?;
        self.record(ORIGIN, origin)?;
        if self.options.relays > 0 {
            eprintln!("lab: {} relays", self.options.relays);
            relay::write_cluster_key()?;
        }
        if self.options.has_council() {
            eprintln!("lab: a council with {} witnesses", self.options.witnesses);
            council::create(&self.bin_dir, &self.options)?;
            for number in 1..=self.options.witnesses {
                let process = council::start_witness(&self.bin_dir, number, &self.options)?;
                self.record(&witness_name(number), process)?;
            }
        }
        for id in 1..=self.options.relays {
            relay::write_config(id, &self.options)?;
            let process = relay::start(&self.bin_dir, id)?;
            self.record(&relay_name(id), process)?;
        }
        Ok(())
    }

    fn set_links(&self, name: &str, up: bool) -> Result<()> {
        match self.witness(name) {
            Some(number) => network::set_witness_links(number, up),
            None => network::set_links(self.id(name)?, up),
        }
    }

    fn witness(&self, name: &str) -> Option<u8> {
        (1..=self.options.witnesses).find(|number| witness_name(*number) == name)
    }

    fn id(&self, name: &str) -> Result<u8> {
        let found = (1..=self.options.relays).find(|id| relay_name(*id) == name);
        found.with_context(|| format!("there is no relay {name}: relay-1..{}", self.options.relays))
    }

    fn process(&self, name: &str) -> Result<&Process> {
        let process = self.processes.get(name);
        process.with_context(|| format!("{name} was never started: run lab start {name}"))
    }

    /// Whatever happens next, the process can be found and ended.
    fn record(&mut self, name: &str, process: Process) -> Result<()> {
        self.processes.insert(name.to_owned(), process);
        self.save()
    }

    fn save(&self) -> Result<()> {
        let (new, path) = (state_file("state.json.new"), state_file("state.json"));
        fs::write(&new, serde_json::to_string(self)?)?;
        Ok(fs::rename(new, path)?)
    }
}
