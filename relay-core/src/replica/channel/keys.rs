//! What two nodes have in common, and the keys that follow from it.

use core::fmt;

use relay_abi::peer::{VERSION_PAIR, VERSION_SHARED};
use zeroize::Zeroizing;

use super::header::{HEADER, Header, NOBODY};
use super::replay::ReplayWindow;
use crate::crypto::{self, aead};
use crate::id::{Incarnation, NodeId};
use crate::reason::Reason;

/// Bytes of a pair's secret.
pub const SECRET: usize = 32;

/// From what the keys of the datagrams between two relays follow; so, which version they speak.
#[derive(Clone, PartialEq, Eq)]
pub enum PairKey {
    /// The cluster's pre-shared key alone: there is no council, or one of the two is of a version
    /// that knows nothing else.
    Shared,
    /// A secret that only the two have, and the pre-shared key.
    Secret(Zeroizing<[u8; SECRET]>),
}

impl PairKey {
    /// The secret that `fill` writes.
    ///
    /// # Errors
    /// As `fill`.
    pub fn secret<E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<PairKey, E> {
        let mut secret = Zeroizing::new([0; SECRET]);
        fill(&mut secret[..])?;
        Ok(PairKey::Secret(secret))
    }

    /// Of the datagrams.
    pub fn version(&self) -> u8 {
        match self {
            PairKey::Shared => VERSION_SHARED,
            PairKey::Secret(_) => VERSION_PAIR,
        }
    }

    /// The key of one unit, from which those of its datagrams are derived.
    pub(super) fn unit_key(&self, shared: &[u8; 32], unit: u8) -> Zeroizing<[u8; 32]> {
        match self {
            PairKey::Shared => crypto::derive(shared, &[b"unit", &[unit]]),
            PairKey::Secret(secret) => {
                // Who has only one of the two has nothing.
                let mut both = Zeroizing::new([0; SECRET + 32]);
                both[..SECRET].copy_from_slice(&**secret);
                both[SECRET..].copy_from_slice(shared);
                crypto::derive(&*both, &[b"pair", &[unit]])
            }
        }
    }
}

// Keys never reach a log.
impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PairKey::Shared => "Shared",
            PairKey::Secret(_) => "Secret",
        })
    }
}

/// A life of a node.
pub(super) type Life = (NodeId, Incarnation);

/// A secret that the pair has, or has had, for one unit.
pub(super) struct Secret {
    pub version: u8,
    pub key: Zeroizing<[u8; 32]>,
    /// Of our greetings.
    pub hello: aead::LessSafeKey,
    /// Those of the session, if it speaks this version.
    pub session: Option<SessionKeys>,
    /// How often the peer was shown that we have it: it may seal under it from then on.
    pub shown: u8,
}

/// The keys between two lives.
pub(super) struct SessionKeys {
    pub send: aead::LessSafeKey,
    pub receive: aead::LessSafeKey,
    /// What came under `receive`.
    pub replay: ReplayWindow,
}

impl Secret {
    pub fn new(version: u8, key: Zeroizing<[u8; 32]>, me: Life, peer: NodeId) -> Self {
        let hello = datagram_key(&key, me, (peer, NOBODY));
        Secret { version, key, hello, session: None, shown: 0 }
    }

    /// The keys of a session in which nothing came yet.
    pub fn session_keys(&self, me: Life, peer: Life) -> SessionKeys {
        SessionKeys {
            send: datagram_key(&self.key, me, peer),
            receive: datagram_key(&self.key, peer, me),
            replay: ReplayWindow::default(),
        }
    }
}

/// The key of datagrams from one life to another.
pub(super) fn datagram_key(unit_key: &[u8; 32], from: Life, to: Life) -> aead::LessSafeKey {
    let key = crypto::derive(
        unit_key,
        &[b"datagram", &[from.0.0], &from.1.0.to_be_bytes(), &[to.0.0], &to.1.0.to_be_bytes()],
    );
    // The length of the key is a constant here and there.
    let unbound = aead::UnboundKey::new(&aead::AES_256_GCM, &*key)
        .expect("AES-256-GCM takes the 32 bytes that derive() gives");
    aead::LessSafeKey::new(unbound)
}

/// Writes a datagram; its length.
pub(super) fn seal(
    key: &aead::LessSafeKey,
    header: &Header,
    payload: &[u8],
    out: &mut [u8],
) -> usize {
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

/// Decrypts a datagram in place; the length of its payload. One that does not authenticate is
/// destroyed.
pub(super) fn open(
    key: &aead::LessSafeKey,
    header: &Header,
    datagram: &mut [u8],
) -> Result<usize, Reason> {
    let aad = aead::Aad::from(header.encode());
    let sealed = datagram.get_mut(HEADER..).ok_or(Reason::PeerMalformed)?;
    key.open_in_place(header.nonce(), aad, sealed)
        .map(|payload| payload.len())
        .map_err(|_| Reason::PeerAuthentication)
}
