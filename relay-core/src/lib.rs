//! The relay's core: sans-IO and deterministic.
//!
//! Time, entropy and bytes come in as arguments; frames, cluster datagrams and commands go out as
//! values. The same code runs in the simulator and in production. `clippy.toml` bans clocks,
//! threads, sockets and iteration over hash tables here.

#![forbid(unsafe_code)]

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("choose a crypto provider: feature `aws-lc-rs` (default) or `ring`");

pub mod canary;
pub mod config;
mod crypto;
mod entropy;
pub mod flow;
pub mod frame;
pub mod id;
pub mod listeners;
pub mod node;
pub mod parting;
pub mod reason;
pub mod relay;
pub mod replica;
pub mod shard;
pub mod spread;
pub mod tcp;
pub mod time;
pub mod tls;
pub mod unit;
pub mod units;
