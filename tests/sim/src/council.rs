//! The views of a run: one history, as consensus would make it, shown to every relay late and with
//! gaps. What councils do on their own is done here, too: they make their node a member again
//! whenever the view does not have it, vouch for the view, and give up what is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_core::id::{Incarnation, NodeId};
use relay_core::parting::Step;
use relay_core::time::{Duration, Instant};
use relay_core::units::Units;
use relay_views::command::Candidate;
use relay_views::id::{NodeSet, Seat};
use relay_views::source::{Audience, Manners, Oracle, ViewSource};
use relay_views::view::{Kind, State};
use relay_views::{Command, View};

use crate::configuration::Configurations;
use crate::script::Options;
use crate::setup;

/// A node that is no member asks to be one this often.
const JOIN_INTERVAL: Duration = Duration::from_millis(20);

/// Flows whose holders are all dead are given up after this time (rule 18).
const LOSS_TIMEOUT: Duration = Duration::from_secs(1);

/// The history.
pub struct Council {
    oracle: Arc<Mutex<Oracle>>,
    /// Since when nobody lives who knows the flows of a unit.
    stalled_since: BTreeMap<u16, Instant>,
}

/// One relay's end of it.
pub struct Member {
    audience: Audience,
    life: (NodeId, Incarnation),
    shown: Option<Arc<View>>,
    joined_at: Instant,
    /// It is no member any more, and does not want to be.
    leaves: bool,
    configurations: Configurations,
}

impl Council {
    /// A cluster of so many units, without members.
    pub fn new(units: u8, manners: Manners, seed: u64) -> Self {
        let oracle = Oracle::new(View::genesis_of(units.into()), manners, seed);
        Council { oracle, stalled_since: BTreeMap::new() }
    }

    /// The end of a life that begins.
    pub fn member(&self, index: usize, incarnation: Incarnation, options: &Options) -> Member {
        let life = (setup::id(index), incarnation);
        let audience = Audience::new(&self.oracle, life.0, incarnation);
        let configurations = Configurations::new(index, options, incarnation);
        Member {
            audience,
            life,
            shown: None,
            joined_at: Instant::ZERO,
            leaves: false,
            configurations,
        }
    }

    /// The view that is in force, whoever knows of it.
    pub fn newest(&self) -> Arc<View> {
        Arc::clone(lock(&self.oracle).newest())
    }

    /// Has the owner drained, and everybody else given back.
    pub fn drain_owner(&self) {
        let view = self.newest();
        let owner = view.bucket(0).and_then(|bucket| bucket.owner);
        let drained = view.relays(|state| state == State::Draining);
        let undrain = drained.iter().map(|node| Command::Undrain { node });
        for command in undrain.chain(owner.map(|node| Command::Drain { node })) {
            // Who is dead can be neither.
            let _ = lock(&self.oracle).decide(&command);
        }
    }

    /// Has the next configuration proposed, or the one that is being prepared withdrawn.
    pub fn reconfigure(&self) {
        let agreed = &self.newest().configuration;
        let command = match &agreed.proposed {
            Some(document) => {
                Command::Withdraw { generation: document.generation, objection: None }
            }
            None => {
                let generation = agreed.next();
                let bytes = generation.to_be_bytes().to_vec().into();
                Command::Configure { generation, bytes, vips: Arc::new([]) }
            }
        };
        lock(&self.oracle).decide(&command).expect("the newest view is what it is about");
    }

    /// How often another configuration came into force.
    pub fn reconfigured(&self) -> u64 {
        let oracle = lock(&self.oracle);
        let views = oracle.history().windows(2);
        let generation = |view: &View| view.configuration.active.generation;
        views.filter(|pair| generation(&pair[0]) != generation(&pair[1])).count() as u64
    }

    /// Gives up what nobody can come back with.
    pub fn attend(&mut self, now: Instant) {
        let view = self.newest();
        let before = core::mem::take(&mut self.stalled_since);
        let since = |unit| (unit, before.get(&unit).copied().unwrap_or(now));
        self.stalled_since = view.stalled().map(since).collect();
        let is_lost = |(_, since): &(&u16, &Instant)| now - **since > LOSS_TIMEOUT;
        let lost = self.stalled_since.iter().filter(is_lost);
        let buckets: Vec<u16> = lost.map(|(unit, _)| *unit).collect();
        if !buckets.is_empty() {
            // Nobody is alive who could begin anew: then it is tried again.
            let _ = lock(&self.oracle).decide(&Command::Lose { seen: view.number, buckets });
        }
    }

