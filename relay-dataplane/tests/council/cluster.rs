//! A cluster whose nodes are threads of the test: real councils, and workers that only hear each
//! other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use relay_abi::control::CouncilReport;
use relay_abi::peer::VERSION_PAIR;
use relay_core::replica::PairKey;
use relay_dataplane::config::{Basis, Certificate, Council, Member};
use relay_dataplane::council::{self, Reporter, Views};
use relay_views::id::{Incarnation, NodeId, NodeSet};
use relay_views::log::{Failure, Log, Memory};
use relay_views::source::ViewSource;
use relay_views::view::{Kind, State};
use relay_views::{Command, View};

use crate::cast::{Authority, Directory, addresses};

/// Longer than anything takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a worker turns.
const TURN: Duration = Duration::from_millis(5);

pub struct Cluster {
    pub authority: Authority,
    pub members: Vec<Member>,
    pub nodes: BTreeMap<u8, Node>,
    pub directory: Directory,
    /// Bits of the nodes whose workers run: what heartbeats would tell.
    running: Arc<AtomicU64>,
    lives: u64,
    /// Versions of nodes that do not speak the newest one.
    pub protocols: BTreeMap<u8, u8>,
    pub redial_after: Duration,
    /// What relays add to documents.
    pub documents: BTreeMap<u8, Basis>,
}

pub struct Node {
    pub reporter: Reporter,
    pub incarnation: Incarnation,
    pub view: Arc<Mutex<Option<Arc<View>>>>,
    pub proposals: crossbeam_channel::Sender<Command>,
    /// Every key that it was told of, in order.
    pub keys: Arc<Mutex<BTreeMap<NodeId, Vec<PairKey>>>>,
    pub hangs: Arc<AtomicBool>,
    /// It takes no configuration.
    pub declines: Arc<AtomicBool>,
    /// Configurations that its worker holds, and which one was in force then.
    pub held: Arc<Mutex<Vec<(u64, u64)>>>,
    stop: Arc<AtomicBool>,
    worker: JoinHandle<()>,
}

impl Cluster {
    /// Relays 1.. and witnesses 10.., none of which is started.
    pub fn new(relays: u8, witnesses: u8) -> Cluster {
        let relays = (1..=relays).map(|id| (id, Kind::Relay));
        let all = relays.chain((10..10 + witnesses).map(|id| (id, Kind::Witness)));
        let addresses = addresses(u8::try_from(all.clone().count()).unwrap());
        let member = |((id, kind), address): ((u8, Kind), SocketAddr)| Member {
            id,
            address,
            kind,
            votes: true,
        };
        Cluster {
            authority: Authority::new(),
            members: all.zip(addresses).map(member).collect(),
            nodes: BTreeMap::new(),
            directory: Directory::new(),
            running: Arc::default(),
            lives: 0,
            protocols: BTreeMap::new(),
            redial_after: Duration::from_secs(3600),
            documents: BTreeMap::new(),
        }
    }

    pub fn config(&self, node: u8) -> Council {
        let identity = self.authority.issue(node);
        self.config_with(node, identity)
    }

    pub fn config_with(&self, node: u8, identity: Certificate) -> Council {
        Council {
            units: 1,
            protocol: self.protocols.get(&node).copied().unwrap_or(VERSION_PAIR),
            redial_after: self.redial_after,
            node,
            members: self.members.clone(),
            directory: self.directory.0.join(format!("votes-{node}")),
            identity,
            ca: self.authority.pem.clone(),
            workers: 1,
            worker_timeout: Duration::from_millis(500),
            realtime: false,
            documents: self.documents.get(&node).cloned(),
        }
    }

    pub fn start(&mut self, node: u8) {
        let config = self.config(node);
        let life = self.next_life(node);
        self.enter(life, council::start(&config, life).unwrap());
    }

    /// With a disk that is full as long as `full` says so.
    pub fn start_on_small_disk(&mut self, node: u8, full: &Arc<AtomicBool>) {
        let config = self.config(node);
        let life = self.next_life(node);
        let opened = relay_views::disk::DiskLog::open(&config.directory, life.0, 77).unwrap();
        let log = SmallDisk { log: Box::new(opened.0), full: Arc::clone(full) };
        let memory: Memory = opened.1.memory;
        let views = council::start_with_log(&config, life, Box::new(log), memory).unwrap();
        self.enter(life, views);
    }

    pub fn start_all(&mut self) {
        let ids: Vec<u8> = self.members.iter().map(|member| member.id).collect();
        ids.into_iter().for_each(|id| self.start(id));
    }

    fn next_life(&mut self, node: u8) -> (NodeId, Incarnation) {
        self.lives += 1;
        (NodeId(node), Incarnation(self.lives))
    }

    fn enter(&mut self, life: (NodeId, Incarnation), views: Views) {
        let relays = self.members.iter().filter(|member| member.kind == Kind::Relay);
        let relays: NodeSet = relays.map(|member| NodeId(member.id)).collect();
        let (sender, proposals) = crossbeam_channel::bounded(16);
        let node = Node {
            reporter: views.reporter(),
            incarnation: life.1,
            view: Arc::default(),
            proposals: sender,
            keys: Arc::default(),
            hangs: Arc::default(),
            declines: Arc::default(),
            held: Arc::default(),
            stop: Arc::default(),
            worker: thread::spawn(|| {}),
        };
        let worker = Worker {
            own: life.0,
            is_relay: relays.contains(life.0),
            relays,
            running: Arc::clone(&self.running),
            hangs: Arc::clone(&node.hangs),
            declines: Arc::clone(&node.declines),
            held: Arc::clone(&node.held),
            stop: Arc::clone(&node.stop),
            view: Arc::clone(&node.view),
            keys: Arc::clone(&node.keys),
            proposals,
        };
        let node = Node { worker: thread::spawn(move || worker.run(views)), ..node };
        self.nodes.insert(life.0.0, node);
    }

