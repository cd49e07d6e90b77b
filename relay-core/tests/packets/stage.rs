//! Plays a script against one connection in virtual time.
//!
//! Lines without a wait between them are one turn: what comes in and what the relay does is taken
//! in before anything leaves. Whatever leaves has to be in the script. All segments cross as frames.

use std::collections::VecDeque;

use relay_core::frame::{
    Complaint, EthernetAddress, HEADERS_MAX, Inbound, IpAddress, IpEndpoint, Link, TcpRepr, Tuple,
    emit_tcp, parse,
};
use relay_core::reason::Reason;
use relay_core::tcp::{Cause, Connection, Cookies, Phase, reset_for};
use relay_core::time::{Duration, Instant};
use smoltcp::wire::TcpControl;

use crate::script::{Command, Event, Expectation, Knowledge, Line, Script, Settings};
use crate::segment::{Fields, Numbers, pattern};

/// Where virtual time begins: timestamps wrap within the scripts.
const START: Instant = Instant::from_millis((1 << 32) - 2_000);
/// Our initial sequence number in active opens; passive ones have a cookie.
const ISS: u32 = 0xffff_f000;
/// Frames of one turn, or timers at one instant; with more of them something spins.
const SPINS_MAX: usize = 10_000;
/// Timestamps that are further apart cannot be compared (RFC 7323 section 5.5).
const TIMESTAMP_AGE_MAX: Duration = Duration::from_secs(24 * 24 * 3600);
const LINK: Link = Link {
    source: EthernetAddress([2, 0, 0, 0, 0, 1]),
    destination: EthernetAddress([2, 0, 0, 0, 0, 2]),
};

/// Plays `script`. The error names the line.
pub fn play(script: &Script) -> Result<(), String> {
    let mut stage = Stage::new(&script.settings);
    for line in &script.lines {
        stage.play(line).map_err(|error| format!("{}: {error}", line.number))?;
    }
    let end = script.lines.last().map_or(1, |line| line.number);
    let rest = stage.poll().and_then(|()| stage.check_silent());
    rest.map_err(|error| format!("{end}: after the last line: {error}"))
}

struct Stage {
    settings: Settings,
    tuple: Tuple,
    cookies: Cookies,
    now: Instant,
    connection: Option<Connection>,
    iss: u32,
    /// Left, and not yet mentioned by the script.
    sent: VecDeque<(Instant, Fields)>,
    allowed: Allowed,
    last_timestamp: Option<u32>,
    /// When it left.
    stamped_at: Instant,
    /// The right edge that was advertised, relative to the peer's SYN.
    edge: i64,
    /// Windows are scaled in both directions.
    scales: bool,
    /// Something came that is not the pattern of the stream.
    literal: bool,
}

/// What the relay has allowed so far.
#[derive(Clone, Copy, Default)]
struct Allowed {
    all: bool,
    send: u64,
    ack: u64,
}

impl Stage {
    fn new(settings: &Settings) -> Stage {
        let end = |last: u8, port: u16| {
            let address = match settings.ipv6 {
                true => IpAddress::v6(0xfd99, 0, 0, 0, 0, 0, 0, last.into()),
                false => IpAddress::v4(10, 99, 0, last),
            };
            IpEndpoint::new(address, port)
        };
        Stage {
            settings: settings.clone(),
            tuple: Tuple { local: end(1, 443), remote: end(2, 50_000) },
            cookies: Cookies::new([7; 32]),
            now: START,
            connection: None,
            iss: ISS,
            sent: VecDeque::new(),
            allowed: Allowed::default(),
            last_timestamp: None,
            stamped_at: START,
            edge: i64::MIN,
            scales: false,
            literal: false,
        }
    }

