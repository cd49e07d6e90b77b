//! From the SYN cookie's ACK to EST: the TLS handshake and the backend connection.
//!
//! Nothing of it is replicated: a crash in this stage loses the connection.

use super::{Effect, Flow, Leg, OPENING_MAX, Open, Stage, Turn, is_broken};
use crate::canary::{Canary, breaks};
use crate::frame::EthernetAddress;
use crate::id::FlowId;
use crate::tcp::{Connection, Phase};
use crate::time::Instant;
use crate::tls::{Established, Handshake, HandshakeError};

/// Backends that one flow tries before its client is told that none answers.
const DIALS_MAX: u32 = 3;

/// Bytes that a handshake is handed at a time: a ClientHello and a certificate fit.
const INPUT_CHUNK: usize = 32 * 1024;

/// The alert for "no backend answers" (RFC 8446 section 6.2).
const INTERNAL_ERROR: u8 = 80;

/// The TLS handshake.
pub struct Handshaking {
    handshake: Handshake,
    /// Everything that was sent, from offset 0.
    output: Vec<u8>,
    /// The client's bytes below are consumed.
    read: u64,
    pub until: Instant,
}

/// The handshake is complete, and a backend is dialed.
pub struct Dialing {
    pub established: Established,
    /// Handshake output, from offset 0.
    pub output: Vec<u8>,
    /// Where application data from the client begins.
    pub read: u64,
    pub backend: Option<Leg>,
    dials: u32,
    pub until: Instant,
}

impl Flow {
    /// A flow whose client has just completed the three-way handshake.
    pub fn new(
        id: FlowId,
        listener: usize,
        client: Connection,
        next_hop: EthernetAddress,
        (now, handshake): (Instant, Handshake),
    ) -> Self {
        let handshaking =
            Handshaking { handshake, output: Vec::new(), read: 0, until: now + OPENING_MAX };
        Flow {
            id,
            listener,
            client: Leg { connection: client, next_hop: Some(next_hop) },
            stage: Stage::Handshaking(Box::new(handshaking)),
            created_ms: now.as_millis(),
        }
    }

    /// Gives a flow that asked to dial its backend connection.
    pub fn dial(&mut self, leg: Leg) {
        if let Stage::Dialing(dialing) = &mut self.stage {
            dialing.backend = Some(leg);
            dialing.dials += 1;
        }
    }

    /// No backend can be dialed.
    pub fn fail_dialing(&mut self, now: Instant) {
        let Stage::Dialing(dialing) = &mut self.stage else { return };
        // The keys never left this node, so the alert's sequence number is ours alone.
        let mut alert = Vec::new();
        let established = &dialing.established;
        if let Ok(mut sealer) = crate::tls::Sealer::new(established.suite, &established.send) {
            let body = [2, INTERNAL_ERROR];
            let _ = sealer.seal(crate::tls::ContentType::Alert, (&body, &[]), &mut alert);
        }
        self.say_farewell(now, &alert);
    }

    pub(super) fn shake_hands(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        let Stage::Handshaking(handshaking) = &mut self.stage else { return };
        let client = &mut self.client.connection;
        if is_broken(client) || handshaking.until <= now {
            client.abort();
            self.stage = Stage::Farewell { until: now };
            return;
        }
        match handshaking.advance(client) {
            Ok(false) if client.fin_received() => self.say_farewell(now, &[]),
            Ok(false) => {}
            Ok(true) => self.begin_dialing(now),
            Err(error) => {
                turn.counters.count(error.reason());
                self.say_farewell(now, &[]);
            }
        }
    }

    fn begin_dialing(&mut self, now: Instant) {
        let stage = core::mem::replace(&mut self.stage, Stage::Over);
        let Stage::Handshaking(handshaking) = stage else { return };
        let Handshaking { handshake, output, read, .. } = *handshaking;
        match handshake.finish() {
            Ok(established) => {
                self.stage = Stage::Dialing(Box::new(Dialing {
                    established,
                    output,
                    read,
                    backend: None,
                    dials: 0,
                    until: now + OPENING_MAX,
                }));
            }
            Err(_) => self.say_farewell(now, &[]),
        }
    }

    pub(super) fn await_backend(&mut self, turn: &mut Turn<'_>) {
        let Stage::Dialing(dialing) = &mut self.stage else { return };
        if is_broken(&self.client.connection) {
            if let Some(backend) = &mut dialing.backend {
                backend.connection.abort();
            }
            // A half-open backend connection is reset by the answer to its next segment.
            self.stage = Stage::Farewell { until: turn.now };
            return;
        }
        let Some(backend) = &dialing.backend else { return };
        match backend.connection.phase() {
            Phase::HandshakeHeld => self.commit_established(turn),
            Phase::Closed(_) if dialing.dials < DIALS_MAX => dialing.backend = None,
            Phase::Closed(_) => self.fail_dialing(turn.now),
            _ if dialing.until <= turn.now => self.fail_dialing(turn.now),
            _ => {}
        }
    }

    /// EST: from here on the flow survives its relay.
    fn commit_established(&mut self, turn: &mut Turn<'_>) {
        let stage = core::mem::replace(&mut self.stage, Stage::Over);
        let Stage::Dialing(dialing) = stage else { return };
        match Open::new(*dialing, turn) {
            Some(open) => {
                self.stage = Stage::Open(Box::new(open));
                if breaks(Canary::EarlyThirdAck) {
                    self.apply(Effect::Established);
                }
                self.replicate(turn);
            }
            None => self.say_farewell(turn.now, &[]),
        }
    }
}

impl Handshaking {
    /// Feeds the handshake; true when it is complete. After an error its alert has been written.
    fn advance(&mut self, client: &mut Connection) -> Result<bool, HandshakeError> {
        let mut complete = false;
        loop {
            let waiting = client.received().saturating_sub(self.read) as usize;
            if waiting == 0 {
                break;
            }
            let mut input = vec![0; waiting.min(INPUT_CHUNK)];
            let copied = client.copy_received(self.read, &mut input);
            let mut output = Vec::new();
            let result = self.handshake.handle(&input[..copied], &mut output);
            self.send(client, &output);
            let progress = result?;
            self.read += progress.consumed as u64;
            client.release(self.read);
            complete = progress.complete;
            if complete || progress.consumed == 0 {
                break;
            }
        }
        // Whatever the handshake has not consumed belongs to it as long as it is not complete.
        client.set_ack_limit(if complete { self.read } else { client.received() });
        Ok(complete)
    }

    fn send(&mut self, client: &mut Connection, output: &[u8]) {
        self.output.extend_from_slice(output);
        client.write(output);
        client.set_send_limit(client.written());
    }
}

impl Dialing {
    /// Handshake output that the client has not acknowledged.
    pub fn unacknowledged(&self, client: &Connection) -> &[u8] {
        self.output.get(client.acked() as usize..).unwrap_or_default()
    }
}

/// Names flows: the upper half tells incarnations apart, the lower half counts.
#[derive(Clone, Copy, Debug)]
pub struct FlowIds(u64);

impl FlowIds {
    /// Ids of one incarnation.
    pub fn new(incarnation: crate::id::Incarnation) -> Self {
        FlowIds(incarnation.0 << 32)
    }

    /// The next id.
    pub fn allocate(&mut self) -> FlowId {
        self.0 += 1;
        FlowId(self.0)
    }
}
