//! What is held, what is in force, and what is answered for.

use super::*;
use crate::frame::{IpEndpoint, Ipv4Address};
use crate::tcp;
use crate::tls::{Identity, ServerConfig, ServerOptions};

fn address(net: u8, host: usize) -> IpAddress {
    IpAddress::Ipv4(Ipv4Address::new(10, net, (host >> 8) as u8, host as u8))
}

/// A listener at addresses of net 1, from the SNAT address of net 2 with the first one's number.
fn listener(hosts: core::ops::Range<usize>, port: u16) -> Listener {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(["relay.test".to_owned()]).unwrap();
    let identity = Identity {
        certificate_chain_pem: parameters.self_signed(&key).unwrap().pem().into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
    };
    let options = ServerOptions {
        name: b"server".to_vec(),
        identities: vec![identity],
        alpn: Vec::new(),
        client_auth: None,
        ticket_key: [0; 32],
        clock: Arc::new(rustls::time_provider::DefaultTimeProvider),
        entropy: None,
    };
    Listener {
        snat: vec![address(2, hosts.start)],
        addresses: hosts.map(|host| address(1, host)).collect(),
        port,
        backends: vec![IpEndpoint::new(address(3, 1), 80)],
        congestion: tcp::Algorithm::Cubic,
        tls: ServerConfig::new(options).unwrap(),
    }
}

fn one(hosts: core::ops::Range<usize>, port: u16) -> Arc<[Listener]> {
    Arc::new([listener(hosts, port)])
}

#[test]
fn new_connections_come_in_by_what_is_in_force() {
    let mut listeners = Listeners::from(vec![listener(1..2, 443)]);
    let found = |listeners: &Listeners, host, port| {
        listeners.find(address(1, host), port).map(|(place, _)| place.generation)
    };
    assert_eq!(found(&listeners, 1, 443), Some(0));
    listeners.hold(1, one(1..3, 8443)).unwrap();
    // What is merely held is not used yet.
    assert_eq!((found(&listeners, 1, 443), found(&listeners, 2, 8443)), (Some(0), None));
    assert!(listeners.are_ready());
    listeners.agree(1, None);
    assert_eq!((found(&listeners, 1, 443), found(&listeners, 2, 8443)), (None, Some(1)));
    // Connections of before have their listener still, and one that was never known has none.
    let any = |host, port| listeners.find_any(address(1, host), port).map(|(at, _)| at.generation);
    assert_eq!((any(1, 443), any(2, 8443), any(7, 443)), (Some(0), Some(1), None));
    let (place, _) = listeners.find_in(0, address(1, 1), 443).unwrap();
    assert_eq!(listeners.at(place).unwrap().port, 443);

    // In force, and not held: nothing comes in.
    listeners.agree(2, None);
    assert!(!listeners.are_ready() && listeners.find(address(1, 1), 443).is_none());
}

#[test]
fn the_oldest_make_room_and_what_was_withdrawn_is_forgotten() {
    let mut listeners = Listeners::from(vec![listener(1..2, 443)]);
    let same = one(1..2, 443);
    for generation in 1..20 {
        listeners.hold(generation, Arc::clone(&same)).unwrap();
        assert!(listeners.held().count() <= GENERATIONS_MAX);
        match generation % 3 {
            0 => listeners.agree(generation - 1, Some(generation)),
            _ => listeners.agree(generation, None),
        }
        assert!(listeners.are_ready());
    }
    assert!(!listeners.holds(18) && listeners.holds(17) && !listeners.holds(0));
    // A handshake is given up before nobody could repeat it any more.
    let kept: Vec<u64> = listeners.held().filter(|held| !listeners.is_outdated(*held)).collect();
    assert_eq!(kept.len() as u64, OPENING_GENERATIONS_MAX + 1);
    assert!(listeners.is_outdated(0) && !listeners.is_outdated(19));
}

#[test]
fn addresses_only_become_more_and_not_too_many() {
    let mut listeners = Listeners::from(vec![listener(1..2, 443)]);
    listeners.hold(1, one(2..3, 443)).unwrap();
    listeners.agree(1, None);
    for (side, net) in [(Side::Client, 1), (Side::Backend, 2)] {
        assert!(listeners.answer_for(side, address(net, 1)), "a connection may have it");
        assert!(listeners.answer_for(side, address(net, 2)));
        assert!(!listeners.answer_for(side, address(net, 3)));
        assert_eq!(listeners.addresses(side).count(), 2);
    }
    assert!(listeners.answer_also_for(Side::Client, address(1, 9)));
    assert!(!listeners.answer_also_for(Side::Client, address(1, 9)), "it is known");

    assert_eq!(listeners.hold(2, one(10..ADDRESSES_MAX + 8, 443)), Err(TooManyAddresses));
    assert!(!listeners.holds(2) && listeners.addresses(Side::Client).count() == 3);
    listeners.hold(3, one(10..ADDRESSES_MAX + 7, 443)).unwrap();
    assert_eq!(listeners.addresses(Side::Client).count(), ADDRESSES_MAX);
    assert!(!listeners.answer_also_for(Side::Client, address(1, 3)));
}
