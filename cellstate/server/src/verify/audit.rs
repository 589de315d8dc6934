//! The check of revision after revision: fold, decide again, compare, and look at the invariants.

use std::fmt;

use plenum_core::{Core, CoreOptions, Decided, invariants};
use plenum_journal::Report;
use plenum_model::{Cell, Command, Decision, Delta, LogTime, RefusalKind, Request, Revision};
use plenum_proto::{command, delta, v1};
use prost::Message;

use super::VerifyReport;
use crate::commit::bounds;
use crate::publish::LoggedBatch;

/// Violations that are listed; a directory that is badly damaged has too many to read.
const VIOLATIONS_MAX: usize = 1000;
/// Cells of up to so many rows are checked whole at each revision, larger ones at every thousandth.
const SMALL_CELL: u64 = 4000;
/// How often a core is begun in the middle, at most: each time takes time in proportion to the cell. Then the next start is waited for.
const BEGUN_MAX: u32 = 1000;

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// At which revision; 0 if that is not known.
    pub revision: Revision,
    /// Where, in words.
    pub place: String,
    /// What was expected, and what was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}: {} ({})", self.revision, self.what, self.place)
    }
}

/// How an entry was decided, as its batch says.
pub(super) struct Origin {
    pub(super) core_version: u32,
    pub(super) core_options: Option<v1::CoreOptions>,
    pub(super) time_micros: i64,
}

/// A core that decides again.
struct Again {
    core: Core,
    /// It began where the server did, so it remembers and numbers as the server did: each byte must be the same. Otherwise it began in the
    /// middle, from a checkpoint or behind a violation: what is granted, and what else changes, must be the same, but not the rows
    /// that are given out, and not what is said about who took the room.
    exact: bool,
}

/// What has been found so far, and the cell so far.
#[derive(Default)]
pub(super) struct Audit {
    cell: Cell,
    again: Option<Again>,
    /// How often a core was begun in the middle.
    begun: u32,
    broken: bool,
    folded: u64,
    decided_again: u64,
    compared_loosely: u64,
    transactions: u64,
    conflicts: u64,
    violations: Vec<Violation>,
    unlisted: u64,
}

