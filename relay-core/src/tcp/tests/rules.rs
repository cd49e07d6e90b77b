//! Single segments against one connection: the rules of the RFCs, one by one.

use smoltcp::wire::{TcpControl, TcpSeqNumber, TcpTimestampRepr};

use super::{Owned, START, pattern, small_config, tuple};
use crate::frame::TcpRepr;
use crate::reason::Reason;
use crate::tcp::segment::blank;
use crate::tcp::{Accepted, Cause, Connection, Phase, Timestamps, reset_for};
use crate::time::{Duration, Instant};

pub(super) const ISS: u32 = 0xffff_fff0;
const IRS: u32 = 0x7fff_fff0;
pub(super) const TS: u32 = 5_000;

pub(super) fn accepted(timestamps: bool) -> Accepted {
    Accepted {
        iss: ISS,
        irs: IRS,
        peer_mss: 1460,
        send_wscale: Some(0),
        receive_wscale: small_config().window_scale(),
        sack: true,
        timestamps: timestamps.then_some(Timestamps { recent: TS, offset: 0 }),
    }
}

/// A connection without timestamps that the peer has opened, with a window of 60000 bytes.
pub(super) fn open() -> Connection {
    open_with(&accepted(false))
}

pub(super) fn open_with(accepted: &Accepted) -> Connection {
    let mut connection = Connection::accept(&small_config(), tuple(0, false), accepted, START);
    let stamp = accepted.timestamps.map(|_| TcpTimestampRepr::new(TS, 0));
    let ack = TcpRepr { timestamp: stamp, ..segment(0, 0, b"") };
    assert_eq!(connection.handle_segment(START, &ack), Ok(()));
    connection.set_send_limit(u64::MAX);
    connection
}

/// A segment of the peer, by stream offsets.
pub(super) fn segment(seq: i64, ack: i64, payload: &[u8]) -> TcpRepr<'_> {
    let wire = |initial: u32, offset: i64| {
        TcpSeqNumber(initial.wrapping_add(1).wrapping_add(offset as u32) as i32)
    };
    TcpRepr {
        control: TcpControl::Psh,
        seq_number: wire(IRS, seq),
        ack_number: Some(wire(ISS, ack)),
        window_len: 60_000,
        payload,
        ..blank()
    }
}

fn control(control: TcpControl, seq: i64, ack: i64) -> TcpRepr<'static> {
    TcpRepr { control, ..segment(seq, ack, b"") }
}

/// Everything that leaves now.
pub(super) fn drain(connection: &mut Connection, now: Instant) -> Vec<Owned> {
    core::iter::from_fn(|| connection.poll_transmit(now).map(|s| Owned::new(&s))).collect()
}

fn ack_of(segment: &Owned) -> i64 {
    let ack = segment.get().ack_number.expect("an ACK");
    i64::from(ack.0.wrapping_sub(IRS as i32).wrapping_sub(1))
}

pub(super) fn seq_of(segment: &Owned) -> i64 {
    i64::from(segment.get().seq_number.0.wrapping_sub(ISS as i32).wrapping_sub(1))
}

pub(super) fn blocks_of(segment: &Owned) -> Vec<(u32, u32)> {
    let relative = |seq: u32| seq.wrapping_sub(IRS).wrapping_sub(1);
    let ranges = segment.get().sack_ranges;
    ranges.iter().flatten().map(|(l, r)| (relative(*l), relative(*r))).collect()
}

/// Exactly one pure ACK of `offset` leaves now.
pub(super) fn expect_ack(connection: &mut Connection, now: Instant, offset: i64) -> Owned {
    let mut sent = drain(connection, now);
    assert_eq!(sent.len(), 1, "{sent:?}");
    let ack = sent.remove(0);
    assert!(ack.get().payload.is_empty() && ack_of(&ack) == offset, "{ack:?}");
    ack
}

