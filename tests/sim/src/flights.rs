//! How far a relay may answer in a handshake: what a backup would say itself if it repeated the
//! handshake from what it holds. Every byte of the server's flight follows from the client's bytes
//! and the journal (rule 10), so a backup that cannot say a byte must not have let it pass.

use std::collections::BTreeMap;

use relay_core::id::FlowId;
use relay_core::replica::OpeningShadow;
use relay_core::tls::{Handshake, ServerConfig};

use crate::random::Random;
use crate::script::ServerKey;
use crate::tls;

/// Answers of handshakes, each repeated once.
pub struct Flights {
    /// Of even generations of the configuration, and of odd ones.
    tls: [ServerConfig; 2],
    known: BTreeMap<FlowId, Flight>,
}

#[derive(Clone, Copy)]
struct Flight {
    consumed: usize,
    journal: usize,
    /// Bytes that the server has said; None: the handshake cannot be repeated.
    said: Option<u64>,
}

impl Flights {
    /// Of relays with this kind of key, that ask clients for a certificate, or not.
    pub fn new(key: ServerKey, client_auth: bool) -> Self {
        // A handshake that is repeated draws no randomness.
        let tls =
            [0, 1].map(|generation| tls::server(Random::new(0), (key, generation), client_auth));
        Flights { tls, known: BTreeMap::new() }
    }

    /// The server's bytes in the handshake that a backup holds as `shadow`.
    pub fn said(&mut self, id: FlowId, shadow: &OpeningShadow) -> Option<u64> {
        let (consumed, journal) = (shadow.consumed, shadow.journal.len());
        if let Some(flight) = self.known.get(&id)
            && (flight.consumed, flight.journal) == (consumed, journal)
        {
            return flight.said;
        }
        let input = shadow.input.get(..consumed)?;
        let tls = &self.tls[(shadow.generation % 2) as usize];
        let handshake = Handshake::replay(tls, input, &shadow.journal);
        let said = handshake.ok().map(|handshake| handshake.output().len() as u64);
        self.known.insert(id, Flight { consumed, journal, said });
        said
    }
}
