//! Another node goes on in the middle of a transfer.

use super::rules::{ISS, drain, expect_ack, open, segment, seq_of};
use super::{CALM, Host, Network, Weather, small_config};
use crate::frame::TcpRepr;
use crate::reason::Reason;
use crate::tcp::{Connection, Phase, StateError};
use crate::time::Duration;

const BYTES: usize = 600_000;

/// How much the snapshot of the node that takes over is behind, and what it supposes.
#[derive(Clone, Copy, Default)]
struct Knowledge {
    /// Acknowledged bytes that the new node has not heard of.
    acks_missed: u64,
    /// It does not know how far the old node had sent, and supposes the most.
    sent_unknown: bool,
}

/// The host's node dies; another one, which has what the cluster keeps, goes on.
fn take_over(host: &mut Host, now: crate::time::Instant, knowledge: Knowledge) {
    let config = host.config;
    let old = host.connection();
    let mut state = old.save();
    state.acked = state.acked.saturating_sub(knowledge.acks_missed);
    if knowledge.sent_unknown && state.fin_at.is_none() {
        state.sent_max += 1 << 20;
    }
    let mut kept = Vec::new();
    for range in old.out_of_order() {
        let mut bytes = Vec::new();
        old.copy_out_of_order(range.clone(), &mut bytes);
        assert_eq!(bytes.len() as u64, range.end - range.start);
        kept.push((range.start, bytes));
    }
    let acked = state.wire_ack.min(state.peer_fin_at.unwrap_or(u64::MAX));
    let end = acked.max(state.retained);
    let mut bytes = vec![0; (end - state.retained) as usize];
    assert_eq!(old.copy_received(state.retained, &mut bytes), bytes.len());
    let mut new = Connection::restore(&config, &state, now).expect("a state");
    new.insert_received(state.retained, &bytes);
    for (start, bytes) in kept {
        new.insert_received(start, &bytes);
    }
    new.wake(None);
    host.resume(new, end);
}

fn takeovers(seed: u64, knowledge: Knowledge, weather: Weather) {
    let v6 = seed % 2 == 1;
    let mut listening = Host::listening(small_config(), v6, BYTES);
    let mut connecting = Host::connecting(small_config(), v6, BYTES);
    listening.hold = Duration::from_millis(seed % 4 * 3);
    connecting.hold = Duration::from_millis(seed % 3);
    let mut network = Network::new(listening, connecting, weather, seed);
    for round in 1..6 {
        let until = BYTES * round / 6;
        network.run_until(|a, b| {
            a.incoming.len() >= until && b.incoming.len() >= until || a.phase_is_over()
        });
        if network.a.phase_is_over() || network.b.phase_is_over() {
            break;
        }
        // What the old node had sent arrives or does not.
        if round % 2 == 0 {
            network.lose_flying();
        }
        network.run_for(Duration::ZERO);
        let now = network.now;
        take_over(&mut network.a, now, knowledge);
        if seed.is_multiple_of(5) {
            take_over(&mut network.b, now, knowledge);
        }
    }
    network.run();
    assert_eq!((network.a.incoming.len(), network.b.incoming.len()), (BYTES, BYTES));
    assert!(network.a.phase() != Some(Phase::Open), "both streams have ended");
}

#[test]
fn another_node_goes_on_with_full_knowledge() {
    for seed in 0..20 {
        takeovers(seed, Knowledge::default(), CALM);
    }
}

#[test]
fn another_node_goes_on_with_an_old_snapshot() {
    for seed in 0..20 {
        takeovers(seed, Knowledge { acks_missed: seed * 3_000, sent_unknown: false }, CALM);
    }
}

#[test]
fn another_node_goes_on_without_knowing_what_was_sent() {
    for seed in 0..20 {
        let knowledge = Knowledge { acks_missed: seed * 1_000, sent_unknown: true };
        takeovers(seed, knowledge, CALM);
    }
}

