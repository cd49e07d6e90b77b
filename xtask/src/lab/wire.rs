//! A long line between the clients and the bridge of relays and proxies.
//!
//! ```text
//!  rl-client: client0 ── cli-client ═══ wire ═══ wire0 ── wire1 ── bridge client
//! ```
//! Everything behind the first link is in `rl-switch`. Without a wire `cli-client` itself is a port
//! of the bridge; a wire can come and go while the lab is up.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use wire::bridge::{Bridge, Report};
use wire::plan::Plan;

use super::network::offloads_off;
use super::plan::{Network, SWITCH_NS};
use crate::shell::{feed, in_namespace, inside, run};

/// The wire's end toward the relays, and that end's peer.
const NEAR: &str = "wire0";
const NEAR_PEER: &str = "wire1";
/// Bytes of each frame that a capture keeps: headers with options.
const CAPTURED: &str = "120";

/// A wire in the lab that is up; it is gone with this value.
pub struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Report>>>,
    capture: Option<Child>,
}

impl Wire {
    /// Puts a wire in. Its left is the client: `right` are uploads, `left` are downloads.
    pub fn insert(plan: &Plan, mtu: u16) -> Result<Wire> {
        remove();
        let client = Network::Client.switch_port("client");
        let bridge = Network::Client.bridge();
        let links = format!(
            "link add {NEAR} mtu {mtu} type veth peer name {NEAR_PEER} mtu {mtu}\n\
             link set {NEAR} up\nlink set {client} nomaster\n\
             link set {NEAR_PEER} master {bridge} up\n"
        );
        feed(Command::new("ip").args(["-n", SWITCH_NS, "-batch", "-"]), &links)?;
        let offloads = offloads_off(NEAR) + &offloads_off(NEAR_PEER);
        feed(&mut in_namespace(SWITCH_NS, "sh"), &format!("set -e\n{offloads}"))?;
        let bridge = inside(SWITCH_NS, || Bridge::open(&client, NEAR, plan))?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || bridge.run(&flag));
        Ok(Wire { stop, thread: Some(thread), capture: None })
    }

    /// Writes what passes between wire and relays into `file` until the wire is removed.
    pub fn capture(&mut self, file: &Path) -> Result<()> {
        let mut command = in_namespace(SWITCH_NS, "tcpdump");
        command.args(["-i", NEAR, "-s", CAPTURED, "-U", "-Z", "root", "-w"]).arg(file);
        let command = command.stdin(Stdio::null()).stderr(Stdio::null());
        self.capture = Some(command.spawn().context("tcpdump: apt-get install tcpdump")?);
        // It says nothing when it is ready; its file has a header then.
        let ready = || match std::fs::metadata(file)?.len() {
            0 => Err(anyhow!("nothing is captured")),
            _ => Ok(()),
        };
        crate::shell::wait_for("capture", std::time::Duration::from_secs(5), ready)
    }

    /// Takes the wire out; what became of the frames.
    pub fn remove(mut self) -> Result<Report> {
        self.end().context("a wire ends once")?
    }

    fn end(&mut self) -> Option<Result<Report>> {
        self.stop.store(true, Relaxed);
        let report = self.thread.take()?.join();
        if let Some(mut capture) = self.capture.take() {
            let pid = i32::try_from(capture.id()).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
            let _ = capture.wait();
        }
        remove();
        Some(report.unwrap_or_else(|_| Err(anyhow!("the wire's thread panicked"))))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Whether there is a wire or not, and also when there is no lab any more.
fn remove() {
    let client = Network::Client.switch_port("client");
    let _ = run("ip", ["-n", SWITCH_NS, "link", "delete", NEAR]);
    let _ =
        run("ip", ["-n", SWITCH_NS, "link", "set", &client, "master", Network::Client.bridge()]);
}
