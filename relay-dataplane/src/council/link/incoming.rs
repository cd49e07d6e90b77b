//! The door: connections that other members dialed, and what they say on them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use relay_views::id::NodeId;
use rustls::{ServerConnection, Stream, StreamOwned};

use super::{Common, GREETING_LIMIT, Input};
use crate::council::counters::{Complaints, count};
use crate::council::frame::{self, Frame, Greeting};
use crate::council::socket::{Timed, tune};
use crate::council::trust::{Blame, blame, node_of};
use crate::priority;

/// Connections at a time, those of strangers included: every member twice, while one of its
/// connections replaces the other, and some whose handshakes are under way.
const CONNECTIONS_MAX: usize = 64;

/// Rest after a failed `accept`, which may fail for as long as the process lacks descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a refused peer may take to read why; a reset would overtake the alert.
const FAREWELL_LIMIT: Duration = Duration::from_millis(200);

/// The listening socket and its connections.
pub(super) struct Door {
    listener: TcpListener,
    room: Arc<Room>,
    thread: JoinHandle<()>,
}

/// Everybody who is in.
struct Room {
    common: Arc<Common>,
    stop: AtomicBool,
    guests: Mutex<BTreeMap<u64, Guest>>,
    /// Number of each member's last connection whose secret was taken.
    shared: Mutex<BTreeMap<NodeId, u64>>,
    complaints: Complaints,
}

struct Guest {
    stream: TcpStream,
    from: SocketAddr,
    /// Known after the handshake.
    node: Option<NodeId>,
}

/// Why a connection was not taken for a member's.
enum Refusal {
    Failed(io::Error),
    /// The certificate is of our authority, but for no node, or for one that is no member.
    Unknown(Option<NodeId>),
}

impl Door {
    pub fn open(listener: TcpListener, common: Arc<Common>) -> io::Result<Door> {
        let room = Arc::new(Room {
            common,
            stop: AtomicBool::new(false),
            guests: Mutex::default(),
            shared: Mutex::default(),
            complaints: Complaints::default(),
        });
        let (shared, theirs) = (listener.try_clone()?, Arc::clone(&room));
        let thread = thread::Builder::new().name("council-door".to_owned());
        let thread = thread.spawn(move || theirs.serve(&shared))?;
        Ok(Door { listener, room, thread })
    }

    /// Lets nobody in any more, and sends everybody away.
    pub fn close(self) {
        self.room.stop.store(true, Ordering::SeqCst);
        // Shut down, a listening socket wakes the thread out of `accept`.
        let woken = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if woken.is_ok() {
            let _ = self.thread.join();
        }
    }
}

