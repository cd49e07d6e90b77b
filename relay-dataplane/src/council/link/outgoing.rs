//! The connection to one peer: dialed, kept, dialed again.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, at, never, select};
use relay_views::id::NodeId;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Stream, StreamOwned};

use super::{CONNECT_LIMIT, Common, GREETING_LIMIT, Input, Outgoing};
use crate::council::counters::{Complaints, count};
use crate::council::frame::{self, Frame, put_parcel};
use crate::council::socket::{Timed, tune};
use crate::council::trust::{Blame, blame, name};
use crate::priority;

/// Between two attempts: short at first, since a peer that restarts is back soon.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// After a refusal, which somebody has to do something about.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// A link on which nothing was said for this long says who speaks: it finds out that the peer's end
/// is gone before something is lost that matters.
const GREETING_PAUSE: Duration = Duration::from_secs(1);

/// A connection that could not be replaced stays in use; it is tried again after this time.
const REDIAL_PAUSE: Duration = Duration::from_secs(60);

/// How long one write may take: a peer that does not read for so long hangs.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// Frames that leave with one write, in bytes; a single one may be longer.
const BATCH_MAX: usize = 64 * 1024;

type Link = StreamOwned<ClientConnection, TcpStream>;

/// Why no more is sent on a connection.
#[derive(PartialEq, Eq)]
enum Pumped {
    /// Everything was, and nothing more will come.
    All,
    /// It is to be replaced.
    Enough,
}

/// Dials one peer.
pub(super) struct Dialer {
    node: NodeId,
    address: SocketAddr,
    queue: Receiver<Outgoing>,
    common: Arc<Common>,
    complaints: Complaints,
}

impl Dialer {
    pub fn new(
        node: NodeId,
        address: SocketAddr,
        queue: Receiver<Outgoing>,
        common: Arc<Common>,
    ) -> Self {
        Dialer { node, address, queue, common, complaints: Complaints::default() }
    }

    /// Until nobody can put anything into the queue any more.
    pub fn run(self) {
        priority::raise_link(self.common.realtime);
        let mut pause = PAUSE;
        loop {
            let rest = match self.connect() {
                Ok(link) => {
                    tracing::info!(node = %self.node, address = %self.address, "council: reached");
                    self.complaints.clear();
                    count(&self.common.counters.connected);
                    pause = PAUSE;
                    // What was said while nobody listened is out of date.
                    self.queue.try_iter().take(self.queue.len()).for_each(drop);
                    let Err(error) = self.keep(link) else { return };
                    tracing::info!(node = %self.node, %error, "council: connection lost");
                    Duration::ZERO
                }
                Err(error) => self.complain(&error).unwrap_or(pause),
            };
            if !self.rest(rest.max(pause)) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn connect(&self) -> io::Result<Link> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT)?;
        tune(&stream)?;
        let name = ServerName::try_from(name(self.node)).map_err(io::Error::other)?;
        let client = Arc::clone(&self.common.trust.client);
        let mut tls = ClientConnection::new(client, name).map_err(io::Error::other)?;
        let mut timed = Timed::new(&stream, GREETING_LIMIT);
        while tls.is_handshaking() {
            tls.complete_io(&mut timed)?;
        }
        let mut hello = Vec::new();
        self.common.greeting().put(&mut hello);
        let mut link = Stream::new(&mut tls, &mut timed);
        link.write_all(&hello)?;
        link.flush()?;
        // Only its answer shows that the peer took our certificate.
        match frame::read(&mut link)? {
            Frame::Greeting(greeting) if greeting.node == self.node => {
                let _ = self.common.inbox.send(Input::Greeting(greeting));
            }
            _ => return Err(io::Error::new(ErrorKind::InvalidData, "it greets as another node")),
        }
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        self.common.share(&tls, (self.common.own, self.node))?;
        Ok(StreamOwned::new(tls, stream))
    }