#[test]
fn nothing_is_acknowledged_before_the_relay_says_so() {
    let mut connection = open();
    assert_eq!(connection.handle_segment(START, &segment(0, 0, b"hello")), Ok(()));
    assert_eq!(drain(&mut connection, START + Duration::from_secs(1)), []);
    assert_eq!((connection.received(), connection.peek(0, 9)), (5, &b"hello"[..]));
    connection.set_ack_limit(3);
    let at = connection.poll_timeout().expect("a delayed ACK");
    connection.handle_timeout(at);
    let first = expect_ack(&mut connection, at, 3);
    connection.set_ack_limit(9);
    let at = connection.poll_timeout().expect("a delayed ACK");
    let second = expect_ack(&mut connection, at, 5);
    let edge = |ack: &Owned| ack_of(ack) + (i64::from(ack.get().window_len) << 1);
    assert!(edge(&second) >= edge(&first) - 1, "the right edge stays");
}

#[test]
fn the_first_full_segments_are_acknowledged_at_once_then_every_second_one() {
    let mut connection = open();
    connection.set_ack_limit(u64::MAX);
    let full = pattern(0, 1460);
    let mut at = 0;
    for _ in 0..16 {
        connection.handle_segment(START, &segment(at, 0, &full)).expect("data");
        at += 1460;
        expect_ack(&mut connection, START, at);
    }
    connection.handle_segment(START, &segment(at, 0, &full)).expect("data");
    assert_eq!(drain(&mut connection, START), []);
    connection.handle_segment(START, &segment(at + 1460, 0, &full)).expect("data");
    expect_ack(&mut connection, START, at + 2920);
}

#[test]
fn data_carries_the_ack_of_a_short_segment() {
    let mut connection = open();
    connection.set_ack_limit(u64::MAX);
    connection.handle_segment(START, &segment(0, 0, b"request")).expect("data");
    assert_eq!(drain(&mut connection, START), []);
    connection.write(b"answer");
    let sent = drain(&mut connection, START);
    assert_eq!((sent.len(), ack_of(&sent[0]), sent[0].get().payload), (1, 7, &b"answer"[..]));
}

#[test]
fn nothing_leaves_beyond_the_send_limit() {
    let mut connection =
        Connection::accept(&small_config(), tuple(0, false), &accepted(false), START);
    connection.handle_segment(START, &segment(0, 0, b"")).expect("an ACK");
    connection.write(b"0123456789");
    connection.finish();
    assert_eq!(drain(&mut connection, START), []);
    connection.set_send_limit(4);
    let sent = drain(&mut connection, START);
    assert_eq!((sent.len(), sent[0].get().payload), (1, &b"0123"[..]));
    connection.set_send_limit(10);
    let sent = drain(&mut connection, START);
    assert_eq!((sent[0].get().payload, sent[0].get().control), (&b"456789"[..], TcpControl::Psh));
    connection.set_send_limit(11);
    let sent = drain(&mut connection, START);
    assert_eq!((sent.len(), sent[0].get().control, seq_of(&sent[0])), (1, TcpControl::Fin, 10));
}

#[test]
fn rfc_2018_only_what_is_kept_is_sacked_the_newest_block_first() {
    let mut connection = open();
    connection.set_ack_limit(u64::MAX);
    for at in [20, 40, 60, 10] {
        connection.handle_segment(START, &segment(at, 0, b"xxxxx")).expect("data");
    }
    assert_eq!(drain(&mut connection, START), [], "nothing may be told yet");
    connection.set_sackable(&[8..25, 42..50]);
    let ack = expect_ack(&mut connection, START, 0);
    assert_eq!(blocks_of(&ack), [(10, 15), (42, 45), (20, 25)]);
    connection.set_sackable(&[8..25, 42..50]);
    assert_eq!(drain(&mut connection, START), [], "it is no news");
    assert_eq!(connection.out_of_order().map(|r| r.start).collect::<Vec<_>>(), [10, 20, 40, 60]);
    let mut bytes = Vec::new();
    connection.copy_out_of_order(40..45, &mut bytes);
    assert_eq!(bytes, b"xxxxx");
}

#[test]
fn withheld_bytes_can_be_sacked_above_a_hole_at_the_wire_ack() {
    let mut connection = open();
    connection.handle_segment(START, &segment(0, 0, &pattern(0, 100))).expect("data");
    connection.set_sackable(core::slice::from_ref(&(0..100)));
    assert_eq!(drain(&mut connection, START), [], "without a hole it would be an ACK");
    connection.set_sackable(core::slice::from_ref(&(30..100)));
    let ack = expect_ack(&mut connection, START, 0);
    assert_eq!(blocks_of(&ack), [(30, 100)]);
}

