//! Frames and the verdicts that the XDP program must give on them, run by the kernel itself
//! (BPF_PROG_TEST_RUN). Needs the privilege to load XDP programs, but no interface.

mod frames;

use frames::*;
use relay_abi::{
    bucket::{self, BUCKETS},
    xdp::{NOBODY, Reason},
};
use relay_dataplane::xdp::{DropLog, Kind, Program, Settings, monotonic_nanos};
use std::{
    io::{self, Write},
    net::Ipv4Addr,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    sync::{Arc, Mutex},
    time::Duration,
};

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;

const SELF: u8 = 3;
const CLUSTER_MAC: [u8; 6] = [2, 0, 0x5e, 1, 0, 1];
const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 3];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 4];
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn tcp_to_a_service_address_goes_to_the_owner_alone() {
    let mut bench = Bench::new(LONG);
    for frame in [tcp4(VIP, 40_000, 443), tcp6(VIP6, 40_000, 443)] {
        bench.expect(&frame, Reason::Service, REDIRECT);
        bench.program.set_owner_all(SELF + 1);
        bench.expect(&frame, Reason::NotOwner, DROP);
        bench.program.set_owner_all(NOBODY);
        bench.expect(&frame, Reason::NotOwner, DROP);
        bench.program.set_owner_all(SELF);
    }
}

#[test]
fn ownership_is_by_the_bucket_of_the_4_tuple() {
    let mut bench = Bench::new(LONG);
    let (client, vip) = (bucket::v4(CLIENT.octets()), bucket::v4(VIP.octets()));
    let (client6, vip6) = (bucket::v6(&CLIENT6.octets()), bucket::v6(&VIP6.octets()));
    for port in (1024..u16::MAX).step_by(997) {
        for (frame, bucket) in [
            (tcp4(VIP, port, 443), bucket::bucket(&client, port, &vip, 443)),
            (tcp6(VIP6, port, 443), bucket::bucket(&client6, port, &vip6, 443)),
        ] {
            let mut owners = [SELF + 1; BUCKETS as usize];
            owners[bucket as usize] = SELF;
            bench.program.set_owners(|bucket| Some(owners[bucket as usize]));
            bench.expect(&frame, Reason::Service, REDIRECT);
            let mut owners = [SELF; BUCKETS as usize];
            owners[bucket as usize] = SELF + 1;
            bench.program.set_owners(|bucket| Some(owners[bucket as usize]));
            bench.expect(&frame, Reason::NotOwner, DROP);
        }
    }
}

/// Frames of other nodes' flows go on to them, once, and only from the node that was meant.
#[test]
fn frames_of_other_nodes_are_forwarded_once() {
    let mut bench = Bench::new(LONG);
    bench.program.set_owner_all(SELF + 1);
    for frame in [tcp4(VIP, 40_000, 443), tcp6(VIP6, 40_000, 443)] {
        let mut frame = frame;
        frame[..6].copy_from_slice(&CLUSTER_MAC);
        bench.program.set_holds_mac(true);
        bench.expect(&frame, Reason::NotOwner, DROP);
        bench.program.set_port(SELF + 1, OTHER_MAC);
        bench.expect(&frame, Reason::Forwarded, TX);
        let (_, sent) = bench.program.test_run_on(&frame).expect("run");
        let mut wanted = frame.clone();
        wanted[..6].copy_from_slice(&OTHER_MAC);
        wanted[6..12].copy_from_slice(&PORT_MAC);
        assert_eq!(sent, wanted);
        // Not to the cluster: it was forwarded already, or a switch does not know better.
        bench.expect(&wanted, Reason::NotOwner, DROP);
        bench.program.set_holds_mac(false);
        bench.expect(&frame, Reason::NotOwner, DROP);
        bench.program.set_port(SELF + 1, [0; 6]);
    }
}

