//! Authenticated and encrypted datagrams between two nodes.
//!
//! A datagram is `version | kind | sender | unit | sender's incarnation | receiver's incarnation |
//! counter` in the clear, then AES-256-GCM over the payload with that header as associated data. The
//! key is derived from the cluster key, the unit, both names and both incarnations, and the counter
//! is the nonce, so no (key, nonce) is ever used twice. A node is believed to run as a new incarnation only when a
//! datagram proves that it knows ours: a replayed greeting causes one answer and nothing else.

use std::collections::VecDeque;

use crate::crypto::{self, aead};
use crate::id::{Incarnation, NodeId};
use crate::reason::Reason;
use relay_abi::peer::VERSION;
use relay_abi::wire::{Reader, Writer};

/// Bytes that a datagram has in addition to its payload.
pub const OVERHEAD: usize = HEADER + aead::MAX_TAG_LEN;

/// version, kind, sender, unit, two incarnations, counter.
const HEADER: usize = 4 + 8 + 8 + 8;

/// Counters below the highest one seen that are still told apart.
const REPLAY_WINDOW: u64 = 1024;

/// Former incarnations of a peer that stay refused.
const RETIRED_MAX: usize = 256;

/// One node's end of the datagrams between it and one peer, for one unit.
pub struct Channel {
    /// The unit's.
    key: [u8; 32],
    unit: u8,
    me: NodeId,
    incarnation: Incarnation,
    peer: NodeId,
    counter: u64,
    hello: aead::LessSafeKey,
    session: Option<Session>,
    /// An incarnation that greeted us and has to be shown that we are alive.
    greeted: Option<Incarnation>,
    retired: VecDeque<Incarnation>,
}

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// A greeting: the peer does not know our incarnation yet.
    Hello,
    /// A payload of the established session.
    Payload(&'a [u8]),
    /// A payload that also proves that the peer runs as a new incarnation.
    NewSession(&'a [u8]),
}

struct Session {
    incarnation: Incarnation,
    send: aead::LessSafeKey,
    receive: aead::LessSafeKey,
    replay: ReplayWindow,
}

struct Header {
    kind: u8,
    sender: NodeId,
    unit: u8,
    sender_incarnation: Incarnation,
    receiver_incarnation: Incarnation,
    counter: u64,
}

const HELLO: u8 = 0;
const PAYLOAD: u8 = 1;
const NOBODY: Incarnation = Incarnation(0);

impl Channel {
    /// `key` is the cluster's pre-shared key.
    pub fn new((key, unit): ([u8; 32], u8), me: (NodeId, Incarnation), peer: NodeId) -> Self {
        // The units of a node share its incarnation.
        let key = *crypto::derive(&key, &[b"unit", &[unit]]);
        let hello = datagram_key(&key, me, (peer, NOBODY));
        Channel {
            key,
            unit,
            me: me.0,
            incarnation: me.1,
            peer,
            counter: 0,
            hello,
            session: None,
            greeted: None,
            retired: VecDeque::new(),
        }
    }

    /// The peer's incarnation, once the session stands.
    pub fn peer_incarnation(&self) -> Option<Incarnation> {
        self.session.as_ref().map(|session| session.incarnation)
    }

    /// Writes a greeting; the peer answers with a payload that proves that it is alive.
    pub fn seal_hello(&mut self, out: &mut [u8]) -> usize {
        self.counter += 1;
        let header = self.header(HELLO, NOBODY);
        seal(&self.hello, &header, &[], out)
    }

    /// Writes `payload` for the session's peer. None without a session.
    pub fn seal(&mut self, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        self.counter += 1;
        let session = self.session.as_ref()?;
        let header = self.header(PAYLOAD, session.incarnation);
        Some(seal(&session.send, &header, payload, out))
    }

    /// Writes `payload` for an incarnation that greeted us, if there is one.
    pub fn seal_answer(&mut self, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let greeted = self.greeted.take()?;
        self.counter += 1;
        let header = self.header(PAYLOAD, greeted);
        let key = datagram_key(&self.key, (self.me, self.incarnation), (self.peer, greeted));
        Some(seal(&key, &header, payload, out))
    }

    /// The sender that a datagram claims; [`Channel::open`] verifies it.
    pub fn claimed_sender(datagram: &[u8]) -> Result<NodeId, Reason> {
        Header::decode(datagram).map(|(header, _)| header.sender)
    }

    /// The unit that a datagram claims to be about; [`Channel::open`] verifies it.
    pub fn claimed_unit(datagram: &[u8]) -> Result<u8, Reason> {
        Header::decode(datagram).map(|(header, _)| header.unit)
    }

    /// Verifies and decrypts `datagram` in place.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<Opened<'a>, Reason> {
        let (header, length) = Header::decode(datagram)?;
        if header.unit != self.unit {
            return Err(Reason::PeerAuthentication);
        }
        if header.sender != self.peer || self.retired.contains(&header.sender_incarnation) {
            return Err(Reason::PeerReplay);
        }
        match header.kind {
            HELLO => self.open_hello(&header, datagram, length),
            PAYLOAD if header.receiver_incarnation == self.incarnation => {
                self.open_payload(&header, datagram, length)
            }
            // For an earlier life of ours: the sender learns from our greeting.
            _ => Err(Reason::PeerReplay),
        }
    }

    fn open_hello<'a>(
        &mut self,
        header: &Header,
        datagram: &'a mut [u8],
        length: usize,
    ) -> Result<Opened<'a>, Reason> {
        let key =
            datagram_key(&self.key, (self.peer, header.sender_incarnation), (self.me, NOBODY));
        open(&key, header, datagram, length)?;
        self.greeted = Some(header.sender_incarnation);
        Ok(Opened::Hello)
    }

    fn open_payload<'a>(
        &mut self,
        header: &Header,
        datagram: &'a mut [u8],
        length: usize,
    ) -> Result<Opened<'a>, Reason> {
        let known = self.session.as_mut().filter(|s| s.incarnation == header.sender_incarnation);
        if let Some(session) = known {
            if session.replay.is_seen(header.counter) {
                return Err(Reason::PeerReplay);
            }
            let payload = open(&session.receive, header, datagram, length)?;
            session.replay.mark(header.counter);
            return Ok(Opened::Payload(payload));
        }
        let theirs = (self.peer, header.sender_incarnation);
        let ours = (self.me, self.incarnation);
        let receive = datagram_key(&self.key, theirs, ours);
        let payload = open(&receive, header, datagram, length)?;
        let mut replay = ReplayWindow::default();
        replay.mark(header.counter);
        let send = datagram_key(&self.key, ours, theirs);
        let session = Session { incarnation: theirs.1, send, receive, replay };
        if let Some(old) = self.session.replace(session) {
            self.retired.push_back(old.incarnation);
            if self.retired.len() > RETIRED_MAX {
                self.retired.pop_front();
            }
        }
        Ok(Opened::NewSession(payload))
    }

    fn header(&self, kind: u8, receiver: Incarnation) -> Header {
        Header {
            kind,
            sender: self.me,
            unit: self.unit,
            sender_incarnation: self.incarnation,
            receiver_incarnation: receiver,
            counter: self.counter,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.bytes(&[VERSION, self.kind, self.sender.0, self.unit]);
        bytes.u64(self.sender_incarnation.0);
        bytes.u64(self.receiver_incarnation.0);
        bytes.u64(self.counter);
        let mut out = [0; HEADER];
        out.copy_from_slice(&bytes);
        out
    }

    /// The header, and how long the datagram is.
    fn decode(datagram: &[u8]) -> Result<(Self, usize), Reason> {
        let malformed = |_| Reason::PeerMalformed;
        let mut r = Reader::new(datagram);
        let version = r.u8().map_err(malformed)?;
        let header = Header {
            kind: r.u8().map_err(malformed)?,
            sender: NodeId(r.u8().map_err(malformed)?),
            unit: r.u8().map_err(malformed)?,
            sender_incarnation: Incarnation(r.u64().map_err(malformed)?),
            receiver_incarnation: Incarnation(r.u64().map_err(malformed)?),
            counter: r.u64().map_err(malformed)?,
        };
        if version != VERSION {
            return Err(Reason::PeerMalformed);
        }
        Ok((header, datagram.len()))
    }

    fn nonce(&self) -> aead::Nonce {
        let mut nonce = [0; aead::NONCE_LEN];
        nonce[aead::NONCE_LEN - 8..].copy_from_slice(&self.counter.to_be_bytes());
        aead::Nonce::assume_unique_for_key(nonce)
    }
}

