//! Namespaces, bridges, links and the sysctls that a TCP endpoint of the lab needs.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::Options;
use super::plan::{
    BACKEND_NS, CLIENT_NS, ENDPOINT_HOST, Network, SWITCH_NS, namespace, relay_host, relay_name,
    state_file, witness_host, witness_name,
};
use crate::shell::{feed, in_namespace, run};

/// Creates every namespace, bridge and link.
pub fn create(options: &Options) -> Result<()> {
    let nodes = nodes(options);
    let mut script = format!("netns add {SWITCH_NS}\n");
    for network in Network::ALL {
        // Learning must start at once, and IPv6 neighbour solicitations must reach everybody.
        writeln!(
            script,
            "link add name {} netns {SWITCH_NS} type bridge forward_delay 0 mcast_snooping 0",
            network.bridge()
        )?;
    }
    for node in &nodes {
        writeln!(script, "netns add {}", node.namespace())?;
        for network in &node.networks {
            script += &link(node, *network, options.queues);
        }
    }
    feed(Command::new("ip").args(["-batch", "-"]), &script)?;

    settle_switch(&nodes, options)?;
    for node in &nodes {
        settle_node(node, options)?;
    }
    Ok(())
}

/// Removes everything that [`create`] made, also from a lab of other size or half made.
pub fn remove() -> Result<()> {
    // A process that survived would keep its namespace and links alive: the switch's ends go first.
    let existing = run("ip", ["netns", "list"])?;
    let names = existing.lines().filter_map(|line| line.split_whitespace().next());
    let ours: Vec<&str> = names.filter(|name| is_ours(name)).collect();
    if ours.contains(&SWITCH_NS) {
        let links = run("ip", ["-n", SWITCH_NS, "-oneline", "link", "show", "type", "veth"])?;
        for line in links.lines() {
            let name = line.split([':', '@']).nth(1).unwrap_or("").trim();
            // It may be gone already, with the namespace of a proxy that has just ended.
            let _ = run("ip", ["-n", SWITCH_NS, "link", "delete", name]);
        }
    }
    for name in ours {
        run("ip", ["netns", "delete", name])?;
    }
    Ok(())
}

/// Takes all links of relay `id` down, or brings them up again.
pub fn set_links(id: u8, up: bool) -> Result<()> {
    set_links_of(&Node::relay(id), up)
}

/// The same for witness `number`.
pub fn set_witness_links(number: u8, up: bool) -> Result<()> {
    set_links_of(&Node::witness(number), up)
}

/// Takes the switch's port toward `node` down, or brings it up again: a cable that is pulled, so that
/// the node has no carrier.
pub fn set_port(network: Network, node: &str, up: bool) -> Result<()> {
    let (port, state) = (network.switch_port(node), if up { "up" } else { "down" });
    run("ip", ["-n", SWITCH_NS, "link", "set", &port, state]).map(drop)
}

/// Lets nothing through between a node and a network, or everything again: a switch that fails, while
/// the node's carrier is there.
pub fn set_cut(network: Network, node: &str, cut: bool) -> Result<()> {
    // IEEE 802.1D port states.
    const DISABLED: &str = "0";
    const FORWARDING: &str = "3";
    let state = if cut { DISABLED } else { FORWARDING };
    let port = network.switch_port(node);
    let mut bridge = in_namespace(SWITCH_NS, "bridge");
    bridge.args(["link", "set", "dev", &port, "state", state]);
    crate::shell::output(&mut bridge).map(drop)
}

/// Lets nothing through from a node to a network (or to the node from it, if `inbound`), or everything
/// again.
pub fn set_one_way(network: Network, node: &str, inbound: bool, cut: bool) -> Result<()> {
    let device = network.switch_port(node);
    // What the node sends comes into the switch, and what it is sent goes out of it.
    let hook = if inbound { "egress" } else { "ingress" };
    let mut rules = "add table netdev relay_way\ndelete table netdev relay_way\n".to_owned();
    if cut {
        writeln!(
            rules,
            "table netdev relay_way {{ chain {hook} {{\n\
             type filter hook {hook} device \"{device}\" priority 0;\ncounter drop;\n}}\n}}\n"
        )?;
    }
    feed(in_namespace(SWITCH_NS, "nft").args(["-f", "-"]), &rules)
        .with_context(|| format!("a cut in one direction needs nftables with netdev {hook}"))
}

