//! Where buckets should be: weighted rendezvous hashing.
//!
//! Each node draws a number for each bucket; the smallest, divided by the weight, wins. A node that
//! comes takes only what it wins, a node that goes leaves only what it had. Integers only: every
//! voter has to come to the same result.

use std::collections::BTreeMap;

use crate::id::{NodeId, NodeSet};
use crate::random::mix;
use crate::view::{Bucket, State, View};

/// Fractional bits of [`cost`]'s logarithm.
const LOG_BITS: u32 = 24;

/// Separates the draws for virtual addresses from those for buckets.
const VIP_SALT: u64 = 1 << 32;

/// A planned move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// What.
    pub bucket: u16,
    /// Its owner.
    pub from: NodeId,
    /// A member in sync.
    pub to: NodeId,
}

/// Nodes with their weights, ready to be ranked.
#[derive(Clone, Debug)]
pub struct Field(Vec<(NodeId, u16)>);

impl Field {
    /// All relays of a view.
    pub fn new(view: &View) -> Self {
        let relays = view.relays(|_| true);
        let weights = view.members.iter().filter(|(node, _)| relays.contains(**node));
        Field(weights.map(|(node, member)| (*node, member.weight)).collect())
    }

    /// The one of `among` that should have `bucket`.
    pub fn first(&self, bucket: u16, among: NodeSet) -> Option<NodeId> {
        self.best(u64::from(bucket), among)
    }

    /// The one of `among` that should hold the virtual address number `index`.
    pub fn holder(&self, index: u16, among: NodeSet) -> Option<NodeId> {
        self.best(u64::from(index) | VIP_SALT, among)
    }

    /// The `count` of `among` that should have copies of `bucket`.
    pub fn first_of(&self, bucket: u16, count: usize, among: NodeSet) -> NodeSet {
        if among.len() <= count {
            return among;
        }
        let mut costs: Vec<_> = self.costs(u64::from(bucket), among).collect();
        costs.sort_unstable();
        costs.into_iter().take(count).map(|(_, node)| node).collect()
    }

    fn best(&self, key: u64, among: NodeSet) -> Option<NodeId> {
        if among.len() < 2 {
            return among.iter().next();
        }
        self.costs(key, among).min().map(|(_, node)| node)
    }

    fn costs(&self, key: u64, among: NodeSet) -> impl Iterator<Item = (u64, NodeId)> {
        let among = self.0.iter().filter(move |(node, _)| among.contains(*node));
        among.map(move |(node, weight)| (cost(key, *node, *weight), *node))
    }
}

/// At most `max` moves that bring buckets nearer to where they should be: away from draining
/// nodes first, then to those that have less than their share. Only members in sync can be moved
/// to, and buckets that are on their way already count against `max`.
pub fn rebalance(view: &View, max: usize) -> Vec<Move> {
    let field = Field::new(view);
    let settled = view.relays(|state| state == State::Live);
    let welcome = view.relays(|state| matches!(state, State::Live | State::Joining));
    let draining = view.relays(|state| state == State::Draining);
    let under_way = view.buckets.iter().filter(|bucket| bucket.heir.is_some()).count();
    let moves = (0..).zip(&view.buckets).filter_map(|(index, bucket)| {
        let from = bucket.owner.filter(|_| bucket.heir.is_none())?;
        let leaves = draining.contains(from);
        let able = bucket.in_sync.intersection(welcome);
        let to = match leaves {
            true => field.first(index, able)?,
            false => field.first(index, settled).filter(|to| able.contains(*to))?,
        };
        let wanted = to != from && view.alive().contains(from);
        wanted.then_some((!leaves, Move { bucket: index, from, to }))
    });
    let mut moves: Vec<_> = moves.collect();
    moves.sort_by_key(|(stays, planned)| (*stays, planned.bucket));
    moves.into_iter().map(|(_, planned)| planned).take(max.saturating_sub(under_way)).collect()
}

/// The same for few buckets, for which draws are too uneven: shares are levelled to within one bucket
/// of what is due, from nodes that have more to those that have less. Who owned a bucket before an
/// outage does not get it back for that, and a single bucket stays where it is.
pub fn level(view: &View, max: usize) -> Vec<Move> {
    let field = Field::new(view);
    let settled = view.relays(|state| state == State::Live);
    let welcome = view.relays(|state| matches!(state, State::Live | State::Joining));
    let draining = view.relays(|state| state == State::Draining);
    let mut shares = Shares::new(view, welcome);
    let under_way = view.buckets.iter().filter(|bucket| bucket.heir.is_some()).count();
    let mut plan = |leaving: bool, (index, bucket): (u16, &Bucket)| {
        let from = bucket.owner.filter(|_| bucket.heir.is_none())?;
        if !view.alive().contains(from) || draining.contains(from) != leaving {
            return None;
        }
        let able = bucket.in_sync.intersection(welcome).without(from);
        let to = match leaving {
            true => field.first(index, able)?,
            false => field.first(index, shares.heirs(from, able.intersection(settled)))?,
        };
        shares.move_one(from, to);
        Some(Move { bucket: index, from, to })
    };
    let mut moves = Vec::new();
    for leaving in [true, false] {
        let buckets = (0..).zip(&view.buckets);
        moves.extend(buckets.filter_map(|bucket| plan(leaving, bucket)));
    }
    moves.truncate(max.saturating_sub(under_way));
    moves
}

