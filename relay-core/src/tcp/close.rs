//! How a connection ends: RFC 9293 section 3.6.

use smoltcp::wire::TcpControl;

use super::connection::Connection;
use super::wake::Waking;
use crate::frame::TcpRepr;
use crate::reason::Reason;
use crate::time::{Duration, Instant};

/// How long the one who closed first remembers the connection: twice the maximum segment lifetime,
/// taken as in Linux.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The SYN is sent or about to be.
    SynSent,
    /// The SYN-ACK has come, and our ACK is withheld.
    HandshakeHeld,
    /// ESTABLISHED, FIN-WAIT-1, FIN-WAIT-2, CLOSE-WAIT, CLOSING or LAST-ACK.
    Open,
    /// Both streams have ended, and we closed first.
    TimeWait,
    /// It is over.
    Closed(Cause),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// We reset it.
    Aborted,
    /// Both streams have ended.
    Normal,
    /// The peer answered our SYN with a reset.
    Refused,
    /// The peer reset it.
    Reset,
    /// The peer does not answer any more.
    TimedOut,
    /// There is no way to the peer, says an ICMP error about our SYN.
    Unreachable,
}

impl Connection {
    pub(super) fn close(&mut self, cause: Cause) {
        self.phase = Phase::Closed(cause);
        self.reset_due = false;
        self.waking = Waking::default();
        self.opening = None;
        self.sender.free();
        self.receiver.free();
    }

    /// Both FINs are acknowledged, and our acknowledgement has left: the streams are over.
    pub(super) fn settle(&mut self, now: Instant) {
        let theirs = self.receiver.fin().is_some_and(|fin| self.receiver.acked() > fin);
        if self.phase != Phase::Open || !theirs || !self.sender.fin_acked() {
            return;
        }
        if self.active_close {
            self.phase = Phase::TimeWait;
            self.time_wait_until = now + TIME_WAIT;
            self.sender.free();
            self.receiver.free();
        } else {
            self.close(Cause::Normal);
        }
    }

    /// The peer's FIN again, because our ACK of it was lost, or something old.
    pub(super) fn handle_time_wait(
        &mut self,
        now: Instant,
        segment: &TcpRepr,
    ) -> Result<(), Reason> {
        let start = self.inbound.offset(segment.seq_number, self.receiver.wire_ack());
        match segment.control {
            TcpControl::Rst if self.is_exact(start) => {
                self.close(Cause::Normal);
                return Ok(());
            }
            TcpControl::Rst => return Err(Reason::RstChallenged),
            TcpControl::Fin => {
                self.receiver.ack_now();
                self.time_wait_until = now + TIME_WAIT;
            }
            _ if segment.segment_len() > 0 => self.challenge(now),
            _ => {}
        }
        Ok(())
    }
}
