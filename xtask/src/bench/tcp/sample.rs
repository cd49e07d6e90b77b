//! One transfer's figures.

use std::fmt;

use serde::{Deserialize, Serialize};
use wire::bridge::Report;

use super::transfer::Direction;
use crate::bench::sample::Side;
use crate::lab::Congestion;

/// One transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub repetition: u32,
    pub congestion: Congestion,
    pub direction: Direction,
    /// Its place in the table, and its name.
    pub path: (usize, String),
    pub side: Side,
    /// What the receiver got per second, in megabits.
    pub mbit: f64,
    /// What happened on the line.
    pub wire: Report,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let line = match self.direction {
            Direction::Down => &self.wire.left,
            Direction::Up => &self.wire.right,
        };
        write!(
            f,
            "{:5} {:4} {:22} {:12} {:>6.2} Mbit/s; {} frames, lost {}+{}, queue full {}, peak {} kB",
            self.congestion.as_str(),
            format!("{:?}", self.direction),
            self.path.1,
            format!("{:?}", self.side),
            self.mbit,
            line.offered,
            line.lost,
            line.lost_in_bursts,
            line.queue_full,
            line.peak_queue / 1000,
        )?;
        if self.wire.overrun > 0 {
            write!(f, "; THE WIRE LOST {} ITSELF", self.wire.overrun)?;
        }
        write!(f, "; {} late, at most {} us", self.wire.late, self.wire.late_max_us)
    }
}
