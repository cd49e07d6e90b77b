//! A worker: one pinned thread that drains its rings, runs its nodes and fills its rings. A relay has one,
//! or several that share its receive queues and its units, see [`Crew`].

mod configuration;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use relay_abi::control::{Request, Response};
use relay_abi::xdp::NOBODY;
use relay_core::config::{Side, Unit};
use relay_core::frame::EthernetAddress;
use relay_core::id::NodeId;
use relay_core::node::Command;
use relay_core::parting::{Parting, Step};
use relay_core::replica::Role;
use relay_core::time::Instant;
use relay_core::units::{Part, Units};
use relay_views::Command as Proposal;
use relay_views::source::ViewSource;

use crate::clock::Clock;
use crate::control::Query;
use crate::council::Views;
use crate::crew::{Crew, Stray};
use crate::neighbors::Neighbors;
use crate::port::{self, BATCH, Port, XskPort};
use crate::report::{self, About};
use crate::xdp::{self, Program};

/// Batches that one turn takes from a port at most: the transmit side must get its turn, too.
const BATCHES_MAX: usize = 4;

/// The kernel did not take all frames; it will have sent some of them after this time.
const RING_FULL_WAIT: Duration = Duration::from_micros(50);

/// How often workers tell each other whom they heard.
const SHARE_INTERVAL: Duration = Duration::from_millis(1);

/// One interface: its program, which all workers have in common, and the rings of one of them.
pub struct Interface {
    pub name: String,
    /// Before the program: its sockets are in the program's map.
    pub port: XskPort,
    pub program: Arc<Program>,
}

/// The byte path and everything that it is asked.
pub struct Worker {
    part: Part,
    crew: Arc<Crew>,
    /// The next time that the others are told whom this one heard.
    shares_at: Instant,
    /// A worker has a turn at least this often, whatever its nodes wait for: it has to show that it lives.
    rest_max: Duration,
    units: Units,
    /// The other relays' ports toward clients and backends, as the programs were told.
    ports: BTreeMap<NodeId, [EthernetAddress; 2]>,
    client: Interface,
    backend: Interface,
    cluster: Interface,
    neighbors: Neighbors,
    queries: Receiver<Query>,
    clock: Clock,
    busy: bool,
    was: Option<Role>,
    views: Option<Views>,
    /// The cluster was founded with another number of units; the operator was told.
    disagrees: bool,
}

impl Worker {
    /// A worker of a crew over the client's, the backend's and the cluster's interface.
    pub fn new(
        (part, crew): (Part, Arc<Crew>),
        units: Units,
        [client, backend, cluster]: [Interface; 3],
        (neighbors, queries): (Neighbors, Receiver<Query>),
        clock: Clock,
    ) -> Self {
        Worker {
            part,
            crew,
            shares_at: Instant::ZERO,
            rest_max: Duration::MAX,
            units,
            ports: BTreeMap::new(),
            client,
            backend,
            cluster,
            neighbors,
            queries,
            clock,
            busy: false,
            was: None,
            views: None,
            disagrees: false,
        }
    }

    /// Follows the views of a council, which takes that for the worker's sign of life.
    pub fn with_views(self, views: Option<Views>) -> Self {
        Worker { views, ..self }
    }

    /// Has a turn at least so often.
    pub fn with_rest(self, rest_max: Duration) -> Self {
        Worker { rest_max, ..self }
    }

    /// Whether to spin instead of sleeping until a frame or a timer comes.
    pub fn with_mode(self, busy: bool) -> Self {
        Worker { busy, ..self }
    }

    /// Runs until `stop` is set, and this node has left: nobody has to find out that it is gone.
    pub fn run(&mut self, stop: &AtomicBool) {
        let mut parting = None;
        loop {
            let now = self.clock.now();
            if stop.load(Ordering::Relaxed)
                && self.has_left(now, parting.get_or_insert(Parting::new(now)))
            {
                // First of all that ends, so that it does not take the worker's end for a hang.
                self.views = None;
                return;
            }
            let received = self.receive(now);
            self.crew.wake(self.part.worker);
            self.answer(now);
            self.follow_views(now);
            self.share_signs(now);
            self.units.turn(now);
            self.obey(now);
            // Before anything leaves: a peer on the same machine answers while it is being sent.
            self.renew_lease();
            let sent_all = self.transmit(now);
            self.log_role(now);
            if received == 0 && !self.busy {
                self.wait(now, sent_all);
            }
        }
    }

    /// Drains the rings. The cluster's comes first, and so does what other workers received of it: a node
    /// that was paused has to learn that it was deposed before it does anything else.
    fn receive(&mut self, now: Instant) -> usize {
        let strays = self.take_strays();
        let (urgent, others) = strays.into_iter().partition(|stray| stray.side == Side::Cluster);
        self.drain(now, Side::Cluster)
            + self.handle_strays(now, urgent)
            + self.drain(now, Side::Client)
            + self.drain(now, Side::Backend)
            + self.handle_strays(now, others)
    }

