//! The fuzzer: builds the targets in `fuzz/` and runs them.
//!
//! No nightly compiler is needed: the core has no unsafe code, so there is nothing for a sanitizer
//! to find, and coverage is a stable option. Whatever is found is written to `fuzz/artifacts`; the
//! inputs that were worth keeping are in the target folder, until `--keep` brings a few of them into
//! `fuzz/corpus`, which is committed and replayed by the tests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::binaries::{cargo, workspace};

/// Every target, as in `fuzz/Cargo.toml`.
const TARGETS: [&str; 4] = ["frame", "messages", "restore", "segments"];
/// The longest input in bytes.
const INPUT_MAX: usize = 4096;
/// Inputs of a target that are committed, and how long they are at most, in bytes.
const KEPT: usize = 45;
const KEPT_BYTES: usize = 1600;

/// What to fuzz.
#[derive(Clone, Debug, Args)]
#[group(id = "fuzz")]
pub struct Options {
    /// For how long each target runs.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Only this one.
    #[arg(long, value_parser = TARGETS)]
    target: Option<String>,
    /// Bring the inputs that reach most into fuzz/corpus, at the end.
    #[arg(long)]
    keep: bool,
}

/// Runs the targets one after another; an error as soon as one finds something.
pub fn run(options: &Options) -> Result<()> {
    install()?;
    let chosen = |target: &&str| options.target.as_deref().is_none_or(|one| one == *target);
    for target in TARGETS.into_iter().filter(chosen) {
        eprintln!("=== {target}: {} minutes", options.minutes);
        let found = found(target);
        fs::create_dir_all(&found)?;
        let limits = [format!("-max_total_time={}", options.minutes * 60), max_len(INPUT_MAX)];
        let mut command = fuzz(&["run", target]);
        command.arg(&found).arg(corpus(target)).args(["--", "-print_final_stats=1"]).args(limits);
        finish(&mut command).with_context(|| format!("{target}: see fuzz/artifacts/{target}"))?;
        if options.keep {
            keep(target)?;
        }
    }
    Ok(())
}

/// cargo-fuzz is built once, when it is missing.
fn install() -> Result<()> {
    let mut version = cargo();
    version.args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if version.status()?.success() {
        return Ok(());
    }
    eprintln!("installing cargo-fuzz");
    finish(cargo().args(["install", "cargo-fuzz", "--locked"]))
}

/// Replaces the committed corpus by the inputs that together reach everything that was reached, as
/// far as there is room: the long ones first, since each of them reaches much.
fn keep(target: &str) -> Result<()> {
    let merged = target_dir().join("fuzz-merged").join(target);
    let _ = fs::remove_dir_all(&merged);
    fs::create_dir_all(&merged)?;
    let mut merge = fuzz(&["run", target]);
    merge.arg(&merged).arg(found(target)).arg(corpus(target));
    finish(merge.args(["--", "-set_cover_merge=1", &max_len(KEPT_BYTES)]))?;
    let mut inputs = inputs(&merged)?;
    inputs.sort_by_key(|path| fs::metadata(path).map_or(0, |meta| u64::MAX - meta.len()));
    let corpus = corpus(target);
    for old in self::inputs(&corpus)? {
        fs::remove_file(old)?;
    }
    for (number, path) in inputs.iter().take(KEPT).enumerate() {
        fs::copy(path, corpus.join(format!("{number:02}")))?;
    }
    eprintln!("=== {target}: kept {} of {} inputs", inputs.len().min(KEPT), inputs.len());
    Ok(())
}

fn inputs(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn fuzz(arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.current_dir(workspace().join("fuzz")).arg("fuzz").args(arguments);
    command.args(["--sanitizer", "none", "--debug-assertions", "--target-dir"]);
    command.arg(target_dir().join("fuzz"));
    command
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "the fuzzer ended with {status}");
    Ok(())
}

fn max_len(bytes: usize) -> String {
    format!("-max_len={bytes}")
}

fn found(target: &str) -> PathBuf {
    target_dir().join("fuzz-corpus").join(target)
}

fn corpus(target: &str) -> PathBuf {
    workspace().join("fuzz/corpus").join(target)
}

fn target_dir() -> PathBuf {
    let named = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let directory = named.unwrap_or_else(|| workspace().join("target"));
    std::path::absolute(&directory).unwrap_or(directory)
}
