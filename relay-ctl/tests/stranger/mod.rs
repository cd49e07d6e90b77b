//! Who speaks the words of a joining node, but does not mean well; and a server that is not the
//! door.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

/// Where a token over IPv4 has its parts.
const NODE: usize = 2;
const PORT: usize = 11;
pub const SECRET: Range<usize> = 45..61;

/// A client with a token.
pub struct Stranger {
    pub address: SocketAddr,
    config: Arc<ClientConfig>,
    node: u8,
    secret: Vec<u8>,
}

/// It asked, and waits for the answer.
pub struct Waiting(StreamOwned<ClientConnection, TcpStream>);

/// What it got: a certificate of PEM, or the number of a refusal.
pub enum Asked {
    Welcome(String),
    Refused(u8),
}

impl Stranger {
    pub fn new(token: &str, ca: &Path) -> Stranger {
        let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("relay_").unwrap()).unwrap();
        let ip = <[u8; 4]>::try_from(&bytes[SECRET.end..SECRET.end + 4]).unwrap();
        let port = u16::from_be_bytes([bytes[PORT], bytes[PORT + 1]]);
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots(ca))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"relay-join".to_vec()];
        Stranger {
            address: SocketAddr::from((ip, port)),
            config: Arc::new(config),
            node: bytes[NODE],
            secret: bytes[SECRET].to_vec(),
        }
    }

    /// Shakes hands, proves what it knows, and asks with `request`.
    pub fn ask(&self, from: Option<IpAddr>, request: &[u8]) -> io::Result<Waiting> {
        let name = ServerName::try_from("enrollment.cluster.relay").unwrap();
        let tls = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        let mut link = StreamOwned::new(tls, self.connect(from)?);
        while link.conn.is_handshaking() {
            link.conn.complete_io(&mut link.sock)?;
        }
        let label = b"EXPERIMENTAL relay join";
        let session = link.conn.export_keying_material([0; 32], label, Some(&[self.node]));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        link.write_all(hmac::sign(&key, &session.unwrap()).as_ref())?;
        link.write_all(&u16::try_from(request.len()).unwrap().to_be_bytes())?;
        link.write_all(request)?;
        link.flush()?;
        Ok(Waiting(link))
    }

    fn connect(&self, from: Option<IpAddr>) -> io::Result<TcpStream> {
        let Some(from) = from else { return TcpStream::connect(self.address) };
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddr::new(from, 0))?;
        connect(&socket, &self.address)?;
        Ok(TcpStream::from(socket))
    }
}

impl Waiting {
    pub fn answer(&mut self) -> io::Result<Asked> {
        let mut code = [0];
        self.0.read_exact(&mut code)?;
        if code != [0] {
            return Ok(Asked::Refused(code[0]));
        }
        let mut length = [0; 2];
        self.0.read_exact(&mut length)?;
        let mut text = vec![0; u16::from_be_bytes(length).into()];
        self.0.read_exact(&mut text)?;
        Ok(Asked::Welcome(String::from_utf8(text).unwrap()))
    }
}

/// A certificate request that wants these names.
pub fn request(names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let parameters = CertificateParams::new(names).unwrap();
    parameters.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// The DNS names in a certificate of PEM, as webpki reads them.
pub fn names(certificate: &str) -> Vec<String> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let parsed = rustls::server::ParsedCertificate::try_from(&certificate).unwrap();
    (0..=255)
        .map(|node| format!("node-{node}.cluster.relay"))
        .chain(["enrollment.cluster.relay".to_owned(), "localhost".to_owned()])
        .filter(|name| {
            let name = ServerName::try_from(name.as_str()).unwrap();
            rustls::client::verify_server_name(&parsed, &name).is_ok()
        })
        .collect()
}

/// Of the node's files, verified as other members would, on both ends of a connection.
pub fn names_in(directory: &Path, node: u8) -> Vec<String> {
    let pem = fs::read_to_string(directory.join(format!("node-{node}.pem"))).unwrap();
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let key = fs::read(directory.join(format!("node-{node}.key"))).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
    let (roots, provider) = (roots(&directory.join("ca.pem")), Arc::new(default_provider()));
    let name = ServerName::try_from(format!("node-{node}.cluster.relay")).unwrap();
    let server =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
    let server = server.build().unwrap();
    server.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now()).unwrap();
    let client = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let client = client.build().unwrap();
    client.verify_client_cert(&certificate, &[], UnixTime::now()).unwrap();
    // Refused unless the key is that of the certificate.
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(client)
        .with_single_cert(vec![certificate], key)
        .unwrap();
    names(&pem)
}

/// A server with a node's certificate of the right authority, at the door's address.
pub struct Impostor(JoinHandle<usize>);

impl Impostor {
    pub fn new(trust: &Path, address: &str) -> Impostor {
        let mut certificate = Command::new(env!("CARGO_BIN_EXE_relay-ctl"));
        certificate.args(["cluster", "certificate", "--node", "9", "--directory"]).arg(trust);
        assert!(certificate.output().unwrap().status.success());
        let read = |name: &str| fs::read(trust.join(name)).unwrap();
        let chain = ["node-9.pem", "ca.pem"]
            .map(|name| CertificateDer::from_pem_slice(&read(name)).unwrap());
        let key = PrivateKeyDer::from_pem_slice(&read("node-9.key")).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.to_vec(), key)
            .unwrap();
        config.alpn_protocols = vec![b"relay-join".to_vec()];
        let listener = TcpListener::bind(address).unwrap();
        Impostor(thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut said = Vec::new();
            // Ends with an alert.
            let _ = StreamOwned::new(tls, stream).read_to_end(&mut said);
            said.len()
        }))
    }

    /// Bytes that were said to it.
    pub fn heard(self) -> usize {
        self.0.join().unwrap()
    }
}

fn roots(ca: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(ca).unwrap()).unwrap()).unwrap();
    Arc::new(roots)
}
