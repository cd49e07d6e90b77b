//! The state of one direction, and the keys that follow from it.

use core::fmt;

use zeroize::Zeroizing;

use super::crypto::{aead, hkdf};
use super::suite::Suite;

/// Longest secret: a SHA-384 traffic secret. Key and IV of TLS 1.2 are 44 bytes at most.
pub const MAX_SECRET: usize = 48;

/// Longest AEAD key: AES-256 and ChaCha20.
const MAX_KEY: usize = 32;

/// Key updates that [`DirectionState::ratchet_to`] follows in one call. A direction is stored at
/// most this far behind, and a damaged generation cannot keep a processor busy.
pub const MAX_RATCHET_STEPS: u32 = 4096;

/// All that a [`Sealer`](super::Sealer) or an [`Opener`](super::Opener) needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectionState {
    /// Key updates so far (RFC 8446 section 4.6.3); 0 in TLS 1.2.
    pub generation: u32,
    /// Sequence number of the next record under the keys of this generation.
    pub sequence: u64,
    /// The traffic secret of this generation (TLS 1.3), or key and IV (TLS 1.2).
    pub secret: Secret,
}

/// A traffic secret, or the key and IV of TLS 1.2: at most [`MAX_SECRET`] bytes, erased when
/// dropped, never printed.
#[derive(Clone)]
pub struct Secret {
    bytes: Zeroizing<[u8; MAX_SECRET]>,
    len: u8,
}

impl DirectionState {
    /// The state at the start of `generation`, or `self` when that is its generation (RFC 8446
    /// section 7.2). `None` for TLS 1.2, for an earlier generation, and for one that is more than
    /// [`MAX_RATCHET_STEPS`] ahead.
    pub fn ratchet_to(&self, suite: Suite, generation: u32) -> Option<DirectionState> {
        let steps = generation.checked_sub(self.generation)?;
        if !suite.is_tls13() || steps > MAX_RATCHET_STEPS {
            return None;
        }
        let mut state = self.clone();
        for _ in 0..steps {
            let mut next = Secret { bytes: Zeroizing::new([0; MAX_SECRET]), len: state.secret.len };
            expand_label(suite, &state.secret, b"traffic upd", next.as_mut_bytes())?;
            state = DirectionState {
                generation: state.generation.checked_add(1)?,
                sequence: 0,
                secret: next,
            };
        }
        Some(state)
    }
}

impl Secret {
    /// A secret of these bytes, `None` when there are more than [`MAX_SECRET`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Secret> {
        let len = u8::try_from(bytes.len()).ok()?;
        let mut secret = Zeroizing::new([0; MAX_SECRET]);
        secret.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Secret { bytes: secret, len })
    }

    /// The bytes, to be replicated over an encrypted channel and nowhere else.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The AEAD key and the static IV of one generation.
pub(super) struct RecordKey {
    pub(super) aead: aead::LessSafeKey,
    pub(super) iv: [u8; aead::NONCE_LEN],
}

impl RecordKey {
    /// RFC 8446 section 7.3; for TLS 1.2 the secret is the key and the IV already. `None` when
    /// the secret's length does not fit the suite.
    pub(super) fn new(suite: Suite, secret: &Secret) -> Option<RecordKey> {
        if secret.as_bytes().len() != suite.secret_len() {
            return None;
        }
        let mut key = Zeroizing::new([0; MAX_KEY]);
        let key = key.get_mut(..suite.algorithm().key_len())?;
        let mut iv = [0; aead::NONCE_LEN];
        if suite.is_tls13() {
            expand_label(suite, secret, b"key", key)?;
            expand_label(suite, secret, b"iv", &mut iv)?;
        } else {
            let (k, i) = secret.as_bytes().split_at_checked(key.len())?;
            key.copy_from_slice(k);
            iv.copy_from_slice(i);
        }
        let key = aead::UnboundKey::new(suite.algorithm(), key).ok()?;
        Some(RecordKey { aead: aead::LessSafeKey::new(key), iv })
    }

    /// The nonce of a record (RFC 8446 section 5.3; RFC 7905 section 2). For AES-GCM in TLS 1.2
    /// the last eight bytes are the explicit nonce: any value that never repeats will do (RFC
    /// 5288 section 3), and rustls begins the connection with this construction.
    pub(super) fn nonce(&self, sequence: u64) -> [u8; aead::NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, s) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= s;
        }
        nonce
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
fn expand_label(suite: Suite, secret: &Secret, label: &[u8], out: &mut [u8]) -> Option<()> {
    let out_len = u16::try_from(out.len()).ok()?.to_be_bytes();
    const PREFIX: &[u8] = b"tls13 ";
    let label_len = [u8::try_from(PREFIX.len() + label.len()).ok()?];
    hkdf::Prk::new_less_safe(suite.hkdf(), secret.as_bytes())
        .expand(&[&out_len, &label_len, PREFIX, label, &[0]], OutputLen(out.len()))
        .ok()?
        .fill(out)
        .ok()
}

/// The length of an HKDF output, as the library wants to be told.
pub(super) struct OutputLen(pub(super) usize);

impl hkdf::KeyType for OutputLen {
    fn len(&self) -> usize {
        self.0
    }
}
