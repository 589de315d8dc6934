//! What people are told of running jobs: pure comparison of what is with what was told.

use std::{collections::BTreeMap, time::Duration};

use plenum_proto::v1::{GroupView, JobKind, JobShape, JobState, JobView};

use crate::{
    cli::{LongWait, waiting_line},
    output::{Row, how_often, job_state},
};

/// What was told of each job, by its name.
#[derive(Debug, Default)]
pub(super) struct Board {
    told: BTreeMap<String, Told>,
}

#[derive(Debug, Default)]
struct Told {
    job: JobView,
    /// How many of each group were last told to run.
    running: Vec<u32>,
    waiting: LongWait,
}

/// True when the job has ended, one way or the other.
pub(super) fn has_ended(job: &JobView) -> bool {
    matches!(job.state(), JobState::JobComplete | JobState::JobFailed | JobState::JobStopped)
}

/// True when a task of the job was started at some time.
pub(super) fn has_started(job: &JobView) -> bool {
    job.groups.iter().any(|group| group.running + group.done + group.failed + group.stopping > 0)
}

/// Tasks that are done, and all tasks.
pub(super) fn done_of(job: &JobView) -> (u64, u64) {
    let sum = |count: fn(&GroupView) -> u32| job.groups.iter().map(|group| u64::from(count(group))).sum();
    (sum(|group| group.done), sum(|group| group.count))
}

/// How far the job has come, of how far: what is done, and of what runs for ever, which never is, what runs.
pub(super) fn progress_of(job: &JobView) -> (u64, u64) {
    let (done, all) = done_of(job);
    match job.shape.as_ref().map(JobShape::kind) {
        Some(JobKind::Forever) => (job.groups.iter().map(|group| u64::from(group.running)).sum(), all),
        _ => (done, all),
    }
}

/// What the job is doing, in a few words: the groups that are under way.
pub(super) fn under_way(job: &JobView) -> String {
    if has_ended(job) {
        return job_state(job.state()).to_owned();
    }
    let groups = job.groups.iter().filter(|group| group.done < group.count);
    let is_busy =
        |group: &&GroupView| group.granted + group.starting + group.running > 0 || group.done > 0 || group.failing > 0;
    let kind = job.shape.as_ref().map_or(JobKind::Unspecified, |shape| shape.kind());
    let words: Vec<String> = groups.filter(is_busy).map(|group| group_words(group, kind)).collect();
    // Why is told by `Board::waiting`, where it lasts.
    if words.is_empty() { "waiting".to_owned() } else { words.join("; ") }
}

fn group_words(group: &GroupView, kind: JobKind) -> String {
    let (starting, running) = (group.granted + group.starting, group.running);
    // What runs for ever is never done.
    let (first, running) = match kind {
        JobKind::Forever => (format!("{running} of {} running", group.count), 0),
        _ => (format!("{} of {} done", group.done, group.count), running),
    };
    let mut words = vec![first];
    let counts = [(running, "running"), (starting, "starting"), (group.waiting, "waiting"), (group.failed, "failed")];
    for (count, name) in counts {
        if count > 0 {
            words.push(format!("{count} {name}"));
        }
    }
    if group.failing > 0 {
        // The cell says so for ten minutes after a failure: it may be mended by now.
        let verb = match (group.running + group.done >= group.count, group.failing) {
            (false, _) => "",
            (true, 1) => "was ",
            (true, _) => "were ",
        };
        words.push(format!("{} {verb}failing ({})", group.failing, how_often(group)));
    }
    format!("{} {}", group.name, words.join(", "))
}

/// How a group goes of which tasks fail again and again.
pub(super) fn failing_words(group: &GroupView) -> String {
    let GroupView { name, count, failing, .. } = group;
    format!("{name} {} of {count} running, {failing} failing ({})", sound(group), how_often(group))
}

/// Tasks that run, without those that fail again and again: one of these may run at the moment, which is not told apart.
fn sound(group: &GroupView) -> u32 {
    group.running.min(group.count.saturating_sub(group.failing))
}

impl Board {
    /// Lines about what has changed: groups that are done, tasks that failed, how many run, the job's end. Not each task,
    /// of which there may be thousands, nor each start of those that fail again and again. `now` is counted from any fixed moment.
    pub(super) fn lines(&mut self, job: &JobView, now: Duration) -> Vec<String> {
        let name = job.name();
        let told = self.told(job);
        let before = std::mem::replace(&mut told.job, job.clone());
        told.running.resize(job.groups.len(), 0);
        let mut lines = Vec::new();
        for (position, group) in job.groups.iter().enumerate() {
            let was = before.groups.get(position).cloned().unwrap_or_default();
            let task = |count: u32| if count == 1 { "task" } else { "tasks" };
            if group.failed > was.failed {
                lines.push(format!("{name}: {} {} of {} failed", group.failed, task(group.failed), group.name));
            } else if group.failures > 0 && was.failures == 0 && !has_ended(job) {
                lines.push(format!("{name}: a task of {} failed, and is tried again", group.name));
            }
            if group.count > 0 && group.done == group.count && was.done < group.count {
                lines.push(format!("{name}: {} done ({} {})", group.name, group.count, task(group.count)));
            } else if told.runs(position, group, &was) {
                lines.push(format!("{name}: {} running ({} of {})", group.name, sound(group), group.count));
            }
        }
        lines.extend(self.waiting(job, now));
        if has_ended(job) && before.state() != job.state() {
            let why = if job.reason.is_empty() { String::new() } else { format!(": {}", job.reason) };
            lines.push(format!("{name}: {}{why}", job_state(job.state())));
        }
        lines
    }

