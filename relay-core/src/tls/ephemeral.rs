//! Ephemeral keys whose private part can be journaled, with aws-lc-rs.

use aws_lc_rs::agreement::{self, Algorithm, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
use rustls::crypto::GetRandomFailed;
use rustls::{Error, NamedGroup, PeerMisbehaved};
use zeroize::Zeroizing;

use super::journal;

/// Public and private part.
pub(super) type KeyPair = (Vec<u8>, Zeroizing<Vec<u8>>);

/// Length of an X25519 private key (RFC 7748 section 5).
const X25519_KEY_LEN: usize = 32;

/// First byte of an uncompressed point, the only form that RFC 8422 section 5.1.2 allows.
const UNCOMPRESSED: u8 = 4;

/// A new key, `None` when keys of this group cannot be exported.
pub(super) fn generate(group: NamedGroup) -> Option<Result<KeyPair, Error>> {
    let algorithm = algorithm(group)?;
    Some(key_pair(group, algorithm).map_err(Error::from))
}

/// The secret that `private` shares with the peer.
pub(super) fn agree(
    group: NamedGroup,
    private: &[u8],
    peer: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let unusable = || Error::General("the ephemeral key is unusable".into());
    let algorithm = algorithm(group).ok_or_else(unusable)?;
    if group != NamedGroup::X25519 && peer.first() != Some(&UNCOMPRESSED) {
        return Err(PeerMisbehaved::InvalidKeyShare.into());
    }
    let private = PrivateKey::from_private_key(algorithm, private).map_err(|_| unusable())?;
    let peer = UnparsedPublicKey::new(algorithm, peer);
    agreement::agree(&private, peer, PeerMisbehaved::InvalidKeyShare.into(), |secret| {
        Ok(Zeroizing::new(secret.to_vec()))
    })
}

fn key_pair(group: NamedGroup, algorithm: &'static Algorithm) -> Result<KeyPair, GetRandomFailed> {
    let (key, private) = if group == NamedGroup::X25519 {
        // Any 32 bytes are a private key, so they may come from a given source of entropy.
        let mut seed = Zeroizing::new(vec![0; X25519_KEY_LEN]);
        journal::fresh_random(&mut seed)?;
        let key = PrivateKey::from_private_key(algorithm, &seed).map_err(|_| GetRandomFailed)?;
        (key, seed)
    } else {
        let key = PrivateKey::generate(algorithm).map_err(|_| GetRandomFailed)?;
        let private: EcPrivateKeyBin = key.as_be_bytes().map_err(|_| GetRandomFailed)?;
        (key, Zeroizing::new(private.as_ref().to_vec()))
    };
    let public = key.compute_public_key().map_err(|_| GetRandomFailed)?;
    Ok((public.as_ref().to_vec(), private))
}

fn algorithm(group: NamedGroup) -> Option<&'static Algorithm> {
    match group {
        NamedGroup::X25519 => Some(&agreement::X25519),
        NamedGroup::secp256r1 => Some(&agreement::ECDH_P256),
        NamedGroup::secp384r1 => Some(&agreement::ECDH_P384),
        _ => None,
    }
}
