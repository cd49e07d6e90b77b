//! Which node has to take a frame.

use crate::{maps, packet::Packet};
use relay_abi::xdp::{NOBODY, Reason};

/// Bytes of a MAC address.
const MAC: usize = 6;

/// For frames of a flow: `mine` if this node owns `bucket` and its lease holds. A frame of another
/// node's is made ready to be sent on, if it was sent to the cluster and this node answers for it:
/// what was forwarded is never forwarded again.
#[inline(always)]
pub fn by_bucket(packet: &Packet, bucket: u32, mine: Reason) -> Reason {
    let owner = maps::owner(bucket);
    if owner == NOBODY {
        return Reason::NotOwner;
    }
    if maps::is_self(owner) {
        return with_lease(mine);
    }
    match maps::port_of(owner) {
        Some(port) if maps::holds_mac() && readdress(packet, port) => Reason::Forwarded,
        _ => Reason::NotOwner,
    }
}

/// Addresses a frame that was sent to the cluster to `port`. It comes from this port then, so that
/// switches do not look for its sender here.
#[inline(always)]
fn readdress(packet: &Packet, port: [u8; MAC]) -> bool {
    packet.read(0) == Some(maps::cluster_mac())
        && packet.write(0, port)
        && packet.write(MAC, maps::own_mac())
}

/// For frames that concern an address rather than a flow: `mine` if this node answers for the
/// service addresses and its lease holds.
#[inline(always)]
pub fn by_mac(mine: Reason) -> Reason {
    if !maps::holds_mac() {
        return Reason::MacNotHeld;
    }
    with_lease(mine)
}

#[inline(always)]
fn with_lease(mine: Reason) -> Reason {
    if maps::lease_is_alive() { mine } else { Reason::LeaseExpired }
}
