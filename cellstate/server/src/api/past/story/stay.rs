//! What happened to an allocation, a task's stay in a slot. Deltas speak of slots there; whose a slot was is told by the grant before, or by
//! the cell of then where the grant is older than the story.

use std::sync::Arc;

use plenum_history::{History, Logged, Order, Subject};
use plenum_model::{AllocationId, AllocationState, Cell, Delta, LogTime, Revision, incarnation_of};
use plenum_proto::v1;

use super::words::why_it_moved;
use super::{Hero, READ_BYTES_MAX, Teller, ends, tell_until};
use crate::api::failure::Failure;
use crate::api::listing;
use crate::api::past::{ended, moved};
use crate::publish::LoggedBatch;
use crate::recovery;

/// What there is to say of an allocation.
pub(in crate::api) enum Said {
    /// What happened to it; of one that is live that may be nothing.
    Story(v1::HistoryResponse),
    /// Nothing is known of it, and it may have all happened in what the history has not got yet.
    Behind,
    /// It ended before the oldest revision that is retained, or may have.
    Retired(u64),
    /// Its slot was never given so often, or not to it.
    NeverWas,
}

/// The story of an allocation up to the cell's revision: its newest `limit` events.
pub(in crate::api) fn tell(history: &History, cell: &Cell, id: AllocationId, limit: usize) -> Result<Said, Failure> {
    say(|| Teller::new(history, cell), id, limit)
}

/// The same. `teller`: who tells it, at each try.
fn say<'a>(teller: impl Fn() -> Teller<'a>, id: AllocationId, limit: usize) -> Result<Said, Failure> {
    let Teller { history, cell, .. } = teller();
    if ended::newest_tenant(cell, id.slot) < id.generation {
        return Ok(Said::NeverWas);
    }
    let story = tell_until(&teller, &Hero::Allocation(id), cell.revision(), limit)?;
    if !story.events.is_empty() || cell.allocation(id).is_some() {
        return Ok(Said::Story(story));
    }
    let buried = if story.truncated { ended::end_of(history, Revision(story.older_at), id)? } else { None };
    if let Some(end) = buried {
        // All that may be read for a story was of later tenants of its slot.
        let told = tell_until(&teller, &Hero::Allocation(id), end, limit)?;
        if !told.events.is_empty() || told.truncated {
            return Ok(Said::Story(v1::HistoryResponse { revision: story.revision, ..told }));
        }
    }
    if story.revision < cell.revision().0 {
        return Ok(Said::Behind);
    }
    Ok(ended::is_retired(history, cell, id)?.map_or(Said::NeverWas, Said::Retired))
}

/// When an allocation first ran, as far as somebody tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Ran {
    /// Then.
    At(LogTime),
    /// Not up to this revision. What comes after it was not looked at.
    NotBy(Revision),
    /// Its grant is not retained, or more happened before its start than is read for a story.
    Unknown,
}

/// When an allocation first ran, of what the history has from the revision of its grant to `last`, which is not above that of its end. Reads forwards:
/// few blocks lie between a grant and a start, and many may lie behind that.
pub(in crate::api) fn first_ran(
    history: &History,
    id: AllocationId,
    granted: Revision,
    last: Revision,
) -> Result<Ran, Failure> {
    if history.newest_revision() < granted.0 {
        return Ok(Ran::NotBy(granted));
    }
    let mut walk = history.walk(granted.0..=last.0, Order::OldestFirst);
    let up_to = Revision(*walk.rest().end());
    let of_slot = Subject::AllocationSlot(id.slot);
    let mut has_grant = false;
    while walk.read_bytes() < READ_BYTES_MAX
        && let Some(entries) =
            walk.next(|block| block.may_tell_of(of_slot)).map_err(|error| Failure::history(&error))?
    {
        for logged in &entries {
            if logged.entry.revision == granted.0 {
                // Moves in it are of whoever had the slot before.
                has_grant = true;
                continue;
            }
            // What was granted before all that is retained may have run by then.
            if !has_grant {
                return Ok(Ran::Unknown);
            }
            let delta = ended::delta_of(&logged.entry)?;
            if is_run(&delta, id) {
                return Ok(Ran::At(delta.time));
            }
        }
    }
    Ok(if has_grant && walk.rest().is_empty() { Ran::NotBy(up_to) } else { Ran::Unknown })
}

/// When an allocation that had not run at a revision first did, of the batches that come `after` it, up to `last`. `None`: it did not.
pub(in crate::api) fn first_ran_in(
    batches: &[Arc<LoggedBatch>],
    id: AllocationId,
    after: Revision,
    last: Revision,
) -> Result<Option<LogTime>, Failure> {
    for batch in batches {
        for revision in batch.revisions().filter(|revision| after < *revision && *revision <= last) {
            let delta = recovery::delta_of(batch, revision).map_err(|error| Failure::of_the_past(&error))?;
            if is_run(&delta, id) {
                return Ok(Some(delta.time));
            }
        }
    }
    Ok(None)
}

