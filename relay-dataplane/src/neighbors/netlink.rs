//! The kernel's routes and neighbours over rtnetlink (rtnetlink(7)).

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

/// How long the kernel may take to answer: it answers at once unless it had to drop the answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A neighbour on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// Index of the interface.
    pub interface: u32,
    pub address: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbor {
    pub hop: Hop,
    pub mac: [u8; 6],
    /// Heard of so recently, or set so firmly, that no probe is due.
    pub confirmed: bool,
}

/// Why there is no next hop.
#[derive(Debug, thiserror::Error)]
pub(super) enum RouteError {
    #[error("the interface {0} does not exist")]
    NoInterface(String),
    #[error("no route leads there through {0}")]
    NoRoute(String),
    #[error("the kernel did not answer within {} s", TIMEOUT.as_secs())]
    Silent,
}

/// The connection to the kernel.
pub(super) struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Connects within the tokio runtime of the caller; the stream yields the neighbours that
    /// change.
    pub fn connect() -> io::Result<(Netlink, impl Stream<Item = Neighbor> + Unpin)> {
        let groups = [MulticastGroup::Neigh];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let changes = messages.filter_map(|(message, _)| std::future::ready(neighbor(message)));
        Ok((Netlink { handle }, changes))
    }

    /// The neighbour to which frames toward `ip` through `interface` go.
    pub async fn next_hop(&self, ip: IpAddr, interface: &str) -> Result<Hop, RouteError> {
        let index = self.index(interface).await?;
        let no_route = || RouteError::NoRoute(interface.to_owned());
        // Where no route fits, the kernel takes an IPv4 address to be on the link that is asked
        // for. With FIB_MATCH it answers with the table's entry or not at all.
        let entry = self.route(ip, index, RouteFlags::FibMatch).await?.ok_or_else(no_route)?;
        let route = self.route(ip, index, RouteFlags::empty()).await?.ok_or_else(no_route)?;
        let through = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(oif) => Some(*oif),
            _ => None,
        });
        if entry.header.kind != RouteType::Unicast || through != Some(index) {
            return Err(no_route());
        }
        let address = route.attributes.iter().find_map(gateway).unwrap_or(ip);
        Ok(Hop { interface: index, address })
    }

    /// What the kernel knows of `hop`, `None` if it knows no MAC address.
    pub async fn neighbor(&self, hop: Hop) -> Option<Neighbor> {
        let mut message = NeighbourMessage::default();
        message.header.family = match hop.address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.ifindex = hop.interface;
        message.attributes.push(NeighbourAttribute::Destination(match hop.address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
        // The crate's own request dumps the whole table; without NLM_F_DUMP it is one entry.
        message.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(message).ok()?;
        neighbor(timely(answers.next()).await.ok()??)
    }

    /// Has the kernel resolve or confirm `hop`; the outcome arrives as a change.
    pub async fn probe(&self, hop: Hop) {
        let request = self
            .handle
            .neighbours()
            .add(hop.interface, hop.address)
            .state(NeighbourState::None)
            // Uses the entry as a packet would (`neigh_event_send`).
            .flags(NeighbourFlags::Use)
            .replace();
        if let Ok(Err(error)) = timely(request.execute()).await {
            tracing::debug!(address = %hop.address, %error, "the neighbour cannot be probed");
        }
    }

    async fn index(&self, interface: &str) -> Result<u32, RouteError> {
        let mut links = self.handle.link().get().match_name(interface.to_owned()).execute();
        match timely(links.next()).await? {
            Some(Ok(link)) => Ok(link.header.index),
            _ => Err(RouteError::NoInterface(interface.to_owned())),
        }
    }

    /// The kernel's answer to RTM_GETROUTE through `interface`, `None` if there is no route.
    async fn route(
        &self,
        ip: IpAddr,
        interface: u32,
        flags: RouteFlags,
    ) -> Result<Option<RouteMessage>, RouteError> {
        let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(interface);
        let prefix = if ip.is_ipv4() { 32 } else { 128 };
        // Fails only for prefixes longer than the address.
        let Ok(builder) = builder.destination_prefix(ip, prefix) else { return Ok(None) };
        let mut request = builder.build();
        request.header.flags = flags;
        let mut routes = Box::pin(self.handle.route().get(request).execute());
        Ok(timely(routes.next()).await?.and_then(Result::ok))
    }
}

async fn timely<T>(answer: impl Future<Output = T>) -> Result<T, RouteError> {
    tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| RouteError::Silent)
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some((*v6).into()),
        // An IPv4 route over an IPv6 next hop (RFC 8950).
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    }
}

/// The neighbour that a message tells of, if it has a MAC address that may be used.
fn neighbor(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Neighbor> {
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) = message.payload
    else {
        return None;
    };
    let confirmed = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => true,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => false,
        _ => return None,
    };
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })?;
    Some(Neighbor { hop: Hop { interface: message.header.ifindex, address }, mac, confirmed })
}
