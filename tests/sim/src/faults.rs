//! The steps of a script, and noise.

use std::collections::BTreeSet;

use relay_core::config::Side;
use relay_core::parting::Parting;
use relay_core::replica::Role;
use relay_core::time::{Duration, Instant};
use relay_core::units::Units;
use relay_views::id::NodeSet;

use crate::council::Council;
use crate::network::Port;
use crate::random::mix;
use crate::relay::Relay;
use crate::script::{Action, Step, When, Who};
use crate::setup;
use crate::world::World;

/// Cluster datagrams of the past that one step repeats.
const REPLAYED: usize = 200;

/// Where the checksum of a UDP datagram over IPv4 is; zero means that there is none (RFC 768).
const UDP_CHECKSUM: usize = 14 + 20 + 6;
/// The third lowest byte of a datagram's counter.
const COUNTER_HIGH: usize = 14 + 20 + 8 + 20 + 5;

/// Longest frame of noise, in bytes.
const NOISE_MAX: u64 = 200;

impl World {
    /// Does the steps that are due.
    pub(crate) fn step(&mut self) {
        while let Some(Step { when, action }) = self.options.steps.get(self.step).copied() {
            if !self.is_due(when) || !self.perform(action) {
                return;
            }
            self.note(&format!("{action:?}"));
            self.step += 1;
            self.step_since = self.now;
            self.moved_before = self.moved();
            self.sent_before = self.wire.frames;
            self.disturbed = self.disturbed.max(self.now);
        }
    }

    /// When the next step is due, if time alone decides.
    pub(crate) fn step_at(&self) -> Option<Instant> {
        match self.options.steps.get(self.step)?.when {
            When::After(time) => Some(self.step_since + time).filter(|at| *at > self.now),
            When::Moved(_) | When::Sent(_) | When::InSync => None,
        }
    }

    /// Frames of garbage at the relays' ports.
    pub(crate) fn make_noise(&mut self) {
        let Some(at) = self.noise_at.filter(|at| *at <= self.now) else { return };
        let interval = Duration::from_secs(1) / self.options.noise;
        self.noise_at =
            Some(at + interval).filter(|at| *at < crate::world::BEGIN + self.options.faults_until);
        let mut frame = vec![0; 14 + self.random.below(NOISE_MAX) as usize];
        self.random.fill(&mut frame);
        if self.random.chance(700) {
            // A header that gets further into the parser.
            let kinds: [[u8; 2]; 3] = [[8, 0], [8, 6], [0x86, 0xdd]];
            frame[12..14].copy_from_slice(&kinds[self.random.below(3) as usize]);
        }
        let index = self.random.below(self.relays.len() as u64) as usize;
        let sides = [Side::Client, Side::Backend, Side::Cluster];
        let side = sides[self.random.below(3) as usize];
        self.arrive(index, side, frame);
    }

    fn is_due(&self, when: When) -> bool {
        match when {
            When::After(time) => self.now >= self.step_since + time,
            When::Moved(bytes) => self.moved() >= self.moved_before + bytes,
            When::Sent(frames) => self.wire.frames >= self.sent_before + frames,
            When::InSync => {
                let is_covered = |unit| {
                    let owner = self.find_in(unit, Who::Owner);
                    owner.is_some_and(|owner| self.successor(unit, owner).is_some())
                };
                (0..self.options.units.into()).all(is_covered)
            }
        }
    }

