//! When a job whose tasks fail again and again is told of: as soon as they do, and then ever more seldom.

use std::{collections::BTreeMap, time::Duration};

use plenum_proto::v1::JobView;

use crate::output::{Row, failing_groups};

/// From the first time that a job is told of to the next one; each time after that it is twice as long.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Until this.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(600);

/// What was told of jobs, by their names.
#[derive(Debug, Default)]
pub(super) struct Loops {
    told: BTreeMap<String, Told>,
}

#[derive(Debug)]
struct Told {
    /// Of which job of that name, and which version.
    of: (u64, u32),
    /// The job's allocations by then.
    attempts: u64,
    pause: Duration,
    /// Not again before.
    next: Duration,
}

impl Loops {
    /// A line about tasks that fail again and again, where there are some and it is time to tell: the first time, and then only when more has
    /// failed. `now` is counted from any fixed moment.
    pub(super) fn line(&mut self, job: &JobView, now: Duration) -> Option<String> {
        let name = job.name();
        let of = (job.id, job.version);
        let failing = failing_groups(job);
        // Another one of that name, or one that runs well and has for as long as was waited, is told of at once.
        let is_over = |told: &Told| failing.is_none() && now >= told.next.saturating_add(told.pause);
        if self.told.get(&name).is_some_and(|told| told.of != of || is_over(told)) {
            self.told.remove(&name);
        }
        let failing = failing?;
        let attempts: u64 = job.groups.iter().map(|group| u64::from(group.attempts)).sum();
        // What its agent restarts stays the same allocation, and counts as failing only while it is down.
        let is_down = job.groups.iter().any(|group| group.failing > 0 && group.failures <= 1);
        let pause = match self.told.get(&name) {
            None => AGAIN_AFTER,
            Some(told) if now < told.next || (attempts == told.attempts && !is_down) => return None,
            Some(told) => told.pause.saturating_mul(2).min(AGAIN_AFTER_MAX),
        };
        let line = format!("{name}: tasks fail again and again ({failing})");
        self.told.insert(name, Told { of, attempts, pause, next: now.saturating_add(pause) });
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{GroupView, JobShape};

    use super::*;

    fn job(failing: u32, failures: u32, attempts: u32) -> JobView {
        let name = "main".to_owned();
        let group = GroupView { name, count: 1, failing, failures, attempts, ..GroupView::default() };
        JobView {
            shape: Some(JobShape { name: "web".to_owned(), ..JobShape::default() }),
            groups: vec![group],
            ..JobView::default()
        }
    }

    /// At which seconds it was told, asked each second of a minute and a half.
    fn told_at(job_at: impl Fn(u32) -> JobView) -> Vec<u32> {
        let mut loops = Loops::default();
        let is_told = |second: &u32| loops.line(&job_at(*second), Duration::from_secs((*second).into())).is_some();
        (0..90).filter(is_told).collect()
    }

    #[test]
    fn a_loop_of_crashes_is_told_at_once_and_then_ever_more_seldom() {
        let line = Loops::default().line(&job(1, 3, 4), Duration::ZERO);
        assert_eq!(line.as_deref(), Some("web: tasks fail again and again (main: 1 of 1, up to 3 times)"));
        assert_eq!(told_at(|second| job(1, 2 + second, 3 + second)), [0, 10, 30, 70]);
        let while_down = |second: u32| job(u32::from(second.is_multiple_of(7)), 0, 1);
        assert_eq!(told_at(while_down), [0, 14, 35, 77], "its agent restarts it");
    }

    #[test]
    fn nothing_is_told_where_nothing_fails_or_nothing_more_has_failed() {
        assert!(told_at(|second| job(0, 2 + second, 3 + second)).is_empty());
        assert_eq!(told_at(|second| job(1, 2, 3 + second / 40)), [0, 40, 80], "it may have come to run well");
    }

    // What was told of one that looped for long kept the next one from being told of for as long.
    #[test]
    fn another_version_and_one_that_had_run_well_are_told_of_at_once() {
        let mut loops = Loops::default();
        let mut is_told = |job: &JobView, seconds| loops.line(job, Duration::from_secs(seconds)).is_some();
        assert_eq!(
            [0, 10, 11].map(|now| is_told(&job(1, 3, 4 + u32::try_from(now).unwrap()), now)),
            [true, true, false]
        );
        let next = JobView { version: 2, ..job(1, 2, 2) };
        assert!(is_told(&next, 12), "another version");
        assert!(!is_told(&JobView { version: 2, ..job(1, 3, 3) }, 21));
        assert!(!is_told(&JobView { version: 2, ..job(0, 0, 3) }, 60), "it runs well");
        assert!(is_told(&JobView { version: 2, ..job(1, 2, 5) }, 61));
    }
}
