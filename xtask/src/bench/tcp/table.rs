//! The table of ratios.

use std::collections::BTreeMap;
use std::fmt;

use super::sample::Sample;
use super::transfer::Direction;
use crate::bench::sample::Side;
use crate::lab::Congestion;

/// One row for each congestion control, direction and path.
pub struct Table<'a>(pub &'a [Sample]);

/// What one repetition measured.
#[derive(Default)]
struct Round {
    kernel: Option<f64>,
    relay: Option<f64>,
    again: Option<f64>,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut rows: BTreeMap<(Congestion, Direction, usize, &str), BTreeMap<u32, Round>> =
            BTreeMap::new();
        for sample in self.0 {
            let row = (sample.congestion, sample.direction, sample.path.0, &*sample.path.1);
            let round = rows.entry(row).or_default().entry(sample.repetition).or_default();
            let place = match sample.side {
                Side::Haproxy => &mut round.kernel,
                Side::Relay => &mut round.relay,
                Side::HaproxyAgain => &mut round.again,
            };
            *place = Some(sample.mbit);
        }
        writeln!(f, "Median [quartiles]; relay / kernel against the mean of A and A'\n")?;
        writeln!(
            f,
            "| | | path | relay, Mbit/s | kernel, Mbit/s | relay / kernel | noise: A'/A | n |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for ((congestion, direction, _, path), rounds) in &rows {
            let rounds: Vec<_> = rounds.values().filter_map(complete).collect();
            let column = |of: fn(&[f64; 3]) -> f64| quartiles(rounds.iter().map(of).collect());
            writeln!(
                f,
                "| {} | {} | {path} | {} | {} | {} | {} | {} |",
                congestion.as_str(),
                if *direction == Direction::Down { "download" } else { "upload" },
                column(|[_, relay, _]| *relay),
                column(|[kernel, _, again]| (kernel + again) / 2.0),
                column(|[kernel, relay, again]| relay * 2.0 / (kernel + again)),
                column(|[kernel, _, again]| again / kernel),
                rounds.len(),
            )?;
        }
        let overrun: u64 = self.0.iter().map(|sample| sample.wire.overrun).sum();
        let frames: u64 =
            self.0.iter().map(|one| one.wire.left.offered + one.wire.right.offered).sum();
        let late: u64 = self.0.iter().map(|sample| sample.wire.late).sum();
        writeln!(
            f,
            "\nThe wire: {overrun} of {frames} frames lost by itself (must be 0), {:.2} % more than \
             0.3 ms late",
            late as f64 * 100.0 / frames.max(1) as f64
        )
    }
}

fn complete(round: &Round) -> Option<[f64; 3]> {
    Some([round.kernel?, round.relay?, round.again?])
}

/// Median and quartiles, interpolated.
fn quartiles(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (values.len() - 1) as f64;
        let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
        low + (high - low) * place.fract()
    };
    match values.len() {
        0 => "-".to_owned(),
        _ => format!("{:.2} [{:.2}..{:.2}]", at(0.5), at(0.25), at(0.75)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_few() {
        assert_eq!(quartiles(vec![5.0, 1.0, 2.0, 4.0, 3.0]), "3.00 [2.00..4.00]");
        assert_eq!(quartiles(vec![1.0, 2.0]), "1.50 [1.25..1.75]");
        assert_eq!(quartiles(vec![]), "-");
    }
}
