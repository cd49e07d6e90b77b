use super::*;
use relay_abi::peer::{VERSION_PAIR, VERSION_SHARED};

const A: Life = (NodeId(1), Incarnation(11));
const B: Life = (NodeId(2), Incarnation(22));
const SHARED: [u8; 32] = [7; 32];

fn secret(byte: u8) -> PairKey {
    PairKey::Secret(Zeroizing::new([byte; SECRET]))
}

fn channel(me: Life, peer: NodeId, key: &PairKey) -> Channel {
    let mut channel = Channel::new((SHARED, 0), me, peer);
    channel.handle_pair_key(key);
    channel
}

/// A session under `key`.
fn pair_under(key: &PairKey) -> (Channel, Channel) {
    let (mut a, mut b) = (channel(A, B.0, key), channel(B, A.0, key));
    meet(&mut a, &mut b);
    (a, b)
}

fn meet(a: &mut Channel, b: &mut Channel) {
    let mut buf = [0; 256];
    let n = a.seal_hello(&mut buf).unwrap();
    assert_eq!(b.open(&mut buf[..n]), Ok(Opened::Hello));
    let n = b.seal_answer(b"alive", &mut buf).unwrap();
    assert_eq!(a.open(&mut buf[..n]), Ok(Opened::NewSession(b"alive")));
    let n = a.seal(b"me too", &mut buf).unwrap();
    assert_eq!(b.open(&mut buf[..n]), Ok(Opened::NewSession(b"me too")));
}

fn pair() -> (Channel, Channel) {
    pair_under(&PairKey::Shared)
}

fn sealed(from: &mut Channel, payload: &[u8]) -> Vec<u8> {
    let mut buf = [0; 256];
    let n = from.seal(payload, &mut buf).unwrap();
    buf[..n].to_vec()
}

fn rekey(from: &mut Channel) -> Option<Vec<u8>> {
    let mut buf = [0; 256];
    from.seal_rekey(&mut buf).map(|n| buf[..n].to_vec())
}

/// A payload gets through.
fn tell(from: &mut Channel, to: &mut Channel) {
    let mut datagram = sealed(from, b"data");
    assert_eq!(to.open(&mut datagram), Ok(Opened::Payload(b"data")));
}

#[test]
fn two_nodes_find_each_other() {
    for key in [PairKey::Shared, secret(1)] {
        let (mut a, mut b) = pair_under(&key);
        tell(&mut a, &mut b);
        tell(&mut b, &mut a);
        assert_eq!((a.version(), b.version()), (Some(key.version()), Some(key.version())));
    }
}

#[test]
fn a_replayed_or_changed_datagram_is_refused() {
    for key in [PairKey::Shared, secret(1)] {
        let (mut a, mut b) = pair_under(&key);
        let mut datagram = sealed(&mut a, b"once");
        let mut copy = datagram.clone();
        assert_eq!(b.open(&mut datagram), Ok(Opened::Payload(b"once")));
        assert_eq!(b.open(&mut copy), Err(Reason::PeerReplay));
        for byte in 0..copy.len() {
            let mut datagram = sealed(&mut a, b"data");
            datagram[byte] ^= 1;
            assert!(b.open(&mut datagram).is_err(), "byte {byte}");
        }
        let datagram = sealed(&mut a, b"data");
        for length in 0..datagram.len() {
            assert!(b.open(&mut datagram.clone()[..length]).is_err());
        }
    }
}

#[test]
fn without_a_key_nothing_is_said_or_believed() {
    let (mut a, mut b) = pair_under(&secret(1));
    let mut blank = Channel::new((SHARED, 0), B, A.0);
    let mut buf = [0; 256];
    assert_eq!(blank.seal_hello(&mut buf), None);
    assert_eq!(blank.seal(b"data", &mut buf), None);
    assert_eq!(rekey(&mut blank), None);
    let n = a.seal_hello(&mut buf).unwrap();
    let mut copy = buf;
    assert_eq!(blank.open(&mut buf[..n]), Err(Reason::PeerUnkeyed));
    assert_eq!(b.open(&mut copy[..n]), Ok(Opened::Hello));
}

