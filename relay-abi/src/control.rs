//! The control protocol: JSON over a Unix stream socket.
//!
//! A client connects, sends one [`Request`] on one line, reads one [`Response`] on one line, and
//! the relay closes the connection. Fields are only ever added, never renamed: operators script
//! against `relay-ctl --json`, which prints them unchanged.

use std::boxed::Box;
use std::io::{self, BufRead, Read};
use std::string::String;
use std::vec::Vec;

use serde::{Deserialize, Serialize};

/// Longest configuration document, in bytes.
pub const MAX_DOCUMENT: usize = 256 * 1024;

/// Longest request line, in bytes, newline included: a document in which every byte is escaped, and
/// a few words.
pub const MAX_REQUEST_LINE: usize = 2 * MAX_DOCUMENT + 8 * 1024;

/// Most flows in one response. What is left out shows in [`FlowList::total`].
pub const MAX_FLOWS: usize = 4096;

/// Flows in a response to a request that names no limit.
pub const DEFAULT_FLOWS: usize = 1024;

/// Most peers in one [`StatusReport`].
pub const MAX_PEERS: usize = 255;

/// Greatest weight of a node.
pub const MAX_WEIGHT: u16 = 1000;

/// Weight of a node for which nobody said another one.
pub const DEFAULT_WEIGHT: u16 = 100;

/// Most counters in one response.
pub const MAX_COUNTERS: usize = 1024;

/// Upper bound of one [`FlowReport`] as JSON: a server name of 255 bytes (RFC 6066 section 3),
/// four endpoints, two names of TLS, and the keys.
const MAX_FLOW_LINE: usize = 1536;

/// Longest response line, in bytes, newline included.
pub const MAX_RESPONSE_LINE: usize = 8 << 20;

const _: () = assert!(DEFAULT_FLOWS <= MAX_FLOWS);
const _: () = assert!(MAX_FLOWS * MAX_FLOW_LINE < MAX_RESPONSE_LINE);

/// Longest name of a document, in bytes.
pub const MAX_DOCUMENT_NAME: usize = 1024;

const _: () = assert!(MAX_DOCUMENT * 6 < MAX_RESPONSE_LINE);

/// What an operator asks a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The node, its role and its peers.
    Status,
    /// The flows that this node owns.
    Flows {
        /// Most flows wanted; [`DEFAULT_FLOWS`] if absent, never more than [`MAX_FLOWS`].
        #[serde(default)]
        limit: Option<usize>,
    },
    /// Every counter of the node.
    Counters,
    /// Move everything away from a node, and give it nothing new.
    Drain {
        /// Which.
        node: u8,
    },
    /// The node may carry traffic again.
    Undrain {
        /// Which.
        node: u8,
    },
    /// How much a node should own, in relation to the others.
    Weigh {
        /// Which.
        node: u8,
        /// 1 to [`MAX_WEIGHT`]; a new member has [`DEFAULT_WEIGHT`].
        weight: u16,
    },
    /// What configuration the cluster agrees on.
    Configuration,
    /// Have the cluster agree on this configuration.
    Configure {
        /// What the document is called in errors; at most [`MAX_DOCUMENT_NAME`] long.
        name: String,
        /// The document, at most [`MAX_DOCUMENT`] long.
        text: String,
    },
    /// Drop the proposed configuration.
    WithdrawConfiguration,
}

/// What a relay answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(StatusReport),
    /// To [`Request::Flows`].
    Flows(FlowList),
    /// To [`Request::Counters`]; at most [`MAX_COUNTERS`].
    Counters(Vec<CounterReport>),
    /// To [`Request::Drain`], [`Request::Undrain`] and [`Request::Weigh`]: the council was asked. [`Request::Status`] says
    /// what came of it.
    Proposed,
    /// To [`Request::Configuration`].
    Configuration {
        /// What is in force, and what is being prepared.
        report: ConfigurationReport,
        /// The document in force; empty if there is none.
        text: String,
    },
    /// To [`Request::Configure`] and [`Request::WithdrawConfiguration`]: the council was asked.
    /// [`Request::Configuration`] says what came of it.
    Configured {
        /// The number of the document.
        generation: u64,
    },
    /// To [`Request::Configure`]: the document has a mistake; the text is for people.
    Mistake(String),
    /// The request was refused or could not be answered; the text is for people.
    Error(String),
}

