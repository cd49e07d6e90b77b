//! The record layer (RFC 8446 section 5, RFC 5246 section 6.2): seals and opens single records,
//! and can start at any record.
//!
//! Sealing is deterministic: the same state and the same plaintext give the same bytes. Two relays
//! that agree on the plaintext of a record therefore send the same record, and one (key, sequence
//! number) never protects two plaintexts.

use super::crypto::aead;
use super::keys::{DirectionState, RecordKey};
use super::suite::Suite;
use crate::reason::Reason;

/// Most plaintext in one record (RFC 8446 section 5.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;

/// Length of the AEAD tag at the end of every record, the same in all suites.
pub const TAG_LEN: usize = 16;

/// The AEAD tag of a record: a digest of the record, for those who know the key.
pub type Tag = [u8; TAG_LEN];

/// Length of a record's header: content type, version, length of what follows.
pub const HEADER_LEN: usize = 5;

/// Longest record, header included (RFC 8446 section 5.2). The AEAD suites of TLS 1.2 stay below.
pub const MAX_RECORD: usize = HEADER_LEN + MAX_PLAINTEXT + 256;

/// The version in the header of every record that is sent (RFC 8446 section 5.1).
const LEGACY_VERSION: [u8; 2] = [3, 3];

/// Handshake type of a KeyUpdate (RFC 8446 section 4.6.3).
const KEY_UPDATE: u8 = 24;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ContentType {
    /// change_cipher_spec: only in TLS 1.2, and as a leftover for middleboxes in TLS 1.3.
    ChangeCipherSpec = 20,
    /// alert.
    Alert = 21,
    /// handshake.
    Handshake = 22,
    /// application_data.
    ApplicationData = 23,
}

/// Why a record was not sealed. The state is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// More than [`MAX_PLAINTEXT`] bytes.
    #[error("the plaintext is longer than a record")]
    TooLong,
    /// The key has sealed as many records as it may.
    #[error("the key has sealed as many records as it may")]
    Exhausted,
    /// TLS 1.2 has no KeyUpdate.
    #[error("TLS 1.2 has no key update")]
    NotTls13,
    /// The secret does not fit the suite, or the cryptography library failed.
    #[error("the secret does not fit the cipher suite")]
    Key,
}

/// Why bytes are not a record of this connection. The state is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A plain HTTP request.
    #[error("plain HTTP on the TLS port")]
    Http,
    /// The header has a content type or version that no TLS record has, or the length is wrong.
    #[error("not a TLS record")]
    Malformed,
    /// The record, or the plaintext in it, is longer than the protocol allows.
    #[error("the record is too long")]
    Overflow,
    /// The record does not authenticate.
    #[error("the record does not authenticate")]
    BadMac,
    /// A content type that cannot come here.
    #[error("unexpected content type")]
    Unexpected,
    /// The sequence number or the generation would wrap, or the secret does not fit the suite.
    #[error("the key is exhausted or does not fit the cipher suite")]
    Key,
}

impl OpenError {
    /// The alert to send (RFC 8446 section 6.2).
    pub fn alert(self) -> u8 {
        match self {
            OpenError::Unexpected => 10,
            OpenError::BadMac => 20,
            OpenError::Overflow => 22,
            OpenError::Http | OpenError::Malformed => 50,
            OpenError::Key => 80,
        }
    }

    /// The counter that this is counted under.
    pub fn reason(self) -> Reason {
        match self {
            OpenError::Http => Reason::PlainHttp,
            OpenError::BadMac => Reason::TlsBadMac,
            _ => Reason::TlsMalformed,
        }
    }
}