fn set_links_of(node: &Node, up: bool) -> Result<()> {
    let mut script = String::new();
    for network in &node.networks {
        let state = if up { "up" } else { "down" };
        writeln!(script, "link set {} {state}", network.device())?;
        if up {
            // The kernel forgets IPv6 addresses when a link goes down.
            script += &addresses(node, *network);
        }
    }
    feed(Command::new("ip").args(["-n", &node.namespace(), "-batch", "-"]), &script)
}

/// Drops `percent` of all packets to and from the client at random; 0 ends that.
pub fn set_loss(percent: f64) -> Result<()> {
    // numgen counts in hundredths of a percent.
    const SCALE: u32 = 10_000;
    let threshold = (percent * f64::from(SCALE) / 100.0).round() as u32;
    let port = Network::Client.switch_port("client");
    for (namespace, device) in [(SWITCH_NS, port), (CLIENT_NS, Network::Client.device())] {
        // `add` first: deleting a table that does not exist is an error.
        let mut rules = "add table netdev relay_loss\ndelete table netdev relay_loss\n".to_owned();
        if threshold > 0 {
            writeln!(
                rules,
                "table netdev relay_loss {{ chain ingress {{\n\
                 type filter hook ingress device \"{device}\" priority 0;\n\
                 numgen random mod {SCALE} < {threshold} counter drop;\n}}\n}}\n"
            )?;
        }
        feed(in_namespace(namespace, "nft").args(["-f", "-"]), &rules)
            .context("random loss needs nftables with numgen")?;
    }
    Ok(())
}

/// Only names of this plan: other tests have namespaces that begin with `rl-`, too.
fn is_ours(name: &str) -> bool {
    let number = name.strip_prefix("rl-relay-").or(name.strip_prefix("rl-witness-"));
    let number = number.map(str::parse::<u8>);
    [SWITCH_NS, CLIENT_NS, BACKEND_NS].contains(&name) || matches!(number, Some(Ok(_)))
}

struct Node {
    name: String,
    host: u8,
    networks: Vec<Network>,
}

impl Node {
    fn relay(id: u8) -> Node {
        Node { name: relay_name(id), host: relay_host(id), networks: Network::ALL.to_vec() }
    }

    fn witness(number: u8) -> Node {
        let networks = vec![Network::Cluster];
        Node { name: witness_name(number), host: witness_host(number), networks }
    }

    fn endpoint(network: Network) -> Node {
        Node { name: network.bridge().to_owned(), host: ENDPOINT_HOST, networks: vec![network] }
    }

    fn namespace(&self) -> String {
        namespace(&self.name)
    }
}

fn nodes(options: &Options) -> Vec<Node> {
    let mut nodes = vec![Node::endpoint(Network::Client), Node::endpoint(Network::Backend)];
    nodes.extend((1..=options.relays).map(Node::relay));
    nodes.extend((1..=options.witnesses).map(Node::witness));
    nodes
}

/// Both ends have the same number of queues: XDP needs as many receive queues as the other end has
/// transmit queues.
fn link(node: &Node, network: Network, queues: u8) -> String {
    let queues = format!("numtxqueues {queues} numrxqueues {queues}");
    format!(
        "link add name {device} netns {namespace} address {mac} {queues} \
         type veth peer name {port} netns {SWITCH_NS} {queues}\n",
        device = network.device(),
        namespace = node.namespace(),
        mac = network.mac(node.host),
        port = network.switch_port(&node.name),
    )
}

