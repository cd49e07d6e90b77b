//! The client's TLS, which is rustls with seeded keys, and the certificate that it trusts.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use relay_core::tls::{ClientAuth, Identity, ServerConfig, ServerOptions};
use rustls::client::Tls12Resumption;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup, aws_lc_rs as provider,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, Error, NamedGroup, PeerMisbehaved, RootCertStore};

use crate::plan::{Resumption, Version};
use crate::random::{Entropy, Random};

/// The name in the relays' certificate.
pub const SERVER_NAME: &str = "relay.test";

/// A fixed Ed25519 key, so that the same seed gives the same bytes in every process.
const KEY_PEM: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIIPrAZuSP6iP9kXaLM51/uFTBr0W7FKOC5UpFVWT/nHJ
-----END PRIVATE KEY-----
";

static CERTIFICATE_PEM: LazyLock<String> = LazyLock::new(|| certificate(SERVER_NAME));

/// The clients'.
static CLIENT_CERTIFICATE_PEM: LazyLock<String> = LazyLock::new(|| certificate("client.test"));

/// Clients of one kind know each other's sessions: version, resumption, and whether they show a
/// certificate.
pub type Kind = (Version, Resumption, bool);

/// Sessions that are kept for each server; there is one.
const SESSIONS_MAX: usize = 8;

fn certificate(name: &str) -> String {
    let key = rcgen::KeyPair::from_pem(KEY_PEM).expect("the key above");
    let parameters = rcgen::CertificateParams::new([name.to_owned()]).expect("one name");
    parameters.self_signed(&key).expect("Ed25519 always signs").pem()
}

thread_local! {
    static RANDOM: RefCell<Random> = RefCell::new(Random::new(0));
    static CONFIGS: RefCell<Vec<(Kind, Arc<ClientConfig>)>> = const { RefCell::new(Vec::new()) };
}

/// Seeds all clients of this thread, which keep no session of before.
pub fn seed_clients(random: Random) {
    CONFIGS.with_borrow_mut(Vec::clear);
    RANDOM.with_borrow_mut(|slot| *slot = random);
}

/// What a relay serves with; `random` is the relay's own.
pub fn server(random: Random, client_auth: bool) -> ServerConfig {
    let identity = Identity {
        certificate_chain_pem: CERTIFICATE_PEM.clone().into_bytes(),
        key_pem: KEY_PEM.into(),
    };
    let options = ServerOptions {
        name: b"service".to_vec(),
        identities: vec![identity],
        alpn: Vec::new(),
        client_auth: client_auth.then(|| ClientAuth {
            authorities_pem: CLIENT_CERTIFICATE_PEM.clone().into_bytes(),
            required: true,
        }),
        ticket_key: [3; 32],
        clock: Arc::new(StoppedClock),
        entropy: Some(Arc::new(Entropy::new(random))),
    };
    ServerConfig::new(options).expect("a valid configuration")
}

/// A client that asks for `name`.
pub fn client(kind: Kind, name: &'static str) -> ClientConnection {
    let config = CONFIGS.with_borrow_mut(|configs| {
        if let Some((_, config)) = configs.iter().find(|(other, _)| *other == kind) {
            return Arc::clone(config);
        }
        let config = Arc::new(client_config(kind));
        configs.push((kind, Arc::clone(&config)));
        config
    });
    let name = ServerName::try_from(name).expect("a DNS name");
    ClientConnection::new(config, name).expect("a valid configuration")
}

fn client_config((version, resumption, certified): Kind) -> ClientConfig {
    let version = match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE_PEM.as_bytes());
    roots.add(certificate.expect("PEM that rcgen wrote")).expect("a certificate that rcgen made");
    let crypto = CryptoProvider {
        kx_groups: vec![&SeededX25519],
        secure_random: &SeededRandom,
        ..provider::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto))
        .with_protocol_versions(&[version])
        .expect("a version that the provider has")
        .with_root_certificates(roots);
    let mut config = match certified {
        false => builder.with_no_client_auth(),
        true => {
            let certificate = CertificateDer::from_pem_slice(CLIENT_CERTIFICATE_PEM.as_bytes());
            let chain = vec![certificate.expect("PEM that rcgen wrote")];
            let key = PrivateKeyDer::from_pem_slice(KEY_PEM.as_bytes()).expect("the key above");
            builder.with_client_auth_cert(chain, key).expect("they belong together")
        }
    };
    config.time_provider = Arc::new(StoppedClock);
    let kept = || rustls::client::Resumption::in_memory_sessions(SESSIONS_MAX);
    config.resumption = match resumption {
        Resumption::Never => rustls::client::Resumption::disabled(),
        Resumption::Ticket => kept(),
        Resumption::SessionId => kept().tls12_resumption(Tls12Resumption::SessionIdOnly),
    };
    config
}

/// The wall clock of the relays.
#[derive(Debug)]
struct StoppedClock;

impl TimeProvider for StoppedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_700_000_000)))
    }
}

#[derive(Debug)]
struct SeededRandom;

impl SecureRandom for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        RANDOM.with_borrow_mut(|random| random.fill(buffer));
        Ok(())
    }
}

#[derive(Debug)]
struct SeededX25519;

impl SupportedKxGroup for SeededX25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut seed = [0; 32];
        RANDOM.with_borrow_mut(|random| random.fill(&mut seed));
        let private = PrivateKey::from_private_key(&X25519, &seed).map_err(|_| GetRandomFailed)?;
        let public = private.compute_public_key().map_err(|_| GetRandomFailed)?.as_ref().to_vec();
        Ok(Box::new(KeyShare { private, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct KeyShare {
    private: PrivateKey,
    public: Vec<u8>,
}

impl ActiveKeyExchange for KeyShare {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = UnparsedPublicKey::new(&X25519, peer);
        let invalid = PeerMisbehaved::InvalidKeyShare;
        agreement::agree(&self.private, peer, invalid.into(), |secret| Ok(secret.into()))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
