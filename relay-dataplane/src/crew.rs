//! What the workers of a relay have in common. None of them ever waits for another.
//!
//! A frame is received by the worker of its receive queue, and belongs to the worker that has its unit:
//! strays cross over through a bounded ring. A relay lives as long as all of its workers do, and is heard
//! if any of them hears it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};
use relay_core::config::Side;
use relay_core::id::NodeId;
use relay_core::parting::Duty;
use relay_core::units::Sign;
use rustix::event::{EventfdFlags, eventfd};

/// Strays that wait for one worker at most; more are lost, as on a network.
const STRAYS_MAX: usize = 4096;
/// Strays that one turn takes at most.
const STRAYS_PER_TURN: usize = 1024;

/// A frame for another worker than the one that received it.
pub struct Stray {
    pub side: Side,
    pub frame: Box<[u8]>,
}

/// All workers of a relay, as each of them sees them.
pub struct Crew {
    mates: Vec<Mate>,
    signs: Mutex<BTreeMap<NodeId, Sign>>,
}

struct Mate {
    strays: (Sender<Stray>, Receiver<Stray>),
    sleeps: AtomicBool,
    wake: OwnedFd,
    /// CLOCK_MONOTONIC of its last turn in nanoseconds.
    turned: AtomicU64,
    takes_in: AtomicBool,
    /// A [`Duty`]; 0: it has not said anything.
    duty: AtomicU8,
    handed: AtomicU64,
    lost: AtomicU64,
}

