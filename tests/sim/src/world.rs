//! One run: machines, segments, virtual time, and what must never happen.
//!
//! No reset and no alert reaches an honest client while one relay of its replica set lives: such a
//! client must end with `Outcome::Done` (`World::judge_flow`), which neither leaves room for. Only
//! connections that `World::disrupt` has excused, whose relays all died, may end otherwise.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use relay_core::config::Side;
use relay_core::frame::IpAddress;
use relay_core::node::Load;
use relay_core::time::{Duration, Instant};

use crate::audit::{Audit, Cover, Sender};
use crate::backend::Backend;
use crate::client::{Clients, Outcome};
use crate::council::Council;
use crate::flights::Flights;
use crate::keys::{Keys, Nonces};
use crate::lease::Leases;
use crate::network::{Delivery, Network, Port};
use crate::plan::Conduct;
use crate::program::{unit_of, unit_of_outbound};
use crate::random::Random;
use crate::relay::{Acting, Relay, Turned};
use crate::script::Options;
use crate::seals::Seals;
use crate::wire::{self, Records, Wire};
use crate::{setup, tls};

/// Virtual time begins here: clocks of machines that are up for a while.
pub const BEGIN: Instant = Instant::from_millis(100_000);

/// After the last fault everything finishes within this time.
const FINISH_MAX: Duration = Duration::from_secs(200);

/// Connections that may be lost are given up this long after the others have finished.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel finds a next hop within this time.
const RESOLUTION: Duration = Duration::from_micros(300);

/// Turns of a run: more are a livelock.
const TURNS_MAX: u64 = 3_000_000;

/// Cluster datagrams that are kept to be replayed.
const RECORDED_MAX: usize = 4000;

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seed: u64,
    /// A hash of all frames and their times.
    pub digest: u64,
    pub failures: Vec<String>,
    pub crashes: u32,
    /// Relays that ended as they were asked to.
    pub ends: u32,
    pub takeovers: u32,
    /// Units that went from one relay to another one while both lived.
    pub handed_over: u64,
    /// How often another configuration came into force.
    pub reconfigured: u64,
    /// Frames that a relay sent on to another one.
    pub forwarded: u64,
    /// Connections that were planned.
    pub flows: usize,
    /// Records toward clients.
    pub records: Records,
    /// Segments that were compared with what a backup held when they left.
    pub compared: u64,
    /// Segments of handshakes that were compared with what a backup would have answered.
    pub flights: u64,
    /// Records that were compared with what their number had sealed elsewhere.
    pub seals: u64,
    /// Frames that only the holder of a lease may send.
    pub leases: u64,
    /// The largest queues.
    pub load: Load,
    /// Connections that ended as they had to.
    pub completed: usize,
    /// How often a connection had to go on at another relay.
    pub survivals: usize,
    /// Connections that went on with the session of an earlier one.
    pub resumed: usize,
    /// Connections that a crash was allowed to take along.
    pub excused: usize,
    /// How every connection ended for its client.
    pub outcomes: Vec<Option<Outcome>>,
    /// FINs that the ends' TCP forgot to send again, see `fins`.
    pub forgotten_fins: u64,
    /// Resets that clients were sent.
    pub resets: u32,
    /// Virtual time that it took.
    pub took: Duration,
    pub frames: u64,
    /// Inputs that relays dropped, by reason, over all their lives.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Every frame that was sent, if it had to be kept.
    pub captured: Vec<(Instant, Vec<u8>)>,
    /// What was done, for people.
    pub log: Vec<String>,
}

