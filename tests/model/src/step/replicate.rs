//! Replication: gates, acknowledgements, bases, appends, data (rules 3 to 11 and 14).

use super::{Transition, views};
use crate::rules::Broken;
use crate::state::{Ack, Config, Direction, Entry, Held, Log, Message, Peer, Set, State};

/// What every gate has acknowledged.
#[derive(Clone, Copy)]
pub struct Acknowledged {
    /// Length of the log.
    pub len: u8,
    /// Bytes held.
    pub bytes: Set,
}

/// What an owner may do about its followers, and with the sending end.
pub fn enabled(config: &Config, state: &State, owner: u8, out: &mut Vec<Transition>) {
    let (node, Some(view)) = (state.node(owner), state.installed(owner)) else { return };
    let unbased = view.followers().minus(node.based);
    out.extend(unbased.iter().map(|to| Transition::SendBase { owner, to }));
    for learner in view.learners.and(node.based).minus(node.proposed).iter() {
        let ack = node.acks[usize::from(learner)];
        let expected = view.incarnations[usize::from(learner)];
        let has_all = |ack: &Ack| {
            ack.incarnation == expected
                && ack.len == node.log.len()
                && node.held.bytes.is_within(ack.bytes)
        };
        if ack.as_ref().is_some_and(has_all) {
            out.push(Transition::Propose { owner, learner });
        }
    }
    if config.breaks(Broken::SoloWithoutView) {
        let waited = view.in_sync.without(owner).minus(node.dropped);
        out.extend(waited.iter().map(|gate| Transition::DropSilent { owner, gate }));
    }
    let lacks = |peer: u8| {
        let acked = node.acks[usize::from(peer)].map_or(Set::EMPTY, |ack| ack.bytes);
        !node.held.bytes.is_within(acked)
    };
    if node.based.iter().any(lacks) {
        out.push(Transition::SendData { owner });
    }
    if next_byte(config, state, owner).is_some() {
        out.push(Transition::Receive { owner, altered: false });
        // Only a retransmission can differ, and only a new owner asks for one.
        if config.mutable_peer && view.term > 1 {
            out.push(Transition::Receive { owner, altered: true });
        }
    }
}

/// The lowest byte that the sending end still has and the owner has not.
fn next_byte(config: &Config, state: &State, owner: u8) -> Option<u8> {
    let held = state.node(owner).held.bytes;
    (state.acked..config.bytes).find(|byte| !held.contains(*byte))
}

/// Rules 4 and 5: whose acknowledgement a release waits for.
fn gate(config: &Config, state: &State, owner: u8) -> Set {
    let (node, Some(view)) = (state.node(owner), state.installed(owner)) else {
        return Set::EMPTY;
    };
    let mut gate = view.in_sync.without(owner);
    if !config.breaks(Broken::PromoteUngated) {
        gate = gate.union(node.proposed);
    }
    if config.breaks(Broken::UnbasedNotWaited) {
        let answered = gate.iter().filter(|peer| node.acks[usize::from(*peer)].is_some());
        gate = answered.fold(Set::EMPTY, Set::with);
    }
    gate.minus(node.dropped)
}

/// Rule 10: what may be relied on. Rule 9: only the current incarnation's word counts.
pub fn acknowledged(config: &Config, state: &State, owner: u8) -> Acknowledged {
    let (node, Some(view)) = (state.node(owner), state.installed(owner)) else {
        return Acknowledged { len: 0, bytes: Set::EMPTY };
    };
    let own = Acknowledged { len: node.log.len(), bytes: node.held.bytes };
    let gate = gate(config, state, owner);
    let word = |peer: u8| {
        let ack = node.acks[usize::from(peer)].filter(|ack| {
            ack.incarnation == view.incarnations[usize::from(peer)]
                || node.proposed.contains(peer)
                || config.breaks(Broken::SameIncarnation)
        });
        ack.map_or((0, Set::EMPTY), |ack| (ack.len, ack.bytes))
    };
    if config.breaks(Broken::AnyAck) && gate != Set::EMPTY {
        let (len, bytes) = gate
            .iter()
            .map(word)
            .fold((0, Set::EMPTY), |best, one| (one.0.max(best.0), one.1.union(best.1)));
        return Acknowledged { len: own.len.min(len), bytes: own.bytes.and(bytes) };
    }
    let mut all = gate.iter().map(word).fold(own, |all, (len, bytes)| Acknowledged {
        len: all.len.min(len),
        bytes: all.bytes.and(bytes),
    });
    if config.commit_index {
        all.len = all.len.max(node.committed);
    }
    all
}

