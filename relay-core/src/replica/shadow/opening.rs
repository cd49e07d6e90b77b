//! A handshake as a backup knows it: what the client said, and what the crypto provider answered.

use relay_abi::peer::{Leg, Opening};
use zeroize::Zeroizing;

use crate::reason::Reason;
use crate::tls::{MAX_HANDSHAKE_INPUT, MAX_JOURNAL, MAX_RECORD};

/// Whole records of a handshake, and one more that is not whole.
const INPUT_MAX: usize = MAX_HANDSHAKE_INPUT + MAX_RECORD;

/// A flow that has no backend yet.
#[derive(Clone)]
pub struct OpeningShadow {
    /// Of the configuration under which the handshake began.
    pub generation: u64,
    pub client: Leg,
    /// The client's stream from offset 0.
    pub input: Vec<u8>,
    /// Bytes of `input` that were fed to the handshake.
    pub consumed: usize,
    pub journal: Zeroizing<Vec<u8>>,
    pub created_ms: u64,
}

impl OpeningShadow {
    pub(super) fn new(opening: &Opening<'_>) -> Option<Self> {
        let mut shadow = OpeningShadow {
            generation: opening.generation,
            client: opening.client,
            input: Vec::new(),
            consumed: 0,
            journal: Zeroizing::new(Vec::new()),
            created_ms: opening.created_ms,
        };
        shadow.append((0, opening.input), opening.consumed, opening.journal).ok()?;
        Some(shadow)
    }

    pub(super) fn append(
        &mut self,
        (offset, input): (u32, &[u8]),
        consumed: u32,
        journal: &[u8],
    ) -> Result<(), Reason> {
        let consumed = consumed as usize;
        let length = self.input.len() + input.len();
        if offset as usize != self.input.len() || !(self.consumed..=length).contains(&consumed) {
            return Err(Reason::PeerMalformed);
        }
        if length > INPUT_MAX || self.journal.len() + journal.len() > MAX_JOURNAL {
            return Err(Reason::WindowExceeded);
        }
        self.input.extend_from_slice(input);
        self.append_journal(journal);
        self.consumed = consumed;
        Ok(())
    }

    /// Growing in place would leave a copy of the secrets behind.
    fn append_journal(&mut self, journal: &[u8]) {
        let length = self.journal.len() + journal.len();
        if length > self.journal.capacity() {
            let mut longer = Zeroizing::new(Vec::with_capacity(length));
            longer.extend_from_slice(&self.journal);
            self.journal = longer;
        }
        self.journal.extend_from_slice(journal);
    }
}
