//! Scenarios with names: what the operator was promised.

use std::time::Duration;

use relay_views::council::Council;
use relay_views::id::{NodeId, NodeSet};
use relay_views::view::State;

use crate::world::{Fault, MILLI, World};

const PATIENCE: Duration = Duration::from_secs(10);

/// A word may be as old as this: 40 ms, and what a message takes.
const WORD: Duration = Duration::from_millis(50);

fn settled(seed: u64, relays: u8, witnesses: u8) -> World {
    let founders = if seed.is_multiple_of(2) { 1 } else { (relays + witnesses).into() };
    let mut world = World::new(seed, relays, witnesses, founders);
    let at_rest = world.run_until(PATIENCE, |world| world.unrest().is_none());
    assert!(at_rest.is_some(), "seed {seed}: {}", world.picture());
    // Followers learn that the last voter is one.
    world.run_for(MILLI * 50);
    world
}

/// The newest view among `among` says that `node` is dead and owns nothing.
fn is_out(world: &World, node: NodeId) -> bool {
    let views = world.nodes.values().filter_map(|node| node.view());
    let view = views.max_by_key(|view| view.number).unwrap();
    let dead = view.members[&node].state == State::Dead;
    dead && view.buckets.iter().all(|bucket| bucket.owner != Some(node))
}

#[test]
fn with_one_witness_all_relays_but_one_may_die_one_after_another() {
    let mut times = Vec::new();
    for relays in 2..=5u8 {
        for seed in 0..6 {
            let mut world = settled(seed, relays, 1);
            for death in 0..relays - 1 {
                let up: Vec<_> =
                    world.relays().into_iter().filter(|id| world.up().contains(id)).collect();
                // The leader every second time, if it is a relay.
                let leader = world.leader().filter(|id| up.contains(id) && death % 2 == 0);
                let victim = leader.unwrap_or(up[seed as usize % up.len()]);
                world.happen(Fault::Crash(victim));
                let took = world.run_until(PATIENCE, |world| is_out(world, victim));
                times.push(took.unwrap_or_else(|| panic!("seed {seed}: {relays} relays, {death}")));
                // The voters follow.
                world.run_for(MILLI * 200);
            }
            for id in world.relays() {
                world.happen(Fault::Start(id));
            }
            let healed = world.run_until(PATIENCE, |world| world.unrest().is_none());
            assert!(healed.is_some(), "seed {seed}: {}", world.picture());
        }
    }
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{} deaths: next view after {median:?}, at most {worst:?}", times.len());
    assert!(worst < MILLI * 250, "{worst:?}");
}

#[test]
fn with_a_witness_for_each_relay_but_one_they_may_die_at_once() {
    for seed in 0..6 {
        let mut world = settled(seed, 3, 2);
        for id in [1, 2].map(NodeId) {
            world.happen(Fault::Crash(id));
        }
        let out = |world: &World| is_out(world, NodeId(1)) && is_out(world, NodeId(2));
        assert!(world.run_until(PATIENCE, out).is_some(), "seed {seed}");
    }
}

#[test]
fn two_losses_of_three_voters_wait_and_lose_nothing() {
    for seed in 0..6 {
        let mut world = settled(seed, 2, 1);
        let number = world.checker.newest();
        world.happen(Fault::Split(NodeSet::of(NodeId(1))));
        world.happen(Fault::Crash(NodeId(10)));
        world.run_for(Duration::from_secs(2));
        assert_eq!(world.checker.newest(), number, "seed {seed}: decided without a quorum");
        world.happen(Fault::Start(NodeId(10)));
        let out = world.run_until(PATIENCE, |world| is_out(world, NodeId(1)));
        assert!(out.is_some(), "seed {seed}: {}", world.picture());
        world.happen(Fault::Heal);
        let healed = world.run_until(PATIENCE, |world| world.unrest().is_none());
        assert!(healed.is_some(), "seed {seed}: {}", world.picture());
        let view = world.nodes[&NodeId(2)].view().unwrap();
        assert!(view.buckets.iter().all(|bucket| bucket.since == 1), "nothing was lost");
    }
}

