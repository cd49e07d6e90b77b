//! From the SYN cookie's ACK to EST: the TLS handshake and the backend connection.
//!
//! What the client said and what the crypto provider answered is replicated, and only then is the
//! client answered: another relay repeats the handshake to the identical state. Before the first
//! of it nothing leaves at all, not even an ACK, because until then the flow is in the SYN cookie
//! that the client's segments carry.

use relay_abi::peer::{Message, Opening};
use zeroize::Zeroizing;

use super::persist::wire_leg;
use super::{Effect, Flow, Leg, OPENING_MAX, Open, Stage, Turn, is_broken};
use crate::canary::{Canary, breaks};
use crate::frame::EthernetAddress;
use crate::id::FlowId;
use crate::listeners::Place;
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
    /// Bytes of the client's stream that followers were given.
    told_input: usize,
    /// Bytes of the journal that followers were given.
    told_journal: usize,
    /// They hold them, so that the client may hear from us.
    pub(super) is_known: bool,
    pub until: Instant,
}

/// The handshake is complete, and a backend is dialed.
pub struct Dialing {
    pub established: Established,
    /// What the handshake consumed; application data begins behind it.
    pub input: Vec<u8>,
    pub journal: Zeroizing<Vec<u8>>,
    /// Handshake output, from offset 0.
    pub output: Vec<u8>,
    pub backend: Option<Leg>,
    dials: u32,
    pub until: Instant,
}

impl Flow {
    /// A flow whose client has just completed the three-way handshake.
    pub fn new(
        id: FlowId,
        listener: Place,
        client: Connection,
        next_hop: Option<EthernetAddress>,
        (now, handshake): (Instant, Handshake),
    ) -> Self {
        Flow {
            id,
            listener: Some(listener),
            client: Leg { connection: client, next_hop },
            stage: Stage::Handshaking(Box::new(Handshaking::new(handshake, now))),
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
    pub fn fail_dialing(&mut self, turn: &mut Turn<'_>) {
        let Stage::Dialing(dialing) = &mut self.stage else { return };
        // Followers forget the flow before the alert leaves: its sequence number is ours alone.
        let mut alert = Vec::new();
        let established = &dialing.established;
        if let Ok(mut sealer) = crate::tls::Sealer::new(established.suite, &established.send) {
            let body = [2, INTERNAL_ERROR];
            let _ = sealer.seal(crate::tls::ContentType::Alert, (&body, &[]), &mut alert);
        }
        self.say_farewell(&alert, turn);
    }

    pub(super) fn shake_hands(&mut self, turn: &mut Turn<'_>) {
        let Stage::Handshaking(handshaking) = &mut self.stage else { return };
        let client = &mut self.client;
        let is_late = handshaking.until <= turn.now || turn.is_outdated;
        if is_broken(&client.connection) || is_late {
            return self.give_up(turn);
        }
        match handshaking.advance(&mut client.connection) {
            Ok(complete) => {
                let named = (self.id, self.created_ms, generation_of(self.listener));
                handshaking.tell(named, client, turn);
                if breaks(Canary::AnswerBeforeCommit) && handshaking.is_known {
                    client.connection.set_send_limit(handshaking.handshake.output().len() as u64);
                }
                if complete {
                    self.begin_dialing(turn);
                } else if client.connection.fin_received() {
                    self.say_farewell(&[], turn);
                }
            }
            Err(error) => {
                turn.counters.count(error.reason());
                self.say_farewell(&[], turn);
            }
        }
    }

    fn begin_dialing(&mut self, turn: &mut Turn<'_>) {
        let Stage::Handshaking(handshaking) = &self.stage else { return };
        let handshake = &handshaking.handshake;
        let (input, output) = (handshake.input().to_vec(), handshake.output().to_vec());
        let journal = Zeroizing::new(handshake.journal().to_vec());
        let stage = core::mem::replace(&mut self.stage, Stage::Over);
        let Stage::Handshaking(handshaking) = stage else { return };
        match handshaking.handshake.finish() {
            Ok(established) => {
                self.stage = Stage::Dialing(Box::new(Dialing {
                    established,
                    input,
                    journal,
                    output,
                    backend: None,
                    dials: 0,
                    until: turn.now + OPENING_MAX,
                }));
            }
            // The library has agreed on something that our record layer does not know.
            Err(error) => {
                turn.counters.count(error.reason());
                self.give_up(turn);
            }
        }
    }

    pub(super) fn await_backend(&mut self, turn: &mut Turn<'_>) {
        let Stage::Dialing(dialing) = &mut self.stage else { return };
        if is_broken(&self.client.connection) {
            // A half-open backend connection is reset by the answer to its next segment.
            return self.give_up(turn);
        }
        let Some(backend) = &dialing.backend else { return };
        match backend.connection.phase() {
            Phase::HandshakeHeld => self.commit_established(turn),
            Phase::Closed(_) if dialing.dials < DIALS_MAX => dialing.backend = None,
            Phase::Closed(_) => self.fail_dialing(turn),
            _ if dialing.until <= turn.now || turn.is_outdated => self.fail_dialing(turn),
            _ => {}
        }
    }

    /// EST: from here on the backend is never chosen again.
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
            None => self.give_up(turn),
        }
    }

