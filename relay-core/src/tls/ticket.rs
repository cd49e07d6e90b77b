//! Session tickets (RFC 8446 section 4.6.1, RFC 5077) under a secret of the cluster: what one
//! relay seals, every other opens.
//!
//! A ticket is epoch (4 bytes) | nonce (12) | ciphertext | tag (16). The key follows from the
//! secret, the server's [`Binding`] and the epoch, which is the wall clock in units of [`EPOCH`]:
//! tickets expire, no key seals so many of them that random nonces could meet, and none opens at a
//! server with another name or other demands on clients.

use std::sync::Arc;

use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use zeroize::Zeroizing;

use super::config::Binding;
use super::crypto::{aead, hkdf};
use super::journal;
use super::keys::OutputLen;

/// Seconds for which a ticket is opened, at least; clients are told so. RFC 8446 section 4.6.1
/// allows seven days, but the secret of a ticket should live no longer than it is of use.
pub const TICKET_LIFETIME: u32 = 12 * 3600;

/// Seconds for which one key seals.
const EPOCH: u64 = TICKET_LIFETIME as u64;

/// Epochs that the clock of the relay which sealed may be ahead.
const AHEAD: u32 = 1;

/// Longest plaintext: rustls's session state is below 1 KiB, and the client's certificates. A client
/// with longer ones gets no ticket.
const MAX_PLAINTEXT: usize = 4096;

const EPOCH_LEN: usize = 4;

/// Longest ticket.
pub(super) const MAX_TICKET: usize =
    EPOCH_LEN + aead::NONCE_LEN + MAX_PLAINTEXT + aead::MAX_TAG_LEN;

/// Seals and opens tickets. Randomness and time come from the connection's context, where the
/// caller journals what is made of them.
pub(super) struct ClusterTickets {
    secret: Zeroizing<[u8; 32]>,
    binding: Binding,
    clock: Arc<dyn TimeProvider>,
}

impl ClusterTickets {
    pub(super) fn new(
        secret: [u8; 32],
        binding: Binding,
        clock: Arc<dyn TimeProvider>,
    ) -> ClusterTickets {
        ClusterTickets { secret: Zeroizing::new(secret), binding, clock }
    }

    fn epoch(&self) -> Option<u32> {
        u32::try_from(self.clock.current_time()?.as_secs() / EPOCH).ok()
    }

    fn key(&self, epoch: u32) -> Option<aead::LessSafeKey> {
        let algorithm = &aead::AES_256_GCM;
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &*self.secret)
            .expand(
                &[b"relay session ticket", &self.binding, &epoch.to_be_bytes()],
                OutputLen(key.len()),
            )
            .ok()?
            .fill(&mut *key)
            .ok()?;
        Some(aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &*key).ok()?))
    }
}

impl ProducesTickets for ClusterTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if plain.len() > MAX_PLAINTEXT {
            return None;
        }
        let epoch = self.epoch()?;
        let mut nonce = [0; aead::NONCE_LEN];
        journal::fresh_random(&mut nonce).ok()?;

        let mut ticket = epoch.to_be_bytes().to_vec();
        ticket.extend_from_slice(&nonce);
        let body = ticket.len();
        ticket.extend_from_slice(plain);
        let tag = self
            .key(epoch)?
            .seal_in_place_separate_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(epoch.to_be_bytes()),
                &mut ticket[body..],
            )
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (&epoch, rest) = ticket.split_first_chunk::<EPOCH_LEN>()?;
        let (&nonce, sealed) = rest.split_first_chunk()?;
        let now = self.epoch()?;
        let sealed_in = u32::from_be_bytes(epoch);
        let fresh = now.saturating_sub(1)..=now.saturating_add(AHEAD);
        if !fresh.contains(&sealed_in) || sealed.len() > MAX_PLAINTEXT + aead::MAX_TAG_LEN {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let key = self.key(sealed_in)?;
        let plain_len = key.open_in_place(nonce, aead::Aad::from(epoch), &mut sealed).ok()?.len();
        sealed.truncate(plain_len);
        Some(sealed)
    }
}

impl core::fmt::Debug for ClusterTickets {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ClusterTickets")
    }
}