#[test]
fn both_the_secret_and_the_pre_shared_key_are_needed() {
    for key in [PairKey::Shared, secret(1)] {
        let mut a = Channel::new(([8; 32], 0), A, B.0);
        a.handle_pair_key(&key);
        let mut b = channel(B, A.0, &key);
        let mut buf = [0; 256];
        let n = a.seal_hello(&mut buf).unwrap();
        assert_eq!(b.open(&mut buf[..n]), Err(Reason::PeerAuthentication));
    }
    let (mut a, mut b) = (channel(A, B.0, &secret(2)), channel(B, A.0, &secret(1)));
    let mut buf = [0; 256];
    let n = a.seal_hello(&mut buf).unwrap();
    assert_eq!(b.open(&mut buf[..n]), Err(Reason::PeerAuthentication));
}

#[test]
fn a_node_that_was_removed_has_the_pre_shared_key_and_is_refused() {
    // It knows everything that is said in the clear, and what both had before.
    let removed = secret(1);
    let (mut a, mut b) = pair_under(&secret(2));
    for key in [PairKey::Shared, removed] {
        let mut posing = channel(A, B.0, &key);
        let expected = match key {
            PairKey::Shared => Reason::PeerVersion,
            PairKey::Secret(_) => Reason::PeerAuthentication,
        };
        let mut buf = [0; 256];
        let n = posing.seal_hello(&mut buf).unwrap();
        assert_eq!(b.open(&mut buf[..n]), Err(expected));
        let (mut reads, _) = pair_under(&key);
        assert_eq!(b.open(&mut sealed(&mut reads, b"lies")), Err(expected));
        assert_eq!(reads.open(&mut sealed(&mut b, b"traffic secrets")), Err(expected));
    }
    tell(&mut a, &mut b);
    tell(&mut b, &mut a);
}

#[test]
fn datagrams_of_the_other_version_are_refused() {
    for (ours, theirs) in [(secret(1), PairKey::Shared), (PairKey::Shared, secret(1))] {
        let (mut a, _) = pair_under(&theirs);
        let (_, mut b) = pair_under(&ours);
        let mut buf = [0; 256];
        let n = a.seal_hello(&mut buf).unwrap();
        assert_eq!(b.open(&mut buf[..n]), Err(Reason::PeerVersion));
        let mut datagram = sealed(&mut a, b"data");
        assert_eq!(b.open(&mut datagram.clone()), Err(Reason::PeerVersion));
        // What is written on it is authentic, too.
        datagram[0] = ours.version();
        assert_eq!(b.open(&mut datagram), Err(Reason::PeerAuthentication));
    }
}

/// Gives both ends the secret, in whichever order, and lets them exchange datagrams of which those
/// in `lost` do not arrive, until both seal under it. Payloads that arrived are never refused.
fn rotate((a, b): (&mut Channel, &mut Channel), b_first: bool, lost: u32, key: &PairKey) {
    let mut sent = 0;
    let mut arrives = |_: &[u8]| {
        sent += 1;
        sent > 32 || lost >> (sent - 1) & 1 == 0
    };
    for round in 0..20 {
        if round == u32::from(b_first) {
            a.handle_pair_key(key);
        }
        if round == u32::from(!b_first) {
            b.handle_pair_key(key);
        }
        for way in 0..2 {
            let (from, to) = if way == 0 { (&mut *a, &mut *b) } else { (&mut *b, &mut *a) };
            if let Some(mut datagram) = rekey(from)
                && arrives(&datagram)
            {
                let opened = to.open(&mut datagram);
                // The peer may not have been told of it.
                let expected = [Ok(Opened::Rekey), Err(Reason::PeerAuthentication)];
                assert!(expected.contains(&opened), "{opened:?}");
            }
            let mut datagram = sealed(from, b"data");
            if arrives(&datagram) {
                assert_eq!(to.open(&mut datagram), Ok(Opened::Payload(b"data")));
            }
        }
    }
}

