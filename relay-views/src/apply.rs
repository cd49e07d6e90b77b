//! The state machine: a view and a command make the next view, or a refusal.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::command::{Candidate, Command, Refusal};
use crate::id::{Incarnation, NodeId, NodeSet, Seat};
use crate::placement::Field;
use crate::settle::Settling;
use crate::view::{
    Bucket, DOCUMENT_MAX, Document, Holder, Kind, MEMBERS_MAX, Member, OBJECTION_MAX, State,
    VIPS_MAX, View, WEIGHT_MAX, Withdrawn,
};

impl View {
    /// The view after `command`, or why it changes nothing. A pure function, the same everywhere.
    ///
    /// Keeps the rules 1 to 5 and 18: a bucket's term changes iff its owner changes; a new owner
    /// comes from the set in sync, unless nobody is left in it; that set grows by promotion only.
    pub fn apply(&self, command: &Command) -> Result<View, Refusal> {
        let mut next = self.clone();
        next.number += 1;
        match command {
            Command::Configure { .. } | Command::Prepared { .. } | Command::Withdraw { .. } => {
                next.configure(command)?;
            }
            Command::HandOver { seen, buckets, to } => {
                let to_fit = next.relays(|s| matches!(s, State::Live | State::Joining));
                let to_fit = to_fit.contains(*to);
                next.change(*seen, buckets, |bucket| hand_over(bucket, *to, to_fit))?;
            }
            Command::HandedOver { seen, buckets, from } => {
                next.require(*from)?;
                next.change(*seen, buckets, |bucket| handed_over(bucket, from.0))?;
            }
            Command::Promote { seen, buckets, owner, learner } => {
                next.require(*owner)?;
                next.require(*learner)?;
                next.change(*seen, buckets, |bucket| promote(bucket, owner.0, learner.0))?;
            }
            Command::Lose { seen, buckets } => {
                let alive = next.alive();
                if alive.is_empty() {
                    return Err(Refusal::Unfit);
                }
                next.change(*seen, buckets, |bucket| lose(bucket, alive))?;
            }
            Command::Hold { vip, seen, node } => next.hold(*vip, *seen, *node)?,
            members => {
                next.change_members(members)?;
                next.settle_all();
            }
        }
        next.settle_members();
        next.settle_configuration();
        next.settle_vips();
        Ok(next)
    }

    fn require(&self, (node, incarnation): (NodeId, Incarnation)) -> Result<(), Refusal> {
        if self.names(node, incarnation) { Ok(()) } else { Err(Refusal::Gone) }
    }

    /// Changes those of `buckets` that did not change since the view `seen`, and for which `act`
    /// finds that it may.
    fn change(
        &mut self,
        seen: u64,
        buckets: &[u16],
        act: impl Fn(&mut Bucket) -> bool,
    ) -> Result<(), Refusal> {
        if buckets.iter().any(|index| usize::from(*index) >= self.buckets.len()) {
            return Err(Refusal::Range);
        }
        let rule = Settling::new(self);
        let mut any = false;
        for index in buckets {
            let bucket = &mut self.buckets[usize::from(*index)];
            let mut new = *bucket;
            if bucket.changed <= seen && act(&mut new) {
                rule.settle(*index, &mut new);
                new.changed = rule.number;
                *bucket = new;
                any = true;
            }
        }
        if any { Ok(()) } else { Err(Refusal::Stale) }
    }

    fn change_members(&mut self, command: &Command) -> Result<(), Refusal> {
        match command {
            Command::Join(candidate) => self.join(candidate),
            Command::Eject { victims, by, seen } => self.take_out((victims, *seen), *by),
            Command::Drain { node } => self.set_state(*node, State::Draining),
            Command::Undrain { node } => match self.member(*node)?.state {
                State::Draining => self.set_state(*node, State::Joining),
                State::Dead => Err(Refusal::Gone),
                State::Joining | State::Live => Err(Refusal::Unchanged),
            },
            Command::Forget { node } => self.forget(*node),
            Command::Weigh { node, weight } => self.weigh(*node, *weight),
            Command::Replicas { replicas } if usize::from(*replicas) > MEMBERS_MAX => {
                Err(Refusal::Range)
            }
            Command::Replicas { replicas } if *replicas == self.replicas => Err(Refusal::Unchanged),
            Command::Replicas { replicas } => {
                self.replicas = *replicas;
                Ok(())
            }
            Command::Configure { .. }
            | Command::HandOver { .. }
            | Command::HandedOver { .. }
            | Command::Hold { .. }
            | Command::Lose { .. }
            | Command::Prepared { .. }
            | Command::Promote { .. }
            | Command::Withdraw { .. } => Err(Refusal::Unchanged),
        }
    }

