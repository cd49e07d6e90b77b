//! The worker: one pinned thread that drains the rings, runs the node and fills the rings.

mod configuration;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use relay_abi::bucket::BUCKETS;
use relay_abi::control::{Request, Response};
use relay_abi::xdp::NOBODY;
use relay_core::config::{Side, Unit};
use relay_core::frame::EthernetAddress;
use relay_core::id::NodeId;
use relay_core::node::Command;
use relay_core::replica::Role;
use relay_core::time::Instant;
use relay_core::units::Units;
use relay_views::Command as Proposal;
use relay_views::source::ViewSource;

use crate::clock::Clock;
use crate::control::Query;
use crate::council::Views;
use crate::neighbors::Neighbors;
use crate::port::{self, BATCH, Port, XskPort};
use crate::report;
use crate::xdp::Program;

/// Batches that one turn takes from a port at most: the transmit side must get its turn, too.
const BATCHES_MAX: usize = 4;

/// How long a node that is asked to end waits for the view in which another one owns, and then for
/// the one without it.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// The kernel did not take all frames; it will have sent some of them after this time.
const RING_FULL_WAIT: Duration = Duration::from_micros(50);

/// One interface: its program, its rings.
pub struct Interface {
    pub name: String,
    /// Before the program: its sockets are in the program's map.
    pub port: XskPort,
    pub program: Program,
    /// Our id in the owner table.
    pub node: u8,
}

/// Since when a node that is asked to end does what comes before.
#[derive(Default)]
struct Leaving {
    hands_over: Option<Instant>,
    leaves: Option<Instant>,
}

/// The byte path and everything that it is asked.
pub struct Worker {
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
    /// A worker over the client's, the backend's and the cluster's interface.
    pub fn new(
        units: Units,
        [client, backend, cluster]: [Interface; 3],
        neighbors: Neighbors,
        queries: Receiver<Query>,
        clock: Clock,
    ) -> Self {
        Worker {
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

    /// Whether to spin instead of sleeping until a frame or a timer comes.
    pub fn with_mode(self, busy: bool) -> Self {
        Worker { busy, ..self }
    }

    /// Runs until `stop` is set, and this node has left: nobody has to find out that it is gone.
    pub fn run(&mut self, stop: &AtomicBool) {
        let mut leaving = Leaving::default();
        loop {
            let now = self.clock.now();
            if stop.load(Ordering::Relaxed) && self.has_left(now, &mut leaving) {
                // First of all that ends, so that it does not take the worker's end for a hang.
                self.views = None;
                return;
            }
            let received = self.receive(now);
            self.answer(now);
            self.follow_views(now);
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

    /// Drains the rings. The cluster's comes first: a node that was paused has to learn that it
    /// was deposed before it does anything else.
    fn receive(&mut self, now: Instant) -> usize {
        let mut total = 0;
        let interfaces = [
            (Side::Cluster, &mut self.cluster),
            (Side::Client, &mut self.client),
            (Side::Backend, &mut self.backend),
        ];
        for (side, interface) in interfaces {
            self.units.handle_carrier(now, side, interface.port.has_carrier());
            for _ in 0..BATCHES_MAX {
                let units = &mut self.units;
                let count =
                    interface.port.receive(&mut |frame| units.handle_frame(now, side, frame));
                total += count;
                if count < BATCH {
                    break;
                }
            }
        }
        total
    }

    /// Whether a node that is asked to end may do so. An owner hands over what it owns; then any node
    /// has itself taken out of the view, so that no gate is missed.
    fn has_left(&mut self, now: Instant, leaving: &mut Leaving) -> bool {
        let report = self.units.report(now);
        let Some(views) = &mut self.views else { return true };
        if report.role == Role::Owner && report.in_sync {
            let since = *leaving.hands_over.get_or_insert_with(|| {
                tracing::info!("hands over before it ends");
                views.propose(since_epoch(now), Proposal::Drain { node: report.node });
                now
            });
            return now - since >= LEAVE_MAX;
        }
        let is_member = report.role == Role::Backup || self.units.is_forwarding();
        // Who owns without a backup has nobody to leave anything to.
        if !is_member {
            return true;
        }
        let since = *leaving.leaves.get_or_insert_with(|| {
            tracing::info!("leaves the view before it ends");
            views.leave();
            now
        });
        now - since >= LEAVE_MAX
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
                self.units.nodes().len()
            );
        }
        for offer in views.configurations() {
            let held =
                configuration::hold(&mut self.units, [&mut self.client, &mut self.backend], &offer);
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
            let ports = [&self.client, &self.backend, &self.cluster];
            let council = self.views.as_ref().map(Views::reporter);
            let about = (&self.units, council.as_ref());
            let response = match (change(&query.request), &mut self.views) {
                (Some(command), Some(views)) => {
                    views.propose(since_epoch(now), command);
                    Response::Proposed
                }
                _ => report::answer(&query.request, about, (now, &self.clock), ports),
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
                        Side::Client => &mut self.client,
                        Side::Backend | Side::Cluster => &mut self.backend,
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

    /// Tells the programs whose the buckets are.
    fn steer(&mut self) {
        let node_or_nobody = |node: Option<NodeId>| node.map_or(NOBODY, |node| node.0);
        let units: Vec<u8> = self.units.steering().map(node_or_nobody).collect();
        let mut owners = [NOBODY; BUCKETS as usize];
        for (bucket, owner) in (0..).zip(&mut owners) {
            *owner = units[Unit::of(bucket, units.len())];
        }
        let holds = self.units.holds_addresses();
        for interface in [&mut self.client, &mut self.backend] {
            interface.program.set_owners(&owners);
            interface.program.set_holds_mac(holds);
            if !units.contains(&interface.node) {
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
        if self.units.takes_in() {
            self.client.program.renew_lease();
            self.backend.program.renew_lease();
        }
    }

    fn wait(&self, now: Instant, sent_all: bool) {
        let until = self.units.poll_timeout().map_or(Duration::ZERO, |at| at - now);
        let limit = if sent_all { until } else { until.min(RING_FULL_WAIT) };
        if !limit.is_zero() {
            let ports: [&dyn Port; 3] = [&self.cluster.port, &self.client.port, &self.backend.port];
            let wake = self.views.as_ref().map(|views| views.wake_fd().as_raw_fd());
            port::wait(&ports, wake, limit);
        }
    }

    fn log_role(&mut self, now: Instant) {
        let role = self.units.role();
        if self.was != Some(role) {
            self.was = Some(role);
            let report = self.units.report(now);
            tracing::info!(
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
