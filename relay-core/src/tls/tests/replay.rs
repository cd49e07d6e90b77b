//! A handshake goes on at another relay, whenever the first one dies.

use super::client_auth::client_auth;
use super::*;
use crate::tls::journal::HEADER;

/// Another relay of the same cluster: its own configuration, and a clock that is ahead.
fn another(identity: &Identity) -> ServerConfig {
    let clock = Clock::at(NOW + 3 * 3600);
    ServerConfig::new(ServerOptions { clock, ..options(&[identity]) }).unwrap()
}

/// What the client offers; the server knows all groups, so a group that is offered without a share
/// causes a HelloRetryRequest.
fn offers() -> Vec<(&'static SupportedProtocolVersion, &'static Identity, Vec<NamedGroup>)> {
    use NamedGroup::*;
    let mut offers = Vec::new();
    for version in [TLS12, TLS13] {
        for identity in [&*ECDSA, &*RSA, &*ED25519] {
            for group in [X25519, secp256r1, secp384r1] {
                offers.push((version, identity, vec![group]));
            }
        }
    }
    if !RING {
        offers.push((TLS13, &*ECDSA, vec![X25519MLKEM768]));
    }
    offers
}

/// Runs a handshake whose relay dies after every `stride` bytes of the client's, and compares what
/// each knows with what the next finds out.
fn run(relays: [&ServerConfig; 2], client: &mut ClientConnection, stride: usize) -> Vec<u8> {
    let mut handshake = Handshake::new(relays[0]).unwrap();
    let (mut pending, mut takeovers, mut complete) = (Vec::new(), 0, false);
    while !complete {
        let bytes = sent(client);
        assert!(!bytes.is_empty(), "the handshake stalls");
        for piece in bytes.chunks(stride) {
            pending.extend(piece);
            let mut output = Vec::new();
            let progress = handshake.handle(&pending, &mut output).unwrap();
            pending.drain(..progress.consumed);
            give(client, &output).unwrap();
            complete = progress.complete;

            takeovers += 1;
            let relay = relays[takeovers % 2];
            let next = Handshake::replay(relay, handshake.input(), handshake.journal()).unwrap();
            assert_eq!(next.input(), handshake.input());
            assert_eq!(next.output(), handshake.output());
            assert_eq!(next.journal(), handshake.journal());
            if complete {
                // Both know the same keys.
                let last = Handshake::replay(relays[0], next.input(), next.journal()).unwrap();
                assert_eq!(last.finish().unwrap(), handshake.finish().unwrap());
            }
            handshake = next;
        }
    }
    assert!(pending.is_empty());
    let journal = handshake.journal().to_vec();
    Relay::new(&handshake.finish().unwrap()).exchange(client);
    journal
}

#[test]
fn a_handshake_survives_takeovers_anywhere() {
    for (version, identity, groups) in offers() {
        if RING && version == TLS12 {
            continue;
        }
        let relays = [server(&[identity]), another(identity)];
        for stride in [usize::MAX, 700, 61, 1] {
            if stride == 1 && std::ptr::eq(identity, &*RSA) {
                continue; // Signatures take long, and are replayed like any other.
            }
            let offer = Client { groups: &groups, ..Client::new(version, identity) };
            let config = Arc::new(offer.config());
            for resumed in [false, true] {
                let mut client = connect(&config);
                let journal = run([&relays[0], &relays[1]], &mut client, stride);
                assert!(journal.len() < 2200, "{} bytes", journal.len());
                let kind = client.handshake_kind().unwrap();
                assert_eq!(kind == rustls::HandshakeKind::Resumed, resumed);
            }
        }
    }
}

#[test]
fn mutual_tls_survives_takeovers_anywhere() {
    let certificate = identity(&rcgen::PKCS_ECDSA_P256_SHA256, &["client.test"]);
    let client_auth = client_auth(&certificate, true);
    for (version, identity, groups) in offers() {
        if RING && version == TLS12 {
            continue;
        }
        let with = |seconds| {
            let (clock, client_auth) = (Clock::at(seconds), client_auth.clone());
            ServerConfig::new(ServerOptions { clock, client_auth, ..options(&[identity]) }).unwrap()
        };
        let relays = [with(NOW), with(NOW + 3 * 3600)];
        for stride in [usize::MAX, 301, 61] {
            let certificate = Some(&certificate);
            let offer = Client { groups: &groups, certificate, ..Client::new(version, identity) };
            let config = Arc::new(offer.config());
            for resumed in [false, true] {
                let mut client = connect(&config);
                run([&relays[0], &relays[1]], &mut client, stride);
                let kind = client.handshake_kind().unwrap();
                assert_eq!(kind == rustls::HandshakeKind::Resumed, resumed);
            }
        }
    }
}

