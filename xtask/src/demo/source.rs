//! The server of the tour's downloads, behind the VIP's raw port: slow until the finale, so that no
//! download ends before the tour does however long its steps take; then as fast as they go.
//! (nginx fixes a response's pace when it begins.)

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::stage::Stage;
use crate::content;
use crate::lab::plan::{BACKEND_NS, BACKEND_RAW_PORT, ENDPOINT_HOST, Network};
use crate::shell::inside;

/// Between two writes before the finale: much shorter than a pause that matters.
const INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of a write before the finale.
const SLOW_STEP: usize = 2 << 10;
/// Bytes of a write from the finale on.
const FAST_STEP: usize = 64 << 10;
/// How often new connections are looked for.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(10);
/// Longest head of a request.
const HEAD_MAX: usize = 4096;
/// A client that is silent for longer is gone.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// A socket that the relays connect to.
pub fn listen() -> Result<TcpListener> {
    let address = (Network::Backend.v4(ENDPOINT_HOST), BACKEND_RAW_PORT);
    let listener = inside(BACKEND_NS, || Ok(TcpListener::bind(address)?))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves bodies of `length` bytes until all transfers ended.
pub fn serve(listener: &TcpListener, length: usize, stage: &Stage) -> Result<()> {
    thread::scope(|scope| {
        while !stage.is_over() {
            match listener.accept() {
                // A client says by itself that its download failed.
                Ok((stream, _)) => drop(scope.spawn(move || answer(stream, length, stage))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(ACCEPT_INTERVAL);
                }
                Err(error) => return Err(error).context("the source of the downloads"),
            }
        }
        Ok(())
    })
}

fn answer(mut stream: TcpStream, length: usize, stage: &Stage) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL_LIMIT))?;
    stream.set_write_timeout(Some(STALL_LIMIT))?;
    let seed = read_request(&mut stream)?;
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    let mut buffer = vec![0; FAST_STEP];
    let (mut sent, mut due) = (0, Instant::now());
    while sent < length {
        let hurries = stage.is_finale();
        let step = if hurries { FAST_STEP } else { SLOW_STEP }.min(length - sent);
        content::fill(seed, sent as u64, &mut buffer[..step]);
        stream.write_all(&buffer[..step])?;
        sent += step;
        if !hurries {
            // What was missed is not made up for: that would be a burst in the midst of a step.
            due = (due + INTERVAL).max(Instant::now());
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(())
}

/// Reads a request, and returns the seed that is its path.
fn read_request(stream: &mut TcpStream) -> Result<u64> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        ensure!(head.len() < HEAD_MAX, "a head of more than {HEAD_MAX} bytes");
    }
    let head = String::from_utf8_lossy(&head);
    match head.strip_prefix("GET /").and_then(|rest| rest.split(' ').next()) {
        Some(seed) => seed.parse().with_context(|| format!("no seed: {seed}")),
        None => bail!("no GET: {head}"),
    }
}
