//! The crypto provider's AEAD and HKDF; aws-lc-rs and ring share this API.

#[cfg(feature = "aws-lc-rs")]
pub(crate) use aws_lc_rs::{aead, hkdf};
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(crate) use ring::{aead, hkdf};

/// HKDF-SHA256 (RFC 5869) of what a cluster's nodes have in common, 32 bytes of it or more, to a
/// 32-byte key for one purpose.
pub(crate) fn derive(key: &[u8], purpose: &[&[u8]]) -> zeroize::Zeroizing<[u8; 32]> {
    let mut out = zeroize::Zeroizing::new([0; 32]);
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"relay cluster key").extract(key);
    // Expanding 32 bytes cannot fail: the limit of HKDF is 255 x 32.
    if let Ok(okm) = prk.expand(purpose, hkdf::HKDF_SHA256) {
        let _ = okm.fill(&mut *out);
    }
    out
}
