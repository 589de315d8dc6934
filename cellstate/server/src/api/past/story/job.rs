//! What happened to a job: its versions and states, what was launched from it, and what became of its tasks, but for how their allocations ended.

use std::collections::BTreeMap;

use plenum_history::Logged;
use plenum_model::{AllocationId, Delta, Grants, Job, JobChange, Revision, TaskState, counted};

use super::Teller;
use super::words::{task_word, tasks_of};
use crate::api::failure::Failure;
use crate::api::past::evictions;
use crate::api::past::moved;

impl Teller<'_> {
    /// Tells what an entry has of it.
    pub(super) fn job(&mut self, job: &Job, logged: &Logged, delta: &Delta) -> Result<(), Failure> {
        // What became of the job follows from what became of its tasks.
        for change in delta.jobs.iter().rev() {
            // Where tasks end, a group changes by when it is tried again, and not by how many of its tasks are wanted.
            if delta.ends.is_empty() || !matches!(change, JobChange::Group { .. }) {
                self.job_change(job, logged, delta, change)?;
            }
        }
        let mut by_state: BTreeMap<(u32, u8), Vec<u32>> = BTreeMap::new();
        let rows = job.group_base..job.group_base.saturating_add(u32::try_from(job.shape.groups.len()).unwrap_or(0));
        for task in delta.tasks.iter().filter(|task| rows.contains(&task.group_row)) {
            by_state.entry((task.group_row - rows.start, task.state as u8)).or_default().push(task.task);
        }
        if self.is_at_the_beginning() {
            return Ok(());
        }
        for ((group, state), tasks) in by_state.into_iter().rev() {
            let Some(word) = TaskState::from_number(state.into()).and_then(task_word) else { continue };
            let group = job.shape.groups.get(group as usize).map_or("", |group| &group.name);
            // Each failed attempt is told by itself.
            let finally = if word == "failed" { ", for good" } else { "" };
            self.push(logged, word, format!("{group}: {}{finally}", tasks_of(&tasks)))?;
        }
        for grants in delta.grants.iter().rev().filter(|grants| grants.job == job.id) {
            self.slots.extend(&grants.slots);
            let placed = self.placed(job, grants, delta)?;
            self.push(logged, "placed", placed)?;
        }
        Ok(())
    }

    fn placed(&mut self, job: &Job, grants: &Grants, delta: &Delta) -> Result<String, Failure> {
        let group = job.shape.groups.get(usize::from(grants.group)).map_or("", |group| &group.name);
        let on = self.on_machines(grants.machines.iter().copied(), delta.revision.0, delta.time.micros);
        let why = match grants.slots.first().and_then(|slot| moved::reason(delta, *slot)) {
            Some(reason) => format!(": {reason}"),
            None => self.in_place_of(grants, delta)?,
        };
        Ok(format!("{group}: {} on {on}{why}", tasks_of(&grants.tasks)))
    }

    /// Who was evicted for these: the first of them, and how many there are.
    fn in_place_of(&mut self, grants: &Grants, delta: &Delta) -> Result<String, Failure> {
        let evicted = evictions::evicted(delta);
        let victims = grants.extras.iter().flat_map(|extra| &extra.takes_over).map(|entry| entry.victim);
        let mut victims: Vec<AllocationId> = victims.filter(|victim| evicted.contains(&victim.slot)).collect();
        let Some(&first) = victims.first() else { return Ok(String::new()) };
        victims.sort_unstable();
        victims.dedup();
        let more = match victims.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let found = self.tenants.find([first].into(), delta.revision.0.saturating_sub(1))?;
        let who = found
            .get(&first)
            .map_or_else(|| first.to_string(), |tenant| self.task_name(delta, tenant.job, tenant.group, tenant.task));
        Ok(format!(", in place of {who}{more}"))
    }

    fn job_change(&mut self, job: &Job, logged: &Logged, delta: &Delta, change: &JobChange) -> Result<(), Failure> {
        match change {
            JobChange::Put { job: put, .. } if put.id == job.id => {
                let first = put.version <= 1;
                let parent = put.shape.parent.map(|parent| self.job_name(parent));
                let from = parent.map_or_else(String::new, |parent| format!(", launched from {parent}"));
                self.push(
                    logged,
                    if first { "submitted" } else { "replaced" },
                    format!("version {}{from}", put.version),
                )?;
                self.submitted_version = Some(put.version);
                // Nothing is older than the first version of an id.
                self.over = first;
                self.submitted_after = (!first).then(|| logged.entry.revision.saturating_sub(1));
            }
            JobChange::State { id, state, reason } if *id == job.id => {
                self.push(logged, state.word(), reason.to_string())?;
            }
            JobChange::Group { row, count, .. } => {
                let position = row.checked_sub(job.group_base).and_then(|at| usize::try_from(at).ok());
                if let Some(group) = position.and_then(|position| job.shape.groups.get(position)) {
                    self.push(logged, "group", format!("{}: {} wanted", group.name, counted((*count).into(), "task")))?;
                }
            }
            JobChange::Home { id, machine } if *id == job.id => {
                let then = |slot| self.machine_then(slot, Revision(logged.entry.revision), logged.time_micros);
                let detail = machine.map_or_else(|| "none".to_owned(), then);
                self.push(logged, "home", detail)?;
            }
            JobChange::Launched { id, .. } if *id == job.id => {
                let child = delta.jobs.iter().find_map(|change| match change {
                    JobChange::Put { job, .. } if job.shape.parent == Some(*id) => Some(job.shape.name.to_string()),
                    _ => None,
                });
                self.push(logged, "launched", child.unwrap_or_default())?;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plenum_model::{LogTime, TaskChange};
    use plenum_proto::v1;

    use super::super::gone::tests::{append, at, history_of};
    use super::super::tests::course_of_a_job;
    use super::super::{Hero, tell};
    use super::*;

    // It told what became of the tasks of another job, whose rows it had been given by a submission that the history had not got yet.
    #[test]
    fn a_history_that_lacks_the_newest_submission_of_a_job_does_not_tell_of_it_what_its_rows_had_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut cell, mut deltas) = course_of_a_job();
        let first = cell.jobs().next().unwrap().clone();
        let again = Job { version: 2, group_base: first.group_base + 1, ..Job::clone(&first) };
        // What became of another job's.
        let done = TaskChange { group_row: again.group_base, task: 0, state: TaskState::Done, failures: 0 };
        deltas.extend([3, 4].map(|revision| Delta { tasks: vec![done], ..at(revision) }));
        let history = history_of(dir.path(), &deltas);
        (3..=6).for_each(|revision| cell.apply(&at(revision)).unwrap());
        let told = |job: &Job, limit| {
            let words = |story: v1::HistoryResponse| story.events.into_iter().map(|event| event.event).collect();
            let told: Result<Vec<String>, Failure> = tell(&history, &cell, &Hero::Job(job), limit).map(words);
            told.map_err(|failure| failure.code)
        };
        assert_eq!(told(&again, 10), Err("HISTORY_BEHIND"), "it is behind an earlier submission");
        assert_eq!(told(&again, 1), Err("HISTORY_BEHIND"), "that was not come to");
        assert_eq!(told(&first, 10), Ok(vec!["submitted".to_owned()]), "the history has that of this one");
        let older = Job { submitted: LogTime::default(), ..again.clone() };
        assert_eq!(told(&older, 1), Ok(vec!["done".to_owned()]), "it was submitted before what the history has");

        let put = JobChange::Put { job: Arc::new(again.clone()), task_bases: vec![1] };
        append(&history, &[Delta { jobs: vec![put], ..at(5) }]);
        assert_eq!(told(&again, 10), Ok(vec!["replaced".to_owned()]));
    }
}
