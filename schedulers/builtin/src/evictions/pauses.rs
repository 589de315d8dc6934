//! How often a group evicts for tasks that fail. What fails at once would evict the same one again and again, who came back each time and got nothing done.

use std::collections::BTreeMap;

use plenum_model::{JobId, LogTime};
use plenum_sdk::{View, Work};

/// After an eviction the group's next one for tasks that failed waits for so long: as long as a crash loop of a second needs for five rounds.
const FIRST_MICROS: i64 = 10_000_000;

/// Each further one waits twice as long, up to this. It is what Kubernetes lets a container wait at most that ends again and again.
const MAX_MICROS: i64 = 300_000_000;

/// Groups that are remembered.
const GROUPS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Pause {
    /// When the group evicted last.
    began: LogTime,
    micros: i64,
}

impl Pause {
    /// Until then it evicts nobody for what failed.
    fn end(self) -> LogTime {
        self.began.plus_micros(self.micros)
    }

    /// Who asked for nobody for as long again begins anew. Of another cell it may have begun later than now.
    fn is_past(self, now: LogTime) -> bool {
        now < self.began || self.end().plus_micros(self.micros) <= now
    }
}

/// The groups that evicted not long ago, over all decisions.
#[derive(Debug, Default)]
pub(super) struct Pauses(BTreeMap<(JobId, u16), Pause>);

impl Pauses {
    /// Until when the group evicts nobody, as one of these tasks failed. A group none of whose tasks that wait failed does not wait: what was lost, stopped or evicted is placed again at once.
    pub(super) fn until(&self, view: &View<'_>, work: &Work) -> Option<LogTime> {
        let pause = self.0.get(&(work.job.id, work.group)).filter(|pause| !pause.is_past(view.now()))?;
        let group = view.cell().group(&work.job, work.group)?;
        let has_failed = |&task: &u32| view.cell().task(group, task).is_some_and(|row| row.failures > 0);
        (view.now() < pause.end() && work.tasks.iter().any(has_failed)).then(|| pause.end())
    }

    /// The group evicts somebody now.
    pub(super) fn begin(&mut self, view: &View<'_>, work: &Work) {
        let (now, key) = (view.now(), (work.job.id, work.group));
        let known = self.0.get(&key).filter(|pause| !pause.is_past(now));
        // One that is not over yet is that of tasks that did not fail.
        let micros = match known {
            Some(pause) if pause.end() <= now => pause.micros.saturating_mul(2).min(MAX_MICROS),
            Some(pause) => pause.micros,
            None => FIRST_MICROS,
        };
        if self.0.len() >= GROUPS_MAX {
            self.0.retain(|_, pause| !pause.is_past(now));
        }
        if self.0.len() >= GROUPS_MAX {
            self.0.clear();
        }
        self.0.insert(key, Pause { began: now, micros });
    }
}
