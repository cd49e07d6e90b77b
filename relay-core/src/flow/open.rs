//! An established flow: both streams, and how they end.

use relay_abi::peer::{self, DATA_MAX, Direction, Entry, Message};

use super::down::{Broken, Down};
use super::opening::Dialing;
use super::up::{Asked, Up, Violation};
use super::{Effect, FAREWELL_MAX, Flow, Leg, Stage, Turn, is_broken, is_done};
use crate::canary::{Canary, breaks};
use crate::id::FlowId;
use crate::relay::{Hold, Log};
use crate::replica::Lsn;
use crate::tcp::{Connection, Mark, Phase};
use crate::time::Instant;
use crate::tls::Suite;
use relay_abi::peer::{Delivered, Settled};

/// The TLS 1.2 answer to an attempt to renegotiate (RFC 5246 section 7.2.2).
const NO_RENEGOTIATION: u8 = 100;

/// An established flow without its client leg.
pub struct Open {
    pub(super) suite: Suite,
    pub(super) server_name: String,
    pub backend: Leg,
    pub(super) up: Up,
    pub(super) down: Down,
    /// Handshake output, as long as the client may ask for it again.
    pub(super) raw: Vec<u8>,
    /// The last point that was replicated.
    pub(super) reported: (Settled, Delivered),
    /// The last marks that were replicated, up and down.
    marked: [Option<Mark>; 2],
    ending: Ending,
    /// When the client has to have ended a flow that is over.
    linger_until: Option<Instant>,
    /// What both ends had said and acknowledged when they were heard last, and when that was.
    heard: Option<([u64; 4], Instant)>,
    /// When the flow is reset if nobody says anything.
    idle_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Both legs live.
    No,
    /// The backend is gone; the client gets what it had sent, and then a reset.
    Draining,
    /// The end is replicated, its effect waits for the gates.
    Aborting,
    /// Both streams have ended. Followers know the flow until TIME-WAIT is over: its last ACK may be
    /// asked for again.
    Resting,
    /// The end is replicated; TIME-WAIT and last segments are this node's own business.
    Ended,
}

impl Open {
    /// A flow whose backend has just answered.
    pub(super) fn new(dialing: Dialing, turn: &Turn<'_>) -> Option<Self> {
        let Dialing { established, input, output, backend, .. } = dialing;
        let read = input.len() as u64;
        let (send, receive) = (&established.send, &established.receive);
        let settled = Settled {
            client: read,
            sequence: receive.sequence,
            generation: receive.generation,
            ..Settled::default()
        };
        let delivered = Delivered {
            client: output.len() as u64,
            sequence: send.sequence,
            generation: send.generation,
            ..Delivered::default()
        };
        let suite = established.suite;
        let log = Log::new(delivered, suite.record_len(0));
        Some(Open {
            suite,
            server_name: established.server_name.unwrap_or_default(),
            backend: backend?,
            up: Up::new(suite, receive, settled, Hold::new(turn.hold, read)).ok()?,
            down: Down::new(suite, send, log, Hold::new(turn.hold, 0)).ok()?,
            raw: output,
            reported: (settled, delivered),
            marked: [None; 2],
            ending: Ending::No,
            linger_until: None,
            heard: None,
            idle_at: None,
        })
    }

    /// A flow that comes out of a shadow.
    pub(super) fn restored(
        (suite, server_name): (Suite, String),
        backend: Leg,
        (up, down): (Up, Down),
        raw: Vec<u8>,
    ) -> Self {
        let reported = (up.settled(), down.delivered());
        Open {
            suite,
            server_name,
            backend,
            up,
            down,
            raw,
            reported,
            marked: [None; 2],
            ending: Ending::No,
            linger_until: None,
            heard: None,
            idle_at: None,
        }
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    pub(super) fn server_name(&self) -> &str {
        &self.server_name
    }

    pub(super) fn bytes_up(&self) -> u64 {
        self.up.produced()
    }

    pub(super) fn bytes_down(&self) -> u64 {
        self.down.delivered().backend
    }

    pub(super) fn state_name(&self, client: &Leg) -> &'static str {
        match self.ending {
            Ending::No if client.connection.fin_received() => "half-closed (client)",
            Ending::No if self.backend.connection.fin_received() => "half-closed (backend)",
            Ending::No => "open",
            Ending::Draining => "draining",
            Ending::Aborting => "aborting",
            Ending::Resting | Ending::Ended => "closing",
        }
    }

    pub(super) fn replicated_bytes(&self) -> u64 {
        self.up.hold.replicated() + self.down.hold.replicated()
    }

