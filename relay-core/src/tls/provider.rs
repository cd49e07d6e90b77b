//! The crypto provider that rustls is given: the library's, with every answer journaled that is
//! not a function of the question.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{
    ActiveKeyExchange, CompletedKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom,
    SharedSecret, SupportedKxGroup,
};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::pki_types::{SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ProducesTickets;
use rustls::sign::{Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{Error, KeyLog, NamedGroup, ProtocolVersion, SignatureAlgorithm, SignatureScheme};
use zeroize::Zeroizing;

use super::ephemeral;
use super::journal::{self, Fault, Operation, journaled, optional};
use super::keys::Secret;
use super::rustls_crypto::{self, kx_group};

/// The library's provider, with journaled randomness and key exchange.
pub(super) fn journaled_provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: GROUPS.iter().map(|group| group as &dyn SupportedKxGroup).collect(),
        secure_random: &Random,
        ..rustls_crypto::default_provider()
    }
}

/// Journals the signatures of a private key.
#[derive(Debug)]
pub(super) struct JournaledKey(pub(super) Arc<dyn SigningKey>);

/// Journals what is sealed into tickets and what opened ones say.
#[derive(Debug)]
pub(super) struct JournaledTickets<T> {
    pub tickets: T,
    /// A resumed session gets no new ticket. Else a client's certificate, which is verified in full
    /// handshakes only, would never expire.
    pub only_full: bool,
}

/// Journals the wall clock.
#[derive(Debug)]
pub(super) struct JournaledClock(pub(super) Arc<dyn TimeProvider>);

/// Keeps the traffic secrets for the record layer. They follow from what is journaled.
#[derive(Debug)]
pub(super) struct SecretCapture;

static GROUPS: &[Group] = &[
    #[cfg(feature = "aws-lc-rs")]
    Group(&kx_group::X25519MLKEM768),
    Group(&kx_group::X25519),
    Group(&kx_group::SECP256R1),
    Group(&kx_group::SECP384R1),
];

/// Bytes of the length before the first part of an answer that has two.
const PART_LEN: usize = 2;

#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        let answer = journaled(Operation::Random, || {
            let mut bytes = Zeroizing::new(vec![0; buffer.len()]);
            journal::fresh_random(&mut bytes)?;
            Ok(bytes)
        });
        let answer = answer.map_err(|_| GetRandomFailed)?;
        if answer.len() != buffer.len() {
            journal::fail(Fault::Diverged);
            return Err(GetRandomFailed);
        }
        buffer.copy_from_slice(&answer);
        Ok(())
    }
}

#[derive(Debug)]
struct Group(&'static &'static dyn SupportedKxGroup);

impl SupportedKxGroup for Group {
    /// TLS 1.2: the key must live until the client's share arrives, so its private part is
    /// journaled where the library exports it.
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut unexported = None;
        let answer =
            journaled(Operation::GenerateKey, || match ephemeral::generate(self.name()) {
                Some(key) => key.map(|(public, private)| join(&public, &private)),
                None => {
                    let key = self.0.start()?;
                    let answer = join(key.pub_key(), &[]);
                    unexported = Some(key);
                    Ok(answer)
                }
            })?;
        let (public, private) = split(&answer)?;
        let private = match unexported {
            Some(key) => PrivateKey::Unexported(key),
            None if private.is_empty() => PrivateKey::Lost,
            None => PrivateKey::Exported(Zeroizing::new(private.to_vec())),
        };
        Ok(Box::new(EphemeralKey { group: self.name(), public: public.to_vec(), private }))
    }

    /// TLS 1.3: generated and used at once, so that the private key need not be known elsewhere.
    fn start_and_complete(&self, peer: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let answer = journaled(Operation::KeyExchange, || {
            // The library takes no source of entropy, but a key that was made from one.
            if journal::configured_entropy().is_some()
                && let Some(key) = ephemeral::generate(self.name())
            {
                let (public, private) = key?;
                return Ok(join(&public, &ephemeral::agree(self.name(), &private, peer)?));
            }
            let exchange = self.0.start_and_complete(peer)?;
            Ok(join(&exchange.pub_key, exchange.secret.secret_bytes()))
        })?;
        let (public, secret) = split(&answer)?;
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: public.to_vec(),
            secret: SharedSecret::from(secret),
        })
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        self.0.name()
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        self.0.usable_for_version(version)
    }
}

struct EphemeralKey {
    group: NamedGroup,
    public: Vec<u8>,
    private: PrivateKey,
}

enum PrivateKey {
    Exported(Zeroizing<Vec<u8>>),
    Unexported(Box<dyn ActiveKeyExchange>),
    /// It was not exported, and this is a replay.
    Lost,
}

impl ActiveKeyExchange for EphemeralKey {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let secret = journaled(Operation::Agree, || match self.private {
            PrivateKey::Exported(private) => ephemeral::agree(self.group, &private, peer),
            PrivateKey::Unexported(key) => {
                Ok(Zeroizing::new(key.complete(peer)?.secret_bytes().to_vec()))
            }
            PrivateKey::Lost => {
                journal::fail(Fault::KeyNotExported);
                Err(Error::General("the ephemeral key was not exported".into()))
            }
        })?;
        Ok(SharedSecret::from(&secret[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        self.group
    }
}

impl SigningKey for JournaledKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered)?;
        Some(Box::new(JournaledSigner(signer)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct JournaledSigner(Box<dyn Signer>);

impl Signer for JournaledSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = journaled(Operation::Sign, || self.0.sign(message).map(Zeroizing::new))?;
        Ok(signature.to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

impl<T: ProducesTickets> ProducesTickets for JournaledTickets<T> {
    fn enabled(&self) -> bool {
        self.tickets.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if self.only_full && journal::current(|context| context.ticket_opened) != Some(false) {
            return None;
        }
        optional(Operation::SealTicket, || self.tickets.encrypt(plain))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let opened = optional(Operation::OpenTicket, || self.tickets.decrypt(ticket))?;
        journal::current(|context| context.ticket_opened = true);
        Some(opened)
    }
}

impl TimeProvider for JournaledClock {
    fn current_time(&self) -> Option<UnixTime> {
        let answer = journaled(Operation::Clock, || {
            let now = self.0.current_time().ok_or(Error::FailedToGetCurrentTime)?;
            Ok(Zeroizing::new(now.as_secs().to_be_bytes().to_vec()))
        });
        let seconds = u64::from_be_bytes(answer.ok()?.as_slice().try_into().ok()?);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// Labels of the NSS key log format.
const CLIENT_SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_SECRET: &str = "SERVER_TRAFFIC_SECRET_0";

impl KeyLog for SecretCapture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        journal::current(|context| match label {
            CLIENT_SECRET => context.client_secret = Secret::from_bytes(secret),
            SERVER_SECRET => context.server_secret = Secret::from_bytes(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT_SECRET | SERVER_SECRET)
    }
}

/// An answer of two parts.
fn join(first: &[u8], second: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut answer = Zeroizing::new(Vec::with_capacity(PART_LEN + first.len() + second.len()));
    // Key shares are below 2 KiB. A longer one would be found out when it is split again.
    answer.extend_from_slice(&(first.len() as u16).to_be_bytes());
    answer.extend_from_slice(first);
    answer.extend_from_slice(second);
    answer
}

fn split(answer: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let parts = answer
        .split_first_chunk::<PART_LEN>()
        .and_then(|(len, parts)| parts.split_at_checked(usize::from(u16::from_be_bytes(*len))));
    parts.ok_or_else(|| {
        journal::fail(Fault::Diverged);
        Error::General("the journal does not fit the handshake".into())
    })
}
