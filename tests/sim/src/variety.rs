//! What a seed's scenario has besides what `swarm::plain` draws: other kinds of clients, keys,
//! sessions and backends, partitions, and a crash at a bad moment. It has a generator of its own,
//! so that it can grow and every seed keeps its plain scenario.

use relay_core::config::Side;
use relay_core::time::Duration;

use crate::odd::Habits;
use crate::plan::{Conduct, Groups, Resumption, Version};
use crate::random::Random;
use crate::script::{Action, Options, ServerKey, Step, Way, When, Who};

/// Of a thousand clients, or of a thousand runs.
const ODD_CLIENTS: u32 = 150;
/// A client that says little at a time says no more than it can in so many seconds.
const SECONDS_MAX: u64 = 90;
const OTHER_GROUPS: u32 = 150;
const RESETTING_BACKENDS: u32 = 40;
const OTHER_KEYS: u32 = 200;
const RESUMING: u32 = 150;
const CLIENT_AUTH: u32 = 60;
const REFUSING_BACKENDS: u32 = 20;
const PARTITIONS: u32 = 200;
const CRASHES_WHILE_LEARNING: u32 = 100;

/// Adds to a scenario what `seed` says.
pub fn vary(options: &mut Options, seed: u64) {
    let random = &mut Random::new(seed ^ 0x5641_5249_4554_5900);
    for plan in &mut options.plans {
        let odd = random.next();
        plan.odd = random.chance(ODD_CLIENTS).then_some(odd);
        if plan.odd.is_some() {
            // All has to be said before the run is over.
            let pace = Habits::draw(&mut Random::new(odd)).pace();
            plan.up = plan.up.min(pace.saturating_mul(SECONDS_MAX));
        }
        if random.chance(OTHER_GROUPS) {
            plan.groups = if random.chance(500) { Groups::Hybrid } else { Groups::Retry };
        }
    }
    if random.chance(OTHER_KEYS) {
        let is_rsa = random.chance(500);
        options.server_key = if is_rsa { ServerKey::Rsa2048 } else { ServerKey::EcdsaP256 };
    }
    if random.chance(RESUMING) {
        resume(options, random);
    }
    if random.chance(CLIENT_AUTH) {
        options.client_auth = true;
        options.plans.iter_mut().for_each(|plan| plan.certificate = true);
    }
    options.backend_listens = !random.chance(REFUSING_BACKENDS);
    reset(options, random);
    if random.chance(PARTITIONS) {
        partition(options, random);
    }
    if random.chance(CRASHES_WHILE_LEARNING) {
        options.steps.extend(crash_while_learning(random));
    }
}

/// Clients come one after the other, each with the session of one before.
fn resume(options: &mut Options, random: &mut Random) {
    let version = if random.chance(500) { Version::Tls12 } else { Version::Tls13 };
    let by_id = version == Version::Tls12 && random.chance(500);
    let gap = Duration::from_millis(100 + random.below(1_500));
    for (plan, index) in options.plans.iter_mut().zip(0..) {
        plan.version = version;
        plan.resumption = if by_id { Resumption::SessionId } else { Resumption::Ticket };
        plan.start += gap * index;
    }
}

/// Some backends reset their connection. Their RST may be lost, and so may ours to the client: then
/// the keep-alive of relays and clients finds out.
fn reset(options: &mut Options, random: &mut Random) {
    for plan in &mut options.plans {
        let after = random.below(plan.down + 1);
        if random.chance(RESETTING_BACKENDS) {
            plan.conduct = Conduct::BackendResets { after };
            plan.odd = None;
        }
    }
}

/// One relay is cut off from clients or backends, in one direction or in both, with or without
/// noticing. From the other relay it is cut off in one direction only, by `Action::Mute`: in both,
/// with a carrier or without, is what two relays do not survive.
fn partition(options: &mut Options, random: &mut Random) {
    let time = Duration::from_millis(10 + random.below(1_200));
    let who = if random.chance(700) { Who::Owner } else { Who::Backup };
    let to_backend = random.chance(500);
    let side = if to_backend { Side::Backend } else { Side::Client };
    let way = if random.chance(500) { Way::In } else { Way::Out };
    let mut actions = Vec::new();
    if random.chance(400) {
        actions.push(Action::Unplug(side, who, time));
    } else {
        actions.push(Action::Sever(side, who, way, time));
        if random.chance(400) {
            let other = if way == Way::In { Way::Out } else { Way::In };
            actions.push(Action::Sever(side, who, other, time));
        }
    }
    let begin = [
        Step::new(When::InSync, Action::Wait),
        Step::new(When::After(Duration::from_millis(random.below(1_500))), Action::Wait),
        Step::new(When::InSync, Action::Wait),
    ];
    let rest = time + Duration::from_millis(300);
    let mut steps = Vec::from(begin);
    steps.extend(actions.into_iter().map(|action| Step::new(When::Moved(0), action)));
    steps.push(Step::new(When::After(rest), Action::Wait));
    steps.append(&mut options.steps);
    options.steps = steps;
}

/// The owner dies while a backup that has just come learns its flows: they may be lost, and
/// nothing else may happen.
fn crash_while_learning(random: &mut Random) -> [Step; 5] {
    let micros = |random: &mut Random, most| Duration::from_micros(random.below(most));
    [
        Step::new(When::InSync, Action::Wait),
        Step::new(When::After(micros(random, 500_000)), Action::Crash(Who::Backup, 0)),
        Step::new(When::After(micros(random, 300_000)), Action::Restart),
        Step::new(When::After(micros(random, 60_000)), Action::Crash(Who::Owner, random.below(12))),
        Step::new(When::After(micros(random, 1_000_000)), Action::Restart),
    ]
}
