//! Authenticated and encrypted datagrams between two nodes.
//!
//! A datagram is `version | kind | sender | unit | sender's incarnation | receiver's incarnation |
//! counter` in the clear, then AES-256-GCM over the payload with that header as associated data. The
//! key is derived from what the pair has in common ([`PairKey`]), the unit, both names and both
//! incarnations, and the counter is the nonce: one counter serves all keys of a channel, so no (key,
//! nonce) is ever used twice. A node is believed to run as a new incarnation only when a datagram proves
//! that it knows ours: a replayed greeting causes one answer and nothing else.
//!
//! The two ends get a new secret at different times. A session goes on under the one that it has
//! until a datagram under the newer one shows that the peer has that, too; for this each end sends a
//! REKEY under it from time to time. Who receives a payload under the newer one forgets the older.

mod header;
mod keys;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use zeroize::Zeroizing;

use self::header::{HEADER, HELLO, Header, NOBODY, PAYLOAD, REKEY};
use self::keys::{Life, Secret, datagram_key, open, seal};
pub use self::keys::{PairKey, SECRET};
use crate::crypto::aead;
use crate::id::{Incarnation, NodeId};
use crate::reason::Reason;

/// Bytes that a datagram has in addition to its payload.
pub const OVERHEAD: usize = HEADER + aead::MAX_TAG_LEN;

/// Former incarnations of a peer that stay refused.
const RETIRED_MAX: usize = 256;

/// Secrets at a time: the one in use, those that the peer may have begun to use since we said that we
/// have them, and the newest.
const SECRETS_MAX: usize = 8;

/// So often a secret is shown before a newer one is shown instead. Where links are made anew faster than
/// a busy peer answers, it would else never be the one that the peer has just taken up.
const SHOWN_MAX: u8 = 4;

