//! The jobs of one scheduler name that are not over, in the order of their turn, and how each of them fares.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use plenum_model::{Cell, Job, JobId, LogTime};

/// A job's turn: the smallest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    priority: Reverse<u8>,
    submitted: LogTime,
    pub(crate) job: JobId,
}

impl Turn {
    /// Only jobs of a higher one evict.
    pub(crate) const fn band(self) -> u8 {
        self.priority.0 / 10
    }
}

/// A place in the queue: a group of the job whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) turn: Turn,
    pub(crate) group: u16,
}

/// How a job fares. Times are those of this process's own clock.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) turn: Turn,
    /// Attempts that were refused, or not even sent, since something was granted last.
    pub(crate) refused: u32,
    /// What people are told of the last one of them; empty if there is none. Not how often: a reason stays the same as long as it is the same.
    pub(crate) why_refused: Arc<str>,
    /// It is not tried before.
    pub(crate) not_before_micros: i64,
    /// Since when it has tasks to place and was granted nothing.
    pub(crate) waiting_since_micros: Option<i64>,
}

/// All of them. Invariant: `turns` has the turn of each job in `standings`, and nothing else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    turns: BTreeSet<Turn>,
    standings: BTreeMap<JobId, Standing>,
}

impl Queue {
    /// Reads the whole cell; jobs that were known keep their standing.
    pub(crate) fn read(&mut self, cell: &Cell, is_own: impl Fn(&Job) -> bool) {
        let mut known = std::mem::take(&mut self.standings);
        self.turns.clear();
        for job in cell.jobs().filter(|job| is_own(job)) {
            if let Some(standing) = known.remove(&job.id) {
                self.standings.insert(job.id, standing);
            }
            self.put(job);
        }
    }

    /// A job is there, or stands elsewhere than before.
    pub(crate) fn put(&mut self, job: &Job) {
        if job.state.is_final() {
            return self.remove(job.id);
        }
        let turn = Turn { priority: Reverse(job.shape.priority), submitted: job.submitted, job: job.id };
        let new = || Standing {
            turn,
            refused: 0,
            why_refused: Arc::default(),
            not_before_micros: i64::MIN,
            waiting_since_micros: None,
        };
        let standing = self.standings.entry(job.id).or_insert_with(new);
        self.turns.remove(&standing.turn);
        standing.turn = turn;
        self.turns.insert(turn);
    }

    /// A job is over, or gone.
    pub(crate) fn remove(&mut self, job: JobId) {
        if let Some(standing) = self.standings.remove(&job) {
            self.turns.remove(&standing.turn);
        }
    }

    /// All turns in their order.
    pub(crate) fn turns(&self) -> impl Iterator<Item = Turn> {
        self.turns.iter().copied()
    }

    /// Jobs in the order of their turn, from a place on and up to another one, which is not before it: the jobs of both are included.
    pub(crate) fn jobs(&self, from: Option<Place>, until: Option<Place>) -> impl Iterator<Item = JobId> {
        let from = from.map_or(Bound::Unbounded, |from| Bound::Included(from.turn));
        let until = until.map_or(Bound::Unbounded, |until| Bound::Included(until.turn));
        self.turns.range((from, until)).map(|turn| turn.job)
    }

    /// The place of a job's group.
    pub(crate) fn place(&self, job: JobId, group: u16) -> Option<Place> {
        Some(Place { turn: self.get(job)?.turn, group })
    }

    pub(crate) fn contains(&self, job: JobId) -> bool {
        self.standings.contains_key(&job)
    }

    pub(crate) fn len(&self) -> usize {
        self.standings.len()
    }

    pub(crate) fn get(&self, job: JobId) -> Option<&Standing> {
        self.standings.get(&job)
    }

    pub(crate) fn get_mut(&mut self, job: JobId) -> Option<&mut Standing> {
        self.standings.get_mut(&job)
    }
}
