//! The soak test: one long download and one long upload, each in one TLS session, while relays are
//! lost and come back many times.

pub mod stream;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;

use self::stream::{Pace, receive, send};
use crate::lab::plan::{
    BACKEND_NS, BACKEND_RAW_PORT, ENDPOINT_HOST, Network, RAW_PORT, SERVER_NAME, vip,
};
use crate::lab::turn::Turn;
use crate::lab::{How, Lab, network, pki};
use crate::shell::{inside, log_file, wait_for};

/// How long a connection may take to reach the backend.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long the others may take until one of them owns.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(30);
/// How long a relay may take from its start until it could take over.
const SYNC_LIMIT: Duration = Duration::from_secs(60);
/// How long a transfer may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How long the transfers may go on after the last kill.
const FINISH_LIMIT: Duration = Duration::from_secs(600);
/// How long everything runs undisturbed between two kills.
const BREATH: Duration = Duration::from_millis(500);

/// First byte of a connection: what the client wants.
const DOWNLOAD: u8 = b'D';
const UPLOAD: u8 = b'U';
/// The backend's last byte of an upload: everything arrived and was right.
const RIGHT: u8 = b'!';
/// Seeds of the two streams.
const DOWN_SEED: u64 = 1;
const UP_SEED: u64 = 2;

/// What to endure.
#[derive(Clone, Debug, Args)]
#[group(id = "soak")]
pub struct Options {
    /// How often the owner is lost.
    #[arg(long, default_value_t = 20)]
    pub kills: u32,
    /// How it is lost.
    #[arg(long, value_enum, default_value_t = How::Sigkill)]
    pub how: How,
    /// Random loss on the clients' side, in percent.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Least length of each transfer, in bytes; they last through all kills in any case.
    #[arg(long, default_value_t = 2_000_000_000)]
    pub bytes: u64,
    /// Leave the lab up at the end.
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    lab: crate::lab::Options,
}

/// The line of JSON at the end.
#[derive(Debug, Serialize)]
struct Report {
    kills: u32,
    download_ok: bool,
    upload_ok: bool,
}

/// Runs the soak test; an error unless all kills were endured and both transfers are byte-exact.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.lab.relays >= 2, "somebody must take over: --relays 2 or more");
    let _turn = Turn::wait("soak")?;
    let endured = Lab::up(&options.lab).and_then(|mut lab| endure(&mut lab, options));
    if !options.keep {
        Lab::down()?;
    }
    let report = endured?;
    println!("{}", serde_json::to_string(&report)?);
    let right = report.download_ok && report.upload_ok;
    ensure!(report.kills == options.kills && right, "the soak test failed");
    Ok(())
}

fn endure(lab: &mut Lab, options: &Options) -> Result<Report> {
    network::set_loss(options.loss)?;
    let address = (Network::Backend.v4(ENDPOINT_HOST), BACKEND_RAW_PORT);
    let backend = inside(BACKEND_NS, || Ok(TcpListener::bind(address)?))?;
    let pace = Pace::new(options.bytes);
    let mut clients =
        [Client::start(lab, options.lab.ipv6)?, Client::start(lab, options.lab.ipv6)?];
    let [down_pipes, up_pipes] = [clients[0].pipes()?, clients[1].pipes()?];

    Ok(thread::scope(|scope| {
        let served = scope.spawn(|| serve_both(&backend, &pace));
        let download = scope.spawn(|| download(down_pipes));
        let upload = scope.spawn(|| upload(up_pipes, &pace));
        let running = || !download.is_finished() && !upload.is_finished();
        let kills = lose_owners(lab, options, &running);
        pace.finish();
        if kills == options.kills {
            let deadline = Instant::now() + FINISH_LIMIT;
            while !(download.is_finished() && upload.is_finished()) && Instant::now() < deadline {
                thread::sleep(BREATH);
            }
        }
        // A client that still waits would wait for ever.
        clients.iter_mut().for_each(Client::end);
        let joined = |what, end: thread::Result<Result<u64>>| match end {
            Ok(result) => verdict(what, &result),
            Err(_) => false,
        };
        let (download_ok, upload_ok) =
            (joined("download", download.join()), joined("upload", upload.join()));
        joined("backend", served.join());
        Report { kills, download_ok, upload_ok }
    }))
}

fn verdict(what: &str, result: &Result<u64>) -> bool {
    match result {
        Ok(bytes) => eprintln!("soak: {what}: {bytes} bytes, every one right"),
        Err(error) => eprintln!("soak: {what} failed: {error:#}"),
    }
    result.is_ok()
}

