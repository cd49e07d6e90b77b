//! The owner is stopped for seconds and goes on, again and again, under load: what it believes is old, and
//! nothing of it reaches anybody. Seen from the wire at both sides (`e2e::watch`): no byte of any stream
//! has two values, nobody is reset, and every byte arrives. `cargo xtask e2e --stops N` asks for more.

use std::env;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::watch::Watch;
use e2e::{Fixture, How, Options};

/// How often, unless the environment asks for something else.
const STOPS: usize = 3;

/// Many timeouts, and every retransmission timer at least once.
const STOPPED: Duration = Duration::from_secs(5);

fn stops() -> usize {
    let asked = env::var(xtask::suite::STOPS_VARIABLE).ok();
    asked.and_then(|stops| stops.parse().ok()).unwrap_or(STOPS)
}

fn stop_and_go_on(lab: &mut Fixture) -> Result<()> {
    let (stopped, successor) = lab.lose_owner(How::Sigstop)?;
    sleep(STOPPED);
    lab.resume(&stopped)?;
    lab.await_backup(&stopped).with_context(|| format!("{successor} owns"))
}

#[test]
fn an_owner_that_was_stopped_says_nothing_that_is_not_committed() {
    let options = Options { relays: 3, witnesses: 1, ..Options::default() };
    let mut lab = Fixture::up(&options).unwrap();
    let watch = Watch::begin().unwrap();
    let listener = lab.backend_listener().unwrap();
    let client = Client::patient(&lab, "1.3", 30 + 20 * stops()).unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    talk.exchange().unwrap();
    let during = || {
        (1..=stops()).try_for_each(|stop| {
            stop_and_go_on(&mut lab).with_context(|| format!("stop {stop} of {}", stops()))
        })
    };
    talk.stream(Flowing::Both, during).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
    watch.end().unwrap();
}
