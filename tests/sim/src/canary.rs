//! One small world for each rule that can be broken. Within a stated number of seeds the breach
//! must be noticed; with nothing broken all these seeds pass. This shows that the checkers can fail.

use std::thread;

use relay_core::canary::{Canary, set};
use relay_core::config::Side;
use relay_core::time::Duration;
use relay_views::source::Manners;

use crate::plan::{Plan, Version};
use crate::random::Random;
use crate::script::{Action, Options, Step, Way, When, Who};
use crate::{Report, run};

/// A rule and the world in which its breach shows.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    pub canary: Canary,
    /// The scenario of a seed.
    world: fn(&mut Random) -> Options,
    /// The breach shows within so many seeds.
    pub seeds: u64,
    /// What is said of it: other checks may notice something, too, and this one has to.
    by: &'static str,
}

/// A breach that any check may notice.
const fn trial(canary: Canary, world: fn(&mut Random) -> Options, seeds: u64) -> Trial {
    Trial { canary, world, seeds, by: "" }
}

/// How a trial went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The first seed that showed the breach, and how.
    pub caught: Option<(u64, String)>,
    /// The first seed that fails although nothing is broken, and how.
    pub control: Option<(u64, String)>,
}

/// All rules that can be broken.
pub const TRIALS: [Trial; 27] = [
    trial(Canary::ReleaseBeforeCommit, deafness, 3),
    trial(Canary::AnswerBeforeCommit, deafness, 3),
    trial(Canary::AckBeforeSettled, deafness, 3),
    trial(Canary::IgnoreTerms, misjudged_owner, 20),
    trial(Canary::FrameAnew, far_clients, 20),
    Trial { by: "is sealed twice", ..trial(Canary::ForgetTail, cut_clients, 20) },
    trial(Canary::ForgetKeyUpdate, key_updates, 5),
    trial(Canary::CountUnbased, returning_backup, 10),
    trial(Canary::MergeBase, misjudged_backup, 5),
    trial(Canary::BaseWithoutData, held_data, 5),
    trial(Canary::PromoteUngated, returning_backup, 10),
    trial(Canary::EarlyThirdAck, crash, 3),
    Trial { by: "came twice", ..trial(Canary::RedialAfterEst, far_backend, 20) },
    trial(Canary::SackUnreplicated, reordering, 10),
    trial(Canary::OldSequence, crash, 10),
    trial(Canary::TakeOverUnfit, sleeping_backup, 5),
    Trial { by: "keeps too much", ..trial(Canary::KeepPages, far_clients, 5) },
    trial(Canary::SpeakUnbased, three_and_held_data, 20),
    trial(Canary::IgnoreTerms, three_and_a_pause, 20),
    trial(Canary::ReleaseBeforeCommit, three_and_a_crash, 5),
    trial(Canary::PromoteUngated, three_and_a_newcomer, 20),
    Trial { by: "claims an address", ..trial(Canary::IgnoreLease, three_and_a_silence, 5) },
    Trial {
        by: "does not know, without a lease",
        ..trial(Canary::KeepAnswers, lost_connections, 20)
    },
    Trial { by: "in without a lease", ..trial(Canary::KeepAnswers, three_and_new_clients, 10) },
    trial(Canary::RepeatUnderAnother, three_and_another_configuration, 20),
    Trial { by: "wrong next hop", ..trial(Canary::TrustForwarder, three_and_units, 3) },
    Trial { by: "claims an address", ..trial(Canary::ClaimForAnyUnit, three_and_units, 3) },
];

/// All trials, on all cores.
pub fn run_all() -> Vec<(Trial, Verdict)> {
    thread::scope(|scope| {
        let (even, odd): (Vec<_>, Vec<_>) =
            TRIALS.iter().enumerate().partition(|(index, _)| index % 2 == 0);
        let half = |half: Vec<(usize, &Trial)>| {
            half.into_iter().map(|(i, trial)| (i, *trial, trial.run())).collect::<Vec<_>>()
        };
        let other = scope.spawn(move || half(odd));
        let mut all = half(even);
        all.extend(other.join().expect("a trial reports its failures, it does not panic"));
        all.sort_by_key(|(index, _, _)| *index);
        all.into_iter().map(|(_, trial, verdict)| (trial, verdict)).collect()
    })
}

impl Verdict {
    /// The breach was noticed, and nothing else.
    pub fn is_good(&self) -> bool {
        self.caught.is_some() && self.control.is_none()
    }
}

impl Trial {
    /// Runs the seeds until one shows the breach, and all of them without a breach.
    pub fn run(&self) -> Verdict {
        let first = |canary, what| {
            (0..self.seeds).find_map(|seed| {
                let failures = self.run_seed(seed, canary).failures;
                let failure = failures.into_iter().find(|failure| failure.contains(what));
                failure.map(|failure| (seed, failure))
            })
        };
        Verdict { caught: first(Some(self.canary), self.by), control: first(None, "") }
    }

