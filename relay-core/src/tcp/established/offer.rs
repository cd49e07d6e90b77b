//! How much of the receive buffer the peer is offered: as much as the reader has shown to need, so
//! that memory is taken by those flows only that use it.

/// What every peer is offered at first, in bytes. It has to be more than a peer sends in the round
/// trips until the first growth.
const INITIAL: u64 = 256 * 1024;

/// The size of the receive window (the buffer's size is its upper bound).
///
/// It doubles whenever the peer has used up a window's worth, unless the reader leaves more than half
/// of it lying: then the reader is what is slow, and a larger window would only fill memory.
#[derive(Debug)]
pub(crate) struct Offer {
    most: u64,
    tuned: u64,
    /// What the far end could carry; see [`Offer::demand`].
    demand: u64,
    cap: u64,
    /// A window's worth is used up when the stream has come that far.
    used_at: u64,
    /// The least that the reader has left lying since then.
    backlog: u64,
}

impl Offer {
    /// An offer from a buffer of `most` bytes, where `right` is the right edge that was advertised.
    pub fn new(most: u64, right: u64) -> Self {
        let tuned = INITIAL.min(most);
        Offer { most, tuned, demand: 0, cap: most, used_at: right, backlog: u64::MAX }
    }

    /// Bytes beyond the first one that is retained.
    pub fn bytes(&self) -> u64 {
        self.tuned.max(self.demand).min(self.cap)
    }

    /// No more than `bytes` from now on. Returns whether that is more than before.
    pub fn cap(&mut self, bytes: u64) -> bool {
        let before = self.bytes();
        self.cap = bytes.min(self.most);
        self.bytes() > before
    }

    /// The reader could get rid of `bytes` in the time in which it keeps them: the offer is at
    /// least that, since a reader that keeps bytes until its own peer has them seems slow.
    pub fn demand(&mut self, bytes: u64) {
        self.demand = bytes.min(self.most);
    }

    /// The reader has left `backlog` bytes lying.
    pub fn on_release(&mut self, backlog: u64) {
        self.backlog = self.backlog.min(backlog);
    }

    /// The stream has come as far as `received`; the right edge is at `right`.
    pub fn on_received(&mut self, received: u64, right: u64) {
        if received < self.used_at {
            return;
        }
        if self.backlog <= self.tuned / 2 {
            self.tuned = (self.tuned * 2).min(self.most);
        }
        (self.used_at, self.backlog) = (right, u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 4 << 20;

    /// The offer after `windows` windows' worth, of which the reader leaves a share lying.
    fn after(windows: u32, share: u64) -> u64 {
        let mut offer = Offer::new(MOST, 65_535);
        let mut at = 65_535;
        for _ in 0..windows {
            offer.on_release(offer.bytes() * share / 100);
            offer.on_received(at, at + offer.bytes());
            at += offer.bytes();
        }
        offer.bytes()
    }

    #[test]
    fn it_grows_to_its_bound_for_a_reader_that_keeps_up() {
        assert_eq!(
            [0, 1, 2, 10].map(|windows| after(windows, 10)),
            [INITIAL, INITIAL * 2, INITIAL * 4, MOST]
        );
    }

    #[test]
    fn it_stays_for_a_reader_that_does_not() {
        assert_eq!(after(10, 60), INITIAL);
        assert_eq!(Offer::new(1000, 0).bytes(), 1000, "a small buffer is the bound from the start");
    }

    #[test]
    fn it_follows_what_the_far_end_could_carry_and_never_exceeds_its_cap() {
        let mut offer = Offer::new(MOST, 0);
        offer.demand(u64::MAX);
        assert_eq!(offer.bytes(), MOST);
        assert!(!offer.cap(1000));
        assert_eq!(offer.bytes(), 1000);
        assert!(offer.cap(u64::MAX));
        offer.demand(0);
        assert_eq!(offer.bytes(), INITIAL);
    }
}
