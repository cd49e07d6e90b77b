//! The simulator, built as it has to be for what is asked.

use std::ffi::OsString;
use std::{env, process};

use anyhow::Result;
use clap::Args;

use crate::binaries::{cargo, workspace};

/// What to simulate.
#[derive(Clone, Debug, Args)]
#[group(id = "sim")]
pub struct Options {
    /// The simulator's own arguments: --help names them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds the simulator and runs it. What it has to say it has said: on failure its exit code is
/// ours.
pub fn run(options: &Options) -> Result<()> {
    let mut command = cargo();
    // File names among the arguments are relative to where the user is.
    command.current_dir(env::current_dir()?).args(["run", "--quiet", "--package", "sim"]);
    command.arg("--manifest-path").arg(workspace().join("Cargo.toml"));
    if options.arguments.iter().any(|argument| argument == "--canaries") {
        command.args(["--features", "canary"]);
    }
    command.arg("--").args(&options.arguments);
    match command.status()?.code() {
        Some(0) => Ok(()),
        code => process::exit(code.unwrap_or(1)),
    }
}
