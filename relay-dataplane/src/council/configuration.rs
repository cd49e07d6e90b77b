//! How this node takes part when its cluster agrees on a configuration.
//!
//! ```text
//! view: proposed --> loader thread: files, keys --> worker: holds it --> Command::Prepared
//!                            `-- cannot ---------------------`---------> Command::Withdraw
//! ```
//!
//! The control thread only passes things on; the worker never waits. A document is in force when
//! every live relay has said that its worker holds it, and a relay becomes a member with the one that
//! is in force, or not at all.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use relay_abi::control::{ConfigurationReport, Response, WithdrawnReport};
use relay_core::config::Listener;
use relay_views::id::{Incarnation, NodeId, NodeSet, Seat};
use relay_views::view::{Configuration, Document, Objection, State};
use relay_views::{Command, View};

use super::link::Input;
use crate::config::Basis;
use crate::document::{self, Loaded};

/// Documents that wait to be loaded, or for the worker: one in force, and one proposed. More come only
/// while the former are still looked at.
const WAITING_MAX: usize = 16;

/// What is in force and can not be loaded is tried again after this time: somebody may have put the
/// missing file there.
const RELOAD: Duration = Duration::from_secs(2);

/// What the view does not show yet is said again after this time: it may have been lost.
const REPEAT: Duration = Duration::from_secs(1);

/// Listeners for the workers to hold.
#[derive(Clone)]
pub struct Offer {
    pub generation: u64,
    pub listeners: Arc<[Listener]>,
}

/// Whether a worker holds a generation, or why not.
pub type Answer = (u64, Result<(), String>);

/// What lies between the control thread, the workers and whoever asks.
pub struct Shelf {
    /// For each worker.
    places: Vec<Place>,
    answers: (Sender<Answer>, Receiver<Answer>),
    known: Mutex<Known>,
    /// Members that know documents, by their last links.
    able: Mutex<NodeSet>,
}

/// What this node knows of the cluster's configuration.
#[derive(Clone, Default)]
pub struct Known {
    /// A view was seen.
    pub is_known: bool,
    pub agreed: Configuration,
    /// Members whose links say that they know no documents, or of which no link has said anything: they
    /// would come to other views than the rest.
    pub unable: NodeSet,
    /// Members that are not dead.
    members: NodeSet,
    /// Relays that have to hold what is proposed.
    alive: NodeSet,
    /// Generations that are in force or proposed, and held here.
    held: Vec<u64>,
    trouble: Option<String>,
}

#[derive(Default)]
struct Place {
    offers: Mutex<Vec<Offer>>,
    has_offers: AtomicBool,
}

impl Shelf {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Shelf {
            places: (0..workers).map(|_| Place::default()).collect(),
            answers: bounded(WAITING_MAX * workers.max(1)),
            known: Mutex::default(),
            able: Mutex::default(),
        }
    }

    /// For a worker, which does not wait for who puts something there at this moment.
    pub fn take(&self, worker: usize) -> Vec<Offer> {
        let place = &self.places[worker];
        if !place.has_offers.load(Ordering::Acquire) {
            return Vec::new();
        }
        let Ok(mut offers) = place.offers.try_lock() else { return Vec::new() };
        place.has_offers.store(false, Ordering::Release);
        std::mem::take(&mut *offers)
    }

    /// By a worker.
    pub fn answer(&self, answer: Answer) {
        // There is room for more answers than offers were made.
        let _ = self.answers.0.try_send(answer);
    }

    /// For whoever asks.
    pub fn known(&self) -> Known {
        let known = lock(&self.known).clone();
        Known { unable: known.members.minus(*lock(&self.able)), ..known }
    }

    /// A link to a member says whether that knows documents.
    pub fn note(&self, member: NodeId, knows: bool) {
        let mut able = lock(&self.able);
        *able = if knows { able.with(member) } else { able.without(member) };
    }

    fn offer(&self, offer: &Offer) {
        for place in &self.places {
            let mut offers = lock(&place.offers);
            offers.truncate(WAITING_MAX - 1);
            offers.push(offer.clone());
            place.has_offers.store(true, Ordering::Release);
        }
    }
}

impl Known {
    /// What the operator is shown.
    pub fn report(&self) -> ConfigurationReport {
        let ids = |set: NodeSet| set.iter().map(|node| node.0).collect::<Vec<u8>>();
        let agreed = &self.agreed;
        let proposed = agreed.proposed.as_ref().map(|document| document.generation);
        let awaited = proposed.map_or(NodeSet::EMPTY, |_| self.alive.minus(agreed.prepared));
        let withdrawn = agreed.withdrawn.as_ref().map(|withdrawn| WithdrawnReport {
            generation: withdrawn.generation,
            node: withdrawn.objection.as_ref().map(|objection| objection.node.0),
            reason: withdrawn.objection.as_ref().map(|objection| objection.reason.to_string()),
        });
        ConfigurationReport {
            generation: agreed.active.generation,
            proposed,
            prepared: ids(agreed.prepared),
            awaited: ids(awaited),
            withdrawn,
            held: self.held.clone(),
            trouble: self.trouble.clone(),
        }
    }

