//! Units of ownership: the flows that have one owner, one term and one stream of replication.

use relay_abi::bucket::BUCKETS;

/// Units of a cluster at most. Each has its heartbeats, so there are far fewer than buckets.
pub const UNITS_MAX: u8 = 64;

/// One of the parts that all flows are divided into, by their bucket. A relay has one
/// [`crate::node::Node`] for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    index: u8,
    count: u8,
}

impl Unit {
    /// All flows.
    pub const WHOLE: Unit = Unit { index: 0, count: 1 };

    /// The units of a cluster that has `count` of them; at least one, at most [`UNITS_MAX`].
    pub fn all(count: u8) -> impl ExactSizeIterator<Item = Unit> {
        let count = count.clamp(1, UNITS_MAX);
        (0..count).map(move |index| Unit { index, count })
    }

    /// Its place among the units, and the bucket that stands for it in views.
    pub fn index(self) -> u8 {
        self.index
    }

    /// How many units there are.
    pub fn count(self) -> u8 {
        self.count
    }

    /// The first unit's owner answers for the cluster's addresses.
    pub fn holds_addresses(self) -> bool {
        self.index == 0
    }

    /// Heartbeats of the relay for one of this unit's: the first unit shows that the relay lives, and the
    /// others keep their sessions.
    pub(crate) fn heartbeats(self) -> u32 {
        if self.index == 0 { 1 } else { self.count.into() }
    }

    /// The place of the unit that `bucket` belongs to, of `count` units.
    pub fn of(bucket: u32, count: usize) -> usize {
        (bucket % BUCKETS) as usize % count.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_has_as_many_buckets_as_any_other() {
        for count in 1..=UNITS_MAX {
            let mut buckets = vec![0u32; count.into()];
            (0..BUCKETS).for_each(|bucket| buckets[Unit::of(bucket, count.into())] += 1);
            let least = BUCKETS / u32::from(count);
            assert!(buckets.iter().all(|has| (least..=least + 1).contains(has)), "{buckets:?}");
        }
        assert_eq!(Unit::all(0).collect::<Vec<_>>(), [Unit::WHOLE]);
        assert_eq!(Unit::all(255).len(), usize::from(UNITS_MAX));
    }
}
