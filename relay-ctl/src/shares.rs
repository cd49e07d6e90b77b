//! How much each relay owns, and should own.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use relay_abi::bucket::BUCKETS;
use relay_abi::control::{CouncilMember, Request, StatusReport};

use crate::drain::{INTERVAL, propose, status};
use crate::table::{Align, Table};

/// Says how much a node should own.
pub fn weigh(control: &Path, node: u8, weight: u16) -> Result<String, String> {
    propose(control, &Request::Weigh { node, weight })?;
    Ok(format!("node {node}: asked for weight {weight}\n"))
}

/// Waits until the shares are level.
pub fn wait(control: &Path, wait: u64) -> Result<String, String> {
    let since = Instant::now();
    loop {
        let shares = Shares::new(&status(control)?)?;
        if wait == 0 || shares.is_level() {
            return Ok(shares.table());
        }
        if since.elapsed() >= Duration::from_secs(wait) {
            return Err(format!(
                "the shares are not level after {wait} s: is every relay in sync? \
                 (relay-ctl status)\n{}",
                shares.table()
            ));
        }
        sleep(INTERVAL);
    }
}

/// The shares of all relays that may own something, or do.
struct Shares {
    all: Vec<Share>,
    /// Buckets that move together: so much a share may differ from what is due.
    unit: u32,
}

struct Share {
    node: u8,
    /// 0: is to own nothing.
    weight: u16,
    owns: u32,
    due: f64,
}

impl Shares {
    fn new(status: &StatusReport) -> Result<Shares, String> {
        let (Some(council), Some(units)) = (&status.council, status.units) else {
            return Err(
                "the node has no council, or is a witness: ask a relay of a council".to_owned()
            );
        };
        let share = |member: &CouncilMember| {
            let own = status.shares.iter().find(|share| share.node == member.id);
            let owns = own.map_or(0, |share| share.buckets);
            let weight = if member.state == "live" { member.weight } else { 0 };
            Share { node: member.id, weight, owns, due: 0.0 }
        };
        let relays = council.members.iter().filter(|member| member.kind == "relay");
        let mut all: Vec<_> = relays.map(share).collect();
        let sum: u32 = all.iter().map(|share| u32::from(share.weight)).sum();
        for share in &mut all {
            share.due = f64::from(BUCKETS) * f64::from(share.weight) / f64::from(sum.max(1));
        }
        Ok(Shares { all, unit: BUCKETS.div_ceil(u32::from(units.max(1))) })
    }

    fn is_level(&self) -> bool {
        let off = |share: &Share| (f64::from(share.owns) - share.due).abs();
        let sum: u32 = self.all.iter().map(|share| share.owns).sum();
        sum == BUCKETS && self.all.iter().all(|share| off(share) < f64::from(self.unit))
    }

    fn table(&self) -> String {
        let mut table = Table::new([
            ("NODE", Align::Right),
            ("WEIGHT", Align::Right),
            ("DUE", Align::Right),
            ("OWNS", Align::Right),
        ]);
        for share in &self.all {
            table.row([
                share.node.to_string(),
                share.weight.to_string(),
                format!("{:.0}", share.due),
                share.owns.to_string(),
            ]);
        }
        table.render()
    }
}
