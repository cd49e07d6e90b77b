//! A TLS client and a plain server that talk through the relays, every byte checked.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use xtask::content;
use xtask::lab::plan;
use xtask::shell::{in_namespace, output};
use xtask::soak::stream::{Pace, receive, send};

use crate::client::Client;
use crate::wait_for;

/// How long a connection may take to reach the server.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long a conversation may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Bytes that a stream has at least.
const STREAM_MIN: u64 = 12 << 20;
/// Bytes that pass before whatever happens in the middle of a stream, and behind it.
const MARGIN: u64 = 1 << 20;
const UP_SEED: u64 = 11;
const DOWN_SEED: u64 = 12;

/// Which streams flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flowing {
    /// Server to client.
    Down,
    /// Client to server.
    Up,
    /// Both at once.
    Both,
}

/// One connection as both ends see it.
pub struct Conversation {
    pub client: Client,
    pub server: TcpStream,
    asked: u32,
}

impl Conversation {
    /// Waits until `client` has come through to `listener`.
    pub fn accept(listener: &TcpListener, client: Client) -> Result<Conversation> {
        listener.set_nonblocking(true)?;
        let server =
            wait_for("a connection at the backend", CONNECT_LIMIT, || Ok(listener.accept()?.0))?;
        server.set_nonblocking(false)?;
        server.set_read_timeout(Some(STALL_LIMIT))?;
        server.set_write_timeout(Some(STALL_LIMIT))?;
        server.set_nodelay(true)?;
        Ok(Conversation { client, server, asked: 0 })
    }

    /// A question of the client and the server's answer, one short line each.
    pub fn exchange(&mut self) -> Result<()> {
        self.asked += 1;
        let question = format!("question {}\n", self.asked);
        self.client.send(question.as_bytes())?;
        self.hear(question.as_bytes())?;
        self.tell(format!("answer {}\n", self.asked).as_bytes())
    }

    /// The server reads as many bytes as `expected` has, and they are the same.
    pub fn hear(&mut self, expected: &[u8]) -> Result<()> {
        let mut bytes = vec![0; expected.len()];
        self.server.read_exact(&mut bytes).context("the server hears nothing")?;
        ensure!(bytes == expected, "the server heard {:?}", String::from_utf8_lossy(&bytes));
        Ok(())
    }

    /// The server writes `bytes`, and they arrive.
    pub fn tell(&mut self, bytes: &[u8]) -> Result<()> {
        self.server.write_all(bytes)?;
        self.client.expect(bytes)
    }

    /// The server writes until nobody takes any more, since the client reads nothing. Returns what it wrote,
    /// as soon as its TCP asks for a window.
    pub fn fill(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let peer = self.server.peer_addr()?.to_string();
        self.server.set_nonblocking(true)?;
        wait_for("a closed window", STALL_LIMIT, || {
            let mut block = vec![0; 64 << 10];
            content::fill(DOWN_SEED, bytes.len() as u64, &mut block);
            loop {
                match self.server.write(&block) {
                    Ok(count) => {
                        bytes.extend_from_slice(&block[..count]);
                        content::fill(DOWN_SEED, bytes.len() as u64, &mut block);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            let mut command = in_namespace(plan::BACKEND_NS, "ss");
            let timers = output(command.args(["-tno", "dst", &peer]))?;
            ensure!(timers.contains("(persist"), "{timers}");
            Ok(())
        })?;
        self.server.set_nonblocking(false)?;
        Ok(bytes)
    }

    /// Streams bytes; `during` happens in their midst. Everything arrives and is right.
    pub fn stream(&mut self, flowing: Flowing, during: impl FnOnce() -> Result<()>) -> Result<()> {
        let result = self.flow(flowing, during);
        result.with_context(|| format!("the client says: {:?}", self.client.said()))
    }

    fn flow(&mut self, flowing: Flowing, during: impl FnOnce() -> Result<()>) -> Result<()> {
        let (pace, moved) = (Pace::new(STREAM_MIN), [AtomicU64::new(0), AtomicU64::new(0)]);
        let (up, down) = (flowing != Flowing::Down, flowing != Flowing::Up);
        let mut input = up.then(|| self.client.take_input()).transpose()?;
        let mut output = down.then(|| self.client.take_output()).transpose()?;
        let (client, server) = ((input.as_mut(), output.as_mut()), &self.server);
        thread::scope(|scope| {
            let (pace, [up_moved, down_moved]) = (&pace, &moved);
            let mut ends = Vec::new();
            let mut counters = Vec::new();
            if let Some(input) = client.0 {
                ends.push(scope.spawn(move || send(input, UP_SEED, pace)));
                ends.push(scope.spawn(move || receive(&mut Counted(server, up_moved), UP_SEED)));
                counters.push(up_moved);
            }
            if let Some(output) = client.1 {
                ends.push(scope.spawn(move || send(&mut &*server, DOWN_SEED, pace)));
                ends.push(
                    scope.spawn(move || receive(&mut Counted(output, down_moved), DOWN_SEED)),
                );
                counters.push(down_moved);
            }
            let done = || ends.iter().any(thread::ScopedJoinHandle::is_finished);
            let happened = await_progress(&counters, &done)
                .and_then(|()| during())
                .and_then(|()| await_progress(&counters, &done));
            pace.finish();
            let ended: Vec<Result<u64>> = ends
                .into_iter()
                .map(|end| end.join().unwrap_or_else(|_| Err(anyhow!("a stream panicked"))))
                .collect();
            ended.into_iter().try_for_each(|end| end.map(drop)).and(happened)
        })?;
        self.client.give_back(input, output);
        Ok(())
    }

    /// The client ends its direction, then the server does; both ends see the other's end.
    pub fn end(mut self) -> Result<()> {
        self.client.shut_input();
        self.await_end_at_server()?;
        match self.server.shutdown(Shutdown::Write) {
            // It had ended its own direction before.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            result => result?,
        }
        let rest = self.client.read_to_end()?;
        ensure!(rest.is_empty(), "the client got {} bytes more", rest.len());
        self.client.wait()?.cleanly()
    }

    /// The server reads the end of the client's direction, and nothing before it.
    pub fn await_end_at_server(&mut self) -> Result<()> {
        let read = self.server.read(&mut [0]).context("no end at the server")?;
        ensure!(read == 0, "the server got more bytes");
        Ok(())
    }
}

/// Waits until every counter has grown by [`MARGIN`].
fn await_progress(counters: &[&AtomicU64], done: &dyn Fn() -> bool) -> Result<()> {
    let goals: Vec<_> = counters.iter().map(|moved| moved.load(Relaxed) + MARGIN).collect();
    wait_for("progress", STALL_LIMIT, || {
        let reached = counters.iter().zip(&goals).all(|(moved, goal)| moved.load(Relaxed) >= *goal);
        ensure!(reached || done(), "{counters:?} of {goals:?} bytes");
        Ok(())
    })
}

/// A reader that counts.
struct Counted<'a, R>(R, &'a AtomicU64);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read(buffer)?;
        self.1.fetch_add(length as u64, Relaxed);
        Ok(length)
    }
}
