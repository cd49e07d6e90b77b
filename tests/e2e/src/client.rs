//! TLS clients that are not ours, as pipes: what is written goes to the server, what is read came
//! from it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use xtask::lab::plan::{RAW_PORT, SERVER_NAME, vip};
use xtask::lab::{Lab, pki};

use crate::wait_for;

/// Seconds after which a client has failed: it ends, and with it the test that waits for it.
const LIMIT_S: &str = "90";

/// How long a client may take to say something.
const WORD_LIMIT: Duration = Duration::from_secs(20);

/// A TLS client with OpenSSL's library that knows half-closed connections and says how a
/// connection ended.
const TLS_PIPE: &str = include_str!("tls_pipe.py");

/// A TLS connection to the VIP.
pub struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    said: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
}

/// How a client ended.
#[derive(Debug)]
pub struct Ended {
    /// Whether it was content.
    pub success: bool,
    /// Its words on standard error.
    pub said: String,
}

impl Client {
    /// `openssl s_client` with `arguments` besides address, authority and server name.
    pub fn openssl(lab: &Lab, ipv6: bool, port: u16, arguments: &[&str]) -> Result<Client> {
        let vip = vip(ipv6);
        let host = if ipv6 { format!("[{vip}]") } else { vip.to_string() };
        let mut command = lab.client("timeout");
        command.args([LIMIT_S, "openssl", "s_client", "-verify_return_error"]);
        command.arg("-CAfile").arg(pki::ca()).args(["-connect", &format!("{host}:{port}")]);
        if !arguments.contains(&"-noservername") && !arguments.contains(&"-servername") {
            command.args(["-servername", SERVER_NAME]);
        }
        Client::start(command.args(arguments))
    }

    /// A client of the raw port that speaks at most TLS `version` (`1.2` or `1.3`). It goes on with
    /// one direction when the other one has ended, and ends with success only if both ended with
    /// a close_notify.
    pub fn raw(lab: &Lab, ipv6: bool, version: &str) -> Result<Client> {
        Client::pipe(lab, ipv6, version, LIMIT_S)
    }

    /// The same over IPv4, for a connection that may take so many seconds.
    pub fn patient(lab: &Lab, version: &str, seconds: usize) -> Result<Client> {
        Client::pipe(lab, false, version, &seconds.to_string())
    }

    fn pipe(lab: &Lab, ipv6: bool, version: &str, limit_s: &str) -> Result<Client> {
        // No timeout(1) here: it would hold on to the output that the client closes.
        let mut command = lab.client("python3");
        command.args(["-c", TLS_PIPE]);
        command.args([&vip(ipv6).to_string(), &RAW_PORT.to_string()]);
        Client::start(command.arg(pki::ca()).args([SERVER_NAME, version, limit_s]))
    }

    fn start(command: &mut Command) -> Result<Client> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("no client: run ./scripts/setup")?;
        let stderr = child.stderr.take().context("a client has a standard error")?;
        let said = Arc::new(Mutex::new(String::new()));
        let noted = Arc::clone(&said);
        let listener = Some(thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) += &(line + "\n");
            }
        }));
        let (input, output) = (child.stdin.take(), child.stdout.take());
        Ok(Client { child, input, output, said, listener })
    }

    /// What it has said on standard error so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has said `word` for the time number `count`.
    pub fn await_word(&self, word: &str, count: usize) -> Result<()> {
        wait_for(&format!("{word} from the client"), WORD_LIMIT, || {
            let said = self.said();
            ensure!(said.matches(word).count() >= count, "{said}");
            Ok(())
        })
    }

    /// The end that is written, to be used by another thread; dropping it ends the direction.
    pub fn take_input(&mut self) -> Result<ChildStdin> {
        self.input.take().context("the input was taken")
    }

    /// The end that is read, to be used by another thread.
    pub fn take_output(&mut self) -> Result<ChildStdout> {
        self.output.take().context("the output was taken")
    }

    /// Takes both ends back.
    pub fn give_back(&mut self, input: Option<ChildStdin>, output: Option<ChildStdout>) {
        self.input = input.or(self.input.take());
        self.output = output.or(self.output.take());
    }

    /// Writes `bytes`.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let input = self.input.as_mut().context("the input was taken")?;
        input.write_all(bytes).and_then(|()| input.flush()).context("the client takes nothing")
    }

    /// Reads as many bytes as `expected` has, and demands the same.
    pub fn expect(&mut self, expected: &[u8]) -> Result<()> {
        let mut bytes = vec![0; expected.len()];
        let output = self.output.as_mut().context("the output was taken")?;
        output.read_exact(&mut bytes).context("the client gives nothing")?;
        ensure!(bytes == expected, "{:?}", String::from_utf8_lossy(&bytes));
        Ok(())
    }

    /// Ends the direction to the server.
    pub fn shut_input(&mut self) {
        self.input = None;
    }

    /// Reads to the end.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let output = self.output.as_mut().context("the output was taken")?;
        output.read_to_end(&mut bytes).context("the client gives nothing")?;
        Ok(bytes)
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Result<Ended> {
        let status = self.child.wait()?;
        if self.listener.take().is_some_and(|listener| listener.join().is_err()) {
            bail!("the client's words are lost");
        }
        Ok(Ended { success: status.success(), said: self.said() })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Most often it ended by itself. timeout(1) passes SIGTERM on, but cannot pass on SIGKILL.
        if let (Some(pid), Ok(None)) =
            (Pid::from_raw(self.child.id() as i32), self.child.try_wait())
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

impl Ended {
    /// An error unless both directions ended as TLS wants it.
    pub fn cleanly(&self) -> Result<()> {
        ensure!(self.success, "the client ended with: {}", self.said.trim());
        Ok(())
    }

    /// An error unless it said `word`.
    pub fn saying(&self, word: &str) -> Result<()> {
        ensure!(self.said.contains(word), "no {word:?} in: {}", self.said.trim());
        Ok(())
    }
}