/// A replay stores the session, too, and needs no store to resume one.
#[test]
fn resumption_by_session_id_survives_takeovers_anywhere() {
    if RING {
        return;
    }
    let certificate = identity(&rcgen::PKCS_ECDSA_P256_SHA256, &["client.test"]);
    for (identity, mutual) in [(&*ECDSA, false), (&*RSA, false), (&*ECDSA, true)] {
        let auth = mutual.then(|| client_auth(&certificate, true).unwrap());
        let with = |clock| {
            let client_auth = auth.clone();
            ServerConfig::new(ServerOptions { clock, client_auth, ..options(&[identity]) }).unwrap()
        };
        let relays = [with(Clock::at(NOW)), with(Clock::at(NOW + 3 * 3600))];
        let certificate = mutual.then_some(&certificate);
        for stride in [usize::MAX, 61, 1] {
            let offer = Client { certificate, session_ids: true, ..Client::new(TLS12, identity) };
            let config = Arc::new(offer.config());
            for resumed in [false, true] {
                let mut client = connect(&config);
                run([&relays[0], &relays[1]], &mut client, stride);
                let kind = client.handshake_kind().unwrap();
                assert_eq!(kind == rustls::HandshakeKind::Resumed, resumed);
            }
            let blank = with(Clock::at(NOW));
            let mut client = connect(&config);
            let mut handshake = Handshake::new(&relays[0]).unwrap();
            handshake.handle(&sent(&mut client), &mut Vec::new()).unwrap();
            let (input, journal) = (handshake.input(), handshake.journal());
            let next = Handshake::replay(&blank, input, journal).unwrap();
            assert_eq!(next.output(), handshake.output());
        }
    }
}

#[test]
fn hello_retry_request_survives_takeovers() {
    use NamedGroup::*;
    let relays = [server(&[&ECDSA]), another(&ECDSA)];
    // The client sends a share of its first group only, which the server does not have.
    let offer = Client::new(TLS13, &ECDSA);
    let mut config = offer.config();
    let mut provider = (**config.crypto_provider()).clone();
    let known = provider.kx_groups.iter().find(|group| group.name() == secp256r1).copied();
    provider.kx_groups = vec![&UnknownGroup, known.unwrap()];
    let resumption = config.resumption.clone();
    config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(offer_verifier(&offer))
        .with_no_client_auth();
    config.resumption = resumption;
    let config = Arc::new(config);
    for stride in [usize::MAX, 61, 1] {
        let mut client = connect(&config);
        run([&relays[0], &relays[1]], &mut client, stride);
        let kind = client.handshake_kind().unwrap();
        assert_ne!(kind, rustls::HandshakeKind::Full);
    }
}

fn offer_verifier(offer: &Client<'_>) -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&offer.trust.certificate_chain_pem).unwrap()).unwrap();
    let provider = Arc::new(rustls_crypto::default_provider());
    rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap()
}

/// A group that only the client has.
#[derive(Debug)]
struct UnknownGroup;

impl rustls::crypto::SupportedKxGroup for UnknownGroup {
    fn start(&self) -> Result<Box<dyn rustls::crypto::ActiveKeyExchange>, rustls::Error> {
        Ok(Box::new(UnknownGroup))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::Unknown(0xfe00)
    }
}

impl rustls::crypto::ActiveKeyExchange for UnknownGroup {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<rustls::crypto::SharedSecret, rustls::Error> {
        unreachable!("no server has it")
    }

    fn pub_key(&self) -> &[u8] {
        &[1; 32]
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::Unknown(0xfe00)
    }
}

/// Input and journal of a complete handshake.
fn recorded(version: &'static SupportedProtocolVersion) -> (Vec<u8>, Vec<u8>, Handshake) {
    let mut handshake = Handshake::new(&server(&[&ECDSA])).unwrap();
    shake(&mut handshake, &mut Client::new(version, &ECDSA).connect());
    (handshake.input().to_vec(), handshake.journal().to_vec(), handshake)
}

