//! How losses are found and repaired, and how a mistake is taken back: case by case.

use smoltcp::wire::TcpTimestampRepr;

use super::rules::{ISS, TS, accepted, drain, open, open_with, segment, seq_of};
use super::{START, pattern};
use crate::frame::TcpRepr;
use crate::tcp::{Accepted, Connection};
use crate::time::{Duration, Instant};

const MSS: usize = 1460;
const RTT: Duration = Duration::from_millis(20);

/// An ACK of so many segments, with SACK blocks and a duplicate in segments.
fn ack(segments: usize, blocks: &[(usize, usize)]) -> TcpRepr<'static> {
    let mut ack = segment(0, (segments * MSS) as i64, b"");
    let wire = |segments: usize| ISS.wrapping_add(1).wrapping_add((segments * MSS) as u32);
    for (range, (start, end)) in ack.sack_ranges.iter_mut().zip(blocks) {
        *range = Some((wire(*start), wire(*end)));
    }
    ack
}

fn take(connection: &mut Connection, now: Instant, ack: &TcpRepr) {
    connection.handle_segment(now, ack).expect("an ACK");
}

/// Sends until so many segments have left, at the pace that the connection takes. Returns the
/// places of the segments.
fn send(connection: &mut Connection, now: &mut Instant, count: usize) -> Vec<usize> {
    let mut sent = Vec::new();
    loop {
        sent.extend(drain(connection, *now).iter().map(|sent| seq_of(sent) as usize / MSS));
        if sent.len() >= count {
            return sent;
        }
        *now = connection.poll_timeout().expect("something to wait for").max(*now);
        connection.handle_timeout(*now);
    }
}

/// Ten segments are acknowledged, one round trip is known, and `count` more are on their way; the
/// time when the last of them left.
fn in_flight(connection: &mut Connection, count: usize) -> Instant {
    let mut now = START;
    connection.write(&pattern(0, 10 * MSS));
    assert_eq!(send(connection, &mut now, 10).len(), 10);
    now += RTT;
    take(connection, now, &ack(10, &[]));
    connection.write(&pattern(0, count * MSS));
    send(connection, &mut now, count);
    now
}

fn window(connection: &Connection) -> u64 {
    connection.sender.capacity()
}

#[test]
fn segments_are_spread_over_the_round_trip() {
    let mut connection = open();
    let now = in_flight(&mut connection, 20);
    let time = now.since(START + RTT);
    // In slow start twice as fast as the window allows.
    assert!(time > RTT / 3 && time < RTT * 2 / 3, "{time:?}");
}

#[test]
fn rfc_5682_a_spurious_timeout_is_taken_back() {
    let mut connection = open();
    let mut now = in_flight(&mut connection, 20);
    let before = window(&connection);
    assert_eq!(send(&mut connection, &mut now, 1), [29], "a tail loss probe");
    assert_eq!(send(&mut connection, &mut now, 1), [10], "the timeout");
    assert!(window(&connection) < 2 * MSS as u64);
    // Late ACKs: the second segment was never sent again.
    take(&mut connection, now, &ack(12, &[]));
    assert!(window(&connection) >= before, "{} of {before}", window(&connection));
    assert_eq!(drain(&mut connection, now), [], "nothing is lost");
}

#[test]
fn rfc_5682_after_a_real_timeout_new_segments_go_first_and_then_the_lost_ones() {
    let mut connection = open();
    let mut now = in_flight(&mut connection, 6);
    assert_eq!(send(&mut connection, &mut now, 2), [15, 10]);
    connection.write(&pattern(0, 10 * MSS));
    now += RTT;
    take(&mut connection, now, &ack(11, &[]));
    assert_eq!(send(&mut connection, &mut now, 2), [16, 17]);
    now += RTT;
    take(&mut connection, now, &ack(11, &[(16, 17)]));
    assert_eq!(send(&mut connection, &mut now, 1)[0], 11);
}

#[test]
fn rfc_3708_duplicates_take_a_reduction_back() {
    let mut connection = open();
    let mut now = in_flight(&mut connection, 20);
    let before = window(&connection);
    now += RTT;
    take(&mut connection, now, &ack(10, &[(11, 14)]));
    assert_eq!(send(&mut connection, &mut now, 1), [10]);
    assert!(window(&connection) < before);
    take(&mut connection, now, &ack(30, &[]));
    assert!(window(&connection) < before, "nothing is known yet");
    take(&mut connection, now, &ack(30, &[(10, 11)]));
    assert!(window(&connection) >= before);
}

