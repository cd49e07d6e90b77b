//! The cluster's configuration document: the part of a configuration that is the same at every node,
//! the listeners.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use relay_views::view::{DOCUMENT_MAX, VIPS_MAX};

use super::error::{ConfigError, Source};
use super::{Listener, parse, resolve};

/// What a node adds to a document, from its own configuration.
#[derive(Clone)]
pub struct Basis {
    /// Relative names of files count from here: where the node's own configuration file is.
    pub directory: PathBuf,
    /// The cluster addresses of all relays, which nothing else may have.
    pub nodes: Vec<IpAddr>,
    /// The pre-shared key of the cluster.
    pub key: [u8; 32],
}

/// A document, complete and checked.
#[derive(Clone, Debug)]
pub struct Document {
    /// What is served; at least one.
    pub listeners: Vec<Listener>,
    /// As [`super::Config::warnings`].
    pub warnings: Vec<String>,
}

impl Document {
    /// Reads and checks `text`, and the files that it names. In errors it is called `name`.
    ///
    /// # Errors
    /// The first mistake, with its place and remedy.
    pub fn read(text: &[u8], name: &Path, basis: &Basis) -> Result<Document, ConfigError> {
        if text.len() > DOCUMENT_MAX {
            let problem = format!("the document has {} bytes", text.len());
            let remedy = format!("keep it within {DOCUMENT_MAX}");
            return Err(ConfigError::of_file(name, problem, &remedy));
        }
        let text = std::str::from_utf8(text)
            .map_err(|_| ConfigError::of_file(name, "is not UTF-8", "save it as UTF-8"))?;
        let source = Source { path: name, text };
        let file: parse::DocumentFile = parse::parse(&source)?;
        let document = resolve::resolve_document(&file, &source, basis)?;
        let vips = document.vips().len();
        if vips > VIPS_MAX {
            let problem = format!("the listeners have {vips} addresses");
            let remedy = format!("serve at most {VIPS_MAX} addresses with one cluster");
            return Err(ConfigError::of_file(name, problem, &remedy));
        }
        Ok(document)
    }

    /// The virtual addresses, each once.
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        self.listeners.iter().flat_map(|listener| &listener.addresses).copied().collect()
    }
}

// Keys never reach a log.
impl fmt::Debug for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basis").field("directory", &self.directory).finish_non_exhaustive()
    }
}
