//! What the worker and the control thread share. Neither ever waits for the other.

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

/// Views that wait for the worker: each says all that there is to know.
const VIEWS_MAX: usize = 1;

/// Proposals of the worker that wait for the control thread; more are lost, as on a network.
const PROPOSALS_MAX: usize = 256;

/// Shared by both threads and whoever reports.
pub struct Desk {
    pub counters: Arc<Counters>,
    /// Configurations for the worker, and what is known of them.
    pub shelf: Shelf,
    views: Sender<Arc<View>>,
    /// To take away what the worker has not seen and need not see any more.
    outdated: Receiver<Arc<View>>,
    proposals: (Sender<Command>, Receiver<Command>),
    /// What this relay has in common with others and the worker does not know yet; the newest for each.
    keys: Mutex<BTreeMap<NodeId, PairKey>>,
    has_keys: AtomicBool,
    /// Of whom the worker hears nothing: bits of a [`NodeSet`].
    silent: AtomicU64,
    /// How often the worker called.
    calls: AtomicU64,
    began: Instant,
    /// When the council vouched for the view last, in nanoseconds since then; 0: never.
    vouched: AtomicU64,
    stop: AtomicBool,
    /// This node is to be taken out of the view.
    leaves: AtomicBool,
    /// Wakes the worker.
    wake: OwnedFd,
    /// Wakes the control thread.
    inbox: Sender<Input>,
    report: Mutex<CouncilReport>,
}

/// Where the worker takes views from.
pub struct Outlet(Receiver<Arc<View>>);

impl Outlet {
    pub fn newest(&self) -> Option<Arc<View>> {
        self.0.try_iter().take(VIEWS_MAX).last()
    }
}

impl Desk {
    pub fn new(inbox: Sender<Input>) -> io::Result<(Arc<Desk>, Outlet)> {
        let (views, outlet) = bounded(VIEWS_MAX);
        let desk = Desk {
            counters: Arc::default(),
            shelf: Shelf::default(),
            views,
            outdated: outlet.clone(),
            proposals: bounded(PROPOSALS_MAX),
            keys: Mutex::default(),
            has_keys: AtomicBool::new(false),
            silent: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            began: Instant::now(),
            vouched: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            leaves: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            inbox,
            report: Mutex::default(),
        };
        Ok((Arc::new(desk), Outlet(outlet)))
    }

    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub fn clear_wake(&self) {
        // Nothing to read: it was quiet.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    pub fn sign_of_life(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
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

    pub fn suspect(&self, silent: NodeSet) {
        if self.silent.swap(silent.bits(), Ordering::Relaxed) != silent.bits() {
            self.wake_control();
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake_control();
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

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub fn silent(&self) -> NodeSet {
        NodeSet::from_bits(self.silent.load(Ordering::Relaxed))
    }

    pub fn proposals(&self) -> impl Iterator<Item = Command> {
        self.proposals.1.try_iter().take(PROPOSALS_MAX)
    }

    /// Shows a view to the worker, in place of any that it has not seen.
    pub fn show(&self, view: Arc<View>) {
        let mut view = view;
        while let Err(TrySendError::Full(back)) = self.views.try_send(view) {
            let _ = self.outdated.try_recv();
            view = back;
        }
        self.wake_worker();
    }

    pub fn wake_worker(&self) {
        // Fails when it would overflow: then it is readable already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Tells the worker what this relay and another member have in common from now on.
    pub fn share(&self, peer: NodeId, key: PairKey) {
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

    /// By the worker: it holds a configuration, or cannot.
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