#[test]
fn without_a_lease_nothing_is_taken_in() {
    let mut bench = Bench::new(LONG);
    let service = [tcp4(VIP, 40_000, 443), tcp6(VIP6, 40_000, 443), arp(VIP), echo4(VIP)];
    bench.program.revoke_lease();
    for frame in &service {
        bench.expect(frame, Reason::LeaseExpired, DROP);
    }
    bench.expect(&cluster4(NODE, CLUSTER_PORT), Reason::Cluster, REDIRECT);
    bench.program.renew_lease(monotonic_nanos());
    bench.expect(&service[0], Reason::Service, REDIRECT);

    let mut brief = Bench::new(Duration::from_nanos(1));
    brief.expect(&service[0], Reason::LeaseExpired, DROP);
}

#[test]
fn a_fresh_program_is_fenced() {
    let mut program = load(LONG);
    assert_eq!(program.test_run(&tcp4(VIP, 40_000, 443)).expect("run"), DROP);
    assert_eq!(program.test_run(&arp(VIP)).expect("run"), DROP);
    assert_eq!(program.counter(Reason::NotOwner), 1);
    assert_eq!(program.counter(Reason::MacNotHeld), 1);
}

#[test]
fn only_the_holder_of_the_mac_answers_for_an_address() {
    let mut bench = Bench::new(LONG);
    let frames = [
        (arp(VIP), Reason::Arp),
        (echo4(VIP), Reason::Echo),
        (echo6(VIP6), Reason::Echo),
        (solicitation(VIP6), Reason::Neighbor),
    ];
    for (frame, reason) in &frames {
        bench.expect(frame, *reason, REDIRECT);
    }
    bench.program.set_holds_mac(false);
    bench.program.set_owner_all(SELF);
    for (frame, _) in &frames {
        bench.expect(frame, Reason::MacNotHeld, DROP);
    }
}

#[test]
fn the_kernel_keeps_what_is_not_ours() {
    let mut bench = Bench::new(LONG);
    for frame in [
        tcp4(CLIENT, 40_000, 443),
        tcp4(NODE, 40_000, 22),
        tcp6(NODE6, 40_000, 22),
        arp(NODE),
        solicitation(NODE6),
        echo4(NODE),
        echo6(NODE6),
        cluster4(NODE, CLUSTER_PORT + 1),
        cluster6(NODE6, CLUSTER_PORT + 1),
        ethernet(0x88cc, &[0; 50]),
    ] {
        bench.expect(&frame, Reason::NotForUs, PASS);
    }
}

/// Configurations change while the program runs.
#[test]
fn an_address_that_is_added_is_served_from_then_on() {
    let mut bench = Bench::new(LONG);
    let (v4, v6) = (Ipv4Addr::new(10, 99, 1, 77), "fd99:1::77".parse().expect("an address"));
    let frames = [tcp4(v4, 40_000, 443), tcp6(v6, 40_000, 443)];
    for frame in &frames {
        assert_eq!(bench.program.test_run(frame).expect("run"), PASS);
    }
    for address in [v4.into(), v6.into()] {
        // Again and again: configurations share addresses.
        for _ in 0..2 {
            bench.program.add_address(address, Kind::Service).expect("room");
        }
    }
    for frame in &frames {
        bench.expect(frame, Reason::Service, REDIRECT);
    }
    let mut more = (0u32..).map(|host| Ipv4Addr::from(0x0a00_0000 + host).into());
    let refused = more.find_map(|address| bench.program.add_address(address, Kind::Service).err());
    let refused = refused.expect("the table is bounded").to_string();
    assert!(refused.contains("addresses"), "{refused}");
    bench.expect(&frames[0], Reason::Service, REDIRECT);
}

#[test]
fn cluster_datagrams_need_neither_lease_nor_ownership() {
    let mut bench = Bench::new(LONG);
    bench.program.revoke_lease();
    bench.program.set_owner_all(NOBODY);
    bench.program.set_holds_mac(false);
    bench.expect(&cluster4(NODE, CLUSTER_PORT), Reason::Cluster, REDIRECT);
    bench.expect(&cluster6(NODE6, CLUSTER_PORT), Reason::Cluster, REDIRECT);
}

