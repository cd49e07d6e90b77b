//! What the workers and the control thread share. None ever waits for another.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use relay_abi::control::CouncilReport;
use relay_core::replica::PairKey;
use relay_views::id::{NodeId, NodeSet};
use relay_views::{Command, View};
use rustix::event::{EventfdFlags, eventfd};

use super::configuration::{Answer, Shelf};
use super::counters::{Counters, count};
use super::link::Input;

/// Views that wait for a worker: each says all that there is to know.
const VIEWS_MAX: usize = 1;

/// Proposals of the workers that wait for the control thread; more are lost, as on a network.
const PROPOSALS_MAX: usize = 256;

/// Shared by all threads and whoever reports.
pub struct Desk {
    pub counters: Arc<Counters>,
    /// Configurations for the workers, and what is known of them.
    pub shelf: Shelf,
    posts: Vec<Post>,
    proposals: (Sender<Command>, Receiver<Command>),
    began: Instant,
    /// When the council vouched for the view last, in nanoseconds since then; 0: never.
    vouched: AtomicU64,
    stop: AtomicBool,
    /// This node is to be taken out of the view.
    leaves: AtomicBool,
    /// Wakes the control thread.
    inbox: Sender<Input>,
    report: Mutex<CouncilReport>,
}

/// One worker's.
pub struct Post {
    views: (Sender<Arc<View>>, Receiver<Arc<View>>),
    /// What this relay has in common with others and the worker does not know yet; the newest for each.
    keys: Mutex<BTreeMap<NodeId, PairKey>>,
    has_keys: AtomicBool,
    /// Of whom the worker hears nothing: bits of a [`NodeSet`].
    silent: AtomicU64,
    /// How often the worker called.
    calls: AtomicU64,
    /// The worker has ended, as it was asked to.
    has_ended: AtomicBool,
    /// Wakes the worker.
    wake: OwnedFd,
}

impl Post {
    fn new() -> io::Result<Post> {
        Ok(Post {
            views: bounded(VIEWS_MAX),
            keys: Mutex::default(),
            has_keys: AtomicBool::new(false),
            silent: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// The view that the worker has not seen, if there is one.
    pub fn newest(&self) -> Option<Arc<View>> {
        self.views.1.try_iter().take(VIEWS_MAX).last()
    }

    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub fn clear_wake(&self) {
        // Nothing to read: it was quiet.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn wake_worker(&self) {
        // Fails when it would overflow: then it is readable already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub fn sign_of_life(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows a view to the worker, in place of any that it has not seen.
    fn show(&self, view: &Arc<View>) {
        let mut view = Arc::clone(view);
        while let Err(TrySendError::Full(back)) = self.views.0.try_send(view) {
            let _ = self.views.1.try_recv();
            view = back;
        }
        self.wake_worker();
    }

    fn share(&self, peer: NodeId, key: PairKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(peer, key);
        self.has_keys.store(true, Ordering::Release);
        drop(keys);
        self.wake_worker();
    }

    /// What it was told since, for the worker: which does not wait for who tells at this moment.
    pub fn take_keys(&self) -> BTreeMap<NodeId, PairKey> {
        if !self.has_keys.load(Ordering::Acquire) {
            return BTreeMap::new();
        }
        let Ok(mut keys) = self.keys.try_lock() else { return BTreeMap::new() };
        self.has_keys.store(false, Ordering::Release);
        std::mem::take(&mut *keys)
    }
}

impl Desk {
    /// For so many workers.
    pub fn new(inbox: Sender<Input>, workers: usize) -> io::Result<Arc<Desk>> {
        Ok(Arc::new(Desk {
            counters: Arc::default(),
            shelf: Shelf::new(workers),
            posts: (0..workers).map(|_| Post::new()).collect::<io::Result<_>>()?,
            proposals: bounded(PROPOSALS_MAX),
            began: Instant::now(),
            vouched: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            leaves: AtomicBool::new(false),
            inbox,
            report: Mutex::default(),
        }))
    }

    pub fn workers(&self) -> usize {
        self.posts.len()
    }

    /// One worker's post; there is one for each.
    pub fn post(&self, worker: usize) -> &Post {
        &self.posts[worker]
    }

    /// A worker has ended: nothing is expected of it any more. With the last one the council ends.
    /// True for that one.
    pub fn end(&self, worker: usize) -> bool {
        self.posts[worker].has_ended.store(true, Ordering::SeqCst);
        let all_ended = self.posts.iter().all(|post| post.has_ended.load(Ordering::SeqCst));
        all_ended && !self.stop.swap(true, Ordering::SeqCst) && {
            self.wake_control();
            true
        }
    }

    /// The newest view that was shown is in force still.
    pub fn vouch(&self) {
        self.vouched.store(self.nanos(), Ordering::Release);
    }

    /// How long ago that was.
    pub fn vouched_ago(&self) -> Option<Duration> {
        let at = self.vouched.load(Ordering::Acquire);
        (at > 0).then(|| Duration::from_nanos(self.nanos().saturating_sub(at)))
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn propose(&self, command: Command) {
        match self.proposals.0.try_send(command) {
            Ok(()) => self.wake_control(),
            Err(_) => count(&self.counters.proposals_full),
        }
    }

    pub fn suspect(&self, worker: usize, silent: NodeSet) {
        let before = self.posts[worker].silent.swap(silent.bits(), Ordering::Relaxed);
        if before != silent.bits() {
            self.wake_control();
        }
    }

    /// In a full inbox there is something to wake up for already.
    fn wake_control(&self) {
        let _ = self.inbox.try_send(Input::Wake);
    }

    pub fn leave(&self) {
        self.leaves.store(true, Ordering::SeqCst);
        self.wake_control();
    }

    pub fn leaves(&self) -> bool {
        self.leaves.load(Ordering::SeqCst)
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// How often each worker that has not ended called.
    pub fn calls(&self) -> impl Iterator<Item = Option<u64>> {
        let calls = |post: &Post| {
            let has_ended = post.has_ended.load(Ordering::SeqCst);
            (!has_ended).then(|| post.calls.load(Ordering::Relaxed))
        };
        self.posts.iter().map(calls)
    }

    /// Of whom no worker hears anything.
    pub fn silent(&self) -> NodeSet {
        let silent = self.posts.iter().map(|post| post.silent.load(Ordering::Relaxed));
        silent.map(NodeSet::from_bits).reduce(NodeSet::intersection).unwrap_or_default()
    }

    pub fn proposals(&self) -> impl Iterator<Item = Command> {
        self.proposals.1.try_iter().take(PROPOSALS_MAX)
    }

    /// Shows a view to all workers.
    pub fn show(&self, view: &Arc<View>) {
        self.posts.iter().for_each(|post| post.show(view));
    }

    /// Wakes all workers.
    pub fn wake_workers(&self) {
        self.posts.iter().for_each(Post::wake_worker);
    }

    /// Tells the workers what this relay and another member have in common from now on.
    pub fn share(&self, peer: NodeId, key: &PairKey) {
        self.posts.iter().for_each(|post| post.share(peer, key.clone()));
    }

    /// By a worker: it holds a configuration, or cannot.
    pub fn answer(&self, answer: Answer) {
        self.shelf.answer(answer);
        self.wake_control();
    }

    pub fn report(&self) -> CouncilReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn publish(&self, report: CouncilReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}
