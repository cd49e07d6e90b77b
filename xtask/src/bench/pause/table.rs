//! The table of pauses.

use std::collections::BTreeMap;
use std::fmt;

use super::flow::Shape;
use super::sample::Sample;
use crate::lab::Congestion;

/// Median and spread of each cell.
pub struct Table<'a>(pub &'a [Sample]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut rows: BTreeMap<(u32, Shape, &str), Vec<&Sample>> = BTreeMap::new();
        for sample in self.0 {
            let row = (sample.outage_ms, sample.shape, sample.label.as_str());
            rows.entry(row).or_default().push(sample);
        }
        writeln!(f, "Milliseconds: median [p10..p90] of n\n")?;
        write!(f, "| outage | load | relay | detection |")?;
        writeln!(f, " CUBIC: pause | beyond detection | BBR: pause | beyond detection |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for ((outage, shape, label), samples) in rows {
            let detection = spread(samples.iter().map(|sample| sample.detection_ms).collect());
            write!(f, "| {outage} | {} | {label} | {detection} |", shape.name())?;
            for congestion in [Congestion::Cubic, Congestion::Bbr] {
                let ours = || samples.iter().filter(|sample| sample.congestion == congestion);
                let pause = spread(ours().filter_map(|sample| sample.pause_ms).collect());
                let beyond = spread(ours().filter_map(|sample| sample.beyond_ms()).collect());
                write!(f, " {pause} | {beyond} |")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100).max(1);
        values.get(rank - 1).copied().unwrap_or(f64::NAN)
    };
    match values.len() {
        0 => "-".to_owned(),
        count => format!("{:.1} [{:.1}..{:.1}] of {count}", at(50), at(10), at(90)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_ranks() {
        assert_eq!(spread((1..=20).map(f64::from).collect()), "10.0 [2.0..18.0] of 20");
        assert_eq!(spread(vec![3.0]), "3.0 [3.0..3.0] of 1");
        assert_eq!(spread(Vec::new()), "-");
    }
}