/// One node's end of the datagrams between it and one peer, for one unit.
pub struct Channel {
    /// The cluster's pre-shared key.
    shared: Zeroizing<[u8; 32]>,
    unit: u8,
    me: Life,
    peer: NodeId,
    counter: u64,
    /// The newest one is the last; none: nothing is sent or accepted.
    secrets: Vec<Secret>,
    session: Option<Session>,
    /// An incarnation that greeted us and has to be shown that we are alive.
    greeted: Option<Greeted>,
    retired: VecDeque<Incarnation>,
}

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// A greeting: the peer does not know our incarnation yet.
    Hello,
    /// The session's peer has a secret that it did not have before, for all that we knew.
    Rekey,
    /// A payload of the established session.
    Payload(&'a [u8]),
    /// A payload that also proves that the peer runs as a new incarnation.
    NewSession(&'a [u8]),
}

struct Session {
    incarnation: Incarnation,
    /// Place of the secret under which we seal: the newest one that the peer is known to have.
    sealing: usize,
}

struct Greeted {
    incarnation: Incarnation,
    version: u8,
    key: Zeroizing<[u8; 32]>,
}

impl Channel {
    /// A channel of one unit, which waits for [`Channel::handle_pair_key`]. `shared` is the cluster's
    /// pre-shared key.
    pub fn new((shared, unit): ([u8; 32], u8), me: Life, peer: NodeId) -> Self {
        Channel {
            shared: Zeroizing::new(shared),
            unit,
            me,
            peer,
            counter: 0,
            secrets: Vec::new(),
            session: None,
            greeted: None,
            retired: VecDeque::new(),
        }
    }

    /// The peer's incarnation, once the session stands.
    pub fn peer_incarnation(&self) -> Option<Incarnation> {
        self.session.as_ref().map(|session| session.incarnation)
    }

    /// Whether there is anything to talk under.
    pub fn has_key(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// The version that the session speaks.
    pub fn version(&self) -> Option<u8> {
        self.session.as_ref().map(|session| self.secrets[session.sealing].version)
    }

    /// Takes in what the pair has in common from now on. A session that stands goes on; in another
    /// version a new life of the peer begins the next one.
    pub fn handle_pair_key(&mut self, pair: &PairKey) {
        let key = pair.unit_key(&self.shared, self.unit);
        let mut secret = Secret::new(pair.version(), key, self.me, self.peer);
        if self.secrets.last().is_some_and(|newest| newest.key == secret.key) {
            return;
        }
        if self.version() == Some(secret.version) {
            let session = self.peer_incarnation();
            secret.session = session.map(|life| secret.session_keys(self.me, (self.peer, life)));
        }
        self.secrets.push(secret);
        if self.secrets.len() > SECRETS_MAX {
            // What the peer cannot know that we have, before what it may be sealing under.
            let above = self.session.as_ref().map_or(0, |session| session.sealing + 1);
            let newest = self.secrets.len() - 1;
            let unknown = (above..newest).find(|place| self.secrets[*place].shown == 0);
            match unknown.or_else(|| (above..newest).next()) {
                Some(place) => drop(self.secrets.remove(place)),
                None => self.forget(1),
            }
        }
    }

    /// Forgets the `count` oldest secrets.
    fn forget(&mut self, count: usize) {
        self.secrets.drain(..count);
        if let Some(session) = &mut self.session {
            session.sealing -= count;
        }
    }

    /// Writes a greeting; the peer answers with a payload that proves that it is alive.
    pub fn seal_hello(&mut self, out: &mut [u8]) -> Option<usize> {
        self.counter += 1;
        let newest = self.secrets.last()?;
        let header = self.header(newest.version, HELLO, NOBODY);
        Some(seal(&newest.hello, &header, &[], out))
    }

    /// Writes `payload` for the session's peer. None without a session.
    pub fn seal(&mut self, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        self.counter += 1;
        let session = self.session.as_ref()?;
        let secret = &self.secrets[session.sealing];
        let header = self.header(secret.version, PAYLOAD, session.incarnation);
        Some(seal(&secret.session.as_ref()?.send, &header, payload, out))
    }

    /// Writes what shows the session's peer that we have a newer secret, as long as it has not shown
    /// the same: the one that was shown last for a while, then the newest.
    pub fn seal_rekey(&mut self, out: &mut [u8]) -> Option<usize> {
        let session = self.session.as_ref()?;
        let newest = self.secrets.len().checked_sub(1).filter(|last| *last > session.sealing)?;
        let last_shown = (session.sealing + 1..=newest).rfind(|at| self.secrets[*at].shown > 0);
        let place = last_shown.filter(|at| self.secrets[*at].shown < SHOWN_MAX).unwrap_or(newest);
        self.counter += 1;
        let secret = &self.secrets[place];
        let header = self.header(secret.version, REKEY, session.incarnation);
        let length = seal(&secret.session.as_ref()?.send, &header, &[], out);
        let shown = &mut self.secrets[place].shown;
        *shown = shown.saturating_add(1);
        Some(length)
    }

    /// Writes `payload` for an incarnation that greeted us, if there is one.
    pub fn seal_answer(&mut self, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let Greeted { incarnation, version, key } = self.greeted.take()?;
        self.counter += 1;
        let header = self.header(version, PAYLOAD, incarnation);
        let key = datagram_key(&key, self.me, (self.peer, incarnation));
        Some(seal(&key, &header, payload, out))
    }

    /// The sender that a datagram claims; [`Channel::open`] verifies it.
    pub fn claimed_sender(datagram: &[u8]) -> Result<NodeId, Reason> {
        Header::decode(datagram).map(|header| header.sender)
    }

    /// The unit that a datagram claims to be about; [`Channel::open`] verifies it.
    pub fn claimed_unit(datagram: &[u8]) -> Result<u8, Reason> {
        Header::decode(datagram).map(|header| header.unit)
    }

    /// Verifies and decrypts `datagram` in place.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<Opened<'a>, Reason> {
        let header = Header::decode(datagram)?;
        if header.unit != self.unit {
            return Err(Reason::PeerAuthentication);
        }
        if header.sender != self.peer || self.retired.contains(&header.sender_incarnation) {
            return Err(Reason::PeerReplay);
        }
        let newest = self.secrets.last().ok_or(Reason::PeerUnkeyed)?.version;
        let known = self.session.as_ref().filter(|s| s.incarnation == header.sender_incarnation);
        let version = match header.kind {
            HELLO => newest,
            _ => known.map_or(newest, |session| self.secrets[session.sealing].version),
        };
        if header.version != version {
            return Err(Reason::PeerVersion);
        }
        let (is_known, for_us) = (known.is_some(), header.receiver_incarnation == self.me.1);
        match header.kind {
            HELLO => self.open_hello(&header, datagram),
            PAYLOAD | REKEY if for_us && is_known => self.open_known(&header, datagram),
            PAYLOAD if for_us => self.open_unknown(&header, datagram),
            // For an earlier life of ours: the sender learns from our greeting.
            _ => Err(Reason::PeerReplay),
        }
    }

    fn open_hello<'a>(
        &mut self,
        header: &Header,
        datagram: &'a mut [u8],
    ) -> Result<Opened<'a>, Reason> {
        let from = (self.peer, header.sender_incarnation);
        let (place, _) = self.try_secrets(header, datagram, |secret, datagram| {
            open(&datagram_key(&secret.key, from, (self.me.0, NOBODY)), header, datagram)
        })?;
        // The peer may have no other one.
        let Secret { version, key, .. } = &self.secrets[place];
        let (incarnation, key) = (header.sender_incarnation, key.clone());
        self.greeted = Some(Greeted { incarnation, version: *version, key });
        Ok(Opened::Hello)
    }

    /// Of the session.
    fn open_known<'a>(
        &mut self,
        header: &Header,
        datagram: &'a mut [u8],
    ) -> Result<Opened<'a>, Reason> {
        let (place, length) = self.try_secrets(header, datagram, |secret, datagram| {
            let keys = secret.session.as_ref().ok_or(Reason::PeerAuthentication)?;
            if keys.replay.is_seen(header.counter) {
                return Err(Reason::PeerReplay);
            }
            open(&keys.receive, header, datagram)
        })?;
        if let Some(keys) = &mut self.secrets[place].session {
            keys.replay.mark(header.counter);
        }
        if let Some(session) = &mut self.session {
            session.sealing = session.sealing.max(place);
        }
        if header.kind == REKEY {
            return Ok(Opened::Rekey);
        }
        // The peer never goes back to those before.
        self.forget(place);
        Ok(Opened::Payload(&datagram[HEADER..HEADER + length]))
    }

    /// Of a life of the peer that was not heard of yet.
    fn open_unknown<'a>(
        &mut self,
        header: &Header,
        datagram: &'a mut [u8],
    ) -> Result<Opened<'a>, Reason> {
        let (me, theirs) = (self.me, (self.peer, header.sender_incarnation));
        let (place, length) = self.try_secrets(header, datagram, |secret, datagram| {
            open(&datagram_key(&secret.key, theirs, me), header, datagram)
        })?;
        if let Some(old) = self.session.take() {
            self.retired.push_back(old.incarnation);
            if self.retired.len() > RETIRED_MAX {
                self.retired.pop_front();
            }
        }
        // Those before are of its former lives.
        self.forget(place);
        for secret in &mut self.secrets {
            let speaks = secret.version == header.version;
            secret.session = speaks.then(|| secret.session_keys(me, theirs));
            // Not to this life.
            secret.shown = 0;
        }
        if let Some(keys) = &mut self.secrets[0].session {
            keys.replay.mark(header.counter);
        }
        self.session = Some(Session { incarnation: theirs.1, sealing: 0 });
        Ok(Opened::NewSession(&datagram[HEADER..HEADER + length]))
    }

    /// The secret under which a datagram opens, the newest first, and the length of its payload.
    fn try_secrets(
        &self,
        header: &Header,
        datagram: &mut [u8],
        mut open: impl FnMut(&Secret, &mut [u8]) -> Result<usize, Reason>,
    ) -> Result<(usize, usize), Reason> {
        // An attempt that fails destroys what it was made on.
        let copy = (self.secrets.len() > 1).then(|| datagram.to_vec());
        let mut refused = Reason::PeerAuthentication;
        for (place, secret) in self.secrets.iter().enumerate().rev() {
            if secret.version != header.version {
                continue;
            }
            match open(secret, datagram) {
                Ok(length) => return Ok((place, length)),
                Err(Reason::PeerAuthentication) => {}
                Err(reason) => refused = reason,
            }
            if let Some(copy) = &copy {
                datagram.copy_from_slice(copy);
            }
        }
        Err(refused)
    }

    fn header(&self, version: u8, kind: u8, receiver: Incarnation) -> Header {
        Header {
            version,
            kind,
            sender: self.me.0,
            unit: self.unit,
            sender_incarnation: self.me.1,
            receiver_incarnation: receiver,
            counter: self.counter,
        }
    }
}
