//! All tests, one after another, and one sum at the end.

mod machine;
mod tally;

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::tally::Tally;
use crate::binaries::{BIN_DIR_VARIABLE, cargo};

/// Short seeds of the simulator.
const SEEDS: &str = "2000";

/// The same with two to four relays whose views come from a council.
const COUNCIL_SEEDS: &str = "1000";

/// Which tests.
#[derive(Clone, Debug, Args)]
#[group(id = "test")]
pub struct Options {
    /// Leave out what needs network namespaces or a second build.
    #[arg(long)]
    pub quick: bool,
}

/// How many relays the end-to-end test of handshakes loses.
pub const KILLS_VARIABLE: &str = "RELAY_E2E_KILLS";

/// How often the end-to-end test of stopped relays stops one.
pub const STOPS_VARIABLE: &str = "RELAY_E2E_STOPS";

/// How many connections the end-to-end test of handovers has.
pub const FLOWS_VARIABLE: &str = "RELAY_E2E_FLOWS";

/// End-to-end tests alone, and harder.
#[derive(Clone, Debug, Args)]
pub struct E2eOptions {
    /// Relays that are lost in the midst of handshakes.
    #[arg(long, default_value_t = 200)]
    pub kills: usize,
    /// How often an owner is stopped for five seconds.
    #[arg(long, default_value_t = 20)]
    pub stops: usize,
    /// Connections under which a relay is drained.
    #[arg(long, default_value_t = 1000)]
    pub flows: usize,
    /// Only tests whose names contain this.
    pub filter: Option<String>,
}

/// Runs the end-to-end tests.
pub fn run_e2e(options: &E2eOptions) -> Result<()> {
    let mut build = Step::cargo("build", &["build", "--workspace", "--all-targets"]);
    ensure!(build.run()?.failed == 0, "the build failed: older programs would be tested");
    let mut step = Step::cargo("end to end", &["test", "--package", "e2e", "--no-fail-fast"]);
    step.command.args(["--"]).args(&options.filter).arg("--nocapture");
    step.command.env(KILLS_VARIABLE, options.kills.to_string());
    step.command.env(STOPS_VARIABLE, options.stops.to_string());
    step.command.env(FLOWS_VARIABLE, options.flows.to_string());
    step.command.env(BIN_DIR_VARIABLE, profile_directory()?);
    let tally = step.run()?;
    println!("{tally}");
    ensure!(tally.failed == 0, "tests failed");
    Ok(())
}

/// Runs the tests. The last line on standard output is `N passed, N failed`; an error unless
/// nothing failed. A step that fails without a failed test counts as one.
pub fn run(options: &Options) -> Result<()> {
    let mut tally = Tally::default();
    if !options.quick {
        machine::check(&mut tally);
    }
    for mut step in steps(options)? {
        let start = Instant::now();
        eprintln!("\n=== {}", step.name);
        tally.merge(step.run()?);
        eprintln!("=== {} took {:.0} s", step.name, start.elapsed().as_secs_f64());
    }
    println!("{tally}");
    ensure!(tally.failed == 0, "tests failed");
    Ok(())
}

struct Step {
    name: &'static str,
    command: Command,
}

impl Step {
    fn xtask(name: &'static str, arguments: &[&str]) -> Result<Step> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments);
        Ok(Step { name, command })
    }

    fn cargo(name: &'static str, arguments: &[&str]) -> Step {
        let mut command = cargo();
        command.args(arguments);
        Step { name, command }
    }

    /// Runs it, shows what it prints, and counts its tests.
    fn run(&mut self) -> Result<Tally> {
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {:?}", self.command))?;
        let mut tally = Tally::default();
        let output = child.stdout.take().context("the step has a standard output")?;
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            tally.read(&line);
        }
        if !child.wait()?.success() && tally.failed == 0 {
            eprintln!("=== {} failed", self.name);
            tally.failed = 1;
        }
        Ok(tally)
    }
}

/// Cheap and telling steps first. scripts/test has built the whole workspace: what is built after
/// clippy is only what has changed since, or everything for who runs `cargo xtask test`.
fn steps(options: &Options) -> Result<Vec<Step>> {
    let mut steps = vec![
        Step::cargo("format", &["fmt", "--all", "--check"]),
        Step::xtask("tidy", &["tidy"])?,
        Step::xtask("XDP object", &["ebpf", "check"])?,
        Step::cargo(
            "clippy",
            &["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"],
        ),
        // All programs that the end-to-end tests run, with the very features of the test build.
        Step::cargo("build", &["build", "--locked", "--workspace", "--all-targets"]),
        tests(options)?,
        simulator("simulator", &["--short", "--seeds", SEEDS])?,
        simulator("simulator of councils", &["--views", "--seeds", COUNCIL_SEEDS])?,
    ];
    if !options.quick {
        let canaries = ["test", "--package", "sim", "--features", "canary", "--test", "canaries"];
        steps.push(Step::cargo("canaries", &canaries));
        let features = "relay-core/ring,relay-dataplane/ring";
        let packages = ["--package", "relay-core", "--package", "relay-dataplane", "--lib"];
        let ring = ["--no-default-features", "--features", features, "--no-fail-fast"];
        let arguments = [&["test", "--locked"][..], &packages[..], &ring[..]].concat();
        steps.push(Step::cargo("tests with ring", &arguments));
    }
    Ok(steps)
}

/// Unit tests, the simulator, XDP fixtures and end to end: everything in the workspace.
fn tests(options: &Options) -> Result<Step> {
    let mut step = Step::cargo("tests", &["test", "--locked", "--workspace", "--no-fail-fast"]);
    if options.quick {
        step.command.args(["--exclude", "e2e", "--lib", "--bins"]);
    }
    step.command.env(BIN_DIR_VARIABLE, profile_directory()?);
    Ok(step)
}

/// Short worlds. The program is there already; `cargo run --package sim` would build what it
/// depends on once more, with other features.
fn simulator(name: &'static str, arguments: &[&str]) -> Result<Step> {
    let mut command = Command::new(profile_directory()?.join("sim"));
    command.args(arguments);
    Ok(Step { name, command })
}

/// Where the build puts its programs: beside this one.
fn profile_directory() -> Result<PathBuf> {
    let program = env::current_exe()?;
    Ok(program.parent().context("a program has a directory")?.to_path_buf())
}
