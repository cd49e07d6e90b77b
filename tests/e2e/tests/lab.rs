//! The lab itself, without relays: what every other end-to-end test stands on.

use std::io::{Read, Write};
use std::process::Command;

use e2e::{
    Congestion, Fixture, How, Network, Options, SYNC_LIMIT, TAKEOVER_LIMIT, network, plan, wait_for,
};

fn without_relays() -> Options {
    Options { relays: 0, ..Options::default() }
}

#[test]
fn origin_serves_and_nothing_stays_behind() {
    let lab = Fixture::up(&without_relays()).unwrap();
    let mut origin = lab.connect_to_origin().unwrap();
    origin.write_all(b"GET /1k.bin HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    origin.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let file = std::fs::read(e2e::origin::root().join("1k.bin")).unwrap();
    assert_eq!(file.len(), 1024);
    assert!(answer.ends_with(&file));

    // The next test's lab begins as soon as the fixture ends.
    e2e::Lab::down().unwrap();
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let left = String::from_utf8(left.stdout).unwrap();
    assert!(!left.contains(plan::CLIENT_NS) && !left.contains(plan::SWITCH_NS), "{left}");
    assert!(!std::path::Path::new(plan::STATE_DIR).exists());
}

#[test]
fn a_lab_replaces_one_that_was_left() {
    let left = Fixture::up(&without_relays()).unwrap();
    e2e::Lab::up(&Options { mtu: 9000, congestion: Congestion::Bbr, ..without_relays() }).unwrap();
    left.connect_to_origin().unwrap();
    let device = Network::Client.device();
    let mtu = format!("cat /sys/class/net/{device}/mtu /proc/sys/net/ipv4/tcp_congestion_control");
    let said = left.client("sh").args(["-c", &mtu]).output().unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "9000\nbbr\n");
}

#[test]
fn loss_comes_and_goes() {
    let lab = Fixture::up(&without_relays()).unwrap();
    let rules = |lab: &Fixture| {
        let output = lab.client("nft").args(["list", "ruleset"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    network::set_loss(2.5).unwrap();
    assert!(rules(&lab).contains("numgen random mod 10000 < 250"), "{}", rules(&lab));
    network::set_loss(0.0).unwrap();
    assert_eq!(rules(&lab), "");
}

#[test]
fn sockets_live_in_their_namespace() {
    let lab = Fixture::up(&without_relays()).unwrap();
    let listener = lab.backend_listener().unwrap();
    assert_eq!(listener.local_addr().unwrap().port(), plan::BACKEND_RAW_PORT);
    // Nobody has the VIP, so nothing answers.
    let refused = wait_for("an answer", std::time::Duration::ZERO, || lab.connect(false, 443));
    assert!(refused.is_err());
}

#[test]
fn councils_agree_who_is_there() {
    let options = Options { witnesses: 1, ..Options::default() };
    let mut lab = Fixture::up(&options).unwrap();
    let council = |lab: &Fixture| {
        let council = lab.status("relay-1")?.council;
        council.ok_or_else(|| anyhow::anyhow!("relay-1 has no council"))
    };
    assert!(council(&lab).unwrap().is_complete(3));
    lab.kill("witness-1", How::Powercut).unwrap();
    let gone = || {
        let council = council(&lab)?;
        let dead = council.members.iter().any(|one| one.id == 41 && one.state == "dead");
        if dead { Ok(()) } else { anyhow::bail!("the witness counts as alive: {council:?}") }
    };
    wait_for("the view without the witness", TAKEOVER_LIMIT, gone).unwrap();
    lab.start("witness-1").unwrap();
    let back = || {
        let council = council(&lab)?;
        if council.is_complete(3) { Ok(()) } else { anyhow::bail!("not back: {council:?}") }
    };
    wait_for("the witness", SYNC_LIMIT, back).unwrap();
    // Nothing of this is of the data plane's concern.
    lab.connect(false, plan::PORT).unwrap();
}
