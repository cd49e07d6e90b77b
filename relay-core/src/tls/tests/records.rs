use super::*;

fn all() -> impl Iterator<Item = (Suite, DirectionState)> {
    Suite::all().map(|suite| {
        let secret: Vec<u8> = (0..suite.secret_len() as u8).collect();
        let secret = Secret::from_bytes(&secret).unwrap();
        (suite, DirectionState { generation: 0, sequence: 3, secret })
    })
}

fn seal(sealer: &mut Sealer, plain: &[u8]) -> (Tag, Vec<u8>) {
    let mut record = Vec::new();
    let tag = sealer.seal(ContentType::ApplicationData, (plain, &[]), &mut record).unwrap();
    (tag, record)
}

#[test]
fn sealing_is_deterministic() {
    for (suite, state) in all() {
        let mut first = Sealer::new(suite, &state).unwrap();
        seal(&mut first, b"before");
        let state = first.state();
        assert_eq!(state.sequence, 4);
        let mut second = Sealer::new(suite, &state).unwrap();
        let (tag, record) = seal(&mut first, b"one plaintext");
        assert!(record.ends_with(&tag));
        // However it is split, and whatever is in the buffer already.
        for at in 0..13 {
            let mut sealer = Sealer::new(suite, &state).unwrap();
            let mut out = b"old".to_vec();
            let parts = b"one plaintext".split_at(at);
            let kind = ContentType::ApplicationData;
            assert_eq!(sealer.seal(kind, parts, &mut out).unwrap(), tag);
            assert_eq!(out, [b"old", &record[..]].concat());
        }
        assert_ne!(seal(&mut second, b"One plaintext"), (tag, record));
        assert_eq!(first.state(), second.state());
    }
}

#[test]
fn lengths_are_what_the_suite_says() {
    for (suite, state) in all() {
        let mut sealer = Sealer::new(suite, &state).unwrap();
        for plain_len in [0, 1, 100, MAX_PLAINTEXT] {
            let (_, record) = seal(&mut sealer, &vec![1; plain_len]);
            assert_eq!(record.len(), suite.record_len(plain_len));
            assert_eq!(suite.plain_len(record.len()), Some(plain_len));
            assert_eq!(record_header(&record), Ok(Some(record.len())));
        }
        assert_eq!(suite.plain_len(suite.record_len(0) - 1), None);
        assert_eq!(Suite::from_id(suite.id()), Some(suite));
    }
}

#[test]
fn failure_changes_nothing() {
    for (suite, state) in all() {
        let mut sealer = Sealer::new(suite, &state).unwrap();
        let mut opener = Opener::new(suite, &state).unwrap();
        let mut out = b"old".to_vec();
        let long = vec![0; MAX_PLAINTEXT + 1];
        let sealed = sealer.seal(ContentType::ApplicationData, (&long, &[]), &mut out);
        assert_eq!(sealed, Err(SealError::TooLong));
        assert_eq!(out, b"old");
        assert_eq!(sealer.state(), state);

        let (_, record) = seal(&mut sealer, b"plaintext");
        for bit in 0..8 * record.len() {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open(&mut damaged).is_err(), "{suite:?}: bit {bit}");
            assert_eq!(opener.state(), state);
        }
        for len in 0..record.len() {
            assert!(opener.open(&mut record[..len].to_vec()).is_err());
        }
        let mut record = record;
        let (kind, plain) = opener.open(&mut record).unwrap();
        assert_eq!((kind, &*plain), (ContentType::ApplicationData, &b"plaintext"[..]));
        assert_eq!(opener.state(), sealer.state());
    }
}

#[test]
fn wrong_secrets_are_refused() {
    for (suite, state) in all() {
        let bytes = state.secret.as_bytes();
        let secret = Secret::from_bytes(&bytes[1..]).unwrap();
        let state = DirectionState { secret, ..state.clone() };
        assert!(matches!(Sealer::new(suite, &state), Err(SealError::Key)));
        assert!(matches!(Opener::new(suite, &state), Err(OpenError::Key)));
    }
    assert_eq!(Secret::from_bytes(&[0; MAX_SECRET + 1]), None);
    let secret = Secret::from_bytes(&[0xab; 32]).unwrap();
    assert!(!format!("{secret:?}").contains(|c: char| c.is_ascii_digit()));
}

#[test]
fn key_updates_both_ways() {
    let server = server(&[&ECDSA]);
    for suite in Suite::all().filter(|suite| suite.version() == Version::Tls13) {
        let offer = Client { suite: Some(suite.id().into()), ..Client::new(TLS13, &ECDSA) };
        let mut client = offer.connect();
        let mut relay = Relay::new(&establish(&server, &mut client));
        for round in 1..=3 {
            let before = relay.sealer.state();
            let mut wire = Vec::new();
            let tag = relay.sealer.key_update(&mut wire, true).unwrap();
            assert!(wire.ends_with(&tag));
            assert_eq!((relay.sealer.generation(), relay.sealer.sequence()), (round, 0));
            assert_eq!(before.ratchet_to(suite, round), Some(relay.sealer.state()));
            give(&mut client, &wire).unwrap();

            // The client was asked to update its key, too.
            client.writer().write_all(b"reply").unwrap();
            let wire = sent(&mut client);
            let len = record_header(&wire).unwrap().unwrap();
            let update = relay.receive(wire[..len].to_vec());
            assert_eq!(update, [(ContentType::Handshake, vec![24, 0, 0, 1, 0])]);
            relay.opener.update().unwrap();
            let data = relay.receive(wire[len..].to_vec());
            assert_eq!(data, [(ContentType::ApplicationData, b"reply".to_vec())]);
            relay.exchange(&mut client);
        }
    }
}

