//! Counting tests in the output of cargo.

use std::fmt;

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ran and were right.
    pub passed: u64,
    /// Ran and were wrong, or could not run.
    pub failed: u64,
}

impl Tally {
    /// Adds what `line` says, if it is the summary of a test program.
    pub fn read(&mut self, line: &str) {
        let Some(summary) = line.trim().strip_prefix("test result: ") else { return };
        // "ok. 10 passed; 0 failed; 0 ignored; ..."
        let counts = summary.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    /// Adds another one.
    pub fn merge(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_added_up() {
        let mut tally = Tally::default();
        tally.read("running 3 tests");
        tally.read("test result: ok. 10 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        tally.read("test result: FAILED. 3 passed; 2 failed; 0 ignored; finished in 0.02s");
        assert_eq!(tally.to_string(), "13 passed, 2 failed");
    }
}
