//! Paths through the internet.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use wire::plan::{Both, Plan};
use wire::units;

/// Frames in a burst of losses, on average.
const BURST_LENGTH: f64 = 4.0;

/// A round-trip time and a share of lost frames, in each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    rtt: Duration,
    loss: f64,
    in_bursts: bool,
}

/// What all paths have in common.
#[derive(Clone, Copy, Debug)]
pub struct Bottleneck {
    /// Bits per second.
    pub rate: u64,
    /// Length of the queue, in bandwidth-delay products.
    pub queue_bdp: f64,
}

impl Path {
    /// The round-trip time.
    pub fn rtt(&self) -> Duration {
        self.rtt
    }

    /// A wire like that.
    pub fn plan(&self, bottleneck: Bottleneck, seed: u64) -> Plan {
        let bdp = bottleneck.rate as f64 / 8.0 * self.rtt.as_secs_f64();
        // Less than a few frames would be no queue.
        const QUEUE_MIN: f64 = 15_000.0;
        let queue = (bdp * bottleneck.queue_bdp).max(QUEUE_MIN) as usize;
        let (single, burst) = if self.in_bursts { (0.0, self.loss) } else { (self.loss, 0.0) };
        Plan {
            delay: Both::same(self.rtt / 2),
            rate: Some(Both::same(bottleneck.rate)),
            queue: Some(Both::same(queue)),
            loss: Both::same(single),
            burst: Both::same(burst),
            burst_length: BURST_LENGTH,
            seed,
            ..Plan::default()
        }
    }
}

/// `20ms:0.5%`, or `20ms:0.5%b` for losses in bursts.
impl FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Path, String> {
        let (rtt, loss) = text.split_once(':').ok_or("as in 20ms:0.5% or 20ms:0.5%b")?;
        let single = loss.strip_suffix('b');
        Ok(Path {
            rtt: units::duration(rtt)?,
            loss: units::percent(single.unwrap_or(loss))?,
            in_bursts: single.is_some(),
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ms, {} %", self.rtt.as_secs_f64() * 1e3, self.loss * 100.0)?;
        f.write_str(if self.in_bursts { " in bursts" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_a_bandwidth_delay_product() {
        let path: Path = "20ms:0.5%b".parse().unwrap();
        assert_eq!(path.to_string(), "20 ms, 0.5 % in bursts");
        let plan = path.plan(Bottleneck { rate: 100_000_000, queue_bdp: 1.0 }, 7);
        assert_eq!(plan.queue, Some(Both::same(250_000)));
        assert_eq!((plan.loss.right, plan.burst.left, plan.seed), (0.0, 0.005, 7));
        assert_eq!(plan.delay, Both::same(Duration::from_millis(10)));
    }
}
