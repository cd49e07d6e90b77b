//! Many seeds on all cores, and the sum of what they have shown.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Report, Swarm, run_swarm};

/// How often progress is printed.
const PROGRESS: Duration = Duration::from_secs(5);

/// Failures that are printed with their logs; of more only the seeds.
const SHOWN_MAX: usize = 5;

/// Which seeds.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    pub swarm: Swarm,
    pub first: u64,
    /// None: until the time is over.
    pub seeds: Option<u64>,
    pub time: Option<Duration>,
}

/// What many runs have shown.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub seeds: u64,
    pub failed: Vec<u64>,
    pub flows: u64,
    pub completed: u64,
    /// Connections that a crash was allowed to take along.
    pub excused: u64,
    /// Instants at which a relay lost power.
    pub kills: u64,
    /// Relays that ended as they were asked to.
    pub ends: u64,
    pub takeovers: u64,
    /// Units that went from one relay to another one while both lived.
    pub handed_over: u64,
    /// How often another configuration came into force.
    pub reconfigured: u64,
    /// Frames that a relay sent on to another one.
    pub forwarded: u64,
    /// How often a connection went on at another relay.
    pub survivals: u64,
    /// Records toward clients that were seen.
    pub records: u64,
    /// Of those, records that two relays have sent bytes of.
    pub pairs: u64,
    /// Segments that were compared with what a backup held.
    pub compared: u64,
    /// Of those, segments of a server's flight in a handshake.
    pub flights: u64,
    /// Records that were compared with what their number had sealed elsewhere.
    pub seals: u64,
    /// Frames that only the holder of a lease may send.
    pub leases: u64,
    pub frames: u64,
    /// FINs that the ends' TCP forgot to send again.
    pub forgotten_fins: u64,
    /// Largest backlog toward a peer and largest shadow, in bytes.
    pub backlog: usize,
    pub held: usize,
    /// Most bytes that the TCP buffers of a flow took.
    pub buffers: usize,
    pub took: Duration,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.flows += report.flows as u64;
        self.completed += report.completed as u64;
        self.excused += report.excused as u64;
        self.kills += u64::from(report.crashes);
        self.ends += u64::from(report.ends);
        self.takeovers += u64::from(report.takeovers);
        self.handed_over += report.handed_over;
        self.reconfigured += report.reconfigured;
        self.forwarded += report.forwarded;
        self.survivals += report.survivals as u64;
        self.records += report.records.seen;
        self.pairs += report.records.pairs;
        self.compared += report.compared;
        self.flights += report.flights;
        self.frames += report.frames;
        self.seals += report.seals;
        self.leases += report.leases;
        self.forgotten_fins += report.forgotten_fins;
        self.backlog = self.backlog.max(report.load.backlog);
        self.held = self.held.max(report.load.held);
        self.buffers = self.buffers.max(report.load.buffers.taken);
    }

    /// Seeds in a second.
    pub fn rate(&self) -> f64 {
        self.seeds as f64 / self.took.as_secs_f64().max(0.001)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Totals { seeds, flows, completed, excused, kills, takeovers, survivals, .. } = self;
        let Totals {
            handed_over,
            ends,
            reconfigured,
            forwarded,
            records,
            pairs,
            seals,
            leases,
            compared,
            flights,
            frames,
            forgotten_fins,
            backlog,
            held,
            buffers,
            ..
        } = self;
        let failed = self.failed.len();
        writeln!(f, "seeds {seeds}, failed {failed}, {:.1} seeds/s", self.rate())?;
        writeln!(f, "flows {flows}: completed {completed}, may be lost {excused}")?;
        writeln!(f, "kill points {kills}, takeovers {takeovers}, survivals {survivals}")?;
        writeln!(
            f,
            "units handed over {handed_over}, frames forwarded {forwarded}, planned ends {ends}"
        )?;
        writeln!(f, "configurations that came into force {reconfigured}")?;
        writeln!(f, "records {records}, sealed pairs checked {pairs}")?;
        writeln!(f, "entries and tags compared with what their number had sealed {seals}")?;
        writeln!(f, "segments compared with a backup {compared} of {frames} frames")?;
        writeln!(f, "segments of handshakes compared with what a backup would answer {flights}")?;
        writeln!(f, "frames compared with the council's word {leases}")?;
        writeln!(f, "FINs sent again that the ends' TCP had forgotten {forgotten_fins}")?;
        write!(f, "largest backlog {backlog} bytes, largest shadow {held} bytes, ")?;
        write!(f, "largest TCP buffers of a flow {buffers} bytes")
    }
}

impl Campaign {
    /// Runs the seeds; prints progress and failures.
    pub fn run(&self) -> Totals {
        let begin = Instant::now();
        let next = AtomicU64::new(self.first);
        let totals = Mutex::new((Totals::default(), begin));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| self.work(begin, &next, &totals));
            }
        });
        let (mut totals, _) = totals.into_inner().unwrap_or_else(|poison| poison.into_inner());
        totals.took = begin.elapsed();
        totals.failed.sort_unstable();
        totals
    }

    fn work(&self, begin: Instant, next: &AtomicU64, totals: &Mutex<(Totals, Instant)>) {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = self.seeds.is_some_and(|seeds| seed >= self.first + seeds);
            if enough || self.time.is_some_and(|time| begin.elapsed() >= time) {
                return;
            }
            let run = catch_unwind(AssertUnwindSafe(|| run_swarm(seed, self.swarm)));
            let mut guard = totals.lock().unwrap_or_else(|poison| poison.into_inner());
            let (totals, shown) = &mut *guard;
            match &run {
                Ok(report) => totals.add(report),
                Err(_) => totals.seeds += 1,
            }
            let failures = match run {
                Ok(report) => report.failures,
                Err(_) => vec!["panic".to_owned()],
            };
            if !failures.is_empty() {
                totals.failed.push(seed);
                self.complain(seed, &failures, totals.failed.len());
            }
            if shown.elapsed() >= PROGRESS {
                *shown = Instant::now();
                totals.took = begin.elapsed();
                eprintln!("{} seeds, {:.1} seeds/s", totals.seeds, totals.rate());
            }
        }
    }

    fn complain(&self, seed: u64, failures: &[String], count: usize) {
        if count <= SHOWN_MAX {
            failures.iter().for_each(|failure| println!("seed {seed}: {failure}"));
        }
        println!("repeat: cargo xtask sim --seed {seed}{}", self.swarm.option());
    }
}
