//! Why the XDP program cannot be had, who is to blame, and what helps.

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use relay_abi::xdp::MAX_ADDRESSES;
use std::{error::Error as StdError, io, net::IpAddr};

/// What went wrong with the XDP program, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no interface {interface:?}: compare the configuration with `ip link`")]
    UnknownInterface { interface: String },

    #[error(
        "another XDP program is attached to {interface}: stop the process it belongs to, or \
         remove it with `ip link set dev {interface} xdp off`"
    )]
    Busy { interface: String },

    #[error(
        "not permitted to load XDP programs: start the relay as root, or with the capabilities \
         CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW"
    )]
    NotPermitted,

    #[error(
        "{interface} takes no XDP program, neither in its driver nor in generic mode ({}); if it \
         is a veth, it needs as many receive queues as its peer has transmit queues: \
         `ethtool -L {interface} rx N`",
        chain(source)
    )]
    Attach { interface: String, source: ProgramError },

    #[error(
        "the kernel refused the XDP program: it needs Linux 5.18 or later with CONFIG_BPF_SYSCALL \
         and CONFIG_XDP_SOCKETS ({})", chain(source.as_ref())
    )]
    Refused { source: Box<dyn StdError + Send + Sync> },

    #[error("the built-in XDP object has no usable {0}: rebuild it with `cargo xtask ebpf build`")]
    Object(&'static str),

    #[error("{0} is not a node id: configure one below it")]
    NodeId(u8),

    #[error(
        "this time namespace shifts the monotonic clock, so the lease of the XDP program cannot \
         be trusted: start the relay outside of it"
    )]
    TimeNamespace,

    #[error("{0} is configured twice for one interface: remove one of the two")]
    DuplicateAddress(IpAddr),

    #[error("more than {MAX_ADDRESSES} addresses on one interface: spread them over several")]
    TooManyAddresses,

    #[error(
        "receive queue {queue}, but at most {max} are supported: reduce them with `ethtool -L`"
    )]
    Queues { queue: u32, max: u32 },

    #[error("cannot write map {map} of the XDP program ({})", chain(source))]
    Map { map: &'static str, source: MapError },

    #[error("cannot map the XDP program's arrays: {0}")]
    Mapping(io::Error),
}

impl Error {
    pub(super) fn loading(error: impl Into<LoadError>) -> Error {
        let LoadError(source) = error.into();
        match errno(source.as_ref()) {
            Some(libc::EPERM | libc::EACCES) if !was_verified(source.as_ref()) => {
                Error::NotPermitted
            }
            _ => Error::Refused { source },
        }
    }

    pub(super) fn attaching(interface: &str, source: ProgramError) -> Error {
        let interface = interface.to_owned();
        if let ProgramError::UnknownInterface { .. } = source {
            return Error::UnknownInterface { interface };
        }
        match errno(&source) {
            Some(libc::EPERM) => Error::NotPermitted,
            Some(libc::EBUSY | libc::EEXIST) => Error::Busy { interface },
            _ => Error::Attach { interface, source },
        }
    }

    pub(super) fn address(address: IpAddr, source: MapError) -> Error {
        match errno(&source) {
            Some(libc::EEXIST) => Error::DuplicateAddress(address),
            Some(libc::E2BIG) => Error::TooManyAddresses,
            _ => Error::Map { map: "ADDRESSES", source },
        }
    }

    pub(super) fn map<E: Into<MapError>>(map: &'static str) -> impl Fn(E) -> Error {
        move |source| Error::Map { map, source: source.into() }
    }
}

/// Either of the errors that loading can end with.
pub(super) struct LoadError(Box<dyn StdError + Send + Sync>);

impl From<EbpfError> for LoadError {
    fn from(error: EbpfError) -> Self {
        LoadError(Box::new(error))
    }
}

impl From<ProgramError> for LoadError {
    fn from(error: ProgramError) -> Self {
        LoadError(Box::new(error))
    }
}

/// `error` and all its causes in one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// The error number of the system call at the bottom of `error`.
fn errno(error: &(dyn StdError + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// The verifier rejects with EACCES, too, but then it says why.
fn was_verified(error: &(dyn StdError + 'static)) -> bool {
    match error.downcast_ref::<ProgramError>() {
        Some(ProgramError::LoadError { verifier_log, .. }) => !verifier_log.to_string().is_empty(),
        _ => false,
    }
}