#[test]
fn rfc_2883_a_duplicate_that_nobody_sent_changes_nothing() {
    let mut connection = open();
    let mut now = in_flight(&mut connection, 20);
    let before = window(&connection);
    take(&mut connection, now, &ack(10, &[(0, 1)]));
    take(&mut connection, now, &ack(10, &[(9, 10)]));
    assert_eq!(window(&connection), before);
    now += RTT;
    take(&mut connection, now, &ack(30, &[]));
}

#[test]
fn rfc_3522_an_answer_to_the_first_transmission_takes_a_reduction_back() {
    let mut connection = open_with(&accepted(true));
    let echoing = |at: Instant, ack: TcpRepr<'static>| {
        let echo = at.as_millis() as u32;
        TcpRepr { timestamp: Some(TcpTimestampRepr::new(TS, echo)), ..ack }
    };
    let payload = MSS - 12;
    connection.write(&pattern(0, 10 * payload));
    assert_eq!(drain(&mut connection, START).len(), 10);
    let now = START + RTT;
    let scaled = |segments: usize| segment(0, (segments * payload) as i64, b"");
    let mut sack = scaled(1);
    let left = ISS.wrapping_add(1 + 2 * payload as u32);
    sack.sack_ranges[0] = Some((left, left.wrapping_add(3 * payload as u32)));
    let before = window(&connection);
    take(&mut connection, now, &echoing(START, sack));
    assert_eq!(drain(&mut connection, now).len(), 1);
    assert!(window(&connection) < before);
    let later = now + Duration::from_millis(5);
    take(&mut connection, later, &echoing(START, scaled(5)));
    assert!(window(&connection) >= before, "it was late, not lost");
}

#[test]
fn rfc_8985_a_probe_that_repairs_a_loss_reduces_the_window() {
    for is_duplicate in [false, true] {
        let mut connection = open();
        let mut now = in_flight(&mut connection, 4);
        let before = window(&connection);
        assert_eq!(send(&mut connection, &mut now, 1), [13]);
        now += RTT;
        let duplicate: &[(usize, usize)] = if is_duplicate { &[(13, 14)] } else { &[] };
        take(&mut connection, now, &ack(14, duplicate));
        connection.write(&pattern(0, MSS));
        send(&mut connection, &mut now, 1);
        take(&mut connection, now + RTT, &ack(15, &[]));
        assert_eq!(window(&connection) < before, !is_duplicate, "{is_duplicate}");
    }
}

#[test]
fn rfc_3042_two_duplicate_acks_each_let_a_new_segment_out() {
    let mut connection = open_with(&Accepted { sack: false, ..accepted(false) });
    let mut now = START;
    connection.write(&pattern(0, 20 * MSS));
    assert_eq!(send(&mut connection, &mut now, 10).len(), 10);
    for expected in [&[10][..], &[11], &[0]] {
        take(&mut connection, now, &ack(0, &[]));
        let sent = drain(&mut connection, now);
        assert_eq!(sent.iter().map(|s| seq_of(s) as usize / MSS).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn rfc_6937_the_window_shrinks_with_what_arrives() {
    let mut connection = open();
    let mut now = in_flight(&mut connection, 20);
    connection.write(&pattern(0, 20 * MSS));
    now += RTT;
    let mut sent = 0;
    for count in 1..=19 {
        take(&mut connection, now, &ack(10, &[(11, 11 + count)]));
        sent += drain(&mut connection, now).len();
        now += Duration::from_millis(1);
    }
    // The retransmission and seven for every ten, of which the first came before the recovery.
    assert!((13..=15).contains(&sent), "{sent}");
}

#[test]
fn rfc_2861_silence_costs_the_window() {
    let mut connection = open();
    let mut now = in_flight(&mut connection, 20);
    take(&mut connection, now + RTT, &ack(30, &[]));
    assert!(window(&connection) > 30 * MSS as u64);
    connection.write(&pattern(0, MSS));
    now += Duration::from_secs(60);
    send(&mut connection, &mut now, 1);
    assert_eq!(window(&connection), 10 * MSS as u64);
}

#[test]
fn rfc_7661_a_window_that_is_not_used_does_not_grow() {
    let mut connection = open();
    let mut now = START;
    for i in 0..50 {
        connection.write(&pattern(0, MSS));
        send(&mut connection, &mut now, 1);
        now += RTT;
        take(&mut connection, now, &ack(i + 1, &[]));
    }
    assert_eq!(window(&connection), 10 * MSS as u64);
}
