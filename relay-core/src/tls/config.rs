//! What a TLS server is configured with, and the choice of a certificate.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::crypto::SecureRandom;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;

use super::client_auth::{self, ClientAuth, ClientAuthError};
use super::crypto::digest;
use super::journal::{self, Environment};
use super::provider::{
    JournaledClock, JournaledKey, JournaledTickets, SecretCapture, journaled_provider,
};
use super::rustls_crypto;
use super::sessions::{JournaledSessions, Sessions};
use super::ticket::ClusterTickets;

/// Most identities of one server.
pub const MAX_IDENTITIES: usize = 4096;

/// Most ALPN protocols (RFC 7301) that a server offers; each has 1 to 255 bytes.
pub const MAX_ALPN_PROTOCOLS: usize = 16;

/// Longest certificate chain, in bytes of DER. It is sent in every full handshake, and kept with the
/// handshake until that is complete; four certificates with RSA-4096 keys need 8 KiB.
pub const MAX_CERTIFICATE_CHAIN: usize = 32 * 1024;

/// Tickets sent after a full TLS 1.3 handshake. Clients use each once, browsers open connections
/// in pairs.
const TICKETS: usize = 2;

/// A digest of what a client must meet again to resume a session: the server's name in the cluster
/// and its demands on clients. rustls itself compares the name that the client asks for.
pub(super) type Binding = [u8; 32];

/// What a server is made of.
#[derive(Clone)]
pub struct ServerOptions {
    /// Tells the servers of a cluster apart, at every relay in the same way: a session of one is
    /// never resumed at another.
    pub name: Vec<u8>,
    /// Certificates and their keys, chosen by the name that the client asks for (SNI, RFC 6066
    /// section 3). Several may have the same name and keys of different kinds. A client that asks
    /// for no name is shown the first, one that asks for an unknown name gets an alert.
    pub identities: Vec<Identity>,
    /// The protocols to choose from, the preferred one first (ALPN, RFC 7301). None: no choice is
    /// made. A client that offers none of them gets an alert.
    pub alpn: Vec<Vec<u8>>,
    /// Whether clients are asked for a certificate; None: they are not.
    pub client_auth: Option<ClientAuth>,
    /// A secret that all relays of the cluster share: a ticket made at one opens at every other.
    pub ticket_key: [u8; 32],
    /// The wall clock: dates tickets.
    pub clock: Arc<dyn TimeProvider>,
    /// Replaces the system's randomness. With it, with aws-lc-rs, an Ed25519 key and X25519, the
    /// output is a function of the input: for the simulator.
    pub entropy: Option<Arc<dyn SecureRandom>>,
}

/// A certificate and its private key.
#[derive(Clone)]
pub struct Identity {
    /// PEM: the server's certificate first, then the intermediate ones.
    pub certificate_chain_pem: Vec<u8>,
    /// PEM: the private key, as PKCS#8, SEC1 or PKCS#1. ECDSA (P-256, P-384, P-521), RSA, Ed25519.
    pub key_pem: Vec<u8>,
}

/// Why a server cannot be configured, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no identity.
    #[error("no certificate is configured: name at least one certificate and its key")]
    NoIdentity,
    /// There are too many identities.
    #[error("{0} certificates are configured, the limit is {MAX_IDENTITIES}")]
    TooManyIdentities(usize),
    /// One identity cannot be used.
    #[error("certificate {}: {problem}", index + 1)]
    Identity {
        /// Which one, counted from 0.
        index: usize,
        /// What is wrong with it.
        problem: IdentityError,
    },
    /// An ALPN protocol is empty or too long, or there are too many of them.
    #[error("ALPN takes at most {MAX_ALPN_PROTOCOLS} protocols of 1 to 255 bytes, like \"h2\"")]
    Alpn,
    /// Client certificates cannot be verified.
    #[error("client_ca: {0}")]
    ClientAuth(#[from] ClientAuthError),
    /// rustls refuses what the provider supports.
    #[error("TLS library: {0}")]
    Library(rustls::Error),
}

/// What is wrong with an identity, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate file is not PEM.
    #[error("the certificate file is not PEM ({0}): it must have BEGIN CERTIFICATE lines")]
    CertificatePem(rustls::pki_types::pem::Error),
    /// The certificate file has no certificate.
    #[error("the certificate file has no certificate: it must have BEGIN CERTIFICATE lines")]
    NoCertificate,
    /// The chain is longer than [`MAX_CERTIFICATE_CHAIN`].
    #[error(
        "the certificate chain has {0} bytes, the limit is {MAX_CERTIFICATE_CHAIN}: leave out what \
         is not an intermediate certificate of the first one"
    )]
    ChainTooLong(usize),
    /// The server's certificate does not parse.
    #[error("the first certificate is damaged or not X.509 version 3 ({0})")]
    Certificate(webpki::Error),
    /// The key is encrypted.
    #[error("the key file is encrypted: decrypt it with `openssl pkey -in FILE -out NEW`")]
    KeyEncrypted,
    /// The key file has no key.
    #[error("the key file has no private key ({0}): it must have a BEGIN PRIVATE KEY line")]
    KeyPem(rustls::pki_types::pem::Error),
    /// The key is damaged or of an unsupported kind.
    #[error("the key cannot be used ({0}): use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 bits")]
    Key(rustls::Error),
    /// The key belongs to another certificate.
    #[error(
        "the key does not belong to the first certificate of the chain: the server's certificate \
         comes first, and the key is the one that it was issued for"
    )]
    KeyMismatch,
    /// Only the first identity can do without names: others would never be chosen.
    #[error(
        "the certificate has no DNS name (subjectAltName), so that no client could choose it: put \
         it first, or have it issued with one"
    )]
    NoName,
}