#[test]
fn another_node_goes_on_over_a_bad_network() {
    for seed in 0..20 {
        let jitter = Duration::from_millis(seed % 3);
        let weather = Weather { loss: 20, duplication: 20, jitter, ..CALM };
        let knowledge = Knowledge { acks_missed: seed * 700, sent_unknown: seed % 2 == 0 };
        takeovers(seed, knowledge, weather);
    }
}

#[test]
fn a_saved_state_restores_to_itself() {
    let mut network = Network::new(
        Host::listening(small_config(), false, BYTES),
        Host::connecting(small_config(), false, BYTES),
        CALM,
        3,
    );
    network.run_until(|a, _| a.incoming.len() > BYTES / 2);
    let state = network.a.connection().save();
    let again = Connection::restore(&small_config(), &state, network.now).expect("a connection");
    assert_eq!(again.save(), state);
}

#[test]
fn contradictory_states_are_refused() {
    let mut network = Network::new(
        Host::listening(small_config(), false, 10),
        Host::connecting(small_config(), false, 10),
        CALM,
        3,
    );
    network.run_until(|a, _| a.incoming.len() == 10);
    network.run_for(Duration::ZERO);
    let good = network.a.connection().save();
    let restore = |edit: &dyn Fn(&mut crate::tcp::State)| {
        let mut state = good.clone();
        edit(&mut state);
        Connection::restore(&small_config(), &state, super::START).map(|_| ()).err()
    };
    assert_eq!(restore(&|_| ()), None);
    assert_eq!(restore(&|s| s.send_wscale = Some(15)), Some(StateError::WindowScale));
    assert_eq!(restore(&|s| s.fin_at = Some(u64::MAX)), Some(StateError::Offsets));
    assert_eq!(restore(&|s| s.peer_fin_at = Some(s.retained - 1)), Some(StateError::Offsets));
    assert_eq!(restore(&|s| s.right_edge = u64::MAX), Some(StateError::Offsets));
    assert_eq!(restore(&|s| s.tuple = super::tuple(0, true)), None);
    let mixed = restore(&|s| s.tuple.local = super::tuple(0, true).local);
    assert_eq!(mixed, Some(StateError::Family));
}

/// A connection of which the old node had sent 500 bytes and heard that 100 of them arrived.
fn restored() -> Connection {
    let mut state = open().save();
    (state.acked, state.sent_max, state.peer_window) = (100, 500, 60_000);
    let mut connection =
        Connection::restore(&small_config(), &state, super::START).expect("a connection");
    connection.set_send_limit(u64::MAX);
    connection
}

#[test]
fn the_waking_ack_is_not_old_to_the_peer() {
    let mut connection = restored();
    connection.wake(None);
    connection.write(&[7; 400]);
    let sent = drain(&mut connection, super::START);
    assert_eq!(sent.iter().map(seq_of).collect::<Vec<_>>(), [500, 100]);
    assert!(sent[0].get().payload.is_empty() && sent[1].get().payload.len() == 400);
}

#[test]
fn the_peer_is_woken_again_when_it_knew_of_more() {
    let mut state = open().save();
    (state.acked, state.sent_max, state.peer_window) = (100, 500, 200);
    let mut connection =
        Connection::restore(&small_config(), &state, super::START).expect("a connection");
    connection.wake(None);
    let first = expect_ack(&mut connection, super::START, 0);
    assert_eq!(seq_of(&first), 299, "no further than the window that is known");
    connection.handle_segment(super::START, &segment(0, 450, b"")).expect("an ACK");
    let second = expect_ack(&mut connection, super::START, 0);
    assert_eq!(seq_of(&second), 500);
}