/// Loses the owner again and again; returns how often that was endured.
fn lose_owners(lab: &mut Lab, options: &Options, running: &dyn Fn() -> bool) -> u32 {
    for kill in 1..=options.kills {
        match lose_owner(lab, options.how, running) {
            Ok((lost, successor, takeover)) => eprintln!(
                "soak: {kill}/{}: {lost} lost, {successor} owns after {:.1} ms, {lost} is back",
                options.kills,
                takeover.as_secs_f64() * 1e3
            ),
            Err(error) => {
                eprintln!("soak: {kill}/{}: {error:#}", options.kills);
                return kill - 1;
            }
        }
    }
    options.kills
}

fn lose_owner(
    lab: &mut Lab,
    how: How,
    running: &dyn Fn() -> bool,
) -> Result<(String, String, Duration)> {
    thread::sleep(BREATH);
    ensure!(running(), "a transfer ended before its time");
    let lost = lab.owner(None)?;
    let killed = Instant::now();
    lab.kill(&lost, how)?;
    let successor = wait_for("takeover", TAKEOVER_LIMIT, || lab.owner(Some(&lost)))?;
    let takeover = killed.elapsed();
    thread::sleep(BREATH);
    lab.start(&lost)?;
    // Without the transfers there is nothing to wait for.
    wait_for(&format!("return of {lost}"), SYNC_LIMIT, || {
        let status = lab.status(&lost)?;
        ensure!(status.is_ready_backup() || !running(), "it is no backup in sync: {status:?}");
        Ok(())
    })?;
    ensure!(running(), "a transfer ended before its time");
    Ok((lost, successor, takeover))
}

/// An openssl client: a TLS implementation that is not ours.
struct Client(Child);

type Pipes = (ChildStdin, ChildStdout);

impl Client {
    fn start(lab: &Lab, ipv6: bool) -> Result<Client> {
        let vip = vip(ipv6);
        let host = if ipv6 { format!("[{vip}]") } else { vip.to_string() };
        let mut command = lab.client("openssl");
        command.args(["s_client", "-quiet", "-verify_return_error"]);
        command.args(["-servername", SERVER_NAME, "-verify_hostname", SERVER_NAME]);
        command.arg("-CAfile").arg(pki::ca());
        command.arg("-connect").arg(format!("{host}:{RAW_PORT}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(log_file(&crate::lab::plan::state_file("soak.log"))?);
        Ok(Client(command.spawn().context("cannot run openssl")?))
    }

    fn pipes(&mut self) -> Result<Pipes> {
        let stdin = self.0.stdin.take().context("openssl has a standard input")?;
        Ok((stdin, self.0.stdout.take().context("openssl has a standard output")?))
    }

    fn end(&mut self) {
        // Most often it ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn download((mut input, mut output): Pipes) -> Result<u64> {
    input.write_all(&[DOWNLOAD])?;
    receive(&mut output, DOWN_SEED)
}

fn upload((mut input, mut output): Pipes, pace: &Pace) -> Result<u64> {
    input.write_all(&[UPLOAD])?;
    let sent = send(&mut input, UP_SEED, pace)?;
    let mut answer = [0];
    output.read_exact(&mut answer).context("the backend does not confirm")?;
    ensure!(answer == [RIGHT], "the backend answers {answer:?}");
    Ok(sent)
}

/// Serves one download and one upload; returns the bytes of both.
fn serve_both(backend: &TcpListener, pace: &Pace) -> Result<u64> {
    backend.set_nonblocking(true)?;
    thread::scope(|scope| {
        let mut served = Vec::new();
        for _ in 0..2 {
            let connection =
                wait_for("a connection at the backend", CONNECT_LIMIT, || Ok(backend.accept()?.0))?;
            served.push(scope.spawn(move || serve(connection, pace)));
        }
        let mut bytes = 0;
        for one in served {
            bytes += one.join().unwrap_or_else(|_| bail!("the backend panicked"))?;
        }
        Ok(bytes)
    })
}

fn serve(mut connection: TcpStream, pace: &Pace) -> Result<u64> {
    connection.set_nonblocking(false)?;
    connection.set_read_timeout(Some(STALL_LIMIT))?;
    connection.set_write_timeout(Some(STALL_LIMIT))?;
    let mut wish = [0];
    connection.read_exact(&mut wish)?;
    match wish[0] {
        DOWNLOAD => send(&mut connection, DOWN_SEED, pace),
        UPLOAD => {
            let received = receive(&mut connection, UP_SEED)?;
            connection.write_all(&[RIGHT])?;
            Ok(received)
        }
        other => bail!("the first byte is {other}"),
    }
}
