//! The corpora of the fuzzer, without the fuzzer: whatever was found once stays found.

use std::fs;
use std::path::Path;

/// Bounds of what is committed: `cargo xtask fuzz` keeps what it finds elsewhere.
const FILES_MAX: usize = 200;
const BYTES_MAX: u64 = 300 * 1024;

#[test]
fn corpora_are_replayed() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let (mut files, mut bytes) = (0, 0);
    for (name, target) in fuzzing::TARGETS {
        let folder = corpora.join(name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut inputs: Vec<_> = entries.map(|entry| entry.expect("an input").path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for path in inputs {
            let input = fs::read(&path).expect("an input");
            eprintln!("{}", path.display());
            target(&input);
            files += 1;
            bytes += input.len() as u64;
        }
    }
    assert!(files < FILES_MAX && bytes < BYTES_MAX, "{files} files, {bytes} bytes: minimise them");
}
