//! The XDP program's loader: attaches the program to one interface and writes its maps.
//!
//! The object is checked in, so that stable Rust alone builds the relay; `cargo xtask ebpf build`
//! makes it from `relay-ebpf`. Map layouts: [`relay_abi::xdp`].

mod drops;
mod error;
mod mapped;

pub use drops::{DropLog, DropLogger, TARGET as LOG_TARGET};
pub use error::Error;
pub use relay_abi::xdp::Kind;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, XskMap},
    programs::{TestRun, TestRunOptions, TestRunResult, Xdp, xdp::XdpMode},
};
use mapped::Mapped;
use relay_abi::{
    bucket::BUCKETS,
    xdp::{
        AddressKey, MAX_NODES, MAX_QUEUES, NOBODY, OWNER_SLOTS, Reason, VALUE_STRIDE, config,
        control, mac_to_word, owner_slot, v4_key,
    },
};
use std::{
    fs,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!("relay.bpf.o");

/// The name of the program within the object.
const PROGRAM: &str = "relay";

/// The kernel takes the program of a process that was killed off the interface a while after its end: how
/// long to go on trying, and how often.
const ATTACH_PATIENCE: Duration = Duration::from_secs(2);
const ATTACH_INTERVAL: Duration = Duration::from_millis(10);

/// An entry must not exist yet (BPF_NOEXIST).
const NO_EXIST: u64 = 1;

/// What the program has to know before it sees the first frame.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The id of this node, as it owns buckets.
    pub self_node: u8,
    /// For how long one [`Program::renew_lease`] is good.
    pub lease: Duration,
    /// The cluster's MAC address on this network, and the interface's own: frames to the former that
    /// belong to another node are forwarded to it from the latter.
    pub macs: [[u8; 6]; 2],
    /// The addresses to serve on this interface. All others are left to the kernel.
    pub addresses: Vec<(IpAddr, Kind)>,
    /// Whether the program logs every frame that it drops, see [`Program::take_log`]. If not,
    /// the kernel removes the code for it.
    pub log_drops: bool,
}

/// The program on one interface. It is detached on drop, and by the kernel if the process dies.
///
/// It starts fenced: no bucket has an owner, the lease has never been renewed, and the service
/// addresses' MAC is not held. Until then frames to service addresses are dropped.
pub struct Program {
    ebpf: Ebpf,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
    addresses: Mutex<HashMap<MapData, AddressKey, u32>>,
    control: Mapped,
    owners: Mapped,
    /// Held while owners change: workers do so at any time.
    changing: Mutex<()>,
    ports: Mapped,
    log_drops: bool,
}

impl Program {
    /// Loads the program and attaches it to `interface`: in the driver if that can be, else in
    /// the kernel's generic path, which costs a copy per frame and is warned of.
    pub fn load(interface: &str, settings: &Settings) -> Result<Program, Error> {
        let mut program = Program::unattached(settings)?;
        program.attach(interface)?;
        Ok(program)
    }

    /// Loads the program without attaching it; only [`Program::test_run`] reaches it then.
    pub fn unattached(settings: &Settings) -> Result<Program, Error> {
        if settings.self_node == NOBODY {
            return Err(Error::NodeId(NOBODY));
        }
        check_clock()?;
        let mut ebpf = open(settings.log_drops)?;
        // First of all: the instructions name the maps by descriptors, and a map that is taken
        // out and dropped closes its own.
        program(&mut ebpf)?.load().map_err(Error::loading)?;
        write_config(&mut ebpf, settings)?;
        let addresses = write_addresses(&mut ebpf, &settings.addresses)?;
        let control = Mapped::new(&mut ebpf, "CONTROL", control::WORDS)?;
        let owners = Mapped::new(&mut ebpf, "OWNERS", OWNER_SLOTS)?;
        for slot in 0..OWNER_SLOTS {
            owners.store(slot, u64::from(NOBODY));
        }
        let ports = Mapped::new(&mut ebpf, "PORTS", MAX_NODES)?;
        let sockets = take(&mut ebpf, "XSKS")?;
        let counters = take(&mut ebpf, "COUNTERS")?;
        let log_drops = settings.log_drops;
        let changing = Mutex::default();
        let addresses = Mutex::new(addresses);
        Ok(Program {
            ebpf,
            sockets,
            counters,
            addresses,
            control,
            owners,
            changing,
            ports,
            log_drops,
        })
    }