    fn drain(&mut self, now: Instant, side: Side) -> usize {
        let interface = match side {
            Side::Cluster => &mut self.cluster,
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
        };
        let (units, crew) = (&mut self.units, &self.crew);
        units.handle_carrier(now, side, interface.port.has_carrier());
        let mut total = 0;
        for _ in 0..BATCHES_MAX {
            let count = interface.port.receive(&mut |frame| {
                if let Some(worker) = units.handle_frame(now, side, frame) {
                    crew.hand(worker, Stray { side, frame: frame.into() });
                }
            });
            total += count;
            if count < BATCH {
                break;
            }
        }
        total
    }

    /// What other workers received for this one.
    fn take_strays(&self) -> Vec<Stray> {
        match self.crew.is_several() {
            true => self.crew.strays(self.part.worker).collect(),
            false => Vec::new(),
        }
    }

    fn handle_strays(&mut self, now: Instant, strays: Vec<Stray>) -> usize {
        for stray in &strays {
            self.units.handle_frame(now, stray.side, &stray.frame);
        }
        strays.len()
    }

    /// What one worker hears of a relay is a sign of life for all.
    fn share_signs(&mut self, now: Instant) {
        if self.crew.is_several() && self.shares_at <= now {
            self.shares_at = now + SHARE_INTERVAL;
            for sign in self.crew.share(self.units.signs()) {
                self.units.note_sign(sign);
            }
        }
    }

    /// Whether a node that is asked to end may do so. An owner hands over what it owns; then any node
    /// has itself taken out of the view, so that no gate is missed. Workers end together.
    fn has_left(&mut self, now: Instant, parting: &mut Parting) -> bool {
        let Some(views) = &mut self.views else { return true };
        let own = self.units.duty(now, parting.since());
        match parting.step(now, self.crew.part(self.part.worker, own)) {
            Step::End => return true,
            Step::Wait => {}
            Step::HandOver { again } => {
                if !again {
                    tracing::info!("hands over before it ends");
                }
                let node = self.units.report(now).node;
                views.propose(since_epoch(now), Proposal::Drain { node });
            }
            Step::Leave { again } => {
                if !again {
                    tracing::info!("leaves the view before it ends");
                }
                views.leave();
            }
        }
        false
    }

    fn follow_views(&mut self, now: Instant) {
        let Some(views) = &mut self.views else { return };
        if let Some(view) = views.next_view(since_epoch(now))
            && let Err(units) = self.units.handle_view(now, &view)
            && !std::mem::replace(&mut self.disagrees, true)
        {
            tracing::error!(
                "the cluster was founded with {units} units, this node's configuration names {}: \
                 it takes no part. Remedy: cluster.council.units = {units}",
                self.units.count()
            );
        }
        for offer in views.configurations() {
            let held = configuration::hold(&mut self.units, [&self.client, &self.backend], &offer);
            views.answer((offer.generation, held));
        }
        for (peer, key) in views.pair_keys() {
            self.units.handle_pair_key(now, peer, &key);
        }
        if views.is_vouched() && !self.disagrees {
            self.units.handle_lease(now);
        }
    }

    fn answer(&mut self, now: Instant) {
        while let Some(resolved) = self.neighbors.try_recv() {
            let is_client = resolved.interface == self.client.name;
            let side = if is_client { Side::Client } else { Side::Backend };
            self.units.handle_neighbor(side, resolved.ip.into(), EthernetAddress(resolved.mac));
        }
        while let Ok(query) = self.queries.try_recv() {
            let council = self.views.as_ref().map(Views::reporter);
            let response = match (change(&query.request), &mut self.views) {
                (Some(command), Some(views)) => {
                    views.propose(since_epoch(now), command);
                    Response::Proposed
                }
                _ => {
                    let ports = [&self.client, &self.backend, &self.cluster];
                    let about = About { units: &self.units, council: council.as_ref(), ports };
                    let crew = (self.part, &*self.crew);
                    report::answer(&query.request, &about, crew, (now, &self.clock))
                }
            };
            // Nobody waits any more: then nobody misses the answer.
            let _ = query.reply.try_send(response);
        }
    }

