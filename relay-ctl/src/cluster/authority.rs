//! What the cluster's authority certifies: itself, nodes, and for some minutes the door at which a
//! new node asks for its certificate.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use relay_abi::id::{NodeId, certificate_name};

use super::files;

/// The authority's certificate, for every node.
pub const CA: &str = "ca.pem";
/// Its key, for no node.
pub const CA_KEY: &str = "ca.key";

/// Longest file of PEM.
pub const PEM_MAX: usize = 32 << 10;

/// The name of the door. It does not begin as nodes' names do, so no council takes it for one.
pub const DOOR_NAME: &str = "enrollment.cluster.relay";

/// How much later than the door's end its certificate expires: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);

/// What can sign.
pub type Authority = Issuer<'static, KeyPair>;

/// A certificate of PEM for a new authority with `key`.
pub fn certificate_of(key: &KeyPair) -> Result<String, String> {
    let certificate = parameters(key)?.self_signed(key).map_err(failed)?;
    Ok(certificate.pem())
}

/// Reads the authority's key in `directory`.
pub fn read(directory: &Path) -> Result<Authority, String> {
    let path = directory.join(CA_KEY);
    let text = files::read(&path, PEM_MAX)
        .map_err(|error| format!("{error}: make the authority with relay-ctl cluster init"))?;
    let key = KeyPair::from_pem(&text)
        .map_err(|error| format!("{}: not an authority's key: {error}", path.display()))?;
    Ok(Issuer::new(parameters(&key)?, key))
}

/// A certificate of PEM for `node` with the key `public`, and nothing in it that anybody asked for.
pub fn certify(
    authority: &Authority,
    node: NodeId,
    public: &impl PublicKeyData,
) -> Result<String, String> {
    let mut parameters = named(&certificate_name(node), &format!("node {node}"))?;
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(parameters.signed_by(public, authority).map_err(failed)?.pem())
}

/// A certificate of DER for the door that is open for `limit`, with a key of its own.
pub fn certify_door(
    authority: &Authority,
    limit: Duration,
) -> Result<(rcgen::Certificate, KeyPair), String> {
    let mut parameters = named(DOOR_NAME, "enrollment")?;
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.not_after = (SystemTime::now() + limit + CLOCKS_DIFFER).into();
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = parameters.signed_by(&key, authority).map_err(failed)?;
    Ok((certificate, key))
}

/// What is certified about an authority follows from its key, so that the key is enough to issue.
fn parameters(key: &KeyPair) -> Result<CertificateParams, String> {
    let mut parameters = CertificateParams::new(Vec::new()).map_err(failed)?;
    let digits: String =
        parameters.key_identifier(key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters.distinguished_name.push(DnType::CommonName, format!("relay cluster {digits}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

fn named(name: &str, common: &str) -> Result<CertificateParams, String> {
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters.distinguished_name.push(DnType::CommonName, common);
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(parameters)
}

/// Why there is no certificate, for people.
pub fn failed(error: rcgen::Error) -> String {
    format!("no certificate: {error}")
}
