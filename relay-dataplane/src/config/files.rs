//! The files that a configuration names. Errors are predicates that follow the file's name.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::MAX_FILE;

/// Permission bits that let others than the owner read or write.
const OTHERS: u32 = 0o077;

/// A file's bytes, and whether others than its owner may read it.
pub(super) struct Contents {
    pub bytes: Vec<u8>,
    pub exposed: bool,
}

/// Reads a regular file of at most [`MAX_FILE`] bytes.
pub(super) fn read(path: &Path) -> Result<Contents, String> {
    let failed = |error: io::Error| format!("cannot be read ({error})");
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    // One byte more shows a file that is too long.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("is longer than {MAX_FILE} bytes"));
    }
    Ok(Contents { bytes, exposed: metadata.mode() & OTHERS != 0 })
}

/// Reads a text file.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    String::from_utf8(read(path)?.bytes).map_err(|_| "is not UTF-8".to_owned())
}

/// The 32 bytes that 64 hexadecimal digits stand for; a newline may follow.
pub(super) fn parse_key(text: &[u8]) -> Option<[u8; 32]> {
    let digits = text.trim_ascii();
    let mut key = [0; 32];
    if digits.len() != 2 * key.len() {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair.first()?, pair.get(1)?].map(|d| char::from(*d).to_digit(16));
        *byte = u8::try_from(high? << 4 | low?).ok()?;
    }
    Some(key)
}

/// Whether a PEM file holds a section whose label ends in `label` (RFC 7468 section 2).
pub(super) fn has_section(pem: &[u8], label: &str) -> bool {
    let end = format!("{label}-----");
    pem.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii_end)
        .any(|line| line.starts_with(b"-----BEGIN ") && line.ends_with(end.as_bytes()))
}
