//! No (key, sequence number) seals two different records: every record that any backup was told of
//! is remembered by its flow and its place in the log, from which the key's generation and the
//! sequence number follow, with the tag that it was sealed with.
//!
//! Two records under one number would differ in their tags, their lengths or their generations.
//! So (1) no backup, and no later life of one, may hold another entry at the same place: what an
//! owner has sealed and not sent is in there, too, and a new owner must make the same of it; and
//! (2) the bytes on the wire at that place must end with that tag, whichever relay sent them
//! (`wire` has made sure that all of them sent the same).
//!
//! Of more than one backup, some may have been told of an entry, and others not, when their owner dies:
//! it was never released, and the log of the new owner wins (rule 11). So where views are agreed an
//! entry may be replaced by one of a later term; (2) then shows that the former one never left.
//!
//! What an owner has sealed and told nobody of is not seen here. It never leaves that owner, because
//! no record is released that a backup in the view does not hold (`audit`), so nobody could ever
//! compare it with what another one seals under the same number.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use relay_abi::peer::Entry;
use relay_core::id::FlowId;
use relay_core::node::Node;
use relay_core::relay::{Log, Placed};
use relay_core::replica::Shadow;

use crate::audit::socket;
use crate::wire::Wire;

type Ends = (SocketAddr, SocketAddr);

/// All records that backups were told of.
#[derive(Default)]
pub struct Seals {
    known: BTreeMap<(u64, u64), (Placed, Ends, u64)>,
    /// Views come from a council.
    is_agreed: bool,
    /// The latest term in which a backup was told of a flow.
    terms: BTreeMap<u64, u64>,
    /// Up to where the log of a flow at an incarnation was compared, in a term.
    compared: BTreeMap<(u64, u64, u64), u64>,
    /// Comparisons of one backup's entry with what was known.
    pub checked: u64,
    pub failures: Vec<String>,
}

impl Seals {
    /// Nothing is known; views come from a council or not.
    pub fn new(is_agreed: bool) -> Self {
        Seals { is_agreed, ..Seals::default() }
    }

    /// Takes in what a node holds after its turn, if it is a backup: no frame of its owner's has to leave
    /// for that, so what an owner was about to send when it died is in there, too.
    pub fn hear(&mut self, node: &Node) {
        for (id, shadow) in node.shadows().iter() {
            // It may be of a former term still.
            let term = node.shadows().author(id).map_or(0, |author| author.term);
            let life = (node.incarnation().0, term);
            if let Shadow::Open(open) = shadow {
                let ends = (socket(&open.client.local), socket(&open.client.remote));
                self.note(life, id, ends, &open.log);
            }
        }
    }

    /// Takes in the log of a flow as the backup of this incarnation holds it in this term.
    fn note(&mut self, (incarnation, term): (u64, u64), id: FlowId, ends: Ends, log: &Log) {
        let latest = self.terms.entry(id.0).or_insert(term);
        *latest = (*latest).max(term);
        let from = self.compared.entry((incarnation, term, id.0)).or_insert(0);
        let first = (*from).max(log.delivered().index);
        for index in first..log.end_index() {
            let Some(placed) = log.get(index) else { break };
            let known = self.known.entry((id.0, index)).or_insert((*placed, ends, term));
            self.checked += 1;
            if known.0 != *placed && self.is_agreed && known.2 != term {
                if known.2 < term {
                    *known = (*placed, ends, term);
                }
            } else if known.0 != *placed {
                let failure =
                    format!("record {index} of {id} is sealed twice: {known:?}, {placed:?}");
                self.failures.push(failure);
            }
        }
        *from = log.end_index();
    }

    /// Compares the tags with those on the wire; says how many there were.
    pub fn compare(&mut self, wire: &Wire) -> u64 {
        let mut compared = 0;
        for ((id, index), (Placed { entry, end }, ends, term)) in &self.known {
            let tag = match entry {
                Entry::Data { tag, .. }
                | Entry::KeyUpdate { tag, .. }
                | Entry::Alert { tag, .. } => tag,
                Entry::Fin => continue,
            };
            let Some(sent) = wire.sent(*ends, end.client, tag.len()) else { continue };
            compared += 1;
            // What replaced it may have been delivered before it was seen here.
            let is_outdated = self.is_agreed && self.terms.get(id).is_some_and(|last| last > term);
            if sent != tag && !is_outdated {
                let failure = format!("record {index} of flow {id:x} was sent with another tag");
                self.failures.push(failure);
            }
        }
        compared
    }
}

#[cfg(test)]
mod tests {
    use relay_abi::peer::Delivered;

    use super::*;

    fn ends() -> Ends {
        let end = |port| SocketAddr::from(([10, 99, 1, 10], port));
        (end(443), end(5000))
    }

    /// A log of one record with this tag.
    fn log(tag: u8) -> Log {
        let mut log = Log::new(Delivered::default(), 22);
        log.push(Entry::Data { length: 100, tag: [tag; 16] });
        log
    }

    #[test]
    fn a_number_that_two_nodes_seal_differently_is_noticed() {
        let mut seals = Seals::default();
        seals.note((1, 1), FlowId(7), ends(), &log(1));
        seals.note((2, 1), FlowId(7), ends(), &log(1));
        assert_eq!((seals.checked, seals.failures.len()), (2, 0));
        seals.note((3, 2), FlowId(7), ends(), &log(2));
        assert_eq!(seals.failures.len(), 1);
        seals.note((3, 2), FlowId(8), ends(), &log(2));
        assert_eq!(seals.failures.len(), 1, "another flow has other keys");
    }

    #[test]
    fn the_log_of_a_later_term_wins_where_views_are_agreed() {
        let mut seals = Seals::new(true);
        seals.note((1, 1), FlowId(7), ends(), &log(1));
        seals.note((2, 2), FlowId(7), ends(), &log(2));
        seals.note((3, 1), FlowId(7), ends(), &log(1));
        assert_eq!(seals.failures.len(), 0);
        seals.note((4, 2), FlowId(7), ends(), &log(1));
        assert_eq!(seals.failures.len(), 1, "two of one term");
    }
}