    fn play(&mut self, line: &Line) -> Result<(), String> {
        let at = self.now + line.after;
        match &line.event {
            Event::Send(expected) => return self.expect_sent(expected, at, line.tolerance),
            Event::SendAll(range) => return self.expect_flight(range, at + line.tolerance),
            Event::SendAny => {
                self.advance(at)?;
                self.sent.clear();
                return Ok(());
            }
            _ => {}
        }
        if line.after > Duration::ZERO {
            self.advance(at)?;
        }
        self.check_silent()?;
        match &line.event {
            Event::Receive { fields, result } => self.receive(fields, result.as_deref())?,
            Event::Silence(time) => {
                self.advance(self.now + *time)?;
                self.check_silent()?;
            }
            Event::Do(command) => self.command(command)?,
            Event::Expect(expectation) => self.expect(expectation)?,
            Event::Send(_) | Event::SendAll(_) | Event::SendAny => {}
        }
        self.allow();
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut Connection, String> {
        self.connection.as_mut().ok_or_else(|| "there is no connection yet".to_owned())
    }

    fn advance(&mut self, to: Instant) -> Result<(), String> {
        while self.step(to)? {}
        self.now = self.now.max(to);
        Ok(())
    }

    /// Sends what is due, then runs the next timer until `to`, if there is one.
    fn step(&mut self, to: Instant) -> Result<bool, String> {
        self.poll()?;
        for _ in 0..SPINS_MAX {
            let Some(connection) = &mut self.connection else { return Ok(false) };
            let Some(at) = connection.poll_timeout().filter(|at| *at <= to) else {
                return Ok(false);
            };
            let moves = at > self.now;
            self.now = self.now.max(at);
            connection.handle_timeout(self.now);
            let sent = self.sent.len();
            self.poll()?;
            if moves || self.sent.len() > sent {
                return Ok(true);
            }
        }
        Err("a timer spins".into())
    }

    fn poll(&mut self) -> Result<(), String> {
        for _ in 0..SPINS_MAX {
            let (tuple, now) = (self.tuple, self.now);
            let Some(connection) = &mut self.connection else { return Ok(()) };
            let Some(segment) = connection.poll_transmit(now) else { return Ok(()) };
            let mut frame = vec![0; HEADERS_MAX + segment.payload.len()];
            let length = emit_tcp(&LINK, &tuple, &segment, &mut frame);
            self.sent_frame(&frame[..length])?;
        }
        Err("segments without end".into())
    }

    /// Reads a frame as the peer does, and checks what is true of every segment.
    fn sent_frame(&mut self, frame: &[u8]) -> Result<(), String> {
        let Ok(Inbound::Tcp { tuple, segment, .. }) = parse(frame) else {
            return Err("a frame that does not parse".into());
        };
        if (tuple.local, tuple.remote) != (self.tuple.remote, self.tuple.local) {
            return Err(format!("a frame between {tuple:?}"));
        }
        let fields = Fields::of(&segment, self.numbers(true));
        if segment.payload != pattern(fields.seq - 1, fields.length) {
            return Err(format!("not the bytes that were written: {fields}"));
        }
        if let Some(stamp) = segment.timestamp {
            let before = self.last_timestamp.replace(stamp.tsval);
            let comparable = self.now.since(self.stamped_at) < TIMESTAMP_AGE_MAX;
            self.stamped_at = self.now;
            let older = |before: u32| (stamp.tsval.wrapping_sub(before) as i32) < 0;
            if comparable && before.is_some_and(older) {
                return Err(format!("our timestamp ran backwards: {fields}"));
            }
        }
        self.check_acknowledgement(&segment, &fields)?;
        self.sent.push_back((self.now, fields));
        Ok(())
    }

    fn check_acknowledgement(&mut self, segment: &TcpRepr, fields: &Fields) -> Result<(), String> {
        let (Some(ack), Some(window)) = (fields.ack, fields.window) else { return Ok(()) };
        if ack > 1 && !self.allowed.all && ack - 1 > self.allowed.ack as i64 {
            return Err(format!("acknowledges more than is allowed: {fields}"));
        }
        let scale = match segment.control {
            TcpControl::Rst => return Ok(()),
            TcpControl::Syn => 0,
            _ => self.shift(),
        };
        let edge = ack + (i64::from(window) << scale);
        // Rounding moves it by less than a unit.
        if edge + (1 << scale) <= self.edge {
            return Err(format!(
                "the right edge moved back from {} to {edge}: {fields}",
                self.edge
            ));
        }
        self.edge = self.edge.max(edge);
        Ok(())
    }

    /// The shift of our window field.
    fn shift(&self) -> u8 {
        let size = self.settings.config.receive_buffer;
        let shift = (0..14).find(|shift| size >> shift <= usize::from(u16::MAX)).unwrap_or(14);
        if self.scales { shift } else { 0 }
    }

    fn numbers(&self, ours: bool) -> Numbers {
        let last_timestamp = self.last_timestamp.unwrap_or(0);
        let (iss, irs) = (self.iss, self.settings.irs);
        let (own, other) = if ours { (iss, irs) } else { (irs, iss) };
        Numbers { own, other, last_timestamp }
    }

    fn expect_sent(
        &mut self,
        expected: &Fields,
        at: Instant,
        tolerance: Duration,
    ) -> Result<(), String> {
        let (time, fields) = self.next_sent(at + tolerance, || format!("expected {expected}"))?;
        if !fields.satisfies(expected) {
            return Err(format!("expected {expected}\n    got      {fields}"));
        }
        if time + tolerance < at {
            let early = at.since(time).as_secs_f64();
            return Err(format!("{early} s too early: {fields}"));
        }
        Ok(())
    }

    fn expect_flight(
        &mut self,
        range: &core::ops::Range<i64>,
        limit: Instant,
    ) -> Result<(), String> {
        let mut at = range.start;
        while at < range.end {
            let (_, fields) = self.next_sent(limit, || format!("expected data from {at} on"))?;
            if fields.seq != at || fields.length == 0 {
                return Err(format!("expected data from {at} on\n    got      {fields}"));
            }
            at += fields.length as i64;
        }
        match at == range.end {
            true => Ok(()),
            false => Err(format!("expected data up to {}, got it up to {at}", range.end)),
        }
    }

    /// The next segment that leaves, until `limit`.
    fn next_sent(
        &mut self,
        limit: Instant,
        expected: impl Fn() -> String,
    ) -> Result<(Instant, Fields), String> {
        self.poll()?;
        while self.sent.is_empty() && self.step(limit)? {}
        let (at, fields) = self
            .sent
            .pop_front()
            .ok_or_else(|| format!("{}\n    got      nothing by then", expected()))?;
        self.now = self.now.max(at);
        Ok((at, fields))
    }

    fn check_silent(&self) -> Result<(), String> {
        match self.sent.front() {
            None => Ok(()),
            Some((at, fields)) => {
                let since = at.since(START).as_secs_f64();
                Err(format!("expected nothing\n    got      {fields} (at {since} s)"))
            }
        }
    }

    fn receive(&mut self, fields: &Fields, expected: Option<&str>) -> Result<(), String> {
        self.literal |= fields.literal.is_some();
        let frame = fields.frame(&self.tuple, self.numbers(false));
        let result = match parse(&frame) {
            Ok(Inbound::Tcp { segment, .. }) => self.deliver(&segment),
            Ok(other) => return Err(format!("the frame means {other:?}")),
            Err(reason) => Err(reason),
        };
        check_result(result, expected)
    }

    /// Takes a segment in as a shard does.
    fn deliver(&mut self, segment: &TcpRepr) -> Result<(), Reason> {
        let Some(connection) = &mut self.connection else { return self.stranger(segment) };
        let dialing = connection.phase() == Phase::SynSent;
        let result = connection.handle_segment(self.now, segment);
        if dialing && segment.control == TcpControl::Syn {
            self.scales = segment.window_scale.is_some();
        }
        if dialing && result == Err(Reason::AckUnacceptable) {
            self.answer(reset_for(segment));
        }
        result
    }

    /// A segment without a connection: a SYN, or the ACK of a cookie.
    fn stranger(&mut self, segment: &TcpRepr) -> Result<(), Reason> {
        let (config, tuple) = (&self.settings.config, &self.tuple);
        match (segment.control, segment.ack_number) {
            (TcpControl::Syn, None) => {
                let answer = self.cookies.syn_ack(self.now, tuple, segment, config);
                self.iss = answer.seq_number.0 as u32;
                self.answer(Some(answer));
                Ok(())
            }
            (TcpControl::Rst, _) => Err(Reason::UnknownFlow),
            _ => {
                let accepted = self.cookies.check(self.now, tuple, segment, config)?;
                self.scales = accepted.send_wscale.is_some();
                let mut connection = Connection::accept(config, *tuple, &accepted, self.now);
                let result = connection.handle_segment(self.now, segment);
                self.connection = Some(connection);
                result
            }
        }
    }

    fn answer(&mut self, segment: Option<TcpRepr>) {
        if let Some(segment) = segment {
            let fields = Fields::of(&segment, self.numbers(true));
            self.last_timestamp =
                segment.timestamp.map(|stamp| stamp.tsval).or(self.last_timestamp);
            self.sent.push_back((self.now, fields));
        }
    }

    fn allow(&mut self) {
        let Allowed { all, send, ack } = self.allowed;
        let Some(connection) = &mut self.connection else { return };
        if all {
            connection.set_sackable(core::slice::from_ref(&(0..u64::MAX)));
        }
        connection.set_send_limit(if all { u64::MAX } else { send });
        connection.set_ack_limit(if all { u64::MAX } else { ack });
    }

    fn command(&mut self, command: &Command) -> Result<(), String> {
        let now = self.now;
        match command {
            Command::Connect => {
                let config = &self.settings.config;
                (self.tuple.local.port, self.tuple.remote.port) = (50_000, 443);
                self.connection = Some(Connection::connect(config, self.tuple, ISS, 7, now));
            }
            Command::ReleaseHandshake => self.connection()?.release_handshake(),
            Command::Write(count) => self.write(*count)?,
            Command::Finish => self.connection()?.finish(),
            Command::AllowAll => self.allowed.all = true,
            Command::AllowSend(count) => self.allowed.send = *count,
            Command::AllowAck(count) => self.allowed.ack = *count,
            Command::Sackable(ranges) => {
                let ranges: Vec<_> =
                    ranges.iter().map(|r| (r.start - 1) as u64..(r.end - 1) as u64).collect();
                self.connection()?.set_sackable(&ranges);
            }
            Command::Release(count) => self.connection()?.release(*count),
            Command::ReceiveWindow(count) => {
                self.connection()?.set_receive_window(*count as usize);
            }
            Command::Abort => self.connection()?.abort(),
            Command::Takeover(knowledge) => self.take_over(knowledge)?,
            Command::Icmp { too_big, sequence, result } => {
                let complaint = match too_big {
                    Some(mtu) => Complaint::TooBig { mtu: *mtu },
                    None => Complaint::Unreachable,
                };
                let sequence = self.iss.wrapping_add(*sequence as u32);
                let got = self.connection()?.handle_complaint(now, sequence, complaint);
                check_result(got, result.as_deref())?;
            }
        }
        Ok(())
    }

    fn write(&mut self, count: u64) -> Result<(), String> {
        let connection = self.connection()?;
        let bytes = pattern(connection.written() as i64, count as usize);
        let taken = connection.write(&bytes);
        match taken == bytes.len() {
            true => Ok(()),
            false => Err(format!("only {taken} bytes were taken")),
        }
    }

    /// Another node goes on with what the cluster keeps.
    fn take_over(&mut self, knowledge: &[Knowledge]) -> Result<(), String> {
        let old = self.connection.take().ok_or("there is no connection yet")?;
        let mut state = old.save();
        let mut end = old.received();
        let acked_only = knowledge.contains(&Knowledge::AckedOnly);
        let mark = old.mark(u64::MAX).filter(|_| knowledge.contains(&Knowledge::Mark));
        state.wire_ack = mark.map_or(state.wire_ack, |mark| mark.ack);
        for known in knowledge {
            match known {
                Knowledge::AckedOnly => {
                    end = state.wire_ack.min(old.received()).max(state.retained);
                    let fin = state.peer_fin_at.filter(|fin| state.wire_ack > *fin);
                    state.peer_fin_at = fin;
                }
                Knowledge::AcksMissed(count) => state.acked = state.acked.saturating_sub(*count),
                Knowledge::SentMax(count) => state.sent_max += count,
                Knowledge::Mark if mark.is_none() => return Err("there is no mark".to_string()),
                Knowledge::Mark => {}
            }
        }
        let restored = Connection::restore(&self.settings.config, &state, self.now);
        let mut new = restored.map_err(|error| error.to_string())?;
        let mut bytes = vec![0; (end - state.retained) as usize];
        old.copy_received(state.retained, &mut bytes);
        new.insert_received(state.retained, &bytes);
        for range in old.out_of_order().filter(|_| !acked_only) {
            let mut bytes = Vec::new();
            old.copy_out_of_order(range.clone(), &mut bytes);
            new.insert_received(range.start, &bytes);
        }
        let from = new.written();
        new.write(&pattern(from as i64, (old.written() - from) as usize));
        self.connection = Some(new);
        self.allow();
        self.connection()?.wake(mark);
        Ok(())
    }

    fn expect(&mut self, expectation: &Expectation) -> Result<(), String> {
        let literal = self.literal;
        let connection = self.connection()?;
        let offsets =
            |range: &core::ops::Range<i64>| (range.start - 1) as u64..(range.end - 1) as u64;
        match expectation {
            Expectation::Phase(phase) => same(phase, &name(connection.phase())),
            Expectation::Received(count) => {
                let mut bytes = vec![0; (connection.received() - connection.retained()) as usize];
                let length = connection.copy_received(connection.retained(), &mut bytes);
                let wanted = pattern(connection.retained() as i64, bytes.len());
                if length != bytes.len() || (!literal && bytes != wanted) {
                    return Err("the bytes that were received are not those of the peer".into());
                }
                same(count, &connection.received())
            }
            Expectation::Retained(count) => same(count, &connection.retained()),
            Expectation::Acked(count) => same(count, &connection.acked()),
            Expectation::Written(count) => same(count, &connection.written()),
            Expectation::Fin => same(&true, &connection.fin_received()),
            Expectation::FinAcked => same(&true, &connection.fin_acked()),
            Expectation::OutOfOrder(ranges) => {
                let wanted: Vec<_> = ranges.iter().map(offsets).collect();
                same(&wanted, &connection.out_of_order().collect())
            }
            Expectation::Bytes(range, bytes) => {
                let range = offsets(range);
                let mut got = vec![0; (range.end - range.start) as usize];
                let length = connection.copy_received(range.start, &mut got);
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                same(&text(bytes), &text(&got[..length]))
            }
            Expectation::Quiet => same(&None, &connection.poll_timeout()),
        }
    }
}

fn same<T: PartialEq + core::fmt::Debug>(expected: &T, got: &T) -> Result<(), String> {
    match expected == got {
        true => Ok(()),
        false => Err(format!("expected {expected:?}\n    got      {got:?}")),
    }
}

fn check_result(result: Result<(), Reason>, expected: Option<&str>) -> Result<(), String> {
    let got = result.err().map(Reason::as_str);
    match got == expected {
        true => Ok(()),
        false => {
            let show = |reason: Option<&str>| reason.unwrap_or("no reason to drop it").to_owned();
            Err(format!("expected {}\n    got      {}", show(expected), show(got)))
        }
    }
}

fn name(phase: Phase) -> String {
    let text = match phase {
        Phase::SynSent => "syn-sent",
        Phase::HandshakeHeld => "held",
        Phase::Open => "open",
        Phase::TimeWait => "time-wait",
        Phase::Closed(Cause::Aborted) => "closed aborted",
        Phase::Closed(Cause::Normal) => "closed normal",
        Phase::Closed(Cause::Refused) => "closed refused",
        Phase::Closed(Cause::Reset) => "closed reset",
        Phase::Closed(Cause::TimedOut) => "closed timed-out",
        Phase::Closed(Cause::Unreachable) => "closed unreachable",
    };
    text.to_owned()
}
