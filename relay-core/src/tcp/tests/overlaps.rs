//! Segments that repeat bytes, and do not repeat the same ones: the first to come count.

use super::rules::{open, segment};
use super::{START, small_config};
use crate::reason::Reason;

const DIFFERS: Result<(), Reason> = Err(Reason::OverlapInconsistent);

#[test]
fn bytes_beyond_a_hole_are_not_replaced() {
    let mut connection = open();
    let mut take = |at, bytes: &[u8]| connection.handle_segment(START, &segment(at, 0, bytes));
    assert_eq!(take(4, b"EFGH"), Ok(()));
    assert_eq!(take(10, b"KL"), Ok(()));
    assert_eq!(take(2, b"cdefghijkl"), DIFFERS);
    assert_eq!(take(4, b"EFGH"), Ok(()), "a mere repetition is nothing remarkable");
    assert_eq!(take(0, b"abcd"), Ok(()));
    assert_eq!((connection.received(), connection.peek(0, 20)), (12, &b"abcdEFGHijKL"[..]));
}

#[test]
fn bytes_in_order_are_not_replaced_as_long_as_they_are_kept() {
    let mut connection = open();
    assert_eq!(connection.handle_segment(START, &segment(0, 0, b"0123456789")), Ok(()));
    assert_eq!(connection.handle_segment(START, &segment(5, 0, b"56xx9ab")), DIFFERS);
    assert_eq!((connection.received(), connection.peek(0, 20)), (12, &b"0123456789ab"[..]));
    connection.release(9);
    let result = connection.handle_segment(START, &segment(5, 0, b"xxxx9ab"));
    assert_eq!(result, Ok(()), "what was let go is not compared");
}

#[test]
fn what_does_not_fit_is_cut_off() {
    let mut connection = open();
    let capacity = small_config().receive_buffer as i64;
    let result = connection.handle_segment(START, &segment(capacity - 2, 0, b"abc"));
    assert_eq!(result, Err(Reason::WindowExceeded));
    let held: Vec<_> = connection.out_of_order().collect();
    assert_eq!((held.len(), held[0].end), (1, capacity as u64));
}
