//! The rules of the house that no compiler knows. Each finding names its place and the remedy.

mod docs;
mod edges;
mod lengths;
mod sources;
mod words;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use self::sources::Tree;
use crate::binaries::workspace;

/// Something to put right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the root of the repository.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// What to check.
#[derive(Clone, Debug, Args)]
#[group(id = "tidy")]
pub struct Options {
    /// Root of the repository; this one by default.
    pub root: Option<PathBuf>,
}

/// Checks a repository; an error if there is anything to put right.
pub fn run(options: &Options) -> Result<()> {
    let findings = check(&Tree::read(options.root.as_deref().unwrap_or(workspace()))?);
    for finding in &findings {
        println!("{finding}");
    }
    ensure!(findings.is_empty(), "tidy: {} findings", findings.len());
    eprintln!("tidy: clean");
    Ok(())
}

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = edges::check(tree);
    findings.extend(docs::check(tree));
    for source in &tree.sources {
        findings.extend(lengths::check(source));
        findings.extend(words::check(source));
    }
    findings.sort();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() {
        let findings = check(&Tree::read(workspace()).unwrap());
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}
