//! A flow as a base for backups, and back from a shadow.

use core::net::{IpAddr, Ipv6Addr};

use relay_abi::peer::{Base, Endpoint, Keys, Leg as WireLeg, Mark as WireMark, Timestamps};

use super::down::Down;
use super::opening::Dialing;
use super::up::Up;
use super::{Flow, Handshaking, Leg, Open, Stage};
use crate::canary::{Canary, breaks};
use crate::frame::{EthernetAddress, IpEndpoint, Tuple};
use crate::id::FlowId;
use crate::listeners::Place;
use crate::reason::Reason;
use crate::relay::{Hold, HoldTime, Log};
use crate::replica::{OpenShadow, OpeningShadow, Pieces, Shadow};
use crate::tcp::{self, Connection, Mark, State};
use crate::time::{Duration, Instant};
use crate::tls::{Established, Handshake, ServerConfig};

/// The old owner may have sent this much to a backend that nobody else knows of: the largest
/// window (RFC 7323 section 2.3).
const UNKNOWN_SENT_MAX: u64 = 1 << 30;

/// After a longer outage the peer's retransmission timer may have run out (Linux waits for at least
/// 200 ms). Whatever news it then hears of what it has sent before it takes for the proof that nothing was
/// lost (F-RTO, RFC 5682; Eifel, RFC 3522), so that news has to show at once that something was.
const TIMEOUT_MIN: Duration = Duration::from_millis(190);

/// What a node needs to go on with a flow besides its shadow.
pub struct Restoration<'a> {
    pub now: Instant,
    pub client_config: &'a tcp::Config,
    pub backend_config: &'a tcp::Config,
    pub hold: HoldTime,
    /// Added to TCP timestamps so that they go on above the former owner's, in milliseconds.
    pub clock_lead: u32,
    /// How long the former owner was silent.
    pub outage: Duration,
    /// What a handshake is repeated with; an established flow needs none.
    pub listener: Option<(Place, &'a ServerConfig)>,
}

impl Restoration<'_> {
    fn place(&self) -> Option<Place> {
        self.listener.map(|(place, _)| place)
    }
}

impl Flow {
    /// The flow as a whole. Gates must be given the [promised](Hold::promised) bytes, too.
    pub(super) fn base<'a>(&'a self, open: &'a Open) -> Base<'a> {
        let client = &self.client.connection;
        let (write, read) = (open.down.keys(), open.up.keys());
        // The handshake output ends where the log begins, as long as nothing of that is delivered.
        let delivered = open.down.delivered();
        let begin = delivered.client.saturating_sub(open.raw.len() as u64);
        let taken = (client.acked().saturating_sub(begin) as usize).min(open.raw.len());
        let raw = if delivered.index == 0 { &open.raw[taken..] } else { &[] };
        Base {
            flow: self.id.0,
            client: wire_leg(&self.client),
            backend: wire_leg(&open.backend),
            suite: open.suite.id(),
            server_name: open.server_name.as_bytes(),
            write: Keys {
                generation: write.generation,
                sequence: write.sequence,
                secret: write.secret.as_bytes(),
            },
            read: Keys {
                generation: read.generation,
                sequence: read.sequence,
                secret: read.secret.as_bytes(),
            },
            up: open.up.settled(),
            down: delivered,
            raw,
            entries: open.down.log().entries().collect(),
            created_ms: self.created_ms,
        }
    }

    /// The flow that a shadow describes.
    ///
    /// # Errors
    /// When the shadow makes no sense, which only a faulty owner can cause; or when a handshake
    /// cannot be repeated, because this node is configured otherwise.
    pub fn restore(id: FlowId, shadow: Shadow, with: &Restoration<'_>) -> Result<Self, Reason> {
        match shadow {
            Shadow::Opening(shadow) => Flow::restore_opening(id, &shadow, with),
            Shadow::Open(shadow) => {
                Flow::restore_open(id, *shadow, with).ok_or(Reason::PeerMalformed)
            }
        }
    }

