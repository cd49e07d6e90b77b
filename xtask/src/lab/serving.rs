//! When a lab is up: real requests are answered through the VIP, and a backup could take over.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::plan::{BACKEND_NS, BACKEND_PORT, ENDPOINT_HOST, Network, PORT, SERVER_NAME};
use super::relay::BUCKETS;
use super::{Lab, origin, plan, relay};
use crate::shell::{inside, output, wait_for};

/// How long a new lab may take until it serves.
const LIMIT: Duration = Duration::from_secs(30);
/// How long one request may take, in seconds; an unanswered SYN is repeated after one.
const REQUEST_LIMIT_S: &str = "3";

/// Waits until the lab serves; the error says what is missing and shows the relays' last words.
pub fn wait(lab: &Lab) -> Result<()> {
    let served = wait_for("lab up", LIMIT, || {
        origin()?;
        alive(lab)?;
        if lab.options().relays == 0 {
            return Ok(());
        }
        council(lab)?;
        roles(lab)?;
        answers(lab, false)?;
        answers(lab, true)
    });
    served.map_err(|error| error.context(last_words(lab)))
}

fn origin() -> Result<()> {
    let address = (Network::Backend.v4(ENDPOINT_HOST), BACKEND_PORT);
    let connect = || TcpStream::connect(address).map(drop).context("the origin does not listen");
    inside(BACKEND_NS, connect)
}

/// A relay that ended will never serve: its exit is the better message.
fn alive(lab: &Lab) -> Result<()> {
    for name in lab.relays().chain(lab.witnesses()) {
        if !lab.process(&name)?.is_alive() {
            bail!("{name} ended, see {}", relay::log(&name).display());
        }
    }
    Ok(())
}

fn roles(lab: &Lab) -> Result<()> {
    let relays: Vec<_> = lab.relays().collect();
    if lab.options().forwards() {
        return shares(lab, &relays);
    }
    let statuses = relays.iter().map(|name| lab.status(name)).collect::<Result<Vec<_>>>()?;
    if !statuses.iter().any(|status| status.is_owner()) {
        bail!("no relay is the owner: {statuses:?}");
    }
    if relays.len() > 1 && !statuses.iter().any(|status| status.is_ready_backup()) {
        bail!("no relay is a backup in sync: {statuses:?}");
    }
    Ok(())
}

/// Says what is missing until all buckets are owned by `relays`, each of which has its share up to one
/// unit and is in sync.
pub fn shares(lab: &Lab, relays: &[String]) -> Result<()> {
    let statuses = relays.iter().map(|name| lab.status(name)).collect::<Result<Vec<_>>>()?;
    let owned = || statuses.iter().map(|status| status.buckets_owned);
    let (due, unit) = (BUCKETS / relays.len() as u32, BUCKETS / u32::from(lab.options().units));
    let is_fair = owned().all(|owned| owned.abs_diff(due) <= unit);
    let is_whole = owned().sum::<u32>() == BUCKETS;
    if !is_fair || !is_whole || !statuses.iter().all(|status| status.in_sync) {
        bail!("the relays do not share the buckets in sync: {statuses:?}");
    }
    Ok(())
}

fn council(lab: &Lab) -> Result<()> {
    if !lab.options().has_council() {
        return Ok(());
    }
    let members = lab.options().relays + lab.options().witnesses;
    for name in lab.relays().chain(lab.witnesses()) {
        let council = lab.status(&name)?.council;
        if !council.as_ref().is_some_and(|council| council.is_complete(members)) {
            bail!("the council of {name} is not complete: {council:?}");
        }
    }
    Ok(())
}

fn answers(lab: &Lab, ipv6: bool) -> Result<()> {
    let (name, length) = origin::FILES[0];
    let url = format!("https://{SERVER_NAME}:{PORT}/{name}");
    let mut curl = lab.curl(ipv6);
    curl.args(["--max-time", REQUEST_LIMIT_S, "--output", "/dev/null"]);
    curl.args(["--write-out", "%{size_download}"]).arg(url);
    let vip = plan::vip(ipv6);
    let received = output(&mut curl).with_context(|| format!("a request through {vip}"))?;
    if received != length.to_string() {
        bail!("{received} of {length} bytes through {vip}");
    }
    Ok(())
}

/// The ends of the relays' logs.
fn last_words(lab: &Lab) -> String {
    const LINES: usize = 15;
    let mut text = String::from("the lab does not serve");
    for name in lab.relays().chain(lab.witnesses()) {
        let path = relay::log(&name);
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        text += &format!("\n--- end of {}\n{}", path.display(), tail.join("\n"));
    }
    text
}
