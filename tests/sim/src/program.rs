//! What the XDP program of a relay does with frames before they reach a ring, by the tables that the
//! worker wrote last: `relay-ebpf/src/steer.rs` and the worker's `steer` and `learn_ports`, once more.
//! It does so as long as its interface has power, whether or not anybody runs behind the ring.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use relay_abi::bucket::{self, Words};
use relay_core::config::{Side, Unit};
use relay_core::frame::EthernetAddress;
use relay_core::id::NodeId;
use relay_core::units::Units;

use crate::setup;
use crate::wire::{self, Seen};

/// Bytes of a MAC address, with two of which a frame begins.
const MAC: usize = 6;

/// The program's tables.
#[derive(Default)]
pub struct Program {
    /// This relay's place.
    index: usize,
    /// The relay to which the frames of each unit go.
    owners: Vec<Option<NodeId>>,
    /// Whether this relay answers for the cluster's addresses.
    holds: bool,
    /// Ports of the others, toward clients and toward backends.
    ports: BTreeMap<NodeId, [EthernetAddress; 2]>,
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes into the ring.
    Take(Vec<u8>),
    /// It leaves through the interface through which it came.
    Forward(Vec<u8>),
    Drop,
}

impl Program {
    /// The program of a machine that was just switched on.
    pub fn new(index: usize, units: usize) -> Self {
        Program { index, owners: vec![None; units], ..Program::default() }
    }

    /// Takes in whose the buckets are.
    pub fn steer(&mut self, units: &Units) {
        self.owners = units.steering().map(|(_, owner)| owner).collect();
        self.holds = units.holds_addresses();
    }

    /// Takes in where frames of other relays' flows go.
    pub fn learn_ports(&mut self, units: &Units) {
        for node in units.peers() {
            if let Some(ports) = units.ports_of(node) {
                self.ports.insert(node, ports);
            }
        }
    }

    /// What becomes of a frame. One that concerns no flow is for the node to judge, and so is every
    /// frame where there is a single unit: it may have been in the ring when the tables changed.
    pub fn judge(&self, side: Side, frame: Vec<u8>) -> Verdict {
        let is_alone = self.owners.len() < 2 || side == Side::Cluster;
        let Some(seen) = wire::tcp(&frame).filter(|_| !is_alone) else {
            return Verdict::Take(frame);
        };
        let Some(owner) = self.owners[unit_of_inbound(&seen, self.owners.len())] else {
            return Verdict::Drop;
        };
        if owner == setup::id(self.index) {
            return Verdict::Take(frame);
        }
        match self.ports.get(&owner) {
            Some(ports) if self.holds => self.readdress(side, frame, ports),
            _ => Verdict::Drop,
        }
    }

    /// Sends a frame on to another relay's port, if it was sent to the cluster.
    fn readdress(&self, side: Side, mut frame: Vec<u8>, ports: &[EthernetAddress; 2]) -> Verdict {
        let (network, cluster, port) = match side {
            Side::Client => (1, setup::VIRTUAL_CLIENT_MAC, ports[0]),
            Side::Backend | Side::Cluster => (2, setup::VIRTUAL_BACKEND_MAC, ports[1]),
        };
        if frame[..MAC] != cluster.0 {
            return Verdict::Drop;
        }
        frame[..MAC].copy_from_slice(&port.0);
        frame[MAC..MAC * 2].copy_from_slice(&setup::port_mac(network, self.index).0);
        Verdict::Forward(frame)
    }
}

/// The unit, of so many, of a connection between `peer` and an address of the cluster.
pub fn unit_of(peer: SocketAddr, ours: SocketAddr, units: usize) -> usize {
    let bucket = bucket::bucket(&words(peer), peer.port(), &words(ours), ours.port());
    Unit::of(bucket, units)
}

/// The unit of a segment to the cluster.
fn unit_of_inbound(seen: &Seen<'_>, units: usize) -> usize {
    unit_of(seen.source, seen.destination, units)
}

/// The unit of a frame that a relay sends to clients or backends: what belongs to no flow is the first
/// one's.
pub fn unit_of_outbound(frame: &[u8], units: usize) -> usize {
    wire::tcp(frame).map_or(0, |seen| unit_of(seen.destination, seen.source, units))
}

fn words(end: SocketAddr) -> Words {
    match end.ip() {
        IpAddr::V4(address) => bucket::v4(address.octets()),
        IpAddr::V6(address) => bucket::v6(&address.octets()),
    }
}
