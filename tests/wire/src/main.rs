//! `wire`: the command line of [`wire`]. It prints what became of the frames as one line of JSON
//! when it is asked to end by SIGINT or SIGTERM.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use wire::bridge::Bridge;
use wire::plan::Plan;

/// A line with delay, rate, queue and losses between two interfaces. Their offloads, and those of
/// their peers, must be off.
#[derive(Parser)]
#[command(name = "wire")]
struct Cli {
    /// One interface.
    #[arg(long = "left", value_name = "INTERFACE")]
    left_interface: String,
    /// The other interface.
    #[arg(long = "right", value_name = "INTERFACE")]
    right_interface: String,
    #[command(flatten)]
    plan: Plan,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let report = Bridge::open(&cli.left_interface, &cli.right_interface, &cli.plan)?.run(&stop)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
