//! The cluster's configuration at one node: from a document's text to listeners, and what the operator
//! asks about it. None of it is for the worker's thread: files are read, and keys checked.

use std::path::Path;
use std::sync::Arc;

use relay_abi::control::{MAX_DOCUMENT, MAX_DOCUMENT_NAME, Request, Response};
use relay_core::config::Listener;
use relay_views::Command;
use relay_views::view::DOCUMENT_MAX;

use crate::config::{Basis, ConfigError, Document};
use crate::council::Reporter;
use crate::start::{self, StartError};

// The operator's limit is the council's.
const _: () = assert!(MAX_DOCUMENT == DOCUMENT_MAX);

/// What is answered where nobody can agree on anything.
pub const NO_COUNCIL: &str = "this relay has no council, and without one every node has its own \
                              configuration: see [cluster.council] in docs/CONFIG.md";

/// What is wrong with a document at this node.
#[derive(Debug, thiserror::Error)]
pub enum Mistake {
    /// Its text, or a file that it names.
    #[error(transparent)]
    Text(#[from] ConfigError),
    /// A listener's certificates cannot be used.
    #[error("{name}: {cause}")]
    Listener {
        /// What the document is called.
        name: String,
        /// What is wrong.
        cause: StartError,
    },
}

/// A document that this node could apply.
pub struct Loaded {
    /// With their certificates, which are checked.
    pub listeners: Arc<[Listener]>,
    /// The document as it is written.
    pub document: Document,
}

/// Reads and checks a document and everything that it names.
///
/// # Errors
/// When this node could not apply it.
pub fn load(text: &[u8], name: &str, basis: &Basis) -> Result<Loaded, Mistake> {
    let document = Document::read(text, Path::new(name), basis)?;
    let listeners = start::resolve_all(&document.listeners, &basis.key)
        .map_err(|cause| Mistake::Listener { name: name.to_owned(), cause })?;
    Ok(Loaded { listeners: listeners.into(), document })
}

/// The operator's questions and orders about the cluster's configuration, for the control socket's
/// thread.
pub struct Operator {
    reporter: Reporter,
    basis: Basis,
}

impl Operator {
    /// Of a relay with a council.
    pub fn new(reporter: Reporter, basis: Basis) -> Operator {
        Operator { reporter, basis }
    }

    /// The answer, if it is about that.
    pub fn answer(&self, request: &Request) -> Option<Response> {
        match request {
            Request::Configuration => Some(self.reporter.configuration().answer()),
            Request::Configure { name, text } => Some(self.configure(name, text)),
            Request::WithdrawConfiguration => Some(self.withdraw()),
            _ => None,
        }
    }

    /// What this node can not apply, no other one is bothered with.
    fn configure(&self, name: &str, text: &str) -> Response {
        if name.len() > MAX_DOCUMENT_NAME {
            return Response::Error(format!("the name is longer than {MAX_DOCUMENT_NAME} bytes"));
        }
        let known = self.reporter.configuration();
        if let Some(proposed) = &known.agreed.proposed {
            return Response::Error(format!(
                "generation {} is being prepared: wait for it, or drop it with `relay-ctl config \
                 withdraw`",
                proposed.generation
            ));
        }
        if !known.is_known {
            return Response::Error("this node knows no view of the cluster yet: try again".into());
        }
        if let Some(member) = known.unable.iter().next() {
            return Response::Error(format!(
                "node {member} is of a version that knows no documents, or no link to it has been \
                 made yet: upgrade all members first, witnesses too"
            ));
        }
        let loaded = match load(text.as_bytes(), name, &self.basis) {
            Ok(loaded) => loaded,
            Err(mistake) => return Response::Mistake(mistake.to_string()),
        };
        let generation = known.agreed.next();
        let vips = loaded.document.vips().into_iter().collect();
        let bytes = text.as_bytes().into();
        self.reporter.propose(Command::Configure { generation, bytes, vips });
        Response::Configured { generation }
    }

    fn withdraw(&self) -> Response {
        match self.reporter.configuration().agreed.proposed {
            Some(document) => {
                let generation = document.generation;
                self.reporter.propose(Command::Withdraw { generation, objection: None });
                Response::Configured { generation }
            }
            None => Response::Error("no document is being prepared".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
