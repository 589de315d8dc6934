//! What is derived step by step is compared with what the cell itself says, wherever debug assertions are on.

use plenum_model::{Delta, QuotaUse};

use crate::Core;
use crate::clock::has_allocations;
use crate::derived::homes::Homes;
use crate::derived::job_bytes::JobBytes;
use crate::derived::names::Names;
use crate::derived::slots::{RangeSlots, RowSlots};
use crate::derived::sweeps::Sweeps;
use crate::derived::{count_shapes, rows};
use crate::jobs::groups_of;

impl Core {
    /// What is counted on the way is what there is. In a large cell it is counted anew now and then, as that takes as long as the cell is large.
    pub(crate) fn assert_counts(&self, delta: &Delta) {
        let cell = &self.cell;
        let rows = cell.job_slots().len() + cell.machine_slots().len() + cell.allocation_rows().len();
        if delta.revision.0.is_multiple_of(u64::from(rows) / 1024 + 1) {
            self.assert_sums();
            self.assert_rows();
            self.assert_times();
        }
    }

    /// What all jobs come to, and what they go by.
    fn assert_sums(&self) {
        let (cell, derived) = (&self.cell, &self.derived);
        let counted = QuotaUse::recount(cell);
        assert_eq!(derived.quotas, counted, "what is counted for quotas is not what is there");
        let counted = count_shapes(cell);
        assert!(derived.shapes.is_like(&counted), "what is counted of resources is not what groups have");
        let counted = JobBytes::recount(cell);
        assert_eq!(derived.job_bytes, counted, "what is counted of jobs in bytes is not what they have");
        let counted = Names::rebuild(cell);
        assert!(derived.names.is_like(&counted), "what is counted of names is not who goes by them");
        let groups = cell.jobs().flat_map(|job| groups_of(cell, job));
        let counted: u64 = groups.map(|(_, group)| u64::from(group.count)).sum();
        assert_eq!(derived.tasks, counted, "what is counted of tasks is not what groups have");
        let is_over = |slot: u32| cell.job_in(slot).is_some_and(|job| job.state.is_final());
        let mut slots = 0..cell.job_slots().len();
        let counted = slots.clone().filter(|&slot| is_over(slot)).count();
        assert_eq!(derived.final_job_count, counted, "what is counted of jobs that are over is not what is there");
        let mistaken = slots.find(|&slot| derived.final_jobs.contains(slot) != is_over(slot));
        assert_eq!(mistaken, None, "the job in that slot is over and not known to be, or the other way round");
    }

    /// Rows of tables that nobody has, and machines that jobs share.
    fn assert_rows(&self) {
        let (cell, derived) = (&self.cell, &self.derived);
        let free = RowSlots::rebuild(cell.machine_slots().len(), |slot| cell.machine_in(slot).is_some());
        assert_eq!(derived.machine_slots, free, "free slots are not those without machines");
        let free = RowSlots::rebuild(cell.job_slots().len(), |slot| cell.job_in(slot).is_some());
        assert_eq!(derived.job_slots, free, "free slots are not those without jobs");
        let free = RangeSlots::rebuild(cell.jobs().map(|job| (job.group_base, rows(job.shape.groups.len()))));
        assert_eq!(derived.group_rows, free, "free rows of groups are not those that no job has");
        let groups = cell.jobs().flat_map(|job| groups_of(cell, job));
        let free = RangeSlots::rebuild(groups.map(|(_, group)| (group.task_base, group.count)));
        assert_eq!(derived.task_rows, free, "free rows of tasks are not those that no group has");
        assert_eq!(derived.homes, Homes::rebuild(cell), "homes are not those of jobs that are not over");
    }

    /// What is due, as far as the cell alone says when. A job that is over and has allocations may wait to be retired or not.
    fn assert_times(&self) {
        let (cell, derived) = (&self.cell, &self.derived);
        let counted = Sweeps::rebuild(cell);
        assert!(derived.sweeps.is_like(&counted), "{:?} are to be stopped, not {counted:?}", derived.sweeps);
        assert!(derived.unknown_due.is_that_of(cell), "unknown tasks are due at other times than theirs");
        let mut known = 0;
        for job in cell.jobs().filter(|job| job.state.is_final()) {
            let time = job.state_since.plus_micros(self.options.retire_after_micros);
            let is_known = derived.retires.contains(&(time, job.id));
            assert!(is_known || has_allocations(cell, job.id), "{} is over, and never retired", job.shape.name);
            known += usize::from(is_known);
        }
        assert_eq!(derived.retires.len(), known, "what is to be retired is not over, or not since then");
    }
}
