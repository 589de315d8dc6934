//! Tasks one after the other, each on the best machine as things stand when its turn comes.
//!
//! A cost depends on its own machine only, and changes only when a task goes there; and whoever says no to one task says no to all that follow. So a machine is
//! untouched, where one scan has put it, or has some of the tasks and waits in a heap, or is out for good.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Scan, draw, parts};
use crate::columns::Columns;
use crate::policy::{Policy, WithScoring};
use crate::request::{Judge, Request};
use crate::scoring::Scoring;

/// Asked about the best machine that is left for the next task. Yes: the task is there now. No: the machine is out.
pub(crate) type Take<'a> = &'a mut dyn FnMut(u32) -> bool;

/// Machines that the first scan looks for at least, as some may say no; and how many times as many the next one does.
const FIRST_LOOK: usize = 16;

/// As [`choose`](super::choose()), for tasks of which each may stand in the way of the next: limits, spread, devices, ports. `take` is asked about the best
/// machine for the next task, and where it says yes it has put it there. Where it says no the machine is out, and not asked about again: what
/// stands in the way of one task must stand in the way of all that follow.
///
/// Exact: the same as asking for each task about all machines on which it fits, the best first, until one says yes. Takes one scan of the columns, some more
/// where very many say no, plus as many questions as there are tasks and machines that say no, times their logarithm. [`Request::suits`] does not apply.
#[must_use]
pub fn choose_asking(
    columns: &Columns,
    request: &Request<'_>,
    policy: Policy,
    count: u32,
    take: &mut dyn FnMut(u32) -> bool,
) -> Vec<u32> {
    struct Choose<'a, 'b>(&'a Columns, &'a Request<'a>, u32, Take<'b>);

    impl WithScoring for &mut Choose<'_, '_> {
        type Output = Vec<u32>;

        fn with<S: Scoring>(self, scoring: &S) -> Vec<u32> {
            choose_asking_by(self.0, self.1, scoring, self.2, self.3)
        }
    }

    let mut ask = Choose(columns, request, count, take);
    let chosen = policy.with(columns, &mut ask);
    chosen.unwrap_or_else(|| draw::choose(columns, &Request { suits: None, ..*request }, count, ask.3))
}

/// As [`choose_asking`], by any scoring.
#[must_use]
pub fn choose_asking_by<S: Scoring + ?Sized>(
    columns: &Columns,
    request: &Request<'_>,
    scoring: &S,
    count: u32,
    take: &mut dyn FnMut(u32) -> bool,
) -> Vec<u32> {
    Judge::new(columns, &Request { suits: None, ..*request }, scoring).choose(count, take)
}

impl<S: Scoring + ?Sized> Judge<'_, S> {
    /// Machines for up to `count` tasks, in their order.
    pub(super) fn choose(&self, count: u32, take: Take<'_>) -> Vec<u32> {
        let Request { home, settings, .. } = self.request;
        let mut chosen = Vec::new();
        if let Some(home) = *home {
            let taken = (0..count).take_while(|&placed| self.place(home, placed).is_some() && take(home));
            return vec![home; taken.count()];
        }
        if let Some(most) = settings.sample {
            draw::choose_from_samples(self, most, count, take, &mut chosen);
            return chosen;
        }
        for part in parts(settings.parts) {
            let left = count.saturating_sub(u32::try_from(chosen.len()).unwrap_or(count));
            if left == 0 {
                break;
            }
            Scan::new(self, part).choose_in_turn(left, take, &mut chosen);
        }
        chosen
    }
}

/// Machines without any of the tasks, best first. Looked for as they are needed.
pub(super) struct Untouched<'s, 'a, S: ?Sized> {
    scan: &'s Scan<'a, S>,
    /// So many were looked for.
    most: usize,
    keys: Vec<u64>,
    next: usize,
}

impl<'s, 'a, S: Scoring + ?Sized> Untouched<'s, 'a, S> {
    pub(super) fn new(scan: &'s Scan<'a, S>, count: usize) -> Self {
        let most = count.max(FIRST_LOOK);
        Self { scan, most, keys: scan.first(most), next: 0 }
    }

    fn peek(&mut self) -> Option<u64> {
        if self.next == self.keys.len() && self.keys.len() == self.most {
            self.most = self.most.saturating_mul(FIRST_LOOK);
            self.keys = self.scan.first(self.most);
        }
        self.keys.get(self.next).copied()
    }

    pub(super) fn pop(&mut self) -> Option<u64> {
        let key = self.peek()?;
        self.next += 1;
        Some(key)
    }
}

impl<S: Scoring + ?Sized> Scan<'_, S> {
    /// Machines for `count` tasks, of those of this part. While all say yes the first scan has enough: of the first k machines one is still untouched when
    /// the k-th task is placed.
    fn choose_in_turn(&self, count: u32, take: Take<'_>, chosen: &mut Vec<u32>) {
        let mut untouched = Untouched::new(self, count as usize);
        // Machines that have some of the tasks, and where they stand now.
        let mut again: BinaryHeap<Reverse<(u64, u32)>> = BinaryHeap::new();
        chosen.reserve(count.min(self.judge.columns.rows()) as usize);
        let mut left = count;
        loop {
            let touched = again.peek().map(|Reverse((key, _))| *key);
            let (key, mut placed) = match (untouched.peek(), touched) {
                (Some(new), Some(old)) if old < new => again.pop().map_or((old, 0), |Reverse(entry)| entry),
                (Some(new), _) => {
                    untouched.next += 1;
                    (new, 0)
                }
                (None, Some(old)) => again.pop().map_or((old, 0), |Reverse(entry)| entry),
                (None, None) => return,
            };
            let slot = self.judge.ranked(key).machine;
            let mut rival = None;
            while take(slot) {
                chosen.push(slot);
                (placed, left) = (placed + 1, left - 1);
                if left == 0 {
                    return;
                }
                let Some(key) = self.judge.place(slot, placed).map(|place| place.key()) else { break };
                // The same machine goes on while nobody else is better: a best fit fills it.
                let rival = *rival.get_or_insert_with(|| {
                    let touched = again.peek().map(|Reverse((key, _))| *key);
                    untouched.peek().into_iter().chain(touched).min()
                });
                if rival.is_some_and(|rival| rival < key) {
                    again.push(Reverse((key, placed)));
                    break;
                }
            }
        }
    }
}
