//! A set of stream offsets as sorted, disjoint ranges.

use core::ops::Range;

/// Ranges in a set at most. A peer that scatters its bytes wider than this gets no
/// acknowledgement for the rest until holes close.
pub const RANGES_MAX: usize = 64;

/// A set of stream offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds `range`. Returns false when the set is full and `range` touches no member.
    pub fn insert(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        let first = self.0.partition_point(|r| r.end < range.start);
        let last = self.0.partition_point(|r| r.start <= range.end);
        if first == last && self.0.len() >= RANGES_MAX {
            return false;
        }
        let start = self.0.get(first).map_or(range.start, |r| r.start.min(range.start));
        let end = match last.checked_sub(1).and_then(|i| self.0.get(i)) {
            Some(r) if last > first => r.end.max(range.end),
            _ => range.end,
        };
        let merged = if first == last { range } else { start..end };
        self.0.splice(first..last, [merged]);
        true
    }

    /// Removes everything below `offset`.
    pub fn trim(&mut self, offset: u64) {
        let gone = self.0.partition_point(|r| r.end <= offset);
        self.0.drain(..gone);
        if let Some(first) = self.0.first_mut() {
            first.start = first.start.max(offset);
        }
    }

    /// The end of the member that contains `offset`, or `offset` itself.
    pub fn contiguous_from(&self, offset: u64) -> u64 {
        let at = self.0.partition_point(|r| r.end <= offset);
        self.0.get(at).filter(|r| r.start <= offset).map_or(offset, |r| r.end)
    }

    /// The parts of `range` that are not in the set.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut from = range.start;
        for member in &self.0 {
            if member.start >= range.end {
                break;
            }
            if member.start > from {
                missing.push(from..member.start);
            }
            from = from.max(member.end);
        }
        if from < range.end {
            missing.push(from..range.end);
        }
        missing
    }

    /// Every member in order.
    pub fn members(&self) -> &[Range<u64>] {
        &self.0
    }

    /// The members that start above `offset`.
    pub fn above(&self, offset: u64) -> &[Range<u64>] {
        &self.0[self.0.partition_point(|r| r.start <= offset)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation against a set of single offsets.
    #[test]
    fn behaves_like_a_set_of_offsets() {
        let mut seed = 1u64;
        let mut next = |limit: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % limit
        };
        for _ in 0..300 {
            let (mut ranges, mut model) = (Ranges::default(), [false; 100]);
            for _ in 0..12 {
                let start = next(95);
                let end = start + next(12).min(100 - start);
                if next(5) == 0 {
                    ranges.trim(start);
                    model[..start as usize].fill(false);
                } else {
                    assert!(ranges.insert(start..end));
                    model[start as usize..end as usize].fill(true);
                }
                let from = next(100);
                let run = model[from as usize..].iter().take_while(|set| **set).count() as u64;
                assert_eq!(ranges.contiguous_from(from), from + run);
                let mut holes = [false; 100];
                ranges.missing(0..100).into_iter().for_each(|hole| {
                    holes[hole.start as usize..hole.end as usize].fill(true);
                });
                assert!(model.iter().zip(holes).all(|(set, hole)| *set != hole), "{ranges:?}");
            }
        }
    }

    #[test]
    fn is_bounded() {
        let mut ranges = Ranges::default();
        for i in 0..RANGES_MAX as u64 {
            assert!(ranges.insert(i * 10..i * 10 + 5));
        }
        assert!(!ranges.insert(100_000..100_001));
        assert!(ranges.insert(5..10), "closing a hole always works");
    }
}
