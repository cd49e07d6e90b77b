//! Three Ethernet segments with learning switches and seeded faults.

use std::collections::BTreeMap;

use relay_core::config::Side;
use relay_core::time::{Duration, Instant};

use crate::random::Random;
use crate::script::Way;

/// Who is plugged into a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// The machine at the far end of the segment: all clients, or the backend.
    Host,
    /// A relay, by its index.
    Relay(usize),
}

/// What happens to frames on one segment. Rates in frames of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss: u32,
    pub duplication: u32,
    /// One bit behind the Ethernet header is inverted: the frame check sequence has missed it.
    pub corruption: u32,
    /// Every frame takes this long.
    pub delay: Duration,
    /// And at most this much longer, so that frames overtake each other.
    pub jitter: Duration,
}

/// A frame on its way.
pub struct Delivery {
    pub side: Side,
    pub to: Port,
    pub frame: Vec<u8>,
}

/// The three segments.
pub struct Network {
    relays: usize,
    random: Random,
    segments: [Segment; 3],
    in_flight: BTreeMap<(Instant, u64), Delivery>,
    sent: u64,
    /// Every frame that was sent, if it has to be kept.
    pub captured: Option<Vec<(Instant, Vec<u8>)>>,
}

#[derive(Default)]
struct Segment {
    faults: Faults,
    /// Where a MAC address was seen last.
    learned: BTreeMap<[u8; 6], Port>,
    /// Nothing comes from the host, or gets to it, before these instants.
    cut: [Option<Instant>; 2],
    /// Nothing gets from or to a relay before an instant: a partition, at its port of the switch.
    severed: Vec<(usize, Way, Instant)>,
}

/// Destination and source of an Ethernet header.
const MACS: usize = 12;

/// Corruption begins behind the Ethernet header.
const ETHERNET_HEADER: usize = 14;

impl Network {
    /// Segments between `relays` relays and two hosts.
    pub fn new(relays: usize, random: Random) -> Self {
        let segments = Default::default();
        Network { relays, random, segments, in_flight: BTreeMap::new(), sent: 0, captured: None }
    }

    /// Sets what happens to frames from now on.
    pub fn set_faults(&mut self, side: Side, faults: Faults) {
        self.segments[index(side)].faults = faults;
    }

    /// Nothing gets through in one direction until then.
    pub fn cut(&mut self, side: Side, way: Way, until: Instant) {
        self.segments[index(side)].cut[usize::from(way == Way::Out)] = Some(until);
    }

    /// Nothing gets to one relay, or from it, until then.
    pub fn sever(&mut self, side: Side, (relay, way): (usize, Way), until: Instant) {
        self.segments[index(side)].severed.push((relay, way, until));
    }

    /// No frame is lost, doubled or changed from now on; delays stay.
    pub fn heal(&mut self) {
        for segment in &mut self.segments {
            let Faults { delay, .. } = segment.faults;
            segment.faults = Faults { delay, ..Faults::default() };
        }
    }

    /// Puts a frame onto a segment.
    pub fn send(&mut self, now: Instant, side: Side, from: Port, frame: Vec<u8>) {
        let Some(macs) = frame.first_chunk::<MACS>() else { return };
        if let Some(captured) = &mut self.captured {
            captured.push((now, frame.clone()));
        }
        let (to, source) = macs.split_at(6);
        let segment = &mut self.segments[index(side)];
        segment.severed.retain(|(_, _, until)| now < *until);
        let severed: Vec<_> =
            segment.severed.iter().map(|(relay, way, _)| (*relay, *way)).collect();
        if matches!(from, Port::Relay(relay) if severed.contains(&(relay, Way::Out))) {
            return;
        }
        let (mut destination, mut origin) = ([0; 6], [0; 6]);
        destination.copy_from_slice(to);
        origin.copy_from_slice(source);
        segment.learned.insert(origin, from);
        let is_group = destination[0] & 1 == 1;
        let known = segment.learned.get(&destination).filter(|_| !is_group).copied();
        let faults = segment.faults;
        let is_cut = segment.cut.map(|until| until.is_some_and(|until| now < until));
        let ports: Vec<Port> = match known {
            Some(port) => vec![port],
            None => self.ports(side),
        };
        let passes = |port: &Port| match (from, *port) {
            (_, Port::Relay(relay)) if severed.contains(&(relay, Way::In)) => false,
            (Port::Host, _) => !is_cut[0],
            (_, Port::Host) => !is_cut[1],
            _ => true,
        };
        let mut ports = ports.into_iter().filter(|port| *port != from && passes(port)).peekable();
        let mut frame = frame;
        while let Some(port) = ports.next() {
            // The last one needs no copy.
            let next = if ports.peek().is_some() { frame.clone() } else { Vec::new() };
            self.carry(now, faults, side, (port, core::mem::replace(&mut frame, next)));
        }
    }

    /// When the next frame arrives.
    pub fn next_at(&self) -> Option<Instant> {
        self.in_flight.first_key_value().map(|((at, _), _)| *at)
    }

    /// A frame that has arrived.
    pub fn receive(&mut self, now: Instant) -> Option<Delivery> {
        let entry = self.in_flight.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    fn ports(&self, side: Side) -> Vec<Port> {
        let host = (side != Side::Cluster).then_some(Port::Host);
        host.into_iter().chain((0..self.relays).map(Port::Relay)).collect()
    }

    fn carry(&mut self, now: Instant, faults: Faults, side: Side, (to, frame): (Port, Vec<u8>)) {
        let mut frame = frame;
        let copies = 1 + usize::from(self.random.chance(faults.duplication));
        for left in (0..copies).rev() {
            let next = if left > 0 { frame.clone() } else { Vec::new() };
            let mut frame = core::mem::replace(&mut frame, next);
            if self.random.chance(faults.loss) {
                continue;
            }
            if self.random.chance(faults.corruption) && frame.len() > ETHERNET_HEADER {
                let bits = (frame.len() - ETHERNET_HEADER) as u64 * 8;
                let bit = self.random.below(bits) as usize;
                frame[ETHERNET_HEADER + bit / 8] ^= 1 << (bit % 8);
            }
            let at = now + faults.delay + self.random.duration(faults.jitter);
            self.sent += 1;
            self.in_flight.insert((at, self.sent), Delivery { side, to, frame });
        }
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Backend => 1,
        Side::Cluster => 2,
    }
}