    /// The node is gone, from one moment to the next.
    pub fn kill(&mut self, node: u8) {
        let node = self.nodes.remove(&node).expect("it was started");
        node.stop.store(true, Ordering::SeqCst);
        node.worker.join().unwrap();
    }

    /// Waits until `done` says so of the present cluster.
    pub fn wait(&self, what: &str, done: impl Fn(&Cluster) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "{what}: {:#?}", self.reports());
            thread::sleep(TURN);
        }
    }

    pub fn reports(&self) -> BTreeMap<u8, CouncilReport> {
        self.nodes.iter().map(|(id, node)| (*id, node.reporter.report())).collect()
    }

    /// Whether every node that runs has a view that names exactly those as not dead, in their
    /// present lives.
    pub fn agrees(&self, alive: &[u8]) -> bool {
        self.nodes.values().all(|node| {
            let Some(view) = node.view.lock().unwrap().clone() else { return false };
            let names = |id: &u8| {
                let node = self.nodes.get(id);
                node.is_some_and(|node| view.names(NodeId(*id), node.incarnation))
            };
            let living = view.members.iter().filter(|(_, member)| member.state != State::Dead);
            alive.iter().all(names) && living.count() == alive.len()
        })
    }

    /// The same, while one that runs stays out.
    pub fn agrees_without(&self, alive: &[u8], out: u8) -> bool {
        let view = self.nodes[&out].view.lock().unwrap().clone();
        let lives = |view: &Arc<View>| {
            let living = view.members.iter().filter(|(_, member)| member.state != State::Dead);
            living.map(|(node, _)| node.0).eq(alive.iter().copied())
        };
        view.as_ref().is_some_and(lives)
    }

    /// Who leads, if all say the same.
    pub fn leader(&self) -> Option<u8> {
        let reports = self.reports();
        let mut leaders = reports.values().map(|report| report.leader);
        let first = leaders.next().flatten()?;
        let known = self.nodes.contains_key(&first);
        (known && leaders.all(|leader| leader == Some(first))).then_some(first)
    }

    /// Whether all of these vote, as everybody knows.
    pub fn voters(&self, ids: &[u8]) -> bool {
        self.reports().values().all(|report| {
            let voters = report.members.iter().filter(|member| member.votes);
            voters.map(|member| member.id).collect::<Vec<_>>() == ids
        })
    }

    /// The keys that a relay was told of for one of the others, in order.
    pub fn keys(&self, node: u8, peer: u8) -> Vec<PairKey> {
        let keys = self.nodes[&node].keys.lock().unwrap();
        keys.get(&NodeId(peer)).cloned().unwrap_or_default()
    }

    /// What the two have in common, if both know the same.
    pub fn shared(&self, one: u8, other: u8) -> Option<PairKey> {
        let newest = self.keys(one, other).pop()?;
        (self.keys(other, one).last() == Some(&newest)).then_some(newest)
    }

    pub fn counter(&self, node: u8, name: &str) -> u64 {
        let all = self.nodes[&node].reporter.counters();
        all.iter().find(|counter| counter.name == name).unwrap().value
    }
}

struct Worker {
    own: NodeId,
    is_relay: bool,
    relays: NodeSet,
    running: Arc<AtomicU64>,
    hangs: Arc<AtomicBool>,
    declines: Arc<AtomicBool>,
    held: Arc<Mutex<Vec<(u64, u64)>>>,
    stop: Arc<AtomicBool>,
    view: Arc<Mutex<Option<Arc<View>>>>,
    proposals: crossbeam_channel::Receiver<Command>,
    keys: Arc<Mutex<BTreeMap<NodeId, Vec<PairKey>>>>,
}

impl Worker {
    fn run(self, mut views: Views) {
        let began = Instant::now();
        let bit = NodeSet::of(self.own).bits();
        while !self.stop.load(Ordering::SeqCst) {
            let beats = self.is_relay && !self.hangs.load(Ordering::SeqCst);
            if beats {
                self.running.fetch_or(bit, Ordering::SeqCst);
            } else {
                self.running.fetch_and(!bit, Ordering::SeqCst);
            }
            if beats || !self.is_relay {
                self.turn(&mut views, began.elapsed());
            }
            thread::sleep(TURN);
        }
        self.running.fetch_and(!bit, Ordering::SeqCst);
    }

    fn turn(&self, views: &mut Views, now: Duration) {
        for (peer, key) in views.pair_keys() {
            self.keys.lock().unwrap().entry(peer).or_default().push(key);
        }
        if let Some(view) = views.next_view(now) {
            *self.view.lock().unwrap() = Some(view);
        }
        for offer in views.configurations() {
            if !self.declines.load(Ordering::SeqCst) {
                let view = self.view.lock().unwrap();
                let active = view.as_ref().map(|view| view.configuration.active.generation);
                self.held.lock().unwrap().push((offer.generation, active.unwrap_or_default()));
                views.answer((offer.generation, Ok(())));
            }
        }
        if self.is_relay {
            let running = NodeSet::from_bits(self.running.load(Ordering::SeqCst));
            views.suspect(now, self.relays.minus(running));
        }
        self.proposals.try_iter().for_each(|command| views.propose(now, command));
    }
}

struct SmallDisk {
    log: Box<dyn Log + Send>,
    full: Arc<AtomicBool>,
}

impl Log for SmallDisk {
    fn write(&mut self, batch: &relay_views::log::Batch) -> Result<(), Failure> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(Failure::Full { path: "votes.log".to_owned() }),
            false => self.log.write(batch),
        }
    }
}