/// A configured TLS 1.3 and 1.2 server. Cheap to clone.
#[derive(Clone)]
pub struct ServerConfig {
    pub(super) tls: Arc<rustls::ServerConfig>,
    pub(super) environment: Environment,
}

impl ServerConfig {
    /// Checks `options`, and that every key belongs to its certificate.
    pub fn new(options: ServerOptions) -> Result<ServerConfig, ConfigError> {
        let ServerOptions { name, identities, alpn, client_auth, ticket_key, clock, entropy } =
            options;
        let bad_alpn = |protocol: &Vec<u8>| protocol.is_empty() || protocol.len() > 255;
        if alpn.len() > MAX_ALPN_PROTOCOLS || alpn.iter().any(bad_alpn) {
            return Err(ConfigError::Alpn);
        }
        let identities = Identities::new(&identities)?;
        let provider = Arc::new(journaled_provider());
        let (verifier, demands) = client_auth::verifier(client_auth.as_ref(), &provider)?;
        let binding = binding(&name, &demands);
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(ConfigError::Library)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(identities));
        tls.alpn_protocols = alpn;
        tls.enable_secret_extraction = true;
        tls.key_log = Arc::new(SecretCapture);
        // 0-RTT stays off: a replayed request would run twice (RFC 8446 section 8).
        tls.max_early_data_size = 0;
        tls.send_tls13_tickets = TICKETS;
        tls.session_storage = Arc::new(JournaledSessions { binding, clock: Arc::clone(&clock) });
        tls.ticketer = Arc::new(JournaledTickets {
            tickets: ClusterTickets::new(ticket_key, binding, Arc::clone(&clock)),
            only_full: client_auth.is_some(),
        });
        tls.time_provider = Arc::new(JournaledClock(clock));
        let environment = Environment { entropy, sessions: Some(Sessions::default()) };
        Ok(ServerConfig { tls: Arc::new(tls), environment })
    }

    /// From here on sessions are kept in `sessions`, which all servers of a node share.
    pub fn keep_sessions_in(&mut self, sessions: &Sessions) {
        self.environment.sessions = Some(sessions.clone());
    }
}

fn binding(name: &[u8], demands: &[u8]) -> Binding {
    let mut bound = (name.len() as u64).to_be_bytes().to_vec();
    bound.extend_from_slice(name);
    bound.extend_from_slice(demands);
    let mut binding = Binding::default();
    binding.copy_from_slice(digest::digest(&digest::SHA256, &bound).as_ref());
    binding
}

/// The identities and their names.
#[derive(Debug)]
struct Identities {
    keys: Vec<Arc<CertifiedKey>>,
    /// Lower-case DNS name, or `*.` and the rest of the name, to the identities that have it.
    by_name: BTreeMap<String, Vec<usize>>,
}

impl Identities {
    fn new(identities: &[Identity]) -> Result<Identities, ConfigError> {
        if identities.is_empty() {
            return Err(ConfigError::NoIdentity);
        }
        if identities.len() > MAX_IDENTITIES {
            return Err(ConfigError::TooManyIdentities(identities.len()));
        }
        let mut loaded = Identities { keys: Vec::new(), by_name: BTreeMap::new() };
        for (index, identity) in identities.iter().enumerate() {
            let problem = |problem| ConfigError::Identity { index, problem };
            let (key, names) = load(identity).map_err(problem)?;
            if names.is_empty() && index > 0 {
                return Err(problem(IdentityError::NoName));
            }
            loaded.keys.push(Arc::new(key));
            for name in names {
                loaded.by_name.entry(name).or_default().push(index);
            }
        }
        Ok(loaded)
    }

    /// The identities that may answer for `name`. An exact match goes before a wildcard, which
    /// stands for exactly one label (RFC 9525 section 6.3).
    fn named(&self, name: &str) -> Option<&[usize]> {
        let name = name.to_ascii_lowercase();
        let exact = self.by_name.get(&name);
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        exact.or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(name) = hello.server_name() else { return self.keys.first().cloned() };
        let Some(candidates) = self.named(name) else {
            journal::current(|context| context.name_unknown = true);
            return None;
        };
        let usable =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let mut keys = candidates.iter().filter_map(|index| self.keys.get(*index));
        // Without a usable one rustls still has to tell the client why, given any.
        let fallback = keys.clone().next();
        keys.find(usable).or(fallback).cloned()
    }
}

/// The certified key and the DNS names of its certificate.
fn load(identity: &Identity) -> Result<(CertifiedKey, Vec<String>), IdentityError> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&identity.certificate_chain_pem)
            .collect::<Result<_, _>>()
            .map_err(IdentityError::CertificatePem)?;
    let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
    let chain_len = chain.iter().map(|certificate| certificate.len()).sum();
    if chain_len > MAX_CERTIFICATE_CHAIN {
        return Err(IdentityError::ChainTooLong(chain_len));
    }
    let parsed = webpki::EndEntityCert::try_from(leaf).map_err(IdentityError::Certificate)?;
    let names = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();

    let encrypted = b"BEGIN ENCRYPTED PRIVATE KEY";
    let key = PrivateKeyDer::from_pem_slice(&identity.key_pem).map_err(|error| {
        if identity.key_pem.windows(encrypted.len()).any(|bytes| bytes == encrypted) {
            IdentityError::KeyEncrypted
        } else {
            IdentityError::KeyPem(error)
        }
    })?;
    let key = rustls_crypto::sign::any_supported_type(&key).map_err(IdentityError::Key)?;
    let certified = CertifiedKey::new(chain, Arc::new(JournaledKey(key)));
    certified.keys_match().map_err(|_| IdentityError::KeyMismatch)?;
    Ok((certified, names))
}
