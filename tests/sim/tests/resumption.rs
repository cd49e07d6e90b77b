//! Sessions that go on at another relay, and clients with certificates.

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use common::{check, ms, step};
use rustls::AlertDescription;
use sim::plan::{Plan, Resumption, Version};
use sim::script::{Action::*, Options, When::*, Who::*};
use sim::{Outcome, run};

/// More frames than a handshake and its short exchange have.
const FRAMES_MAX: u64 = 100;

/// A client whose connection is over when the owner dies, and one that comes back with its session.
fn two_visits(version: Version, resumption: Resumption) -> Options {
    let plan =
        |id, start| Plan { start: ms(start), version, resumption, ..Plan::new(id, 1_000, 1_000) };
    let steps = vec![step(InSync, Wait), step(After(ms(500)), Crash(Owner, 0))];
    Options::new(vec![plan(1, 20), plan(2, 2_000)], steps)
}

#[test]
fn a_session_id_resumes_at_the_other_relay_when_the_first_is_dead() {
    let report = check(1, &two_visits(Version::Tls12, Resumption::SessionId));
    assert_eq!((report.completed, report.takeovers, report.resumed), (2, 1, 1));
}

#[test]
fn a_ticket_resumes_at_the_other_relay_when_the_first_is_dead() {
    for version in [Version::Tls12, Version::Tls13] {
        let report = check(2, &two_visits(version, Resumption::Ticket));
        assert_eq!((report.completed, report.takeovers, report.resumed), (2, 1, 1));
    }
}

/// The session was made before the relay that resumes it was there, at one that is dead now.
#[test]
fn a_relay_that_returns_learns_the_sessions() {
    let options = two_visits(Version::Tls12, Resumption::SessionId);
    let steps = vec![
        step(InSync, Wait),
        step(After(ms(200)), Crash(Backup, 0)),
        step(After(ms(300)), Restart),
        step(InSync, Wait),
        step(After(ms(200)), Crash(Owner, 0)),
    ];
    let report = check(3, &Options { steps, ..options });
    assert_eq!((report.completed, report.crashes, report.takeovers), (2, 2, 1));
    assert_eq!(report.resumed, 1);
}

/// Neither crash, a while after the handshake or amid it, costs the session.
#[test]
fn a_handshake_that_goes_on_elsewhere_leaves_a_session_there() {
    let options = two_visits(Version::Tls12, Resumption::SessionId);
    for frame in 1..30 {
        let steps = vec![step(InSync, Wait), step(Sent(frame), Crash(Owner, 0))];
        let options = Options { steps, ..options.clone() };
        let report = run(4, &options);
        assert!(report.failures.is_empty(), "frame {frame}: {:#?}", report.failures);
        assert_eq!((report.completed, report.resumed), (2, 1), "frame {frame}");
    }
}

#[test]
fn a_client_with_a_certificate_survives_a_crash_after_every_frame() {
    for version in [Version::Tls12, Version::Tls13] {
        let plan = Plan { start: ms(20), version, certificate: true, ..Plan::new(1, 1_000, 1_000) };
        let mut crashes = 0;
        for frame in 0..FRAMES_MAX {
            let steps = vec![step(InSync, Wait), step(Sent(frame), Crash(Owner, 0))];
            let options = Options { client_auth: true, ..Options::new(vec![plan.clone()], steps) };
            let report = run(5, &options);
            assert!(report.failures.is_empty(), "frame {frame}: {:#?}", report.failures);
            assert_eq!(report.completed, 1, "frame {frame}");
            if report.crashes == 0 {
                break;
            }
            crashes += 1;
        }
        assert!((10..FRAMES_MAX).contains(&crashes), "{crashes} crashes");
    }
}

/// The alert is said by one relay alone, and a session without a certificate is none.
#[test]
fn a_client_without_a_certificate_is_told_so() {
    for version in [Version::Tls12, Version::Tls13] {
        let plan = Plan { start: ms(20), version, ..Plan::new(1, 1_000, 1_000) };
        let options = Options { client_auth: true, ..Options::new(vec![plan], vec![]) };
        let report = run(6, &options);
        let alert = Outcome::Alert(AlertDescription::CertificateRequired);
        assert_eq!(report.outcomes, [Some(alert)]);
    }
}
