//! Encoding and decoding.

use alloc::vec::Vec;

use super::*;

fn leg(port: u16) -> Leg {
    Leg {
        local: Endpoint { address: [1; 16], port },
        remote: Endpoint { address: [2; 16], port: 443 },
        next_hop: [2, 0, 0, 0, 0, 1],
        iss: 7,
        irs: 8,
        mss: 1460,
        send_scale: Some(7),
        receive_scale: 5,
        sack: true,
        timestamps: Some(Timestamps { recent: 3, offset: 4 }),
        window: 65535,
    }
}

fn opening(generation: u64) -> Message<'static> {
    Message::Opening(Opening {
        flow: 1,
        generation,
        client: leg(1),
        input: b"hello",
        consumed: 4,
        journal: b"answers",
        created_ms: 77,
    })
}

fn samples() -> Vec<Message<'static>> {
    let entries = alloc::vec![
        Entry::Data { length: 16384, tag: [9; 16] },
        Entry::KeyUpdate { request: true, tag: [8; 16] },
        Entry::Alert { level: 1, description: 0, tag: [7; 16] },
        Entry::Fin,
    ];
    let up = Settled {
        client: 1,
        backend: 2,
        sequence: 3,
        generation: 4,
        ended: true,
        fin: false,
        owes_key_update: true,
    };
    let down = Delivered { backend: 1, client: 2, sequence: 3, generation: 4, index: 5, fin: true };
    alloc::vec![
        Message::View(View { number: 1, term: 2, owner: 3, in_sync: alloc::vec![(3, 4), (5, 6)] }),
        opening(0),
        opening(1 << 40),
        Message::Transcript { flow: 1, offset: 5, input: b"finished", consumed: 13, journal: b"" },
        Message::Base(Base {
            flow: 1,
            client: leg(1),
            backend: Leg { timestamps: None, send_scale: None, ..leg(2) },
            suite: 0x1301,
            server_name: b"relay.test",
            write: Keys { generation: 0, sequence: 1, secret: &[5; 32] },
            read: Keys { generation: 0, sequence: 0, secret: &[6; 48] },
            up,
            down,
            raw: b"tickets",
            entries: entries.clone(),
            created_ms: 77,
        }),
        Message::BasesEnd,
        Message::Entries { flow: 1, index: 9, entries },
        Message::Progress { flow: 1, up, down, window: 65535 },
        Message::Data { flow: 1, direction: Direction::Down, offset: 5, fin: true, bytes: b"abc" },
        Message::Mark {
            flow: 1,
            direction: Direction::Down,
            mark: Mark { ack: 1 << 40, hole: 1448, held: 4344 },
        },
        Message::End { flow: 1 },
        Message::Session(Session { key: [4; 32], created: 77, value: b"secret" }),
    ]
}

#[test]
fn decoding_is_the_inverse_of_encoding() {
    for message in samples() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

#[test]
fn a_cut_message_is_malformed() {
    for message in samples().into_iter().filter(|m| !matches!(m, Message::Data { .. })) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        for length in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..length]), Err(Malformed), "{message:?}");
        }
    }
}

/// A relay of a version without agreed configurations reads what is not under one.
#[test]
fn openings_without_a_generation_are_those_of_before() {
    let bytes = |generation| {
        let mut bytes = Vec::new();
        opening(generation).encode(&mut bytes);
        bytes
    };
    let (without, with) = (bytes(0), bytes(3));
    assert_eq!((without[0], with[0]), (OPENING, OPENING_OF));
    assert_eq!(without[1..], with[9..]);
    let mut odd = with;
    odd[1..9].fill(0);
    assert_eq!(Message::decode(&odd), Err(Malformed), "written in one way only");
}
