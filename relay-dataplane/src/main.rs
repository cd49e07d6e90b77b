//! The relay process.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use clap::Parser;
use relay_dataplane::config::Config;
use relay_dataplane::{config, council, priority, start};
use rustix::process::DumpableBehavior;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Names levels, for all or some of the log's sources.
const LOG_VARIABLE: &str = "RUST_LOG";

/// A TLS relay of a cluster: live connections survive the loss of any machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file (see docs/CONFIG.md)
    #[arg(long)]
    config: PathBuf,
    /// Check the configuration and exit
    #[arg(long)]
    check: bool,
    /// Only vote: no data plane, only `[node]` and `[cluster.council]` in the configuration
    #[arg(long)]
    witness: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = log() {
        eprintln!("{LOG_VARIABLE}: {error}: write it like info,xdp=debug");
        return ExitCode::from(2);
    }
    refuse_core_dumps();
    if arguments.witness {
        return witness(&arguments);
    }
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return misconfigured(&error),
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if arguments.check {
        return check(&config);
    }
    run(&config)
}

/// A core dump would hold the keys of every live connection, and those of this node. Nor may another process of the same user look
/// into this one (`ptrace`).
fn refuse_core_dumps() {
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps are not disabled");
    }
}

fn check(config: &Config) -> ExitCode {
    if let Err(error) = start::listeners(config) {
        return refuse(&error);
    }
    check_council(config.cluster.council.as_ref())
}

fn check_council(council: Option<&config::Council>) -> ExitCode {
    match council.map(council::check) {
        Some(Err(error)) => misconfigured(&error),
        _ => ExitCode::SUCCESS,
    }
}

/// Mistakes in the configuration have an exit code of their own.
fn misconfigured(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(2)
}

fn witness(arguments: &Arguments) -> ExitCode {
    let config = match config::Witness::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return misconfigured(&error),
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if arguments.check {
        return check_council(Some(&config.council));
    }
    let stop = match catch_signals() {
        Ok(stop) => stop,
        Err(code) => return code,
    };
    match relay_dataplane::witness::run(&config, &stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ relay_dataplane::witness::Error::Council(council::Error::Trust(_))) => {
            misconfigured(&error)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What is set by the signals that ask a process to end.
fn catch_signals() -> Result<Arc<AtomicBool>, ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            eprintln!("signal {signal} cannot be caught: {error}");
            return Err(ExitCode::FAILURE);
        }
    }
    Ok(stop)
}

/// Sends the log to standard error, from the levels on that [`LOG_VARIABLE`] names.
fn log() -> Result<(), ParseError> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(levels) => levels.parse()?,
        Err(_) => Targets::new().with_default(LevelFilter::INFO),
    };
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    Ok(())
}

/// Says why the relay cannot start; mistakes in the configuration have an exit code of their own.
fn refuse(error: &start::StartError) -> ExitCode {
    eprintln!("{error}");
    match error {
        start::StartError::Tls { .. } | start::StartError::Council(council::Error::Trust(_)) => {
            ExitCode::from(2)
        }
        _ => ExitCode::FAILURE,
    }
}

fn run(config: &Config) -> ExitCode {
    let stop = match catch_signals() {
        Ok(stop) => stop,
        Err(code) => return code,
    };
    let relay = match start::start(config) {
        Ok(relay) => relay,
        Err(error) => return refuse(&error),
    };
    let mut workers = relay.workers.into_iter().enumerate();
    let first = workers.next();
    let others = workers.map(|(number, mut worker)| {
        let (config, stop) = (config.worker.clone(), Arc::clone(&stop));
        let name = format!("worker-{number}");
        thread::Builder::new().name(name).spawn(move || {
            let _takes_along = TakesAlong;
            settle(&config, number);
            worker.run(&stop);
        })
    });
    let others = match others.collect::<std::io::Result<Vec<_>>>() {
        Ok(others) => others,
        Err(error) => {
            eprintln!("a worker has no thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    // This thread becomes the first worker; the others were started before.
    if let Some((number, mut worker)) = first {
        settle(&config.worker, number);
        worker.run(&stop);
    }
    for other in others {
        // One that panicked has ended the process.
        let _ = other.join();
    }
    ExitCode::SUCCESS
}

/// Gives this thread what a worker needs: its core, and its priority.
fn settle(config: &config::Worker, number: usize) {
    if let Some(core) = config.cores.get(number).copied()
        && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
    {
        tracing::warn!(core, "the worker cannot be pinned to this core");
    }
    priority::raise(config.realtime);
}

/// A relay of which one worker panicked would be a relay that hangs: it ends as a whole, and others take over
/// at once.
struct TakesAlong;

impl Drop for TakesAlong {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