    /// Repeats the handshake. If it was complete, the flow goes on to dial.
    fn restore_opening(
        id: FlowId,
        shadow: &OpeningShadow,
        with: &Restoration<'_>,
    ) -> Result<Self, Reason> {
        let (consumed, rest) = shadow.input.split_at(shadow.consumed);
        let (_, tls) = with.listener.ok_or(Reason::UnknownConfiguration)?;
        let handshake =
            Handshake::replay(tls, consumed, &shadow.journal).map_err(|error| error.reason())?;
        let mut state = state(&shadow.client, with).ok_or(Reason::PeerMalformed)?;
        state.sent_max = handshake.output().len() as u64;
        state.retained = consumed.len() as u64;
        state.wire_ack = shadow.input.len() as u64;
        state.right_edge = state.wire_ack + with.client_config.receive_buffer as u64;
        let mut client = Connection::restore(with.client_config, &state, with.now)
            .map_err(|_| Reason::PeerMalformed)?;
        client.insert_received(state.retained, rest);
        client.write(handshake.output());
        client.wake(None);
        let handshaking = Handshaking::restored(handshake, shadow.input.len(), with.now);
        Ok(Flow {
            id,
            listener: with.place(),
            client: leg(client, &shadow.client),
            stage: Stage::Handshaking(Box::new(handshaking)),
            created_ms: shadow.created_ms,
        })
    }

    fn restore_open(id: FlowId, mut shadow: OpenShadow, with: &Restoration<'_>) -> Option<Self> {
        if breaks(Canary::FrameAnew) {
            shadow.log = Log::new(shadow.log.delivered(), shadow.suite.record_len(0));
        }
        if breaks(Canary::ForgetTail) {
            shadow.log.forget_last();
        }
        let delivered = shadow.log.delivered();
        let acked = delivered.client.checked_sub(shadow.raw.len() as u64)?;
        let end = shadow.log.end().client;
        let finished = shadow.log.is_finished();

        let mut state = state(&shadow.client, with)?;
        state.acked = acked + u64::from(delivered.fin);
        state.sent_max = end + u64::from(finished);
        state.fin_at = finished.then_some(end);
        state.retained = shadow.up.client;
        state.peer_fin_at = shadow.up.fin.then_some(shadow.up.client);
        let held = (&shadow.up_data, shadow.up_mark);
        let (mut client, up_hold, up_mark) = receive(state, held, (with.client_config, with))?;
        client.write(&shadow.raw);

        let mut state = state_of_backend(&shadow, with)?;
        state.retained = delivered.backend;
        state.peer_fin_at = delivered.fin.then_some(delivered.backend);
        let held = (&shadow.down_data, shadow.down_mark);
        let (mut backend, down_hold, down_mark) =
            receive(state, held, (with.backend_config, with))?;

        if breaks(Canary::RedialAfterEst) && shadow.is_fresh() {
            return Some(redial(id, shadow, client, with));
        }

        let up = Up::new(shadow.suite, &shadow.read, shadow.up, up_hold).ok()?;
        let down = Down::new(shadow.suite, &shadow.write, shadow.log, down_hold).ok()?;
        client.wake(up_mark);
        backend.wake(down_mark);
        let server_name = String::from_utf8(shadow.server_name).ok()?;
        let backend = leg(backend, &shadow.backend);
        let open = Open::restored((shadow.suite, server_name), backend, (up, down), shadow.raw);
        Some(Flow {
            id,
            listener: with.place(),
            client: leg(client, &shadow.client),
            stage: Stage::Open(Box::new(open)),
            created_ms: shadow.created_ms,
        })
    }
}

/// A flow with EST that dials again, which no flow may do (a canary).
fn redial(id: FlowId, shadow: OpenShadow, client: Connection, with: &Restoration<'_>) -> Flow {
    let established = Established {
        suite: shadow.suite,
        server_name: String::from_utf8(shadow.server_name).ok(),
        alpn: None,
        send: shadow.write,
        receive: shadow.read,
    };
    let client = leg(client, &shadow.client);
    // What the client has acknowledged of the handshake is not there any more, and not asked for.
    let missing = shadow.log.delivered().client as usize - shadow.raw.len();
    let output = [vec![0; missing], shadow.raw].concat();
    let dialing = Dialing::again(established, shadow.up.client, output, with.now);
    let stage = Stage::Dialing(Box::new(dialing));
    Flow { id, listener: with.place(), client, stage, created_ms: shadow.created_ms }
}

/// The backend leg: what the old owner had sent beyond R is not known.
fn state_of_backend(shadow: &OpenShadow, with: &Restoration<'_>) -> Option<State> {
    let mut state = state(&shadow.backend, with)?;
    state.acked = shadow.up.backend + u64::from(shadow.up.fin);
    state.sent_max = shadow.up.backend + UNKNOWN_SENT_MAX;
    state.fin_at = shadow.up.fin.then_some(shadow.up.backend);
    if shadow.up.fin {
        state.sent_max = state.acked;
    }
    Some(state)
}

