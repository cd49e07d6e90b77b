//! What relays say to clients and to backends, seen from the wire.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::lab::plan::{BACKEND_NS, CLIENT_NS, Network, VIRTUAL_HOST, vip};
use xtask::shell::in_namespace;

/// Program for python3; its own words say how to use it.
const WATCH_STREAMS: &str = include_str!("watch_streams.py");

/// Both sides are watched from here on.
pub struct Watch([(&'static str, Child, BufReader<ChildStdout>); 2]);

impl Watch {
    /// Begins to watch.
    pub fn begin() -> Result<Watch> {
        let client = (CLIENT_NS, Network::Client.device(), vip(false));
        let backend =
            (BACKEND_NS, Network::Backend.device(), Network::Backend.v4(VIRTUAL_HOST).into());
        let start = |name, (namespace, device, source): (&str, String, std::net::IpAddr)| {
            let mut command = in_namespace(namespace, "python3");
            command.args(["-c", WATCH_STREAMS, &device, &source.to_string()]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let mut output = BufReader::new(child.stdout.take().context("a standard output")?);
            let mut line = String::new();
            output.read_line(&mut line)?;
            ensure!(line == "ready\n", "the watch at {device} says {line:?}");
            anyhow::Ok((name, child, output))
        };
        Ok(Watch([start("client", client)?, start("backend", backend)?]))
    }

    /// No byte of any stream had two values, whoever sent it, and nobody was reset.
    pub fn end(self) -> Result<()> {
        for (name, mut child, mut output) in self.0 {
            drop(child.stdin.take());
            let mut line = String::new();
            output.read_line(&mut line)?;
            child.wait()?;
            let seen: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            eprintln!("watch: {name}: {seen}");
            let conflicts = seen["conflicts"].as_array().context("a list of conflicts")?;
            ensure!(seen["bytes"].as_u64() > Some(0), "nothing was seen at the {name}'s side");
            ensure!(conflicts.is_empty(), "two values at the {name}'s side: {conflicts:?}");
            ensure!(seen["resets"].as_u64() == Some(0), "resets at the {name}'s side: {seen}");
        }
        Ok(())
    }
}
