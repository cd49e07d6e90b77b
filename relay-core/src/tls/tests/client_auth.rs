//! Client certificates, and that no session gets around them.

use super::*;
use rustls::{AlertDescription, HandshakeKind};

/// A client of which [`client_auth`] of itself knows.
static CLIENT: LazyLock<Identity> =
    LazyLock::new(|| identity(&rcgen::PKCS_ECDSA_P256_SHA256, &["client.test"]));
static STRANGER: LazyLock<Identity> =
    LazyLock::new(|| identity(&rcgen::PKCS_ECDSA_P256_SHA256, &["stranger.test"]));

/// Takes clients whose certificate is `authority`.
pub(super) fn client_auth(authority: &Identity, required: bool) -> Option<ClientAuth> {
    let authorities_pem = authority.certificate_chain_pem.clone();
    Some(ClientAuth { authorities_pem, required })
}

fn asking(client_auth: Option<ClientAuth>) -> ServerConfig {
    ServerConfig::new(ServerOptions { client_auth, ..options(&[&ECDSA]) }).unwrap()
}

/// The client's view of a handshake: how it was done, or the alert.
fn shake_hands(
    config: &ServerConfig,
    client: &mut ClientConnection,
) -> Result<HandshakeKind, rustls::Error> {
    let mut server = Handshake::new(config).unwrap();
    let mut pending = Vec::new();
    loop {
        pending.extend(sent(client));
        let mut output = Vec::new();
        let result = server.handle(&pending, &mut output);
        give(client, &output)?;
        let progress = result.expect("the client is told");
        pending.drain(..progress.consumed);
        if progress.complete {
            Relay::new(&server.finish().unwrap()).exchange(client);
            return Ok(client.handshake_kind().unwrap());
        }
    }
}

#[test]
fn certificates_are_demanded_and_verified() {
    // The stranger's authority has the name of the client's, but another key.
    let wrong_key = Some(AlertDescription::DecryptError);
    for version in [TLS12, TLS13] {
        for (required, certificate, alert) in [
            (true, Some(&*CLIENT), None),
            (true, None, Some(AlertDescription::CertificateRequired)),
            (true, Some(&*STRANGER), wrong_key),
            (false, Some(&*CLIENT), None),
            (false, None, None),
            (false, Some(&*STRANGER), wrong_key),
        ] {
            let config = asking(client_auth(&CLIENT, required));
            let mut client = Client { certificate, ..Client::new(version, &ECDSA) }.connect();
            let alert = alert.map(rustls::Error::AlertReceived);
            assert_eq!(shake_hands(&config, &mut client).err(), alert);
        }
    }
}

/// All that a session of one server must not be resumed at. The first two are equal.
fn servers() -> Vec<ServerOptions> {
    let with = |name: &[u8], client_auth| ServerOptions {
        name: name.to_vec(),
        client_auth,
        ..options(&[&ECDSA])
    };
    let both = [&CLIENT.certificate_chain_pem[..], &STRANGER.certificate_chain_pem].concat();
    let both = Some(ClientAuth { authorities_pem: both, required: true });
    vec![
        with(b"one", None),
        with(b"one", None),
        with(b"two", None),
        with(b"one", client_auth(&CLIENT, false)),
        with(b"one", client_auth(&CLIENT, true)),
        with(b"one", client_auth(&STRANGER, true)),
        with(b"one", both),
        with(b"two", client_auth(&CLIENT, true)),
    ]
}

/// A session that was made without a certificate, or with one of another authority, opens no door.
#[test]
fn a_session_resumes_only_where_it_was_made() {
    let sessions = Sessions::default();
    let servers: Vec<ServerConfig> = servers()
        .into_iter()
        .map(|options| {
            let mut config = ServerConfig::new(options).unwrap();
            config.keep_sessions_in(&sessions);
            config
        })
        .collect();
    let equal = |a: usize, b: usize| a.max(1) == b.max(1);
    for (version, session_ids) in [(TLS13, false), (TLS12, false), (TLS12, true)] {
        for (from, made_at) in servers.iter().enumerate() {
            for (to, resumed_at) in servers.iter().enumerate() {
                for certificate in [None, Some(&*CLIENT), Some(&*STRANGER)] {
                    let offer = Client { certificate, session_ids, ..Client::new(version, &ECDSA) };
                    let config = Arc::new(offer.config());
                    if shake_hands(made_at, &mut connect(&config)).is_err() {
                        continue;
                    }
                    let result = shake_hands(resumed_at, &mut connect(&config));
                    let resumed = result == Ok(HandshakeKind::Resumed);
                    assert_eq!(resumed, equal(from, to), "{from} {to} {session_ids}");
                    let full = shake_hands(resumed_at, &mut offer.connect());
                    assert_eq!(result.is_ok(), full.is_ok(), "{from} {to} {session_ids}");
                }
            }
        }
    }
}

