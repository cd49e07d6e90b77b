//! Handshakes while the configuration changes: they go on under the one under which they began.

use relay_abi::peer::{Endpoint, Leg, Opening};
use relay_views::view::Document;
#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use super::*;
use crate::config::Listener;
use crate::frame::Ipv4Address;
use crate::id::FlowId;
use crate::replica::{Author, Shadows};
use crate::tls::{Handshake, Identity, ServerConfig, ServerOptions};

const VIP: Ipv4Address = Ipv4Address::new(10, 99, 1, 100);

/// Listeners with a certificate of their own, and the certificate.
fn listeners() -> (Vec<Listener>, CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(["relay.test".to_owned()]).unwrap();
    let pem = parameters.self_signed(&key).unwrap().pem().into_bytes();
    let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
    let identity =
        Identity { certificate_chain_pem: pem, key_pem: key.serialize_pem().into_bytes() };
    let options = ServerOptions {
        name: b"server".to_vec(),
        identities: vec![identity],
        alpn: Vec::new(),
        client_auth: None,
        ticket_key: [0; 32],
        clock: Arc::new(rustls::time_provider::DefaultTimeProvider),
        entropy: None,
    };
    let listener = Listener {
        addresses: vec![IpAddress::Ipv4(VIP)],
        port: 443,
        snat: vec![IpAddress::Ipv4(Ipv4Address::new(10, 99, 2, 100))],
        backends: vec![IpEndpoint::new(IpAddress::v4(10, 99, 2, 10), 8080)],
        congestion: tcp::Algorithm::Cubic,
        tls: ServerConfig::new(options).unwrap(),
    };
    (vec![listener], certificate)
}