fn datagram_key(
    cluster: &[u8; 32],
    from: (NodeId, Incarnation),
    to: (NodeId, Incarnation),
) -> aead::LessSafeKey {
    let key = crypto::derive(
        cluster,
        &[b"datagram", &[from.0.0], &from.1.0.to_be_bytes(), &[to.0.0], &to.1.0.to_be_bytes()],
    );
    // The length of the key is a constant here and there.
    let unbound = aead::UnboundKey::new(&aead::AES_256_GCM, &*key)
        .expect("AES-256-GCM takes the 32 bytes that derive() gives");
    aead::LessSafeKey::new(unbound)
}

fn seal(key: &aead::LessSafeKey, header: &Header, payload: &[u8], out: &mut [u8]) -> usize {
    let head = header.encode();
    let end = HEADER + payload.len();
    out[..HEADER].copy_from_slice(&head);
    out[HEADER..end].copy_from_slice(payload);
    let aad = aead::Aad::from(head);
    // Only lengths of gigabytes fail; the caller's buffer is one datagram.
    let tag = key
        .seal_in_place_separate_tag(header.nonce(), aad, &mut out[HEADER..end])
        .expect("a datagram is far below the AEAD's length limit");
    let tag = tag.as_ref();
    out[end..end + tag.len()].copy_from_slice(tag);
    end + tag.len()
}

