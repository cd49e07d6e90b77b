//! The wire ACK lags on legs in full swing, and wakes the peer after a takeover.

use super::rules::{blocks_of, drain, expect_ack, open, segment};
use super::{START, small_config};
use crate::tcp::{Connection, Mark};
use crate::time::Duration;

const SEGMENT: i64 = 1000;
const PAYLOAD: [u8; SEGMENT as usize] = [7; SEGMENT as usize];

/// A connection on which segments have come, of which all but the last twenty may be acknowledged.
fn after(segments: i64) -> Connection {
    let mut connection = open();
    for i in 0..segments {
        connection.handle_segment(START, &segment(i * SEGMENT, 0, &PAYLOAD)).expect("data");
        let limit = ((i + 1 - 20).max(0) * SEGMENT) as u64;
        connection.set_ack_limit(limit);
        connection.release(limit);
        drain(&mut connection, START);
    }
    connection
}

fn mark() -> Mark {
    Mark { ack: 86_000, hole_end: 87_000, end: 90_000 }
}

#[test]
fn in_full_swing_the_ack_stays_four_segments_behind() {
    let mut connection = after(100);
    assert_eq!(connection.mark(90_500), Some(mark()));
    connection.set_ack_limit(90_500);
    expect_ack(&mut connection, START, 86_000);
}

#[test]
fn requests_and_short_flights_are_acknowledged_whole() {
    let mut connection = after(32);
    connection.set_ack_limit(32_000);
    expect_ack(&mut connection, START, 32_000);
    // A small congestion window: never more than two segments are unacknowledged.
    let mut connection = open();
    for i in 0..200 {
        connection.handle_segment(START, &segment(i * SEGMENT, 0, &PAYLOAD)).expect("data");
        let end = ((i + 1) * SEGMENT) as u64;
        connection.release(end);
        connection.set_ack_limit(end);
        drain(&mut connection, START);
        assert_eq!(connection.mark(end), None);
    }
}

#[test]
fn before_full_swing_the_ack_stays_one_segment_behind() {
    let mut connection = after(60);
    connection.set_ack_limit(60_000);
    expect_ack(&mut connection, START, 59_000);
    let later = connection.poll_timeout().expect("a timer");
    connection.handle_timeout(later);
    expect_ack(&mut connection, later, 60_000);
}

#[test]
fn on_a_long_way_one_segment_is_kept_back_until_the_next_flight_would_have_come() {
    let later = |ms| START + Duration::from_millis(ms);
    let mut connection = open();
    connection.write(b"hello");
    drain(&mut connection, START);
    connection.handle_segment(later(20), &segment(0, 5, b"")).expect("a round trip of 20 ms");
    for i in 0..100 {
        connection.handle_segment(later(20), &segment(i * SEGMENT, 5, &PAYLOAD)).expect("data");
        connection.release(((i + 1 - 20).max(0) * SEGMENT) as u64);
        connection.set_ack_limit(((i + 1 - 20).max(0) * SEGMENT) as u64);
        drain(&mut connection, later(20));
    }
    connection.set_ack_limit(100_000);
    expect_ack(&mut connection, later(20), 96_000);
    for (at, ack) in [(25, 99_000), (45, 100_000)] {
        assert_eq!(connection.poll_timeout(), Some(later(at)));
        connection.handle_timeout(later(at));
        expect_ack(&mut connection, later(at), ack);
    }
}

#[test]
fn segments_that_come_one_by_one_are_acknowledged_whole() {
    let mut connection = open();
    for i in 0..100 {
        let now = START + Duration::from_millis(20 * i as u64);
        connection.handle_segment(now, &segment(i * SEGMENT, 0, &PAYLOAD)).expect("data");
        let end = ((i + 1) * SEGMENT) as u64;
        connection.set_ack_limit(end);
        connection.release(end);
        connection.handle_timeout(now + Duration::from_millis(2));
        expect_ack(&mut connection, now + Duration::from_millis(2), end as i64);
    }
}

#[test]
fn an_idle_sender_is_acknowledged_whole_and_a_blocked_one_is_not_idle() {
    let later = |ms| START + Duration::from_millis(ms);
    let mut connection = after(100);
    connection.set_ack_limit(100_000);
    expect_ack(&mut connection, START, 96_000);
    assert_eq!(connection.poll_timeout(), Some(later(5)));
    connection.handle_timeout(later(5));
    expect_ack(&mut connection, later(5), 100_000);

    let mut connection = after(100);
    connection.set_ack_limit(90_000);
    expect_ack(&mut connection, START, 86_000);
    connection.handle_timeout(later(5));
    assert_eq!(drain(&mut connection, later(5)), [], "it may wait for our ACKs");
    connection.set_ack_limit(100_000);
    expect_ack(&mut connection, later(6), 96_000);
    connection.handle_timeout(later(11));
    expect_ack(&mut connection, later(11), 100_000);
}

