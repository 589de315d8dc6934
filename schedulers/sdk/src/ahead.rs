//! What waits and comes before own work, and is placed by somebody else or a moment later: how sessions that share jobs keep one order without talking to each other, and how one keeps its own.
//!
//! Each session orders its own jobs alone. So room that came free when a task of one session's urgent job ended was taken for another session's job of a lower band,
//! and taken back by an eviction, task after task. Now each leaves room to what waits of its peers' jobs of higher bands, as if it had placed that first.
//!
//! What loses a race to another scheduler rests for a moment, and room that came free in it was taken for own jobs behind it: by lower ones, which it evicted then, or by others of its band, for whose
//! end it waited. So room is left to that, too. Not to what rests for another reason: nothing says that it could have the room.
//!
//! It does so for as long as a silent peer is waited for, for each job, and no longer: one to which room was left for so long, and of which nothing was granted,
//! has its turn when its owner comes, or its rest ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{Cell, Job, JobId, LogTime, wanted};

use crate::in_flight::InFlight;
use crate::queue::{Queue, Turn};
use crate::share::Share;
use crate::view::Work;

/// After so many silences in which nobody looked for what waits of a job, nothing is known of how long room has been left to it.
const STALE_SILENCES: i64 = 2;

/// To so many own jobs that rest after a lost race room is left, the first ones: each parts the work before it from what is behind it, which is not placed in one
/// scan then.
const RESTING_MAX: usize = 64;

/// What a session sees of jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) queue: &'a Queue,
    pub(crate) share: &'a Share,
    pub(crate) in_flight: &'a InFlight,
    /// Log time.
    pub(crate) now: LogTime,
    /// By the process's own clock.
    pub(crate) now_micros: i64,
    /// For how long room is left to a job of which nothing is granted.
    pub(crate) silence_micros: i64,
    /// Most tasks that room is left to in a decision.
    pub(crate) tasks_max: usize,
}

impl Around<'_> {
    /// Tasks of a job that may be placed now and that no own transaction claims, up to so many; of a gang what it starts with, and nothing where fewer are left.
    fn waiting(&self, job: &Arc<Job>, most: usize) -> Vec<Work> {
        let (mut works, mut left) = (Vec::new(), most);
        for group in wanted(self.cell, job, self.now) {
            let least = group.least(job);
            let free = group.tasks().filter(|&task| !self.in_flight.has_task(job.id, group.group, task));
            let tasks: Vec<u32> = free.take(left.max(least as usize)).collect();
            if tasks.len() < (least as usize).max(1) {
                continue;
            }
            left = left.saturating_sub(tasks.len());
            works.push(Work { job: job.clone(), group: group.group, tasks, attempt: 1, least });
            if left == 0 {
                break;
            }
        }
        works
    }
}

/// A job to which room was left when it was met last. Times are those of this process's own clock.
#[derive(Clone, Copy, Debug)]
struct Waited {
    since_micros: i64,
    met_micros: i64,
}

/// For how long room has been left to jobs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ahead {
    /// Those of which nothing was granted since, also where they are waited for no longer.
    waited: BTreeMap<JobId, Waited>,
    /// Those that lost a race, and until when they rest for it.
    lost: BTreeMap<JobId, i64>,
}

impl Ahead {
    /// A job lost to others what it had claimed, and rests until then.
    pub(crate) fn lost(&mut self, job: JobId, until_micros: i64) {
        self.lost.insert(job, until_micros);
    }

    /// What waits of peers and is of a higher band than the last of the own work, and what is before that of own jobs that rest after a lost race. Not what is offered here itself. In the order of bands;
    /// of each own jobs come first, in the order of their turns: these come before own work of the same band, too.
    pub(crate) fn gather(&mut self, around: &Around<'_>, own: &[Work]) -> Vec<Work> {
        // Who was refused again for another reason rests until another time.
        let still = |job: &JobId| around.queue.get(*job).map(|standing| standing.not_before_micros);
        self.lost.retain(|job, until| *until > around.now_micros && still(job) == Some(*until));
        let has_any = around.share.has_peers() || !self.lost.is_empty();
        let last = own.last().filter(|_| has_any).and_then(|last| around.queue.get(last.job.id));
        let Some(last) = last.map(|standing| standing.turn) else { return Vec::new() };
        self.waited.retain(|&job, _| around.queue.contains(job));
        let resting = self.lost.keys().filter(|job| around.share.is_own(**job));
        let resting = resting.filter_map(|job| Some(around.queue.get(*job)?.turn)).filter(|turn| *turn < last);
        let mut resting: BTreeSet<Turn> = resting.collect();
        if let Some(more) = resting.iter().nth(RESTING_MAX).copied() {
            drop(resting.split_off(&more));
        }
        if !around.share.has_peers() {
            return self.take(around, resting.into_iter());
        }
        let offered: BTreeSet<JobId> = own.iter().map(|work| work.job.id).collect();
        let is_peers = |job: JobId| !around.share.is_own(job) && !offered.contains(&job);
        let is_ahead = |turn: &Turn| resting.contains(turn) || (turn.band() > last.band() && is_peers(turn.job));
        let until = |turn: &Turn| turn.band() > last.band() || resting.last().is_some_and(|last| turn <= last);
        let mut ahead = self.take(around, around.queue.turns().take_while(until).filter(is_ahead));
        ahead.sort_by_key(|work| (Reverse(band(&work.job)), !around.share.is_own(work.job.id)));
        ahead
    }

