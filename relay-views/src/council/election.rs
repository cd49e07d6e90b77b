//! Who leads: timeouts, suspicion, and what of a message must hold before the engine sees it.

use std::time::Duration;

use raft::eraftpb::{Message, MessageType};

use super::{Council, ELECTION_TICKS, ELECTION_TICKS_MAX, HEARTBEAT_TICKS, TICK};
use crate::View;
use crate::id::Seat;
use crate::random::{below, mix};
use crate::view::Kind;

/// Between the attempts of voters that suspect the leader, by rank: the first one has time to win.
const RANK_DELAY: Duration = Duration::from_millis(8);

/// Between attempts of one voter: others may still believe in the leader.
const RETRY: Duration = Duration::from_millis(10);

/// Between two heartbeats of a leader.
const HEARTBEAT: Duration = Duration::from_millis(TICK.as_millis() as u64 * HEARTBEAT_TICKS as u64);

impl Council {
    /// Whether this node leaves leading to others, since its workers hang: it goes on voting, and
    /// leads only if nobody else can be elected.
    pub fn stand_back(&mut self, now: Duration, back: bool) {
        self.now = self.now.max(now);
        let priority = if back || self.settings.witness { -1 } else { 0 };
        self.raw.raft.set_priority(priority);
        // What waits for the log is this leader's: as long as it does nothing happens anyway.
        if back && self.is_leader() && self.waiting.is_none() && self.status().voters.len() > 1 {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
            self.draw_timeout();
        }
    }

    /// The engine draws its timeouts from a source that no seed controls: replaced by a draw from
    /// ours after everything that may have made it draw. A function of the term, so that it does
    /// not matter how often that was.
    pub(super) fn draw_timeout(&mut self) {
        let word = mix(self.settings.entropy ^ mix(self.raw.raft.term));
        let spread = (ELECTION_TICKS_MAX - ELECTION_TICKS) as u64;
        let ticks = ELECTION_TICKS + below(word, spread) as usize;
        self.raw.raft.set_randomized_election_timeout(ticks);
    }

    /// The promise to the leader not to help another ends now, not an election timeout later.
    pub(super) fn end_lease(&mut self) {
        let ticks = self.raw.raft.election_timeout();
        self.raw.raft.election_elapsed = self.raw.raft.election_elapsed.max(ticks);
    }

    /// The leader is suspected: asks for votes when those of a lower rank had their time.
    pub(super) fn prepare_campaign(&mut self) {
        self.end_lease();
        let me = self.settings.seat;
        if self.raw.raft.promotable() {
            let voters = self.status().voters;
            let members = &self.view().members;
            let order = |seat: &Seat| {
                let witness =
                    members.get(&seat.node()).is_some_and(|member| member.kind == Kind::Witness);
                (witness, *seat)
            };
            let before_us = voters.iter().filter(|seat| order(seat) < order(&me));
            let rank = before_us.filter(|seat| !self.silent.contains(seat.node())).count();
            self.campaign_at = Some(self.now + RANK_DELAY * rank as u32);
        }
    }

    pub(super) fn campaign_when_due(&mut self) {
        if self.campaign_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.campaign_at = None;
        let leader = self.leader();
        // Its workers are silent, but its council is not: it can go on leading.
        let heard = self.leading_seat().and_then(|leader| self.heard.get(&leader)).copied();
        let leads = heard.is_some_and(|heard| self.now.saturating_sub(heard) < HEARTBEAT);
        let lost = leader.is_none_or(|leader| self.silent.contains(leader));
        if lost && !self.is_leader() && self.raw.raft.promotable() {
            if !leads {
                // Refused while changes of the voters are not applied: the next try will do.
                self.end_lease();
                let _ = self.raw.campaign();
                self.draw_timeout();
            }
            self.campaign_at = Some(self.now + RETRY);
        }
    }

    /// A voter without heartbeats of its own notices a silent leader by the engine's.
    pub(super) fn notice_silence(&mut self) {
        let Some(leader) = self.leading_seat().filter(|_| !self.is_leader()) else { return };
        let heard = *self.heard.entry(leader).or_insert(self.now);
        if self.now.saturating_sub(heard) > self.settings.patience {
            self.end_lease();
        }
    }

    /// Whether another node leads, and is no suspect.
    pub(super) fn hears_leader(&self) -> bool {
        let Some(leader) = self.leading_seat().filter(|_| !self.is_leader()) else { return false };
        let heard = self.heard.get(&leader);
        let recently = heard.is_some_and(|at| self.now.saturating_sub(*at) < HEARTBEAT * 5);
        recently && !self.silent.contains(leader.node())
    }

    /// Whether the engine can take the message. It trusts its peers: what contradicts its own
    /// log makes it panic.
    pub(super) fn is_consistent(&self, m: &Message) -> bool {
        let log = &self.raw.raft.raft_log;
        let last = log.last_index();
        let plain = m.term > 0 && m.term < u64::MAX;
        let may_have_entries = m.get_msg_type() == MessageType::MsgAppend;
        if !plain || !may_have_entries && !m.entries.is_empty() {
            return false;
        }
        match m.get_msg_type() {
            MessageType::MsgHeartbeat => m.commit <= last || m.term < self.raw.raft.term,
            MessageType::MsgAppendResponse => {
                m.reject_hint < u64::MAX && (m.index <= last || m.reject)
            }
            MessageType::MsgAppend => self.follows(m),
            MessageType::MsgSnapshot => {
                let metadata = m.get_snapshot().get_metadata();
                metadata.index < u64::MAX
                    && metadata.term <= m.term
                    && View::decode(&m.get_snapshot().data).is_ok()
            }
            _ => true,
        }
    }

    /// Entries have to be in order, and what they follow must not contradict a committed one.
    fn follows(&self, m: &Message) -> bool {
        let log = &self.raw.raft.raft_log;
        let committed = log.term(log.committed).unwrap_or(0);
        let old = m.index < log.committed;
        if m.log_term > m.term || m.index == u64::MAX || !old && m.log_term < committed {
            return false;
        }
        let mut before = (m.index, m.log_term);
        m.entries.iter().all(|entry| {
            let next = before.0.checked_add(1) == Some(entry.index);
            let in_order = next && (before.1..=m.term).contains(&entry.term);
            before = (entry.index, entry.term);
            in_order
        })
    }
}