/// Else a client's certificate would be good for ever, verified once.
#[test]
fn a_resumed_session_with_client_auth_is_not_prolonged() {
    let lifetime = u64::from(TICKET_LIFETIME);
    for (version, session_ids) in [(TLS13, false), (TLS12, false), (TLS12, true)] {
        let clock = Clock::at(NOW);
        let (client_auth, certificate) = (client_auth(&CLIENT, true), Some(&*CLIENT));
        let options = ServerOptions { clock: clock.clone(), client_auth, ..options(&[&ECDSA]) };
        let server = ServerConfig::new(options).unwrap();
        let offer = Client { certificate, session_ids, ..Client::new(version, &ECDSA) };
        let config = Arc::new(offer.config());
        let mut kinds = Vec::new();
        for hours in 0..5 {
            clock.0.store(NOW + hours * lifetime / 2, Ordering::Relaxed);
            kinds.push(shake_hands(&server, &mut connect(&config)).unwrap());
        }
        assert_ne!(kinds[0], HandshakeKind::Resumed);
        assert_eq!(kinds[1], HandshakeKind::Resumed);
        let full = kinds[2..].iter().any(|kind| *kind != HandshakeKind::Resumed);
        assert!(full, "{version:?} {session_ids}: {kinds:?}");
    }
}

#[test]
fn session_ids_expire_and_reach_all_servers_of_a_node() {
    let clock = Clock::at(NOW);
    let server = || {
        let clock = clock.clone();
        ServerConfig::new(ServerOptions { clock, ..options(&[&ECDSA]) }).unwrap()
    };
    let (made_at, mut elsewhere) = (server(), server());
    let offer = Client { session_ids: true, ..Client::new(TLS12, &ECDSA) };
    let config = Arc::new(offer.config());
    shake_hands(&made_at, &mut connect(&config)).unwrap();
    let theirs = Sessions::default();
    elsewhere.keep_sessions_in(&theirs);
    let resumed = |server: &ServerConfig| {
        shake_hands(server, &mut connect(&config)) == Ok(HandshakeKind::Resumed)
    };
    let ours = made_at.environment.sessions.clone().unwrap();
    let mut untold = 0;
    while ours.next_untold(|session| theirs.learn(session)) {
        untold += 1;
    }
    assert_eq!((untold, theirs.len()), (1, 1));
    assert!(resumed(&elsewhere));
    clock.0.store(NOW + u64::from(TICKET_LIFETIME), Ordering::Relaxed);
    assert!(!resumed(&elsewhere));
}

/// Long chains are kept whole or not at all: neither a ticket nor the journal bursts.
#[test]
fn chains_of_clients_may_be_long() {
    let filler = CLIENT.certificate_chain_pem.clone();
    let server = asking(client_auth(&CLIENT, true));
    let one = CertificateDer::from_pem_slice(&filler).unwrap().len();
    for version in [TLS12, TLS13] {
        for bytes in [2_000, 3_600, 3_900, 8_000, 25_000] {
            let mut chain = filler.clone();
            (1..bytes / one).for_each(|_| chain.extend_from_slice(&filler));
            let certificate =
                Identity { certificate_chain_pem: chain, key_pem: CLIENT.key_pem.clone() };
            let certificate = Some(&certificate);
            let config = Arc::new(Client { certificate, ..Client::new(version, &ECDSA) }.config());
            let first = shake_hands(&server, &mut connect(&config));
            assert!(first.is_ok(), "{first:?} with {bytes} bytes");
            let again = shake_hands(&server, &mut connect(&config)).unwrap();
            assert_eq!(again == HandshakeKind::Resumed, bytes < 4_000, "{bytes} bytes");
        }
    }
}

#[test]
fn refusals_say_what_to_do() {
    let refused = |authorities_pem: &[u8]| {
        let authorities_pem = authorities_pem.to_vec();
        let client_auth = Some(ClientAuth { authorities_pem, required: true });
        let options = ServerOptions { client_auth, ..options(&[&ECDSA]) };
        ServerConfig::new(options).err().expect("must be refused").to_string()
    };
    let one = &CLIENT.certificate_chain_pem[..];
    let damaged = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken = b"-----BEGIN CERTIFICATE-----\n!";
    for (pem, remedy) in [
        (Vec::new(), "BEGIN CERTIFICATE"),
        (broken.to_vec(), "BEGIN CERTIFICATE"),
        ([one, damaged].concat(), "certificate 2 is damaged"),
        (one.repeat(MAX_CLIENT_CAS + 1), "name fewer"),
    ] {
        let message = refused(&pem);
        assert!(message.starts_with("client_ca: ") && message.contains(remedy), "{message}");
    }
}