#[test]
fn rfc_2883_duplicates_are_reported_and_withheld_ones_are_just_answered() {
    let mut connection = open();
    connection.handle_segment(START, &segment(0, 0, b"abcdef")).expect("data");
    connection.handle_segment(START, &segment(0, 0, b"abcdef")).expect("withheld, so no attack");
    let ack = expect_ack(&mut connection, START, 0);
    assert_eq!(blocks_of(&ack), []);
    connection.set_ack_limit(6);
    connection.handle_segment(START, &segment(0, 0, b"abcdefghi")).expect("three are new");
    let ack = expect_ack(&mut connection, START, 6);
    assert_eq!(blocks_of(&ack), []);
    let old = connection.handle_segment(START, &segment(0, 0, b"abcdef"));
    assert_eq!(old, Err(Reason::OutOfWindow));
    let ack = expect_ack(&mut connection, START, 6);
    assert_eq!(blocks_of(&ack), [(0, 6)]);
    assert_eq!(connection.received(), 9);
}

#[test]
fn rfc_5961_a_reset_counts_at_the_exact_sequence_number_only() {
    let data = pattern(0, 50);
    for (seq, result, phase) in [
        (0, Ok(()), Phase::Closed(Cause::Reset)),  // The wire ACK.
        (50, Ok(()), Phase::Closed(Cause::Reset)), // What has been received.
        (20, Err(Reason::RstChallenged), Phase::Open),
        (70, Err(Reason::RstChallenged), Phase::Open),
        (-1, Err(Reason::OutOfWindow), Phase::Open),
        (200_000, Err(Reason::OutOfWindow), Phase::Open),
    ] {
        let mut connection = open();
        connection.handle_segment(START, &segment(0, 0, &data)).expect("data");
        let rst = control(TcpControl::Rst, seq, 0);
        assert_eq!(connection.handle_segment(START, &rst), result, "at {seq}");
        assert_eq!(connection.phase(), phase, "at {seq}");
        if result == Err(Reason::RstChallenged) {
            expect_ack(&mut connection, START, 0);
            let _ = connection.handle_segment(START, &rst);
            assert_eq!(drain(&mut connection, START), [], "challenges are rare");
        }
    }
}

#[test]
fn rfc_5961_a_syn_on_a_synchronized_connection_is_challenged() {
    for seq in [-1, 0, 1_000_000] {
        let mut connection = open();
        let syn = control(TcpControl::Syn, seq, 0);
        assert_eq!(connection.handle_segment(START, &syn), Err(Reason::SynChallenged));
        expect_ack(&mut connection, START, 0);
        assert_eq!(connection.phase(), Phase::Open);
    }
}

#[test]
fn rfc_5961_impossible_acknowledgements_drop_the_segment() {
    for ack in [1, 100_000, -60_001] {
        let mut connection = open();
        let data = segment(0, ack, b"forged");
        assert_eq!(connection.handle_segment(START, &data), Err(Reason::AckUnacceptable));
        assert_eq!(connection.received(), 0);
        expect_ack(&mut connection, START, 0);
    }
    let mut connection = open();
    let none = TcpRepr { ack_number: None, ..segment(0, 0, b"forged") };
    assert_eq!(connection.handle_segment(START, &none), Err(Reason::AckUnacceptable));
}

#[test]
fn data_with_an_old_acknowledgement_counts() {
    let mut connection = open();
    connection.write(b"0123456789");
    drain(&mut connection, START);
    connection.handle_segment(START, &segment(0, 10, b"")).expect("an ACK");
    connection.handle_segment(START, &segment(0, 4, b"late")).expect("data");
    assert_eq!((connection.acked(), connection.received()), (10, 4));
}

#[test]
fn rfc_9293_unacceptable_segments_are_answered() {
    let mut connection = open();
    let beyond = segment(200_000, 0, b"x");
    assert_eq!(connection.handle_segment(START, &beyond), Err(Reason::OutOfWindow));
    expect_ack(&mut connection, START, 0);
    // A keep-alive, or a window probe.
    assert_eq!(connection.handle_segment(START, &segment(-1, 0, b"")), Err(Reason::OutOfWindow));
    expect_ack(&mut connection, START, 0);
}

