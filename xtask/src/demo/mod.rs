//! The demo: real TLS transfers, what is done to the relays that carry them, and a table that says
//! what the clients noticed.

mod chat;
mod report;
mod source;
mod stage;
mod tour;
mod tour_report;
mod transfer;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::report::Report;
use self::stage::Stage;
use self::transfer::{Digests, Job, Outcome, Pauses};
use crate::lab::turn::Turn;
use crate::lab::{How, Lab};
use crate::shell::wait_for;

/// Downloads of which every fifth is a large and fast one: about eleven seconds each.
const DOWNLOADS: usize = 50;
/// Uploads of about eleven seconds.
const UPLOADS: usize = 10;
/// How long all transfers run before the owner is lost.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long the transfers may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(20);
/// How long the others may take until one of them owns.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(30);

/// What happens to the relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Story {
    /// The owner is lost.
    Loss,
    /// Two of three relays are lost and come back, one is drained, all are restarted.
    Tour,
}

/// What to show.
#[derive(Clone, Debug, Args)]
#[group(id = "demo")]
pub struct Options {
    /// What happens to the relays.
    #[arg(long, value_enum, default_value_t = Story::Loss)]
    pub story: Story,
    /// How the owner is lost in the story `loss`.
    #[arg(long, value_enum, default_value_t = How::Sigkill)]
    pub how: How,
    /// Print one line of JSON on standard output; the table goes to standard error.
    #[arg(long)]
    pub json: bool,
    /// Leave the lab up at the end.
    #[arg(long)]
    pub keep: bool,
    /// Connections of the story `tour`: five of eight download, one uploads, two chat. With several units two cores are too few for 80
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u16).range(8..=800))]
    pub connections: u16,
    #[command(flatten)]
    lab: crate::lab::Options,
}

/// Runs the demo; an error unless every connection survived byte-exact.
pub fn run(options: &Options) -> Result<()> {
    match options.story {
        Story::Loss => run_loss(options),
        Story::Tour => tour::run(options),
    }
}

fn run_loss(options: &Options) -> Result<()> {
    if options.lab.relays < 2 {
        bail!("somebody must take over: --relays 2 or more");
    }
    let report = in_a_lab(&options.lab, options.keep, |lab| play(lab, options))?;
    if options.json {
        eprint!("{report}");
        println!("{}", serde_json::to_string(&report.summary())?);
    } else {
        print!("{report}");
    }
    report.verdict()
}

/// Plays in a lab, which is down at the end, whatever happened.
fn in_a_lab<T>(
    options: &crate::lab::Options,
    keep: bool,
    play: impl FnOnce(&mut Lab) -> Result<T>,
) -> Result<T> {
    let _turn = Turn::wait("demo")?;
    let played = Lab::up(options).and_then(|mut lab| play(&mut lab));
    if !keep {
        Lab::down()?;
    }
    played
}

fn play(lab: &mut Lab, options: &Options) -> Result<Report> {
    let jobs = jobs();
    let stage = Stage::new(jobs.len());
    // Nothing in this story waits for the finale.
    stage.begin_finale();
    eprintln!("demo: {DOWNLOADS} downloads and {UPLOADS} uploads through the VIP");
    let how = options.how;
    let act = |lab: &mut Lab, stage: &Stage| lose_owner(lab, how, stage);
    let (outcomes, pauses, lost) = transfer_while(lab, options.lab.ipv6, &jobs, &stage, act)?;
    Ok(report(outcomes, pauses, lost?))
}

/// Runs all jobs while `act` does something to the lab; returns how they ended, the pauses of the
/// uploads, and what `act` returned.
fn transfer_while<T>(
    lab: &mut Lab,
    ipv6: bool,
    jobs: &[Job],
    stage: &Stage,
    act: impl FnOnce(&mut Lab, &Stage) -> T,
) -> Result<(Vec<Outcome>, Vec<Pauses>, T)> {
    let digests: &Digests = &transfer::origin_digests(jobs)?;
    thread::scope(|scope| {
        let watcher = scope.spawn(|| transfer::watch_uploads(stage));
        let shown = &*lab;
        let commands: Vec<_> = jobs.iter().map(|job| job.command(shown.curl(ipv6), ipv6)).collect();
        let transfers: Vec<_> = jobs
            .iter()
            .zip(commands)
            .map(|(job, command)| {
                scope.spawn(move || {
                    let outcome = job.run(command, stage, digests, ipv6);
                    stage.finished();
                    outcome
                })
            })
            .collect();
        let acted = act(lab, stage);
        stage.begin_finale();
        stage.show_until_all_finished();
        let mut outcomes = Vec::with_capacity(jobs.len());
        for transfer in transfers {
            outcomes.push(transfer.join().expect("a transfer's thread does not panic")?);
        }
        let pauses = watcher.join().expect("the watcher does not panic");
        Ok((outcomes, pauses, acted))
    })
}

/// The relay that was lost and the time until another one owned.
struct Loss {
    relay: String,
    how: How,
    takeover: Option<Duration>,
}

fn lose_owner(lab: &mut Lab, how: How, stage: &Stage) -> Result<Loss> {
    stage.show_until_all_began(BEGIN_LIMIT);
    stage.show_for(WARM_UP);
    let relay = lab.owner(None)?;
    stage.say(&format!("demo: {relay} carries the connections: {how:?}").to_lowercase());
    let killed = stage.next_step();
    lab.kill(&relay, how).with_context(|| format!("loss of {relay}"))?;
    let successor = wait_for("takeover", TAKEOVER_LIMIT, || lab.owner(Some(&relay)));
    let takeover = successor.is_ok().then(|| Instant::now() - killed);
    match successor {
        Ok(successor) => stage.say(&format!("demo: {successor} owns them")),
        Err(error) => stage.say(&format!("demo: {error:#}")),
    }
    Ok(Loss { relay, how, takeover })
}

fn jobs() -> Vec<Job> {
    let download = |index| match index % 5 {
        0 => Job::Download { file: "64m.bin", rate: 6 << 20 },
        _ => Job::Download { file: "16m.bin", rate: 3 << 19 },
    };
    let upload = |index| Job::Upload { index, length: 16 << 20, rate: 3 << 19 };
    (0..DOWNLOADS).map(download).chain((0..UPLOADS).map(upload)).collect()
}

fn report(outcomes: Vec<Outcome>, upload_pauses: Vec<Pauses>, loss: Loss) -> Report {
    let pauses = pauses_of(1, &outcomes, &upload_pauses);
    Report { outcomes, pauses, lost: loss.relay, how: loss.how, takeover: loss.takeover }
}

/// The pauses of all connections in a step, ascending.
fn pauses_of(step: usize, outcomes: &[Outcome], uploads: &[Pauses]) -> Vec<Duration> {
    let all = outcomes.iter().map(|outcome| &outcome.pauses).chain(uploads);
    let mut pauses: Vec<_> = all.filter_map(|pauses| pauses.get(&step)).copied().collect();
    pauses.sort();
    pauses
}
