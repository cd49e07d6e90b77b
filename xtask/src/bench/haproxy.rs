//! The peer: Debian's haproxy as an L4 TLS terminator, in a namespace of its own on the lab's
//! bridges, with the relay's certificate and origin.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::pki;
use crate::lab::plan::{
    BACKEND_PORT, BACKEND_RAW_PORT, CLIENT_NS, ENDPOINT_HOST, Network, PORT, RAW_PORT, SWITCH_NS,
    state_file,
};
use crate::lab::process::{Process, Signal};
use crate::lab::{Congestion, Options};
use crate::shell::{feed, in_namespace, inside, output, run, wait_for};

/// Its namespace.
const NAMESPACE: &str = "rl-haproxy";
/// Its name among the nodes.
const NAME: &str = "haproxy";
/// Its host number: between the relays and the VIP.
const HOST: u8 = 50;
/// How long it may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A haproxy that serves; it ends with this value.
pub struct Haproxy(Process);

impl Haproxy {
    /// Where clients find it.
    pub fn address() -> Ipv4Addr {
        Network::Client.v4(HOST)
    }

    /// What `haproxy -v` says first.
    pub fn version() -> Result<String> {
        let text = run(NAME, ["-v"])?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Attaches it to the lab that is up and starts it.
    pub fn start(lab: &Options) -> Result<Haproxy> {
        remove();
        attach(lab)?;
        let certificate = state_file("haproxy.pem");
        let (chain, key) = &pki::server_certificates()[0];
        fs::write(&certificate, fs::read_to_string(chain)? + &fs::read_to_string(key)?)?;
        let path = state_file("haproxy.cfg");
        fs::write(&path, config())?;
        // Should this program be killed, haproxy goes with it.
        let mut command = in_namespace(NAMESPACE, "setpriv");
        command.args(["--pdeathsig", "KILL", NAME, "-db", "-q", "-f"]).arg(&path);
        let process = Process::spawn(&mut command, &state_file("haproxy.log"))?;
        let proxy = Haproxy(process);
        let connect = || TcpStream::connect((Haproxy::address(), PORT)).map(drop);
        let answers = || inside(CLIENT_NS, || connect().context("haproxy does not listen"));
        wait_for("start of haproxy", START_LIMIT, answers)?;
        Ok(proxy)
    }

    /// Congestion control of the connections that it accepts from now on.
    pub fn set_congestion(&self, algorithm: Congestion) -> Result<()> {
        let setting = format!("net.ipv4.tcp_congestion_control={}", algorithm.as_str());
        output(in_namespace(NAMESPACE, "sysctl").args(["-q", "-w", &setting])).map(drop)
    }

    /// Its only process.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // What cannot be ended here is ended with this program.
        let _ = self.0.end(Signal::KILL);
        remove();
    }
}

/// The namespace may exist or not.
fn remove() {
    let _ = run("ip", ["netns", "delete", NAMESPACE]);
}

/// Links like those that the lab gives to its relays.
fn attach(lab: &Options) -> Result<()> {
    let (mut links, mut own) = (format!("netns add {NAMESPACE}\n"), String::new());
    let mut settings = format!(
        "set -e\necho {} > /proc/sys/net/ipv4/tcp_congestion_control\n\
         # No connection shall know what an earlier one met with.\n\
         echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save\n",
        lab.congestion.as_str()
    );
    let mut switch = "set -e\n".to_owned();
    for network in [Network::Client, Network::Backend] {
        let (device, port) = (network.device(), network.switch_port(NAME));
        writeln!(
            links,
            "link add name {device} netns {NAMESPACE} address {mac} {queues} \
             type veth peer name {port} netns {SWITCH_NS} {queues}",
            mac = network.mac(HOST),
            queues = format_args!("numtxqueues {n} numrxqueues {n}", n = lab.queues),
        )?;
        writeln!(own, "link set {device} mtu {} up", lab.mtu)?;
        writeln!(own, "address replace {}/24 dev {device}", network.v4(HOST))?;
        settings += &offloads_off(&device);
        switch += &offloads_off(&port);
        let (mtu, bridge) = (lab.mtu, network.bridge());
        writeln!(switch, "ip link set {port} mtu {mtu} master {bridge} up")?;
    }
    feed(Command::new("ip").args(["-batch", "-"]), &links)?;
    feed(&mut in_namespace(SWITCH_NS, "sh"), &switch)?;
    feed(&mut in_namespace(NAMESPACE, "sh"), &settings)?;
    feed(Command::new("ip").args(["-n", NAMESPACE, "-batch", "-"]), &own)
}

/// As on all of the lab's links: kernel and AF_XDP receivers get the same frames.
fn offloads_off(device: &str) -> String {
    format!("ethtool -K {device} tx off tso off gso off gro off > /dev/null\n")
}

fn config() -> String {
    format!(
        "global
    nbthread 1
    maxconn 4096
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-bind-curves X25519
defaults
    mode tcp
    timeout connect 5s
    timeout client 600s
    timeout server 600s
frontend clients
    bind {own}:{PORT} ssl crt {certificate}
    default_backend origin
backend origin
    server origin {origin}:{BACKEND_PORT}
frontend raw-clients
    bind {own}:{RAW_PORT} ssl crt {certificate}
    default_backend raw-origin
backend raw-origin
    server origin {origin}:{BACKEND_RAW_PORT}
",
        own = Haproxy::address(),
        certificate = state_file("haproxy.pem").display(),
        origin = Network::Backend.v4(ENDPOINT_HOST),
    )
}
