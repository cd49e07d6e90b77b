//! Councils over real sockets with real certificates and real disks, on loopback addresses.

mod cast;
mod cluster;
mod configuration;
mod keys;
mod process;
mod scenarios;
