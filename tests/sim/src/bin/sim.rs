//! The simulator's command line; `cargo xtask sim` runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use sim::campaign::Campaign;
use sim::{Swarm, run_captured};

/// Seeds of a campaign unless told.
const SEEDS: u64 = 200;

/// Whole nodes over a simulated network.
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Cli {
    /// Run so many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// Run for so many minutes.
    #[arg(long, conflicts_with = "seeds")]
    minutes: Option<f64>,
    /// Begin with this seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Small worlds: fewer connections, less data.
    #[arg(long)]
    short: bool,
    /// Small worlds of two to four relays, whose views come from a council.
    #[arg(long, conflicts_with = "short")]
    views: bool,
    /// With --views: so many units of ownership, rather than as many as the seed says.
    #[arg(long, requires = "views", value_parser = clap::value_parser!(u8).range(1..=64))]
    units: Option<u8>,
    /// Run this seed alone and tell what happened; SIM_TRACE=1 shows every segment.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// With --seed: write all frames of the three networks into a file.
    #[arg(long, requires = "seed")]
    pcap: Option<PathBuf>,
    /// Kill the owner of a small exchange at every event boundary of the world.
    #[arg(long)]
    every_event: bool,
    /// Break one rule after the other; each breach has to be noticed.
    #[arg(long)]
    canaries: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let swarm = match (cli.short, cli.views) {
        (true, _) => Swarm::Short,
        (_, true) => Swarm::Views(cli.units),
        _ => Swarm::Long,
    };
    let good = match cli.seed {
        _ if cli.canaries => canaries(),
        _ if cli.every_event => every_event(),
        Some(seed) => repeat(seed, swarm, cli.pcap),
        None => {
            let time = cli.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
            let seeds = if time.is_some() { None } else { Some(cli.seeds.unwrap_or(SEEDS)) };
            let totals = Campaign { swarm, first: cli.first, seeds, time }.run();
            println!("{totals}");
            totals.failed.is_empty()
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Kills the owner at every event.
fn every_event() -> bool {
    let mut good = true;
    for (name, exchange) in sim::every_event::exchanges() {
        let covered = sim::every_event::cover(name, &exchange);
        let sim::every_event::Covered { points, survivals, failures, .. } = covered;
        println!("{name}: {points} points, the connection went on at {survivals}");
        failures.iter().for_each(|failure| println!("FAILED: {failure}"));
        good &= failures.is_empty();
    }
    good
}

/// Runs one seed again.
fn repeat(seed: u64, swarm: Swarm, pcap: Option<PathBuf>) -> bool {
    let report = run_captured(seed, swarm, pcap.is_some());
    report.log.iter().for_each(|line| println!("{line}"));
    if let Some(path) = pcap
        && let Err(error) = std::fs::write(&path, sim::pcap::write(&report.captured))
    {
        eprintln!("{}: {error}", path.display());
        return false;
    }
    println!("digest {:016x}, {} frames, {:?}", report.digest, report.frames, report.took);
    report.failures.iter().for_each(|failure| println!("FAILED: {failure}"));
    report.failures.is_empty()
}

#[cfg(feature = "canary")]
fn canaries() -> bool {
    let mut good = true;
    for (trial, verdict) in sim::canary::run_all() {
        let name = format!("{:?}", trial.canary);
        match &verdict.caught {
            Some((seed, how)) => println!("{name:<20} seed {seed} of {}: {how}", trial.seeds),
            None => println!("{name:<20} NOT NOTICED in {} seeds", trial.seeds),
        }
        good &= verdict.is_good();
        if let Some((seed, how)) = verdict.control {
            println!("{name:<20} FAILS WITH NOTHING BROKEN, seed {seed}: {how}");
        }
    }
    good
}

#[cfg(not(feature = "canary"))]
fn canaries() -> bool {
    eprintln!("built without the feature canary");
    false
}
