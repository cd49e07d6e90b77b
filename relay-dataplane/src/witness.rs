//! A witness: a council without a data plane. It votes and keeps views, and runs anywhere.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use relay_abi::control::{Request, Response, Role, StatusReport};
use relay_views::id::{Incarnation, NodeId};

use crate::clock::Clock;
use crate::config::Witness;
use crate::control::{ControlError, ControlServer, Query};
use crate::council::{self, Reporter, Views};

/// Control requests that wait at most.
const QUERIES_MAX: usize = 16;

/// How often a witness looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// Why a witness can not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can not vote.
    #[error(transparent)]
    Council(#[from] council::Error),
    /// Its control socket can not be served.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The system gives no randomness.
    #[error("the system gives no random numbers: {0}")]
    Entropy(#[from] io::Error),
}

/// Votes until `stop` is set.
///
/// # Errors
/// When it can not begin.
pub fn run(config: &Witness, stop: &AtomicBool) -> Result<(), Error> {
    let clock = Clock::start();
    let life = (NodeId(config.node.id), Incarnation(council::random()?));
    let (sender, queries) = bounded(QUERIES_MAX);
    let _control = ControlServer::start(&config.node.control, vec![sender])?;
    let views = council::start(&config.council, life)?;
    serve(&views, life, (&queries, &clock), stop);
    Ok(())
}

fn serve(
    views: &Views,
    life: (NodeId, Incarnation),
    (queries, clock): (&Receiver<Query>, &Clock),
    stop: &AtomicBool,
) {
    let reporter = views.reporter();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(query) = queries.recv_timeout(LOOK) {
            let response = answer(&query.request, life, &reporter, clock);
            // Nobody waits any more: then nobody misses the answer.
            let _ = query.reply.try_send(response);
        }
    }
}

fn answer(
    request: &Request,
    (node, incarnation): (NodeId, Incarnation),
    reporter: &Reporter,
    clock: &Clock,
) -> Response {
    match request {
        Request::Status => {
            let council = reporter.report();
            Response::Status(StatusReport {
                node: node.0,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                incarnation: incarnation.to_string(),
                role: Role::Witness,
                in_sync: false,
                term: council.term,
                view: council.view,
                uptime_ms: clock.uptime_ms(),
                flows: 0,
                shadows: 0,
                flows_total: 0,
                takeovers: 0,
                takeover_ms: None,
                peers: Vec::new(),
                owner: None,
                buckets_owned: 0,
                holds_addresses: false,
                units: None,
                shares: Vec::new(),
                council: Some(Box::new(council)),
            })
        }
        Request::Counters => Response::Counters(reporter.counters()),
        Request::Configuration => reporter.configuration().answer(),
        Request::Drain { .. }
        | Request::Undrain { .. }
        | Request::Weigh { .. }
        | Request::Configure { .. }
        | Request::WithdrawConfiguration => {
            Response::Error("a witness takes no orders: ask a relay".to_owned())
        }
        Request::Flows { .. } => {
            Response::Error("this node is a witness: it has no flows".to_owned())
        }
    }
}