/// Whether whoever has the allocation's slot runs from then on.
fn is_run(delta: &Delta, id: AllocationId) -> bool {
    delta.moves.iter().any(|moved| moved.slot == id.slot && moved.status.state == AllocationState::Running)
}

/// The generation before, of the tenant that a slot had before, if that is known: the first one of an incarnation follows whatever there was.
fn before(generation: u32) -> Option<u32> {
    let before = generation.saturating_sub(1);
    (incarnation_of(before) == incarnation_of(generation)).then_some(before)
}

impl Teller<'_> {
    /// Takes from the cell whose the slot is at a revision, the last one that the story is of, as far as it tells.
    pub(super) fn begin_stay(&mut self, id: AllocationId, last: Revision) {
        let row = self.cell.allocation_rows().get(id.slot);
        // Of a slot that was free at the last start, nobody knows any more when it was given.
        let has_it = |created: Revision| created > Revision(0) && created <= last;
        self.tenant = row.filter(|row| last == self.cell.revision() || has_it(row.created)).map(|row| row.generation);
    }

    /// Finds out who was in the slot at a revision, down to which the story is told, where nothing has told it yet; what was told so far is let go of if
    /// it was another one.
    pub(super) fn settle_stay(&mut self, id: AllocationId, revision: u64) -> Result<(), Failure> {
        // Each grant settles what is after it.
        if self.over || self.tenant.is_some() || self.events.is_empty() {
            return Ok(());
        }
        let tenant = self.then(revision)?.allocation_rows().get(id.slot).map_or(0, |row| row.generation);
        self.tenant = Some(tenant);
        if tenant != id.generation {
            self.events.clear();
        }
        Ok(())
    }

    /// Tells of an entry what happened to the allocation. As long as it is not known whose the slot was, that may have been another one.
    pub(super) fn allocation(&mut self, id: AllocationId, logged: &Logged, delta: &Delta) -> Result<(), Failure> {
        // Backwards, a delta's grants come first: it ends before it grants.
        for grants in &delta.grants {
            let Some(position) = grants.slots.iter().position(|slot| *slot == id.slot) else { continue };
            let generation = grants.generations.get(position).copied().unwrap_or_default();
            if generation == id.generation {
                let machine = grants.machines.get(position).copied().unwrap_or_default();
                let task = grants.tasks.get(position).copied().unwrap_or_default();
                let task = self.task_name(delta, grants.job, grants.group, task);
                let machine = self.machine_then(machine, delta.revision, delta.time.micros);
                let why = moved::reason(delta, id.slot).map_or_else(String::new, |reason| format!(": {reason}"));
                self.push(logged, "granted", format!("{task} on machine {machine}{why}"))?;
            }
            if generation != id.generation {
                // What was not known to be of whom was of this one.
                self.events.clear();
            }
            self.over = generation <= id.generation;
            self.tenant = before(generation);
        }
        if self.over || self.tenant.is_some_and(|tenant| tenant != id.generation) {
            return Ok(());
        }
        let mut moves: Vec<_> = delta.moves.iter().filter(|moved| moved.slot == id.slot).collect();
        if let Some(end) = delta.ends.iter().find(|end| end.slot == id.slot) {
            // That it stood where it stood says how often it was started again until its end, and no more.
            let restarts = moves.pop_if(|moved| moved.restarts > 0);
            let word = listing::allocation_word(v1::AllocationState::from(end.state).into());
            self.push(logged, word, ends::told_of(end, restarts.map(|moved| moved.restarts)))?;
        }
        for moved in moves.iter().rev() {
            let word = listing::allocation_word(v1::AllocationState::from(moved.status.state).into());
            let mut facts = Vec::new();
            facts.extend(moved.status.ready.then(|| "ready".to_owned()));
            facts.extend((moved.restarts > 0).then(|| format!("restarts {}", moved.restarts)));
            facts.extend(why_it_moved(moved));
            self.push(logged, word, facts.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::gone;
    use super::super::gone::tests::{append, at};
    use super::*;
    use crate::publish::BatchEncoder;
    use plenum_model::{
        AllocationRow, AllocationStatus, CellIdentity, End, Grants, JobId, Move, Restore, RestoredAllocation,
    };

    /// A grant of the slot 0, the end of its tenant, and what he did meanwhile.
    fn grant(revision: u64, generation: u32) -> Delta {
        let (slots, generations) = (vec![0], vec![generation]);
        let job = JobId { slot: 0, generation: 1 };
        let grants = Grants { job, slots, generations, machines: vec![0], tasks: vec![0], ..Grants::default() };
        Delta { grants: vec![grants], ..at(revision) }
    }

    fn end(revision: u64) -> Delta {
        let end = End { slot: 0, state: AllocationState::Complete, exit_code: 0, reason: None };
        Delta { ends: vec![end], ..at(revision) }
    }

    fn runs(revision: u64) -> Delta {
        let status = AllocationStatus { state: AllocationState::Running, ready: true };
        Delta { moves: vec![Move { slot: 0, status, restarts: 0, reason: None }], ..at(revision) }
    }

    /// A cell in which the slot 0 is free, after so many tenants, the last of whom was granted at that revision.
    fn cell(revision: u64, generation: u32, created: u64) -> Cell {
        let (identity, time) = (CellIdentity::default(), LogTime::from_micros(1));
        let mut restore = Restore::new(Revision(revision), time, identity, Vec::new(), Vec::new(), None);
        let row = AllocationRow { generation, created: Revision(created), ..AllocationRow::default() };
        let status = AllocationStatus { state: AllocationState::Free, ready: false };
        restore.allocation(RestoredAllocation { slot: 0, row, status, extra: None });
        restore.finish().unwrap()
    }

    fn words(history: &History, cell: &Cell, generation: u32, read_bytes_max: u64) -> Vec<String> {
        let teller = || Teller { read_bytes_max, ..Teller::new(history, cell) };
        match say(teller, AllocationId { slot: 0, generation }, 10).unwrap() {
            Said::Story(story) => story.events.into_iter().map(|event| event.event).collect(),
            Said::Behind => vec!["BEHIND".to_owned()],
            Said::Retired(_) => vec!["RETIRED".to_owned()],
            Said::NeverWas => vec!["NEVER".to_owned()],
        }
    }

    // It was said that there never was such an allocation, or that it is no longer retained.
    #[test]
    fn an_allocation_is_found_under_more_of_later_tenants_than_is_read_for_a_story() {
        let dir = tempfile::tempdir().unwrap();
        let deltas: Vec<Delta> =
            (1..=8).flat_map(|tenant| [grant(2 * u64::from(tenant) - 1, tenant), end(2 * u64::from(tenant))]).collect();
        let history = gone::tests::history_of(dir.path(), &deltas);
        let cell = cell(16, 8, 15);
        let mut two_blocks = history.walk(1..=2, Order::NewestFirst);
        while two_blocks.next(|_| true).unwrap().is_some() {}
        let told = |generation, read_bytes_max| words(&history, &cell, generation, read_bytes_max);
        for tenant in 1..=8 {
            assert_eq!(told(tenant, READ_BYTES_MAX), ["granted", "complete"]);
            // Of the last but one the end is just within what is read, as it would be of any that is not buried.
            let whole = if tenant == 7 { &["complete"][..] } else { &["granted", "complete"] };
            assert_eq!(told(tenant, two_blocks.read_bytes()), whole, "{tenant}");
        }
        assert_eq!(told(9, 0), ["NEVER"]);
    }

    // Whose the slot is now was taken for whose it was at the newest revision that the history has.
    #[test]
    fn a_slot_that_is_given_again_in_what_the_history_lacks_was_somebody_elses_before() {
        let dir = tempfile::tempdir().unwrap();
        let history = gone::tests::history_of(dir.path(), &[grant(1, 1), runs(2)]);
        // Two more have come and gone.
        let cell = cell(6, 3, 5);
        let told = |generation| words(&history, &cell, generation, READ_BYTES_MAX);
        assert_eq!(told(1), ["granted", "running"]);
        assert_eq!([told(2), told(3), told(4)], [["BEHIND"], ["BEHIND"], ["NEVER"]]);
    }

    // That it ran was told with its story only, and when it was granted and had ended beside it.
    #[test]
    fn an_allocation_first_ran_when_its_grant_and_nothing_of_another_tenant_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let timed = |delta: Delta| Delta { time: LogTime::from_micros(100 * delta.revision.0.cast_signed()), ..delta };
        // The one before ran once more, and ended, in the very delta that gave its slot away.
        let handed_over = Delta { moves: runs(4).moves, ends: end(4).ends, ..grant(4, 2) };
        let deltas = [grant(1, 1), runs(2), runs(3), handed_over, at(5), runs(6), end(7), grant(8, 3)].map(timed);
        let history = gone::tests::history_of(dir.path(), &deltas);
        let ran = |generation, granted, last| {
            let id = AllocationId { slot: 0, generation };
            first_ran(&history, id, Revision(granted), Revision(last)).unwrap()
        };
        let then = |micros| Ran::At(LogTime::from_micros(micros));
        assert_eq!((ran(1, 1, 4), ran(2, 4, 7)), (then(200), then(600)));
        assert_eq!((ran(2, 4, 5), ran(3, 8, 8)), (Ran::NotBy(Revision(5)), Ran::NotBy(Revision(8))));
        // It has no more than that.
        assert_eq!((ran(3, 8, 12), ran(4, 9, 12)), (Ran::NotBy(Revision(8)), Ran::NotBy(Revision(9))));

        // As in a restored cell, whose history does not have the grant.
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), plenum_history::Options::new(vec![1; 16])).unwrap();
        crate::checkpoint::write(&history, &cell(10, 5, 3), None).unwrap();
        append(&history, &[at(11), runs(12)]);
        let id = AllocationId { slot: 0, generation: 5 };
        let ran = first_ran(&history, id, Revision(3), Revision(12)).unwrap();
        assert_eq!(ran, Ran::Unknown, "that may be another start");
    }

    #[test]
    fn what_the_history_has_not_got_yet_tells_when_an_allocation_first_ran() {
        let batch = |deltas: &[Delta]| {
            let mut encoder = BatchEncoder::default();
            encoder.begin(deltas[0].time);
            for delta in deltas {
                let mut encoded = Vec::new();
                plenum_proto::delta::encode(delta, &mut encoded);
                encoder.add(delta.revision, b"", b"", &encoded);
            }
            Arc::new(LoggedBatch::parse(encoder.finish()).unwrap())
        };
        let timed = |delta: Delta| Delta { time: LogTime::from_micros(100 * delta.revision.0.cast_signed()), ..delta };
        let batches = [batch(&[runs(4), at(5)].map(timed)), batch(&[at(6), runs(7), runs(8)].map(timed))];
        let ran = |slot, after, last| {
            let id = AllocationId { slot, generation: 1 };
            first_ran_in(&batches, id, Revision(after), Revision(last)).unwrap().map(|time| time.micros)
        };
        assert_eq!((ran(0, 3, 8), ran(0, 4, 8)), (Some(400), Some(700)), "what the history has is not looked at");
        assert_eq!((ran(0, 4, 6), ran(1, 3, 8)), (None, None), "it was not asked for, or is another one");
    }

    // It was told as a fault of this server.
    #[test]
    fn what_only_a_later_version_knows_is_told_as_that_where_the_history_has_not_got_it_yet() {
        let machine = v1::MachineChange { id: 1 << 32, name: "m1".to_owned(), state: 300, ..Default::default() };
        let later = v1::Delta { revision: 1, time_micros: 1, machines: vec![machine], ..Default::default() };
        let mut encoder = BatchEncoder::default();
        encoder.begin(LogTime::from_micros(1));
        encoder.add(Revision(1), b"", b"", &prost::Message::encode_to_vec(&later));
        let batch = Arc::new(LoggedBatch::parse(encoder.finish()).unwrap());
        let id = AllocationId { slot: 0, generation: 1 };
        let failure = first_ran_in(&[batch], id, Revision(0), Revision(1)).unwrap_err();
        assert_eq!(failure.code, "OTHER_FORMAT", "{}", failure.message);
    }

    // The first grant of another incarnation was taken to tell who was there before.
    #[test]
    fn whoever_was_there_when_the_cell_was_restored_is_found_in_what_the_history_begins_with() {
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), plenum_history::Options::new(vec![1; 16])).unwrap();
        crate::checkpoint::write(&history, &cell(10, 5, 0), None).unwrap();
        let first = plenum_model::floor_of(2) + 1;
        append(&history, &[at(11), runs(12), runs(13), end(14), grant(15, first), end(16), grant(17, first + 1)]);
        let cell = cell(17, first + 1, 17);
        let told = |generation| words(&history, &cell, generation, READ_BYTES_MAX);
        assert_eq!(told(5), ["running", "running", "complete"]);
        assert_eq!(told(4), ["RETIRED"], "it ended before");
        assert_eq!([told(6), told(first - 1)], [["NEVER"], ["NEVER"]], "this cell never gave them");
        assert_eq!(told(first), ["granted", "complete"]);
        assert_eq!(told(first + 1), ["granted"]);
        let id = AllocationId { slot: 0, generation: 5 };
        let Said::Story(newest) = tell(&history, &cell, id, 2).unwrap() else { panic!("no story") };
        let told: Vec<&str> = newest.events.iter().map(|event| &*event.event).collect();
        assert_eq!((told, newest.truncated, newest.older_at), (vec!["running", "complete"], true, 12));
    }
}
