//! What a leader does on its own: ejects the silent, tends the set of voters, gives up what is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};
use raft::{ProgressState, SnapshotStatus};

use super::Council;
use super::reports::Reports;
use crate::command::{Candidate, Command};
use crate::id::{Incarnation, NodeId, NodeSet, Seat};
use crate::view::{Kind, Member, State};

/// Strangers that are told at the same time.
const STRANGERS_MAX: usize = 8;

/// A learner votes when it lacks at most this many entries.
const LAG_MAX: u64 = 16;

/// Between two attempts to eject a node whose council is silent.
const COUNCIL_RETRY: Duration = Duration::from_millis(20);

/// A snapshot that was not acknowledged for this long is sent again.
const SNAPSHOT_PATIENCE: Duration = Duration::from_millis(500);

/// The leader's memory; worthless at any other node.
#[derive(Default)]
pub(super) struct Duties {
    /// Since when which bucket is stalled, and by which view.
    stalled: BTreeMap<u16, Duration>,
    stalled_by: u64,
    /// Since when which seat owes an answer to its snapshot.
    snapshots: BTreeMap<u64, Duration>,
    /// Seats that asked for something and are told of nothing yet.
    strangers: BTreeSet<Seat>,
    pub(super) reports: Reports,
    /// When a silent council may be reported again.
    councils_at: Duration,
}

impl Council {
    pub(super) fn attend_duties(&mut self) {
        self.eject_silent();
        self.eject_silent_councils();
        self.resolve_reports();
        self.give_up_lost();
        self.attend_proposals();
        self.tend_voters();
        self.repeat_snapshots();
    }

    /// Who wants something and is not told of anything is made a learner of the engine: it sees
    /// the views, and then it can join. Links are authenticated: it has a certificate of the cluster.
    pub(super) fn admit_author(&mut self, author: Seat) {
        let known = self.raw.raft.prs().get(author.number()).is_some();
        let retired = self.view().retired.contains(&author);
        if !known && !retired && self.duties.strangers.len() < STRANGERS_MAX {
            self.duties.strangers.insert(author);
        }
    }

    /// Proposes that the silent are ejected. Who does not hear the leader may be deaf himself, and
    /// says nothing; nor does a leader before most others have answered.
    pub(super) fn eject_silent(&mut self) {
        let Some(by) = self.life() else { return };
        let view = self.view();
        let victims = self.silent.without(by.0).intersection(view.alive());
        if victims.is_empty() || self.is_leader() && !self.hears_majority_since(victims) {
            return;
        }
        self.propose_duty(view.eject(victims, by));
    }

    /// Witnesses have no workers whose heartbeats could tell. And a relay whose council says nothing
    /// is told of no view any more, while its workers seem to live: its disk is full, say. Whatever
    /// it owns would wait for the next loss of another node, and then for ever.
    fn eject_silent_councils(&mut self) {
        let me = self.settings.seat.node();
        let is_silent = |node: &NodeId, member: &Member| {
            let limit = match member.kind {
                Kind::Witness => self.settings.witness_timeout,
                Kind::Relay => self.settings.council_timeout,
            };
            let elsewhere = *node != me && member.state != State::Dead;
            elsewhere && self.silence(member.seat) > limit
        };
        let mut members = self.view().members.iter();
        let silent = members.find(|(node, member)| is_silent(node, member));
        let life = silent.map(|(node, member)| (*node, member.incarnation));
        // Nothing that is kept and passed on: only who leads can know.
        if let Some(life) = life.filter(|_| self.duties.councils_at <= self.now) {
            self.duties.councils_at = self.now + COUNCIL_RETRY;
            self.propose_believed(self.view().eject(NodeSet::of(life.0), life));
        }
    }

    /// A node whose disk was replaced wants to join while its former seat counts as alive.
    pub(super) fn eject_former_seat(&mut self, candidate: &Candidate) {
        let Some(member) = self.view().members.get(&candidate.node) else { return };
        let replaced = member.state != State::Dead && member.seat != candidate.seat;
        if replaced && self.silence(member.seat) > self.settings.witness_timeout {
            let life = (candidate.node, member.incarnation);
            self.propose_believed(self.view().eject(NodeSet::of(life.0), life));
        }
    }

    /// How long the leader has not heard of a seat.
    fn silence(&self, seat: Seat) -> Duration {
        let heard = self.heard.get(&seat).copied().or(self.leads_since);
        heard.map_or(Duration::ZERO, |at| self.now.saturating_sub(at))
    }

    /// This node's life, if the view agrees that it lives.
    fn life(&self) -> Option<(NodeId, Incarnation)> {
        let life = self.wish.map(|wish| (wish.node, wish.incarnation))?;
        self.view().names(life.0, life.1).then_some(life)
    }

