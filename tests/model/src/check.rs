//! What must hold in every state, and that every state can be brought to an end.

use std::fmt;

use crate::state::{Config, Direction, Message, State};
use crate::step::{Transition, apply, enabled};

/// What a run must never break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invariant {
    /// One (key, sequence number) protects one record, whoever seals it.
    NonceUsedTwice,
    /// The client gets each byte once, in order.
    StreamBroken,
    /// What was acknowledged to the sending end was received by the other, or every eligible node
    /// holds it.
    ByteLost,
    /// One backend gets the request.
    ExecutedTwice,
    /// Whatever was released, every eligible node can continue: its log determines it.
    CannotContinue,
    /// A term has one releasing owner.
    TwoOwners,
    /// Faults stop, an eligible node lives: the flow ends well, and learners catch up.
    Stuck,
}

impl Invariant {
    /// All.
    pub const ALL: [Invariant; 7] = [
        Invariant::NonceUsedTwice,
        Invariant::StreamBroken,
        Invariant::ByteLost,
        Invariant::ExecutedTwice,
        Invariant::CannotContinue,
        Invariant::TwoOwners,
        Invariant::Stuck,
    ];
}

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// By what.
    pub detail: String,
}

impl Violation {
    /// `invariant` is broken by what `detail` says.
    pub fn new(invariant: Invariant, detail: String) -> Box<Violation> {
        Box::new(Violation { invariant, detail })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.detail)
    }
}

/// Checks one state. What only a transition can break is checked there.
pub fn state(config: &Config, state: &State) -> Result<(), Box<Violation>> {
    one_owner_per_term(config, state)?;
    for node in state.eligible() {
        match config.direction {
            Direction::Down => down(config, state, node)?,
            Direction::Up => up(config, state, node)?,
        }
    }
    Ok(())
}

fn one_owner_per_term(config: &Config, state: &State) -> Result<(), Box<Violation>> {
    for node in (0..config.nodes).filter(|node| state.is_owner(config, *node)) {
        let term = state.node(node).promised;
        let same =
            |other: &u8| state.is_owner(config, *other) && state.node(*other).promised == term;
        if let Some(other) = (0..node).find(same) {
            let detail = format!("nodes {other} and {node} both own in term {term}");
            return Err(Violation::new(Invariant::TwoOwners, detail));
        }
    }
    Ok(())
}

fn down(config: &Config, state: &State, node: u8) -> Result<(), Box<Violation>> {
    let this = state.node(node);
    let held = |byte: &u8| this.held.bytes.contains(*byte);
    if let Some(byte) = (state.client_bytes..state.acked).find(|byte| !held(byte)) {
        let detail = format!(
            "byte {byte} was acknowledged to the backend; the client and eligible node {node} lack it"
        );
        return Err(Violation::new(Invariant::ByteLost, detail));
    }
    let mut records = this.log.records(config.record);
    for (sequence, released) in state.released.iter().enumerate() {
        let planned = records.next().map(|(record, _)| record);
        if !config.only_seen && released.is_some_and(|released| planned != Some(released)) {
            let detail = format!(
                "record {sequence} left as {released:?}; eligible node {node} plans {planned:?}"
            );
            return Err(Violation::new(Invariant::CannotContinue, detail));
        }
    }
    Ok(())
}

fn up(config: &Config, state: &State, node: u8) -> Result<(), Box<Violation>> {
    let this = state.node(node);
    let held = |byte: &u8| this.held.bytes.contains(*byte);
    if let Some(byte) = (this.log.settled()..state.acked).find(|byte| !held(byte)) {
        let detail = format!(
            "byte {byte} was acknowledged to the client; eligible node {node} has neither settled nor \
             held it"
        );
        return Err(Violation::new(Invariant::ByteLost, detail));
    }
    let established = this.log.established().map(|(backend, _)| backend);
    for (backend, received) in (0..).zip(state.backends) {
        if !config.only_seen && received > 0 && established != Some(backend) {
            let detail = format!(
                "backend {backend} has {received} bytes; eligible node {node} knows of {established:?}"
            );
            return Err(Violation::new(Invariant::CannotContinue, detail));
        }
        if established == Some(backend) && this.log.settled() > received {
            let detail = format!(
                "R of node {node} is {}, backend {backend} has {received} bytes",
                this.log.settled()
            );
            return Err(Violation::new(Invariant::ByteLost, detail));
        }
    }
    Ok(())
}

/// Rounds of fair delivery within which every flow ends.
const ROUNDS: usize = 60;
/// Views that the end of a flow may take, beyond the budget of the run.
const VIEWS: u8 = 200;

