//! Whatever comes from the wire is refused, never a panic.

use super::*;
use crate::reason::Reason;

#[test]
fn random_input_never_completes_a_handshake() {
    let (config, random) = (server(&[&ECDSA]), Random::new(1));
    for _ in 0..2_000 {
        let mut input = vec![0; random.below(400)];
        random.fill(&mut input).unwrap();
        // Half of them look like a record.
        if random.below(2) == 0 && input.len() > HEADER_LEN {
            let len = (input.len() - HEADER_LEN) as u16;
            input[..3].copy_from_slice(&[20 + random.below(4) as u8, 3, 1]);
            input[3..HEADER_LEN].copy_from_slice(&len.to_be_bytes());
        }
        let mut output = Vec::new();
        let result = Handshake::new(&config).unwrap().handle(&input, &mut output);
        assert!(!matches!(result, Ok(Progress { complete: true, .. })));
    }
}

#[test]
fn a_damaged_client_hello_never_completes() {
    let (config, random) = (server(&[&ECDSA]), Random::new(2));
    for version in [TLS12, TLS13] {
        for _ in 0..500 {
            let mut client = Client::new(version, &ECDSA).connect();
            let mut hello = sent(&mut client);
            // The version in the header means nothing (RFC 8446 section 5.1).
            let at = HEADER_LEN + random.below(hello.len() - HEADER_LEN);
            hello[at] ^= 1 << random.below(8);

            let mut handshake = Handshake::new(&config).unwrap();
            let mut output = Vec::new();
            if handshake.handle(&hello, &mut output).is_err() {
                // Over is over.
                let again = handshake.handle(&sent(&mut client), &mut Vec::new());
                assert!(!matches!(again, Ok(Progress { complete: true, .. })));
            } else if give(&mut client, &output).is_ok() {
                let result = handshake.handle(&sent(&mut client), &mut output);
                assert!(!matches!(result, Ok(Progress { complete: true, .. })), "byte {at}");
            }
        }
    }
}

#[test]
fn a_damaged_finished_never_completes() {
    let (config, random) = (server(&[&ECDSA]), Random::new(3));
    for version in [TLS12, TLS13] {
        for _ in 0..500 {
            let mut client = Client::new(version, &ECDSA).connect();
            let mut handshake = Handshake::new(&config).unwrap();
            let mut output = Vec::new();
            handshake.handle(&sent(&mut client), &mut output).unwrap();
            give(&mut client, &output).unwrap();
            let mut flight = sent(&mut client);
            // Finished is the last record, and ends with its tag.
            let at = flight.len() - 1 - random.below(TAG_LEN + 12);
            flight[at] ^= 1 << random.below(8);

            output.clear();
            let result = handshake.handle(&flight, &mut output);
            assert!(matches!(result, Err(HandshakeError::Tls(_))), "{result:?}");
            // TLS 1.3 sends with keys since ServerHello, so that the alert is protected.
            assert_eq!(output.len() > 7, version == TLS13);
        }
    }
}

#[test]
fn failures_say_why_in_an_alert() {
    let config = server(&[&ECDSA]);
    let alert = |input: &[u8]| {
        let mut output = Vec::new();
        let error = Handshake::new(&config).unwrap().handle(input, &mut output).unwrap_err();
        (error, output)
    };
    let (error, output) = alert(b"GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(error, HandshakeError::Record(OpenError::Http)));
    assert_eq!(error.reason(), Reason::PlainHttp);
    assert!(output.is_empty());

    let (error, output) = alert(&[22, 3, 1, 0xff, 0xff]);
    assert!(matches!(error, HandshakeError::Record(OpenError::Overflow)));
    assert_eq!(output[..6], [21, 3, 3, 0, 2, 2]);

    let (error, output) = alert(&[23, 3, 3, 0, 1, 0]);
    assert!(matches!(error, HandshakeError::Tls(_)));
    assert_eq!(output[..6], [21, 3, 3, 0, 2, 2]);

    // A fatal alert of the client's is not answered.
    let (error, output) = alert(&[21, 3, 3, 0, 2, 2, 80]);
    assert!(matches!(error, HandshakeError::Tls(rustls::Error::AlertReceived(_))), "{error}");
    assert!(output.is_empty());
}

#[test]
fn endless_handshakes_are_cut_off() {
    let config = server(&[&ECDSA]);
    let mut handshake = Handshake::new(&config).unwrap();
    // A ClientHello that claims 65,535 bytes and comes in pieces.
    let mut body = vec![1, 0, 0xff, 0xff];
    body.resize(1000, 0);
    let mut total = 0;
    let error = loop {
        let mut record = vec![22, 3, 1];
        record.extend((body.len() as u16).to_be_bytes());
        record.append(&mut body);
        body.resize(1000, 0);
        match handshake.handle(&record, &mut Vec::new()) {
            Ok(progress) => total += progress.consumed,
            Err(error) => break error,
        }
        assert!(total <= MAX_HANDSHAKE_INPUT);
    };
    assert!(matches!(error, HandshakeError::TooLong), "{error}");
}

#[test]
fn random_records_never_open() {
    let random = Random::new(3);
    for suite in Suite::all() {
        let secret = Secret::from_bytes(&vec![1; suite.secret_len()]).unwrap();
        let state = DirectionState { generation: 0, sequence: 0, secret };
        let mut opener = Opener::new(suite, &state).unwrap();
        for _ in 0..5_000 {
            let mut record = vec![0; HEADER_LEN + random.below(80)];
            random.fill(&mut record).unwrap();
            let len = (record.len() - HEADER_LEN) as u16;
            record[..3].copy_from_slice(&[20 + random.below(4) as u8, 3, 3]);
            record[3..HEADER_LEN].copy_from_slice(&len.to_be_bytes());
            let opened = opener.open(&mut record);
            assert!(!matches!(opened, Ok((kind, _)) if kind != ContentType::ChangeCipherSpec));
            assert_eq!(opener.state(), state);
        }
    }
}

#[test]
fn tickets_of_strangers_are_ignored() {
    let config = server(&[&ECDSA]);
    let random = Random::new(4);
    let tickets = |config: &ServerConfig| config.tls.ticketer.clone();
    let mut context = journal::Context::new(journal::Environment::default());
    journal::with_context(&mut context, || {
        let ticketer = tickets(&config);
        for _ in 0..100 {
            let mut ticket = vec![0; random.below(60)];
            random.fill(&mut ticket).unwrap();
            assert_eq!(ticketer.decrypt(&ticket), None);
        }
        let ticket = ticketer.encrypt(b"state").unwrap();
        assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        for at in 0..ticket.len() {
            let mut damaged = ticket.clone();
            damaged[at] ^= 1;
            assert_eq!(ticketer.decrypt(&damaged), None);
        }
    });
}
