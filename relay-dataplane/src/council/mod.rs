//! The council in the process: one control thread that takes part in the consensus about views.
//!
//! ```text
//! worker thread          control thread                     other members
//! Views --- bounded ---> Council (relay-views), vote log --- Links: mutual TLS 1.3
//!       <-- newest view
//! ```
//!
//! [`start`] makes the control thread; [`Views`] is a worker's end of it. It never blocks: views
//! come through a slot that holds the newest one, proposals leave through a queue, suspicions are
//! one word. Every call is a sign of life, see [`vouch`].

mod configuration;
mod control;
mod counters;
mod desk;
mod founding;
mod frame;
mod link;
mod socket;
pub mod trust;
pub mod vouch;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use relay_abi::control::{CouncilReport, CounterReport};
use relay_core::replica::PairKey;
use relay_views::disk::{DiskLog, OpenError};
use relay_views::id::{Incarnation, NodeId, NodeSet};
use relay_views::log::{Log, Memory};
use relay_views::source::ViewSource;
use relay_views::view::Kind;
use relay_views::{Command, View};

pub use self::configuration::Offer;
use self::configuration::{Answer, Known};
use self::control::Control;
use self::desk::{Desk, Post};
use self::frame::Greeting;
use self::link::{Common, Knocks, Links};
use self::trust::{Trust, TrustError};
use crate::config;

/// Messages of all members that wait for the control thread; who sent more has to wait.
const INBOX_MAX: usize = 256;

/// Why the council can not begin; the text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others would refuse this node, or it them.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The vote log can not be used: this node must not vote.
    #[error("vote log: {0}")]
    Log(#[from] OpenError),
    /// The vote log is sound record by record, and yet no council wrote it.
    #[error(
        "vote log in {directory}: {cause}: this node takes no part. Remedy: as long as a majority \
         of the other voters is healthy, move the directory away and start again"
    )]
    Inconsistent {
        /// Where.
        directory: String,
        /// What is wrong.
        cause: String,
    },
    /// The address can not be listened on.
    #[error(
        "council: cannot listen on {address}: {cause}: is it an address of this machine, and does \
         no other process use the port?"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The system gives no thread, descriptor or randomness.
    #[error("council: the system refuses a thread, a descriptor or random numbers: {0}")]
    System(#[from] io::Error),
}

/// Checks what can be checked without touching anything.
///
/// # Errors
/// What [`start`] would say about the certificates.
pub fn check(config: &config::Council) -> Result<(), Error> {
    trust(config)?;
    Ok(())
}

/// Opens the vote log and the links, and begins. `life` is what the worker's node calls itself; a
/// node becomes a member when its worker has called for the first time, a witness at once.
///
/// # Errors
/// When this node can not take part; nothing is left behind then.
pub fn start(config: &config::Council, life: (NodeId, Incarnation)) -> Result<Views, Error> {
    trust(config)?;
    let (log, found) = DiskLog::open(&config.directory, life.0, random()?)?;
    if found.cut > 0 {
        tracing::warn!(
            bytes = found.cut,
            "vote log: the last record was cut off by a loss of power; nobody acted on it"
        );
    }
    start_with_log(config, life, Box::new(log), found.memory)
}

/// The same with any log: a test's may fail when it is told to.
///
/// # Errors
/// As [`start`].
pub fn start_with_log(
    config: &config::Council,
    life: (NodeId, Incarnation),
    log: Box<dyn Log + Send>,
    memory: Memory,
) -> Result<Views, Error> {
    let node = life.0;
    let members: BTreeMap<NodeId, SocketAddr> =
        config.members.iter().map(|member| (NodeId(member.id), member.address)).collect();
    let own = config.own();
    let listener = TcpListener::bind(own.address)
        .map_err(|cause| Error::Listen { address: own.address, cause })?;
    let greeting = Greeting {
        node,
        seat: memory.seat,
        blank: memory.records.is_empty(),
        members: members.keys().copied().collect(),
        units: config.units,
    };
    let (sender, inbox) = crossbeam_channel::bounded(INBOX_MAX);
    let desk = Desk::new(sender.clone(), config.workers)?;
    let relays = config.members.iter().filter(|member| member.kind == Kind::Relay);
    let relays: NodeSet = relays.map(|member| NodeId(member.id)).collect();
    let members: BTreeMap<NodeId, SocketAddr> =
        members.into_iter().filter(|(id, _)| *id != node).collect();
    let common = Common {
        trust: trust(config)?,
        own: node,
        // A witness has nothing to do with what relays tell each other.
        pairs: if relays.contains(node) { relays } else { NodeSet::EMPTY },
        redial_after: config.redial_after,
        knocks: Knocks::new(members.keys().copied()),
        members,
        inbox: sender,
        desk: Arc::clone(&desk),
        counters: Arc::clone(&desk.counters),
        realtime: config.realtime,
        greeting: Mutex::new(greeting),
    };
    let ends = (inbox, &common.inbox);
    let control = Control::new(config, life, (log, memory), ends, Arc::clone(&desk))?;
    let links = Links::start(common, listener)?;
    let realtime = config.realtime;
    let thread = thread::Builder::new().name("council".to_owned());
    let thread = thread.spawn(move || {
        let _takes_along = TakesAlong;
        crate::priority::raise(realtime);
        control.run(links);
    })?;
    Ok(Views { desk, worker: 0, thread: Arc::new(Mutex::new(Some(thread))), turns: 0 })
}

