//! How many of a job's tasks run, and why the others don't: judged by what was answered of them, without asking a cell.

use plenum_model::counted;
use plenum_proto::v1::{AllocationView, GroupView, JobView};

use super::ended::is_of;
use crate::output;

/// A job all of whose tasks are to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running<'a> {
    pub(super) job: &'a JobView,
    /// Allocations that count as running though they are not *ready*: between an exit and the next start by their agent.
    pub(super) down: &'a [AllocationView],
}

impl Running<'_> {
    /// Whether each task runs or is complete. That of a group that waits for others to be done does neither.
    pub(super) fn are_all_there(&self) -> bool {
        self.job.groups.iter().all(|group| self.there_of(group) == group.count)
    }

    /// How many do, of how many.
    pub(super) fn words(&self) -> String {
        let there: u64 = self.job.groups.iter().map(|group| u64::from(self.there_of(group))).sum();
        let wanted: u64 = self.job.groups.iter().map(|group| u64::from(group.count)).sum();
        let or_complete = if self.job.groups.iter().any(|group| group.done > 0) { " or complete" } else { "" };
        format!("{there} of {} running{or_complete}", counted(wanted, "task"))
    }

    /// Why the others don't: what the cell says of those that wait, what is under way, and, where it is of a group that is short or fails again and
    /// again, how a task `failed` last. Empty where nobody says it.
    pub(super) fn why_not(&self, failed: Option<&AllocationView>) -> String {
        let mut why = Vec::new();
        if self.job.groups.iter().any(|group| group.waiting > 0) && !self.job.waiting_reason.is_empty() {
            why.push(self.job.waiting_reason.clone());
        }
        let is_short = |group: &&GroupView| self.there_of(group) < group.count;
        for group in self.job.groups.iter().filter(is_short) {
            let counts = [
                (group.granted.saturating_add(group.starting), "starting"),
                (self.down_of(group), "down until started again"),
                (group.failed, "failed"),
            ];
            let words = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
            let words: Vec<String> = words.collect();
            if !words.is_empty() {
                why.push(format!("{}: {}", group.name, words.join(", ")));
            }
        }
        // One that fails again and again runs in between, too.
        let is_in_want = |group: &GroupView| is_short(&group) || group.failing > 0;
        let is_told = |name: &str| self.job.groups.iter().any(|group| group.name == name && is_in_want(group));
        why.extend(failed.filter(|failed| is_told(&failed.group)).map(failed_words));
        why.join("; ")
    }

    fn there_of(&self, group: &GroupView) -> u32 {
        let ready = group.running.saturating_sub(self.down_of(group));
        ready.saturating_add(group.done).min(group.count)
    }

    fn down_of(&self, group: &GroupView) -> u32 {
        // What had the name before is listed, too.
        let is_of_it = |one: &&AllocationView| is_of(self.job, one) && one.group == group.name;
        u32::try_from(self.down.iter().filter(is_of_it).count()).unwrap_or(u32::MAX)
    }
}

/// How a task failed.
pub(super) fn failed_words(failed: &AllocationView) -> String {
    format!("task {}[{}] failed: {}", failed.group, failed.task, output::failure_words(failed))
}

