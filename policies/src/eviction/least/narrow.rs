//! Who is no victim of the best answer, as those who are cheaper are enough.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use plenum_model::DIMENSIONS;

use super::{Parts, Search, Tenant};

impl Search<'_> {
    /// Those that the best answer can have, if there is one of them: nobody above the band up to which they may be enough; nobody who is torn where the others of these may,
    /// and then nobody above the priority up to which they may. And how many of `all`, who come by priority, are in these bands. `None`: all of them are not enough, or
    /// only more than can be named.
    pub(super) fn narrow(&self, all: &[Tenant]) -> Option<(Vec<Tenant>, usize)> {
        let bands = self.until_enough(all, |one, other| one.priority / 10 == other.priority / 10)?;
        let mut few = all[..bands].to_vec();
        few.sort_unstable_by_key(|tenant| (tenant.is_torn, tenant.priority, tenant.id.slot));
        let alike = |one: &Tenant, other: &Tenant| (one.is_torn, one.priority) == (other.is_torn, other.priority);
        let end = self.until_enough(&few, alike)?;
        // Of those who are torn, one of a high priority may do for two of a low one.
        if end.checked_sub(1).is_some_and(|last| !few[last].is_torn) {
            few.truncate(end);
        }
        Some((few, bands))
    }

    /// How many of them from the first on, with all who are alike, may be enough. Fewer are not.
    fn until_enough(&self, all: &[Tenant], alike: impl Fn(&Tenant, &Tenant) -> bool) -> Option<usize> {
        let mut largest = Largest::of(self.most, all.len());
        let (mut end, mut ends) = (0, Vec::new());
        for alike in all.chunk_by(alike) {
            end += alike.len();
            if ends.is_empty() {
                alike.iter().for_each(|tenant| largest.add(&self.parts(tenant)));
            }
            if !ends.is_empty() || largest.cover(&self.missing) {
                ends.push(end);
                if self.wanting.enough.is_none() {
                    return Some(end);
                }
            }
        }
        let first = ends.partition_point(|&end| !self.has_else(all[..end].iter()));
        ends.get(first).copied()
    }
}

/// What the largest of some tenants give together, in each dimension for itself, of as many of them as can be named. Others, however many, give no more.
struct Largest {
    /// Of them.
    most: usize,
    /// Empty where all that come can be named.
    parts: [BinaryHeap<Reverse<i64>>; DIMENSIONS],
    are_few: bool,
    sum: Parts,
}

impl Largest {
    /// Of so many that come.
    fn of(most: usize, come: usize) -> Self {
        Self { most, parts: std::array::from_fn(|_| BinaryHeap::new()), are_few: come <= most, sum: Parts::default() }
    }

    fn add(&mut self, parts: &Parts) {
        for ((largest, sum), &part) in self.parts.iter_mut().zip(&mut self.sum).zip(parts) {
            if self.are_few {
                *sum += part;
            } else if part > 0 && largest.len() < self.most {
                *sum += part;
                largest.push(Reverse(part));
            } else if let Some(mut least) = largest.peek_mut().filter(|least| least.0 < part) {
                *sum += part - least.0;
                *least = Reverse(part);
            }
        }
    }

    fn cover(&self, missing: &Parts) -> bool {
        missing.iter().zip(self.sum).all(|(&missing, sum)| missing <= sum)
    }
}
