//! A new node asks for its certificate. Its private key is made here and goes nowhere.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aws_lc_rs::hmac;
use rcgen::{CertificateParams, KeyPair};
use relay_abi::id::certificate_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, StreamOwned};

use super::authority::{CA, DOOR_NAME, failed};
use super::door::now;
use super::files::Batch;
use super::tls::{self, Timed};
use super::token::{Token, pin};
use super::words::{self, Answer, JOINED, PROTOCOL, Refusal};

const KEY: &str = "cluster.key";

/// How long the other machine may be silent.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Connections that may be lost before an answer: somebody else crowds the door.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);

type Link = StreamOwned<ClientConnection, Timed>;

/// Joins, and says what belongs into the configuration.
pub fn run(token: &Token, directory: &Path) -> Result<String, String> {
    let directory = std::path::absolute(directory).map_err(|error| error.to_string())?;
    let (pem, key_pem) = (format!("node-{}.pem", token.node), format!("node-{}.key", token.node));
    let mut names = vec![pem.as_str(), key_pem.as_str(), CA];
    names.extend(token.brings_key.then_some(KEY));
    // What would be in the way is found before the token is used up.
    let mut batch = Batch::begin(&directory, &names)?;
    let key = KeyPair::generate().map_err(failed)?;
    let request = CertificateParams::new(Vec::new())
        .and_then(|parameters| parameters.serialize_request(&key))
        .map_err(failed)?;
    let (mut link, answer) = ask(token, request.der())?;
    let [certificate, authority, cluster_key] = match answer {
        Answer::Welcome(texts) => texts,
        Answer::Refused(refusal) => return Err(refused(token, refusal)),
    };
    verify(token, &key, (&certificate, &authority))?;
    if cluster_key.is_empty() == token.brings_key {
        return Err(other_version(token));
    }
    let files = [(&key_pem, &key.serialize_pem()), (&pem, &certificate)];
    for (name, text) in files {
        batch.write(name, text)?;
    }
    batch.write(CA, &authority)?;
    if token.brings_key {
        batch.write(KEY, &cluster_key)?;
    }
    batch.keep()?;
    // From here on this node has joined, even if the other machine does not hear it.
    let told = link.write_all(&[JOINED]).and_then(|()| {
        link.conn.send_close_notify();
        link.flush()
    });
    if let Err(error) = told {
        eprintln!(
            "relay-ctl: node {} has joined, but {} is gone: {error}",
            token.node, token.address
        );
    }
    Ok(lines(token, &directory))
}

/// The part of a configuration that these files are for.
fn lines(token: &Token, directory: &Path) -> String {
    let node = token.node;
    let file = |name: &str| toml_string(&directory.join(name));
    let mut text = format!("[node]\nid = {node}\n");
    if token.brings_key {
        text += &format!("\n[cluster]\nkey_file = {}\n", file(KEY));
    }
    text + &format!(
        "\n[cluster.council]\ncertificate = {}\nkey = {}\nca = {}\n",
        file(&format!("node-{node}.pem")),
        file(&format!("node-{node}.key")),
        file(CA)
    )
}

/// A basic string of TOML is escaped as a string of JSON is.
fn toml_string(path: &Path) -> String {
    serde_json::Value::from(path.display().to_string()).to_string()
}

/// Why there was no answer.
enum Failure {
    Connect(io::Error),
    Handshake(io::Error),
    Lost(io::Error),
}

fn ask(token: &Token, request: &[u8]) -> Result<(Link, Answer), String> {
    let config = tls::client(token.authority).map_err(|error| error.to_string())?;
    for attempt in 1.. {
        match try_ask(token, &config, request) {
            Ok(answered) => return Ok(answered),
            // Cut off by the other end before it said anything.
            Err(Failure::Handshake(error) | Failure::Lost(error))
                if attempt < ATTEMPTS && is_cut(&error) =>
            {
                thread::sleep(PAUSE);
            }
            Err(failure) => return Err(blame(token, &failure)),
        }
    }
    unreachable!("the last attempt ends it")
}

