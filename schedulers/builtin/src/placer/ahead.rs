//! Room for what waits of peers' jobs and comes before the work: it is placed like work, and claimed by nobody here.

use plenum_sdk::{Decision, Plan, View, Work};

use super::Placer;

impl Placer {
    /// Leaves room and quota, as far as there is any, to what waits of peers' jobs of higher bands than the work that is placed next. Nobody is evicted for it: whose
    /// turn that is its owner knows.
    pub(crate) fn leave_room(&mut self, view: &View<'_>, next: &Work, decision: &mut Decision) {
        let end = view.ahead().partition_point(|work| band(work) > band(next));
        let works = view.ahead().get(self.left_to..end).unwrap_or_default();
        if works.is_empty() {
            return;
        }
        self.left_to = end;
        let (mut plan, mut said) = (Plan::incremental(), Decision::default());
        let was_off = self.evictions.set_off(true);
        self.place_alike(view, works, &mut plan, &mut said);
        self.evictions.set_off(was_off);
        decision.leave(&plan);
    }
}

/// Only work of a higher one evicts.
pub(super) fn band(work: &Work) -> u8 {
    work.job.shape.priority / 10
}