/// All state of a run.
pub struct World {
    pub(crate) now: Instant,
    pub(crate) options: Options,
    pub(crate) random: Random,
    pub(crate) network: Network,
    pub(crate) relays: Vec<Relay>,
    /// Who decides about views, if relays do not.
    pub(crate) council: Option<Council>,
    /// What they have in common; with a council.
    pub(crate) keys: Option<Keys>,
    nonces: Nonces,
    leases: Option<Leases>,
    pub(crate) clients: Clients,
    pub(crate) backend: Backend,
    pub(crate) wire: Wire,
    pub(crate) audit: Audit,
    flights: Flights,
    seals: Seals,
    /// Connections that may be lost.
    pub(crate) excused: BTreeSet<u64>,
    pub(crate) report: Report,
    /// The last fault.
    pub(crate) disturbed: Instant,
    pub(crate) step: usize,
    pub(crate) step_since: Instant,
    pub(crate) moved_before: u64,
    pub(crate) sent_before: u64,
    pub(crate) recorded: Vec<(usize, Vec<u8>)>,
    pub(crate) noise_at: Option<Instant>,
    resolutions: BTreeMap<(Instant, u64), (usize, (Side, IpAddress))>,
    /// Of each unit at each relay.
    seen_takeovers: Vec<Vec<u64>>,
    turns: u64,
    /// Events since the first step.
    events: u64,
    trace: bool,
}

impl World {
    /// The machines of a run, switched on.
    pub fn new(seed: u64, options: Options) -> Self {
        let mut random = Random::new(seed);
        tls::seed_clients(random.fork());
        let mut network = Network::new(options.relays, random.fork());
        for (side, faults) in
            [Side::Client, Side::Backend, Side::Cluster].into_iter().zip(options.faults)
        {
            network.set_faults(side, faults);
        }
        let now = BEGIN;
        let host = setup::client_host(random.next(), now);
        let vip = (setup::vip(options.ipv6), setup::PORT);
        let first_port = 20_000 + random.below(20_000) as u16;
        let clients = Clients::new(host, vip, &options.plans, (now, first_port), &mut random);
        let sockets = if options.backend_listens { options.plans.len() * 2 + 2 } else { 0 };
        let host = setup::backend_host(random.next(), now);
        let backend = Backend::new(host, setup::BACKEND_PORT, sockets);
        let mut relays: Vec<Relay> = (0..options.relays).map(|_| Relay::default()).collect();
        let council = options.views.map(|manners| Council::new(options.units, manners, seed));
        for (index, relay) in relays.iter_mut().enumerate() {
            let units = setup::units(index, &options, &mut random, now);
            let life = units.incarnation();
            let council = council.as_ref();
            let member = council.map(|council| council.member(index, life, &options));
            relay.start(now, index, (units, member));
        }
        let mut keys =
            council.as_ref().map(|_| Keys::new(options.relays, options.keying, (seed, now)));
        // Each pair twice: whoever dials first.
        (0..relays.len()).for_each(|index| {
            keys.iter_mut().for_each(|keys| keys.connect(now, index));
        });
        let noise_at = (options.noise > 0).then_some(now);
        World {
            now,
            random,
            network,
            relays,
            council,
            keys,
            nonces: Nonces::default(),
            leases: options.views.map(Leases::new),
            clients,
            backend,
            wire: Wire::default(),
            audit: Audit::default(),
            flights: Flights::new(options.server_key, options.client_auth),
            seals: Seals::new(options.views.is_some()),
            excused: BTreeSet::new(),
            report: Report { seed, ..Report::default() },
            disturbed: now + options.faults_until,
            step: 0,
            step_since: now,
            moved_before: 0,
            sent_before: 0,
            recorded: Vec::new(),
            noise_at,
            resolutions: BTreeMap::new(),
            seen_takeovers: vec![vec![0; options.units.into()]; options.relays],
            turns: 0,
            events: 0,
            trace: std::env::var_os("SIM_TRACE").is_some(),
            options,
        }
    }

    /// Keeps every frame.
    pub fn captured(mut self) -> Self {
        self.network.captured = Some(Vec::new());
        self
    }