    /// Tells every follower about a flow without a backend as a whole.
    pub(super) fn replicate_opening(&self, turn: &mut Turn<'_>) {
        let told;
        let (input, consumed, journal, output) = match &self.stage {
            Stage::Handshaking(handshaking) if handshaking.is_told() => {
                let handshake = &handshaking.handshake;
                told = handshaking.input(&self.client.connection, 0..handshaking.told_input);
                let consumed = handshake.input().len();
                (told.as_slice(), consumed, handshake.journal(), handshake.output().len())
            }
            Stage::Dialing(dialing) => {
                let (input, output) = (&dialing.input, dialing.output.len());
                (input.as_slice(), input.len(), dialing.journal.as_slice(), output)
            }
            _ => return,
        };
        let opening = Opening {
            flow: self.id.0,
            generation: generation_of(self.listener),
            client: wire_leg(&self.client),
            input,
            consumed: consumed as u32,
            journal,
            created_ms: self.created_ms,
        };
        let lsn = turn.replicas.push(Some(self.id), &Message::Opening(opening));
        let effect = Effect::Answer { ack: input.len() as u64, send: output as u64 };
        turn.effects.push_back((lsn, self.id, effect));
    }
}

impl Dialing {
    /// Of a handshake that is known by its result and by how much it has consumed and said.
    pub(super) fn again(
        established: Established,
        consumed: u64,
        output: Vec<u8>,
        now: Instant,
    ) -> Self {
        let input = vec![0; consumed as usize];
        let (journal, until) = (Zeroizing::default(), now + OPENING_MAX);
        Dialing { established, input, journal, output, backend: None, dials: 0, until }
    }
}

impl Handshaking {
    /// A handshake of which nobody else knows.
    fn new(handshake: Handshake, now: Instant) -> Self {
        let until = now + OPENING_MAX;
        Handshaking { handshake, told_input: 0, told_journal: 0, is_known: false, until }
    }

    /// A handshake that comes out of a shadow which held `told_input` bytes of the client's.
    pub(super) fn restored(handshake: Handshake, told_input: usize, now: Instant) -> Self {
        let told_journal = handshake.journal().len();
        Handshaking { told_input, told_journal, is_known: true, ..Self::new(handshake, now) }
    }

    /// Whether followers were told of it.
    pub fn is_told(&self) -> bool {
        self.told_input > 0
    }

    /// Feeds the handshake; true when it is complete. After an error its alert has been written.
    fn advance(&mut self, client: &mut Connection) -> Result<bool, HandshakeError> {
        while !self.handshake.is_complete() {
            let read = self.handshake.input().len() as u64;
            let waiting = client.received().saturating_sub(read) as usize;
            let mut input = vec![0; waiting.min(INPUT_CHUNK)];
            let copied = client.copy_received(read, &mut input);
            let mut output = Vec::new();
            let result = self.handshake.handle(&input[..copied], &mut output);
            client.write(&output);
            let consumed = result?.consumed;
            client.release(read + consumed as u64);
            if consumed == 0 {
                break;
            }
        }
        Ok(self.handshake.is_complete())
    }

    /// Replicates what the client said, also what is not a whole record yet, and what it was
    /// answered. The client is answered when every gate has it.
    fn tell(
        &mut self,
        (id, created_ms, generation): (FlowId, u64, u64),
        client: &Leg,
        turn: &mut Turn<'_>,
    ) {
        let consumed = self.handshake.input().len();
        // Whatever is not consumed belongs to the handshake as long as it is not complete.
        let end = match self.handshake.is_complete() {
            true => consumed,
            false => client.connection.received() as usize,
        };
        let journal = self.handshake.journal();
        // Without a byte from the client there is nothing that its SYN cookie does not tell.
        if end == 0 || (end <= self.told_input && journal.len() == self.told_journal) {
            return;
        }
        let input = self.input(&client.connection, self.told_input..end);
        let consumed = consumed as u32;
        let message = match self.is_told() {
            false => Message::Opening(Opening {
                flow: id.0,
                generation,
                client: wire_leg(client),
                input: &input,
                consumed,
                journal,
                created_ms,
            }),
            true => Message::Transcript {
                flow: id.0,
                offset: self.told_input as u32,
                input: &input,
                consumed,
                journal: &journal[self.told_journal..],
            },
        };
        let lsn = turn.replicas.push(Some(id), &message);
        let send = self.handshake.output().len() as u64;
        turn.effects.push_back((lsn, id, Effect::Answer { ack: end as u64, send }));
        (self.told_input, self.told_journal) = (end, journal.len());
    }

    /// Bytes of the client's stream, consumed or not.
    fn input(&self, client: &Connection, range: core::ops::Range<usize>) -> Vec<u8> {
        let consumed = self.handshake.input();
        let (start, end) = (range.start.min(consumed.len()), range.end.min(consumed.len()));
        let mut bytes = consumed[start..end].to_vec();
        let mut rest = vec![0; range.len() - bytes.len()];
        let from = (range.start + bytes.len()) as u64;
        let copied = client.copy_received(from, &mut rest);
        bytes.extend_from_slice(&rest[..copied]);
        bytes
    }
}

/// Every flow without a backend knows its listener; of what is none, nobody holds the generation.
fn generation_of(listener: Option<Place>) -> u64 {
    listener.map_or(u64::MAX, |place| place.generation)
}

/// Names flows: the upper half tells incarnations apart, the lower half counts.
#[derive(Clone, Copy, Debug)]
pub struct FlowIds(u64);

impl FlowIds {
    /// Ids of one incarnation and unit.
    pub fn new(incarnation: crate::id::Incarnation, unit: crate::unit::Unit) -> Self {
        FlowIds(incarnation.0 << 32 | u64::from(unit.index()) << 26)
    }

    /// The next id.
    pub fn allocate(&mut self) -> FlowId {
        self.0 += 1;
        FlowId(self.0)
    }
}
