//! Scenarios: what clients and backends see when relays fail.

mod common;

use common::{ms, step, transfers};
use sim::plan::{End, Plan, Version};
use sim::script::{Action::*, Options, When::*, Who::*};
use sim::{Faults, Outcome};

use common::check;

#[test]
fn downloads_and_uploads_arrive() {
    let plans = vec![Plan::new(1, 0, 100_000), Plan::new(2, 100_000, 0)];
    let report = check(1, &Options::new(plans, vec![]));
    assert_eq!((report.completed, report.takeovers), (2, 0));
}

#[test]
fn a_download_goes_on_through_a_crash() {
    let steps = vec![step(Moved(100_000), Wait), step(InSync, Crash(Owner, 3))];
    let report = check(2, &Options::new(vec![Plan::new(1, 0, 400_000)], steps));
    assert_eq!((report.completed, report.takeovers, report.survivals), (1, 1, 1));
}

#[test]
fn an_upload_goes_on_through_a_crash() {
    let steps = vec![step(Moved(100_000), Wait), step(InSync, Crash(Owner, 3))];
    let report = check(3, &Options::new(vec![Plan::new(1, 400_000, 0)], steps));
    assert_eq!((report.completed, report.takeovers, report.survivals), (1, 1, 1));
}

#[test]
fn connections_go_on_through_three_crashes() {
    let mut steps = Vec::new();
    for _ in 0..3 {
        steps.extend([
            step(Moved(200_000), Wait),
            step(InSync, Crash(Owner, 5)),
            step(After(ms(300)), Restart),
        ]);
    }
    let report = check(4, &Options::new(transfers(3, 900_000, 900_000), steps));
    assert_eq!((report.completed, report.crashes, report.takeovers), (3, 3, 3));
    assert_eq!((report.survivals, report.excused), (9, 0));
}

#[test]
fn a_paused_owner_comes_back_and_steps_down() {
    let steps = vec![
        step(Moved(100_000), Wait),
        step(InSync, Pause(Owner, ms(400))),
        step(After(ms(500)), Wait),
        step(InSync, Wait),
    ];
    let report = check(5, &Options::new(transfers(2, 300_000, 600_000), steps));
    assert_eq!((report.completed, report.takeovers, report.excused), (2, 1, 0));
}

#[test]
fn a_short_pause_of_the_owner_changes_nothing() {
    let steps = vec![step(Moved(100_000), Wait), step(InSync, Pause(Owner, ms(70)))];
    let report = check(6, &Options::new(transfers(2, 300_000, 600_000), steps));
    assert_eq!((report.completed, report.takeovers, report.excused), (2, 0, 0));
}

#[test]
fn one_half_goes_on_when_the_other_is_closed() {
    for (seed, first_to_close) in [(7, End::Client), (8, End::Backend)] {
        // The stream of the first to close is over when the relay fails.
        let (up, down) = match first_to_close {
            End::Client => (2_000, 400_000),
            End::Backend => (400_000, 2_000),
        };
        let plan = Plan { first_to_close, ..Plan::new(1, up, down) };
        let steps = vec![step(Moved(150_000), Wait), step(InSync, Crash(Owner, 2))];
        let report = check(seed, &Options::new(vec![plan], steps));
        assert_eq!((report.completed, report.takeovers, report.survivals), (1, 1, 1));
    }
}

#[test]
fn twenty_connections_go_on_through_a_crash() {
    let steps = vec![step(Moved(1_500_000), Wait), step(InSync, Crash(Owner, 40))];
    let report = check(9, &Options::new(transfers(20, 100_000, 100_000), steps));
    assert_eq!((report.completed, report.takeovers, report.excused), (20, 1, 0));
    assert!(report.survivals >= 10, "{}", report.survivals);
}

#[test]
fn the_owner_goes_on_when_its_backup_dies() {
    let steps = vec![step(Moved(100_000), Wait), step(InSync, Crash(Backup, 0))];
    let report = check(10, &Options::new(transfers(2, 400_000, 400_000), steps));
    assert_eq!((report.completed, report.takeovers, report.excused), (2, 0, 0));
}

