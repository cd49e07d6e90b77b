//! One transfer, and how fast it was.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::bench::client::Tls;
use crate::bench::pair;
use crate::lab::Congestion;

/// Bytes per read and write.
const STEP: usize = 64 << 10;
/// How often a receiver that gets nothing looks at the clock.
const TICK: Duration = Duration::from_millis(100);

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Direction {
    /// The backend: the proxy's TCP sends over the line.
    Down,
    /// The client: the kernel's TCP sends over the line, the proxy's receives.
    Up,
}

/// What is to be sent, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    pub direction: Direction,
    pub bytes: u64,
    pub limit: Duration,
}

/// What the receiver got.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub bytes: u64,
    /// From the begin of sending to the last byte, or to the limit.
    pub time: Duration,
}

impl Received {
    /// Megabits per second.
    pub fn mbit(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.time.as_secs_f64()
    }
}

impl Transfer {
    /// On a new connection; its handshakes do not count.
    pub fn run(
        &self,
        tls: &Tls,
        listener: &TcpListener,
        congestion: Congestion,
    ) -> Result<Received> {
        let (mut client, mut backend) = pair::connect(tls, listener, 0, congestion)?;
        let sockets = [client.sock.try_clone()?, backend.try_clone()?];
        for socket in &sockets {
            socket.set_read_timeout(Some(TICK))?;
        }
        thread::scope(|scope| {
            let begin = Instant::now();
            let bytes = self.bytes;
            let received = match self.direction {
                Direction::Down => {
                    scope.spawn(move || send(&mut backend, bytes));
                    self.receive(&mut client, begin)
                }
                Direction::Up => {
                    scope.spawn(move || send(&mut client, bytes));
                    self.receive(&mut backend, begin)
                }
            };
            for socket in sockets {
                // The peer may have ended it already.
                let _ = socket.shutdown(Shutdown::Both);
            }
            received
        })
    }

    fn receive(&self, stream: &mut impl Read, begin: Instant) -> Result<Received> {
        let (mut buffer, mut bytes) = (vec![0; STEP], 0);
        while bytes < self.bytes && begin.elapsed() < self.limit {
            match stream.read(&mut buffer) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => {}
                count => {
                    let count = count?;
                    ensure!(count > 0, "the stream ended after {bytes} bytes");
                    bytes += count as u64;
                }
            }
        }
        Ok(Received { bytes, time: begin.elapsed() })
    }
}

/// Ends early when the receiver has had enough.
fn send(stream: &mut impl Write, bytes: u64) {
    let block = vec![7; STEP];
    let mut rest = bytes;
    while rest > 0 {
        let step = rest.min(STEP as u64);
        if stream.write_all(&block[..step as usize]).is_err() {
            return;
        }
        rest -= step;
    }
    let _ = stream.flush();
}
