//! TLS: the handshake (by rustls, journaled so that another relay can repeat it) and our own
//! record layer (so that a connection can go on at any record, at any relay).
//!
//! rustls cannot export a handshake in progress. It is sans-IO, though: its state is a function of
//! the client's bytes and of what its crypto provider answers. So every answer that is not a
//! function of the question (randomness, key shares, shared secrets, signatures, tickets, the
//! clock) is written to a [journal](Handshake::journal), and [`Handshake::replay`] with the same
//! bytes and the same journal arrives at the same state, having produced the same output.
//!
//! rustls takes providers as `&'static dyn` objects, which therefore cannot belong to one
//! connection. The connection's context is handed to them through a thread-local slot that is
//! filled for the time of one call into rustls only (and emptied again if that call panics).
//! Nothing is read from it outside of such a call, so results depend on arguments alone, and a
//! handshake may go on at another thread between two calls.
//!
//! After the handshake rustls is done: the traffic secrets and sequence numbers
//! ([`DirectionState`]) are all that a [`Sealer`] and an [`Opener`] need.

mod client_auth;
mod config;
#[cfg(feature = "aws-lc-rs")]
mod ephemeral;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
#[path = "ephemeral_ring.rs"]
mod ephemeral;
mod handshake;
mod journal;
mod keys;
mod provider;
mod record;
mod sessions;
mod suite;
mod ticket;

#[cfg(test)]
mod tests;

pub use client_auth::{ClientAuth, ClientAuthError, MAX_CLIENT_CA_NAMES, MAX_CLIENT_CAS};
pub use config::{
    ConfigError, Identity, IdentityError, MAX_ALPN_PROTOCOLS, MAX_CERTIFICATE_CHAIN,
    MAX_IDENTITIES, ServerConfig, ServerOptions,
};
pub use handshake::{Established, Handshake, HandshakeError, MAX_HANDSHAKE_INPUT, Progress};
pub use journal::MAX_JOURNAL;
pub use keys::{DirectionState, MAX_RATCHET_STEPS, MAX_SECRET, Secret};
pub use record::{
    ContentType, HEADER_LEN, MAX_PLAINTEXT, MAX_RECORD, OpenError, Opener, SealError, Sealer,
    TAG_LEN, Tag, record_header,
};
pub use sessions::{MAX_SESSIONS, MAX_SESSIONS_BYTES, Sessions};
pub use suite::{Suite, Version};
pub use ticket::TICKET_LIFETIME;

/// What [`ServerOptions`] takes as the wall clock and as the source of entropy.
pub use rustls::crypto::{GetRandomFailed, SecureRandom};
pub use rustls::pki_types::UnixTime;
pub use rustls::time_provider::TimeProvider;

/// The cryptography library. Both have the same interface for all that is used here.
#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs as crypto;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use ring as crypto;

/// rustls's provider on top of [`crypto`].
#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as rustls_crypto;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use rustls::crypto::ring as rustls_crypto;