    /// Hands the frames of receive queue `queue` to the AF_XDP socket `socket`, which must be
    /// bound to this queue. The entry goes with the socket.
    pub fn register(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        if queue >= MAX_QUEUES {
            return Err(Error::Queues { queue, max: MAX_QUEUES });
        }
        self.sockets.set(queue, socket.as_raw_fd(), 0).map_err(Error::map("XSKS"))
    }

    /// Serves one more address on this interface. Addresses are only ever added: connections outlive
    /// the configurations that name them.
    pub fn add_address(&self, address: IpAddr, kind: Kind) -> Result<(), Error> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let added = addresses.insert(key(address), kind.to_word(), 0);
        added.map_err(|source| Error::address(address, source))
    }

    /// Renews the lease, as of `at` ([`monotonic_nanos`]). The worker loop itself calls this, so that a
    /// hung worker is fenced.
    pub fn renew_lease(&self, at: u64) {
        self.control.store(control::RENEWED_AT, at);
    }

    /// Ends the lease at once.
    pub fn revoke_lease(&self) {
        self.control.store(control::RENEWED_AT, 0);
    }

    /// Says whether this node answers for the service addresses.
    pub fn set_holds_mac(&self, holds: bool) {
        self.control.store(control::HOLDS_MAC, u64::from(holds));
    }

    /// Says where another node's port on this network is.
    pub fn set_port(&self, node: u8, mac: [u8; 6]) {
        self.ports.store(u32::from(node), mac_to_word(mac));
    }

    /// Makes `node` the owner of every bucket; [`NOBODY`] for none.
    pub fn set_owner_all(&self, node: u8) {
        self.set_owners(|_| Some(node));
    }

    /// Puts the owners of some buckets in force, all at once: they are written beside those in force,
    /// then one store changes sides. Buckets for which `owners` has none stay what they are.
    pub fn set_owners(&self, owners: impl Fn(u32) -> Option<u8>) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.control.load(control::OWNER_HALF);
        let half = before ^ 1;
        for bucket in 0..BUCKETS {
            let stays = || self.owners.load(owner_slot(before, bucket));
            let owner = owners(bucket).map_or_else(stays, u64::from);
            self.owners.store(owner_slot(half, bucket), owner);
        }
        self.control.store(control::OWNER_HALF, half);
    }

    /// Frames by the reason of their verdict, summed over all CPUs.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        Reason::ALL.iter().map(|reason| (reason.as_str(), self.counter(*reason))).collect()
    }

    /// Frames that got their verdict for `reason`.
    pub fn counter(&self, reason: Reason) -> u64 {
        // An array has every entry from the start: a lookup within it does not fail.
        self.counters.get(&(reason as u32), 0).map_or(0, |cpus| cpus.iter().sum())
    }

    /// The log of dropped frames, whose events will name `interface`; none unless
    /// [`Settings::log_drops`], and only once.
    pub fn take_log(&mut self, interface: &str) -> Option<DropLog> {
        if self.log_drops { DropLog::take(&mut self.ebpf, interface) } else { None }
    }

    /// The verdict (`XDP_*`) on `frame` as if it had arrived, but with no effect on it
    /// (BPF_PROG_TEST_RUN). Counted as usual. For tests.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<u32, Error> {
        self.test_run_on(frame).map(|(verdict, _)| verdict)
    }

    /// The same, with the frame as the program left it.
    pub fn test_run_on(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>), Error> {
        let mut back = vec![0; frame.len()];
        let result = self.run((frame, &mut back), 1)?;
        Ok((result.return_value, back))
    }

    /// What one verdict on `frame` takes, as the mean of `repeat` times. For measurements.
    pub fn time(&mut self, frame: &[u8], repeat: u32) -> Result<Duration, Error> {
        self.run((frame, &mut vec![0; frame.len()]), repeat).map(|result| result.duration)
    }

    /// The kernel writes the frame back; it refuses to run if there is no room for it.
    fn run(
        &mut self,
        (frame, back): (&[u8], &mut [u8]),
        repeat: u32,
    ) -> Result<TestRunResult, Error> {
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(back),
            repeat,
            ..TestRunOptions::default()
        };
        program(&mut self.ebpf)?.test_run(options).map_err(Error::loading)
    }

    fn attach(&mut self, interface: &str) -> Result<(), Error> {
        if interface.is_empty() || interface.contains('\0') {
            return Err(Error::UnknownInterface { interface: interface.to_owned() });
        }
        let xdp = program(&mut self.ebpf)?;
        let deadline = Instant::now() + ATTACH_PATIENCE;
        loop {
            let Err(native) = xdp.attach(interface, XdpMode::Driver) else { return Ok(()) };
            match Error::attaching(interface, native) {
                Error::Attach { source, .. } => {
                    tracing::warn!(
                        interface,
                        reason = error::chain(&source),
                        "no XDP in the driver: falling back to generic XDP, which is slower"
                    );
                    break;
                }
                Error::Busy { .. } if Instant::now() < deadline => thread::sleep(ATTACH_INTERVAL),
                hopeless => return Err(hopeless),
            }
        }
        xdp.attach(interface, XdpMode::Skb)
            .map(drop)
            .map_err(|generic| Error::attaching(interface, generic))
    }
}

