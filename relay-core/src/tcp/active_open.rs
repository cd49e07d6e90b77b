//! Active open: SYN-SENT, and the handshake that is held before its third segment.

use smoltcp::wire::{TcpControl, TcpSeqNumber, TcpTimestampRepr};

use super::close::{Cause, Phase};
use super::config::Config;
use super::connection::Connection;
use super::segment::{Options, blank};
use super::sequence::Numbering;
use super::state::Timestamps;
use crate::frame::TcpRepr;
use crate::reason::Reason;
use crate::time::{Duration, Instant};

/// Wait before the first SYN is sent again (RFC 6298 section 2.1); it doubles each time.
const SYN_TIMEOUT: Duration = Duration::from_secs(1);
/// SYNs that are sent before the peer counts as unreachable: 63 seconds.
const SYN_ATTEMPTS_MAX: u32 = 6;

/// What is needed until the peer has answered.
#[derive(Debug)]
pub(super) struct Opening {
    config: Config,
    ts_offset: u32,
    attempts: u32,
    due: bool,
    sent_at: Instant,
    deadline: Option<Instant>,
}

impl Opening {
    pub fn new(config: Config, ts_offset: u32) -> Self {
        let sent_at = Instant::ZERO;
        Opening { config, ts_offset, attempts: 0, due: true, sent_at, deadline: None }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Connection {
    pub(super) fn syn_due(&self) -> bool {
        self.opening.as_ref().is_some_and(|opening| opening.due)
    }

    pub(super) fn handle_syn_timeout(&mut self, now: Instant) {
        let Some(opening) = &mut self.opening else { return };
        if opening.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        opening.deadline = None;
        opening.due = true;
        if opening.attempts >= SYN_ATTEMPTS_MAX {
            self.close(Cause::TimedOut);
        }
    }

    pub(super) fn syn(&mut self, now: Instant) -> TcpRepr<'static> {
        let mut segment = TcpRepr {
            src_port: self.tuple.local.port,
            dst_port: self.tuple.remote.port,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(self.outbound.initial as i32),
            sack_permitted: true,
            ..blank()
        };
        let Some(opening) = &mut self.opening else { return segment };
        opening.due = false;
        opening.sent_at = now;
        opening.deadline = Some(now + SYN_TIMEOUT * (1 << opening.attempts));
        opening.attempts += 1;
        let value = Timestamps { recent: 0, offset: opening.ts_offset }.value(now);
        segment.timestamp = Some(TcpTimestampRepr::new(value, 0));
        segment.window_len = opening.config.syn_window();
        segment.window_scale = Some(opening.config.window_scale());
        segment.max_seg_size = Some(opening.config.mss_for(self.tuple.remote.addr));
        segment
    }

    /// RFC 9293 section 3.10.7.3, without simultaneous open: a backend never dials us.
    pub(super) fn handle_syn_sent(
        &mut self,
        now: Instant,
        segment: &TcpRepr,
    ) -> Result<(), Reason> {
        let acks_syn = segment.ack_number == Some(self.outbound.sequence(0));
        match segment.control {
            _ if !acks_syn => Err(Reason::AckUnacceptable),
            TcpControl::Rst => {
                self.close(Cause::Refused);
                Ok(())
            }
            TcpControl::Syn => {
                self.hold_handshake(now, segment);
                Ok(())
            }
            _ => Err(Reason::OutOfWindow),
        }
    }

    fn hold_handshake(&mut self, now: Instant, syn_ack: &TcpRepr) {
        let Some(opening) = self.opening.take() else { return };
        let timestamps = syn_ack
            .timestamp
            .map(|theirs| Timestamps { recent: theirs.tsval, offset: opening.ts_offset });
        self.options = Options::from_syn(&opening.config, &self.tuple, syn_ack, timestamps);
        self.inbound = Numbering { initial: syn_ack.seq_number.0 as u32 };
        self.timestamp_at = now;
        self.establish(&opening.config, u64::from(syn_ack.window_len));
        if opening.attempts == 1 {
            self.sender.sample(now, now.since(opening.sent_at));
        }
        self.phase = Phase::HandshakeHeld;
    }

    /// The peer has not seen our ACK, so all it can say is its SYN-ACK again, or a reset.
    pub(super) fn handle_held(&mut self, segment: &TcpRepr) -> Result<(), Reason> {
        match segment.control {
            TcpControl::Rst if segment.seq_number == self.inbound.sequence(0) => {
                self.close(Cause::Reset);
                Ok(())
            }
            TcpControl::Rst => Err(Reason::RstChallenged),
            TcpControl::Syn => Ok(()),
            _ => Err(Reason::OutOfWindow),
        }
    }
}