#[test]
fn a_backup_that_returns_learns_flows_that_move_data() {
    let steps = vec![
        step(Moved(100_000), Wait),
        step(InSync, Crash(Backup, 0)),
        step(Moved(50_000), Restart),
        step(InSync, Wait),
        step(Moved(20_000), Crash(Owner, 7)),
    ];
    let report = check(11, &Options::new(transfers(3, 700_000, 700_000), steps));
    assert_eq!((report.completed, report.crashes, report.takeovers), (3, 2, 1));
    assert_eq!((report.survivals, report.excused), (3, 0));
}

#[test]
fn ipv6_is_no_different() {
    let steps = vec![step(Moved(100_000), Wait), step(InSync, Crash(Owner, 3))];
    let options = Options::new(transfers(2, 200_000, 200_000), steps);
    let report = check(12, &Options { ipv6: true, ..options });
    assert_eq!((report.completed, report.takeovers, report.survivals), (2, 1, 2));
}

#[test]
fn tls_1_2_is_no_different() {
    let steps = vec![step(Moved(100_000), Wait), step(InSync, Crash(Owner, 3))];
    let tls12 = |plan: Plan| Plan { version: Version::Tls12, ..plan };
    let plans = transfers(2, 200_000, 200_000).into_iter().map(tls12).collect();
    let report = check(13, &Options::new(plans, steps));
    assert_eq!((report.completed, report.takeovers, report.survivals), (2, 1, 2));
}

#[test]
fn a_reader_that_sleeps_through_a_crash_misses_nothing() {
    let client = Plan { client_reads_after: ms(1_500), ..Plan::new(1, 0, 300_000) };
    let backend = Plan { backend_reads_after: ms(1_500), ..Plan::new(2, 300_000, 0) };
    let steps = vec![step(After(ms(1_200)), Wait), step(InSync, Crash(Owner, 0))];
    let report = check(14, &Options::new(vec![client, backend], steps));
    assert_eq!((report.completed, report.takeovers, report.survivals), (2, 1, 2));
}

#[test]
fn replayed_and_forged_cluster_datagrams_change_nothing() {
    let steps = vec![
        step(Moved(50_000), Wait),
        step(InSync, Replay),
        step(Moved(50_000), Crash(Owner, 3)),
        step(After(ms(300)), Restart),
        // Now most of what is repeated is of an old incarnation.
        step(InSync, Replay),
        step(Moved(50_000), Replay),
        step(Moved(50_000), Replay),
        step(Moved(50_000), Replay),
        step(InSync, Crash(Owner, 3)),
    ];
    let report = check(15, &Options::new(transfers(2, 400_000, 400_000), steps));
    assert_eq!((report.completed, report.takeovers, report.excused), (2, 2, 0));
    let dropped = |reason| report.dropped.get(reason).copied().unwrap_or(0);
    assert!(dropped("peer_replay") > 50, "{:?}", report.dropped);
    assert!(dropped("peer_authentication") > 50, "{:?}", report.dropped);
}

/// The backup sleeps longer than the owner waits for it, and wakes up when the owner is dead.
/// What it knows is old: it must not go on from there.
#[test]
fn a_backup_that_slept_does_not_go_on_from_what_it_knew() {
    for sleep in [Pause(Backup, ms(600)), Freeze(Backup, ms(600))] {
        let steps = vec![
            step(Moved(100_000), Wait),
            step(InSync, sleep),
            step(Moved(400_000), Crash(Owner, 3)),
        ];
        let report = check(16, &Options::new(transfers(2, 600_000, 600_000), steps));
        assert_eq!((report.crashes, report.survivals, report.excused), (1, 0, 2));
        assert_eq!(report.takeovers, 0, "{sleep:?}");
    }
}

/// What the owner releases while its backup does not hear it would be lost with it.
#[test]
fn nothing_leaves_that_the_backup_has_not_heard_of() {
    for (seed, plan) in [(17, Plan::new(1, 0, 600_000)), (18, Plan::new(1, 600_000, 0))] {
        let steps = vec![
            step(Moved(200_000), Wait),
            step(InSync, Mute(Owner, ms(60))),
            step(After(ms(40)), Crash(Owner, 3)),
        ];
        let report = check(seed, &Options::new(vec![plan], steps));
        assert_eq!((report.completed, report.takeovers, report.survivals), (1, 1, 1));
    }
}

