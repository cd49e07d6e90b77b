//! Who may talk to whom: certificates of one authority, each for one node.
//!
//! A node's certificate names it as `node-3.cluster.relay` (a DNS name of its subject's alternative
//! names), and nothing else. Both ends of a link show theirs, over TLS 1.3.

use std::io;
use std::sync::Arc;

use relay_abi::id::CERTIFICATE_DOMAIN;
pub use relay_abi::id::certificate_name as name;
use relay_abi::peer::VERSION_PAIR;
use relay_core::replica::PairKey;
use relay_views::id::{NODE_IDS, NodeId};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ConnectionCommon, RootCertStore,
    ServerConfig, client,
};

/// Nothing else that is signed by the same authority is taken for a council.
const PROTOCOL: &[u8] = b"relay-council";

/// The same, from a node that speaks version 5 of datagrams. Who speaks both prefers this one, and
/// nobody without a certificate can have two nodes agree on the other.
const PROTOCOL_PAIR: &[u8] = b"relay-council/5";

/// The same, from a node that knows documents of the cluster's configuration. Without an operator's
/// order they change nothing, so that this is not a version of its own.
const PROTOCOL_DOCUMENTS: &[u8] = b"relay-council/5+documents";

/// Label and context of the exporter (RFC 8446 section 7.5): the pair's ids, the dialer's first.
const EXPORTER: &[u8] = b"EXPORTER-relay-datagrams";

/// Certificates of one authority, and of one chain.
const CERTIFICATES_MAX: usize = 16;

/// This node's certificate, and whom it trusts.
#[derive(Debug)]
pub struct Trust {
    /// For connections from others.
    pub server: Arc<ServerConfig>,
    /// For connections to others.
    pub client: Arc<ClientConfig>,
}

/// Why certificates can not be used; the text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file is not what it should be.
    #[error("{what}: {cause}: make it anew with `relay-ctl cluster certificate`")]
    Unreadable {
        /// Which.
        what: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// The certificate is not of the authority.
    #[error(
        "cluster.council.certificate: it is not of the authority in cluster.council.ca \
         ({0}): issue it with the cluster's own authority"
    )]
    Authority(rustls::Error),
    /// The certificate is another node's.
    #[error(
        "cluster.council.certificate: it is not for node {own}, but for {named}: name this node's \
         own certificate, or correct node.id"
    )]
    OtherNode {
        /// This node.
        own: NodeId,
        /// What the certificate says.
        named: String,
    },
}

/// The only node that a certificate names.
pub fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = parsed.valid_dns_names();
    let named = names.next().filter(|_| names.next().is_none())?;
    let digits = named.strip_prefix("node-")?.strip_suffix(CERTIFICATE_DOMAIN)?;
    let node = digits.parse().ok().map(NodeId).filter(|node| node.0 < NODE_IDS)?;
    // Written in one way only.
    (named == name(node)).then_some(node)
}

