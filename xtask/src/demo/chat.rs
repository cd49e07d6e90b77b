//! A chatty connection of the tour: small requests on one connection, as an application has them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::stage::Stage;
use super::transfer::{Gaps, Outcome, Pauses};
use crate::bench::client::{Client, Tls};
use crate::lab::origin;
use crate::lab::plan::{CLIENT_NS, vip};
use crate::shell::inside;

/// Between two requests.
const INTERVAL: Duration = Duration::from_millis(50);
/// What is asked for.
const FILE: &str = "1k.bin";
/// curl's word for "failure in receiving", so that all outcomes speak one language.
const EXIT_BROKEN: i32 = 56;

/// Talks until the finale, and says goodbye.
pub fn run(stage: &Stage, ipv6: bool) -> Result<Outcome> {
    let expected = fs::read(origin::root().join(FILE)).context(FILE)?;
    let mut bytes = 0;
    let mut gaps = Gaps::new(Instant::now());
    let ended = inside(CLIENT_NS, || Tls::new(vip(ipv6))?.connect())
        .and_then(|client| talk(client, &expected, stage, &mut gaps, &mut bytes));
    Ok(match ended {
        Ok(()) => {
            Outcome { exit: Some(0), said: String::new(), bytes, exact: true, pauses: gaps.longest }
        }
        Err(error) => Outcome {
            exit: Some(EXIT_BROKEN),
            said: format!("{error:#}"),
            bytes,
            exact: false,
            pauses: Pauses::new(),
        },
    })
}

fn talk(
    mut client: Client,
    expected: &[u8],
    stage: &Stage,
    gaps: &mut Gaps,
    bytes: &mut u64,
) -> Result<()> {
    loop {
        // The last request belongs to the finale: the connection outlived everything.
        let is_last = stage.is_finale();
        let body = client.fetch(FILE)?;
        ensure!(body == expected, "a wrong body of {} bytes", body.len());
        gaps.progress(Instant::now(), stage.step());
        if *bytes == 0 {
            stage.began();
        }
        stage.moved(body.len());
        *bytes += body.len() as u64;
        if is_last {
            return client.close();
        }
        thread::sleep(INTERVAL);
    }
}
