//! The lab's certificate authority and the relays' certificates, made by openssl.

use std::path::PathBuf;

use anyhow::Result;

use super::plan::{SERVER_NAME, state_file, vip};
use crate::shell::run;

/// What clients trust.
pub fn ca() -> PathBuf {
    state_file("ca.pem")
}

/// Certificate chain and private key of each of the relays' certificates.
pub fn server_certificates() -> [(PathBuf, PathBuf); 2] {
    ["ecdsa", "rsa"].map(|kind| {
        (state_file(&format!("server-{kind}.pem")), state_file(&format!("server-{kind}.key")))
    })
}

/// Certificate chain and private key of a client.
pub fn client_certificate() -> (PathBuf, PathBuf) {
    (state_file("client.pem"), state_file("client.key"))
}

/// Makes the authority, a certificate for a client, and one ECDSA P-256 and one RSA certificate
/// for [`SERVER_NAME`].
pub fn create() -> Result<()> {
    let authority = "subject=/CN=relay lab CA\nbasicConstraints=critical,CA:TRUE\n\
                     keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash";
    let (ca_key, ca) = (state_file("ca.key"), ca());
    let common = ["req", "-x509", "-new", "-nodes", "-sha256", "-days", "30", "-batch"];
    let p256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let rsa = ["-newkey", "rsa:2048"];

    let mut arguments = [&common[..], &p256[..]].concat();
    let (ca_key, ca) = (ca_key.to_string_lossy(), ca.to_string_lossy());
    arguments.extend(["-keyout", &ca_key, "-out", &ca]);
    let extensions = extensions(authority);
    arguments.extend(extensions.iter().map(String::as_str));
    run("openssl", arguments)?;

    let server = format!(
        "subject=/CN={SERVER_NAME}\nbasicConstraints=critical,CA:FALSE\n\
         keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth\n\
         subjectAltName=DNS:{SERVER_NAME},IP:{},IP:{}",
        vip(false),
        vip(true)
    );
    let client = "subject=/CN=relay lab client\nbasicConstraints=critical,CA:FALSE\n\
                  keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth";
    let [ecdsa_server, rsa_server] = server_certificates();
    for ((chain, key), algorithm, lines) in [
        (ecdsa_server, &p256[..], server.as_str()),
        (rsa_server, &rsa[..], server.as_str()),
        (client_certificate(), &p256[..], client),
    ] {
        let extensions = self::extensions(lines);
        let (chain, key) = (chain.to_string_lossy(), key.to_string_lossy());
        let mut arguments = [&common[..], algorithm].concat();
        arguments.extend(["-CA", &ca, "-CAkey", &ca_key, "-keyout", &key, "-out", &chain]);
        arguments.extend(extensions.iter().map(String::as_str));
        run("openssl", arguments)?;
    }
    Ok(())
}

/// Options of `openssl req` for lines of `name=value`; `subject` is an option of its own.
fn extensions(lines: &str) -> Vec<String> {
    let each = |line: &str| match line.split_once('=') {
        Some(("subject", value)) => ["-subj".to_owned(), value.to_owned()],
        _ => ["-addext".to_owned(), line.to_owned()],
    };
    lines.lines().flat_map(each).collect()
}
