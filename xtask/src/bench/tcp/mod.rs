//! Our TCP and the kernel's over the same line: the relay and haproxy in turns, behind a wire with
//! delay, rate, queue and losses. docs/BENCHMARKS.md says what is measured.

mod fairness;
mod path;
mod sample;
mod table;
mod takeover;
mod transfer;

use std::fs;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::fairness::Shares;
use self::path::{Bottleneck, Path};
use self::sample::Sample;
use self::table::Table;
use self::transfer::{Direction, Transfer};
use super::client::Tls;
use super::haproxy::Haproxy;
use super::sample::{Side, append, read};
use super::{pair, release_binaries};
use crate::lab::plan::{CLIENT_NS, vip};
use crate::lab::turn::Turn;
use crate::lab::wire::Wire;
use crate::lab::{Congestion, Lab, Options as LabOptions, network};
use crate::shell::{in_namespace, output};

/// Round-trip times and losses, as in the table.
const PATHS: &str = "20ms:0%,20ms:0.1%,20ms:0.5%,20ms:1%,20ms:2%,\
                     20ms:0.1%b,20ms:0.5%b,20ms:1%b,20ms:2%b,100ms:0%";
/// A few of them.
const QUICK_PATHS: &str = "20ms:0%,20ms:1%";
/// Where flows share, and where owners are lost.
const FAIR_PATH: &str = "20ms:0%";
const HARD_PATH: &str = "20ms:1%";
/// How long the shares of flows are measured.
const FAIR_WINDOW: Duration = Duration::from_secs(20);
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
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Congestion::Cubic, Congestion::Bbr])]
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
    /// Instead: how two of the relay's downloads and two of the kernel's share the line.
    #[arg(long, conflicts_with = "takeover")]
    pub fairness: bool,
    /// Instead: lose the owner so often, and see how long transfers stand still.
    #[arg(long, value_name = "KILLS")]
    pub takeover: Option<u32>,
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
    let _turn = Turn::wait("bench tcp")?;
    for algorithm in &options.congestion {
        network::allow_congestion_control(algorithm.as_str())?;
    }
    let mut samples = match &options.samples {
        Some(path) => read(path)?,
        None => Vec::new(),
    };
    // Without repetitions there is only a table to print.
    let algorithms = options.congestion.iter().filter(|_| options.repetitions > 0);
    for congestion in algorithms.copied() {
        let lab = LabOptions {
            relays: options.relays,
            // CUBIC is what a relay does when nobody says anything.
            relay_congestion: (congestion != Congestion::Cubic).then_some(congestion),
            bin_dir: Some(bin_dir.clone()),
            ..LabOptions::default()
        };
        let measured = Lab::up(&lab).and_then(|mut up| {
            if let Some(kills) = options.takeover {
                return take_over(&mut up, &options, congestion, kills);
            }
            let haproxy = Haproxy::start(&lab)?;
            haproxy.set_congestion(congestion)?;
            let stage = Stage::new(&options, &lab, congestion)?;
            if options.fairness { stage.share() } else { stage.measure(&mut samples) }
        });
        Lab::down()?;
        measured?;
    }
    if options.fairness || options.takeover.is_some() {
        return Ok(());
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

/// Takeovers on [`HARD_PATH`].
fn take_over(lab: &mut Lab, options: &Options, congestion: Congestion, kills: u32) -> Result<()> {
    let path = HARD_PATH.parse::<Path>().map_err(anyhow::Error::msg)?;
    let wire = Wire::insert(&path.plan(options.bottleneck(), 1), lab.options().mtu)?;
    let report = takeover::measure(lab, kills, congestion, path.rtt())?;
    println!("{}, {path}\n\n{report}", congestion.as_str());
    let wire = wire.remove()?;
    ensure!(wire.overrun == 0, "the wire lost {} frames itself", wire.overrun);
    Ok(())
}

impl Options {
    fn bottleneck(&self) -> Bottleneck {
        Bottleneck { rate: self.rate, queue_bdp: self.queue_bdp }
    }
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

    /// Four downloads at once: two and two, and for comparison all four of the kernel's.
    fn share(&self) -> Result<()> {
        let path = FAIR_PATH.parse::<Path>().map_err(anyhow::Error::msg)?;
        let (relay, kernel) = (Tls::new(vip(false))?, Tls::new(Haproxy::address().into())?);
        let both = ("2 relay, 2 kernel", [&relay, &relay, &kernel, &kernel]);
        let control = ("4 kernel", [&kernel; 4]);
        for repetition in 1..=self.options.repetitions {
            for (name, proxies) in [&both, &control] {
                let plan = path.plan(self.options.bottleneck(), repetition.into());
                let mut wire = Wire::insert(&plan, self.mtu)?;
                if let Some(directory) = &self.options.capture {
                    wire.capture(&directory.join(format!("{repetition}-{name}.pcap")))?;
                }
                let proxies = proxies.map(|tls| &**tls);
                let window = FAIR_WINDOW;
                let congestion = self.congestion;
                let shares = Shares::measure(name, &proxies, &self.listener, congestion, window)?;
                let overrun = wire.remove()?.overrun;
                ensure!(overrun == 0, "the wire lost {overrun} frames itself");
                println!("{} {repetition}: {shares}", congestion.as_str());
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
        let mut failures = 0;
        loop {
            let seed = u64::from(repetition) << 32 | (place as u64) << 8 | u64::from(failures);
            let mut wire = Wire::insert(&path.plan(options.bottleneck(), seed), self.mtu)?;
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
