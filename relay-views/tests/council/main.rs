//! Councils in virtual time: whole clusters from one seed, with everything going wrong that may.

mod check;
mod disk;
mod node;
mod scenarios;
mod swarm;
mod wire;
mod world;
