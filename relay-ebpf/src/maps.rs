//! The maps, and the only code that touches them. Their layouts: [`relay_abi::xdp`].

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, XskMap},
    programs::XdpContext,
};
use relay_abi::xdp::{
    AddressKey, Kind, MAX_ADDRESSES, MAX_NODES, MAX_QUEUES, NOBODY, OWNER_SLOTS, REASONS, Reason,
    config, control, lease_holds, owner_slot, word_to_mac,
};

/// The loader maps this array into its memory (BPF_F_MMAPABLE).
const MAPPED: u32 = 1 << 10;

#[map]
static ADDRESSES: HashMap<AddressKey, u32> = HashMap::with_max_entries(MAX_ADDRESSES, 0);
#[map]
static CONFIG: Array<u64> = Array::with_max_entries(config::WORDS, 0);
#[map]
static CONTROL: Array<u64> = Array::with_max_entries(control::WORDS, MAPPED);
#[map]
static OWNERS: Array<u8> = Array::with_max_entries(OWNER_SLOTS, MAPPED);
#[map]
static PORTS: Array<u64> = Array::with_max_entries(MAX_NODES, MAPPED);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASONS, 0);
#[map]
static XSKS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);

/// What `address` is used for, if it is ours.
#[inline(always)]
pub fn kind(address: &AddressKey) -> Option<Kind> {
    // SAFETY: the loader writes entries before it attaches the program and never removes one, so
    // the reference cannot come to point at another entry.
    unsafe { ADDRESSES.get(address) }.map(|word| Kind::from_word(*word))
}

/// The owner of `bucket`; [`NOBODY`] if it has none.
#[inline(always)]
pub fn owner(bucket: u32) -> u8 {
    let slot = owner_slot(control_word(control::OWNER_HALF), bucket);
    match OWNERS.get_ptr(slot) {
        // SAFETY: a pointer that the kernel returned for a slot within the array. Volatile,
        // because the loader stores to it at the same time.
        Some(owner) => unsafe { core::ptr::read_volatile(owner) },
        None => NOBODY,
    }
}

/// Whether `node` is this one.
#[inline(always)]
pub fn is_self(node: u8) -> bool {
    config_word(config::SELF_NODE) == node as u64
}

/// The MAC address of `node`'s port on this network, if it is known.
#[inline(always)]
pub fn port_of(node: u8) -> Option<[u8; 6]> {
    let word = match PORTS.get_ptr(node as u32) {
        // SAFETY: as in `owner`.
        Some(word) => unsafe { core::ptr::read_volatile(word) },
        None => 0,
    };
    if word == 0 { None } else { Some(word_to_mac(word)) }
}

/// The cluster's MAC address on this network.
#[inline(always)]
pub fn cluster_mac() -> [u8; 6] {
    word_to_mac(config_word(config::CLUSTER_MAC))
}

/// The MAC address of this port.
#[inline(always)]
pub fn own_mac() -> [u8; 6] {
    word_to_mac(config_word(config::PORT_MAC))
}

/// Whether this node answers for the service addresses.
#[inline(always)]
pub fn holds_mac() -> bool {
    control_word(control::HOLDS_MAC) != 0
}

/// Whether the worker loop renewed its lease in time.
#[inline(always)]
pub fn lease_is_alive() -> bool {
    let renewed_at = control_word(control::RENEWED_AT);
    // SAFETY: the helper takes no arguments and may be called from any program.
    let now = unsafe { bpf_ktime_get_ns() };
    lease_holds(now, renewed_at, config_word(config::LEASE_NANOS))
}

/// Adds one to the counter of `reason`.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: a pointer into this CPU's own copy; the program is not preempted by itself.
        unsafe { *counter += 1 }
    }
}

/// Hands the frame to the socket of the queue that it was received on.
#[inline(always)]
pub fn redirect(ctx: &XdpContext) -> Result<u32, u32> {
    // SAFETY: the context is valid for the whole run of the program.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    XSKS.redirect(queue, u64::from(xdp_action::XDP_DROP))
}

#[inline(always)]
fn config_word(index: u32) -> u64 {
    CONFIG.get(index).copied().unwrap_or(0)
}

#[inline(always)]
fn control_word(index: u32) -> u64 {
    match CONTROL.get_ptr(index) {
        // SAFETY: as in `owner`.
        Some(word) => unsafe { core::ptr::read_volatile(word) },
        None => 0,
    }
}