    /// The one of these lines that bars have no room for: why the job waits, once it has waited for that for a while.
    pub(super) fn waiting(&mut self, job: &JobView, now: Duration) -> Option<String> {
        let reason = self.told(job).waiting.news(&job.waiting_reason, now)?;
        Some(waiting_line(&job.name(), job, &reason))
    }

    /// What was told of this version of the job: nothing yet, where another one was told of.
    fn told(&mut self, job: &JobView) -> &mut Told {
        let told = self.told.entry(job.name()).or_default();
        if (told.job.id, told.job.version) != (job.id, job.version) {
            let unseen = JobView { id: job.id, version: job.version, ..JobView::default() };
            *told = Told { job: unseen, ..Told::default() };
        }
        told
    }
}

impl Told {
    /// Whether how many of a group run is worth a line, which is told then. Beside tasks that fail again and again it is as soon as all others run, and
    /// not each time that one of them is back.
    fn runs(&mut self, position: usize, group: &GroupView, was: &GroupView) -> bool {
        let (running, told) = (sound(group), self.running.get(position).copied().unwrap_or_default());
        let is_news = if group.failing > 0 {
            running > told && running + group.failing == group.count
        } else {
            running > 0 && running != was.running && (was.running == 0 || running == group.count)
        };
        if is_news && let Some(told) = self.running.get_mut(position) {
            *told = running;
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: JobState, groups: &[(u32, u32, u32, u32)]) -> JobView {
        let group = |(position, counts): (usize, &(u32, u32, u32, u32))| GroupView {
            name: ["split", "map"][position].to_owned(),
            count: counts.0,
            running: counts.1,
            done: counts.2,
            failed: counts.3,
            ..GroupView::default()
        };
        JobView {
            shape: Some(JobShape { name: "words".to_owned(), ..JobShape::default() }),
            state: state.into(),
            groups: groups.iter().enumerate().map(group).collect(),
            ..JobView::default()
        }
    }

    #[test]
    fn a_job_is_told_from_its_start_to_its_end() {
        let mut board = Board::default();
        let mut told = Vec::new();
        for (state, groups) in [
            (JobState::JobWaiting, [(1, 0, 0, 0), (8, 0, 0, 0)]),
            (JobState::JobRunning, [(1, 1, 0, 0), (8, 0, 0, 0)]),
            (JobState::JobRunning, [(1, 0, 1, 0), (8, 3, 0, 0)]),
            (JobState::JobRunning, [(1, 0, 1, 0), (8, 5, 2, 1)]),
            (JobState::JobRunning, [(1, 0, 1, 0), (8, 5, 2, 1)]),
            (JobState::JobComplete, [(1, 0, 1, 0), (8, 0, 8, 1)]),
        ] {
            told.extend(board.lines(&job(state, &groups), Duration::ZERO));
        }
        assert_eq!(
            told,
            [
                "words: split running (1 of 1)",
                "words: split done (1 task)",
                "words: map running (3 of 8)",
                "words: 1 task of map failed",
                "words: map done (8 tasks)",
                "words: complete",
            ]
        );
    }

    // A job in a loop of crashes was running, and running, and running.
    #[test]
    fn tasks_that_fail_again_and_again_are_not_told_to_run_each_time() {
        let mut board = Board::default();
        let mut told = Vec::new();
        let tried = |running, failures: u32, failing| {
            let mut view = job(JobState::JobRunning, &[(1, running, 0, 0)]);
            view.groups[0] = GroupView { failures, failing, ..view.groups[0].clone() };
            view
        };
        for failures in 0..4 {
            let failing = u32::from(failures >= 2);
            told.extend(board.lines(&tried(1, failures, failing), Duration::ZERO));
            told.extend(board.lines(&tried(0, failures + 1, u32::from(failures >= 1)), Duration::ZERO));
        }
        let again = "words: split running (1 of 1)";
        assert_eq!(told, [again, "words: a task of split failed, and is tried again", again]);
        assert_eq!(under_way(&tried(1, 3, 1)), "split 0 of 1 done, 1 running, 1 was failing (up to 3 times)");
        assert_eq!(under_way(&tried(0, 3, 1)), "split 0 of 1 done, 1 failing (up to 3 times)");
    }

    // Where one of its tasks failed again and again a service was never told to run, however many of the others did.
    #[test]
    fn that_the_others_run_is_told_beside_tasks_that_fail_again_and_again() {
        let service = |running, failures, failing| {
            let mut view = job(JobState::JobRunning, &[(3, running, 0, 0)]);
            view.groups[0] = GroupView { failures, failing, ..view.groups[0].clone() };
            view.shape.get_or_insert_default().kind = JobKind::Forever.into();
            view
        };
        let mut board = Board::default();
        let mut told = Vec::new();
        let mut sees = |view: &JobView| told.extend(board.lines(view, Duration::ZERO));
        sees(&service(1, 0, 0));
        sees(&service(1, 2, 1));
        for failures in 2..5 {
            sees(&service(3, failures, 1));
            sees(&service(2, failures + 1, 1));
        }
        sees(&service(3, 5, 0));
        assert_eq!(
            told,
            [
                "words: split running (1 of 3)",
                "words: a task of split failed, and is tried again",
                "words: split running (2 of 3)",
                "words: split running (3 of 3)",
            ]
        );
        assert_eq!(under_way(&service(2, 4, 1)), "split 2 of 3 running, 1 failing (up to 4 times)");
        assert_eq!(under_way(&service(3, 4, 2)), "split 3 of 3 running, 2 were failing (up to 4 times)");
        assert_eq!(under_way(&service(2, 0, 1)), "split 2 of 3 running, 1 failing (restarted again and again)");
        assert_eq!(failing_words(&service(3, 4, 1).groups[0]), "split 2 of 3 running, 1 failing (up to 4 times)");
    }

    // What was submitted under the name of a job that had failed and ended was compared with that one.
    #[test]
    fn another_version_of_a_job_is_told_from_its_start() {
        let mut board = Board::default();
        let mut failed = job(JobState::JobRunning, &[(1, 1, 0, 0)]);
        failed.groups[0].failures = 1;
        assert_eq!(board.lines(&failed, Duration::ZERO).len(), 2);
        let next = JobView { version: 2, ..failed };
        let again = ["words: a task of split failed, and is tried again", "words: split running (1 of 1)"];
        assert_eq!(board.lines(&next, Duration::ZERO), again);
    }

    #[test]
    fn only_a_wait_that_lasts_is_told_and_only_once() {
        let mut board = Board::default();
        let waiting = JobView { waiting_reason: "no room".to_owned(), ..job(JobState::JobWaiting, &[]) };
        let mut told = |seconds| board.lines(&waiting, Duration::from_secs(seconds)).len();
        assert_eq!([told(0), told(1), told(2), told(9)], [0, 0, 1, 0]);
    }

    // Bars told at once what passes in milliseconds, and nothing of what lasts where one task of the job ran.
    #[test]
    fn what_a_wait_that_lasts_is_for_is_told_beside_bars_and_not_in_them() {
        let mut board = Board::default();
        let mut view = job(JobState::JobWaiting, &[(5, 0, 0, 0), (1, 0, 0, 0)]);
        view.waiting_reason = "split: 5 waiting: no room".to_owned();
        assert_eq!(under_way(&view), "waiting");
        assert_eq!(board.waiting(&view, Duration::ZERO), None);
        view.groups[0] = GroupView { running: 1, waiting: 4, ..view.groups[0].clone() };
        view.waiting_reason = "split: 4 waiting: no room".to_owned();
        assert_eq!(under_way(&view), "split 0 of 5 done, 1 running, 4 waiting");
        let told = [1, 2, 3, 9].map(|seconds| board.waiting(&view, Duration::from_secs(seconds)));
        assert_eq!(told, [None, Some("words waits: split: 4 waiting: no room".to_owned()), None, None]);
        // Another version of it waits anew.
        let next = JobView { version: 2, ..view };
        let told = [9, 10, 11].map(|seconds| board.waiting(&next, Duration::from_secs(seconds)).is_some());
        assert_eq!(told, [false, false, true]);
    }

    #[test]
    fn only_groups_under_way_are_shown() {
        let running = job(JobState::JobRunning, &[(1, 0, 1, 0), (8, 3, 2, 0)]);
        assert_eq!(under_way(&running), "map 2 of 8 done, 3 running");
        assert_eq!(done_of(&running), (3, 9));
        // The bar of a service stayed empty, however many of its tasks ran.
        let shape = Some(JobShape { kind: JobKind::Forever.into(), ..JobShape::default() });
        let service = JobView { shape, ..job(JobState::JobRunning, &[(3, 2, 0, 0)]) };
        assert_eq!((progress_of(&running), progress_of(&service)), ((3, 9), (2, 3)));
        assert_eq!(under_way(&job(JobState::JobWaiting, &[(1, 0, 0, 0)])), "waiting");
    }
}
