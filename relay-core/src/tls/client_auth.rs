//! Clients that show a certificate (RFC 8446 section 4.4.2, mutual TLS).

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

/// Most authorities of one server.
pub const MAX_CLIENT_CAS: usize = 256;

/// Bytes of the authorities' names at most: they are sent to every client in the server's flight.
pub const MAX_CLIENT_CA_NAMES: usize = 8 * 1024;

/// What is demanded of clients.
#[derive(Clone)]
pub struct ClientAuth {
    /// PEM: certificates of the authorities that issue the clients'.
    pub authorities_pem: Vec<u8>,
    /// A client without a certificate gets an alert. A certificate that is shown has to be valid in
    /// any case.
    pub required: bool,
}

/// Why the certificates of clients cannot be verified, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthError {
    /// The file is not PEM.
    #[error("the file is not PEM ({0}): it must have BEGIN CERTIFICATE lines")]
    Pem(rustls::pki_types::pem::Error),
    /// The file has no certificate.
    #[error("the file has no certificate: it must have BEGIN CERTIFICATE lines")]
    NoAuthority,
    /// There are too many certificates.
    #[error("the file has {0} certificates, the limit is {MAX_CLIENT_CAS}: name fewer authorities")]
    TooMany(usize),
    /// The names of the authorities are too long.
    #[error(
        "the names of the authorities have {0} bytes, the limit is {MAX_CLIENT_CA_NAMES}: name \
         fewer authorities"
    )]
    NamesTooLong(usize),
    /// One certificate does not parse.
    #[error("certificate {} is damaged or not X.509 version 3 ({cause})", index + 1)]
    Authority {
        /// Which one, counted from 0.
        index: usize,
        /// What is wrong with it.
        cause: rustls::Error,
    },
    /// rustls refuses what was checked.
    #[error("TLS library: {0}")]
    Library(rustls::server::VerifierBuilderError),
}

/// What verifies clients, and the demands on them as bytes: different ones have different bytes.
pub(super) fn verifier(
    client_auth: Option<&ClientAuth>,
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<u8>), ClientAuthError> {
    let Some(ClientAuth { authorities_pem, required }) = client_auth else {
        return Ok((WebPkiClientVerifier::no_client_auth(), Vec::new()));
    };
    let authorities: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(authorities_pem)
        .collect::<Result<_, _>>()
        .map_err(ClientAuthError::Pem)?;
    match authorities.len() {
        0 => return Err(ClientAuthError::NoAuthority),
        1..=MAX_CLIENT_CAS => {}
        count => return Err(ClientAuthError::TooMany(count)),
    }
    let mut demands = vec![u8::from(*required)];
    let mut roots = RootCertStore::empty();
    for (index, authority) in authorities.into_iter().enumerate() {
        demands.extend_from_slice(&(authority.len() as u64).to_be_bytes());
        demands.extend_from_slice(&authority);
        roots.add(authority).map_err(|cause| ClientAuthError::Authority { index, cause })?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if *required { builder } else { builder.allow_unauthenticated() };
    let verifier = builder.build().map_err(ClientAuthError::Library)?;
    let names = verifier.root_hint_subjects().iter().map(|name| name.as_ref().len()).sum();
    if names > MAX_CLIENT_CA_NAMES {
        return Err(ClientAuthError::NamesTooLong(names));
    }
    Ok((verifier, demands))
}
