//! Looks for a state that breaks an invariant: all states of a small run, or random walks
//! through a larger one. The same seed gives the same walks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::check::{self, Ending, Violation};
use crate::state::{Config, State};
use crate::step::{Transition, apply, enabled};

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// States after which an exhaustive search gives up.
    pub states: usize,
    /// One of how many states is also brought to an end (liveness).
    pub finish_every: u64,
}

/// What a search has seen.
#[derive(Default, Debug)]
pub struct Summary {
    /// Different states.
    pub states: usize,
    /// Transitions taken.
    pub transitions: u64,
    /// Longest shortest way to a state, or the number of walks.
    pub depth: usize,
    /// Whether no state is left out.
    pub complete: bool,
    /// States that were brought to an end, twice each.
    pub finished: u64,
    /// Those of them where no eligible node was left.
    pub lost: u64,
    /// Names of the transitions that were taken.
    pub names: BTreeSet<&'static str>,
    /// What was found, if something was.
    pub found: Option<Counterexample>,
}

/// A way from the first state to a violation.
#[derive(Debug)]
pub struct Counterexample {
    /// What is wrong.
    pub violation: Violation,
    /// How it comes about.
    pub trace: Vec<Transition>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (transition, number) in self.trace.iter().zip(1..) {
            writeln!(f, "  {number:3} {transition:?}")?;
        }
        write!(f, "  {}", self.violation)
    }
}

/// Breadth first, so a counterexample is a shortest one.
pub fn exhaust(config: &Config, limits: Limits) -> Summary {
    visit(config, limits, |_| ())
}

/// The same; shows every state to `visitor`, once.
pub fn visit(config: &Config, limits: Limits, mut visitor: impl FnMut(&State)) -> Summary {
    let mut summary = Summary::default();
    let first = State::new(config);
    // Where each state was first reached from, and by which of the enabled transitions.
    let mut origins: HashMap<u64, (u64, u16)> = HashMap::new();
    origins.insert(fingerprint(&first), (0, 0));
    let mut frontier = vec![first];
    let mut transitions = Vec::new();
    while !frontier.is_empty() && origins.len() < limits.states {
        let mut next = Vec::new();
        for state in &frontier {
            visitor(state);
            let from = fingerprint(state);
            if from.is_multiple_of(limits.finish_every)
                && let Err(violation) = finish_both(config, state, &mut summary)
            {
                let trace = way_to(config, &origins, from);
                summary.found = Some(Counterexample { violation: *violation, trace });
                summary.states = origins.len();
                return summary;
            }
            enabled(config, state, &mut transitions);
            for (index, transition) in (0..).zip(&transitions) {
                summary.transitions += 1;
                summary.names.insert(transition.name());
                match apply(config, state, *transition) {
                    Ok(after) => {
                        origins.entry(fingerprint(&after)).or_insert_with(|| {
                            next.push(after);
                            (from, index)
                        });
                    }
                    Err(violation) => {
                        let mut trace = way_to(config, &origins, from);
                        trace.push(*transition);
                        summary.found = Some(Counterexample { violation: *violation, trace });
                        summary.states = origins.len();
                        return summary;
                    }
                }
            }
        }
        summary.depth += 1;
        frontier = next;
    }
    summary.states = origins.len();
    summary.complete = frontier.is_empty();
    summary
}

fn way_to(config: &Config, origins: &HashMap<u64, (u64, u16)>, to: u64) -> Vec<Transition> {
    let mut choices = Vec::new();
    let mut at = to;
    while let Some((from, choice)) = origins.get(&at).filter(|(from, _)| *from != 0) {
        choices.push(usize::from(*choice));
        at = *from;
    }
    let mut state = State::new(config);
    let mut transitions = Vec::new();
    let mut way = Vec::new();
    for choice in choices.into_iter().rev() {
        enabled(config, &state, &mut transitions);
        way.push(transitions[choice]);
        let Ok(after) = apply(config, &state, transitions[choice]) else { break };
        state = after;
    }
    way
}

fn finish_both(
    config: &Config,
    state: &State,
    summary: &mut Summary,
) -> Result<(), Box<Violation>> {
    for last_heir in [false, true] {
        summary.finished += 1;
        if check::finish(config, state, last_heir)? == Ending::Lost {
            summary.lost += 1;
        }
    }
    Ok(())
}

