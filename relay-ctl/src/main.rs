//! The operator's command line: asks a relay over its control socket and prints the answer.
//!
//! Exit codes: 0 for an answer, 1 when the relay cannot be reached or refuses, 2 for a wrong
//! command line.

#![forbid(unsafe_code)]

mod client;
mod table;
mod view;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use relay_abi::control::{Request, Response};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = client::ask(&cli.control, &cli.command.request());
    let text = outcome.and_then(|response| render(&cli.command, response));
    match text.map(|text| print(&text)) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("relay-ctl: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Shows what a relay does.
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

impl Command {
    const fn request(&self) -> Request {
        match self {
            Command::Status(_) => Request::Status,
            Command::Flows { limit, .. } => Request::Flows { limit: *limit },
            Command::Counters { .. } => Request::Counters,
        }
    }

    const fn json(&self) -> bool {
        match self {
            Command::Status(output)
            | Command::Flows { output, .. }
            | Command::Counters { output, .. } => output.json,
        }
    }
}

/// The answer as text, or why it is none.
fn render(command: &Command, response: Response) -> Result<String, String> {
    let json = |payload: serde_json::Result<String>| {
        payload.map(|text| text + "\n").map_err(|error| error.to_string())
    };
    match (command, response) {
        (_, Response::Error(message)) => Err(format!("the relay answers: {message}")),
        (Command::Status(_), Response::Status(status)) if command.json() => {
            json(serde_json::to_string(&status))
        }
        (Command::Status(_), Response::Status(status)) => Ok(view::status(&status)),
        (Command::Flows { .. }, Response::Flows(list)) if command.json() => {
            json(serde_json::to_string(&list.flows))
        }
        (Command::Flows { .. }, Response::Flows(list)) => Ok(view::flows(&list)),
        (Command::Counters { .. }, Response::Counters(counters)) if command.json() => {
            json(serde_json::to_string(&counters))
        }
        (Command::Counters { all, .. }, Response::Counters(counters)) => {
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
