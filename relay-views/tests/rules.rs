//! The rules 1 to 5 and 18, for any sequence of commands.

use std::cell::RefCell;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use relay_views::command::Candidate;
use relay_views::id::{Incarnation, NodeId, NodeSet, Seat};
use relay_views::placement;
use relay_views::view::{Bucket, Kind, Objection, State};
use relay_views::{Command, Refusal, View};

const BUCKETS: usize = 12;
/// Kinds of drafts, see [`Draft::command`].
const KINDS: u8 = 15;
const WITNESS: NodeId = NodeId(9);

fn candidate(id: u8, life: u64) -> Candidate {
    let node = NodeId(id);
    let kind = if node == WITNESS { Kind::Witness } else { Kind::Relay };
    let (incarnation, seat) = (Incarnation(life), Seat::new(node, 7));
    Candidate { node, incarnation, seat, kind, votes: true, weight: 100, generation: 0 }
}

/// A command that refers to the lives and numbers of the view it is applied to.
#[derive(Clone, Debug)]
struct Draft {
    kind: u8,
    nodes: (u8, u8),
    buckets: Vec<u16>,
    /// How stale the proposer's view is.
    age: u64,
    number: u16,
}

fn draft() -> impl Strategy<Value = Draft> {
    let node = || prop_oneof![8 => 1u8..5, 1 => Just(9)];
    let buckets = prop_oneof![
        Just((0..BUCKETS as u16).collect()),
        prop::collection::vec(0..BUCKETS as u16, 1..4),
        Just(vec![99]),
    ];
    let age = prop_oneof![6 => Just(0), 1 => 1u64..4];
    // The kinds that make a history go on are drawn more often.
    let kind = prop_oneof![0..KINDS, prop::sample::select(vec![0u8, 0, 1, 2, 2, 2, 3, 4, 12, 14])];
    (kind, (node(), node()), buckets, age, 0u16..1200)
        .prop_map(|(kind, nodes, buckets, age, number)| Draft { kind, nodes, buckets, age, number })
}

impl Draft {
    /// Mostly two nodes for whom the command makes sense.
    fn actors(&self, view: &View) -> ((NodeId, Incarnation), (NodeId, Incarnation)) {
        let drawn = (NodeId(self.nodes.0), NodeId(self.nodes.1));
        let partner = |bucket: &Bucket| match self.kind {
            2 => bucket.learners.iter().next(),
            3 => bucket.in_sync.iter().find(|node| bucket.owner != Some(*node)),
            4 => bucket.heir,
            _ => None,
        };
        let aimed = view.buckets.iter().find_map(|bucket| Some((bucket.owner?, partner(bucket)?)));
        let (first, second) = aimed.filter(|_| !self.number.is_multiple_of(4)).unwrap_or(drawn);
        (life_of(view, first.0), life_of(view, second.0))
    }

