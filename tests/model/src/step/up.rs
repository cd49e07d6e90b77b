//! Client to backend: receive and decrypt, EST, send, settle, acknowledge (rules 10, 12, 14).

use super::Transition;
use super::replicate::{acknowledge, acknowledged, append};
use crate::check::{Invariant, Violation};
use crate::rules::Broken;
use crate::state::{Config, Entry, Log, MAX_LOG, State};

/// Backends that may be chosen.
const BACKENDS: u8 = 2;

/// What an owner may do.
pub fn enabled(config: &Config, state: &State, owner: u8, out: &mut Vec<Transition>) {
    let node = state.node(owner);
    let committed = match config.breaks(Broken::NoGate) {
        true => u8::MAX,
        false => acknowledged(config, state, owner).len,
    };
    dial(config, state, owner, out);
    // Rule 12: nothing goes to a backend before EST is committed.
    let usable = match node.log.established() {
        Some((backend, need)) if need <= committed => Some(backend),
        Some((backend, _)) if config.breaks(Broken::EstUncommitted) => Some(backend),
        None if config.breaks(Broken::EstUncommitted) => node.dialed,
        _ => None,
    };
    if let Some(backend) = usable {
        let next = state.backends[usize::from(backend)];
        if next < config.bytes && next >= node.log.settled() && node.held.bytes.contains(next) {
            out.push(Transition::Send { owner });
        }
    }
    if let Some((backend, _)) = node.log.established() {
        if node.delivered < state.backends[usize::from(backend)] {
            out.push(Transition::Learn { owner });
        }
        if node.delivered > node.log.settled() && node.log.len() < MAX_LOG {
            out.push(Transition::Settle { owner });
        }
    }
    // Rule 14: the R that counts is the one that every gate has.
    let settled = match config.breaks(Broken::SettleUngated) {
        true => node.log.settled(),
        false => node.log.prefix(committed).settled(),
    };
    out.extend(acknowledge(config, state, owner, settled));
}

/// Rule 12: any backend may be dialed until the log has an EST. A second attempt of the same owner
/// is left out: until EST only the choice matters, and backends are alike, so the first is 0.
fn dial(config: &Config, state: &State, owner: u8, out: &mut Vec<Transition>) {
    let node = state.node(owner);
    let is_first = node.promised == 1;
    let backends = match node.log.established() {
        None if node.dialed.is_some() => 0..0,
        None if is_first => 0..1,
        None => 0..BACKENDS,
        Some((backend, _)) if config.breaks(Broken::RedialAfterEst) => backend + 1..BACKENDS,
        Some(_) => 0..0,
    };
    out.extend(backends.map(|backend| Transition::Dial { owner, backend }));
    if node.dialed > established(node.log) && node.log.len() < MAX_LOG {
        out.push(Transition::Establish { owner });
    }
}

/// Rule 12: EST, before the third ACK.
pub fn establish(config: &Config, state: &mut State, owner: u8) {
    if let Some(backend) = state.node(owner).dialed {
        append(config, state, owner, Entry::Est(backend));
    }
}

/// R moves to what the backend has acknowledged.
pub fn settle(config: &Config, state: &mut State, owner: u8) {
    let entry = Entry::Settled(state.node(owner).delivered);
    append(config, state, owner, entry);
}

/// The backend's acknowledgement comes in.
pub fn learn(state: &mut State, owner: u8) {
    if let Some((backend, _)) = state.node(owner).log.established() {
        state.node_mut(owner).delivered = state.backends[usize::from(backend)];
    }
}

/// A byte of plaintext goes to the backend: rule 10 exempts it from waiting.
pub fn send(config: &Config, state: &mut State, owner: u8) -> Result<(), Box<Violation>> {
    let node = state.node(owner);
    let before_est = config.breaks(Broken::EstUncommitted).then_some(node.dialed).flatten();
    if let Some(backend) = established(node.log).or(before_est) {
        state.backends[usize::from(backend)] += 1;
    }
    if state.backends.iter().all(|received| *received > 0) {
        let detail = format!("both backends have bytes of the request, the last by node {owner}");
        return Err(Violation::new(Invariant::ExecutedTwice, detail));
    }
    Ok(())
}

fn established(log: Log) -> Option<u8> {
    log.established().map(|(backend, _)| backend)
}