#[test]
fn only_tls13_ratchets_and_only_forward() {
    for (suite, state) in all() {
        let state = DirectionState { generation: 5, ..state };
        let tls13 = suite.version() == Version::Tls13;
        assert_eq!(state.ratchet_to(suite, 5), tls13.then(|| state.clone()));
        assert_eq!(state.ratchet_to(suite, 4), None);
        assert_eq!(state.ratchet_to(suite, 6 + MAX_RATCHET_STEPS), None);
        let once = state.ratchet_to(suite, 6);
        assert_eq!(once.is_some(), tls13);
        let twice = once.and_then(|state| state.ratchet_to(suite, 7));
        assert_eq!(twice, state.ratchet_to(suite, 7));
        if !tls13 {
            let mut sealer = Sealer::new(suite, &state).unwrap();
            assert_eq!(sealer.key_update(&mut Vec::new(), false), Err(SealError::NotTls13));
            let mut opener = Opener::new(suite, &state).unwrap();
            assert_eq!(opener.update(), Err(OpenError::Unexpected));
        }
    }
}

#[test]
fn keys_wear_out() {
    for (suite, state) in all() {
        let fresh = Sealer::new(suite, &DirectionState { sequence: 0, ..state.clone() }).unwrap();
        let usable = fresh.records_left();
        assert!(usable >= 1 << 23);
        let worn = DirectionState { sequence: usable, ..state.clone() };
        let mut sealer = Sealer::new(suite, &worn).unwrap();
        assert_eq!(sealer.records_left(), 0);
        // What announces the end can still be sealed.
        seal(&mut sealer, b"close_notify");
        if suite.version() == Version::Tls13 {
            sealer.key_update(&mut Vec::new(), false).unwrap();
            assert_eq!(sealer.records_left(), usable);
        }
        let dead = DirectionState { sequence: u64::MAX, ..state.clone() };
        let mut sealer = Sealer::new(suite, &dead).unwrap();
        let sealed = sealer.seal(ContentType::Alert, (&[1, 0], &[]), &mut Vec::new());
        assert_eq!(sealed, Err(SealError::Exhausted));
    }
}

#[test]
fn alerts_pass_both_ways() {
    let server = server(&[&ECDSA]);
    for version in [TLS12, TLS13] {
        let mut client = Client::new(version, &ECDSA).connect();
        let mut relay = Relay::new(&establish(&server, &mut client));
        client.send_close_notify();
        assert_eq!(relay.receive(sent(&mut client)), [(ContentType::Alert, vec![1, 0])]);
        let mut wire = Vec::new();
        relay.sealer.seal(ContentType::Alert, (&[1, 0], &[]), &mut wire).unwrap();
        give(&mut client, &wire).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn stray_change_cipher_spec_takes_no_sequence_number() {
    for (suite, state) in all() {
        let mut opener = Opener::new(suite, &state).unwrap();
        let mut record = [20, 3, 3, 0, 1, 1];
        let opened = opener.open(&mut record);
        if suite.version() == Version::Tls13 {
            assert_eq!(opened, Ok((ContentType::ChangeCipherSpec, &mut [1][..])));
        } else {
            assert_eq!(opened, Err(OpenError::BadMac));
        }
        assert_eq!(opener.state(), state);
        assert!(opener.open(&mut [20, 3, 3, 0, 1, 2]).is_err());
        assert!(opener.open(&mut [20, 3, 3, 0, 2, 1, 1]).is_err());
        assert!(opener.open(&mut [20, 3, 3, 0, 0]).is_err());
    }
}

#[test]
fn unprotected_records_are_refused() {
    for (suite, state) in all() {
        let mut opener = Opener::new(suite, &state).unwrap();
        assert!(opener.open(&mut [21, 3, 3, 0, 2, 1, 0]).is_err());
        assert!(opener.open(&mut [23, 3, 3, 0, 0]).is_err());
        assert_eq!(opener.state(), state);
    }
}

#[test]
fn headers() {
    use OpenError::*;
    assert_eq!(record_header(&[]), Ok(None));
    assert_eq!(record_header(&[22]), Ok(None));
    assert_eq!(record_header(&[22, 3, 1, 2]), Ok(None));
    assert_eq!(record_header(&[22, 3, 1, 0, 9]), Ok(Some(14)));
    assert_eq!(record_header(&[23, 3, 3, 0x41, 0, 0]), Ok(Some(MAX_RECORD)));
    assert_eq!(record_header(&[23, 3, 3, 0x41, 1]), Err(Overflow));
    assert_eq!(record_header(&[24, 3, 3, 0, 1]), Err(Malformed));
    assert_eq!(record_header(&[22, 2]), Err(Malformed));
    assert_eq!(record_header(&[0x80, 0x2e, 1]), Err(Malformed));
    for http in ["G", "GET / HTTP/1.1\r\n", "POST /", "PRI * HTTP/2.0", "CONNECT a:1"] {
        assert_eq!(record_header(http.as_bytes()), Err(Http), "{http}");
    }
    for other in ["GETTY", "SSH-2.0-OpenSSH", "EHLO"] {
        assert_eq!(record_header(other.as_bytes()), Err(Malformed), "{other}");
    }
}
