//! Scenarios that a seed decides: every class of fault is on in some and off in others.
//!
//! What two relays cannot survive is not generated (README, "What does not work yet"): a cluster
//! link that is cut both ways (a step that would do so is left out when its time comes: see
//! `Action::Mute` in `faults`), the loss of a relay without a backup in sync (it happens, and its
//! connections are excused), and a restart of the backup that took over from a relay that is
//! paused.
//!
//! With a council relays of two versions talk to each other in some scenarios, and one that restarts comes
//! back with the other version.

use relay_core::config::Side;
use relay_core::relay::HoldTime;
use relay_core::time::Duration;
use relay_views::source::Manners;

use crate::network::Faults;
use crate::plan::{End, Plan, Version};
use crate::random::Random;
use crate::script::{Action, Options, Step, Way, When, Who};
use crate::variety;

/// Of a thousand clusters with a council.
const RECONFIGURES: u32 = 300;
const ENDS: u32 = 300;

/// How large the scenarios are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swarm {
    /// One to three connections of some ten kilobytes.
    Short,
    /// The same, of two to four relays whose views come from a council. Of so many units, or as many as
    /// the seed says: seeds from before there were units are repeated with one.
    Views(Option<u8>),
    /// Up to six connections, some of them longer than the buffers of a relay, so that these wrap.
    Long,
}

impl Swarm {
    /// How it is asked for on the command line.
    pub fn option(self) -> String {
        match self {
            Swarm::Short => " --short".to_owned(),
            Swarm::Views(None) => " --views".to_owned(),
            Swarm::Views(Some(units)) => format!(" --views --units {units}"),
            Swarm::Long => String::new(),
        }
    }

    /// Connections at most.
    fn connections(self) -> u64 {
        if self.is_short() { 3 } else { 6 }
    }

    /// Bytes of one stream at most.
    fn stream(self) -> u64 {
        if self.is_short() { 60_000 } else { 400_000 }
    }

    /// Bytes at most of a stream that is long.
    fn long_stream(self) -> u64 {
        if self.is_short() { 200_000 } else { 3_000_000 }
    }

    /// Crashes and pauses at most.
    fn disasters(self) -> u64 {
        if self == Swarm::Short { 2 } else { 3 }
    }

    fn is_short(self) -> bool {
        self != Swarm::Long
    }

    /// Frames are damaged until then.
    fn faults_until(self) -> Duration {
        Duration::from_secs(if self.is_short() { 3 } else { 20 })
    }
}

/// The scenario of `seed`.
pub fn options(seed: u64, swarm: Swarm) -> Options {
    let mut options = plain(seed, swarm);
    variety::vary(&mut options, seed);
    if let Swarm::Views(units) = swarm {
        agree(&mut options, seed);
        key(&mut options, seed);
        reconfigure(&mut options, seed);
        end(&mut options, seed);
        options.units = units.unwrap_or_else(|| divide(seed));
    }
    options
}

/// The same scenario without the variety that other generators decide: what a seed meant before
/// there was any, which pinned seeds rely on.
pub fn plain(seed: u64, swarm: Swarm) -> Options {
    let mut random = Random::new(seed ^ 0x5157_4152_4d00);
    let count = 1 + random.below(swarm.connections());
    let plans: Vec<Plan> = (0..count).map(|id| plan(id + 1, swarm, &mut random)).collect();
    let steps = steps(swarm, &mut random);
    let lossy = random.chance(600);
    let mut segment = |delay_max: u64| {
        let rate = |random: &mut Random, chance, max| {
            if lossy && random.chance(chance) { random.below(max) as u32 } else { 0 }
        };
        let jitter_max = if random.chance(400) { 2_000 } else { 0 };
        Faults {
            loss: rate(&mut random, 500, 25),
            duplication: rate(&mut random, 400, 30),
            corruption: rate(&mut random, 300, 10),
            delay: Duration::from_micros(20 + random.below(delay_max)),
            jitter: Duration::from_micros(random.below(jitter_max + 1)),
        }
    };
    let faults = [segment(5_000), segment(500), segment(300)];
    let fixed = |micros| HoldTime::Fixed(Duration::from_micros(micros));
    let holds = [HoldTime::Measured, fixed(2_000), fixed(0), fixed(20_000), HoldTime::Never];
    let hold = holds[random.below(holds.len() as u64) as usize];
    Options {
        ipv6: random.chance(300),
        hold,
        faults,
        faults_until: swarm.faults_until(),
        noise: if random.chance(300) { 200 } else { 0 },
        ..Options::new(plans, steps)
    }
}

