//! The end of a relay that is asked to end: somebody else has what it owned before it goes, and nobody has
//! to find out that it is gone.

use crate::time::{Duration, Instant};

/// How long a relay waits until another one owns what it owned. With many flows that takes a while; it is
/// longer than a takeover, and less than service managers wait.
const HAND_OVER_MAX: Duration = Duration::from_secs(10);

/// How long it waits for the view without itself, and a worker for the others.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// What is asked of the council is asked again after this time: it may be lost with a leader.
const REPEAT_INTERVAL: Duration = Duration::from_millis(200);

/// What others still need of a relay, or of one of its workers. In this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Duty {
    /// Nothing.
    None = 1,
    /// Others count on it as a backup, or send frames through it.
    Member = 2,
    /// It is a backup of an owner that may be lost, perhaps the last one: the next view will tell.
    Unsure = 3,
    /// It owns, and somebody is there to go on with it.
    Owner = 4,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: others have to do something.
    Wait,
    /// Have the relay drained.
    HandOver {
        /// It was asked for before.
        again: bool,
    },
    /// Have it taken out of the view.
    Leave {
        /// It was asked for before.
        again: bool,
    },
    /// Nothing is left, or it has waited for long enough.
    End,
}

/// Since when a relay that is to end does what comes before, and when it asks again.
#[derive(Debug)]
pub struct Parting {
    since: Instant,
    waits: Option<Instant>,
    hands_over: Option<Asked>,
    leaves: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    since: Instant,
    again: Instant,
}

impl Parting {
    /// It is asked to end now.
    pub fn new(now: Instant) -> Parting {
        Parting { since: now, waits: None, hands_over: None, leaves: None }
    }

    /// When it was asked to.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// To be called once a turn with what is left of all workers' duties; None: some have not said yet.
    pub fn step(&mut self, now: Instant, duty: Option<Duty>) -> Step {
        match duty {
            Some(Duty::None) => Step::End,
            // Whoever takes over in spite of it is told at least.
            Some(Duty::Owner) if !Asked::is_over(&self.hands_over, now, HAND_OVER_MAX) => {
                Asked::ask(&mut self.hands_over, now, |again| Step::HandOver { again })
            }
            None | Some(Duty::Unsure) if now - *self.waits.get_or_insert(now) < LEAVE_MAX => {
                Step::Wait
            }
            Some(_) if !Asked::is_over(&self.leaves, now, LEAVE_MAX) => {
                Asked::ask(&mut self.leaves, now, |again| Step::Leave { again })
            }
            _ => Step::End,
        }
    }
}

impl Asked {
    fn is_over(asked: &Option<Asked>, now: Instant, limit: Duration) -> bool {
        asked.as_ref().is_some_and(|asked| now - asked.since >= limit)
    }

    /// `step`, if it is time to ask, perhaps again.
    fn ask(asked: &mut Option<Asked>, now: Instant, step: impl Fn(bool) -> Step) -> Step {
        let again = asked.is_some();
        let asked = asked.get_or_insert(Asked { since: now, again: now });
        if asked.again > now {
            return Step::Wait;
        }
        asked.again = now + REPEAT_INTERVAL;
        step(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn what_is_asked_is_asked_again_and_not_for_ever() {
        let mut parting = Parting::new(at(0));
        assert_eq!(parting.step(at(0), None), Step::Wait);
        assert_eq!(parting.step(at(0), Some(Duty::Unsure)), Step::Wait);
        assert_eq!(parting.step(at(1), Some(Duty::Owner)), Step::HandOver { again: false });
        assert_eq!(parting.step(at(2), Some(Duty::Owner)), Step::Wait);
        assert_eq!(parting.step(at(201), Some(Duty::Owner)), Step::HandOver { again: true });
        assert_eq!(parting.step(at(300), Some(Duty::Member)), Step::Leave { again: false });
        assert_eq!(parting.step(at(301), Some(Duty::Member)), Step::Wait);
        assert_eq!(parting.step(at(302), Some(Duty::None)), Step::End);
        assert_eq!(parting.step(at(2_300), Some(Duty::Member)), Step::End);
        assert_eq!(parting.step(at(2_000), None), Step::End);
    }

    #[test]
    fn who_cannot_hand_over_leaves() {
        let mut parting = Parting::new(at(0));
        assert_eq!(parting.step(at(0), Some(Duty::Owner)), Step::HandOver { again: false });
        assert_eq!(parting.step(at(9_999), Some(Duty::Owner)), Step::HandOver { again: true });
        assert_eq!(parting.step(at(10_000), Some(Duty::Owner)), Step::Leave { again: false });
        assert_eq!(parting.step(at(12_000), Some(Duty::Owner)), Step::End);
    }
}
