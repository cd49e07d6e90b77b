//! What a relay says that it dropped.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use xtask::binaries::binaries;
use xtask::lab::Lab;
use xtask::lab::plan::control_socket;
use xtask::shell::output;

use crate::wait_for;

/// How long a counter may take to show what happened.
const COUNT_LIMIT: Duration = Duration::from_secs(10);

/// `relay-ctl` for the relay `name`.
pub fn relay_ctl(lab: &Lab, name: &str) -> Result<Command> {
    let directory = binaries(lab.options().bin_dir.as_deref())?;
    let mut command = Command::new(directory.join("relay-ctl"));
    command.arg("--control").arg(control_socket(name));
    Ok(command)
}

/// Every counter of the relay `name`, as `group/name`.
pub fn counters(lab: &Lab, name: &str) -> Result<BTreeMap<String, u64>> {
    let text = output(relay_ctl(lab, name)?.args(["counters", "--all", "--json"]))?;
    let list: Vec<Value> = serde_json::from_str(&text)?;
    let word = |counter: &Value, key: &str| counter[key].as_str().unwrap_or_default().to_owned();
    let pair = |counter: &Value| {
        let name = format!("{}/{}", word(counter, "group"), word(counter, "name"));
        (name, counter["value"].as_u64().unwrap_or_default())
    };
    Ok(list.iter().map(pair).collect())
}

/// Waits until the counter `counter` of the relay `name` has grown by `least` since `before`.
pub fn await_count(
    lab: &Lab,
    name: &str,
    before: &BTreeMap<String, u64>,
    (counter, least): (&str, u64),
) -> Result<()> {
    let old = before.get(counter).copied().unwrap_or_default();
    wait_for(&format!("{counter} of {name}"), COUNT_LIMIT, || {
        let now = counters(lab, name)?;
        ensure!(now.contains_key(counter), "no such counter");
        let grown: Vec<String> = now
            .iter()
            .map(|(name, value)| (name, value - before.get(name).unwrap_or(&0).min(value)))
            .filter(|(_, more)| *more > 0)
            .map(|(name, more)| format!("{name} {more}"))
            .collect();
        let is_enough = now[counter] >= old + least;
        ensure!(is_enough, "{old} before, not {least} more; what has grown: {}", grown.join(", "));
        Ok(())
    })
}

/// Waits until the relay `name` has no flows.
pub fn await_no_flows(lab: &Lab, name: &str) -> Result<()> {
    wait_for(&format!("no flows at {name}"), Duration::from_secs(30), || {
        let text = output(relay_ctl(lab, name)?.args(["flows", "--json"]))?;
        ensure!(text.trim() == "[]", "{text}");
        Ok(())
    })
}
