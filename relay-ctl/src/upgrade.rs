//! A rolling restart: one node after the other is drained, replaced by the operator's command, and
//! waited for. Two are never away at once.

mod health;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use relay_abi::control::{CouncilMember, Request, Role, StatusReport};

use self::health::{DRAINING, RELAY};
use crate::drain::{await_drained, propose, status};
use crate::table::duration;

/// How often the cluster is asked whether a node is back.
const INTERVAL: Duration = Duration::from_millis(100);

/// What to restart, and how.
#[derive(Args)]
pub struct Upgrade {
    /// Command for sh(1) that stops the old process of node $RELAY_NODE (a $RELAY_KIND: relay or
    /// witness) and starts the new one; it ends when it has done so
    #[arg(long, value_name = "COMMAND", required_unless_present = "dry_run")]
    hook: Option<String>,
    /// Id of a node to restart; may be repeated. Every node, if none is named
    #[arg(long, value_name = "ID")]
    node: Vec<u8>,
    /// Seconds to wait for a drain, and for the return of a node
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    wait: u64,
    /// Seconds to wait for the command of one node
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    hook_wait: u64,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Restarts them, and says so as it goes on.
pub fn run(control: &Path, options: &Upgrade) -> Result<String, String> {
    let first = status(control)?;
    let plan = plan(&first, &options.node)?;
    // What no step could change is told before the first one.
    plan.iter().try_for_each(|member| health::has_margin(&first, member.id))?;
    let Some(hook) = options.hook.as_deref().filter(|_| !options.dry_run) else {
        let next = plan.first().map(|member| member.id);
        next.map_or(Ok(()), |next| health::check(&first, next))?;
        return Ok(plan.iter().map(describe).collect());
    };
    let limit = Duration::from_secs(options.wait);
    let hook_limit = Duration::from_secs(options.hook_wait);
    for (index, member) in plan.iter().enumerate() {
        let step = Step { control, node: member.id, hook, limit, hook_limit };
        let line = step.run().map_err(|problem| {
            format!("node {}, {problem}{}", member.id, rest(&plan[index + 1..]))
        })?;
        say(&format!("node {} ({}): {line}\n", member.id, member.kind));
    }
    Ok(String::new())
}

/// Who is restarted, in this order: who is drained already, witnesses, which carry nothing, relays,
/// and last the one that is asked all the time.
fn plan(status: &StatusReport, wanted: &[u8]) -> Result<Vec<CouncilMember>, String> {
    let council = status.council.as_deref();
    let Some(members) = council.map(|council| &council.members).filter(|_| council.is_some())
    else {
        return Err("the relay has no council: without one nothing can be drained, see \
                    [cluster.council] in docs/CONFIG.md"
            .to_owned());
    };
    if status.role == Role::Witness {
        return Err(format!(
            "node {} is a witness and does not know which relays are in sync: name a relay's \
             socket with --control",
            status.node
        ));
    }
    if let Some(stranger) = wanted.iter().find(|id| members.iter().all(|one| one.id != **id)) {
        return Err(format!(
            "--node {stranger}: no member of the cluster: relay-ctl status lists them"
        ));
    }
    let is_wanted = |member: &&CouncilMember| wanted.is_empty() || wanted.contains(&member.id);
    let mut plan: Vec<CouncilMember> = members.iter().filter(is_wanted).cloned().collect();
    plan.sort_by_key(|member| {
        let (is_draining, is_asked) = (member.state == DRAINING, member.id == status.node);
        (!is_draining, is_asked, member.kind == RELAY, member.id)
    });
    Ok(plan)
}

fn describe(member: &CouncilMember) -> String {
    let CouncilMember { id, kind, state, .. } = member;
    let drain = match (kind == RELAY, state == DRAINING) {
        (true, true) => "it is drained already, ",
        (true, false) => "drain, ",
        (false, _) => "",
    };
    format!("node {id} ({kind}): {drain}hook, wait until it is back\n")
}

/// What did not happen, for the end of a complaint.
fn rest(plan: &[CouncilMember]) -> String {
    let nodes: Vec<String> = plan.iter().map(|member| member.id.to_string()).collect();
    match nodes.is_empty() {
        true => String::new(),
        false => format!(". Not touched: nodes {}", nodes.join(", ")),
    }
}

/// One node's turn.
struct Step<'a> {
    control: &'a Path,
    node: u8,
    hook: &'a str,
    limit: Duration,
    hook_limit: Duration,
}

impl Step<'_> {
    fn run(&self) -> Result<String, String> {
        let before = status(self.control).map_err(|error| format!("before its turn: {error}"))?;
        health::check(&before, self.node)
            .map_err(|problem| format!("before its turn: {problem}; so it was left alone"))?;
        let member = health::member(&before, self.node)?;
        let mut line = String::new();
        if member.kind == RELAY {
            let took = self.drain(&member.state).map_err(|error| {
                format!(
                    "drain: {error}. It still runs: relay-ctl undrain {} gives it back",
                    self.node
                )
            })?;
            line = format!("drained in {}, ", shown(took));
        }
        let took = self.replace(&member.kind)?;
        line += &format!("hook in {}, ", shown(took));
        let took = self.await_return(member)?;
        Ok(line + &format!("back and in sync after {}", shown(took)))
    }

    fn drain(&self, state: &str) -> Result<Duration, String> {
        if state != DRAINING {
            propose(self.control, &Request::Drain { node: self.node })?;
        }
        await_drained(self.control, self.node, self.limit)
    }

    /// The operator's command. What it prints is not ours.
    fn replace(&self, kind: &str) -> Result<Duration, String> {
        let since = Instant::now();
        let child = Command::new("sh")
            .args(["-c", self.hook])
            .env("RELAY_NODE", self.node.to_string())
            .env("RELAY_KIND", kind)
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .spawn()
            .map_err(|error| format!("hook: cannot run sh: {error}. The node still runs"))?;
        match self.await_end(child, since)? {
            status if status.success() => Ok(since.elapsed()),
            status => Err(format!(
                "hook: it failed ({}): see whether the node runs, and run the upgrade again when \
                 relay-ctl status shows it live",
                ending(status)
            )),
        }
    }

    /// One that takes too long is left alone: half of an installation is worse than a late one.
    fn await_end(&self, mut hook: Child, since: Instant) -> Result<ExitStatus, String> {
        loop {
            match hook.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if since.elapsed() < self.hook_limit => sleep(INTERVAL),
                Ok(None) => {
                    return Err(format!(
                        "hook: it still runs after {} s (process {}, left alone): see what it waits \
                         for, and run the upgrade again when relay-ctl status shows the node live, \
                         with a longer --hook-wait if it needs that",
                        self.hook_limit.as_secs(),
                        hook.id()
                    ));
                }
                Err(error) => return Err(format!("hook: cannot wait for it: {error}")),
            }
        }
    }

    /// Until the node is a member again, in a new life, and the cluster could lose another one. The
    /// relay that is asked may be the one that is away.
    fn await_return(&self, before: &CouncilMember) -> Result<Duration, String> {
        let since = Instant::now();
        loop {
            let back = status(self.control).and_then(|now| health::is_back(&now, before));
            match back {
                Ok(()) => return Ok(since.elapsed()),
                Err(problem) if since.elapsed() >= self.limit => {
                    return Err(format!(
                        "return: not back after {} s: {problem}",
                        self.limit.as_secs()
                    ));
                }
                Err(_) => sleep(INTERVAL),
            }
        }
    }
}

fn ending(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

fn shown(time: Duration) -> String {
    duration(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// At once: the next step may take long. Nobody may be there to read it, which is no reason to stop
/// half way.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}
