//! One trial: connections, the loss of the owner, and what the receivers noticed.

use std::fs;
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::flow::{End, Flow, Shape, Stage};
use crate::bench::client::Tls;
use crate::bench::pair;
use crate::lab::plan::vip;
use crate::lab::{Congestion, How, Lab, relay};
use crate::shell::wait_for;

/// How long connections may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// Bulk transfers run for this long before the owner is lost, and for up to [`WARM_UP_SPREAD`]
/// longer.
const WARM_UP: Duration = Duration::from_millis(300);
const WARM_UP_SPREAD: Duration = Duration::from_millis(200);
/// Bursts before the one whose end is lost, and the time between them.
const BURSTS: u32 = 8;
const BURST_INTERVAL: Duration = Duration::from_millis(25);
/// The owner dies up to so much later than most of somebody's last burst has arrived.
const BURST_SPREAD: Duration = Duration::from_micros(300);
/// How long the others may take until one of them owns.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(5);
/// How long connections may stand still.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// How long they are watched after they went on: they may stop again.
const AFTERMATH: Duration = Duration::from_millis(300);
/// How long a relay may take from its start until it could take over.
const SYNC_LIMIT: Duration = Duration::from_secs(30);
/// What a relay logs when it takes over.
const OWNS: &str = "role=Owner";

/// What one receiver noticed.
pub struct Pause {
    pub shape: Shape,
    /// From the kill to the takeover.
    pub detection: Duration,
    /// The longest pause; none when nothing was lost.
    pub length: Option<Duration>,
}

/// A lab in which owners are lost again and again.
pub struct Trials<'a> {
    lab: &'a mut Lab,
    listener: TcpListener,
    tls: Arc<Tls>,
}

impl<'a> Trials<'a> {
    /// Trials in a lab that serves.
    pub fn new(lab: &'a mut Lab) -> Result<Self> {
        Ok(Trials { lab, listener: pair::listen()?, tls: Tls::new(vip(false))? })
    }

    /// One connection of each shape, the loss of the owner, and the return of the lost relay.
    pub fn run(&mut self, shapes: &[Shape], congestion: Congestion) -> Result<Vec<Pause>> {
        let owner = self.lab.owner(None)?;
        let pauses =
            self.play(shapes, congestion, |lab, flows, stage| watch(lab, &owner, flows, stage))?;
        self.recover()?;
        Ok(pauses)
    }

    /// The same bulk transfers for as long, but nobody is lost: what the path alone does.
    pub fn control(
        &mut self,
        shapes: &[Shape],
        congestion: Congestion,
        outage: Duration,
    ) -> Result<Vec<Pause>> {
        self.play(shapes, congestion, |_, flows, stage| {
            begin(flows)?;
            stage.kill_now();
            thread::sleep(outage + AFTERMATH);
            Ok(pauses(flows, Duration::ZERO, Instant::now()))
        })
    }

    fn play(
        &mut self,
        shapes: &[Shape],
        congestion: Congestion,
        watch: impl FnOnce(&mut Lab, &[Flow], &Stage) -> Result<Vec<Pause>>,
    ) -> Result<Vec<Pause>> {
        let flows: Vec<Flow> = shapes.iter().map(|shape| Flow::new(*shape)).collect();
        let (stage, sockets) = (Stage::default(), Mutex::new(Vec::new()));
        let Trials { lab, listener, tls } = self;
        thread::scope(|scope| {
            let played = (|| {
                for (index, flow) in flows.iter().enumerate() {
                    let (client, backend) = pair::connect(tls, listener, index as u8, congestion)?;
                    let mut known = sockets.lock().expect("no thread panics with it");
                    known.extend([client.sock.try_clone()?, backend.try_clone()?]);
                    let (mut client, mut backend, stage) = (client, backend, &stage);
                    scope.spawn(move || flow.play(End::Client, &mut client, stage));
                    scope.spawn(move || flow.play(End::Backend, &mut backend, stage));
                }
                watch(lab, &flows, &stage)
            })();
            stage.end();
            for socket in sockets.lock().expect("no thread panics with it").iter() {
                // The peer may have ended it already.
                let _ = socket.shutdown(Shutdown::Both);
            }
            played
        })
    }

