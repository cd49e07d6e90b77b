//! Answers to the operator.

use relay_abi::control::{
    CounterReport, DEFAULT_FLOWS, FlowList, FlowReport, MAX_FLOWS, PeerReport, Request, Response,
    Role, Share, StatusReport, TcpReport,
};
use relay_core::flow::Description;
use relay_core::node::NodeReport;
use relay_core::replica;
use relay_core::tcp::Standing;
use relay_core::time::Instant;
use relay_core::tls::Version;
use relay_core::units::{Part, Units};

use crate::clock::Clock;
use crate::council::Reporter;
use crate::crew::Crew;
use crate::document;
use crate::worker::Interface;

mod merge;

pub use merge::merge;

/// What a worker has to tell about.
pub struct About<'a> {
    pub units: &'a Units,
    pub council: Option<&'a Reporter>,
    pub ports: [&'a Interface; 3],
}

/// One worker's answer to a request. [`merge`] makes one of all workers' answers.
pub fn answer(
    request: &Request,
    about: &About<'_>,
    (part, crew): (Part, &Crew),
    (now, clock): (Instant, &Clock),
) -> Response {
    // What all workers have in common is told by the first.
    let is_first = part.worker == 0;
    let council = about.council.filter(|_| is_first);
    match request {
        Request::Status => {
            let council = council.map(Reporter::report).map(Box::new);
            Response::Status(StatusReport { council, ..status(about.units, now, clock) })
        }
        Request::Flows { limit } => Response::Flows(flows(about.units, now, *limit)),
        Request::Counters => {
            let mut all = counters(about.units, about.ports, is_first);
            if crew.is_several() {
                let strays = crew.counters(part.worker).into_iter();
                all.extend(strays.map(|(name, value)| counter("worker", name, value)));
            }
            all.extend(council.into_iter().flat_map(Reporter::counters));
            Response::Counters(all)
        }
        Request::Configuration | Request::Configure { .. } | Request::WithdrawConfiguration => {
            Response::Error(document::NO_COUNCIL.to_owned())
        }
        Request::Drain { .. } | Request::Undrain { .. } | Request::Weigh { .. } => Response::Error(
            "this relay has no council, and two relays without one cannot hand over: see \
             [cluster.council] in docs/CONFIG.md"
                .to_owned(),
        ),
    }
}

fn status(units: &Units, now: Instant, clock: &Clock) -> StatusReport {
    let report: NodeReport = units.report(now);
    let shares = units.shares();
    let role = match report.role {
        _ if report.isolated => Role::Isolated,
        replica::Role::Starting => Role::Starting,
        replica::Role::Owner => Role::Owner,
        replica::Role::Backup if report.in_sync => Role::Backup,
        replica::Role::Backup => Role::Learner,
    };
    StatusReport {
        node: report.node.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: report.incarnation.to_string(),
        role,
        in_sync: report.in_sync,
        term: report.term,
        view: report.view,
        uptime_ms: clock.uptime_ms(),
        flows: report.flows as u64,
        shadows: report.shadows as u64,
        flows_total: report.flows_total,
        takeovers: report.takeovers,
        takeover_ms: report.takeover.map(|time| time.as_secs_f64() * 1e3),
        peers: report.peers.iter().map(peer).collect(),
        owner: report.owner.map(|owner| owner.0),
        buckets_owned: shares.get(&report.node).copied().unwrap_or_default(),
        units: u8::try_from(units.count()).ok(),
        shares: shares.into_iter().map(|(node, buckets)| Share { node: node.0, buckets }).collect(),
        holds_addresses: units.holds_addresses(),
        council: None,
    }
}

fn peer(peer: &relay_core::node::PeerReport) -> PeerReport {
    PeerReport {
        id: peer.id.0,
        address: peer.address.to_string(),
        alive: peer.alive,
        incarnation: peer.incarnation.map(|incarnation| incarnation.to_string()),
        role: peer.status.filter(|_| peer.alive).map(|status| match status.role {
            replica::Role::Starting => Role::Starting,
            replica::Role::Owner => Role::Owner,
            replica::Role::Backup => Role::Backup,
        }),
        rtt_us: peer.rtt.map(|rtt| rtt.as_micros() as u64),
        lag_bytes: peer.backlog as u64,
        last_heard_ms: peer.silence.map(|silence| silence.as_millis() as u64),
        in_sync: peer.in_sync,
        version: peer.version,
    }
}

fn flows(units: &Units, now: Instant, limit: Option<usize>) -> FlowList {
    let limit = limit.unwrap_or(DEFAULT_FLOWS).min(MAX_FLOWS);
    let owner = units.report(now).node.0;
    let all = || units.nodes().iter().flat_map(|node| node.flows().map(move |flow| (node, flow)));
    let flows = all().take(limit);
    let flows = flows.map(|(node, flow)| describe(&flow, owner, &node.backups(), now)).collect();
    FlowList { total: all().count() as u64, flows }
}

fn describe(flow: &Description, owner: u8, backups: &[u8], now: Instant) -> FlowReport {
    let text = |endpoint: Option<relay_core::frame::IpEndpoint>| {
        endpoint.map(|e| std::net::SocketAddr::new(e.addr.into(), e.port).to_string())
    };
    let version = flow.suite.map(|suite| match suite.version() {
        Version::Tls12 => "TLSv1.2",
        Version::Tls13 => "TLSv1.3",
    });
    FlowReport {
        id: flow.id.to_string(),
        owner,
        backups: backups.to_vec(),
        client: text(Some(flow.client)).unwrap_or_default(),
        vip: text(Some(flow.vip)).unwrap_or_default(),
        backend: text(flow.backend).unwrap_or_default(),
        snat: text(flow.snat).unwrap_or_default(),
        tls_version: version.unwrap_or_default().to_owned(),
        suite: flow.suite.map(|suite| suite.name().to_owned()).unwrap_or_default(),
        server_name: flow.server_name.clone(),
        bytes_up: flow.bytes_up,
        bytes_down: flow.bytes_down,
        state: flow.state.to_owned(),
        age_ms: now.as_millis().saturating_sub(flow.created_ms),
        client_tcp: leg(&flow.client_tcp),
        backend_tcp: flow.backend_tcp.as_ref().map(leg).unwrap_or_default(),
    }
}

fn leg(standing: &Standing) -> TcpReport {
    let Standing { received, kept, withheld, offered, written, unacked, sendable, window } =
        *standing;
    TcpReport { received, kept, withheld, offered, written, unacked, sendable, window }
}

fn counter(group: &str, name: &str, value: u64) -> CounterReport {
    CounterReport { group: group.to_owned(), name: name.to_owned(), value }
}

fn counters(units: &Units, ports: [&Interface; 3], is_first: bool) -> Vec<CounterReport> {
    let mut all: Vec<_> =
        units.counters().iter().map(|(name, value)| counter("dropped", name, value)).collect();
    for interface in ports {
        if is_first {
            let group = format!("xdp {}", interface.name);
            let verdicts = interface.program.counters().into_iter();
            all.extend(verdicts.map(|(name, value)| counter(&group, name, value)));
        }
        let (group, rings) = (format!("port {}", interface.name), interface.port.statistics());
        for (name, value) in [
            ("rx_dropped", rings.rx_dropped),
            ("rx_ring_full", rings.rx_ring_full),
            ("rx_fill_empty", rings.rx_fill_empty),
            ("rx_invalid", rings.rx_invalid),
            ("rx_oversized", rings.rx_oversized),
            ("tx_invalid", rings.tx_invalid),
        ] {
            all.push(counter(&group, name, value));
        }
    }
    all
}
