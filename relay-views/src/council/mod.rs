//! The council: consensus about views, sans-IO.
//!
//! [`Council`] wraps the engine (raft-rs) and keeps its traps away from the caller:
//!
//! - Inputs are `handle_*`, [`Council::propose`], [`Council::suspect`] and [`Council::enlist`]. Each
//!   takes the time, a duration since an epoch of the caller's choice that never runs backwards.
//! - After any input, poll until nothing is left: [`Council::poll_message`], then
//!   [`Council::poll_batch`]. A batch has to be in the log before [`Council::written`] is called,
//!   and messages that depend on it come out only then. [`Council::run`] does all of this.
//! - A batch that can not be written stays; until it is, the council takes no input: it abstains.
//! - [`Council::poll_event`] tells of views and decisions, [`Council::next_timeout`] when to call
//!   [`Council::handle_timeout`] at the latest.

mod duties;
mod election;
mod persist;
mod proposals;
mod readmission;
mod reports;
mod store;
pub mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{ConfState, Message, Snapshot};
use raft::{Config, RawNode, StateRole};

use self::proposals::Proposals;
use self::store::Store;
use self::wire::{Parcel, Proposal};
use crate::command::{Candidate, Command, Refusal};
use crate::id::{NodeId, NodeSet, Seat};
use crate::log::{Batch, Failure, Log, Memory, Record};
use crate::random::mix;
use crate::source::ViewSource;
use crate::view::View;

pub use self::store::Inconsistent;

/// Time between ticks of the engine.
pub const TICK: Duration = Duration::from_millis(5);

/// A leader that was heard within this time leads still: an election takes longer.
const FRESH: Duration = Duration::from_millis(8 * TICK.as_millis() as u64);

/// A wake-up that is late by as much shows that this node was paused.
const LATE: Duration = Duration::from_millis(20);

/// Ticks between heartbeats of a leader.
const HEARTBEAT_TICKS: usize = 2;

/// Ticks of silence after which a follower asks for votes on its own: 100 to 200 ms. Shorter times
/// made leaders of a busy machine lose their office for no reason; who suspects asks sooner.
const ELECTION_TICKS: usize = 20;
const ELECTION_TICKS_MAX: usize = 2 * ELECTION_TICKS;

/// Entries of one message, in bytes; a single one may be longer.
const APPEND_MAX: u64 = 256 * 1024;

/// Appends on their way to one follower.
const INFLIGHT_MAX: usize = 64;

/// Entries that a leader takes before they are committed, in bytes.
const UNCOMMITTED_MAX: u64 = 4 * 1024 * 1024;

/// Messages that wait to be polled; more are lost, as on a network.
const OUTBOX_MAX: usize = 4096;

/// Events that wait to be polled. Views are not lost: only the newest one counts.
const EVENTS_MAX: usize = 1024;

// A message with the longest batch of entries and one longest entry is still one.
const _: () = assert!(APPEND_MAX as usize + wire::ENTRY_MAX + 64 * 1024 < wire::MESSAGE_MAX);

/// How a council behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose seat it is. A log remembers it, see [`Memory`].
    pub seat: Seat,
    /// Whether this node only votes: it is elected leader only if it must be.
    pub witness: bool,
    /// Nodes to turn to as long as no leader is known.
    pub contacts: Vec<NodeId>,
    /// Where draws come from: the same for the same run, different at every node and start.
    pub entropy: u64,
    /// A leader that was silent for this long may be voted out. For a witness, which has no
    /// heartbeats but these; relays suspect sooner, by the workers' heartbeats.
    pub patience: Duration,
    /// The leader takes a seat for dead whose council was silent for this long, if no heartbeats of
    /// workers can tell: a witness, or a node that is back with another disk.
    pub witness_timeout: Duration,
    /// The same for a relay's council whose workers are heard: longer, since its connections pay for
    /// a mistake.
    pub council_timeout: Duration,
    /// Stalled buckets are given up after this time (rule 18).
    pub loss_timeout: Duration,
    /// Entries after which the log is rewritten, beginning with a snapshot.
    pub compact_after: usize,
}

impl Settings {
    /// What is good for most: everything but the name of the seat, whom to turn to, and a number
    /// drawn at random.
    pub fn new(seat: Seat, contacts: Vec<NodeId>, entropy: u64) -> Settings {
        Settings {
            seat,
            witness: false,
            contacts,
            entropy,
            patience: TICK * 3,
            witness_timeout: Duration::from_secs(1),
            council_timeout: Duration::from_secs(3),
            loss_timeout: Duration::from_secs(10),
            compact_after: 1024,
        }
    }
}

