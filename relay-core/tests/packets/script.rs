//! What a script says: lines of text to events. The language is in `../scripts/README.md`.

use core::ops::Range;
use core::str::FromStr;

use relay_core::tcp::Config;
use relay_core::time::Duration;

use crate::segment::{Fields, parse_fields};

/// How far an expected segment may be from its time, unless the line says otherwise.
const TOLERANCE: Duration = Duration::from_millis(5);

/// A script.
#[derive(Debug)]
pub struct Script {
    pub settings: Settings,
    pub lines: Vec<Line>,
}

/// What `set` lines choose, before anything happens.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Config,
    pub ipv6: bool,
    /// The peer's initial sequence number.
    pub irs: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let mut config = Config {
            mss: 1460,
            // Small enough for a window field without scaling: scripts show windows in bytes.
            receive_buffer: 60_000,
            send_buffer: 100_000,
            ..Config::default()
        };
        config.wake.lag = false;
        // It wraps within most scripts.
        Settings { config, ipv6: false, irs: 0xffff_fc00 }
    }
}

/// One event and when it happens.
#[derive(Debug)]
pub struct Line {
    pub number: usize,
    /// Time since the event before.
    pub after: Duration,
    pub tolerance: Duration,
    pub event: Event,
}

/// What happens, or has to happen.
#[derive(Debug)]
pub enum Event {
    /// A segment comes; `result` is why it is dropped, if it is.
    Receive {
        fields: Fields,
        result: Option<String>,
    },
    /// A segment leaves.
    Send(Fields),
    /// Segments leave that cover these sequence numbers, in order, without gaps.
    SendAll(Range<i64>),
    /// Whatever has left is of no interest.
    SendAny,
    /// Nothing leaves for so long.
    Silence(Duration),
    Do(Command),
    Expect(Expectation),
}

/// What the relay does. Counts are bytes of a stream.
#[derive(Debug)]
pub enum Command {
    Connect,
    ReleaseHandshake,
    Write(u64),
    Finish,
    AllowAll,
    AllowSend(u64),
    AllowAck(u64),
    Sackable(Vec<Range<i64>>),
    Release(u64),
    ReceiveWindow(u64),
    Abort,
    Takeover(Vec<Knowledge>),
    Icmp { too_big: Option<u32>, sequence: i64, result: Option<String> },
}

/// What the node that takes over does not know, or what it does.
#[derive(Debug, PartialEq)]
pub enum Knowledge {
    /// Received bytes that were not acknowledged are lost.
    AckedOnly,
    /// It knows where the ACK stood that lagged.
    Mark,
    /// The last acknowledgements of the peer were not heard of.
    AcksMissed(u64),
    /// More may have been sent than was.
    SentMax(u64),
}

/// What has to be true.
#[derive(Debug)]
pub enum Expectation {
    Phase(String),
    Received(u64),
    Retained(u64),
    Acked(u64),
    Written(u64),
    Fin,
    FinAcked,
    OutOfOrder(Vec<Range<i64>>),
    Bytes(Range<i64>, Vec<u8>),
    /// No timer runs.
    Quiet,
}

/// Reads a script. The error names the line.
pub fn parse(text: &str) -> Result<Script, String> {
    let first = text.lines().next().unwrap_or_default();
    if !first.starts_with("# ") {
        return Err("1: the first line is a comment that says what the rule is".into());
    }
    let mut script = Script { settings: Settings::default(), lines: Vec::new() };
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let result = match line.strip_prefix("set ") {
            _ if line.is_empty() => Ok(()),
            Some(_) if !script.lines.is_empty() => Err("set comes before all events".to_owned()),
            Some(setting) => set(&mut script.settings, setting),
            None => parse_line(number, line).map(|line| script.lines.push(line)),
        };
        result.map_err(|error| format!("{number}: {error}: {line}"))?;
    }
    Ok(script)
}

fn set(settings: &mut Settings, setting: &str) -> Result<(), String> {
    let config = &mut settings.config;
    match words(setting)[..] {
        ["mss", bytes] => config.mss = number(bytes)?,
        ["receive-buffer", bytes] => config.receive_buffer = number(bytes)?,
        ["send-buffer", bytes] => config.send_buffer = number(bytes)?,
        ["lag", "on"] => config.wake.lag = true,
        ["outlives-peer", "on"] => config.outlives_peer = true,
        ["keepalive", time] => config.patience.keepalive = Some(seconds(time)?),
        ["stall", time] => config.patience.stall_max = Some(seconds(time)?),
        ["irs", value] => settings.irs = number(value)?,
        ["ipv6"] => settings.ipv6 = true,
        _ => return Err("unknown setting".into()),
    }
    Ok(())
}

