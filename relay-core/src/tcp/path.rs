//! What routers and hosts say about the path to the peer (RFC 1122 section 4.2.3.9, RFC 5927).

use smoltcp::wire::TcpSeqNumber;

use super::close::{Cause, Phase};
use super::connection::Connection;
use super::segment::TIMESTAMP_BYTES;
use crate::frame::{Complaint, IpAddress};
use crate::reason::Reason;
use crate::time::Instant;

/// The least that a path is believed to take: 552 bytes as in Linux, since smaller ones only serve to
/// make us send many packets (RFC 5927 section 7).
const MTU_MIN_V4: u32 = 552;
/// What every IPv6 path takes (RFC 8200 section 5).
const MTU_MIN_V6: u32 = 1280;
/// What is tried in a black hole: what every IPv6 path takes, then what every IPv4 path should.
const PLATEAUS: [u32; 2] = [1280, 576];

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
            (Complaint::TooBig { mtu }, Phase::Open) => match self.shrink(mtu) {
                true => Ok(()),
                false => Err(Reason::IcmpUnacceptable),
            },
            (Complaint::Unreachable | Complaint::TooBig { .. }, _) => Err(Reason::IcmpUnreachable),
        }
    }

    /// Nobody says that our segments are too large, but none arrives.
    pub(super) fn escape_black_hole(&mut self) {
        if self.sender.is_swallowed() {
            let _ = PLATEAUS.into_iter().any(|mtu| self.shrink(mtu));
        }
    }

    /// The path takes packets of `mtu` bytes (zero: less than now). Returns whether that is news.
    ///
    /// Another node that goes on with the connection begins with large segments again.
    fn shrink(&mut self, mtu: u32) -> bool {
        let (headers, least) = match self.tuple.remote.addr {
            IpAddress::Ipv4(_) => (40, MTU_MIN_V4),
            IpAddress::Ipv6(_) => (60, MTU_MIN_V6),
        };
        let options = self.options.timestamps.map_or(0, |_| u32::from(TIMESTAMP_BYTES));
        let payload = mtu.max(least) - headers - options;
        let Some(payload) = u16::try_from(payload).ok().filter(|p| *p < self.options.payload)
        else {
            return false;
        };
        self.options.payload = payload;
        self.sender.shrink(payload);
        true
    }
}