/// Rule 14: how far the sending end may be acknowledged: what the receiving end has
/// acknowledged (`settled`), or every gate holds.
pub fn acknowledge(config: &Config, state: &State, owner: u8, settled: u8) -> Option<Transition> {
    let held = if config.breaks(Broken::DataAckEarly) {
        state.node(owner).held.bytes
    } else {
        acknowledged(config, state, owner).bytes
    };
    let safe = |byte: &u8| *byte < settled || held.contains(*byte);
    let offset = (0..config.bytes).take_while(safe).count() as u8;
    (offset > state.acked).then_some(Transition::Acknowledge { owner, offset })
}

/// The owner adds an entry to its log and tells who has a base (rule 8).
pub fn append(config: &Config, state: &mut State, owner: u8, entry: Entry) {
    let Some(view) = state.installed(owner) else { return };
    let committed = match config.commit_index {
        true => acknowledged(config, state, owner).len,
        false => 0,
    };
    let without_base = [Broken::NoOverwrite, Broken::AppendAnyShadow, Broken::SameIncarnation];
    let node = state.node_mut(owner);
    node.committed = node.committed.max(committed);
    let index = node.log.len();
    node.log.push(entry);
    let mut receivers = node.based;
    if without_base.iter().any(|broken| config.breaks(*broken)) {
        receivers = receivers.union(view.in_sync.without(owner));
    }
    for backup in receivers.and(view.followers()).iter() {
        let to = peer(state, owner, backup);
        state.send(Message::append(to, index, entry, committed));
    }
}

/// The conversation of an owner with a backup.
fn peer(state: &State, owner: u8, backup: u8) -> Peer {
    let view = state.installed(owner).unwrap_or_else(|| state.view());
    Peer { node: backup, incarnation: view.incarnations[usize::from(backup)], term: view.term }
}

/// Rules 7 and 11: the owner's log wins, and it is sent as one piece.
pub fn send_base(config: &Config, state: &mut State, owner: u8, to: u8) {
    let backup = peer(state, owner, to);
    let node = state.node_mut(owner);
    node.based = node.based.with(to);
    // R is in the log; W is not, and travels beside it.
    let delivered = if config.direction == Direction::Down { node.delivered } else { 0 };
    let (log, held) = (node.log, node.held);
    let torn = config.breaks(Broken::TornBase);
    if torn {
        state.send(Message::Base { to: backup, log: Log::EMPTY, held, delivered });
    }
    if torn || config.breaks(Broken::NoOverwrite) || config.breaks(Broken::SameIncarnation) {
        for (index, entry) in (0..).zip(log.iter()) {
            state.send(Message::append(backup, index, entry, 0));
        }
    } else {
        state.send(Message::Base { to: backup, log, held, delivered });
    }
}

/// Rule 14: held bytes travel to everybody who has a base.
pub fn send_data(state: &mut State, owner: u8) {
    let held = state.node(owner).held;
    for backup in state.node(owner).based.iter() {
        let to = peer(state, owner, backup);
        state.send(Message::Data { to, held });
    }
}

/// Rule 4: gated before proposed.
pub fn propose(state: &mut State, owner: u8, learner: u8) {
    let incarnation = peer(state, owner, learner).incarnation;
    let node = state.node_mut(owner);
    node.proposed = node.proposed.with(learner);
    let view = node.view;
    state.send(Message::Promote { node: learner, incarnation, view });
}

/// Rule 19 broken.
pub fn drop_silent(state: &mut State, owner: u8, gate: u8) {
    let node = state.node_mut(owner);
    node.dropped = node.dropped.with(gate);
}

/// Rule 20 broken.
pub fn evict(state: &mut State, node: u8) {
    let node = state.node_mut(node);
    (node.log, node.held) = (Log::EMPTY, Held::default());
}

/// The sending end's next byte comes in.
pub fn receive(config: &Config, state: &mut State, owner: u8, altered: bool) {
    if let Some(byte) = next_byte(config, state, owner) {
        let bytes = Set::of(byte);
        let altered = if altered { bytes } else { Set::EMPTY };
        state.node_mut(owner).held.merge(Held { bytes, altered });
    }
}

