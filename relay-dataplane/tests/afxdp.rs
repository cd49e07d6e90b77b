//! AF_XDP ports on veth pairs in network namespaces of their own. Needs root.

use relay_abi::xdp::Reason;
use relay_dataplane::{
    port::{self, Mode, Port, PortOptions, XskPort},
    xdp::{Kind, Program, Settings},
};
use std::{
    collections::VecDeque,
    fs::File,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The kernel's side of the link, and ours.
const PEER: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);
const PORT: u16 = 4789;

/// Generous: the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);
const TURN: Duration = Duration::from_millis(20);

const SMALL_RINGS: PortOptions = PortOptions { ring: 512, mode: Mode::Poll };

#[test]
fn datagrams_are_echoed_at_mtu_1500() {
    echo(&Link::new(1500, 1), PortOptions::default());
}

#[test]
fn datagrams_are_echoed_at_mtu_9000() {
    echo(&Link::new(9000, 1), PortOptions::default());
}

#[test]
fn datagrams_are_echoed_on_two_queues() {
    echo(&Link::new(1500, 2), PortOptions::default());
}

#[test]
fn datagrams_are_echoed_at_mtu_9000_on_two_queues() {
    echo(&Link::new(9000, 2), SMALL_RINGS);
}

#[test]
fn datagrams_are_echoed_where_the_driver_takes_no_program() {
    // A veth with fewer receive queues than its peer has transmit queues.
    let link = Link::with_queues(1500, 2, 1);
    echo(&link, PortOptions::default());
    let _node = Node::open(&link.node, NODE, SMALL_RINGS);
    let shown = ip(&["-n", &link.node, "link", "show", "veth"]);
    assert!(shown.contains("xdpgeneric"), "{shown}");
}

#[test]
fn datagrams_are_echoed_in_busy_mode() {
    echo(&Link::new(1500, 1), PortOptions { mode: Mode::Busy, ..PortOptions::default() });
}

#[test]
fn frames_stay_whole_and_in_order_between_two_ports() {
    for mtu in [1500, 9000] {
        let link = Link::new(mtu, 1);
        let mut from = Node::open(&link.peer, PEER, SMALL_RINGS);
        let mut to = Node::open(&link.node, NODE, SMALL_RINGS);
        // Fewer on their way than a veth can hold (256), so that none is lost on the link.
        let (count, window) = (20_000, 100);
        let (mut sent, mut expected) = (0u32, 0u32);
        let deadline = Instant::now() + PATIENCE;
        while expected < count {
            assert!(Instant::now() < deadline, "{expected} of {count}: {:?}", to.port.statistics());
            from.port.transmit(&mut |buffer| {
                let more = sent < count && sent < expected + window;
                more.then(|| {
                    sent += 1;
                    numbered(buffer, sent - 1)
                })
            });
            from.port.flush();
            port::wait(&[&to.port], &[], TURN);
            to.port.receive(&mut |frame| {
                let mut wanted = vec![0; mtu + 14];
                let len = numbered(&mut wanted, expected);
                assert_eq!(frame, &wanted[..len], "frame {expected} of {len} bytes");
                expected += 1;
            });
            to.port.flush();
        }
        assert_eq!(to.port.statistics().rx_dropped, 0);
        assert_eq!(from.port.statistics().tx_invalid, 0);
        assert_eq!(to.program.counter(Reason::Cluster), u64::from(count));
    }
}

#[test]
fn a_full_transmit_ring_is_back_pressure() {
    let link = Link::new(1500, 1);
    let mut from = Node::open(&link.peer, PEER, SMALL_RINGS);
    let mut sent = 0;
    let mut endless = |buffer: &mut [u8]| {
        sent += 1;
        Some(numbered(buffer, sent))
    };
    assert_eq!(from.port.transmit(&mut endless), SMALL_RINGS.ring as usize);
    assert_eq!(from.port.transmit(&mut endless), 0, "the ring is full");
    let queued = until("room after a flush", || {
        from.port.flush();
        let queued = from.port.transmit(&mut endless);
        (queued > 0).then_some(queued)
    });
    assert_eq!(sent as usize, SMALL_RINGS.ring as usize + queued, "`fill` is asked for no more");
}

#[test]
fn a_port_can_be_opened_again_at_once() {
    let link = Link::new(1500, 2);
    for _ in 0..5 {
        drop(Node::open(&link.node, NODE, SMALL_RINGS));
    }
    echo(&link, SMALL_RINGS);
}

