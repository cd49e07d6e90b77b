//! What follows for a bucket when members or sets have changed.

use crate::id::NodeSet;
use crate::placement::Field;
use crate::view::{Bucket, State, View};

/// Copies that are not given up for the sake of a drain.
const COPIES_LEAST: usize = 2;

/// The members of a view, as far as buckets depend on them.
pub(crate) struct Settling {
    field: Field,
    /// Copies that a bucket should have.
    copies: usize,
    /// Relays that are not dead.
    pub(crate) alive: NodeSet,
    /// Relays that may get new buckets.
    pub(crate) welcome: NodeSet,
    /// Relays that have the state they should have.
    live: NodeSet,
    /// The view that is being made.
    pub(crate) number: u64,
}

impl Settling {
    pub(crate) fn new(view: &View) -> Self {
        Settling {
            field: Field::new(view),
            copies: if view.replicas == 0 { usize::MAX } else { usize::from(view.replicas) },
            alive: view.alive(),
            welcome: view.relays(|state| matches!(state, State::Live | State::Joining)),
            live: view.relays(|state| state == State::Live),
            number: view.number,
        }
    }

    /// Those of `nodes` that are fit for new work, the best kind of them that there is.
    pub(crate) fn fittest_of(&self, nodes: NodeSet) -> NodeSet {
        let kinds = [self.live, self.welcome, self.alive].map(|kind| kind.intersection(nodes));
        kinds.into_iter().find(|kind| !kind.is_empty()).unwrap_or_default()
    }

    /// Puts a bucket in order: the dead leave as long as one alive is in sync, the owner is one of
    /// those, and whoever should have a copy learns.
    pub(crate) fn settle(&self, index: u16, bucket: &mut Bucket) {
        if bucket.in_sync.is_empty() {
            self.found(index, bucket);
        }
        let survivors = bucket.in_sync.intersection(self.alive);
        if survivors.is_empty() {
            // Stalled: who comes back with the state goes on (rule 18).
            (bucket.heir, bucket.learners) = (None, NodeSet::EMPTY);
            if !bucket.in_sync.is_empty() {
                self.elect(index, bucket, bucket.in_sync);
            }
            return;
        }
        bucket.in_sync = survivors;
        self.elect(index, bucket, self.fittest_of(survivors));
        let fit = survivors.intersection(self.welcome);
        bucket.heir = bucket.heir.filter(|heir| fit.contains(*heir) && bucket.owner != Some(*heir));
        self.settle_copies(index, bucket);
    }

    /// A bucket that nobody has the state of begins anew.
    fn found(&self, index: u16, bucket: &mut Bucket) {
        bucket.owner = self.field.first(index, self.fittest_of(self.alive));
        (bucket.heir, bucket.learners) = (None, NodeSet::EMPTY);
        if let Some(owner) = bucket.owner {
            // A change of owner even if it is the same node: it is another life of it.
            bucket.term += 1;
            bucket.since = bucket.term;
            bucket.in_sync = NodeSet::of(owner);
        }
    }

    /// The owner stays if it is in sync (rule 2); else one of `heirs` follows.
    fn elect(&self, index: u16, bucket: &mut Bucket, heirs: NodeSet) {
        if bucket.owner.is_none_or(|owner| !bucket.in_sync.contains(owner)) {
            bucket.owner = self.field.first(index, heirs);
            bucket.term += 1;
        }
    }

    fn settle_copies(&self, index: u16, bucket: &mut Bucket) {
        let wanted = self.field.first_of(index, self.copies, self.welcome);
        bucket.learners = wanted.minus(bucket.in_sync);
        if bucket.learners.is_empty() {
            let used = bucket.owner.into_iter().chain(bucket.heir).collect();
            let kept = bucket.in_sync.intersection(wanted.union(used));
            // A drained node is the backup until it is gone, if there is no other one: an owner that died
            // in the moment of the handover would take everything with it.
            if kept.len() >= self.copies.min(COPIES_LEAST) {
                bucket.in_sync = kept;
            }
        }
    }
}