impl Trust {
    /// Reads PEM: this node's chain and key, and the cluster's authority. `protocol` is the highest
    /// version of datagrams that this node speaks.
    ///
    /// # Errors
    /// When others would refuse this node.
    pub fn new(
        own: NodeId,
        (chain, key): (&[u8], &[u8]),
        ca: &[u8],
        protocol: u8,
    ) -> Result<Trust, TrustError> {
        let unreadable = |what| move |cause: String| TrustError::Unreadable { what, cause };
        let chain = certificates(chain).map_err(unreadable("cluster.council.certificate"))?;
        let authority = certificates(ca).map_err(unreadable("cluster.council.ca"))?;
        let key = || {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| error.to_string());
            key.map_err(unreadable("cluster.council.key"))
        };
        let mut roots = RootCertStore::empty();
        for certificate in authority {
            let added = roots.add(certificate).map_err(|error| error.to_string());
            added.map_err(unreadable("cluster.council.ca"))?;
        }
        let (provider, roots) = (Arc::new(provider()), Arc::new(roots));
        verify(own, &chain, &roots, &provider)?;
        let wrong = |error: rustls::Error| unreadable("cluster.council.key")(error.to_string());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = verifier.build().map_err(|error| error.to_string());
        let verifier = verifier.map_err(unreadable("cluster.council.ca"))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(wrong)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(wrong)?;
        // Every connection shows its certificates.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let newest = [PROTOCOL_DOCUMENTS, PROTOCOL_PAIR].map(<[u8]>::to_vec).into_iter();
        let newest = newest.filter(|_| protocol >= VERSION_PAIR);
        let protocols: Vec<_> = newest.chain([PROTOCOL.to_vec()]).collect();
        server.alpn_protocols.clone_from(&protocols);
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(wrong)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(wrong)?;
        client.resumption = Resumption::disabled();
        client.alpn_protocols = protocols;
        Ok(Trust { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// What the ends of a link that was dialed by the lower node have in common from now on.
///
/// # Errors
/// When the handshake is not over.
pub fn pair_key<D>(
    link: &ConnectionCommon<D>,
    (dialer, listener): (NodeId, NodeId),
) -> Result<PairKey, rustls::Error> {
    if !matches!(link.alpn_protocol(), Some(PROTOCOL_PAIR | PROTOCOL_DOCUMENTS)) {
        return Ok(PairKey::Shared);
    }
    PairKey::secret(|secret| {
        let context = [dialer.0, listener.0];
        link.export_keying_material(secret, EXPORTER, Some(&context)).map(drop)
    })
}

/// Whether the other end of a link knows documents.
pub fn knows_documents<D>(link: &ConnectionCommon<D>) -> bool {
    link.alpn_protocol() == Some(PROTOCOL_DOCUMENTS)
}

/// What a handshake failed of, as far as a certificate is to blame for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The peer's certificate is of another authority, or shows none.
    Authority,
    /// The peer's certificate is for another node.
    Name,
    /// The peer's certificate is not valid at this time, by this machine's clock.
    Date,
    /// The peer refuses ours.
    Ours,
}

/// Whom to blame for a failed handshake.
pub fn blame(error: &io::Error) -> Option<Blame> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match error {
        rustls::Error::NoCertificatesPresented => Some(Blame::Authority),
        rustls::Error::InvalidCertificate(problem) => Some(match problem {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Blame::Name
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Blame::Date,
            _ => Blame::Authority,
        }),
        rustls::Error::AlertReceived(alert) => {
            let ours = matches!(
                alert,
                AlertDescription::AccessDenied
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateRequired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::DecryptError
                    | AlertDescription::UnknownCA
            );
            ours.then_some(Blame::Ours)
        }
        _ => None,
    }
}

/// What others would find: a mistake of this node's files is told here, not in their logs.
fn verify(
    own: NodeId,
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<(), TrustError> {
    let Some((first, rest)) = chain.split_first() else {
        let cause = "it holds no certificate".to_owned();
        return Err(TrustError::Unreadable { what: "cluster.council.certificate", cause });
    };
    let roots = client::WebPkiServerVerifier::builder_with_provider(
        Arc::clone(roots),
        Arc::clone(provider),
    );
    let verifier = roots.build().map_err(|error| TrustError::Unreadable {
        what: "cluster.council.ca",
        cause: error.to_string(),
    })?;
    let named = node_of(first);
    let expected = ServerName::try_from(name(named.unwrap_or(own)));
    let expected = expected
        .map_err(|error| TrustError::Unreadable { what: "node.id", cause: error.to_string() })?;
    let verified = verifier.verify_server_cert(first, rest, &expected, &[], UnixTime::now());
    match verified {
        Ok(_) if named == Some(own) => Ok(()),
        Ok(_) => Err(other_node(own, named)),
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Err(other_node(own, named)),
        Err(error) => Err(TrustError::Authority(error)),
    }
}

fn other_node(own: NodeId, named: Option<NodeId>) -> TrustError {
    let named = named.map_or("no node of a cluster".to_owned(), |node| format!("node {node}"));
    TrustError::OtherNode { own, named }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem).take(CERTIFICATES_MAX + 1);
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    match all.len() {
        0 => Err("it holds no certificate".to_owned()),
        count if count > CERTIFICATES_MAX => {
            Err(format!("it holds more than {CERTIFICATES_MAX} certificates"))
        }
        _ => Ok(all),
    }
}

#[cfg(feature = "aws-lc-rs")]
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}
