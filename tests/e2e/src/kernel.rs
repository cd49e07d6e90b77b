//! What the kernels of client and backend count: whether any of their timers ran out.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use xtask::lab::plan::{BACKEND_NS, CLIENT_NS};
use xtask::shell::{in_namespace, output};

/// Retransmission timers that ran out, segments that were sent again, probes instead of a timeout.
const COUNTERS: [&str; 3] = ["TcpExtTCPTimeouts", "TcpRetransSegs", "TcpExtTCPLossProbes"];

/// How ss(8) marks a connection whose retransmission timer has run out and was not answered yet.
const BACKED_OFF: &str = " backoff:";

/// One look at both kernels.
#[derive(Clone, Debug)]
pub struct Peers {
    counters: BTreeMap<String, u64>,
    /// Connections that wait behind a timer that ran out.
    backed_off: Vec<String>,
}

impl Peers {
    /// What they count now.
    pub fn now() -> Result<Peers> {
        let (mut counters, mut backed_off) = (BTreeMap::new(), Vec::new());
        for (name, namespace) in [("client", CLIENT_NS), ("backend", BACKEND_NS)] {
            let text = output(in_namespace(namespace, "nstat").arg("-asz").args(COUNTERS))?;
            let fields = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            for line in fields.filter(|fields| fields.len() >= 2 && COUNTERS.contains(&fields[0])) {
                let value = line[1].parse().with_context(|| text.clone())?;
                counters.insert(format!("{name} {}", line[0]), value);
            }
            // Connections that are just being made do not count: their handshakes may be answered late.
            let mut ss = in_namespace(namespace, "ss");
            let text = output(ss.args(["-Htin", "state", "established"]))?;
            backed_off
                .extend(text.lines().filter(|line| line.contains(BACKED_OFF)).map(String::from));
        }
        ensure!(counters.len() == 2 * COUNTERS.len(), "nstat says {counters:?}");
        Ok(Peers { counters, backed_off })
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Peers) -> Peers {
        let grown = self.counters.iter().map(|(name, value)| {
            let before = earlier.counters.get(name).copied().unwrap_or_default();
            (name.clone(), value.saturating_sub(before))
        });
        Peers { counters: grown.collect(), backed_off: self.backed_off.clone() }
    }

    /// Probes of the clients' kernel.
    pub fn client_probes(&self) -> u64 {
        self.counters.get(&format!("client {}", COUNTERS[2])).copied().unwrap_or_default()
    }

    /// No retransmission timer ran out.
    pub fn ensure_no_timeouts(&self) -> Result<()> {
        let timeouts = self.counters.iter().filter(|(name, _)| name.ends_with(COUNTERS[0]));
        let count: u64 = timeouts.map(|(_, count)| count).sum();
        ensure!(count == 0, "{count} retransmission timers ran out: {:?}", self.counters);
        ensure!(self.backed_off.is_empty(), "timers ran out: {:?}", self.backed_off);
        Ok(())
    }
}
