//! Everything a developer runs. The lab is a library, so that end-to-end tests drive the same
//! cluster as the demo and the command line.

#![forbid(unsafe_code)]

pub mod bench;
pub mod binaries;
pub mod content;
pub mod demo;
pub mod fuzz;
pub mod lab;
pub mod shell;
pub mod sim;
pub mod soak;
pub mod suite;
pub mod tidy;