#[test]
fn a_rotation_loses_nothing_whichever_datagrams_are_lost() {
    for b_first in [false, true] {
        for lost in 0..1 << 10 {
            let (mut a, mut b) = pair_under(&secret(1));
            rotate((&mut a, &mut b), b_first, lost, &secret(2));
            for one in [&mut a, &mut b] {
                assert_eq!(one.secrets.len(), 1, "the former secret is forgotten: {lost:b}");
                assert_eq!(rekey(one), None, "nothing is left to prove");
            }
            let (before, _) = pair_under(&secret(1));
            assert!(before.secrets[0].key != a.secrets[0].key);
            assert!(a.secrets[0].key == b.secrets[0].key);
        }
    }
}

#[test]
fn a_secret_that_only_one_end_was_given_changes_nothing() {
    let (mut a, mut b) = pair_under(&secret(1));
    for byte in 2..10 {
        a.handle_pair_key(&secret(byte));
        let mut datagram = rekey(&mut a).unwrap();
        assert_eq!(b.open(&mut datagram), Err(Reason::PeerAuthentication));
        tell(&mut a, &mut b);
        tell(&mut b, &mut a);
    }
    assert_eq!(a.secrets.len(), SECRETS_MAX);
    rotate((&mut a, &mut b), false, 0, &secret(20));
    assert_eq!((a.secrets.len(), b.secrets.len()), (1, 1));
}

#[test]
fn a_second_rotation_before_the_first_is_over_loses_nothing() {
    let (mut a, mut b) = pair_under(&secret(1));
    a.handle_pair_key(&secret(2));
    b.handle_pair_key(&secret(2));
    // B seals under the second from here on, which A has not seen yet.
    assert_eq!(b.open(&mut rekey(&mut a).unwrap()), Ok(Opened::Rekey));
    a.handle_pair_key(&secret(3));
    tell(&mut b, &mut a);
    tell(&mut a, &mut b);
    rotate((&mut a, &mut b), true, 0, &secret(3));
    assert_eq!((a.secrets.len(), b.secrets.len()), (1, 1));
}

/// Links are made anew faster than the other end has its turns: both are told of secrets while what one
/// of them has said is on its way.
#[test]
fn what_the_peer_took_up_is_not_forgotten_for_newer_secrets() {
    let (mut slow, mut swift) = pair_under(&secret(1));
    let mut byte = 1;
    for _ in 0..20 {
        let mut shown = Vec::new();
        for _ in 0..3 {
            byte += 1;
            slow.handle_pair_key(&secret(byte));
            swift.handle_pair_key(&secret(byte));
            shown.extend(rekey(&mut swift));
        }
        // Whatever the swift one takes up, and says at once, is read after three more secrets.
        let mut told: Vec<_> = rekey(&mut slow).into_iter().collect();
        told.iter_mut().for_each(|datagram| drop(swift.open(datagram)));
        let mut said = sealed(&mut swift, b"data");
        for _ in 0..3 {
            byte += 1;
            slow.handle_pair_key(&secret(byte));
            swift.handle_pair_key(&secret(byte));
        }
        shown.iter_mut().for_each(|datagram| drop(slow.open(datagram)));
        assert_eq!(slow.open(&mut said), Ok(Opened::Payload(b"data")), "secret {byte}");
        tell(&mut slow, &mut swift);
    }
}

#[test]
fn what_was_seen_under_one_secret_is_not_accepted_under_the_next() {
    let (mut a, mut b) = pair_under(&secret(1));
    let mut seen = vec![sealed(&mut a, b"data")];
    assert!(b.open(&mut seen[0].clone()).is_ok());
    a.handle_pair_key(&secret(2));
    b.handle_pair_key(&secret(2));
    seen.push(rekey(&mut a).unwrap());
    assert_eq!(b.open(&mut seen[1].clone()), Ok(Opened::Rekey));
    // Both are known, and B has forgotten neither.
    for datagram in &seen {
        assert_eq!(b.open(&mut datagram.clone()), Err(Reason::PeerReplay));
    }
    tell(&mut b, &mut a);
    seen.push(sealed(&mut a, b"data"));
    assert_eq!(b.open(&mut seen[2].clone()), Ok(Opened::Payload(b"data")));
    for datagram in &mut seen {
        assert!(b.open(datagram).is_err());
    }
    // A window of its own: nothing was skipped by what came under the first.
    tell(&mut a, &mut b);
}

