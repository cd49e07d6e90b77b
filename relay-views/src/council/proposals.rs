//! Proposals on their way: sent to the leader again and again until they are decided or expire.

use std::collections::BTreeMap;
use std::time::Duration;

use super::readmission::Readmission;
use super::wire::{ENTRY_MAX, Parcel, Proposal};
use super::{Council, Event, Ticket};
use crate::command::{Candidate, Command, Refusal};
use crate::id::Seat;

/// Proposals that wait for their decision; of more, the oldest expire.
const PROPOSALS_MAX: usize = 256;

/// From the first attempt to the second; doubles from one to the next.
const RETRY: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How long a proposal is repeated.
const LIFETIME: Duration = Duration::from_secs(5);

/// Between two attempts to become a member: a refusal may have a reason that passes.
const ENLIST_RETRY: Duration = Duration::from_millis(50);

/// What this council wants to be decided.
pub(super) struct Proposals {
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    /// Turns through the contacts.
    turn: usize,
    enlist_at: Duration,
    readmission: Readmission,
    /// Why this node is not a member yet.
    refused: Option<Refusal>,
}

struct Waiting {
    proposal: Proposal,
    retry: Duration,
    next: Duration,
    expires: Duration,
    /// Nobody holds a ticket: the council proposed it on its own.
    duty: bool,
}

impl Proposals {
    /// Numbers begin anywhere, so that those of an earlier start are not taken for ours.
    pub(super) fn new(first: u64) -> Self {
        Proposals {
            waiting: BTreeMap::new(),
            next: first >> 1,
            turn: 0,
            enlist_at: Duration::ZERO,
            readmission: Readmission::new(),
            refused: None,
        }
    }

    /// Takes a proposal; tells which one had to give way.
    pub(super) fn add(
        &mut self,
        now: Duration,
        author: Seat,
        command: Command,
    ) -> (Ticket, Option<Ticket>) {
        let number = self.insert(now, author, command, false);
        let full = self.waiting.len() > PROPOSALS_MAX;
        let oldest = if full { self.waiting.pop_first() } else { None };
        let expired = oldest.filter(|(_, waiting)| !waiting.duty);
        (Ticket(number), expired.map(|(number, _)| Ticket(number)))
    }

    /// A proposal was decided. Its ticket, if somebody holds one.
    pub(super) fn settle(&mut self, number: u64, refused: Option<Refusal>) -> Option<Ticket> {
        let waiting = self.waiting.remove(&number)?;
        if matches!(waiting.proposal.command, Command::Join(_)) {
            self.refused = refused.filter(|refusal| *refusal != Refusal::Unchanged);
        }
        (!waiting.duty).then_some(Ticket(number))
    }

    pub(super) fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    fn insert(&mut self, now: Duration, author: Seat, command: Command, duty: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        let proposal = Proposal { author, number, forwarded: false, command };
        let expires = now + LIFETIME;
        let waiting = Waiting { proposal, retry: RETRY, next: now, expires, duty };
        self.waiting.insert(number, waiting);
        number
    }

    fn holds(&self, command: &Command) -> bool {
        self.waiting.values().any(|waiting| waiting.proposal.command == *command)
    }

    /// Drops what waited for too long; the tickets among them.
    fn expire(&mut self, now: Duration) -> Vec<Ticket> {
        let mut expired = Vec::new();
        self.waiting.retain(|number, waiting| {
            let over = waiting.expires <= now;
            if over && !waiting.duty {
                expired.push(Ticket(*number));
            }
            !over
        });
        expired
    }

    /// What is to be sent now.
    fn due(&mut self, now: Duration) -> Vec<Proposal> {
        let mut due = Vec::new();
        for waiting in self.waiting.values_mut().filter(|waiting| waiting.next <= now) {
            waiting.next = now + waiting.retry;
            waiting.retry = (waiting.retry * 2).min(RETRY_MAX);
            due.push(waiting.proposal.clone());
        }
        due
    }
}

