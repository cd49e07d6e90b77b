//! The configuration that a cluster agrees on: shows it, changes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Subcommand;
use relay_abi::control::{
    ConfigurationReport, MAX_DOCUMENT, MAX_DOCUMENT_NAME, Request, Response, WithdrawnReport,
};

use crate::client;
use crate::drain::INTERVAL;

/// A proposal that no view shows after this time was lost, or nobody decides.
const LOST: Duration = Duration::from_secs(6);

/// What to do with it.
#[derive(Subcommand)]
pub enum Action {
    /// Have all relays use the listeners of this file, or none
    Apply {
        /// The `[[listener]]` part of a configuration file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Seconds to wait until all relays use it; 0 does not wait
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
    },
    /// Print the document in force, and what is being prepared
    Show {
        /// Print JSON on one line
        #[arg(long)]
        json: bool,
    },
    /// Drop the document that is being prepared
    Withdraw,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// What the operator wrote: exit code 2.
    Mistake(String),
    /// Anything else: exit code 1.
    Other(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure::Other(message)
    }
}

/// Does it, through the relay at `control`.
pub fn run(control: &Path, action: &Action) -> Result<String, Failure> {
    match action {
        Action::Apply { file, wait } => apply(control, file, Duration::from_secs(*wait)),
        Action::Show { json } => show(control, *json),
        Action::Withdraw => match client::ask(control, &Request::WithdrawConfiguration)? {
            Response::Configured { generation } => Ok(format!(
                "generation {generation}: asked to be withdrawn; `relay-ctl config show` says what \
                 came of it\n"
            )),
            other => Err(unexpected(other)),
        },
    }
}

fn apply(control: &Path, file: &Path, wait: Duration) -> Result<String, Failure> {
    let text = read(file)?;
    let name = file.display().to_string();
    if name.len() > MAX_DOCUMENT_NAME {
        let problem = format!("{name}: the name is longer than {MAX_DOCUMENT_NAME} bytes");
        return Err(Failure::Mistake(problem));
    }
    let request = Request::Configure { name, text: text.clone() };
    let generation = match client::ask(control, &request)? {
        Response::Configured { generation } => generation,
        Response::Mistake(mistake) => return Err(Failure::Mistake(mistake)),
        other => return Err(unexpected(other)),
    };
    if wait.is_zero() {
        return Ok(format!("generation {generation} is proposed\n"));
    }
    let since = Instant::now();
    loop {
        let (report, active) = ask(control)?;
        let waited = since.elapsed();
        if let Some(outcome) = outcome((generation, &text), (&report, &active)) {
            return outcome.map_err(Failure::Other);
        }
        if report.proposed != Some(generation) && waited >= LOST {
            return Err(Failure::Other(format!(
                "generation {generation} was not decided: does somebody lead? (relay-ctl status)"
            )));
        }
        if waited >= wait {
            return Err(Failure::Other(overdue(generation, &report, waited)));
        }
        sleep(INTERVAL);
    }
}

/// What became of a document, once that is decided.
fn outcome(
    (generation, text): (u64, &str),
    (report, active): (&ConfigurationReport, &str),
) -> Option<Result<String, String>> {
    let other = || {
        Some(Err(format!(
            "somebody else was faster: generation {generation} is another document. Look at it \
             (`relay-ctl config show`), and apply yours again"
        )))
    };
    match &report.withdrawn {
        Some(withdrawn) if withdrawn.generation == generation => {
            return Some(Err(format!("{}: nothing has changed", describe(withdrawn))));
        }
        _ => {}
    }
    match report.generation {
        in_force if in_force < generation => None,
        in_force if in_force == generation && active == text => {
            Some(Ok(format!("generation {generation} is in force at every relay\n")))
        }
        _ => other(),
    }
}

fn overdue(generation: u64, report: &ConfigurationReport, waited: Duration) -> String {
    format!(
        "generation {generation} is not in force after {} s: {} not hold it yet. See their logs; drop \
         it with `relay-ctl config withdraw`",
        waited.as_secs(),
        match report.awaited.as_slice() {
            [] => "some relays do".to_owned(),
            [node] => format!("node {node} does"),
            nodes => format!("nodes {} do", list(nodes)),
        }
    )
}

