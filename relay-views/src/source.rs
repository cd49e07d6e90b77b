//! What a data plane sees of the views, and an oracle that shows them as late as it may.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::command::{Command, Refusal};
use crate::id::{Incarnation, NodeId, NodeSet};
use crate::random::{below, mix};
use crate::view::View;

/// Where one node gets its views from. Times are since an epoch of the caller's choice.
pub trait ViewSource {
    /// The newest view, when it is newer than the one shown last. Views in between may be left out:
    /// each says all that there is to know.
    fn next_view(&mut self, now: Duration) -> Option<Arc<View>>;

    /// Proposes a change. It may be lost or come too late: the next views tell. Whoever still wants
    /// it then proposes it again.
    fn propose(&mut self, now: Duration, command: Command);

    /// Tells of whom nothing is heard at present; to be repeated whenever that changes.
    fn suspect(&mut self, now: Duration, silent: NodeSet);
}

/// Commands on their way to the oracle; more are lost, as on a network.
const COMMANDS_MAX: usize = 4096;

/// How the oracle behaves. All delays are drawn from a seed.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// The longest time from a proposal to its decision.
    pub decision_max: Duration,
    /// The longest time from a decision until a node sees it.
    pub delivery_max: Duration,
    /// Proposals that are lost, of a thousand.
    pub lost: u16,
    /// Deliveries that show the view of the time when they were sent rather than the newest one,
    /// of a thousand.
    pub stale: u16,
}

/// One atomic history of views, as consensus would make it, shown to each node late and with gaps.
#[derive(Debug)]
pub struct Oracle {
    manners: Manners,
    state: u64,
    history: Vec<Arc<View>>,
    commands: BTreeMap<(Duration, u64), Command>,
    sequence: u64,
}

impl Oracle {
    /// An oracle whose history begins with `view`.
    pub fn new(view: View, manners: Manners, seed: u64) -> Arc<Mutex<Oracle>> {
        let history = vec![Arc::new(view)];
        let commands = BTreeMap::new();
        Arc::new(Mutex::new(Oracle { manners, state: mix(seed), history, commands, sequence: 0 }))
    }

    /// Decides a command at once.
    pub fn decide(&mut self, command: &Command) -> Result<(), Refusal> {
        let next = self.newest().apply(command)?;
        self.history.push(Arc::new(next));
        Ok(())
    }

    /// All views so far, the first one first.
    pub fn history(&self) -> &[Arc<View>] {
        &self.history
    }

    /// The view that is in force.
    pub fn newest(&self) -> &Arc<View> {
        &self.history[self.history.len() - 1]
    }

    fn propose(&mut self, now: Duration, command: Command) {
        let lost = self.draw(1000) < u64::from(self.manners.lost);
        let delay = self.delay(self.manners.decision_max);
        self.sequence += 1;
        if !lost && self.commands.len() < COMMANDS_MAX {
            self.commands.insert((now + delay, self.sequence), command);
        }
    }

    fn run(&mut self, now: Duration) {
        while self.commands.keys().next().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, command)) = self.commands.pop_first() {
                // A refusal leaves everything as it is; nobody is told, as with a lost answer.
                let _ = self.decide(&command);
            }
        }
    }

    fn delay(&mut self, max: Duration) -> Duration {
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.draw(nanos.saturating_add(1)))
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.state = mix(self.state);
        below(self.state, bound)
    }
}

/// One life of one node, as the oracle knows it.
#[derive(Clone, Debug)]
pub struct Audience {
    oracle: Arc<Mutex<Oracle>>,
    life: (NodeId, Incarnation),
    shown: Option<u64>,
    /// When the next delivery arrives, and the view that it was sent with.
    due: Option<(Duration, Arc<View>)>,
}

impl Audience {
    /// A life of a node that has seen nothing yet.
    pub fn new(oracle: &Arc<Mutex<Oracle>>, node: NodeId, incarnation: Incarnation) -> Self {
        let life = (node, incarnation);
        let oracle = Arc::clone(oracle);
        Audience { oracle, life, shown: None, due: None }
    }

    /// Whether the view that was shown last is in force still.
    pub fn is_current(&self) -> bool {
        self.shown == Some(lock(&self.oracle).newest().number)
    }
}

impl ViewSource for Audience {
    fn next_view(&mut self, now: Duration) -> Option<Arc<View>> {
        let mut oracle = lock(&self.oracle);
        oracle.run(now);
        let shown = self.shown;
        let is_news = |view: &View| shown.is_none_or(|shown| view.number > shown);
        if self.due.is_none() && is_news(oracle.newest()) {
            let delay_max = oracle.manners.delivery_max;
            let delay = oracle.delay(delay_max);
            self.due = Some((now + delay, Arc::clone(oracle.newest())));
        }
        let (_, sent) = self.due.take_if(|(at, _)| *at <= now)?;
        let stale = oracle.draw(1000) < u64::from(oracle.manners.stale);
        let view = if stale { sent } else { Arc::clone(oracle.newest()) };
        self.shown = Some(view.number);
        Some(view)
    }

    fn propose(&mut self, now: Duration, command: Command) {
        lock(&self.oracle).propose(now, command);
    }

    fn suspect(&mut self, now: Duration, silent: NodeSet) {
        let mut oracle = lock(&self.oracle);
        // Reports are repeated: what was decided meanwhile is not proposed again.
        let alive = oracle.newest().alive();
        let victims = silent.intersection(alive);
        if !victims.is_empty() {
            let eject = oracle.newest().eject(victims, self.life);
            oracle.propose(now, eject);
        }
    }
}

/// A simulator that panicked elsewhere has nothing to protect.
fn lock(oracle: &Mutex<Oracle>) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}