    /// Runs one seed, with a rule broken or none.
    pub fn run_seed(&self, seed: u64, canary: Option<Canary>) -> Report {
        set(canary);
        let options = (self.world)(&mut Random::new(seed ^ 0x000c_a7a2));
        let report = run(seed, &options);
        set(None);
        report
    }
}

/// Connections begin when both relays know of each other.
const START: Duration = Duration::from_millis(200);

/// A silence that is shorter than the timeout.
const SHORT: Duration = Duration::from_millis(60);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Connections of a few hundred kilobytes each way, and steps that begin in their middle.
fn world(random: &mut Random, steps: impl IntoIterator<Item = (When, Action)>) -> Options {
    let plans = (1..=1 + random.below(3)).map(|id| {
        let size = |random: &mut Random| 150_000 + random.below(250_000);
        let (up, down) = (size(random), size(random));
        Plan { start: START, ..Plan::new(id, up, down) }
    });
    let plans = plans.collect();
    let begin = [(When::InSync, Action::Wait), (When::Moved(random.below(80_000)), Action::Wait)];
    let steps = begin.into_iter().chain(steps).map(|(when, action)| Step::new(when, action));
    let mut options = Options::new(plans, steps.collect());
    let delays = [2_000, 500, 500].map(|max| Duration::from_micros(50 + random.below(max)));
    options.faults.iter_mut().zip(delays).for_each(|(faults, delay)| faults.delay = delay);
    options
}

fn crash(random: &mut Random) -> Options {
    let frames = random.below(10);
    world(random, [(When::InSync, Action::Crash(Who::Owner, frames))])
}

fn far_clients(random: &mut Random) -> Options {
    lasting(crash(random))
}

/// The backup does not hear its owner for a moment, and then the owner dies.
fn deafness(random: &mut Random) -> Options {
    let last = ms(random.below(50));
    let mute = (When::InSync, Action::Mute(Who::Owner, SHORT));
    world(random, [mute, (When::After(last), Action::Crash(Who::Owner, 0))])
}

/// The owner is not heard for longer than the timeout, and lives.
fn misjudged_owner(random: &mut Random) -> Options {
    let time = ms(600 + random.below(1_000));
    lasting(world(random, [(When::InSync, Action::Mute(Who::Owner, time))]))
}

/// The backup is not heard for longer than the timeout, and lives.
fn misjudged_backup(random: &mut Random) -> Options {
    let time = ms(110 + random.below(100));
    let back = (When::After(time), Action::Wait);
    let mute = (When::InSync, Action::Mute(Who::Backup, time));
    lasting(world(random, [mute, back, (When::InSync, Action::Crash(Who::Owner, 0))]))
}

/// The owner dies, and nothing comes from the clients until it is back and was told everything: so
/// the entries that its heir has made are still there to be compared with its own.
fn cut_clients(random: &mut Random) -> Options {
    let frames = random.below(20);
    let steps = [
        (When::InSync, Action::Crash(Who::Owner, frames)),
        (When::Moved(0), Action::Cut(Side::Client, Way::In, ms(1_000))),
        (When::After(ms(150)), Action::Restart),
        (When::InSync, Action::Wait),
    ];
    lasting(world(random, steps))
}

/// The owner dies about when EST is committed and the backend, which is far away, has not answered.
fn far_backend(random: &mut Random) -> Options {
    let crash = Action::Crash(Who::Owner, random.below(5));
    let plan = Plan { start: START, ..Plan::new(1, 20_000, 20_000) };
    let mut options = Options::new(
        vec![plan],
        vec![
            Step::new(When::After(START), Action::Wait),
            Step::new(When::After(ms(40 + random.below(60))), crash),
        ],
    );
    let [_, backend, _] = &mut options.faults;
    backend.delay = ms(20);
    options
}

fn key_updates(random: &mut Random) -> Options {
    let mut options = crash(random);
    options.plans.iter_mut().for_each(|plan| {
        (plan.version, plan.rekeys, plan.record_max) = (Version::Tls13, 200, 4_000);
    });
    options
}

/// The backup dies, comes back blank, and the owner dies as soon as it is said to be in sync.
fn returning_backup(random: &mut Random) -> Options {
    let last = Duration::from_micros(random.below(1_000));
    let steps = [
        (When::InSync, Action::Crash(Who::Backup, 0)),
        (When::After(ms(20 + random.below(200))), Action::Restart),
        (When::InSync, Action::Wait),
        (When::After(last), Action::Crash(Who::Owner, random.below(5))),
    ];
    lasting(world(random, steps))
}