#[test]
fn a_full_disk_makes_a_node_abstain_and_nothing_else() {
    for seed in 0..6 {
        let mut world = settled(seed, 3, 2);
        let full = world.leader().unwrap();
        world.happen(Fault::DiskFull(full, true));
        // Something has to be written for the disk to matter.
        let victim = world.relays().into_iter().find(|id| *id != full).unwrap();
        world.happen(Fault::Pause(victim, MILLI * 300));
        assert!(world.run_until(PATIENCE, |world| is_out(world, victim)).is_some(), "seed {seed}");
        let abstains = |council: &Council| council.status().abstains;
        assert!(world.nodes[&full].council.as_ref().is_some_and(abstains));
        world.happen(Fault::DiskFull(full, false));
        let healed = world.run_until(PATIENCE, |world| world.unrest().is_none());
        assert!(healed.is_some(), "seed {seed}: {}", world.picture());
    }
}

#[test]
fn a_relay_that_can_not_be_told_of_views_is_ejected() {
    for seed in 0..6 {
        let mut world = settled(seed, 3, 1);
        // The leader too: then another one leads.
        let full = world.relays()[seed as usize % 3];
        world.happen(Fault::DiskFull(full, true));
        // Something has to be written for the disk to matter.
        let weigh = relay_views::Command::Weigh { node: NodeId(1), weight: 200 };
        world.happen(Fault::Propose(NodeId(10), weigh));
        let out = world.run_until(PATIENCE, |world| is_out(world, full));
        assert!(out.is_some_and(|took| took > MILLI * 2000), "seed {seed}: {}", world.picture());
        world.happen(Fault::DiskFull(full, false));
        let healed = world.run_until(PATIENCE, |world| world.unrest().is_none());
        assert!(healed.is_some(), "seed {seed}: {}", world.picture());
    }
}

#[test]
fn a_leader_that_was_paused_ejects_nobody() {
    for seed in 0..6 {
        let mut world = settled(seed, 3, 1);
        let paused = world.leader().unwrap();
        let others: NodeSet = world.ids().into_iter().collect();
        let others = others.without(paused);
        world.happen(Fault::Pause(paused, MILLI * 5000));
        let dies = |world: &World| {
            let views = world.nodes.values().filter_map(|node| node.view());
            let view = views.max_by_key(|view| view.number).unwrap();
            others.iter().any(|node| view.members[&node].state == State::Dead)
        };
        let wrong = world.run_until(MILLI * 6000, dies);
        assert!(wrong.is_none(), "seed {seed}: {}", world.picture());
        let healed = world.run_until(PATIENCE, |world| world.unrest().is_none());
        assert!(healed.is_some(), "seed {seed}: {}", world.picture());
    }
}

#[test]
fn a_replaced_disk_is_another_seat() {
    for (seed, node) in (0..6).flat_map(|seed| [(seed, NodeId(2)), (seed, NodeId(10))]) {
        let mut world = settled(seed, 3, 1);
        world.happen(Fault::Crash(node));
        world.happen(Fault::Wipe(node));
        world.happen(Fault::Start(node));
        let seat = world.nodes[&node].disk.seat();
        let back = |world: &World| {
            world.unrest().is_none() && {
                let leader = world.leader().and_then(|id| world.nodes[&id].council.as_ref());
                leader.is_some_and(|council| council.status().voters.contains(&seat))
            }
        };
        let took = world.run_until(PATIENCE, back);
        assert!(took.is_some(), "seed {seed}: {node}: {}", world.picture());
    }
}

#[test]
fn who_is_deaf_ejects_nobody_for_long() {
    for seed in 0..6 {
        let mut world = settled(seed, 4, 1);
        let all: NodeSet = world.ids().into_iter().collect();
        let deaf = NodeSet::of(NodeId(3));
        world.happen(Fault::Deafen { from: all, to: deaf });
        world.run_for(MILLI * 500);
        let views = world.nodes.values().filter_map(|node| node.view());
        let view = views.max_by_key(|view| view.number).unwrap();
        let expected: NodeSet = [1, 2, 4].map(NodeId).into_iter().collect();
        assert_eq!(view.alive(), expected, "seed {seed}");
    }
}

