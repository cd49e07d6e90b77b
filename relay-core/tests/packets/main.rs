//! Scripted packet tests: every script in `tests/scripts` against a connection in virtual time,
//! through its public interface alone. `tests/scripts/README.md` describes the language.

mod script;
mod segment;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};

/// Fewer of them: some were not found.
const SCRIPTS_MIN: usize = 60;

/// All scripts below `folder`, in the order of their names.
fn scripts(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder of scripts");
            open.extend(entries.map(|entry| entry.expect("an entry of the folder").path()));
        } else if path.extension().is_some_and(|extension| extension == "tcp") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn run(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    script::parse(&text).and_then(|script| stage::play(&script))
}

#[test]
fn scripts_hold() {
    let scripts = scripts("scripts");
    let failures: Vec<String> = scripts
        .iter()
        .filter_map(|path| run(path).err().map(|error| format!("{}:{error}", path.display())))
        .collect();
    assert!(failures.is_empty(), "{} scripts fail:\n{}", failures.len(), failures.join("\n"));
    assert!(scripts.len() >= SCRIPTS_MIN, "{} scripts", scripts.len());
}

/// Each of them says in its first line in which line it fails, and how.
#[test]
fn wrong_scripts_fail() {
    let scripts = scripts("must_fail");
    assert!(!scripts.is_empty());
    for path in scripts {
        let text = fs::read_to_string(&path).expect("a script");
        let first = text.lines().next().unwrap_or_default();
        let wanted = first.strip_prefix("# fails: ").expect("how it fails");
        let error = run(&path).expect_err("a wrong script holds").replace("\n    ", " ");
        let error = error.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(error.starts_with(wanted), "{}: {error}", path.display());
    }
}
