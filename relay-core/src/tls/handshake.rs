//! The handshake: rustls, fed one record at a time.

use std::io;

use rustls::{ConnectionTrafficSecrets, ServerConnection};
use zeroize::Zeroizing;

use super::config::ServerConfig;
use super::journal::{Context, Fault, with_context};
use super::keys::{DirectionState, MAX_SECRET, Secret};
use super::record::{OpenError, record_header};
use super::suite::{Suite, Version};
use crate::reason::Reason;

/// Most bytes that a client may need for its handshake: two ClientHellos and a Finished, 300 to
/// 4,000 bytes in practice, and the chain of its certificate, if it is asked for one. All of it is
/// replicated.
pub const MAX_HANDSHAKE_INPUT: usize = 32 * 1024;

/// A handshake in progress. It reads no further than its own end: application data that comes
/// with the last message stays with the caller.
pub struct Handshake {
    connection: ServerConnection,
    context: Context,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that were consumed: whole records. The rest has to be given again.
    pub consumed: usize,
    /// The handshake is complete: [`Handshake::finish`] it.
    pub complete: bool,
}

/// What a complete handshake has agreed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Established {
    /// The cipher suite.
    pub suite: Suite,
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// The application protocol.
    pub alpn: Option<Vec<u8>>,
    /// Server to client.
    pub send: DirectionState,
    /// Client to server.
    pub receive: DirectionState,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The input is not TLS.
    #[error(transparent)]
    Record(#[from] OpenError),
    /// The client and we have nothing in common, or it violates the protocol.
    #[error("handshake: {0}")]
    Tls(#[from] rustls::Error),
    /// No certificate has the name that the client asks for.
    #[error("no certificate for the name that the client asks for")]
    UnknownName,
    /// More than [`MAX_HANDSHAKE_INPUT`] bytes.
    #[error("the client's handshake is longer than {MAX_HANDSHAKE_INPUT} bytes")]
    TooLong,
    /// The handshake is not complete.
    #[error("the handshake is not complete")]
    Incomplete,
    /// The journal belongs to another handshake, another configuration or another version, or is
    /// damaged. Nothing may be sent.
    #[error("the handshake cannot be repeated: the journal does not fit it")]
    Diverged,
    /// The journal is longer than [`MAX_JOURNAL`](super::MAX_JOURNAL).
    #[error("the journal of the handshake is too long")]
    JournalTooLong,
    /// `ring` does not export ephemeral keys: a TLS 1.2 handshake cannot go on at another relay
    /// while the client's key share is awaited. Use aws-lc-rs.
    #[error("a TLS 1.2 handshake in progress cannot go on elsewhere when built with ring")]
    KeyNotExported,
}

impl HandshakeError {
    /// The counter that this is counted under.
    pub fn reason(&self) -> Reason {
        match self {
            HandshakeError::Record(error) => error.reason(),
            _ => Reason::TlsHandshake,
        }
    }
}

impl From<Fault> for HandshakeError {
    fn from(fault: Fault) -> HandshakeError {
        match fault {
            Fault::Diverged => HandshakeError::Diverged,
            Fault::TooLong => HandshakeError::JournalTooLong,
            Fault::KeyNotExported => HandshakeError::KeyNotExported,
        }
    }
}

/// The alert for an unknown name (RFC 6066 section 3): rustls would send access_denied. The answer
/// to a ClientHello is not encrypted yet.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

impl Handshake {
    /// Waits for a ClientHello.
    pub fn new(config: &ServerConfig) -> Result<Handshake, HandshakeError> {
        Handshake::with(config, Context::new(config.environment.clone()))
    }

    /// Goes on where another relay has come to, given what it had consumed and journaled. All
    /// that it has sent is in [`Self::output`]. Fails, and nothing may be sent, when it is not
    /// certain that the result is the same.
    pub fn replay(
        config: &ServerConfig,
        input: &[u8],
        journal: &[u8],
    ) -> Result<Handshake, HandshakeError> {
        let context = Context::replay(journal, config.environment.clone())?;
        let mut handshake = Handshake::with(config, context)?;
        let progress = handshake.handle(input, &mut Vec::new())?;
        if progress.consumed != input.len() {
            return Err(HandshakeError::Diverged);
        }
        handshake.context.finish_replay()?;
        Ok(handshake)
    }

    fn with(config: &ServerConfig, mut context: Context) -> Result<Handshake, HandshakeError> {
        let connection = with_context(&mut context, || ServerConnection::new(config.tls.clone()))?;
        Ok(Handshake { connection, context, input: Vec::new(), output: Vec::new() })
    }

    /// Takes `input`, all bytes that were not consumed so far, and appends the answer to `output`.
    /// It must not leave before [`Self::input`] and [`Self::journal`] are replicated.
    ///
    /// On failure the alert to send, if any, is appended, and the handshake is over.
    pub fn handle(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Progress, HandshakeError> {
        if let Some(fault) = self.context.fault() {
            return Err(fault.into());
        }
        let mut rest = input;
        while self.connection.is_handshaking() {
            let record_len = match record_header(rest) {
                Ok(record_len) => record_len,
                Err(error) => return Err(self.refuse(rest, error, output)),
            };
            let record = record_len.and_then(|len| rest.split_at_checked(len));
            let Some((record, behind)) = record else { break };
            if self.input.len() + record.len() > MAX_HANDSHAKE_INPUT {
                return Err(HandshakeError::TooLong);
            }
            self.record(record, output)?;
            rest = behind;
        }
        Ok(Progress { consumed: input.len() - rest.len(), complete: self.is_complete() })
    }

    /// Whether both sides have finished: no more input is wanted.
    pub fn is_complete(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// What has to be replicated beside [`Self::input`]: it only ever grows at its end. At most
    /// [`MAX_JOURNAL`](super::MAX_JOURNAL) bytes; holds secrets.
    pub fn journal(&self) -> &[u8] {
        self.context.journal()
    }

    /// All bytes that were consumed, at most [`MAX_HANDSHAKE_INPUT`].
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// All bytes that were appended to outputs by successful calls, in a replay those of the relay
    /// that went before.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The keys, once the handshake is complete.
    pub fn finish(mut self) -> Result<Established, HandshakeError> {
        if self.connection.is_handshaking() {
            return Err(HandshakeError::Incomplete);
        }
        let suite = self.connection.negotiated_cipher_suite().map(|suite| suite.suite().into());
        let suite = suite.and_then(Suite::from_id).ok_or(HandshakeError::Incomplete)?;
        let server_name = self.connection.server_name().map(str::to_owned);
        let alpn = self.connection.alpn_protocol().map(<[u8]>::to_vec);
        let connection = self.connection;
        let keys = with_context(&mut self.context, || connection.dangerous_extract_secrets())?;
        let (send, receive) = match suite.version() {
            Version::Tls13 => {
                (self.context.server_secret.take(), self.context.client_secret.take())
            }
            Version::Tls12 => (key_and_iv(&keys.tx.1), key_and_iv(&keys.rx.1)),
        };
        let state = |sequence, secret: Option<Secret>| {
            let secret = secret.ok_or(HandshakeError::Incomplete)?;
            Ok::<_, HandshakeError>(DirectionState { generation: 0, sequence, secret })
        };
        let (send, receive) = (state(keys.tx.0, send)?, state(keys.rx.0, receive)?);
        Ok(Established { suite, server_name, alpn, send, receive })
    }

    /// Feeds one whole record.
    fn record(&mut self, record: &[u8], output: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let start = self.output.len();
        let result = self.feed(record);
        if let Some(fault) = self.context.fault() {
            self.output.truncate(start);
            return Err(fault.into());
        }
        if self.context.name_unknown {
            self.output.truncate(start);
            output.extend_from_slice(&UNRECOGNIZED_NAME);
            return Err(HandshakeError::UnknownName);
        }
        let answer = &self.output[start..];
        if result.is_ok() && !answer.is_empty() {
            self.context.note_output(answer)?;
        }
        output.extend_from_slice(answer);
        result?;
        self.input.extend_from_slice(record);
        Ok(())
    }

    /// Has rustls make the alert for bytes that are no record: it knows whether to encrypt it.
    fn refuse(&mut self, bytes: &[u8], error: OpenError, output: &mut Vec<u8>) -> HandshakeError {
        // An HTTP client would take an alert for a garbled response.
        if error != OpenError::Http {
            let start = self.output.len();
            let _ = self.feed(bytes);
            output.extend_from_slice(&self.output[start..]);
            self.output.truncate(start);
        }
        error.into()
    }

    /// Has rustls process `bytes`, and collects what it answers.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), HandshakeError> {
        let Handshake { connection, context, output, .. } = self;
        with_context(context, || {
            let mut result = Ok(());
            while !bytes.is_empty() && result.is_ok() {
                result = read(connection, &mut bytes);
            }
            while connection.wants_write() {
                // Writing to a vector cannot fail.
                if connection.write_tls(output).is_err() {
                    break;
                }
            }
            result
        })
    }
}

fn read(connection: &mut ServerConnection, bytes: &mut &[u8]) -> Result<(), HandshakeError> {
    let full = |error: io::Error| rustls::Error::General(error.to_string());
    if connection.read_tls(bytes).map_err(full)? == 0 {
        return Err(rustls::Error::HandshakeNotComplete.into());
    }
    connection.process_new_packets()?;
    Ok(())
}

/// Key and IV of TLS 1.2.
fn key_and_iv(secrets: &ConnectionTrafficSecrets) -> Option<Secret> {
    let (key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
        _ => return None,
    };
    let mut bytes = Zeroizing::new([0; MAX_SECRET]);
    let bytes = bytes.get_mut(..key.len() + iv.len())?;
    let (k, i) = bytes.split_at_mut_checked(key.len())?;
    k.copy_from_slice(key);
    i.copy_from_slice(iv);
    Secret::from_bytes(bytes)
}