impl Audit {
    pub(super) fn violation(&mut self, revision: Revision, place: &str, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { revision, place: place.to_owned(), what });
        } else {
            self.unlisted += 1;
        }
    }

    /// So many more violations, which were counted and not kept.
    pub(super) fn unlisted(&mut self, violations: u64) {
        self.unlisted += violations;
    }

    pub(super) fn begin_with(&mut self, cell: Cell) {
        self.cell = cell;
    }

    /// The state that deltas are to be folded into is not known (any more).
    pub(super) fn give_up(&mut self) {
        self.broken = true;
        self.again = None;
    }

    /// The revision that was folded last.
    pub(super) fn revision(&self) -> Revision {
        self.cell.revision()
    }

    /// True while the state that deltas are to be folded into is not known.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Goes on from a checkpoint behind what could not be folded.
    pub(super) fn resume_with(&mut self, cell: Cell) {
        self.cell = cell;
        self.broken = false;
    }

    /// Takes the next batch; `each` is called after every revision.
    pub(super) fn batch(&mut self, batch: &LoggedBatch, place: &str, each: &mut dyn FnMut(&mut Self)) {
        let origin = Origin {
            core_version: batch.core_version(),
            core_options: batch.core_options(),
            time_micros: batch.time().micros,
        };
        for revision in batch.revisions() {
            let entry = v1::LogEntry {
                revision: revision.0,
                asked: batch.asked(revision).unwrap_or_default(),
                decided: batch.decided(revision).unwrap_or_default(),
                delta: batch.delta(revision).unwrap_or_default(),
            };
            self.entry(&entry, &origin, place);
            each(self);
        }
    }

    /// Takes the next entry.
    pub(super) fn entry(&mut self, entry: &v1::LogEntry, origin: &Origin, place: &str) {
        let revision = Revision(entry.revision);
        if revision <= self.cell.revision() {
            return;
        }
        if self.broken {
            return self.read_only(entry, place);
        }
        let folded = match delta::decode(entry.delta.clone()) {
            Ok(delta) => delta,
            Err(error) => return self.unfoldable(revision, place, error.to_string()),
        };
        let asked = match command::decode(entry.asked.clone()) {
            Ok(asked) => Some(asked),
            Err(error) => {
                self.violation(revision, place, format!("what was asked can't be read: {error}"));
                None
            }
        };
        self.count(entry);
        let again = asked.filter(|_| origin.core_version == plenum_core::CORE_VERSION);
        self.decide_again(again.as_ref(), entry, &folded, origin, place);
        if let Err(error) = self.cell.apply(&folded) {
            return self.unfoldable(revision, place, error.to_string());
        }
        self.folded += 1;
        self.check(revision, place);
    }

    fn unfoldable(&mut self, revision: Revision, place: &str, what: String) {
        self.violation(revision, place, format!("the delta can't be folded, and nothing after it: {what}"));
        self.give_up();
    }

    fn count(&mut self, entry: &v1::LogEntry) {
        let decision = v1::Decision::decode(entry.decided.clone()).ok();
        let outcome = match decision.and_then(|decision| decision.answer) {
            Some(v1::decision::Answer::Outcome(outcome)) => outcome,
            _ => return,
        };
        self.transactions += 1;
        let conflict = |refusal: &&v1::Refusal| refusal.kind() == v1::RefusalKind::from(RefusalKind::Conflict);
        self.conflicts += outcome.refusals.iter().filter(conflict).count() as u64;
    }

    /// Of what can't be folded, at least each message must be one.
    fn read_only(&mut self, entry: &v1::LogEntry, place: &str) {
        let revision = Revision(entry.revision);
        if let Err(error) = delta::decode(entry.delta.clone()) {
            self.violation(revision, place, format!("what changed can't be read: {error}"));
        }
        if let Err(error) = command::decode(entry.asked.clone()) {
            self.violation(revision, place, format!("what was asked can't be read: {error}"));
        }
    }

    /// Decides what was asked once more, and compares. Not without a request, and not what another version decided.
    fn decide_again(
        &mut self,
        asked: Option<&Request>,
        entry: &v1::LogEntry,
        logged: &Delta,
        origin: &Origin,
        place: &str,
    ) {
        let Some(asked) = asked else {
            self.again = None;
            return;
        };
        self.begin_core(asked, origin);
        let Some(Again { mut core, exact }) = self.again.take() else { return };
        let revision = Revision(entry.revision);
        match core.decide(asked, LogTime::from_micros(origin.time_micros)) {
            Decided::Changed { decision, delta } => {
                self.decided_again += 1;
                self.compared_loosely += u64::from(!exact);
                self.check_step(asked, &decision, &delta, core.cell(), place);
                let different = difference(&decision, &delta, entry);
                let is_violation =
                    if exact { different.is_some() } else { !is_alike(&decision, &delta, entry, logged) };
                if is_violation {
                    let what = different.clone().unwrap_or_else(|| "decided again, it comes out otherwise".to_owned());
                    self.violation(revision, place, what);
                }
                // What is different goes on from what stands in the log, in the middle.
                self.again = different.is_none().then_some(Again { core, exact });
            }
            Decided::Unchanged(decision) => {
                self.violation(revision, place, format!("decided again, it changes nothing: {decision:?}"));
            }
            Decided::Repeated(before) => {
                self.violation(revision, place, format!("decided again, it repeats revision {before}"));
            }
        }
    }

    /// A start of a server begins a core as that one did; where there is none, one is begun in the middle.
    fn begin_core(&mut self, asked: &Request, origin: &Origin) {
        let exact = matches!(asked.command, Command::OpenServer(_));
        if !exact && (self.again.is_some() || self.begun == BEGUN_MAX) {
            return;
        }
        self.begun += u32::from(!exact);
        let options = origin.core_options.as_ref().map_or_else(CoreOptions::default, bounds::from_wire);
        self.again = Some(Again { core: Core::from_cell(self.cell.clone(), options), exact });
    }

    /// Looking at a whole cell takes time in proportion to its rows: also to those of what only waits.
    fn is_checked_whole(&self, revision: Revision) -> bool {
        rows(&self.cell) <= SMALL_CELL || revision.0.is_multiple_of(1000)
    }

    fn check_step(&mut self, asked: &Request, decision: &Decision, delta: &Delta, after: &Cell, place: &str) {
        if !self.is_checked_whole(delta.revision) {
            return;
        }
        let decided = Decided::Changed { decision: decision.clone(), delta: delta.clone() };
        if let Err(violation) = invariants::check_step(&self.cell, asked, &decided, after) {
            self.violation(delta.revision, place, violation.to_string());
        }
    }

    fn check(&mut self, revision: Revision, place: &str) {
        if self.is_checked_whole(revision) {
            self.check_cell(revision, place);
        }
    }

    /// All checks of a cell by itself: one that fails hides none of the others.
    fn check_cell(&mut self, revision: Revision, place: &str) {
        for check in invariants::OF_A_CELL {
            if let Err(violation) = check(&self.cell) {
                self.violation(revision, place, violation.to_string());
            }
        }
    }

    /// Another way to the same revision must have led to the same cell.
    pub(super) fn compare(&mut self, other: &Cell) {
        if self.broken || other.revision() != self.cell.revision() {
            return;
        }
        if let Some(difference) = self.cell.first_difference(other) {
            let what = format!("a checkpoint shows something else than the deltas give: {difference}");
            self.violation(other.revision(), super::HISTORY, what);
        }
    }

    pub(super) fn into_report(mut self, log: &Report, from_revision: u64) -> VerifyReport {
        if !self.broken {
            self.check_cell(self.cell.revision(), "the end");
        }
        VerifyReport {
            cell_id: log.identity.cell.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            incarnation: log.identity.incarnation,
            from_revision,
            to_revision: self.cell.revision().0,
            frames: log.frames,
            folded: self.folded,
            decided_again: self.decided_again,
            compared_loosely: self.compared_loosely,
            transactions: self.transactions,
            conflicts: self.conflicts,
            live_allocations: self.cell.live().into(),
            torn: log.torn.as_ref().map(|cut| cut.damage.to_string()),
            mark: log.mark_damages.first().map(ToString::to_string),
            violations: self.violations,
            violations_unlisted: self.unlisted,
        }
    }
}