#[test]
fn ip_options_are_stepped_over() {
    let mut bench = Bench::new(LONG);
    for words in 0..=10 {
        let options = vec![1; words * 4];
        let frame = ethernet(0x0800, &ipv4(VIP, 6, 0, &options, &ports(40_000, 443)));
        bench.expect(&frame, Reason::Service, REDIRECT);
        let frame = ethernet(0x0800, &ipv4(NODE, 17, 0, &options, &ports(9, CLUSTER_PORT)));
        bench.expect(&frame, Reason::Cluster, REDIRECT);
    }
}

#[test]
fn ipv6_extension_headers_are_stepped_over_within_bounds() {
    let mut bench = Bench::new(LONG);
    let header = |next: u8, words: u8| {
        let mut bytes = vec![0; (usize::from(words) + 1) * 8];
        (bytes[0], bytes[1]) = (next, words);
        bytes
    };
    for (count, words, expected) in [
        (1, 0, (Reason::Service, REDIRECT)),
        (4, 7, (Reason::Service, REDIRECT)),
        (5, 0, (Reason::ExtensionHeader, DROP)),
        (1, 8, (Reason::ExtensionHeader, DROP)),
    ] {
        let mut payload: Vec<u8> = (1..count).flat_map(|_| header(60, words)).collect();
        payload.extend(header(6, words));
        payload.extend(ports(40_000, 443));
        let frame = ethernet(0x86dd, &ipv6(VIP6, 60, &payload));
        bench.expect(&frame, expected.0, expected.1);
    }
}

#[test]
fn the_kernel_never_sees_a_service_packet_that_we_cannot_use() {
    let mut bench = Bench::new(LONG);
    let l4 = ports(40_000, 443);
    let v4 = |protocol, fragment| ethernet(0x0800, &ipv4(VIP, protocol, fragment, &[], &l4));
    let v6 = |next| ethernet(0x86dd, &ipv6(VIP6, next, &l4));
    for (frame, reason) in [
        (v4(6, 0x2000), Reason::Fragment),
        (v4(6, 0x0001), Reason::Fragment),
        (v4(17, 0x1fff), Reason::Fragment),
        (v4(17, 0), Reason::UnsupportedProtocol),
        (v4(47, 0), Reason::UnsupportedProtocol),
        (v6(44), Reason::Fragment),
        (v6(0), Reason::ExtensionHeader),
        (v6(43), Reason::ExtensionHeader),
        (v6(60), Reason::ExtensionHeader),
        (v6(51), Reason::ExtensionHeader),
        (v6(17), Reason::UnsupportedProtocol),
        (ethernet(0x0800, &ipv4(VIP, 1, 0, &[], &[0; 8])), Reason::UnsupportedProtocol),
    ] {
        bench.expect(&frame, reason, DROP);
    }
    // "Don't fragment" is no fragment.
    bench.expect(&v4(6, 0x4000), Reason::Service, REDIRECT);
}

#[test]
fn contradicting_headers_to_a_service_address_are_dropped() {
    let mut bench = Bench::new(LONG);
    let good = tcp4(VIP, 40_000, 443);
    for first in [0x00, 0x44, 0x55, 0x65, 0x40, 0xff] {
        let mut frame = good.clone();
        frame[14] = first;
        bench.expect(&frame, Reason::Malformed, DROP);
    }
    let mut frame = tcp6(VIP6, 40_000, 443);
    frame[14] = 0x40;
    bench.expect(&frame, Reason::Malformed, DROP);
}