    /// Sends until that fails, or nothing more will come. From time to time another connection takes
    /// this one's place, whose secret is fresh.
    fn keep(&self, mut link: Link) -> io::Result<()> {
        let mut rest = self.common.redial_after;
        loop {
            let until = Instant::now() + rest;
            if self.pump(&mut link, || Instant::now() >= until)? == Pumped::All {
                return Ok(());
            }
            // Meanwhile messages go on.
            let (pumped, fresh) = thread::scope(|scope| {
                let thread = thread::Builder::new().name("council-redial".to_owned());
                let dialing = thread.spawn_scoped(scope, || self.connect())?;
                let pumped = self.pump(&mut link, || dialing.is_finished());
                let fresh = dialing.join();
                Ok::<_, io::Error>((pumped, fresh.map_err(|_| ErrorKind::Other)?))
            })?;
            rest = self.common.redial_after;
            match (pumped, fresh) {
                (Ok(Pumped::All), _) => return Ok(()),
                // Who was dialed anew has given up the former connection.
                (_, Ok(fresh)) => link = fresh,
                (Ok(Pumped::Enough), Err(error)) => {
                    let _ = self.complain(&error);
                    rest = rest.min(REDIAL_PAUSE);
                }
                (Err(error), Err(_)) => return Err(error),
            }
        }
    }

    /// Sends until that fails, or nothing more will come, or it is `enough`.
    fn pump(&self, link: &mut Link, enough: impl Fn() -> bool) -> io::Result<Pumped> {
        // It may have changed since it was sent.
        let mut batch = Vec::new();
        self.common.greeting().put(&mut batch);
        loop {
            link.write_all(&batch)?;
            link.flush()?;
            batch.clear();
            if enough() {
                return Ok(Pumped::Enough);
            }
            let first = match self.queue.recv_timeout(GREETING_PAUSE) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => Outgoing::Greeting,
                Err(RecvTimeoutError::Disconnected) => {
                    link.conn.send_close_notify();
                    return link.flush().map(|()| Pumped::All);
                }
            };
            self.put(&mut batch, first);
            while batch.len() < BATCH_MAX
                && let Ok(next) = self.queue.try_recv()
            {
                self.put(&mut batch, next);
            }
        }
    }

    fn put(&self, batch: &mut Vec<u8>, what: Outgoing) {
        match what {
            Outgoing::Parcel(bytes) => put_parcel(batch, &bytes),
            Outgoing::Greeting => self.common.greeting().put(batch),
        }
    }

    /// Waits, but not for a peer that is there; false when there will be nothing to send any more.
    fn rest(&self, time: Duration) -> bool {
        let until = at(Instant::now() + time);
        let never = never();
        let knocks = self.common.knocks.0.get(&self.node).map_or(&never, |(_, knocks)| knocks);
        loop {
            select! {
                recv(self.queue) -> message => match message {
                    // Out of date when there is a connection.
                    Ok(_) => {}
                    Err(_) => return false,
                },
                recv(knocks) -> _ => return true,
                recv(until) -> _ => return true,
            }
        }
    }

    /// Says what is wrong; how long to wait for somebody to do something about it.
    fn complain(&self, error: &io::Error) -> Option<Duration> {
        let (node, address, counters) = (self.node, self.address, &self.common.counters);
        let (counter, text) = match blame(error) {
            Some(Blame::Authority) => (
                &counters.refused_authority,
                format!(
                    "council: who answers at {address} is not node {node}: its certificate is not \
                     of this cluster's authority ({error}): is the address of node {node} right?"
                ),
            ),
            Some(Blame::Name) => (
                &counters.refused_name,
                format!(
                    "council: who answers at {address} is not node {node} but another node of \
                     this cluster ({error}): correct the address of node {node}, or node.id there"
                ),
            ),
            Some(Blame::Date) => (
                &counters.refused_other,
                format!(
                    "council: the certificate of node {node} at {address} is not valid now \
                     ({error}): set the clock of this machine, or issue another certificate"
                ),
            ),
            Some(Blame::Ours) => (
                &counters.refused_by_peer,
                format!(
                    "council: node {node} at {address} refuses this node's certificate ({error}): \
                     its log says why; most likely the two were not issued by one authority"
                ),
            ),
            None => {
                let text = format!("council: node {node} at {address} is not reached: {error}");
                self.complaints.warn(&text);
                return None;
            }
        };
        count(counter);
        self.complaints.warn(&text);
        Some(REFUSED_PAUSE)
    }
}
