//! What is wrong with documents is said with its place, as of a configuration file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

const VALID: &str = "\
[[listener]]
addresses = [\"10.99.1.100\", \"fd99:1::100\"]
port = 443
snat = [\"10.99.2.100\"]
backends = [\"10.99.2.10:8080\"]
[[listener.certificate]]
chain = \"chain.pem\"
key = \"key.pem\"
";

/// A node's directory, with one certificate and its key.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let name = format!("relay-document-{}-{name}", std::process::id());
        let place = Place(std::env::temp_dir().join(name));
        fs::create_dir_all(&place.0).unwrap();
        place.issue("chain.pem", "key.pem");
        place
    }

    fn issue(&self, chain: &str, key: &str) {
        let pair = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(["relay.test".to_owned()]).unwrap();
        fs::write(self.0.join(chain), parameters.self_signed(&pair).unwrap().pem()).unwrap();
        fs::write(self.0.join(key), pair.serialize_pem()).unwrap();
        fs::set_permissions(self.0.join(key), Permissions::from_mode(0o600)).unwrap();
    }

    fn basis(&self) -> Basis {
        let nodes = vec!["10.99.3.21".parse().unwrap(), "10.99.3.22".parse().unwrap()];
        Basis { directory: self.0.clone(), nodes, key: [7; 32] }
    }

    fn load(&self, text: &str) -> Result<Loaded, String> {
        let loaded = load(text.as_bytes(), "new.toml", &self.basis());
        loaded.map_err(|mistake| mistake.to_string().replace(self.0.to_str().unwrap(), "DIR"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_document_is_the_listeners_of_a_configuration() {
    let place = Place::new("valid");
    let loaded = place.load(VALID).unwrap();
    assert_eq!((loaded.listeners.len(), loaded.listeners[0].port), (1, 443));
    let vips: Vec<String> = loaded.document.vips().iter().map(ToString::to_string).collect();
    assert_eq!(vips, ["10.99.1.100", "fd99:1::100"]);
    assert_eq!(loaded.document.warnings, Vec::<String>::new());
}

#[test]
fn mistakes_have_their_place_and_a_remedy() {
    let place = Place::new("mistakes");
    place.issue("other.pem", "other.key");
    let cases = [
        ("port = 443\n", "", "new.toml:1: listener[1]: missing field `port`: add it"),
        (
            "[[listener]]\n",
            "[node]\nid = 1\n[[listener]]\n",
            "new.toml:1: node: unknown field `node`, expected `listener`: remove it",
        ),
        (
            "\"10.99.1.100\"",
            "\"10.99.3.22\"",
            "new.toml:2: listener[1].addresses[1]: 10.99.3.22 is already the cluster address of a \
             node: give each role its own address",
        ),
        (
            "key.pem",
            "gone.pem",
            "new.toml:8: listener[1].certificate[1].key: DIR/gone.pem cannot be read (No such file",
        ),
        (
            "key.pem",
            "other.key",
            "new.toml: listener on port 443: certificate 1: the key does not belong to the first",
        ),
    ];
    for (old, new, expected) in cases {
        let error = place.load(&VALID.replacen(old, new, 1)).err().unwrap();
        assert!(error.starts_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn documents_are_bounded() {
    let place = Place::new("bounds");
    let long = format!("{VALID}# {}\n", "x".repeat(DOCUMENT_MAX));
    let error = place.load(&long).err().unwrap();
    assert!(error.ends_with(&format!("keep it within {DOCUMENT_MAX}")), "{error}");
    let listener = |number: usize| {
        let all: Vec<String> = (0..64).map(|host| format!("\"10.98.{number}.{host}\"")).collect();
        VALID.replace("\"10.99.1.100\", \"fd99:1::100\"", &all.join(", "))
    };
    let many = |count: usize| (1..=count).map(listener).collect::<String>();
    assert!(place.load(&many(4)).is_ok());
    let error = place.load(&many(5)).err().unwrap();
    assert!(error.starts_with("new.toml: the listeners have 320 addresses: serve at most 256"));
    let bytes = load(&[0xff; 4], "new.toml", &place.basis()).err().unwrap().to_string();
    assert!(bytes.starts_with("new.toml: is not UTF-8"), "{bytes}");
}