/// Fewest steps of a walk, and how many more there may be.
const WALK_STEPS: (u64, u64) = (20, 120);
/// One of how many faults that come up is taken: each walk draws its own number from here.
const FAULT_RARITY: (u64, u64) = (2, 30);

/// `walks` random walks, each brought to an end.
pub fn walk(config: &Config, seed: u64, walks: usize) -> Summary {
    let mut summary = Summary::default();
    let mut random = Random(seed);
    let mut seen = HashSet::new();
    let mut transitions = Vec::new();
    while summary.depth < walks && summary.found.is_none() {
        summary.depth += 1;
        let mut state = State::new(config);
        let mut trace = Vec::new();
        let rarity = FAULT_RARITY.0 + random.below(FAULT_RARITY.1);
        let steps = WALK_STEPS.0 + random.below(WALK_STEPS.1);
        let mut outcome = Ok(());
        for _ in 0..steps {
            enabled(config, &state, &mut transitions);
            if transitions.is_empty() {
                break;
            }
            let transition = choose(&mut random, &transitions, rarity);
            trace.push(transition);
            summary.transitions += 1;
            match apply(config, &state, transition) {
                Ok(after) => state = after,
                Err(violation) => {
                    outcome = Err(violation);
                    break;
                }
            }
            seen.insert(fingerprint(&state));
            summary.names.insert(transition.name());
        }
        let outcome = outcome.and_then(|()| finish_both(config, &state, &mut summary));
        if let Err(violation) = outcome {
            summary.found = Some(shorten(config, *violation, trace));
        }
    }
    summary.states = seen.len();
    summary
}

fn choose(random: &mut Random, transitions: &[Transition], rarity: u64) -> Transition {
    let mut transition = random.pick(transitions);
    for _ in 0..3 {
        if transition.is_fault() && random.below(rarity) != 0 {
            transition = random.pick(transitions);
        }
    }
    transition
}

/// Leaves out of a walk whatever its violation does not need.
fn shorten(config: &Config, violation: Violation, trace: Vec<Transition>) -> Counterexample {
    let mut best = Counterexample { violation, trace };
    let mut index = best.trace.len();
    while index > 0 {
        index -= 1;
        let mut trace = best.trace.clone();
        trace.remove(index);
        if let Some(shorter) = replay(config, trace)
            && shorter.violation.invariant == best.violation.invariant
        {
            index = index.min(shorter.trace.len());
            best = shorter;
        }
    }
    best
}

/// The violation at the end of `trace`, if it can be walked and has one.
fn replay(config: &Config, mut trace: Vec<Transition>) -> Option<Counterexample> {
    let mut state = State::new(config);
    let mut transitions = Vec::new();
    for index in 0..trace.len() {
        enabled(config, &state, &mut transitions);
        if !transitions.contains(&trace[index]) {
            return None;
        }
        match apply(config, &state, trace[index]) {
            Ok(after) => state = after,
            Err(violation) => {
                trace.truncate(index + 1);
                return Some(Counterexample { violation: *violation, trace });
            }
        }
    }
    let violation = finish_both(config, &state, &mut Summary::default()).err()?;
    Some(Counterexample { violation: *violation, trace })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound
    }

    fn pick(&mut self, transitions: &[Transition]) -> Transition {
        transitions[self.below(transitions.len() as u64) as usize]
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// States are compared by 64 bits: among ten million, two collide with a chance of 3 in a million.
fn fingerprint(state: &State) -> u64 {
    let mut hasher = Fingerprint::default();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Takes bytes together to words: states consist of small numbers.
#[derive(Default)]
struct Fingerprint {
    hash: u64,
    word: u64,
    bits: u32,
}

impl Fingerprint {
    fn absorb(&mut self, word: u64) {
        self.hash = mix(self.hash.rotate_left(25) ^ word);
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        mix(self.hash ^ mix(self.word.wrapping_add(u64::from(self.bits) << 58)))
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.word |= u64::from(byte) << self.bits;
        self.bits += 8;
        if self.bits == 64 {
            let word = self.word;
            (self.word, self.bits) = (0, 0);
            self.absorb(word);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.absorb(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u8(word as u8);
    }

    fn write_isize(&mut self, discriminant: isize) {
        self.write_u8(discriminant as u8);
    }
}
