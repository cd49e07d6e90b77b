//! Listeners in generations. All relays of a cluster agree on the configuration whose listeners new
//! connections come in by; a handshake goes on under the one under which it began, here and at whoever
//! repeats it, so that former ones are kept for a while.
//!
//! Generation 0 is a relay's own configuration. It is in force until the first agreed one is.

use std::collections::BTreeSet;
use std::sync::Arc;

use relay_abi::peer::Message;

use crate::config::{Listener, Side};
use crate::frame::IpAddress;
use crate::tls::Sessions;

/// Generations that are held at a time: the one in force, the next one, and those before for which
/// handshakes may still be under way.
pub const GENERATIONS_MAX: usize = 8;

/// A handshake is given up when the configuration has changed more often since it began. Fewer than
/// are held, by far: what this relay says under a generation others still understand, although they
/// may have heard of later ones.
const OPENING_GENERATIONS_MAX: u64 = 4;

const _: () = assert!((OPENING_GENERATIONS_MAX as usize) < GENERATIONS_MAX - 2);

/// Addresses of one side that a relay answers for. They only become more, since connections outlive
/// the listeners that they came in by.
pub const ADDRESSES_MAX: usize = 1024;

/// There are more addresses than a relay has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this relay would answer for more than {ADDRESSES_MAX} addresses on one side, those of former \
     configurations included: restart it, or serve fewer addresses"
)]
pub struct TooManyAddresses;

/// Where a listener is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of its configuration.
    pub generation: u64,
    index: usize,
}

/// All that is held, and which of it is in force.
#[derive(Clone)]
pub struct Listeners {
    /// By rising generation.
    held: Vec<(u64, Arc<[Listener]>)>,
    /// What new connections come in by. It may not be held: then there are none.
    active: u64,
    /// What is answered for, toward clients and toward backends.
    addresses: [BTreeSet<IpAddress>; 2],
}

impl From<Vec<Listener>> for Listeners {
    /// A relay's own configuration, in force.
    fn from(own: Vec<Listener>) -> Self {
        let mut listeners =
            Listeners { held: Vec::new(), active: 0, addresses: Default::default() };
        listeners.note(&own);
        listeners.held.push((0, own.into()));
        listeners
    }
}

impl Listeners {
    /// Keeps the sessions of all servers in `sessions`.
    pub fn keep_sessions_in(&mut self, sessions: &Sessions) {
        for (_, listeners) in &mut self.held {
            let mut all = listeners.to_vec();
            all.iter_mut().for_each(|listener| listener.tls.keep_sessions_in(sessions));
            *listeners = all.into();
        }
    }

    /// Holds the listeners of a generation, which never change. The oldest that is held makes room.
    ///
    /// # Errors
    /// When their addresses are too many; then nothing is held of them.
    pub fn hold(
        &mut self,
        generation: u64,
        listeners: Arc<[Listener]>,
    ) -> Result<(), TooManyAddresses> {
        let at = match self.held.binary_search_by_key(&generation, |(held, _)| *held) {
            Ok(_) => return Ok(()),
            Err(at) => at,
        };
        let before = self.addresses.clone();
        self.note(&listeners);
        if self.addresses.iter().any(|addresses| addresses.len() > ADDRESSES_MAX) {
            self.addresses = before;
            return Err(TooManyAddresses);
        }
        self.held.insert(at, (generation, listeners));
        if self.held.len() > GENERATIONS_MAX {
            let oldest = self.held.iter().position(|(held, _)| *held != self.active);
            oldest.into_iter().for_each(|at| _ = self.held.remove(at));
        }
        Ok(())
    }

    /// From here on new connections come in by the listeners of `active`, and nobody will ever ask for
    /// those that were withdrawn.
    pub fn agree(&mut self, active: u64, withdrawn: Option<u64>) {
        self.active = active;
        self.held.retain(|(held, _)| withdrawn != Some(*held));
    }

    /// Whether what is in force is held.
    pub fn are_ready(&self) -> bool {
        self.holds(self.active)
    }

    /// Whether the listeners of a generation are held.
    pub fn holds(&self, generation: u64) -> bool {
        self.of(generation).is_some()
    }

    /// Whether a message needs a generation that is not held. A handshake is repeated under the one
    /// under which it began: who does not have that must not say that it could.
    pub fn lack(&self, message: &Message<'_>) -> bool {
        matches!(message, Message::Opening(opening) if !self.holds(opening.generation))
    }

    /// The generation in force.
    pub fn active(&self) -> u64 {
        self.active
    }

    /// The generations that are held.
    pub fn held(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.iter().map(|(generation, _)| *generation)
    }

    /// Whether a handshake that began under `generation` began too many changes ago to go on.
    pub fn is_outdated(&self, generation: u64) -> bool {
        let newer = self.held().filter(|held| *held > generation && *held <= self.active).count();
        newer as u64 > OPENING_GENERATIONS_MAX || !self.holds(generation)
    }

    /// The listener for new connections to this address and port.
    pub fn find(&self, address: IpAddress, port: u16) -> Option<(Place, &Listener)> {
        self.find_in(self.active, address, port)
    }

    /// The listener of a generation at this address and port.
    pub fn find_in(
        &self,
        generation: u64,
        address: IpAddress,
        port: u16,
    ) -> Option<(Place, &Listener)> {
        let listeners = self.of(generation)?;
        let fits =
            |listener: &Listener| listener.port == port && listener.addresses.contains(&address);
        let index = listeners.iter().position(fits)?;
        Some((Place { generation, index }, &listeners[index]))
    }

    /// The listener that an established connection to this address and port belongs to: it may be
    /// gone, or never have been known here.
    pub fn find_any(&self, address: IpAddress, port: u16) -> Option<(Place, &Listener)> {
        let former = self.held.iter().rev().map(|(generation, _)| *generation);
        core::iter::once(self.active)
            .chain(former)
            .find_map(|generation| self.find_in(generation, address, port))
    }

    /// The listener at a place, unless it is not held any more.
    pub fn at(&self, place: Place) -> Option<&Listener> {
        self.of(place.generation)?.get(place.index)
    }

    /// Whether `address` is answered for at `side`.
    pub fn answer_for(&self, side: Side, address: IpAddress) -> bool {
        self.set(side).is_some_and(|addresses| addresses.contains(&address))
    }

    /// What is answered for at `side`, in order.
    pub fn addresses(&self, side: Side) -> impl Iterator<Item = IpAddress> + '_ {
        self.set(side).into_iter().flatten().copied()
    }

    /// Answers for the address of a connection that goes on although no configuration that is known here
    /// has it; true if it is new. Where there is no room the connection is lost.
    pub fn answer_also_for(&mut self, side: Side, address: IpAddress) -> bool {
        let [client, backend] = &mut self.addresses;
        let addresses = if side == Side::Client { client } else { backend };
        addresses.len() < ADDRESSES_MAX && addresses.insert(address)
    }

    fn set(&self, side: Side) -> Option<&BTreeSet<IpAddress>> {
        match side {
            Side::Client => Some(&self.addresses[0]),
            Side::Backend => Some(&self.addresses[1]),
            Side::Cluster => None,
        }
    }

    fn of(&self, generation: u64) -> Option<&[Listener]> {
        let at = self.held.binary_search_by_key(&generation, |(held, _)| *held).ok()?;
        Some(&self.held[at].1)
    }

    fn note(&mut self, listeners: &[Listener]) {
        let [client, backend] = &mut self.addresses;
        for listener in listeners {
            client.extend(&listener.addresses);
            backend.extend(&listener.snat);
        }
    }
}

#[cfg(test)]
mod tests;
