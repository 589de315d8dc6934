//! Taking back a command that was decided and is not to take effect: no trace of it may be left. It is not logged, and a replay of
//! the log, which knows nothing of it, must give out the same rows.

use plenum_model::{Delta, JobChange};

use crate::Core;
use crate::derived::rows;
use crate::derived::slots::AllocationMark;

/// What deciding a command takes before it takes effect: rows. Everything else that it writes is scratch, or found again.
///
/// Not so with ticks, which take what is due out of their queues: they are never taken back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    allocations: AllocationMark,
    pub(crate) group_rows: u32,
    pub(crate) task_rows: u32,
}

impl Core {
    /// Where the rows stand.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            allocations: self.derived.allocation_slots.mark(),
            group_rows: self.derived.group_rows.end(),
            task_rows: self.derived.task_rows.end(),
        }
    }

    /// Takes back the rows that a delta gives out, which were taken since.
    pub(crate) fn take_back(&mut self, mark: Mark, delta: &Delta) {
        let taken = delta.grants.iter().flat_map(|grants| grants.slots.iter().copied());
        self.derived.allocation_slots.untake(mark.allocations, taken);
        for change in &delta.jobs {
            if let JobChange::Put { job, .. } = change {
                self.derived.group_rows.give(job.group_base, rows(job.shape.groups.len()));
            }
        }
        for (base, count) in self.places_taken(delta) {
            self.derived.task_rows.give(base, count);
        }
        debug_assert_eq!(
            (self.derived.group_rows.end(), self.derived.task_rows.end()),
            (mark.group_rows, mark.task_rows)
        );
    }

    /// The places for tasks that a delta gives out: each with its first row, and for how many tasks.
    pub(crate) fn places_taken(&self, delta: &Delta) -> Vec<(u32, u32)> {
        let mut places = Vec::new();
        for change in &delta.jobs {
            match change {
                JobChange::Put { job, task_bases } => {
                    places.extend(task_bases.iter().copied().zip(job.shape.groups.iter().map(|group| group.count)));
                }
                JobChange::Group { row, count, task_base, .. } => {
                    if self.cell.groups().get(*row).is_some_and(|group| group.task_base != *task_base) {
                        places.push((*task_base, *count));
                    }
                }
                JobChange::State { .. }
                | JobChange::Removed(_)
                | JobChange::Home { .. }
                | JobChange::Launched { .. } => {}
            }
        }
        places
    }
}
