//! Answers as text for people.

use relay_abi::control::{
    ConfigurationReport, CouncilMember, CouncilReport, CounterReport, FlowList, FlowReport,
    PeerReport, Role, StatusReport,
};

use crate::config;
use crate::table::{Align, Table, duration, printable, size};

/// The node, then its peers.
pub fn status(status: &StatusReport) -> String {
    let sync = if status.in_sync { "in sync" } else { "not in sync" };
    let takeovers = match status.takeover_ms {
        Some(ms) => format!("{}, the last in {ms:.1} ms", status.takeovers),
        None => status.takeovers.to_string(),
    };
    let holds = if status.holds_addresses { ", and holds the addresses" } else { "" };
    let buckets = format!("{} owned{holds}", status.buckets_owned);
    let lines = [
        ("node", status.node.to_string()),
        (
            "role",
            if status.role == Role::Witness {
                "witness".to_owned()
            } else {
                format!("{}, {sync}", status.role.as_str())
            },
        ),
        ("view", format!("{}, term {}", status.view, status.term)),
        ("buckets", buckets),
        (
            "flows",
            format!(
                "{} owned, {} shadows, {} since the start",
                status.flows, status.shadows, status.flows_total
            ),
        ),
        ("takeovers", takeovers),
        ("uptime", duration(status.uptime_ms)),
        ("version", status.version.clone()),
        ("incarnation", status.incarnation.clone()),
    ];
    let mut text = String::new();
    // A witness has no data plane to speak of.
    let witness = status.role == Role::Witness;
    let lines = lines.into_iter().filter(|(name, _)| !witness || WITNESS_LINES.contains(name));
    for (name, value) in lines.chain(status.council.as_deref().into_iter().flat_map(council)) {
        text += &format!("{name:<12} {}\n", printable(&value));
    }
    if let Some(council) = status.council.as_deref().filter(|council| !council.members.is_empty()) {
        text.push('\n');
        text += &members(&council.members);
    }
    if !status.peers.is_empty() {
        text.push('\n');
        text += &peers(&status.peers);
    }
    text
}

/// Lines of a status that say something about a witness.
const WITNESS_LINES: [&str; 5] = ["node", "role", "uptime", "version", "incarnation"];

fn council(council: &CouncilReport) -> Vec<(&'static str, String)> {
    let leader = council.leader.map_or("no leader".to_owned(), |node| format!("{node} leads"));
    let state = format!("{leader}, term {}, view {}", council.term, council.view);
    let mut lines = vec![("council", state), ("seat", council.seat.clone())];
    lines.extend(council.trouble.clone().map(|trouble| ("trouble", trouble)));
    let report = council.configuration.iter();
    // What keeps the node from using it is its trouble already.
    let report = report.map(|report| ConfigurationReport { trouble: None, ..report.clone() });
    let told = report.flat_map(|report| config::lines(&report));
    lines.extend(told.map(|line| ("configured", line)));
    lines
}

fn members(members: &[CouncilMember]) -> String {
    let mut table = Table::new([
        ("MEMBER", Align::Right),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("VOTES", Align::Left),
        ("WEIGHT", Align::Right),
        ("INCARNATION", Align::Left),
    ]);
    for member in members {
        table.row([
            member.id.to_string(),
            member.kind.clone(),
            member.state.clone(),
            if member.votes { "yes" } else { "no" }.to_owned(),
            if member.kind == "witness" { "-".to_owned() } else { member.weight.to_string() },
            member.incarnation.clone(),
        ]);
    }
    table.render()
}

fn peers(peers: &[PeerReport]) -> String {
    let mut table = Table::new([
        ("PEER", Align::Right),
        ("ADDRESS", Align::Left),
        ("STATE", Align::Left),
        ("ROLE", Align::Left),
        ("IN SYNC", Align::Left),
        ("RTT", Align::Right),
        ("LAG", Align::Right),
        ("HEARD", Align::Right),
        ("INCARNATION", Align::Left),
    ]);
    for peer in peers {
        table.row([
            peer.id.to_string(),
            peer.address.clone(),
            if peer.alive { "alive" } else { "silent" }.to_owned(),
            peer.role.map(|role| role.as_str().to_owned()).unwrap_or_default(),
            if peer.in_sync { "yes" } else { "no" }.to_owned(),
            peer.rtt_us.map(|us| format!("{us} us")).unwrap_or_default(),
            size(peer.lag_bytes),
            peer.last_heard_ms.map(|ms| duration(ms) + " ago").unwrap_or_default(),
            peer.incarnation.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

/// One row for each flow, and how many were left out.
pub fn flows(list: &FlowList) -> String {
    let mut table = Table::new([
        ("OWNER", Align::Right),
        ("BACKUP", Align::Left),
        ("CLIENT", Align::Left),
        ("VIP", Align::Left),
        ("BACKEND", Align::Left),
        ("TLS", Align::Left),
        ("SUITE", Align::Left),
        ("SERVER", Align::Left),
        ("UP", Align::Right),
        ("DOWN", Align::Right),
        ("STATE", Align::Left),
        ("AGE", Align::Right),
    ]);
    for flow in &list.flows {
        table.row(flow_row(flow));
    }
    let mut text = table.render();
    let shown = list.flows.len() as u64;
    if list.total > shown {
        text += &format!("{shown} of {} flows; more with --limit\n", list.total);
    }
    text
}

fn flow_row(flow: &FlowReport) -> [String; 12] {
    let backups: Vec<String> = flow.backups.iter().map(u8::to_string).collect();
    [
        flow.owner.to_string(),
        backups.join(","),
        flow.client.clone(),
        flow.vip.clone(),
        flow.backend.clone(),
        flow.tls_version.clone(),
        flow.suite.clone(),
        flow.server_name.clone(),
        size(flow.bytes_up),
        size(flow.bytes_down),
        flow.state.clone(),
        duration(flow.age_ms),
    ]
}

/// The counters that have counted something, or all of them.
pub fn counters(counters: &[CounterReport], all: bool) -> String {
    let mut table =
        Table::new([("GROUP", Align::Left), ("COUNTER", Align::Left), ("VALUE", Align::Right)]);
    for counter in counters.iter().filter(|counter| all || counter.value > 0) {
        table.row([counter.group.clone(), counter.name.clone(), counter.value.to_string()]);
    }
    table.render()
}
