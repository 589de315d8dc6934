//! How often a group evicts for tasks that fail. What fails at once would evict the same one again and again, who came back each time and got nothing done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use plenum_model::{JobId, LogTime, Outcome};
use plenum_sdk::{View, Work};

/// After an eviction the group's next one for tasks that failed waits for so long: as long as a crash loop of a second needs for five rounds.
const FIRST_MICROS: i64 = 10_000_000;

/// Each further one waits twice as long, up to this. It is what Kubernetes lets a container wait at most that ends again and again.
const MAX_MICROS: i64 = 300_000_000;

/// After so many times twice as long it is the longest.
const DOUBLINGS_MAX: usize = 5;

const _: () = assert!(FIRST_MICROS << DOUBLINGS_MAX >= MAX_MICROS);

/// Who waited for its pause has evicted by so long after it, if it is there.
const OVERDUE_MICROS: i64 = 5_000_000;

/// Groups that are remembered. Of more of them those are forgotten first whose pauses are past first.
const GROUPS_MAX: usize = 4096;

/// Groups that are remembered to have asked for somebody in transactions that are not answered. Of some there is never an answer.
const ASKING_MAX: usize = 65_536;

/// A group and its job.
type Group = (JobId, u16);

#[derive(Clone, Copy, Debug)]
struct Pause {
    /// Until then the group evicts nobody for what failed.
    end: LogTime,
    /// For how long it did not when it had evicted for what failed last.
    micros: i64,
}

impl Pause {
    /// Who asked for nobody for as long again begins anew.
    fn is_past(self, now: LogTime) -> bool {
        self.past() <= now
    }

    /// When it counts no more.
    fn past(self) -> LogTime {
        self.end.plus_micros(self.micros)
    }
}

/// A group whose claims in a transaction name somebody.
#[derive(Clone, Debug)]
struct Asking {
    /// What the plan was tagged with.
    tag: u64,
    group: Group,
    /// Which of the transaction's claims, all placements counted on.
    claims: Range<usize>,
    /// Some of these tasks had failed.
    has_failed: bool,
}

/// The groups that evicted not long ago, over all decisions.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    all: BTreeMap<Group, Pause>,
    /// The same groups, by when their pauses are past.
    by_past: BTreeSet<(LogTime, Group)>,
    /// What is not answered yet, in the order of the tags.
    asking: VecDeque<Asking>,
}

impl Pauses {
    /// Until when the group evicts nobody, as one of these tasks failed. A group none of whose tasks that wait ever failed does not wait: what was lost, stopped or evicted is placed again at once.
    pub(super) fn until(&self, view: &View<'_>, work: &Work) -> Option<LogTime> {
        let pause = self.all.get(&(work.job.id, work.group)).filter(|pause| !pause.is_past(view.now()))?;
        (view.now() < pause.end && have_failed(view, work, &work.tasks)).then_some(pause.end)
    }

    /// These claims of a plan, which are for these tasks of the group, name somebody: who goes is known once it is answered.
    pub(super) fn ask(&mut self, view: &View<'_>, work: &Work, tasks: &[u32], (tag, claims): (u64, Range<usize>)) {
        if self.asking.len() >= ASKING_MAX {
            self.asking.pop_front();
        }
        let has_failed = have_failed(view, work, tasks);
        self.asking.push_back(Asking { tag, group: (work.job.id, work.group), claims, has_failed });
    }

    /// The plan became this transaction: groups that were granted such a claim evicted somebody.
    pub(super) fn answered(&mut self, tag: u64, outcome: &Outcome) {
        let granted: Vec<bool> = outcome.placements.iter().flatten().map(Option::is_some).collect();
        let begin = self.asking.partition_point(|asking| asking.tag < tag);
        let end = self.asking.partition_point(|asking| asking.tag <= tag);
        let answered: Vec<Asking> = self.asking.drain(begin..end).collect();
        for Asking { group, claims, has_failed, .. } in answered {
            if granted.get(claims).is_some_and(|granted| granted.contains(&true)) {
                self.begin(outcome.time, group, has_failed);
            }
        }
    }