#[test]
fn keys_that_change_are_known_at_the_next_relay() {
    let steps = vec![step(Moved(150_000), Wait), step(InSync, Crash(Owner, 3))];
    let plans = vec![Plan { rekeys: 200, ..Plan::new(1, 300_000, 300_000) }];
    let report = check(19, &Options::new(plans, steps));
    assert_eq!((report.completed, report.takeovers, report.survivals), (1, 1, 1));
}

/// A backend that sleeps makes backups hold more than they may: whoever comes then gets a small
/// window, and nobody loses anything.
#[test]
fn full_backups_make_windows_small_and_lose_nothing() {
    let first = Plan { backend_reads_after: ms(3_000), ..Plan::new(1, 90_000, 0) };
    let late = Plan { start: ms(1_500), ..Plan { id: 2, up: 2_000_000, ..first.clone() } };
    let largest_shadow = |replicated_max| {
        let steps = vec![step(After(ms(2_500)), Wait), step(InSync, Crash(Owner, 3))];
        let plans = vec![first.clone(), late.clone()];
        let report = check(20, &Options { replicated_max, ..Options::new(plans, steps) });
        assert_eq!((report.completed, report.takeovers, report.survivals), (2, 1, 2));
        report.load.held
    };
    assert!(largest_shadow(u64::MAX) > 500_000);
    let small = largest_shadow(1_000);
    assert!(small < 150_000, "{small}");
}

/// A client that falls asleep in the middle is given up, and its backend is told, also when the
/// relay was lost meanwhile.
#[test]
fn an_idle_connection_is_reset_after_its_time() {
    for crash in [false, true] {
        let sleeper = Plan {
            backend_reads_after: ms(20_000),
            first_to_close: End::Client,
            ..Plan::new(1, 2_000_000, 0)
        };
        let mut steps = vec![step(After(ms(1_000)), Wait)];
        if crash {
            steps.push(step(InSync, Crash(Owner, 0)));
        }
        let idle_max = Some(ms(3_000));
        let options = Options { idle_max, ..Options::new(vec![sleeper], steps) };
        let report = sim::run(21, &options);
        assert_eq!(report.outcomes, [Some(Outcome::Reset)], "{:?}", report.log);
    }
}

/// Nobody hears the owner's cluster interface for longer than a blank node looks for an owner. It
/// is deposed, and must not come back as a blank owner of a higher term: that would depose the
/// relay that serves.
#[test]
fn an_owner_that_nobody_hears_stays_deposed() {
    for sleep in [ms(150), ms(800), ms(1_600)] {
        let steps = vec![step(Moved(100_000), Wait), step(InSync, Mute(Owner, sleep))];
        let report = check(20, &Options::new(transfers(2, 3_000_000, 3_000_000), steps));
        assert_eq!((report.completed, report.takeovers, report.excused), (2, 1, 0), "{sleep:?}");
    }
}

/// The last ACK of all is lost, and its sender is, too: whoever is there gives it again.
#[test]
fn a_last_ack_is_given_by_the_next_relay() {
    let loss = Faults { loss: 400, ..Faults::default() };
    for seed in 0..30 {
        let steps = vec![step(InSync, Wait), step(Moved(12_000), Wait), step(InSync, Wait)];
        let crash = [step(After(ms(seed * 7)), Crash(Owner, 0))];
        let plan = Plan { first_to_close: End::Backend, ..Plan::new(1, 1_000, 1_000) };
        let other = Plan { first_to_close: End::Backend, ..Plan::new(2, 10_000, 1_000) };
        let options = Options {
            faults: [loss, Faults::default(), Faults::default()],
            faults_until: ms(4_000),
            ..Options::new(vec![plan, other], [steps.as_slice(), &crash].concat())
        };
        let report = check(seed, &options);
        assert_eq!(report.resets, 0, "seed {seed}: {:#?}", report.log);
    }
}
