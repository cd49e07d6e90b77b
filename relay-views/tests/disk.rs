//! Councils with real logs: what was decided is there after everybody was switched off.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use relay_views::command::Candidate;
use relay_views::council::{Council, Settings, found};
use relay_views::disk::DiskLog;
use relay_views::id::{Incarnation, NodeId};
use relay_views::log::Log;
use relay_views::view::Kind;
use relay_views::{Command, View};

const MILLI: Duration = Duration::from_millis(1);

/// Commands after which the cluster is switched off: enough for logs to be rewritten.
const COMMANDS: u16 = 200;

struct Lan {
    directory: PathBuf,
    now: Duration,
    nodes: BTreeMap<NodeId, (Council, DiskLog)>,
}

impl Lan {
    fn boot(directory: &Path, life: u64) -> Lan {
        let ids: Vec<_> = (1..4).map(NodeId).collect();
        let open = |id: &NodeId| {
            let place = directory.join(id.to_string());
            let (mut log, mut found_log) =
                DiskLog::open(&place, *id, 1000 + u64::from(id.0)).unwrap();
            let seat = found_log.memory.seat;
            if *id == NodeId(1) && found_log.memory.records.is_empty() {
                let founding = found(&[seat], &View::genesis());
                log.write(&founding).unwrap();
                found_log.memory.records = founding.records;
            }
            let settings = Settings {
                compact_after: 50,
                ..Settings::new(seat, ids.clone(), life << 8 | u64::from(id.0))
            };
            let mut council = Council::new(settings, &found_log.memory, Duration::ZERO).unwrap();
            let (kind, incarnation) = (Kind::Relay, Incarnation(life));
            let (weight, generation) = (100, 0);
            let candidate =
                Candidate { node: *id, incarnation, seat, kind, votes: true, weight, generation };
            council.enlist(Duration::ZERO, Some(candidate));
            (*id, (council, log))
        };
        let nodes = ids.iter().map(open).collect();
        Lan { directory: directory.to_owned(), now: Duration::ZERO, nodes }
    }

    /// Delivers until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let mut sent = Vec::new();
            for (id, (council, log)) in &mut self.nodes {
                council.run(log, &mut |message| sent.push((*id, message))).unwrap();
            }
            if sent.is_empty() {
                return;
            }
            for (from, message) in sent {
                let (council, _) = self.nodes.get_mut(&message.to).unwrap();
                council.handle_message(self.now, from, &message.bytes).unwrap();
            }
        }
    }

    fn run_until(&mut self, done: impl Fn(&Council) -> bool) {
        for _ in 0..4000 {
            self.settle();
            if self.nodes.values().all(|(council, _)| done(council)) {
                return;
            }
            self.now += MILLI;
            for (council, _) in self.nodes.values_mut() {
                council.handle_timeout(self.now);
            }
        }
        let states: Vec<_> = self.nodes.values().map(|(council, _)| council.status()).collect();
        panic!("nothing comes of it: {states:#?}");
    }

    fn weigh(&mut self, weight: u16) {
        let leads = |(council, _): &&mut (Council, DiskLog)| council.is_leader();
        let (leader, _) = self.nodes.values_mut().find(leads).unwrap();
        leader.propose(self.now, Command::Weigh { node: NodeId(2), weight });
        self.settle();
    }
}

#[test]
fn everybody_is_switched_off_and_remembers() {
    fn can_move_to_its_thread<T: Send>(_: &T) {}
    let directory = std::env::temp_dir().join(format!("relay-views-lan-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    let three = |life: u64| {
        move |council: &Council| {
            let lives = (1..4).all(|id| council.view().names(NodeId(id), Incarnation(life)));
            lives && council.status().voters.len() == 3
        }
    };
    let mut lan = Lan::boot(&directory, 1);
    lan.nodes.values().for_each(can_move_to_its_thread);
    lan.run_until(three(1));
    #[expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a figure for people")]
    let start = std::time::Instant::now();
    (1..=COMMANDS).for_each(|weight| lan.weigh(weight + 100));
    println!("{:?} for each command, 3 logs in one thread", start.elapsed() / u32::from(COMMANDS));
    let number = lan.nodes[&NodeId(1)].0.view().number;
    let directory = lan.directory.clone();
    drop(lan);
    let mut lan = Lan::boot(&directory, 2);
    lan.run_until(three(2));
    for (council, _) in lan.nodes.values() {
        let view = council.view();
        assert!(view.number > number && view.members[&NodeId(2)].weight == 100 + COMMANDS);
        // All lives were new: whatever flows there were are lost, and everybody knows it.
        assert!(view.buckets.iter().all(|bucket| bucket.since > 1));
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