    /// The same with the document in force.
    pub fn answer(&self) -> Response {
        let text = String::from_utf8_lossy(&self.agreed.active.bytes).into_owned();
        Response::Configuration { report: self.report(), text }
    }
}

/// The control thread's part.
pub struct Preparation {
    /// None: a witness.
    loader: Option<Loader>,
    /// Of the generations that are in force or proposed.
    stages: BTreeMap<u64, Stage>,
    /// When something was proposed last, and about which generation.
    said: Option<(u64, Duration)>,
    /// When the view was last asked to let a former life go.
    buried_at: Option<Duration>,
    /// The operator was told that this node's own listeners do not count.
    told: bool,
}

enum Stage {
    Loading,
    /// So many workers hold it.
    Offered(usize),
    Held,
    Failed {
        reason: String,
        at: Duration,
    },
}

impl Preparation {
    /// Of a relay, whose own part of documents is `basis`, or of a witness.
    pub fn new(basis: Option<Basis>, inbox: &Sender<Input>) -> io::Result<Preparation> {
        let loader = basis.map(|basis| Loader::start(basis, inbox.clone())).transpose()?;
        let stages = BTreeMap::new();
        Ok(Preparation { loader, stages, said: None, buried_at: None, told: false })
    }

    /// The generation that this node may say it holds when it wants to be a member.
    pub fn joins_with(&self, agreed: &Configuration) -> u64 {
        let active = agreed.active.generation;
        let holds = matches!(self.stages.get(&active), Some(Stage::Held));
        if holds || self.loader.is_none() { active } else { 0 }
    }

    /// Goes on with what is in force and what is proposed; returns what is to be proposed, and whether
    /// anything has changed.
    pub fn attend(
        &mut self,
        now: Duration,
        (view, life): (&View, (NodeId, Incarnation)),
        shelf: &Shelf,
    ) -> (Option<Command>, bool) {
        let mut changed = self.collect(now, shelf);
        if self.loader.is_some() {
            let agreed = &view.configuration;
            let active = Some(&agreed.active).filter(|active| active.generation > 0);
            let wanted: Vec<&Document> = active.into_iter().chain(&agreed.proposed).collect();
            let is_wanted = |of: &u64| wanted.iter().any(|document| document.generation == *of);
            self.stages.retain(|generation, _| is_wanted(generation));
            changed |= wanted.into_iter().fold(false, |any, one| self.begin(now, one) | any);
            self.tell(agreed.active.generation);
        }
        let command = self.say(now, view, life);
        (command, changed)
    }

    /// Whoever restarts takes the place of its former life when it joins. One that can not join yet has
    /// that life ejected: others hear that the node is there, and would wait for a life that is over.
    pub fn bury(
        &mut self,
        now: Duration,
        view: &View,
        ((node, life), seat): ((NodeId, Incarnation), Seat),
    ) -> Option<Command> {
        let member = view.members.get(&node)?;
        let is_former = member.state != State::Dead && member.incarnation != life;
        let agreed = &view.configuration;
        let may_join = self.joins_with(agreed) == agreed.active.generation;
        let asked = self.buried_at.is_some_and(|at| now.saturating_sub(at) < REPEAT);
        // Another disk is another machine's, or was replaced: that is not for this node to say.
        if !is_former || member.seat != seat || may_join || asked {
            return None;
        }
        self.buried_at = Some(now);
        Some(view.eject(NodeSet::of(node), (node, member.incarnation)))
    }

    /// What is known, for who asks.
    pub fn publish(&self, view: &View, shelf: &Shelf) {
        let active = view.configuration.active.generation;
        let trouble = match self.stages.get(&active) {
            Some(Stage::Failed { reason, .. }) => Some(format!(
                "generation {active} of the configuration is in force, and this node cannot apply \
                 it: {reason}. It takes no part until it can"
            )),
            _ => None,
        };
        let held = self.stages.iter().filter(|(_, stage)| matches!(stage, Stage::Held));
        *lock(&shelf.known) = Known {
            is_known: view.number > 0,
            agreed: view.configuration.clone(),
            unable: NodeSet::EMPTY,
            members: view
                .members
                .iter()
                .filter(|(_, member)| member.state != State::Dead)
                .map(|(node, _)| *node)
                .collect(),
            alive: view.alive(),
            held: held.map(|(generation, _)| *generation).collect(),
            trouble,
        };
    }