#[test]
fn a_damaged_journal_is_noticed() {
    let config = server(&[&ECDSA]);
    for version in [TLS12, TLS13] {
        let (input, journal, original) = recorded(version);
        let output = original.output().to_vec();
        let established = original.finish().unwrap();
        for at in 0..journal.len() {
            let truncated = Handshake::replay(&config, &input, &journal[..at]);
            assert!(truncated.is_err(), "{at} of {} bytes suffice", journal.len());
            for bit in [0, 7] {
                let mut damaged = journal.clone();
                damaged[at] ^= 1 << bit;
                // What changes nothing may pass: the time inside of a ticket, say.
                if let Ok(replayed) = Handshake::replay(&config, &input, &damaged) {
                    assert_eq!(replayed.output(), output, "byte {at}");
                    assert_eq!(replayed.finish().unwrap(), established, "byte {at}");
                }
            }
        }
        let longer = [&journal[..], &[1, 0, 0]].concat();
        let replayed = Handshake::replay(&config, &input, &longer);
        assert!(matches!(replayed, Err(HandshakeError::Diverged)));
    }
}

#[test]
fn input_and_journal_belong_together() {
    let config = server(&[&ECDSA]);
    for version in [TLS12, TLS13] {
        let (input, journal, _) = recorded(version);
        let shorter = record_header(&input).unwrap().unwrap();
        for len in [0, shorter, input.len() - 1] {
            let replayed = Handshake::replay(&config, &input[..len], &journal);
            assert!(matches!(replayed, Err(HandshakeError::Diverged)), "{len} bytes");
        }
        let longer = [&input[..], &[23]].concat();
        let replayed = Handshake::replay(&config, &longer, &journal);
        assert!(matches!(replayed, Err(HandshakeError::Diverged)));
        let (other, ..) = recorded(version);
        assert!(Handshake::replay(&config, &other, &journal).is_err());
        // Another certificate makes another output.
        let replayed = Handshake::replay(&server(&[&ED25519]), &input, &journal);
        assert!(replayed.is_err());
        let stranger = identity(&rcgen::PKCS_ECDSA_P256_SHA256, &["relay.test"]);
        let replayed = Handshake::replay(&server(&[&stranger]), &input, &journal);
        assert!(matches!(replayed, Err(HandshakeError::Diverged)));
    }
    assert!(Handshake::replay(&config, &[], &[]).is_err());
    let start = Handshake::replay(&config, &[], &HEADER).unwrap();
    assert_eq!(start.journal(), Handshake::new(&config).unwrap().journal());
}

#[test]
fn the_journal_pins_the_version_of_rustls() {
    let [_, major, minor, patch] = HEADER;
    let lock = include_str!("../../../../Cargo.lock");
    let pinned = format!("name = \"rustls\"\nversion = \"{major}.{minor}.{patch}\"\n");
    assert!(lock.contains(&pinned), "give the journal's HEADER the version in Cargo.lock");
}

/// ring: before and after the client's key share, but not while it is awaited.
#[test]
fn tls12_goes_on_elsewhere_if_its_key_can() {
    let config = server(&[&ECDSA]);
    let mut client = Client::new(TLS12, &ECDSA).connect();
    let mut handshake = Handshake::new(&config).unwrap();
    let mut output = Vec::new();
    handshake.handle(&sent(&mut client), &mut output).unwrap();
    give(&mut client, &output).unwrap();
    let (input, journal) = (handshake.input().to_vec(), handshake.journal().to_vec());
    let mut elsewhere = Handshake::replay(&config, &input, &journal).unwrap();
    let finished = sent(&mut client);
    let result = elsewhere.handle(&finished, &mut output);
    assert_eq!(result.is_err(), RING);
    if let Err(error) = result {
        assert!(matches!(error, HandshakeError::KeyNotExported), "{error}");
    }
    let progress = handshake.handle(&finished, &mut Vec::new()).unwrap();
    assert!(progress.complete);
    let done = Handshake::replay(&config, handshake.input(), handshake.journal()).unwrap();
    assert_eq!(done.finish().unwrap(), handshake.finish().unwrap());
}