    /// Runs until every connection has ended and judges.
    pub fn run(mut self) -> Report {
        self.clients.poll(self.now);
        let mut healed = self.options.faults_until.is_zero();
        loop {
            if !healed && self.now >= BEGIN + self.options.faults_until {
                healed = true;
                self.network.heal();
            }
            self.step();
            self.pass_event();
            self.make_noise();
            self.deliver();
            if let Some(keys) = &mut self.keys {
                keys.attend(self.now, &mut self.relays);
            }
            self.run_relays();
            if let Some(council) = &mut self.council {
                council.attend(self.now);
            }
            self.run_hosts();
            if self.is_finished() {
                break;
            }
            let Some(next) = self.next_at() else {
                self.fail("nothing will ever happen again".to_owned());
                break;
            };
            if self.turns > TURNS_MAX {
                self.fail("livelock".to_owned());
                break;
            }
            self.now = next.max(self.now + Duration::from_nanos(1));
        }
        self.judge();
        self.report
    }

    pub(crate) fn fail(&mut self, failure: String) {
        let at = self.now - BEGIN;
        self.note(&failure);
        self.report.failures.push(format!("{at:?}: {failure}"));
    }

    pub(crate) fn note(&mut self, what: &str) {
        let line = format!("{:?}: {what}", self.now - BEGIN);
        if self.trace {
            println!("{line}");
        }
        self.report.log.push(line);
    }

    /// Bytes that have arrived at endpoints.
    pub(crate) fn moved(&self) -> u64 {
        self.clients.flows.iter().map(|flow| flow.read).sum::<u64>() + self.backend.received()
    }

    /// Puts a relay's frame onto its segment.
    fn transmit(&mut self, index: usize, (side, frame): (Side, Vec<u8>), by: (&Sender, &[Cover])) {
        self.wire.mix(&self.now.as_nanos().to_le_bytes());
        let is_same = self.options.is_reproducible() && frame.len() > 12;
        self.wire.mix(if is_same { &frame } else { &frame[..frame.len().min(12)] });
        self.wire.frames += 1;
        if side != Side::Cluster
            && let Some(seen) = wire::tcp(&frame)
        {
            self.wire.watch(index, &seen);
            let host = if side == Side::Client { setup::CLIENT_MAC } else { setup::BACKEND_MAC };
            if frame[..host.0.len()] != host.0 {
                let failure = format!("relay {} sends a segment to a wrong next hop", index + 1);
                self.wire.conflicts.push(failure);
            }
            let (sender, cover) = by;
            self.audit.watch(sender, cover, (&seen, side == Side::Client));
        }
        if side == Side::Cluster
            && let Some(failure) = self.nonces.watch(&frame)
        {
            self.wire.conflicts.push(failure);
        }
        self.trace_frame("out", index, &frame);
        if self.options.replays() && side == Side::Cluster && self.recorded.len() < RECORDED_MAX {
            self.recorded.push((index, frame.clone()));
        }
        self.network.send(self.now, side, Port::Relay(index), frame);
    }

    fn trace_frame(&self, way: &str, index: usize, frame: &[u8]) {
        if self.trace
            && let Some(line) = wire::describe(frame)
        {
            println!("{:?}: relay {} {way} {line}", self.now - BEGIN, index + 1);
        }
    }

    /// An event is over: perhaps the last one of the owner.
    fn pass_event(&mut self) {
        if self.options.kill_at.is_none() || self.step == 0 {
            return;
        }
        self.events += 1;
        if self.options.kill_at == Some(self.events) {
            self.kill_owner();
        }
    }

    fn next_at(&mut self) -> Option<Instant> {
        let relays = self.relays.iter().filter_map(Relay::next_at).min();
        let resolution = self.resolutions.first_key_value().map(|((at, _), _)| *at);
        let hosts = [self.clients.poll_at(self.now), self.backend.poll_at(self.now)];
        let keys = self.keys.as_ref().and_then(Keys::next_at);
        let own = [self.network.next_at(), relays, resolution, self.noise_at, self.step_at(), keys];
        own.into_iter().chain(hosts).flatten().min()
    }

