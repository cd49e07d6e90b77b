//! `[worker]`: how many threads carry traffic, and where they run.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use toml::Spanned;

use super::{Resolver, Result, parse};
use crate::config::{PortMode, WORKERS_MAX, Worker};

/// Core numbers; the size of the kernel's `cpu_set_t`.
const CORES: RangeInclusive<i64> = 0..=1023;

impl Resolver<'_> {
    pub(super) fn worker(&self, worker: &parse::Worker, ports: &parse::Ports) -> Result<Worker> {
        let most = usize::from(WORKERS_MAX);
        let cores = match (&worker.core, &worker.cores) {
            (Some(core), None) => vec![self.integer(core, CORES)?],
            (None, Some(cores)) => {
                self.some(cores, most, "cores")?;
                self.distinct_cores(cores.get_ref())?
            }
            (None, None) => Vec::new(),
            (Some(_), Some(cores)) => {
                let remedy = "keep one of the two";
                return Err(self.wrong(cores, "worker.core names a core, too", remedy));
            }
        };
        let count = match &worker.count {
            Some(count) => self.integer(count, 1..=WORKERS_MAX.into())?,
            None => u8::try_from(cores.len()).unwrap_or(WORKERS_MAX).max(1),
        };
        if let Some(at) = &worker.count
            && !cores.is_empty()
            && cores.len() != usize::from(count)
        {
            let problem = format!("{count} workers, but cores for {}", cores.len());
            return Err(self.wrong(at, problem, "name one core for each in worker.cores"));
        }
        // One that never sleeps would starve its core, which only the operator can know to be free.
        let sleeps = self.mode(ports.mode.as_ref())? == PortMode::Poll;
        Ok(Worker { count, cores, realtime: worker.realtime.unwrap_or(sleeps) })
    }

    fn distinct_cores(&self, list: &[Spanned<i64>]) -> Result<Vec<usize>> {
        let mut seen = BTreeSet::new();
        let mut cores = Vec::new();
        for core in list {
            cores.push(self.integer(core, CORES)?);
            if !seen.insert(*core.get_ref()) {
                let problem = format!("another worker runs on core {}", core.get_ref());
                return Err(self.wrong(core, problem, "give each worker a core of its own"));
            }
        }
        Ok(cores)
    }

    /// Units are what workers share the flows by.
    pub(super) fn enough_units(&self, at: &parse::Worker, count: u8, units: u8) -> Result<()> {
        if count <= units {
            return Ok(());
        }
        let problem = format!("{count} workers share {units} unit of ownership");
        let problem = if units == 1 { problem } else { problem.replace("unit of", "units of") };
        let remedy = format!("set cluster.council.units to {count} or more, the same everywhere");
        Err(match (&at.count, &at.cores) {
            (Some(count), _) => self.wrong(count, problem, remedy),
            (None, Some(cores)) => self.wrong(cores, problem, remedy),
            // One worker is never too many.
            (None, None) => return Ok(()),
        })
    }
}
