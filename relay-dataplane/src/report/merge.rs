//! One answer to the operator out of those of all workers.

use std::collections::BTreeMap;

use relay_abi::control::{
    CounterReport, DEFAULT_FLOWS, FlowList, MAX_FLOWS, PeerReport, Request, Response, Role, Share,
    StatusReport,
};

/// The relay's answer to `request`, of which every worker gave its part, the first worker first.
pub fn merge(request: &Request, answers: Vec<Response>) -> Response {
    let merged = answers.into_iter().reduce(|first, next| match (first, next) {
        (Response::Status(first), Response::Status(next)) => Response::Status(status(first, next)),
        (Response::Flows(first), Response::Flows(next)) => Response::Flows(flows(first, next)),
        (Response::Counters(first), Response::Counters(next)) => {
            Response::Counters(counters(first, next))
        }
        // Something went wrong, and one of them says what.
        (error @ Response::Error(_), _) | (_, error) => error,
    });
    match (merged, request) {
        (Some(Response::Flows(mut list)), Request::Flows { limit }) => {
            list.flows.truncate(limit.unwrap_or(DEFAULT_FLOWS).min(MAX_FLOWS));
            Response::Flows(list)
        }
        (Some(response), _) => response,
        (None, _) => Response::Error("the relay has no worker".to_owned()),
    }
}

/// Numbers are added, or the later ones.
fn status(first: StatusReport, next: StatusReport) -> StatusReport {
    let in_sync = first.in_sync && next.in_sync;
    let mut shares: BTreeMap<u8, u32> = BTreeMap::new();
    for share in first.shares.iter().chain(&next.shares) {
        *shares.entry(share.node).or_default() += share.buckets;
    }
    StatusReport {
        role: role(first.role, next.role, in_sync),
        in_sync,
        term: first.term.max(next.term),
        view: first.view.max(next.view),
        flows: first.flows + next.flows,
        shadows: first.shadows + next.shadows,
        flows_total: first.flows_total + next.flows_total,
        takeovers: first.takeovers.max(next.takeovers),
        takeover_ms: [first.takeover_ms, next.takeover_ms].into_iter().flatten().reduce(f64::max),
        peers: first.peers.into_iter().zip(next.peers).map(|(a, b)| peer(a, b)).collect(),
        owner: first.owner.filter(|owner| next.owner == Some(*owner)),
        buckets_owned: first.buckets_owned + next.buckets_owned,
        shares: shares.into_iter().map(|(node, buckets)| Share { node, buckets }).collect(),
        holds_addresses: first.holds_addresses || next.holds_addresses,
        council: first.council.or(next.council),
        node: first.node,
        version: first.version,
        incarnation: first.incarnation,
        uptime_ms: first.uptime_ms,
        units: first.units,
    }
}

/// As for the units of one worker, see `relay_core::node::NodeReport`.
fn role(first: Role, next: Role, in_sync: bool) -> Role {
    let is = |role| first == role || next == role;
    match () {
        () if is(Role::Isolated) => Role::Isolated,
        () if is(Role::Owner) => Role::Owner,
        () if is(Role::Starting) => Role::Starting,
        () if in_sync => Role::Backup,
        () => Role::Learner,
    }
}

fn peer(first: PeerReport, next: PeerReport) -> PeerReport {
    PeerReport {
        alive: first.alive || next.alive,
        incarnation: first.incarnation.or(next.incarnation),
        role: first.role.or(next.role),
        rtt_us: first.rtt_us.or(next.rtt_us),
        lag_bytes: first.lag_bytes + next.lag_bytes,
        last_heard_ms: [first.last_heard_ms, next.last_heard_ms].into_iter().flatten().min(),
        in_sync: first.in_sync && next.in_sync,
        version: [first.version, next.version].into_iter().flatten().min(),
        id: first.id,
        address: first.address,
    }
}

fn flows(mut first: FlowList, next: FlowList) -> FlowList {
    first.total += next.total;
    first.flows.extend(next.flows);
    first
}

/// In the first one's order; what it does not have comes last.
fn counters(mut first: Vec<CounterReport>, next: Vec<CounterReport>) -> Vec<CounterReport> {
    for counter in next {
        let same =
            |known: &&mut CounterReport| known.group == counter.group && known.name == counter.name;
        match first.iter_mut().find(same) {
            Some(known) => known.value += counter.value,
            None => first.push(counter),
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(group: &str, name: &str, value: u64) -> CounterReport {
        CounterReport { group: group.to_owned(), name: name.to_owned(), value }
    }

    #[test]
    fn counters_are_added_by_group_and_name() {
        let parts = [
            vec![counter("dropped", "a", 1), counter("xdp", "a", 7)],
            vec![counter("dropped", "a", 2), counter("worker", "strays", 5)],
        ];
        let merged = merge(&Request::Counters, parts.map(Response::Counters).to_vec());
        let expected = vec![
            counter("dropped", "a", 3),
            counter("xdp", "a", 7),
            counter("worker", "strays", 5),
        ];
        assert_eq!(merged, Response::Counters(expected));
    }

    #[test]
    fn a_relay_owns_when_a_worker_does_and_is_in_sync_when_all_are() {
        assert_eq!(role(Role::Backup, Role::Owner, true), Role::Owner);
        assert_eq!(role(Role::Backup, Role::Backup, true), Role::Backup);
        assert_eq!(role(Role::Backup, Role::Learner, false), Role::Learner);
        assert_eq!(role(Role::Starting, Role::Backup, false), Role::Starting);
        assert_eq!(role(Role::Owner, Role::Isolated, false), Role::Isolated);
    }

    #[test]
    fn an_error_of_one_worker_is_the_relays() {
        let error = Response::Error("no".to_owned());
        let flows = || Response::Flows(FlowList { total: 3, flows: Vec::new() });
        let request = Request::Flows { limit: None };
        assert_eq!(merge(&request, vec![flows(), error.clone()]), error);
        assert_eq!(merge(&request, vec![error.clone(), flows()]), error);
        let both = FlowList { total: 6, flows: Vec::new() };
        assert_eq!(merge(&request, vec![flows(), flows()]), Response::Flows(both));
    }
}
