//! A long line in userspace: carries frames between two interfaces, and delays, limits, queues,
//! loses, reorders, doubles and damages them on the way. Everything that is random follows from
//! one seed and the order of the frames.
//!
//! [`line`] decides what becomes of each frame (pure: time and seed are arguments), [`bridge`]
//! moves frames between sockets and two lines, [`plan`] is what a command line can say about them.

#![forbid(unsafe_code)]

pub mod bridge;
pub mod line;
pub mod plan;
pub mod port;
mod random;
pub mod units;
