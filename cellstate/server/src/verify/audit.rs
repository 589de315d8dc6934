//! The check of revision after revision: fold, decide again, compare, and look at the invariants.

mod compare;

use std::collections::BTreeMap;
use std::fmt;

use plenum_core::{Core, CoreOptions, Decided, invariants};
use plenum_journal::Report;
use plenum_model::{Cell, Command, Decision, Delta, LogTime, RefusalKind, Rejection, RejectionCode, Request, Revision};
use plenum_proto::{ReadError, command, delta, v1};
use prost::Message;

use super::VerifyReport;
use crate::commit::bounds;
use crate::error::{ServerError, told};
use crate::publish::LoggedBatch;
use crate::recovery::LOG;
use compare::{difference, is_alike, is_same_change};

/// Violations that are listed; a directory that is badly damaged has too many to read.
const VIOLATIONS_MAX: usize = 1000;
/// Cells of up to so many rows are checked whole at each revision, larger ones when the entries since the last check took about as long as
/// looking at all rows does. An entry takes as long as so many rows, and its delta as one more for each so many bytes.
const SMALL_CELL: u64 = 4000;
const ROWS_AN_ENTRY: u64 = 16;
const DELTA_BYTES_A_ROW: u64 = 16;
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
    /// middle, from a checkpoint or behind a violation: what is granted, and what else changes, must be the same, but not the rows and
    /// numbers that are given out, and not what is said about who took the room.
    exact: bool,
    /// The revision that it began with: what changed until then, of which answers can depend, it does not know.
    began: Revision,
    /// Nor does it know that where it began as the server did, as another version may have counted other changes of machines until then.
    has_others: bool,
}

impl Again {
    /// Whether it knows all that the answer depends on: what changed since the request was made up.
    fn can_judge(&self, asked: &Request) -> bool {
        match &asked.command {
            Command::Commit(txn, _) => (self.exact && !self.has_others) || txn.base >= self.began,
            _ => true,
        }
    }

    /// Goes on with what a transaction changed that it can't judge, where it comes to the same: as it was asked, or as if nobody had changed
    /// anything since, as the server may have known. `None`: neither is what stands in the log, so what follows needs a core that begins there.
    fn follow(mut self, asked: &Request, entry: &v1::LogEntry, now: LogTime) -> Option<Self> {
        let mut asked = asked.clone();
        for _ in 0..2 {
            let accepts = |_: &Decision, delta: &Delta| match is_same_change(delta, entry) {
                true => Ok(()),
                false => Err(Rejection::new(RejectionCode::InvalidRequest, "the log has another change")),
            };
            if let Decided::Changed { .. } = self.core.decide_if(&asked, now, accepts) {
                return Some(self);
            }
            let Command::Commit(txn, _) = &mut asked.command else { return None };
            txn.base = self.core.cell().revision();
        }
        None
    }
}

/// What has been found so far, and the cell so far.
#[derive(Default)]
pub(crate) struct Audit {
    cell: Cell,
    again: Option<Again>,
    /// How often a core was begun in the middle.
    begun: u32,
    broken: bool,
    /// What another version of the core decided was folded since the last checkpoint of the history: that one may have counted other changes of
    /// machines.
    has_others: bool,
    /// How many rows could have been looked at for what the entries took since the cell was last checked whole.
    rows_owed: u64,
    /// The cell is checked whole behind the revision that is folded now, as it is decided and as it is folded.
    checks_whole: bool,
    folded: u64,
    decided_again: u64,
    not_decided_again: u64,
    by_other_versions: BTreeMap<u32, u64>,
    compared_loosely: u64,
    transactions: u64,
    conflicts: u64,
    violations: Vec<Violation>,
    unlisted: u64,
    /// What kept something from being looked at first: it may be sound, and so may all; and how many violations had been found by then. What was found behind
    /// it may come of it.
    obstacle: Option<(ServerError, usize)>,
}

