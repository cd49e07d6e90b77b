use super::*;

#[test]
fn every_suite_carries_data_both_ways() {
    let both = server(&[&ECDSA, &RSA]);
    for suite in Suite::all() {
        for trust in [&*ECDSA, &*RSA] {
            let rsa = std::ptr::eq(trust, &*RSA);
            let (version, config) = match suite.version() {
                Version::Tls13 => (TLS13, server(&[trust])),
                // The suite names the kind of key, and that chooses the certificate.
                Version::Tls12 if suite.name().contains("_RSA_") == rsa => (TLS12, both.clone()),
                Version::Tls12 => continue,
            };
            let offer = Client { suite: Some(suite.id().into()), ..Client::new(version, trust) };
            let mut client = offer.connect();
            let established = establish(&config, &mut client);
            assert_eq!(established.suite, suite);
            assert_eq!(established.server_name.as_deref(), Some("relay.test"));
            Relay::new(&established).exchange(&mut client);
        }
    }
}

#[test]
fn every_group_is_negotiated() {
    use NamedGroup::*;
    let server = server(&[&ECDSA]);
    let mut groups = vec![vec![X25519], vec![secp256r1], vec![secp384r1]];
    if !RING {
        groups.push(vec![X25519MLKEM768]);
    }
    for version in [TLS12, TLS13] {
        for groups in &groups {
            if version == TLS12 && groups[0] == X25519MLKEM768 {
                continue;
            }
            let offer = Client { groups, ..Client::new(version, &ECDSA) };
            let mut client = offer.connect();
            let established = establish(&server, &mut client);
            assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), groups[0]);
            Relay::new(&established).exchange(&mut client);
        }
    }
}

#[test]
fn fragments_at_every_boundary() {
    let server = server(&[&ECDSA]);
    for version in [TLS12, TLS13] {
        let mut client = Client::new(version, &ECDSA).connect();
        let mut handshake = Handshake::new(&server).unwrap();
        let (mut pending, mut complete) = (Vec::new(), false);
        while !complete {
            let bytes = sent(&mut client);
            assert!(!bytes.is_empty(), "the handshake stalls");
            for byte in bytes {
                pending.push(byte);
                let mut output = Vec::new();
                let progress = handshake.handle(&pending, &mut output).unwrap();
                assert!(progress.consumed == 0 || progress.consumed == pending.len());
                pending.drain(..progress.consumed);
                give(&mut client, &output).unwrap();
                complete = progress.complete;
            }
        }
        Relay::new(&handshake.finish().unwrap()).exchange(&mut client);
    }
}

#[test]
fn client_hello_in_many_records() {
    let server = server(&[&ECDSA]);
    let mut client = Client::new(TLS13, &ECDSA).connect();
    let hello = sent(&mut client);
    let mut wire = Vec::new();
    for piece in hello[HEADER_LEN..].chunks(60) {
        wire.extend([22, 3, 1, 0, piece.len() as u8]);
        wire.extend(piece);
    }
    let mut handshake = Handshake::new(&server).unwrap();
    let mut output = Vec::new();
    assert_eq!(handshake.handle(&wire, &mut output).unwrap().consumed, wire.len());
    give(&mut client, &output).unwrap();
    assert!(shake(&mut handshake, &mut client).is_empty());
    Relay::new(&handshake.finish().unwrap()).exchange(&mut client);
}

#[test]
fn data_behind_finished_is_left_alone() {
    let server = server(&[&ECDSA]);
    // TLS 1.2 clients finish first only when they resume.
    for (version, resume) in [(TLS13, false), (TLS13, true), (TLS12, true)] {
        let config = Arc::new(Client::new(version, &ECDSA).config());
        if resume {
            establish(&server, &mut connect(&config));
        }
        let mut client = connect(&config);
        client.writer().write_all(b"at once").unwrap();
        let mut handshake = Handshake::new(&server).unwrap();
        let rest = shake(&mut handshake, &mut client);
        let mut relay = Relay::new(&handshake.finish().unwrap());
        assert_eq!(relay.receive(rest), [(ContentType::ApplicationData, b"at once".to_vec())]);
        relay.exchange(&mut client);
    }
}

#[test]
fn tickets_open_at_another_relay() {
    let elsewhere = |seconds, ticket_key| {
        let clock = Clock::at(seconds);
        ServerConfig::new(ServerOptions { clock, ticket_key, ..options(&[&ECDSA]) }).unwrap()
    };
    let lifetime = u64::from(TICKET_LIFETIME);
    for version in [TLS12, TLS13] {
        for (config, resumed) in [
            (elsewhere(NOW, TICKET_KEY), true),
            (elsewhere(NOW + lifetime, TICKET_KEY), true),
            (elsewhere(NOW - lifetime, TICKET_KEY), true),
            (elsewhere(NOW + 2 * lifetime, TICKET_KEY), false),
            (elsewhere(NOW, [8; 32]), false),
        ] {
            let client = Arc::new(Client::new(version, &ECDSA).config());
            establish(&server(&[&ECDSA]), &mut connect(&client));
            let mut again = connect(&client);
            let established = establish(&config, &mut again);
            let kind = again.handshake_kind().unwrap();
            assert_eq!(kind == rustls::HandshakeKind::Resumed, resumed, "{version:?}");
            Relay::new(&established).exchange(&mut again);
        }
    }
}

/// A handshake may move to another thread between two calls.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Handshake>();
    is_send::<Sealer>();
    is_send::<Opener>();
};

#[test]
fn finish_needs_a_complete_handshake() {
    let handshake = Handshake::new(&server(&[&ECDSA])).unwrap();
    assert!(matches!(handshake.finish(), Err(HandshakeError::Incomplete)));
}

#[test]
fn complete_handshake_consumes_nothing() {
    let mut handshake = Handshake::new(&server(&[&ECDSA])).unwrap();
    shake(&mut handshake, &mut Client::new(TLS13, &ECDSA).connect());
    let mut output = Vec::new();
    let progress = handshake.handle(b"anything", &mut output).unwrap();
    assert_eq!(progress, Progress { consumed: 0, complete: true });
    assert!(output.is_empty());
}

#[cfg(feature = "aws-lc-rs")]
#[test]
fn given_entropy_decides_everything() {
    let run = |seed, hello: &[u8]| {
        let entropy = Some(Arc::new(Random::new(seed)) as Arc<dyn SecureRandom>);
        let options = ServerOptions { entropy, ..options(&[&ED25519]) };
        let mut handshake = Handshake::new(&ServerConfig::new(options).unwrap()).unwrap();
        let mut output = Vec::new();
        handshake.handle(hello, &mut output).unwrap();
        (output, handshake.journal().to_vec())
    };
    for version in [TLS12, TLS13] {
        let offer = Client { groups: &[NamedGroup::X25519], ..Client::new(version, &ED25519) };
        let hello = sent(&mut offer.connect());
        assert_eq!(run(1, &hello), run(1, &hello));
        assert_ne!(run(1, &hello).0, run(2, &hello).0);
    }
}
