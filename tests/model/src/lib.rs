//! The clustered protocol, explored state by state. No code of the relay runs here: this is the
//! *rules* (the table in docs/PROTOCOL.md) on paper that a machine can read, to find out whether
//! they are enough and which of them can be left out (none).
//!
//! # What is modelled
//!
//! One flow, and one of its streams at a time ([`state::Direction`]). Two to four nodes. Views are
//! one list that consensus appends to in one step; anybody may be suspected at any time, and nodes
//! learn of views late. Whatever was sent once may arrive at any time, any number of times, or
//! never: this is worse than the product's streams, which keep messages in order per pair of
//! incarnations. A crash leaves nothing; a restart is a new incarnation. A paused or cut-off node is one
//! that has no turn. There is no time.
//!
//! # How to read it
//!
//! [`state`] says what there is, [`step`] what may happen (each transition names its rules),
//! [`check`] what must never be, [`explore`] how it is searched, [`rules`] which rule is where and
//! which can be broken on purpose, [`runs`] what is run. `cargo run -p model -- canaries` shows for each broken
//! rule how it ends; `trace` as a second word prints the steps that lead there.
//!
//! # What is not modelled
//!
//! The same list, as a table with the place of every other rule, is [`rules::RULES`].
//!
//! | Rule | What | Where else |
//! |---|---|---|
//! | 1 | how votes become one list of views; persistence | the engine's own tests, once there is one |
//! | 6 | that one thread does it | a transition is atomic; relay-core has no threads |
//! | 7 | flows that a base does not name | `relay-core/src/replica/shadow.rs`, tests/sim |
//! | 10 | each kind of effect by itself | tests/sim, tests/e2e |
//! | 12 | what EST contains besides the backend | `relay-core/src/flow/persist.rs`, tests/sim |
//! | 14 | which ranges a SACK names | `relay-core/src/relay/hold.rs` |
//! | 15 | key generations | `relay-core/src/tls/tests/records.rs`, tests/sim |
//! | 16 | TCP sequence numbers | `relay-core/src/tcp/tests/takeover.rs`, tests/sim |
//! | 17 | leases, clocks, addresses | `relay-dataplane/tests/xdp_fixtures.rs`, tests/sim, tests/e2e |
//! | 18 | the bounded wait, the view "lost", loss of a quorum | tests/sim, tests/e2e |
//! | 19 | T_eject, backing off | `relay-core/src/node/membership.rs` |
//! | 20 | each bound by itself | `relay-core/src/relay/ranges.rs`, tests/sim |
//!
//! Nor are the handshake and its journal, resets and aborts by a peer, cookies and tickets.
//! A rule that holds here holds for the rules as written; that the code follows them is what the simulator
//! (tests/sim) and the runs with real peers (tests/e2e) are for.

#![forbid(unsafe_code)]

pub mod check;
pub mod explore;
pub mod rules;
pub mod runs;
pub mod state;
pub mod step;
