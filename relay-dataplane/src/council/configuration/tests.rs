//! What a node says when, without a council and without a worker.

use relay_views::command::Candidate;
use relay_views::view::Kind;

use super::*;

const LIFE: (NodeId, Incarnation) = (NodeId(1), Incarnation(1));

fn member(view: &View, id: u8, generation: u64) -> View {
    let node = NodeId(id);
    let candidate = Candidate {
        node,
        incarnation: Incarnation(1),
        seat: Seat::new(node, 1),
        kind: Kind::Relay,
        votes: true,
        weight: 100,
        generation,
    };
    view.apply(&Command::Join(candidate)).unwrap()
}

fn configure(view: &View) -> View {
    let generation = view.configuration.next();
    let (bytes, vips) = (Arc::from(*b"[[listener]]"), Arc::new([]));
    view.apply(&Command::Configure { generation, bytes, vips }).unwrap()
}

/// The control thread's part, with a loader of the test's.
struct World {
    preparation: Preparation,
    shelf: Shelf,
    jobs: Receiver<Document>,
    done: Sender<(u64, Result<Loaded, String>)>,
    now: Duration,
}

impl World {
    fn new() -> World {
        let (jobs, queue) = bounded(WAITING_MAX);
        let (results, done) = bounded(WAITING_MAX);
        let loader = Some(Loader { jobs, done });
        let preparation = Preparation {
            loader,
            stages: BTreeMap::new(),
            said: None,
            buried_at: None,
            told: false,
        };
        World { preparation, shelf: Shelf::new(1), jobs: queue, done: results, now: Duration::ZERO }
    }

    fn attend(&mut self, view: &View) -> Option<Command> {
        self.preparation.attend(self.now, (view, LIFE), &self.shelf).0
    }

    /// The document that is to be loaded, which is found to be good.
    fn load(&mut self) {
        let generation = self.jobs.try_recv().expect("something is to be loaded").generation;
        let document = crate::config::Document { listeners: Vec::new(), warnings: Vec::new() };
        self.done.send((generation, Ok(Loaded { listeners: Arc::new([]), document }))).unwrap();
    }

    fn held(&self) -> Vec<u64> {
        self.shelf.take(0).iter().map(|offer| offer.generation).collect()
    }
}

#[test]
fn a_relay_says_that_it_holds_a_document_when_its_worker_does() {
    let mut world = World::new();
    let view = configure(&member(&View::genesis_of(1), 1, 0));
    assert_eq!(world.attend(&view), None);
    world.load();
    assert_eq!(world.attend(&view), None, "it is loaded, not held");
    assert_eq!(world.held(), [1]);
    assert_eq!(world.attend(&view), None);
    world.shelf.answer((1, Ok(())));
    let prepared = Command::Prepared { node: LIFE, generation: 1 };
    assert_eq!(world.attend(&view), Some(prepared.clone()));
    assert_eq!(world.attend(&view), None, "not again at once");
    world.now += REPEAT;
    assert_eq!(world.attend(&view), Some(prepared.clone()), "it may have been lost");
    let active = view.apply(&prepared).unwrap();
    assert_eq!(active.configuration.active.generation, 1);
    assert_eq!(world.attend(&active), None);
    assert_eq!(world.preparation.joins_with(&active.configuration), 1);
}

#[test]
fn what_can_not_be_applied_is_withdrawn_by_a_member_with_the_reason() {
    let view = configure(&member(&View::genesis_of(1), 1, 0));
    let objection = Some(Objection::new(LIFE.0, "no such file"));
    let withdraw = Command::Withdraw { generation: 1, objection };
    // By the loader, or by the worker.
    for by_worker in [false, true] {
        let mut world = World::new();
        world.attend(&view);
        if by_worker {
            world.load();
            world.attend(&view);
            world.shelf.answer((1, Err("no such file".to_owned())));
        } else {
            let document = world.jobs.try_recv().unwrap();
            world.done.send((document.generation, Err("no such file".to_owned()))).unwrap();
        }
        assert_eq!(world.attend(&view), Some(withdraw.clone()));
        let next = view.apply(&withdraw).unwrap();
        assert_eq!(world.attend(&next), None);
        world.preparation.publish(&next, &world.shelf);
        let report = world.shelf.known().report();
        let withdrawn = report.withdrawn.unwrap();
        assert_eq!((withdrawn.generation, withdrawn.node), (1, Some(1)));
        // The next document has another number, and what is said late of this one does not count.
        world.attend(&configure(&next));
        assert_eq!(world.jobs.try_recv().unwrap().generation, 2);
    }
    // Who is no member is not asked.
    let mut stranger = World::new();
    let view = configure(&member(&View::genesis_of(1), 2, 0));
    stranger.attend(&view);
    stranger.jobs.try_recv().unwrap();
    stranger.done.send((1, Err("no such file".to_owned()))).unwrap();
    assert_eq!(stranger.attend(&view), None);
}

#[test]
fn who_begins_joins_with_what_is_in_force_or_not_at_all() {
    let view = configure(&member(&View::genesis_of(1), 2, 0));
    let prepared = Command::Prepared { node: (NodeId(2), Incarnation(1)), generation: 1 };
    let view = view.apply(&prepared).unwrap();
    let mut world = World::new();
    assert_eq!(world.preparation.joins_with(&view.configuration), 0, "and is refused");
    // Nobody waits for its former life meanwhile.
    let (other, seat) = ((NodeId(2), Incarnation(7)), Seat::new(NodeId(2), 1));
    let bury = |world: &mut World, seat| world.preparation.bury(world.now, &view, (other, seat));
    assert_eq!(bury(&mut world, Seat::new(NodeId(2), 5)), None, "another machine's");
    let eject = bury(&mut world, seat).unwrap();
    assert!(view.apply(&eject).unwrap().alive().is_empty());
    assert_eq!(bury(&mut world, seat), None, "not again at once");
    world.attend(&view);
    world.jobs.try_recv().unwrap();
    world.done.send((1, Err("no such file".to_owned()))).unwrap();
    world.attend(&view);
    world.preparation.publish(&view, &world.shelf);
    let trouble = world.shelf.known().report().trouble.unwrap();
    assert!(trouble.contains("no such file") && trouble.contains("takes no part"), "{trouble}");
    assert!(world.jobs.try_recv().is_err(), "not again at once");
    // Somebody puts the file there.
    world.now += RELOAD;
    world.attend(&view);
    world.load();
    world.attend(&view);
    assert_eq!((world.held(), world.preparation.joins_with(&view.configuration)), (vec![1], 0));
    world.shelf.answer((1, Ok(())));
    world.attend(&view);
    assert_eq!(world.preparation.joins_with(&view.configuration), 1);
    world.now += REPEAT;
    assert_eq!(bury(&mut world, seat), None, "it takes its place");
    // A witness holds nothing, and is not asked to.
    let witness = Preparation {
        loader: None,
        stages: BTreeMap::new(),
        said: None,
        buried_at: None,
        told: false,
    };
    assert_eq!(witness.joins_with(&view.configuration), 1);
}
