//! Next hops of a real kernel, in two network namespaces joined by a veth pair.
//!
//! The test runs itself again inside the first namespace, because a socket belongs to the namespace
//! of the thread that makes it. It needs root (CAP_NET_ADMIN) and `ip` of iproute2.

use std::env;
use std::net::IpAddr;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use relay_dataplane::neighbors::{Neighbors, Resolved};

/// Names the far namespace to the test that runs inside of the near one.
const FAR: &str = "RELAY_TEST_FAR_NAMESPACE";
/// Generous: the machine may be busy, and the kernel probes once a second.
const PATIENCE: Duration = Duration::from_secs(60);

const FIRST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const SECOND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x20];

#[test]
fn next_hops_come_from_the_kernel_and_follow_its_changes() {
    if env::var_os(FAR).is_some() {
        return inside();
    }
    let pair = Namespaces::new();
    let name = "next_hops_come_from_the_kernel_and_follow_its_changes";
    let output = Command::new("ip")
        .args(["netns", "exec", &pair.near])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(FAR, &pair.far)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

fn inside() {
    let mut neighbors = Neighbors::start().unwrap();
    let mut ask = |ip: &str, interface| assert!(neighbors.request(address(ip), interface));
    ask("203.0.113.1", "backend0");
    ask("10.98.7.10", "absent0");
    // Reachable, but not through this interface.
    ask("10.98.7.10", "lo");
    ask("10.98.7.10", "backend0");
    ask("fd98:7::10", "backend0");
    ask("10.98.8.5", "backend0");
    ask("fd98:8::5", "backend0");
    let mut expected: Vec<Resolved> = ["10.98.7.10", "fd98:7::10", "10.98.8.5", "fd98:8::5"]
        .map(|ip| resolved(ip, FIRST_MAC))
        .to_vec();
    expected.sort_by_key(|answer| answer.ip);
    assert_eq!(receive(&neighbors, 4), expected);

    // A request for what is known is answered again.
    neighbors.request(address("10.98.8.5"), "backend0");
    assert_eq!(receive(&neighbors, 1), [resolved("10.98.8.5", FIRST_MAC)]);

    // The neighbour has got another MAC address: so has what lies behind it.
    ip("neighbor replace 10.98.7.10 lladdr 02:00:00:00:00:20 dev backend0 nud reachable");
    let changed = ["10.98.7.10", "10.98.8.5"].map(|ip| resolved(ip, SECOND_MAC));
    assert_eq!(receive(&neighbors, 2), changed);

    // The kernel has forgotten the entry and the neighbour answers with its own address.
    ip("neighbor flush dev backend0");
    let back = ["10.98.7.10", "10.98.8.5"].map(|ip| resolved(ip, FIRST_MAC));
    assert_eq!(receive(&neighbors, 2), back);

    // A route that comes later is found without another request.
    ip("route add 203.0.113.0/24 via 10.98.7.10");
    assert_eq!(receive(&neighbors, 1), [resolved("203.0.113.1", FIRST_MAC)]);
    assert_eq!(neighbors.try_recv(), None);
}

/// Waits for so many answers; they are sorted by address.
fn receive(neighbors: &Neighbors, count: usize) -> Vec<Resolved> {
    let deadline = Instant::now() + PATIENCE;
    let mut answers: Vec<Resolved> = Vec::new();
    while answers.len() < count {
        assert!(Instant::now() < deadline, "only {answers:?}");
        match neighbors.try_recv() {
            Some(answer) => answers.push(answer),
            None => sleep(Duration::from_millis(5)),
        }
    }
    answers.sort_by_key(|answer| answer.ip);
    answers
}

fn resolved(ip: &str, mac: [u8; 6]) -> Resolved {
    Resolved { ip: address(ip), interface: "backend0".to_owned(), mac }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two namespaces; removed at the end.
struct Namespaces {
    near: String,
    far: String,
}

impl Namespaces {
    fn new() -> Self {
        let [near, far] = ["near", "far"].map(|end| format!("rl-ctl-{}-{end}", std::process::id()));
        let pair = Namespaces { near, far };
        let (near, far) = (&pair.near, &pair.far);
        ip(&format!("netns add {near}"));
        ip(&format!("netns add {far}"));
        ip(&format!(
            "-n {near} link add backend0 type veth peer name far0 address 02:00:00:00:00:10 netns {far}"
        ));
        for (namespace, device, last) in [(near, "backend0", 21), (far, "far0", 10)] {
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} address add 10.98.7.{last}/24 dev {device}"));
            ip(&format!("-n {namespace} address add fd98:7::{last}/64 dev {device} nodad"));
            ip(&format!("-n {namespace} link set {device} up"));
        }
        // Would answer if it were taken to be on the link, which no route says.
        ip(&format!("-n {far} address add 203.0.113.1/32 dev far0"));
        ip(&format!("-n {near} route add 10.98.8.0/24 via 10.98.7.10"));
        ip(&format!("-n {near} route add fd98:8::/64 via fd98:7::10"));
        pair
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let hint = "this test needs root (CAP_NET_ADMIN) and iproute2";
    assert!(output.status.success(), "ip {arguments}: {}: {hint}", text(&output));
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
