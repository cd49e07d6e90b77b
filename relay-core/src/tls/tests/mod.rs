//! A rustls client against the handshake and the record layer.

mod client_auth;
mod config;
mod garbage;
mod handshake;
mod records;
mod replay;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::{Resumption, Tls12Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, NamedGroup, RootCertStore,
    SupportedProtocolVersion,
};

use super::*;

const TICKET_KEY: [u8; 32] = [7; 32];

/// Some time in 2023, away from the bounds of a ticket epoch.
const NOW: u64 = 1_700_000_000 / TICKET_LIFETIME as u64 * TICKET_LIFETIME as u64 + 60;

const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

const RING: bool = cfg!(not(feature = "aws-lc-rs"));

static ECDSA: LazyLock<Identity> =
    LazyLock::new(|| identity(&rcgen::PKCS_ECDSA_P256_SHA256, &["relay.test", "127.0.0.1"]));
static RSA: LazyLock<Identity> =
    LazyLock::new(|| identity(&rcgen::PKCS_RSA_SHA256, &["relay.test", "127.0.0.1"]));
static ED25519: LazyLock<Identity> =
    LazyLock::new(|| identity(&rcgen::PKCS_ED25519, &["relay.test"]));

/// A self-signed certificate.
fn identity(algorithm: &'static rcgen::SignatureAlgorithm, names: &[&str]) -> Identity {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Identity {
        certificate_chain_pem: certificate.pem().into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
    }
}

/// A clock that only moves when told to.
#[derive(Debug)]
struct Clock(AtomicU64);

impl Clock {
    fn at(seconds: u64) -> Arc<Clock> {
        Arc::new(Clock(AtomicU64::new(seconds)))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

fn options(identities: &[&Identity]) -> ServerOptions {
    ServerOptions {
        name: b"server".to_vec(),
        identities: identities.iter().copied().cloned().collect(),
        alpn: Vec::new(),
        client_auth: None,
        ticket_key: TICKET_KEY,
        clock: Clock::at(NOW),
        entropy: None,
    }
}

fn server(identities: &[&Identity]) -> ServerConfig {
    ServerConfig::new(options(identities)).unwrap()
}

/// What a client offers.
#[derive(Clone, Copy)]
struct Client<'a> {
    version: &'static SupportedProtocolVersion,
    suite: Option<CipherSuite>,
    groups: &'a [NamedGroup],
    trust: &'a Identity,
    certificate: Option<&'a Identity>,
    /// Resumes by session ids only (TLS 1.2).
    session_ids: bool,
}

impl<'a> Client<'a> {
    fn new(version: &'static SupportedProtocolVersion, trust: &'a Identity) -> Client<'a> {
        Client { version, suite: None, groups: &[], trust, certificate: None, session_ids: false }
    }

    fn config(&self) -> ClientConfig {
        let mut provider = rustls_crypto::default_provider();
        if let Some(suite) = self.suite {
            provider.cipher_suites.retain(|offered| offered.suite() == suite);
        }
        if !self.groups.is_empty() {
            let find =
                |name| *provider.kx_groups.iter().find(|group| group.name() == name).unwrap();
            provider.kx_groups = self.groups.iter().copied().map(find).collect();
        }
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&self.trust.certificate_chain_pem).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.certificate {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate_chain_pem, key_pem }) => {
                let chain = CertificateDer::pem_slice_iter(certificate_chain_pem);
                let chain = chain.collect::<Result<_, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_slice(key_pem).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.resumption = Resumption::in_memory_sessions(8);
        if self.session_ids {
            config.resumption = config.resumption.tls12_resumption(Tls12Resumption::SessionIdOnly);
        }
        config
    }

    fn connect(&self) -> ClientConnection {
        connect(&Arc::new(self.config()))
    }
}

fn connect(config: &Arc<ClientConfig>) -> ClientConnection {
    connect_to(config, "relay.test")
}

fn connect_to(config: &Arc<ClientConfig>, name: &str) -> ClientConnection {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

/// All that the client wants to send.
fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Gives the client all of `bytes`.
fn give(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

/// The plaintext that has arrived at the client.
fn received(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    // WouldBlock: that was all of it.
    let _ = client.reader().read_to_end(&mut bytes);
    bytes
}

/// Carries the handshake to its end. Returns the client's bytes that were not part of it.
fn shake(server: &mut Handshake, client: &mut ClientConnection) -> Vec<u8> {
    let mut pending = Vec::new();
    loop {
        pending.extend(sent(client));
        let mut output = Vec::new();
        let progress = server.handle(&pending, &mut output).unwrap();
        pending.drain(..progress.consumed);
        give(client, &output).unwrap();
        if progress.complete {
            return pending;
        }
        assert!(!output.is_empty(), "the handshake stalls");
    }
}

/// A whole handshake.
fn establish(config: &ServerConfig, client: &mut ClientConnection) -> Established {
    let mut server = Handshake::new(config).unwrap();
    assert!(shake(&mut server, client).is_empty());
    server.finish().unwrap()
}

/// Our side of an established connection.
struct Relay {
    sealer: Sealer,
    opener: Opener,
}

impl Relay {
    fn new(established: &Established) -> Relay {
        let Established { suite, send, receive, .. } = established;
        Relay {
            sealer: Sealer::new(*suite, send).unwrap(),
            opener: Opener::new(*suite, receive).unwrap(),
        }
    }

    fn send(&mut self, client: &mut ClientConnection, plain: &[u8]) {
        let mut wire = Vec::new();
        for piece in plain.chunks(MAX_PLAINTEXT) {
            let parts = piece.split_at(piece.len() / 3);
            self.sealer.seal(ContentType::ApplicationData, parts, &mut wire).unwrap();
        }
        give(client, &wire).unwrap();
    }

    fn receive(&mut self, mut wire: Vec<u8>) -> Vec<(ContentType, Vec<u8>)> {
        let mut records = Vec::new();
        let mut rest = &mut wire[..];
        while let Some(len) = record_header(rest).unwrap() {
            let (record, behind) = rest.split_at_mut(len);
            let (kind, plain) = self.opener.open(record).unwrap();
            records.push((kind, plain.to_vec()));
            rest = behind;
        }
        records
    }

    /// Data both ways, larger than one record.
    fn exchange(&mut self, client: &mut ClientConnection) {
        let down: Vec<u8> = (0..3 * MAX_PLAINTEXT + 5).map(|i| (i % 251) as u8).collect();
        for piece in down.chunks(20_000) {
            self.send(client, piece);
            assert_eq!(received(client), piece);
        }
        let up: Vec<u8> = down.iter().rev().copied().collect();
        client.writer().write_all(&up[..40_000]).unwrap();
        let records = self.receive(sent(client));
        assert!(records.iter().all(|(kind, _)| *kind == ContentType::ApplicationData));
        let arrived: Vec<u8> = records.into_iter().flat_map(|(_, plain)| plain).collect();
        assert_eq!(arrived, &up[..40_000]);
    }
}

/// A seeded generator (SplitMix64).
#[derive(Debug)]
struct Random(AtomicU64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(AtomicU64::new(seed))
    }

    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

impl SecureRandom for Random {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        buffer.fill_with(|| self.next() as u8);
        Ok(())
    }
}