#[test]
fn no_counter_is_used_twice_under_any_secret() {
    let (mut a, mut b) = pair_under(&secret(1));
    let mut counters = Vec::new();
    for byte in 2..6 {
        a.handle_pair_key(&secret(byte));
        b.handle_pair_key(&secret(byte));
        let rekey = rekey(&mut a).unwrap();
        let mut hello = [0; 256];
        let n = a.seal_hello(&mut hello).unwrap();
        let written = [rekey, hello[..n].to_vec(), sealed(&mut a, b"data")];
        for mut datagram in written {
            counters.push(Header::decode(&datagram).unwrap().counter);
            assert!(b.open(&mut datagram).is_ok());
        }
        tell(&mut b, &mut a);
    }
    assert!(counters.is_sorted_by(|a, b| a < b), "{counters:?}");
}

#[test]
fn a_peer_that_restarts_speaks_another_version() {
    for (before, after) in [(PairKey::Shared, secret(1)), (secret(1), PairKey::Shared)] {
        let (mut a, mut b) = pair_under(&before);
        let mut old = sealed(&mut a, b"old");
        let mut restarted = channel((A.0, Incarnation(12)), B.0, &after);
        b.handle_pair_key(&after);
        assert_eq!(rekey(&mut b), None, "the former life knows nothing of it");
        tell(&mut a, &mut b);
        assert_eq!(b.version(), Some(before.version()));
        meet(&mut restarted, &mut b);
        assert_eq!(b.version(), Some(after.version()));
        assert_eq!(b.peer_incarnation(), Some(Incarnation(12)));
        assert_eq!(b.secrets.len(), 1);
        assert!(b.open(&mut old).is_err());
        // Who has the pre-shared key only begins nothing in the old version.
        let mut posing = channel((A.0, Incarnation(13)), B.0, &before);
        let mut buf = [0; 256];
        let n = posing.seal_hello(&mut buf).unwrap();
        assert_eq!(b.open(&mut buf[..n]), Err(Reason::PeerVersion));
    }
}

#[test]
fn a_restarted_peer_is_met_under_a_secret_that_both_have() {
    let (_, mut b) = pair_under(&secret(1));
    // The links of its new life: one end did not get the second secret.
    let mut restarted = channel((A.0, Incarnation(12)), B.0, &secret(2));
    b.handle_pair_key(&secret(2));
    b.handle_pair_key(&secret(3));
    meet(&mut restarted, &mut b);
    assert_eq!(b.secrets.len(), 2, "the one of its former life is forgotten");
    rotate((&mut restarted, &mut b), false, 0, &secret(3));
    assert_eq!((restarted.secrets.len(), b.secrets.len()), (1, 1));
}

#[test]
fn a_replayed_greeting_or_session_does_not_bring_back_an_old_incarnation() {
    let (mut a, mut b) = pair();
    let mut old = sealed(&mut a, b"old");
    let mut restarted = channel((A.0, Incarnation(12)), B.0, &PairKey::Shared);
    let mut wakes = sealed(&mut b, b"wakes it");
    assert_eq!(restarted.open(&mut wakes), Err(Reason::PeerReplay));
    let mut buf = [0; 256];
    let n = restarted.seal_hello(&mut buf).unwrap();
    assert_eq!(b.open(&mut buf[..n]), Ok(Opened::Hello));
    assert_eq!(b.peer_incarnation(), Some(A.1), "a greeting alone changes nothing");
    let n = b.seal_answer(b"", &mut buf).unwrap();
    assert_eq!(restarted.open(&mut buf[..n]), Ok(Opened::NewSession(b"")));
    let n = restarted.seal(b"", &mut buf).unwrap();
    assert_eq!(b.open(&mut buf[..n]), Ok(Opened::NewSession(b"")));
    assert_eq!(b.peer_incarnation(), Some(Incarnation(12)));
    assert_eq!(b.open(&mut old), Err(Reason::PeerReplay));
}

#[test]
fn versions_are_those_of_the_keys() {
    assert_eq!((PairKey::Shared.version(), secret(1).version()), (VERSION_SHARED, VERSION_PAIR));
    assert_eq!(format!("{:?}", secret(1)), "Secret");
}
