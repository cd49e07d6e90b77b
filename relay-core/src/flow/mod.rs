//! A flow: one client connection, its TLS state and its backend connection.
//!
//! Only here and in `shard` do TCP, TLS and the relay protocol meet. A flow is driven by
//! [`Flow::service`] once per turn after anything happened to it; what it wants to release it puts
//! behind a replication number, and [`Flow::apply`] lets it go when every gate holds it.

mod down;
mod open;
mod opening;
mod persist;
#[cfg(test)]
mod tests;
mod up;

pub use open::Open;
pub use opening::{Dialing, FlowIds, Handshaking};
pub use persist::{Restoration, ip_endpoint};

use core::ops::Range;
use std::collections::VecDeque;

use relay_abi::peer::{Delivered, Message, Settled};

use crate::config::Settings;
use crate::frame::{EthernetAddress, IpEndpoint};
use crate::id::FlowId;
use crate::listeners::Place;
use crate::reason::Counters;
use crate::relay::HoldTime;
use crate::replica::{Lsn, Replicas};
use crate::tcp::{Cause, Connection, Memory, Phase, Standing};
use crate::time::{Duration, Instant};

/// A client has to finish its handshake, and a backend to answer, within this time.
pub const OPENING_MAX: Duration = Duration::from_secs(30);

/// The window of either leg while backups hold as much as they may: a record fits, with room to
/// send while it is on its way.
const SCARCE_WINDOW: usize = 64 * 1024;

/// A client that was sent a fatal alert has this long to take it.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// One TCP connection of a flow and where its frames go.
pub struct Leg {
    pub connection: Connection,
    /// None until the kernel has resolved it.
    pub next_hop: Option<EthernetAddress>,
}

/// One client connection and its backend connection.
pub struct Flow {
    pub id: FlowId,
    /// The listener that it came in by; of an established flow it may be gone.
    pub listener: Option<Place>,
    pub client: Leg,
    pub stage: Stage,
    pub created_ms: u64,
}

/// How far a flow has come.
pub enum Stage {
    /// The TLS handshake: another relay would repeat it.
    Handshaking(Box<Handshaking>),
    /// The backend is dialed: another relay would dial anew.
    Dialing(Box<Dialing>),
    /// Established: another relay goes on with both connections.
    Open(Box<Open>),
    /// The client is told why it is not served; followers know of nothing any more.
    Farewell(Farewell),
    /// Nothing is left to do.
    Over,
}

/// The last words to a client that is not served.
#[derive(Clone, Copy, Debug, Default)]
pub struct Farewell {
    /// No follower knows the flow, so that the words are ours alone.
    released: bool,
    /// The client has to have taken them by then.
    until: Option<Instant>,
}

/// What a flow wants from the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until something happens to it.
    Wait,
    /// A backend connection.
    Dial,
    /// To be forgotten.
    Over,
}

/// Something that is released when every gate holds what determines it (rule 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The client may hear from us: acknowledgements up to `ack`, our stream up to `send`.
    Answer { ack: u64, send: u64 },
    /// EST is committed: the third ACK and data may go to the backend (rule 12).
    Established,
    /// The client leg may send up to this offset; the FIN counts.
    Send(u64),
    /// Both settled points are known.
    Progress(Settled, Delivered),
    /// These bytes from the client are held as data; the FIN counts.
    UpData(Range<u64>),
    /// These bytes from the backend are held as data; the FIN counts.
    DownData(Range<u64>),
    /// The flow is over: reset what is left of its connections.
    Abort,
    /// Every gate has been told of the flow by its new owner, which may speak from now on.
    Based,
}

/// Effects in the order of their replication numbers.
pub type Effects = VecDeque<(Lsn, FlowId, Effect)>;

/// What one call of [`Flow::service`] works with.
pub struct Turn<'a> {
    pub now: Instant,
    pub replicas: &'a mut Replicas,
    pub effects: &'a mut Effects,
    pub counters: &'a mut Counters,
    /// See [`crate::relay::Hold`].
    pub hold: HoldTime,
    /// A flow whose ends have been silent for this long is reset; None: never.
    pub idle_max: Option<Duration>,
    /// Backups hold as many bytes as they may: flows get a small window.
    pub is_scarce: bool,
    /// Another node goes on soon: it shall need nothing that the ends have sent before.
    pub hurries: bool,
    /// The configuration has changed too often since the flow's handshake began.
    pub is_outdated: bool,
}

