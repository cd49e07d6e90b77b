//! TLS 1.2 sessions that clients resume by their id (RFC 5246 section 7.3), for those that take no
//! tickets. All relays of a cluster hold the same sessions, so that one made at a relay resumes at
//! every other; to lose one costs a full handshake.
//!
//! A session is found under a digest of its id and of the [`Binding`] of the server that made it,
//! so it is not there for a server with another name or other demands on clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_abi::peer::{SESSION_MAX, Session};
use rustls::Error;
use rustls::server::StoresServerSessions;
use rustls::time_provider::TimeProvider;
use zeroize::Zeroizing;

use super::config::Binding;
use super::crypto::digest;
use super::journal::{self, Operation, journaled};
use super::ticket::TICKET_LIFETIME;

/// Most sessions of a node.
pub const MAX_SESSIONS: usize = 20_000;

/// Most bytes of all sessions of a node. One has 100 to 200, and the client's certificates.
pub const MAX_SESSIONS_BYTES: usize = 8 * 1024 * 1024;

/// Seconds for which a session can be resumed.
const LIFETIME: u64 = TICKET_LIFETIME as u64;

/// The sessions of one node. Clones are handles to the same ones.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<Store>>);

/// What rustls is given: the sessions of one server among those of the connection's node.
pub(super) struct JournaledSessions {
    pub binding: Binding,
    pub clock: Arc<dyn TimeProvider>,
}

/// Named by a digest.
type Key = [u8; 32];

#[derive(Default)]
struct Store {
    sessions: BTreeMap<Key, Held>,
    /// The sessions in the order in which they came.
    order: BTreeMap<u64, Key>,
    /// Serial number of the last session.
    last: u64,
    /// Followers were given the sessions up to this one.
    told: u64,
    /// Bytes of all values.
    bytes: usize,
}

struct Held {
    serial: u64,
    /// In seconds since 1970.
    created: u64,
    value: Zeroizing<Vec<u8>>,
}

impl Sessions {
    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.store().sessions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in a session of another relay.
    pub fn learn(&self, session: &Session<'_>) {
        let mut store = self.store();
        let nothing_untold = store.told == store.last;
        store.insert(session.key, session.created, session.value);
        if nothing_untold {
            store.told = store.last;
        }
    }