fn settle_switch(nodes: &[Node], options: &Options) -> Result<()> {
    let (mut links, mut offloads) = (String::new(), String::new());
    for node in nodes {
        for network in &node.networks {
            let port = network.switch_port(&node.name);
            let (bridge, mtu) = (network.bridge(), options.mtu);
            writeln!(links, "link set {port} mtu {mtu} master {bridge} up")?;
            offloads += &offloads_off(&port);
            if options.forwards() && *network != Network::Cluster {
                let program = pass_program()?;
                writeln!(links, "link set {port} xdp obj {} sec xdp", program.display())?;
            }
        }
    }
    for network in Network::ALL {
        writeln!(links, "link set {} up", network.bridge())?;
    }
    // A switch is no host: it must not answer, announce or solicit anything.
    let quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6\n\
                 echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6\n";
    feed(&mut in_namespace(SWITCH_NS, "sh"), &format!("set -e\n{quiet}{offloads}"))?;
    feed(Command::new("ip").args(["-n", SWITCH_NS, "-batch", "-"]), &links)
}

/// A program that passes everything. What an XDP program sends back (XDP_TX) leaves a veth at once
/// only if there is a program at its other end, too.
fn pass_program() -> Result<PathBuf> {
    const SOURCE: &str = "__attribute__((section(\"xdp\"))) int pass(void *frame) { return 2; }\n";
    let object = state_file("pass.o");
    if !object.exists() {
        let mut compile = Command::new("clang");
        compile.args(["-target", "bpf", "-O2", "-c", "-x", "c", "-", "-o"]).arg(&object);
        feed(&mut compile, SOURCE).context("relays that forward in a lab need clang")?;
    }
    Ok(object)
}

fn settle_node(node: &Node, options: &Options) -> Result<()> {
    let namespace = node.namespace();
    let (mut links, mut settings) = ("link set lo up\n".to_owned(), "set -e\n".to_owned());
    settings += "for f in all default; do echo 0 > /proc/sys/net/ipv4/conf/$f/rp_filter; done\n";
    // Any answer of the relay's own kernel to the VIP's traffic would be wrong.
    settings += "echo 0 > /proc/sys/net/ipv4/ip_forward\n";
    settings += "for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done\n";
    let congestion = options.congestion.as_str();
    writeln!(settings, "echo {congestion} > /proc/sys/net/ipv4/tcp_congestion_control")?;
    for network in &node.networks {
        let device = network.device();
        settings += &offloads_off(&device);
        writeln!(links, "link set {device} mtu {} up", options.mtu)?;
        links += &addresses(node, *network);
    }
    feed(&mut in_namespace(&namespace, "sh"), &settings)
        .with_context(|| format!("settings of {namespace}"))?;
    feed(Command::new("ip").args(["-n", &namespace, "-batch", "-"]), &links)
}

/// AF_XDP receivers see what the sender left undone: unfinished checksums and super-segments.
pub(super) fn offloads_off(device: &str) -> String {
    format!("ethtool -K {device} tx off tso off gso off gro off > /dev/null\n")
}

fn addresses(node: &Node, network: Network) -> String {
    let device = network.device();
    let v4 = format!("address replace {}/24 dev {device}\n", network.v4(node.host));
    match network {
        Network::Cluster => v4,
        Network::Client | Network::Backend => {
            v4 + &format!("address replace {}/64 dev {device} nodad\n", network.v6(node.host))
        }
    }
}

/// Sees to it that sockets in namespaces may use `algorithm`: outside of the host's own namespace
/// only those are to be had that the host allows to everybody.
pub fn allow_congestion_control(algorithm: &str) -> Result<()> {
    const SYSCTLS: &str = "/proc/sys/net/ipv4";
    let read = |name: &str| fs::read_to_string(format!("{SYSCTLS}/tcp_{name}_congestion_control"));
    let lists = |text: &str| text.split_whitespace().any(|word| word == algorithm);
    if !lists(&read("available")?) {
        run("modprobe", [format!("tcp_{algorithm}")])
            .with_context(|| format!("this kernel has no {algorithm}"))?;
    }
    let allowed = read("allowed")?;
    if !lists(&allowed) {
        let all = format!("{} {algorithm}", allowed.trim());
        fs::write(format!("{SYSCTLS}/tcp_allowed_congestion_control"), all)
            .with_context(|| format!("cannot allow {algorithm} in namespaces"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tests_namespaces_are_not_ours() {
        assert!(is_ours("rl-relay-2") && is_ours("rl-switch") && is_ours("rl-witness-1"));
        assert!(!is_ours("rl-edge-a") && !is_ours("rl-relay-x") && !is_ours("rl-ctl-1"));
    }
}