    fn join(&mut self, candidate: &Candidate) -> Result<(), Refusal> {
        let Candidate { node, incarnation, seat, kind, votes, weight, generation } = *candidate;
        let known = self.members.get(&node).copied();
        let room = known.is_some() || self.members.len() < MEMBERS_MAX;
        let named = !NodeSet::of(node).is_empty() && seat.node() == node;
        if !named || !room || !(1..=WEIGHT_MAX).contains(&weight) {
            return Err(Refusal::Range);
        }
        if let Some(known) = known.filter(|known| known.state != State::Dead) {
            // Its disk is used by one process at a time: the former life is over.
            let restarted = known.seat == seat;
            match known.incarnation == incarnation {
                true => return Err(Refusal::Unchanged),
                false if !restarted => return Err(Refusal::Alive),
                false => {}
            }
        }
        if known.is_some_and(|known| known.kind != kind) {
            return Err(Refusal::Unfit);
        }
        if kind == Kind::Relay && generation != self.configuration.active.generation {
            return Err(Refusal::Generation);
        }
        if known.is_some_and(|known| known.incarnation != incarnation) {
            // Rule 9: who restarts is blank. Nor does it hold what its former life was given.
            self.configuration.prepared = self.configuration.prepared.without(node);
            for bucket in &mut self.buckets {
                if bucket.in_sync.union(bucket.learners).contains(node) {
                    bucket.in_sync = bucket.in_sync.without(node);
                    bucket.learners = bucket.learners.without(node);
                    bucket.changed = self.number;
                }
            }
        }
        let state = if kind == Kind::Relay { State::Joining } else { State::Live };
        let (changed, joined) = (self.number, self.number);
        // An operator's choice outlives a restart.
        let weight = known.map_or(weight, |known| known.weight);
        let member = Member { incarnation, seat, kind, votes, state, weight, changed, joined };
        self.members.insert(node, member);
        self.retired.retain(|retired| *retired != seat);
        if let Some(known) = known.filter(|known| known.seat != seat) {
            self.retire(known.seat);
        }
        Ok(())
    }

    fn retire(&mut self, seat: Seat) {
        if self.retired.len() == MEMBERS_MAX {
            self.retired.remove(0);
        }
        self.retired.push(seat);
    }

    fn take_out(
        &mut self,
        (victims, seen): (&[(NodeId, Incarnation)], u64),
        by: (NodeId, Incarnation),
    ) -> Result<(), Refusal> {
        if !self.has_stayed(by, seen) {
            return Err(Refusal::Gone);
        }
        let mut any = false;
        for victim in victims {
            if self.has_stayed(*victim, seen) {
                any |= self.set_state(victim.0, State::Dead).is_ok();
            }
        }
        if any { Ok(()) } else { Err(Refusal::Gone) }
    }

    fn set_state(&mut self, node: NodeId, state: State) -> Result<(), Refusal> {
        let changed = self.number;
        let member = self.members.get_mut(&node).ok_or(Refusal::Gone)?;
        match member.state {
            State::Dead => return Err(Refusal::Gone),
            current if current == state => return Err(Refusal::Unchanged),
            _ if member.kind == Kind::Witness && state != State::Dead => {
                return Err(Refusal::Unfit);
            }
            _ => {}
        }
        (member.state, member.changed) = (state, changed);
        Ok(())
    }

    fn member(&self, node: NodeId) -> Result<&Member, Refusal> {
        self.members.get(&node).ok_or(Refusal::Gone)
    }

    fn forget(&mut self, node: NodeId) -> Result<(), Refusal> {
        let (state, seat) = (self.member(node)?.state, self.member(node)?.seat);
        // Its buckets may still come back with it: they have to be given up explicitly.
        if state != State::Dead || !self.is_empty_of(node) {
            return Err(Refusal::Unfit);
        }
        self.members.remove(&node);
        self.retire(seat);
        Ok(())
    }

    fn weigh(&mut self, node: NodeId, weight: u16) -> Result<(), Refusal> {
        if !(1..=WEIGHT_MAX).contains(&weight) {
            return Err(Refusal::Range);
        }
        let member = self.members.get_mut(&node).ok_or(Refusal::Gone)?;
        if member.weight == weight {
            return Err(Refusal::Unchanged);
        }
        member.weight = weight;
        Ok(())
    }

    fn hold(&mut self, vip: IpAddr, seen: u64, node: NodeId) -> Result<(), Refusal> {
        let fit = self.relays(|s| matches!(s, State::Live | State::Joining)).contains(node);
        let changed = self.number;
        let holder = self.vips.get_mut(&vip).ok_or(Refusal::Gone)?;
        match holder.node {
            _ if !fit => Err(Refusal::Unfit),
            _ if holder.changed > seen => Err(Refusal::Stale),
            Some(current) if current == node => Err(Refusal::Unchanged),
            _ => {
                *holder = Holder { node: Some(node), changed };
                Ok(())
            }
        }
    }