    /// Waits until there are an owner and a backup, starting whom it takes.
    pub fn recover(&mut self) -> Result<()> {
        for name in self.lab.relays().collect::<Vec<_>>() {
            self.lab.start(&name)?;
        }
        wait_for("owner and backup", SYNC_LIMIT, || {
            let names = self.lab.relays();
            let statuses = names.map(|name| self.lab.status(&name)).collect::<Result<Vec<_>>>()?;
            let ready = statuses.iter().any(relay::Status::is_owner)
                && statuses.iter().any(relay::Status::is_ready_backup);
            ensure!(ready, "{statuses:?}");
            Ok(())
        })
    }
}

fn watch(lab: &mut Lab, owner: &str, flows: &[Flow], stage: &Stage) -> Result<Vec<Pause>> {
    let tails = flows.iter().filter(|flow| matches!(flow.shape, Shape::TailDown | Shape::TailUp));
    let writers = tails.count() as u64;
    let successors: Vec<_> = lab.relays().filter(|name| name != owner).collect();
    let logs =
        successors.iter().map(|name| Ok((name, log(name)?.len()))).collect::<Result<Vec<_>>>()?;
    let description = lab.description();
    let pid = description.relays.iter().find(|relay| relay.name == owner).map(|relay| relay.pid);
    let pid = pid.and_then(Pid::from_raw).context("the owner has no process")?;
    if writers > 0 {
        for _ in 0..BURSTS {
            stage.burst(writers, BEGIN_LIMIT)?;
            thread::sleep(BURST_INTERVAL);
        }
        let round = stage.begin_burst();
        let deadline = Instant::now() + BEGIN_LIMIT;
        while !flows.iter().any(|flow| flow.is_ending_burst(round)) {
            ensure!(Instant::now() < deadline, "a burst stands still");
            thread::yield_now();
        }
        spin(random(BURST_SPREAD));
    } else {
        begin(flows)?;
    }
    let (killed_at, killed) = (SystemTime::now(), stage.kill_now());
    kill_process(pid, Signal::KILL)?;
    lab.kill(owner, How::Sigkill)?;
    let took_over_at = wait_for("takeover", TAKEOVER_LIMIT, || {
        for (name, length) in &logs {
            let text = log(name)?;
            if let Some(line) = text[*length..].lines().find(|line| line.contains(OWNS)) {
                return time_of(line);
            }
        }
        bail!("nobody says so")
    })?;
    let detection = since_midnight(killed_at)?.abs_diff(took_over_at);
    let takeover = killed + detection;
    wait_for("traffic after the takeover", PAUSE_LIMIT, || {
        ensure!(!flows.iter().any(Flow::is_broken), "a connection broke");
        let stuck = flows.iter().find(|flow| !flow.goes_on(takeover));
        ensure!(stuck.is_none(), "{:?} stands still", stuck.map(|flow| flow.shape));
        Ok(())
    })?;
    thread::sleep(AFTERMATH);
    Ok(pauses(flows, detection, takeover))
}

/// Waits until bulk transfers are in full swing.
fn begin(flows: &[Flow]) -> Result<()> {
    wait_for("traffic", BEGIN_LIMIT, || {
        ensure!(flows.iter().all(Flow::has_begun), "a connection stands still");
        Ok(())
    })?;
    thread::sleep(WARM_UP + random(WARM_UP_SPREAD));
    Ok(())
}

fn pauses(flows: &[Flow], detection: Duration, takeover: Instant) -> Vec<Pause> {
    let pause = |flow: &Flow| Pause { shape: flow.shape, detection, length: flow.pause(takeover) };
    flows.iter().map(pause).collect()
}

fn log(name: &str) -> Result<String> {
    let path = relay::log(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The time of day at the beginning of a line of the log, as in `2026-11-22T17:03:38.123456Z`.
fn time_of(line: &str) -> Result<Duration> {
    let time = line.split_once('T').and_then(|(_, rest)| rest.split_once('Z'));
    let (time, _) = time.with_context(|| format!("no time: {line}"))?;
    let mut seconds = 0.0;
    for part in time.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>()?;
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn since_midnight(at: SystemTime) -> Result<Duration> {
    const DAY: u128 = 86_400_000_000_000;
    let nanos = at.duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() % DAY;
    Ok(Duration::from_nanos(u64::try_from(nanos)?))
}

fn random(below: Duration) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut word = [0; 8];
    crate::content::fill(now.as_nanos() as u64, 0, &mut word);
    below.mul_f64(u64::from_le_bytes(word) as f64 / u64::MAX as f64)
}

/// Sleeping would take longer.
fn spin(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}
