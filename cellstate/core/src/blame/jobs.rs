//! Claims on a job or a task that is not there, or not wanted: whether it was at the base, and who changed that.

use std::ops::RangeInclusive;
use std::sync::Arc;

use plenum_model::{Job, JobId, LogTime, NotWanted, RefusalKind, RefusalReason};

use super::group_events::Part;
use super::job_events::{JobEventKind, is_done};
use super::{About, Facts, Judge};

impl Judge<'_, '_> {
    pub(super) fn unwanted(&self, why: NotWanted, about: &About<'_>) -> Facts {
        let kinds = JobEventKind::behind(why);
        if kinds.is_empty() {
            // The version that the claim names never had it.
            return Facts::plain(RefusalKind::Misfit, RefusalReason::NotWanted);
        }
        let row = about.group_row;
        let parts = match why {
            NotWanted::Task(_) => Some(Part::Task(row, about.task)..=Part::Task(row, about.task)),
            // It was among them before.
            NotWanted::NoSuchTask => Some(Part::Count(row, about.task.saturating_add(1))..=Part::Count(row, u32::MAX)),
            // It would be awake by now.
            NotWanted::Backoff(_) => {
                Some(Part::Backoff(row, LogTime::from_micros(i64::MIN))..=Part::Backoff(row, self.grounds.now))
            }
            NotWanted::After(_) if self.waited_before(about) => {
                return self.job_facts(about.job, &[], RefusalReason::NotWanted);
            }
            NotWanted::After(group) => {
                let row = self.cell.job_in(about.job).and_then(|job| job.group_row(group));
                row.map(|row| Part::Done(row)..=Part::Done(row))
            }
            NotWanted::JobOver(_) | NotWanted::Recurring | NotWanted::NoSuchGroup => None,
        };
        match parts {
            Some(parts) => self.part_facts(parts, about.job, kinds, RefusalReason::NotWanted),
            None => self.job_facts(about.job, kinds, RefusalReason::NotWanted),
        }
    }

    /// Whether some group that comes before a claim's was not done at the base already, and is not now: the first one that is not done
    /// may have been.
    fn waited_before(&self, about: &About<'_>) -> bool {
        let Some(changed) = self.hindsight.groups(self.grounds.group_events, self.base) else { return false };
        let Some(job) = self.cell.job_in(about.job) else { return false };
        let submitted = self.grounds.job_events.submitted(about.job);
        let undone = |row: u32| changed.get(&Part::Done(row)).is_some_and(|event| event.revision > submitted);
        let shape = about.group_row.checked_sub(job.group_base).and_then(|group| job.shape.groups.get(group as usize));
        let before = shape.map(|shape| shape.after.as_slice()).unwrap_or_default();
        let mut rows = before.iter().filter_map(|&group| Some((job.group_row(group)?, self.cell.group(job, group)?)));
        rows.any(|(row, group)| !is_done(group) && !undone(row))
    }

    /// The instance before a single one has not left yet, or runs unknown to the cell.
    pub(super) fn predecessor(&self, about: &About<'_>) -> Facts {
        let part = Part::Task(about.group_row, about.task);
        self.part_facts(part..=part, about.job, &[JobEventKind::Left], RefusalReason::Predecessor)
    }

    /// Where none of these parts of a job changed, it was so at the base, unless all of the job is younger. What happened to the row of its
    /// group before the job had it is in nobody's way.
    fn part_facts(
        &self,
        parts: RangeInclusive<Part>,
        job_slot: u32,
        kinds: &[JobEventKind],
        reason: RefusalReason,
    ) -> Facts {
        let Some(changed) = self.hindsight.groups(self.grounds.group_events, self.base) else {
            return self.job_facts(job_slot, kinds, reason);
        };
        let submitted = self.grounds.job_events.submitted(job_slot);
        let newest = changed.range(parts).map(|(_, event)| event).max_by_key(|event| event.revision);
        match newest.filter(|event| event.revision > submitted) {
            None => self.job_facts(job_slot, &[], reason),
            Some(event) => {
                let culprit = event.culprit((self.cell, self.grounds.names));
                Facts::caused(RefusalKind::Conflict, reason, culprit)
            }
        }
    }

