//! One connection at the door.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use aws_lc_rs::hmac;
use relay_abi::id::NodeId;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Event;
use crate::cluster::tls::Timed;
use crate::cluster::words::{self, Answer, JOINED, PROOF_LENGTH, PROTOCOL, REQUEST_MAX, Refusal};

/// How long somebody may take until he has shown the secret and asked: strangers are cut off then.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// How long a node may take to write what it got.
pub(super) const CONFIRM_LIMIT: Duration = Duration::from_secs(30);

/// What all connections have in common.
#[derive(Clone)]
pub(super) struct Guest {
    pub config: Arc<ServerConfig>,
    pub node: NodeId,
    /// The token's secret.
    pub key: hmac::Key,
    pub events: SyncSender<Event>,
}

impl Guest {
    /// Talks in a thread of its own.
    pub fn receive(&self, serial: u64, stream: TcpStream) -> io::Result<()> {
        let guest = self.clone();
        let talk = move || {
            let outcome = guest.talk(serial, stream);
            let _ = guest.events.send(Event::Ends(serial, outcome));
        };
        thread::Builder::new().spawn(talk).map(drop)
    }

    fn talk(&self, serial: u64, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let tls = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        let mut link = StreamOwned::new(tls, Timed::new(stream, ASK_LIMIT));
        while link.conn.is_handshaking() {
            link.conn.complete_io(&mut link.sock)?;
        }
        if link.conn.alpn_protocol() != Some(PROTOCOL) {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut proof = [0; PROOF_LENGTH];
        link.read_exact(&mut proof)?;
        let request = words::take(&mut link, REQUEST_MAX)?;
        let answer = self.judge(serial, &link.conn, (&proof, request))?;
        answer.put(&mut link)?;
        if let Answer::Refused(_) = answer {
            link.conn.send_close_notify();
            link.conn.complete_io(&mut link.sock)?;
            return Err(ErrorKind::PermissionDenied.into());
        }
        link.sock.extend(CONFIRM_LIMIT);
        let mut word = [0];
        link.read_exact(&mut word)?;
        if word == [JOINED] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    fn judge(
        &self,
        serial: u64,
        tls: &ServerConnection,
        (proof, request): (&[u8], Vec<u8>),
    ) -> io::Result<Answer> {
        let gone = |_| io::Error::from(ErrorKind::BrokenPipe);
        let session = words::session(tls, self.node).map_err(io::Error::other)?;
        // In constant time.
        if hmac::verify(&self.key, &session, proof).is_err() {
            self.events.send(Event::Wrong(serial)).map_err(gone)?;
            return Ok(Answer::Refused(Refusal::Secret));
        }
        let (answer, answered) = sync_channel(1);
        self.events.send(Event::Asks { serial, request, answer }).map_err(gone)?;
        answered.recv().map_err(|_| ErrorKind::BrokenPipe.into())
    }
}