/// Rows that the invariants walk; of tables that have been larger, their free rows too.
fn rows(cell: &Cell) -> u64 {
    let tables =
        [cell.live(), cell.machine_rows().len(), cell.job_slots().len(), cell.groups().len(), cell.task_states().len()];
    tables.into_iter().map(u64::from).sum()
}

/// How what was decided again differs from what stands in the log.
fn difference(decision: &Decision, delta: &Delta, entry: &v1::LogEntry) -> Option<String> {
    let decided = v1::Decision::from(decision).encode_to_vec();
    let mut changed = bytes::BytesMut::new();
    delta::encode(delta, &mut changed);
    if delta.revision.0 != entry.revision {
        return Some(format!("decided again, it is revision {}", delta.revision));
    }
    if decided != entry.decided {
        return Some(format!("decided again, the answer is another one: {decision:?}"));
    }
    (changed != entry.delta).then(|| "decided again, other things change".to_owned())
}

/// True if two decisions differ in nothing but rows that were given out, and in what is said about who took the room.
fn is_alike(decision: &Decision, delta: &Delta, entry: &v1::LogEntry, logged: &Delta) -> bool {
    let logged_decision = v1::Decision::decode(entry.decided.clone()).unwrap_or_default();
    without_names(v1::Decision::from(decision)) == without_names(logged_decision)
        && without_rows(delta) == without_rows(logged)
}

