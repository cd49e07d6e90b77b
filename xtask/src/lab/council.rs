//! The councils of a lab: their certificates, their part of the configuration, and the witnesses.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Options;
use super::plan::{
    COUNCIL_PORT, Network, control_socket, namespace, relay_host, state_file, witness_host,
    witness_name,
};
use super::process::Process;
use super::relay::{config_file, log};
use crate::shell::{in_namespace, run};

/// Makes the cluster's authority and a certificate for every member, as an operator would.
pub fn create(bin_dir: &Path, options: &Options) -> Result<()> {
    let ctl = bin_dir.join("relay-ctl");
    let (ctl, directory) = (ctl.to_string_lossy(), directory());
    let directory = directory.to_string_lossy();
    run(&ctl, ["cluster", "init", "--directory", &directory])?;
    let mut arguments = vec!["cluster".to_owned(), "certificate".to_owned()];
    arguments.extend(["--directory".to_owned(), directory.into_owned()]);
    for (id, _, _) in members(options) {
        arguments.extend(["--node".to_owned(), id.to_string()]);
    }
    run(&ctl, &arguments).map(drop)
}

/// The section of node `id`.
pub fn section(id: u8, options: &Options) -> Result<String> {
    let (votes, directory) = (state_file(&format!("votes-{id}")), directory());
    let (votes, directory) = (votes.display(), directory.display());
    let mut text = format!(
        "
[cluster.council]
directory = \"{votes}\"
certificate = \"{directory}/node-{id}.pem\"
key = \"{directory}/node-{id}.key\"
ca = \"{directory}/ca.pem\"
units = {units}
",
        units = options.units,
    );
    if options.relays == 2 && options.witnesses == 0 {
        text += "without_witness = true\n";
    }
    for (id, host, kind) in members(options) {
        let address = Network::Cluster.v4(host);
        write!(
            text,
            "
[[cluster.council.member]]
id = {id}
address = \"{address}:{COUNCIL_PORT}\"
kind = \"{kind}\"
"
        )?;
    }
    Ok(text)
}

/// Starts witness `number` with a fresh configuration.
pub fn start_witness(bin_dir: &Path, number: u8, options: &Options) -> Result<Process> {
    let (name, id) = (witness_name(number), witness_host(number));
    let control = control_socket(&name);
    let text = format!("[node]\nid = {id}\ncontrol = \"{}\"\n", control.display());
    fs::write(config_file(&name), text + &section(id, options)?)?;
    let mut command = in_namespace(&namespace(&name), bin_dir.join("relay-dataplane"));
    command.arg("--witness").arg("--config").arg(config_file(&name));
    Process::spawn(&mut command, &log(&name))
}

/// Id, host number and kind of everybody who decides.
fn members(options: &Options) -> impl Iterator<Item = (u8, u8, &'static str)> {
    let relays = (1..=options.relays).map(|id| (id, relay_host(id), "relay"));
    let witnesses = (1..=options.witnesses).map(witness_host);
    relays.chain(witnesses.map(|host| (host, host, "witness")))
}

fn directory() -> PathBuf {
    state_file("trust")
}
