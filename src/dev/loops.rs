//! When a job whose tasks fail again and again is told of: as soon as they do, and then ever more seldom.

use std::{collections::BTreeMap, time::Duration};

use plenum_proto::v1::JobView;

use super::board::{failing_words, has_ended, under_way};
use crate::output::Row;

/// From the first time that a job is told of to the next one; each time after that it is twice as long.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Until this.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(600);

/// After so long without a failure in between, it is told that there was none. Not forgotten yet: it may fail again all the same.
const SOUND_AFTER: Duration = Duration::from_secs(60);

/// What was told of jobs, by their names.
#[derive(Debug, Default)]
pub(super) struct Loops {
    told: BTreeMap<String, Told>,
}

/// What there is to tell of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Tasks fail again and again.
    Fails(String),
    /// They did, and have not for a while.
    IsSound(String),
}

#[derive(Debug)]
struct Told {
    /// Of which job of that name, and which version.
    of: (u64, u32),
    /// When tasks of each group had failed last by then, with the rest that follows it.
    failed: Vec<i64>,
    pause: Duration,
    /// Not again before.
    next: Duration,
    /// Since when none was seen to fail again and again.
    sound: Option<Duration>,
    /// Whether that was told since failures were told last.
    is_sound_told: bool,
}

impl Loops {
    /// What there is to tell of tasks that fail again and again, where it is time to: the first time, and then only when more has failed; and that
    /// they do not any more. `now` is counted from any fixed moment.
    pub(super) fn news(&mut self, job: &JobView, now: Duration) -> Option<News> {
        let (name, of) = (job.name(), (job.id, job.version));
        if self.told.get(&name).is_some_and(|told| told.of != of || has_ended(job)) {
            self.told.remove(&name);
        }
        let failing: Vec<String> = job.groups.iter().filter(|group| group.failing > 0).map(failing_words).collect();
        if failing.is_empty() {
            return self.sound(job, &name, now);
        }
        // More has failed, wherever else tasks were placed anew. What its agent restarts stays the same allocation, and counts as failing only while
        // it is down.
        let failed: Vec<i64> = job.groups.iter().map(|group| group.not_before_micros).collect();
        let is_down = job.groups.iter().any(|group| group.failing > 0 && group.failures <= 1);
        let told = self.told.get_mut(&name);
        let pause = match told {
            None => AGAIN_AFTER,
            Some(told) => {
                told.sound = None;
                if now < told.next || (failed == told.failed && !is_down) {
                    return None;
                }
                told.pause.saturating_mul(2).min(AGAIN_AFTER_MAX)
            }
        };
        let line = format!("{name}: {}", failing.join("; "));
        let told = Told { of, failed, pause, next: now.saturating_add(pause), sound: None, is_sound_told: false };
        self.told.insert(name, told);
        Some(News::Fails(line))
    }

