//! Why a port cannot be opened, who is to blame, and what helps.

use crate::xdp;
use std::{error::Error as StdError, io};

/// What went wrong with a port, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no interface {interface:?}: compare the configuration with `ip link`")]
    UnknownInterface { interface: String },

    #[error("cannot {action} of {interface}: {source}")]
    Link { interface: String, action: &'static str, source: io::Error },

    #[error("{interface} is no Ethernet interface: AF_XDP ports need one")]
    NotEthernet { interface: String },

    #[error(
        "not permitted to {action}: start the relay as root, or with the capabilities CAP_NET_RAW \
         and CAP_NET_ADMIN"
    )]
    NotPermitted { action: &'static str },

    #[error("this kernel has no AF_XDP sockets: it needs CONFIG_XDP_SOCKETS")]
    NoAfXdp,

    #[error("{ring} is no ring size: configure a power of two from {min} to {max}")]
    Ring { ring: u32, min: u32, max: u32 },

    #[error(
        "{interface} has {queues} receive queues, but at most {max} are supported: reduce them \
         with `ethtool -L {interface} combined {max}`"
    )]
    Queues { interface: String, queues: u32, max: u32 },

    #[error(
        "{interface} has {queues} receive queues, too few for {workers} workers: give it as many with \
         `ethtool -L {interface} combined {workers}`, or lower worker.count"
    )]
    TooFewQueues { interface: String, queues: u32, workers: u8 },

    #[error("MTU {mtu} of {interface} is more than {max}: set a smaller one with `ip link set`")]
    Mtu { interface: String, mtu: usize, max: usize },

    #[error(
        "no memory for {bytes} bytes of packet buffers ({}): raise the limit of locked memory \
         (LimitMEMLOCK= of the service), or configure smaller rings",
        cause(source)
    )]
    Buffers { bytes: u64, source: xsk_rs::umem::UmemCreateError },

    #[error(
        "another process has an AF_XDP socket on queue {queue} of {interface}: stop it \
         (`ss --xdp` shows it)"
    )]
    Busy { interface: String, queue: u32 },

    #[error(
        "cannot bind an AF_XDP socket to queue {queue} of {interface} ({}): it needs Linux 5.10, \
         and Linux 6.6 for an MTU above 3800",
        cause(source)
    )]
    Bind { interface: String, queue: u32, source: xsk_rs::socket::SocketCreateError },

    #[error("cannot configure packet buffers: {0}")]
    Configuration(#[source] Box<dyn StdError + Send + Sync>),

    #[error("cannot set socket option {option}: {source}; mode \"poll\" does without it")]
    Option { option: &'static str, source: io::Error },

    #[error(transparent)]
    Program(#[from] xdp::Error),
}

/// The deepest cause of `error`, which says most.
fn cause(error: &dyn StdError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The error number at the bottom of `error`.
pub(super) fn errno(error: &dyn StdError) -> Option<i32> {
    error.source()?.downcast_ref::<io::Error>()?.raw_os_error()
}
