//! What a command line can say about both directions.

use std::time::Duration;

use clap::Args;
use clap::builder::TypedValueParser;
use serde::{Deserialize, Serialize};

use crate::line::{Burst, Shape};
use crate::units;

/// A value for each direction, written as `A` for both or as `A/B`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Both<T> {
    /// From the left to the right.
    pub right: T,
    /// From the right to the left.
    pub left: T,
}

impl<T: Clone> Both<T> {
    /// The same in both directions.
    pub fn same(value: T) -> Both<T> {
        Both { right: value.clone(), left: value }
    }
}

/// A line in both directions. Every value is for both of them, or `A/B`: A from the left to the
/// right, B from the right to the left.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[group(id = "wire")]
pub struct Plan {
    /// Propagation, as in `10ms`: half of the round-trip time.
    #[arg(long, default_value = "0ms", value_parser = both(units::duration))]
    pub delay: Both<Duration>,
    /// Rate, as in `100mbit`.
    #[arg(long, value_parser = both(units::rate))]
    pub rate: Option<Both<u64>>,
    /// Length of the queue in front of the rate, in bytes, as in `256k`; it drops its tail.
    #[arg(long, value_parser = both(units::bytes), requires = "rate")]
    pub queue: Option<Both<usize>>,
    /// Frames that are lost on their own, as in `1%`.
    #[arg(long, default_value = "0%", value_parser = both(units::percent))]
    pub loss: Both<f64>,
    /// Frames that are lost in bursts, as in `1%`.
    #[arg(long, default_value = "0%", value_parser = both(units::percent))]
    pub burst: Both<f64>,
    /// Frames in such a burst, on average.
    #[arg(long, default_value_t = 4.0)]
    pub burst_length: f64,
    /// Frames that come late and are overtaken.
    #[arg(long, default_value = "0%", value_parser = both(units::percent))]
    pub reorder: Both<f64>,
    /// By how much they are late.
    #[arg(long, default_value = "2ms", value_parser = both(units::duration))]
    pub reorder_by: Both<Duration>,
    /// Frames that come twice.
    #[arg(long, default_value = "0%", value_parser = both(units::percent))]
    pub duplicate: Both<f64>,
    /// Frames in which one bit is wrong.
    #[arg(long, default_value = "0%", value_parser = both(units::percent))]
    pub corrupt: Both<f64>,
    /// Another seed loses other frames.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            delay: Both::default(),
            rate: None,
            queue: None,
            loss: Both::default(),
            burst: Both::default(),
            burst_length: 4.0,
            reorder: Both::default(),
            reorder_by: Both::same(Duration::from_millis(2)),
            duplicate: Both::default(),
            corrupt: Both::default(),
            seed: 1,
        }
    }
}

impl Plan {
    /// The line from the left to the right.
    pub fn right(&self) -> Shape {
        self.shape(|both| both.right, |both| both.right, |both| both.right)
    }

    /// The line from the right to the left.
    pub fn left(&self) -> Shape {
        self.shape(|both| both.left, |both| both.left, |both| both.left)
    }

    fn shape(
        &self,
        time: impl Fn(&Both<Duration>) -> Duration,
        share: impl Fn(&Both<f64>) -> f64,
        rate: impl Fn(&Both<u64>) -> u64,
    ) -> Shape {
        let nanos = |both| u64::try_from(time(both).as_nanos()).unwrap_or(u64::MAX);
        let queue =
            self.queue.map(|both| Both { right: both.right as u64, left: both.left as u64 });
        Shape {
            delay: nanos(&self.delay),
            rate: self.rate.as_ref().map(&rate),
            queue: queue.as_ref().map(|both| rate(both) as usize),
            loss: share(&self.loss),
            burst: Burst::of(share(&self.burst), self.burst_length),
            reorder: share(&self.reorder),
            reorder_by: nanos(&self.reorder_by),
            duplicate: share(&self.duplicate),
            corrupt: share(&self.corrupt),
        }
    }
}

/// A parser of values for one or both directions.
fn both<T>(one: fn(&str) -> Result<T, String>) -> impl TypedValueParser<Value = Both<T>>
where
    T: Clone + Send + Sync + 'static,
{
    move |text: &str| match text.split_once('/') {
        Some((right, left)) => Ok(Both { right: one(right)?, left: one(left)? }),
        None => one(text).map(Both::same),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        plan: Plan,
    }

    fn parse(words: &str) -> Result<Plan, clap::Error> {
        let words = words.split_whitespace();
        Cli::try_parse_from(["wire"].into_iter().chain(words)).map(|cli| cli.plan)
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(parse("").unwrap(), Plan::default());
        assert_eq!(Plan::default().right().burst.enter, 0.0);
    }

    #[test]
    fn one_value_is_for_both_directions() {
        let plan = parse("--delay 10ms/1ms --rate 100mbit --queue 256k --loss 1%/0%").unwrap();
        let (right, left) = (plan.right(), plan.left());
        assert_eq!((right.delay, left.delay), (10_000_000, 1_000_000));
        assert_eq!((right.rate, left.queue), (Some(100_000_000), Some(262_144)));
        assert_eq!((right.loss, left.loss), (0.01, 0.0));
    }

    #[test]
    fn a_queue_needs_a_rate() {
        assert!(parse("--queue 256k").is_err());
        assert!(parse("--delay 10").is_err());
    }
}
