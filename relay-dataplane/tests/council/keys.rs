//! What two relays have in common, by the link between their councils.

use std::time::Duration;

use relay_abi::peer::VERSION_SHARED;
use relay_core::replica::PairKey;

use crate::cluster::Cluster;

fn has_secret(cluster: &Cluster, (one, other): (u8, u8)) -> bool {
    matches!(cluster.shared(one, other), Some(PairKey::Secret(_)))
}

fn has_only_the_pre_shared_key(cluster: &Cluster, (one, other): (u8, u8)) -> bool {
    cluster.shared(one, other) == Some(PairKey::Shared)
}

#[test]
fn each_two_relays_have_a_secret_of_their_own() {
    let mut cluster = Cluster::new(3, 1);
    cluster.start_all();
    let pairs = [(1, 2), (1, 3), (2, 3)];
    cluster.wait("secrets", |cluster| pairs.iter().all(|pair| has_secret(cluster, *pair)));
    let [a, b, c] = pairs.map(|(one, other)| cluster.shared(one, other));
    assert!(a != b && b != c && a != c);
    for relay in [1, 2, 3] {
        assert!(cluster.keys(relay, 10).is_empty() && cluster.keys(10, relay).is_empty());
    }
}

#[test]
fn a_node_of_the_former_version_is_talked_to_in_it() {
    let mut cluster = Cluster::new(3, 1);
    cluster.protocols.insert(2, VERSION_SHARED);
    cluster.start_all();
    cluster.wait("keys", |cluster| {
        has_only_the_pre_shared_key(cluster, (1, 2))
            && has_only_the_pre_shared_key(cluster, (2, 3))
            && has_secret(cluster, (1, 3))
    });
    // Upgraded; and another one downgraded, so that both ends of a pair are old.
    cluster.protocols.clear();
    cluster.kill(2);
    cluster.start(2);
    cluster.wait("the new version", |cluster| {
        has_secret(cluster, (1, 2)) && has_secret(cluster, (2, 3))
    });
    for old in [1, 3] {
        cluster.protocols.insert(old, VERSION_SHARED);
        cluster.kill(old);
        cluster.start(old);
    }
    cluster.wait("the former version", |cluster| {
        [(1, 2), (1, 3), (2, 3)].iter().all(|pair| has_only_the_pre_shared_key(cluster, *pair))
    });
}

#[test]
fn links_are_dialed_anew_for_fresh_secrets() {
    let mut cluster = Cluster::new(2, 1);
    cluster.redial_after = Duration::from_millis(200);
    cluster.start_all();
    cluster.wait("four secrets, the last of which both know", |cluster| {
        cluster.agrees(&[1, 2, 10]) && cluster.keys(1, 2).len() > 3 && has_secret(cluster, (1, 2))
    });
    let keys = cluster.keys(1, 2);
    for (place, key) in keys.iter().enumerate() {
        assert!(!keys[..place].contains(key), "key {place} was used before");
    }
    let before = cluster.shared(1, 2);
    cluster.kill(2);
    cluster.start(2);
    cluster.wait("a new life, a new secret", |cluster| {
        has_secret(cluster, (1, 2)) && cluster.shared(1, 2) != before
    });
}

#[test]
fn who_is_no_member_any_more_gets_no_key() {
    let mut cluster = Cluster::new(3, 1);
    let removed = cluster.members.remove(0);
    for id in [2, 3, 10] {
        cluster.start(id);
    }
    // It was never told, and has everything that it had.
    cluster.members.insert(0, removed);
    cluster.start(1);
    cluster.wait("it is refused", |cluster| {
        [2, 3, 10].iter().all(|id| cluster.counter(*id, "refused_name") > 1)
            && has_secret(cluster, (2, 3))
    });
    for other in [2, 3] {
        assert!(cluster.keys(1, other).is_empty() && cluster.keys(other, 1).is_empty());
    }
}