impl Council {
    /// Proposes something on the council's own account, unless it did so already.
    pub(super) fn propose_duty(&mut self, command: Command) {
        if !self.proposals.holds(&command) && self.proposals.waiting.len() < PROPOSALS_MAX {
            self.proposals.insert(self.now, self.settings.seat, command, true);
        }
    }

    /// Sends what is due: to itself as the leader, to the leader, or to somebody who may know one.
    pub(super) fn attend_proposals(&mut self) {
        self.propose_membership();
        let expired = self.proposals.expire(self.now);
        self.tell(expired.into_iter().map(Event::Expired));
        self.drop_outdated();
        for proposal in self.proposals.due(self.now) {
            let ejects = matches!(proposal.command, Command::Eject { .. });
            if self.is_leader() {
                self.propose_now(&proposal);
            } else if ejects && self.leader().is_none() {
                // Not by way of others: who hears no leader may be deaf.
            } else if let Some(to) = self.leader().or_else(|| self.next_contact()) {
                self.send(to, &Parcel::Proposal(proposal));
            }
        }
    }

    /// Who was silent and is heard again must not be ejected.
    fn drop_outdated(&mut self) {
        let relays = self.view().relays(|_| true);
        let heard = relays.minus(self.silent);
        self.proposals.waiting.retain(|_, waiting| match &waiting.proposal.command {
            Command::Eject { victims, .. } if waiting.duty => {
                !victims.iter().any(|victim| heard.contains(victim.0))
            }
            _ => true,
        });
    }

    /// Proposes what was weighed already.
    pub(super) fn propose_believed(&mut self, command: Command) {
        if let Command::Eject { victims, .. } = &command
            && !self.hears_majority_without(victims)
        {
            return;
        }
        let author = self.settings.seat;
        let proposal = Proposal { author, number: 0, forwarded: false, command };
        let _ = self.raw.propose(Vec::new(), proposal.encode());
    }

    /// This node leads: gives a proposal to the engine.
    pub(super) fn propose_now(&mut self, proposal: &Proposal) {
        self.admit_author(proposal.author);
        if let Command::Join(candidate) = &proposal.command {
            self.eject_former_seat(candidate);
            self.welcome(candidate);
        }
        let Some(command) = self.temper(&proposal.command, proposal.author) else { return };
        let data = Proposal { command, forwarded: false, ..*proposal }.encode();
        if data.len() <= ENTRY_MAX {
            // Refused when too much is uncommitted: it is proposed again.
            let _ = self.raw.propose(Vec::new(), data);
        }
    }

    /// The silence of a council while its node was away is none of its new stay.
    fn welcome(&mut self, candidate: &Candidate) {
        let is_known = self.raw.raft.prs().get(candidate.seat.number()).is_some();
        let is_new = !self.view().names(candidate.node, candidate.incarnation);
        if is_known && is_new {
            self.heard.insert(candidate.seat, self.now);
        }
    }

    fn propose_membership(&mut self) {
        let Some(wish) = self.wish else { return };
        let view = std::sync::Arc::clone(self.view());
        let named = view.names(wish.node, wish.incarnation)
            && view.members.get(&wish.node).is_some_and(|member| member.seat == wish.seat);
        let life = (wish.node, wish.incarnation);
        let may = self.proposals.readmission.look(self.now, &view, life);
        if !named && may && self.proposals.enlist_at <= self.now {
            self.proposals.enlist_at = self.now + ENLIST_RETRY;
            self.propose_duty(Command::Join(wish));
        }
    }

    fn next_contact(&mut self) -> Option<crate::id::NodeId> {
        let me = self.settings.seat.node();
        let others: Vec<_> = self.settings.contacts.iter().filter(|node| **node != me).collect();
        self.proposals.turn += 1;
        others.get(self.proposals.turn % others.len().max(1)).map(|node| **node)
    }
}
