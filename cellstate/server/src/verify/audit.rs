//! The check of revision after revision: fold, decide again, compare, and look at the invariants.

use std::fmt;

use plenum_core::{Core, CoreOptions, Decided, invariants};
use plenum_journal::Report;
use plenum_model::{Cell, Command, Decision, Delta, LogTime, RefusalKind, Request, Revision};
use plenum_proto::{command, delta, v1};
use prost::Message;

use super::VerifyReport;
use crate::publish::LoggedBatch;

/// Violations that are listed; a directory that is badly damaged has too many to read.
const VIOLATIONS_MAX: usize = 1000;
/// Cells of up to so many live allocations are checked whole at each revision, larger ones at every thousandth.
const SMALL_CELL: u32 = 1000;

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

/// What has been found so far, and the cell so far.
#[derive(Default)]
pub(super) struct Audit {
    cell: Cell,
    /// Decides again, from the first start of a server on: before that, nobody knows what it remembered.
    core: Option<Core>,
    broken: bool,
    folded: u64,
    decided_again: u64,
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

    pub(super) fn begin_with(&mut self, cell: Cell) {
        self.cell = cell;
    }

    /// The state that deltas are to be folded into is not known (any more).
    pub(super) fn give_up(&mut self) {
        self.broken = true;
        self.core = None;
    }

    pub(super) fn batch(&mut self, batch: &LoggedBatch, place: &str) {
        for revision in batch.revisions() {
            let entry = v1::LogEntry {
                revision: revision.0,
                asked: batch.asked(revision).unwrap_or_default(),
                decided: batch.decided(revision).unwrap_or_default(),
                delta: batch.delta(revision).unwrap_or_default(),
            };
            self.entry(&entry, batch.core_version(), batch.time().micros, place);
        }
    }

    /// Takes the next entry.
    pub(super) fn entry(&mut self, entry: &v1::LogEntry, core_version: u32, time_micros: i64, place: &str) {
        let revision = Revision(entry.revision);
        if self.broken || revision <= self.cell.revision() {
            return;
        }
        let time = LogTime::from_micros(time_micros);
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
        let again = asked.filter(|_| core_version == plenum_core::CORE_VERSION);
        self.decide_again(again.as_ref(), entry, time, place);
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

    /// Decides what was asked once more, and compares. Without a request, or after one of another version, the core's memory is not
    /// that of the server any more: it waits for the next start of one.
    fn decide_again(&mut self, asked: Option<&Request>, entry: &v1::LogEntry, time: LogTime, place: &str) {
        let Some(asked) = asked else {
            self.core = None;
            return;
        };
        if matches!(asked.command, Command::OpenServer(_)) {
            self.core = Some(Core::from_cell(self.cell.clone(), CoreOptions::default()));
        }
        let Some(mut core) = self.core.take() else { return };
        let revision = Revision(entry.revision);
        match core.decide(asked, time) {
            Decided::Changed { decision, delta } => {
                self.decided_again += 1;
                self.check_step(asked, &decision, &delta, core.cell(), place);
                if let Some(what) = difference(&decision, &delta, entry) {
                    self.violation(revision, place, what);
                    return;
                }
                self.core = Some(core);
            }
            Decided::Unchanged(decision) => {
                self.violation(revision, place, format!("decided again, it changes nothing: {decision:?}"));
            }
            Decided::Repeated(before) => {
                self.violation(revision, place, format!("decided again, it repeats revision {before}"));
            }
        }
    }

    /// Looking at a whole cell takes time in proportion to its size.
    fn is_checked_whole(&self, revision: Revision) -> bool {
        self.cell.live() <= SMALL_CELL || revision.0.is_multiple_of(1000)
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
        if self.is_checked_whole(revision)
            && let Err(violation) = invariants::check_cell(&self.cell)
        {
            self.violation(revision, place, violation.to_string());
        }
    }

    /// Another way to the same revision must have led to the same cell.
    pub(super) fn compare(&mut self, other: &Cell) {
        if self.broken || other.revision() != self.cell.revision() {
            return;
        }
        if let Some(difference) = self.cell.first_difference(other) {
            let what = format!("the newest checkpoint shows something else than the deltas give: {difference}");
            self.violation(other.revision(), super::HISTORY, what);
        }
    }

    pub(super) fn into_report(mut self, log: &Report, from_revision: u64) -> VerifyReport {
        if !self.broken
            && let Err(violation) = invariants::check_cell(&self.cell)
        {
            self.violation(self.cell.revision(), "the end", violation.to_string());
        }
        VerifyReport {
            cell_id: log.identity.cell.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            incarnation: log.identity.incarnation,
            from_revision,
            to_revision: self.cell.revision().0,
            frames: log.frames,
            folded: self.folded,
            decided_again: self.decided_again,
            transactions: self.transactions,
            conflicts: self.conflicts,
            live_allocations: self.cell.live().into(),
            torn: log.torn.as_ref().map(|cut| cut.damage.to_string()),
            violations: self.violations,
            violations_unlisted: self.unlisted,
        }
    }
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

    fn audited(entries: &[v1::LogEntry]) -> Audit {
        let mut audit = Audit::default();
        entries.iter().for_each(|entry| audit.entry(entry, plenum_core::CORE_VERSION, 5, "here"));
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

    #[test]
    fn a_delta_that_is_missing_ends_the_folding_with_its_place() {
        let mut entries = entries();
        entries.remove(1);
        let audit = audited(&entries);
        assert_eq!((audit.folded, audit.violations.len(), audit.broken), (1, 2, true));
        assert!(audit.violations[1].what.contains("expected revision 2, found 3"), "{}", audit.violations[1]);
    }
}
