//! ICMP errors about segments of a connection.

use super::rules::{drain, open, segment};
use super::{START, small_config, tuple};
use crate::frame::Complaint;
use crate::reason::Reason;
use crate::tcp::{Cause, Connection, Phase};
use crate::time::Instant;

#[test]
fn rfc_5927_only_a_segment_that_is_under_way_may_be_quoted() {
    let mut connection = open();
    connection.write(&[7; 3000]);
    let sent = drain(&mut connection, START);
    let sequences: Vec<_> = sent.iter().map(|s| s.get().seq_number.0 as u32).collect();
    let mut complain =
        |sequence| connection.handle_complaint(START, sequence, Complaint::Unreachable);
    for sequence in &sequences {
        assert_eq!(complain(*sequence), Err(Reason::IcmpUnreachable), "it goes on");
    }
    assert_eq!(complain(sequences[0].wrapping_sub(1)), Err(Reason::IcmpUnacceptable));
    assert_eq!(complain(sequences[0].wrapping_add(3000)), Err(Reason::IcmpUnacceptable));
    connection.handle_segment(START, &segment(0, 3000, b"")).expect("an ACK");
    let late = connection.handle_complaint(START, sequences[0], Complaint::Unreachable);
    assert_eq!(late, Err(Reason::IcmpUnacceptable));
    assert_eq!(connection.phase(), Phase::Open);
}

#[test]
fn a_backend_that_cannot_be_reached_ends_the_opening_at_once() {
    let iss = 77;
    let mut connection = Connection::connect(&small_config(), tuple(0, false), iss, 0, START);
    assert_eq!(drain(&mut connection, START).len(), 1);
    let forged = connection.handle_complaint(START, iss + 1, Complaint::Unreachable);
    assert_eq!(forged, Err(Reason::IcmpUnacceptable));
    assert_eq!(connection.handle_complaint(START, iss, Complaint::Unreachable), Ok(()));
    assert_eq!(connection.phase(), Phase::Closed(Cause::Unreachable));
}

/// All bytes that leave, by offset, and the largest segment.
fn sent_bytes(connection: &mut Connection, now: Instant) -> (usize, usize) {
    let sent = drain(connection, now);
    let lengths: Vec<_> = sent.iter().map(|s| s.get().payload.len()).collect();
    (lengths.iter().sum(), lengths.into_iter().max().unwrap_or(0))
}

#[test]
fn rfc_1191_what_was_too_big_is_sent_again_in_smaller_segments() {
    let mut connection = open();
    connection.write(&[7; 4000]);
    let sent = drain(&mut connection, START);
    let sequence = sent[0].get().seq_number.0 as u32;
    let mut too_big = |mtu| {
        let result = connection.handle_complaint(START, sequence, Complaint::TooBig { mtu });
        (result, sent_bytes(&mut connection, START))
    };
    assert_eq!(too_big(1500), (Err(Reason::IcmpUnacceptable), (0, 0)), "that large they were not");
    assert_eq!(too_big(1300), (Ok(()), (2 * 1460, 1260)), "the third was small enough");
    assert_eq!(too_big(68), (Ok(()), (3600, 512)), "two were small enough; there is a least");
    assert_eq!(too_big(68), (Err(Reason::IcmpUnacceptable), (0, 0)));
    connection.handle_segment(START, &segment(0, 4000, b"")).expect("an ACK");
    connection.write(&[7; 2000]);
    assert_eq!(sent_bytes(&mut connection, START), (2000, 512));
}

#[test]
fn rfc_2923_a_path_that_swallows_large_segments_is_tried_with_smaller_ones() {
    let mut connection = open();
    connection.write(&[7; 2920]);
    let (mut now, mut sizes) = (START, Vec::new());
    while sizes.last() != Some(&536) {
        let (_, largest) = sent_bytes(&mut connection, now);
        if largest > 0 && sizes.last() != Some(&largest) {
            sizes.push(largest);
        }
        now = connection.poll_timeout().expect("a timer");
        connection.handle_timeout(now);
        assert_eq!(connection.phase(), Phase::Open);
    }
    assert_eq!(sizes, [1460, 1240, 536]);
    // Small segments that do not arrive are not made smaller.
    let mut connection = open();
    connection.write(&[7; 300]);
    for _ in 0..6 {
        assert!(sent_bytes(&mut connection, now).1 <= 300);
        now = connection.poll_timeout().expect("a timer");
        connection.handle_timeout(now);
    }
    connection.write(&[7; 2000]);
    connection.handle_segment(now, &segment(0, 300, b"")).expect("an ACK");
    assert_eq!(sent_bytes(&mut connection, now).1, 1460);
}
