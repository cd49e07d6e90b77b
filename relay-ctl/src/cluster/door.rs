//! The door at which one new node gets its certificate, on the machine with the authority.
//!
//! One thread decides and counts; every connection has one that talks. Nobody gets anything before
//! he has shown that he knows the token's secret.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use relay_abi::id::NodeId;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::guest::Guest;
use super::authority::{self, Authority, CA, DOOR_NAME, PEM_MAX};
use super::token::{SECRET_LENGTH, Token, pin};
use super::words::{Answer, KEY_MAX, Refusal};
use super::{NODES, files, tls, words};

mod guest;

/// Connections at a time. The oldest one makes room for a new one: strangers that say nothing are
/// older than who has something to say.
const CONNECTIONS_MAX: usize = 32;

/// Wrong secrets that one address may show; it is turned away from then on. A token that was damaged
/// on its way does not come this far, so nobody else shows many.
const WRONG_MAX: u32 = 16;

/// Addresses that are remembered for it.
const ADDRESSES_MAX: usize = 256;

/// Longest life of a token.
const MINUTES_MAX: f64 = 24.0 * 60.0;

/// Rest after a failed `accept`, which may fail for as long as the process lacks descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// To whom the door is open, and where.
#[derive(Args)]
pub struct Offer {
    /// Where `cluster init` put the authority
    #[arg(long, value_name = "PATH")]
    directory: PathBuf,
    /// Id of the new node, 1 to 63
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u8).range(NODES))]
    node: u8,
    /// Address and port of this machine at which the new node can reach it; port 0 is any free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Minutes until the token is worth nothing any more
    #[arg(long, value_name = "MINUTES", default_value = "10", value_parser = minutes)]
    minutes: Duration,
    /// The cluster's key, which the node gets, too
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes = text.parse().ok().filter(|minutes| *minutes > 0.0 && *minutes <= MINUTES_MAX);
    let minutes: f64 =
        minutes.ok_or_else(|| format!("not a number above 0, up to {MINUTES_MAX}"))?;
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

/// Prints a token and waits until its node has joined.
pub fn run(offer: &Offer) -> Result<(), String> {
    let authority = authority::read(&offer.directory)?;
    let papers = Papers::read(offer)?;
    let config = config(&authority, offer, &papers)?;
    let listener = listen(offer.listen)?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + offer.minutes;
    let token = Token {
        address,
        node: NodeId(offer.node),
        expires: now() + offer.minutes.as_secs(),
        brings_key: papers.key.is_some(),
        authority: pin(&papers.certificate),
        secret: secret()?,
    };
    // Whoever is to read it may wait for it behind a pipe.
    let mut out = io::stdout().lock();
    let printed = writeln!(out, "{token}").and_then(|()| out.flush());
    printed.map_err(|error| format!("cannot print the token: {error}"))?;
    eprintln!(
        "relay-ctl: waits at {address} for {:.1} minutes for node {}. On it:\n  relay-ctl cluster \
         join TOKEN --directory PATH",
        offer.minutes.as_secs_f64() / 60.0,
        token.node
    );
    let (events, inbox) = sync_channel(CONNECTIONS_MAX);
    let acceptor = events.clone();
    thread::spawn(move || accept(&listener, &acceptor));
    let key = words::key(&token.secret);
    let guest = Guest { config, node: token.node, key, events };
    Door { authority, papers, guest, deadline, guests: BTreeMap::new(), seen: Seen::default() }
        .serve(&inbox)
}

/// What the node gets besides its certificate.
struct Papers {
    /// The authority's file, and the certificate in it.
    pem: String,
    certificate: CertificateDer<'static>,
    key: Option<String>,
}

impl Papers {
    fn read(offer: &Offer) -> Result<Papers, String> {
        let path = offer.directory.join(CA);
        let pem = files::read(&path, PEM_MAX)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| format!("{}: no certificate: {error}", path.display()))?;
        let key = offer.key_file.as_deref().map(read_key).transpose()?;
        Ok(Papers { pem, certificate, key })
    }
}

fn read_key(path: &Path) -> Result<String, String> {
    let key = files::read(path, KEY_MAX)?;
    let digits = key.trim();
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(format!(
            "{}: does not hold 64 hexadecimal digits: name the cluster's key_file",
            path.display()
        ));
    }
    Ok(key)
}

fn config(
    authority: &Authority,
    offer: &Offer,
    papers: &Papers,
) -> Result<Arc<ServerConfig>, String> {
    let (certificate, key) = authority::certify_door(authority, offer.minutes)?;
    let (certificate, key) = (certificate.der().clone(), key.serialize_der());
    let key = || PrivateKeyDer::Pkcs8(key.clone().into());
    // What the node would find is told here.
    tls::verify(&certificate, key(), &papers.certificate, DOOR_NAME).map_err(|error| {
        format!("{}: ca.pem and ca.key are of two authorities ({error})", offer.directory.display())
    })?;
    let chain = vec![certificate, papers.certificate.clone()];
    tls::server(chain, key()).map_err(|error| error.to_string())
}

fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    if address.ip().is_unspecified() {
        return Err(format!(
            "--listen {address}: the token carries this address: name the one at which the new \
             node reaches this machine"
        ));
    }
    TcpListener::bind(address)
        .map_err(|error| format!("--listen {address}: {error}: name a free port of this machine"))
}