/// A connection whose peer has filled the window of the old node, which knew that the peer's own reaches up
/// to 64,000: its ACKs came from there. This one has been told of 60,000.
fn silenced() -> Connection {
    let mut state = open().save();
    (state.retained, state.wire_ack, state.right_edge) = (50_000, 50_000, 150_000);
    (state.sent_max, state.peer_window) = (1 << 30, 60_000);
    let mut connection =
        Connection::restore(&small_config(), &state, super::START).expect("a connection");
    connection.wake(None);
    let waking = expect_ack(&mut connection, super::START, 50_000);
    assert_eq!(seq_of(&waking), 59_999);
    connection
}

fn told(start: i64) -> TcpRepr<'static> {
    TcpRepr { window_len: 64_000, ..segment(start, 0, b"") }
}

#[test]
fn rfc_9293_a_silent_peer_is_asked_for_its_window_so_that_it_takes_ours() {
    let mut connection = silenced();
    let soon = super::START + Duration::from_millis(4);
    connection.handle_timeout(soon);
    expect_ack(&mut connection, soon, 50_000);
    let later = soon + Duration::from_millis(16);
    connection.handle_timeout(later);
    let sent = drain(&mut connection, later);
    assert_eq!(sent.iter().map(seq_of).collect::<Vec<_>>(), [59_999, -1], "an ACK, and a question");
    connection.handle_segment(later, &told(50_000)).expect("an answer");
    let again = expect_ack(&mut connection, later, 50_000);
    assert_eq!(seq_of(&again), 63_999, "SND.WL1 of the peer");
    connection.handle_segment(later, &told(50_000)).expect("another one");
    assert!(drain(&mut connection, later).is_empty(), "it was told");
}

#[test]
fn rfc_9293_the_question_of_a_peer_whose_window_is_closed_tells_its_own() {
    let mut connection = silenced();
    let later = super::START + Duration::from_secs(1);
    let result = connection.handle_segment(later, &told(49_999));
    assert_eq!(result, Err(Reason::OutOfWindow));
    assert_eq!(seq_of(&drain(&mut connection, later)[0]), 63_999);
    // An acknowledgement of what nobody has sent is a guess.
    let mut guess = told(49_999);
    (guess.ack_number, guess.window_len) = (segment(0, 1 << 30 | 1, b"").ack_number, 65_000);
    let result = connection.handle_segment(later, &guess);
    assert_eq!(result, Err(Reason::OutOfWindow));
    assert_eq!(connection.save().peer_window, 64_000);
}

/// The peer has bytes of the old node beyond a hole; the new one has not re-created them yet.
#[test]
fn a_predecessors_bytes_are_remembered_behind_a_hole() {
    let mut connection = restored();
    let later = super::START + Duration::from_secs(60);
    connection.handle_segment(later, &segment(0, 300, b"")).expect("an ACK up to the hole");
    connection.write(&[7; 250]);
    drain(&mut connection, later);
    connection.handle_segment(later, &segment(0, 450, b"")).expect("an ACK of what both have sent");
    assert_eq!(connection.acked(), 450);
}

/// Its SACK says so, although the new node has not got so far itself.
#[test]
fn a_predecessors_bytes_are_remembered_when_the_peer_reports_them() {
    let mut connection = restored();
    let later = super::START + Duration::from_secs(60);
    connection.write(&[7; 150]);
    drain(&mut connection, later);
    let mut ack = segment(0, 250, b"");
    let wire = |offset: u32| ISS.wrapping_add(1 + offset);
    ack.sack_ranges[0] = Some((wire(400), wire(500)));
    connection.handle_segment(later, &ack).expect("an ACK of all that this node has sent");
    connection.handle_segment(later, &segment(0, 500, b"")).expect("an ACK of the rest");
    assert_eq!(connection.acked(), 500);
}

#[test]
fn acknowledgements_do_not_ride_on_data_that_is_old_to_the_peer() {
    let mut connection = restored();
    connection.set_ack_limit(u64::MAX);
    connection.write(&[7; 400]);
    connection.handle_segment(super::START, &segment(0, 100, &[1; 1460])).expect("data");
    connection.handle_segment(super::START, &segment(1460, 100, &[1; 1460])).expect("data");
    let sent = drain(&mut connection, super::START);
    assert_eq!(sent.iter().map(seq_of).collect::<Vec<_>>(), [500, 100]);
}