/// A node whose council panicked would never see another view, and yet look alive by its worker's
/// heartbeats: it ends as a whole, and others take over at once.
struct TakesAlong;

impl Drop for TakesAlong {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn trust(config: &config::Council) -> Result<Trust, TrustError> {
    let identity = (&*config.identity.chain, &*config.identity.key);
    Trust::new(NodeId(config.node), identity, &config.ca, config.protocol)
}

pub(crate) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Calls without news after which a wake-up is taken for a stale one: one that was raised between
/// the two halves of a call would else keep poll(2) from sleeping for ever.
const TURNS_PER_CLEARING: u32 = 64;

/// What the council said longer ago is no news of the present: one of the two threads was paused.
const VOUCH_AGE_MAX: Duration = Duration::from_millis(20);

/// A worker's end: where its views come from. Dropping the last one ends the council of this node.
pub struct Views {
    desk: Arc<Desk>,
    worker: usize,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    turns: u32,
}

/// What operators ask about; may outlive [`Views`], and then says what was last.
#[derive(Clone)]
pub struct Reporter(Arc<Desk>);

impl Views {
    /// The ends of all workers, of which the first one has become this.
    pub fn of_all(self) -> Vec<Views> {
        let others = 1..self.desk.workers();
        let end = |worker| Views {
            desk: Arc::clone(&self.desk),
            worker,
            thread: Arc::clone(&self.thread),
            turns: 0,
        };
        let mut all: Vec<Views> = others.map(end).collect();
        all.insert(0, self);
        all
    }

    fn post(&self) -> &Post {
        self.desk.post(self.worker)
    }

    /// Readable when there may be a new view: for the worker's poll(2). [`ViewSource::next_view`]
    /// makes it unreadable again.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.post().wake_fd()
    }

    /// What this relay has in common with others from now on, since the last call.
    pub fn pair_keys(&mut self) -> BTreeMap<NodeId, PairKey> {
        self.post().take_keys()
    }

    /// Configurations to hold, since the last call. Each is to be answered.
    pub fn configurations(&mut self) -> Vec<Offer> {
        self.desk.shelf.take(self.worker)
    }

    /// Says whether a configuration is held.
    pub fn answer(&self, answer: Answer) {
        self.desk.answer(answer);
    }

    /// Has this node taken out of the view, for good. It goes on until the view says so.
    pub fn leave(&self) {
        self.desk.leave();
    }

    /// Whether the council has just vouched that no newer view is in force than it has shown.
    pub fn is_vouched(&self) -> bool {
        self.desk.vouched_ago().is_some_and(|ago| ago < VOUCH_AGE_MAX)
    }

    /// Answers operators' questions, in any thread.
    pub fn reporter(&self) -> Reporter {
        Reporter(Arc::clone(&self.desk))
    }
}

impl ViewSource for Views {
    fn next_view(&mut self, _now: Duration) -> Option<Arc<View>> {
        self.post().sign_of_life();
        self.turns += 1;
        let news = self.post().newest();
        if news.is_none() && self.turns < TURNS_PER_CLEARING {
            return None;
        }
        // First quiet, then empty: what comes in between raises it again.
        self.turns = 0;
        self.post().clear_wake();
        self.post().newest().or(news)
    }

    fn propose(&mut self, _now: Duration, command: Command) {
        self.post().sign_of_life();
        self.desk.propose(command);
    }

    fn suspect(&mut self, _now: Duration, silent: NodeSet) {
        self.post().sign_of_life();
        self.desk.suspect(self.worker, silent);
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        if !self.desk.end(self.worker) {
            return;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // One that panicked has said so.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Reporter {
    /// What the council does at present.
    pub fn report(&self) -> CouncilReport {
        self.0.report()
    }

    /// What is known of the cluster's configuration.
    pub fn configuration(&self) -> Known {
        self.0.shelf.known()
    }

    /// Proposes a change, which may be lost.
    pub fn propose(&self, command: Command) {
        self.0.propose(command);
    }

    /// What happened on its links and queues.
    pub fn counters(&self) -> Vec<CounterReport> {
        let counter = |(name, value): (&str, u64)| CounterReport {
            group: "council".to_owned(),
            name: name.to_owned(),
            value,
        };
        self.0.counters.all().into_iter().map(counter).collect()
    }
}

impl AsFd for Views {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_fd()
    }
}

/// What a kind is called in configurations and reports.
pub const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Relay => "relay",
        Kind::Witness => "witness",
    }
}
