//! The rules as transitions: what may happen in a state, and what becomes of it. Each names the
//! rules that it follows; numbers are those of the table in [`crate::rules`].

mod down;
mod network;
mod replicate;
mod up;
mod views;

use crate::check::{self, Violation};
use crate::state::{Config, Direction, Message, State};

/// One atomic step of somebody. A node that is never chosen is one that is paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    /// The network: a message arrives; it may arrive again.
    Deliver(Message),
    /// A node learns the next view.
    Install { node: u8 },
    /// A node loses power, and its memory.
    Crash { node: u8 },
    /// It comes back blank, as a new incarnation (rule 9).
    Restart { node: u8 },
    /// Consensus removes a member, the owner too (rules 2, 3).
    Remove { member: u8, owner: u8 },
    /// Consensus moves the ownership, as a drain does (rule 2).
    HandOver { owner: u8 },
    /// Consensus lets a node be taught (rule 3).
    AddLearner { node: u8 },
    /// Consensus gives a learner up (rule 4).
    DropLearner { node: u8 },
    /// A witness that forgot the newest view elects by the one before (rule 1 broken).
    Forget { owner: u8 },
    /// Somebody takes over though no member in sync lives (rule 18 broken).
    Inherit { owner: u8 },
    /// An owner stops waiting for a gate without a view (rule 19 broken).
    DropSilent { owner: u8, gate: u8 },
    /// A backup makes room by forgetting what it has acknowledged (rule 20 broken).
    Evict { node: u8 },
    /// The owner bases a follower (rules 7, 11).
    SendBase { owner: u8, to: u8 },
    /// The owner replicates bytes (rule 14).
    SendData { owner: u8 },
    /// The owner gates on a learner, then proposes it (rule 4).
    Propose { owner: u8, learner: u8 },
    /// Bytes arrive from the sending end, which still has them; another version of them, perhaps.
    Receive { owner: u8, altered: bool },
    /// The receiving end's acknowledgement arrives.
    Learn { owner: u8 },
    /// Bytes are acknowledged to the sending end (rule 14).
    Acknowledge { owner: u8, offset: u8 },
    /// Down: a flush entry (rule 13).
    Flush { owner: u8, end: u8 },
    /// Down: a control entry.
    Control { owner: u8 },
    /// Down: a record leaves, and may reach the client (rule 10).
    Emit { owner: u8, sequence: u8, arrives: bool },
    /// Down: a record cannot be re-created; the flow is over (rule 13).
    Reset { owner: u8 },
    /// Up: a SYN goes to a backend, its SYN-ACK comes back (exempt in rule 10).
    Dial { owner: u8, backend: u8 },
    /// Up: EST enters the log (rule 12).
    Establish { owner: u8 },
    /// Up: R enters the log (rule 14).
    Settle { owner: u8 },
    /// Up: the next byte goes to the backend (rules 10, 12).
    Send { owner: u8 },
}

impl Transition {
    /// Its name, as the table of rules has it.
    pub fn name(self) -> &'static str {
        use Transition::*;
        match self {
            Deliver(_) => "Deliver",
            Install { .. } => "Install",
            Crash { .. } => "Crash",
            Restart { .. } => "Restart",
            Remove { .. } => "Remove",
            HandOver { .. } => "HandOver",
            AddLearner { .. } => "AddLearner",
            DropLearner { .. } => "DropLearner",
            Forget { .. } => "Forget",
            Inherit { .. } => "Inherit",
            DropSilent { .. } => "DropSilent",
            Evict { .. } => "Evict",
            SendBase { .. } => "SendBase",
            SendData { .. } => "SendData",
            Propose { .. } => "Propose",
            Receive { .. } => "Receive",
            Learn { .. } => "Learn",
            Acknowledge { .. } => "Acknowledge",
            Flush { .. } => "Flush",
            Control { .. } => "Control",
            Emit { .. } => "Emit",
            Reset { .. } => "Reset",
            Dial { .. } => "Dial",
            Establish { .. } => "Establish",
            Settle { .. } => "Settle",
            Send { .. } => "Send",
        }
    }

    /// Whether this is a fault or a view: walks choose these rarely.
    pub fn is_fault(self) -> bool {
        use Transition::*;
        matches!(
            self,
            Crash { .. }
                | Restart { .. }
                | Remove { .. }
                | HandOver { .. }
                | AddLearner { .. }
                | Forget { .. }
                | DropSilent { .. }
                | Evict { .. }
        )
    }
}

/// Everything that may happen, in an order that depends on the state alone.
pub fn enabled(config: &Config, state: &State, out: &mut Vec<Transition>) {
    out.clear();
    if state.reset {
        return;
    }
    network::deliverable(config, state, out);
    for node in 0..config.nodes {
        views::enabled_for(config, state, node, out);
        if state.is_owner(config, node) {
            replicate::enabled(config, state, node, out);
            match config.direction {
                Direction::Down => down::enabled(config, state, node, out),
                Direction::Up => up::enabled(config, state, node, out),
            }
        }
    }
    if state.views.len() < usize::from(config.views) {
        views::enabled(config, state, out);
    }
}

/// The state after an enabled transition, or what is wrong with it.
pub fn apply(
    config: &Config,
    before: &State,
    transition: Transition,
) -> Result<State, Box<Violation>> {
    use Transition::*;
    let mut after = before.clone();
    let state = &mut after;
    match transition {
        Deliver(message) => replicate::deliver(config, state, message),
        Install { node } => views::install(config, state, node),
        Crash { node } => views::crash(state, node),
        Restart { node } => views::restart(config, state, node),
        Remove { member, owner } => views::remove(config, state, member, owner),
        HandOver { owner } => views::hand_over(config, state, owner),
        AddLearner { node } => views::add_learner(config, state, node),
        DropLearner { node } => views::drop_learner(config, state, node),
        Forget { owner } => views::forget(config, state, owner),
        Inherit { owner } => views::inherit(config, state, owner),
        DropSilent { owner, gate } => replicate::drop_silent(state, owner, gate),
        Evict { node } => replicate::evict(state, node),
        SendBase { owner, to } => replicate::send_base(config, state, owner, to),
        SendData { owner } => replicate::send_data(state, owner),
        Propose { owner, learner } => replicate::propose(state, owner, learner),
        Receive { owner, altered } => replicate::receive(config, state, owner, altered),
        Learn { owner } => match config.direction {
            Direction::Down => down::learn(config, state, owner),
            Direction::Up => up::learn(state, owner),
        },
        Acknowledge { offset, .. } => state.acked = offset,
        Flush { owner, end } => down::flush(config, state, owner, end),
        Control { owner } => down::control(config, state, owner),
        Emit { owner, sequence, arrives } => down::emit(config, state, owner, sequence, arrives)?,
        Reset { .. } => state.reset = true,
        Dial { owner, backend } => state.node_mut(owner).dialed = Some(backend),
        Establish { owner } => up::establish(config, state, owner),
        Settle { owner } => up::settle(config, state, owner),
        Send { owner } => up::send(config, state, owner)?,
    }
    check::state(config, &after)?;
    if !config.keep_spent && config.broken.is_none() {
        network::remove_spent(&mut after);
    }
    Ok(after)
}