impl<'a> Turn<'a> {
    /// A turn as the settings have it, with room for data at the backups.
    pub fn new(
        (now, replicas): (Instant, &'a mut Replicas),
        effects: &'a mut Effects,
        counters: &'a mut Counters,
        settings: &Settings,
    ) -> Self {
        let Settings { hold, idle_max, .. } = *settings;
        let (is_scarce, hurries, is_outdated) = (false, false, false);
        Turn { now, replicas, effects, counters, hold, idle_max, is_scarce, hurries, is_outdated }
    }
}

impl Flow {
    /// The backend leg, once the backend is dialed.
    pub fn backend(&self) -> Option<&Leg> {
        match &self.stage {
            Stage::Dialing(dialing) => dialing.backend.as_ref(),
            Stage::Open(open) => Some(&open.backend),
            Stage::Handshaking(_) | Stage::Farewell(_) | Stage::Over => None,
        }
    }

    /// The backend leg, once the backend is dialed.
    pub fn backend_mut(&mut self) -> Option<&mut Leg> {
        match &mut self.stage {
            Stage::Dialing(dialing) => dialing.backend.as_mut(),
            Stage::Open(open) => Some(&mut open.backend),
            Stage::Handshaking(_) | Stage::Farewell(_) | Stage::Over => None,
        }
    }

    /// What the TCP buffers of both legs take.
    pub fn memory(&self) -> Memory {
        let backend = self.backend().map(|leg| leg.connection.memory());
        self.client.connection.memory().and(backend.unwrap_or_default())
    }

    /// Bytes of it that backups hold as data.
    pub fn replicated_bytes(&self) -> u64 {
        match &self.stage {
            Stage::Open(open) if !open.is_ended() => open.replicated_bytes(),
            _ => 0,
        }
    }

    /// The configuration under which its handshake began, as long as that is needed.
    pub fn generation(&self) -> Option<u64> {
        match &self.stage {
            Stage::Handshaking(_) | Stage::Dialing(_) => self.listener.map(|at| at.generation),
            Stage::Open(_) | Stage::Farewell(_) | Stage::Over => None,
        }
    }

    /// Whether backups know this flow.
    pub fn is_replicated(&self) -> bool {
        match &self.stage {
            Stage::Handshaking(handshaking) => handshaking.is_told(),
            Stage::Dialing(_) => true,
            Stage::Open(open) => !open.is_ended(),
            Stage::Farewell(_) | Stage::Over => false,
        }
    }

    /// Whether nothing may be said to the client yet, not even an ACK. Before the flow is replicated
    /// it is in the SYN cookie alone, which the client has to go on echoing.
    pub fn is_mute(&self) -> bool {
        match &self.stage {
            Stage::Handshaking(handshaking) => !handshaking.is_known,
            Stage::Farewell(farewell) => !farewell.released,
            Stage::Dialing(_) | Stage::Open(_) | Stage::Over => false,
        }
    }

    /// Whether it has to be served again after an effect.
    pub fn is_ending(&self) -> bool {
        self.is_lingering() || matches!(self.stage, Stage::Farewell(_))
    }

    /// Whether nothing is left of the flow but TIME-WAIT.
    pub fn is_lingering(&self) -> bool {
        matches!(&self.stage, Stage::Open(open) if open.is_ended() || open.is_resting())
    }

    /// Whether nothing more will happen on one of the connections.
    pub fn has_closed_leg(&self) -> bool {
        let backend = self.backend().is_some_and(|leg| is_done(&leg.connection));
        backend || is_done(&self.client.connection)
    }

    /// Does everything that can be done now.
    pub fn service(&mut self, turn: &mut Turn<'_>) -> Next {
        self.limit_windows(turn);
        if let Stage::Handshaking(_) = self.stage {
            self.shake_hands(turn);
        }
        if let Stage::Dialing(_) = self.stage {
            self.await_backend(turn);
            // Before the third ACK, which may offer the backend a window for the first time.
            self.limit_windows(turn);
        }
        match &mut self.stage {
            Stage::Handshaking(_) => Next::Wait,
            Stage::Dialing(dialing) if dialing.backend.is_none() => Next::Dial,
            Stage::Dialing(_) => Next::Wait,
            Stage::Open(open) => {
                open.service(self.id, &mut self.client, turn);
                if open.is_over(&self.client) { Next::Over } else { Next::Wait }
            }
            Stage::Farewell(farewell) => farewell.service(&mut self.client.connection, turn.now),
            Stage::Over => Next::Over,
        }
    }

    /// Lets go what was committed.
    pub fn apply(&mut self, effect: Effect) {
        let client = &mut self.client.connection;
        if let Effect::Answer { ack, send } = effect {
            client.set_ack_limit(ack);
            client.set_send_limit(send);
        }
        match (&mut self.stage, effect) {
            (Stage::Handshaking(handshaking), Effect::Answer { .. }) => handshaking.is_known = true,
            (Stage::Farewell(farewell), Effect::Answer { send: u64::MAX, .. }) => {
                farewell.released = true;
            }
            (Stage::Farewell(farewell), Effect::Abort) => {
                client.abort();
                farewell.released = true;
            }
            // It is older than EST, which alone vouches for what an open flow takes for settled.
            (Stage::Open(_), Effect::Answer { .. }) => {}
            (Stage::Open(open), effect) => open.apply(&mut self.client, effect),
            _ => {}
        }
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.client.connection.handle_timeout(now);
        if let Some(backend) = self.backend_mut() {
            backend.connection.handle_timeout(now);
        }
    }