/// The length of the whole record that begins with `bytes`, header included, at most
/// [`MAX_RECORD`]. `None` when more bytes are needed to tell.
pub fn record_header(bytes: &[u8]) -> Result<Option<usize>, OpenError> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    if ContentType::from_wire(first).is_none() {
        return Err(if looks_like_http(bytes) { OpenError::Http } else { OpenError::Malformed });
    }
    // Any minor version: RFC 5246 appendix E.1, RFC 8446 section 5.1.
    if bytes.get(1).is_some_and(|major| *major != LEGACY_VERSION[0]) {
        return Err(OpenError::Malformed);
    }
    let Some(&[_, _, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
    let length = HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_RECORD { Err(OpenError::Overflow) } else { Ok(Some(length)) }
}

/// Seals the records of one direction.
pub struct Sealer(Direction);

impl Sealer {
    /// Goes on at `state`.
    pub fn new(suite: Suite, state: &DirectionState) -> Result<Sealer, SealError> {
        Direction::new(suite, state).map(Sealer).ok_or(SealError::Key)
    }

    /// Sequence number of the next record.
    pub fn sequence(&self) -> u64 {
        self.0.state.sequence
    }

    /// Key updates so far.
    pub fn generation(&self) -> u32 {
        self.0.state.generation
    }

    /// The state from which another sealer goes on with the next record.
    pub fn state(&self) -> DirectionState {
        self.0.state.clone()
    }

    /// Records that should at most be sealed before the key is updated (TLS 1.3) or the connection
    /// is closed (TLS 1.2). At zero, sealing still works for what announces this.
    pub fn records_left(&self) -> u64 {
        let (soft, _) = self.0.suite.record_limits();
        soft.saturating_sub(self.0.state.sequence)
    }

    /// Appends one whole record to `out` and returns its tag. The plaintext is the concatenation
    /// of `parts`, at most [`MAX_PLAINTEXT`] bytes.
    pub fn seal(
        &mut self,
        kind: ContentType,
        parts: (&[u8], &[u8]),
        out: &mut Vec<u8>,
    ) -> Result<Tag, SealError> {
        let direction = &mut self.0;
        let plain_len = parts.0.len() + parts.1.len();
        if plain_len > MAX_PLAINTEXT {
            return Err(SealError::TooLong);
        }
        let (_, limit) = direction.suite.record_limits();
        if direction.state.sequence >= limit {
            return Err(SealError::Exhausted);
        }
        let start = out.len();
        let tag = direction.append(kind, parts, out).inspect_err(|_| out.truncate(start))?;
        direction.state.sequence += 1;
        Ok(tag)
    }

    /// Appends a KeyUpdate, sealed under the old key, and goes on with the next one. `request`
    /// asks the peer to update its key, too (RFC 8446 section 4.6.3).
    pub fn key_update(&mut self, out: &mut Vec<u8>, request: bool) -> Result<Tag, SealError> {
        if !self.0.suite.is_tls13() {
            return Err(SealError::NotTls13);
        }
        let next = self.0.next_generation().ok_or(SealError::Exhausted)?;
        let message = [KEY_UPDATE, 0, 0, 1, u8::from(request)];
        let tag = self.seal(ContentType::Handshake, (&message, &[]), out)?;
        self.0 = next;
        Ok(tag)
    }
}

/// Opens the records of one direction.
pub struct Opener(Direction);

impl Opener {
    /// Goes on at `state`.
    pub fn new(suite: Suite, state: &DirectionState) -> Result<Opener, OpenError> {
        Direction::new(suite, state).map(Opener).ok_or(OpenError::Key)
    }

    /// Sequence number of the next record.
    pub fn sequence(&self) -> u64 {
        self.0.state.sequence
    }

    /// Key updates so far.
    pub fn generation(&self) -> u32 {
        self.0.state.generation
    }

    /// The state from which another opener goes on with the next record.
    pub fn state(&self) -> DirectionState {
        self.0.state.clone()
    }

    /// Opens one whole record in place and returns its plaintext. When this fails, the state is as
    /// before, but the bytes of the record are lost.
    ///
    /// In TLS 1.3 an unprotected change_cipher_spec is returned as such and takes no sequence
    /// number.
    pub fn open<'a>(
        &mut self,
        record: &'a mut [u8],
    ) -> Result<(ContentType, &'a mut [u8]), OpenError> {
        if record_header(record)? != Some(record.len()) {
            return Err(OpenError::Malformed);
        }
        let next = self.0.state.sequence.checked_add(1).ok_or(OpenError::Key)?;
        let (header, body) = record.split_first_chunk_mut().ok_or(OpenError::Malformed)?;
        let kind = ContentType::from_wire(header[0]).ok_or(OpenError::Malformed)?;
        let opened = if !self.0.suite.is_tls13() {
            self.0.open_tls12(kind, header, body)?
        } else if kind == ContentType::ChangeCipherSpec {
            return if *body == [1] { Ok((kind, body)) } else { Err(OpenError::Unexpected) };
        } else {
            self.0.open_tls13(kind, header, body)?
        };
        self.0.state.sequence = next;
        Ok(opened)
    }

    /// Goes on with the next key, after the peer's KeyUpdate. Fails in TLS 1.2, which has none.
    pub fn update(&mut self) -> Result<(), OpenError> {
        self.0 = self.0.next_generation().ok_or(OpenError::Unexpected)?;
        Ok(())
    }
}

/// One direction of a connection: the state, and the key that follows from it.
struct Direction {
    suite: Suite,
    state: DirectionState,
    key: RecordKey,
}

impl Direction {
    fn new(suite: Suite, state: &DirectionState) -> Option<Direction> {
        let key = RecordKey::new(suite, &state.secret)?;
        Some(Direction { suite, state: state.clone(), key })
    }

    fn next_generation(&self) -> Option<Direction> {
        let generation = self.state.generation.checked_add(1)?;
        Direction::new(self.suite, &self.state.ratchet_to(self.suite, generation)?)
    }

