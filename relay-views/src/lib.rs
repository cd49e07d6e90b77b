//! Views: who is alive, and who owns and backs up every bucket, agreed by consensus.
//!
//! [`View`] is plain data and [`View::apply`] a pure function, so that every voter computes the
//! same views from the same commands (rules 1 to 5 and 18 of the protocol are kept there).
//! `Council` runs the consensus, sans-IO: time, messages and suspicions come in as arguments; what
//! to write, what to send and the committed views come out as values. `disk` is the only module
//! that touches files. [`source`] is what a data plane sees of all this.

#![forbid(unsafe_code)]

mod apply;
mod codec;
pub mod command;
#[cfg(feature = "council")]
pub mod council;
#[cfg(feature = "council")]
pub mod disk;
pub mod id;
#[cfg(feature = "council")]
pub mod log;
pub mod placement;
mod random;
mod settle;
pub mod source;
pub mod view;

pub use command::{Command, Refusal};
#[cfg(feature = "council")]
pub use council::Council;
pub use relay_abi::wire::Malformed;
pub use view::View;
