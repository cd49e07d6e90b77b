//! Certificates, directories and free ports.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use relay_dataplane::config::Certificate;
use relay_dataplane::council::trust;
use relay_views::id::NodeId;

/// An authority that issues certificates for nodes.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: Vec<u8>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem().into_bytes();
        Authority { issuer: Issuer::new(parameters, key), pem }
    }

    pub fn issue(&self, node: u8) -> Certificate {
        let parameters = CertificateParams::new(vec![trust::name(NodeId(node))]).unwrap();
        let key = KeyPair::generate().unwrap();
        let chain = parameters.signed_by(&key, &self.issuer).unwrap().pem().into_bytes();
        Certificate { chain, key: key.serialize_pem().into_bytes() }
    }
}

/// A directory of a test; removed at the end.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-council-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Addresses on which nobody listens at present. Each of them is in a block of its own of the
/// loopback network, so that no outgoing connection of another test takes its port.
pub fn addresses(count: u8) -> Vec<SocketAddr> {
    static BLOCK: AtomicU32 = AtomicU32::new(0);
    let block = BLOCK.fetch_add(1, Ordering::Relaxed);
    let (high, low) = (std::process::id() % 250 + 1, block % 250 + 1);
    let free = |host: u8| {
        let ip = std::net::Ipv4Addr::new(127, high as u8, low as u8, host + 1);
        let socket = TcpListener::bind((ip, 0)).unwrap();
        socket.local_addr().unwrap()
    };
    (0..count).map(free).collect()
}
