//! What each fuzz target does with its input. The targets themselves, in `fuzz/`, only call these
//! functions; so does the replay of the corpora, which needs no fuzzer.
//!
//! An input is a program: its bytes are read one after another as choices ([`input::Input`]), so
//! that small changes of the input are small changes of what happens.

#![forbid(unsafe_code)]

mod connection;
mod frame;
mod input;
mod messages;
mod model;
mod restore;
mod segments;

pub use frame::frame;
pub use messages::messages;
pub use restore::restore;
pub use segments::segments;

/// A target: its name, which is that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 4] =
    [("frame", frame), ("messages", messages), ("restore", restore), ("segments", segments)];