/// A council decides: swift or slow, and it may lose what it is asked.
fn agree(options: &mut Options, seed: u64) {
    let mut random = Random::new(seed ^ 0x0056_4945_5753);
    options.relays = 2 + random.below(3) as usize;
    let slow = random.chance(300);
    let mut delay = || Duration::from_micros(random.below(if slow { 40_000 } else { 4_000 }));
    options.views = Some(Manners {
        decision_max: delay(),
        delivery_max: delay(),
        lost: if random.chance(300) { 200 } else { 0 },
        stale: if random.chance(300) { 300 } else { 0 },
    });
    if random.chance(300) {
        drain(options, &mut random);
    }
}

/// The configuration changes between any two other steps, often while handshakes are under way, and
/// sometimes again before all relays have the last one.
fn reconfigure(options: &mut Options, seed: u64) {
    let mut random = Random::new(seed ^ 0x434f_4e46_4947);
    if !random.chance(RECONFIGURES) {
        return;
    }
    // No more often than a handshake may last through, see `Listeners::is_outdated`.
    for _ in 0..=random.below(4) {
        let at = random.below(options.steps.len() as u64 + 1) as usize;
        let after = Duration::from_micros(random.below(300_000));
        options.steps.insert(at, Step::new(When::After(after), Action::Reconfigure));
    }
}

/// Relays are asked to end between any two other steps, most often those that own, and come back.
fn end(options: &mut Options, seed: u64) {
    let mut random = Random::new(seed ^ 0x454e_4400);
    if !random.chance(ENDS) {
        return;
    }
    let ends = 1 + random.below(2);
    let steps = options.steps.len() as u64;
    let mut places: Vec<u64> = (0..ends).map(|_| random.below(steps + 1)).collect();
    // The last one first: none comes before the return of another one.
    places.sort_unstable_by(|one, other| other.cmp(one));
    for at in places {
        let at = at as usize;
        let after = Duration::from_micros(random.below(400_000));
        let when = if random.chance(500) { When::InSync } else { When::After(after) };
        let who = if random.chance(700) { Who::Owner } else { Who::Backup };
        let dark = millis(0, 1_000, &mut random);
        let steps =
            [Step::new(when, Action::End(who)), Step::new(When::After(dark), Action::Restart)];
        options.steps.splice(at..at, steps);
    }
}

/// When relays get their keys: late in some clusters, again and again in others, and some are of the
/// former version.
fn key(options: &mut Options, seed: u64) {
    let mut random = Random::new(seed ^ 0x5345_4352_4554);
    let late = [2, 2, 2, 20, 20, 300][random.below(6) as usize];
    options.keying.late_max = Duration::from_millis(late);
    if random.chance(500) {
        let rotates = [5, 100, 2_000][random.below(3) as usize];
        options.keying.rotates = Duration::from_millis(rotates);
    }
    options.keying.skew = random.chance(400);
}

/// The owner is drained between any two other steps, often while something else goes on.
fn drain(options: &mut Options, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(options.steps.len() as u64 + 1) as usize;
        let after = Duration::from_micros(random.below(400_000));
        let when = if random.chance(500) { When::InSync } else { When::After(after) };
        options.steps.insert(at, Step::new(when, Action::Drain));
    }
}

/// Every other cluster has several units.
fn divide(seed: u64) -> u8 {
    let mut random = Random::new(seed ^ 0x0055_4e49_5453);
    if random.chance(500) { 2 + random.below(4) as u8 } else { 1 }
}

fn plan(id: u64, swarm: Swarm, random: &mut Random) -> Plan {
    let mut size = || match random.below(100) {
        0..3 => random.below(swarm.long_stream()),
        3..70 => random.below(swarm.stream()),
        _ => random.below(2_000),
    };
    let (up, down) = (size(), size());
    let sluggish = |random: &mut Random| match random.chance(150) {
        true => Duration::from_millis(random.below(2_000)),
        false => Duration::ZERO,
    };
    Plan {
        start: Duration::from_millis(random.below(1_000)),
        first_to_close: if random.chance(500) { End::Client } else { End::Backend },
        version: if random.chance(250) { Version::Tls12 } else { Version::Tls13 },
        client_reads_after: sluggish(random),
        backend_reads_after: sluggish(random),
        naps: if random.chance(100) { millis(5, 300, random) } else { Duration::ZERO },
        rekeys: if random.chance(200) { 100 } else { 0 },
        record_max: if random.chance(500) { 16_384 } else { 1 + random.below(3_000) },
        ..Plan::new(id, up, down)
    }
}

