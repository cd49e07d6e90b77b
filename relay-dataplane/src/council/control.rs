//! The control thread: gives the council time, messages and the worker's wishes, writes its log,
//! and tells everybody what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use relay_abi::control::{CouncilMember, CouncilReport, DEFAULT_WEIGHT, MAX_WEIGHT};
use relay_views::View;
use relay_views::command::{Candidate, Refusal};
use relay_views::council::{Council, Event, Settings, Status, TICK, found};
use relay_views::id::{Incarnation, NodeId, NodeSet, Seat};
use relay_views::log::{Log, Memory};
use relay_views::view::{Kind, State};

use super::configuration::Preparation;
use super::counters::{Complaints, count};
use super::desk::Desk;
use super::founding::{Founding, Outcome};
use super::frame::Greeting;
use super::link::{Input, Links};
use super::vouch::Vouch;
use super::{Error, kind_name, random};
use crate::config;

/// Messages that are taken before what follows from them is written and sent: one write to the disk
/// is enough for all of them.
const MESSAGES_PER_TURN: usize = 64;

// The operator's limit is the council's.
const _: () = assert!(MAX_WEIGHT == relay_views::view::WEIGHT_MAX);

/// How long a leader whose worker hangs waits for the view that says so.
const FAREWELL: Duration = Duration::from_millis(100);

/// Everything that the control thread owns, but for its links.
pub struct Control {
    began: Instant,
    life: (NodeId, Incarnation),
    own: config::Member,
    /// Units of a cluster that is founded here.
    units: u8,
    members: NodeSet,
    log: Box<dyn Log + Send>,
    memory: Memory,
    settings: Settings,
    stage: Stage,
    inbox: Receiver<Input>,
    desk: Arc<Desk>,
    preparation: Preparation,
    vouch: Vouch,
    /// When the worker began to hang.
    hangs_since: Option<Duration>,
    /// The worker ends, as it was asked to.
    leaves: bool,
    /// What the council was told last about whom the worker does not hear.
    silent: NodeSet,
    /// What keeps this node from taking part.
    trouble: Option<String>,
    complaints: Complaints,
    reported: Option<(Status, u64)>,
    /// The members of the view that was logged last.
    described: String,
}

enum Stage {
    /// The log is blank, and nobody is known to know a cluster.
    Waiting(Founding),
    Sitting(Box<Council>),
}

impl Control {
    pub fn new(
        config: &config::Council,
        life: (NodeId, Incarnation),
        (log, memory): (Box<dyn Log + Send>, Memory),
        (inbox, waker): (Receiver<Input>, &Sender<Input>),
        desk: Arc<Desk>,
    ) -> Result<Control, Error> {
        let own = config.own().clone();
        desk.shelf.note(life.0, true);
        let all = config.members.iter();
        let members: NodeSet = all.clone().map(|member| NodeId(member.id)).collect();
        let voters = all.filter(|member| member.votes).map(|member| NodeId(member.id)).collect();
        let settings = Settings {
            witness: own.kind == Kind::Witness,
            ..Settings::new(memory.seat, members.iter().collect(), random()?)
        };
        let stage = if memory.records.is_empty() {
            let greeting = Greeting {
                node: life.0,
                seat: memory.seat,
                blank: true,
                members,
                units: config.units,
            };
            Stage::Waiting(Founding::new(greeting, voters))
        } else {
            let council = Council::new(settings.clone(), &memory, Duration::ZERO);
            Stage::Sitting(Box::new(council.map_err(|cause| Error::Inconsistent {
                directory: config.directory.display().to_string(),
                cause: cause.to_string(),
            })?))
        };
        let limit = (own.kind == Kind::Relay).then_some(config.worker_timeout);
        Ok(Control {
            began: Instant::now(),
            life,
            units: config.units,
            own,
            members,
            log,
            memory,
            settings,
            stage,
            inbox,
            preparation: Preparation::new(config.documents.clone(), waker)?,
            desk,
            vouch: Vouch::new(limit, Duration::ZERO),
            hangs_since: None,
            leaves: false,
            silent: NodeSet::EMPTY,
            trouble: None,
            complaints: Complaints::default(),
            reported: None,
            described: String::new(),
        })
    }