#[test]
fn tagged_service_packets_are_dropped_and_others_left_to_the_kernel() {
    let mut bench = Bench::new(LONG);
    for tag in [0x8100, 0x88a8] {
        for frame in [tcp4(VIP, 40_000, 443), tcp6(VIP6, 40_000, 443), arp(VIP)] {
            bench.expect(&tagged(&frame, tag), Reason::Tagged, DROP);
        }
        for frame in [tcp4(NODE, 40_000, 22), cluster4(NODE, CLUSTER_PORT)] {
            bench.expect(&tagged(&frame, tag), Reason::NotForUs, PASS);
        }
    }
}

#[test]
fn icmp_errors_go_to_the_owner_of_the_quoted_flow() {
    let mut bench = Bench::new(LONG);
    bench.program.set_holds_mac(false);
    let (client, vip) = (bucket::v4(CLIENT.octets()), bucket::v4(VIP.octets()));
    let (client6, vip6) = (bucket::v6(&CLIENT6.octets()), bucket::v6(&VIP6.octets()));
    for (frame, bucket) in [
        (too_big4(40_000), bucket::bucket(&client, 40_000, &vip, 443)),
        (too_big6(40_000), bucket::bucket(&client6, 40_000, &vip6, 443)),
    ] {
        let mut owners = [SELF + 1; BUCKETS as usize];
        owners[bucket as usize] = SELF;
        bench.program.set_owners(|bucket| Some(owners[bucket as usize]));
        bench.expect(&frame, Reason::IcmpError, REDIRECT);
        owners[bucket as usize] = SELF + 1;
        bench.program.set_owners(|bucket| Some(owners[bucket as usize]));
        bench.expect(&frame, Reason::NotOwner, DROP);
    }
}

#[test]
fn a_queue_without_a_socket_loses_the_frame() {
    let mut program = load(LONG);
    program.renew_lease(monotonic_nanos());
    program.set_owner_all(SELF);
    assert_eq!(program.test_run(&tcp4(VIP, 40_000, 443)).expect("run"), DROP);
    assert_eq!(program.counter(Reason::NoSocket), 1);
    assert_eq!(program.counter(Reason::Service), 0);
}

#[test]
fn every_dropped_frame_is_explained_to_who_asks() {
    let lines = Lines::default();
    let writer = lines.clone();
    let events = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(events, || {
        let settings = Settings { log_drops: true, ..settings(LONG) };
        let mut program = Program::unattached(&settings).unwrap_or_else(|error| panic!("{error}"));
        let mut log = program.take_log("client0").expect("it was asked for");
        for (frame, expected) in explained() {
            assert_eq!(program.test_run(&frame).expect("run"), DROP);
            log.drain();
            let said = lines.take();
            assert!(said.contains("DEBUG xdp: dropped "), "{said}");
            assert!(said.contains("interface=\"client0\""), "{said}");
            assert!(said.contains(expected), "{expected} is not in {said}");
        }
        // What is not dropped is not mentioned, and what finds no room is lost, but counted.
        assert_eq!(program.test_run(&tcp4(NODE, 40_000, 22)).expect("run"), PASS);
        log.drain();
        assert_eq!(lines.take(), "");
        let many = 5_000;
        for _ in 0..many {
            program.test_run(&tcp4(VIP, 40_000, 443)).expect("run");
        }
        log.drain();
        let said = lines.take().lines().count();
        assert!(said > 100 && said < many, "{said} lines");
        assert!(program.counter(Reason::NotOwner) > many as u64);
    });
}

#[test]
fn nothing_is_logged_unless_asked_for() {
    let mut program = load(LONG);
    assert_eq!(program.test_run(&tcp4(VIP, 40_000, 443)).expect("run"), DROP);
    assert!(program.take_log("client0").is_none());
}

