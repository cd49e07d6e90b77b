//! What clients are told when they cannot be served.

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use common::{check, step, transfers};
use rustls::AlertDescription;
use sim::Outcome;
use sim::plan::{Conduct, Plan};
use sim::script::{Action::*, Options, When::*, Who::*};

fn strange(conduct: Conduct, up: u64, down: u64) -> Vec<Plan> {
    vec![Plan { conduct, ..Plan::new(1, up, down) }]
}

#[test]
fn a_client_is_told_that_no_backend_answers() {
    let options = Options::new(transfers(2, 1_000, 1_000), vec![]);
    let report = check(1, &Options { backend_listens: false, ..options });
    let alert = Some(Outcome::Alert(AlertDescription::InternalError));
    assert_eq!(report.outcomes, [alert.clone(), alert]);
}

#[test]
fn a_reset_by_the_backend_is_a_reset_and_never_a_close_notify() {
    let conduct = Conduct::BackendResets { after: 60_000 };
    let report = check(2, &Options::new(strange(conduct, 0, 100_000), vec![]));
    assert_eq!(report.outcomes, [Some(Outcome::Reset)]);
}

#[test]
fn a_reset_by_the_backend_after_a_takeover_is_a_reset() {
    let conduct = Conduct::BackendResets { after: 300_000 };
    let steps = vec![step(Moved(100_000), Wait), step(InSync, Crash(Owner, 3))];
    let report = check(3, &Options::new(strange(conduct, 0, 400_000), steps));
    assert_eq!((&report.outcomes[..], report.takeovers), (&[Some(Outcome::Reset)][..], 1));
}

#[test]
fn an_unknown_name_gets_an_alert() {
    let report = check(4, &Options::new(strange(Conduct::UnknownName, 10, 10), vec![]));
    let alert = Outcome::Alert(AlertDescription::UnrecognisedName);
    assert_eq!(report.outcomes, [Some(alert)]);
}

#[test]
fn whoever_does_not_speak_tls_is_disconnected() {
    for (seed, conduct) in [(5, Conduct::Garbage), (6, Conduct::PlainHttp)] {
        let report = check(seed, &Options::new(strange(conduct, 10, 10), vec![]));
        assert_eq!(report.outcomes, [Some(Outcome::Truncated)], "{conduct:?}");
    }
}

#[test]
fn garbage_on_an_established_connection_gets_an_alert() {
    let conduct = Conduct::GarbageAfter { bytes: 5_000 };
    let report = check(7, &Options::new(strange(conduct, 50_000, 50_000), vec![]));
    let alert = Outcome::Alert(AlertDescription::DecodeError);
    assert_eq!(report.outcomes, [Some(alert)]);
}