/// Reads the object and makes its maps.
fn open(log_drops: bool) -> Result<Ebpf, Error> {
    // The program's level is of aya-log's kind: zero is below all of them.
    let level = if log_drops { aya_log::Level::Debug as u8 } else { 0 };
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, true);
    if !log_drops {
        // The least that a ring can be: the loader rounds it up to a page.
        loader.map_max_entries(drops::RING, 1);
    }
    loader.load(OBJECT).map_err(Error::loading)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    let program = ebpf.program_mut(PROGRAM).ok_or(Error::Object(PROGRAM))?;
    program.try_into().map_err(|_| Error::Object(PROGRAM))
}

/// Takes the map `name` out of the object, as a `M`.
fn take<M: TryFrom<Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Object(name))?;
    M::try_from(map).map_err(|_| Error::Object(name))
}

fn write_config(ebpf: &mut Ebpf, settings: &Settings) -> Result<(), Error> {
    let mut map: Array<MapData, u64> = take(ebpf, "CONFIG")?;
    let lease = u64::try_from(settings.lease.as_nanos()).unwrap_or(u64::MAX);
    let [cluster, port] = settings.macs.map(mac_to_word);
    for (word, value) in [
        (config::SELF_NODE, u64::from(settings.self_node)),
        (config::LEASE_NANOS, lease),
        (config::CLUSTER_MAC, cluster),
        (config::PORT_MAC, port),
    ] {
        map.set(word, value, 0).map_err(Error::map("CONFIG"))?;
    }
    Ok(())
}

fn write_addresses(
    ebpf: &mut Ebpf,
    addresses: &[(IpAddr, Kind)],
) -> Result<HashMap<MapData, AddressKey, u32>, Error> {
    let mut map: HashMap<MapData, AddressKey, u32> = take(ebpf, "ADDRESSES")?;
    for (address, kind) in addresses {
        map.insert(key(*address), kind.to_word(), NO_EXIST)
            .map_err(|source| Error::address(*address, source))?;
    }
    Ok(map)
}

fn key(address: IpAddr) -> AddressKey {
    match address.to_canonical() {
        IpAddr::V4(address) => v4_key(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// In a time namespace this process's clock differs from the one that the program compares the
/// lease with: a worker that is ahead of it would never be fenced.
fn check_clock() -> Result<(), Error> {
    // Without the file, the kernel has no time namespaces.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    let shifted = offsets
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("monotonic"))
        .any(|offset| offset.split_whitespace().any(|number| number != "0"));
    if shifted { Err(Error::TimeNamespace) } else { Ok(()) }
}

/// The clock that `bpf_ktime_get_ns` reads.
pub fn monotonic_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to write to. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_in_force_are_never_written_to() {
        let lease = Duration::from_secs(1);
        let settings = Settings {
            self_node: 0,
            lease,
            addresses: Vec::new(),
            macs: [[0; 6]; 2],
            log_drops: false,
        };
        let program = Program::unattached(&settings).expect("load the XDP program (root?)");
        for node in 1..5 {
            program.set_owner_all(node);
            let half = program.control.load(control::OWNER_HALF);
            for bucket in 0..BUCKETS {
                let owner = |half| program.owners.load(owner_slot(half, bucket));
                assert_eq!(owner(half), u64::from(node));
                let before = if node == 1 { NOBODY } else { node - 1 };
                assert_eq!(owner(half ^ 1), u64::from(before));
            }
        }
        // What another worker answers for stays.
        program.set_owners(|bucket| (bucket % 2 == 1).then_some(9));
        let half = program.control.load(control::OWNER_HALF);
        let owner = |bucket| program.owners.load(owner_slot(half, bucket));
        assert_eq!([0, 1, BUCKETS - 2, BUCKETS - 1].map(owner), [4, 9, 4, 9]);
    }
}
