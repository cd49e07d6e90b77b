//! An established connection under arbitrary segments.

use relay_core::tcp::{Accepted, Connection, Timestamps};

use crate::connection::{Driver, START, config, tuple};
use crate::input::Input;
use crate::model::Model;

/// Opens a connection and lets the input happen to it.
pub fn segments(data: &[u8]) {
    let mut input = Input(data);
    let config = config(&mut input);
    let choice = input.u8();
    let scaled = choice & 1 != 0;
    let accepted = Accepted {
        iss: u32::MAX - 1_000,
        irs: u32::MAX - 3_000,
        peer_mss: if choice & 2 != 0 { 1460 } else { 536 },
        send_wscale: scaled.then_some(choice >> 4 & 7),
        receive_wscale: scale_of(config.receive_buffer),
        sack: choice & 4 != 0,
        timestamps: (choice & 8 != 0).then_some(Timestamps { recent: 1_000, offset: 77 }),
    };
    let mut driver = Driver {
        config,
        connection: Connection::accept(&config, tuple(), &accepted, START),
        iss: accepted.iss,
        irs: accepted.irs,
        now: START,
        acknowledged: 0,
        ack_limit: 0,
        send_limit: 0,
        peer_edge: 0,
        scales: (
            accepted.send_wscale.unwrap_or(0),
            if scaled { accepted.receive_wscale } else { 0 },
        ),
        edge: 0,
        model: Some(Model::default()),
    };
    driver.run(&mut input);
}

/// The smallest shift that lets a window field express `size`.
pub fn scale_of(size: usize) -> u8 {
    (0..14).find(|shift| size >> shift <= usize::from(u16::MAX)).unwrap_or(14)
}
