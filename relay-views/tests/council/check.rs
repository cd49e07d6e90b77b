//! What must hold whatever happens: one history of views, by the rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use relay_views::View;
use relay_views::id::{Incarnation, NodeId, NodeSet};
use relay_views::view::Bucket;

#[derive(Default)]
pub struct Checker {
    views: BTreeMap<u64, Arc<View>>,
    leaders: BTreeMap<u64, NodeId>,
}

impl Checker {
    pub fn newest(&self) -> u64 {
        self.views.keys().next_back().copied().unwrap_or(0)
    }

    /// A node says that a view was committed.
    pub fn view(&mut self, view: &Arc<View>) {
        let number = view.number;
        if number == 0 {
            // A cluster that is being founded.
            return;
        }
        if let Some(known) = self.views.get(&number) {
            assert!(known == view, "two views with the number {number}:\n{known:#?}\n{view:#?}");
            return;
        }
        assert_eq!(view.flaw(), None);
        self.views.insert(number, Arc::clone(view));
        for later in [number, number + 1] {
            let before = later.checked_sub(1).and_then(|before| self.views.get(&before));
            if let (Some(before), Some(after)) = (before, self.views.get(&later)) {
                step(before, after);
            }
        }
    }

    /// A node thinks that it leads.
    pub fn leader(&mut self, term: u64, node: NodeId) {
        let leader = *self.leaders.entry(term).or_insert(node);
        assert_eq!(leader, node, "two leaders in term {term}");
    }
}

fn step(before: &View, after: &View) {
    for (old, new) in before.buckets.iter().zip(&after.buckets) {
        assert!(new.term >= old.term && new.since >= old.since, "a term ran backwards");
        let life = |view: &View, node: Option<NodeId>| {
            node.and_then(|node| view.lives(NodeSet::of(node)).next())
        };
        let lives = |view: &View, set| view.lives(set).collect::<Vec<_>>();
        if new.since > old.since {
            assert_eq!(new.since, new.term);
            continue;
        }
        let owner = life(after, new.owner);
        let changed = owner != life(before, old.owner);
        assert_eq!(changed, new.term > old.term, "rule 2: {old:?} {new:?}");
        let members = lives(before, old.in_sync);
        assert!(owner.is_none_or(|owner| members.contains(&owner)), "rule 2: {old:?} {new:?}");
        let grown = |life: &(NodeId, Incarnation)| !members.contains(life);
        let grown: Vec<_> = lives(after, new.in_sync).into_iter().filter(grown).collect();
        let taught = lives(before, old.learners);
        assert!(grown.len() < 2 && grown.iter().all(|life| taught.contains(life)), "rule 3");
    }
}

/// Whether everybody agrees, is alive, votes, and backs everything up.
pub fn unsettled(views: &[&Arc<View>], relays: NodeSet, everybody: NodeSet) -> Option<String> {
    let view = views[0];
    if let Some(other) = views.iter().find(|other| other.number != view.number) {
        return Some(format!("views {} and {}", view.number, other.number));
    }
    if view.alive() != relays || view.members.len() != everybody.len() {
        return Some(format!("alive are {:?}: {:?}", view.alive(), view.members));
    }
    let bare = |bucket: &&Bucket| bucket.in_sync != relays || bucket.heir.is_some();
    view.buckets.iter().find(bare).map(|bucket| format!("{bucket:?}"))
}