    fn deliver(&mut self) {
        while let Some(Delivery { side, to, frame }) = self.network.receive(self.now) {
            self.pass_event();
            match (to, side) {
                (Port::Relay(index), _) => {
                    self.trace_frame("in ", index, &frame);
                    self.arrive(index, side, frame);
                }
                (Port::Host, Side::Client) => self.clients.receive(frame),
                (Port::Host, _) => self.backend.receive(frame),
            }
        }
        while let Some(entry) = self.resolutions.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (index, (side, address)) = entry.remove();
            if let Some(units) = &mut self.relays[index].units {
                let mac = if side == Side::Client { setup::CLIENT_MAC } else { setup::BACKEND_MAC };
                units.handle_neighbor(side, address, mac);
            }
        }
    }

    /// A frame gets to a relay's port.
    pub(crate) fn arrive(&mut self, index: usize, side: Side, frame: Vec<u8>) {
        if let Some(frame) = self.relays[index].receive(self.now, side, frame) {
            self.report.forwarded += 1;
            self.trace_frame("on ", index, &frame);
            self.network.send(self.now, side, Port::Relay(index), frame);
        }
    }

    fn run_relays(&mut self) {
        for index in 0..self.relays.len() {
            if self.relays[index].next_at().is_some_and(|at| at <= self.now) {
                self.pass_event();
            }
            let Some(turned) = self.relays[index].run(self.now) else {
                continue;
            };
            self.turns += 1;
            if turned.ended {
                self.end(index);
                continue;
            }
            let Turned { frames, resolve, died, acting, .. } = turned;
            self.watch_leases(&acting, &frames);
            let covers = self.covers(index, &acting, &frames);
            let muted = self.relays[index].is_muted(self.now);
            let lost = [Side::Client, Side::Backend, Side::Cluster].map(|side| {
                self.relays[index].is_unplugged(self.now, side) || (muted && side == Side::Cluster)
            });
            let heard = frames.into_iter().filter(|(side, _)| !lost[*side as usize]);
            for (side, frame) in heard {
                if self.options.kill_at.is_some() && self.relays[index].units.is_none() {
                    break;
                }
                let unit = unit_of_outbound(&frame, acting.len());
                self.transmit(index, (side, frame), (&acting[unit].sender, &covers[unit]));
                self.pass_event();
            }
            for address in resolve {
                let key = (self.now + RESOLUTION, self.turns);
                self.resolutions.insert(key, (index, address));
            }
            if died {
                self.note(&format!("relay {} is dead", index + 1));
            }
            self.watch_role(index);
        }
    }

    /// Compares what a relay does with what it may do by itself.
    fn watch_leases(&mut self, acting: &[Acting], frames: &[(Side, Vec<u8>)]) {
        let (Some(leases), Some(council)) = (&mut self.leases, &self.council) else { return };
        let newest = council.newest();
        for standing in acting.iter().filter_map(|acting| acting.standing.as_ref()) {
            leases.attend(self.now, &newest, standing);
        }
        for (side, frame) in frames.iter().filter(|(side, _)| *side != Side::Cluster) {
            let acting = &acting[unit_of_outbound(frame, acting.len())];
            if let Some(standing) = &acting.standing {
                leases.watch(self.now, standing, (*side, frame));
            }
        }
    }

    /// What those know, of each unit, who could go on in the place of a relay that sends `frames`.
    fn covers(
        &mut self,
        index: usize,
        acting: &[Acting],
        frames: &[(Side, Vec<u8>)],
    ) -> Vec<Vec<Cover>> {
        let outer = frames.iter().filter(|(side, _)| *side != Side::Cluster);
        let spoken: BTreeSet<usize> =
            outer.map(|(_, frame)| unit_of_outbound(frame, acting.len())).collect();
        let mut covers: Vec<Vec<Cover>> = acting.iter().map(|_| Vec::new()).collect();
        let agreed = self.council.is_some();
        for (other, relay) in self.relays.iter().enumerate().filter(|(other, _)| *other != index) {
            let Some(units) = &relay.units else { continue };
            for unit in &spoken {
                let known = (setup::id(other).0, &units.nodes()[*unit]);
                let sender = &acting[*unit].sender;
                covers[*unit].extend(Cover::of(sender, known, &mut self.flights, agreed));
            }
        }
        covers
    }

    fn watch_role(&mut self, index: usize) {
        let Some(units) = &self.relays[index].units else { return };
        let mut notes = Vec::new();
        for (node, seen) in units.nodes().iter().zip(&mut self.seen_takeovers[index]) {
            self.audit.weigh(node.load());
            self.seals.hear(node);
            let report = node.report(self.now);
            if report.takeovers > *seen {
                notes.push(format!("relay {} took over {} flows", index + 1, report.flows));
            }
            *seen = report.takeovers;
        }
        self.report.takeovers += notes.len() as u32;
        notes.iter().for_each(|note| self.note(note));
    }

    fn run_hosts(&mut self) {
        self.clients.poll(self.now);
        while let Some(frame) = self.clients.transmit() {
            wire::tcp(&frame).iter().for_each(|seen| self.audit.hear(seen));
            self.network.send(self.now, Side::Client, Port::Host, frame);
        }
        self.backend.poll(self.now);
        while let Some(frame) = self.backend.host.transmit() {
            wire::tcp(&frame).iter().for_each(|seen| self.audit.hear(seen));
            self.network.send(self.now, Side::Backend, Port::Host, frame);
        }
    }

    fn is_finished(&mut self) -> bool {
        if self.now > self.disturbed + FINISH_MAX {
            self.fail("not everything has finished".to_owned());
            return true;
        }
        let objections = [&self.wire.conflicts, &self.backend.failures, &self.audit.failures];
        let leases = self.leases.iter().map(|leases| &leases.failures);
        if objections.into_iter().chain(leases).any(|failures| !failures.is_empty()) {
            return true;
        }
        let ended = |flow: &crate::client::Client| {
            let served = flow.plan.conduct != Conduct::Honest || self.backend.is_done(flow.plan.id);
            flow.outcome.is_some() && (served || flow.outcome != Some(Outcome::Done))
        };
        let mut flows = self.clients.flows.iter();
        let all = flows.clone().all(ended);
        let rest = flows.all(|flow| ended(flow) || self.excused.contains(&flow.plan.id));
        all || (rest && self.now > self.disturbed + PATIENCE)
    }

    /// The clients' ends of connections that are being refused: nobody else knows of them (README,
    /// "A refusal that is lost with its owner").
    pub(crate) fn refused(&self, owner: usize) -> BTreeSet<u16> {
        let nodes = self.relays[owner].units.iter().flat_map(|units| units.nodes());
        let flows = nodes.flat_map(|node| node.flows());
        flows.filter(|flow| flow.state == "refused").map(|flow| flow.client.port).collect()
    }

    /// The clients' ends of connections that must survive: the backend has seen them.
    pub(crate) fn protected(&mut self, owner: usize) -> BTreeSet<u16> {
        let known = self.backend.established();
        let Some(units) = &self.relays[owner].units else { return BTreeSet::new() };
        let flows = units.nodes().iter().flat_map(|node| node.flows()).filter(|flow| {
            let snat = flow.snat.map(|end| SocketAddr::new(end.addr.into(), end.port));
            snat.is_some_and(|snat| known.contains(&snat))
        });
        flows.map(|flow| flow.client.port).collect()
    }

    /// The unit of a client's connection, by its port.
    pub(crate) fn unit_of_client(&self, port: u16) -> usize {
        let end = |(address, port): (IpAddress, u16)| SocketAddr::new(address.into(), port);
        let client = end((setup::address(self.options.ipv6, 1, 10), port));
        let vip = end((setup::vip(self.options.ipv6), setup::PORT));
        unit_of(client, vip, self.options.units.into())
    }
}