/// A message arrives where it is taken.
pub fn deliver(config: &Config, state: &mut State, message: Message) {
    match message {
        Message::Base { to, log, held, delivered } => {
            apply_base(config, state, to, log);
            let node = state.node_mut(to.node);
            node.held.merge(held);
            node.delivered = node.delivered.max(delivered);
            answer(state, to, 0);
        }
        Message::Append { to, index, entry, committed } => {
            apply_append(config, state, to, (index, Message::entry(entry)), committed);
        }
        Message::Data { to, held } => {
            let node = state.node_mut(to.node);
            node.promised = node.promised.max(to.term);
            if takes_part(config, node.term, to.term) {
                node.held.merge(held);
                answer(state, to, 0);
            }
        }
        Message::Ack { from, to, len, bytes } => apply_ack(config, state, from, to, (len, bytes)),
        Message::Promote { node, incarnation, .. } => {
            let mut view = state.view();
            view.in_sync = view.in_sync.with(node);
            view.learners = view.learners.without(node);
            view.incarnations[usize::from(node)] = incarnation;
            views::commit(config, state, view);
        }
    }
}

/// Rule 8: terms are equal.
fn takes_part(config: &Config, shadow: u8, term: u8) -> bool {
    shadow == term || config.breaks(Broken::NoTermCheck) && shadow > term
}

/// Rule 7: a higher term replaces the log at once, the same term extends it. Rule 6: and is
/// promised with it.
fn apply_base(config: &Config, state: &mut State, to: Peer, log: Log) {
    let node = state.node_mut(to.node);
    node.promised = node.promised.max(to.term);
    if node.term != to.term {
        if !config.breaks(Broken::NoOverwrite) || node.log.len() < log.len() {
            node.log = log;
        }
        node.term = to.term;
    } else if log.len() > node.log.len() && !config.breaks(Broken::NoSameTermCatchUp) {
        node.log = log;
    }
}

/// Rule 8: appended iff terms are equal and the index is the length; acknowledged afterwards.
fn apply_append(
    config: &Config,
    state: &mut State,
    to: Peer,
    (index, entry): (u8, Entry),
    committed: u8,
) {
    let node = state.node_mut(to.node);
    node.promised = node.promised.max(to.term);
    let any_shadow = [Broken::AppendAnyShadow, Broken::NoOverwrite, Broken::SameIncarnation];
    if any_shadow.iter().any(|broken| config.breaks(*broken)) && index <= node.log.len() {
        node.term = node.term.max(to.term);
    }
    let early = if config.breaks(Broken::AckBeforeApply) { index + 1 } else { 0 };
    if takes_part(config, node.term, to.term) {
        if index == node.log.len() {
            node.log.push(entry);
        }
        if config.commit_index {
            let len = node.log.len();
            let too_far = config.breaks(Broken::CommitIndexTooFar);
            node.committed = node.committed.max(if too_far { len } else { committed.min(len) });
        }
        answer(state, to, early);
    } else if early > 0 {
        answer(state, to, early);
    }
}

/// Rule 8: {term, incarnation, length, data}. `early` claims more than has been applied.
fn answer(state: &mut State, to: Peer, early: u8) {
    if let Some(ack) = acknowledgement(state, to, early) {
        state.send(ack);
    }
}

/// What `to` says to the owner of a term about its shadow.
pub fn acknowledgement(state: &State, to: Peer, early: u8) -> Option<Message> {
    let node = state.node(to.node);
    let (len, bytes) = (node.log.len().max(early), node.held.bytes);
    let owner = state.views.iter().find(|view| view.term == to.term)?.owner;
    let to_owner = Peer { node: owner, incarnation: node.incarnation, term: to.term };
    Some(Message::Ack { from: to.node, to: to_owner, len, bytes })
}

/// Rule 9: of the owner's term and of the member's current incarnation.
fn apply_ack(config: &Config, state: &mut State, from: u8, to: Peer, (len, bytes): (u8, Set)) {
    let Some(view) = state.installed(to.node) else { return };
    let current = view.incarnations[usize::from(from)] == to.incarnation;
    if (to.term == view.term || config.breaks(Broken::StaleAcks))
        && view.in_sync.union(view.learners).contains(from)
        && (current || config.breaks(Broken::SameIncarnation))
    {
        let slot = &mut state.node_mut(to.node).acks[usize::from(from)];
        let former = slot.filter(|ack| ack.incarnation == to.incarnation);
        let former = former.map_or((0, Set::EMPTY), |ack| (ack.len, ack.bytes));
        let (len, bytes) = (len.max(former.0), bytes.union(former.1));
        *slot = Some(Ack { incarnation: to.incarnation, len, bytes });
    }
}