    /// False when it is not possible yet.
    fn perform(&mut self, action: Action) -> bool {
        match action {
            Action::Wait => {}
            Action::Crash(who, frames) => {
                let Some(index) = self.find(who) else { return false };
                self.disrupt(index);
                self.count_dropped(index);
                self.relays[index].cut_after = Some(frames);
                self.report.crashes += 1;
                self.clients.startle(self.now);
            }
            Action::End(who) => {
                let Some(index) = self.find(who) else { return false };
                self.relays[index].parting.get_or_insert(Parting::new(self.now));
            }
            Action::Restart => {
                let dies = |relay: &Relay| relay.cut_after.is_some() || relay.parting.is_some();
                if self.relays.iter().any(dies) {
                    return false; // it is gone soon
                }
                for index in 0..self.relays.len() {
                    if self.relays[index].units.is_none() {
                        let units = setup::units(index, &self.options, &mut self.random, self.now);
                        let life = units.incarnation();
                        let council = self.council.as_ref();
                        let member =
                            council.map(|council| council.member(index, life, &self.options));
                        self.relays[index].start(self.now, index, (units, member));
                        if let Some(keys) = &mut self.keys {
                            keys.change_version(index);
                            keys.connect(self.now, index);
                        }
                    }
                }
            }
            Action::Pause(who, time) | Action::Freeze(who, time) => {
                let Some(index) = self.find(who) else { return false };
                self.disrupt(index);
                let deaf = matches!(action, Action::Freeze(..));
                self.relays[index].pause(self.now + time, deaf);
            }
            Action::Mute(who, time) => return self.mute(who, time),
            Action::Slow(who, lag, time) => {
                let Some(index) = self.find(who) else { return false };
                self.relays[index].slow = Some((lag, self.now + time));
            }
            Action::Clog(who, frames, time) => {
                let Some(index) = self.find(who) else { return false };
                self.relays[index].clogged = Some((frames, self.now + time));
            }
            Action::Cut(side, way, time) => {
                self.network.cut(side, way, self.now + time);
                self.disturbed = self.disturbed.max(self.now + time);
            }
            Action::Sever(side, who, way, time) => {
                let Some(index) = self.find(who) else { return false };
                self.network.sever(side, (index, way), self.now + time);
                self.disturbed = self.disturbed.max(self.now + time);
            }
            Action::Unplug(side, who, time) => {
                let Some(index) = self.find(who) else { return false };
                self.relays[index].unplug(self.now, side, self.now + time);
                self.disturbed = self.disturbed.max(self.now + time);
            }
            Action::Drain => self.council.iter().for_each(Council::drain_owner),
            Action::Reconfigure => self.council.iter().for_each(Council::reconfigure),
            Action::Replay => self.replay(),
        }
        true
    }

    fn mute(&mut self, who: Who, time: Duration) -> bool {
        let Some(index) = self.find(who) else { return false };
        let is_cut = match self.council {
            Some(_) => {
                self.disrupt(index);
                false
            }
            // Both at a time is a cut of the cluster link, which splits the brain of two
            // relays, and so is a relay that nobody hears and that hears late, because what it
            // is told waits in its rings behind everything else: see "What does not work yet" in the README.
            None => {
                self.relays.iter().any(|relay| relay.is_muted(self.now))
                    || (time >= setup::TIMEOUT
                        && (self.greets_only(index) || self.relays[index].is_slow(self.now)))
            }
        };
        if !is_cut {
            self.relays[index].muted_until = Some(self.now + time);
        }
        true
    }

    /// A relay that was asked to end has done so.
    pub(crate) fn end(&mut self, index: usize) {
        self.disrupt(index);
        self.count_dropped(index);
        self.relays[index] = Relay::default();
        self.report.ends += 1;
        self.disturbed = self.disturbed.max(self.now);
        self.note(&format!("relay {} has ended", index + 1));
    }

    /// The owner has no power any more, if there is one.
    pub(crate) fn kill_owner(&mut self) {
        let Some(index) = self.find(Who::Owner) else { return };
        self.disrupt(index);
        self.count_dropped(index);
        self.relays[index] = Relay::default();
        self.report.crashes += 1;
        self.disturbed = self.disturbed.max(self.now);
        self.note(&format!("relay {} is dead", index + 1));
    }

    /// Whether nothing but greetings would come from the other relay if it did not hear `index`: a
    /// greeting goes first, and where rings are full and turns are few nothing else finds room.
    fn greets_only(&self, index: usize) -> bool {
        let others = self.relays.iter().enumerate().filter(|(other, _)| *other != index);
        others.map(|(_, relay)| relay).all(|relay| relay.crawls(self.now))
    }

    /// Whom a step is about: in one unit, most often the first one.
    fn find(&self, who: Who) -> Option<usize> {
        let units = u64::from(self.options.units);
        let drawn = mix(self.report.seed ^ (self.step as u64) << 32) % (units * 2);
        self.find_in(if drawn < units { drawn as usize } else { 0 }, who)
    }

    fn find_in(&self, unit: usize, who: Who) -> Option<usize> {
        let wanted = match who {
            Who::Owner => Role::Owner,
            Who::Backup => Role::Backup,
        };
        let node = |index: usize| Some(&self.relays[index].units.as_ref()?.nodes()[unit]);
        let fits = |index: &usize| {
            self.relays[*index].runs() && node(*index).is_some_and(|node| node.role() == wanted)
        };
        // A former owner may not know yet that it is one.
        let term = |index: &usize| node(*index).map(|node| node.view().term);
        (0..self.relays.len()).rev().filter(fits).max_by_key(term)
    }