    /// Appends header, explicit nonce, ciphertext and tag. The plaintext is copied once, into
    /// place, and encrypted there while it is in the cache.
    fn append(
        &self,
        kind: ContentType,
        (head, tail): (&[u8], &[u8]),
        out: &mut Vec<u8>,
    ) -> Result<Tag, SealError> {
        let plain_len = head.len() + tail.len();
        let length = self.suite.record_len(plain_len);
        let nonce = self.key.nonce(self.state.sequence);
        let tls13 = self.suite.is_tls13();
        let outer = if tls13 { ContentType::ApplicationData } else { kind };
        let header = header(outer, length - HEADER_LEN).ok_or(SealError::TooLong)?;

        out.reserve(length);
        out.extend_from_slice(&header);
        out.extend_from_slice(&nonce[nonce.len() - self.suite.explicit_nonce_len()..]);
        let body = out.len();
        out.extend_from_slice(head);
        out.extend_from_slice(tail);
        if tls13 {
            out.push(kind as u8);
        }
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let body = &mut out[body..];
        let sealed = if tls13 {
            self.key.aead.seal_in_place_separate_tag(nonce, aead::Aad::from(header), body)
        } else {
            let aad = additional_data(self.state.sequence, &header, plain_len);
            self.key.aead.seal_in_place_separate_tag(nonce, aead::Aad::from(aad), body)
        };
        let tag = sealed.ok().and_then(|tag| Tag::try_from(tag.as_ref()).ok());
        let tag = tag.ok_or(SealError::Key)?;
        out.extend_from_slice(&tag);
        Ok(tag)
    }

    /// RFC 8446 section 5.2.
    fn open_tls13<'a>(
        &self,
        kind: ContentType,
        header: &[u8; HEADER_LEN],
        body: &'a mut [u8],
    ) -> Result<(ContentType, &'a mut [u8]), OpenError> {
        if kind != ContentType::ApplicationData {
            return Err(OpenError::Unexpected);
        }
        let nonce = aead::Nonce::assume_unique_for_key(self.key.nonce(self.state.sequence));
        let inner = self.key.aead.open_in_place(nonce, aead::Aad::from(*header), body);
        let inner = inner.map_err(|_| OpenError::BadMac)?;
        if inner.len() > MAX_PLAINTEXT + 1 {
            return Err(OpenError::Overflow);
        }
        // Zeros behind the content type are padding; nothing but zeros has no content type.
        let end = inner.iter().rposition(|byte| *byte != 0).ok_or(OpenError::Unexpected)?;
        let (plain, rest) = inner.split_at_mut(end);
        let kind = rest.first().and_then(|byte| ContentType::from_wire(*byte));
        match kind {
            None | Some(ContentType::ChangeCipherSpec) => Err(OpenError::Unexpected),
            Some(ContentType::Alert | ContentType::Handshake) if plain.is_empty() => {
                Err(OpenError::Unexpected)
            }
            Some(kind) => Ok((kind, plain)),
        }
    }

    /// RFC 5246 section 6.2.3.3; RFC 5288 for AES-GCM, RFC 7905 for ChaCha20-Poly1305.
    fn open_tls12<'a>(
        &self,
        kind: ContentType,
        header: &[u8; HEADER_LEN],
        body: &'a mut [u8],
    ) -> Result<(ContentType, &'a mut [u8]), OpenError> {
        let explicit_len = self.suite.explicit_nonce_len();
        let (explicit, body) = body.split_at_mut_checked(explicit_len).ok_or(OpenError::BadMac)?;
        let plain_len = body.len().checked_sub(TAG_LEN).ok_or(OpenError::BadMac)?;
        if plain_len > MAX_PLAINTEXT {
            return Err(OpenError::Overflow);
        }
        let mut nonce = self.key.nonce(self.state.sequence);
        let implicit_len = nonce.len() - explicit_len;
        nonce[implicit_len..].copy_from_slice(explicit);
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let aad = additional_data(self.state.sequence, header, plain_len);
        let plain = self.key.aead.open_in_place(nonce, aead::Aad::from(aad), body);
        Ok((kind, plain.map_err(|_| OpenError::BadMac)?))
    }
}

impl ContentType {
    fn from_wire(byte: u8) -> Option<ContentType> {
        Some(match byte {
            20 => ContentType::ChangeCipherSpec,
            21 => ContentType::Alert,
            22 => ContentType::Handshake,
            23 => ContentType::ApplicationData,
            _ => return None,
        })
    }
}

fn header(kind: ContentType, body_len: usize) -> Option<[u8; HEADER_LEN]> {
    let [high, low] = u16::try_from(body_len).ok()?.to_be_bytes();
    Some([kind as u8, LEGACY_VERSION[0], LEGACY_VERSION[1], high, low])
}

/// What TLS 1.2 authenticates beside the plaintext (RFC 5246 section 6.2.3.3): sequence number,
/// content type, version, and the length of the plaintext, at most [`MAX_PLAINTEXT`].
fn additional_data(sequence: u64, header: &[u8; HEADER_LEN], plain_len: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..11].copy_from_slice(&header[..3]);
    aad[11..].copy_from_slice(&(plain_len as u16).to_be_bytes());
    aad
}

/// Whether these are the first bytes of an HTTP request.
fn looks_like_http(bytes: &[u8]) -> bool {
    const METHODS: [&[u8]; 10] = [
        b"CONNECT ",
        b"DELETE ",
        b"GET ",
        b"HEAD ",
        b"OPTIONS ",
        b"PATCH ",
        b"POST ",
        b"PRI ",
        b"PUT ",
        b"TRACE ",
    ];
    METHODS.iter().any(|method| method.iter().zip(bytes).all(|(a, b)| a == b))
}
