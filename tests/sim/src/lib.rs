//! A deterministic simulator: whole [relays](relay_core::units::Units), the very code of
//! production, between independent clients (rustls over smoltcp, or over an odd TCP of our own) and an
//! independent backend, over
//! Ethernet segments that lose, double, reorder and damage frames, while relays lose power.
//!
//! Time is virtual and everything follows from one seed: the same seed gives the same bytes.

mod audit;
mod backend;
pub mod campaign;
#[cfg(feature = "canary")]
pub mod canary;
mod client;
mod configuration;
mod council;
pub mod every_event;
mod faults;
mod fins;
mod flights;
mod host;
mod keys;
mod lease;
mod network;
mod odd;
pub mod pcap;
pub mod plan;
mod program;
mod random;
mod relay;
mod rest;
pub mod script;
mod seals;
mod setup;
mod swarm;
mod tls;
mod transport;
mod variety;
mod wire;
mod world;

pub use client::Outcome;
pub use network::Faults;
pub use swarm::{Swarm, options, plain};
pub use world::Report;

use script::Options;

/// Runs one scenario.
pub fn run(seed: u64, options: &Options) -> Report {
    world::World::new(seed, options.clone()).run()
}

/// Runs what `seed` alone decides.
pub fn run_swarm(seed: u64, swarm: Swarm) -> Report {
    run(seed, &options(seed, swarm))
}

/// The same, and keeps every frame if it has to.
pub fn run_captured(seed: u64, swarm: Swarm, capture: bool) -> Report {
    let world = world::World::new(seed, options(seed, swarm));
    if capture { world.captured().run() } else { world.run() }
}
