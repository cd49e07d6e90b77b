//! The oracle shows what was decided, in order, late and with gaps.

use std::time::Duration;

use relay_views::command::Candidate;
use relay_views::id::{Incarnation, NodeId, NodeSet, Seat};
use relay_views::source::{Audience, Manners, Oracle, ViewSource};
use relay_views::view::{Kind, State};
use relay_views::{Command, View};

const MILLI: Duration = Duration::from_millis(1);

fn join(id: u8) -> Command {
    let (node, incarnation) = (NodeId(id), Incarnation(1));
    let (seat, kind) = (Seat::new(node, 1), Kind::Relay);
    let weight = 100;
    Command::Join(Candidate { node, incarnation, seat, kind, votes: true, weight, generation: 0 })
}

#[test]
fn every_audience_sees_one_history() {
    let manners =
        Manners { decision_max: MILLI * 3, delivery_max: MILLI * 20, lost: 200, stale: 500 };
    let (mut gaps, mut seen) = (0, 0);
    for seed in 0..50 {
        let oracle = Oracle::new(View::genesis_of(8), manners, seed);
        let audience = |id| Audience::new(&oracle, NodeId(id), Incarnation(1));
        let mut audiences: Vec<_> = [1, 2, 3].map(audience).into();
        let mut newest = [0u64; 3];
        for tick in 1..2000u32 {
            let now = MILLI * tick;
            for (place, audience) in audiences.iter_mut().enumerate() {
                let Some(view) = audience.next_view(now) else { continue };
                assert_eq!(oracle.lock().unwrap().history()[view.number as usize], view);
                assert!(view.number > newest[place] || view.number == 0);
                gaps += u64::from(view.number > newest[place] + 1);
                seen += 1;
                newest[place] = view.number;
            }
            if tick % 50 == 0 {
                audiences[0].propose(now, join((tick / 50 % 3 + 1) as u8));
                let node = NodeId(2);
                audiences[1].propose(now, Command::Weigh { node, weight: (tick / 50) as u16 });
            }
        }
        let last = oracle.lock().unwrap().newest().number;
        assert!(last > 3 && newest.iter().all(|number| *number == last), "{newest:?} {last}");
    }
    assert!(gaps > 0 && seen > gaps);
}

#[test]
fn who_is_suspected_is_ejected() {
    let manners = Manners { decision_max: MILLI, delivery_max: MILLI, lost: 0, stale: 0 };
    let mut view = View::genesis_of(8);
    for id in [1, 2] {
        view = view.apply(&join(id)).unwrap();
    }
    let oracle = Oracle::new(view, manners, 1);
    let mut audience = Audience::new(&oracle, NodeId(1), Incarnation(1));
    audience.suspect(MILLI, NodeSet::of(NodeId(2)));
    let seen = (2..10).filter_map(|tick| audience.next_view(MILLI * tick)).last().unwrap();
    assert_eq!(seen.members[&NodeId(2)].state, State::Dead);
}
