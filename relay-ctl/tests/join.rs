//! A new node joins: both ends are the real binary, and so are those who should not get in.

mod stranger;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use stranger::{Asked, Stranger};

/// Wrong secrets that one address may show (`WRONG_MAX` of the door).
const WRONG_MAX: u32 = 16;

#[test]
fn a_node_joins_with_a_key_that_never_left_it() {
    let place = Place::new();
    fs::write(place.path("cluster.key"), format!("{}\n", "5a".repeat(32))).unwrap();
    let key_file = place.text("cluster.key");
    let door = Door::open(&place, &["--node", "7", "--key-file", &key_file]);
    let output = join(&door.token, &place.path("node"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let directory = place.text("node");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!(
            "[node]\nid = 7\n\n[cluster]\nkey_file = \"{directory}/cluster.key\"\n\n\
             [cluster.council]\ncertificate = \"{directory}/node-7.pem\"\n\
             key = \"{directory}/node-7.key\"\nca = \"{directory}/ca.pem\"\n"
        )
    );
    let (code, rest, said) = door.end();
    assert_eq!((code, rest.as_str()), (Some(0), ""), "{said}");
    assert!(said.contains("node 7 has joined, from 127.0.0.1:"), "{said}");
    let made = modes(&place.path("node"));
    let names = ["ca.pem", "cluster.key", "node-7.key", "node-7.pem"];
    assert_eq!(made, names.map(|name| (name.to_owned(), 0o600)));
    for name in ["ca.pem", "cluster.key"] {
        let original = if name == "ca.pem" { "trust/ca.pem" } else { name };
        let copy = fs::read(place.path("node").join(name)).unwrap();
        assert_eq!(copy, fs::read(place.path(original)).unwrap());
    }
    // Nothing of the node is where the authority is.
    let there = modes(&place.path("trust"));
    assert_eq!(there, ["ca.key", "ca.pem"].map(|name| (name.to_owned(), 0o600)));
    assert_eq!(stranger::names_in(&place.path("node"), 7), ["node-7.cluster.relay"]);
}

#[test]
fn a_token_is_good_for_one_node() {
    let place = Place::new();
    let door = Door::open(&place, &["--node", "1"]);
    assert_eq!(join(&door.token, &place.path("first")).status.code(), Some(0));
    let token = door.token.clone();
    assert_eq!(door.end().0, Some(0));
    let again = join(&token, &place.path("second"));
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("the token was used, or"), "{}", stderr(&again));
    assert!(!place.path("second").exists());
    assert!(!place.path("first/cluster.key").exists());
}

#[test]
fn who_comes_while_the_node_is_being_served_gets_nothing() {
    let place = Place::new();
    let door = Door::open(&place, &["--node", "1"]);
    let stranger = Stranger::new(&door.token, &place.path("trust/ca.pem"));
    // It has the certificate, and has not said yet that it wrote it.
    let mut first = stranger.ask(None, &stranger::request(&["node-2.cluster.relay"])).unwrap();
    let Asked::Welcome(certificate) = first.answer().unwrap() else { panic!("refused") };
    // The names that it asked for are not in it.
    assert_eq!(stranger::names(&certificate), ["node-1.cluster.relay"]);
    let late = join(&door.token, &place.path("late"));
    assert_eq!(late.status.code(), Some(1));
    assert!(stderr(&late).contains("somebody used it before"), "{}", stderr(&late));
    assert!(!place.path("late").exists());
    drop(first);
    let (code, _, said) = door.end();
    assert_eq!(code, Some(1));
    assert!(said.contains("got the certificate of node 1, but did not say"), "{said}");
}

