//! Room for what comes before the work and is not to be claimed now, of peers' jobs and of own ones that rest: it is placed like work, and claimed by nobody here.

use std::cmp::{Ordering, Reverse};

use plenum_sdk::{Decision, Plan, View, Work};

use super::Placer;

impl Placer {
    /// Leaves room and quota, as far as there is any, to what comes before the work that is placed next. Nobody is evicted for it: whose turn that is its owner knows, and what rests evicts by itself then.
    pub(crate) fn leave_room(&mut self, view: &View<'_>, next: &Work, decision: &mut Decision) {
        let end = before(view, next);
        let works = view.ahead().get(self.pass.left_to..end).unwrap_or_default();
        if works.is_empty() {
            return;
        }
        self.pass.left_to = end;
        let (mut plan, mut said) = (Plan::incremental(), Decision::default());
        let was_off = self.evictions.set_off(true);
        self.place_alike(view, works, &mut plan, &mut said);
        self.evictions.set_off(was_off);
        decision.leave(&plan);
    }
}

/// How much of what the view has ahead comes before this work: what is of higher bands, and of its own band what is of own jobs with an earlier turn, which stand before those of peers there.
pub(super) fn before(view: &View<'_>, next: &Work) -> usize {
    let comes_before = |work: &Work| match band(work).cmp(&band(next)) {
        Ordering::Greater => true,
        Ordering::Equal => view.is_own(&work.job) && turn(work) < turn(next),
        Ordering::Less => false,
    };
    view.ahead().partition_point(comes_before)
}

fn turn(work: &Work) -> impl Ord + use<> {
    (Reverse(work.job.shape.priority), work.job.submitted, work.job.id)
}

/// Only work of a higher one evicts.
fn band(work: &Work) -> u8 {
    work.job.shape.priority / 10
}
