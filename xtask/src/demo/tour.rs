//! The tour: everything that may happen to a cluster's relays, one after the other, under
//! connections that are open all the time.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::stage::Stage;
use super::tour_report::{Report, Step};
use super::transfer::Job;
use super::transfer_while;
use super::{BEGIN_LIMIT, Options, TAKEOVER_LIMIT, WARM_UP, in_a_lab, pauses_of, source};
use crate::lab::{How, Lab, relay};
use crate::shell::wait_for;

/// Body of a transfer: four minutes at the pace that the source and the uploads keep.
const LENGTH: usize = 24 << 20;
/// Pace of an upload until the finale, in bytes per second.
const UPLOAD_RATE: u32 = 100 << 10;
/// From the end of one step to the next, so that a pause ends in the step that made it.
const SETTLE: Duration = Duration::from_secs(3);
/// From the end of the last step to the finale.
const LULL: Duration = Duration::from_secs(1);
/// How long a relay may take from its start until it could take over.
const SYNC_LIMIT: Duration = Duration::from_secs(60);
/// Relays of which two can be lost.
const RELAYS_MIN: u8 = 3;
/// Last lines of each log that are shown when a step fails.
const LOG_LINES: usize = 20;

/// Runs the tour; an error unless every step was done and every connection survived byte-exact.
pub fn run(options: &Options) -> Result<()> {
    if options.lab.relays < RELAYS_MIN {
        bail!(
            "the tour loses two relays, and one must remain: --relays {RELAYS_MIN} or more \
             (not {})",
            options.lab.relays
        );
    }
    let mut lab_options = options.lab.clone();
    // With a witness any two may be lost one after the other; whoever says --council wants none.
    if lab_options.witnesses == 0 && !lab_options.council {
        lab_options.witnesses = 1;
    }
    let report = in_a_lab(&lab_options, options.keep, |lab| play(lab, options))?;
    if options.json {
        eprint!("{report}");
        println!("{}", serde_json::to_string(&report.summary())?);
    } else {
        print!("{report}");
    }
    report.verdict()
}

fn play(lab: &mut Lab, options: &Options) -> Result<Report> {
    let (jobs, ipv6) = (jobs(options.connections.into()), options.lab.ipv6);
    let stage = Stage::new(jobs.len());
    let listener = source::listen()?;
    thread::scope(|scope| {
        let server = scope.spawn(|| source::serve(&listener, LENGTH, &stage));
        let mut steps = Vec::new();
        let act = |lab: &mut Lab, stage: &Stage| {
            let toured = Tour { lab, stage, steps: &mut steps }.all_steps();
            toured.inspect_err(|error| show_evidence(lab, error))
        };
        let (outcomes, uploads, toured) = transfer_while(lab, ipv6, &jobs, &stage, act)?;
        server.join().expect("the source does not panic")?;
        for (step, number) in steps.iter_mut().zip(1..) {
            step.pauses = pauses_of(number, &outcomes, &uploads);
        }
        let failure = toured.err().map(|error| format!("{error:#}"));
        let report = Report { outcomes, steps, early: stage.early(), failure };
        if let (Err(error), None) = (report.verdict(), &report.failure) {
            show_evidence(lab, &error);
        }
        Ok(report)
    })
}

fn jobs(connections: usize) -> Vec<Job> {
    let (uploads, chats) = (connections / 8, connections / 4);
    let downloads = connections - uploads - chats;
    eprintln!("tour: {downloads} downloads, {uploads} uploads and {chats} chatty connections");
    let all_downloads = (0..downloads).map(|index| Job::Stream { index, length: LENGTH });
    let upload = |index| Job::Upload { index, length: LENGTH, rate: UPLOAD_RATE };
    let all_chats = (0..chats).map(|_| Job::Chat);
    all_downloads.chain((0..uploads).map(upload)).chain(all_chats).collect()
}

/// What everybody says at the moment of a failure; the lab, and all of this with it, goes away.
fn show_evidence(lab: &Lab, error: &anyhow::Error) {
    eprintln!("tour: {error:#}");
    for name in lab.relays() {
        let said = lab.ask(&name, &["status"]).unwrap_or_else(|error| format!("{error:#}"));
        eprintln!("--- relay-ctl status of {name}\n{said}");
    }
    for name in lab.relays().chain(lab.witnesses()) {
        let text = fs::read_to_string(relay::log(&name)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        eprintln!("--- end of the log of {name}\n{}", last.join("\n"));
    }
}

struct Tour<'a> {
    lab: &'a mut Lab,
    stage: &'a Stage,
    steps: &'a mut Vec<Step>,
}