impl Audit {
    /// Something can't be read: because it is damaged, which is a violation, or because something keeps it from being looked at.
    pub(super) fn unreadable(&mut self, revision: Revision, place: &str, what: String, error: ServerError) {
        if error.may_be_sound() {
            self.obstacle.get_or_insert((error, self.violations.len()));
        } else {
            self.violation(revision, place, what);
        }
    }

    pub(super) fn violation(&mut self, revision: Revision, place: &str, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { revision, place: place.to_owned(), what });
        } else {
            self.unlisted += 1;
        }
    }

    /// What was found so far.
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// So many more violations, which were counted and not kept.
    pub(super) fn unlisted(&mut self, violations: u64) {
        self.unlisted += violations;
    }

    /// Begins with this state, whatever was folded before: what was decided again up to there does not lead on to it.
    pub(super) fn begin_with(&mut self, cell: Cell) {
        self.cell = cell;
        self.again = None;
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
    pub(crate) fn batch(&mut self, batch: &LoggedBatch, place: &str, each: &mut dyn FnMut(&mut Self)) {
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
        let expected = self.cell.revision().next();
        if revision != expected {
            // Nothing is decided again on a state from before what is missing.
            return self.unfoldable(revision, place, format!("expected revision {expected}, found {revision}"));
        }
        let folded = match delta::decode_whole(entry.delta.clone()) {
            Ok(delta) => delta,
            Err(error) => {
                self.undecodable(revision, place, "the delta can't be folded, and nothing after it", &error);
                return self.give_up();
            }
        };
        let asked = match command::decode(entry.asked.clone()) {
            Ok(asked) => Some(asked),
            // Only a later version can be asked for it: it is not decided again.
            Err(ReadError::Newer { .. }) => None,
            Err(error) => {
                self.violation(revision, place, format!("what was asked can't be read: {error}"));
                None
            }
        };
        self.count(entry);
        let is_ours = origin.core_version == plenum_core::CORE_VERSION;
        if !is_ours {
            self.has_others = true;
            *self.by_other_versions.entry(origin.core_version).or_default() += 1;
        }
        self.rows_owed += ROWS_AN_ENTRY + entry.delta.len() as u64 / DELTA_BYTES_A_ROW;
        let rows = rows(&self.cell);
        self.checks_whole = rows <= SMALL_CELL || self.rows_owed >= rows;
        let again = asked.filter(|_| is_ours);
        self.decide_again(again.as_ref(), entry, &folded, origin, place);
        if let Err(error) = self.cell.apply(&folded) {
            return self.unfoldable(revision, place, error.to_string());
        }
        self.folded += 1;
        self.check(revision, place);
    }

    /// A delta is no message, or has what a later version knows.
    fn undecodable(&mut self, revision: Revision, place: &str, what: &str, error: &ReadError) {
        self.unreadable(revision, place, format!("{what}: {error}"), ServerError::unread(revision, error));
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
        if let Err(error) = delta::decode_whole(entry.delta.clone()) {
            self.undecodable(revision, place, "what changed can't be read", &error);
        }
        if let Err(error) = command::decode(entry.asked.clone())
            && !matches!(error, ReadError::Newer { .. })
        {
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
            self.not_decided_again += 1;
            return;
        };
        self.begin_core(asked, origin);
        let Some(mut again) = self.again.take() else {
            self.not_decided_again += 1;
            return;
        };
        let (revision, now) = (Revision(entry.revision), LogTime::from_micros(origin.time_micros));
        if !again.exact {
            // Otherwise each page of rows that is begun would need another core, which costs what was known until then.
            again.core.foretell_rows(&logged.grants);
        }
        if !again.can_judge(asked) {
            self.not_decided_again += 1;
            self.again = again.follow(asked, entry, now);
            return;
        }
        let exact = again.exact;
        // What is due goes by when the server opened, too, and by what it did in its last minute: nobody knows that in the middle.
        let excused = !exact && matches!(asked.command, Command::Tick);
        match again.core.decide(asked, now) {
            Decided::Changed { decision, delta } => {
                self.check_step(asked, &decision, &delta, again.core.cell(), place);
                let different = difference(&decision, &delta, entry);
                let is_violation =
                    if exact { different.is_some() } else { !is_alike(&decision, &delta, entry, logged) };
                if is_violation && excused {
                    self.not_decided_again += 1;
                } else {
                    self.decided_again += 1;
                    self.compared_loosely += u64::from(!exact);
                }
                if is_violation && !excused {
                    let what = different.clone().unwrap_or_else(|| "decided again, it comes out otherwise".to_owned());
                    self.violation(revision, place, what);
                }
                // What is different goes on from what stands in the log, in the middle. There another answer alone is no reason to
                // begin anew, which costs what was known until then.
                let goes_on = different.is_none() || (!exact && is_same_change(&delta, entry));
                self.again = goes_on.then_some(again);
            }
            Decided::Unchanged(_) if excused => self.not_decided_again += 1,
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
        let (began, has_others) = (self.cell.revision(), self.has_others);
        self.again = Some(Again { core: Core::from_cell(self.cell.clone(), options), exact, began, has_others });
    }

    fn check_step(&mut self, asked: &Request, decision: &Decision, delta: &Delta, after: &Cell, place: &str) {
        if !self.checks_whole {
            return;
        }
        let decided = Decided::Changed { decision: decision.clone(), delta: delta.clone() };
        if let Err(violation) = invariants::check_step(&self.cell, asked, &decided, after) {
            self.violation(delta.revision, place, violation.to_string());
        }
    }

    fn check(&mut self, revision: Revision, place: &str) {
        if self.checks_whole {
            self.rows_owed = 0;
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

    /// A checkpoint of the history must show what the deltas give, and it is gone on from: a later server has counted from there, too.
    pub(super) fn compare_checkpoint(&mut self, checkpoint: Cell, place: &str) {
        if self.compare(&checkpoint, place) && self.has_others {
            self.cell = checkpoint;
            self.has_others = false;
        }
    }

    /// Another way to the same revision must have led to the same cell. True if it did.
    pub(super) fn compare(&mut self, other: &Cell, place: &str) -> bool {
        if self.broken || other.revision() != self.cell.revision() {
            return false;
        }
        let difference = if self.has_others {
            self.cell.first_difference_but_last_changes(other)
        } else {
            self.cell.first_difference(other)
        };
        let Some(difference) = difference else { return true };
        let what = format!("a checkpoint shows something else than the deltas give: {difference}");
        self.violation(other.revision(), place, what);
        false
    }

    /// What was found. Of what could not be looked at nothing is said, but that: where nothing wrong was found before it, it is the error.
    pub(super) fn into_report(mut self, log: &Report, from_revision: u64) -> Result<VerifyReport, ServerError> {
        let not_looked_at = match self.obstacle.take() {
            Some((obstacle, 0)) => return Err(obstacle),
            Some((obstacle, sure)) => {
                self.violations.truncate(sure);
                Some(told(&obstacle))
            }
            None => None,
        };
        if !self.broken {
            self.check_cell(self.cell.revision(), &format!("{LOG}: the end"));
        }
        Ok(VerifyReport {
            cell_id: log.identity.cell.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            incarnation: log.identity.incarnation,
            from_revision,
            to_revision: self.cell.revision().0,
            frames: log.frames,
            folded: self.folded,
            decided_again: self.decided_again,
            not_decided_again: self.not_decided_again,
            by_other_versions: self.by_other_versions,
            compared_loosely: self.compared_loosely,
            transactions: self.transactions,
            conflicts: self.conflicts,
            live_allocations: self.cell.live().into(),
            torn: log.torn.as_ref().map(|cut| cut.damage.to_string()),
            mark: log.mark_damages.first().map(ToString::to_string),
            fallback: None,
            not_looked_at,
            violations: self.violations,
            violations_unlisted: self.unlisted,
        })
    }
}

/// Rows that the invariants walk; of tables that have been larger, their free rows too.
fn rows(cell: &Cell) -> u64 {
    let tables =
        [cell.live(), cell.machine_rows().len(), cell.job_slots().len(), cell.groups().len(), cell.task_states().len()];
    tables.into_iter().map(u64::from).sum()
}

#[cfg(test)]
mod tests;
