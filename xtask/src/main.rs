//! `cargo xtask`: the command line of [`xtask`].

use anyhow::Result;
use clap::{Parser, Subcommand};
use wire::plan::Plan as WirePlan;
use xtask::lab::turn::Turn;
use xtask::lab::wire::Wire;
use xtask::lab::{How, Lab, Options, network};
use xtask::{bench, demo, sim, soak, suite, tidy};

mod ebpf;

/// Everything a developer runs.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A whole cluster in network namespaces.
    #[command(subcommand)]
    Lab(LabCommand),
    /// Transfers that outlive the relay that carries them, with a table at the end.
    Demo(demo::Options),
    /// Two large transfers, many kills.
    Soak(soak::Options),
    /// Benchmarks.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Whole nodes over a simulated network, many seeds.
    #[command(disable_help_flag = true)]
    Sim(sim::Options),
    /// All tests.
    Test(suite::Options),
    /// The end-to-end tests alone, with many losses in the midst of handshakes.
    E2e(suite::E2eOptions),
    /// The rules of the house that no compiler knows.
    Tidy(tidy::Options),
    /// The XDP program.
    #[command(subcommand)]
    Ebpf(ebpf::EbpfCommand),
}

#[derive(Subcommand)]
enum LabCommand {
    /// Bring the lab up and print one line of JSON about it.
    Up(Options),
    /// Lose a relay.
    Kill {
        /// As in `relay-1`.
        relay: String,
        /// In which way.
        #[arg(long, value_enum, default_value_t = How::Sigkill)]
        how: How,
    },
    /// Undo whatever was done to a relay, and start it.
    Start {
        /// As in `relay-1`.
        relay: String,
    },
    /// Let a relay go on that was stopped by `kill --how sigstop`.
    Resume {
        /// As in `relay-1`.
        relay: String,
    },
    /// Lose packets at random on the clients' side.
    Loss {
        /// Out of a hundred packets.
        #[arg(long, default_value_t = 1.0)]
        percent: f64,
        /// End it.
        #[arg(long)]
        off: bool,
    },
    /// Put a long line between clients and relays until Enter is pressed; its left is the client.
    Wire(WirePlan),
    /// End everything.
    Down,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Lab(command) => lab(command),
        Command::Demo(options) => demo::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Bench(command) => bench::run(&command),
        Command::Sim(options) => sim::run(&options),
        Command::Test(options) => suite::run(&options),
        Command::E2e(options) => suite::run_e2e(&options),
        Command::Tidy(options) => tidy::run(&options),
        Command::Ebpf(command) => ebpf::run(command),
    }
}

fn lab(command: LabCommand) -> Result<()> {
    match command {
        LabCommand::Up(options) => {
            // Only until it is up: whoever comes next may replace it.
            let _turn = Turn::wait("lab up")?;
            let lab = Lab::up(&options)?;
            println!("{}", serde_json::to_string(&lab.description())?);
            Ok(())
        }
        LabCommand::Kill { relay, how } => Lab::attach()?.kill(&relay, how),
        LabCommand::Start { relay } => Lab::attach()?.start(&relay),
        LabCommand::Resume { relay } => Lab::attach()?.resume(&relay),
        LabCommand::Loss { percent, off } => {
            Lab::attach()?;
            network::set_loss(if off { 0.0 } else { percent })
        }
        LabCommand::Wire(plan) => {
            let wire = Wire::insert(&plan, Lab::attach()?.options().mtu)?;
            eprintln!("lab: Enter takes the wire out");
            std::io::stdin().read_line(&mut String::new())?;
            println!("{}", serde_json::to_string(&wire.remove()?)?);
            Ok(())
        }
        LabCommand::Down => Lab::down(),
    }
}
