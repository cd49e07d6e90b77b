//! The pause: what clients and backends notice when the owner dies in the middle of a transfer.
//! docs/BENCHMARKS.md says what is measured.

pub mod flow;
mod sample;
mod table;
pub mod trial;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::flow::Shape;
use self::sample::Sample;
use self::table::Table;
use self::trial::Trials;
use super::release_binaries;
use super::sample::{append, read};
use crate::lab::{Congestion, Lab, Options as LabOptions, network};

/// Heartbeats in a timeout: the relay demands at least four.
const HEARTBEATS: u32 = 4;
/// Longest time between two heartbeats, in milliseconds, so that a takeover comes soon after the
/// timeout.
const HEARTBEAT_MAX_MS: u32 = 5;
/// Trials of a cell that may fail in a row, for instance by a takeover that nobody asked for.
const FAILURES_MAX: u32 = 5;

/// How to measure.
#[derive(Clone, Debug, Args)]
#[group(id = "pause")]
pub struct Options {
    /// Kills for each outage, congestion control and kind of load.
    #[arg(long, default_value_t = 10)]
    pub trials: u32,
    /// Milliseconds of silence after which the backup takes over.
    #[arg(long, value_delimiter = ',', default_values_t = [20, 60, 150, 500])]
    pub outages: Vec<u32>,
    /// Congestion controls of clients and backends.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Congestion::Cubic, Congestion::Bbr])]
    pub congestion: Vec<Congestion>,
    /// What carries the connections, for the table: the variant of the relay that is measured.
    #[arg(long, default_value = "as built")]
    pub label: String,
    /// Keep every pause in this file, too, and count those in, that it has from earlier runs.
    #[arg(long)]
    pub samples: Option<PathBuf>,
    /// Directory of release builds of relay-dataplane and relay-ctl; built when it is not given.
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
}

/// Runs the benchmark and prints its table. There are no targets: it fails only when it cannot
/// measure.
pub fn run(options: &Options) -> Result<()> {
    let bin_dir = release_binaries(options.bin_dir.as_ref())?;
    for algorithm in &options.congestion {
        network::allow_congestion_control(algorithm.as_str())?;
    }
    let mut samples: Vec<Sample> = match &options.samples {
        Some(path) => read(path)?,
        None => Vec::new(),
    };
    for outage in &options.outages {
        let lab = LabOptions {
            timeout_ms: *outage,
            heartbeat_ms: (outage / HEARTBEATS).min(HEARTBEAT_MAX_MS),
            bin_dir: Some(bin_dir.clone()),
            ..LabOptions::default()
        };
        let measured = Lab::up(&lab).and_then(|lab| measure(lab, options, *outage));
        Lab::down()?;
        for sample in measured? {
            if let Some(path) = &options.samples {
                append(path, &sample)?;
            }
            samples.push(sample);
        }
    }
    println!("{}", Table(&samples));
    println!("Load averages at the end: {}", fs::read_to_string("/proc/loadavg")?.trim());
    Ok(())
}

fn measure(mut lab: Lab, options: &Options, outage: u32) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut trials = Trials::new(&mut lab)?;
    let light = [Shape::TailDown, Shape::TailUp, Shape::Request];
    let bulk = [Shape::BulkDown, Shape::BulkUp];
    let mut loads = Vec::new();
    for congestion in &options.congestion {
        loads.extend([&bulk[..], &light[..]].map(|shapes| (shapes, *congestion)));
    }
    for number in 1..=options.trials {
        for (shapes, congestion) in &loads {
            let mut failures = 0;
            let flows = loop {
                match trials.run(shapes, *congestion) {
                    Ok(flows) => break flows,
                    Err(error) => {
                        eprintln!("pause: {outage} ms: {error:#}");
                        failures += 1;
                        ensure!(failures < FAILURES_MAX, "too many failures in a row");
                        trials.recover().context("the lab does not come back")?;
                    }
                }
            };
            for pause in flows {
                let sample = Sample::new((&options.label, outage, *congestion), &pause);
                eprintln!("pause: {number}/{}: {sample}", options.trials);
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}
