//! What a new node and the authority say to each other, inside of TLS 1.3.
//!
//! ```text
//! node                                   authority
//! proof 32, certificate request    --->
//!                                  <---  Answer
//! JOINED                           --->  when everything is on the node's disk
//! ```
//! The proof is an HMAC of this TLS session under the token's secret: it is worth nothing in another
//! session. Texts have two bytes of length before them.

use std::io::{self, ErrorKind, Read, Write};

use aws_lc_rs::hmac;
use relay_abi::id::NodeId;
use rustls::ConnectionCommon;

use super::authority::PEM_MAX;

/// Nothing else that this authority has signed is taken for it (RFC 7301).
pub const PROTOCOL: &[u8] = b"relay-join";

/// Longest certificate request (PKCS#10).
pub const REQUEST_MAX: usize = 4096;

/// Longest file with the cluster's key.
pub const KEY_MAX: usize = 256;

/// The node says that it has everything.
pub const JOINED: u8 = 0x6a;

/// Bytes of a proof.
pub const PROOF_LENGTH: usize = 32;

/// Label of the exporter (RFC 8446 section 7.5, RFC 5705 section 4).
const LABEL: &[u8] = b"EXPERIMENTAL relay join";

const _: () = assert!(PEM_MAX <= u16::MAX as usize && REQUEST_MAX <= PEM_MAX);

/// What the proof is about: this session, and the node.
pub fn session<S>(tls: &ConnectionCommon<S>, node: NodeId) -> Result<[u8; 32], rustls::Error> {
    tls.export_keying_material([0; 32], LABEL, Some(&[node.0]))
}

/// The secret as a key.
pub fn key(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

/// What the authority answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The node's certificate, the authority's, and the cluster's key or nothing.
    Welcome([String; 3]),
    /// Nothing.
    Refused(Refusal),
}

/// Why a node gets no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not know the secret.
    Secret = 1,
    /// Somebody got it before.
    Used = 2,
    /// The certificate request is none.
    Request = 3,
    /// The authority failed.
    Failure = 4,
}

impl Answer {
    /// Writes it.
    pub fn put(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Answer::Welcome(texts) => {
                to.write_all(&[0])?;
                texts.iter().try_for_each(|text| put(to, text.as_bytes()))
            }
            Answer::Refused(refusal) => to.write_all(&[*refusal as u8]),
        }?;
        to.flush()
    }

    /// Reads it.
    pub fn take(from: &mut impl Read) -> io::Result<Answer> {
        let mut code = [0];
        from.read_exact(&mut code)?;
        let refusals = [Refusal::Secret, Refusal::Used, Refusal::Request, Refusal::Failure];
        if code == [0] {
            let mut text = |limit| {
                let text = String::from_utf8(take(from, limit)?);
                text.map_err(|_| io::Error::from(ErrorKind::InvalidData))
            };
            return Ok(Answer::Welcome([text(PEM_MAX)?, text(PEM_MAX)?, text(KEY_MAX)?]));
        }
        let refusal = refusals.into_iter().find(|refusal| *refusal as u8 == code[0]);
        refusal.map(Answer::Refused).ok_or_else(|| ErrorKind::InvalidData.into())
    }
}

/// Writes a text of at most 65535 bytes.
pub fn put(to: &mut impl Write, text: &[u8]) -> io::Result<()> {
    let length = u16::try_from(text.len()).map_err(|_| ErrorKind::InvalidInput)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(text)
}

/// Reads a text of at most `limit` bytes.
pub fn take(from: &mut impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > limit {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_they_were_written_and_cut_ones_are_refused() {
        let texts = ["certificate", "authority", ""].map(str::to_owned);
        for answer in [Answer::Welcome(texts), Answer::Refused(Refusal::Used)] {
            let mut bytes = Vec::new();
            answer.put(&mut bytes).unwrap();
            assert_eq!(Answer::take(&mut &*bytes).unwrap(), answer);
            for cut in 0..bytes.len() {
                assert!(Answer::take(&mut &bytes[..cut]).is_err(), "{cut}");
            }
        }
        assert!(Answer::take(&mut &[9][..]).is_err());
        // A key that is longer than any.
        let long = [&[0, 0, 0, 0, 0, 2, 0][..], &[b'0'; 512]].concat();
        assert_eq!(Answer::take(&mut &*long).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
