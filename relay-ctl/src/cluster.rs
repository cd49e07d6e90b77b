//! The cluster's authority and its nodes' certificates: files of PEM in one directory.
//!
//! Nothing is ever overwritten. Everything has mode 0600, the certificates too: whoever copies one
//! to its node copies the key with it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use relay_abi::id::{NodeId, certificate_name};

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// Node ids of a council: see `cluster.council.member` in docs/CONFIG.md.
const NODES: std::ops::RangeInclusive<i64> = 1..=63;

/// What is made.
#[derive(Subcommand)]
pub enum Action {
    /// A new authority: ca.pem for every node, ca.key for nobody but who issues certificates
    Init {
        /// Where; made if missing
        #[arg(long, value_name = "PATH")]
        directory: PathBuf,
    },
    /// A node's certificate and key, node-N.pem and node-N.key, issued by the authority there
    Certificate {
        /// Where `cluster init` put the authority
        #[arg(long, value_name = "PATH")]
        directory: PathBuf,
        /// Id of the node, 1 to 63; may be repeated
        #[arg(long, value_name = "ID", required = true, value_parser = clap::value_parser!(u8).range(NODES))]
        node: Vec<u8>,
    },
}

/// Does it, and says what was made.
pub fn run(action: &Action) -> Result<String, String> {
    match action {
        Action::Init { directory } => init(directory),
        Action::Certificate { directory, node } => {
            let issuer = issuer(directory)?;
            node.iter().map(|id| issue(directory, &issuer, NodeId(*id))).collect()
        }
    }
}

fn init(directory: &Path) -> Result<String, String> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| format!("{}: cannot be created: {error}", directory.display()))?;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = authority(&key)?.self_signed(&key).map_err(failed)?;
    let (ca, ca_key) = (directory.join(CA), directory.join(CA_KEY));
    write(&ca_key, &key.serialize_pem())?;
    write(&ca, &certificate.pem())?;
    Ok(format!(
        "{}: goes to every node\n{}: keep it away from the nodes: who has it can make any node\n",
        ca.display(),
        ca_key.display()
    ))
}

/// What is certified about an authority follows from its key, so that the key is enough to issue.
fn authority(key: &KeyPair) -> Result<CertificateParams, String> {
    let mut parameters = CertificateParams::new(Vec::new()).map_err(failed)?;
    let digits: String =
        parameters.key_identifier(key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters.distinguished_name.push(DnType::CommonName, format!("relay cluster {digits}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

fn issuer(directory: &Path) -> Result<Issuer<'static, KeyPair>, String> {
    let path = directory.join(CA_KEY);
    let text = fs::read_to_string(&path).map_err(|error| {
        format!("{}: {error}: make the authority with relay-ctl cluster init", path.display())
    })?;
    let key = KeyPair::from_pem(&text)
        .map_err(|error| format!("{}: not an authority's key: {error}", path.display()))?;
    Ok(Issuer::new(authority(&key)?, key))
}

fn issue(directory: &Path, issuer: &Issuer<'_, KeyPair>, node: NodeId) -> Result<String, String> {
    let mut parameters = CertificateParams::new(vec![certificate_name(node)]).map_err(failed)?;
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters.distinguished_name.push(DnType::CommonName, format!("node {node}"));
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = parameters.signed_by(&key, issuer).map_err(failed)?;
    let file = |end: &str| directory.join(format!("node-{node}.{end}"));
    write(&file("key"), &key.serialize_pem())?;
    write(&file("pem"), &certificate.pem())?;
    Ok(format!("{} and {}: for node {node}\n", file("pem").display(), file("key").display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => format!(
            "{}: exists, and is not overwritten: choose another directory, or remove it if no node \
             needs it",
            path.display()
        ),
        _ => format!("{}: cannot be written: {error}", path.display()),
    })
}

fn failed(error: rcgen::Error) -> String {
    format!("no certificate: {error}")
}
