//! The network: which messages would be taken, and which never will be.

use super::Transition;
use super::replicate::acknowledgement;
use crate::rules::Broken;
use crate::state::{Config, Message, Peer, State};

/// Messages that would be taken at their receiver.
pub fn deliverable(config: &Config, state: &State, out: &mut Vec<Transition>) {
    let takes = |message: &Message| match *message {
        // Rules 6 and 9: nothing of a lower term, nothing for a former life.
        Message::Base { to, .. } | Message::Append { to, .. } | Message::Data { to, .. } => {
            let node = state.node(to.node);
            node.alive
                && (node.incarnation == to.incarnation || config.breaks(Broken::SameIncarnation))
                && (node.promised <= to.term || config.breaks(Broken::NoTermCheck))
        }
        Message::Ack { to, .. } => state.is_owner(config, to.node),
        // Rule 3: compare-and-swap on the view's number.
        Message::Promote { node, view, .. } => {
            let is_newest = usize::from(view) == state.views.len();
            (is_newest || config.breaks(Broken::PromoteWithoutCas))
                && !state.view().in_sync.contains(node)
                && state.views.len() < usize::from(config.views)
        }
    };
    let messages = state.net.iter().filter(|message| takes(message));
    out.extend(messages.map(|message| Transition::Deliver(*message)));
}

/// Forgets messages that no receiver will ever take notice of.
pub fn remove_spent(state: &mut State) {
    let mut net = std::mem::take(&mut state.net);
    // First the dead ones: what is left of the acknowledgements decides about the others.
    net.retain(|message| !is_dead(state, message));
    state.net = net;
    let spent = |message: &Message| is_spent(state, message);
    let kept = state.net.iter().filter(|message| !spent(message)).copied().collect();
    state.net = kept;
}

/// Whether a message can never be taken again: promises, incarnations and view numbers only grow.
fn is_dead(state: &State, message: &Message) -> bool {
    match *message {
        Message::Base { to, .. } | Message::Append { to, .. } | Message::Data { to, .. } => {
            let node = state.node(to.node);
            !node.alive || node.incarnation != to.incarnation || node.promised > to.term
        }
        Message::Ack { from, to, .. } => {
            let owner = state.node(to.node);
            // An owner that crashed is never owner of the same term again.
            let outlived = state.installed(to.node).is_some_and(|view| {
                view.term == to.term && view.incarnations[usize::from(from)] > to.incarnation
            });
            !owner.alive || owner.promised > to.term || outlived
        }
        Message::Promote { view, .. } => usize::from(view) < state.views.len(),
    }
}

/// Whether a backup has all that a message could give it and has said so: within a term and an
/// incarnation, shadows only grow.
fn is_spent(state: &State, message: &Message) -> bool {
    let has_said_so = |to: Peer| {
        let ack = acknowledgement(state, to, 0);
        ack.is_some_and(|ack| is_dead(state, &ack) || state.net.binary_search(&ack).is_ok())
    };
    match *message {
        Message::Base { to, log, held, delivered } => {
            let node = state.node(to.node);
            node.term == to.term
                && log.len() <= node.log.len()
                && held.bytes.is_within(node.held.bytes)
                && delivered <= node.delivered
                && has_said_so(to)
        }
        Message::Append { to, index, committed, .. } => {
            let node = state.node(to.node);
            node.term == to.term
                && index < node.log.len()
                && committed <= node.committed
                && has_said_so(to)
        }
        Message::Data { to, held } => {
            let node = state.node(to.node);
            node.term == to.term && held.bytes.is_within(node.held.bytes) && has_said_so(to)
        }
        Message::Ack { .. } | Message::Promote { .. } => false,
    }
}
