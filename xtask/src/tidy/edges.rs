//! Which crate may use which, and what keeps the core pure.

use toml::{Table, Value};

use super::Finding;
use super::sources::Tree;

/// Everything that a crate may depend on. A new edge is a decision: it belongs into a review.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("relay-abi", &["serde"]),
    (
        "relay-core",
        &[
            "aws-lc-rs",
            "relay-abi",
            "relay-views",
            "ring",
            "rustls",
            "siphasher",
            "smoltcp",
            "thiserror",
            "webpki",
            "zeroize",
        ],
    ),
    (
        "relay-dataplane",
        &[
            "aya",
            "aya-log",
            "clap",
            "core_affinity",
            "crossbeam-channel",
            "futures",
            "libc",
            "log",
            "relay-abi",
            "relay-core",
            "relay-views",
            "rtnetlink",
            "rustix",
            "rustls",
            "serde",
            "serde_json",
            "signal-hook",
            "thiserror",
            "thread-priority",
            "tokio",
            "toml",
            "tracing",
            "tracing-subscriber",
            "webpki",
            "xsk-rs",
        ],
    ),
    ("relay-views", &["crc32c", "protobuf", "raft", "relay-abi", "slog", "thiserror"]),
    ("relay-ctl", &["aws-lc-rs", "base64", "clap", "rcgen", "relay-abi", "rustls", "serde_json"]),
    (
        "tests/wire",
        &["anyhow", "clap", "nix", "serde", "serde_json", "signal-hook", "thread-priority"],
    ),
    // The rules on their own: not a line of the code that follows them.
    ("tests/model", &[]),
];

/// What `relay-core/clippy.toml` must ban.
const BANNED_IN_CORE: [&str; 7] = [
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::spawn",
    "std::thread::sleep",
    "std::collections::HashMap::iter",
    "std::net::TcpStream",
    "std::net::UdpSocket",
];

/// Finds edges and holes.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (package, allowed) in ALLOWED {
        findings.extend(dependencies(tree, package, allowed));
    }
    findings.extend(bans(tree));
    findings.extend(forbids_unsafe(tree));
    findings
}

fn dependencies(tree: &Tree, package: &str, allowed: &[&str]) -> Vec<Finding> {
    let file = format!("{package}/Cargo.toml");
    let Some((text, manifest)) = manifest(tree, &file) else {
        return vec![Finding { file, line: 1, message: "no manifest: restore it".to_owned() }];
    };
    let target_specific = manifest.get("target").and_then(Value::as_table);
    let tables = target_specific.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut findings = Vec::new();
    for table in tables.chain([&manifest]) {
        for kind in ["dependencies", "build-dependencies"] {
            let names = table.get(kind).and_then(Value::as_table).into_iter().flat_map(Table::keys);
            for name in names.filter(|name| !allowed.contains(&name.as_str())) {
                let line = text.lines().position(|line| line.starts_with(name.as_str()));
                let message = format!(
                    "{package} must not depend on {name}: do without it, or \
                     decide and extend the table in xtask/src/tidy/edges.rs"
                );
                findings.push(Finding { file: file.clone(), line: line.unwrap_or(0) + 1, message });
            }
        }
    }
    findings
}

fn bans(tree: &Tree) -> Vec<Finding> {
    let file = "relay-core/clippy.toml";
    let listed = manifest(tree, file).map(|(_, table)| {
        let lists = ["disallowed-methods", "disallowed-types"];
        let entries = lists.iter().filter_map(|list| table.get(*list)?.as_array()).flatten();
        let paths = entries.filter_map(|entry| entry.get("path")?.as_str());
        paths.map(str::to_owned).collect::<Vec<_>>()
    });
    let listed = listed.unwrap_or_default();
    let missing = BANNED_IN_CORE.iter().filter(|path| !listed.iter().any(|one| one == *path));
    let finding = |path| Finding {
        file: file.to_owned(),
        line: 1,
        message: format!("{path} is not banned: the core is deterministic, restore the ban"),
    };
    missing.map(finding).collect()
}

fn forbids_unsafe(tree: &Tree) -> Option<Finding> {
    let file = "relay-core/src/lib.rs";
    let lines = tree.source(file).map(|source| source.lines.as_slice()).unwrap_or_default();
    let forbidden = lines.iter().any(|line| line.trim() == "#![forbid(unsafe_code)]");
    let message = "the core is safe code: restore #![forbid(unsafe_code)]".to_owned();
    (!forbidden).then(|| Finding { file: file.to_owned(), line: 1, message })
}

fn manifest<'a>(tree: &'a Tree, path: &str) -> Option<(&'a str, Table)> {
    let (_, text) = tree.manifests.iter().find(|(name, _)| name == path)?;
    Some((text, text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(manifest: &str) -> Vec<(usize, String)> {
        let tree = Tree::of(&[("relay-core/Cargo.toml", manifest)]);
        let allowed = ALLOWED[1].1;
        let findings = dependencies(&tree, "relay-core", allowed);
        findings.into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    #[test]
    fn a_new_edge_is_found() {
        assert_eq!(found("[dependencies]\nrustls.workspace = true\n"), []);
        assert_eq!(found("[dev-dependencies]\nrand = \"1\"\n"), []);
        let new = found("[dependencies]\nrustls = \"1\"\ntokio = \"1\"\n");
        assert!(new[0].0 == 3 && new[0].1.starts_with("relay-core must not depend on tokio"));
        assert_eq!(found("[target.'cfg(unix)'.dependencies]\nlibc = \"1\"\n").len(), 1);
        assert_eq!(found("[build-dependencies]\ncc = \"1\"\n").len(), 1);
    }

    #[test]
    fn a_core_that_lost_its_bans_is_found() {
        let ban = |path: &str| format!("{{ path = \"{path}\", reason = \"r\" }},\n");
        let all: String = BANNED_IN_CORE.iter().map(|path| ban(path)).collect();
        let check = |list: &str, lib: &str| {
            let clippy = format!("disallowed-methods = [\n{list}]\n");
            let files = [("relay-core/clippy.toml", &*clippy), ("relay-core/src/lib.rs", lib)];
            let tree = Tree::of(&files);
            bans(&tree).len() + usize::from(forbids_unsafe(&tree).is_some())
        };
        assert_eq!(check(&all, "#![forbid(unsafe_code)]\n"), 0);
        assert_eq!(check(&all, "\n"), 1);
        assert_eq!(check("", "#![forbid(unsafe_code)]\n"), BANNED_IN_CORE.len());
    }
}
