//! Frames of a run as a file for tcpdump and Wireshark.

use relay_core::time::Instant;

/// Nanoseconds, little-endian.
const MAGIC: u32 = 0xa1b2_3c4d;

/// Ethernet.
const LINK_TYPE: u32 = 1;

/// Longest frame.
const SNAPLEN: u32 = 65_535;

/// The file's bytes.
pub fn write(frames: &[(Instant, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(MAGIC.to_le_bytes());
    out.extend([2, 0, 4, 0]);
    for word in [0, 0, SNAPLEN, LINK_TYPE] {
        out.extend(word.to_le_bytes());
    }
    for (at, frame) in frames {
        let (seconds, nanos) = (at.as_nanos() / 1_000_000_000, at.as_nanos() % 1_000_000_000);
        let length = frame.len() as u32;
        for word in [seconds as u32, nanos as u32, length, length] {
            out.extend(word.to_le_bytes());
        }
        out.extend_from_slice(frame);
    }
    out
}