/// What a deaf leader proposes is not decided by it, but would be by the next one, in whose log it is.
#[test]
fn a_leader_that_is_deaf_has_nobody_ejected() {
    for seed in 0..40 {
        let mut world = settled(seed, 3, 1);
        let Some(leader) = world.leader() else { panic!("seed {seed}: nobody leads") };
        let all: NodeSet = world.ids().into_iter().collect();
        let others = all.without(leader);
        world.happen(Fault::Deafen { from: all, to: NodeSet::of(leader) });
        let end = world.now + MILLI * 500;
        while world.now < end {
            world.step();
            let views = world.nodes.values().filter_map(|node| node.view());
            let view = views.max_by_key(|view| view.number).unwrap();
            let dead = view.members.iter().filter(|(_, member)| member.state == State::Dead);
            let dead: NodeSet = dead.map(|(node, _)| *node).collect();
            assert!(dead.intersection(others).is_empty(), "seed {seed}: {dead:?} of {view:?}");
        }
        let picture = world.picture();
        assert!(world.leader().is_some_and(|node| node != leader), "seed {seed}: {picture}");
    }
}

/// A node that is cut off or sleeps, leads or not, and comes back is not vouched for while others know of a
/// view that it does not know (rule 17).
#[test]
fn the_word_of_a_council_is_never_out_of_date() {
    for seed in 0..24 {
        let mut world = settled(seed, 3, seed as u8 % 2);
        let leads = |world: &World, id: &NodeId| (world.leader() == Some(*id)) == (seed % 4 < 2);
        let cut = world.relays().into_iter().find(|id| leads(&world, id)).unwrap();
        let time = MILLI * (200 + seed as u32 * 10);
        match seed % 3 {
            0 => world.happen(Fault::Pause(cut, time)),
            _ => world.happen(Fault::Split(NodeSet::of(cut))),
        }
        world.fault_in(time, Fault::Heal);
        let (end, mut known, mut words) = (world.now + MILLI * 1_500, Vec::new(), 0);
        while world.now < end {
            world.step();
            known.push((world.now, world.checker.newest()));
            let due = known.partition_point(|(at, _)| *at + WORD < world.now);
            let Some((_, due)) = due.checked_sub(1).map(|last| known[last]) else { continue };
            for node in world.nodes.values().filter(|node| node.paused_until <= world.now) {
                let council = node.council.as_ref().filter(|council| council.is_current(world.now));
                let Some(council) = council else { continue };
                words += usize::from(node.id == cut);
                let number = council.view().number;
                assert!(number >= due, "seed {seed}: {:?} knows {number} of {due}", node.id);
            }
        }
        assert!(words > 100, "seed {seed}: nobody vouches for {cut:?} any more");
    }
}

#[test]
fn who_was_cut_off_comes_back_once() {
    for seed in 0..6 {
        let mut world = settled(seed, 3, 1);
        let cut = world.relays()[seed as usize % 3];
        world.happen(Fault::Split(NodeSet::of(cut)));
        world.run_for(Duration::from_secs(2));
        world.happen(Fault::Heal);
        let healed = world.run_until(PATIENCE, |world| world.unrest().is_none());
        assert!(healed.is_some(), "seed {seed}: {}", world.picture());
        let joined = |world: &World| {
            let views = world.nodes.values().filter_map(|node| node.view());
            views.max_by_key(|view| view.number).unwrap().members[&cut].joined
        };
        // What it said while it was cut off, and says again, ejects nobody: not even itself.
        let since = joined(&world);
        world.run_for(Duration::from_secs(6));
        assert_eq!(joined(&world), since, "seed {seed}: {}", world.picture());
    }
}