    /// Whether nothing is left of the flow but TIME-WAIT.
    pub(super) fn is_resting(&self) -> bool {
        self.ending == Ending::Resting
    }

    /// Whether backups have been told that the flow is over.
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.ending, Ending::Aborting | Ending::Ended)
    }

    /// Whether the flow can be forgotten.
    pub(super) fn is_over(&self, client: &Leg) -> bool {
        let legs = [&client.connection, &self.backend.connection];
        self.ending == Ending::Ended && legs.iter().all(|c| matches!(c.phase(), Phase::Closed(_)))
    }

    pub(super) fn poll_timeout(&self, client: &Leg) -> Option<Instant> {
        if self.is_ended() || self.is_resting() {
            return self.linger_until.filter(|_| client.connection.phase() == Phase::Open);
        }
        let timers = [self.up.hold.poll_timeout(), self.down.hold.poll_timeout(), self.idle_at];
        timers.into_iter().flatten().min()
    }

    /// Does everything that can be done now.
    pub(super) fn service(&mut self, id: FlowId, client: &mut Leg, turn: &mut Turn<'_>) {
        if self.is_ended() {
            return self.linger(client, turn.now);
        }
        if self.is_resting() {
            return self.rest(id, client, turn);
        }
        if is_broken(&client.connection) || self.is_idle(&client.connection, turn) {
            return self.abort(id, turn);
        }
        if is_broken(&self.backend.connection) {
            self.drain();
        }
        // The backend's bytes are kept until the client has them: two round trips' worth, since
        // both the bytes and their acknowledgements are under way.
        let carries = client.connection.send_capacity();
        self.backend.connection.set_receive_demand(2 * carries);
        let entries = match self.pump(&mut client.connection, turn) {
            Ok(entries) => entries,
            Err(Broken::Diverged | Broken::Exhausted) => return self.abort(id, turn),
        };
        self.commit_entries(id, entries, turn);
        self.report_progress(id, client, turn);
        self.replicate_held(id, client, turn);
        self.report_marks(id, client, turn);
        if self.ending == Ending::Draining && self.is_drained(client) {
            return self.abort(id, turn);
        }
        if is_done(&client.connection) && is_done(&self.backend.connection) {
            self.ending = Ending::Resting;
            self.rest(id, client, turn);
        }
    }

    /// Waits until TIME-WAIT is over.
    fn rest(&mut self, id: FlowId, client: &Leg, turn: &mut Turn<'_>) {
        let legs = [&client.connection, &self.backend.connection];
        if legs.iter().all(|leg| matches!(leg.phase(), Phase::Closed(_))) {
            turn.replicas.push(Some(id), &Message::End { flow: id.0 });
            self.ending = Ending::Ended;
        }
    }

    /// Lets go what was committed.
    pub(super) fn apply(&mut self, client: &mut Leg, effect: Effect) {
        let (client, backend) = (&mut client.connection, &mut self.backend.connection);
        match effect {
            Effect::Answer { .. } | Effect::Based => {}
            Effect::Established => {
                backend.release_handshake();
                backend.set_send_limit(u64::MAX);
            }
            Effect::Send(limit) => client.set_send_limit(limit),
            Effect::Progress(up, down) => {
                self.up.hold.commit_settled(up.client + u64::from(up.fin));
                self.down.hold.commit_settled(down.backend + u64::from(down.fin));
            }
            Effect::UpData(range) => self.up.hold.commit_data(range),
            Effect::DownData(range) => self.down.hold.commit_data(range),
            Effect::Abort => {
                // A client that was told why, and has our FIN, may say its own.
                if !client.fin_acked() {
                    client.abort();
                }
                backend.abort();
                self.ending = Ending::Ended;
                client.set_ack_limit(u64::MAX);
                return;
            }
        }
        acknowledge(client, &self.up.hold);
        acknowledge(backend, &self.down.hold);
    }

    /// Whether nobody has said or acknowledged anything for too long. A new owner counts anew.
    fn is_idle(&mut self, client: &Connection, turn: &Turn<'_>) -> bool {
        let backend = &self.backend.connection;
        let said = [client.received(), client.acked(), backend.received(), backend.acked()];
        let since = match self.heard {
            Some((before, at)) if before == said => at,
            _ => turn.now,
        };
        self.heard = Some((said, since));
        self.idle_at = turn.idle_max.map(|idle| since + idle);
        self.idle_at.is_some_and(|at| at <= turn.now)
    }

    /// Whether the client has everything that it can be given.
    fn is_drained(&self, client: &Leg) -> bool {
        let (client, backend) = (&client.connection, &self.backend.connection);
        let log = self.down.log();
        let taken = log.is_finished() || log.end().backend >= backend.received();
        taken && (client.acked() >= log.end().client || self.down.lacks_plaintext(backend))
    }

    /// The backend is of no more use. What it has sent is nowhere else: replicate it at once.
    fn drain(&mut self) {
        self.ending = Ending::Draining;
        self.down.hold.hurry();
    }

    /// Waits for the client's FIN, but not for ever.
    fn linger(&mut self, client: &mut Leg, now: Instant) {
        let until = *self.linger_until.get_or_insert(now + FAREWELL_MAX);
        let waits = self.ending == Ending::Ended && client.connection.phase() == Phase::Open;
        if waits && until <= now {
            client.connection.abort();
        }
    }

    fn abort(&mut self, id: FlowId, turn: &mut Turn<'_>) {
        let lsn = turn.replicas.push(Some(id), &Message::End { flow: id.0 });
        turn.effects.push_back((lsn, id, Effect::Abort));
        self.ending = Ending::Aborting;
    }

    /// Moves bytes both ways; returns the new entries of the log.
    fn pump(&mut self, client: &mut Connection, turn: &mut Turn<'_>) -> Result<Vec<Entry>, Broken> {
        let backend = &mut self.backend.connection;
        self.down.replay(client, backend)?;
        let pumped = match self.ending {
            // The client's stream leads nowhere any more.
            Ending::Draining => Ok(Asked::default()),
            _ => self.up.pump(client, backend),
        };
        let asked = match pumped {
            Ok(asked) => asked,
            Err(Violation::Farewell | Violation::Truncated) => return Err(Broken::Diverged),
            Err(Violation::Alert(alert, reason)) => {
                self.ending = Ending::Draining;
                turn.counters.count(reason);
                let farewell = self.down.fail(alert, client)?;
                return farewell.map(Vec::from).ok_or(Broken::Diverged);
            }
        };
        let mut entries = Vec::new();
        if self.up.owes_key_update()
            && let Some(update) = self.down.key_update(client)?
        {
            self.up.pay_key_update();
            entries.push(update);
        }
        if asked.renegotiation {
            entries.extend(self.down.warn(NO_RENEGOTIATION, client)?);
        }
        entries.append(&mut self.down.extend(client, backend)?);
        Ok(entries)
    }

    fn commit_entries(&mut self, id: FlowId, entries: Vec<Entry>, turn: &mut Turn<'_>) {
        if entries.is_empty() {
            return;
        }
        let log = self.down.log();
        let index = log.end_index() - entries.len() as u64;
        let limit = log.end().client + u64::from(log.is_finished());
        let message = Message::Entries { flow: id.0, index, entries };
        let lsn = turn.replicas.push(Some(id), &message);
        turn.effects.push_back((lsn, id, Effect::Send(limit)));
    }

    fn report_progress(&mut self, id: FlowId, client: &mut Leg, turn: &mut Turn<'_>) {
        let (client, backend) = (&mut client.connection, &mut self.backend.connection);
        self.up.settle(client, backend);
        self.down.deliver(client);
        let (up, down) = (self.up.settled(), self.down.delivered());
        release(client, up.client);
        release(backend, down.backend);
        if self.reported != (up, down) {
            self.reported = (up, down);
            if down.index > 0 {
                self.raw = Vec::new();
            }
            let window = client.save().peer_window;
            let message = Message::Progress { flow: id.0, up, down, window };
            let lsn = turn.replicas.push(Some(id), &message);
            turn.effects.push_back((lsn, id, Effect::Progress(up, down)));
        }
    }

    /// Replicates bytes that have waited too long, or arrived out of order.
    fn replicate_held(&mut self, id: FlowId, client: &mut Leg, turn: &mut Turn<'_>) {
        let settled = (self.up.settled_offset(), self.down.delivered_offset());
        let is_free = turn.hurries || turn.replicas.is_alone();
        self.up.hold.set_free(is_free);
        self.down.hold.set_free(is_free);
        let client = &client.connection;
        self.down.hold.set_round_trip(client.round_trip());
        let due =
            self.up.hold.due(turn.now, settled.0, end_with_fin(client), client.out_of_order());
        for range in due {
            if let Some(lsn) = push_data(id, Direction::Up, client, range.clone(), turn) {
                turn.effects.push_back((lsn, id, Effect::UpData(range)));
            }
        }
        let backend = &self.backend.connection;
        let due =
            self.down.hold.due(turn.now, settled.1, end_with_fin(backend), backend.out_of_order());
        for range in due {
            if let Some(lsn) = push_data(id, Direction::Down, backend, range.clone(), turn) {
                turn.effects.push_back((lsn, id, Effect::DownData(range)));
            }
        }
    }

    /// Tells followers where lagging ACKs will stand, so that they could wake the peers.
    fn report_marks(&mut self, id: FlowId, client: &Leg, turn: &mut Turn<'_>) {
        let up = self.up.hold.promised_limit(self.up.settled_offset());
        let down = self.down.hold.promised_limit(self.down.delivered_offset());
        let backend = &self.backend.connection;
        let marks = [client.connection.mark(up), backend.mark(down)];
        for (index, direction) in [Direction::Up, Direction::Down].into_iter().enumerate() {
            let Some(mark) = marks[index].filter(|_| marks[index] != self.marked[index]) else {
                continue;
            };
            self.marked[index] = Some(mark);
            let message = Message::Mark { flow: id.0, direction, mark: wire_mark(&mark) };
            turn.replicas.push(Some(id), &message);
        }
    }

    /// Gives every follower the bytes that were acknowledged and are not settled.
    pub(super) fn replicate_promised(&self, id: FlowId, client: &Leg, turn: &mut Turn<'_>) {
        for range in self.up.hold.promised(self.up.settled_offset()) {
            push_data(id, Direction::Up, &client.connection, range, turn);
        }
        for range in self.down.hold.promised(self.down.delivered_offset()) {
            push_data(id, Direction::Down, &self.backend.connection, range, turn);
        }
    }
}

