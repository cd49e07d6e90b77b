//! Both streams arrive byte-exact, whatever the network does.

use super::host::Close;
use super::{CALM, Host, Network, Weather, small_config};
use crate::tcp::{Cause, Config, Phase};
use crate::time::Duration;

const MEGABYTE: usize = 1 << 20;

fn check(network: &mut Network<Host, Host>, up: usize, down: usize) {
    network.run();
    assert_eq!(network.a.incoming.len(), up);
    assert_eq!(network.b.incoming.len(), down);
}

fn pair(
    config: Config,
    up: usize,
    down: usize,
    weather: Weather,
    seed: u64,
) -> Network<Host, Host> {
    let v6 = seed % 2 == 1;
    let listening = Host::listening(config, v6, down);
    let connecting = Host::connecting(config, v6, up);
    Network::new(listening, connecting, weather, seed)
}

#[test]
fn both_ways_over_a_calm_network() {
    for seed in 0..2 {
        let mut network = pair(Config::default(), 3 * MEGABYTE, 2 * MEGABYTE, CALM, seed);
        check(&mut network, 3 * MEGABYTE, 2 * MEGABYTE);
        let reasons: Vec<_> = network.a.reasons.iter().chain(&network.b.reasons).collect();
        assert!(reasons.is_empty(), "{reasons:?}");
    }
}

#[test]
fn slow_start_and_the_windows_fill_the_pipe() {
    let mut network = pair(Config::default(), 8 * MEGABYTE, 0, CALM, 2);
    check(&mut network, 8 * MEGABYTE, 0);
    // A window of 1 MiB takes 8 round trips of 10 ms, and slow start some more.
    let time = network.now.since(super::START);
    assert!(time < Duration::from_millis(400), "{time:?}");
}

#[test]
fn both_ways_with_loss_duplication_and_reordering() {
    for seed in 0..40 {
        let weather = Weather {
            delay: Duration::from_millis(1 + seed % 7),
            jitter: Duration::from_micros(seed * 100),
            loss: seed % 5 * 15,
            duplication: seed % 3 * 20,
        };
        let config = if seed % 4 < 2 { small_config() } else { Config::default() };
        let mut network = pair(config, MEGABYTE, MEGABYTE / 2, weather, seed);
        check(&mut network, MEGABYTE, MEGABYTE / 2);
    }
}

#[test]
fn withheld_acknowledgements_slow_nothing_down_but_themselves() {
    for seed in 0..8 {
        let mut network = pair(Config::default(), 2 * MEGABYTE, MEGABYTE, CALM, seed);
        network.a.hold = Duration::from_millis(seed * 4);
        network.b.hold = Duration::from_millis(seed);
        check(&mut network, 2 * MEGABYTE, MEGABYTE);
    }
}

#[test]
fn withheld_acknowledgements_survive_loss() {
    for seed in 0..12 {
        let weather = Weather { loss: 20, duplication: 10, ..CALM };
        let mut network = pair(small_config(), MEGABYTE, MEGABYTE, weather, seed);
        network.a.hold = Duration::from_millis(seed * 30);
        network.b.hold = Duration::from_millis(3);
        check(&mut network, MEGABYTE, MEGABYTE);
    }
}

#[test]
fn rfc_6582_losses_are_repaired_without_sack_too() {
    for seed in 0..8 {
        let weather = Weather { loss: 10, ..CALM };
        let mut network = pair(small_config(), MEGABYTE, MEGABYTE, weather, seed);
        network.a.sack = false;
        network.b.sack = false;
        check(&mut network, MEGABYTE, MEGABYTE);
    }
}

#[test]
fn rfc_9293_a_closed_window_is_probed_and_opens_again() {

    for seed in 0..4 {
        let weather = Weather { loss: seed * 100, ..CALM };
        let mut network = pair(small_config(), MEGABYTE, 0, weather, seed);
        eprintln!("seed {seed} {}", network.a.incoming.len());
        network.a.paused = true;
        network.a.close = Close::Never;
        network.b.close = Close::Never;
        network.run_for(Duration::from_secs(600));
        let have = network.a.connection().received();
        assert!(have <= 100_000, "{have} bytes exceed the window");
        assert_eq!(network.b.phase(), Some(Phase::Open));
        network.a.paused = false;
        network.a.close = Close::AtOnce;
        network.b.close = Close::AtOnce;
        for _ in 0..20 { network.run_for(Duration::from_secs(100)); eprintln!("{} {:?} {:?}", network.a.incoming.len(), network.a.phase(), network.b.phase()); }
        check(&mut network, MEGABYTE, 0);
    }
}

#[test]
fn a_small_window_gives_no_silly_segments() {
    let config = Config { receive_buffer: 3_000, ..small_config() };
    let mut network = pair(config, 200_000, 0, CALM, 4);
    check(&mut network, 200_000, 0);
    assert!(network.b.frames_sent < 400, "{} frames", network.b.frames_sent);
}

#[test]
fn rfc_9293_every_order_of_closing_ends_in_closed() {
    let orders = [
        (Close::AtOnce, Close::AtOnce),
        (Close::AtOnce, Close::AfterPeer),
        (Close::AfterPeer, Close::AtOnce),
    ];
    for (seed, (ours, theirs)) in (0..).zip(orders.into_iter().cycle().take(30)) {
        let weather = Weather { loss: seed / 3 % 2 * 100, ..CALM };
        let mut network = pair(small_config(), 3_000, 5_000, weather, seed);
        network.a.close = ours;
        network.b.close = theirs;
        check(&mut network, 3_000, 5_000);
        if ours == Close::AtOnce && theirs == Close::AfterPeer {
            assert_eq!(network.a.phase(), Some(Phase::TimeWait));
        }
        // TIME-WAIT passes, and until then lost ACKs are repeated.
        network.run_for(Duration::from_secs(700));
        assert_eq!(network.a.phase(), Some(Phase::Closed(Cause::Normal)), "seed {seed}");
        assert_eq!(network.b.phase(), Some(Phase::Closed(Cause::Normal)), "seed {seed}");
    }
}

#[test]
fn rfc_9293_a_silent_peer_is_given_up() {
    let mut network = pair(small_config(), MEGABYTE, 0, CALM, 6);
    network.run_until(|a, _| a.incoming.len() > 100_000);
    network.weather.loss = 1000;
    network.run_until(|_, b| b.is_closed());
    assert_eq!(network.b.phase(), Some(Phase::Closed(Cause::TimedOut)));
    let time = network.now.since(super::START);
    assert!(time > Duration::from_secs(300), "{time:?}");
}

#[test]
fn rfc_9293_an_unanswered_syn_is_given_up() {
    let mut network = pair(small_config(), 10, 0, Weather { loss: 1000, ..CALM }, 8);
    network.run_until(|_, b| b.is_closed());
    assert_eq!(network.b.phase(), Some(Phase::Closed(Cause::TimedOut)));
    assert_eq!(network.b.frames_sent, 6);
}

#[test]
fn an_abort_resets_the_peer() {
    let mut network = pair(small_config(), 50_000, 0, CALM, 10);
    network.b.close = Close::Never;
    network.a.close = Close::Never;
    network.run_until(|a, _| a.incoming.len() == 50_000);
    network.a.connection().abort();
    network.run();
    assert_eq!(network.a.phase(), Some(Phase::Closed(Cause::Aborted)));
    assert_eq!(network.b.phase(), Some(Phase::Closed(Cause::Reset)));
}
