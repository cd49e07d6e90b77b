//! What crosses a boundary as bytes, and nothing else: the bucket hash, the layouts of the XDP
//! maps, the messages between nodes, the control messages, and the names of nodes.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod bucket;
#[cfg(feature = "serde")]
pub mod control;
pub mod id;
#[cfg(feature = "alloc")]
pub mod peer;
#[cfg(feature = "alloc")]
pub mod wire;
pub mod xdp;
