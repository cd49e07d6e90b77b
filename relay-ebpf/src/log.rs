//! Dropped frames, explained one by one to an operator who asks for it.
//!
//! The loader sets the level before the program is verified, in memory that is read-only from then
//! on: while it is too low, the kernel removes this whole module from the program. A record that
//! finds no room in the ring is lost; the frame is counted all the same.

use crate::{
    ethernet::{self, Payload},
    ipv4, ipv6,
    packet::Packet,
};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
};
use relay_abi::xdp::Reason;

/// Logs that `packet` was dropped. Every message begins with the number of the reason, for which
/// the loader puts the name. A port of zero stands for none.
#[inline(always)]
pub fn dropped(ctx: &XdpContext, packet: &Packet, reason: Reason) {
    if !level_enabled(Level::Debug) {
        return;
    }
    let Some(Payload { ether_type, at, .. }) = ethernet::payload(packet) else { return };
    match ether_type {
        ethernet::IPV4 => v4(ctx, packet, reason, at),
        ethernet::IPV6 => v6(ctx, packet, reason, at),
        _ => debug!(ctx, target: "xdp", "{} EtherType 0x{:x}", reason as u32, ether_type),
    }
}

#[inline(always)]
fn v4(ctx: &XdpContext, packet: &Packet, reason: Reason, at: usize) {
    let Some(header) = ipv4::Header::read(packet, at) else { return };
    let (source, destination) = header.ports(packet).unwrap_or((0, 0));
    debug!(
        ctx,
        target: "xdp",
        "{} protocol {} {:i} port {} > {:i} port {}",
        reason as u32,
        header.protocol,
        header.source,
        source,
        header.destination,
        destination
    );
}

#[inline(always)]
fn v6(ctx: &XdpContext, packet: &Packet, reason: Reason, at: usize) {
    let Some(header) = ipv6::Header::read(packet, at) else { return };
    let (source, destination) = header.ports(packet).unwrap_or((0, 0));
    debug!(
        ctx,
        target: "xdp",
        "{} protocol {} {:i} port {} > {:i} port {}",
        reason as u32,
        header.next,
        header.source,
        source,
        header.destination,
        destination
    );
}