/// A decision without ids that were given out, and without reasons of refusals.
fn without_names(mut decision: v1::Decision) -> v1::Decision {
    match &mut decision.answer {
        Some(v1::decision::Answer::Outcome(outcome)) => {
            for placement in &mut outcome.placements {
                placement.allocations.iter_mut().for_each(|id| *id = u64::from(*id > 0));
            }
            for refusal in &mut outcome.refusals {
                let same = (refusal.placement, refusal.claim);
                *refusal = v1::Refusal { placement: same.0, claim: same.1, ..v1::Refusal::default() };
            }
        }
        Some(v1::decision::Answer::Accepted(accepted)) => accepted.id = u64::from(accepted.id > 0),
        _ => {}
    }
    decision
}

/// What is left of a delta's grants when rows are not looked at; of other changes, how many there are.
type WithoutRows = (Vec<(u64, u16, Vec<u32>, Vec<u32>)>, [usize; 5]);

fn without_rows(delta: &Delta) -> WithoutRows {
    let grants = delta.grants.iter();
    let grants =
        grants.map(|grants| (grants.job.to_bits(), grants.group, grants.machines.clone(), grants.tasks.clone()));
    let counts = [delta.machines.len(), delta.jobs.len(), delta.moves.len(), delta.ends.len(), delta.sessions.len()];
    (grants.collect(), counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{Asked, CommitOptions, Committer, Input, Output};
    use plenum_model::CellIdentity;

    fn open_server(term: u64) -> Asked {
        let identity = CellIdentity { cell_id: [7; 16], incarnation: 1, term, custom_resources: Vec::new() };
        Asked::by_server(Command::OpenServer(identity))
    }

    fn open_session(scheduler: &str) -> Asked {
        Asked::by_server(Command::OpenSession { scheduler: scheduler.into() })
    }

    /// The entries of a small log.
    fn entries() -> Vec<v1::LogEntry> {
        let mut committer = Committer::<()>::new(Core::new(CoreOptions::default()), CommitOptions::default());
        for asked in [open_server(1), open_session("batch"), open_session("service")] {
            committer.handle(LogTime::from_micros(5), Input::Request { ticket: None, asked });
        }
        let Some(Output::Write(batch)) = committer.poll() else { panic!("there is something to write") };
        v1::LogBatch::decode(batch.bytes).unwrap().entries
    }

    fn origin(core_version: u32) -> Origin {
        Origin { core_version, core_options: None, time_micros: 5 }
    }

    fn audited(entries: &[v1::LogEntry]) -> Audit {
        let mut audit = Audit::default();
        entries.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION), "here"));
        audit
    }

    #[test]
    fn a_log_as_it_was_written_is_sound() {
        let audit = audited(&entries());
        assert_eq!((audit.violations.len(), audit.folded, audit.decided_again), (0, 3, 3));
    }

    #[test]
    fn another_answer_than_the_rules_give_is_a_violation_and_so_is_another_change() {
        let mut answered = entries();
        answered[1].decided = answered[0].decided.clone();
        let audit = audited(&answered);
        assert_eq!((audit.violations[0].revision, audit.folded), (Revision(2), 3));
        assert!(audit.violations[0].what.starts_with("decided again, the answer is another one"));

        let mut asked = entries();
        asked[2].asked = asked[1].asked.clone();
        let audit = audited(&asked);
        assert_eq!(audit.violations[0].revision, Revision(3));
        assert!(audit.violations[0].what.contains("other things change"), "{}", audit.violations[0]);
    }

    fn submit(count: u32) -> Asked {
        let group = v1::GroupShape {
            name: "work".to_owned(),
            count,
            resources: Some(v1::Resources { cpu_millis: 1, ..v1::Resources::default() }),
            ..v1::GroupShape::default()
        };
        let body = v1::GroupBody {
            name: "work".to_owned(),
            driver: "exec".to_owned(),
            command: vec!["/bin/true".to_owned()],
            ..v1::GroupBody::default()
        };
        let shape = v1::JobShape {
            namespace: "default".to_owned(),
            name: format!("job-{count}"),
            scheduler: "batch".to_owned(),
            kind: v1::JobKind::ToCompletion.into(),
            groups: vec![group],
            ..v1::JobShape::default()
        };
        let spec = v1::JobSpec { shape: Some(shape), body: Some(v1::JobBody { groups: vec![body] }) };
        Asked::by_server(plenum_proto::jobs::submit(spec).unwrap())
    }

    // A million tasks that waited were walked at each revision: the cell counted as small, as nothing was live in it.
    #[test]
    fn a_cell_of_many_waiting_tasks_is_not_checked_whole_at_each_revision() {
        let mut committer = Committer::<()>::new(Core::new(CoreOptions::default()), CommitOptions::default());
        for asked in [open_server(1), submit(10), submit(5000)] {
            committer.handle(LogTime::from_micros(5), Input::Request { ticket: None, asked });
        }
        let Some(Output::Write(batch)) = committer.poll() else { panic!("there is something to write") };
        let mut audit = Audit::default();
        let checked = v1::LogBatch::decode(batch.bytes).unwrap().entries.into_iter().map(|entry| {
            audit.entry(&entry, &origin(plenum_core::CORE_VERSION), "here");
            audit.is_checked_whole(Revision(entry.revision))
        });
        assert_eq!(checked.collect::<Vec<_>>(), [true, true, false]);
        assert_eq!((audit.violations.len(), audit.folded), (0, 3));
        assert!(audit.is_checked_whole(Revision(2000)));
    }

    #[test]
    fn each_violation_is_told_and_not_only_the_first() {
        let mut entries = entries();
        for place in [1, 2] {
            entries[place].decided = Default::default();
        }
        let audit = audited(&entries);
        let places: Vec<_> = audit.violations.iter().map(|violation| violation.revision.0).collect();
        assert_eq!((places.as_slice(), audit.decided_again), ([2, 3].as_slice(), 3));
    }

    #[test]
    fn what_was_decided_with_other_bounds_is_decided_again_with_those() {
        let tight = CoreOptions { sessions_max: 1, ..CoreOptions::default() };
        let logged = Origin { core_options: Some(bounds::to_wire(&tight)), ..origin(plenum_core::CORE_VERSION) };
        let mut audit = Audit::default();
        entries().iter().for_each(|entry| audit.entry(entry, &logged, "here"));
        assert_eq!((audit.violations.len(), audit.violations[0].revision), (1, Revision(3)));
        assert!(audit.violations[0].what.contains("at most 1 sessions"), "{}", audit.violations[0]);
    }

    #[test]
    fn from_a_checkpoint_on_what_was_granted_is_compared_and_not_where() {
        let entries = entries();
        let mut cell = Cell::default();
        cell.apply(&delta::decode(entries[0].delta.clone()).unwrap()).unwrap();
        let mut audit = Audit::default();
        audit.begin_with(cell.clone());
        entries.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION), "here"));
        assert_eq!((audit.violations.len(), audit.folded, audit.decided_again, audit.compared_loosely), (0, 2, 2, 2));

        // Another session than was asked for is another change, also there.
        let mut wrong = entries;
        wrong[1].decided = Default::default();
        let mut audit = Audit::default();
        audit.begin_with(cell);
        wrong.iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION), "here"));
        assert_eq!(audit.violations[0].revision, Revision(2));
    }

    #[test]
    fn what_another_version_decided_is_folded_and_not_decided_again() {
        let mut audit = Audit::default();
        entries().iter().for_each(|entry| audit.entry(entry, &origin(plenum_core::CORE_VERSION + 1), "here"));
        assert_eq!((audit.violations.len(), audit.folded, audit.decided_again), (0, 3, 0));
    }

    #[test]
    fn a_delta_that_is_missing_ends_the_folding_with_its_place() {
        let mut entries = entries();
        entries.remove(1);
        let audit = audited(&entries);
        assert_eq!((audit.folded, audit.violations.len(), audit.broken), (1, 2, true));
        assert!(audit.violations[1].what.contains("expected revision 2, found 3"), "{}", audit.violations[1]);
    }
}