/// A message for another node's council.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Whose.
    pub to: NodeId,
    /// Give this to its [`Council::handle_message`]. At most [`wire::MESSAGE_MAX`].
    pub bytes: Vec<u8>,
}

/// The author's name for a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What became known.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A view was committed. Every number is told, but after a snapshot or a restart.
    View(Arc<View>),
    /// A proposal of this council was decided: the number of the view that it made, or why not.
    Decided(Ticket, Result<u64, Refusal>),
    /// Nothing was heard of a proposal for long. It may be decided yet.
    Expired(Ticket),
}

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// A batch waits for the log: this node abstains.
    #[error("this node abstains until its log can be written")]
    Abstaining,
    /// It contradicts what is known to be committed, or itself.
    #[error("it contradicts what is committed")]
    Contradiction,
    /// Its sender is not who sent it, or it is for another seat of this node.
    #[error("it is from or for another seat")]
    Misaddressed,
    /// No council writes such bytes.
    #[error("malformed")]
    Malformed,
    /// The engine takes no part in it.
    #[error("not expected")]
    Unexpected,
}

/// What an operator wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The engine's term.
    pub term: u64,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Who votes.
    pub voters: Vec<Seat>,
    /// Who is told, but does not vote.
    pub learners: Vec<Seat>,
    /// Whether a batch could not be written yet.
    pub abstains: bool,
    /// Why this node is not a member although it wants to be.
    pub refused: Option<Refusal>,
}

/// One voter's part in the consensus.
pub struct Council {
    settings: Settings,
    raw: RawNode<Store>,
    /// What the log has to take before anything else happens.
    waiting: Option<persist::Waiting>,
    /// A commit index that the log does not know yet.
    unsaved: bool,
    outbox: VecDeque<Outgoing>,
    events: VecDeque<Event>,
    shown: u64,
    proposals: Proposals,
    now: Duration,
    next_tick: Duration,
    /// Of whom the data plane hears nothing, and when somebody was added to them last.
    silent: NodeSet,
    silent_since: Duration,
    /// When to ask for votes, if nothing changes.
    campaign_at: Option<Duration>,
    /// When a seat was heard last: the leader, and at the leader everybody.
    heard: BTreeMap<Seat, Duration>,
    /// Which leader is heard without a gap, and since when.
    listens_since: Option<(Seat, Duration)>,
    /// When this node noticed last that it had not run: what it heard before says nothing.
    woke: Option<Duration>,
    /// Since when this node leads.
    leads_since: Option<Duration>,
    /// Membership that this node wants, and is proposed until it has it.
    wish: Option<Candidate>,
    duties: duties::Duties,
}

