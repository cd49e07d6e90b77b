//! The shape of the file. Every value that can be wrong knows its place.

use serde::de::{self, Deserialize, Deserializer, Visitor};
use toml::Spanned;

use super::error::{ConfigError, Source};

/// Gives the text its shape: [`File`], [`DocumentFile`] or [`WitnessFile`].
pub(super) fn parse<T: de::DeserializeOwned>(source: &Source<'_>) -> Result<T, ConfigError> {
    toml::from_str(source.text).map_err(|error| {
        let message = error.message().trim_end().replace("expected i64", "expected an integer");
        let remedy = if message.starts_with("unknown field") {
            "remove it, or correct its spelling"
        } else if message.starts_with("missing field") {
            "add it (docs/CONFIG.md shows a complete file)"
        } else if message.starts_with("invalid type") || message.starts_with("invalid value") {
            "docs/CONFIG.md says what belongs here"
        } else if message.starts_with("duplicate key") {
            "keep one of the two"
        } else {
            "correct the TOML syntax"
        };
        let problem = message.replace('\n', ", ");
        // What is missing at the top level has the empty span at the beginning for its place.
        match error.span().filter(|span| span.end > 0) {
            Some(span) => source.error(span, problem, remedy),
            None => ConfigError::of_file(source.path, problem, remedy),
        }
    })
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub node: Node,
    pub ports: Ports,
    #[serde(default)]
    pub worker: Worker,
    pub cluster: Cluster,
    pub virtual_mac: VirtualMac,
    #[serde(default)]
    pub limits: Limits,
    pub listener: Spanned<Vec<Listener>>,
}

/// The part that a cluster agrees on.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DocumentFile {
    pub listener: Spanned<Vec<Listener>>,
}

/// A witness has no data plane.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WitnessFile {
    pub node: Node,
    pub cluster: WitnessCluster,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WitnessCluster {
    pub council: Council,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub id: Spanned<i64>,
    pub control: Spanned<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ports {
    pub client: Spanned<String>,
    pub backend: Spanned<String>,
    pub cluster: Spanned<String>,
    #[serde(default)]
    pub mode: Option<Spanned<String>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Worker {
    pub count: Option<Spanned<i64>>,
    pub core: Option<Spanned<i64>>,
    pub cores: Option<Spanned<Vec<Spanned<i64>>>>,
    pub realtime: Option<bool>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub key_file: Spanned<String>,
    pub address: Spanned<String>,
    pub udp_port: Spanned<i64>,
    pub heartbeat_ms: Spanned<i64>,
    pub timeout_ms: Spanned<i64>,
    /// A cluster of one has none.
    #[serde(default)]
    pub peer: Vec<Peer>,
    pub without_council: Option<Spanned<bool>>,
    pub council: Option<Council>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Council {
    pub directory: Spanned<String>,
    pub certificate: Spanned<String>,
    pub key: Spanned<String>,
    pub ca: Spanned<String>,
    pub without_witness: Option<Spanned<bool>>,
    pub units: Option<Spanned<i64>>,
    pub protocol: Option<Spanned<i64>>,
    pub member: Spanned<Vec<CouncilMember>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CouncilMember {
    pub id: Spanned<i64>,
    pub address: Spanned<String>,
    pub kind: Option<Spanned<String>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub id: Spanned<i64>,
    pub address: Spanned<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VirtualMac {
    pub client: Spanned<String>,
    pub backend: Spanned<String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub flows: Option<Spanned<i64>>,
    pub receive_buffer: Option<Spanned<i64>>,
    pub send_buffer: Option<Spanned<i64>>,
    pub hold_ms: Option<Spanned<Hold>>,
    pub idle_s: Option<Spanned<i64>>,
    pub keepalive_s: Option<Spanned<i64>>,
    pub stalled_s: Option<Spanned<i64>>,
    pub accepts_per_s: Option<Spanned<i64>>,
    pub replicated_mb: Option<Spanned<i64>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub addresses: Spanned<Vec<Spanned<String>>>,
    pub port: Spanned<i64>,
    pub snat: Spanned<Vec<Spanned<String>>>,
    pub backends: Spanned<Vec<Spanned<String>>>,
    pub congestion: Option<Spanned<String>>,
    pub certificate: Spanned<Vec<Certificate>>,
    pub client_ca: Option<Spanned<String>>,
    pub client_auth: Option<Spanned<String>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    pub chain: Spanned<String>,
    pub key: Spanned<String>,
}

/// `hold_ms`: a number of milliseconds or a word.
pub(super) enum Hold {
    Milliseconds(f64),
    Word(String),
}

impl<'de> Deserialize<'de> for Hold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HoldVisitor)
    }
}

struct HoldVisitor;

impl Visitor<'_> for HoldVisitor {
    type Value = Hold;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number of milliseconds, \"measured\" or \"infinite\"")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Hold, E> {
        Ok(Hold::Milliseconds(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Hold, E> {
        Ok(Hold::Milliseconds(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Hold, E> {
        Ok(Hold::Word(value.to_owned()))
    }
}
