//! One transfer of the demo: curl, every byte hashed, every pause measured.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::chat;
use super::stage::Stage;
use crate::content;
use crate::lab::origin;
use crate::lab::plan::{PORT, RAW_PORT, SERVER_NAME, vip};

/// A transfer that takes longer has failed, in seconds; a tour takes a few minutes.
const TRANSFER_LIMIT_S: &str = "600";
/// A transfer that stands still for longer has failed, in seconds.
const STALL_LIMIT_S: &str = "25";
/// Bytes that an upload writes at once; less at low rates, so that it never pauses by itself.
const UPLOAD_STEP: usize = 16 << 10;
/// Parts of a second in which an upload writes at least once.
const UPLOAD_STEPS: usize = 50;
/// How often the growth of the uploads is looked at: much shorter than any pause that matters.
const WATCH_INTERVAL: Duration = Duration::from_millis(2);

/// Digests of the origin's files, by name.
pub type Digests = BTreeMap<&'static str, [u8; 32]>;

/// What one connection does. Rates are in bytes per second, lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub enum Job {
    /// GET of a file that the origin paces.
    Download { file: &'static str, rate: u32 },
    /// GET of made-up bytes that [`super::source`] paces until the finale.
    Stream { index: usize, length: usize },
    /// PUT of made-up bytes at a pace, or without one from the finale on.
    Upload { index: usize, length: usize, rate: u32 },
    /// Small requests on one connection until the finale.
    Chat,
}

/// How a transfer ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// curl's exit status; none when a signal ended it.
    pub exit: Option<i32>,
    /// curl's words when it failed.
    pub said: String,
    /// Bytes of the body.
    pub bytes: u64,
    /// Whether the other side's SHA-256 is the same.
    pub exact: bool,
    /// Its pauses; those of uploads are measured by the watcher.
    pub pauses: Pauses,
}

/// The longest pause of one connection in each step, by the step's number.
pub type Pauses = BTreeMap<usize, Duration>;

impl Outcome {
    /// The HTTP exchange came to its regular end.
    pub fn survived(&self) -> bool {
        self.exit == Some(0)
    }

    /// curl saw the connection break: 18 in a body, 35 in the handshake, 52 before an answer, 55
    /// and 56 while sending and receiving (libcurl-errors(3)).
    pub fn was_reset(&self) -> bool {
        matches!(self.exit, Some(18 | 35 | 52 | 55 | 56))
    }
}

impl Job {
    /// Completes `curl`, which knows the server, with what this transfer needs.
    pub fn command(&self, mut curl: Command, ipv6: bool) -> Command {
        curl.args(["--max-time", TRANSFER_LIMIT_S]);
        curl.args(["--speed-limit", "1", "--speed-time", STALL_LIMIT_S]);
        curl.stdout(Stdio::piped()).stderr(Stdio::piped());
        let base = format!("https://{SERVER_NAME}:{PORT}");
        match self {
            Job::Download { file, rate } => {
                curl.stdin(Stdio::null());
                curl.arg("--no-buffer").arg(format!("{base}/paced/{file}?rate={rate}"));
            }
            Job::Upload { index, rate, .. } => {
                let area = if upload_step(*rate) < UPLOAD_STEP { "slow" } else { "up" };
                curl.stdin(Stdio::piped()).args(["--header", "Expect:", "--upload-file", "-"]);
                curl.arg(format!("{base}/{area}/{index}.bin"));
            }
            Job::Stream { index, .. } => {
                // The lab's curl knows the address at the origin's port only.
                let known = format!("{SERVER_NAME}:{RAW_PORT}");
                let vip = if ipv6 { format!("[{}]", vip(true)) } else { vip(false).to_string() };
                curl.stdin(Stdio::null()).args(["--resolve", &format!("{known}:{vip}")]);
                curl.arg("--no-buffer").arg(format!("https://{known}/{index}"));
            }
            Job::Chat => (),
        }
        curl
    }

    /// Runs the transfer to its end.
    pub fn run(
        &self,
        mut curl: Command,
        stage: &Stage,
        origin: &Digests,
        ipv6: bool,
    ) -> Result<Outcome> {
        let expected = match self {
            Job::Chat => return chat::run(stage, ipv6),
            Job::Download { file, .. } => origin[file],
            Job::Stream { index, length } => content_digest(*index, *length),
            Job::Upload { .. } => Default::default(),
        };
        let child = curl.spawn().context("cannot run curl")?;
        match self {
            Job::Download { .. } | Job::Stream { .. } | Job::Chat => {
                download(child, stage, expected)
            }
            Job::Upload { index, length, rate } => {
                upload(child, stage, Body { index: *index, length: *length, rate: *rate })
            }
        }
    }
}

/// SHA-256 of each file of the origin that the jobs download.
pub fn origin_digests(jobs: &[Job]) -> Result<Digests> {
    let mut digests = Digests::new();
    for job in jobs {
        if let Job::Download { file, .. } = job
            && !digests.contains_key(file)
        {
            digests.insert(*file, file_digest(&origin::root().join(file))?);
        }
    }
    Ok(digests)
}

