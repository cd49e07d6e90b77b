//! Links to the other members: each node dials every other one and sends; what it receives comes on
//! the connections that it was dialed on.
//!
//! Each connection is a thread of its own with blocking calls: there are few of them, a handshake
//! with a stranger holds nobody up, and a queue in between keeps the control thread from ever
//! waiting for a network. Messages may be lost: the councils say again what matters.

mod incoming;
mod outgoing;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use relay_views::id::{NodeId, NodeSet};
use rustls::ConnectionCommon;

use self::incoming::Door;
use self::outgoing::Dialer;
use super::counters::{Counters, count};
use super::desk::Desk;
use super::frame::Greeting;
use super::trust::{self, Trust};

/// Messages that wait for one peer; of more, the oldest are lost.
const OUTBOX_MAX: usize = 256;

/// For TCP's handshake.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// For TLS's handshake and the greetings.
const GREETING_LIMIT: Duration = Duration::from_secs(2);

/// What arrives for the control thread.
#[derive(Debug)]
pub enum Input {
    /// A member says who it is.
    Greeting(Greeting),
    /// A message for the council, from whom its certificate says.
    Message(NodeId, Vec<u8>),
    /// There is something to look at elsewhere.
    Wake,
}

/// What waits for a peer.
enum Outgoing {
    Parcel(Vec<u8>),
    /// This node's greeting has changed.
    Greeting,
}

/// What all links have in common.
pub struct Common {
    /// Who may talk.
    pub trust: Trust,
    /// This node.
    pub own: NodeId,
    /// Relays, if this node is one: each two of them have a secret in common.
    pub pairs: NodeSet,
    /// A connection is dialed anew after this time, for the sake of its secret.
    pub redial_after: Duration,
    /// Who dialed this node.
    pub knocks: Knocks,
    /// The other members.
    pub members: BTreeMap<NodeId, SocketAddr>,
    /// Where messages go.
    pub inbox: Sender<Input>,
    /// Where secrets go.
    pub desk: Arc<Desk>,
    /// What happens.
    pub counters: Arc<Counters>,
    /// Whether links of members go before ordinary processes.
    pub realtime: bool,
    /// What this node says of itself at present.
    pub greeting: Mutex<Greeting>,
}

/// Who dials is there: waiting before it is dialed in turn would be for nothing.
pub struct Knocks(BTreeMap<NodeId, (Sender<()>, Receiver<()>)>);

impl Knocks {
    /// Nobody has knocked yet.
    pub fn new(members: impl Iterator<Item = NodeId>) -> Self {
        Knocks(members.map(|node| (node, bounded(1))).collect())
    }

    fn note(&self, node: NodeId) {
        if let Some((sender, _)) = self.0.get(&node) {
            // Full: it was noted already.
            let _ = sender.try_send(());
        }
    }
}

impl Common {
    /// Notes what the other end of a link knows, and tells the worker what this node has in common with
    /// it: the link that was
    /// dialed by the lower of the two decides.
    fn share<D>(
        &self,
        link: &ConnectionCommon<D>,
        (dialer, listener): (NodeId, NodeId),
    ) -> io::Result<()> {
        let peer = if dialer == self.own { listener } else { dialer };
        self.desk.shelf.note(peer, trust::knows_documents(link));
        if dialer >= listener || !self.pairs.contains(dialer) || !self.pairs.contains(listener) {
            return Ok(());
        }
        let key = trust::pair_key(link, (dialer, listener)).map_err(io::Error::other)?;
        tracing::debug!(%peer, version = key.version(), "council: a key for datagrams");
        self.desk.share(peer, &key);
        Ok(())
    }

    fn greeting(&self) -> Greeting {
        *self.greeting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All links of a node.
pub struct Links {
    common: Arc<Common>,
    queues: BTreeMap<NodeId, (Sender<Outgoing>, Receiver<Outgoing>)>,
    dialers: Vec<JoinHandle<()>>,
    door: Door,
}

impl Links {
    /// Opens the door at `listener`, and dials everybody.
    pub fn start(common: Common, listener: TcpListener) -> io::Result<Links> {
        let common = Arc::new(common);
        let (mut queues, mut dialers) = (BTreeMap::new(), Vec::new());
        for (node, address) in &common.members {
            let (sender, receiver) = bounded(OUTBOX_MAX);
            let dialer = Dialer::new(*node, *address, receiver.clone(), Arc::clone(&common));
            let thread = thread::Builder::new().name(format!("council-to-{node}"));
            dialers.push(thread.spawn(move || dialer.run())?);
            queues.insert(*node, (sender, receiver));
        }
        let door = Door::open(listener, Arc::clone(&common))?;
        Ok(Links { common, queues, dialers, door })
    }

    /// Sends a message, or loses it.
    pub fn send(&self, to: NodeId, bytes: Vec<u8>) {
        self.push(to, Outgoing::Parcel(bytes));
    }

    /// Tells everybody what this node is from now on.
    pub fn greet(&self, greeting: Greeting) {
        *self.common.greeting.lock().unwrap_or_else(PoisonError::into_inner) = greeting;
        self.queues.keys().for_each(|node| self.push(*node, Outgoing::Greeting));
    }

    fn push(&self, to: NodeId, what: Outgoing) {
        let Some((sender, receiver)) = self.queues.get(&to) else { return };
        let mut what = what;
        while let Err(TrySendError::Full(back)) = sender.try_send(what) {
            // The oldest: whatever it said has been said again since.
            if receiver.try_recv().is_ok() {
                count(&self.common.counters.outbox_full);
            }
            what = back;
        }
    }

    /// Ends all connections and their threads. The inbox must be gone before, or be emptied
    /// meanwhile: a thread that waits for room in it would not end.
    pub fn stop(self) {
        drop(self.queues);
        self.door.close();
        for dialer in self.dialers {
            // One that panicked has said so.
            let _ = dialer.join();
        }
    }
}