/// What both legs have in common.
fn state(leg: &WireLeg, with: &Restoration<'_>) -> Option<State> {
    let timestamps = leg.timestamps.map(|t| tcp::Timestamps {
        recent: t.recent,
        offset: t.offset.wrapping_add(with.clock_lead),
    });
    Some(State {
        tuple: Tuple { local: ip_endpoint(&leg.local), remote: ip_endpoint(&leg.remote) },
        iss: leg.iss,
        irs: leg.irs,
        peer_mss: leg.mss,
        send_wscale: leg.send_scale,
        receive_wscale: leg.receive_scale,
        sack: leg.sack,
        timestamps,
        peer_window: leg.window,
        established: true,
        acked: 0,
        sent_max: 0,
        fin_at: None,
        retained: 0,
        wire_ack: 0,
        right_edge: 0,
        peer_fin_at: None,
    })
}

/// The connection with the bytes that the replica held, and what may be acknowledged of them.
fn receive(
    mut state: State,
    (pieces, mark): (&Pieces, Option<WireMark>),
    (config, with): (&tcp::Config, &Restoration<'_>),
) -> Option<(Connection, Hold, Option<Mark>)> {
    let settled = state.retained + u64::from(state.peer_fin_at.is_some());
    let mut hold = Hold::new(with.hold, settled);
    for (offset, bytes) in pieces.iter() {
        hold.restore_data(offset..offset + bytes.len() as u64);
    }
    // A FIN above a hole is one that was held when more was settled, before the base of an owner that
    // knew less. Gates that are based now are given FINs in order only, so it counts when it comes again.
    let fin = state.peer_fin_at.or(pieces.fin.filter(|fin| hold.ack_limit() >= *fin));
    if let Some(fin) = fin {
        hold.restore_data(fin..fin + 1);
    }
    let limit = hold.ack_limit();
    hold.expect_losses(limit);
    let timed_out = with.outage >= TIMEOUT_MIN;
    let mark = mark.filter(|_| fin.is_none());
    let mark = mark.and_then(|mark| waking_mark(&mark, limit, timed_out));
    state.wire_ack = mark.map_or(limit, |mark| mark.ack);
    state.right_edge = limit + config.receive_buffer as u64;
    let mut connection = Connection::restore(config, &state, with.now).ok()?;
    connection.set_ack_limit(limit);
    for (offset, bytes) in pieces.iter() {
        connection.insert_received(offset, bytes);
    }
    if !timed_out {
        // A peer that repairs losses has not been told of all that is held.
        connection.set_sackable(hold.sackable());
    }
    if let Some(fin) = fin {
        connection.insert_fin(fin);
    }
    Some((connection, hold, mark))
}

/// The mark, if everything below its end may be acknowledged: what is SACKed must never be needed
/// again (rule 14). When much more may be, an ACK of all that is the better news, as long as the peer's timer has
/// not run out.
fn waking_mark(mark: &WireMark, limit: u64, timed_out: bool) -> Option<Mark> {
    let hole_end = mark.ack.checked_add(mark.hole.into())?;
    let end = hole_end.checked_add(mark.held.into())?;
    let beyond = limit.checked_sub(end)?;
    if mark.ack >= hole_end || hole_end >= end {
        return None;
    }
    let known = Mark { ack: mark.ack, hole_end, end };
    match timed_out {
        true => known.past_timeout(limit),
        false => (beyond < u64::from(mark.hole)).then_some(known),
    }
}

fn leg(connection: Connection, leg: &WireLeg) -> Leg {
    let next_hop = Some(EthernetAddress(leg.next_hop));
    Leg { connection, next_hop: next_hop.filter(|hop| *hop != EthernetAddress::BROADCAST) }
}

pub(super) fn wire_leg(leg: &Leg) -> WireLeg {
    let state = leg.connection.save();
    WireLeg {
        local: endpoint(&state.tuple.local),
        remote: endpoint(&state.tuple.remote),
        next_hop: leg.next_hop.unwrap_or(EthernetAddress::BROADCAST).0,
        iss: state.iss,
        irs: state.irs,
        mss: state.peer_mss,
        send_scale: state.send_wscale,
        receive_scale: state.receive_wscale,
        sack: state.sack,
        timestamps: state.timestamps.map(|t| Timestamps { recent: t.recent, offset: t.offset }),
        window: state.peer_window,
    }
}

fn endpoint(endpoint: &IpEndpoint) -> Endpoint {
    let address = match IpAddr::from(endpoint.addr) {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    Endpoint { address, port: endpoint.port }
}

/// An endpoint of a message as smoltcp has it.
pub fn ip_endpoint(endpoint: &Endpoint) -> IpEndpoint {
    let address = Ipv6Addr::from(endpoint.address);
    let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
    IpEndpoint::new(address.into(), endpoint.port)
}