#[test]
fn rfc_6298_acknowledgements_of_a_predecessors_bytes_are_no_samples() {
    let mut connection = restored();
    connection.write(&[7; 400]);
    drain(&mut connection, super::START);
    let now = super::START + Duration::from_millis(1);
    connection.handle_segment(now, &segment(0, 500, b"")).expect("an ACK");
    connection.write(&[7; 100]);
    drain(&mut connection, now);
    assert_eq!(connection.poll_timeout(), Some(now + Duration::from_secs(1)));
}

#[test]
fn what_a_predecessor_may_have_sent_is_forgotten_when_the_peer_is_in_step() {
    let mut state = open().save();
    (state.acked, state.sent_max, state.peer_window) = (100, 1 << 20, 60_000);
    let mut connection =
        Connection::restore(&small_config(), &state, super::START).expect("a connection");
    connection.set_send_limit(u64::MAX);
    connection.write(&[7; 400]);
    drain(&mut connection, super::START);
    connection.handle_segment(super::START, &segment(0, 500, b"")).expect("an ACK");
    connection.wake(None);
    let early = expect_ack(&mut connection, super::START, 0);
    assert_eq!(seq_of(&early), 60_499, "it may have had more, up to its window");
    connection.write(&[7; 400]);
    let later = super::START + Duration::from_secs(1);
    drain(&mut connection, later);
    connection.handle_segment(later, &segment(0, 900, b"")).expect("an ACK");
    connection.wake(None);
    assert_eq!(seq_of(&expect_ack(&mut connection, later, 0)), 900);
}

#[test]
fn rfc_9293_time_wait_goes_on_at_another_node() {
    let mut network = Network::new(
        Host::listening(small_config(), false, 10),
        Host::connecting(small_config(), false, 10),
        CALM,
        3,
    );
    network.b.close = super::host::Close::AfterPeer;
    network.run();
    let old = network.a.connection();
    assert_eq!(old.phase(), Phase::TimeWait);
    let new = Connection::restore(&small_config(), &old.save(), super::START);
    assert_eq!(new.map(|new| new.phase()), Ok(Phase::TimeWait));
}

#[test]
fn what_the_peer_has_already_is_written_but_not_sent() {
    let mut connection = restored();
    connection.handle_segment(super::START, &segment(0, 400, b"")).expect("an ACK");
    assert_eq!((connection.acked(), connection.written()), (400, 100));
    connection.skip(1_000);
    assert_eq!(connection.written(), 400, "not beyond what is acknowledged");
    let mut connection = restored();
    connection.handle_segment(super::START, &segment(0, 400, b"")).expect("an ACK");
    assert_eq!(connection.write(&[7; 350]), 350);
    let sent = drain(&mut connection, super::START);
    assert_eq!((seq_of(&sent[0]), sent[0].get().payload.len()), (400, 50));
}

#[test]
fn an_acknowledgement_of_more_than_is_known_leaves_the_data() {
    let mut connection = restored();
    connection.handle_segment(super::START, &segment(0, 501, b"data")).expect("data");
    assert_eq!((connection.acked(), connection.received()), (100, 4));
}

#[test]
fn the_new_sender_does_not_wait_for_a_timeout() {
    let mut network = Network::new(
        Host::listening(small_config(), false, BYTES),
        Host::connecting(small_config(), false, 0),
        CALM,
        2,
    );
    network.run_until(|_, b| b.incoming.len() > BYTES / 2);
    network.lose_flying();
    let (now, before) = (network.now, network.b.incoming.len());
    take_over(&mut network.a, now, Knowledge::default());
    network.run_for(Duration::from_millis(30));
    assert!(network.b.incoming.len() > before, "three round trips without a new byte");
    network.run();
}