/// The backend is slow, so that the relays hold what the client has sent; then as before.
fn held_data(random: &mut Random) -> Options {
    let mut options = returning_backup(random);
    options.plans.iter_mut().for_each(|plan| {
        (plan.up, plan.down) = (300_000, 300_000);
        plan.backend_reads_after = ms(2_000);
        plan.client_reads_after = ms(2_000);
    });
    options
}

/// Frames overtake each other, so that SACK has something to say.
fn reordering(random: &mut Random) -> Options {
    let mut options = crash(random);
    for faults in &mut options.faults {
        (faults.loss, faults.jitter) = (random.below(30) as u32, Duration::from_micros(800));
    }
    options.faults_until = Duration::from_secs(20);
    options
}

/// The backup sleeps for longer than the timeout, and the owner dies meanwhile or soon after.
fn sleeping_backup(random: &mut Random) -> Options {
    let steps = [
        (When::InSync, Action::Freeze(Who::Backup, ms(300 + random.below(300)))),
        (When::After(ms(150 + random.below(100))), Action::Crash(Who::Owner, 0)),
    ];
    lasting(world(random, steps))
}

/// Three relays whose views come from a council, which takes its time.
fn agreed(mut options: Options) -> Options {
    options.relays = 3;
    options.views = Some(Manners { decision_max: ms(5), delivery_max: ms(30), lost: 0, stale: 0 });
    options
}

fn three_and_a_crash(random: &mut Random) -> Options {
    agreed(deafness(random))
}

fn three_and_held_data(random: &mut Random) -> Options {
    agreed(reordering(random))
}

fn three_and_a_newcomer(random: &mut Random) -> Options {
    agreed(returning_backup(random))
}

/// The configuration changes while clients far away are in their handshakes, and then the owner dies.
fn three_and_another_configuration(random: &mut Random) -> Options {
    // They resolve the address first.
    let far = START + ms(400 + random.below(150));
    let steps = [
        Step::new(When::InSync, Action::Wait),
        Step::new(When::After(far), Action::Reconfigure),
        Step::new(When::After(ms(60 + random.below(60))), Action::Crash(Who::Owner, 0)),
    ];
    let mut options = agreed(world(random, []));
    options.faults[0].delay = ms(60 + random.below(20));
    let all = (1..=12).map(|id| {
        let start = START + ms(50 + random.below(300));
        Plan { start, ..Plan::new(id, 20_000, 20_000) }
    });
    Options { plans: all.collect(), steps: steps.to_vec(), ..options }
}

/// The owner gets no processor for so long that another one owns when it goes on.
fn three_and_a_pause(random: &mut Random) -> Options {
    let time = ms(200 + random.below(200));
    agreed(lasting(world(random, [(When::InSync, Action::Pause(Who::Owner, time))])))
}

/// The owner is cut off from the others for so long that its next announcement would be due.
fn three_and_a_silence(random: &mut Random) -> Options {
    let time = ms(1_200 + random.below(800));
    agreed(lasting(world(random, [(When::InSync, Action::Mute(Who::Owner, time))])))
}

/// All that knew of the connections are gone. Their backends repeat what they said to a new owner, which
/// gets no processor for a while.
fn lost_connections(random: &mut Random) -> Options {
    let time = ms(300 + random.below(200));
    let steps = [
        (When::InSync, Action::Crash(Who::Backup, 0)),
        (When::After(ms(5)), Action::Crash(Who::Owner, 0)),
        (When::After(ms(20)), Action::Restart),
        (When::InSync, Action::Wait),
        (When::After(ms(random.below(1_000))), Action::Pause(Who::Owner, time)),
    ];
    Options { relays: 2, ..agreed(lasting(world(random, steps))) }
}

/// The owner gets no processor while one client after the other begins.
fn three_and_new_clients(random: &mut Random) -> Options {
    let plans =
        (1..=10).map(|id| Plan { start: START + ms(30 * id), ..Plan::new(id, 2_000, 2_000) });
    let time = ms(200 + random.below(200));
    let steps = [
        Step::new(When::After(START + ms(random.below(200))), Action::Wait),
        Step::new(When::InSync, Action::Pause(Who::Owner, time)),
    ];
    agreed(Options::new(plans.collect(), steps.into()))
}

/// Every relay owns a unit, and the owner of one dies.
fn three_and_units(random: &mut Random) -> Options {
    Options { units: 3, ..three_and_a_crash(random) }
}

/// Connections that are still there when all steps have been done: their clients are far away.
fn lasting(mut options: Options) -> Options {
    for plan in &mut options.plans {
        (plan.up, plan.down) = (plan.up * 3, plan.down * 3);
    }
    let [client, _, cluster] = &mut options.faults;
    client.delay += ms(10);
    cluster.delay += ms(1);
    options
}