    /// What waits of these jobs, but for those to which room was left for long enough.
    fn take(&mut self, around: &Around<'_>, turns: impl Iterator<Item = Turn>) -> Vec<Work> {
        let (mut ahead, mut left) = (Vec::new(), around.tasks_max);
        for job in turns.filter_map(|turn| around.cell.job(turn.job)) {
            if left == 0 {
                break;
            }
            let works = around.waiting(job, left);
            if works.is_empty() {
                self.waited.remove(&job.id);
                continue;
            }
            if self.is_over(job.id, around.now_micros, around.silence_micros) {
                continue;
            }
            left = left.saturating_sub(works.iter().map(|work| work.tasks.len()).sum());
            ahead.extend(works);
        }
        ahead
    }

    /// Whether room was left to a job for long enough.
    fn is_over(&mut self, job: JobId, now_micros: i64, silence_micros: i64) -> bool {
        let Some(waited) = self.waited.get_mut(&job) else { return false };
        if waited.met_micros.saturating_add(silence_micros.saturating_mul(STALE_SILENCES)) < now_micros {
            self.waited.remove(&job);
            return false;
        }
        waited.met_micros = now_micros;
        waited.since_micros.saturating_add(silence_micros) <= now_micros
    }

    /// A decision was shown these, and left room to these jobs of them: there is none for the others. Gives when that is over for the first.
    pub(crate) fn decided(
        &mut self,
        shown: &[Work],
        left: &BTreeSet<JobId>,
        now_micros: i64,
        silence_micros: i64,
    ) -> Option<i64> {
        let mut over_micros = None;
        for job in shown.iter().map(|work| work.job.id) {
            if !left.contains(&job) {
                self.waited.remove(&job);
                continue;
            }
            let begins = Waited { since_micros: now_micros, met_micros: now_micros };
            let over = self.waited.entry(job).or_insert(begins).since_micros.saturating_add(silence_micros);
            over_micros = Some(over_micros.map_or(over, |sooner: i64| sooner.min(over)));
        }
        over_micros
    }

    /// Something of a job was granted. True: room was left to it, of which there may be more than it needs now.
    pub(crate) fn granted(&mut self, job: JobId) -> bool {
        self.waited.remove(&job).is_some()
    }
}

/// Only jobs of a higher one evict.
fn band(job: &Job) -> u8 {
    job.shape.priority / 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::work;

    const SILENCE: i64 = 1_000;

    /// Room is left to the job in a decision at this time.
    fn decided(ahead: &mut Ahead, now_micros: i64) -> Option<i64> {
        let left = BTreeSet::from([work().job.id]);
        ahead.decided(&[work()], &left, now_micros, SILENCE)
    }

    fn is_over(ahead: &mut Ahead, now_micros: i64) -> bool {
        ahead.is_over(work().job.id, now_micros, SILENCE)
    }

    #[test]
    fn room_is_left_to_a_job_for_as_long_as_a_silent_peer_is_waited_for() {
        let mut ahead = Ahead::default();
        assert_eq!(decided(&mut ahead, 5_000), Some(6_000));
        assert!(!is_over(&mut ahead, 5_999));
        assert_eq!(decided(&mut ahead, 5_999), Some(6_000), "as it began with the first one");
        assert!(is_over(&mut ahead, 6_000) && is_over(&mut ahead, 7_500), "it is not left again");
    }

    #[test]
    fn a_grant_begins_anew_and_so_does_a_decision_that_found_no_room_for_it() {
        let mut ahead = Ahead::default();
        decided(&mut ahead, 5_000);
        assert!(ahead.granted(work().job.id) && !ahead.granted(work().job.id));
        assert!(!is_over(&mut ahead, 6_000));
        decided(&mut ahead, 6_000);
        assert_eq!(ahead.decided(&[work()], &BTreeSet::new(), 6_500, SILENCE), None);
        assert!(!is_over(&mut ahead, 7_000));
        assert_eq!(decided(&mut ahead, 7_000), Some(8_000));
    }

    // Own work came once in a while: what was left long ago counted as if it had been left ever since.
    #[test]
    fn of_what_nobody_looked_at_for_long_nothing_is_known() {
        let mut ahead = Ahead::default();
        decided(&mut ahead, 5_000);
        assert!(!is_over(&mut ahead, 7_001));
        assert_eq!(decided(&mut ahead, 7_001), Some(8_001));
    }
}
