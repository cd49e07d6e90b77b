//! Relays of two versions of the protocol in one cluster: connections go on whichever of them is lost,
//! and after an upgrade all speak the newer one.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::client::Client;
use e2e::conversation::Conversation;
use e2e::{Fixture, How, Options, SYNC_LIMIT, plan, wait_for};
use serde_json::Value;

const SECTION: &str = "[cluster.council]\n";
const FORMER: &str = "[cluster.council]\nprotocol = 4\n";

/// Rewrites the configuration of a relay that does not run.
fn configure(relay: &str, from: &str, to: &str) -> Result<()> {
    let path = plan::state_file(&format!("{relay}.toml"));
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(from), "{text}");
    Ok(fs::write(&path, text.replace(from, to))?)
}

fn status(lab: &Fixture, relay: &str) -> Result<Value> {
    Ok(serde_json::from_str(&lab.ask(relay, &["status", "--json"])?)?)
}

/// Waits until all relays but those in `lost` are in sync and vote, and those two speak version 4 of
/// whom one is `old`.
fn await_versions(lab: &Fixture, lost: &[&str], old: Option<&str>) -> Result<()> {
    let id = |relay: &str| relay.trim_start_matches("relay-").parse::<u64>().unwrap_or(0);
    wait_for("versions", SYNC_LIMIT, || {
        for relay in lab.relays().filter(|relay| !lost.contains(&relay.as_str())) {
            let status = status(lab, &relay)?;
            let members = status["council"]["members"].as_array().context("a list of members")?;
            let is_lost = |node: &Value| lost.iter().any(|lost| node["id"] == id(lost));
            let is_odd = |member: &&Value| {
                let lives = member["state"] == "live";
                lives == is_lost(member) || (member["votes"] == true) != lives
            };
            ensure!(members.iter().find(is_odd).is_none(), "{members:?}");
            for peer in status["peers"].as_array().context("a list of peers")? {
                if is_lost(peer) {
                    continue;
                }
                let is_old = |old| relay == old || peer["id"] == id(old);
                let version = if old.is_some_and(is_old) { 4 } else { 5 };
                let speaks = peer["alive"] == true && peer["version"] == version;
                ensure!(speaks && peer["in_sync"] == true, "{relay}: {peer:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn connections_go_on_between_two_versions() {
    let options = Options { relays: 3, witnesses: 1, ..Options::default() };
    let mut lab = Fixture::up(&options).unwrap();
    let owner = lab.owner(None).unwrap();
    let mut others = lab.relays().filter(|name| *name != owner);
    let (old, third) = (others.next().unwrap(), others.next().unwrap());
    await_versions(&lab, &[], None).unwrap();
    lab.kill(&old, How::Sigkill).unwrap();
    configure(&old, SECTION, FORMER).unwrap();
    lab.bring_back(&old).unwrap();
    await_versions(&lab, &[], Some(&old)).unwrap();

    let listener = lab.backend_listener().unwrap();
    let client = Client::raw(&lab, false, "1.3").unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    talk.exchange().unwrap();

    // From a new owner to an old backup.
    lab.kill(&third, How::Powercut).unwrap();
    await_versions(&lab, &[&third], Some(&old)).unwrap();
    assert_eq!(lab.lose_owner(How::Powercut).unwrap(), (owner.clone(), old.clone()));
    talk.exchange().unwrap();
    lab.bring_back(&owner).unwrap();
    lab.bring_back(&third).unwrap();
    await_versions(&lab, &[], Some(&old)).unwrap();

    // From an old owner to a new backup, and the old one is upgraded.
    let (lost, _) = lab.lose_owner(How::Sigkill).unwrap();
    assert_eq!(lost, old);
    talk.exchange().unwrap();
    configure(&old, FORMER, SECTION).unwrap();
    lab.bring_back(&old).unwrap();
    await_versions(&lab, &[], None).unwrap();
    lab.lose_owner(How::Powercut).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
}
