//! A small exchange (a handshake, some records each way, the end) again and again: its owner loses
//! power at every event boundary of the world, which are: before a relay's turn, after each frame
//! that it has sent, before each frame is delivered to anybody, and whenever time moves on because
//! a timer is due.

use relay_core::time::Duration;

use crate::plan::{End, Groups, Plan, Version};
use crate::run;
use crate::script::{Action, Options, Step, When};

/// More events than an exchange has.
const EVENTS_MAX: u64 = 5_000;

/// What was covered.
#[derive(Clone, Debug, Default)]
pub struct Covered {
    /// Names the exchange.
    pub name: &'static str,
    /// Instants at which the owner lost power.
    pub points: u64,
    /// At so many of them the connection had begun and went on.
    pub survivals: u64,
    pub failures: Vec<String>,
}

/// The exchanges.
pub fn exchanges() -> Vec<(&'static str, Options)> {
    let start = Duration::from_millis(20);
    let base = Plan { start, record_max: 1_000, ..Plan::new(1, 1_500, 40_000) };
    let client = Plan { first_to_close: End::Client, ..base.clone() };
    let plans = [
        ("TLS 1.3, the backend closes first", base.clone()),
        ("TLS 1.3, the client closes first", client.clone()),
        ("TLS 1.3, HelloRetryRequest", Plan { groups: Groups::Retry, ..base.clone() }),
        ("TLS 1.2, the backend closes first", Plan { version: Version::Tls12, ..base }),
        ("TLS 1.2, the client closes first", Plan { version: Version::Tls12, ..client }),
    ];
    let steps = vec![Step::new(When::InSync, Action::Wait)];
    plans.map(|(name, plan)| (name, Options::new(vec![plan], steps.clone()))).to_vec()
}

/// Runs one exchange until no event is left at which the owner has not died.
pub fn cover(name: &'static str, exchange: &Options) -> Covered {
    let mut covered = Covered { name, ..Covered::default() };
    for event in 1..EVENTS_MAX {
        let report = run(1, &Options { kill_at: Some(event), ..exchange.clone() });
        let failures = report.failures.into_iter().chain(
            // Also the last ACK of all is still given, by whoever is there.
            (report.resets > 0).then(|| format!("{} resets", report.resets)),
        );
        covered.failures.extend(failures.map(|failure| format!("event {event}: {failure}")));
        if report.crashes == 0 {
            return covered;
        }
        covered.points += 1;
        covered.survivals += report.survivals as u64;
    }
    covered.failures.push(format!("more than {EVENTS_MAX} events"));
    covered
}
