//! What a datagram says in the clear.

use crate::crypto::aead;
use crate::id::{Incarnation, NodeId};
use crate::reason::Reason;
use relay_abi::peer::{VERSION_PAIR, VERSION_SHARED};
use relay_abi::wire::{Reader, Writer};

/// version, kind, sender, unit, two incarnations, counter.
pub(super) const HEADER: usize = 4 + 8 + 8 + 8;

pub(super) const HELLO: u8 = 0;
pub(super) const PAYLOAD: u8 = 1;
/// Of version 5: shows that the sender has the secret under which it is sealed.
pub(super) const REKEY: u8 = 2;

/// The receiver's incarnation in a greeting.
pub(super) const NOBODY: Incarnation = Incarnation(0);

pub(super) struct Header {
    pub version: u8,
    pub kind: u8,
    pub sender: NodeId,
    pub unit: u8,
    pub sender_incarnation: Incarnation,
    pub receiver_incarnation: Incarnation,
    pub counter: u64,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.bytes(&[self.version, self.kind, self.sender.0, self.unit]);
        bytes.u64(self.sender_incarnation.0);
        bytes.u64(self.receiver_incarnation.0);
        bytes.u64(self.counter);
        let mut out = [0; HEADER];
        out.copy_from_slice(&bytes);
        out
    }

    pub fn decode(datagram: &[u8]) -> Result<Self, Reason> {
        let malformed = |_| Reason::PeerMalformed;
        let mut r = Reader::new(datagram);
        let header = Header {
            version: r.u8().map_err(malformed)?,
            kind: r.u8().map_err(malformed)?,
            sender: NodeId(r.u8().map_err(malformed)?),
            unit: r.u8().map_err(malformed)?,
            sender_incarnation: Incarnation(r.u64().map_err(malformed)?),
            receiver_incarnation: Incarnation(r.u64().map_err(malformed)?),
            counter: r.u64().map_err(malformed)?,
        };
        if !(VERSION_SHARED..=VERSION_PAIR).contains(&header.version) {
            return Err(Reason::PeerMalformed);
        }
        Ok(header)
    }

    pub fn nonce(&self) -> aead::Nonce {
        let mut nonce = [0; aead::NONCE_LEN];
        nonce[aead::NONCE_LEN - 8..].copy_from_slice(&self.counter.to_be_bytes());
        aead::Nonce::assume_unique_for_key(nonce)
    }
}
