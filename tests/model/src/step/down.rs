//! Backend to client: flush log, release, the client's acknowledgements, W (rules 10, 13, 14).

use super::Transition;
use super::replicate::{acknowledge, acknowledged, append};
use crate::check::{Invariant, Violation};
use crate::rules::Broken;
use crate::state::{Config, Entry, Record, Set, State};

/// What an owner may do.
pub fn enabled(config: &Config, state: &State, owner: u8, out: &mut Vec<Transition>) {
    let node = state.node(owner);
    let flushed = node.log.flushed();
    for end in flushed + 1..=config.bytes {
        if !Set::range(flushed, end).is_within(node.held.bytes) {
            break;
        }
        out.push(Transition::Flush { owner, end });
    }
    if node.log.controls() < config.controls {
        out.push(Transition::Control { owner });
    }
    records(config, state, owner, out);
    if node.delivered < deliverable(config, state) {
        out.push(Transition::Learn { owner });
    }
    out.extend(acknowledge(config, state, owner, node.delivered));
}

/// Rule 10: a record leaves when every gate has the log prefix that determines it. Rule 13: and
/// only if its bytes have the tag of the log.
fn records(config: &Config, state: &State, owner: u8, out: &mut Vec<Transition>) {
    let committed = match config.breaks(Broken::NoGate) {
        true => u8::MAX,
        false => acknowledged(config, state, owner).len,
    };
    for (sequence, (planned, need)) in (0..).zip(state.node(owner).log.records(config.record)) {
        let Some(record) = seal(state, owner, planned) else { continue };
        if need > committed {
            break;
        }
        let is_next = state.client_records == sequence;
        if record.altered != planned.altered && !config.breaks(Broken::TagIgnored) {
            if is_next {
                out.push(Transition::Reset { owner });
            }
            continue;
        }
        if is_next {
            out.push(Transition::Emit { owner, sequence, arrives: true });
        }
        let left = state.released.get(usize::from(sequence)).copied().flatten();
        if left != Some(record) {
            out.push(Transition::Emit { owner, sequence, arrives: false });
        }
    }
}

/// A planned record over the bytes that the owner holds, if it holds them.
fn seal(state: &State, owner: u8, planned: Record) -> Option<Record> {
    let held = state.node(owner).held;
    let bytes = Set::range(planned.start, planned.end);
    let altered = held.altered.and(bytes);
    bytes.is_within(held.bytes).then_some(Record { altered, ..planned })
}

/// Rule 13: the entry has the tag of what the owner sealed.
pub fn flush(config: &Config, state: &mut State, owner: u8, end: u8) {
    let node = state.node(owner);
    let tag = node.held.altered.and(Set::range(node.log.flushed(), end));
    append(config, state, owner, Entry::Flush { end, tag });
}

/// An alert or a KeyUpdate.
pub fn control(config: &Config, state: &mut State, owner: u8) {
    append(config, state, owner, Entry::Control);
}

/// A record leaves. Whoever hears the wire has it, even if the client does not.
pub fn emit(
    config: &Config,
    state: &mut State,
    owner: u8,
    sequence: u8,
    arrives: bool,
) -> Result<(), Box<Violation>> {
    let place = usize::from(sequence);
    let planned = state.node(owner).log.records(config.record).nth(place);
    let Some(record) = planned.and_then(|(planned, _)| seal(state, owner, planned)) else {
        return Ok(());
    };
    if state.released.len() <= place {
        state.released.resize(place + 1, None);
    }
    if let Some(other) = state.released[place].filter(|other| *other != record) {
        let detail = format!("{other:?} and {record:?} under number {sequence}, by node {owner}");
        return Err(Violation::new(Invariant::NonceUsedTwice, detail));
    }
    state.released[place] = Some(record);
    if arrives {
        if !record.control && record.start != state.client_bytes {
            let detail = format!("record {sequence} is {record:?}, not at {}", state.client_bytes);
            return Err(Violation::new(Invariant::StreamBroken, detail));
        }
        state.client_records += 1;
        state.client_bytes = state.client_bytes.max(record.end);
    }
    Ok(())
}

/// W follows the client's acknowledgement, never its SACK (rule 14).
pub fn learn(config: &Config, state: &mut State, owner: u8) {
    state.node_mut(owner).delivered = deliverable(config, state);
}

fn deliverable(config: &Config, state: &State) -> u8 {
    if config.breaks(Broken::SackMovesDelivered) {
        let ends = state.released.iter().flatten().map(|record| record.end);
        return ends.max().unwrap_or(0);
    }
    state.client_bytes
}