/// What one verdict costs: `cargo test --release --package relay-dataplane --test xdp_fixtures --
/// --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn cost_of_a_verdict() {
    let (rounds, repeat) = (100, 400);
    for (name, log_drops) in [("off", false), ("on", true)] {
        let settings = Settings { log_drops, ..settings(LONG) };
        let mut program = Program::unattached(&settings).unwrap_or_else(|error| panic!("{error}"));
        let mut log = program.take_log("client0");
        for (kind, frame) in
            [("dropped", tcp4(VIP, 40_000, 443)), ("passed", tcp4(NODE, 40_000, 22))]
        {
            // The ring has room for as many records as one round makes.
            let times = (0..rounds).map(|_| {
                log.iter_mut().for_each(DropLog::drain);
                program.time(&frame, repeat).expect("run")
            });
            println!("log {name}, a frame that is {kind}: {:?}", times.min().expect("rounds"));
        }
    }
}

#[test]
fn truncation_at_every_length_is_dropped_or_harmless() {
    let mut bench = Bench::new(LONG);
    let cases = [
        // From which length the address, and from which everything needed is there.
        (tcp4(VIP, 40_000, 443), 34, 38, Reason::Service),
        (tcp6(VIP6, 40_000, 443), 54, 58, Reason::Service),
        (echo4(VIP), 34, 42, Reason::Echo),
        (echo6(VIP6), 54, 62, Reason::Echo),
        (too_big4(40_000), 34, 66, Reason::IcmpError),
        (too_big6(40_000), 54, 106, Reason::IcmpError),
    ];
    for (frame, address, complete, reason) in cases {
        // The kernel's test run takes no frame without a whole Ethernet header.
        for len in 14..=frame.len() {
            let cut = &frame[..len];
            match len {
                _ if len < address => bench.expect(cut, Reason::NotForUs, PASS),
                _ if len < complete => bench.expect(cut, Reason::Malformed, DROP),
                _ => bench.expect(cut, reason, REDIRECT),
            }
        }
    }
    for (frame, complete) in [(arp(VIP), 42), (solicitation(VIP6), 78)] {
        for len in 14..complete {
            bench.expect(&frame[..len], Reason::NotForUs, PASS);
        }
    }
}

#[test]
fn garbage_gets_one_verdict_and_never_reaches_the_kernel_as_a_service_packet() {
    let mut bench = Bench::new(LONG);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let seeds = [
        tcp4(VIP, 40_000, 443),
        tcp6(VIP6, 40_000, 443),
        too_big4(40_000),
        too_big6(40_000),
        arp(VIP),
        solicitation(VIP6),
        tagged(&tcp4(VIP, 1, 2), 0x8100),
    ];
    for round in 0..20_000 {
        let mut frame = seeds[round % seeds.len()].clone();
        for _ in 0..random.below(8) + 1 {
            let at = random.below(frame.len());
            frame[at] = random.next() as u8;
        }
        if round % 5 == 0 {
            frame.iter_mut().for_each(|byte| *byte = random.next() as u8);
        }
        frame.truncate(random.below(frame.len() - 14) + 15);
        let (_, verdict) = bench.run(&frame);
        let is_service = frame.len() >= 34
            && frame[12..14] == [8, 0]
            && frame[30..34] == VIP.octets()
            || frame.len() >= 54 && frame[12..14] == [0x86, 0xdd] && frame[38..54] == VIP6.octets();
        assert!(!is_service || verdict != PASS, "passed to the kernel: {frame:02x?}");
        assert!([DROP, PASS, REDIRECT].contains(&verdict), "{verdict} for {frame:02x?}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let with = |addresses, self_node| Settings { self_node, addresses, ..settings(LONG) };
    let twice = vec![(VIP.into(), Kind::Service), (VIP.into(), Kind::Cluster(1))];
    let error = Program::unattached(&with(twice, SELF)).err().expect("refused");
    assert!(error.to_string().contains("10.99.1.100 is configured twice"), "{error}");
    let many = (0..2_000u32).map(|n| (Ipv4Addr::from(n).into(), Kind::Service)).collect();
    let error = Program::unattached(&with(many, SELF)).err().expect("refused");
    assert!(error.to_string().contains("more than 1024 addresses"), "{error}");
    assert!(Program::unattached(&with(Vec::new(), NOBODY)).is_err());
    let error = Program::load("rl-no-such", &settings(LONG)).err().expect("refused");
    assert!(error.to_string().contains("no interface \"rl-no-such\""), "{error}");
}

/// Frames that a fresh program drops, and what the log says of each.
fn explained() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (tcp4(VIP, 40_000, 443), "dropped protocol 6 10.99.1.10 port 40000 > 10.99.1.100 port 443"),
        (tcp4(VIP, 40_000, 443), "reason=\"xdp_not_owner\""),
        (
            tcp6(VIP6, 40_001, 443),
            "dropped protocol 6 fd99:1::10 port 40001 > fd99:1::100 port 443",
        ),
        (echo4(VIP), "dropped protocol 1 10.99.1.10 port 0 > 10.99.1.100 port 0"),
        (echo6(VIP6), "reason=\"xdp_mac_not_held\""),
        (arp(VIP), "dropped EtherType 0x806"),
        (tagged(&tcp4(VIP, 40_000, 443), 0x8100), "reason=\"xdp_tagged\""),
        (
            ethernet(0x0800, &ipv4(VIP, 6, 0x0001, &[], &ports(1, 2))),
            "dropped protocol 6 10.99.1.10 port 0 > 10.99.1.100 port 0",
        ),
        (tcp4(VIP, 40_000, 443)[..36].to_vec(), "reason=\"xdp_malformed\""),
    ]
}