impl Flow {
    /// Tells every follower about the flow as a whole, and lets it go on when they know.
    pub fn replicate(&mut self, turn: &mut Turn<'_>) {
        let Stage::Open(open) = &self.stage else { return self.replicate_opening(turn) };
        let base = self.base(open);
        let lsn = turn.replicas.push(Some(self.id), &Message::Base(base));
        turn.effects.push_back((lsn, self.id, Effect::Established));
        let limit = open.down.log().end().client + u64::from(open.down.log().is_finished());
        if !breaks(Canary::BaseWithoutData) {
            open.replicate_promised(self.id, &self.client, turn);
        }
        let lsn = turn.replicas.last();
        turn.effects.push_back((lsn, self.id, Effect::Send(limit)));
        let (up, down) = open.reported;
        turn.effects.push_back((lsn, self.id, Effect::Progress(up, down)));
    }
}

fn wire_mark(mark: &Mark) -> peer::Mark {
    peer::Mark {
        ack: mark.ack,
        hole: (mark.hole_end - mark.ack) as u32,
        held: (mark.end - mark.hole_end) as u32,
    }
}

/// Everything that is safe may be acknowledged.
fn acknowledge(connection: &mut Connection, hold: &Hold) {
    connection.set_ack_limit(hold.ack_limit());
    connection.set_sackable(hold.sackable());
}

