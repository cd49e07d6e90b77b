//! Proportional rate reduction (RFC 6937): the window shrinks while losses are repaired, instead
//! of at once, and never falls silent.

/// One recovery.
#[derive(Debug)]
pub(crate) struct Prr {
    mss: u64,
    /// Bytes in flight when it began: RecoverFS.
    before: u64,
    /// The window to reach: ssthresh.
    target: u64,
    delivered: u64,
    sent: u64,
    window: u64,
}

impl Prr {
    pub fn new(mss: u64, before: u64, target: u64) -> Self {
        Prr { mss, before: before.max(mss), target, delivered: 0, sent: 0, window: 0 }
    }

    /// Bytes that may be in flight.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// `bytes` were delivered, with `in_flight` left. While snd_una advances and nothing more is
    /// lost (`is_clean`) the slow start bound holds, else packets are conserved.
    pub fn on_ack(&mut self, bytes: u64, in_flight: u64, is_clean: bool) {
        self.delivered += bytes;
        let mut count = if in_flight > self.target {
            let share = u128::from(self.delivered) * u128::from(self.target);
            (share.div_ceil(u128::from(self.before)) as u64).saturating_sub(self.sent)
        } else {
            let bound = self.delivered.saturating_sub(self.sent).max(bytes);
            let bound = if is_clean { bound + self.mss } else { bound };
            bound.min(self.target - in_flight)
        };
        if self.sent == 0 {
            count = count.max(self.mss); // The fast retransmission itself.
        }
        self.window = in_flight + count;
    }

    pub fn on_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6937_sends_seven_for_ten_that_arrive() {
        let mut prr = Prr::new(1, 100, 70);
        let (mut in_flight, mut sent) = (99, 0);
        for _ in 0..90 {
            in_flight -= 1;
            prr.on_ack(1, in_flight, false);
            while in_flight < prr.window() {
                prr.on_sent(1);
                (in_flight, sent) = (in_flight + 1, sent + 1);
            }
        }
        assert_eq!((sent, in_flight), (63, 72));
    }

    #[test]
    fn rfc_6937_after_many_losses_the_window_is_refilled_by_slow_start() {
        let mut prr = Prr::new(1, 100, 70);
        prr.on_ack(1, 20, true);
        assert_eq!(prr.window(), 22, "one for the delivery, one more");
        prr.on_sent(2);
        prr.on_ack(1, 21, false);
        assert_eq!(prr.window(), 22, "conservation after further losses");
    }
}
