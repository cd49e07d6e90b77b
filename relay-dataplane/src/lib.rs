//! The relay process around the core: AF_XDP ports, the XDP program's loader, the pinned workers,
//! the configuration and the control socket.

pub mod clock;
pub mod config;
pub mod control;
pub mod council;
pub mod crew;
pub mod document;
pub mod neighbors;
pub mod port;
pub mod priority;
pub mod report;
pub mod start;
pub mod witness;
pub mod worker;
pub mod xdp;