    /// How often a unit went from one relay to another one that both lived.
    pub fn handed_over(&self) -> u64 {
        let oracle = lock(&self.oracle);
        let views = oracle.history().windows(2);
        let moves = views.flat_map(|pair| {
            let (before, after) = (&pair[0], &pair[1]);
            let units = before.buckets.iter().zip(&after.buckets);
            units.filter(|(was, is)| {
                let former = was.owner.filter(|_| is.owner.is_some() && was.owner != is.owner);
                let life = former.and_then(|former| Some((former, before.members.get(&former)?)));
                life.is_some_and(|(former, member)| after.names(former, member.incarnation))
            })
        });
        moves.count() as u64
    }
}

impl Member {
    /// Whose end this is.
    pub fn life(&self) -> (NodeId, Incarnation) {
        self.life
    }

    /// Whether nobody else holds what this life owns of a unit, or is about to, in the view that it saw
    /// last.
    pub fn is_alone(&self, unit: usize) -> bool {
        let (me, _) = self.life;
        let bucket = self.shown.as_ref().and_then(|view| view.bucket(unit as u32));
        bucket.is_some_and(|bucket| {
            bucket.owner == Some(me) && bucket.in_sync.union(bucket.learners) == NodeSet::of(me)
        })
    }

    /// Shows the relay what there is to see; whether it was vouched for. Who is out of reach sees
    /// nothing.
    pub fn show(&mut self, now: Instant, units: &mut Units, in_reach: bool) -> bool {
        if !in_reach {
            return false;
        }
        let time = Duration::from_nanos(now.as_nanos());
        if let Some(view) = self.audience.next_view(time) {
            let known = units.handle_view(now, &view);
            known.expect("the cluster has as many units as its relays");
            self.shown = Some(view);
        }
        if let Some(view) = &self.shown
            && let Some(command) = self.configurations.attend(now, (view, self.life), units)
        {
            self.audience.propose(time, command);
        }
        let (id, incarnation) = self.life;
        let is_member = self.shown.as_ref().is_some_and(|view| view.names(id, incarnation));
        // Who was just found again has not been told yet what it has missed.
        let vouched = is_member && self.audience.is_current();
        if vouched {
            units.handle_lease(now);
        }
        if !is_member && !self.leaves && now - self.joined_at >= JOIN_INTERVAL {
            self.joined_at = now;
            let agreed = self.shown.as_ref().map(|view| &view.configuration);
            let candidate = Candidate {
                node: id,
                incarnation,
                seat: Seat::new(id, 1),
                kind: Kind::Relay,
                votes: true,
                weight: 1,
                generation: self.configurations.joins_with(agreed),
            };
            self.audience.propose(time, Command::Join(candidate));
        }
        vouched
    }

    /// Does what comes before a relay's end; true if nothing is left. Who is out of reach is not heard.
    pub fn part(&mut self, now: Instant, step: Step, in_reach: bool) -> bool {
        let (node, incarnation) = self.life;
        let command = match (step, &self.shown) {
            (Step::End, _) => return true,
            (Step::HandOver { .. }, _) => Command::Drain { node },
            (Step::Leave { .. }, Some(view)) => {
                self.leaves = true;
                view.eject(NodeSet::of(node), (node, incarnation))
            }
            _ => return false,
        };
        if in_reach {
            self.propose(now, command);
        }
        false
    }

    pub fn propose(&mut self, now: Instant, command: Command) {
        self.audience.propose(Duration::from_nanos(now.as_nanos()), command);
    }

    pub fn suspect(&mut self, now: Instant, silent: NodeSet) {
        self.audience.suspect(Duration::from_nanos(now.as_nanos()), silent);
    }
}

/// A simulator that panicked elsewhere has nothing to protect.
fn lock(oracle: &Mutex<Oracle>) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}