#[test]
fn the_carrier_follows_the_link() {
    let link = Link::new(1500, 1);
    let mut node = Node::open(&link.node, NODE, SMALL_RINGS);
    until("carrier", || {
        node.port.refresh();
        node.port.has_carrier().then_some(())
    });
    ip(&["-n", &link.peer, "link", "set", "veth", "down"]);
    until("no carrier, noticed by flush alone", || {
        node.port.flush();
        (!node.port.has_carrier()).then_some(())
    });
    ip(&["-n", &link.peer, "link", "set", "veth", "up"]);
    until("carrier again", || {
        node.port.flush();
        node.port.has_carrier().then_some(())
    });
}

#[test]
fn program_and_promiscuous_mode_end_with_their_owners() {
    let link = Link::new(1500, 1);
    let shown = || ip(&["-n", &link.node, "-d", "link", "show", "veth"]);
    let node = Node::open(&link.node, NODE, SMALL_RINGS);
    assert!(shown().contains("promiscuity 1"), "{}", shown());
    assert!(shown().contains("prog/xdp"), "{}", shown());
    let second = within(&link.node, || Program::load("veth", &settings(NODE)).err());
    let second = second.expect("one program per interface").to_string();
    assert!(second.contains("another XDP program is attached to veth"), "{second}");
    drop(node);
    // The kernel takes a dead program off the device a little later.
    until("detached", || (!shown().contains("prog/xdp")).then_some(()));
    assert!(shown().contains("promiscuity 0"), "{}", shown());
}

#[test]
fn a_port_that_cannot_work_says_why() {
    let link = Link::new(1500, 1);
    let (interface, options) = within(&link.node, || {
        let mut program = Program::load("veth", &settings(NODE)).expect("load");
        let wrong = PortOptions { ring: 1000, ..PortOptions::default() };
        (
            XskPort::open("rl-no-such", &mut program, SMALL_RINGS).err().expect("refused"),
            XskPort::open("veth", &mut program, wrong).err().expect("refused"),
        )
    });
    assert!(interface.to_string().contains("no interface \"rl-no-such\""), "{interface}");
    assert!(options.to_string().contains("a power of two from 512"), "{options}");
}

/// Datagrams of many lengths and from many ports go to the node, which sends each one back.
fn echo(link: &Link, options: PortOptions) {
    let mut node = Node::open(&link.node, NODE, options);
    let peers: Vec<UdpSocket> = within(&link.peer, || (0..16).map(|_| peer_socket()).collect());
    let lens = [0, 1, 100, 1024, 1472, 1473, 3700, 3800, 7500, 8000, 8972];
    let longest = node.port.mtu() - 28;
    let mut received = vec![0; 1 << 16];
    for len in lens.into_iter().filter(|len| *len <= longest) {
        let datagrams: Vec<Vec<u8>> = (0..peers.len()).map(|n| pattern(n, len)).collect();
        for (peer, datagram) in peers.iter().zip(&datagrams) {
            peer.send(datagram).expect("send");
        }
        for (peer, datagram) in peers.iter().zip(&datagrams) {
            let got = until("an echo", || {
                node.echo_turn();
                peer.recv(&mut received).ok()
            });
            assert!(received[..got] == datagram[..], "{got} bytes for {len}");
        }
    }
    let statistics = node.port.statistics();
    assert_eq!((statistics.rx_invalid, statistics.tx_invalid), (0, 0), "{statistics:?}");
    assert_eq!(node.program.counter(Reason::NoSocket), 0);
}

/// The relay's end of a link.
struct Node {
    port: XskPort,
    program: Program,
    /// Frames to send back.
    replies: VecDeque<Vec<u8>>,
}

impl Node {
    fn open(namespace: &str, address: Ipv4Addr, options: PortOptions) -> Node {
        within(namespace, || {
            let mut program =
                Program::load("veth", &settings(address)).unwrap_or_else(|error| panic!("{error}"));
            let port = XskPort::open("veth", &mut program, options)
                .unwrap_or_else(|error| panic!("{error}"));
            Node { port, program, replies: VecDeque::new() }
        })
    }

    fn echo_turn(&mut self) {
        port::wait(&[&self.port], &[], Duration::from_millis(1));
        self.port.receive(&mut |frame| self.replies.push_back(turned(frame)));
        self.port.transmit(&mut |buffer| {
            let reply = self.replies.pop_front()?;
            buffer[..reply.len()].copy_from_slice(&reply);
            Some(reply.len())
        });
        self.port.flush();
    }
}

