//! Claims that lack room on their machine: whether they fitted at the base, and who took it since.

use plenum_model::{AllocationRef, RefusalKind, RefusalReason, Shortage};

use super::{About, Facts, Judge, Wanted};
use crate::resolve::preempt::{may_evict, room_within};

impl Judge<'_, '_> {
    pub(super) fn no_room(&self, short: Shortage, about: &About<'_>) -> Facts {
        let resource = short.resource;
        let past = self.past(about.machine);
        let mut owners = about.freed.as_deref().map(|freed| freed.owners(&past).clone()).unwrap_or_default();
        past.note_owner(&mut owners, about.owner);
        let mut before = past.room_at_base(about.free, &owners);
        before.take(&about.promised);
        // Whose room it wanted was there at the base, too, with all but what others had taken over by then; who has ended since gave its room back.
        let heirs = self.hindsight.heirs(self.cell, about.machine);
        for (source, wanted) in self.sources(about).filter(|(source, _)| source.row.created <= self.base) {
            let left = heirs.left_of(self.cell, &source).amount;
            let had = past.handed_over_by(source.id).map_or(left, |since| left.with(&since.amount));
            let taken = about.handed_over.iter().filter(|entry| entry.victim == source.id);
            let had = taken.fold(had, |had, entry| had.without(&entry.amount));
            before.add(&room_within(wanted.most, &had));
        }
        let ended = about.sources.iter().filter_map(|wanted| Some((wanted, past.released(wanted.id)?)));
        ended.for_each(|(wanted, shape)| before.add(&room_within(wanted.most, &shape)));
        let fitted = before.shortage(&about.need).is_none();
        let facts = Facts {
            short: Some((resource, short.short_by)),
            ..Facts::plain(RefusalKind::Misfit, RefusalReason::NoRoom)
        };
        if !past.knows_amounts() {
            return Facts { kind: RefusalKind::Stale, ..facts };
        }
        if !fitted {
            return facts;
        }
        let misfit = Facts { short: facts.short, ..Facts::plain(facts.kind, facts.reason) };
        let blamed = self.blame(facts, past.takers(resource), short.short_by, &owners.jobs);
        // Without such sources that cannot be: what was free at the base and is not now was taken since.
        if blamed.total < short.short_by { misfit } else { blamed }
    }

    /// Of those whose room a claim wanted, who leaves anyway, and whom it would have evicted and may.
    pub(super) fn sources<'b>(
        &'b self,
        about: &'b About<'_>,
    ) -> impl Iterator<Item = (AllocationRef<'b>, &'b Wanted<'b>)> {
        let live = about.sources.iter().filter_map(|wanted| Some((self.cell.allocation(wanted.id)?, wanted)));
        live.filter(|(source, wanted)| self.gives(about, source, wanted))
    }

    pub(super) fn gives(&self, about: &About<'_>, source: &AllocationRef<'_>, wanted: &Wanted<'_>) -> bool {
        source.status.state.is_leaving()
            || about.going.contains(&source.id.slot)
            || (wanted.most.is_none()
                && self.cell.job(about.owner).is_some_and(|owner| may_evict(self.cell, owner, source)))
    }
}
