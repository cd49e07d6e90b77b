//! The owner is lost while handshakes are under way: every one of them goes on at its successor.
//! `cargo xtask e2e --kills N` asks for more than the usual few.

use std::env;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::crowd::{Crowd, Seen};
use e2e::{Fixture, How, Options};

/// How often the owner is lost, unless the environment asks for something else.
const KILLS: usize = 4;

/// From this many losses on some of them must have interrupted a handshake.
const TELLING: usize = 20;

/// The owner is lost at most this long after the clients were started.
const LATEST_MS: u64 = 400;

fn kills() -> usize {
    let asked = env::var(xtask::suite::KILLS_VARIABLE).ok();
    asked.and_then(|kills| kills.parse().ok()).unwrap_or(KILLS)
}

/// Loses the owner in the midst of the clients' work, `kill`th time.
fn round(lab: &mut Fixture, kill: usize) -> Result<Seen> {
    let crowd = Crowd::start(lab)?;
    // Spread over the whole time, in no order that the clients could follow.
    sleep(Duration::from_millis(30 + kill as u64 * 163 % (LATEST_MS - 30)));
    let (lost, _) = lab.lose_owner(How::Sigkill)?;
    let seen = crowd.wait().with_context(|| format!("loss {kill}, of {lost}"))?;
    lab.bring_back(&lost)?;
    Ok(seen)
}

#[test]
fn handshakes_go_on_at_another_relay() {
    let mut lab = Fixture::up(&Options::default()).unwrap();
    let kills = kills();
    let mut sum = Seen::default();
    for kill in 0..kills {
        let seen = round(&mut lab, kill).unwrap();
        sum.connections += seen.connections;
        sum.interrupted += seen.interrupted;
    }
    println!("{kills} relays lost: {sum:?}");
    let told = ensure_told(kills, &sum);
    told.unwrap();
}

fn ensure_told(kills: usize, seen: &Seen) -> Result<()> {
    ensure!(kills < TELLING || seen.interrupted > 0, "no handshake was interrupted: {seen:?}");
    Ok(())
}
