//! The bench: the relay and haproxy in turns, in one lab, with one certificate, one origin and one
//! load. docs/BENCHMARKS.md says what is measured and what is not.

pub mod client;
mod cpu;
mod haproxy;
mod load;
mod pair;
mod pause;
mod report;
mod sample;
mod tcp;
mod workload;

use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use self::cpu::{Cast, PROXY_CORE, REST_CORE};
use self::haproxy::Haproxy;
use self::report::Report;
use self::sample::{Place, Sample, Side};
use self::workload::Workload;
use crate::binaries::{BIN_DIR_VARIABLE, cargo};
use crate::lab::plan::{state_file, vip};
use crate::lab::turn::Turn;
use crate::lab::{Lab, Options as LabOptions};

/// Benchmarks.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// CPU per operation of the relay and of haproxy, side by side: about a minute per repetition.
    Quick(Options),
    /// What clients and backends notice of a takeover: about two minutes per outage.
    Pause(pause::Options),
    /// Throughput over a long and lossy line, of the relay and of the kernel's TCP: an hour.
    Tcp(tcp::Options),
}

/// How to measure.
#[derive(Clone, Debug, Args)]
#[group(id = "bench")]
pub struct Options {
    /// How often everything is measured, each time with new processes.
    #[arg(long, default_value_t = 5)]
    pub repetitions: u32,
    /// Print every window as a line of JSON on standard output; the tables go to standard error.
    #[arg(long)]
    pub json: bool,
    /// Keep the windows in this file, too, and count those in, that it has from earlier runs.
    #[arg(long)]
    pub samples: Option<PathBuf>,
    /// Directory of release builds of relay-dataplane and relay-ctl; built when it is not given.
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
}

/// Runs a benchmark and prints its tables. There are no targets: it fails only when it cannot
/// measure.
pub fn run(command: &BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Quick(options) => quick(options),
        BenchCommand::Pause(options) => pause::run(options),
        BenchCommand::Tcp(options) => tcp::run(options),
    }
}

fn quick(options: &Options) -> Result<()> {
    cpu::cores()?;
    let bin_dir = release_binaries(options.bin_dir.as_ref())?;
    eprintln!("bench: {}", Haproxy::version().context("haproxy: apt-get install haproxy")?);
    let mut bench = Bench { options, bin_dir, samples: Vec::new() };
    if let Some(path) = &options.samples {
        bench.samples = sample::read(path)?;
    }
    let earlier = bench.samples.iter().map(|sample| sample.repetition).max().unwrap_or(0);
    let _turn = Turn::wait("bench")?;
    for repetition in (1..=options.repetitions).map(|number| earlier + number) {
        for relays in [1, 2] {
            eprintln!("bench: repetition {repetition}, relays: {relays}");
            let measured = bench.measure(repetition, relays);
            Lab::down()?;
            measured?;
        }
    }
    let report = Report(&bench.samples);
    if options.json {
        eprintln!("{report}");
    } else {
        println!("{report}");
    }
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    bin_dir: PathBuf,
    samples: Vec<Sample>,
}

impl Bench<'_> {
    /// All loads in a new lab.
    fn measure(&mut self, repetition: u32, relays: u8) -> Result<()> {
        let options =
            LabOptions { relays, bin_dir: Some(self.bin_dir.clone()), ..LabOptions::default() };
        let lab = Lab::up(&options)?;
        workload::prepare_origin()?;
        let haproxy = Haproxy::start(&options)?;
        let stage = Stage::new(&lab, &haproxy)?;
        for workload in &workload::ALL {
            for side in [Side::Haproxy, Side::Relay, Side::HaproxyAgain] {
                let place = Place { repetition, relays, side };
                self.keep(stage.window(place, workload)?)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, sample: Sample) -> Result<()> {
        eprintln!(
            "bench: {:28} {:14} {:>8} done {:>4} failed  px {:>8.2} {:5} foreign {:.2}",
            sample.workload,
            format!("{:?}", sample.side),
            sample.done,
            sample.failed,
            sample.proxy.unwrap_or(f64::NAN),
            sample.unit,
            sample.foreign
        );
        if self.options.json {
            println!("{}", serde_json::to_string(&sample)?);
        }
        if let Some(path) = &self.options.samples {
            sample::append(path, &sample)?;
        }
        self.samples.push(sample);
        Ok(())
    }
}

/// The pinned processes of a lab.
struct Stage {
    haproxy: i32,
    owner: i32,
    relays: Vec<i32>,
    origin: Vec<i32>,
}

impl Stage {
    fn new(lab: &Lab, haproxy: &Haproxy) -> Result<Stage> {
        let owner = lab.owner(None)?;
        let (mut owners, mut others) = (Vec::new(), Vec::new());
        for relay in lab.description().relays {
            if relay.name == owner { &mut owners } else { &mut others }.push(relay.pid);
        }
        let nginx = fs::read_to_string(state_file("nginx.pid"))?.trim().parse()?;
        let stage = Stage {
            haproxy: haproxy.pid(),
            owner: *owners.first().context("the owner has no process")?,
            relays: others,
            origin: cpu::tree(nginx)?,
        };
        for pid in [stage.haproxy, stage.owner] {
            cpu::pin(pid, PROXY_CORE)?;
        }
        for pid in stage.origin.iter().chain(&stage.relays) {
            cpu::pin(*pid, REST_CORE)?;
        }
        Ok(stage)
    }

    fn window(&self, place: Place, workload: &Workload) -> Result<Sample> {
        let (address, cast) = match place.side {
            Side::Relay => {
                let cast = Cast {
                    proxy: self.owner,
                    relays: self.relays.clone(),
                    origin: self.origin.clone(),
                };
                (vip(false), cast)
            }
            Side::Haproxy | Side::HaproxyAgain => {
                let relays = [&[self.owner], &self.relays[..]].concat();
                let cast = Cast { proxy: self.haproxy, relays, origin: self.origin.clone() };
                (IpAddr::from(Haproxy::address()), cast)
            }
        };
        let outcome = load::drive(workload, address, &cast)
            .with_context(|| format!("{}, {:?}", workload.name, place.side))?;
        Sample::new(place, workload, &outcome)
    }
}

/// The relay is measured as it is shipped, whatever profile this program has.
fn release_binaries(chosen: Option<&PathBuf>) -> Result<PathBuf> {
    let given = chosen.cloned();
    if let Some(directory) = given.or_else(|| env::var_os(BIN_DIR_VARIABLE).map(PathBuf::from)) {
        return Ok(directory);
    }
    eprintln!("building relay-dataplane and relay-ctl");
    let mut command = cargo();
    command.args(["build", "--release", "--package", "relay-dataplane", "--package", "relay-ctl"]);
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status()?;
    ensure!(status.success(), "the relay does not build");
    let program = env::current_exe()?;
    let target = program.ancestors().nth(2).context("this program is in a profile's directory")?;
    Ok(target.join("release"))
}
