//! Whether this node is the one that has to take a frame.

use crate::maps;
use relay_abi::xdp::Reason;

/// For frames of a flow: `mine` if this node owns `bucket` and its lease holds.
#[inline(always)]
pub fn by_bucket(bucket: u32, mine: Reason) -> Reason {
    if !maps::owns(bucket) {
        return Reason::NotOwner;
    }
    with_lease(mine)
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
