//! Views and lives: consensus is one atomic list of views (rule 1); nodes learn of them late.

use super::Transition;
use crate::rules::Broken;
use crate::state::{Config, Node, Set, State, View};

/// What may happen to `node` whoever owns: faults, and learning of views.
pub fn enabled_for(config: &Config, state: &State, node: u8, out: &mut Vec<Transition>) {
    let this = state.node(node);
    if !this.alive {
        if state.restarts < config.restarts {
            out.push(Transition::Restart { node });
        }
        return;
    }
    if state.crashes < config.crashes {
        out.push(Transition::Crash { node });
    }
    if usize::from(this.view) < state.views.len() {
        out.push(Transition::Install { node });
    }
    let is_backup = this.term != 0 && !state.is_owner(config, node);
    if config.breaks(Broken::EvictAcknowledged) && is_backup && !this.log.is_empty() {
        out.push(Transition::Evict { node });
    }
}

/// Views that may be committed: any member may be suspected at any time.
pub fn enabled(config: &Config, state: &State, out: &mut Vec<Transition>) {
    let view = state.view();
    let lives = |node: u8| {
        state.is_current(node) || config.breaks(Broken::SameIncarnation) && state.node(node).alive
    };
    for member in view.in_sync.iter() {
        if member != view.owner {
            out.push(Transition::Remove { member, owner: view.owner });
            if lives(member) {
                out.push(Transition::HandOver { owner: member });
            }
            continue;
        }
        let mut heirs = view.in_sync.without(member);
        if config.breaks(Broken::LearnerOwner) {
            heirs = heirs.union(view.learners);
        }
        let heirs = heirs.iter().filter(|heir| lives(*heir));
        out.extend(heirs.map(|owner| Transition::Remove { member, owner }));
    }
    out.extend(view.learners.iter().map(|node| Transition::DropLearner { node }));
    for node in 0..config.nodes {
        let known = view.learners.contains(node) && state.is_current(node);
        let is_blank = !view.in_sync.contains(node) && state.node(node).alive && !known;
        if is_blank && state.joins < config.joins {
            out.push(Transition::AddLearner { node });
        }
    }
    broken_elections(config, state, out);
}

fn broken_elections(config: &Config, state: &State, out: &mut Vec<Transition>) {
    if config.breaks(Broken::WitnessAmnesia) && state.views.len() >= 2 {
        let former = state.views[state.views.len() - 2];
        let lived = |node: &u8| {
            let this = state.node(*node);
            this.alive && this.incarnation == former.incarnations[usize::from(*node)]
        };
        let heirs = former.in_sync.without(state.view().owner).iter().filter(lived);
        out.extend(heirs.map(|owner| Transition::Forget { owner }));
    }
    if config.breaks(Broken::StaleHeir) && state.eligible().next().is_none() {
        let heirs = (0..config.nodes).filter(|node| state.node(*node).alive);
        out.extend(heirs.map(|owner| Transition::Inherit { owner }));
    }
}

/// Commits a view. Rule 2: the term changes iff the owner changes.
pub fn commit(config: &Config, state: &mut State, mut view: View) {
    if view.owner != state.view().owner {
        view.learners = Set::EMPTY;
        if !config.breaks(Broken::TermKept) {
            view.term = state.views.len() as u8 + 1;
        }
    }
    state.views.push(view);
}

/// Rules 2 and 3: a member leaves by a view; an owner's place goes to another member in sync.
pub fn remove(config: &Config, state: &mut State, member: u8, owner: u8) {
    let mut view = state.view();
    view.in_sync = view.in_sync.without(member).with(owner);
    view.owner = owner;
    commit(config, state, view);
}

/// Rule 2.
pub fn hand_over(config: &Config, state: &mut State, owner: u8) {
    let view = View { owner, ..state.view() };
    commit(config, state, view);
}

/// Rule 3: who is new begins as a learner, by its present incarnation.
pub fn add_learner(config: &Config, state: &mut State, node: u8) {
    let mut view = state.view();
    view.learners = view.learners.with(node);
    view.incarnations[usize::from(node)] = state.node(node).incarnation;
    state.joins += 1;
    commit(config, state, view);
}

/// Rule 4: a learner that died, proposed or not, is removed by a view.
pub fn drop_learner(config: &Config, state: &mut State, node: u8) {
    let mut view = state.view();
    view.learners = view.learners.without(node);
    commit(config, state, view);
}

/// Rule 1 broken: the newest view never happened, says the only voter that is left.
pub fn forget(config: &Config, state: &mut State, owner: u8) {
    let mut view = state.views[state.views.len() - 2];
    view.in_sync = view.in_sync.without(state.view().owner).with(owner);
    view.owner = owner;
    commit(config, state, view);
}

/// Rule 18 broken: instead of "lost", an older shadow.
pub fn inherit(config: &Config, state: &mut State, owner: u8) {
    let mut view = View { owner, in_sync: Set::of(owner), ..state.view() };
    view.incarnations[usize::from(owner)] = state.node(owner).incarnation;
    commit(config, state, view);
}

/// Nothing survives a crash but the number of the life.
pub fn crash(state: &mut State, node: u8) {
    let incarnation = state.node(node).incarnation;
    *state.node_mut(node) = Node { incarnation, ..Node::default() };
    state.crashes += 1;
}

/// Rule 9: a node that restarts is a new incarnation, and blank.
pub fn restart(config: &Config, state: &mut State, node: u8) {
    let term = state.view().term;
    let this = state.node_mut(node);
    this.alive = true;
    this.incarnation += 1;
    if config.breaks(Broken::SameIncarnation) {
        this.term = term;
    }
    state.restarts += 1;
}

/// A node learns of the next view: it promises the term, becomes owner, or stops being it
/// (rules 4, 6, 9).
pub fn install(config: &Config, state: &mut State, node: u8) {
    let former = state.installed(node);
    state.node_mut(node).view += 1;
    let view = state.views[usize::from(state.node(node).view) - 1];
    let place = usize::from(node);
    let this = state.node_mut(node);
    if view.term < this.promised {
        return;
    }
    let is_new = view.term > this.promised || this.term != view.term;
    this.promised = view.term;
    let names_it = |view: &View| {
        let current = view.incarnations[place] == this.incarnation;
        view.owner == node && (current || config.breaks(Broken::SameIncarnation))
    };
    let (is_owner, was_owner) = (names_it(&view), former.is_some_and(|former| names_it(&former)));
    match (is_owner, former) {
        (true, _) if is_new => {
            let acks = this.acks;
            stop_owning(this);
            this.term = view.term;
            if config.breaks(Broken::StaleAcks) {
                this.acks = acks;
            }
        }
        (true, Some(former)) if was_owner => forget_changed(this, &former, &view),
        (true, _) => {}
        (false, _) => stop_owning(this),
    }
}

fn stop_owning(node: &mut Node) {
    node.acks = Default::default();
    (node.based, node.proposed, node.dropped) = (Set::EMPTY, Set::EMPTY, Set::EMPTY);
    node.dialed = None;
}

/// Rules 4 and 9: the owner stays. Who left the view, or is another incarnation, counts for
/// nothing; a proposal is in the view now, or void by its compare-and-swap.
fn forget_changed(node: &mut Node, former: &View, view: &View) {
    for (peer, ack) in (0..).zip(&mut node.acks) {
        let place = usize::from(peer);
        let is_member = view.in_sync.union(view.learners).contains(peer);
        if !is_member || former.incarnations[place] != view.incarnations[place] {
            *ack = None;
            node.based = node.based.without(peer);
        }
    }
    node.proposed = Set::EMPTY;
}
