//! `relay-ctl upgrade` against a cluster that one thread plays: hooks write into a file who begins a
//! new life.

use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use relay_abi::control::{
    CouncilMember, CouncilReport, MAX_REQUEST_LINE, PeerReport, Request, Response, Role, Share,
    StatusReport, read_line,
};

/// Questions after which a node that was restarted is back; the asked relay answers none of them.
const AWAY: u32 = 3;

/// A hook that restarts.
const RESTART: &str = "echo $RELAY_NODE $RELAY_KIND >> hooks";

#[test]
fn every_node_is_drained_restarted_and_waited_for_and_the_asked_one_is_the_last() {
    let cluster = Cluster::new(|_| {});
    let output = cluster.upgrade(&["--hook", RESTART]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(lines[0].starts_with("node 9 (witness): hook in "), "{said}");
    for (line, node) in lines[1..].iter().zip([2, 3, 1]) {
        let begin = format!("node {node} (relay): drained in ");
        assert!(line.starts_with(&begin) && line.contains(", back and in sync after "), "{said}");
    }
    assert_eq!(cluster.hooks(), ["9 witness", "2 relay", "3 relay", "1 relay"]);
    // Each only when the one before it was back: `Play` asserts it. And so it began.
    let events = ["away 9", "back 9", "drain 2", "away 2", "back 2", "drain 3", "away 3", "back 3"];
    assert_eq!(cluster.events()[..8], events);
    assert_eq!(cluster.events()[8..], ["drain 1", "away 1", "back 1"]);
}

#[test]
fn only_named_nodes_are_restarted_and_who_drains_already_comes_first() {
    let cluster = Cluster::new(|play| play.draining = Some(3));
    let output = cluster.upgrade(&["--hook", RESTART, "--node", "2", "--node", "3"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(cluster.hooks(), ["3 relay", "2 relay"]);
    assert_eq!(cluster.events(), ["away 3", "back 3", "drain 2", "away 2", "back 2"]);
    // One that is not named is nobody's to restart.
    let cluster = Cluster::new(|play| play.draining = Some(3));
    let output = cluster.upgrade(&["--hook", RESTART, "--node", "2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("node 3 is draining"), "{}", stderr(&output));
    assert_eq!(cluster.events(), [""; 0]);
}

#[test]
fn a_hook_that_fails_ends_it() {
    let cluster = Cluster::new(|_| {});
    let hook = "echo $RELAY_NODE >> ran; test $RELAY_NODE != 2 || exit 3; echo $RELAY_NODE \
                $RELAY_KIND >> hooks";
    let output = cluster.upgrade(&["--hook", hook]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("node 2, hook: it failed (exit code 3)"), "{said}");
    assert!(said.contains("Not touched: nodes 3, 1"), "{said}");
    assert_eq!(fs::read_to_string(cluster.path("ran")).unwrap(), "9\n2\n");
}

#[test]
fn a_hook_that_hangs_is_left_alone() {
    let cluster = Cluster::new(|_| {});
    // It waits until the test is over, and keeps no pipe open.
    let hook = "exec > /dev/null 2>&1; echo $$ > hangs; while test -e hangs; do sleep 0.1; done";
    let output = cluster.upgrade(&["--hook", hook, "--node", "2", "--hook-wait", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let process = fs::read_to_string(cluster.path("hangs")).unwrap();
    fs::remove_file(cluster.path("hangs")).unwrap();
    let said = stderr(&output);
    let expected = format!("node 2, hook: it still runs after 1 s (process {},", process.trim());
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("--hook-wait"), "{said}");
}

#[test]
fn a_node_that_does_not_come_back_ends_it() {
    let cluster = Cluster::new(|_| {});
    let output = cluster.upgrade(&["--hook", "true", "--node", "2", "--node", "3", "--wait", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("node 2, return: not back after 1 s"), "{said}");
    assert!(said.contains("does the hook restart it?"), "{said}");
    assert!(said.contains("Not touched: nodes 3"), "{said}");
    // It is a new life, and never gets in sync.
    let cluster = Cluster::new(|play| play.stays_behind = true);
    let output = cluster.upgrade(&["--hook", RESTART, "--node", "2", "--wait", "1"]);
    assert!(stderr(&output).contains("node 2 is not in sync"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_cluster_that_is_not_whole_is_left_alone() {
    type Wound = fn(&mut StatusReport);
    let wounds: [(Wound, &str); 9] = [
        (|status| council(status).members[2].state = "dead".to_owned(), "node 3 is dead"),
        (|status| council(status).members[2].state = "joining".to_owned(), "node 3 is joining"),
        (|status| council(status).leader = None, "nobody leads"),
        (
            |status| council(status).trouble = Some("the disk is full".to_owned()),
            "the disk is full",
        ),
        (|status| status.peers[1].in_sync = false, "node 3 is not in sync"),
        (|status| status.peers[1].incarnation = None, "node 3 is not in sync"),
        (|status| status.peers[1].alive = false, "hears nothing of node 3"),
        (|status| status.in_sync = false, "node 1 is not in sync"),
        (
            |status| {
                council(status).members[1].votes = false;
                council(status).members[2].votes = false;
            },
            "node 9 is one of 2 voters",
        ),
    ];
    for (wound, why) in wounds {
        let cluster = Cluster::new(|play| play.wound = wound);
        for more in [&["--hook", RESTART][..], &["--dry-run"]] {
            let output = cluster.upgrade(more);
            assert_eq!(output.status.code(), Some(1), "{why}");
            assert!(stderr(&output).contains(why), "{why}: {}", stderr(&output));
            assert_eq!(stdout(&output), "");
        }
        assert_eq!(cluster.events(), [""; 0], "{why}");
    }
}

#[test]
fn a_dry_run_says_what_would_be_done() {
    let cluster = Cluster::new(|play| play.draining = Some(3));
    let output = cluster.upgrade(&["--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "\
node 3 (relay): it is drained already, hook, wait until it is back
node 9 (witness): hook, wait until it is back
node 2 (relay): drain, hook, wait until it is back
node 1 (relay): drain, hook, wait until it is back
"
    );
    assert_eq!(cluster.events(), [""; 0]);
}

#[test]
fn wrong_questions_are_answered_by_a_remedy() {
    let cluster = Cluster::new(|_| {});
    let refused = |cluster: &Cluster, arguments: &[&str], why: &str| {
        let output = cluster.upgrade(arguments);
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
        output.status.code()
    };
    let code = refused(&cluster, &["--hook", RESTART, "--node", "4"], "no member of the cluster");
    assert_eq!(code, Some(1));
    assert_eq!(refused(&cluster, &[], "--hook"), Some(2));
    let witness = Cluster::new(|play| play.wound = |status| status.role = Role::Witness);
    let code = refused(&witness, &["--dry-run"], "name a relay's socket");
    assert_eq!(code, Some(1));
    let alone = Cluster::new(|play| play.wound = |status| status.council = None);
    assert_eq!(refused(&alone, &["--dry-run"], "has no council"), Some(1));
}

fn council(status: &mut StatusReport) -> &mut CouncilReport {
    status.council.as_mut().unwrap()
}

/// Three relays and a witness, as relay 1 tells it.
struct Cluster {
    directory: PathBuf,
    play: Arc<Mutex<Play>>,
}

struct Play {
    hooks: PathBuf,
    /// Restarts of each node so far.
    lives: [usize; 10],
    draining: Option<u8>,
    /// Who begins a new life, and how often that was asked about.
    away: Option<(u8, u32)>,
    stays_behind: bool,
    wound: fn(&mut StatusReport),
    events: Vec<String>,
}

impl Cluster {
    fn new(change: impl FnOnce(&mut Play)) -> Cluster {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-ctl-upgrade-{}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let mut play = Play {
            hooks: directory.join("hooks"),
            lives: [0; 10],
            draining: None,
            away: None,
            stays_behind: false,
            wound: |_| {},
            events: Vec::new(),
        };
        change(&mut play);
        let play = Arc::new(Mutex::new(play));
        let listener = UnixListener::bind(directory.join("control.sock")).unwrap();
        let shared = Arc::clone(&play);
        thread::spawn(move || {
            for stream in listener.incoming() {
                shared.lock().unwrap().serve(&stream.unwrap());
            }
        });
        Cluster { directory, play }
    }

    fn upgrade(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relay-ctl"));
        command.current_dir(&self.directory).env_remove("RELAY_CONTROL");
        command.args(["--control", "control.sock", "upgrade"]).args(arguments).output().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn hooks(&self) -> Vec<String> {
        lines(&self.path("hooks"))
    }

    fn events(&self) -> Vec<String> {
        self.play.lock().unwrap().events.clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Play {
    fn serve(&mut self, stream: &UnixStream) {
        let line = read_line(&mut BufReader::new(stream), MAX_REQUEST_LINE).unwrap();
        self.restart();
        let response = match serde_json::from_slice(&line).unwrap() {
            Request::Drain { node } => {
                assert!(self.away.is_none() && self.draining.is_none(), "two at once");
                self.draining = Some(node);
                self.events.push(format!("drain {node}"));
                Response::Proposed
            }
            Request::Status => {
                if let Some((node, asked)) = &mut self.away {
                    *asked += 1;
                    // The one that is asked is away itself.
                    if *node == 1 && *asked < AWAY {
                        return;
                    }
                }
                let mut status = self.status();
                (self.wound)(&mut status);
                Response::Status(status)
            }
            other => panic!("{other:?}"),
        };
        let mut answer = serde_json::to_vec(&response).unwrap();
        answer.push(b'\n');
        (&mut &*stream).write_all(&answer).unwrap();
    }

    /// Takes note of what hooks did since, and of who is back.
    fn restart(&mut self) {
        let done: usize = self.lives.iter().sum();
        for line in lines(&self.hooks).iter().skip(done) {
            let node: u8 = line.split(' ').next().unwrap().parse().unwrap();
            assert!(self.away.is_none(), "two at once");
            assert!(self.draining.is_none_or(|draining| draining == node), "another one drains");
            self.lives[usize::from(node)] += 1;
            self.draining = None;
            self.away = Some((node, 0));
            self.events.push(format!("away {node}"));
        }
        if let Some((node, AWAY..)) = self.away
            && !self.stays_behind
        {
            self.away = None;
            self.events.push(format!("back {node}"));
        }
    }

    fn status(&self) -> StatusReport {
        let member = |id: u8| CouncilMember {
            id,
            kind: if id == 9 { "witness" } else { "relay" }.to_owned(),
            state: self.state(id).to_owned(),
            incarnation: self.incarnation(id),
            votes: self.state(id) != "joining",
            weight: 100,
        };
        let in_sync =
            |id: u8| self.state(id) == "live" && self.away.is_none_or(|(node, _)| node != id);
        let peer = |id: u8| PeerReport {
            id,
            address: format!("10.99.3.2{id}"),
            alive: true,
            incarnation: Some(self.incarnation(id)),
            role: None,
            rtt_us: None,
            lag_bytes: 0,
            last_heard_ms: None,
            in_sync: in_sync(id),
            version: None,
        };
        let owner = [1, 2].into_iter().find(|id| in_sync(*id)).unwrap();
        StatusReport {
            node: 1,
            version: "0.1.0".to_owned(),
            incarnation: String::new(),
            role: Role::Owner,
            in_sync: in_sync(1),
            term: 1,
            view: 1,
            uptime_ms: 0,
            flows: 0,
            shadows: 0,
            flows_total: 0,
            takeovers: 0,
            takeover_ms: None,
            peers: vec![peer(2), peer(3)],
            owner: Some(owner),
            buckets_owned: 4096,
            holds_addresses: true,
            units: Some(1),
            shares: vec![Share { node: owner, buckets: 4096 }],
            council: Some(Box::new(CouncilReport {
                leader: Some(1),
                members: [1, 2, 3, 9].map(member).to_vec(),
                ..CouncilReport::default()
            })),
        }
    }

    fn incarnation(&self, id: u8) -> String {
        format!("{id}0{}", self.lives[usize::from(id)])
    }

    fn state(&self, id: u8) -> &'static str {
        match self.away {
            _ if self.draining == Some(id) => "draining",
            // It learns for a while after it has joined.
            Some((node, asked)) if node == id && asked < AWAY && !self.stays_behind => "joining",
            _ => "live",
        }
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