/// How many buckets nodes have, and how many they are due.
struct Shares {
    owned: BTreeMap<NodeId, u64>,
    /// The due share, rounded down and up.
    due: BTreeMap<NodeId, (u64, u64)>,
}

impl Shares {
    /// Among `welcome`. A bucket that is on its way is its heir's already.
    fn new(view: &View, welcome: NodeSet) -> Self {
        let mut owned = BTreeMap::new();
        for owner in view.buckets.iter().filter_map(|bucket| bucket.heir.or(bucket.owner)) {
            *owned.entry(owner).or_default() += 1;
        }
        let members = view.members.iter().filter(|(node, _)| welcome.contains(**node));
        let weights = members.map(|(node, member)| (*node, u64::from(member.weight)));
        let weights: BTreeMap<NodeId, u64> = weights.collect();
        let (sum, all) = (weights.values().sum::<u64>().max(1), view.buckets.len() as u64);
        let due = |weight: u64| (all * weight / sum, (all * weight).div_ceil(sum));
        let due = weights.into_iter().map(|(node, weight)| (node, due(weight))).collect();
        Shares { owned, due }
    }

    fn owned(&self, node: NodeId) -> u64 {
        self.owned.get(&node).copied().unwrap_or(0)
    }

    /// Those of `able` to which a bucket of `from` should move.
    fn heirs(&self, from: NodeId, able: NodeSet) -> NodeSet {
        let (floor, ceiling) = self.due.get(&from).copied().unwrap_or((0, 0));
        let has = self.owned(from);
        let lacks = |node: &NodeId| {
            let (least, most) = self.due.get(node).copied().unwrap_or((0, 0));
            let owned = self.owned(*node);
            has > ceiling && owned < most || has > floor && owned < least
        };
        able.iter().filter(lacks).collect()
    }

    fn move_one(&mut self, from: NodeId, to: NodeId) {
        *self.owned.entry(from).or_default() -= 1;
        *self.owned.entry(to).or_default() += 1;
    }
}

/// `-log2(u) / weight` of a draw `u` from (0, 1): exponentially distributed with rate `weight`, so
/// that the smallest of several is a node's with probability weight / sum of weights.
fn cost(key: u64, node: NodeId, weight: u16) -> u64 {
    let draw = mix(mix(key) ^ mix(u64::from(node.0) | 1 << 40));
    (minus_log2(draw.max(1)) << 20) / u64::from(weight.max(1))
}

/// `-log2(draw / 2^64)` with [`LOG_BITS`] fractional bits, by repeated squaring.
fn minus_log2(draw: u64) -> u64 {
    let zeros = draw.leading_zeros();
    // In [1, 2), with 63 fractional bits.
    let mut x = draw << zeros;
    let mut fraction = 0;
    for _ in 0..LOG_BITS {
        let square = (u128::from(x) * u128::from(x)) >> 63;
        let carry = square >> 64;
        fraction = fraction << 1 | carry as u64;
        x = (square >> carry) as u64;
    }
    (u64::from(zeros + 1) << LOG_BITS) - fraction
}

#[cfg(test)]
mod tests {
    use relay_abi::bucket::BUCKETS;

    use super::*;

    fn field(weights: &[(u8, u16)]) -> (Field, NodeSet) {
        let nodes = weights.iter().map(|(id, weight)| (NodeId(*id), *weight));
        let nodes: Vec<_> = nodes.collect();
        (Field(nodes.clone()), nodes.iter().map(|(node, _)| *node).collect())
    }

    fn shares(weights: &[(u8, u16)]) -> Vec<usize> {
        let (field, all) = field(weights);
        let mut shares = vec![0; weights.len()];
        for bucket in 0..BUCKETS as u16 {
            let first = field.first(bucket, all).unwrap();
            shares[weights.iter().position(|(id, _)| NodeId(*id) == first).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn the_logarithm_is_one() {
        for (draw, exact) in [(1 << 63, 1.0), (u64::MAX, 0.0), (1, 64.0), (3 << 61, 1.415_037_5)] {
            let log = minus_log2(draw) as f64 / f64::from(1 << LOG_BITS);
            assert!((log - exact).abs() < 1e-6, "{draw:x}: {log}");
        }
    }

    #[test]
    fn four_nodes_share_within_a_tenth_of_their_weights() {
        let mut worst = 0.0f64;
        let mut check = |weights: &[(u8, u16)]| {
            let sum: u32 = weights.iter().map(|(_, weight)| u32::from(*weight)).sum();
            for ((_, weight), share) in weights.iter().zip(shares(weights)) {
                let due = f64::from(BUCKETS) * f64::from(*weight) / f64::from(sum);
                worst = worst.max((share as f64 / due - 1.0).abs());
            }
        };
        for first in 0..16 {
            check(&[0, 1, 2, 3].map(|id| (first + id, 100)));
        }
        check(&[(1, 100), (2, 100), (3, 200), (4, 400)]);
        assert!(worst < 0.1, "{worst}");
    }

    #[test]
    fn movement_is_minimal() {
        let (field, all) = field(&[(1, 100), (2, 50), (3, 100), (4, 10)]);
        for bucket in 0..BUCKETS as u16 {
            let before = field.first(bucket, all).unwrap();
            for gone in all.iter() {
                let after = field.first(bucket, all.without(gone)).unwrap();
                assert!(before == gone || after == before);
            }
            let copies = field.first_of(bucket, 2, all);
            assert!(copies.contains(before) && copies.len() == 2);
        }
    }
}