fn parse_line(number: usize, line: &str) -> Result<Line, String> {
    let (mut after, mut tolerance, mut rest) = (Duration::ZERO, TOLERANCE, line);
    if let Some(timed) = line.strip_prefix('+') {
        let (time, event) = timed.split_once(' ').ok_or("nothing happens")?;
        let (time, width) = time.split_once('~').map_or((time, None), |(t, w)| (t, Some(w)));
        after = seconds(time)?;
        tolerance = width.map_or(Ok(TOLERANCE), seconds)?;
        rest = event.trim();
    }
    let event = if let Some(segment) = rest.strip_prefix("< ") {
        let (segment, result) = split_result(segment);
        Event::Receive { fields: parse_fields(segment)?, result }
    } else if let Some(flight) = rest.strip_prefix("> data ") {
        Event::SendAll(range(flight.trim())?)
    } else if rest == "> any" {
        Event::SendAny
    } else if let Some(segment) = rest.strip_prefix("> ") {
        Event::Send(parse_fields(segment)?)
    } else if let Some(time) = rest.strip_prefix("silence ") {
        Event::Silence(seconds(time)?)
    } else if let Some(expectation) = rest.strip_prefix("expect ") {
        Event::Expect(parse_expectation(expectation)?)
    } else {
        Event::Do(parse_command(rest)?)
    };
    Ok(Line { number, after, tolerance, event })
}

fn parse_command(text: &str) -> Result<Command, String> {
    let (text, result) = split_result(text);
    Ok(match words(text)[..] {
        ["connect"] => Command::Connect,
        ["release-handshake"] => Command::ReleaseHandshake,
        ["write", count] => Command::Write(number(count)?),
        ["finish"] => Command::Finish,
        ["allow", "all"] => Command::AllowAll,
        ["allow-send", count] => Command::AllowSend(number(count)?),
        ["allow-ack", count] => Command::AllowAck(number(count)?),
        ["sackable", ref ranges @ ..] => Command::Sackable(all_ranges(ranges)?),
        ["release", count] => Command::Release(number(count)?),
        ["receive-window", count] => Command::ReceiveWindow(number(count)?),
        ["abort"] => Command::Abort,
        ["takeover", ref knowledge @ ..] => Command::Takeover(parse_knowledge(knowledge)?),
        ["icmp", "too-big", mtu, "seq", at] => {
            Command::Icmp { too_big: Some(number(mtu)?), sequence: number(at)?, result }
        }
        ["icmp", "unreachable", "seq", at] => {
            Command::Icmp { too_big: None, sequence: number(at)?, result }
        }
        _ => return Err("unknown command".into()),
    })
}

fn parse_knowledge(words: &[&str]) -> Result<Vec<Knowledge>, String> {
    let mut knowledge = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut count = || number(words.next().copied().unwrap_or_default());
        knowledge.push(match *word {
            "acked-only" => Knowledge::AckedOnly,
            "mark" => Knowledge::Mark,
            "acks-missed" => Knowledge::AcksMissed(count()?),
            "sent-max" => Knowledge::SentMax(count()?),
            _ => return Err("unknown knowledge".into()),
        });
    }
    Ok(knowledge)
}

fn parse_expectation(text: &str) -> Result<Expectation, String> {
    if let Some((range_text, rest)) =
        text.strip_prefix("bytes ").and_then(|rest| rest.split_once(' '))
    {
        let bytes = rest.trim().trim_matches('"').as_bytes().to_vec();
        return Ok(Expectation::Bytes(range(range_text)?, bytes));
    }
    Ok(match words(text)[..] {
        ["phase", ref phase @ ..] => Expectation::Phase(phase.join(" ")),
        ["received", count] => Expectation::Received(number(count)?),
        ["retained", count] => Expectation::Retained(number(count)?),
        ["acked", count] => Expectation::Acked(number(count)?),
        ["written", count] => Expectation::Written(number(count)?),
        ["fin"] => Expectation::Fin,
        ["fin-acked"] => Expectation::FinAcked,
        ["out-of-order", ref ranges @ ..] => Expectation::OutOfOrder(all_ranges(ranges)?),
        ["quiet"] => Expectation::Quiet,
        _ => return Err("unknown expectation".into()),
    })
}

fn split_result(text: &str) -> (&str, Option<String>) {
    match text.split_once("=>") {
        Some((text, result)) => (text.trim(), Some(result.trim().to_owned())),
        None => (text, None),
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn all_ranges(words: &[&str]) -> Result<Vec<Range<i64>>, String> {
    words.iter().map(|word| range(word)).collect()
}

/// `1:1001`, as sequence numbers relative to the SYN.
pub fn range(text: &str) -> Result<Range<i64>, String> {
    let (start, end) = text.split_once(':').ok_or_else(|| format!("no range: {text}"))?;
    Ok(number(start)?..number(end)?)
}

pub fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number of this kind: {text:?}"))
}

/// `.25`, `3` or `1.5`.
fn seconds(text: &str) -> Result<Duration, String> {
    let whole = if text.starts_with('.') { format!("0{text}") } else { text.to_owned() };
    let value: f64 = number(&whole)?;
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}