#[test]
fn wrong_secrets_and_bad_requests_are_refused_and_the_node_still_joins() {
    let place = Place::new();
    let door = Door::open(&place, &["--node", "3", "--listen", "127.0.0.2:0"]);
    let wrong = with_other_secret(&door.token);
    let refused = join(&wrong, &place.path("wrong"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("refuses the token"), "{}", stderr(&refused));
    assert!(!place.path("wrong").exists());
    let ca = place.path("trust/ca.pem");
    let guesser = Stranger::new(&wrong, &ca);
    let from = Some("127.0.0.3".parse().unwrap());
    for _ in 0..WRONG_MAX {
        let answer = guesser.ask(from, &stranger::request(&[])).unwrap().answer();
        assert!(matches!(answer, Ok(Asked::Refused(1))));
    }
    // Not even who has learned the secret by now gets in from there.
    assert!(Stranger::new(&door.token, &ca).ask(from, &stranger::request(&[])).is_err());
    // No request, and one whose signature is of another key.
    let mut forged = stranger::request(&[]);
    *forged.last_mut().unwrap() ^= 1;
    for request in [b"give me".to_vec(), forged] {
        let mut asked = Stranger::new(&door.token, &ca).ask(None, &request).unwrap();
        assert!(matches!(asked.answer(), Ok(Asked::Refused(3))));
    }
    let output = join(&door.token, &place.path("node"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (code, _, said) = door.end();
    assert_eq!(code, Some(0));
    assert!(said.contains("(17 wrong secrets)"), "{said}");
    assert_eq!(said.matches("is turned away from now on").count(), 1, "{said}");
}

#[test]
fn strangers_do_not_keep_the_node_out() {
    let place = Place::new();
    let door = Door::open(&place, &["--node", "3"]);
    let address = Stranger::new(&door.token, &place.path("trust/ca.pem")).address;
    let connect = |words: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(words).unwrap();
        stream
    };
    for _ in 0..20 {
        // Nonsense is cut off at once, if not without a word.
        let _ = connect(b"GET / HTTP/1.1\r\n\r\n").read_to_end(&mut Vec::new());
    }
    // More than the door has room for say nothing, or begin and stop.
    let crowd = (0..100).map(|index| connect(if index % 2 == 0 { b"" } else { b"\x16\x03\x01" }));
    let crowd: Vec<TcpStream> = crowd.collect();
    let output = join(&door.token, &place.path("node"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (code, _, said) = door.end();
    assert_eq!(code, Some(0), "{said}");
    drop(crowd);
}

#[test]
fn who_says_nothing_is_cut_off() {
    let place = Place::new();
    let door = Door::open(&place, &["--node", "3"]);
    let address = Stranger::new(&door.token, &place.path("trust/ca.pem")).address;
    let mut silent = TcpStream::connect(address).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(join(&door.token, &place.path("node")).status.code(), Some(0));
}

#[test]
fn another_authority_hears_nothing() {
    let (place, other) = (Place::new(), Place::new());
    let door = Door::open(&place, &["--node", "3"]);
    let (token, address) = (door.token.clone(), door.address(&place).to_string());
    drop(door);
    let door = Door::open(&other, &["--node", "3", "--listen", &address]);
    let output = join(&token, &place.path("node"));
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("is not of the authority that the token names"), "{said}");
    drop(door);
    // A node of the right authority is not the door.
    let impostor = stranger::Impostor::new(&place.path("trust"), &address);
    let output = join(&token, &place.path("node"));
    let said = stderr(&output);
    assert!(said.contains("is not of the authority that the token names"), "{said}");
    assert_eq!(impostor.heard(), 0);
    // What is no TLS at all.
    let listener = TcpListener::bind(address).unwrap();
    let nonsense = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        // Until the other end has had enough.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let output = join(&token, &place.path("node"));
    nonsense.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is not relay-ctl cluster token"), "{}", stderr(&output));
    assert!(!place.path("node").exists());
}

#[test]
fn a_token_ends_with_its_time() {
    let place = Place::new();
    let door = Door::open(&place, &["--node", "3", "--minutes", "0.01"]);
    let token = door.token.clone();
    let (code, _, said) = door.end();
    assert_eq!(code, Some(1));
    assert!(said.contains("the time ran out, and node 3 has not come"), "{said}");
    // By the clock, in whole seconds.
    thread::sleep(std::time::Duration::from_secs(2));
    let late = join(&token, &place.path("node"));
    assert_eq!(late.status.code(), Some(1));
    assert!(stderr(&late).contains("the token's time ran out"), "{}", stderr(&late));
}

#[test]
fn nothing_is_overwritten_and_the_token_stays_good() {
    let place = Place::new();
    let door = Door::open(&place, &["--node", "3"]);
    let directory = place.path("node");
    fs::create_dir(&directory).unwrap();
    for name in ["node-3.key", "node-3.pem", "ca.pem"] {
        fs::write(directory.join(name), "mine").unwrap();
        let output = join(&door.token, &directory);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("is not overwritten"), "{}", stderr(&output));
        assert_eq!(fs::read(directory.join(name)).unwrap(), b"mine");
        assert_eq!(modes(&directory).len(), 1);
        fs::remove_file(directory.join(name)).unwrap();
    }
    // The door sends no key, so this one is in nobody's way.
    fs::write(directory.join("cluster.key"), "mine").unwrap();
    assert_eq!(join(&door.token, &directory).status.code(), Some(0));
    assert_eq!(door.end().0, Some(0));
    assert_eq!(fs::read(directory.join("cluster.key")).unwrap(), b"mine");
}

#[test]
fn mistakes_on_the_command_line_are_told() {
    let place = Place::new();
    let trust = place.text("trust");
    let run = |arguments: &[&str]| ctl().arg("cluster").args(arguments).output().unwrap();
    let door = Door::open(&place, &["--node", "3"]);
    let cut = &door.token[..door.token.len() - 1];
    for (token, why) in [(cut, "cut off or mistyped"), ("7", "not a token")] {
        let output = run(&["join", token, "--directory", &trust]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    }
    let token = ["token", "--directory", &trust, "--node", "3", "--listen"];
    let output = run(&[&token[..], &["0.0.0.0:0"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the token carries this address"), "{}", stderr(&output));
    for minutes in ["0", "-1", "1441", "NaN", "inf", "ten"] {
        let minutes = format!("--minutes={minutes}");
        let output = run(&[&token[..], &["127.0.0.1:0", &minutes]].concat());
        assert_eq!(output.status.code(), Some(2), "{minutes}");
    }
    let key_file = place.text("trust/ca.pem");
    let output = run(&[&token[..], &["127.0.0.1:0", "--key-file", &key_file]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("ca.pem: "), "{}", stderr(&output));
    let other = Place::new();
    fs::copy(other.path("trust/ca.pem"), place.path("trust/ca.pem")).unwrap();
    let output = run(&[&token[..], &["127.0.0.1:0"]].concat());
    assert!(stderr(&output).contains("of two authorities"), "{}", stderr(&output));
}

/// A directory with an authority in `trust`.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relay-ctl-join-{}-{count}", std::process::id());
        let place = Place(std::env::temp_dir().join(name));
        let _ = fs::remove_dir_all(&place.0);
        let directory = place.path("trust");
        let mut init = ctl();
        init.args(["cluster", "init", "--directory"]).arg(directory);
        assert!(init.output().unwrap().status.success());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `relay-ctl cluster token`, as long as it runs.
struct Door {
    child: Child,
    token: String,
    output: Option<BufReader<std::process::ChildStdout>>,
    said: Option<JoinHandle<String>>,
}

impl Door {
    fn open(place: &Place, arguments: &[&str]) -> Door {
        let mut command = ctl();
        command.args(["cluster", "token", "--directory"]).arg(place.path("trust"));
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut errors = child.stderr.take().unwrap();
        let said = thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).unwrap();
            text
        });
        let mut token = String::new();
        output.read_line(&mut token).unwrap();
        let (output, said, token) = (Some(output), Some(said), token.trim().to_owned());
        Door { child, token, output, said }
    }

    fn address(&self, place: &Place) -> SocketAddr {
        Stranger::new(&self.token, &place.path("trust/ca.pem")).address
    }

    /// Waits for its end: its exit code, what it printed behind the token, and what it said.
    fn end(mut self) -> (Option<i32>, String, String) {
        let mut rest = String::new();
        self.output.take().unwrap().read_to_string(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, rest, self.said.take().unwrap().join().unwrap())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ctl() -> Command {
    Command::new(env!("CARGO_BIN_EXE_relay-ctl"))
}

fn join(token: &str, directory: &Path) -> Output {
    ctl().args(["cluster", "join", token, "--directory"]).arg(directory).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The files of a directory and their modes, by name.
fn modes(directory: &Path) -> Vec<(String, u32)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut all: Vec<_> = entries
        .map(|entry| {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            (entry.file_name().into_string().unwrap(), mode)
        })
        .collect();
    all.sort();
    all
}

/// The token with one bit of its secret turned.
fn with_other_secret(token: &str) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("relay_").unwrap()).unwrap();
    bytes.truncate(bytes.len() - 4);
    bytes[stranger::SECRET.start] ^= 1;
    let check = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    bytes.extend(&check.as_ref()[..4]);
    format!("relay_{}", URL_SAFE_NO_PAD.encode(bytes))
}