    /// What the loader and the worker have done.
    fn collect(&mut self, now: Duration, shelf: &Shelf) -> bool {
        let mut changed = false;
        let loaded = self.loader.as_ref().map(|loader| loader.done.try_iter());
        for (generation, result) in loaded.into_iter().flatten() {
            let Some(stage) = self.stages.get_mut(&generation) else { continue };
            changed = true;
            match result {
                Ok(loaded) => {
                    for warning in &loaded.document.warnings {
                        tracing::warn!(generation, "configuration: {warning}");
                    }
                    *stage = Stage::Offered(0);
                    shelf.offer(&Offer { generation, listeners: loaded.listeners });
                }
                Err(reason) => *stage = fail(now, generation, reason),
            }
        }
        for (generation, answer) in shelf.answers.1.try_iter() {
            let Some(stage) = self.stages.get_mut(&generation) else { continue };
            changed = true;
            match answer {
                Ok(()) => {
                    let Stage::Offered(held) = stage else { continue };
                    *held += 1;
                    if *held >= shelf.places.len() {
                        tracing::info!(generation, "configuration: this node holds it");
                        *stage = Stage::Held;
                    }
                }
                Err(reason) => *stage = fail(now, generation, reason),
            }
        }
        changed
    }

    /// Has a document loaded that was not yet, or that failed a while ago although it is in force.
    fn begin(&mut self, now: Duration, document: &Document) -> bool {
        let Some(loader) = &self.loader else { return false };
        let is_due = match self.stages.get(&document.generation) {
            None => true,
            Some(Stage::Failed { at, .. }) => now.saturating_sub(*at) >= RELOAD,
            Some(Stage::Loading | Stage::Offered(_) | Stage::Held) => false,
        };
        // A loader that hangs on a file system takes nothing more; then it is tried again.
        let begun = is_due && loader.begin(document);
        if begun {
            self.stages.insert(document.generation, Stage::Loading);
        }
        begun
    }

    /// What this node has to say about the proposed document, as a member.
    fn say(&mut self, now: Duration, view: &View, life: (NodeId, Incarnation)) -> Option<Command> {
        let generation = view.configuration.proposed.as_ref()?.generation;
        if !view.names(life.0, life.1) || view.configuration.prepared.contains(life.0) {
            return None;
        }
        let command = match self.stages.get(&generation)? {
            Stage::Held => Command::Prepared { node: life, generation },
            Stage::Failed { reason, .. } => {
                let objection = Some(Objection::new(life.0, reason));
                Command::Withdraw { generation, objection }
            }
            Stage::Loading | Stage::Offered(_) => return None,
        };
        let is_new = self
            .said
            .is_none_or(|(about, at)| about != generation || now.saturating_sub(at) >= REPEAT);
        if is_new {
            self.said = Some((generation, now));
        }
        is_new.then_some(command)
    }

    fn tell(&mut self, active: u64) {
        if active > 0 && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                generation = active,
                "configuration: the cluster agrees on its listeners: those of this node's own file \
                 are not used"
            );
        }
    }
}

fn fail(now: Duration, generation: u64, reason: String) -> Stage {
    tracing::error!(generation, "configuration: this node cannot apply it: {reason}");
    Stage::Failed { reason, at: now }
}

/// The thread that reads documents' files and checks their keys.
struct Loader {
    jobs: Sender<Document>,
    done: Receiver<(u64, Result<Loaded, String>)>,
}

impl Loader {
    fn start(basis: Basis, inbox: Sender<Input>) -> io::Result<Loader> {
        let (jobs, queue) = bounded::<Document>(WAITING_MAX);
        let (results, done) = bounded(WAITING_MAX);
        // It ends with `jobs`. Nobody waits for it: a file system may keep it for ever.
        thread::Builder::new().name("configuration".to_owned()).spawn(move || {
            for document in queue {
                let name = format!("configuration {}", document.generation);
                let loaded = document::load(&document.bytes, &name, &basis);
                let result = loaded.map_err(|mistake| mistake.to_string());
                if results.send((document.generation, result)).is_err() {
                    return;
                }
                // In a full inbox there is something to wake up for already.
                let _ = inbox.try_send(Input::Wake);
            }
        })?;
        Ok(Loader { jobs, done })
    }

    fn begin(&self, document: &Document) -> bool {
        self.jobs.try_send(document.clone()).is_ok()
    }
}

/// Nothing that is done under these locks leaves a half of it behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
