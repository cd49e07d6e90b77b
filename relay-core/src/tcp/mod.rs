//! TCP: one connection whose acknowledgements and releases are decided by the relay above.
//!
//! [`Connection`] is RFC 9293 with four differences. What it acknowledges
//! ([`set_ack_limit`](Connection::set_ack_limit)), SACKs and sends
//! ([`set_send_limit`](Connection::set_send_limit)) waits for the relay's word, because another
//! node must be able to go on from there. Received bytes stay readable until the relay
//! [releases](Connection::release) them. A [`State`] is enough to go on at another node. And
//! [passive opens](Cookies) keep no state at all.
//!
//! Bytes are named by 64-bit stream offsets, zero being the first byte after the SYN. The order of
//! calls is: [`handle_segment`](Connection::handle_segment) and
//! [`handle_timeout`](Connection::handle_timeout), then everything the relay wants, then
//! [`poll_transmit`](Connection::poll_transmit) until it returns `None`.

mod active_open;
mod close;
mod config;
mod connection;
mod cookie;
mod established;
mod path;
mod ring;
mod segment;
mod sequence;
mod standing;
mod state;
#[cfg(test)]
mod tests;
mod wake;

pub use close::{Cause, Phase};
pub use config::{Config, Wake};
pub use connection::Connection;
pub use cookie::{Accepted, Cookies};
pub use established::{Algorithm, Limits, Mark};
pub use ring::Memory;
pub use segment::reset_for;
pub use standing::Standing;
pub use state::{State, StateError, Timestamps};
