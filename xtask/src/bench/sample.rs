//! One measured window, as it is kept and printed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cpu;
use super::load::Outcome;
use super::workload::Workload;

/// Whose window, in the order of a repetition: A, B, A'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// A: haproxy.
    Haproxy,
    /// B: the relay that owns the flows.
    Relay,
    /// A': the same haproxy once more. What it differs from A is noise.
    HaproxyAgain,
}

/// One window. CPU times are per completed operation, in `unit`, NaN (null) if there was none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Windows of the same number and `relays` ran one after another in one lab.
    pub repetition: u32,
    /// Name of the load.
    pub workload: String,
    /// Relays of the lab: 1 is alone, 2 is with a backup.
    pub relays: u8,
    /// Who carried the load.
    pub side: Side,
    /// `us` or `s/GB`.
    pub unit: String,
    /// User and system time of the proxy's process.
    pub proxy: Option<f64>,
    /// The other relays' processes: the backup's part; beside haproxy, what idle relays use.
    pub relays_cpu: Option<f64>,
    /// All processes of the bench: proxy, relays, origin, generator.
    pub bench: Option<f64>,
    /// Busy time of the whole machine, foreign work included.
    pub machine: Option<f64>,
    /// Share of the machine, 0 to 1, that no process of the bench accounts for.
    pub foreign: f64,
    /// Share of one core, 0 to 1, that the proxy used.
    pub load: f64,
    /// Operations that were completed.
    pub done: u32,
    /// Operations that failed.
    pub failed: usize,
    /// What the first of them said.
    pub error: Option<String>,
    /// Median latency of an operation, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile.
    pub p99_ms: Option<f64>,
    /// Seconds of the window.
    pub wall_s: f64,
}

/// Where a window belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// See [`Sample::repetition`].
    pub repetition: u32,
    /// See [`Sample::relays`].
    pub relays: u8,
    /// See [`Sample::side`].
    pub side: Side,
}

impl Sample {
    /// What `outcome` says about `workload`.
    pub fn new(place: Place, workload: &Workload, outcome: &Outcome) -> Result<Sample> {
        let (unit, scale) = workload.operation.unit();
        let usage = &outcome.usage;
        let per_operation = |time: Duration| {
            (outcome.done > 0).then(|| time.as_secs_f64() * scale / f64::from(outcome.done))
        };
        let millis = |percent| Some(outcome.latency(percent)?.as_secs_f64() * 1e3);
        Ok(Sample {
            repetition: place.repetition,
            workload: workload.name.to_owned(),
            relays: place.relays,
            side: place.side,
            unit: unit.to_owned(),
            proxy: per_operation(usage.proxy),
            relays_cpu: per_operation(usage.relays),
            bench: per_operation(usage.proxy + usage.relays + usage.origin + usage.generator),
            machine: per_operation(usage.machine),
            foreign: usage.foreign(cpu::cores()?),
            load: usage.proxy.as_secs_f64() / usage.wall.as_secs_f64(),
            done: outcome.done,
            failed: outcome.errors.len(),
            error: outcome.errors.first().cloned(),
            p50_ms: millis(50),
            p99_ms: millis(99),
            wall_s: usage.wall.as_secs_f64(),
        })
    }
}

/// Reads the samples of a file that [`append`] wrote; none if there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let parse = |line| serde_json::from_str(line).with_context(|| path.display().to_string());
    text.lines().map(parse).collect()
}

/// Adds one line of JSON to a file.
pub fn append<T: Serialize>(path: &Path, sample: &T) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(writeln!(file, "{}", serde_json::to_string(sample)?)?)
}