#[test]
fn out_of_order_bytes_end_the_lag() {
    let mut connection = after(100);
    connection.set_ack_limit(100_000);
    expect_ack(&mut connection, START, 96_000);
    connection.handle_segment(START, &segment(102_000, 0, &PAYLOAD)).expect("data");
    connection.set_sackable(core::slice::from_ref(&(102_000..103_000)));
    let ack = expect_ack(&mut connection, START, 100_000);
    assert_eq!(blocks_of(&ack), [(102_000, 103_000)]);
    for i in [100, 101].into_iter().chain(103..300) {
        connection.handle_segment(START, &segment(i * SEGMENT, 0, &PAYLOAD)).expect("data");
        let limit = ((i + 1 - 20).max(100) * SEGMENT) as u64;
        connection.set_ack_limit(limit);
        connection.release(limit);
        drain(&mut connection, START);
        assert_eq!(connection.mark(limit), None, "small windows after losses are not lagged");
    }
}

/// Another node goes on; what is below 90,500 is settled.
fn taken_over() -> Connection {
    let mut state = after(100).save();
    (state.retained, state.wire_ack) = (90_500, mark().ack);
    let mut connection = Connection::restore(&small_config(), &state, START).expect("a state");
    connection.set_ack_limit(90_500);
    connection.wake(Some(mark()));
    connection
}

#[test]
fn rfc_6675_the_new_owner_shows_a_hole_and_three_segments() {
    let mut connection = taken_over();
    let ack = expect_ack(&mut connection, START, 86_000);
    assert_eq!(blocks_of(&ack), [(87_000, 90_000)]);
    connection.handle_segment(START, &segment(86_000, 0, &PAYLOAD)).expect("the hole");
    // RFC 8985 section 6.2: an answer that comes too soon does not count.
    assert_eq!(drain(&mut connection, START), []);
    let later = connection.poll_timeout().expect("a timer");
    assert!(later > START && later < START + Duration::from_millis(2));
    let ack = expect_ack(&mut connection, later, 90_500);
    assert_eq!(blocks_of(&ack), []);
}

#[test]
fn a_peer_that_does_not_answer_is_told_everything() {
    let mut connection = taken_over();
    expect_ack(&mut connection, START, 86_000);
    let again = START + Duration::from_millis(4);
    assert_eq!(connection.poll_timeout(), Some(again), "the path may have lost it");
    connection.handle_timeout(again);
    let ack = expect_ack(&mut connection, again, 86_000);
    assert_eq!(blocks_of(&ack), [(87_000, 90_000)]);
    connection.handle_timeout(START + Duration::from_millis(20));
    drain(&mut connection, START + Duration::from_millis(20));
    let later = START + Duration::from_millis(25);
    assert_eq!(connection.poll_timeout(), Some(later));
    connection.handle_timeout(later);
    expect_ack(&mut connection, later, 90_500);
}

#[test]
fn rfc_8985_a_peer_whose_timer_ran_out_is_shown_a_hole_that_it_has_not_repeated() {
    let past = mark().past_timeout(95_500).expect("segments of one length");
    assert_eq!(past, Mark { ack: 87_000, hole_end: 88_000, end: 95_500 });
    let odd = Mark { end: mark().end - 1, ..mark() };
    assert_eq!(odd.past_timeout(95_500), None, "where does the second one end?");
}

#[test]
fn after_a_takeover_an_answer_to_what_may_be_a_probe_waits() {
    let mut state = after(100).save();
    (state.retained, state.wire_ack) = (90_000, 90_000);
    let mut connection = Connection::restore(&small_config(), &state, START).expect("a state");
    connection.set_ack_limit(90_000);
    connection.wake(None);
    expect_ack(&mut connection, START, 90_000);
    connection.handle_segment(START, &segment(99_000, 0, &PAYLOAD)).expect("beyond a hole");
    connection.set_sackable(core::slice::from_ref(&(99_000..100_000)));
    assert_eq!(drain(&mut connection, START), [], "RACK would not count it (RFC 8985 section 6.2)");
    let later = connection.poll_timeout().expect("a timer");
    assert!(later < START + Duration::from_millis(2));
    let ack = expect_ack(&mut connection, later, 90_000);
    assert_eq!(blocks_of(&ack), [(99_000, 100_000)]);
    // In order: from now on there is nothing to wait for.
    connection.handle_segment(later, &segment(90_000, 0, &PAYLOAD)).expect("the hole");
    expect_ack(&mut connection, later, 90_000);
    connection.handle_segment(later, &segment(97_000, 0, &PAYLOAD)).expect("beyond a hole");
    connection.set_sackable(core::slice::from_ref(&(97_000..100_000)));
    expect_ack(&mut connection, later, 90_000);
}

#[test]
fn requests_are_acknowledged_whole_however_fast_they_follow() {
    let mut connection = open();
    for i in 0..1000 {
        let now = START + Duration::from_millis(3 * i as u64);
        connection.handle_segment(now, &segment(i * 100, 0, &PAYLOAD[..100])).expect("a request");
        let end = ((i + 1) * 100) as u64;
        connection.set_ack_limit(end);
        connection.release(end);
        let later = now + Duration::from_millis(2);
        connection.handle_timeout(later);
        expect_ack(&mut connection, later, end as i64);
    }
}

#[test]
fn what_may_not_be_acknowledged_is_not_shown() {
    let mut state = after(100).save();
    (state.retained, state.wire_ack) = (89_999, mark().ack);
    let mut connection = Connection::restore(&small_config(), &state, START).expect("a state");
    connection.set_ack_limit(89_999);
    connection.wake(Some(mark()));
    let ack = expect_ack(&mut connection, START, 89_999);
    assert_eq!(blocks_of(&ack), []);
}
