//! The document of a cluster.

use super::{Resolver, Result, Role};
use crate::config::error::Source;
use crate::config::{Basis, Document, parse};

/// Turns the parsed document into listeners, as this node has them.
pub(in crate::config) fn resolve_document(
    file: &parse::DocumentFile,
    source: &Source<'_>,
    basis: &Basis,
) -> Result<Document> {
    let mut resolver = Resolver { directory: &basis.directory, ..Resolver::new(source) };
    resolver.roles.extend(basis.nodes.iter().map(|node| (*node, Role::Node)));
    let listeners = resolver.listeners(&file.listener)?;
    Ok(Document { listeners, warnings: resolver.warnings })
}