    fn obey(&mut self, now: Instant) {
        while let Some(command) = self.units.poll_command() {
            match command {
                Command::Steer => self.steer(),
                Command::Propose(command) => {
                    if let Some(views) = &mut self.views {
                        views.propose(since_epoch(now), command);
                    }
                }
                Command::Suspect(silent) => {
                    if let Some(views) = &mut self.views {
                        views.suspect(since_epoch(now), silent);
                    }
                }
                Command::Serve(side, address) => {
                    let interface = match side {
                        Side::Client => &self.client,
                        Side::Backend | Side::Cluster => &self.backend,
                    };
                    configuration::serve(interface, address.into());
                }
                Command::Resolve(side, address) => {
                    let interface = match side {
                        Side::Client => &self.client.name,
                        Side::Backend | Side::Cluster => &self.backend.name,
                    };
                    // A full queue takes none: the next flow to this address asks again.
                    self.neighbors.request(address.into(), interface);
                }
            }
        }
        self.learn_ports();
    }

    /// Tells the programs whose the buckets of this worker's units are.
    fn steer(&mut self) {
        let mut owners = vec![None; self.units.count()];
        for (unit, owner) in self.units.steering() {
            owners[unit] = Some(owner.map_or(NOBODY, |node| node.0));
        }
        let owner_of = |bucket| owners[Unit::of(bucket, owners.len())];
        self.crew.note_turn(self.part.worker, xdp::monotonic_nanos(), self.units.takes_in());
        for interface in [&self.client, &self.backend] {
            interface.program.set_owners(owner_of);
            if self.part.worker == 0 {
                interface.program.set_holds_mac(self.units.holds_addresses());
            }
            if !self.crew.takes_in() {
                interface.program.revoke_lease();
            }
        }
    }

    /// Tells the programs where frames of other relays' flows go.
    fn learn_ports(&mut self) {
        for node in self.units.peers() {
            let Some(ports) = self.units.ports_of(node) else { continue };
            if self.ports.insert(node, ports) != Some(ports) {
                for (interface, port) in [&self.client, &self.backend].into_iter().zip(ports) {
                    interface.program.set_port(node.0, port.0);
                }
            }
        }
    }

    /// Fills the rings; false when one of them had no room for everything.
    fn transmit(&mut self, now: Instant) -> bool {
        let mut sent_all = true;
        let interfaces = [
            (Side::Cluster, &mut self.cluster),
            (Side::Client, &mut self.client),
            (Side::Backend, &mut self.backend),
        ];
        for (side, interface) in interfaces {
            let (units, mut empty) = (&mut self.units, false);
            interface.port.transmit(&mut |buf| {
                let length = units.poll_transmit(now, side, buf);
                empty = length.is_none();
                length
            });
            interface.port.flush();
            sent_all &= empty;
        }
        sent_all
    }

    /// Only a turn that has come this far lets the XDP program give us more.
    fn renew_lease(&mut self) {
        let now = xdp::monotonic_nanos();
        if let Some(at) = self.crew.note_turn(self.part.worker, now, self.units.takes_in()) {
            self.client.program.renew_lease(at);
            self.backend.program.renew_lease(at);
        }
    }

    fn wait(&self, now: Instant, sent_all: bool) {
        let until = self.units.poll_timeout().map_or(Duration::ZERO, |at| at - now);
        let limit = if sent_all { until } else { until.min(RING_FULL_WAIT) }.min(self.rest_max);
        if limit.is_zero() {
            return;
        }
        let worker = self.part.worker;
        if self.crew.fall_asleep(worker) {
            let ports: [&dyn Port; 3] = [&self.cluster.port, &self.client.port, &self.backend.port];
            let strays = self.crew.wake_fd(worker);
            let news = self.views.as_ref().map(|views| views.wake_fd().as_raw_fd());
            // A descriptor below zero is none, for poll(2).
            port::wait(&ports, &[strays, news.unwrap_or(-1)], limit);
        }
        self.crew.wake_up(worker);
    }

    fn log_role(&mut self, now: Instant) {
        let role = self.units.role();
        if self.was != Some(role) {
            self.was = Some(role);
            let report = self.units.report(now);
            let worker = self.crew.is_several().then_some(self.part.worker);
            tracing::info!(
                worker,
                ?role,
                term = report.term,
                view = report.view,
                flows = report.flows,
                takeover = ?report.takeover,
                "the node's role changed"
            );
        }
    }
}

/// What an operator wants to be changed, if it is that.
fn change(request: &Request) -> Option<Proposal> {
    match *request {
        Request::Drain { node } => Some(Proposal::Drain { node: NodeId(node) }),
        Request::Undrain { node } => Some(Proposal::Undrain { node: NodeId(node) }),
        Request::Weigh { node, weight } => Some(Proposal::Weigh { node: NodeId(node), weight }),
        // The rest is questions, and configurations, for which the control socket's thread asks.
        _ => None,
    }
}

/// Times of the council's trait.
fn since_epoch(now: Instant) -> Duration {
    Duration::from_nanos(now.as_nanos())
}