/// Which disasters a scenario has besides power cuts.
struct Classes {
    pauses: bool,
    replays: bool,
    cuts: bool,
    slowness: bool,
    full_rings: bool,
    /// A machine's cluster interface is not heard for longer than the timeout.
    long_mutes: bool,
}

/// Crashes, restarts, pauses, cuts.
fn steps(swarm: Swarm, random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    let classes = Classes {
        pauses: random.chance(300),
        replays: random.chance(300),
        cuts: random.chance(250),
        slowness: random.chance(250),
        full_rings: random.chance(200),
        long_mutes: random.chance(200),
    };
    for _ in 0..random.below(swarm.disasters() + 1) {
        steps.push(Step::new(When::InSync, Action::Wait));
        steps.push(Step::new(instant(swarm, random), Action::Wait));
        if classes.replays {
            steps.push(Step::new(When::Moved(0), Action::Replay));
        }
        let who = if random.chance(800) { Who::Owner } else { Who::Backup };
        steps.extend(trouble(&classes, random));
        steps.push(Step::new(When::InSync, Action::Wait));
        if classes.pauses && random.chance(500) {
            let time = millis(20, 600, random);
            let pause = if random.chance(500) { Action::Pause } else { Action::Freeze };
            steps.push(Step::new(When::Moved(0), pause(who, time)));
            steps.push(Step::new(When::After(time + Duration::from_millis(200)), Action::Wait));
        } else if classes.long_mutes && random.chance(500) {
            let time = millis(80, 1_500, random);
            steps.push(Step::new(When::Moved(0), Action::Mute(who, time)));
            steps.push(Step::new(When::After(time + Duration::from_millis(200)), Action::Wait));
        } else {
            steps.extend(crash(who, random));
        }
    }
    steps
}

/// A power cut, perhaps of a machine that was not heard for its last moments.
fn crash(who: Who, random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    let frames = random.below(12);
    if random.chance(400) {
        // Less than the time after which the machine is taken for dead.
        steps.push(Step::new(When::Moved(0), Action::Mute(who, Duration::from_millis(60))));
        let last = Duration::from_micros(random.below(50_000));
        steps.push(Step::new(When::After(last), Action::Wait));
    }
    steps.push(Step::new(When::Moved(0), Action::Crash(who, frames)));
    let dark = if random.chance(200) { Duration::ZERO } else { millis(0, 1_500, random) };
    steps.push(Step::new(When::After(dark), Action::Restart));
    steps
}

/// What makes everything harder and costs nothing by itself.
fn trouble(classes: &Classes, random: &mut Random) -> Vec<Step> {
    let mut actions = Vec::new();
    if classes.cuts {
        let side = if random.chance(500) { Side::Client } else { Side::Backend };
        let way = if random.chance(500) { Way::In } else { Way::Out };
        actions.push(Action::Cut(side, way, millis(10, 1_500, random)));
    }
    let who = if random.chance(500) { Who::Owner } else { Who::Backup };
    if classes.slowness {
        // Below half a timeout, above which a machine takes itself for paused.
        let lag = Duration::from_micros(100 + random.below(40_000));
        actions.push(Action::Slow(who, lag, millis(50, 2_000, random)));
    }
    if classes.full_rings {
        let frames = 1 + random.below(4) as usize;
        actions.push(Action::Clog(who, frames, millis(10, 500, random)));
    }
    actions.into_iter().map(|action| Step::new(When::Moved(0), action)).collect()
}

fn millis(least: u64, more: u64, random: &mut Random) -> Duration {
    Duration::from_millis(least + random.below(more))
}

fn instant(swarm: Swarm, random: &mut Random) -> When {
    match random.below(100) {
        0..55 => When::Moved(random.below(swarm.stream())),
        55..75 => When::Sent(random.below(400)),
        _ => When::After(Duration::from_millis(random.below(1_500))),
    }
}