    /// When [`Flow::handle_timeout`] and [`Flow::service`] have to be called without input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.stage {
            Stage::Handshaking(handshaking) => Some(handshaking.until),
            Stage::Dialing(dialing) => Some(dialing.until),
            Stage::Open(open) => open.poll_timeout(&self.client),
            Stage::Farewell(farewell) => farewell.until,
            Stage::Over => None,
        };
        let backend = self.backend().and_then(|leg| leg.connection.poll_timeout());
        [own, self.client.connection.poll_timeout(), backend].into_iter().flatten().min()
    }

    /// What the operator is shown.
    pub fn describe(&self) -> Description {
        let backend = self.backend().map(|leg| *leg.connection.tuple());
        let (state, open) = match &self.stage {
            Stage::Handshaking(_) => ("handshake", None),
            Stage::Dialing(_) => ("connecting", None),
            Stage::Open(open) => (open.state_name(&self.client), Some(open)),
            Stage::Farewell(_) => ("refused", None),
            Stage::Over => ("over", None),
        };
        Description {
            id: self.id,
            client: self.client.connection.tuple().remote,
            vip: self.client.connection.tuple().local,
            backend: backend.map(|tuple| tuple.remote),
            snat: backend.map(|tuple| tuple.local),
            suite: open.map(|open| open.suite()),
            server_name: open.map(|open| open.server_name().to_owned()).unwrap_or_default(),
            bytes_up: open.map_or(0, |open| open.bytes_up()),
            bytes_down: open.map_or(0, |open| open.bytes_down()),
            state,
            created_ms: self.created_ms,
            client_tcp: self.client.connection.standing(),
            backend_tcp: self.backend().map(|leg| leg.connection.standing()),
        }
    }

    fn limit_windows(&mut self, turn: &Turn<'_>) {
        let window = if turn.is_scarce { SCARCE_WINDOW } else { usize::MAX };
        self.client.connection.set_receive_window(window);
        if let Some(backend) = self.backend_mut() {
            backend.connection.set_receive_window(window);
        }
    }

    /// Ends the stream to the client with these bytes. They leave when followers have forgotten the
    /// flow: none of them could send the very same.
    fn say_farewell(&mut self, bytes: &[u8], turn: &mut Turn<'_>) {
        self.client.connection.write(bytes);
        self.client.connection.finish();
        self.part(Effect::Answer { ack: u64::MAX, send: u64::MAX }, turn);
    }

    /// Resets the client's connection, if it is not over.
    fn give_up(&mut self, turn: &mut Turn<'_>) {
        self.part(Effect::Abort, turn);
    }

    fn part(&mut self, effect: Effect, turn: &mut Turn<'_>) {
        let known = !matches!(&self.stage, Stage::Handshaking(h) if !h.is_told());
        self.stage = Stage::Farewell(Farewell::default());
        if known {
            let lsn = turn.replicas.push(Some(self.id), &Message::End { flow: self.id.0 });
            turn.effects.push_back((lsn, self.id, effect));
        } else {
            self.apply(effect);
        }
    }
}

impl Farewell {
    fn service(&mut self, client: &mut Connection, now: Instant) -> Next {
        if self.released && *self.until.get_or_insert(now + FAREWELL_MAX) <= now {
            client.abort();
        }
        match client.phase() {
            // The RST has to leave before the flow is forgotten.
            Phase::Closed(_) if !client.wants_transmit(now) => Next::Over,
            _ => Next::Wait,
        }
    }
}

/// What the operator is shown of a flow.
#[derive(Clone, Debug)]
pub struct Description {
    pub id: FlowId,
    pub client: IpEndpoint,
    pub vip: IpEndpoint,
    pub backend: Option<IpEndpoint>,
    pub snat: Option<IpEndpoint>,
    pub suite: Option<crate::tls::Suite>,
    pub server_name: String,
    /// Plaintext bytes from the client.
    pub bytes_up: u64,
    /// Plaintext bytes that the client has acknowledged.
    pub bytes_down: u64,
    pub state: &'static str,
    pub created_ms: u64,
    pub client_tcp: Standing,
    pub backend_tcp: Option<Standing>,
}

/// Whether a connection ended in any other way than by both FINs.
fn is_broken(connection: &Connection) -> bool {
    matches!(connection.phase(), Phase::Closed(cause) if cause != Cause::Normal)
}

/// Whether nothing more will happen on a connection.
fn is_done(connection: &Connection) -> bool {
    matches!(connection.phase(), Phase::Closed(_) | Phase::TimeWait)
}