fn open<'a>(
    key: &aead::LessSafeKey,
    header: &Header,
    datagram: &'a mut [u8],
    length: usize,
) -> Result<&'a [u8], Reason> {
    let aad = aead::Aad::from(header.encode());
    let sealed = datagram.get_mut(HEADER..length).ok_or(Reason::PeerMalformed)?;
    key.open_in_place(header.nonce(), aad, sealed)
        .map(|payload| &*payload)
        .map_err(|_| Reason::PeerAuthentication)
}

/// The counters seen, as in RFC 4303 section 3.4.3.
#[derive(Default)]
struct ReplayWindow {
    highest: u64,
    seen: [u64; (REPLAY_WINDOW / 64) as usize],
}

impl ReplayWindow {
    fn is_seen(&self, counter: u64) -> bool {
        if counter > self.highest {
            return false;
        }
        if self.highest - counter >= REPLAY_WINDOW {
            return true;
        }
        let (word, bit) = Self::place(counter);
        self.seen[word] & bit != 0
    }

    fn mark(&mut self, counter: u64) {
        if counter > self.highest {
            let first = self.highest + 1;
            for passed in first.max(counter.saturating_sub(REPLAY_WINDOW - 1))..=counter {
                let (word, bit) = Self::place(passed);
                self.seen[word] &= !bit;
            }
            self.highest = counter;
        }
        let (word, bit) = Self::place(counter);
        self.seen[word] |= bit;
    }

