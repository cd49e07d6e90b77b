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

use crate::plan::{Groups, Resumption, Version};
use crate::random::{Entropy, Random};
use crate::script::ServerKey;

/// The name in the relays' certificate.
pub const SERVER_NAME: &str = "relay.test";

/// A fixed Ed25519 key, so that the same seed gives the same bytes in every process.
const KEY_PEM: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIIPrAZuSP6iP9kXaLM51/uFTBr0W7FKOC5UpFVWT/nHJ
-----END PRIVATE KEY-----
";

/// Another one, for every other configuration of the relays.
const NEXT_PEM: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIF3p+vfqRY4dl1Xa/DDtQ1a5nCD9MAgpNaErrZOngcrW
-----END PRIVATE KEY-----
";

/// Others, for the relays alone.
const ECDSA_PEM: &str = include_str!("keys/ecdsa.pem");
const RSA_PEM: &str = include_str!("keys/rsa.pem");

/// One for each kind of key, in their order, and that of every other configuration.
static CERTIFICATE_PEMS: LazyLock<[String; 4]> = LazyLock::new(|| {
    [KEY_PEM, ECDSA_PEM, RSA_PEM, NEXT_PEM].map(|key| certificate(SERVER_NAME, key))
});

/// The clients'.
static CLIENT_CERTIFICATE_PEM: LazyLock<String> =
    LazyLock::new(|| certificate("client.test", KEY_PEM));

/// Clients of one kind know each other's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub version: Version,
    pub resumption: Resumption,
    pub groups: Groups,
    /// They show a certificate.
    pub certified: bool,
}

/// Sessions that are kept for each server; there is one.
const SESSIONS_MAX: usize = 8;

fn certificate(name: &str, key: &str) -> String {
    let key = rcgen::KeyPair::from_pem(key).expect("one of the keys above");
    let parameters = rcgen::CertificateParams::new([name.to_owned()]).expect("one name");
    parameters.self_signed(&key).expect("it signs").pem()
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

/// What a relay serves with under a generation of the configuration; `random` is the relay's own.
pub fn server(
    random: Random,
    (key, generation): (ServerKey, u64),
    client_auth: bool,
) -> ServerConfig {
    let (index, key_pem) = match key {
        _ if generation % 2 == 1 => (3, NEXT_PEM),
        ServerKey::Ed25519 => (0, KEY_PEM),
        ServerKey::EcdsaP256 => (1, ECDSA_PEM),
        ServerKey::Rsa2048 => (2, RSA_PEM),
    };
    let certificate_chain_pem = CERTIFICATE_PEMS[index].clone().into_bytes();
    let identity = Identity { certificate_chain_pem, key_pem: key_pem.into() };
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

fn client_config(kind: Kind) -> ClientConfig {
    let Kind { version, resumption, groups, certified } = kind;
    let version = match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let mut roots = RootCertStore::empty();
    for pem in CERTIFICATE_PEMS.iter() {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes());
        let certificate = certificate.expect("PEM that rcgen wrote");
        roots.add(certificate).expect("a certificate that rcgen made");
    }
    let crypto = CryptoProvider {
        kx_groups: match groups {
            Groups::X25519 => vec![&SeededX25519],
            Groups::Hybrid => vec![provider::kx_group::X25519MLKEM768, &SeededX25519],
            Groups::Retry => vec![&Unwanted, &SeededX25519],
        },
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

/// A group that relays do not have, so that its share is never looked at.
#[derive(Debug)]
struct Unwanted;

/// Length of a share of secp521r1 (RFC 8446 section 4.2.8.2).
const UNWANTED_SHARE: usize = 133;

impl SupportedKxGroup for Unwanted {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut share = vec![4; UNWANTED_SHARE];
        RANDOM.with_borrow_mut(|random| random.fill(&mut share[1..]));
        Ok(Box::new(UnwantedShare(share)))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

struct UnwantedShare(Vec<u8>);

impl ActiveKeyExchange for UnwantedShare {
    fn complete(self: Box<Self>, _peer: &[u8]) -> Result<SharedSecret, Error> {
        Err(PeerMisbehaved::InvalidKeyShare.into())
    }

    fn pub_key(&self) -> &[u8] {
        &self.0
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
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
