//! Segments that belong to no flow: they open one, or they are refused.

use smoltcp::wire::TcpControl;

use super::{REPLY_FRAME_MAX, Shard};
use crate::config::{Settings, Side};
use crate::flow::Flow;
use crate::frame::{EthernetAddress, Link, TcpRepr, Tuple, emit_tcp};
use crate::reason::Reason;
use crate::tcp::{Connection, reset_for};
use crate::time::Instant;
use crate::tls::Handshake;

impl Shard {
    /// Takes in a segment that belongs to no flow.
    pub(super) fn handle_stranger(
        &mut self,
        now: Instant,
        (side, source): (Side, Option<EthernetAddress>),
        (tuple, segment): (&Tuple, &TcpRepr<'_>),
        settings: &Settings,
    ) -> Result<(), Reason> {
        if !self.has_lease {
            return Err(Reason::NotOwner);
        }
        if !settings.listeners.are_ready() {
            return Err(Reason::UnknownConfiguration);
        }
        let listener = settings.listeners.find(tuple.local.addr, tuple.local.port);
        let (Some((place, listener)), Side::Client) = (listener, side) else {
            self.refuse((side, source), tuple, segment, settings);
            return Err(Reason::UnknownFlow);
        };
        match (segment.control, segment.ack_number) {
            (TcpControl::Syn, None) => {
                let answer = self.cookies.syn_ack(now, tuple, segment, &settings.client_tcp);
                self.answer((side, source), tuple, &answer, settings);
                Ok(())
            }
            (TcpControl::Rst, _) => Err(Reason::UnknownFlow),
            _ => match self.cookies.check(now, tuple, segment, &settings.client_tcp) {
                // The client repeats what it said, and its cookie is still good then.
                Ok(_) if !self.admission.admit(now, settings.accepts_per_second) => {
                    Err(Reason::AcceptLimited)
                }
                Ok(accepted) if self.make_room(settings.flows_max) => {
                    let config = settings.client_tcp_of(Some(listener));
                    let mut client = Connection::accept(&config, *tuple, &accepted, now);
                    let result = client.handle_segment(now, segment);
                    let handshake =
                        Handshake::new(&listener.tls).map_err(|_| Reason::FlowTableFull)?;
                    let id = self.ids.allocate();
                    self.strangers.forget(tuple);
                    let hop = source.or_else(|| self.hops.toward(side, tuple.remote.addr));
                    self.insert(Flow::new(id, place, client, hop, (now, handshake)));
                    result
                }
                Ok(_) => Err(Reason::FlowTableFull),
                Err(reason) => {
                    if self.strangers.is_persistent(now, tuple) {
                        self.refuse((side, source), tuple, segment, settings);
                    }
                    Err(reason)
                }
            },
        }
    }

    pub(super) fn refuse(
        &mut self,
        to: (Side, Option<EthernetAddress>),
        tuple: &Tuple,
        segment: &TcpRepr<'_>,
        settings: &Settings,
    ) {
        if let Some(reset) = reset_for(segment) {
            self.answer(to, tuple, &reset, settings);
        }
    }

    /// Answers a segment without a flow. Who is behind another relay's port is answered when the
    /// way to it is known.
    fn answer(
        &mut self,
        (side, source): (Side, Option<EthernetAddress>),
        tuple: &Tuple,
        answer: &TcpRepr<'_>,
        settings: &Settings,
    ) {
        let hop = source.or_else(|| self.hops.toward(side, tuple.remote.addr));
        let destination = hop.unwrap_or(EthernetAddress::BROADCAST);
        let link = Link { source: settings.macs(side).port, destination };
        match hop {
            Some(_) => self.reply(side, |buf| emit_tcp(&link, tuple, answer, buf)),
            None => {
                let mut frame = vec![0; REPLY_FRAME_MAX];
                let length = emit_tcp(&link, tuple, answer, &mut frame);
                frame.truncate(length);
                self.hops.keep(side, tuple.remote.addr, frame);
            }
        }
    }
}
