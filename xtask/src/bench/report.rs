//! The tables: per-repetition ratios, their medians and their spread.

use std::fmt;

use super::sample::{Sample, Side};
use super::workload;

/// All windows of a run, or of several runs.
pub struct Report<'a>(pub &'a [Sample]);

/// A figure of a window; none if no operation was completed.
type Figure = fn(&Sample) -> Option<f64>;

/// Median, least and greatest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    greatest: f64,
}

const PROXY: Figure = |sample| sample.proxy;
const BENCH: Figure = |sample| sample.bench;
const MACHINE: Figure = |sample| sample.machine;
const P50: Figure = |sample| sample.p50_ms;

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.ratios(f)?;
        self.replication(f)?;
        self.absolute(f)?;
        self.noise(f)
    }
}

impl Report<'_> {
    fn ratios(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "Relay / haproxy, CPU per operation (less is better for the relay)\n")?;
        writeln!(f, "| load | relay | px | bench | tot | noise: px A'/A |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for (name, relays) in self.rows() {
            let ratio = |figure| show(&self.against_haproxy(name, relays, figure));
            let noise =
                self.per_repetition(name, relays, |[a, _, again]| Some(again.proxy? / a.proxy?));
            writeln!(
                f,
                "| {name} | {} | {} | {} | {} | {} |",
                company(relays),
                ratio(PROXY),
                ratio(BENCH),
                ratio(MACHINE),
                show(&noise)
            )?;
        }
        writeln!(f)
    }

    fn replication(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "The cost of replication: the relay with a backup / the relay alone\n")?;
        writeln!(f, "| load | owner's px | owner's + backup's px | bench |")?;
        writeln!(f, "|---|---|---|---|")?;
        let both: Figure = |sample| Some(sample.proxy? + sample.relays_cpu?);
        for workload in &workload::ALL {
            let ratio = |figure| show(&self.backup_to_alone(workload.name, figure));
            let [owner, pair, all] = [PROXY, both, BENCH].map(ratio);
            writeln!(f, "| {} | {owner} | {pair} | {all} |", workload.name)?;
        }
        writeln!(f)
    }

    fn absolute(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "Absolute figures (they move with the machine's load: compare ratios)\n")?;
        writeln!(f, "| load | unit | proxy | px | bench | other relays' px | px share | p50 ms |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for (name, relays) in self.rows() {
            let idle =
                if relays > 1 { "haproxy (2 idle relays)" } else { "haproxy (1 idle relay)" };
            for (proxy, sides) in [
                (idle.to_owned(), &[Side::Haproxy, Side::HaproxyAgain][..]),
                (format!("relay {}", company(relays)), &[Side::Relay][..]),
            ] {
                let of = |figure: Figure| show(&self.values(name, relays, sides, figure));
                let unit = self.0.iter().find(|sample| sample.workload == name);
                writeln!(
                    f,
                    "| {name} | {} | {proxy} | {} | {} | {} | {} | {} |",
                    unit.map_or("", |sample| &sample.unit),
                    of(PROXY),
                    of(BENCH),
                    of(|sample| sample.relays_cpu),
                    of(|sample| Some(sample.load)),
                    of(P50),
                )?;
            }
        }
        writeln!(f)
    }

    fn noise(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "Foreign share of the machine, per repetition: median [least..greatest]\n")?;
        let mut repetitions: Vec<u32> = self.0.iter().map(|sample| sample.repetition).collect();
        repetitions.sort_unstable();
        repetitions.dedup();
        for repetition in repetitions {
            let ours = self.0.iter().filter(|sample| sample.repetition == repetition);
            let foreign: Vec<f64> = ours.map(|sample| sample.foreign).collect();
            writeln!(f, "- repetition {repetition}: {}", show(&foreign))?;
        }
        let failed: usize = self.0.iter().map(|sample| sample.failed).sum();
        writeln!(f, "- failed operations: {failed}")?;
        for sample in self.0.iter().filter(|sample| sample.failed > 0) {
            writeln!(
                f,
                "  - repetition {}, {}, {:?} of {}: {} failed, {} done: {}",
                sample.repetition,
                sample.workload,
                sample.side,
                sample.relays,
                sample.failed,
                sample.done,
                sample.error.as_deref().unwrap_or_default()
            )?;
        }
        Ok(())
    }

    /// Every load with every size of cluster that was measured.
    fn rows(&self) -> impl Iterator<Item = (&'static str, u8)> {
        let all = workload::ALL.iter().flat_map(|load| [(load.name, 1), (load.name, 2)]);
        all.filter(|(name, relays)| {
            self.0.iter().any(|s| s.workload == *name && s.relays == *relays)
        })
    }

    fn window(&self, name: &str, relays: u8, repetition: u32, side: Side) -> Option<&Sample> {
        self.0.iter().find(|sample| {
            let place = (sample.relays, sample.repetition, sample.side);
            sample.workload == name && place == (relays, repetition, side)
        })
    }

    fn values(&self, name: &str, relays: u8, sides: &[Side], figure: Figure) -> Vec<f64> {
        let wanted = |sample: &&Sample| {
            sample.workload == name && sample.relays == relays && sides.contains(&sample.side)
        };
        self.0.iter().filter(wanted).filter_map(figure).collect()
    }

    /// A value of each repetition, made from its windows A, B and A'.
    fn per_repetition(
        &self,
        name: &str,
        relays: u8,
        value: impl Fn([&Sample; 3]) -> Option<f64>,
    ) -> Vec<f64> {
        let last = self.0.iter().map(|sample| sample.repetition).max().unwrap_or(0);
        let of = |repetition| {
            let window = |side| self.window(name, relays, repetition, side);
            let (a, b) = (window(Side::Haproxy)?, window(Side::Relay)?);
            value([a, b, window(Side::HaproxyAgain)?])
        };
        (1..=last).filter_map(of).collect()
    }

    /// B against the mean of A and A', so that a steady change of the machine cancels out.
    fn against_haproxy(&self, name: &str, relays: u8, figure: Figure) -> Vec<f64> {
        self.per_repetition(name, relays, |[a, b, again]| {
            Some(figure(b)? * 2.0 / (figure(a)? + figure(again)?))
        })
    }

    fn backup_to_alone(&self, name: &str, figure: Figure) -> Vec<f64> {
        let last = self.0.iter().map(|sample| sample.repetition).max().unwrap_or(0);
        let of = |repetition| {
            let window = |relays| self.window(name, relays, repetition, Side::Relay);
            Some(figure(window(2)?)? / figure(window(1)?)?)
        };
        (1..=last).filter_map(of).collect()
    }
}

