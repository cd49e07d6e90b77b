//! A connection that goes on from an arbitrary state, if the state passes its check.

use relay_core::tcp::{Connection, Mark, State, Timestamps};

use crate::connection::{Driver, START, config, pattern, tuple};
use crate::input::Input;
use crate::segments::scale_of;

/// Restores a state, wakes it, and lets the rest of the input happen to it.
pub fn restore(data: &[u8]) {
    let mut input = Input(data);
    let config = config(&mut input);
    let state = state(&mut input, config.receive_buffer);
    let Ok(mut connection) = Connection::restore(&config, &state, START) else { return };
    assert_eq!(connection.retained(), state.retained);
    for _ in 0..input.u8() % 4 {
        // What the cluster has kept fits into the buffer of who received it.
        let at = state.retained + u64::from(input.u16());
        let bytes = vec![7; usize::from(input.u16() % 5_000)];
        connection.insert_received(at, &bytes);
    }
    if input.bool() {
        connection.insert_fin(connection.received() + u64::from(input.u8()));
    }
    let unsent = usize::from(input.u16());
    connection.write(&pattern(connection.written(), unsent));
    let mark = input.bool().then(|| {
        let ack = state.wire_ack.saturating_add_signed(input.distance());
        let hole_end = ack.saturating_add(u64::from(input.u16()));
        Mark { ack, hole_end, end: hole_end.saturating_add(u64::from(input.u16())) }
    });
    connection.wake(mark);
    let scales = match state.send_wscale {
        Some(scale) => (scale, state.receive_wscale),
        None => (0, 0),
    };
    let mut driver = Driver {
        config,
        connection,
        iss: state.iss,
        irs: state.irs,
        now: START,
        acknowledged: state.wire_ack,
        ack_limit: state.wire_ack,
        send_limit: 0,
        peer_edge: state.acked.saturating_add(state.peer_window.into()),
        scales,
        edge: 0,
        model: None,
    };
    if !state.established {
        driver.connection.release_handshake();
    }
    driver.run(&mut input);
}

/// Offsets that are near each other as a rule, anywhere in the range that a state may have.
fn state(input: &mut Input, receive_buffer: usize) -> State {
    let flags = input.u8();
    let [ours, theirs] = [(); 2].map(|()| match input.u8() {
        0..=127 => 0,
        128..=191 => u64::from(input.u32()),
        _ => input.u64(),
    });
    let mut offset = |base: u64| base.wrapping_add_signed(input.distance());
    let (acked, sent_max, fin_at) = (offset(ours), offset(ours), offset(ours));
    let (retained, wire_ack) = (offset(theirs), offset(theirs));
    let (right_edge, peer_fin_at) = (offset(theirs), offset(theirs));
    let scale = input.u8();
    State {
        tuple: tuple(),
        iss: input.u32(),
        irs: input.u32(),
        peer_mss: input.u16(),
        send_wscale: (flags & 1 != 0).then_some(scale & 0xf),
        receive_wscale: if flags & 2 != 0 { scale >> 4 } else { scale_of(receive_buffer) },
        sack: flags & 4 != 0,
        timestamps: (flags & 8 != 0).then_some(Timestamps { recent: 1_000, offset: input.u32() }),
        acked,
        sent_max,
        fin_at: (flags & 16 != 0).then_some(fin_at),
        peer_window: input.u32(),
        retained,
        wire_ack,
        right_edge,
        peer_fin_at: (flags & 32 != 0).then_some(peer_fin_at),
        established: flags & 64 == 0,
    }
}
