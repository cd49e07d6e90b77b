//! The configuration of a cluster changes while handshakes are under way, and relays die.

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use common::{check, ms, step};
use relay_views::source::Manners;
use sim::Report;
use sim::plan::Plan;
use sim::script::{Action::*, Options, Step, When::*, Who::*};

/// Three relays with a council, and clients so far away that their handshakes take 200 ms, one after
/// the other.
fn far(steps: Vec<Step>) -> Options {
    let start = |id: u64| ms(200 + 37 * id);
    let plans = (1..=24).map(|id| Plan { start: start(id), ..Plan::new(id, 20_000, 30_000) });
    let mut options = Options::new(plans.collect(), steps);
    options.faults[0].delay = ms(50);
    options.relays = 3;
    let delay = ms(5);
    options.views = Some(Manners { decision_max: delay, delivery_max: delay, lost: 0, stale: 0 });
    options
}

fn demand(report: &Report, reconfigured: u64) {
    assert!(report.reconfigured >= reconfigured, "{}", report.log.join("\n"));
    assert_eq!((report.completed, report.excused), (24, 0), "{}", report.log.join("\n"));
}

#[test]
fn handshakes_go_on_while_the_configuration_changes_again_and_again() {
    // Each is in force before the next is asked for, and each other has another certificate.
    let again = (0..6).map(|_| step(After(ms(130)), Reconfigure));
    let steps = [step(InSync, Wait), step(After(ms(450)), Wait)];
    let report = check(1, &far(steps.into_iter().chain(again).collect()));
    demand(&report, 6);
    assert_eq!(report.takeovers, 0);
}

#[test]
fn handshakes_go_on_at_another_relay_under_the_configuration_under_which_they_began() {
    for seed in 1..6 {
        let steps = vec![
            step(InSync, Wait),
            step(After(ms(700 + 31 * seed)), Reconfigure),
            step(After(ms(90)), Crash(Owner, seed)),
            step(After(ms(150)), Reconfigure),
            step(After(ms(80)), Restart),
            step(InSync, Wait),
            step(After(ms(20)), Crash(Owner, 0)),
            step(After(ms(100)), Restart),
        ];
        let report = check(seed, &far(steps));
        demand(&report, 2);
        assert!(report.takeovers > 0 && report.survivals > 0, "{}", report.log.join("\n"));
    }
}

#[test]
fn a_document_that_is_withdrawn_changes_nothing() {
    // The second step asks for the first document to be dropped, before all relays hold it.
    let steps = vec![
        step(InSync, Wait),
        step(After(ms(700)), Reconfigure),
        step(After(ms(1)), Reconfigure),
        step(After(ms(200)), Crash(Backup, 0)),
        step(After(ms(50)), Reconfigure),
        step(After(ms(100)), Restart),
    ];
    let report = check(9, &far(steps));
    demand(&report, 1);
    assert_eq!(report.reconfigured, 1);
}
