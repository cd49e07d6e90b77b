//! Where the relay's binaries are, and how they get there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Names a directory with ready-made `relay-dataplane` and `relay-ctl`; nothing is built then.
pub const BIN_DIR_VARIABLE: &str = "RELAY_BIN_DIR";

/// The directory of `relay-dataplane` and `relay-ctl`: `chosen`, or what [`BIN_DIR_VARIABLE`]
/// names, or else they are built in the profile of the running program and lie beside it.
pub fn binaries(chosen: Option<&Path>) -> Result<PathBuf> {
    let given = chosen.map(Path::to_path_buf);
    let given = given.or_else(|| env::var_os(BIN_DIR_VARIABLE).map(PathBuf::from));
    let directory = match given {
        Some(directory) => std::path::absolute(directory)?,
        None => built()?,
    };
    for name in ["relay-dataplane", "relay-ctl"] {
        if !directory.join(name).is_file() {
            bail!("no {name} in {}: run cargo build --workspace --bins", directory.display());
        }
    }
    Ok(directory)
}

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The cargo that runs us, or the one in the search path.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

fn built() -> Result<PathBuf> {
    eprintln!("building relay-dataplane and relay-ctl");
    let mut command = cargo();
    command.args(["build", "--package", "relay-dataplane", "--package", "relay-ctl"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // Standard output belongs to the caller's JSON line.
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status()?;
    if !status.success() {
        bail!("the relay does not build");
    }
    beside_this_program()
}

/// The profile's directory: programs lie in it, test binaries in its `deps`.
fn beside_this_program() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let directory = program.parent().context("a program has a directory")?;
    Ok(match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().unwrap_or(directory).to_path_buf(),
        _ => directory.to_path_buf(),
    })
}