    fn configure(&mut self, command: &Command) -> Result<(), Refusal> {
        let configuration = &self.configuration;
        let proposed = configuration.proposed.as_ref().map(|document| document.generation);
        match command {
            Command::Configure { bytes, vips, .. }
                if bytes.len() > DOCUMENT_MAX || vips.len() > VIPS_MAX =>
            {
                return Err(Refusal::Range);
            }
            Command::Configure { generation, bytes, vips } => {
                if proposed.is_some() || *generation != configuration.next() {
                    return Err(Refusal::Generation);
                }
                let (bytes, vips) = (bytes.clone(), vips.clone());
                let document = Document { generation: *generation, bytes, vips };
                self.configuration.proposed = Some(document);
                self.configuration.prepared = NodeSet::EMPTY;
            }
            Command::Prepared { node, generation } => {
                if proposed != Some(*generation) {
                    return Err(Refusal::Generation);
                }
                self.require(*node)?;
                if !self.alive().contains(node.0) {
                    return Err(Refusal::Unfit);
                }
                if configuration.prepared.contains(node.0) {
                    return Err(Refusal::Unchanged);
                }
                self.configuration.prepared = configuration.prepared.with(node.0);
            }
            Command::Withdraw { objection: Some(objection), .. }
                if objection.reason.len() > OBJECTION_MAX =>
            {
                return Err(Refusal::Range);
            }
            Command::Withdraw { generation, objection } if proposed == Some(*generation) => {
                self.configuration.proposed = None;
                self.configuration.prepared = NodeSet::EMPTY;
                let (generation, objection) = (*generation, objection.clone());
                self.configuration.withdrawn = Some(Withdrawn { generation, objection });
            }
            _ => return Err(Refusal::Generation),
        }
        Ok(())
    }

    fn settle_all(&mut self) {
        let rule = Settling::new(self);
        for (index, bucket) in (0..).zip(&mut self.buckets) {
            let before = *bucket;
            rule.settle(index, bucket);
            if *bucket != before {
                bucket.changed = rule.number;
            }
        }
    }

    /// Who has nothing left to learn is live.
    fn settle_members(&mut self) {
        let learning = self.buckets.iter().map(|bucket| bucket.learners);
        let learning = learning.fold(NodeSet::EMPTY, NodeSet::union);
        for (node, member) in &mut self.members {
            if member.state == State::Joining && !learning.contains(*node) {
                (member.state, member.changed) = (State::Live, self.number);
            }
        }
    }

    /// A document is in force once every relay that is alive holds it.
    fn settle_configuration(&mut self) {
        let alive = self.alive();
        let configuration = &mut self.configuration;
        configuration.prepared = configuration.prepared.intersection(alive);
        if alive.is_empty() || !alive.is_within(configuration.prepared) {
            return;
        }
        if let Some(document) = configuration.proposed.take() {
            configuration.prepared = NodeSet::EMPTY;
            let nobody = Holder { node: None, changed: self.number };
            let holder = |vip| (vip, self.vips.get(&vip).copied().unwrap_or(nobody));
            self.vips = document.vips.iter().copied().map(holder).collect::<BTreeMap<_, _>>();
            configuration.active = document;
        }
    }

    /// An address stays where it is as long as its holder may serve.
    fn settle_vips(&mut self) {
        let field = Field::new(self);
        let rule = Settling::new(self);
        for (index, holder) in (0..).zip(self.vips.values_mut()) {
            if holder.node.is_some_and(|node| rule.welcome.contains(node)) {
                continue;
            }
            let among = rule.fittest_of(rule.alive);
            let node = field.holder(index, among);
            if node != holder.node {
                *holder = Holder { node, changed: self.number };
            }
        }
    }
}

fn hand_over(bucket: &mut Bucket, to: NodeId, to_is_fit: bool) -> bool {
    if bucket.owner == Some(to) {
        return bucket.heir.take().is_some();
    }
    let able = to_is_fit && bucket.in_sync.contains(to) && bucket.heir != Some(to);
    if able {
        bucket.heir = Some(to);
    }
    able
}

fn handed_over(bucket: &mut Bucket, from: NodeId) -> bool {
    let able = bucket.owner == Some(from) && bucket.heir.is_some();
    if able {
        bucket.owner = bucket.heir.take();
        bucket.term += 1;
    }
    able
}

fn promote(bucket: &mut Bucket, owner: NodeId, learner: NodeId) -> bool {
    let able = bucket.owner == Some(owner) && bucket.learners.contains(learner);
    if able {
        bucket.learners = bucket.learners.without(learner);
        bucket.in_sync = bucket.in_sync.with(learner);
    }
    able
}

fn lose(bucket: &mut Bucket, alive: NodeSet) -> bool {
    let stalled = !bucket.in_sync.is_empty() && bucket.in_sync.intersection(alive).is_empty();
    if stalled {
        bucket.in_sync = NodeSet::EMPTY;
    }
    stalled
}