/// What a node does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Not part of a view yet.
    Starting,
    /// Carries the traffic.
    Owner,
    /// Holds a complete shadow and may take over.
    Backup,
    /// Is being filled and may not take over yet.
    Learner,
    /// Cut off: carries nothing and may not take over.
    Isolated,
    /// Only votes.
    Witness,
}

impl Role {
    /// The name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Starting => "starting",
            Role::Owner => "owner",
            Role::Backup => "backup",
            Role::Learner => "learner",
            Role::Isolated => "isolated",
            Role::Witness => "witness",
        }
    }
}

/// A node as it sees itself and its peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The node's id.
    pub node: u8,
    /// Version of the relay's program.
    pub version: String,
    /// This boot of the node (rule 9), in hex.
    pub incarnation: String,
    /// What the node does.
    pub role: Role,
    /// Owner: every peer of the view holds everything that was released. Others: this node does.
    pub in_sync: bool,
    /// Highest term seen.
    pub term: u64,
    /// Number of the installed view.
    pub view: u64,
    /// Milliseconds since the process began to serve.
    pub uptime_ms: u64,
    /// Flows that this node owns.
    pub flows: u64,
    /// Flows of which this node holds a shadow.
    pub shadows: u64,
    /// Flows ever owned.
    pub flows_total: u64,
    /// Takeovers since the start.
    pub takeovers: u64,
    /// Milliseconds that the last takeover needed, from the suspicion to the first release.
    pub takeover_ms: Option<f64>,
    /// Every other node of the cluster, at most [`MAX_PEERS`].
    pub peers: Vec<PeerReport>,
    /// Who owns the flows in the installed view.
    #[serde(default)]
    pub owner: Option<u8>,
    /// Buckets that this node owns.
    pub buckets_owned: u32,
    /// Units of ownership, which buckets move by; absent from a node that does not know.
    #[serde(default)]
    pub units: Option<u8>,
    /// How many buckets each relay owns in the installed view, by rising id.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// It answers for the cluster's addresses: frames of clients and backends reach it first.
    #[serde(default)]
    pub holds_addresses: bool,
    /// What this node's council does; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub council: Option<Box<CouncilReport>>,
}

/// What a relay owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The relay's id.
    pub node: u8,
    /// Buckets.
    pub buckets: u32,
}

/// The part that a node takes in the consensus about views.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouncilReport {
    /// `relay` or `witness`.
    pub kind: String,
    /// This node's place: id and number of its disk.
    pub seat: String,
    /// Who leads, as far as this node knows.
    pub leader: Option<u8>,
    /// The term of that leader.
    pub term: u64,
    /// Number of the newest view that this node knows to be committed.
    pub view: u64,
    /// Who is in it, at most [`MAX_PEERS`].
    pub members: Vec<CouncilMember>,
    /// What keeps this node from taking part, for people.
    pub trouble: Option<String>,
    /// What configuration the cluster agrees on; absent from a node that does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationReport>,
}

/// What configuration a cluster agrees on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationReport {
    /// Number of the document in force; 0: every node has its own configuration.
    pub generation: u64,
    /// Number of the document that is being prepared.
    pub proposed: Option<u64>,
    /// Relays that hold it.
    pub prepared: Vec<u8>,
    /// Live relays that do not hold it yet.
    pub awaited: Vec<u8>,
    /// The last document that did not come into force.
    pub withdrawn: Option<WithdrawnReport>,
    /// Numbers of the documents that the answering node holds.
    pub held: Vec<u64>,
    /// What keeps the answering node from using the document in force, for people.
    pub trouble: Option<String>,
}

/// A document that did not come into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawnReport {
    /// Its number.
    pub generation: u64,
    /// Who could not apply it; absent if an operator withdrew it.
    pub node: Option<u8>,
    /// Why, for people.
    pub reason: Option<String>,
}

/// A member of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouncilMember {
    /// Its id.
    pub id: u8,
    /// `relay` or `witness`.
    pub kind: String,
    /// `joining`, `live`, `draining` or `dead`.
    pub state: String,
    /// Its boot, in hex.
    pub incarnation: String,
    /// Its vote counts at present.
    pub votes: bool,
    /// How much it should own, in relation to the other relays.
    #[serde(default)]
    pub weight: u16,
}