    /// Hands the first session behind `serial` to `tell`; returns its number, `None` when there is
    /// no further one.
    pub fn next_after(&self, serial: u64, tell: impl FnOnce(&Session<'_>)) -> Option<u64> {
        let store = self.store();
        let (serial, key) = store.order.range(serial.checked_add(1)?..).next()?;
        let held = store.sessions.get(key)?;
        tell(&Session { key: *key, created: held.created, value: &held.value });
        Some(*serial)
    }

    /// Hands a session to `tell` that was made here and that followers were not given yet; false
    /// when there is none.
    pub fn next_untold(&self, tell: impl FnOnce(&Session<'_>)) -> bool {
        let told = self.store().told;
        let next = self.next_after(told, tell);
        let mut store = self.store();
        store.told = next.unwrap_or(store.last);
        next.is_some()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Nothing that is done under the lock leaves a half of it behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Keeps a session in place of one of the same key, and of the oldest when there are too many.
    fn insert(&mut self, key: Key, created: u64, value: &[u8]) {
        self.remove(&key);
        self.last += 1;
        let held = Held { serial: self.last, created, value: Zeroizing::new(value.to_vec()) };
        self.order.insert(held.serial, key);
        self.bytes += held.value.len();
        self.sessions.insert(key, held);
        while self.sessions.len() > MAX_SESSIONS || self.bytes > MAX_SESSIONS_BYTES {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            let oldest = *oldest;
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(held) = self.sessions.remove(key) {
            self.order.remove(&held.serial);
            self.bytes -= held.value.len();
        }
    }

    /// The session, unless it is too old at the time `now`.
    fn get(&mut self, key: &Key, now: u64) -> Option<Vec<u8>> {
        let held = self.sessions.get(key)?;
        // A session from the future was made by a relay whose clock is ahead.
        if now.saturating_sub(held.created) >= LIFETIME {
            self.remove(key);
            return None;
        }
        Some(held.value.to_vec())
    }
}

impl JournaledSessions {
    fn key(&self, id: &[u8]) -> Key {
        let mut named = b"relay session".to_vec();
        named.extend_from_slice(&self.binding);
        named.extend_from_slice(id);
        let mut key = Key::default();
        key.copy_from_slice(digest::digest(&digest::SHA256, &named).as_ref());
        key
    }

    fn now(&self) -> Option<u64> {
        Some(self.clock.current_time()?.as_secs())
    }
}

impl StoresServerSessions for JournaledSessions {
    /// Journals the time. A replay stores the session again: the relay that goes on has to know it.
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        let value = Zeroizing::new(value);
        if value.len() > SESSION_MAX {
            return false;
        }
        let created = journaled(Operation::PutSession, || {
            let now = self.now().ok_or(Error::FailedToGetCurrentTime)?;
            Ok(Zeroizing::new(now.to_be_bytes().to_vec()))
        });
        let created = created.ok().and_then(|bytes| bytes.as_slice().try_into().ok());
        let (Some(created), Some(sessions)) = (created, journal::sessions()) else { return false };
        sessions.store().insert(self.key(&id), u64::from_be_bytes(created), &value);
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        journal::optional(Operation::GetSession, || {
            journal::sessions()?.store().get(&self.key(id), self.now()?)
        })
    }

    /// Only asked for in TLS 1.3 without tickets, which we have.
    fn take(&self, _id: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl core::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sessions").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl core::fmt::Debug for JournaledSessions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("JournaledSessions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u64, value: &[u8]) -> Session<'_> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        Session { key, created: number, value }
    }

    fn created(sessions: &Sessions) -> Vec<u64> {
        let (mut serial, mut all) = (0, Vec::new());
        while let Some(next) = sessions.next_after(serial, |session| all.push(session.created)) {
            serial = next;
        }
        all
    }

    #[test]
    fn the_oldest_makes_room() {
        let sessions = Sessions::default();
        let most = MAX_SESSIONS as u64;
        (0..most + 3).for_each(|number| sessions.learn(&session(number, b"secret")));
        assert_eq!(created(&sessions), (3..most + 3).collect::<Vec<_>>());

        let sessions = Sessions::default();
        let most = (MAX_SESSIONS_BYTES / SESSION_MAX) as u64;
        let long = [7; SESSION_MAX];
        (0..most + 2).for_each(|number| sessions.learn(&session(number, &long)));
        assert_eq!(created(&sessions), (2..most + 2).collect::<Vec<_>>());
        assert_eq!(sessions.store().bytes, MAX_SESSIONS_BYTES);
    }

    #[test]
    fn the_same_session_replaces_itself() {
        let sessions = Sessions::default();
        for value in [&b"long"[..], b"x"] {
            sessions.learn(&session(1, b"first"));
            sessions.learn(&session(2, value));
        }
        assert_eq!((sessions.len(), sessions.store().bytes), (2, 6));
        assert_eq!(created(&sessions), [1, 2]);
    }

    #[test]
    fn a_session_expires() {
        let sessions = Sessions::default();
        sessions.learn(&session(5, b"secret"));
        let key = session(5, b"").key;
        let get = |now| sessions.store().get(&key, now);
        for now in [5, 4, 0, 5 + LIFETIME - 1] {
            assert_eq!(get(now).as_deref(), Some(&b"secret"[..]));
        }
        assert_eq!(get(5 + LIFETIME), None);
        assert!(sessions.is_empty());
    }

    #[test]
    fn only_what_was_made_here_is_told() {
        let sessions = Sessions::default();
        sessions.learn(&session(1, b"theirs"));
        assert!(!sessions.next_untold(|_| panic!("theirs")));
        sessions.store().insert([9; 32], 9, b"ours");
        let mut told = Vec::new();
        while sessions.next_untold(|session| told.push(session.created)) {}
        assert_eq!(told, [9]);
    }
}
