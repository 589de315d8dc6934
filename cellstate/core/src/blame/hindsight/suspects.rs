//! Who could be to blame for what is short, newest first.

use plenum_model::{AllocationRef, JobId, Revision};

use crate::blame::ring::Change;

/// Who took something.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    /// A grant, as the ring knows it.
    Grant(&'a Change),
    /// A live allocation.
    Row(AllocationRef<'a>),
    /// Something else happened, with its word; of the hold of this job, where it was one.
    Event(&'static str, Option<JobId>),
}

/// One of them, with how much it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect<'a> {
    pub(crate) revision: Revision,
    pub(crate) amount: u64,
    pub(crate) who: Who<'a>,
}

impl Suspect<'_> {
    /// Whether it is the hold of one of these jobs, which are sorted.
    fn is_hold_of(&self, owners: &[JobId]) -> bool {
        matches!(self.who, Who::Event(_, Some(holder)) if owners.binary_search(&holder).is_ok())
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Suspects<'a> {
    /// Newest first; of those that came together, in the order in which they were found.
    all: Vec<Suspect<'a>>,
    /// What each of them and all newer ones took.
    sums: Vec<u64>,
}

impl<'a> Suspects<'a> {
    pub(crate) fn of(mut all: Vec<Suspect<'a>>) -> Self {
        all.sort_by_key(|suspect| std::cmp::Reverse(suspect.revision));
        let mut sum = 0_u64;
        let sums = all.iter().map(|suspect| {
            sum = sum.saturating_add(suspect.amount);
            sum
        });
        Self { sums: sums.collect(), all }
    }

    /// How much all of them took.
    pub(crate) fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0)
    }

    /// The newest ones that together took what is short, or all of them, beside the holds of these jobs, which are sorted: the first
    /// few, and how much all of them took.
    pub(crate) fn newest(&self, short_by: u64, owners: &[JobId], few: usize) -> (Vec<Suspect<'a>>, u64) {
        if owners.is_empty() {
            let newer = self.sums.partition_point(|&sum| sum < short_by);
            let count = if short_by == 0 { 0 } else { self.all.len().min(newer + 1) };
            let total = count.checked_sub(1).map_or(0, |last| self.sums[last]);
            return (self.all[..count.min(few)].to_vec(), total);
        }
        let (mut newest, mut total) = (Vec::new(), 0);
        for suspect in self.all.iter().filter(|suspect| !suspect.is_hold_of(owners)) {
            if total >= short_by {
                break;
            }
            total += suspect.amount;
            if newest.len() < few {
                newest.push(*suspect);
            }
        }
        (newest, total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, amount: u64, holder: Option<u32>) -> Suspect<'static> {
        let holder = holder.map(|slot| JobId { slot, generation: 1 });
        Suspect { revision: Revision(revision), amount, who: Who::Event("", holder) }
    }

    #[test]
    fn the_newest_are_to_blame_until_they_took_what_is_short() {
        let suspects =
            Suspects::of(vec![event(3, 5, None), event(9, 1, Some(7)), event(5, 10, None), event(5, 20, None)]);
        let newest = |short_by: u64, owners: &[u32]| {
            let owners: Vec<_> = owners.iter().map(|&slot| JobId { slot, generation: 1 }).collect();
            let (newest, total) = suspects.newest(short_by, &owners, 2);
            (newest.iter().map(|suspect| suspect.amount).collect::<Vec<_>>(), total)
        };
        assert_eq!(newest(0, &[]), (vec![], 0));
        assert_eq!(newest(1, &[]), (vec![1], 1));
        assert_eq!(newest(2, &[]), (vec![1, 10], 11));
        assert_eq!(newest(12, &[]), (vec![1, 10], 31));
        assert_eq!(newest(1000, &[]), (vec![1, 10], 36));
        // Its own hold is in nobody's way, whether that is looked up or gone through.
        assert_eq!(newest(1, &[7]), (vec![10], 10));
        assert_eq!(newest(1000, &[7]), (vec![10, 20], 35));
        assert_eq!(newest(1000, &[8]), newest(1000, &[]));
        assert_eq!(newest(0, &[8]), (vec![], 0));
    }
}
