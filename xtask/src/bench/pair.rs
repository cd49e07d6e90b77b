//! Both ends of one connection through a proxy: a TLS client, and a backend in this program.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::net::sockopt::set_tcp_congestion;
use rustls::{ClientConnection, StreamOwned};

use super::client::Tls;
use crate::lab::Congestion;
use crate::lab::plan::{BACKEND_NS, BACKEND_RAW_PORT, CLIENT_NS, ENDPOINT_HOST, Network, RAW_PORT};
use crate::shell::{inside, wait_for};

/// How long a connection may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// How long it may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// A client's end.
pub type Client = StreamOwned<ClientConnection, TcpStream>;

/// Where the backend's ends come in.
pub fn listen() -> Result<TcpListener> {
    let address = (Network::Backend.v4(ENDPOINT_HOST), BACKEND_RAW_PORT);
    let listener = inside(BACKEND_NS, || Ok(TcpListener::bind(address)?))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection through the proxy of `tls`; its first byte, `index`, has arrived.
pub fn connect(
    tls: &Tls,
    listener: &TcpListener,
    index: u8,
    congestion: Congestion,
) -> Result<(Client, TcpStream)> {
    let socket = inside(CLIENT_NS, || Ok(TcpStream::connect((tls.address(), RAW_PORT))?))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(STALL_LIMIT))?;
    set_tcp_congestion(&socket, congestion.as_str())?;
    let mut client = StreamOwned::new(tls.session()?, socket);
    client.write_all(&[index])?;
    client.flush()?;
    let mut backend = wait_for("a connection", BEGIN_LIMIT, || Ok(listener.accept()?.0))?;
    backend.set_nonblocking(false)?;
    backend.set_nodelay(true)?;
    backend.set_read_timeout(Some(STALL_LIMIT))?;
    set_tcp_congestion(&backend, congestion.as_str())?;
    let mut first = [0];
    backend.read_exact(&mut first)?;
    ensure!(first == [index], "a connection of an earlier trial");
    Ok((client, backend))
}
