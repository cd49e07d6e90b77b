//! The two windows: what the peer takes from us, and what we take from the peer.

/// The peer's window: how far we may send (RFC 9293 section 3.8.6, RFC 7323 section 2).
#[derive(Debug)]
pub(crate) struct SendWindow {
    /// First offset that the peer does not take.
    right: u64,
    /// Where the segment that set the window began: SND.WL1.
    set_at: i64,
    /// The largest window ever: MAX.SND.WND of RFC 5961 section 5.2.
    largest: u64,
}

impl SendWindow {
    /// A window of `size` bytes from `una` on that any segment may replace.
    pub fn new(una: u64, size: u64) -> Self {
        SendWindow { right: una + size, set_at: i64::MIN, largest: size }
    }

    /// First offset that the peer does not take.
    pub fn right(&self) -> u64 {
        self.right
    }

    /// The largest window ever, in bytes.
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// Takes the window of a segment that begins at `start` and acknowledges `ack`, unless a newer
    /// segment has spoken. A retransmission that acknowledges more, or one that opens the window,
    /// counts although it begins below SND.WL1: our withheld ACKs make peers retransmit.
    pub fn update(&mut self, start: i64, ack: u64, una: u64, size: u64) {
        let right = ack + size;
        let opens = right > self.right;
        let newer = start > self.set_at || (start == self.set_at && ack >= una);
        if ack > una || newer || (ack == una && opens) {
            self.right = right;
            self.set_at = self.set_at.max(start);
            self.largest = self.largest.max(size);
        }
    }
}

/// Our window: how far the peer may send. Its right edge never moves back (RFC 9293 section
/// 3.8.6.2.2), although the acknowledgements below it are withheld.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    /// First offset that the peer need not be told to send. What is advertised lies above it by
    /// less than one unit of the scale, depending on where the acknowledgement lies.
    target: u64,
    /// The highest right edge that was advertised.
    right: u64,
    /// The shift of the window field.
    scale: u8,
}

impl ReceiveWindow {
    pub fn new(right: u64, scale: u8) -> Self {
        ReceiveWindow { target: right, right, scale }
    }

    /// The highest right edge that was advertised.
    pub fn right(&self) -> u64 {
        self.right
    }

    /// The right edge that can be promised when there is room up to `room`.
    pub fn promise(&self, room: u64) -> u64 {
        room.saturating_sub((1 << self.scale) - 1).max(self.target)
    }

    /// The window field of a segment that acknowledges `ack`, when there is room up to `room`. A
    /// gain of less than `step` is not offered (silly window avoidance).
    pub fn advertise(&mut self, ack: u64, room: u64, step: u64) -> u16 {
        let promise = self.promise(room);
        if promise >= self.target + step {
            self.target = promise;
        }
        // Rounding down would move the edge back below the target.
        let field = self.target.saturating_sub(ack).div_ceil(1 << self.scale);
        let field = u16::try_from(field).unwrap_or(u16::MAX);
        self.right = self.right.max(ack + (u64::from(field) << self.scale));
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_7323_rounding_never_moves_the_right_edge_back() {
        let mut window = ReceiveWindow::new(1000, 5);
        for ack in 0..=1000u64 {
            let field = window.advertise(ack, 1000, 100);
            assert!(ack + (u64::from(field) << 5) >= 1000, "ack {ack}");
            assert!(window.right() < 1000 + 32);
        }
        window.advertise(1000, 2000, 100);
        assert!(window.right() <= 2000, "no more than there is room for");
    }

    #[test]
    fn rfc_9293_small_gains_are_not_offered() {
        let mut window = ReceiveWindow::new(1000, 0);
        assert_eq!(window.advertise(900, 1099, 100), 100);
        assert_eq!(window.advertise(900, 1100, 100), 200);
    }

    #[test]
    fn rfc_9293_old_segments_do_not_set_the_send_window() {
        let mut window = SendWindow::new(0, 100);
        window.update(10, 50, 0, 200);
        assert_eq!(window.right(), 250);
        window.update(9, 50, 50, 10);
        assert_eq!(window.right(), 250, "a reordered segment");
        window.update(10, 50, 50, 0);
        assert_eq!((window.right(), window.largest()), (50, 200), "a window may close");
        window.update(9, 50, 50, 300);
        assert_eq!(window.right(), 350, "but an opening counts always");
    }
}
