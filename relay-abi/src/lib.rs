//! What crosses a boundary as bytes, and nothing else: the bucket hash, the layouts of the XDP
//! maps, the messages between nodes and the control messages.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod bucket;
#[cfg(feature = "serde")]
pub mod control;
#[cfg(feature = "alloc")]
pub mod peer;
#[cfg(feature = "alloc")]
pub mod wire;
pub mod xdp;