fn try_ask(
    token: &Token,
    config: &Arc<ClientConfig>,
    request: &[u8],
) -> Result<(Link, Answer), Failure> {
    let stream = TcpStream::connect_timeout(&token.address, CONNECT_LIMIT);
    let stream = stream.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    let other = |error: rustls::Error| Failure::Handshake(io::Error::other(error));
    let name = ServerName::try_from(DOOR_NAME);
    let name = name.map_err(|error| Failure::Handshake(io::Error::other(error)))?;
    let tls = ClientConnection::new(Arc::clone(config), name).map_err(other)?;
    let mut link = StreamOwned::new(tls, Timed::new(stream, ANSWER_LIMIT));
    while link.conn.is_handshaking() {
        link.conn.complete_io(&mut link.sock).map_err(Failure::Handshake)?;
    }
    if link.conn.alpn_protocol() != Some(PROTOCOL) {
        return Err(Failure::Handshake(ErrorKind::InvalidData.into()));
    }
    let session = words::session(&link.conn, token.node).map_err(other)?;
    let proof = hmac::sign(&words::key(&token.secret), &session);
    let answer = link
        .write_all(proof.as_ref())
        .and_then(|()| words::put(&mut link, request))
        .and_then(|()| link.flush())
        .and_then(|()| Answer::take(&mut link))
        .map_err(Failure::Lost)?;
    Ok((link, answer))
}

fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// Whether the files would be of use: what a council would complain about is told now.
fn verify(token: &Token, key: &KeyPair, (own, authority): (&str, &str)) -> Result<(), String> {
    let wrong = |error: String| {
        format!(
            "what {} sent is not a certificate for node {} and this machine's key ({error}): use \
             the same version of relay-ctl on both machines, and make a new token",
            token.address, token.node
        )
    };
    let parse = |text: &str| {
        CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| wrong(error.to_string()))
    };
    let (own, authority) = (parse(own)?, parse(authority)?);
    if pin(&authority) != token.authority {
        return Err(wrong("another authority's certificate".to_owned()));
    }
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    tls::verify(&own, key, &authority, &certificate_name(token.node))
        .map_err(|error| wrong(error.to_string()))
}

fn blame(token: &Token, failure: &Failure) -> String {
    let address = token.address;
    match failure {
        Failure::Connect(error) => unreachable(token, error),
        Failure::Lost(error) | Failure::Handshake(error) if is_cut(error) => format!(
            "{address} closed the connection without an answer, {ATTEMPTS} times: others crowd it, \
             or too many wrong secrets came from this address; relay-ctl cluster token says which: \
             make a new token"
        ),
        Failure::Lost(error) => format!(
            "{address} did not answer ({error}): see what relay-ctl cluster token says there, and \
             make a new token if it has ended"
        ),
        Failure::Handshake(error) => {
            let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
            match tls {
                Some(rustls::Error::InvalidCertificate(
                    CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. },
                )) => format!("{address}: {error}: the clocks of the machines differ: set them"),
                Some(rustls::Error::InvalidCertificate(_)) => format!(
                    "who answers at {address} is not of the authority that the token names \
                     ({error}): nothing was said to it. Give relay-ctl cluster token an address \
                     that leads to it"
                ),
                _ => format!(
                    "what answers at {address} is not relay-ctl cluster token ({error}): nothing \
                     was said to it. Give that command an address that leads to it"
                ),
            }
        }
    }
}

fn unreachable(token: &Token, error: &io::Error) -> String {
    let late = now().saturating_sub(token.expires);
    let remedy = match error.kind() {
        _ if late > 0 => {
            return format!(
                "the token's time ran out {late} s ago, by this machine's clock ({}: {error}): \
                 make a new one with relay-ctl cluster token",
                token.address
            );
        }
        ErrorKind::ConnectionRefused => {
            "the token was used, or relay-ctl cluster token has ended there: make a new one"
        }
        _ => "see that this machine reaches that address",
    };
    format!("cannot reach {} ({error}): {remedy}", token.address)
}

fn refused(token: &Token, refusal: Refusal) -> String {
    let (address, node) = (token.address, token.node);
    match refusal {
        Refusal::Secret => format!(
            "{address} refuses the token: it is not the one that it waits for: paste the newest \
             line that relay-ctl cluster token printed there"
        ),
        Refusal::Used => format!(
            "{address} refuses the token: somebody used it before: if that was not you, node {node} \
             has a stranger's key: see docs/SECURITY.md. Else make a new token"
        ),
        Refusal::Request => other_version(token),
        Refusal::Failure => {
            format!("{address} could not make the certificate: relay-ctl there says why")
        }
    }
}

fn other_version(token: &Token) -> String {
    format!(
        "{} and this program do not understand each other: use the same version of relay-ctl on \
         both machines, and make a new token",
        token.address
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted() {
        let quoted = |path: &str| toml_string(Path::new(path));
        assert_eq!(quoted("/etc/relay/node-4.pem"), r#""/etc/relay/node-4.pem""#);
        assert_eq!(quoted(r#"/a "b"\c"#), r#""/a \"b\"\\c""#);
    }
}