/// A peer, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The peer's id.
    pub id: u8,
    /// The peer's cluster address.
    pub address: String,
    /// Heard within the timeout.
    pub alive: bool,
    /// The boot of the peer that was heard last, in hex.
    pub incarnation: Option<String>,
    /// What the peer said that it does.
    pub role: Option<Role>,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// Bytes of the log that the peer has not acknowledged.
    pub lag_bytes: u64,
    /// Milliseconds since the peer was heard.
    pub last_heard_ms: Option<u64>,
    /// The peer is in the in-sync set (rule 3).
    pub in_sync: bool,
    /// Version of the datagrams that are exchanged with it.
    #[serde(default)]
    pub version: Option<u8>,
}

/// The answer to [`Request::Flows`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowList {
    /// Flows that the node has; more than `flows` when the limit cut the list.
    pub total: u64,
    /// The flows, at most the requested number.
    pub flows: Vec<FlowReport>,
}

/// One flow: a client connection and its backend connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// The unique flow id, in hex.
    pub id: String,
    /// The owner's node id.
    pub owner: u8,
    /// Node ids of the backups.
    pub backups: Vec<u8>,
    /// `address:port` of the client.
    pub client: String,
    /// `address:port` that the client connected to.
    pub vip: String,
    /// `address:port` of the backend.
    pub backend: String,
    /// `address:port` that the backend sees as its client.
    pub snat: String,
    /// Such as `TLSv1.3`; empty before the handshake settled it.
    pub tls_version: String,
    /// Such as `TLS13_AES_128_GCM_SHA256`; empty before the handshake settled it.
    pub suite: String,
    /// The server name that the client asked for (RFC 6066 section 3); empty if it named none.
    pub server_name: String,
    /// Plaintext bytes from the client to the backend.
    pub bytes_up: u64,
    /// Plaintext bytes from the backend to the client.
    pub bytes_down: u64,
    /// Where the flow is in its life, such as `handshake` or `established`.
    pub state: String,
    /// Milliseconds since the client's connection was accepted.
    pub age_ms: u64,
    /// The client's connection.
    #[serde(default)]
    pub client_tcp: TcpReport,
    /// The backend's connection; all zero before there is one.
    #[serde(default)]
    pub backend_tcp: TcpReport,
}

/// Where a TCP connection of a flow stands, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpReport {
    /// Received in order.
    pub received: u64,
    /// Of these, those that are still needed: they have not left to the other end, or may have to once more.
    pub kept: u64,
    /// Received and not acknowledged: the cluster does not hold it yet, or the ACK lags.
    pub withheld: u64,
    /// What the peer may send beyond the last acknowledgement.
    pub offered: u64,
    /// Written to the peer, sent or not.
    pub written: u64,
    /// Of these, those that the peer has not acknowledged.
    pub unacked: u64,
    /// Of those, the ones that may leave, since the cluster could send them, too.
    pub sendable: u64,
    /// What the peer takes beyond its last acknowledgement.
    pub window: u64,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterReport {
    /// What the counter belongs to, such as `drop` or `xdp`.
    pub group: String,
    /// The counter's name, unique in its group.
    pub name: String,
    /// Events since the start.
    pub value: u64,
}

/// Reads one line of at most `limit` bytes, newline included, and returns it without the newline.
///
/// # Errors
/// `InvalidData` when the line is longer, `UnexpectedEof` when the stream ends before its newline,
/// and whatever `reader` reports.
pub fn read_line(reader: &mut impl BufRead, limit: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(limit as u64).read_until(b'\n', &mut line)?;
    if line.pop_if(|last| *last == b'\n').is_some() {
        return Ok(line);
    }
    Err(if line.len() == limit {
        io::Error::new(io::ErrorKind::InvalidData, "the line is too long")
    } else {
        io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within a line")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_newline_and_stays_within_the_limit() {
        let read = |bytes: &[u8], limit| {
            read_line(&mut io::BufReader::new(bytes), limit).map_err(|error| error.kind())
        };
        assert_eq!(read(b"abc\ndef\n", 4), Ok(b"abc".to_vec()));
        assert_eq!(read(b"\n", 1), Ok(Vec::new()));
        assert_eq!(read(b"abcd\n", 4), Err(io::ErrorKind::InvalidData));
        assert_eq!(read(b"abc", 4), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(read(b"", 4), Err(io::ErrorKind::UnexpectedEof));
    }
}