    pub(super) fn no_such_job(&self, job: JobId) -> Facts {
        let is_its_own = self.left_its_slot_last(job);
        self.ended(Part::Retired(job), (job.slot, JobEventKind::Retired, is_its_own), RefusalReason::NoSuchJob)
    }

    pub(super) fn other_version(&self, job: JobId, version: u32) -> Facts {
        // The first version of a job ended none.
        let is_the_one_before = |found: &Arc<Job>| version > 0 && version.checked_add(1) == Some(found.version);
        let is_its_own = self.cell.job(job).is_some_and(is_the_one_before);
        self.ended(
            Part::Version(job, version),
            (job.slot, JobEventKind::Submitted, is_its_own),
            RefusalReason::JobVersion,
        )
    }

    /// What a claim names has ended, or never was. `last`: the kind of its end, in this slot of a job, and whether nothing has ended so there after
    /// it. What has the slot or the job later did nothing to it.
    fn ended(&self, part: Part, last: (u32, JobEventKind, bool), reason: RefusalReason) -> Facts {
        let (slot, kind, is_its_own) = last;
        let sources = (self.cell, self.grounds.names);
        match self.grounds.job_events.newest_of(sources, slot, kind, self.base) {
            Some(culprit) if is_its_own => Facts::caused(RefusalKind::Conflict, reason, culprit),
            None => self.unseen(self.base >= self.grounds.opened, reason),
            // Another one ended there since the base: this one before that, or not at all.
            Some(_) => match self.hindsight.groups(self.grounds.group_events, self.base) {
                None => self.unseen(false, reason),
                Some(changed) => changed.get(&part).map_or_else(
                    || self.unseen(true, reason),
                    |event| Facts::caused(RefusalKind::Conflict, reason, event.culprit(sources)),
                ),
            },
        }
    }

    /// Whether nobody has left a job's slot after it: only then the last end that is known of that slot is its own.
    pub(super) fn left_its_slot_last(&self, job: JobId) -> bool {
        let slot = self.cell.job_slots().get(job.slot);
        slot.is_some_and(|slot| left_last(job.generation, slot.generation, slot.job.is_some()))
    }

    /// A job that has no machine yet was promised another one by an earlier claim of the same transaction.
    pub(super) fn other_machine(&self, job_slot: u32) -> Facts {
        let reason = RefusalReason::OtherMachine;
        if self.cell.job_in(job_slot).is_some_and(|job| job.home.is_none()) {
            return Facts::plain(RefusalKind::Misfit, reason);
        }
        self.job_facts(job_slot, &[JobEventKind::Home], reason)
    }

    fn job_facts(&self, job_slot: u32, kinds: &[JobEventKind], reason: RefusalReason) -> Facts {
        match self.grounds.job_events.culprit((self.cell, self.grounds.names), job_slot, kinds, self.base) {
            Some(culprit) => Facts::caused(RefusalKind::Conflict, reason, culprit),
            None => self.unseen(self.base >= self.grounds.opened, reason),
        }
    }

    pub(super) fn taken(&self, slot: u32) -> Facts {
        let row = self.cell.allocation_in(slot).map(|found| *found.row).unwrap_or_default();
        if row.created <= self.base {
            return Facts::plain(RefusalKind::Misfit, RefusalReason::TaskTaken);
        }
        let culprit = self.row_culprit(&row, row.id(slot), 0);
        Facts::caused(RefusalKind::Conflict, RefusalReason::TaskTaken, culprit)
    }
}

/// Whether nobody has left a slot after the tenant of this generation, given the generation of the newest tenant, and whether that one is still there.
/// Only then the last end that is known of that slot is its own.
pub(super) fn left_last(generation: u32, newest: u32, newest_is_there: bool) -> bool {
    newest.checked_sub(u32::from(newest_is_there)) == Some(generation)
}