    /// Nothing of a job fails again and again.
    fn sound(&mut self, job: &JobView, name: &str, now: Duration) -> Option<News> {
        let told = self.told.get_mut(name)?;
        let sound = now.saturating_sub(*told.sound.get_or_insert(now));
        if sound >= AGAIN_AFTER_MAX {
            // Should it fail again, that is told at once.
            self.told.remove(name);
        } else if sound >= SOUND_AFTER && !std::mem::replace(&mut told.is_sound_told, true) {
            return Some(News::IsSound(format!("{name}: no task failed lately; {}", under_way(job))));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{GroupView, JobKind, JobShape, JobState};

    use super::*;

    /// `failed`: when a task failed last.
    fn job(failing: u32, failures: u32, failed: u32) -> JobView {
        let (name, not_before_micros) = ("main".to_owned(), failed.into());
        let group = GroupView { name, count: 1, failing, failures, not_before_micros, ..GroupView::default() };
        JobView {
            shape: Some(JobShape { name: "web".to_owned(), kind: JobKind::Forever.into(), ..JobShape::default() }),
            groups: vec![group],
            ..JobView::default()
        }
    }

    /// At which seconds it was told, asked each second of a minute and a half.
    fn told_at(job_at: impl Fn(u32) -> JobView) -> Vec<u32> {
        let mut loops = Loops::default();
        let is_told = |second: &u32| loops.news(&job_at(*second), Duration::from_secs((*second).into())).is_some();
        (0..90).filter(is_told).collect()
    }

    #[test]
    fn a_loop_of_crashes_is_told_at_once_and_then_ever_more_seldom() {
        let news = Loops::default().news(&job(1, 3, 4), Duration::ZERO);
        assert_eq!(news, Some(News::Fails("web: main 0 of 1 running, 1 failing (up to 3 times)".to_owned())));
        assert_eq!(told_at(|second| job(1, 2 + second, 3 + second)), [0, 10, 30, 70]);
        let while_down = |second: u32| job(u32::from(second.is_multiple_of(7)), 0, 1);
        assert_eq!(told_at(while_down), [0, 14, 35, 77], "its agent restarts it");
    }

    #[test]
    fn nothing_is_told_where_nothing_fails_or_nothing_more_has_failed() {
        assert!(told_at(|second| job(0, 2 + second, 3 + second)).is_empty());
        assert_eq!(told_at(|second| job(1, 2, 3 + second / 40)), [0, 40, 80], "it may have come to run well");
        let placed_anew = |second| {
            let mut view = job(1, 2, 3);
            view.groups[0].attempts = second;
            view
        };
        assert_eq!(told_at(placed_anew), [0], "others of its group were");
    }

    // What was told of one that looped for long kept the next one from being told of for as long.
    #[test]
    fn another_version_and_one_that_ran_well_for_long_begin_anew() {
        let mut loops = Loops::default();
        let mut told = |version, failing, seconds: std::ops::RangeInclusive<u32>| -> Vec<u32> {
            let is_told = |second: &u32| {
                let view = JobView { version, ..job(failing, 3, *second) };
                loops.news(&view, Duration::from_secs((*second).into())).is_some()
            };
            seconds.filter(is_told).collect()
        };
        assert_eq!(told(1, 1, 0..=80), [0, 10, 30, 70]);
        assert_eq!(told(2, 1, 81..=160), [81, 91, 111, 151], "another version");
        assert_eq!(told(2, 0, 161..=800), [221], "it runs well");
        assert_eq!(told(2, 1, 801..=820), [801, 811]);
        assert_eq!(told(2, 0, 821..=900), [881], "and again");
        assert_eq!(told(2, 1, 901..=940), [901], "but not for long");
    }

    // A task that failed about every minute was said to have failed no more between each two of its failures, of which few are told.
    #[test]
    fn that_nothing_failed_lately_is_told_once_for_each_time_that_failures_are() {
        let mut loops = Loops::default();
        let fails_at_times = |second: u32| job(u32::from(second.is_multiple_of(75)), 0, 1);
        let news =
            (0..3600).filter_map(|second| loops.news(&fails_at_times(second), Duration::from_secs(second.into())));
        let are_sound: Vec<bool> = news.map(|news| matches!(news, News::IsSound(_))).collect();
        assert!(are_sound.len() > 8 && are_sound.windows(2).all(|two| two[0] != two[1]), "{are_sound:?}");
    }

    // Whoever had mended what a task failed of heard no more of it.
    #[test]
    fn that_nothing_failed_lately_is_told_once_unless_the_job_has_ended() {
        let mut sound = job(0, 3, 1);
        sound.groups[0].running = 1;
        let ended = JobView { state: JobState::JobStopped.into(), ..job(0, 3, 1) };
        let told = |after: &JobView| {
            let mut loops = Loops::default();
            assert!(matches!(loops.news(&job(1, 3, 1), Duration::ZERO), Some(News::Fails(_))));
            [5, 64, 65, 66].map(|seconds| loops.news(after, Duration::from_secs(seconds)))
        };
        let line = News::IsSound("web: no task failed lately; main 1 of 1 running".to_owned());
        assert_eq!(told(&sound), [None, None, Some(line), None]);
        assert_eq!(told(&ended), [None, None, None, None]);
    }
}