#[test]
fn rfc_9293_what_exceeds_the_window_is_cut_off() {
    let mut connection = open();
    connection.set_ack_limit(u64::MAX);
    let data = pattern(0, 100_000);
    connection.handle_segment(START, &segment(0, 0, &data)).expect("a full buffer");
    let over = connection.handle_segment(START, &control(TcpControl::Fin, 100_000, 0));
    assert_eq!(over, Ok(()), "a FIN needs no room");
    assert_eq!((connection.received(), connection.fin_received()), (100_000, true));
    let mut connection = open();
    let data = pattern(0, 100_010);
    let over = connection.handle_segment(START, &segment(0, 0, &data));
    assert_eq!((over, connection.received()), (Err(Reason::WindowExceeded), 100_000));
    let over = connection.handle_segment(START, &segment(100_000, 0, b"x"));
    assert_eq!((over, connection.received()), (Err(Reason::WindowExceeded), 100_000));
}

#[test]
fn rfc_9293_a_fin_waits_for_the_bytes_below_it() {
    let mut connection = open();
    connection.set_ack_limit(u64::MAX);
    let fin = TcpRepr { control: TcpControl::Fin, ..segment(3, 0, b"def") };
    connection.handle_segment(START, &fin).expect("a FIN");
    assert!(!connection.fin_received());
    let beyond = connection.handle_segment(START, &segment(0, 0, b"abcdefghi"));
    assert_eq!(beyond, Err(Reason::WindowExceeded), "there is nothing behind a FIN");
    assert_eq!((connection.received(), connection.fin_received()), (6, true));
    expect_ack(&mut connection, START, 7);
    let again = connection.handle_segment(START, &fin);
    assert_eq!(again, Err(Reason::OutOfWindow));
    expect_ack(&mut connection, START, 7);
}

#[test]
fn the_acknowledgement_of_a_fin_can_be_withheld() {
    let mut connection = open();
    connection.handle_segment(START, &control(TcpControl::Fin, 0, 0)).expect("a FIN");
    connection.finish();
    let sent = drain(&mut connection, START);
    assert_eq!((sent[0].get().control, ack_of(&sent[0])), (TcpControl::Fin, 0));
    connection.handle_segment(START, &segment(1, 1, b"")).expect("an ACK of our FIN");
    assert_eq!((connection.phase(), connection.fin_acked()), (Phase::Open, true));
    connection.set_ack_limit(1);
    expect_ack(&mut connection, START, 1);
    assert_eq!(connection.phase(), Phase::TimeWait, "to the peer we closed simultaneously");
    connection.handle_segment(START, &control(TcpControl::Fin, 0, 1)).expect("the FIN again");
    expect_ack(&mut connection, START, 1);
    let end = connection.poll_timeout().expect("an end");
    connection.handle_timeout(end);
    assert_eq!(connection.phase(), Phase::Closed(Cause::Normal));
}

#[test]
fn rfc_7323_paws_drops_what_is_older_than_the_last_segment() {
    let at = |tsval| Some(TcpTimestampRepr::new(tsval, 0));
    let mut connection = open_with(&accepted(true));
    connection.set_ack_limit(u64::MAX);
    let data = TcpRepr { timestamp: at(TS + 10), ..segment(0, 0, b"new") };
    connection.handle_segment(START, &data).expect("data");
    let old = TcpRepr { timestamp: at(TS + 9), ..segment(3, 0, b"old") };
    assert_eq!(connection.handle_segment(START, &old), Err(Reason::PawsRejected));
    let ack = expect_ack(&mut connection, START, 3);
    assert_eq!(ack.get().timestamp.map(|stamp| stamp.tsecr), Some(TS + 10));
    let bare = segment(3, 0, b"none");
    assert_eq!(connection.handle_segment(START, &bare), Err(Reason::PawsRejected));
    let rst = TcpRepr { timestamp: at(TS), ..control(TcpControl::Rst, 3, 0) };
    assert_eq!(connection.handle_segment(START, &rst), Ok(()), "a reset is exempt");
}

#[test]
fn rfc_7323_the_echo_is_of_the_oldest_segment_that_is_not_acknowledged() {
    let mut connection = open_with(&accepted(true));
    for (seq, stamp) in [(0, TS + 10), (3, TS + 20)] {
        let timestamp = Some(TcpTimestampRepr::new(stamp, 0));
        let data = TcpRepr { timestamp, ..segment(seq, 0, b"new") };
        connection.handle_segment(START, &data).expect("data");
    }
    connection.set_ack_limit(6);
    let ack = expect_ack(&mut connection, START + Duration::from_millis(2), 6);
    assert_eq!(ack.get().timestamp.map(|stamp| stamp.tsecr), Some(TS + 10));
}

