//! What crosses a boundary as bytes, and nothing else: the bucket hash, the layouts of the XDP
//! maps, the messages between nodes and the control messages.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

pub mod bucket;
#[cfg(feature = "serde")]
pub mod control;
pub mod xdp;
