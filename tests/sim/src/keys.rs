//! What relays have in common with each other where there is a council: what its links would give
//! them, and when. The two ends of a link are told at different times, in the order of the links, and of
//! one that does not last only one end is.

use std::collections::BTreeMap;

use relay_abi::peer::{VERSION_PAIR, VERSION_SHARED};
use relay_core::id::{Incarnation, NodeId};
use relay_core::replica::{PairKey, SECRET};
use relay_core::time::{Duration, Instant};

use crate::random::Random;
use crate::relay::Relay;
use crate::setup;

/// Of a thousand links, those that end before both ends have been told.
const HALF_MADE: u32 = 250;

/// Such a link is made once more after this time.
const REDIAL: Duration = Duration::from_millis(20);

/// From the end of a handshake until a relay's worker knows of it.
const TELLING: Duration = Duration::from_millis(5);

/// Before the fields of a datagram: Ethernet, IPv4, UDP.
const DATAGRAM: usize = 14 + 20 + 8;

/// How relays come to their keys.
#[derive(Clone, Copy, Debug)]
pub struct Keying {
    /// A relay that begins is reached by each of the others within this time.
    pub late_max: Duration,
    /// A link is made anew within this time; zero: never.
    pub rotates: Duration,
    /// Some relays are of the former version, and lives that begin may be of the other one.
    pub skew: bool,
}

/// All pairs of a run.
pub struct Keys {
    keying: Keying,
    random: Random,
    /// Versions of the relays' present lives.
    versions: Vec<u8>,
    due: BTreeMap<(Instant, u64), Told>,
    /// When an end is told of its last link.
    last: BTreeMap<(usize, usize), Instant>,
    serial: u64,
    rotate_at: Option<Instant>,
    /// Links that are made later.
    dialed: Vec<(Instant, (usize, usize))>,
}

struct Told {
    to: (usize, Incarnation),
    peer: NodeId,
    key: PairKey,
}

impl Keys {
    /// Nobody lives yet.
    pub fn new(relays: usize, keying: Keying, (seed, now): (u64, Instant)) -> Self {
        let mut random = Random::new(seed ^ 0x4b45_5953);
        let mut version = || match keying.skew && random.chance(500) {
            true => VERSION_SHARED,
            false => VERSION_PAIR,
        };
        Keys {
            versions: (0..relays).map(|_| version()).collect(),
            due: BTreeMap::new(),
            last: BTreeMap::new(),
            serial: 0,
            rotate_at: (!keying.rotates.is_zero()).then_some(now),
            dialed: Vec::new(),
            keying,
            random,
        }
    }

    /// A life begins that is not the first one: perhaps after an upgrade, or after one was taken back.
    pub fn change_version(&mut self, index: usize) {
        if self.keying.skew {
            let version = &mut self.versions[index];
            *version = if *version == VERSION_PAIR { VERSION_SHARED } else { VERSION_PAIR };
        }
    }

    /// A relay is reached by all others that live.
    pub fn connect(&mut self, now: Instant, index: usize) {
        for other in (0..self.versions.len()).filter(|other| *other != index) {
            let at = now + self.random.duration(self.keying.late_max);
            self.dialed.push((at, (index.min(other), index.max(other))));
        }
    }

    /// When [`Keys::attend`] has something to do.
    pub fn next_at(&self) -> Option<Instant> {
        let due = self.due.first_key_value().map(|((at, _), _)| *at);
        let dialed = self.dialed.iter().map(|(at, _)| *at);
        dialed.chain(due).chain(self.rotate_at).min()
    }

    /// Makes links anew, and tells relays what is due.
    pub fn attend(&mut self, now: Instant, relays: &mut [Relay]) {
        if self.rotate_at.is_some_and(|at| at <= now) {
            let low = self.random.below(relays.len() as u64 - 1) as usize;
            let above = self.random.below((relays.len() - 1 - low) as u64) as usize;
            self.link(now, relays, (low, low + 1 + above));
            let pause = self.random.duration(self.keying.rotates);
            self.rotate_at = Some(now + Duration::from_millis(1) + pause);
        }
        let dialed: Vec<_> = self.dialed.extract_if(.., |(at, _)| *at <= now).collect();
        dialed.into_iter().for_each(|(_, pair)| self.link(now, relays, pair));
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let Told { to: (index, life), peer, key } = entry.remove();
            if life_of(relays, index) == Some(life) {
                relays[index].share(now, peer, key);
            }
        }
    }

    /// A link between two that live.
    fn link(&mut self, now: Instant, relays: &[Relay], (low, high): (usize, usize)) {
        let lives = [low, high].map(|index| Some((index, life_of(relays, index)?)));
        let [Some(one), Some(other)] = lives else { return };
        let key = match self.versions[low].min(self.versions[high]) {
            VERSION_PAIR => {
                let mut secret = [0; SECRET];
                self.random.fill(&mut secret);
                PairKey::Secret(secret.into())
            }
            _ => PairKey::Shared,
        };
        let half = self.random.chance(HALF_MADE);
        let misses = if half { self.random.below(2) as usize } else { 2 };
        if half {
            self.dialed.push((now + REDIAL, (low, high)));
        }
        for (place, (to, from)) in [(one, other), (other, one)].into_iter().enumerate() {
            if place == misses {
                continue;
            }
            let at = now + self.random.duration(TELLING);
            let last = self.last.entry((to.0, from.0)).or_insert(at);
            *last = at.max(*last);
            self.serial += 1;
            let told = Told { to, peer: setup::id(from.0), key: key.clone() };
            self.due.insert((*last, self.serial), told);
        }
    }
}

fn life_of(relays: &[Relay], index: usize) -> Option<Incarnation> {
    relays[index].units.as_ref().map(|units| units.incarnation())
}

/// The counters of datagrams, which are their nonces.
#[derive(Default)]
pub struct Nonces(BTreeMap<Vec<u8>, u64>);

impl Nonces {
    /// Looks at a frame on the cluster's network; what is wrong with it.
    pub fn watch(&mut self, frame: &[u8]) -> Option<String> {
        // Kind and receiver's life are left out: one counter serves all keys of a channel.
        let (sender, counter) = (DATAGRAM + 2..DATAGRAM + 12, DATAGRAM + 20..DATAGRAM + 28);
        let mut channel = frame.get(sender)?.to_vec();
        channel.extend_from_slice(frame.get(DATAGRAM - 12..DATAGRAM - 8)?);
        let counter = u64::from_be_bytes(frame.get(counter)?.try_into().ok()?);
        let last = self.0.insert(channel, counter).unwrap_or(0);
        (counter <= last).then(|| format!("a datagram has nonce {counter} after {last}"))
    }
}
