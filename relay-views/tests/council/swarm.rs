//! Worlds in which anything may happen: fault classes are switched on and off by the seed.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use relay_views::Command;
use relay_views::id::{NodeId, NodeSet};
use relay_views::view::State;

use crate::world::{Fault, MILLI, Rng, World};

/// Virtual time with faults.
const STORM: Duration = Duration::from_millis(2000);

/// After it, everybody has to agree within this time.
const CALM: Duration = Duration::from_secs(12);

/// Runs by default; `VIEWS_SEEDS=first..end` runs others.
const SEEDS: std::ops::Range<u64> = 0..640;

#[test]
fn any_storm_is_survived() {
    let seeds = std::env::var("VIEWS_SEEDS").ok().and_then(|text| {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    });
    let seeds = seeds.unwrap_or(SEEDS);
    #[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a rate for people")]
    let (start, count) = (std::time::Instant::now(), seeds.end - seeds.start);
    let workers = thread::available_parallelism().map_or(1, usize::from) as u64;
    let handles: Vec<_> = (0..workers)
        .map(|worker| {
            let mine = seeds.clone().filter(move |seed| seed % workers == worker);
            #[expect(clippy::disallowed_methods, reason = "worlds are independent")]
            thread::spawn(move || mine.map(named).fold((0, 0), sum))
        })
        .collect();
    let total = handles.into_iter().map(|handle| handle.join().unwrap()).fold((0, 0), sum);
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{count} seeds, {rate:.0}/s: {} views, {} messages", total.0, total.1);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 14, 15, 92] {
        let trace = || {
            let world = run(seed);
            (world.trace, world.sent, world.checker.newest())
        };
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}

/// The canary: a voter that forgets its votes must be noticed, or the checks are worth nothing.
#[test]
fn disks_that_forget_are_noticed() {
    let broken = |seed: &u64| {
        let world = std::panic::catch_unwind(|| storm(*seed, true));
        world.is_err_and(|panic| {
            let text = panic.downcast_ref::<String>().map_or("", String::as_str);
            text.contains("two views") || text.contains("two leaders")
        })
    };
    assert!((0..100).any(|seed| broken(&seed)), "100 storms with forgetful disks and no trace");
}

fn sum(a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
    (a.0 + b.0, a.1 + b.1)
}

fn named(seed: u64) -> (u64, u64) {
    struct Named(u64);
    impl Drop for Named {
        fn drop(&mut self) {
            if thread::panicking() {
                println!("reproduce with VIEWS_SEEDS={0}..{1}", self.0, self.0 + 1);
            }
        }
    }
    let _named = Named(seed);
    let world = run(seed);
    (world.checker.newest(), world.sent)
}

/// One storm, and the calm after it.
fn run(seed: u64) -> World {
    let mut world = storm(seed, false);
    calm(&mut world, seed);
    world
}

fn storm(seed: u64, forgetful: bool) -> World {
    let mut rng = Rng(seed);
    let relays = 2 + rng.below(4) as u8;
    let witnesses = if relays == 2 { 1 } else { rng.below(3) as u8 };
    let everybody = usize::from(relays + witnesses);
    let founders = if rng.chance(500) { 1 } else { everybody };
    let mut world = World::new(seed, relays, witnesses, founders);
    world.nodes.values_mut().for_each(|node| node.disk.forgetful = forgetful);
    let swarm = Swarm::new(&mut rng);
    world.loss = swarm.loss;
    let mut next = MILLI * 150;
    while next < STORM {
        let end = next;
        world.run_until(STORM, |world| world.now >= end);
        swarm.strike(&mut world);
        next += world.rng.within(swarm.pace * 2);
    }
    world
}

fn calm(world: &mut World, seed: u64) {
    world.happen(Fault::Heal);
    world.loss = 0;
    for id in world.ids() {
        world.happen(Fault::DiskFull(id, false));
        world.happen(Fault::Start(id));
    }
    undrain(world);
    let calm = world.run_until(CALM, |world| world.unrest().is_none());
    assert!(calm.is_some(), "seed {seed} does not come to rest: {}", world.picture());
}

/// An operator who drains in a storm has to undrain after it, and insists.
fn undrain(world: &mut World) {
    let relays = world.relays();
    let draining = |world: &World| {
        let views = world.nodes.values().filter_map(|node| node.view());
        let newest = views.max_by_key(|view| view.number).cloned();
        let view = newest.expect("somebody is up");
        let drains = |id: &NodeId| {
            view.members.get(id).is_some_and(|member| member.state == State::Draining)
        };
        relays.iter().copied().find(drains)
    };
    for _ in 0..40 {
        world.run_for(MILLI * 20);
        if let Some(node) = draining(world) {
            world.happen(Fault::Propose(relays[0], Command::Undrain { node }));
        }
    }
}

/// Which faults there are, and how often.
struct Swarm {
    loss: u64,
    pace: Duration,
    crashes: bool,
    pauses: bool,
    partitions: bool,
    one_way: bool,
    disks: bool,
    commands: bool,
}

impl Swarm {
    fn new(rng: &mut Rng) -> Swarm {
        Swarm {
            loss: rng.pick(&[0, 5, 30, 100]),
            pace: MILLI * rng.pick(&[40, 120, 300]),
            crashes: rng.chance(700),
            pauses: rng.chance(500),
            partitions: rng.chance(600),
            one_way: rng.chance(300),
            disks: rng.chance(200),
            commands: rng.chance(700),
        }
    }

    fn strike(&self, world: &mut World) {
        let ids = world.ids();
        let id = world.rng.pick(&ids);
        let time = world.rng.within(MILLI * 400);
        let some = |rng: &mut Rng| -> NodeSet {
            ids.iter().copied().filter(|_| rng.chance(500)).collect()
        };
        match world.rng.below(8) {
            0 | 1 if self.crashes => {
                world.happen(Fault::Crash(id));
                world.fault_in(time, Fault::Start(id));
            }
            2 if self.pauses => world.happen(Fault::Pause(id, time)),
            3 if self.partitions => {
                let one = NodeSet::of(id);
                let side = if world.rng.chance(500) { one } else { some(&mut world.rng) };
                world.happen(Fault::Split(side));
                world.fault_in(time, Fault::Heal);
            }
            4 if self.one_way => {
                let (from, to) = (some(&mut world.rng), some(&mut world.rng));
                world.happen(Fault::Deafen { from, to });
                world.fault_in(time, Fault::Heal);
            }
            5 if self.disks => {
                world.happen(Fault::DiskFull(id, true));
                world.fault_in(time, Fault::DiskFull(id, false));
            }
            6 | 7 if self.commands => {
                if let Some(command) = wish(world) {
                    world.happen(Fault::Propose(id, command));
                }
            }
            _ => {}
        }
    }
}

/// What an operator might want.
fn wish(world: &mut World) -> Option<Command> {
    let relays = world.relays();
    let node = world.rng.pick(&relays);
    let view = world.nodes[&node].view()?.clone();
    let generation = view.configuration.next();
    Some(match world.rng.below(5) {
        0 => {
            let vips = Arc::new([[10, 0, 0, 1].into()]);
            Command::Configure { generation, bytes: Arc::new([generation as u8; 40]), vips }
        }
        1 => Command::Drain { node },
        2 => Command::Undrain { node },
        3 => Command::Weigh { node, weight: 50 + world.rng.below(100) as u16 },
        _ => {
            // A false suspicion.
            let by = world.rng.pick(&relays);
            let by = view.lives(NodeSet::of(by)).next()?;
            view.eject(NodeSet::of(node), by)
        }
    })
}
