//! The XDP program: which frames are the relay's, which are the kernel's, which are nobody's.
//!
//! The modules only find the [`Reason`]; this file alone turns a reason into a verdict.

#![no_std]
#![no_main]

mod arp;
mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod log;
mod maps;
mod packet;
mod steer;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use packet::Packet;
use relay_abi::xdp::Reason;

#[xdp(frags)]
pub fn relay(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    let (reason, action) = match ethernet::inspect(&packet) {
        Reason::NotForUs => (Reason::NotForUs, xdp_action::XDP_PASS),
        reason @ (Reason::Arp
        | Reason::Cluster
        | Reason::Echo
        | Reason::IcmpError
        | Reason::Neighbor
        | Reason::Service) => to_socket(&ctx, reason),
        Reason::Forwarded => (Reason::Forwarded, xdp_action::XDP_TX),
        reason @ (Reason::ExtensionHeader
        | Reason::Fragment
        | Reason::LeaseExpired
        | Reason::MacNotHeld
        | Reason::Malformed
        | Reason::NoSocket
        | Reason::NotOwner
        | Reason::Tagged
        | Reason::UnsupportedProtocol) => (reason, xdp_action::XDP_DROP),
    };
    maps::count(reason);
    if action == xdp_action::XDP_DROP {
        log::dropped(&ctx, &packet, reason);
    }
    action
}

/// Hands the frame to the socket of its receive queue. Without a socket it is lost rather than
/// given to the kernel, which would answer with a reset.
#[inline(always)]
fn to_socket(ctx: &XdpContext, reason: Reason) -> (Reason, u32) {
    match maps::redirect(ctx) {
        Ok(action) => (reason, action),
        Err(_) => (Reason::NoSocket, xdp_action::XDP_DROP),
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// Helpers such as bpf_ktime_get_ns are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