#[test]
fn rfc_7323_an_old_timestamp_counts_after_24_days_of_silence() {
    let mut connection = open_with(&accepted(true));
    let later = START + Duration::from_secs(25 * 24 * 3600);
    let stamp = Some(TcpTimestampRepr::new(TS.wrapping_sub(9), 0));
    let data = TcpRepr { timestamp: stamp, ..segment(0, 0, b"old") };
    assert_eq!(connection.handle_segment(later, &data), Ok(()));
}

#[test]
fn rfc_2018_a_sacked_hole_is_filled_without_a_timeout() {
    let mut connection = open();
    connection.write(&pattern(0, 10 * 1460));
    assert_eq!(drain(&mut connection, START).len(), 10);
    let now = START + Duration::from_millis(20);
    for count in 2..=4u32 {
        let first = ISS.wrapping_add(1 + 1460);
        let mut ack = segment(0, 0, b"");
        ack.sack_ranges[0] = Some((first, first.wrapping_add(count * 1460)));
        connection.handle_segment(now, &ack).expect("an ACK");
    }
    let sent = drain(&mut connection, now);
    assert_eq!((sent.len(), seq_of(&sent[0])), (1, 0));
    assert_eq!(sent[0].get().payload, pattern(0, 1460));
}

#[test]
fn rfc_8985_a_lost_tail_is_probed_before_the_timeout() {
    let mut connection = open();
    connection.write(&pattern(0, 1460));
    drain(&mut connection, START);
    let now = START + Duration::from_millis(20);
    connection.handle_segment(now, &segment(0, 1460, b"")).expect("an ACK");
    connection.write(&pattern(1460, 3 * 1460));
    drain(&mut connection, now);
    let at = connection.poll_timeout().expect("a probe");
    assert_eq!(at, now + Duration::from_millis(40));
    connection.handle_timeout(at);
    let sent = drain(&mut connection, at);
    assert_eq!((sent.len(), seq_of(&sent[0])), (1, 3 * 1460));
}

#[test]
fn rfc_6298_the_timer_backs_off_and_karn_keeps_retransmissions_out() {
    let mut connection = open();
    connection.write(b"lost");
    drain(&mut connection, START);
    let mut last = START;
    let mut waits = Vec::new();
    for _ in 0..4 {
        let at = connection.poll_timeout().expect("an RTO");
        connection.handle_timeout(at);
        assert_eq!(drain(&mut connection, at).len(), 1);
        waits.push(at.since(last).as_millis());
        last = at;
    }
    assert_eq!(waits, [1000, 2000, 4000, 8000]);
    connection.handle_segment(last, &segment(0, 4, b"")).expect("an ACK");
    connection.write(b"next");
    drain(&mut connection, last);
    assert_eq!(connection.poll_timeout(), Some(last + Duration::from_secs(1)));
}

#[test]
fn rfc_9293_a_lost_window_update_is_asked_after_even_when_nothing_is_queued() {
    let mut connection = open();
    let closed = TcpRepr { window_len: 0, ..segment(0, 0, b"") };
    connection.handle_segment(START, &closed).expect("an ACK");
    assert_eq!(connection.send_budget(), 0);
    let at = connection.poll_timeout().expect("a persist timer");
    connection.handle_timeout(at);
    let probe = expect_ack(&mut connection, at, 0);
    assert_eq!(seq_of(&probe), -1, "it must be answered");
    connection.handle_segment(at, &segment(0, 0, b"")).expect("an ACK");
    assert_eq!((connection.poll_timeout(), connection.send_budget()), (None, 51_018));
}

