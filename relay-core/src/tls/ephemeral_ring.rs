//! `ring` has no public way to export or import an ephemeral key, so none is journaled: a TLS 1.2
//! handshake cannot go on at another relay between ServerKeyExchange and ClientKeyExchange. Before
//! and after it can, and so can TLS 1.3 at any time.

use rustls::{Error, NamedGroup};
use zeroize::Zeroizing;

/// Public and private part.
pub(super) type KeyPair = (Vec<u8>, Zeroizing<Vec<u8>>);

/// A new key, `None` when keys of this group cannot be exported.
pub(super) fn generate(_group: NamedGroup) -> Option<Result<KeyPair, Error>> {
    None
}

/// The secret that `private` shares with the peer.
pub(super) fn agree(
    _group: NamedGroup,
    _private: &[u8],
    _peer: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    Err(Error::General("ring does not import ephemeral keys".into()))
}
