//! Planned moves: away from a node that is about to be switched off, and back.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use relay_abi::control::{Request, Response, StatusReport};

use crate::client;

/// How often the cluster is asked whether it is done.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// What to drain.
#[derive(Args)]
pub struct Drain {
    /// Its id
    #[arg(value_name = "NODE")]
    node: u8,
    /// Seconds to wait until the node carries nothing; 0 does not wait
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

/// Drains a node.
pub fn run(control: &Path, options: &Drain) -> Result<String, String> {
    let Drain { node, wait } = *options;
    propose(control, &Request::Drain { node })?;
    if wait == 0 {
        return Ok(format!("node {node}: asked to be drained\n"));
    }
    let ms = await_drained(control, node, Duration::from_secs(wait))?.as_millis();
    Ok(format!("node {node} carries nothing any more ({ms} ms)\n"))
}

/// Waits until a node that was asked to be drained carries nothing, and says how long that took.
pub fn await_drained(control: &Path, node: u8, limit: Duration) -> Result<Duration, String> {
    let since = Instant::now();
    loop {
        let status = status(control)?;
        if is_drained(&status, node)? {
            return Ok(since.elapsed());
        }
        if since.elapsed() >= limit {
            return Err(format!(
                "node {node} still owns flows after {} s: is another relay in sync? \
                 (relay-ctl status)",
                limit.as_secs()
            ));
        }
        sleep(INTERVAL);
    }
}

/// Ends a drain.
pub fn undrain(control: &Path, node: u8) -> Result<String, String> {
    propose(control, &Request::Undrain { node })?;
    Ok(format!("node {node}: asked to carry traffic again\n"))
}

/// Asks the council for something, through the relay at `control`.
pub fn propose(control: &Path, request: &Request) -> Result<(), String> {
    match client::ask(control, request)? {
        Response::Proposed => Ok(()),
        Response::Error(message) => Err(format!("the relay answers: {message}")),
        _ => Err("the relay answered another question: is it of this version?".to_owned()),
    }
}

/// What the relay at `control` knows.
pub fn status(control: &Path) -> Result<StatusReport, String> {
    match client::ask(control, &Request::Status)? {
        Response::Status(status) => Ok(status),
        _ => Err("the relay answered another question: is it of this version?".to_owned()),
    }
}

/// Whether the view has `node` draining, and owning nothing.
fn is_drained(status: &StatusReport, node: u8) -> Result<bool, String> {
    let Some(council) = &status.council else {
        return Err("the relay has no council".to_owned());
    };
    let member = council.members.iter().find(|member| member.id == node);
    let member = member.ok_or_else(|| format!("node {node} is no member of the cluster"))?;
    let leaves = matches!(member.state.as_str(), "draining" | "dead");
    let owns_nothing = status.shares.iter().all(|share| share.node != node);
    Ok(leaves && owns_nothing && !status.shares.is_empty())
}
