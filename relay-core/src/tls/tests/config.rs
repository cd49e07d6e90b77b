use super::*;

fn refused(identities: &[&Identity]) -> String {
    ServerConfig::new(options(identities)).err().expect("must be refused").to_string()
}

/// The certificate that a client of `name` is shown, `Err` with the alert when there is none.
fn shown(config: &ServerConfig, trust: &Identity, name: &str) -> Result<Vec<u8>, rustls::Error> {
    let mut client = connect_to(&Arc::new(Client::new(TLS13, trust).config()), name);
    let mut output = Vec::new();
    let result = Handshake::new(config).unwrap().handle(&sent(&mut client), &mut output);
    assert_eq!(result.is_err(), output[0] == 21);
    if let Err(error) = result {
        assert!(matches!(error, HandshakeError::UnknownName), "{error}");
    }
    give(&mut client, &output)?;
    Ok(client.peer_certificates().unwrap()[0].to_vec())
}

fn certificate(identity: &Identity) -> Vec<u8> {
    CertificateDer::from_pem_slice(&identity.certificate_chain_pem).unwrap().to_vec()
}

#[test]
fn the_name_chooses_the_certificate() {
    let one = identity(&rcgen::PKCS_ECDSA_P256_SHA256, &["One.test", "127.0.0.1"]);
    let two = identity(&rcgen::PKCS_ECDSA_P256_SHA256, &["*.two.test", "two.test"]);
    let exact = identity(&rcgen::PKCS_ED25519, &["exact.two.test"]);
    let config = server(&[&one, &two, &exact]);
    for (name, identity) in [
        ("one.test", &one),
        ("oNe.TEST", &one),
        ("two.test", &two),
        ("a.two.test", &two),
        ("exact.two.test", &exact),
        ("127.0.0.1", &one), // No name is sent for an address.
    ] {
        assert_eq!(shown(&config, identity, name), Ok(certificate(identity)), "{name}");
    }
    for name in ["unknown.test", "a.b.two.test", "a.one.test", "test"] {
        let alert = rustls::AlertDescription::UnrecognisedName;
        let error = rustls::Error::AlertReceived(alert);
        assert_eq!(shown(&config, &one, name), Err(error), "{name}");
    }
}

#[test]
fn alpn_is_negotiated() {
    let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = ServerConfig::new(ServerOptions { alpn, ..options(&[&ECDSA]) }).unwrap();
    for (offered, expected) in
        [(vec!["http/1.1", "h2"], Some("h2")), (vec!["http/1.1"], Some("http/1.1")), (vec![], None)]
    {
        let mut client = Client::new(TLS13, &ECDSA).config();
        client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut client = connect(&Arc::new(client));
        let established = establish(&config, &mut client);
        assert_eq!(established.alpn.as_deref(), expected.map(str::as_bytes));
        assert_eq!(client.alpn_protocol(), expected.map(str::as_bytes));
    }
    let mut client = Client::new(TLS13, &ECDSA).config();
    client.alpn_protocols = vec![b"other".to_vec()];
    let mut client = connect(&Arc::new(client));
    let mut output = Vec::new();
    let mut handshake = Handshake::new(&config).unwrap();
    assert!(handshake.handle(&sent(&mut client), &mut output).is_err());
    let alert = rustls::AlertDescription::NoApplicationProtocol;
    assert_eq!(give(&mut client, &output), Err(rustls::Error::AlertReceived(alert)));
}

#[test]
fn refusals_name_the_identity_and_the_remedy() {
    let good = &*ECDSA;
    let with = |chain: &[u8], key: &[u8]| Identity {
        certificate_chain_pem: chain.to_vec(),
        key_pem: key.to_vec(),
    };
    let (chain, key) = (&good.certificate_chain_pem[..], &good.key_pem[..]);
    let encrypted =
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let not_x509 = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let nameless = identity(&rcgen::PKCS_ED25519, &[]);

    assert!(refused(&[]).contains("name at least one certificate"));
    for (bad, remedy) in [
        (with(b"", key), "BEGIN CERTIFICATE"),
        (with(b"-----BEGIN CERTIFICATE-----\n!", key), "BEGIN CERTIFICATE"),
        (with(not_x509, key), "damaged"),
        (with(chain, b""), "BEGIN PRIVATE KEY"),
        (with(chain, encrypted), "openssl pkey"),
        (with(chain, &RSA.key_pem), "does not belong"),
        (nameless.clone(), "no DNS name"),
    ] {
        let message = refused(&[good, &bad]);
        assert!(message.starts_with("certificate 2: ") && message.contains(remedy), "{message}");
    }
    // As the first one it is shown to clients that ask for no name.
    assert!(ServerConfig::new(options(&[&nameless, good])).is_ok());
    let alpn = vec![Vec::new()];
    assert!(ServerConfig::new(ServerOptions { alpn, ..options(&[good]) }).is_err());
}
