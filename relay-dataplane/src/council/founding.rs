//! The first start of a cluster: who decides from the beginning.
//!
//! A new log names a seat and nothing else. A node with such a log votes for nobody and listens to
//! greetings. If all members of the configuration are there and none of them knows a cluster, all
//! of them write the same beginning, in which the seats of those who vote decide. As soon as one
//! knows a cluster, it is not founded a second time: then this node is new, or lost its disk, and
//! joins with the seat that it has now. So a lost disk can not make two clusters of one, and no
//! vote is ever forgotten.

use std::collections::BTreeMap;

use relay_views::id::{NodeId, NodeSet, Seat};

use super::frame::Greeting;

/// What to do about a blank log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is known of these yet.
    Wait(Vec<NodeId>),
    /// A node names other members than this one.
    Disagree(NodeId, NodeSet),
    /// A node names another number of units than this one.
    DisagreeOnUnits(NodeId, u8),
    /// Nobody knows a cluster: these seats make one.
    Found(Vec<Seat>),
    /// There is one.
    Join,
}

/// What was heard so far.
#[derive(Debug)]
pub struct Founding {
    own: Greeting,
    voters: NodeSet,
    heard: BTreeMap<NodeId, Greeting>,
}

impl Founding {
    /// Nothing yet. `voters` are those of the members who vote.
    pub fn new(own: Greeting, voters: NodeSet) -> Self {
        Founding { own, voters, heard: BTreeMap::new() }
    }

    /// A member's latest word.
    pub fn hear(&mut self, greeting: Greeting) {
        if self.own.members.contains(greeting.node) {
            self.heard.insert(greeting.node, greeting);
        }
    }

    /// What follows.
    pub fn outcome(&self) -> Outcome {
        if self.heard.values().any(|greeting| !greeting.blank) {
            return Outcome::Join;
        }
        let differs = |greeting: &&Greeting| greeting.members != self.own.members;
        if let Some(other) = self.heard.values().find(differs) {
            return Outcome::Disagree(other.node, other.members);
        }
        if let Some(other) = self.heard.values().find(|other| other.units != self.own.units) {
            return Outcome::DisagreeOnUnits(other.node, other.units);
        }
        let others = self.own.members.without(self.own.node);
        let missing: Vec<_> = others.iter().filter(|node| !self.heard.contains_key(node)).collect();
        if !missing.is_empty() {
            return Outcome::Wait(missing);
        }
        let all = self.heard.values().chain([&self.own]);
        let voters = all.filter(|greeting| self.voters.contains(greeting.node));
        let mut seats: Vec<_> = voters.map(|greeting| greeting.seat).collect();
        seats.sort_unstable();
        // Who does not vote has nothing to begin with: it is told.
        if seats.contains(&self.own.seat) { Outcome::Found(seats) } else { Outcome::Join }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u8]) -> NodeSet {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn greeting(node: u8, blank: bool) -> Greeting {
        let node = NodeId(node);
        Greeting { node, seat: Seat::new(node, 7), blank, members: set(&[1, 2, 9]), units: 16 }
    }

    #[test]
    fn everybody_founds_the_same_cluster() {
        let founded = [1, 2, 9].map(|own| {
            let mut founding = Founding::new(greeting(own, true), set(&[1, 2, 9]));
            for other in [9, 2, 1].into_iter().filter(|other| *other != own) {
                assert!(matches!(founding.outcome(), Outcome::Wait(_)));
                founding.hear(greeting(other, true));
            }
            founding.outcome()
        });
        let seats = [1, 2, 9].map(|node| greeting(node, true).seat).to_vec();
        assert_eq!(founded, [(); 3].map(|()| Outcome::Found(seats.clone())));
    }

    #[test]
    fn a_cluster_is_not_founded_twice() {
        let mut founding = Founding::new(greeting(1, true), set(&[1, 2, 9]));
        founding.hear(greeting(2, true));
        founding.hear(greeting(9, false));
        assert_eq!(founding.outcome(), Outcome::Join);
    }

    #[test]
    fn who_does_not_vote_waits_to_be_told() {
        let mut founding = Founding::new(greeting(2, true), set(&[1]));
        founding.hear(greeting(1, true));
        assert_eq!(founding.outcome(), Outcome::Wait(vec![NodeId(9)]));
        founding.hear(greeting(9, true));
        assert_eq!(founding.outcome(), Outcome::Join);
    }

    #[test]
    fn different_lists_of_members_are_noticed() {
        let mut founding = Founding::new(greeting(1, true), set(&[1, 2, 9]));
        founding.hear(Greeting { members: set(&[1, 2]), ..greeting(2, true) });
        founding.hear(greeting(9, true));
        // Not a member for us: what it says does not count.
        founding.hear(greeting(5, false));
        assert_eq!(founding.outcome(), Outcome::Disagree(NodeId(2), set(&[1, 2])));
    }
}