/// Watches the bodies of all uploads grow at the origin until the end; returns each one's
/// pauses. (What a client writes says nothing: socket buffers take it.)
pub fn watch_uploads(stage: &Stage) -> Vec<Pauses> {
    let mut bodies: BTreeMap<u64, (u64, Gaps)> = BTreeMap::new();
    while !stage.is_over() {
        for entry in fs::read_dir(origin::upload_area()).into_iter().flatten().flatten() {
            // A body that is complete is renamed away between the two calls.
            let Ok(metadata) = entry.metadata() else { continue };
            let (length, gaps) =
                bodies.entry(metadata.ino()).or_insert_with(|| (0, Gaps::new(Instant::now())));
            if metadata.len() != *length {
                *length = metadata.len();
                gaps.progress(Instant::now(), stage.step());
            }
        }
        thread::sleep(WATCH_INTERVAL);
    }
    bodies.into_values().map(|(_, gaps)| gaps.longest).collect()
}

fn download(mut child: Child, stage: &Stage, expected: [u8; 32]) -> Result<Outcome> {
    let mut body = child.stdout.take().context("curl has a standard output")?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 64 << 10];
    let mut gaps = Gaps::new(Instant::now());
    loop {
        let count = body.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        gaps.progress(Instant::now(), stage.step());
        if bytes == 0 {
            stage.began();
        }
        stage.moved(count);
        bytes += count as u64;
        hash.update(&buffer[..count]);
    }
    let exact = <[u8; 32]>::from(hash.finalize()) == expected;
    finish(child, Outcome { exit: None, said: String::new(), bytes, exact, pauses: gaps.longest })
}

struct Body {
    index: usize,
    length: usize,
    rate: u32,
}

fn upload(mut child: Child, stage: &Stage, body: Body) -> Result<Outcome> {
    let mut input = child.stdin.take().context("curl has a standard input")?;
    let (mut hash, mut sent) = (Sha256::new(), 0);
    let mut buffer = vec![0; upload_step(body.rate)];
    let start = Instant::now();
    while sent < body.length {
        content::fill(body.index as u64, sent as u64, &mut buffer);
        // curl closes its input when the transfer fails; its exit status says why.
        if input.write_all(&buffer).is_err() {
            break;
        }
        hash.update(&buffer);
        if sent == 0 {
            stage.began();
        }
        sent += buffer.len();
        stage.moved(buffer.len());
        let due = start + Duration::from_secs_f64(sent as f64 / f64::from(body.rate));
        if !stage.is_finale() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    drop(input);
    let (bytes, pauses) = (sent as u64, Pauses::new());
    let outcome = Outcome { exit: None, said: String::new(), bytes, exact: false, pauses };
    let outcome = finish(child, outcome)?;
    let stored = origin::root().join("up").join(format!("{}.bin", body.index));
    let exact = outcome.survived() && file_digest(&stored)? == <[u8; 32]>::from(hash.finalize());
    Ok(Outcome { exact, ..outcome })
}

fn finish(child: Child, outcome: Outcome) -> Result<Outcome> {
    let result = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&result.stderr).trim().to_owned();
    let exit = result.status.code();
    // What a broken connection did last says nothing about a pause.
    let pauses = if exit == Some(0) { outcome.pauses } else { Pauses::new() };
    Ok(Outcome { exit, said, bytes: outcome.bytes, exact: outcome.exact, pauses })
}

/// Words of [`content`] are not split, so neither is the body, whose length is a multiple too.
fn upload_step(rate: u32) -> usize {
    (rate as usize / UPLOAD_STEPS).clamp(1 << 10, UPLOAD_STEP).next_multiple_of(1 << 10)
}

fn content_digest(index: usize, length: usize) -> [u8; 32] {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    for offset in (0..length).step_by(buffer.len()) {
        content::fill(index as u64, offset as u64, &mut buffer);
        hash.update(&buffer[..(length - offset).min(1 << 16)]);
    }
    hash.finalize().into()
}

fn file_digest(path: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// The pauses of one connection.
pub struct Gaps {
    last: Instant,
    /// The step of the last progress.
    step: Option<usize>,
    /// What it found.
    pub longest: Pauses,
}

impl Gaps {
    /// A connection on which nothing moved yet.
    pub fn new(now: Instant) -> Gaps {
        Gaps { last: now, step: None, longest: Pauses::new() }
    }

    /// Something moved at `now`, in `step`. A pause counts for the step in which it ends, so one
    /// that began before it counts whole; after the last step, for the one in which it began.
    pub fn progress(&mut self, now: Instant, step: Option<usize>) {
        if let Some(step) = step.or(self.step) {
            let longest = self.longest.entry(step).or_default();
            *longest = (*longest).max(now - self.last);
        }
        (self.last, self.step) = (now, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_for_the_step_in_which_it_ends() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut gaps = Gaps::new(at(0));
        gaps.progress(at(500), None);
        assert!(gaps.longest.is_empty());
        gaps.progress(at(530), Some(1));
        gaps.progress(at(540), Some(1));
        gaps.progress(at(560), Some(2));
        gaps.progress(at(590), None);
        gaps.progress(at(900), None);
        let expected = [(1, Duration::from_millis(30)), (2, Duration::from_millis(30))];
        assert_eq!(gaps.longest, Pauses::from(expected));
    }

    #[test]
    fn a_slow_upload_writes_less_at_once() {
        assert_eq!(upload_step(3 << 19), UPLOAD_STEP);
        assert_eq!(upload_step(100 << 10), 2 << 10);
    }
}