fn secret() -> Result<[u8; SECRET_LENGTH], String> {
    let mut secret = [0; SECRET_LENGTH];
    let filled = aws_lc_rs::rand::fill(&mut secret);
    filled.map_err(|_| "the system gives no random numbers".to_owned())?;
    Ok(secret)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What happens at the door.
enum Event {
    /// Somebody comes.
    Comes(TcpStream, SocketAddr),
    /// Somebody knows the secret and asks for a certificate.
    Asks { serial: u64, request: Vec<u8>, answer: SyncSender<Answer> },
    /// Somebody does not know it.
    Wrong(u64),
    /// A connection is over.
    Ends(u64, io::Result<()>),
}

fn accept(listener: &TcpListener, events: &SyncSender<Event>) {
    loop {
        let sent = match listener.accept() {
            Ok((stream, from)) => events.send(Event::Comes(stream, from)),
            Err(_) => {
                thread::sleep(ACCEPT_PAUSE);
                Ok(())
            }
        };
        if sent.is_err() {
            break;
        }
    }
}

struct Door {
    authority: Authority,
    papers: Papers,
    guest: Guest,
    deadline: Instant,
    /// Who is here, the oldest first.
    guests: BTreeMap<u64, (TcpStream, SocketAddr)>,
    seen: Seen,
}

/// Who came so far.
#[derive(Default)]
struct Seen {
    guests: u64,
    wrong: u64,
    wrong_from: BTreeMap<IpAddr, u32>,
    /// The one who got the certificate.
    node: Option<(u64, SocketAddr)>,
}

impl Door {
    /// Until the node has joined, or has got its certificate and failed, or time runs out.
    fn serve(mut self, inbox: &Receiver<Event>) -> Result<(), String> {
        loop {
            let rest = self.deadline.saturating_duration_since(Instant::now());
            if self.seen.node.is_none() && rest.is_zero() {
                return Err(format!(
                    "the time ran out, and node {} has not come ({} connections, {} wrong \
                     secrets): make a new token",
                    self.guest.node, self.seen.guests, self.seen.wrong
                ));
            }
            // Who got the certificate is waited for; his thread has a limit.
            let wait = if self.seen.node.is_none() { rest } else { guest::CONFIRM_LIMIT };
            match inbox.recv_timeout(wait) {
                Ok(Event::Comes(stream, from)) => self.admit(stream, from),
                Ok(Event::Asks { serial, request, answer }) => {
                    // He may have gone away.
                    let _ = answer.send(self.answer(serial, &request));
                }
                Ok(Event::Wrong(serial)) => self.count_wrong(serial),
                Ok(Event::Ends(serial, outcome)) => {
                    let gone = self.guests.remove(&serial);
                    if let (Some((node, from)), Some(_)) = (self.seen.node, gone)
                        && node == serial
                    {
                        return self.farewell(from, outcome);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, from: SocketAddr) {
        let serial = self.seen.guests;
        self.seen.guests += 1;
        if self.seen.wrong_from.get(&from.ip()).is_some_and(|wrong| *wrong >= WRONG_MAX) {
            return;
        }
        if self.guests.len() >= CONNECTIONS_MAX {
            let node = self.seen.node.map(|(serial, _)| serial);
            let oldest = self.guests.keys().copied().find(|serial| Some(*serial) != node);
            if let Some((stream, _)) = oldest.and_then(|serial| self.guests.remove(&serial)) {
                // Wakes its thread.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        if let Ok(shared) = stream.try_clone()
            && self.guest.receive(serial, stream).is_ok()
        {
            self.guests.insert(serial, (shared, from));
        }
    }

    fn answer(&mut self, serial: u64, request: &[u8]) -> Answer {
        let Some((_, from)) = self.guests.get(&serial) else {
            return Answer::Refused(Refusal::Failure);
        };
        if self.seen.node.is_some() {
            eprintln!("relay-ctl: {from} comes with the token, too, and gets nothing");
            return Answer::Refused(Refusal::Used);
        }
        let request = rcgen::CertificateSigningRequestParams::from_der(&request.into());
        let Ok(request) = request else {
            eprintln!("relay-ctl: {from} knows the secret, but sends no certificate request");
            return Answer::Refused(Refusal::Request);
        };
        match authority::certify(&self.authority, self.guest.node, &request.public_key) {
            Ok(certificate) => {
                self.seen.node = Some((serial, *from));
                let key = self.papers.key.clone().unwrap_or_default();
                Answer::Welcome([certificate, self.papers.pem.clone(), key])
            }
            Err(error) => {
                eprintln!("relay-ctl: {error}");
                Answer::Refused(Refusal::Failure)
            }
        }
    }

    fn count_wrong(&mut self, serial: u64) {
        self.seen.wrong += 1;
        let Some((_, from)) = self.guests.get(&serial) else { return };
        let known = &mut self.seen.wrong_from;
        if !known.contains_key(&from.ip()) && known.len() >= ADDRESSES_MAX {
            return;
        }
        let count = known.entry(from.ip()).or_default();
        *count += 1;
        let more = if *count < WRONG_MAX { "" } else { "; it is turned away from now on" };
        eprintln!("relay-ctl: {from} is refused: it does not know the token's secret{more}");
    }

    fn farewell(&self, from: SocketAddr, outcome: io::Result<()>) -> Result<(), String> {
        let node = self.guest.node;
        match outcome {
            Ok(()) => {
                eprintln!(
                    "relay-ctl: node {node} has joined, from {from} ({} wrong secrets)",
                    self.seen.wrong
                );
                Ok(())
            }
            Err(error) => Err(format!(
                "{from} got the certificate of node {node}, but did not say that it has written \
                 it ({error}): see what relay-ctl says there; if it failed, make a new token"
            )),
        }
    }
}