impl Mate {
    fn new() -> io::Result<Mate> {
        Ok(Mate {
            strays: bounded(STRAYS_MAX),
            sleeps: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            turned: AtomicU64::new(0),
            takes_in: AtomicBool::new(false),
            duty: AtomicU8::new(0),
            handed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }
}

impl Crew {
    /// For so many workers.
    ///
    /// # Errors
    /// When the system gives no descriptors.
    pub fn new(workers: u8) -> io::Result<Arc<Crew>> {
        let mates = (0..workers).map(|_| Mate::new()).collect::<io::Result<_>>()?;
        Ok(Arc::new(Crew { mates, signs: Mutex::default() }))
    }

    /// Whether there are others.
    pub fn is_several(&self) -> bool {
        self.mates.len() > 1
    }

    /// Hands a frame to the worker that it belongs to. It is woken by [`Crew::wake`].
    pub fn hand(&self, to: u8, stray: Stray) {
        let mate = &self.mates[usize::from(to)];
        let counter = match mate.strays.0.try_send(stray) {
            Ok(()) => &mate.handed,
            Err(_) => &mate.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Wakes every other worker for which there are strays.
    pub fn wake(&self, by: u8) {
        if !self.is_several() {
            return;
        }
        // Beside the one in `fall_asleep`: either we see that it sleeps, or it sees the strays.
        fence(Ordering::SeqCst);
        for (index, mate) in self.mates.iter().enumerate() {
            if index == usize::from(by) {
                continue;
            }
            if !mate.strays.1.is_empty() && mate.sleeps.swap(false, Ordering::SeqCst) {
                // Fails when it would overflow: then it is readable already.
                let _ = rustix::io::write(&mate.wake, &1u64.to_ne_bytes());
            }
        }
    }

    /// Frames that others received for this worker.
    pub fn strays(&self, worker: u8) -> impl Iterator<Item = Stray> + '_ {
        self.mates[usize::from(worker)].strays.1.try_iter().take(STRAYS_PER_TURN)
    }

    /// Announces that a worker is about to sleep; false when it must not, since there are strays. Nobody
    /// wakes the only one.
    pub fn fall_asleep(&self, worker: u8) -> bool {
        if !self.is_several() {
            return true;
        }
        let mate = &self.mates[usize::from(worker)];
        mate.sleeps.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        mate.strays.1.is_empty()
    }

    /// It is awake again.
    pub fn wake_up(&self, worker: u8) {
        if !self.is_several() {
            return;
        }
        let mate = &self.mates[usize::from(worker)];
        mate.sleeps.store(false, Ordering::SeqCst);
        // Nothing to read: something else woke it.
        let _ = rustix::io::read(&mate.wake, &mut [0; 8]);
    }

    /// What becomes readable when a worker that sleeps gets strays.
    pub fn wake_fd(&self, worker: u8) -> RawFd {
        self.mates[usize::from(worker)].wake.as_raw_fd()
    }

    /// A worker has come through another turn, at `now` (CLOCK_MONOTONIC, nanoseconds). Returns the time
    /// up to which all workers have, if frames are for any of them: one that hangs fences the relay.
    pub fn note_turn(&self, worker: u8, now: u64, takes_in: bool) -> Option<u64> {
        let mate = &self.mates[usize::from(worker)];
        mate.turned.store(now, Ordering::Relaxed);
        mate.takes_in.store(takes_in, Ordering::Relaxed);
        let turned = self.mates.iter().map(|mate| mate.turned.load(Ordering::Relaxed)).min()?;
        self.takes_in().then_some(turned).filter(|turned| *turned > 0)
    }

    /// Whether frames are for any worker.
    pub fn takes_in(&self) -> bool {
        self.mates.iter().any(|mate| mate.takes_in.load(Ordering::Relaxed))
    }

    /// What is left of all workers' duties when the relay is to end, by what one says of its own; None as
    /// long as some have not said anything.
    pub fn part(&self, worker: u8, own: Duty) -> Option<Duty> {
        self.mates[usize::from(worker)].duty.store(own as u8, Ordering::Relaxed);
        let all = || self.mates.iter().map(|mate| mate.duty.load(Ordering::Relaxed));
        match (all().min()?, all().max()?) {
            (0, _) => None,
            (_, 1) => Some(Duty::None),
            (_, 2) => Some(Duty::Member),
            (_, 3) => Some(Duty::Unsure),
            _ => Some(Duty::Owner),
        }
    }

    /// Tells the others what a worker heard, and returns what they did. Sometimes nothing is told: then
    /// it is the next time.
    pub fn share(&self, heard: Vec<Sign>) -> Vec<Sign> {
        let Ok(mut signs) = self.signs.try_lock() else { return Vec::new() };
        for sign in heard {
            let known = signs.entry(sign.0).or_insert(sign);
            if known.2 < sign.2 {
                *known = sign;
            }
        }
        signs.values().copied().collect()
    }

    /// Frames that one worker got from others, and those that it did not, since its ring was full.
    pub fn counters(&self, worker: u8) -> [(&'static str, u64); 2] {
        let mate = &self.mates[usize::from(worker)];
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [("strays", read(&mate.handed)), ("strays_lost", read(&mate.lost))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stray(byte: u8) -> Stray {
        Stray { side: Side::Client, frame: Box::new([byte]) }
    }

    #[test]
    fn strays_arrive_in_order_and_what_does_not_fit_is_counted() {
        let crew = Crew::new(2).unwrap();
        for number in 0..STRAYS_MAX + 3 {
            crew.hand(1, stray(number as u8));
        }
        let all: Vec<u8> =
            (0..8).flat_map(|_| crew.strays(1)).map(|stray| stray.frame[0]).collect();
        assert_eq!(all, (0..STRAYS_MAX).map(|number| number as u8).collect::<Vec<_>>());
        assert_eq!(crew.counters(1), [("strays", STRAYS_MAX as u64), ("strays_lost", 3)]);
        assert_eq!(crew.strays(0).count(), 0);
    }

    #[test]
    fn who_sleeps_is_woken_once_and_who_has_strays_does_not_sleep() {
        let crew = Crew::new(2).unwrap();
        let woken = || rustix::io::read(&crew.mates[1].wake, &mut [0; 8]).is_ok();
        crew.hand(1, stray(1));
        crew.wake(0);
        assert!(!woken(), "it was awake");
        assert!(!crew.fall_asleep(1));
        assert_eq!(crew.strays(1).count(), 1);
        assert!(crew.fall_asleep(1));
        crew.wake(0);
        assert!(!woken(), "there is nothing for it");
        crew.hand(1, stray(2));
        crew.wake(0);
        crew.wake(0);
        assert!(woken() && !woken());
    }

    #[test]
    fn one_worker_that_hangs_fences_the_relay() {
        let crew = Crew::new(2).unwrap();
        assert_eq!(crew.note_turn(0, 100, true), None, "the other one has not begun");
        assert_eq!(crew.note_turn(1, 110, false), Some(100));
        assert_eq!(crew.note_turn(0, 200, true), Some(110));
        assert_eq!(crew.note_turn(0, 300, true), Some(110));
        assert_eq!(crew.note_turn(0, 400, false), None, "nothing is for this relay");
    }

    #[test]
    fn all_leave_together() {
        let crew = Crew::new(2).unwrap();
        assert_eq!(crew.part(0, Duty::None), None);
        assert_eq!(crew.part(1, Duty::Owner), Some(Duty::Owner));
        assert_eq!(crew.part(1, Duty::Member), Some(Duty::Member));
        assert_eq!(crew.part(1, Duty::None), Some(Duty::None));
    }
}
