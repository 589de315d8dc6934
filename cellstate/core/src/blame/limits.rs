//! Claims that are refused over how many tasks there are: on a machine, or on the machines with one value; and who came last.

use plenum_model::rare;
use plenum_model::{RefusalKind, RefusalReason};

use super::newcomers::Newcomer;
use super::{About, Facts, Judge, event_culprit};
use crate::resolve::claims::ALLOCATIONS_MAX;

impl Judge<'_, '_> {
    /// A machine that has as many allocations as one can have: lost to whoever was granted one last, if it had fewer at the base.
    pub(super) fn full(&self, about: &About<'_>) -> Facts {
        let (past, reason) = (self.past(about.machine), RefusalReason::PerMachineLimit);
        let live = self.cell.machine_row(about.machine).map_or(0, |row| u32::from(row.allocations));
        let before = i64::from(live + about.promised_claims) - past.allocations_more();
        let had_place = past.is_complete() && before < i64::from(ALLOCATIONS_MAX);
        match past.newest_take().filter(|_| had_place) {
            Some(change) => Facts::caused(RefusalKind::Conflict, reason, self.grant_culprit(change, 1)),
            None => self.unseen(past.is_complete(), reason),
        }
    }

    /// A limit of a machine, or of the machines with one value, is reached. Who was granted after the base is to blame, or else who
    /// brought tasks to that value, or the machine to them; without anybody, it was reached at the base already.
    pub(super) fn limit(&self, rule: Option<u16>, about: &About<'_>) -> Facts {
        let reason = if rule.is_some() { RefusalReason::SpreadLimit } else { RefusalReason::PerMachineLimit };
        let facts = Facts::plain(RefusalKind::Misfit, reason);
        let limit = (about.group_row, about.shape, rule);
        let sources = (self.cell, self.grounds.ring, self.grounds.retagged);
        let newest = self.newcomers.borrow_mut().newest(sources, self.base, limit, about.machine);
        match newest {
            Some(Newcomer::Granted(slot)) => match self.cell.allocation_in(slot) {
                Some(found) => facts.blame(vec![self.row_culprit(found.row, found.id, 1)], 1),
                None => facts,
            },
            Some(Newcomer::Retagged(revision)) => {
                rare!("a spread limit is reached by other attributes");
                Facts::caused(RefusalKind::Conflict, reason, event_culprit(revision, "attributes", 0))
            }
            Some(Newcomer::Forgotten) => self.unseen(false, reason),
            None => self.unseen(true, reason),
        }
    }
}
