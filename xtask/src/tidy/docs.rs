//! Documents that name files which exist.

use super::Finding;
use super::sources::Tree;

/// Finds links and paths in documents that lead nowhere.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, text) in &tree.documents {
        let mut fenced = false;
        for (line, number) in text.lines().zip(1..) {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if fenced {
                continue;
            }
            let lost = lost_links(tree, file, line).into_iter().chain(lost_paths(tree, line));
            for target in lost {
                let message = format!("{target} does not exist: correct the path");
                findings.push(Finding { file: file.clone(), line: number, message });
            }
        }
    }
    findings
}

/// `[text](target)`, relative to the document.
fn lost_links<'a>(tree: &Tree, file: &str, line: &'a str) -> Vec<&'a str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let own = |target: &&str| !target.contains("://") && !target.starts_with(['#', '<']);
    let own = targets.filter(own).filter(|target| !target.starts_with("mailto:"));
    own.filter(|target| {
        let path = target.split('#').next().unwrap_or(target);
        !resolve(file, path).is_some_and(|path| tree.paths.contains(&path))
    })
    .collect()
}

/// Paths between backticks whose first part is in the root of the repository.
fn lost_paths<'a>(tree: &Tree, line: &'a str) -> Vec<&'a str> {
    let quoted = line.split('`').skip(1).step_by(2).map(|path| path.trim_start_matches("./"));
    let looks_like_one = |path: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let first = path.split('/').next().unwrap_or_default();
        path.contains('/') && path.chars().all(plain) && tree.paths.contains(first)
    };
    quoted
        .filter(looks_like_one)
        .filter(|path| !tree.paths.contains(path.trim_end_matches('/')))
        .collect()
}

/// `target` as seen from the document `file`, from the root of the repository.
fn resolve(file: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = match target.starts_with('/') {
        true => Vec::new(),
        false => file.split('/').collect(),
    };
    parts.pop();
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(text: &str) -> Vec<(usize, String)> {
        let mut tree = Tree::of(&[("docs/A.md", text), ("README.md", ""), ("relay-abi/x.rs", "")]);
        tree.paths.extend(["docs", "relay-abi"].map(str::to_owned));
        let findings = check(&tree);
        findings.into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    #[test]
    fn lost_links_and_paths_are_found() {
        assert_eq!(lost("[a](A.md#b), [b](../README.md), [c](https://x.org/y), [d](#e)"), []);
        assert_eq!(lost("see `relay-abi/x.rs`, `./relay-abi/`, `a/b`, `relay-abi/*.rs`"), []);
        assert_eq!(lost("\n[a](B.md)")[0], (2, "B.md does not exist: correct the path".to_owned()));
        assert_eq!(lost("[a](../../README.md)").len(), 1);
        assert_eq!(lost("`relay-abi/y.rs`").len(), 1);
        assert_eq!(lost("```\n`relay-abi/y.rs`\n```\n"), []);
    }
}