    /// Until the worker's end is dropped.
    pub fn run(mut self, links: Links) {
        self.enlist();
        while !self.desk.is_stopped() {
            let wait = self.next_timeout().saturating_sub(self.now());
            match self.inbox.recv_timeout(wait) {
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            for _ in 1..MESSAGES_PER_TURN {
                let Ok(input) = self.inbox.try_recv() else { break };
                self.take(input);
            }
            self.turn(&links);
        }
        // Threads that wait for room in it end with it.
        drop(self.inbox);
        links.stop();
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn next_timeout(&self) -> Duration {
        match &self.stage {
            Stage::Waiting(_) => self.now() + TICK,
            Stage::Sitting(council) => council.next_timeout(),
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        match (input, &mut self.stage) {
            (Input::Wake, _) => {}
            (Input::Greeting(greeting), Stage::Waiting(founding)) => founding.hear(greeting),
            (Input::Greeting(_), Stage::Sitting(_)) => {}
            // Who does not know yet whether there is a cluster must not vote in it.
            (Input::Message(..), Stage::Waiting(_)) => count(&self.desk.counters.dropped),
            (Input::Message(from, bytes), Stage::Sitting(council)) => {
                if let Err(reason) = council.handle_message(now, from, &bytes) {
                    count(&self.desk.counters.dropped);
                    tracing::trace!(%from, %reason, "council: a message is dropped");
                }
            }
        }
    }

    fn turn(&mut self, links: &Links) {
        if let Stage::Waiting(founding) = &self.stage {
            let outcome = founding.outcome();
            self.found(outcome, links);
        }
        self.watch_worker();
        self.obey_worker();
        let now = self.now();
        if let Stage::Sitting(council) = &mut self.stage {
            if council.next_timeout() <= now {
                council.handle_timeout(now);
            }
            let written = council.run(self.log.as_mut(), &mut |out| links.send(out.to, out.bytes));
            self.note_trouble(written.err().map(|failure| failure.to_string()));
        }
        self.tell();
        self.prepare();
        if let Stage::Sitting(council) = &self.stage
            && council.is_current(self.now())
        {
            self.desk.vouch();
        }
    }

    /// Begins, if it is known how.
    fn found(&mut self, outcome: Outcome, links: &Links) {
        let seats = match outcome {
            Outcome::Wait(missing) => {
                let text = format!(
                    "council: the vote log is blank: waits for {} to found the cluster, or for a \
                     node that knows it",
                    names(missing)
                );
                return self.wait(text);
            }
            Outcome::Disagree(node, theirs) => {
                let text = format!(
                    "council: node {node} names {} as members, this node {}: write the same \
                     cluster.council.member everywhere",
                    names(theirs.iter()),
                    names(self.members.iter())
                );
                return self.wait(text);
            }
            Outcome::DisagreeOnUnits(node, theirs) => {
                let text = format!(
                    "council: node {node} names {theirs} units, this node {}: write the same \
                     cluster.council.units everywhere",
                    self.units
                );
                return self.wait(text);
            }
            Outcome::Found(seats) => Some(seats),
            Outcome::Join => None,
        };
        if let Some(seats) = &seats {
            let batch = found(seats, &View::genesis_of(self.units.into()));
            if let Err(failure) = self.log.write(&batch) {
                return self.wait(failure.to_string());
            }
            self.memory.records = batch.records;
        }
        match Council::new(self.settings.clone(), &self.memory, self.now()) {
            Ok(council) => self.stage = Stage::Sitting(Box::new(council)),
            Err(cause) => return self.wait(cause.to_string()),
        }
        match seats {
            Some(seats) => {
                let voters = names(seats.into_iter().map(Seat::node));
                tracing::info!(%voters, "council: the cluster is founded");
            }
            None => tracing::info!("council: there is a cluster: this node joins it"),
        }
        self.trouble = None;
        let (node, seat, members) = (self.life.0, self.memory.seat, self.members);
        links.greet(Greeting { node, seat, blank: false, members, units: self.units });
        self.enlist();
    }

    fn wait(&mut self, text: String) {
        self.complaints.warn(&text);
        if self.trouble.as_ref() != Some(&text) {
            self.desk.publish(CouncilReport { trouble: Some(text.clone()), ..self.blank_report() });
        }
        self.trouble = Some(text);
    }

    fn watch_worker(&mut self) {
        let now = self.now();
        if self.desk.leaves() {
            return self.leave(now);
        }
        if self.vouch.look(now, self.desk.calls()) {
            if self.vouch.vouches() {
                tracing::info!("council: the worker is there: this node may be a member");
                self.hangs_since = None;
                self.silent = NodeSet::EMPTY;
            } else {
                tracing::error!(
                    "council: a worker hangs: this node takes itself out of the cluster"
                );
                count(&self.desk.counters.worker_hung);
                self.hangs_since = Some(now);
                self.report_oneself(now);
            }
            self.enlist();
        }
        let Stage::Sitting(council) = &mut self.stage else { return };
        let Some(since) = self.hangs_since else { return council.stand_back(now, false) };
        // As long as this node leads it can see to it that others take over; then others lead.
        let out = !council.view().names(self.life.0, self.life.1);
        if out || now.saturating_sub(since) > FAREWELL {
            council.stand_back(now, true);
        }
    }

    /// The worker ends as it was asked to: this node is no member from now on, and leads no more when
    /// others know.
    fn leave(&mut self, now: Duration) {
        let was_leaving = std::mem::replace(&mut self.leaves, true);
        if !was_leaving {
            self.report_oneself(now);
            self.enlist();
        }
        if let Stage::Sitting(council) = &mut self.stage
            && !council.view().names(self.life.0, self.life.1)
        {
            council.stand_back(now, true);
        }
    }

    fn report_oneself(&mut self, now: Duration) {
        let Stage::Sitting(council) = &mut self.stage else { return };
        // What it heard before it hung is no news of others.
        council.suspect(now, NodeSet::EMPTY);
        if council.view().names(self.life.0, self.life.1) {
            let eject = council.view().eject(NodeSet::of(self.life.0), self.life);
            council.propose(now, eject);
        }
    }

    fn obey_worker(&mut self) {
        let (now, silent) = (self.now(), self.desk.silent());
        let Stage::Sitting(council) = &mut self.stage else { return };
        if silent != self.silent && self.vouch.vouches() {
            match silent.is_empty() {
                true => tracing::info!("council: the worker hears everybody again"),
                false => {
                    let silent = names(silent.iter());
                    tracing::info!(%silent, "council: the worker hears nothing of some");
                }
            }
            self.silent = silent;
            council.suspect(now, silent);
        }
        for command in self.desk.proposals() {
            council.propose(now, command);
        }
    }

    /// Goes on with the configuration that is in force, and with the proposed one.
    fn prepare(&mut self) {
        let now = self.now();
        let Stage::Sitting(council) = &mut self.stage else { return };
        let view = Arc::clone(council.view());
        let shelf = &self.desk.shelf;
        let (command, changed) = self.preparation.attend(now, (&view, self.life), shelf);
        let own = (self.life, self.memory.seat);
        for command in command.into_iter().chain(self.preparation.bury(now, &view, own)) {
            council.propose(now, command);
        }
        if changed {
            self.desk.wake_workers();
            self.reported = None;
            self.enlist();
            self.report();
        }
    }

    /// Wants to be a member with the configuration that is in force, or not at all. Who asks with another
    /// one is refused, and shown the view.
    fn enlist(&mut self) {
        let now = self.now();
        let Stage::Sitting(council) = &mut self.stage else { return };
        let candidate = Candidate {
            node: self.life.0,
            incarnation: self.life.1,
            seat: self.memory.seat,
            kind: self.own.kind,
            votes: self.own.votes,
            weight: DEFAULT_WEIGHT,
            generation: self.preparation.joins_with(&council.view().configuration),
        };
        let is_wanted = self.vouch.vouches() && !self.leaves;
        council.enlist(now, is_wanted.then_some(candidate));
    }

    fn note_trouble(&mut self, trouble: Option<String>) {
        match &trouble {
            Some(text) if self.trouble.as_ref() != Some(text) => tracing::error!("council: {text}"),
            None if self.trouble.is_some() => tracing::info!("council: the vote log is written"),
            _ => {}
        }
        if trouble != self.trouble {
            self.reported = None;
        }
        self.trouble = trouble;
    }

    /// Tells the worker and the operator what is new.
    fn tell(&mut self) {
        let Stage::Sitting(council) = &mut self.stage else { return };
        let mut newest = None;
        while let Some(event) = council.poll_event() {
            match event {
                Event::View(view) => newest = Some(view),
                Event::Decided(_, decision) => tracing::debug!(?decision, "council: decided"),
                Event::Expired(_) => tracing::debug!("council: a proposal expired"),
            }
        }
        if let Some(view) = newest {
            let members = describe(&view);
            // Owners and backups change often while buckets move.
            if members == self.described {
                tracing::debug!(view = view.number, "council: a new view");
            } else {
                tracing::info!(view = view.number, %members, "council: a new view");
            }
            self.described = members;
            self.desk.show(&view);
            self.enlist();
        }
        self.report();
    }

    fn report(&mut self) {
        let Stage::Sitting(council) = &self.stage else { return };
        let (status, view) = (council.status(), Arc::clone(council.view()));
        let now = (status, view.number);
        if self.reported.as_ref() == Some(&now) {
            return;
        }
        let before = self.reported.as_ref().map(|(status, _)| status);
        let status = &now.0;
        if before.is_some_and(|before| before.leader != status.leader) {
            tracing::info!(leader = ?status.leader, term = status.term, "council: who leads");
        }
        if before.is_none_or(|before| before.refused != status.refused) {
            complain(self.life.0, status.refused);
        }
        let member = |(node, member): (&NodeId, &relay_views::view::Member)| CouncilMember {
            id: node.0,
            kind: kind_name(member.kind).to_owned(),
            state: state_name(member.state).to_owned(),
            incarnation: member.incarnation.to_string(),
            votes: status.voters.contains(&member.seat),
            weight: member.weight,
        };
        let refused = status.refused.map(|refusal| refusal.to_string());
        self.preparation.publish(&view, &self.desk.shelf);
        let configuration = self.desk.shelf.known().report();
        let trouble = self.trouble.clone().or_else(|| configuration.trouble.clone());
        self.desk.publish(CouncilReport {
            leader: status.leader.map(|node| node.0),
            term: status.term,
            view: view.number,
            members: view.members.iter().map(member).collect(),
            trouble: trouble.or(refused),
            configuration: Some(configuration),
            ..self.blank_report()
        });
        self.reported = Some(now);
    }

    fn blank_report(&self) -> CouncilReport {
        CouncilReport {
            kind: kind_name(self.own.kind).to_owned(),
            seat: self.memory.seat.to_string(),
            ..CouncilReport::default()
        }
    }
}

/// A refusal that somebody has to do something about; the others pass.
fn complain(node: NodeId, refused: Option<Refusal>) {
    match refused {
        Some(Refusal::Alive) => tracing::error!(
            "council: this node is refused: node {node} is alive with another disk: two machines \
             have one id, unless this one's disk was replaced just now"
        ),
        Some(refusal) => tracing::warn!(%refusal, "council: this node is refused"),
        None => {}
    }
}

fn names(nodes: impl IntoIterator<Item = NodeId>) -> String {
    let all: Vec<_> = nodes.into_iter().map(|node| node.to_string()).collect();
    format!("nodes {}", all.join(", "))
}

fn describe(view: &View) -> String {
    let one = |(node, member): (&NodeId, &relay_views::view::Member)| {
        format!("{node} {}", state_name(member.state))
    };
    view.members.iter().map(one).collect::<Vec<_>>().join(", ")
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Joining => "joining",
        State::Live => "live",
        State::Draining => "draining",
        State::Dead => "dead",
    }
}
