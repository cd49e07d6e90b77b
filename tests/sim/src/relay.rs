//! A relay's machine: production [`Units`] between rings that a power cut empties, and a program before
//! the rings that sends on what is another relay's.

use std::collections::VecDeque;

use relay_core::config::Side;
use relay_core::frame::IpAddress;
use relay_core::id::NodeId;
use relay_core::node::Command;
use relay_core::parting::Parting;
use relay_core::replica::PairKey;
use relay_core::time::{Duration, Instant};
use relay_core::units::Units;

use crate::audit::Sender;
use crate::council::Member;
use crate::lease::Standing;
use crate::program::{Program, Verdict};

/// Frames that a paused machine's receive rings hold; more are lost.
const RING: usize = 2048;

/// Frames of one batch.
const BATCH: usize = 64;

/// A turn cannot be repeated sooner than this.
const TURN: Duration = Duration::from_micros(1);

/// A full ring has room again after this time.
const RING_DRAINS: Duration = Duration::from_micros(200);

/// A machine.
#[derive(Default)]
pub struct Relay {
    /// None: without power.
    pub units: Option<Units>,
    /// Where its views come from, if they decide.
    pub member: Option<Member>,
    pub paused_until: Option<Instant>,
    /// While it is paused frames are lost.
    deaf: bool,
    /// Its cluster interface loses what it sends.
    pub muted_until: Option<Instant>,
    /// Its interfaces that have no carrier, until then.
    pub unplugged: Vec<(Side, Instant)>,
    /// Its turns are this far apart, until then.
    pub slow: Option<(Duration, Instant)>,
    /// So many frames leave each interface in one turn, until then.
    pub clogged: Option<(usize, Instant)>,
    /// The power fails when this many more frames have left.
    pub cut_after: Option<u64>,
    /// It is asked to end.
    pub parting: Option<Parting>,
    /// What it was told of keys and does not know yet.
    keys: Vec<(NodeId, PairKey)>,
    program: Program,
    ring: VecDeque<(Side, Vec<u8>)>,
    wake_at: Option<Instant>,
    /// The next turn is not before.
    lazy_until: Instant,
}

/// What a machine did.
#[derive(Default)]
pub struct Turned {
    /// Frames in the order in which they left.
    pub frames: Vec<(Side, Vec<u8>)>,
    /// Addresses whose next hop is asked for.
    pub resolve: Vec<(Side, IpAddress)>,
    /// The power failed.
    pub died: bool,
    /// It was asked to end, and nothing is left to be done before.
    pub ended: bool,
    /// Who sends the frames of each unit.
    pub acting: Vec<Acting>,
}

/// One unit at a machine, at the end of its turn.
pub struct Acting {
    pub sender: Sender,
    /// The same for the council, if there is one.
    pub standing: Option<Standing>,
}

impl Relay {
    /// Whether the machine has power and is not paused.
    pub fn runs(&self) -> bool {
        self.units.is_some() && self.paused_until.is_none()
    }

    /// Whether nobody hears its cluster interface.
    pub fn is_muted(&self, now: Instant) -> bool {
        self.muted_until.is_some_and(|until| now < until)
    }

    /// Whether it has few turns and few frames leave in each.
    pub fn crawls(&self, now: Instant) -> bool {
        self.is_slow(now) && self.clogged.is_some_and(|(_, until)| now < until)
    }

    /// Whether it has few turns, so that what it is told may wait in its rings for long.
    pub fn is_slow(&self, now: Instant) -> bool {
        self.slow.is_some_and(|(_, until)| now < until)
    }

    /// A frame arrives: it goes into a receive ring, or is returned because it has to be sent on.
    #[must_use]
    pub fn receive(&mut self, now: Instant, side: Side, frame: Vec<u8>) -> Option<Vec<u8>> {
        if self.units.is_none() || self.is_unplugged(now, side) {
            return None;
        }
        let frame = match self.program.judge(side, frame) {
            Verdict::Take(frame) => frame,
            Verdict::Forward(frame) => return Some(frame),
            Verdict::Drop => return None,
        };
        let deaf = self.deaf && self.paused_until.is_some_and(|until| now < until);
        if !deaf && self.ring.len() < RING {
            self.ring.push_back((side, frame));
            let at = now.max(self.lazy_until);
            self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
        }
        None
    }

    /// Switches the machine at `index` on.
    pub fn start(&mut self, now: Instant, index: usize, (units, member): (Units, Option<Member>)) {
        let program = Program::new(index, units.nodes().len());
        let wake_at = Some(now);
        *self = Relay { units: Some(units), member, program, wake_at, ..Relay::default() };
    }

