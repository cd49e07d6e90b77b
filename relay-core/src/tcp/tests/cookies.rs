//! SYN cookies: any node completes a handshake that another began.

use smoltcp::wire::{TcpControl, TcpSeqNumber, TcpTimestampRepr};

use super::{START, small_config, tuple};
use crate::frame::TcpRepr;
use crate::reason::Reason;
use crate::tcp::segment::blank;
use crate::tcp::sequence::is_before;
use crate::tcp::{Accepted, Config, Cookies};
use crate::time::{Duration, Instant};

const IRS: i32 = 77;

fn syn(timestamps: bool) -> TcpRepr<'static> {
    TcpRepr {
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(IRS),
        max_seg_size: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamp: timestamps.then_some(TcpTimestampRepr::new(1000, 0)),
        ..blank()
    }
}

/// The ACK with which a client completes the handshake.
fn ack(syn_ack: &TcpRepr) -> TcpRepr<'static> {
    TcpRepr {
        seq_number: TcpSeqNumber(IRS + 1),
        ack_number: Some(syn_ack.seq_number + 1),
        timestamp: syn_ack.timestamp.map(|stamp| TcpTimestampRepr::new(1001, stamp.tsval)),
        ..blank()
    }
}

fn round_trip(
    syn: &TcpRepr,
    (made, checked): (Instant, Instant),
    v6: bool,
) -> Result<Accepted, Reason> {
    let (maker, checker) = (Cookies::new([7; 32]), Cookies::new([7; 32]));
    let config = small_config();
    let syn_ack = maker.syn_ack(made, &tuple(0, v6), syn, &config);
    assert_eq!(syn_ack.ack_number, Some(TcpSeqNumber(IRS + 1)));
    checker.check(checked, &tuple(0, v6), &ack(&syn_ack), &config)
}

#[test]
fn rfc_4987_another_node_learns_all_options_from_the_cookie() {
    for v6 in [false, true] {
        for timestamps in [false, true] {
            for millis in 0..200 {
                let made = START + Duration::from_millis(millis);
                let checked = made + Duration::from_millis(3);
                let accepted = round_trip(&syn(timestamps), (made, checked), v6).expect("accepted");
                assert_eq!((accepted.irs, accepted.peer_mss), (IRS as u32, 1460));
                assert_eq!((accepted.send_wscale, accepted.sack), (Some(7), true));
                assert_eq!(accepted.timestamps.map(|t| t.recent), timestamps.then_some(1001));
            }
        }
    }
}

#[test]
fn a_client_without_options_is_taken_as_it_is() {
    let plain = TcpRepr { control: TcpControl::Syn, seq_number: TcpSeqNumber(IRS), ..blank() };
    let accepted = round_trip(&plain, (START, START), false).expect("accepted");
    assert_eq!((accepted.peer_mss, accepted.send_wscale), (536, None));
    assert_eq!((accepted.sack, accepted.timestamps), (false, None));
}

#[test]
fn rfc_7323_timestamps_never_go_back_although_clocks_differ() {
    let config = small_config();
    let cookies = Cookies::new([7; 32]);
    for skew in [0, 1, 63, 64, 5_000] {
        let made = START + Duration::from_millis(skew);
        let syn_ack = cookies.syn_ack(made, &tuple(0, false), &syn(true), &config);
        let sent = syn_ack.timestamp.expect("a timestamp").tsval;
        let accepted = cookies.check(START, &tuple(0, false), &ack(&syn_ack), &config);
        let timestamps = accepted.expect("accepted").timestamps.expect("timestamps");
        assert!(!is_before(timestamps.value(START), sent), "skew {skew}");
    }
}

#[test]
fn cookies_expire_and_clocks_may_differ_by_an_epoch() {
    let at = |seconds| START + Duration::from_secs(seconds);
    for timestamps in [false, true] {
        let check = |made, checked| round_trip(&syn(timestamps), (at(made), at(checked)), false);
        assert!(check(200, 200 + 64).is_ok());
        assert!(check(200, 200 - 64).is_ok());
        assert_eq!(check(200, 200 + 128).err(), Some(Reason::CookieInvalid));
        assert_eq!(check(200, 200 - 128).err(), Some(Reason::CookieInvalid));
    }
}

#[test]
fn any_other_segment_is_dropped() {
    let config = small_config();
    let cookies = Cookies::new([7; 32]);
    let syn_ack = cookies.syn_ack(START, &tuple(0, false), &syn(true), &config);
    let good = ack(&syn_ack);
    let check = |cookies: &Cookies, config: &Config, segment: &TcpRepr| {
        cookies.check(START, &tuple(0, false), segment, config).err()
    };
    assert_eq!(check(&cookies, &config, &good), None);
    let bad = Some(Reason::CookieInvalid);
    assert_eq!(check(&Cookies::new([8; 32]), &config, &good), bad);
    let other = cookies.check(START, &tuple(0, true), &good, &config);
    assert_eq!(other.err(), bad, "another client");
    let stamp = TcpTimestampRepr::new(1001, good.timestamp.expect("one").tsecr ^ 1);
    for segment in [
        TcpRepr { seq_number: TcpSeqNumber(IRS + 2), ..good }, // The second segment of data.
        TcpRepr { ack_number: None, ..good },
        TcpRepr { control: TcpControl::Rst, ..good },
        TcpRepr { control: TcpControl::Syn, ..good },
        TcpRepr { timestamp: None, ..good },
        TcpRepr { timestamp: Some(stamp), ..good },
    ] {
        assert_eq!(check(&cookies, &config, &segment), bad, "{segment:?}");
    }
    for bit in 0..32 {
        let ack_number = good.ack_number.map(|ack| TcpSeqNumber(ack.0 ^ 1 << bit));
        assert_eq!(check(&cookies, &config, &TcpRepr { ack_number, ..good }), bad, "bit {bit}");
    }
}