    fn command(&self, view: &View) -> Command {
        let (seen, buckets) = (view.number.saturating_sub(self.age), self.buckets.clone());
        let (first, second) = self.actors(view);
        let (node, number) = (first.0, self.number);
        let generation = view.configuration.active.generation;
        let next = view.configuration.next();
        match self.kind {
            0 => {
                let generation = if number == 0 { 99 } else { generation };
                let candidate = candidate(node.0, u64::from(number % 3 + 1));
                Command::Join(Candidate { generation, ..candidate })
            }
            1 => {
                let victims = NodeSet::of(node).with(NodeId((number % 5) as u8));
                Command::Eject { victims: view.lives(victims).collect(), by: second, seen }
            }
            2 => Command::Promote { seen, buckets, owner: first, learner: second },
            3 => Command::HandOver { seen, buckets, to: second.0 },
            4 => Command::HandedOver { seen, buckets, from: first },
            5 => Command::Lose { seen, buckets },
            6 => Command::Drain { node },
            7 => Command::Undrain { node },
            8 => Command::Forget { node },
            9 => Command::Weigh { node, weight: number },
            10 => Command::Replicas { replicas: (number % 5) as u8 },
            11 => {
                let vips = Arc::new([[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]);
                let generation = next - u64::from(number.is_multiple_of(4));
                Command::Configure { generation, bytes: Arc::new([1]), vips }
            }
            12 => Command::Prepared { node: first, generation: next },
            13 => {
                let reason = "no such file";
                let objection = Some(Objection::new(node, reason)).filter(|_| number < 600);
                // Most documents come into force.
                let generation = next + u64::from(!number.is_multiple_of(8));
                Command::Withdraw { generation, objection }
            }
            _ => Command::Hold { vip: [10, 0, 0, 1].into(), seen, node },
        }
    }
}

fn life_of(view: &View, id: u8) -> (NodeId, Incarnation) {
    let member = view.members.get(&NodeId(id));
    (NodeId(id), member.map_or(Incarnation(1), |member| member.incarnation))
}

fn cluster(ids: &[u8]) -> View {
    let join = |view: View, id: &u8| view.apply(&Command::Join(candidate(*id, 1))).unwrap();
    ids.iter().fold(View::genesis_of(BUCKETS), join)
}

/// What must hold of every step, by rule.
fn check_step(before: &View, command: &Command, after: &View) {
    assert_eq!(after.number, before.number + 1);
    assert_eq!(after.flaw(), None, "{command:?}\n{after:#?}");
    for (index, (old, new)) in before.buckets.iter().zip(&after.buckets).enumerate() {
        check_bucket(before, command, after, (old, new));
        let same = Bucket { changed: 0, ..*old } == Bucket { changed: 0, ..*new };
        assert!(same || new.changed == after.number, "bucket {index} changed in secret");
    }
    for (node, member) in &after.members {
        let unchanged = before
            .members
            .get(node)
            .is_some_and(|old| (old.incarnation, old.state) == (member.incarnation, member.state));
        assert!(unchanged || member.changed == after.number);
    }
    let held = |document: &relay_views::view::Document| document.generation;
    if held(&after.configuration.active) != held(&before.configuration.active) {
        let last = matches!(command, Command::Prepared { .. } | Command::Eject { .. });
        assert!(last && before.configuration.proposed.is_some());
    }
}

fn check_bucket(before: &View, command: &Command, after: &View, buckets: (&Bucket, &Bucket)) {
    let (old, new) = buckets;
    let life = |view: &View, node: Option<NodeId>| {
        node.and_then(|node| Some((node, view.members.get(&node)?.incarnation)))
    };
    let lives = |view: &View, set| view.lives(set).collect::<Vec<_>>();
    let founded = new.since != old.since;
    let same_owner = life(before, old.owner) == life(after, new.owner) && !founded;
    // Rule 2.
    assert_eq!(new.term == old.term, same_owner, "{command:?} {old:?} {new:?}");
    assert!(new.term >= old.term && new.since >= old.since);
    let (were, are) = (lives(before, old.in_sync), lives(after, new.in_sync));
    if founded {
        // Rule 18: only when nobody is left who could have the state.
        let lost = matches!(command, Command::Lose { .. });
        let left = were.iter().any(|life| after.members[&life.0].incarnation == life.1);
        assert!(lost || !left, "{command:?} {old:?} {new:?}");
        assert!(
            !were.iter().any(|life| before.names(life.0, life.1) && after.names(life.0, life.1))
        );
        assert_eq!((new.since, are.len()), (new.term, 1));
        return;
    }
    assert!(life(after, new.owner).is_none_or(|owner| were.contains(&owner)));
    // Rule 3.
    let promoted = |life| match command {
        Command::Promote { seen, owner, learner, .. } => {
            let was_learner = lives(before, old.learners).contains(learner);
            let gated = life == *learner && was_learner && old.changed <= *seen;
            gated && life_of(before, owner.0.0) == *owner && old.owner == Some(owner.0)
        }
        _ => false,
    };
    assert!(are.iter().all(|life| were.contains(life) || promoted(*life)));
}

#[test]
fn every_step_keeps_the_rules() {
    // Commands by kind that were not refused: what is never tried proves nothing.
    let accepted = RefCell::new([0u32; KINDS as usize]);
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() };
    let histories = prop::collection::vec(draft(), 1..80);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&histories, |drafts| {
        let mut view = cluster(&[1, 9]);
        for draft in drafts {
            let command = draft.command(&view);
            prop_assert_eq!(&Command::decode(&command.encode()).unwrap(), &command);
            if let Ok(next) = view.apply(&command) {
                check_step(&view, &command, &next);
                accepted.borrow_mut()[usize::from(draft.kind)] += 1;
                view = next;
            }
        }
        prop_assert_eq!(&View::decode(&view.encode()).unwrap(), &view);
        Ok(())
    });
    result.unwrap();
    assert!(accepted.borrow().iter().all(|count| *count > 5), "{accepted:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn bytes_that_nobody_wrote_are_refused(
        drafts in prop::collection::vec(draft(), 1..20),
        cut in any::<prop::sample::Index>(),
        flip in any::<(prop::sample::Index, u8)>(),
    ) {
        let mut view = cluster(&[1, 2]);
        for draft in &drafts {
            view = view.apply(&draft.command(&view)).unwrap_or(view);
        }
        for bytes in [view.encode(), drafts[0].command(&view).encode()] {
            let short = &bytes[..cut.index(bytes.len())];
            prop_assert!(View::decode(short).is_err());
            prop_assert!(Command::decode(short).is_err());
            let mut odd = bytes.clone();
            odd[flip.0.index(bytes.len())] ^= flip.1;
            if let Ok(view) = View::decode(&odd) {
                prop_assert_eq!(view.flaw(), None);
            }
            let _ = Command::decode(&odd);
        }
    }
}

