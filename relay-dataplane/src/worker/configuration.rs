//! What the worker does with a configuration: it holds it, and from then on the interfaces take in frames
//! for its addresses.

use std::net::IpAddr;

use relay_abi::xdp::Kind;
use relay_core::units::Units;

use super::Interface;
use crate::council::Offer;

/// Holds a configuration, toward clients and toward backends. What it says is not in force yet.
pub(super) fn hold(
    units: &mut Units,
    [client, backend]: [&Interface; 2],
    offer: &Offer,
) -> Result<(), String> {
    for listener in offer.listeners.iter() {
        for (interface, list) in [(client, &listener.addresses), (backend, &listener.snat)] {
            for address in list {
                let added = interface.program.add_address((*address).into(), Kind::Service);
                added.map_err(|cause| format!("interface {}: {cause}", interface.name))?;
            }
        }
    }
    let held = units.handle_configuration(offer.generation, &offer.listeners);
    held.map_err(|cause| cause.to_string())
}

/// Connections go on that have this address, which no configuration names any more.
pub(super) fn serve(interface: &Interface, address: IpAddr) {
    if let Err(cause) = interface.program.add_address(address, Kind::Service) {
        let interface = &interface.name;
        tracing::warn!(interface, %address, %cause, "a connection with this address is lost");
    }
}
