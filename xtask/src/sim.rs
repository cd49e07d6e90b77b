//! The simulator, built as it has to be for what is asked.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::binaries::cargo;

/// What to simulate.
#[derive(Clone, Debug, Args)]
#[group(id = "sim")]
pub struct Options {
    /// Run so many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// Run for so many minutes.
    #[arg(long, conflicts_with = "seeds")]
    minutes: Option<f64>,
    /// Begin with this seed.
    #[arg(long)]
    first: Option<u64>,
    /// Small worlds: fewer connections, less data.
    #[arg(long)]
    short: bool,
    /// Run this seed alone and tell what happened; SIM_TRACE=1 shows every segment.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// With --seed: write all frames of the three networks into a file.
    #[arg(long, requires = "seed")]
    pcap: Option<PathBuf>,
    /// Break one rule after the other; each breach has to be noticed.
    #[arg(long)]
    canaries: bool,
}

/// Builds the simulator and runs it.
pub fn run(options: &Options) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "sim"]);
    if options.canaries {
        command.args(["--features", "canary"]);
    }
    command.arg("--");
    let mut value = |name: &str, value: Option<String>| {
        value.into_iter().for_each(|value| _ = command.arg(name).arg(value));
    };
    value("--seeds", options.seeds.map(|seeds| seeds.to_string()));
    value("--minutes", options.minutes.map(|minutes| minutes.to_string()));
    value("--first", options.first.map(|first| first.to_string()));
    value("--seed", options.seed.map(|seed| seed.to_string()));
    if let Some(pcap) = &options.pcap {
        // The simulator runs in the workspace's root.
        command.arg("--pcap").arg(std::path::absolute(pcap)?);
    }
    for (name, set) in [("--short", options.short), ("--canaries", options.canaries)] {
        command.args(set.then_some(name));
    }
    ensure!(command.status()?.success(), "the simulator found something");
    Ok(())
}