/// Lets every owner promote everybody it teaches.
fn teach(mut view: View) -> View {
    let all: Vec<u16> = (0..view.buckets.len() as u16).collect();
    let alive = view.alive();
    for owner in alive.iter() {
        for learner in alive.iter() {
            let (owner, learner) = (life_of(&view, owner.0), life_of(&view, learner.0));
            let seen = view.number;
            let command = Command::Promote { seen, buckets: all.clone(), owner, learner };
            view = view.apply(&command).unwrap_or(view);
        }
    }
    view
}

/// Moves whatever should move, some at a time.
fn rebalance(view: View) -> View {
    moved(view, |view| placement::rebalance(view, 500))
}

fn moved(mut view: View, plan: impl Fn(&View) -> Vec<placement::Move>) -> View {
    loop {
        let moves = plan(&view);
        let Some(first) = moves.first() else { return view };
        let same = |m: &&placement::Move| (m.from, m.to) == (first.from, first.to);
        let buckets: Vec<u16> = moves.iter().filter(same).map(|m| m.bucket).collect();
        let (seen, to, from) = (view.number, first.to, life_of(&view, first.from.0));
        let asked = Command::HandOver { seen, buckets: buckets.clone(), to };
        view = view.apply(&asked).unwrap();
        let seen = view.number;
        view = view.apply(&Command::HandedOver { seen, buckets, from }).unwrap();
        view = teach(view);
    }
}

fn owned(view: &View, id: u8) -> usize {
    view.buckets.iter().filter(|bucket| bucket.owner == Some(NodeId(id))).count()
}

fn full(ids: &[u8]) -> View {
    let join = |view: View, id: &u8| teach(view.apply(&Command::Join(candidate(*id, 1))).unwrap());
    rebalance(ids.iter().fold(View::genesis(), join))
}

#[test]
fn four_relays_share_drain_and_die() {
    let view = full(&[1, 2, 3, 4]);
    for id in 1..5 {
        assert!(owned(&view, id).abs_diff(1024) < 102, "{id}: {}", owned(&view, id));
        assert_eq!(view.members[&NodeId(id)].state, State::Live);
    }
    let drained = rebalance(teach(view.apply(&Command::Drain { node: NodeId(3) }).unwrap()));
    assert!(drained.is_empty_of(NodeId(3)) && owned(&drained, 3) == 0);
    let by = life_of(&view, 1);
    let eject = view.eject(NodeSet::of(NodeId(2)), by);
    let after = view.apply(&eject).unwrap();
    let heirs: Vec<usize> = [1, 3, 4].map(|id| owned(&after, id)).into();
    assert!(heirs.iter().all(|owned| owned.abs_diff(1365) < 136), "{heirs:?}");
    let kept = |(old, new): &(&Bucket, &Bucket)| old.owner == new.owner && old.term == new.term;
    let survived = view.buckets.iter().zip(&after.buckets).filter(kept).count();
    assert_eq!(survived, 4096 - owned(&view, 2));
    assert_eq!(view.apply(&eject).unwrap().apply(&eject), Err(Refusal::Gone));
}