    fn place(counter: u64) -> (usize, u64) {
        let slot = counter % REPLAY_WINDOW;
        ((slot / 64) as usize, 1 << (slot % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (NodeId, Incarnation) = (NodeId(1), Incarnation(11));
    const B: (NodeId, Incarnation) = (NodeId(2), Incarnation(22));

    fn pair() -> (Channel, Channel) {
        let (mut a, mut b) =
            (Channel::new(([7; 32], 0), A, B.0), Channel::new(([7; 32], 0), B, A.0));
        let mut buf = [0; 256];
        let n = a.seal_hello(&mut buf);
        assert_eq!(b.open(&mut buf[..n]), Ok(Opened::Hello));
        let n = b.seal_answer(b"alive", &mut buf).unwrap();
        assert_eq!(a.open(&mut buf[..n]), Ok(Opened::NewSession(b"alive")));
        let n = a.seal(b"me too", &mut buf).unwrap();
        assert_eq!(b.open(&mut buf[..n]), Ok(Opened::NewSession(b"me too")));
        (a, b)
    }

    #[test]
    fn two_nodes_find_each_other() {
        let (mut a, mut b) = pair();
        let mut buf = [0; 256];
        let n = b.seal(b"data", &mut buf).unwrap();
        assert_eq!(a.open(&mut buf[..n]), Ok(Opened::Payload(b"data")));
    }

    #[test]
    fn a_replayed_or_changed_datagram_is_refused() {
        let (mut a, mut b) = pair();
        let mut buf = [0; 256];
        let n = a.seal(b"once", &mut buf).unwrap();
        let mut copy = buf;
        assert_eq!(b.open(&mut buf[..n]), Ok(Opened::Payload(b"once")));
        assert_eq!(b.open(&mut copy[..n]), Err(Reason::PeerReplay));
        for byte in 0..n {
            let n = a.seal(b"data", &mut buf).unwrap();
            buf[byte.min(n - 1)] ^= 1;
            assert!(b.open(&mut buf[..n]).is_err(), "byte {byte}");
        }
        for length in 0..n {
            assert!(b.open(&mut buf[..length]).is_err());
        }
    }

    #[test]
    fn another_clusters_key_is_refused() {
        let mut a = Channel::new(([8; 32], 0), A, B.0);
        let mut b = Channel::new(([7; 32], 0), B, A.0);
        let mut buf = [0; 256];
        let n = a.seal_hello(&mut buf);
        assert_eq!(b.open(&mut buf[..n]), Err(Reason::PeerAuthentication));
    }

    #[test]
    fn a_replayed_greeting_or_session_does_not_bring_back_an_old_incarnation() {
        let (mut a, mut b) = pair();
        let mut old = [0; 256];
        let old_len = a.seal(b"old", &mut old).unwrap();
        let mut restarted = Channel::new(([7; 32], 0), (A.0, Incarnation(12)), B.0);
        let mut buf = [0; 256];
        let n = b.seal(b"wakes it", &mut buf).unwrap();
        assert_eq!(restarted.open(&mut buf[..n]), Err(Reason::PeerReplay));
        let n = restarted.seal_hello(&mut buf);
        assert_eq!(b.open(&mut buf[..n]), Ok(Opened::Hello));
        assert_eq!(b.peer_incarnation(), Some(A.1), "a greeting alone changes nothing");
        let n = b.seal_answer(b"", &mut buf).unwrap();
        assert_eq!(restarted.open(&mut buf[..n]), Ok(Opened::NewSession(b"")));
        let n = restarted.seal(b"", &mut buf).unwrap();
        assert_eq!(b.open(&mut buf[..n]), Ok(Opened::NewSession(b"")));
        assert_eq!(b.peer_incarnation(), Some(Incarnation(12)));
        assert_eq!(b.open(&mut old[..old_len]), Err(Reason::PeerReplay));
    }

    #[test]
    fn the_replay_window_moves_on() {
        let mut window = ReplayWindow::default();
        for counter in [1, 5, 3, 2000, 1990, 1000] {
            assert!(!window.is_seen(counter), "{counter}");
            window.mark(counter);
            assert!(window.is_seen(counter));
        }
        assert!(window.is_seen(5), "below the window");
        assert!(!window.is_seen(1991));
    }
}
