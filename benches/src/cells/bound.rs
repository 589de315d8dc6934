//! How few machines could hold what runs: a proven bound, to tell how far a placement is from any optimum.
//!
//! Moving everything at will, each resource by itself still needs this many machines (bound L2 of Martello and Toth, *Lower bounds and reduction
//! procedures for the bin packing problem*, 1990): tasks above half a machine need one each, and what does not fit beside them needs more. The true
//! optimum can be above it, never below.

use plenum_model::Cell;

use super::stage::Free;

/// Machines that run something, and the fewest that could run all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packing {
    pub(crate) in_use: u64,
    pub(crate) bound: u64,
}

/// What a cell of equal machines comes to.
pub(crate) fn packing(cell: &Cell, capacity: Free) -> Packing {
    let sizes = |of: fn(Free) -> i64| {
        let each = cell.allocations().map(|found| of(Free::of(&cell.resources_of(found.row))));
        machines_needed(each.collect(), of(capacity))
    };
    let in_use = cell.machine_rows().iter().filter(|row| row.allocations > 0).count() as u64;
    Packing { in_use, bound: sizes(|free| free.cpu).max(sizes(|free| free.memory)) }
}

/// The bound for one resource: no size is above `capacity`.
fn machines_needed(mut sizes: Vec<i64>, capacity: i64) -> u64 {
    if capacity <= 0 {
        return 0;
    }
    sizes.sort_unstable();
    let whole: i64 = sizes.iter().sum();
    let mut most = ceil(whole, capacity);
    // Tasks below a threshold are left out, which only makes the problem easier; thresholds that matter are sizes.
    let mut thresholds: Vec<i64> = sizes.iter().copied().filter(|&size| 2 * size <= capacity).collect();
    thresholds.push(0);
    thresholds.sort_unstable();
    thresholds.dedup();
    let every = (thresholds.len() / 64).max(1);
    for threshold in thresholds.into_iter().step_by(every) {
        let (mut alone, mut large, mut large_sum, mut small_sum) = (0, 0, 0, 0);
        for &size in &sizes {
            if size > capacity - threshold {
                alone += 1;
            } else if 2 * size > capacity {
                large += 1;
                large_sum += size;
            } else if size >= threshold {
                small_sum += size;
            }
        }
        let beside = large * capacity - large_sum;
        most = most.max(alone + large + ceil((small_sum - beside).max(0), capacity));
    }
    most.unsigned_abs()
}

fn ceil(amount: i64, by: i64) -> i64 {
    amount / by + i64::from(amount % by != 0)
}

#[cfg(test)]
mod tests {
    use plenum_model::{Attributes, Resources};

    use super::*;
    use crate::cells::stage::{Stage, tests::grant};

    #[test]
    fn the_bound_is_known_for_cases_that_can_be_done_by_hand() {
        assert_eq!(machines_needed(vec![], 10), 0);
        assert_eq!(machines_needed(vec![5; 4], 10), 2);
        // Three above the half need one each, though their sum is less.
        assert_eq!(machines_needed(vec![6, 6, 6], 10), 3);
        // Nothing but the 2 fits beside a 7, and the two 4s share one.
        assert_eq!(machines_needed(vec![7, 7, 7, 4, 4, 2], 10), 4);
    }

    #[test]
    fn the_bound_is_never_above_what_is_in_use() {
        let mut stage = Stage::new(4, Resources::new(100, 100), |_| Attributes::new()).unwrap();
        for (machine, size) in [(0, 60), (1, 60), (2, 20), (3, 20)] {
            grant(&mut stage, machine, Resources::new(size, 10));
        }
        let capacity = Free { cpu: 100, memory: 100 };
        assert_eq!(packing(stage.core().cell(), capacity), Packing { in_use: 4, bound: 2 });
    }
}