fn settings(address: Ipv4Addr) -> Settings {
    let addresses = vec![(address.into(), Kind::Cluster(PORT))];
    Settings {
        self_node: 0,
        lease: Duration::from_secs(1),
        addresses,
        macs: [[0; 6]; 2],
        log_drops: false,
    }
}

/// A UDP socket that sends without checksums: on a veth they would be left to hardware that does
/// not exist, and the echo would carry a wrong one.
fn peer_socket() -> UdpSocket {
    let socket = UdpSocket::bind((PEER, 0)).expect("bind");
    let one = 1i32;
    // SAFETY: the option's value is an int, given with its size.
    let result = unsafe {
        let value = (&raw const one).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, value, 4)
    };
    assert_eq!(result, 0, "SO_NO_CHECK");
    socket.connect(SocketAddr::from((NODE, PORT))).expect("connect");
    socket.set_nonblocking(true).expect("nonblocking");
    socket
}

/// The frame back to where it came from.
fn turned(frame: &[u8]) -> Vec<u8> {
    let mut turned = frame.to_vec();
    for (one, other, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        turned[one..one + len].copy_from_slice(&frame[other..other + len]);
        turned[other..other + len].copy_from_slice(&frame[one..one + len]);
    }
    turned
}

/// Writes cluster datagram `number` for [`NODE`], of a length that depends on the number; returns
/// the length of the frame.
fn numbered(buffer: &mut [u8], number: u32) -> usize {
    let len = 60 + number as usize * 7919 % (buffer.len() - 59);
    buffer[..len].fill(number as u8);
    buffer[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    buffer[14..34].fill(0);
    buffer[14] = 0x45;
    buffer[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
    buffer[22..24].copy_from_slice(&[64, 17]);
    buffer[26..30].copy_from_slice(&PEER.octets());
    buffer[30..34].copy_from_slice(&NODE.octets());
    buffer[34..36].copy_from_slice(&PORT.to_be_bytes());
    buffer[36..38].copy_from_slice(&PORT.to_be_bytes());
    buffer[42..46].copy_from_slice(&number.to_be_bytes());
    len
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + seed * 7) as u8).collect()
}

/// A veth pair between two namespaces, which end with this struct. Both ends are called "veth".
struct Link {
    peer: String,
    node: String,
}

impl Link {
    fn new(mtu: usize, queues: usize) -> Link {
        Link::with_queues(mtu, queues, queues)
    }

    fn with_queues(mtu: usize, peer: usize, node: usize) -> Link {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("rl-edge-{}-{number}-{side}", process::id());
        let link = Link { peer: name("peer"), node: name("node") };
        for namespace in [&link.peer, &link.node] {
            ip(&["netns", "add", namespace]);
        }
        let end = |queues| format!("numtxqueues {queues} numrxqueues {queues} mtu {mtu}");
        let add = format!(
            "-n {} link add veth {} type veth peer name veth netns {} {}",
            link.peer,
            end(peer),
            link.node,
            end(node)
        );
        ip(&add.split_whitespace().collect::<Vec<_>>());
        for namespace in [&link.peer, &link.node] {
            ip(&["-n", namespace, "link", "set", "veth", "up"]);
        }
        let (peer, node) = (PEER.to_string() + "/24", NODE.to_string());
        ip(&["-n", &link.peer, "addr", "add", &peer, "dev", "veth"]);
        let mac = "02:00:00:00:00:02";
        let neighbor = ["neigh", "replace", &node, "lladdr", mac, "dev", "veth", "nud"];
        ip(&[&["-n", &link.peer], &neighbor[..], &["permanent"]].concat());
        link
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for namespace in [&self.peer, &self.node] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Runs `ip`; returns what it printed.
fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().expect("run ip (package iproute2)");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {} (root?): {stderr}", args.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `make` returns in `namespace`; sockets that it makes stay there.
fn within<T: Send>(namespace: &str, make: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let path = format!("/run/netns/{namespace}");
            let file = File::open(path).expect("open the namespace");
            // SAFETY: changes the namespace of this thread alone, which ends below.
            let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "setns: {} (root?)", std::io::Error::last_os_error());
            make()
        });
        inside.join().expect("within the namespace")
    })
}

/// What `ready` returns in the end; `what` names it if it does not.
fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        thread::sleep(Duration::from_micros(100));
    }
}