/// Whether all tasks of which both answers say that they are there were so at every revision between the two: one in the place of another would be
/// a further attempt.
pub(super) fn stood_still(before: &JobView, after: &JobView) -> bool {
    let of_groups = |job: &JobView| job.groups.iter().map(|group| (group.count, group.attempts)).collect::<Vec<_>>();
    (before.id, before.version, of_groups(before)) == (after.id, after.version, of_groups(after))
        && Running { job: before, down: &[] }.are_all_there()
        && Running { job: after, down: &[] }.are_all_there()
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::AllocationState;

    use super::*;

    fn group(name: &str, count: u32, running: u32) -> GroupView {
        GroupView { name: name.to_owned(), count, running, attempts: count, ..GroupView::default() }
    }

    fn job(groups: &[GroupView]) -> JobView {
        JobView { id: 7, version: 2, groups: groups.to_vec(), ..JobView::default() }
    }

    fn down(group: &str, job_version: u32) -> AllocationView {
        let (job_id, group, state) = (7, group.to_owned(), AllocationState::Running.into());
        AllocationView { job_id, job_version, group, state, ..AllocationView::default() }
    }

    #[test]
    fn a_job_runs_once_each_group_has_as_many_running_or_complete_tasks_as_it_wants() {
        let judged = |groups: &[GroupView]| {
            let job = job(groups);
            let running = Running { job: &job, down: &[] };
            (running.are_all_there(), running.words())
        };
        let told = |all, words: &str| (all, words.to_owned());
        assert_eq!(judged(&[group("web", 3, 3), group("side", 1, 1)]), told(true, "4 of 4 tasks running"));
        assert_eq!(judged(&[group("web", 3, 2), group("side", 1, 1)]), told(false, "3 of 4 tasks running"));
        let done = GroupView { done: 2, ..group("split", 3, 1) };
        assert_eq!(judged(&[done.clone(), group("map", 2, 2)]), told(true, "5 of 5 tasks running or complete"));
        let after = GroupView { waiting: 2, ..group("map", 2, 0) };
        assert_eq!(judged(&[done, after]), told(false, "3 of 5 tasks running or complete"));
        let more = GroupView { running: 5, ..group("web", 2, 0) };
        assert_eq!(judged(&[more, group("side", 1, 0)]), told(false, "2 of 3 tasks running"), "one can't stand in");
        let starting = GroupView { starting: 1, granted: 1, stopping: 2, lost: 1, failed: 1, ..group("web", 1, 0) };
        assert_eq!(judged(&[starting]), told(false, "0 of 1 task running"));
        assert_eq!(judged(&[group("web", 0, 0)]), told(true, "0 of 0 tasks running"), "it wants none");
    }

    #[test]
    fn a_task_that_its_agent_is_to_start_again_does_not_run() {
        let job = job(&[group("web", 2, 2), group("side", 1, 1)]);
        let is_there = |down: &[AllocationView]| Running { job: &job, down }.are_all_there();
        assert!(is_there(&[]));
        assert!(!is_there(&[down("side", 2)]));
        assert!(is_there(&[down("side", 1), down("other", 2)]), "neither is the job's");
        let down = [down("web", 2)];
        let running = Running { job: &job, down: &down };
        assert_eq!(running.words(), "2 of 3 tasks running");
        assert_eq!(running.why_not(None), "web: 1 down until started again");
    }

    #[test]
    fn why_tasks_do_not_run_is_told_of_those_that_wait_start_or_failed() {
        let waiting = GroupView { waiting: 2, starting: 1, ..group("web", 4, 1) };
        let mut job = job(&[waiting, group("side", 1, 1)]);
        job.waiting_reason = "web: 2 waiting: no room".to_owned();
        let failed = |group: &str| AllocationView {
            group: group.to_owned(),
            task: 3,
            state: AllocationState::Failed.into(),
            exit_code: 9,
            ..AllocationView::default()
        };
        let why = |job: &JobView, failed: &AllocationView| Running { job, down: &[] }.why_not(Some(failed));
        let waits = "web: 2 waiting: no room; web: 1 starting";
        assert_eq!(why(&job, &failed("web")), format!("{waits}; task web[3] failed: exit code 9"));
        assert_eq!(why(&job, &failed("side")), waits, "that one runs again");
        job.groups[1].failing = 1;
        assert_eq!(why(&job, &failed("side")), format!("{waits}; task side[3] failed: exit code 9"), "for a moment");
        job.groups = vec![group("web", 4, 4)];
        job.waiting_reason = "web: 1 is on a machine that is drained".to_owned();
        assert_eq!(why(&job, &failed("web")), "", "what only stays waits for nothing");
    }

    // Two answers that both say that all run may have a crash and another attempt between them.
    #[test]
    fn a_job_stood_still_only_if_none_of_its_tasks_is_another_attempt() {
        let before = job(&[group("web", 2, 2), GroupView { done: 1, ..group("split", 2, 1) }]);
        assert!(stood_still(&before, &before));
        let ended = job(&[group("web", 2, 2), GroupView { done: 2, ..group("split", 2, 0) }]);
        assert!(stood_still(&before, &ended), "it was running or complete all the time");
        let mut again = before.clone();
        again.groups[0].attempts += 1;
        assert!(!stood_still(&before, &again));
        let fewer = job(&[group("web", 2, 1), group("split", 2, 2)]);
        assert!(!stood_still(&before, &fewer));
        let other = JobView { version: 3, ..before.clone() };
        assert!(!stood_still(&before, &other));
    }
}
