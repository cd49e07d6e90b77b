//! `model exhaust [large]`, `model walk [WALKS [SEED]]`, `model canaries [trace]`.

use std::process::ExitCode;
use std::time::Instant;

use model::runs::{self, Run};

/// Walks per size, unless told otherwise.
const WALKS: usize = 20_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    let good = match words.first() {
        Some(&"exhaust") if words.get(1) == Some(&"large") => hold(&runs::large()),
        Some(&"exhaust") => hold(&runs::exhaustive()),
        Some(&"walk") => {
            let walks = number(1).map_or(WALKS, |walks| walks as usize);
            hold(&runs::walks(number(2).unwrap_or(1), walks))
        }
        Some(&"canaries") => canaries(words.get(1) == Some(&"trace")),
        _ => {
            println!("model exhaust [large] | walk [WALKS [SEED]] | canaries [trace]");
            return ExitCode::from(2);
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs that must find nothing. Whether they did.
fn hold(runs: &[Run]) -> bool {
    let mut good = true;
    for run in runs {
        let start = Instant::now();
        let summary = run.search();
        let seconds = start.elapsed().as_secs_f64();
        println!("{}", run.title());
        println!(
            "  {} states ({:.0}/s), {} transitions, depth {}{}, {} endings ({} lost), {seconds:.1} s",
            summary.states,
            summary.states as f64 / seconds,
            summary.transitions,
            summary.depth,
            if summary.complete { ", complete" } else { "" },
            summary.finished,
            summary.lost,
        );
        if let Some(found) = summary.found {
            println!("{found}");
            good = false;
        }
    }
    good
}

/// Runs that must find something. Whether they did.
fn canaries(trace: bool) -> bool {
    let mut good = true;
    println!("rule  broken               stream    states  steps  found");
    for run in runs::canaries() {
        let Some(broken) = run.config.broken else { continue };
        let summary = run.search();
        let (steps, found) = match &summary.found {
            Some(found) => (found.trace.len(), found.violation.to_string()),
            None => (0, "NOTHING".to_owned()),
        };
        good &= summary.found.is_some();
        println!(
            "{:4}  {:<20} {:<6} {:>9}  {steps:5}  {found}",
            broken.rule(),
            format!("{broken:?}"),
            format!("{:?}", run.config.direction),
            summary.states,
        );
        if let Some(found) = summary.found.filter(|_| trace) {
            println!("{found}");
        }
    }
    good
}