/// How a flow ends when faults stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Every byte arrived, or the flow was reset because the backend changed its bytes.
    Done,
    /// No eligible node lives: nothing to be expected (rule 18).
    Lost,
}

/// Lets faults stop: the dead are removed by views, everybody learns of them, and the owner and
/// the network are fair. If the owner is dead, the first or the last eligible node follows.
pub fn finish(config: &Config, from: &State, last_heir: bool) -> Result<Ending, Box<Violation>> {
    let config = Config { views: VIEWS, crashes: 0, restarts: 0, joins: 0, ..config.clone() };
    let Some(mut state) = remove_the_dead(&config, from, last_heir)? else {
        return Ok(Ending::Lost);
    };
    for node in 0..config.nodes {
        while state.node(node).alive && usize::from(state.node(node).view) < state.views.len() {
            state = apply(&config, &state, Transition::Install { node })?;
        }
    }
    for _ in 0..ROUNDS {
        if is_done(&config, &state) {
            return Ok(Ending::Done);
        }
        let next = round(&config, &state)?;
        if next == state {
            break;
        }
        state = next;
    }
    let owner = state.view().owner;
    let node = state.node(owner);
    let detail = format!(
        "owner {owner} with {:?}, {:?}: {} bytes at the client, {:?} at the backends, {} acknowledged",
        node.log, node.held, state.client_bytes, state.backends, state.acked
    );
    Err(Violation::new(Invariant::Stuck, detail))
}

fn remove_the_dead(
    config: &Config,
    from: &State,
    last_heir: bool,
) -> Result<Option<State>, Box<Violation>> {
    let mut state = from.clone();
    loop {
        let view = state.view();
        let heir = if last_heir { state.eligible().last() } else { state.eligible().next() };
        let Some(heir) = heir else { return Ok(None) };
        let dead = |node: &u8| !state.is_current(*node);
        let transition = match (view.in_sync.iter().find(dead), view.learners.iter().find(dead)) {
            (Some(member), _) if member == view.owner => Transition::Remove { member, owner: heir },
            (Some(member), _) => Transition::Remove { member, owner: view.owner },
            (None, Some(node)) => Transition::DropLearner { node },
            (None, None) => return Ok(Some(state)),
        };
        state = apply(config, &state, transition)?;
    }
}

fn is_done(config: &Config, state: &State) -> bool {
    let view = state.view();
    let owner = state.node(view.owner);
    let arrived = match config.direction {
        Direction::Down => state.client_bytes == config.bytes,
        Direction::Up => state.backends.contains(&config.bytes) && state.acked == config.bytes,
    };
    let taught = |learner: u8| {
        let ack = owner.acks[usize::from(learner)];
        ack.is_some_and(|ack| ack.len == owner.log.len())
    };
    state.reset || arrived && view.learners.iter().all(taught)
}

/// Everything that is on its way arrives; then the owner does all it can.
fn round(config: &Config, from: &State) -> Result<State, Box<Violation>> {
    let mut state = from.clone();
    let view = state.view();
    let mut transitions = Vec::new();
    let unbased = view.followers().minus(state.node(view.owner).based);
    for to in unbased.iter() {
        state = apply(config, &state, Transition::SendBase { owner: view.owner, to })?;
    }
    for message in state.net.clone() {
        let deliver = Transition::Deliver(message);
        enabled(config, &state, &mut transitions);
        if is_of_term(message, view.term) && transitions.contains(&deliver) {
            state = apply(config, &state, deliver)?;
        }
    }
    'progress: loop {
        enabled(config, &state, &mut transitions);
        for transition in transitions.iter().filter(|one| is_work(**one, view.owner)) {
            let next = apply(config, &state, *transition)?;
            if next != state {
                state = next;
                continue 'progress;
            }
        }
        return Ok(state);
    }
}

fn is_of_term(message: Message, term: u8) -> bool {
    match message {
        Message::Base { to, .. }
        | Message::Append { to, .. }
        | Message::Data { to, .. }
        | Message::Ack { to, .. } => to.term == term,
        Message::Promote { .. } => false,
    }
}

/// What brings the flow nearer to its end.
fn is_work(transition: Transition, of: u8) -> bool {
    use Transition::*;
    match transition {
        SendData { owner }
        | Receive { owner, altered: false }
        | Learn { owner }
        | Acknowledge { owner, .. }
        | Flush { owner, .. }
        | Emit { owner, arrives: true, .. }
        | Reset { owner }
        | Dial { owner, backend: 0 }
        | Establish { owner }
        | Settle { owner }
        | Send { owner } => owner == of,
        _ => false,
    }
}
