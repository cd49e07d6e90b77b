//! The steps of a script, and noise.

use relay_core::config::Side;
use relay_core::replica::Role;
use relay_core::time::{Duration, Instant};
use relay_views::id::NodeSet;

use crate::council::Council;
use crate::network::Port;
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
        self.relays[index].receive(self.now, side, frame);
    }

    fn is_due(&self, when: When) -> bool {
        match when {
            When::After(time) => self.now >= self.step_since + time,
            When::Moved(bytes) => self.moved() >= self.moved_before + bytes,
            When::Sent(frames) => self.wire.frames >= self.sent_before + frames,
            When::InSync => {
                self.find(Who::Owner).is_some_and(|owner| self.successor(owner).is_some())
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
            Action::Restart => {
                if self.relays.iter().any(|relay| relay.cut_after.is_some()) {
                    return false; // it dies at the end of its next turn
                }
                for index in 0..self.relays.len() {
                    if self.relays[index].node.is_none() {
                        let node = setup::node(index, &self.options, &mut self.random, self.now);
                        let life = (setup::id(index), node.incarnation());
                        let council = self.council.as_ref();
                        let member = council.map(|council| council.member(life.0, life.1));
                        self.relays[index].start(self.now, node, member);
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

    fn find(&self, who: Who) -> Option<usize> {
        let wanted = match who {
            Who::Owner => Role::Owner,
            Who::Backup => Role::Backup,
        };
        let fits = |index: &usize| {
            let relay = &self.relays[*index];
            relay.runs() && relay.node.as_ref().is_some_and(|node| node.role() == wanted)
        };
        // A former owner may not know yet that it is one.
        let term = |index: &usize| self.relays[*index].node.as_ref().map(|node| node.view().term);
        (0..self.relays.len()).rev().filter(fits).max_by_key(term)
    }

    /// The relay that could take over from `owner`.
    fn successor(&self, owner: usize) -> Option<usize> {
        if let Some(council) = &self.council {
            let view = council.newest();
            let in_sync = view.bucket(0).map_or(NodeSet::EMPTY, |bucket| bucket.in_sync);
            let may = |index: &usize| {
                let relay = &self.relays[*index];
                let life = relay.node.as_ref().map(|node| node.incarnation());
                let names = life.is_some_and(|life| view.names(setup::id(*index), life));
                in_sync.contains(setup::id(*index)) && relay.runs() && names
            };
            return (0..self.relays.len()).filter(|index| *index != owner).find(may);
        }
        let in_sync = |index: &usize| {
            let relay = &self.relays[*index];
            let report = relay.node.as_ref().map(|node| node.report(self.now));
            relay.runs() && report.is_some_and(|report| report.in_sync)
        };
        in_sync(&owner).then_some(())?;
        (0..self.relays.len()).filter(|index| *index != owner).find(in_sync)
    }

    /// Notes which connections the loss of a relay may cost.
    fn disrupt(&mut self, index: usize) {
        let role = self.relays[index].node.as_ref().map(|node| node.role());
        let owner = self.council.as_ref().map(|council| council.newest());
        let owner = owner.and_then(|view| view.bucket(0)?.owner);
        if role != Some(Role::Owner) && owner != Some(setup::id(index)) {
            return;
        }
        let open = self.protected(index);
        let survives = self.successor(index).is_some();
        let refused = self.refused(index);
        let flows = self.clients.flows.iter();
        let alive = flows.filter(|flow| {
            let served = self.backend.is_done(flow.plan.id);
            flow.is_started() && !(served && flow.outcome.is_some())
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
