//! The cluster's authority and its nodes' certificates: files of PEM in one directory.
//!
//! Nothing is ever overwritten. Everything has mode 0600, the certificates too: whoever copies one
//! to its node copies the key with it. Nodes that join with a token make their own key.

mod authority;
mod door;
mod files;
mod join;
mod tls;
mod token;
mod words;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use rcgen::KeyPair;
use relay_abi::id::NodeId;

use self::authority::{Authority, CA, CA_KEY};
use self::token::Token;

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
    /// A token for one new node; waits until the node has joined with it
    Token(door::Offer),
    /// On a new node: makes its key, and has it certified by who gave the token
    Join {
        /// What `cluster token` printed
        #[arg(value_name = "TOKEN")]
        token: Token,
        /// Where the files go; made if missing
        #[arg(long, value_name = "PATH")]
        directory: PathBuf,
    },
}

/// Does it, and says what was made.
pub fn run(action: &Action) -> Result<String, String> {
    match action {
        Action::Init { directory } => init(directory),
        Action::Certificate { directory, node } => {
            let authority = authority::read(directory)?;
            node.iter().map(|id| issue(directory, &authority, NodeId(*id))).collect()
        }
        Action::Token(offer) => door::run(offer).map(|()| String::new()),
        Action::Join { token, directory } => join::run(token, directory),
    }
}

fn init(directory: &Path) -> Result<String, String> {
    files::make_directory(directory)?;
    let key = KeyPair::generate().map_err(authority::failed)?;
    let certificate = authority::certificate_of(&key)?;
    let (ca, ca_key) = (directory.join(CA), directory.join(CA_KEY));
    files::write(&ca_key, &key.serialize_pem())?;
    files::write(&ca, &certificate)?;
    Ok(format!(
        "{}: goes to every node\n{}: keep it away from the nodes: who has it can make any node\n",
        ca.display(),
        ca_key.display()
    ))
}

fn issue(directory: &Path, authority: &Authority, node: NodeId) -> Result<String, String> {
    let key = KeyPair::generate().map_err(authority::failed)?;
    let certificate = authority::certify(authority, node, &key)?;
    let file = |end: &str| directory.join(format!("node-{node}.{end}"));
    files::write(&file("key"), &key.serialize_pem())?;
    files::write(&file("pem"), &certificate)?;
    Ok(format!("{} and {}: for node {node}\n", file("pem").display(), file("key").display()))
}