impl Room {
    fn serve(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        for serial in 0.. {
            let accepted = listener.accept();
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            threads.retain(|thread| !thread.is_finished());
            match accepted {
                Ok((stream, from)) => threads.extend(self.admit(serial, stream, from)),
                Err(error) => {
                    self.complaints.warn(&format!("council: accept: {error}"));
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
        for guest in self.guests().values() {
            let _ = guest.stream.shutdown(Shutdown::Both);
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn admit(
        self: &Arc<Self>,
        serial: u64,
        stream: TcpStream,
        from: SocketAddr,
    ) -> Option<JoinHandle<()>> {
        let mut guests = self.guests();
        if guests.len() >= CONNECTIONS_MAX {
            count(&self.common.counters.refused_crowd);
            let text = format!(
                "council: {from} is turned away: {CONNECTIONS_MAX} connections are open already"
            );
            self.complaints.warn(&text);
            return None;
        }
        let shared = stream.try_clone().ok()?;
        guests.insert(serial, Guest { stream: shared, from, node: None });
        drop(guests);
        let room = Arc::clone(self);
        let thread = thread::Builder::new().name("council-from".to_owned());
        let spawned = thread.spawn(move || {
            room.receive(serial, stream, from);
            room.guests().remove(&serial);
        });
        spawned.inspect_err(|_| drop(self.guests().remove(&serial))).ok()
    }

    fn receive(&self, serial: u64, stream: TcpStream, from: SocketAddr) {
        match self.greet(stream) {
            Ok((greeting, mut link)) => {
                let node = greeting.node;
                self.common.knocks.note(node);
                if let Err(error) = self.share(serial, node, &link.conn) {
                    return self.complain(&Refusal::Failed(error), from);
                }
                count(&self.common.counters.accepted);
                self.replace(serial, node, from);
                priority::raise_link(self.common.realtime);
                tracing::debug!(%node, %from, "council: is heard");
                let Err(error) = self.listen(greeting, &mut link);
                tracing::debug!(%node, %from, %error, "council: is not heard any more");
            }
            Err(_) if self.stop.load(Ordering::SeqCst) => {}
            Err(refusal) => self.complain(&refusal, from),
        }
    }

    /// Handshake and greetings.
    fn greet(
        &self,
        stream: TcpStream,
    ) -> Result<(Greeting, StreamOwned<ServerConnection, TcpStream>), Refusal> {
        tune(&stream).map_err(Refusal::Failed)?;
        let server = Arc::clone(&self.common.trust.server);
        let tls = ServerConnection::new(server).map_err(io::Error::other);
        let mut tls = tls.map_err(Refusal::Failed)?;
        let greeting = self.identify(&stream, &mut tls);
        if greeting.is_err() {
            farewell(&stream, &mut tls);
        }
        let greeting = greeting?;
        // From here on the peer may be silent; a dead one is found by keep-alive.
        stream.set_read_timeout(None).map_err(Refusal::Failed)?;
        Ok((greeting, StreamOwned::new(tls, stream)))
    }

    fn identify(
        &self,
        stream: &TcpStream,
        tls: &mut ServerConnection,
    ) -> Result<Greeting, Refusal> {
        let mut timed = Timed::new(stream, GREETING_LIMIT);
        while tls.is_handshaking() {
            tls.complete_io(&mut timed).map_err(Refusal::Failed)?;
        }
        let shown = tls.peer_certificates().and_then(<[_]>::first).and_then(node_of);
        let Some(node) = shown.filter(|node| self.common.members.contains_key(node)) else {
            return Err(Refusal::Unknown(shown));
        };
        let mut link = Stream::new(tls, &mut timed);
        let greeting = match frame::read(&mut link).map_err(Refusal::Failed)? {
            Frame::Greeting(greeting) if greeting.node == node => greeting,
            _ => {
                let other = io::Error::new(ErrorKind::InvalidData, "it greets as another node");
                return Err(Refusal::Failed(other));
            }
        };
        let mut answer = Vec::new();
        self.common.greeting().put(&mut answer);
        link.write_all(&answer).and_then(|()| link.flush()).map_err(Refusal::Failed)?;
        Ok(greeting)
    }

    /// What the member that dialed has in common with this node; of two connections, the one that was
    /// dialed later counts, as it does for the dialer.
    fn share(&self, serial: u64, node: NodeId, tls: &ServerConnection) -> io::Result<()> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.get(&node).is_some_and(|last| *last > serial) {
            return Ok(());
        }
        shared.insert(node, serial);
        self.common.share(tls, (node, self.common.own))
    }

    /// Passes on what a member says.
    fn listen(&self, greeting: Greeting, link: &mut impl Read) -> Result<Infallible, io::Error> {
        let node = greeting.node;
        let gone = |_| io::Error::other("this council ends");
        self.common.inbox.send(Input::Greeting(greeting)).map_err(gone)?;
        loop {
            let input = match frame::read(link)? {
                Frame::Parcel(bytes) => Input::Message(node, bytes),
                Frame::Greeting(greeting) if greeting.node == node => Input::Greeting(greeting),
                Frame::Greeting(_) => return Err(ErrorKind::InvalidData.into()),
            };
            self.common.inbox.send(input).map_err(gone)?;
        }
    }

    /// A member that dials again has given up its former connection.
    fn replace(&self, serial: u64, node: NodeId, from: SocketAddr) {
        let mut guests = self.guests();
        for (number, guest) in guests.iter_mut() {
            if *number == serial {
                guest.node = Some(node);
            } else if guest.node == Some(node) {
                let _ = guest.stream.shutdown(Shutdown::Both);
                if guest.from.ip() != from.ip() {
                    let text = format!(
                        "council: node {node} comes from {from} while it is connected from {}: \
                         unless it has two addresses, two machines have its certificate: give \
                         each its own",
                        guest.from
                    );
                    self.complaints.warn(&text);
                }
            }
        }
    }

    fn complain(&self, refusal: &Refusal, from: SocketAddr) {
        let counters = &self.common.counters;
        let (counter, text) = match refusal {
            Refusal::Unknown(Some(node)) => (
                &counters.refused_name,
                format!(
                    "council: {from} is refused: it shows the certificate of node {node}, which \
                     is this node or no member: give each machine its own certificate, and list \
                     every node as a cluster.council.member"
                ),
            ),
            Refusal::Unknown(None) => (
                &counters.refused_name,
                format!(
                    "council: {from} is refused: its certificate is for no node: issue one with \
                     `relay-ctl cluster certificate`"
                ),
            ),
            Refusal::Failed(error) => match blame(error) {
                Some(Blame::Authority | Blame::Name) => (
                    &counters.refused_authority,
                    format!(
                        "council: {from} is refused: its certificate is not of this cluster's \
                         authority ({error}): issue one with `relay-ctl cluster certificate`, or \
                         keep that machine off the cluster network"
                    ),
                ),
                Some(Blame::Date) => (
                    &counters.refused_other,
                    format!(
                        "council: {from} is refused: its certificate is not valid now ({error}): \
                         set the clock of this machine, or issue another certificate"
                    ),
                ),
                Some(Blame::Ours) => (
                    &counters.refused_by_peer,
                    format!(
                        "council: {from} refuses this node's certificate ({error}): its log says why"
                    ),
                ),
                None => (
                    &counters.refused_other,
                    format!("council: {from} did not make itself known: {error}"),
                ),
            },
        };
        count(counter);
        self.complaints.warn(&text);
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<u64, Guest>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a refused peer read why.
fn farewell(stream: &TcpStream, tls: &mut ServerConnection) {
    let mut timed = Timed::new(stream, FAREWELL_LIMIT);
    while tls.wants_write() && tls.write_tls(&mut timed).is_ok() {}
    let _ = stream.shutdown(Shutdown::Write);
    let mut rest = [0; 1024];
    while timed.read(&mut rest).is_ok_and(|count| count > 0) {}
}
