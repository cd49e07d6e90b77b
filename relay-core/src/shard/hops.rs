//! The ways toward clients and backends, where no frame of theirs shows it: toward a backend that is
//! dialed, and toward a client whose frames another relay forwards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Shard;
use crate::config::Side;
use crate::frame::{EthernetAddress, IpAddress};
use crate::id::FlowId;

/// Addresses whose next hop is remembered. Without room one of them is asked for again.
const HOPS_MAX: usize = 8192;

/// Answers without a flow that wait for their next hop at most; the oldest one makes room.
const WAITING_MAX: usize = 256;

/// Bytes of a MAC address, with which a frame begins.
const MAC: usize = 6;

/// Next hops by address, asked for outside of the node.
#[derive(Default)]
pub(super) struct Hops {
    known: BTreeMap<(Side, IpAddress), EthernetAddress>,
    unresolved: BTreeSet<(Side, IpAddress)>,
    /// Frames that lack their destination only.
    waiting: VecDeque<(Side, IpAddress, Vec<u8>)>,
}

impl Hops {
    /// The MAC address for `address`; asks for it when it is not known.
    pub fn toward(&mut self, side: Side, address: IpAddress) -> Option<EthernetAddress> {
        let known = self.known.get(&(side, address)).copied();
        if known.is_none() && self.unresolved.len() < HOPS_MAX {
            self.unresolved.insert((side, address));
        }
        known
    }

    /// Keeps a frame until the next hop toward `address` is known.
    pub fn keep(&mut self, side: Side, address: IpAddress, frame: Vec<u8>) {
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((side, address, frame));
    }

    /// Forgets what waits.
    pub fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Notes a next hop; returns the one that was known before.
    fn learn(
        &mut self,
        (side, address): (Side, IpAddress),
        mac: EthernetAddress,
    ) -> Option<EthernetAddress> {
        if self.known.len() >= HOPS_MAX && !self.known.contains_key(&(side, address)) {
            self.known.pop_first();
        }
        self.known.insert((side, address), mac)
    }

    fn release(&mut self, to: (Side, IpAddress), mac: EthernetAddress) -> Vec<Vec<u8>> {
        let is_ready = |(side, address, _): &(Side, IpAddress, Vec<u8>)| (*side, *address) == to;
        let (ready, waiting): (VecDeque<_>, _) = self.waiting.drain(..).partition(is_ready);
        self.waiting = waiting;
        let complete = |(_, _, mut frame): (Side, IpAddress, Vec<u8>)| {
            frame[..MAC].copy_from_slice(&mac.0);
            frame
        };
        ready.into_iter().map(complete).collect()
    }
}

impl Shard {
    /// The next address whose MAC address is needed.
    pub fn poll_unresolved(&mut self) -> Option<(Side, IpAddress)> {
        self.hops.unresolved.pop_first()
    }

    /// Takes in where frames for `address` go.
    pub fn handle_neighbor(&mut self, side: Side, address: IpAddress, mac: EthernetAddress) {
        let before = self.hops.learn((side, address), mac);
        for frame in self.hops.release((side, address), mac) {
            self.reply(side, |buf| {
                buf[..frame.len()].copy_from_slice(&frame);
                frame.len()
            });
        }
        let mut waiting: Vec<FlowId> = Vec::new();
        for (id, slot) in &mut self.flows {
            let leg = match side {
                Side::Client => Some(&mut slot.flow.client),
                Side::Backend | Side::Cluster => slot.flow.backend_mut(),
            };
            if let Some(leg) = leg
                && leg.connection.tuple().remote.addr == address
                && (leg.next_hop.is_none() || leg.next_hop == before)
            {
                leg.next_hop = Some(mac);
                waiting.push(*id);
            }
        }
        waiting.into_iter().for_each(|id| self.touch(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Ipv4Address;

    const MAC_OF: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 9]);

    fn address(last: u16) -> IpAddress {
        IpAddress::Ipv4(Ipv4Address::from(0x0a63_0000 + u32::from(last)))
    }

    #[test]
    fn an_answer_waits_for_its_next_hop_and_gets_it() {
        let mut hops = Hops::default();
        assert_eq!(hops.toward(Side::Client, address(1)), None);
        hops.keep(Side::Client, address(1), vec![0xff; 60]);
        hops.keep(Side::Backend, address(1), vec![0xff; 60]);
        assert_eq!(hops.unresolved.len(), 1, "asked for once");
        assert_eq!(hops.learn((Side::Client, address(1)), MAC_OF), None);
        let released = hops.release((Side::Client, address(1)), MAC_OF);
        assert_eq!(released, [[&MAC_OF.0[..], &[0xff; 54]].concat()]);
        assert_eq!(hops.waiting.len(), 1, "the other side's goes on to wait");
        assert_eq!(hops.toward(Side::Client, address(1)), Some(MAC_OF));
    }

    #[test]
    fn everything_is_bounded() {
        let mut hops = Hops::default();
        for last in 0..=u16::MAX {
            hops.toward(Side::Client, address(last));
            hops.keep(Side::Client, address(last), vec![0; 60]);
            hops.learn((Side::Client, address(last)), MAC_OF);
        }
        assert_eq!((hops.known.len(), hops.waiting.len()), (HOPS_MAX, WAITING_MAX));
        assert!(hops.unresolved.len() <= HOPS_MAX);
        assert_eq!(hops.waiting[0].1, address(u16::MAX - WAITING_MAX as u16 + 1), "oldest first");
    }
}