    /// Rule 18: who has the flows of a stalled bucket is waited for, but not for ever.
    fn give_up_lost(&mut self) {
        let view = std::sync::Arc::clone(self.view());
        if self.duties.stalled_by != view.number {
            self.duties.stalled_by = view.number;
            let before = std::mem::take(&mut self.duties.stalled);
            let since = |bucket| (bucket, before.get(&bucket).copied().unwrap_or(self.now));
            self.duties.stalled = view.stalled().map(since).collect();
        }
        let over = |since: &Duration| self.now.saturating_sub(*since) > self.settings.loss_timeout;
        let lost = self.duties.stalled.iter().filter(|(_, since)| over(since));
        let buckets: Vec<u16> = lost.map(|(bucket, _)| *bucket).collect();
        if !buckets.is_empty() && !view.alive().is_empty() {
            self.propose_duty(Command::Lose { seen: view.number, buckets });
        }
    }

    /// One step from the voters that there are to those that the view wants. The view comes first,
    /// the voters follow (and a new leader's first attempts are dropped by the engine).
    fn tend_voters(&mut self) {
        if self.raw.raft.has_pending_conf() {
            return;
        }
        let step = self.retire().or_else(|| self.demote());
        let step = step.or_else(|| self.invite()).or_else(|| self.promote());
        if let Some((kind, seat)) = step {
            let mut change = ConfChangeSingle::default();
            change.set_change_type(kind);
            change.node_id = seat.number();
            let mut changes = ConfChangeV2::default();
            changes.mut_changes().push(change);
            let _ = self.raw.propose_conf_change(Vec::new(), changes);
        }
    }

    /// Seats that the view has done with: another disk, or a forgotten member.
    fn retire(&self) -> Option<(ConfChangeType, Seat)> {
        let status = self.status();
        let mut retired = self.view().retired.iter();
        let seat = retired.find(|seat| {
            let votes = status.voters.contains(seat);
            status.learners.contains(seat) || votes && status.voters.len() > 1
        });
        seat.map(|seat| (ConfChangeType::RemoveNode, *seat))
    }

    /// A dead voter becomes a learner as soon as fewer votes are needed then; so the last relay and
    /// a witness never shrink to one. It is told of views for the case that it comes back.
    fn demote(&self) -> Option<(ConfChangeType, Seat)> {
        let voters = self.status().voters;
        let member = |seat: &Seat| {
            let member = self.view().members.get(&seat.node());
            member.filter(|member| member.seat == *seat)
        };
        let unwanted = voters.iter().find(|seat| member(seat).is_some_and(|member| !member.votes));
        if let Some(seat) = unwanted.filter(|_| voters.len() > 1) {
            return Some((ConfChangeType::AddLearnerNode, *seat));
        }
        let is_dead = |seat: &&Seat| member(seat).is_some_and(|m| m.state == State::Dead);
        let dead: Vec<_> = voters.iter().filter(is_dead).collect();
        let helps = voters.len() > 2 && (voters.len().is_multiple_of(2) || dead.len() > 1);
        // A witness is worth more than a relay: it is demoted last.
        let is_witness = |seat: &&&Seat| member(seat).is_some_and(|m| m.kind == Kind::Witness);
        let first = dead.iter().find(|seat| !is_witness(seat)).or(dead.first());
        first.filter(|_| helps).map(|seat| (ConfChangeType::AddLearnerNode, **seat))
    }

    /// Learner first: it votes when it knows what was decided.
    fn invite(&mut self) -> Option<(ConfChangeType, Seat)> {
        let known = |seat: &Seat| self.raw.raft.prs().get(seat.number()).is_some();
        let members = self.view().members.values();
        let alive = members.filter(|member| member.state != State::Dead);
        let new = alive.map(|member| member.seat).find(|seat| !known(seat));
        let stranger = self.duties.strangers.iter().copied().find(|seat| !known(seat));
        let Some(seat) = new.or(stranger) else {
            self.duties.strangers.clear();
            return None;
        };
        Some((ConfChangeType::AddLearnerNode, seat))
    }

    fn promote(&self) -> Option<(ConfChangeType, Seat)> {
        let last = self.raw.raft.raft_log.last_index();
        let fit = |seat: &Seat| {
            let member = self.view().members.get(&seat.node());
            let wanted =
                member.is_some_and(|m| m.seat == *seat && m.votes && m.state != State::Dead);
            let progress = self.raw.raft.prs().get(seat.number());
            let follows = progress.is_some_and(|progress| {
                progress.state == ProgressState::Replicate && progress.matched + LAG_MAX >= last
            });
            wanted && follows && self.hears(seat.node())
        };
        let learner = self.status().learners.into_iter().find(fit);
        learner.map(|seat| (ConfChangeType::AddNode, seat))
    }

    /// The engine waits for ever for the answer to a snapshot.
    fn repeat_snapshots(&mut self) {
        let owing = self.raw.raft.prs().iter();
        let owing = owing.filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let owing: Vec<u64> = owing.map(|(seat, _)| *seat).collect();
        self.duties.snapshots.retain(|seat, _| owing.contains(seat));
        for seat in owing {
            let since = *self.duties.snapshots.entry(seat).or_insert(self.now);
            if self.now.saturating_sub(since) > SNAPSHOT_PATIENCE {
                self.duties.snapshots.remove(&seat);
                self.raw.report_snapshot(seat, SnapshotStatus::Failure);
            }
        }
    }
}
