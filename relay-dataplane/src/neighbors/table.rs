//! What was asked for and what is known; no I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::netlink::{Hop, Neighbor};
use super::{REFRESH, RETRY, Resolved};

/// Most addresses that are followed; the one that was requested longest ago makes room.
pub(super) const CAPACITY: usize = 4096;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub ip: IpAddr,
    pub interface: String,
}

/// The addresses that are followed.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Key, Entry>,
}

#[derive(Debug)]
struct Entry {
    requested: Instant,
    /// When to look at the kernel's tables again.
    due: Instant,
    hop: Option<Hop>,
    mac: Option<[u8; 6]>,
    /// The MAC address has not been reported.
    changed: bool,
    /// The operator has been told that there is no route.
    warned: bool,
}

impl Table {
    /// Notes that `key` is wanted; what is known of it is reported again.
    pub fn request(&mut self, key: &Key, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.requested = now;
            entry.changed = entry.mac.is_some();
            return;
        }
        if self.entries.len() >= CAPACITY {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.requested);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&oldest);
            }
        }
        let entry =
            Entry { requested: now, due: now, hop: None, mac: None, changed: false, warned: false };
        self.entries.insert(key.clone(), entry);
    }

    /// Notes the next hop toward `key`.
    pub fn routed(&mut self, key: &Key, hop: Hop, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        // Behind another next hop is another MAC address, but until it is known the old one is the
        // best guess.
        let known = entry.mac.is_some() && entry.hop == Some(hop);
        entry.due = now + if known { REFRESH } else { RETRY };
        entry.hop = Some(hop);
        entry.warned = false;
    }

    /// Notes that there is no route toward `key`; returns whether that is news.
    pub fn unroutable(&mut self, key: &Key, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.due = now + RETRY;
        !std::mem::replace(&mut entry.warned, true)
    }

    /// Notes the MAC address of a neighbour.
    pub fn learn(&mut self, neighbor: &Neighbor) {
        for entry in self.entries.values_mut() {
            if entry.hop == Some(neighbor.hop) && entry.mac != Some(neighbor.mac) {
                entry.mac = Some(neighbor.mac);
                entry.changed = true;
            }
        }
    }

    /// What has to be looked up again by `now`.
    pub fn due(&self, now: Instant) -> Vec<Key> {
        let due = self.entries.iter().filter(|(_, entry)| entry.due <= now);
        due.map(|(key, _)| key.clone()).collect()
    }

    /// One change that has not been reported; it counts as reported then.
    pub fn next_change(&mut self) -> Option<Resolved> {
        let (key, entry) = self.entries.iter_mut().find(|(_, entry)| entry.changed)?;
        entry.changed = false;
        let interface = key.interface.clone();
        entry.mac.map(|mac| Resolved { ip: key.ip, interface, mac })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn everything_behind_a_neighbour_changes_with_it() {
        let (mut table, now) = (Table::default(), Instant::now());
        for last in 1..=2 {
            table.request(&key(last), now);
            table.routed(&key(last), hop(100), now);
        }
        table.learn(&neighbor(100, 7));
        assert_eq!(changes(&mut table), [(key(1).ip, 7), (key(2).ip, 7)]);
        table.learn(&neighbor(100, 7));
        table.learn(&neighbor(101, 8));
        assert_eq!(changes(&mut table), []);
        table.learn(&neighbor(100, 9));
        assert_eq!(changes(&mut table), [(key(1).ip, 9), (key(2).ip, 9)]);
        table.request(&key(2), now);
        assert_eq!(changes(&mut table), [(key(2).ip, 9)], "a new request is answered again");
    }

    #[test]
    fn unknown_addresses_are_tried_sooner_than_known_ones() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.request(&key(1), now);
        assert_eq!(table.due(now), [key(1)]);
        assert!(table.unroutable(&key(1), now));
        assert!(!table.unroutable(&key(1), now), "the operator is told once");
        assert_eq!(table.due(now), []);
        assert_eq!(table.due(now + RETRY), [key(1)]);
        table.routed(&key(1), hop(100), now);
        assert_eq!(table.due(now + RETRY), [key(1)], "the neighbour is not known");
        table.learn(&neighbor(100, 7));
        table.routed(&key(1), hop(100), now);
        assert_eq!(table.due(now + RETRY), []);
        assert_eq!(table.due(now + REFRESH), [key(1)]);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest_request() {
        let (mut table, start) = (Table::default(), Instant::now());
        for index in 0..CAPACITY as u32 {
            table.request(&key(index), start + Duration::from_nanos(u64::from(index)));
        }
        let later = start + Duration::from_secs(1);
        table.request(&key(0), later);
        table.request(&key(CAPACITY as u32), later);
        assert_eq!(table.entries.len(), CAPACITY);
        assert!(table.entries.contains_key(&key(0)));
        assert!(!table.entries.contains_key(&key(1)));
    }

    fn key(index: u32) -> Key {
        let ip = IpAddr::V4(Ipv4Addr::from(0x0a63_0000 + index));
        Key { ip, interface: "backend0".to_owned() }
    }

    fn hop(last: u8) -> Hop {
        Hop { interface: 3, address: IpAddr::from([10, 99, 2, last]) }
    }

    fn neighbor(last: u8, mac: u8) -> Neighbor {
        Neighbor { hop: hop(last), mac: [mac; 6], confirmed: true }
    }

    fn changes(table: &mut Table) -> Vec<(IpAddr, u8)> {
        std::iter::from_fn(|| table.next_change()).map(|r| (r.ip, r.mac[0])).collect()
    }
}
