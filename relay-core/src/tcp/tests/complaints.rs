//! ICMP errors about segments of a connection.

use super::rules::{drain, open, segment};
use super::{START, small_config, tuple};
use crate::frame::Complaint;
use crate::reason::Reason;
use crate::tcp::{Cause, Connection, Phase};

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
