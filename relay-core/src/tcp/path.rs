//! What routers and hosts say about the path to the peer (RFC 1122 section 4.2.3.9, RFC 5927).

use smoltcp::wire::TcpSeqNumber;

use super::close::{Cause, Phase};
use super::connection::Connection;
use crate::frame::Complaint;
use crate::reason::Reason;
use crate::time::Instant;

impl Connection {
    /// Takes an ICMP error about our segment with `sequence`.
    ///
    /// A peer that cannot be reached ends an opening, so that another one can be tried; an open
    /// connection goes on, since the path may come back.
    ///
    /// # Errors
    /// `IcmpUnacceptable` when no such segment is under way, `IcmpUnreachable` when it changes
    /// nothing.
    pub fn handle_complaint(
        &mut self,
        now: Instant,
        sequence: u32,
        complaint: Complaint,
    ) -> Result<(), Reason> {
        self.clock = self.clock.max(now);
        let una = self.sender.una();
        let offset = self.outbound.offset(TcpSeqNumber(sequence as i32), una);
        let is_under_way = match self.phase {
            Phase::SynSent => sequence == self.outbound.initial,
            Phase::Open => una as i64 <= offset && offset < self.sender.known() as i64,
            Phase::HandshakeHeld | Phase::TimeWait | Phase::Closed(_) => false,
        };
        if !is_under_way {
            return Err(Reason::IcmpUnacceptable);
        }
        match (complaint, self.phase) {
            (Complaint::Unreachable, Phase::SynSent) => {
                self.close(Cause::Unreachable);
                Ok(())
            }
            (Complaint::Unreachable | Complaint::TooBig { .. }, _) => Err(Reason::IcmpUnreachable),
        }
    }
}
