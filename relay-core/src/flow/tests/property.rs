//! Random connections that are saved at any moment.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::Stage;
use super::*;

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![Just(Who::Client), Just(Who::Backend)]
}

fn event() -> impl Strategy<Value = Event> {
    let says = (who(), 1u16..6000).prop_map(|(who, length)| Event::Says(who, 0, length));
    let early = (who(), 1u16..2000, 1u16..2000);
    prop_oneof![
        8 => says,
        2 => early.prop_map(|(who, skipped, length)| Event::Says(who, skipped, length)),
        4 => who().prop_map(Event::Acknowledges),
        2 => (who(), any::<bool>()).prop_map(|(who, hears)| Event::Hears(who, hears)),
        6 => Just(Event::Commits),
        3 => (0u16..40).prop_map(Event::Passes),
        1 => (100u16..3000).prop_map(Event::Passes),
        1 => Just(Event::Resets),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        6 => (1u16..4000).prop_map(Record::Data),
        1 => any::<bool>().prop_map(|request| Record::KeyUpdate { request }),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let hold = prop_oneof![Just(None), Just(Some(0)), Just(Some(10))];
    let streams = (vec(record(), 0..8), 0u16..20_000, any::<bool>());
    let parts = (0..SUITES.len(), hold, streams, vec(event(), 0..30));
    parts.prop_map(|(suite, hold_ms, (up, down, is_answered), events)| Case {
        suite: SUITES[suite],
        hold_ms,
        up,
        down,
        is_answered,
        events,
    })
}

/// Lets everything happen; None when the flow is over before it could be saved.
fn before(case: &Case) -> Option<World> {
    let mut world = case.world();
    case.events.iter().for_each(|event| world.happen(event));
    (world.client.is_deaf, world.backend.is_deaf) = (false, false);
    let is_alive = matches!(&world.flow.stage, Stage::Open(_)) && world.flow.is_replicated();
    (is_alive && !world.over).then_some(world)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A backup that is given the flow as a whole goes on like the owner would have.
    #[test]
    fn a_saved_flow_goes_on_as_if_nothing_had_happened(case in case()) {
        let Some(mut owner) = before(&case) else { return Ok(()) };
        let shadows = owner.save();
        let ends = (owner.client.clone(), owner.backend.clone());
        let said = owner.flow.describe();
        let hops = [owner.flow.client.next_hop, owner.flow.backend().and_then(|leg| leg.next_hop)];
        let restored = World::restored(shadows, (case.hold(), owner.now), ends);
        let again = restored.flow.describe();
        prop_assert_eq!((&said.client, &said.vip), (&again.client, &again.vip));
        prop_assert_eq!((&said.backend, &said.snat), (&again.backend, &again.snat));
        prop_assert_eq!((said.suite, &said.server_name), (again.suite, &again.server_name));
        prop_assert_eq!(said.created_ms, again.created_ms);
        let again = &restored.flow;
        prop_assert_eq!(hops, [again.client.next_hop, again.backend().and_then(|leg| leg.next_hop)]);
        compare(&case, owner.finish(case.suite()), restored.finish(case.suite()))?;
    }

    /// So does a backup that has followed from the beginning, whatever it has not heard of.
    #[test]
    fn a_followed_flow_goes_on_as_if_nothing_had_happened(case in case()) {
        let Some(mut owner) = before(&case) else { return Ok(()) };
        let shadows = owner.lose_backup();
        let ends = (owner.client.clone(), owner.backend.clone());
        let restored = World::restored(shadows, (case.hold(), owner.now), ends);
        compare(&case, owner.finish(case.suite()), restored.finish(case.suite()))?;
    }
}

fn compare(case: &Case, owner: Outcome, restored: Outcome) -> Result<(), TestCaseError> {
    // Who asks behind the end of the other stream gets no answer, and which comes first is a matter
    // of time: here a window may open earlier or later.
    prop_assert!(case.asks_for_keys() || !restored.rekeyed, "nobody has asked for a KeyUpdate");
    if case.events.iter().any(|event| matches!(event, Event::Resets)) {
        return [owner, restored].iter().try_for_each(|outcome| outcome.is_cut_short(case));
    }
    let (up, down) = case.expected();
    prop_assert_eq!(&restored.up, &Bytes(up));
    prop_assert_eq!(&restored.down, &Bytes(down));
    let owner = Outcome { rekeyed: restored.rekeyed, ..owner };
    prop_assert_eq!(&owner, &restored);
    let all = restored.up_ended && restored.down_ended && restored.close_notify && restored.over;
    prop_assert!(all, "{restored:?}");
    Ok(())
}

impl Outcome {
    /// A backend that resets its connection leaves less than everything, but nothing wrong, and
    /// nothing that looks like an end.
    fn is_cut_short(&self, case: &Case) -> Result<(), TestCaseError> {
        let (up, down) = case.expected();
        prop_assert!(up.starts_with(&self.up.0), "{self:?}");
        prop_assert!(down.starts_with(&self.down.0), "{self:?}");
        prop_assert!(self.down_ended || self.reset.0, "{self:?}");
        prop_assert!(!self.close_notify || down.len() == self.down.0.len(), "{self:?}");
        prop_assert!(self.over, "{self:?}");
        Ok(())
    }
}