fn client(trusted: &[&CertificateDer<'static>]) -> rustls::ClientConnection {
    let mut roots = rustls::RootCertStore::empty();
    trusted.iter().for_each(|one| roots.add((*one).clone()).unwrap());
    let provider = Arc::new(provider::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("relay.test").unwrap();
    rustls::ClientConnection::new(Arc::new(config), name).unwrap()
}

/// What a client has said first, and what it was answered under a configuration.
struct Begun {
    input: Vec<u8>,
    journal: Vec<u8>,
    output: Vec<u8>,
}

fn begin(client: &mut rustls::ClientConnection, with: &[Listener]) -> Begun {
    let mut input = Vec::new();
    client.write_tls(&mut input).unwrap();
    let mut handshake = Handshake::new(&with[0].tls).unwrap();
    handshake.handle(&input, &mut Vec::new()).unwrap();
    let (journal, output) = (handshake.journal().to_vec(), handshake.output().to_vec());
    Begun { input, journal, output }
}

impl Begun {
    fn opening(&self, generation: u64) -> Message<'_> {
        let end = |host: [u8; 4], port| Endpoint {
            address: Ipv4Addr::from(host).to_ipv6_mapped().octets(),
            port,
        };
        let client = Leg {
            local: end(VIP.octets(), 443),
            remote: end([10, 99, 1, 10], 40_000),
            next_hop: [2, 0, 0, 0, 0, 1],
            iss: 7,
            irs: 8,
            mss: 1460,
            send_scale: Some(7),
            receive_scale: 7,
            sack: true,
            timestamps: None,
            window: 65_535,
        };
        Message::Opening(Opening {
            flow: 7,
            generation,
            client,
            input: &self.input,
            consumed: self.input.len() as u32,
            journal: &self.journal,
            created_ms: 0,
        })
    }
}

/// The stream to the client, of frames of one connection whose stream begins behind this number.
fn stream(frames: &[Vec<u8>], iss: u32) -> Vec<u8> {
    let mut stream = Vec::new();
    for frame in frames {
        let Ok(Inbound::Tcp { segment, .. }) = parse(frame) else { continue };
        let at = (segment.seq_number.0 as u32).wrapping_sub(iss + 1) as usize;
        let end = at + segment.payload.len();
        stream.resize(stream.len().max(end), 0);
        stream[at..end].copy_from_slice(segment.payload);
    }
    stream
}

/// A node that goes on with the handshake, of which it has heard under `generation`; what it then
/// says to the client.
fn take_over(
    (generation, active): (u64, u64),
    begun: &Begun,
    held: &[(u64, &[Listener])],
) -> Result<Vec<u8>, Reason> {
    let now = Instant::from_millis(1000);
    let mut settings = settings();
    for (generation, listeners) in held {
        settings.listeners.hold(*generation, Arc::from(*listeners)).unwrap();
    }
    settings.listeners.agree(active, None);
    let mut shadows = Shadows::default();
    let author = Author { node: NodeId(2), term: 1 };
    shadows.apply(author, &begun.opening(generation)).unwrap();
    let (id, shadow, _) = shadows.take().pop().unwrap();
    assert_eq!(id, FlowId(7));
    let mut shard = blank_shard(&settings, &mut Entropy::new([3; 16]), Incarnation(1));
    let (mut replicas, mut counters) = (Replicas::new(Vec::new()), Counters::default());
    let flow = ((id, shadow), (0, Duration::ZERO));
    shard.adopt(flow, (now, &mut replicas), &mut counters, &settings)?;
    shard.turn(now, &mut replicas, &mut counters, &settings);
    let (mut frames, mut buffer) = (Vec::new(), [0; 2048]);
    while let Some(length) = shard.poll_transmit(now, Side::Client, &settings, &mut buffer) {
        frames.push(buffer[..length].to_vec());
    }
    Ok(stream(&frames, 7))
}

#[test]
fn a_handshake_goes_on_under_the_configuration_under_which_it_began() {
    let ((first, certificate), (second, other)) = (listeners(), listeners());
    let mut client = client(&[&certificate, &other]);
    let begun = begin(&mut client, &first);
    let both: &[(u64, &[Listener])] = &[(1, &first), (2, &second)];
    // Another one is in force at whoever goes on.
    let said = take_over((1, 2), &begun, both).unwrap();
    assert!(!said.is_empty() && said == begun.output);
    client.read_tls(&mut said.as_slice()).unwrap();
    client.process_new_packets().unwrap();
    assert_eq!(client.peer_certificates().unwrap(), [certificate]);

    // Without it the handshake is not repeated at all: with another one it would not be the same.
    let unknown = Err(Reason::UnknownConfiguration);
    assert_eq!(take_over((1, 2), &begun, &both[1..]), unknown);
    assert_ne!(take_over((2, 2), &begun, both), Ok(begun.output.clone()), "a test that can fail");
}

/// The gate of these tests owns, and teaches the node.
fn owned_by_the_gate() -> World {
    let now = Instant::from_millis(1000);
    let mut node = Node::new(settings(), [1; 16], now);
    let mut gate = Link::new(([7; 32], Unit::WHOLE), GATE, NodeId(1), BEAT);
    node.handle_pair_key(now, GATE.0, &PairKey::Shared);
    gate.handle_pair_key(&PairKey::Shared);
    let view = View::genesis_of(1);
    let mut world = World { now, node, gate, view, applies: true, proposed: Vec::new() };
    world.join(GATE);
    world.join((NodeId(1), world.node.incarnation()));
    world.run_for(TIMEOUT);
    world
}

#[test]
fn a_backup_does_not_acknowledge_what_it_could_not_repeat() {
    let (first, _) = listeners();
    let begun = begin(&mut client(&[]), &first);
    let mut world = owned_by_the_gate();
    assert_eq!(world.node.role(), Role::Backup);
    let view = world.node.view().clone();
    for message in [Message::View(view), begun.opening(1), Message::BasesEnd] {
        world.gate.outbox().push(&message);
    }
    world.run_for(TIMEOUT);
    let outbox = world.gate.outbox_ref();
    assert!(outbox.acked() < outbox.end() && world.node.shadows().is_empty());
    assert!(world.node.counters().get(Reason::UnknownConfiguration) > 0);

    world.node.handle_configuration(1, &first).unwrap();
    world.run_for(TIMEOUT);
    let outbox = world.gate.outbox_ref();
    assert!(outbox.acked() == outbox.end() && world.node.shadows().len() == 1);
}

#[test]
fn a_view_says_which_configuration_is_in_force() {
    let (first, _) = listeners();
    let mut world = World::new();
    world.node.handle_configuration(1, &first).unwrap();
    let document = Document { generation: 1, bytes: Arc::new([1]), vips: Arc::new([]) };
    world.decide(&Proposal::Configure {
        generation: document.generation,
        bytes: document.bytes,
        vips: document.vips,
    });
    assert_eq!(world.node.listeners().active(), 0, "it is only proposed");
    for node in [(NodeId(1), world.node.incarnation()), GATE] {
        world.decide(&Proposal::Prepared { node, generation: 1 });
    }
    assert_eq!(world.node.listeners().active(), 1);
    assert!(world.node.listeners().find(IpAddress::Ipv4(VIP), 443).is_some());
}
