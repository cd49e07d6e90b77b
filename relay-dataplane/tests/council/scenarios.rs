//! What an operator was promised.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use relay_dataplane::council;
use relay_views::Command;
use relay_views::id::{Incarnation, NodeId};
use relay_views::source::ViewSource;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cast::Authority;
use crate::cluster::{Cluster, PATIENCE};

fn founded() -> Cluster {
    let mut cluster = Cluster::new(2, 1);
    cluster.start_all();
    cluster.wait("founding", |cluster| {
        cluster.agrees(&[1, 2, 10]) && cluster.voters(&[1, 2, 10]) && cluster.leader().is_some()
    });
    cluster
}

#[test]
fn two_relays_and_a_witness_survive_their_leader() {
    let mut cluster = founded();
    let leader = cluster.leader().unwrap();
    // A relay: a dead witness is noticed by the councils alone, and later.
    let victim = if leader == 10 { 1 } else { leader };
    let survivors: Vec<u8> = [1, 2, 10].into_iter().filter(|id| *id != victim).collect();
    cluster.kill(victim);
    let start = Instant::now();
    cluster.wait("the death is in the view", |cluster| cluster.agrees(&survivors));
    println!("relay {victim} (leader: {leader}) was out after {:?}", start.elapsed());
    cluster.start(victim);
    cluster.wait("another life joins", |cluster| cluster.agrees(&[1, 2, 10]));
    cluster.wait("and votes", |cluster| cluster.voters(&[1, 2, 10]));
}

#[test]
fn everybody_is_switched_off_and_nothing_is_founded_twice() {
    let mut cluster = founded();
    let weigh = Command::Weigh { node: NodeId(1), weight: 321 };
    cluster.nodes[&2].proposals.send(weigh).unwrap();
    let weight = |cluster: &Cluster| {
        cluster.nodes.values().all(|node| {
            let view = node.view.lock().unwrap();
            let view = view.as_ref();
            view.is_some_and(|v| v.members.get(&NodeId(1)).is_some_and(|m| m.weight == 321))
        })
    };
    cluster.wait("a proposal is decided", weight);
    for id in [1, 2, 10] {
        cluster.kill(id);
    }
    // One of them lost its disk meanwhile: it must not find that there is no cluster.
    std::fs::remove_dir_all(cluster.directory.0.join("votes-2")).unwrap();
    cluster.start(2);
    cluster.start(1);
    cluster.wait("waits for one who knows", |cluster| {
        cluster.reports()[&2].trouble.is_none() && cluster.reports()[&2].view == 0
    });
    cluster.start(10);
    cluster.wait("the same cluster", |cluster| {
        cluster.agrees(&[1, 2, 10]) && cluster.voters(&[1, 2, 10]) && weight(cluster)
    });
}

#[test]
fn strangers_are_refused_and_counted() {
    let mut cluster = Cluster::new(2, 1);
    cluster.start(1);
    cluster.start(10);
    // A node with its own authority, which trusts ours.
    let stranger = Authority::new();
    let config = cluster.config_with(2, stranger.issue(2));
    let error = council::start(&config, (NodeId(2), Incarnation(99))).err().unwrap().to_string();
    assert!(error.contains("not of the authority"), "{error}");
    let mut config = config;
    config.ca = [stranger.pem.clone(), cluster.authority.pem.clone()].concat();
    let views = council::start(&config, (NodeId(2), Incarnation(99))).unwrap();
    cluster.wait("another authority is refused", |cluster| {
        [1, 10].iter().all(|id| {
            cluster.counter(*id, "refused_authority") > 1
                && cluster.counter(*id, "refused_by_peer") == 0
        })
    });
    let reporter = views.reporter();
    let refusals = || {
        let all = reporter.counters();
        all.into_iter().find(|counter| counter.name == "refused_by_peer").unwrap().value
    };
    cluster.wait("and is told", |_| refusals() > 0);
    drop(views);
    // A member of the cluster at the address of another: it is not who was dialed.
    let mut swapped = cluster.config(10);
    let own = swapped.members.iter().position(|member| member.id == 10).unwrap();
    swapped.members[own].address = cluster.members[1].address;
    swapped.members.retain(|member| member.id != 2);
    swapped.directory = cluster.directory.0.join("swapped");
    let before = cluster.counter(1, "refused_name");
    let views = council::start(&swapped, (NodeId(10), Incarnation(98))).unwrap();
    cluster.wait("a wrong name is refused", |cluster| cluster.counter(1, "refused_name") > before);
    drop(views);
    // A certificate of the right authority for a node that nobody listed.
    let mut unlisted = cluster.config(5);
    unlisted.members[1].id = 5;
    unlisted.directory = cluster.directory.0.join("unlisted");
    let before = cluster.counter(1, "refused_name");
    let views = council::start(&unlisted, (NodeId(5), Incarnation(97))).unwrap();
    cluster.wait("no member", |cluster| cluster.counter(1, "refused_name") > before);
    drop(views);
    // None of this kept the right one out.
    cluster.start(2);
    cluster.wait("founding", |cluster| cluster.agrees(&[1, 2, 10]));
}

