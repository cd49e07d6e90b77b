//! Our TCP and the kernel's over the same line: the relay and haproxy in turns, behind a wire with
//! delay, rate, queue and losses. docs/BENCHMARKS.md says what is measured.

mod path;
mod sample;
mod table;
mod transfer;

use std::fs;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::path::{Bottleneck, Path};
use self::sample::Sample;
use self::table::Table;
use self::transfer::{Direction, Transfer};
use super::client::Tls;
use super::haproxy::Haproxy;
use super::sample::{Side, append, read};
use super::{pair, release_binaries};
use crate::lab::plan::{CLIENT_NS, vip};
use crate::lab::wire::Wire;
use crate::lab::{Congestion, Lab, Options as LabOptions, network};
use crate::shell::{in_namespace, output};

/// Round-trip times and losses, as in the table.
const PATHS: &str = "20ms:0%,20ms:0.1%,20ms:0.5%,20ms:1%,20ms:2%,\
                     20ms:0.1%b,20ms:0.5%b,20ms:1%b,20ms:2%b,100ms:0%";
/// A few of them.
const QUICK_PATHS: &str = "20ms:0%,20ms:1%";
/// Transfers that may fail in a row: the handshake may be lost too often.
const FAILURES_MAX: u32 = 5;

/// How to measure.
#[derive(Clone, Debug, Args)]
#[group(id = "tcp")]
pub struct Options {
    /// How often everything is measured, each time with another seed.
    #[arg(long, default_value_t = 5)]
    pub repetitions: u32,
    /// A smoke test: one repetition, two paths, small transfers.
    #[arg(long)]
    pub quick: bool,
    /// Congestion controls: of the relay, and of the kernels that it is compared with.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Congestion::Cubic])]
    pub congestion: Vec<Congestion>,
    /// Who sends.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Direction::Down, Direction::Up])]
    pub direction: Vec<Direction>,
    /// Round-trip times with shares of lost frames; `b` for losses in bursts of four.
    #[arg(long, value_delimiter = ',', default_value = PATHS)]
    pub paths: Vec<Path>,
    /// Rate of the line.
    #[arg(long, default_value = "100mbit", value_parser = wire::units::rate)]
    pub rate: u64,
    /// Length of the queue at its begin, in bandwidth-delay products.
    #[arg(long, default_value_t = 1.0)]
    pub queue_bdp: f64,
    /// Bytes of a transfer.
    #[arg(long, default_value = "16m", value_parser = wire::units::bytes)]
    pub bytes: usize,
    /// Seconds after which a transfer is cut off, and counts with what it has done.
    #[arg(long, default_value_t = 6)]
    pub limit: u64,
    /// Relays: with two or more, nothing is released before a backup has it.
    #[arg(long, default_value_t = 2)]
    pub relays: u8,
    /// Print every transfer as a line of JSON on standard output; the table goes to standard error.
    #[arg(long)]
    pub json: bool,
    /// Keep every transfer in this file, too, and count those in, that it has from earlier runs.
    #[arg(long)]
    pub samples: Option<PathBuf>,
    /// Capture headers at the relays' end of the line into this directory.
    #[arg(long)]
    pub capture: Option<PathBuf>,
    /// Directory of release builds of relay-dataplane and relay-ctl; built when it is not given.
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
}