/// Where the log goes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.0.lock().expect("lock"))).expect("UTF-8")
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The program with a socket on queue 0, this node owning everything, and a fresh lease.
struct Bench {
    program: Program,
    _socket: OwnedFd,
}

impl Bench {
    fn new(lease: Duration) -> Bench {
        let mut program = load(lease);
        // SAFETY: a plain system call.
        let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) };
        assert!(socket >= 0, "AF_XDP socket: {} (CAP_NET_RAW?)", io::Error::last_os_error());
        // SAFETY: a new descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        program.register(0, socket.as_fd()).expect("register the socket");
        program.set_owner_all(SELF);
        program.set_holds_mac(true);
        program.renew_lease(monotonic_nanos());
        Bench { program, _socket: socket }
    }

    /// The reason whose counter moved, and the verdict.
    fn run(&mut self, frame: &[u8]) -> (Reason, u32) {
        let before = self.counters();
        let verdict = self.program.test_run(frame).expect("run the program");
        let after = self.counters();
        let moved: Vec<Reason> = Reason::ALL
            .iter()
            .zip(before.iter().zip(&after))
            .flat_map(|(reason, (before, after))| vec![*reason; (after - before) as usize])
            .collect();
        let [reason] = moved[..] else { panic!("{moved:?} counted for {frame:02x?}") };
        (reason, verdict)
    }

    fn expect(&mut self, frame: &[u8], reason: Reason, verdict: u32) {
        assert_eq!(self.run(frame), (reason, verdict), "{} bytes: {frame:02x?}", frame.len());
    }

    fn counters(&self) -> Vec<u64> {
        self.program.counters().into_iter().map(|(_, count)| count).collect()
    }
}

fn load(lease: Duration) -> Program {
    Program::unattached(&settings(lease)).unwrap_or_else(|error| panic!("{error}"))
}

fn settings(lease: Duration) -> Settings {
    let addresses = vec![
        (VIP.into(), Kind::Service),
        (VIP6.into(), Kind::Service),
        (NODE.into(), Kind::Cluster(CLUSTER_PORT)),
        (NODE6.into(), Kind::Cluster(CLUSTER_PORT)),
    ];
    Settings { self_node: SELF, lease, addresses, macs: [CLUSTER_MAC, PORT_MAC], log_drops: false }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