#[test]
fn a_full_disk_does_not_vote_and_says_so() {
    let mut cluster = Cluster::new(2, 1);
    let full = Arc::new(AtomicBool::new(false));
    cluster.start(1);
    cluster.start_on_small_disk(2, &full);
    cluster.start(10);
    cluster.wait("founding", |cluster| cluster.agrees(&[1, 2, 10]) && cluster.voters(&[1, 2, 10]));
    full.store(true, Ordering::SeqCst);
    // Something has to be written for the disk to matter.
    let mut weight = 200;
    let start = Instant::now();
    loop {
        weight += 1;
        let weigh = Command::Weigh { node: NodeId(1), weight };
        cluster.nodes[&1].proposals.send(weigh).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let trouble = cluster.reports()[&2].trouble.clone();
        if trouble.is_some_and(|trouble| trouble.contains("the disk is full")) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{:#?}", cluster.reports());
    }
    // The others decide without it.
    let decided = |cluster: &Cluster, id: u8| {
        let view = cluster.nodes[&id].view.lock().unwrap().clone();
        view.is_some_and(|view| view.members[&NodeId(1)].weight == weight)
    };
    cluster.wait("the others decide", |cluster| decided(cluster, 1) && decided(cluster, 10));
    assert!(!decided(&cluster, 2));
    full.store(false, Ordering::SeqCst);
    cluster.wait("there is room again", |cluster| {
        decided(cluster, 2) && cluster.reports()[&2].trouble.is_none()
    });
}

#[test]
fn a_worker_that_hangs_counts_as_dead() {
    let cluster = founded();
    let leader = cluster.leader().filter(|id| *id != 10).unwrap_or(1);
    let other = 3 - leader;
    cluster.nodes[&leader].hangs.store(true, Ordering::SeqCst);
    cluster.wait("it is out", |cluster| {
        let view = cluster.nodes[&other].view.lock().unwrap().clone().unwrap();
        !view.names(NodeId(leader), cluster.nodes[&leader].incarnation)
    });
    cluster.wait("and leads no more", |cluster| {
        cluster.counter(leader, "worker_hung") == 1
            && cluster.leader().is_some_and(|id| id != leader)
    });
    cluster.nodes[&leader].hangs.store(false, Ordering::SeqCst);
    cluster.wait("it is back in the same life", |cluster| cluster.agrees(&[1, 2, 10]));
}

#[test]
fn a_new_view_wakes_the_worker() {
    let mut cluster = Cluster::new(1, 1);
    cluster.start(10);
    let config = cluster.config(1);
    let mut views = council::start(&config, (NodeId(1), Incarnation(7))).unwrap();
    let start = Instant::now();
    let mut seen = None;
    while seen.is_none_or(|number| number < 2) {
        assert!(start.elapsed() < PATIENCE);
        if let Some(view) = views.next_view(start.elapsed()) {
            seen = Some(view.number);
            continue;
        }
        let mut polled = [PollFd::new(&views, PollFlags::IN)];
        let limit = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        poll(&mut polled, Some(&limit)).unwrap();
    }
    // Stays quiet when there is nothing.
    let quiet = (0..PATIENCE.as_secs() * 100).any(|_| {
        views.next_view(start.elapsed());
        let fd = views.as_fd();
        let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 })).unwrap() == 0
    });
    assert!(quiet);
}
