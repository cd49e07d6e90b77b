//! Errors that name file, line, key, problem and remedy.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A mistake in the configuration, for the operator: `file:line: key: problem: remedy`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    file: PathBuf,
    /// One-based; absent when the mistake has no place in the file.
    line: Option<usize>,
    /// Dotted path of the key, empty when there is none.
    key: String,
    problem: String,
    remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}: {}", self.problem, self.remedy)
    }
}

impl ConfigError {
    /// A mistake with the file as a whole.
    pub(super) fn of_file(file: &Path, problem: impl Into<String>, remedy: &str) -> Self {
        ConfigError {
            file: file.to_owned(),
            line: None,
            key: String::new(),
            problem: problem.into(),
            remedy: remedy.to_owned(),
        }
    }
}

/// The configuration file, for messages about it.
pub(super) struct Source<'a> {
    /// As the operator gave it.
    pub path: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    /// A mistake at the bytes `span`.
    pub fn error(
        &self,
        span: Range<usize>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        // Counted on bytes: a span of a broken file may lie within a character.
        let before = self.text.as_bytes().iter().take(span.start);
        let key = match DeTable::parse(self.text) {
            Ok(table) => key_in_table(table.get_ref(), span.start).unwrap_or_default(),
            Err(_) => String::new(),
        };
        ConfigError {
            file: self.path.to_owned(),
            line: Some(1 + before.filter(|byte| **byte == b'\n').count()),
            key,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// The dotted path of the key or value at `offset`.
fn key_in_table(table: &DeTable<'_>, offset: usize) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        // The span of a table is its header alone, so what is inside is looked at in any case.
        match key_in_value(value, offset) {
            Some(rest) => Some(format!("{}{rest}", name.get_ref())),
            None => name.span().contains(&offset).then(|| name.get_ref().to_string()),
        }
    })
}

/// What follows the key of `value` in the path: `.key`, `[index]` (from one), or nothing.
fn key_in_value(value: &Spanned<DeValue<'_>>, offset: usize) -> Option<String> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => key_in_table(table, offset).map(|rest| format!(".{rest}")),
        DeValue::Array(array) => array.iter().enumerate().find_map(|(index, element)| {
            key_in_value(element, offset).map(|rest| format!("[{}]{rest}", index + 1))
        }),
        _ => None,
    };
    inner.or_else(|| value.span().contains(&offset).then(String::new))
}