    /// The group evicted somebody.
    fn begin(&mut self, now: LogTime, group: Group, has_failed: bool) {
        let known = self.all.get(&group).copied().filter(|pause| !pause.is_past(now));
        let micros = match known {
            Some(pause) if has_failed && pause.end <= now => pause.micros.saturating_mul(2).min(MAX_MICROS),
            Some(pause) => pause.micros,
            None => FIRST_MICROS,
        };
        // That of tasks that did not fail is the first of another row at most.
        let end = now.plus_micros(if has_failed { micros } else { FIRST_MICROS });
        let end = known.map_or(end, |known| known.end.max(end));
        self.forget(group);
        if self.all.len() >= GROUPS_MAX {
            self.forget_one();
        }
        let pause = Pause { end, micros };
        self.all.insert(group, pause);
        self.by_past.insert((pause.past(), group));
    }

    fn forget(&mut self, group: Group) {
        if let Some(pause) = self.all.remove(&group) {
            self.by_past.remove(&(pause.past(), group));
        }
    }

    /// Forgets the one that is past first.
    fn forget_one(&mut self) {
        let first = self.by_past.first().map(|&(_, group)| group);
        first.into_iter().for_each(|group| self.forget(group));
    }
}

/// Whether one of these tasks failed, and a peer owns the job that may be waiting for the group's pause: of the groups that evicted it knows its own alone. Meanwhile it commits
/// nothing, and its jobs are offered to others as if it were gone. A pause begins with what it commits: who has not been heard of for longer than that is gone, or has left the job alone.
pub(super) fn is_up_to_a_peer(view: &View<'_>, work: &Work) -> bool {
    let Some(unheard_micros) = view.unheard_micros(&work.job) else { return false };
    have_failed(view, work, &work.tasks) && unheard_micros < longest_micros(view, work) + OVERDUE_MICROS
}

/// How long the pause may be in which the group's owner is: it is twice as long after each eviction for what had failed, and what was placed by one has failed once more when it asks
/// for the next one. (Or it was lost, stopped or evicted, over and over: for that alone nobody need wait.)
fn longest_micros(view: &View<'_>, work: &Work) -> i64 {
    let Some(group) = view.cell().group(&work.job, work.group) else { return MAX_MICROS };
    let rows = (0..group.count).filter_map(|task| view.cell().task(group, task));
    let failures = rows.flat_map(|row| 0..row.failures);
    let doublings = failures.skip(1).take(DOUBLINGS_MAX);
    doublings.fold(FIRST_MICROS, |micros, _| micros.saturating_mul(2).min(MAX_MICROS))
}

fn have_failed(view: &View<'_>, work: &Work, tasks: &[u32]) -> bool {
    let Some(group) = view.cell().group(&work.job, work.group) else { return false };
    tasks.iter().any(|&task| view.cell().task(group, task).is_some_and(|row| row.failures > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(slot: usize) -> Group {
        (JobId { slot: u32::try_from(slot).unwrap(), generation: 1 }, 0)
    }

    /// As many as are remembered, each of which evicted a microsecond after the one before it.
    fn full() -> (Pauses, LogTime) {
        let mut pauses = Pauses::default();
        let at = |slot: usize| LogTime::from_micros(i64::try_from(slot).unwrap());
        (0..GROUPS_MAX).for_each(|slot| pauses.begin(at(slot), group(slot), true));
        (pauses, at(GROUPS_MAX))
    }

    fn lacks(pauses: &Pauses) -> Vec<usize> {
        assert_eq!(pauses.all.len(), pauses.by_past.len());
        (0..GROUPS_MAX).filter(|&slot| !pauses.all.contains_key(&group(slot))).collect()
    }

    // One eviction more made all be forgotten, even one of a group that was known: what failed again and again evicted at once.
    #[test]
    fn of_too_many_groups_the_one_is_forgotten_whose_pause_is_past_first() {
        let (mut pauses, now) = full();
        pauses.begin(now, group(0), true);
        assert_eq!((pauses.all.len(), lacks(&pauses)), (GROUPS_MAX, vec![]));
        pauses.begin(now, group(GROUPS_MAX), true);
        assert_eq!((pauses.all.len(), lacks(&pauses)), (GROUPS_MAX, vec![1]));
    }
}
