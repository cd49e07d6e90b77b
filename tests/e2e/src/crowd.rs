//! Clients that do little else than shake hands, one connection after another, so that whatever
//! happens to a relay happens in the midst of handshakes.

use std::process::{Output, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use xtask::lab::plan::{PORT, SERVER_NAME, vip};
use xtask::lab::{Lab, origin, pki};

/// What every connection fetches.
const FILE: &str = "1k.bin";

/// Connections of curl, and of s_client, which takes longer to start than to connect.
const CURLS: usize = 60;
const OPENSSLS: usize = 12;

/// A handshake that takes longer than this was interrupted: nothing else on the lab's links does
/// that, but a busy machine may.
const INTERRUPTED_S: f64 = 0.08;

/// Seconds after which a member has failed.
const LIMIT_S: &str = "90";

/// The members, at work.
pub struct Crowd(Vec<Member>);

struct Member {
    name: String,
    fetches: usize,
    output: JoinHandle<std::io::Result<Output>>,
}

/// What a crowd has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Connections, all of which were served.
    pub connections: usize,
    /// Handshakes of curl's that took as long as a takeover.
    pub interrupted: usize,
}

impl Crowd {
    /// Sends out curl and s_client, TLS 1.3 and 1.2 each. curl resumes sessions, s_client does not.
    pub fn start(lab: &Lab) -> Result<Crowd> {
        let curl = |version| Member::curl(lab, version);
        let openssl = |version| Member::openssl(lab, version);
        Ok(Crowd(vec![curl("1.3")?, curl("1.2")?, openssl("1_3")?, openssl("1_2")?]))
    }

    /// Waits until all have ended; an error if any connection failed or got a wrong byte.
    pub fn wait(self) -> Result<Seen> {
        let file = std::fs::read(origin::root().join(FILE))?;
        let mut seen = Seen::default();
        for Member { name, fetches, output } in self.0 {
            let output = output.join().map_err(|_| anyhow!("{name} is lost"))?;
            let Output { status, stdout, stderr } =
                output.context("no client: run scripts/setup")?;
            let said = String::from_utf8_lossy(&stderr);
            let whole = stdout.windows(file.len()).filter(|window| *window == file).count();
            ensure!(
                status.success() && whole == fetches,
                "{name}: {whole} of {fetches} files arrived, {status}: {said}"
            );
            seen.connections += fetches;
            seen.interrupted += said.lines().filter(|line| was_interrupted(line)).count();
        }
        Ok(seen)
    }
}

impl Member {
    fn curl(lab: &Lab, version: &str) -> Result<Member> {
        let mut command = lab.curl(false);
        command.args(["--max-time", LIMIT_S, "--header", "Connection: close"]);
        command.args([&format!("--tlsv{version}"), "--tls-max", version]);
        command.args(["--write-out", "%{stderr}%{time_connect} %{time_appconnect}\\n"]);
        // A URL for each connection: curl would rather keep the one that it has.
        command.arg(format!("https://{SERVER_NAME}/{FILE}?[1-{CURLS}]"));
        Member::start(format!("curl with TLS {version}"), CURLS, command)
    }

    fn openssl(lab: &Lab, version: &str) -> Result<Member> {
        let mut command = lab.client("timeout");
        let request = format!("GET /{FILE} HTTP/1.0\\r\\nHost: {SERVER_NAME}\\r\\n\\r\\n");
        let client = format!(
            "openssl s_client -quiet -verify_quiet -verify_return_error -CAfile {} \
             -connect {}:{PORT} -servername {SERVER_NAME} -tls{version}",
            pki::ca().display(),
            vip(false),
        );
        let script =
            format!("for i in $(seq {OPENSSLS}); do printf '{request}' | {client} || exit 1; done");
        command.args([LIMIT_S, "sh", "-c", &script]);
        Member::start(format!("s_client with TLS {version}"), OPENSSLS, command)
    }

    fn start(name: String, fetches: usize, mut command: std::process::Command) -> Result<Member> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().context("no client: run scripts/setup")?;
        let output = thread::spawn(move || child.wait_with_output());
        Ok(Member { name, fetches, output })
    }
}

/// Whether a line of curl's tells of a long handshake: seconds to connect, and to have shaken hands.
fn was_interrupted(line: &str) -> bool {
    let mut times = line.split(' ').map(str::parse::<f64>);
    match (times.next(), times.next()) {
        (Some(Ok(connected)), Some(Ok(shaken))) => shaken - connected > INTERRUPTED_S,
        _ => false,
    }
}