    /// The relay that could take over a unit from `owner`.
    fn successor(&self, unit: usize, owner: usize) -> Option<usize> {
        if let Some(council) = &self.council {
            let view = council.newest();
            let in_sync = view.bucket(unit as u32).map_or(NodeSet::EMPTY, |bucket| bucket.in_sync);
            let may = |index: &usize| {
                let in_sync = in_sync.contains(setup::id(*index));
                in_sync && self.relays[*index].runs() && self.is_named(*index)
            };
            return (0..self.relays.len()).filter(|index| *index != owner).find(may);
        }
        let in_sync = |index: &usize| {
            let relay = &self.relays[*index];
            let report = relay.units.as_ref().map(|units| units.report(self.now));
            relay.runs() && report.is_some_and(|report| report.in_sync)
        };
        in_sync(&owner).then_some(())?;
        (0..self.relays.len()).filter(|index| *index != owner).find(in_sync)
    }

    /// Notes which connections the loss of a relay may cost.
    fn disrupt(&mut self, index: usize) {
        let open = self.protected(index);
        for unit in 0..self.options.units.into() {
            self.disrupt_unit(unit, index, &open);
        }
    }

    fn disrupt_unit(&mut self, unit: usize, index: usize, open: &BTreeSet<u16>) {
        let units = self.relays[index].units.as_ref();
        let role = units.map(|units| units.nodes()[unit].role());
        let (owner, holds) = self.standing_in_view(unit, index);
        let is_orphan = owner.is_none_or(|owner| !self.is_named(owner));
        // Who has left heard the owner until then, which may have died at that moment.
        let held = holds || self.relays[index].parting.is_some();
        if role != Some(Role::Owner) && owner != Some(index) && !(is_orphan && held) {
            return;
        }
        let refused = self.refused(index);
        let survives = self.successor(unit, index).is_some();
        let flows = self.clients.flows.iter();
        let alive = flows.filter(|flow| {
            let served = self.backend.is_done(flow.plan.id);
            let is_alive = flow.is_started() && !(served && flow.outcome.is_some());
            is_alive && self.unit_of_client(flow.port) == unit
        });
        let (kept, lost): (Vec<_>, Vec<_>) = alive
            .map(|flow| (flow.plan.id, flow.port))
            .partition(|(_, port)| survives && !refused.contains(port));
        self.report.survivals += kept.len();
        for (id, port) in lost {
            self.note(&format!("connection {id} (port {port}) may be lost"));
            self.excused.insert(id);
            if !open.contains(&port) {
                self.wire.forget(port);
                self.audit.forget(port);
            }
        }
    }

    /// Who owns a unit by the newest view, and whether a relay is to take over from it.
    fn standing_in_view(&self, unit: usize, index: usize) -> (Option<usize>, bool) {
        let view = self.council.as_ref().map(Council::newest);
        let Some(bucket) = view.as_ref().and_then(|view| view.bucket(unit as u32)) else {
            return (None, false);
        };
        let owner = (0..self.relays.len()).find(|other| bucket.owner == Some(setup::id(*other)));
        (owner, bucket.in_sync.contains(setup::id(index)))
    }

    /// Whether a relay is there in the life that the newest view names.
    fn is_named(&self, index: usize) -> bool {
        let life = self.relays[index].units.as_ref().map(Units::incarnation);
        let view = self.council.as_ref().map(Council::newest);
        view.zip(life).is_some_and(|(view, life)| view.names(setup::id(index), life))
    }

    /// Repeats cluster frames of the past, and sends changed ones.
    fn replay(&mut self) {
        for _ in 0..REPLAYED.min(self.recorded.len()) {
            let at = self.random.below(self.recorded.len() as u64) as usize;
            let (from, mut frame) = self.recorded[at].clone();
            if self.random.chance(300) {
                // With a counter that is still to come, or it would be taken for a mere repetition.
                let last = frame.len() - 1;
                frame[last] ^= 1;
                frame[COUNTER_HIGH] = frame[COUNTER_HIGH].wrapping_add(1);
                frame[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
            }
            self.network.send(self.now, Side::Cluster, Port::Relay(from), frame);
        }
    }
}
