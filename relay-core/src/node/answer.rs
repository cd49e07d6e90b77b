//! What is answered for the cluster's own addresses: ARP, neighbor discovery, echo requests.

use super::Node;
use crate::canary::{Canary, breaks};
use crate::config::Side;
use crate::frame::{
    EthernetAddress, Inbound, IpAddress, Link, emit_arp_reply, emit_echo_reply,
    emit_gratuitous_arp, emit_neighbor_advertisement,
};
use crate::reason::Reason;
use crate::time::{Duration, Instant};

/// Bytes that an echo request may carry to be answered: `ping` sends 56.
const ECHO_MAX: usize = 128;

/// The last announcement is repeated this often, as in VRRP (RFC 9568): a frame that a former owner
/// sent late, before it knew, would else keep the switches' entries for ever.
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(1);

impl Node {
    /// Whether `address` is served at `side`.
    pub(super) fn is_ours(&self, side: Side, address: IpAddress) -> bool {
        self.settings.listeners.answer_for(side, address)
    }

    pub(super) fn answer(&mut self, side: Side, inbound: &Inbound<'_>) -> Result<(), Reason> {
        let mac = self.settings.macs(side).cluster;
        match inbound {
            Inbound::ArpRequest { source, sender, target } => {
                self.demand(side, IpAddress::Ipv4(*target))?;
                let link = Link { source: mac, destination: *source };
                self.shard.reply(side, |buf| emit_arp_reply(&link, *target, *sender, buf));
            }
            Inbound::NeighborSolicit { source, sender, target } => {
                self.demand(side, IpAddress::Ipv6(*target))?;
                let link = Link { source: mac, destination: *source };
                self.shard.reply(side, |buf| {
                    emit_neighbor_advertisement(&link, *target, Some(*sender), buf)
                });
            }
            Inbound::EchoRequest { source, from, to, echo } => {
                self.demand(side, *to)?;
                if echo.data.len() > ECHO_MAX {
                    return Err(Reason::NotForUs);
                }
                let link = Link { source: mac, destination: *source };
                self.shard.reply(side, |buf| emit_echo_reply(&link, *to, *from, echo, buf));
            }
            Inbound::Tcp { .. } | Inbound::IcmpError(_) | Inbound::Udp { .. } => {
                return Err(Reason::NotForUs);
            }
        }
        Ok(())
    }

    fn demand(&self, side: Side, address: IpAddress) -> Result<(), Reason> {
        if self.is_ours(side, address) { Ok(()) } else { Err(Reason::NotForUs) }
    }

    /// Whether the unit's owner answers for the cluster's addresses.
    pub(super) fn claims_addresses(&self) -> bool {
        self.settings.unit.holds_addresses() || breaks(Canary::ClaimForAnyUnit)
    }

    /// Moves the switches' entries for the cluster's MAC addresses to this node's ports.
    pub(super) fn announce(&mut self, now: Instant) {
        if !self.claims_addresses() {
            return;
        }
        // A former owner that was not told yet must not take the addresses back (rule 17).
        if !self.has_lease() || self.announce_at.front().is_none_or(|at| *at > now) {
            return;
        }
        self.announce_at.pop_front();
        if self.announce_at.is_empty() {
            self.announce_at.push_back(now + ANNOUNCEMENT_INTERVAL);
        }
        for side in [Side::Client, Side::Backend] {
            let mac = self.settings.macs(side).cluster;
            for address in self.settings.listeners.addresses(side) {
                self.shard.reply(side, |buf| match address {
                    IpAddress::Ipv4(v4) => emit_gratuitous_arp(mac, v4, buf),
                    IpAddress::Ipv6(v6) => {
                        let link = Link { source: mac, destination: EthernetAddress::BROADCAST };
                        emit_neighbor_advertisement(&link, v6, None, buf)
                    }
                });
            }
        }
    }
}
