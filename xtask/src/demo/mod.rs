//! The demo: real TLS transfers, the loss of the relay that carries them, and a table that says
//! what the clients noticed.

mod report;
mod stage;
mod transfer;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::report::Report;
use self::stage::Stage;
use self::transfer::{Job, Outcome};
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

/// What to show.
#[derive(Clone, Debug, Args)]
#[group(id = "demo")]
pub struct Options {
    /// How the owner is lost.
    #[arg(long, value_enum, default_value_t = How::Sigkill)]
    pub how: How,
    /// Print one line of JSON on standard output; the table goes to standard error.
    #[arg(long)]
    pub json: bool,
    /// Leave the lab up at the end.
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    lab: crate::lab::Options,
}

/// Runs the demo; an error unless every connection survived byte-exact.
pub fn run(options: &Options) -> Result<()> {
    if options.lab.relays < 2 {
        bail!("somebody must take over: --relays 2 or more");
    }
    let _turn = Turn::wait("demo")?;
    let played = Lab::up(&options.lab).and_then(|mut lab| play(&mut lab, options));
    if !options.keep {
        Lab::down()?;
    }
    let report = played?;
    if options.json {
        eprint!("{report}");
        println!("{}", serde_json::to_string(&report.summary())?);
    } else {
        print!("{report}");
    }
    report.verdict()
}

fn play(lab: &mut Lab, options: &Options) -> Result<Report> {
    let jobs = jobs();
    let digests = transfer::origin_digests(&jobs)?;
    let stage = Stage::new(jobs.len());
    let ipv6 = options.lab.ipv6;
    eprintln!("demo: {DOWNLOADS} downloads and {UPLOADS} uploads through the VIP");
    thread::scope(|scope| {
        let watcher = scope.spawn(|| transfer::watch_uploads(&stage));
        let shown = &*lab;
        let commands: Vec<_> = jobs.iter().map(|job| job.command(shown.curl(ipv6))).collect();
        let transfers: Vec<_> = jobs
            .iter()
            .zip(commands)
            .map(|(job, command)| {
                let (stage, digests) = (&stage, &digests);
                scope.spawn(move || {
                    let outcome = job.run(command, stage, digests);
                    stage.finished();
                    outcome
                })
            })
            .collect();
        let lost = lose_owner(lab, options.how, &stage);
        stage.show_until_all_finished();
        let mut outcomes = Vec::with_capacity(jobs.len());
        for transfer in transfers {
            outcomes.push(transfer.join().expect("a transfer's thread does not panic")?);
        }
        let pauses = watcher.join().expect("the watcher does not panic");
        Ok(report(outcomes, pauses, lost?))
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
    let killed = stage.kill_now();
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

fn report(outcomes: Vec<Outcome>, upload_pauses: Vec<Duration>, loss: Loss) -> Report {
    let mut pauses: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.pause).collect();
    pauses.extend(upload_pauses);
    pauses.sort();
    Report { outcomes, pauses, lost: loss.relay, how: loss.how, takeover: loss.takeover }
}