impl Tour<'_> {
    fn all_steps(&mut self) -> Result<()> {
        self.stage.show_until_all_began(BEGIN_LIMIT);
        self.stage.show_for(WARM_UP);
        self.begin("nothing: how long connections pause on this machine anyway");
        self.end("nothing".to_owned(), "-", "-", 0);
        let first = self.lose(How::Powercut)?;
        let second = self.lose(How::Sigkill)?;
        self.bring_back(&[first, second])?;
        self.drain_and_undrain()?;
        for relay in self.lab.relays() {
            self.restart(&relay)?;
        }
        // Before the finale, in which everything runs at full speed and waits for itself.
        self.stage.end_steps();
        self.stage.show_for(LULL);
        Ok(())
    }

    fn begin(&mut self, what: &str) {
        self.stage.next_step();
        self.stage.say(&format!("tour: step {}: {what}", self.steps.len() + 1));
    }

    /// Notes the step, and waits until what it did to the connections is over.
    fn end(&mut self, what: String, from: &str, to: &str, moved: u64) {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.steps.push(Step { what, from, to, moved, pauses: Vec::new() });
        self.stage.show_for(SETTLE);
    }

    fn lose(&mut self, how: How) -> Result<String> {
        let lost = self.lab.owner(None)?;
        let flows = self.lab.status(&lost)?.flows;
        let what = format!("{how:?}").to_lowercase();
        self.begin(&format!("{what} of {lost}, which owns {flows} flows"));
        self.lab.kill(&lost, how)?;
        let successor = self.successor(&lost)?;
        self.end(what, &lost, &successor, flows);
        Ok(lost)
    }

    fn bring_back(&mut self, relays: &[String]) -> Result<()> {
        self.begin(&format!("{} come back", relays.join(" and ")));
        for relay in relays {
            self.lab.start(relay)?;
        }
        for relay in relays {
            self.await_backup(relay)?;
        }
        self.end(format!("return of {}", relays.join(", ")), "-", "-", 0);
        Ok(())
    }

    fn drain_and_undrain(&mut self) -> Result<()> {
        let owner = self.lab.owner(None)?;
        self.begin(&format!("drain of {owner}, the owner"));
        let (successor, flows) = self.drain(&owner)?;
        self.undrain(&owner)?;
        self.end("drain, undrain".to_owned(), &owner, &successor, flows);
        Ok(())
    }

    /// As an operator upgrades a relay.
    fn restart(&mut self, relay: &str) -> Result<()> {
        let owner = self.lab.owner(None)?;
        let drains = owner == relay;
        self.begin(&format!("restart of {relay}{}", if drains { ", the owner" } else { "" }));
        let (successor, flows) = if drains { self.drain(relay)? } else { (owner, 0) };
        self.lab.terminate(relay)?;
        self.lab.start(relay)?;
        self.await_backup(relay)?;
        if drains {
            self.undrain(relay)?;
        }
        let what = if drains { "drain, restart, undrain" } else { "restart of a backup" };
        self.end(what.to_owned(), relay, if drains { &successor } else { "-" }, flows);
        Ok(())
    }

    /// Returns who has the connections now, and how many they were.
    fn drain(&mut self, owner: &str) -> Result<(String, u64)> {
        let flows = self.lab.status(owner)?.flows;
        let said = self.lab.ask(owner, &["drain", id(owner)])?;
        ensure!(said.contains("carries nothing"), "drain of {owner}: {said}");
        Ok((self.successor(owner)?, flows))
    }

    fn undrain(&self, relay: &str) -> Result<()> {
        let owner = self.lab.owner(None)?;
        self.lab.ask(&owner, &["undrain", id(relay)])?;
        self.await_backup(relay)
    }

    fn successor(&self, lost: &str) -> Result<String> {
        let successor = wait_for("takeover", TAKEOVER_LIMIT, || self.lab.owner(Some(lost)))
            .with_context(|| format!("nobody owns what {lost} owned: see the logs below"))?;
        self.stage.say(&format!("tour: {successor} owns the connections"));
        Ok(successor)
    }

    fn await_backup(&self, relay: &str) -> Result<()> {
        wait_for(&format!("return of {relay}"), SYNC_LIMIT, || {
            let status = self.lab.status(relay)?;
            ensure!(status.is_ready_backup(), "{relay} is no backup in sync: {status:?}");
            Ok(())
        })
    }
}

fn id(relay: &str) -> &str {
    relay.trim_start_matches("relay-")
}