fn show(control: &Path, json: bool) -> Result<String, Failure> {
    let (report, text) = ask(control)?;
    if json {
        let value = serde_json::json!({ "configuration": report, "document": text });
        return Ok(format!("{value}\n"));
    }
    // So that the output is a document again.
    let head: String = lines(&report).into_iter().map(|line| format!("# {line}\n")).collect();
    let text = if text.is_empty() || text.ends_with('\n') { text } else { text + "\n" };
    Ok(head + &text)
}

/// What an operator is told, one sentence a line.
pub fn lines(report: &ConfigurationReport) -> Vec<String> {
    let mut lines = vec![match report.generation {
        0 => "generation 0: every node uses the listeners of its own file".to_owned(),
        generation => format!("generation {generation} is in force"),
    }];
    if let Some(proposed) = report.proposed {
        let (prepared, awaited) = (list(&report.prepared), list(&report.awaited));
        lines.push(format!(
            "generation {proposed} is being prepared: held by [{prepared}], awaited of [{awaited}]"
        ));
    }
    lines.extend(report.withdrawn.as_ref().map(describe));
    lines.extend(report.trouble.clone());
    lines
}

fn describe(withdrawn: &WithdrawnReport) -> String {
    let generation = withdrawn.generation;
    match (withdrawn.node, &withdrawn.reason) {
        (Some(node), Some(reason)) => {
            format!("generation {generation} was withdrawn by node {node}: {reason}")
        }
        _ => format!("generation {generation} was withdrawn by an operator"),
    }
}

fn list(nodes: &[u8]) -> String {
    nodes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

fn ask(control: &Path) -> Result<(ConfigurationReport, String), Failure> {
    match client::ask(control, &Request::Configuration)? {
        Response::Configuration { report, text } => Ok((report, text)),
        other => Err(unexpected(other)),
    }
}

fn unexpected(response: Response) -> Failure {
    Failure::Other(match response {
        Response::Error(message) => format!("the relay answers: {message}"),
        _ => "the relay answered another question: is it of this version?".to_owned(),
    })
}

fn read(file: &Path) -> Result<String, Failure> {
    let name = file.display();
    let size = fs::metadata(file).map_err(|error| {
        Failure::Mistake(format!("{name}: cannot be read ({error}): name the document"))
    })?;
    if size.len() > MAX_DOCUMENT as u64 {
        let problem = format!("{name}: it has {} bytes: keep it within {MAX_DOCUMENT}", size.len());
        return Err(Failure::Mistake(problem));
    }
    fs::read_to_string(file)
        .map_err(|error| Failure::Mistake(format!("{name}: cannot be read ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_in_force_or_withdrawn_or_not_decided() {
        let told = |report: ConfigurationReport, active: &str| {
            outcome((3, "text"), (&report, active)).map(|told| told.unwrap_or_else(|text| text))
        };
        let report = |generation| ConfigurationReport { generation, ..Default::default() };
        assert_eq!(told(report(2), "old"), None);
        let done = "generation 3 is in force at every relay\n";
        assert_eq!(told(report(3), "text").as_deref(), Some(done));
        assert!(told(report(3), "other").unwrap().contains("somebody else was faster"));
        assert!(told(report(4), "text").unwrap().contains("somebody else was faster"));

        let withdrawn = |generation, node: Option<u8>| {
            let reason = node.map(|_| "no file".to_owned());
            let withdrawn = Some(WithdrawnReport { generation, node, reason });
            ConfigurationReport { withdrawn, ..report(2) }
        };
        assert_eq!(told(withdrawn(1, Some(2)), "old"), None, "another one");
        let refused = "generation 3 was withdrawn by node 2: no file: nothing has changed";
        assert_eq!(told(withdrawn(3, Some(2)), "old").as_deref(), Some(refused));
        assert!(told(withdrawn(3, None), "old").unwrap().contains("by an operator"));
    }

    #[test]
    fn who_is_awaited_is_named() {
        let report = |awaited: &[u8]| ConfigurationReport {
            proposed: Some(3),
            prepared: vec![1],
            awaited: awaited.to_vec(),
            ..Default::default()
        };
        let text = overdue(3, &report(&[2]), Duration::from_secs(9));
        assert!(text.contains("after 9 s: node 2 does not hold it yet"), "{text}");
        let text = overdue(3, &report(&[2, 4]), Duration::from_secs(9));
        assert!(text.contains("nodes 2, 4 do not hold it yet"), "{text}");
        let lines = lines(&report(&[2, 4]));
        assert_eq!(lines[1], "generation 3 is being prepared: held by [1], awaited of [2, 4]");
    }
}