#[test]
fn nothing_follows_the_syn_ack_before_the_handshake_is_released() {
    let config = small_config();
    let mut connection = Connection::connect(&config, tuple(0, true), ISS, 7, START);
    let syn = drain(&mut connection, START).remove(0);
    let syn = syn.get();
    assert_eq!((syn.control, syn.max_seg_size), (TcpControl::Syn, Some(1440)));
    assert!(syn.sack_permitted && syn.window_scale == Some(1) && syn.timestamp.is_some());
    let wrong = control(TcpControl::Rst, 0, 5);
    assert_eq!(connection.handle_segment(START, &wrong), Err(Reason::AckUnacceptable));
    let syn_ack = TcpRepr {
        max_seg_size: Some(1300),
        window_scale: Some(3),
        sack_permitted: true,
        ..control(TcpControl::Syn, -1, 0)
    };
    connection.handle_segment(START, &syn_ack).expect("a SYN-ACK");
    assert_eq!(connection.phase(), Phase::HandshakeHeld);
    connection.set_send_limit(u64::MAX);
    connection.write(b"request");
    assert_eq!(connection.handle_segment(START, &syn_ack), Ok(()), "it comes again");
    assert_eq!(drain(&mut connection, START + Duration::from_secs(9)), []);
    connection.release_handshake();
    let sent = drain(&mut connection, START);
    assert_eq!((sent.len(), ack_of(&sent[0]), sent[0].get().payload), (1, 0, &b"request"[..]));
    let again = connection.handle_segment(START, &syn_ack);
    assert_eq!(again, Err(Reason::SynChallenged), "our ACK was lost");
    expect_ack(&mut connection, START, 0);
}

#[test]
fn rfc_9293_a_reset_refuses_the_syn() {
    let mut connection = Connection::connect(&small_config(), tuple(0, false), ISS, 7, START);
    drain(&mut connection, START);
    connection.handle_segment(START, &control(TcpControl::Rst, 0, 0)).expect("a refusal");
    assert_eq!(connection.phase(), Phase::Closed(Cause::Refused));
}

#[test]
fn rfc_9293_resets_for_segments_without_a_connection() {
    assert_eq!(reset_for(&control(TcpControl::Rst, 0, 0)), None);
    let with_ack = segment(3, 9, b"data");
    let reset = reset_for(&with_ack).expect("a reset");
    assert_eq!((Some(reset.seq_number), reset.ack_number), (with_ack.ack_number, None));
    let syn = TcpRepr { ack_number: None, ..control(TcpControl::Syn, -1, 0) };
    let reset = reset_for(&syn).expect("a reset");
    assert_eq!(reset.ack_number, Some(TcpSeqNumber(IRS as i32 + 1)));
    assert_eq!((reset.control, reset.seq_number), (TcpControl::Rst, TcpSeqNumber(0)));
}

/// Whatever a peer sends, nothing panics, and the wire ACK never exceeds what it sent.
#[test]
fn arbitrary_segments_never_panic() {
    let mut random = super::Random::new(1);
    for round in 0..300 {
        let mut connection = open_with(&accepted(round % 2 == 0));
        let mut now = START;
        for _ in 0..200 {
            let near = |random: &mut super::Random| match random.below(8) {
                0 => random.below(1 << 32) as i64,
                1 => 100_000 + random.below(3_000) as i64,
                2 => -(random.below(70_000) as i64),
                _ => random.below(4_000) as i64,
            };
            let data = pattern(0, random.below(1_461) as usize);
            let mut any = segment(near(&mut random), near(&mut random), &data);
            any.window_len = random.below(1 << 16) as u16;
            any.control = match random.below(40) {
                0 => TcpControl::Fin,
                1 => TcpControl::Syn,
                2 => TcpControl::Rst,
                _ => TcpControl::None,
            };
            let una = ISS.wrapping_add(1).wrapping_add(connection.acked() as u32);
            for range in &mut any.sack_ranges {
                let left = una.wrapping_add(near(&mut random) as u32);
                *range = Some((left, left.wrapping_add(random.below(5_000) as u32)));
            }
            any.timestamp = Some(TcpTimestampRepr::new(TS + random.below(9) as u32, 0));
            let _ = connection.handle_segment(now, &any);
            connection.set_ack_limit(random.below(10_000));
            connection.write(&pattern(0, random.below(3_000) as usize));
            if random.below(90) == 0 {
                connection.finish();
            }
            connection.release(connection.received() / 2);
            if let Some(at) = connection.poll_timeout().filter(|_| random.below(3) == 0) {
                now = now.max(at);
                connection.handle_timeout(now);
            }
            let sent = drain(&mut connection, now);
            assert!(sent.len() < 100, "{} segments at once", sent.len());
        }
    }
}
