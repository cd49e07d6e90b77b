//! A token: everything that a new node needs to know to ask for its certificate, on one line.
//!
//! ```text
//! version 1 | brings a key 1 | node 1 | expires, seconds since 1970 8 | port 2 |
//! SHA-256 of the authority's certificate 32 | secret 16 | IP address 4 or 16 |
//! first bytes of the SHA-256 of all that 4
//! ```
//! Numbers are big-endian, and the whole is base64 (RFC 4648 section 5) behind a prefix.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relay_abi::id::NodeId;

use super::NODES;

/// What a token begins with. (It must not be a hyphen, as of an option.)
const PREFIX: &str = "relay_";

const VERSION: u8 = 1;

/// Longest token, in characters.
const TOKEN_MAX: usize = 128;

/// 128 bits: nobody guesses them, however often he may try.
pub const SECRET_LENGTH: usize = 16;

const CHECK_LENGTH: usize = 4;

/// SHA-256 of a certificate.
pub type Pin = [u8; 32];

/// Not to be printed but for the one who uses it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Where the certificate is to be had.
    pub address: SocketAddr,
    /// For whom.
    pub node: NodeId,
    /// Until when, in seconds since 1970 by the clock of who made it.
    pub expires: u64,
    /// The cluster's key comes with the certificate.
    pub brings_key: bool,
    /// The authority's certificate.
    pub authority: Pin,
    /// Who knows it may have the certificate. It never travels.
    pub secret: [u8; SECRET_LENGTH],
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Not one at all.
    Foreign,
    /// Not as it was printed.
    Damaged,
    /// Of another version of this program.
    Version(u8),
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenError::Foreign => {
                write!(f, "not a token: paste the line that relay-ctl cluster token printed")
            }
            TokenError::Damaged => {
                write!(f, "the token is cut off or mistyped: paste the whole line again")
            }
            TokenError::Version(version) => write!(
                f,
                "the token is of version {version}, and this program knows version {VERSION}: use \
                 the same version of relay-ctl on both machines"
            ),
        }
    }
}

impl std::error::Error for TokenError {}

/// SHA-256 of a certificate of DER.
pub fn pin(certificate: &[u8]) -> Pin {
    let mut pin = Pin::default();
    pin.copy_from_slice(digest(&SHA256, certificate).as_ref());
    pin
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION, u8::from(self.brings_key), self.node.0];
        bytes.extend(self.expires.to_be_bytes());
        bytes.extend(self.address.port().to_be_bytes());
        bytes.extend(self.authority);
        bytes.extend(self.secret);
        match self.address.ip() {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
        let check = pin(&bytes);
        bytes.extend(&check[..CHECK_LENGTH]);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Foreign)?;
        if text.len() > TOKEN_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Damaged)?;
        let length = bytes.len().checked_sub(CHECK_LENGTH).ok_or(TokenError::Damaged)?;
        let (bytes, check) = bytes.split_at(length);
        if pin(bytes)[..CHECK_LENGTH] != *check {
            return Err(TokenError::Damaged);
        }
        match bytes.first() {
            Some(&VERSION) => parse(&bytes[1..]).ok_or(TokenError::Damaged),
            Some(&version) => Err(TokenError::Version(version)),
            None => Err(TokenError::Damaged),
        }
    }
}

fn parse(mut rest: &[u8]) -> Option<Token> {
    let [brings_key, node] = take(&mut rest)?;
    let expires = u64::from_be_bytes(take(&mut rest)?);
    let port = u16::from_be_bytes(take(&mut rest)?);
    let (authority, secret) = (take(&mut rest)?, take(&mut rest)?);
    let ip = match rest.len() {
        4 => IpAddr::from(take::<4>(&mut rest)?),
        16 => IpAddr::from(take::<16>(&mut rest)?),
        _ => return None,
    };
    let node = Some(NodeId(node)).filter(|node| NODES.contains(&i64::from(node.0)))?;
    let brings_key = [false, true].get(usize::from(brings_key)).copied()?;
    let address = SocketAddr::new(ip, port);
    Some(Token { address, node, expires, brings_key, authority, secret })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(address: &str) -> Token {
        let (authority, secret) = ([0xa5; 32], [0x5a; SECRET_LENGTH]);
        let address = address.parse().unwrap();
        Token { address, node: NodeId(9), expires: 1 << 40, brings_key: true, authority, secret }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for address in ["10.99.3.29:7307", "[2001:db8::9]:1"] {
            let token = token(address);
            let text = token.to_string();
            assert!(text.len() <= TOKEN_MAX, "{} characters", text.len());
            assert!(text.parse::<Token>() == Ok(token.clone()), "{text}");
            assert!(format!(" {text}\n").parse::<Token>() == Ok(token), "{text}");
        }
    }

    #[test]
    fn what_was_not_printed_is_refused() {
        let text = token("10.99.3.29:7307").to_string();
        let refused = |text: &str| text.parse::<Token>().err().unwrap();
        for cut in PREFIX.len()..text.len() {
            assert_eq!(refused(&text[..cut]), TokenError::Damaged, "{cut}");
            let mut other = text.clone().into_bytes();
            other[cut] = if other[cut] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(refused(&other), TokenError::Damaged, "{other}");
        }
        assert_eq!(refused("node-9"), TokenError::Foreign);
        assert_eq!(refused(&format!("{text}{text}")), TokenError::Damaged);
        let sealed = |bytes: &[u8]| {
            let all = [bytes, &pin(bytes)[..CHECK_LENGTH]].concat();
            refused(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(all)))
        };
        assert_eq!(sealed(&[2, 7]), TokenError::Version(2));
        assert_eq!(sealed(&[VERSION]), TokenError::Damaged);
        assert_eq!(sealed(&[]), TokenError::Damaged);
    }
}
