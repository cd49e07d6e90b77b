//! A TLS 1.3 client that speaks as much HTTP/1.1 as the bench needs.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::lab::origin::FILES;
use crate::lab::pki;
use crate::lab::plan::{PORT, SERVER_NAME};

/// How long a proxy may be silent.
const STALL_LIMIT: Duration = Duration::from_secs(20);
/// Longest header of a response.
const HEADER_MAX: usize = 4096;
/// Bytes per read and write of a body.
const STEP: usize = 64 * 1024;

/// What all connections to one proxy have in common.
pub struct Tls {
    config: Arc<ClientConfig>,
    address: IpAddr,
}

impl Tls {
    /// TLS 1.3 with AES-128-GCM and X25519, full handshakes only, the lab's authority.
    pub fn new(address: IpAddr) -> Result<Arc<Tls>> {
        let mut provider = default_provider();
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        provider.kx_groups = vec![kx_group::X25519];
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&fs::read(pki::ca())?)?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(Tls { config: Arc::new(config), address }))
    }

    /// A connection; the handshake runs with the first request.
    pub fn connect(&self) -> Result<Client> {
        let socket = TcpStream::connect((self.address, PORT))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(STALL_LIMIT))?;
        socket.set_write_timeout(Some(STALL_LIMIT))?;
        Ok(Client { stream: StreamOwned::new(self.session()?, socket), buffer: vec![0; STEP] })
    }

    /// Where the proxy is.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The TLS side of a connection.
    pub fn session(&self) -> Result<ClientConnection> {
        let name = ServerName::try_from(SERVER_NAME)?;
        Ok(ClientConnection::new(Arc::clone(&self.config), name)?)
    }
}

/// One connection.
pub struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    /// GET of `path`, whose body must have `length` bytes.
    pub fn get(&mut self, path: &str, length: u64) -> Result<()> {
        let request = format!("GET /{path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n");
        self.stream.write_all(request.as_bytes())?;
        let received = self.response(|_| ())?;
        ensure!(received == length, "{received} bytes of {length} of {path}");
        Ok(())
    }

    /// GET of `path`; returns its body.
    pub fn fetch(&mut self, path: &str) -> Result<Vec<u8>> {
        let request = format!("GET /{path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n");
        self.stream.write_all(request.as_bytes())?;
        let mut body = Vec::new();
        self.response(|bytes| body.extend_from_slice(bytes))?;
        Ok(body)
    }

    /// PUT of `length` bytes to `path`.
    pub fn put(&mut self, path: &str, length: u64) -> Result<()> {
        let request = format!(
            "PUT /{path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Length: {length}\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes())?;
        self.buffer.resize(STEP, 0);
        let mut rest = length;
        while rest > 0 {
            let step = STEP.min(usize::try_from(rest)?);
            self.stream.write_all(&self.buffer[..step])?;
            rest -= step as u64;
        }
        self.response(|_| ()).map(drop)
    }

    /// A small request.
    pub fn warm_up(&mut self) -> Result<()> {
        let (name, length) = FILES[0];
        self.get(name, length)
    }

    /// Says goodbye, as a browser does.
    pub fn close(mut self) -> Result<()> {
        self.stream.conn.send_close_notify();
        self.stream.conn.write_tls(&mut self.stream.sock)?;
        Ok(())
    }

    /// Reads a response to its end, passes its body on, and returns the body's length.
    fn response(&mut self, mut sink: impl FnMut(&[u8])) -> Result<u64> {
        let (mut filled, end) = (0, b"\r\n\r\n");
        let body_begin = loop {
            ensure!(filled < HEADER_MAX, "a header of more than {HEADER_MAX} bytes");
            let count = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(count > 0, "the connection ended inside of a header");
            filled += count;
            let found = self.buffer[..filled].windows(end.len()).position(|bytes| bytes == end);
            if let Some(at) = found {
                break at + end.len();
            }
        };
        let length = content_length(&self.buffer[..body_begin])?;
        sink(&self.buffer[body_begin..filled]);
        let mut received = (filled - body_begin) as u64;
        while received < length {
            let count = self.stream.read(&mut self.buffer)?;
            ensure!(count > 0, "the connection ended after {received} of {length} bytes");
            sink(&self.buffer[..count]);
            received += count as u64;
        }
        ensure!(received == length, "more than the {length} bytes of a body");
        Ok(length)
    }
}

/// The length of the body of a response that says that everything is fine.
fn content_length(header: &[u8]) -> Result<u64> {
    let header = std::str::from_utf8(header)?;
    let status = header.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("status {status}");
    }
    let lines = header.lines().filter_map(|line| line.split_once(": "));
    let length = |(name, value): (&str, &str)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
    };
    match lines.filter_map(length).next() {
        Some(length) => length.context("Content-Length"),
        // 204 No Content, the answer to a PUT that replaced a file.
        None if status == "204" => Ok(0),
        None => bail!("no Content-Length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_with_a_length_is_a_response() {
        let ok = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 1024\r\n\r\n";
        assert_eq!(content_length(ok).unwrap(), 1024);
        assert_eq!(content_length(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), 0);
        assert!(content_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(content_length(b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