/// Forgets bytes that are settled. A connection that is over keeps what it has until all of it is.
fn release(connection: &mut Connection, settled: u64) {
    let received = connection.received();
    if connection.phase() == Phase::Open || settled >= received {
        connection.release(settled.min(received));
    }
}

/// The end of the contiguous bytes with the FIN as one more byte.
fn end_with_fin(connection: &Connection) -> u64 {
    connection.received() + u64::from(connection.fin_received())
}

/// Sends bytes of a stream to every follower of the flow; returns the number of the last message.
fn push_data(
    id: FlowId,
    direction: Direction,
    connection: &Connection,
    range: core::ops::Range<u64>,
    turn: &mut Turn<'_>,
) -> Option<Lsn> {
    let fin = connection.fin_received() && range.end > connection.received();
    let end = if fin { connection.received() } else { range.end };
    let mut bytes = Vec::new();
    if range.start >= connection.received() {
        connection.copy_out_of_order(range.start..end, &mut bytes);
    } else {
        bytes.resize((end.saturating_sub(range.start)) as usize, 0);
        let copied = connection.copy_received(range.start, &mut bytes);
        bytes.truncate(copied);
    }
    if bytes.len() as u64 != end.saturating_sub(range.start) {
        return None; // not held any more: then it is not promised either
    }
    let mut lsn = None;
    let (mut offset, mut rest) = (range.start, bytes.as_slice());
    loop {
        let (now, later) = rest.split_at(rest.len().min(DATA_MAX));
        let fin = fin && later.is_empty();
        if !now.is_empty() || fin {
            let message = Message::Data { flow: id.0, direction, offset, fin, bytes: now };
            lsn = Some(turn.replicas.push(Some(id), &message));
        }
        offset += now.len() as u64;
        rest = later;
        if rest.is_empty() {
            return lsn;
        }
    }
}