/// Runs the benchmark and prints its table. There are no targets: it fails only when it cannot
/// measure.
pub fn run(options: &Options) -> Result<()> {
    let mut options = options.clone();
    if options.quick {
        options.repetitions = 1;
        options.bytes = 4 << 20;
        let paths = QUICK_PATHS.split(',').map(str::parse::<Path>);
        options.paths = paths.collect::<Result<_, _>>().map_err(anyhow::Error::msg)?;
    }
    let bin_dir = release_binaries(options.bin_dir.as_ref())?;
    eprintln!("tcp: {}", Haproxy::version().context("haproxy: apt-get install haproxy")?);
    for algorithm in &options.congestion {
        network::allow_congestion_control(algorithm.as_str())?;
    }
    let mut samples = match &options.samples {
        Some(path) => read(path)?,
        None => Vec::new(),
    };
    for congestion in options.congestion.clone() {
        let lab = LabOptions {
            relays: options.relays,
            // CUBIC is what a relay does when nobody says anything.
            relay_congestion: (congestion != Congestion::Cubic).then_some(congestion),
            bin_dir: Some(bin_dir.clone()),
            ..LabOptions::default()
        };
        let measured = Lab::up(&lab).and_then(|_lab| {
            let haproxy = Haproxy::start(&lab)?;
            haproxy.set_congestion(congestion)?;
            Stage::new(&options, &lab, congestion)?.measure(&mut samples)
        });
        Lab::down()?;
        measured?;
    }
    let table = Table(&samples);
    if options.json {
        eprintln!("{table}")
    } else {
        println!("{table}")
    }
    eprintln!("load averages at the end: {}", fs::read_to_string("/proc/loadavg")?.trim());
    Ok(())
}

/// A lab with both proxies.
struct Stage<'a> {
    options: &'a Options,
    mtu: u16,
    congestion: Congestion,
    listener: TcpListener,
}

impl Stage<'_> {
    fn new<'a>(
        options: &'a Options,
        lab: &LabOptions,
        congestion: Congestion,
    ) -> Result<Stage<'a>> {
        // No connection shall know what an earlier one met with.
        let setting = "net.ipv4.tcp_no_metrics_save=1";
        output(in_namespace(CLIENT_NS, "sysctl").args(["-q", "-w", setting]))?;
        Ok(Stage { options, mtu: lab.mtu, congestion, listener: pair::listen()? })
    }

    fn measure(&self, samples: &mut Vec<Sample>) -> Result<()> {
        let ours = samples.iter().filter(|sample| sample.congestion == self.congestion);
        let earlier = ours.map(|sample| sample.repetition).max().unwrap_or(0);
        for repetition in (1..=self.options.repetitions).map(|number| earlier + number) {
            for place in 0..self.options.paths.len() {
                for direction in &self.options.direction {
                    for side in [Side::Haproxy, Side::Relay, Side::HaproxyAgain] {
                        let sample = self.transfer(repetition, place, *direction, side)?;
                        eprintln!("tcp: {repetition}: {sample}");
                        if self.options.json {
                            println!("{}", serde_json::to_string(&sample)?);
                        }
                        if let Some(path) = &self.options.samples {
                            append(path, &sample)?;
                        }
                        samples.push(sample);
                    }
                }
            }
        }
        Ok(())
    }

    /// The same seed for every side; a connection that does not come about is tried again.
    fn transfer(
        &self,
        repetition: u32,
        place: usize,
        direction: Direction,
        side: Side,
    ) -> Result<Sample> {
        let options = self.options;
        let address: IpAddr = match side {
            Side::Relay => vip(false),
            Side::Haproxy | Side::HaproxyAgain => Haproxy::address().into(),
        };
        let (tls, path) = (Tls::new(address)?, options.paths[place]);
        let limit = Duration::from_secs(options.limit);
        let transfer = Transfer { direction, bytes: options.bytes as u64, limit };
        let bottleneck = Bottleneck { rate: options.rate, queue_bdp: options.queue_bdp };
        let mut failures = 0;
        loop {
            let seed = u64::from(repetition) << 32 | (place as u64) << 8 | u64::from(failures);
            let mut wire = Wire::insert(&path.plan(bottleneck, seed), self.mtu)?;
            if let Some(directory) = &options.capture {
                let name = format!("{repetition}-{place}-{direction:?}-{side:?}.pcap");
                wire.capture(&directory.join(name))?;
            }
            let received = transfer.run(&tls, &self.listener, self.congestion);
            let report = wire.remove()?;
            match received {
                Ok(received) => {
                    return Ok(Sample {
                        repetition,
                        congestion: self.congestion,
                        direction,
                        path: (place, path.to_string()),
                        side,
                        mbit: received.mbit(),
                        wire: report,
                    });
                }
                Err(error) => {
                    eprintln!("tcp: {path}, {side:?}: {error:#}");
                    failures += 1;
                    ensure!(failures < FAILURES_MAX, "too many failures in a row");
                }
            }
        }
    }
}