#[test]
fn the_last_backup_stays_one_while_it_is_drained() {
    let drain = |view: &View, node| {
        rebalance(teach(view.apply(&Command::Drain { node: NodeId(node) }).unwrap()))
    };
    let of_two = drain(&full(&[1, 2]), 1);
    assert_eq!((owned(&of_two, 1), owned(&of_two, 2)), (0, 4096));
    let both: NodeSet = [1, 2].map(NodeId).into_iter().collect();
    assert!(of_two.buckets.iter().all(|bucket| bucket.in_sync == both));
    // The heir dies in the very moment: the other one has everything.
    let eject = of_two.eject(NodeSet::of(NodeId(2)), life_of(&of_two, 1));
    assert_eq!(owned(&of_two.apply(&eject).unwrap(), 1), 4096);
    // And it is not waited for when it is gone.
    let eject = of_two.eject(NodeSet::of(NodeId(1)), life_of(&of_two, 2));
    let alone = of_two.apply(&eject).unwrap();
    assert!(alone.buckets.iter().all(|bucket| bucket.in_sync == NodeSet::of(NodeId(2))));
    // A third relay makes the drained one dispensable.
    let of_three = drain(&full(&[1, 2, 3]), 1);
    let others: NodeSet = [2, 3].map(NodeId).into_iter().collect();
    assert!(of_three.buckets.iter().all(|bucket| bucket.in_sync == others));
}

#[test]
fn few_buckets_are_levelled_and_move_no_more_than_they_have_to() {
    let level = |view| moved(view, |view| placement::level(view, 4));
    let shares = |view: &View| [1, 2, 3, 4].map(|id| owned(view, id));
    let join = |view: View, id: &u8| teach(view.apply(&Command::Join(candidate(*id, 1))).unwrap());
    let four = level([1, 2, 3, 4].iter().fold(View::genesis_of(16), join));
    assert_eq!(shares(&four), [4; 4]);
    let drained = level(teach(four.apply(&Command::Drain { node: NodeId(3) }).unwrap()));
    let mut sorted = shares(&drained);
    sorted.sort_unstable();
    assert_eq!((drained.is_empty_of(NodeId(3)), sorted), (true, [0, 5, 5, 6]));
    let again = level(teach(drained.apply(&Command::Undrain { node: NodeId(3) }).unwrap()));
    assert_eq!(shares(&again), [4; 4]);
    let kept = |(old, new): &(&Bucket, &Bucket)| old.owner == new.owner && old.term == new.term;
    assert_eq!(drained.buckets.iter().zip(&again.buckets).filter(kept).count(), 12);
    let eject = four.eject([NodeId(2)].into_iter().collect(), life_of(&four, 1));
    let after = level(four.apply(&eject).unwrap());
    assert_eq!(shares(&after).iter().filter(|owned| **owned >= 5).count(), 3);

    let one = level([1, 2, 3].iter().fold(View::genesis_of(1), join));
    assert_eq!(one.buckets[0].term, 1, "a single bucket stays where it is");
}

#[test]
fn two_copies_are_two_copies() {
    let view = full(&[1, 2, 3, 4]);
    let view = rebalance(teach(view.apply(&Command::Replicas { replicas: 2 }).unwrap()));
    assert!(view.buckets.iter().all(|bucket| bucket.in_sync.len() == 2));
    let eject = view.eject(NodeSet::of(NodeId(4)), life_of(&view, 1));
    let after = view.apply(&eject).unwrap();
    assert!(after.buckets.iter().all(|bucket| bucket.owner != Some(NodeId(4))));
    let healed = teach(after);
    assert!(healed.buckets.iter().all(|bucket| bucket.in_sync.len() == 2));
}

#[test]
fn who_comes_back_with_the_state_goes_on_and_who_is_blank_does_not() {
    let view = full(&[1, 2]).apply(&Command::Join(candidate(9, 1))).unwrap();
    let victims = [1, 2].map(NodeId).into_iter().collect();
    let stalled = view.apply(&view.eject(victims, life_of(&view, 9))).unwrap();
    assert_eq!(stalled.stalled().count(), 4096);
    // The same life: nothing is lost.
    let back = stalled.apply(&Command::Join(candidate(1, 1))).unwrap();
    assert!(owned(&back, 1) == 4096 && back.buckets.iter().all(|b| b.since == 1));
    // Another life: the other one is waited for, until the flows are given up.
    let blank = stalled.apply(&Command::Join(candidate(1, 2))).unwrap();
    assert_eq!(blank.stalled().count(), 4096);
    let (seen, buckets) = (blank.number, blank.stalled().collect());
    let lost = blank.apply(&Command::Lose { seen, buckets }).unwrap();
    assert!(owned(&lost, 1) == 4096 && lost.buckets.iter().all(|b| b.since == b.term));
}