    /// It is told what it has in common with another one.
    pub fn share(&mut self, now: Instant, peer: NodeId, key: PairKey) {
        self.keys.push((peer, key));
        let at = now.max(self.lazy_until);
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    /// The machine gets no processor until `until`, and no frames if it is `deaf`.
    pub fn pause(&mut self, until: Instant, deaf: bool) {
        (self.paused_until, self.deaf) = (Some(until), deaf);
    }

    /// When [`Relay::run`] has something to do.
    pub fn next_at(&self) -> Option<Instant> {
        self.units.as_ref()?;
        let plug = self.unplugged.iter().map(|(_, until)| *until).min();
        self.paused_until.or_else(|| self.wake_at.into_iter().chain(plug).min())
    }

    /// An interface loses its carrier until then.
    pub fn unplug(&mut self, now: Instant, side: Side, until: Instant) {
        if let Some(units) = &mut self.units {
            units.handle_carrier(now, side, false);
            self.unplugged.push((side, until));
            self.wake_at = Some(now);
        }
    }

    /// Whether an interface has no carrier.
    pub fn is_unplugged(&self, now: Instant, side: Side) -> bool {
        self.unplugged.iter().any(|(other, until)| *other == side && now < *until)
    }

    /// One turn, if it is time.
    pub fn run(&mut self, now: Instant) -> Option<Turned> {
        if self.next_at().is_none_or(|at| at > now) {
            return None;
        }
        let in_reach = !self.is_muted(now) && !self.is_unplugged(now, Side::Cluster);
        let units = self.units.as_mut()?;
        self.paused_until = None;
        if let (Some(parting), Some(member)) = (&mut self.parting, &mut self.member)
            && member.part(now, parting.step(now, Some(units.duty(now, parting.since()))), in_reach)
        {
            return Some(Turned { ended: true, ..Turned::default() });
        }
        for (side, _) in self.unplugged.extract_if(.., |(_, until)| *until <= now) {
            units.handle_carrier(now, side, true);
        }
        for (peer, key) in self.keys.drain(..) {
            units.handle_pair_key(now, peer, &key);
        }
        for (side, frame) in self.ring.drain(..self.ring.len().min(BATCH)) {
            units.handle_frame(now, side, &frame);
        }
        let vouched = self.member.as_mut().is_some_and(|member| member.show(now, units, in_reach));
        units.turn(now);
        let acting = acting(units, self.member.as_ref(), vouched);
        let mut turned = Turned { acting, ..Turned::default() };
        while let Some(command) = units.poll_command() {
            match (command, self.member.as_mut().filter(|_| in_reach)) {
                (Command::Steer, _) => self.program.steer(units),
                (Command::Resolve(side, address), _) => turned.resolve.push((side, address)),
                (Command::Propose(command), Some(member)) => member.propose(now, command),
                (Command::Suspect(silent), Some(member)) => member.suspect(now, silent),
                // The program looks at no addresses.
                (Command::Serve(..) | Command::Propose(_) | Command::Suspect(_), _) => {}
            }
        }
        self.program.learn_ports(units);
        let clogged = self.clogged.filter(|(_, until)| now < *until);
        let frames_max = clogged.map_or(usize::MAX, |(frames, _)| frames);
        let mut buffer = [0; 2048];
        for side in [Side::Cluster, Side::Client, Side::Backend] {
            for _ in 0..frames_max {
                let Some(length) = units.poll_transmit(now, side, &mut buffer) else { break };
                if self.cut_after == Some(0) {
                    break;
                }
                self.cut_after = self.cut_after.map(|left| left - 1);
                turned.frames.push((side, buffer[..length].to_vec()));
            }
        }
        let again = if self.ring.is_empty() { units.poll_timeout() } else { Some(now) };
        let lag = self.slow.filter(|(_, until)| now < *until).map_or(TURN, |(lag, _)| lag);
        self.lazy_until = now + lag;
        let drain = clogged.map(|_| now + RING_DRAINS);
        self.wake_at = again.into_iter().chain(drain).min().map(|at| at.max(self.lazy_until));
        if self.cut_after.take().is_some() {
            turned.died = true;
            *self = Relay::default();
        }
        Some(turned)
    }
}

/// All units of a machine at the end of a turn.
fn acting(units: &Units, member: Option<&Member>, vouched: bool) -> Vec<Acting> {
    let act = |(unit, node)| Acting {
        sender: Sender::of(node),
        standing: member.map(|member| Standing::of((unit, node), member, vouched)),
    };
    units.nodes().iter().enumerate().map(act).collect()
}
