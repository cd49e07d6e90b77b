//! The operator's command line: asks a relay over its control socket and prints the answer, makes
//! the certificates that a cluster's nodes trust each other by, and restarts a cluster node by node.
//!
//! Exit codes: 0 for an answer, 1 when the relay cannot be reached or refuses, or a file cannot be
//! made, 2 for a wrong command line or a mistake in a document.

#![forbid(unsafe_code)]

mod client;
mod cluster;
mod config;
mod drain;
mod shares;
mod table;
mod upgrade;
mod view;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use relay_abi::control::{MAX_WEIGHT, Request, Response};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let text = match &cli.command {
        Command::Ask(question) => client::ask(&cli.control, &question.request())
            .and_then(|response| render(question, response)),
        Command::Drain(options) => drain::run(&cli.control, options),
        Command::Undrain { node } => drain::undrain(&cli.control, *node),
        Command::Weigh { node, weight } => shares::weigh(&cli.control, *node, *weight),
        Command::Rebalance { wait } => shares::wait(&cli.control, *wait),
        Command::Upgrade(options) => upgrade::run(&cli.control, options),
        Command::Cluster { action } => cluster::run(action),
        Command::Config { action } => match config::run(&cli.control, action) {
            Err(config::Failure::Mistake(message)) => {
                eprintln!("relay-ctl: {message}");
                return ExitCode::from(2);
            }
            Err(config::Failure::Other(message)) => Err(message),
            Ok(text) => Ok(text),
        },
    };
    match text.map(|text| print(&text)) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("relay-ctl: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Shows what a relay does, and makes a cluster's certificates.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    /// The control socket of the relay
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "RELAY_CONTROL",
        default_value = "/run/relay/control.sock"
    )]
    control: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Ask(Question),
    /// Move everything away from a node, and wait until it carries nothing
    Drain(drain::Drain),
    /// Let a node carry traffic again
    Undrain {
        /// Its id
        #[arg(value_name = "NODE")]
        node: u8,
    },
    /// Say how much a node should own, in relation to the others (100 is the default)
    Weigh {
        /// Its id
        #[arg(value_name = "NODE")]
        node: u8,
        /// 1 to 1000
        #[arg(value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_WEIGHT)))]
        weight: u16,
    },
    /// Wait until every relay owns what it should, and say who owns how much
    Rebalance {
        /// Seconds to wait; 0 only says it
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
    },
    /// Restart every node, one after the other, so that no connection is lost
    Upgrade(upgrade::Upgrade),
    /// The configuration that the cluster's relays agree on
    Config {
        #[command(subcommand)]
        action: config::Action,
    },
    /// The certificates of a cluster's nodes
    Cluster {
        #[command(subcommand)]
        action: cluster::Action,
    },
}

/// What a relay is asked.
#[derive(Subcommand)]
enum Question {
    /// The node, its role and its peers
    Status(Output),
    /// The flows that the node owns or backs up
    Flows {
        /// Most flows to show
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        output: Output,
    },
    /// Every counter of the node
    Counters {
        /// Counters that are zero, too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args)]
struct Output {
    /// Print JSON on one line
    #[arg(long)]
    json: bool,
}

impl Question {
    const fn request(&self) -> Request {
        match self {
            Question::Status(_) => Request::Status,
            Question::Flows { limit, .. } => Request::Flows { limit: *limit },
            Question::Counters { .. } => Request::Counters,
        }
    }

    const fn json(&self) -> bool {
        match self {
            Question::Status(output)
            | Question::Flows { output, .. }
            | Question::Counters { output, .. } => output.json,
        }
    }
}

/// The answer as text, or why it is none.
fn render(question: &Question, response: Response) -> Result<String, String> {
    let json = |payload: serde_json::Result<String>| {
        payload.map(|text| text + "\n").map_err(|error| error.to_string())
    };
    match (question, response) {
        (_, Response::Error(message)) => Err(format!("the relay answers: {message}")),
        (Question::Status(_), Response::Status(status)) if question.json() => {
            json(serde_json::to_string(&status))
        }
        (Question::Status(_), Response::Status(status)) => Ok(view::status(&status)),
        (Question::Flows { .. }, Response::Flows(list)) if question.json() => {
            json(serde_json::to_string(&list.flows))
        }
        (Question::Flows { .. }, Response::Flows(list)) => Ok(view::flows(&list)),
        (Question::Counters { .. }, Response::Counters(counters)) if question.json() => {
            json(serde_json::to_string(&counters))
        }
        (Question::Counters { all, .. }, Response::Counters(counters)) => {
            Ok(view::counters(&counters, *all))
        }
        _ => Err("the relay answered another question: is it of this version?".to_owned()),
    }
}

/// Writes to stdout; a reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("relay-ctl: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