#[test]
fn a_configuration_is_in_force_everywhere_or_nowhere() {
    let view = full(&[1, 2, 3]);
    let vips: Arc<[_]> = Arc::new([[10, 9, 9, 1].into(), [10, 9, 9, 2].into()]);
    let configure = Command::Configure { generation: 1, bytes: Arc::new([1]), vips };
    let mut view = view.apply(&configure).unwrap();
    assert_eq!(view.apply(&configure), Err(Refusal::Generation));
    let prepared = |view: &View, id| Command::Prepared { node: life_of(view, id), generation: 1 };
    for id in [1, 2] {
        view = view.apply(&prepared(&view, id)).unwrap();
        assert_eq!(view.configuration.active.generation, 0);
    }
    let third = view.apply(&prepared(&view, 3)).unwrap();
    let by = life_of(&view, 1);
    let without = view.apply(&view.eject(NodeSet::of(NodeId(3)), by)).unwrap();
    for active in [&third, &without] {
        assert_eq!(active.configuration.active.generation, 1);
        assert!(active.vips.len() == 2 && active.vips.values().all(|holder| holder.node.is_some()));
    }
    let late = Command::Join(candidate(3, 2));
    assert_eq!(without.apply(&late), Err(Refusal::Generation));
}

#[test]
fn a_document_is_prepared_by_a_life_and_its_number_is_used_once() {
    let view = full(&[1, 2]);
    let configure = |generation| {
        let (bytes, vips) = (Arc::new([generation as u8]), Arc::new([]));
        Command::Configure { generation, bytes, vips }
    };
    let prepared =
        |view: &View, id, generation| Command::Prepared { node: life_of(view, id), generation };
    // Who restarts without having been ejected holds nothing of what its former life held.
    let view = view.apply(&configure(1)).unwrap();
    let view = view.apply(&prepared(&view, 2, 1)).unwrap();
    let view = view.apply(&Command::Join(candidate(2, 2))).unwrap();
    let view = view.apply(&prepared(&view, 1, 1)).unwrap();
    assert_eq!(view.configuration.active.generation, 0);

    // What was said of a document that was dropped is not said of the next one.
    let objection = Some(Objection::new(NodeId(2), &"é".repeat(400)));
    let withdraw = Command::Withdraw { generation: 1, objection: objection.clone() };
    let view = view.apply(&withdraw).unwrap();
    assert_eq!(view.configuration.withdrawn.as_ref().unwrap().objection, objection);
    assert_eq!(View::decode(&view.encode()).as_ref(), Ok(&view));
    assert_eq!(view.apply(&configure(1)), Err(Refusal::Generation));
    let mut view = view.apply(&configure(2)).unwrap();
    assert_eq!(view.apply(&prepared(&view, 1, 1)), Err(Refusal::Generation));
    for id in [1, 2] {
        view = view.apply(&prepared(&view, id, 2)).unwrap();
    }
    assert_eq!((view.configuration.active.generation, view.configuration.next()), (2, 3));
}

#[test]
fn an_id_that_is_taken_is_refused() {
    let view = full(&[1, 2]);
    let other = Candidate { seat: Seat::new(NodeId(2), 8), ..candidate(2, 2) };
    assert_eq!(view.apply(&Command::Join(other)), Err(Refusal::Alive));
    // With the same disk it is the same machine after a restart: blank.
    let restarted = view.apply(&Command::Join(candidate(2, 2))).unwrap();
    assert!(restarted.buckets.iter().all(|bucket| bucket.in_sync == NodeSet::of(NodeId(1))));
    // With another disk it may come as soon as the former one is dead; that one votes no more.
    let eject = view.eject(NodeSet::of(NodeId(2)), life_of(&view, 1));
    let replaced = view.apply(&eject).unwrap().apply(&Command::Join(other)).unwrap();
    assert_eq!(replaced.retired, [Seat::new(NodeId(2), 7)]);
}

#[test]
fn an_ejection_that_comes_late_leaves_alone_who_is_back() {
    let view = full(&[1, 2]);
    let eject = view.eject(NodeSet::of(NodeId(2)), life_of(&view, 1));
    let back = view.apply(&eject).unwrap().apply(&Command::Join(candidate(2, 1))).unwrap();
    assert_eq!(back.apply(&eject), Err(Refusal::Gone));
    // Nor does it count what who is back has said before.
    let before = view.eject(NodeSet::of(NodeId(1)), life_of(&view, 2));
    assert_eq!(back.apply(&before), Err(Refusal::Gone));
    let again = back.eject(NodeSet::of(NodeId(2)), life_of(&back, 1));
    assert_eq!(back.apply(&again).unwrap().members[&NodeId(2)].state, State::Dead);
}