/// The first batch of a new cluster's log, for every seat that is to decide from the start: one
/// suffices, others are added when they join. Never for a node that may have voted before.
pub fn found(voters: &[Seat], view: &View) -> Batch {
    let voters = voters.iter().map(|seat| seat.number()).collect();
    let configuration = ConfState { voters, ..ConfState::default() };
    let data = view.encode().into();
    let mut snapshot = Snapshot { data, ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (1, 1);
    metadata.set_conf_state(configuration);
    Batch { records: vec![Record::Snapshot(snapshot)], sync: true, replace: true }
}

impl Council {
    /// The council of a seat with what its log remembers. A seat whose log is blank takes part
    /// when those who know the cluster tell it.
    pub fn new(settings: Settings, memory: &Memory, now: Duration) -> Result<Self, Inconsistent> {
        if memory.seat != settings.seat {
            return Err(Inconsistent("the log belongs to another seat"));
        }
        let store = Store::restore(&memory.records)?;
        let config = Config {
            id: settings.seat.number(),
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: ELECTION_TICKS,
            max_election_tick: ELECTION_TICKS_MAX,
            applied: store.applied(),
            max_size_per_msg: APPEND_MAX,
            max_inflight_msgs: INFLIGHT_MAX,
            max_uncommitted_size: UNCOMMITTED_MAX,
            check_quorum: true,
            pre_vote: true,
            priority: if settings.witness { -1 } else { 0 },
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, store, &logger)
            .map_err(|_| Inconsistent("the engine refuses the log"))?;
        let proposals = Proposals::new(mix(settings.entropy));
        let mut council = Council {
            settings,
            raw,
            waiting: None,
            unsaved: false,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            shown: 0,
            proposals,
            now,
            next_tick: now + TICK,
            silent: NodeSet::EMPTY,
            silent_since: now,
            campaign_at: None,
            heard: BTreeMap::new(),
            listens_since: None,
            woke: None,
            leads_since: None,
            wish: None,
            duties: duties::Duties::default(),
        };
        if council.view().number > 0 {
            council.events.push_back(Event::View(Arc::clone(council.view())));
        }
        council.draw_timeout();
        Ok(council)
    }

    /// The newest view that this node knows to be committed.
    pub fn view(&self) -> &Arc<View> {
        self.raw.store().view()
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether, as far as this node can know, no view is in force that it has not been told of for
    /// longer than [`FRESH`]: it leads a majority that it hears, or hears the leader.
    pub fn is_current(&self, now: Duration) -> bool {
        let is_fresh = |at: Duration| now.saturating_sub(at) < FRESH;
        if self.woke.is_some_and(is_fresh) {
            return false;
        }
        if self.is_leader() {
            let heard = self.heard.iter().filter(|(_, at)| is_fresh(**at));
            let heard = heard.map(|(seat, _)| seat.number());
            let heard = heard.chain([self.settings.seat.number()]).collect();
            // What a former leader has decided is known when something of its own is decided.
            return self.raw.raft.commit_to_current_term()
                && self.raw.raft.prs().has_quorum(&heard);
        }
        let leader = self.leading_seat();
        let at = leader.and_then(|leader| self.heard.get(&leader)).copied();
        // A leader that is heard again sends what was missed only when it has heard of us, too.
        let listens = self.listens_since.filter(|(seat, _)| Some(*seat) == leader);
        at.is_some_and(is_fresh) && listens.is_some_and(|(_, since)| !is_fresh(since))
    }

    /// What an operator wants to know.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let configuration = raft.prs().conf().to_conf_state();
        let seats = |numbers: &[u64]| {
            let mut seats: Vec<_> = numbers.iter().filter_map(|n| Seat::from_number(*n)).collect();
            seats.sort_unstable();
            seats
        };
        Status {
            term: raft.term,
            leader: self.leader(),
            voters: seats(&configuration.voters),
            learners: seats(&configuration.learners),
            abstains: self.waiting.is_some(),
            refused: self.proposals.refused(),
        }
    }

    /// When to call [`Council::handle_timeout`] at the latest.
    pub fn next_timeout(&self) -> Duration {
        let campaign = self.campaign_at.filter(|_| self.waiting.is_none());
        campaign.map_or(self.next_tick, |at| at.min(self.next_tick))
    }

    /// Time passed. Call [`Council::run`] afterwards even if this node abstains: it tries again.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.waiting.is_some() {
            self.next_tick = self.next_tick.max(now + TICK);
            return;
        }
        self.campaign_when_due();
        if now < self.next_tick {
            return;
        }
        self.excuse(now.saturating_sub(self.next_tick));
        // One tick for each late wake-up: a thread that did not run must not time others out.
        let next = self.next_tick + TICK;
        self.next_tick = if next < now { now + TICK } else { next };
        self.raw.tick();
        self.draw_timeout();
        self.notice_silence();
        if self.hears_leader() {
            self.eject_silent();
        }
        self.attend_proposals();
        let leads_since = self.is_leader().then(|| self.leads_since.unwrap_or(self.now));
        if self.leads_since != leads_since {
            self.leads_since = leads_since;
            // Nobody else was listened to before, and nobody else will be from now on.
            self.heard.clear();
            self.duties = duties::Duties::default();
        }
        if self.is_leader() {
            self.attend_duties();
        }
    }

    /// A message arrived that `from` is known to have sent.
    pub fn handle_message(
        &mut self,
        now: Duration,
        from: NodeId,
        bytes: &[u8],
    ) -> Result<(), Dropped> {
        self.now = self.now.max(now);
        if self.waiting.is_some() {
            return Err(Dropped::Abstaining);
        }
        match Parcel::decode(bytes).map_err(|_| Dropped::Malformed)? {
            Parcel::Raft(message) => self.step(from, message),
            Parcel::Proposal(proposal) => {
                let by_author = proposal.author.node() == from;
                if !by_author && !proposal.forwarded {
                    return Err(Dropped::Misaddressed);
                }
                self.take_proposal(proposal);
                Ok(())
            }
        }
    }

    /// Proposes a change, and keeps proposing it until it is decided or expires.
    pub fn propose(&mut self, now: Duration, command: Command) -> Ticket {
        self.now = self.now.max(now);
        let author = self.settings.seat;
        let (ticket, expired) = self.proposals.add(self.now, author, command);
        self.tell(expired.map(Event::Expired));
        if self.waiting.is_none() {
            self.attend_proposals();
        }
        ticket
    }

    /// Whom the data plane hears nothing of at present: they are to be ejected, and are no leaders.
    pub fn suspect(&mut self, now: Duration, silent: NodeSet) {
        self.now = self.now.max(now);
        let news = silent.minus(self.silent);
        self.silent = silent.without(self.settings.seat.node());
        if !news.is_empty() {
            self.silent_since = self.now;
        }
        if self.waiting.is_some() {
            return;
        }
        if !news.is_empty() {
            // Who answers shows that it is not this leader who is deaf.
            self.raw.ping();
        }
        if self.leader().is_some_and(|leader| news.contains(leader)) {
            self.prepare_campaign();
        }
        if self.is_leader() {
            self.attend_duties();
        } else if !news.is_empty() && self.hears_leader() {
            self.eject_silent();
            self.attend_proposals();
        }
    }

    /// Wants to be a member, or leaves it to others with `None`. Proposed until the view agrees.
    pub fn enlist(&mut self, now: Duration, wish: Option<Candidate>) {
        self.now = self.now.max(now);
        self.wish = wish;
        if self.waiting.is_none() {
            self.attend_proposals();
        }
    }

    /// The next message to send.
    #[must_use]
    pub fn poll_message(&mut self) -> Option<Outgoing> {
        self.outbox.pop_front()
    }

    /// What became known.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Writes and sends whatever follows from the inputs. After an error the node abstains; the
    /// next call tries again.
    pub fn run(
        &mut self,
        log: &mut dyn Log,
        send: &mut dyn FnMut(Outgoing),
    ) -> Result<(), Failure> {
        loop {
            let batch = self.poll_batch();
            let batch = batch.cloned();
            // The leader's messages do not wait for its own disk.
            while let Some(message) = self.poll_message() {
                send(message);
            }
            let Some(batch) = batch else { return Ok(()) };
            log.write(&batch)?;
            self.written();
        }
    }

    fn step(&mut self, from: NodeId, message: Message) -> Result<(), Dropped> {
        let sender = Seat::from_number(message.from);
        let addressed = message.to == self.settings.seat.number();
        if sender.is_none_or(|seat| seat.node() != from) || !addressed {
            return Err(Dropped::Misaddressed);
        }
        if !self.is_consistent(&message) {
            return Err(Dropped::Contradiction);
        }
        let known = self.raw.raft.prs().get(message.from).is_some();
        let stepped = self.raw.step(message);
        self.draw_timeout();
        let leads = sender.map(Seat::number) == Some(self.raw.raft.leader_id);
        if let Some(seat) = sender.filter(|_| known || leads) {
            let before = self.heard.insert(seat, self.now);
            if leads {
                self.listen(seat, before);
            }
        }
        if self.is_leader() && !self.silent.is_empty() {
            self.eject_silent();
            self.attend_proposals();
        }
        stepped.map_err(|_| Dropped::Unexpected)
    }

    /// The leader is heard, and was heard before then.
    fn listen(&mut self, leader: Seat, before: Option<Duration>) {
        let goes_on = self.listens_since.is_some_and(|(seat, _)| seat == leader)
            && before.is_some_and(|at| self.now.saturating_sub(at) < FRESH);
        if !goes_on {
            self.listens_since = Some((leader, self.now));
        }
    }

    /// What others said while this node did not run is not their silence.
    fn excuse(&mut self, late: Duration) {
        if late < LATE {
            return;
        }
        self.woke = Some(self.now);
        let since = self.heard.values_mut().chain(&mut self.leads_since);
        since.for_each(|at| *at = (*at + late).min(self.now));
    }

    fn leader(&self) -> Option<NodeId> {
        self.leading_seat().map(Seat::node)
    }

    fn leading_seat(&self) -> Option<Seat> {
        Seat::from_number(self.raw.raft.leader_id)
    }

    fn send(&mut self, to: NodeId, parcel: &Parcel) {
        if self.outbox.len() < OUTBOX_MAX {
            self.outbox.push_back(Outgoing { to, bytes: parcel.encode() });
        }
    }

    fn tell(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            if self.events.len() == EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back(event);
        }
    }

    fn take_proposal(&mut self, proposal: Proposal) {
        if self.is_leader() {
            self.propose_now(&proposal);
            return;
        }
        let leader = self.leader().filter(|leader| *leader != self.settings.seat.node());
        if let Some(leader) = leader.filter(|_| !proposal.forwarded) {
            self.send(leader, &Parcel::Proposal(Proposal { forwarded: true, ..proposal }));
        }
    }
}

impl ViewSource for Council {
    fn next_view(&mut self, now: Duration) -> Option<Arc<View>> {
        self.now = self.now.max(now);
        let view = Arc::clone(self.view());
        (view.number > self.shown).then(|| {
            self.shown = view.number;
            view
        })
    }

    fn propose(&mut self, now: Duration, command: Command) {
        Council::propose(self, now, command);
    }

    fn suspect(&mut self, now: Duration, silent: NodeSet) {
        Council::suspect(self, now, silent);
    }
}
