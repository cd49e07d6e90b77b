//! The load generator: threads of one TLS connection each, and the operations that they do.

use std::net::IpAddr;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::client::{Client, Tls};
use super::cpu::{Cast, REST_CORE, Snapshot, Usage, cores, pin_self};
use super::workload::Workload;
use crate::lab::plan::CLIENT_NS;
use crate::shell::inside;

/// How long the last packets of a window (FIN, delayed ACK) may take; it belongs to the window.
const TAIL: Duration = Duration::from_millis(20);

/// What a window was like.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Operations that were completed.
    pub done: u32,
    /// Why others failed.
    pub errors: Vec<String>,
    /// How long each completed one took, ascending: from the time for which it was planned, or
    /// from its begin where there is no plan.
    pub latencies: Vec<Duration>,
    /// CPU time of everybody.
    pub usage: Usage,
}

impl Outcome {
    /// The smallest latency that `percent` of the operations do not exceed.
    pub fn latency(&self, percent: usize) -> Option<Duration> {
        let rank = (self.latencies.len() * percent).div_ceil(100).max(1);
        self.latencies.get(rank - 1).copied()
    }
}

/// Puts `workload` on the proxy at `address` and measures one window.
pub fn drive(workload: &Workload, address: IpAddr, cast: &Cast) -> Result<Outcome> {
    let cores = cores()?;
    inside(CLIENT_NS, || {
        // Threads inherit namespace and core.
        pin_self(REST_CORE)?;
        let tls = Tls::new(address)?;
        let results = Mutex::new(Vec::new());
        let gate = Barrier::new(workload.threads as usize + 1);
        let usage = thread::scope(|scope| {
            for index in 0..workload.threads {
                let user = User { workload, tls: &tls, index };
                let (gate, results) = (&gate, &results);
                scope.spawn(move || {
                    let result = user.run(gate);
                    results.lock().unwrap_or_else(|poison| poison.into_inner()).push(result);
                    // Everybody's connections close outside of the window.
                    gate.wait();
                });
            }
            gate.wait();
            let before = Snapshot::take(cast);
            gate.wait();
            gate.wait();
            thread::sleep(TAIL);
            let after = Snapshot::take(cast);
            anyhow::Ok(after?.since(&before?, cores))
        })?;
        let results = results.into_inner().unwrap_or_else(|poison| poison.into_inner());
        Ok(outcome(results, usage))
    })
}

fn outcome(results: Vec<Account>, usage: Usage) -> Outcome {
    let mut total = Outcome { done: 0, errors: Vec::new(), latencies: Vec::new(), usage };
    for account in results {
        total.done += u32::try_from(account.latencies.len()).unwrap_or(u32::MAX);
        total.latencies.extend(account.latencies);
        total.errors.extend(account.errors);
    }
    total.latencies.sort();
    total
}

/// What one thread did.
#[derive(Default)]
struct Account {
    latencies: Vec<Duration>,
    errors: Vec<String>,
    /// Open until the window is over.
    _kept: Option<Client>,
}

/// One thread.
struct User<'a> {
    workload: &'a Workload,
    tls: &'a Arc<Tls>,
    index: u32,
}

impl User<'_> {
    /// Waits at `gate` twice: when it is ready, and until the window is open.
    fn run(&self, gate: &Barrier) -> Account {
        let mut account = Account::default();
        let mut kept = self.prepare().unwrap_or_else(|error| {
            account.errors.push(format!("before the window: {error:#}"));
            None
        });
        gate.wait();
        gate.wait();
        let begin = Instant::now();
        for number in 0..self.workload.operations {
            let from = self.wait_for_turn(begin, number);
            match self.operate(&mut kept) {
                Ok(()) => account.latencies.push(from.elapsed()),
                Err(error) => {
                    account.errors.push(format!("{error:#}"));
                    kept = None;
                }
            }
        }
        account._kept = kept;
        account
    }

    /// One operation that does not count: caches and routes are warm. Its connection is kept.
    fn prepare(&self) -> Result<Option<Client>> {
        let mut client = self.tls.connect().context("connect")?;
        client.warm_up()?;
        Ok(self.workload.operation.keeps_connection().then_some(client))
    }

    /// The moment from which an operation's latency counts.
    fn wait_for_turn(&self, begin: Instant, number: u32) -> Instant {
        let Some(interval) = self.workload.interval else { return Instant::now() };
        // Threads take turns, they do not march in step.
        let phase = interval * self.index / self.workload.threads;
        let planned = begin + interval * number + phase;
        thread::sleep(planned.saturating_duration_since(Instant::now()));
        planned
    }

    fn operate(&self, kept: &mut Option<Client>) -> Result<()> {
        let operation = &self.workload.operation;
        if !operation.keeps_connection() {
            let mut client = self.tls.connect()?;
            operation.run(&mut client, self.index)?;
            return client.close();
        }
        let client = match kept {
            Some(client) => client,
            None => kept.insert(self.tls.connect().context("reconnect")?),
        };
        operation.run(client, self.index)
    }
}