fn company(relays: u8) -> &'static str {
    if relays > 1 { "with a backup" } else { "alone" }
}

fn show(values: &[f64]) -> String {
    spread(values).map_or("-".to_owned(), |spread| spread.to_string())
}

fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (least, greatest) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    };
    Some(Spread { median, least, greatest })
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let digits = match self.median.abs() {
            100.0.. => 0,
            10.0.. => 1,
            _ => 2,
        };
        let Spread { median, least, greatest } = self;
        write!(f, "{median:.digits$} [{least:.digits$}..{greatest:.digits$}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(repetition: u32, relays: u8, side: Side, proxy: f64) -> Sample {
        Sample {
            repetition,
            workload: workload::ALL[0].name.to_owned(),
            relays,
            side,
            unit: "us".to_owned(),
            proxy: Some(proxy),
            relays_cpu: Some(0.0),
            bench: Some(2.0 * proxy),
            machine: Some(3.0 * proxy),
            foreign: 0.1,
            load: 0.5,
            done: 1,
            failed: 0,
            error: None,
            p50_ms: None,
            p99_ms: None,
            wall_s: 1.0,
        }
    }

    #[test]
    fn ratios_are_taken_inside_of_a_repetition() {
        let mut samples = Vec::new();
        for (repetition, speed) in [(1, 1.0), (2, 10.0)] {
            samples.push(sample(repetition, 1, Side::Haproxy, 90.0 * speed));
            samples.push(sample(repetition, 1, Side::Relay, 50.0 * speed));
            samples.push(sample(repetition, 1, Side::HaproxyAgain, 110.0 * speed));
            samples.push(sample(repetition, 2, Side::Relay, 75.0 * speed));
        }
        let report = Report(&samples);
        let name = workload::ALL[0].name;
        assert_eq!(report.against_haproxy(name, 1, PROXY), [0.5, 0.5]);
        assert_eq!(report.backup_to_alone(name, PROXY), [1.5, 1.5]);
        // A repetition without all of its windows has no ratio.
        assert!(report.against_haproxy(name, 2, PROXY).is_empty());
    }

    #[test]
    fn a_window_without_any_success_has_no_figure() {
        let mut samples =
            [Side::Haproxy, Side::Relay, Side::HaproxyAgain].map(|side| sample(1, 1, side, 1.0));
        (samples[1].proxy, samples[1].failed) = (None, 7);
        let text = Report(&samples).to_string();
        assert!(text.contains("7 failed"), "{text}");
        assert!(Report(&samples).against_haproxy(workload::ALL[0].name, 1, PROXY).is_empty());
    }

    #[test]
    fn the_spread_names_every_value() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]).unwrap().to_string(), "2.00 [1.00..3.00]");
        assert_eq!(spread(&[300.0, 100.0]).unwrap().to_string(), "200 [100..300]");
        assert_eq!(spread(&[]), None);
    }
}
