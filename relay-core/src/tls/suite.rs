//! The cipher suites, and what the record layer has to know about each.

use super::crypto::{aead, hkdf};
use super::record::{HEADER_LEN, TAG_LEN};

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 5246, with AEAD suites and ephemeral key exchange only.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// A cipher suite (IANA "TLS Cipher Suites"): AEAD suites with forward secrecy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Suite(&'static Parameters);

#[derive(PartialEq, Eq)]
struct Parameters {
    id: u16,
    name: &'static str,
    version: Version,
    cipher: Cipher,
    hash: Hash,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
}

/// Records that one AES-GCM key may seal before it has to be replaced. RFC 8446 section 5.5 allows
/// 2^24.5 full records; half of 2^24 leaves room for what is on its way when the limit is seen.
const GCM_RECORDS: u64 = 1 << 23;

/// Records after which an AES-GCM key is refused, so that a KeyUpdate or close_notify can still be
/// sent after [`GCM_RECORDS`].
const GCM_RECORDS_HARD: u64 = 1 << 24;

/// ChaCha20-Poly1305 has no limit below that of the sequence number, which must not wrap (RFC 8446
/// section 5.3). The distance between both leaves room for the closing records.
const SEQUENCE_RECORDS: u64 = u64::MAX - (1 << 24);

const fn suite(
    id: u16,
    name: &'static str,
    version: Version,
    cipher: Cipher,
    hash: Hash,
) -> Parameters {
    Parameters { id, name, version, cipher, hash }
}

static SUITES: [Parameters; 9] = {
    use Cipher::*;
    use Hash::*;
    use Version::*;
    [
        suite(0x1301, "TLS_AES_128_GCM_SHA256", Tls13, Aes128Gcm, Sha256),
        suite(0x1302, "TLS_AES_256_GCM_SHA384", Tls13, Aes256Gcm, Sha384),
        suite(0x1303, "TLS_CHACHA20_POLY1305_SHA256", Tls13, ChaCha20Poly1305, Sha256),
        suite(0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Tls12, Aes128Gcm, Sha256),
        suite(0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Tls12, Aes256Gcm, Sha384),
        suite(0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Tls12, Aes128Gcm, Sha256),
        suite(0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Tls12, Aes256Gcm, Sha384),
        suite(
            0xcca8,
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            Tls12,
            ChaCha20Poly1305,
            Sha256,
        ),
        suite(
            0xcca9,
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            Tls12,
            ChaCha20Poly1305,
            Sha256,
        ),
    ]
};

impl Suite {
    /// Every suite that is supported.
    pub fn all() -> impl Iterator<Item = Suite> {
        SUITES.iter().map(Suite)
    }

    /// The suite with this IANA number, `None` when it is not supported.
    pub fn from_id(id: u16) -> Option<Suite> {
        SUITES.iter().find(|suite| suite.id == id).map(Suite)
    }

    /// The IANA number.
    pub fn id(self) -> u16 {
        self.0.id
    }

    /// The IANA name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// The version of the protocol that the suite belongs to.
    pub fn version(self) -> Version {
        self.0.version
    }

    /// Length of the whole record, header and tag included, that protects `plain` bytes.
    pub fn record_len(self, plain: usize) -> usize {
        plain + self.overhead()
    }

    /// Length of the plaintext in a whole record of `record_len` bytes, padding included (RFC 8446
    /// section 5.4; [`Sealer`](super::Sealer) never pads). `None` when it is too short to be one.
    pub fn plain_len(self, record_len: usize) -> Option<usize> {
        record_len.checked_sub(self.overhead())
    }

    /// Length of the secret in a [`DirectionState`](super::DirectionState): a traffic secret (TLS
    /// 1.3), or key and IV (TLS 1.2).
    pub fn secret_len(self) -> usize {
        match (self.0.version, self.0.hash) {
            (Version::Tls13, Hash::Sha256) => 32,
            (Version::Tls13, Hash::Sha384) => 48,
            (Version::Tls12, _) => self.algorithm().key_len() + aead::NONCE_LEN,
        }
    }

    pub(super) fn is_tls13(self) -> bool {
        self.0.version == Version::Tls13
    }

    /// Bytes of the nonce that a record carries (RFC 5288 section 3).
    pub(super) fn explicit_nonce_len(self) -> usize {
        match (self.0.version, self.0.cipher) {
            (Version::Tls12, Cipher::Aes128Gcm | Cipher::Aes256Gcm) => 8,
            _ => 0,
        }
    }

    pub(super) fn algorithm(self) -> &'static aead::Algorithm {
        match self.0.cipher {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    pub(super) fn hkdf(self) -> hkdf::Algorithm {
        match self.0.hash {
            Hash::Sha256 => hkdf::HKDF_SHA256,
            Hash::Sha384 => hkdf::HKDF_SHA384,
        }
    }

    /// Records under one key: when it should be replaced, and when it is refused.
    pub(super) fn record_limits(self) -> (u64, u64) {
        match self.0.cipher {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => (GCM_RECORDS, GCM_RECORDS_HARD),
            Cipher::ChaCha20Poly1305 => (SEQUENCE_RECORDS, u64::MAX),
        }
    }

    fn overhead(self) -> usize {
        // TLS 1.3 hides the content type in one byte behind the plaintext (RFC 8446 section 5.2).
        let inner_type = usize::from(self.is_tls13());
        HEADER_LEN + self.explicit_nonce_len() + inner_type + TAG_LEN
    }
}

impl core::fmt::Debug for Suite {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.0.name)
    }
}
