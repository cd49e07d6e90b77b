//! Our CUBIC beside Linux's: whole transfers, random losses, and shares of a bottleneck.

use super::{Flow, Loss, Network, Path, START, config, measure};
use crate::tcp::Algorithm;
use crate::time::Duration;

/// Bytes of a transfer.
const TRANSFER: u64 = 16 << 20;

fn path(rtt: u64, queue: u64, loss: u64) -> Path {
    Path { rate: 100, rtt: Duration::from_millis(rtt), queue, loss: Loss::Random(loss) }
}

/// Milliseconds that a transfer takes from its first segment, and the share sent again in 1/1000.
fn transfer(algorithm: Algorithm, path: Path) -> (u64, u64) {
    let mut network = Network::new(path, vec![Flow::new(&config(algorithm), START)], 1);
    network.run(START + Duration::from_secs(100), TRANSFER);
    let again = network.flows[0].again * 1000 / TRANSFER;
    (network.now.since(START).as_millis() as u64, again)
}

/// What each of several flows delivers in 20 seconds, after five to find its share.
fn shares(algorithms: &[Algorithm], queue: u64, seed: u64) -> Vec<u64> {
    let begins = |i: usize| START + Duration::from_micros((i as u64 * 7 + seed * 3) % 11 * 900);
    let flows = algorithms.iter().enumerate();
    let flows = flows.map(|(i, algorithm)| Flow::new(&config(*algorithm), begins(i))).collect();
    let mut network = Network::new(path(20, queue, 0), flows, seed);
    let arrived = |network: &Network| -> Vec<u64> {
        network.flows.iter().map(|flow| flow.receiver.arrived()).collect()
    };
    network.run(START + Duration::from_secs(5), u64::MAX);
    let before = arrived(&network);
    network.run(START + Duration::from_secs(25), u64::MAX);
    arrived(&network).iter().zip(before).map(|(after, before)| after - before).collect()
}

/// Jain's index in percent.
fn jain(shares: &[u64]) -> u128 {
    let shares = || shares.iter().map(|share| u128::from(*share));
    let squares: u128 = shares().map(|share| share * share).sum();
    shares().sum::<u128>().pow(2) * 100 / (shares().count() as u128 * squares)
}

#[test]
fn a_transfer_takes_no_longer_than_linux_needs_and_hardly_overshoots() {
    for (rtt, queue, again_max) in [(20, 100, 10), (20, 25, 10), (100, 100, 40), (100, 25, 60)] {
        let path = path(rtt, queue, 0);
        let (ours, again) = transfer(Algorithm::Cubic, path);
        let (theirs, _) = transfer(Algorithm::Linux, path);
        assert!(ours <= theirs + 2, "{path:?}: {ours} ms, Linux {theirs} ms");
        assert!(again <= again_max, "{path:?}: {again}");
    }
}

#[test]
fn random_losses_cost_no_more_than_linux_pays() {
    const SEEDS: u64 = 5;
    for loss in [100, 500, 1_000, 2_000] {
        let speed = |algorithm| {
            (1..=SEEDS).map(|seed| measure(&config(algorithm), path(20, 100, loss), seed).0).sum()
        };
        let (ours, theirs): (u64, u64) = (speed(Algorithm::Cubic), speed(Algorithm::Linux));
        assert!(ours >= theirs, "{loss}: {ours}, Linux {theirs}");
    }
}

#[test]
fn two_flows_beside_two_of_linux_take_no_more_than_their_share() {
    use Algorithm::{Cubic, Linux};
    for queue in [100, 50] {
        for seed in 1..=3 {
            let shares = shares(&[Cubic, Cubic, Linux, Linux], queue, seed);
            let (ours, theirs) = (shares[0] + shares[1], shares[2] + shares[3]);
            assert!(jain(&shares) >= 90, "{queue}, {seed}: {shares:?}");
            assert!(ours * 100 <= theirs * 130, "{queue}, {seed}: {shares:?}");
        }
    }
}
