//! Takeovers of flows on a long and lossy line: how long their receivers stand still.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench::pause::flow::Shape;
use crate::bench::pause::trial::{Pause, Trials};
use crate::lab::{Congestion, Lab};

/// The flows of a trial, all with data in flight.
const SHAPES: [Shape; 4] = [Shape::BulkDown, Shape::BulkDown, Shape::BulkUp, Shape::BulkUp];
/// Trials that may fail in a row.
const FAILURES_MAX: u32 = 5;

/// What a takeover may cost beyond detection, in milliseconds: three round trips and 100.
pub fn target_ms(rtt: Duration) -> f64 {
    (rtt * 3).as_secs_f64() * 1e3 + 100.0
}

/// Stalls of one kind of flow, in milliseconds.
#[derive(Default)]
struct Stalls {
    /// The longest gap between bytes at the receiver.
    total: Vec<f64>,
    /// The same less the time until the takeover.
    beyond: Vec<f64>,
    /// The longest gap in as much time when nobody was lost.
    control: Vec<f64>,
}

/// Stalls by direction.
pub struct Report {
    down: Stalls,
    up: Stalls,
    detection: Vec<f64>,
    target: f64,
}

/// Loses the owner `kills` times, and as often does not.
pub fn measure(lab: &mut Lab, kills: u32, congestion: Congestion, rtt: Duration) -> Result<Report> {
    let mut report = Report {
        down: Stalls::default(),
        up: Stalls::default(),
        detection: Vec::new(),
        target: target_ms(rtt),
    };
    let outage = Duration::from_millis(lab.options().timeout_ms.into());
    let mut trials = Trials::new(lab)?;
    let mut failures = 0;
    while report.detection.len() < kills as usize {
        let number = report.detection.len() + 1;
        let control = trials.control(&SHAPES, congestion, outage);
        let measured = control.and_then(|calm| Ok((calm, trials.run(&SHAPES, congestion)?)));
        match measured {
            Ok((calm, lost)) => {
                failures = 0;
                report.count(&calm, &lost);
                eprintln!("takeover: {number}/{kills}: {}", words(&lost));
            }
            Err(error) => {
                eprintln!("takeover: {number}/{kills}: {error:#}");
                failures += 1;
                ensure!(failures < FAILURES_MAX, "too many failures in a row");
                trials.recover().context("the lab does not come back")?;
            }
        }
    }
    Ok(report)
}

impl Report {
    fn count(&mut self, calm: &[Pause], lost: &[Pause]) {
        self.detection.extend(lost.first().map(|pause| millis(pause.detection)));
        for pause in calm {
            self.stalls(pause.shape).control.extend(pause.length.map(millis));
        }
        for pause in lost {
            let Some(length) = pause.length.map(millis) else { continue };
            let stalls = self.stalls(pause.shape);
            stalls.total.push(length);
            stalls.beyond.push(length - millis(pause.detection));
        }
    }

    fn stalls(&mut self, shape: Shape) -> &mut Stalls {
        if shape == Shape::BulkUp { &mut self.up } else { &mut self.down }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "Milliseconds, {} takeovers; p50, p90, max\n", self.detection.len())?;
        writeln!(
            f,
            "| | detection | stall | beyond detection | above {:.0} ms | without takeover |",
            self.target
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for (name, stalls) in [("download", &self.down), ("upload", &self.up)] {
            let above = stalls.beyond.iter().filter(|stall| **stall > self.target).count();
            writeln!(
                f,
                "| {name} | {} | {} | {} | {above} of {} | {} |",
                ranks(&self.detection),
                ranks(&stalls.total),
                ranks(&stalls.beyond),
                stalls.beyond.len(),
                ranks(&stalls.control),
            )?;
        }
        Ok(())
    }
}

fn words(pauses: &[Pause]) -> String {
    let one = |pause: &Pause| {
        let length = pause.length.map_or(f64::NAN, millis);
        format!("{} {length:.0}", pause.shape.name())
    };
    let detection = pauses.first().map_or(f64::NAN, |pause| millis(pause.detection));
    let all: Vec<String> = pauses.iter().map(one).collect();
    format!("detection {detection:.0}; {}", all.join(", "))
}

fn ranks(values: &[f64]) -> String {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100).max(1);
        values.get(rank - 1).copied().unwrap_or(f64::NAN)
    };
    format!("{:.0}, {:.0}, {:.0}", at(50), at(90), at(100))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
