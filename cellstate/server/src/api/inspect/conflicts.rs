//! Conflicts as they are listed: those that pass a filter, grouped, under the names of their time.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_history::{ConflictRow, Counts, GroupBy, History, Lost, ReadError};
use plenum_model::Cell;
use plenum_proto::{filters, v1};

use crate::api::failure::Failure;
use crate::api::listing::{self, Filter};
use crate::api::past::names;
use crate::metrics;

/// Its job as rows have it, with the namespace: what a value of "job" is held against that has one.
const FULL_NAME: &str = "namespace/job";
/// Names of machines and of jobs that are remembered while a filter is held against conflicts.
const NAMES_MAX: usize = 10_000;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Conflicts {
    by: GroupBy,
    /// Of jobs of this one alone; empty: of all.
    namespace: String,
    filter: Filter,
    since_micros: i64,
    limit: usize,
}

impl Conflicts {
    /// Reads what is asked for. `rows_max` is the server's own limit; `given` are the names that its operator gave to resources.
    pub(super) fn read(wire: &v1::ListConflictsRequest, rows_max: u32, given: &[Arc<str>]) -> Result<Self, Failure> {
        let by = match wire.by.as_str() {
            "" | "pair" => GroupBy::Pair,
            "machine" => GroupBy::Machine,
            "job" => GroupBy::Job,
            "resource" => GroupBy::Resource,
            other => {
                let message = format!("by: expected pair, machine, job or resource, found {other:?}");
                return Err(Failure::invalid(message));
            }
        };
        // The last one stands for none: what was lost for another reason than room.
        let resources: Vec<_> = (1..=v1::ResourceName::Custom5 as i32).map(metrics::resource).chain([""]).collect();
        let word = |name: &str| (v1::ResourceName::Custom1 as i32..).zip(given).find(|(_, given)| ***given == *name);
        let filter = Filter::parse(&wire.filter, filters::CONFLICTS)?
            .reworded("resource", |name| word(name).map(|(number, _)| metrics::resource(number)))
            .with_words("resource", &resources)?
            .with_full_names("job", FULL_NAME);
        let limit = listing::limit(wire.limit, rows_max);
        Ok(Self { by, namespace: wire.namespace.clone(), filter, since_micros: wire.since_micros, limit })
    }

    /// Lists what was lost up to the cell's revision, as far as the history has come.
    pub(super) fn list(&self, history: &History, cell: &Cell) -> Result<v1::ListConflictsResponse, Failure> {
        // Of the present it may lack the end.
        let revision = cell.revision().0.min(history.newest_revision());
        let mut names = Names { history, cell, machines: BTreeMap::new(), jobs: BTreeMap::new() };
        let mut failed = None;
        let mut passes = |lost: &Lost| {
            let passes = if failed.is_none() { self.passes(&mut names, lost) } else { Ok(false) };
            passes.unwrap_or_else(|failure| {
                failed = Some(failure);
                false
            })
        };
        let is_all = self.namespace.is_empty() && self.filter.is_empty();
        let counts: Counts<'_> = if is_all { None } else { Some(&mut passes) };
        let table = history.conflicts(self.since_micros, revision, self.by, self.limit, counts);
        let table = table.map_err(|error| Failure::history(&error))?;
        if let Some(failure) = failed {
            return Err(failure);
        }
        let rows = table.rows.into_iter().map(|row| in_words(history, cell, row)).collect();
        // Looked at last: what was retired meanwhile is missing, too.
        let oldest_revision = if self.is_missing_some(history)? { history.oldest_revision() } else { 0 };
        let retired = if oldest_revision > 0 { Some(self.retired(history)?) } else { None };
        Ok(v1::ListConflictsResponse { revision, rows, truncated: table.truncated, oldest_revision, retired })
    }

    /// Whether something that was lost is asked for.
    fn passes(&self, names: &mut Names<'_>, lost: &Lost) -> Result<bool, Failure> {
        if !self.namespace.is_empty() && names.of(lost, "namespace")? != self.namespace {
            return Ok(false);
        }
        let mut failed = None;
        let passes = self.filter.passes(|field| names.of(lost, field).map_err(|failure| failed = Some(failure)).ok());
        failed.map_or(Ok(passes), Err)
    }

    /// What is known of what is retired, but for days that ended before the time that is asked for.
    fn retired(&self, history: &History) -> Result<v1::RetiredPast, Failure> {
        let mut past = history.retired().map_err(|error| Failure::history(&error))?;
        past.days.retain(|day| self.since_micros == 0 || day.to_micros >= self.since_micros);
        Ok(past)
    }

    /// Whether something of the time that is asked for is not retained any more.
    fn is_missing_some(&self, history: &History) -> Result<bool, Failure> {
        if self.since_micros == 0 {
            return Ok(history.oldest_revision() > 1);
        }
        match history.revision_at_time(self.since_micros.saturating_sub(1)) {
            Ok(_) | Err(ReadError::BeforeFirst) => Ok(false),
            Err(ReadError::TimeRetired { .. }) => Ok(true),
            Err(error) => Err(Failure::history(&error)),
        }
    }
}

fn in_words(history: &History, cell: &Cell, row: ConflictRow) -> v1::ConflictRow {
    let machine = row.group.machine;
    let machine =
        machine.and_then(|slot| names::machine_then(history, cell, slot, row.newest_revision, row.newest_micros));
    let job = names::job(history, cell, row.group.job);
    v1::ConflictRow {
        loser: row.group.loser,
        winner: row.group.winner,
        machine: machine.unwrap_or_default(),
        job: job.unwrap_or_default(),
        resource: metrics::resource(row.group.resource).to_owned(),
        transactions: row.transactions,
        claims: row.claims,
        median_staleness_revisions: row.median_staleness_revisions,
        wasted_micros: row.wasted_micros,
        session: row.session,
        number: row.number,
    }
}

/// What machines and jobs are called in the rows, each looked up once.
struct Names<'a> {
    history: &'a History,
    cell: &'a Cell,
    /// By slot and id: a slot has others after each other.
    machines: BTreeMap<(u32, u64), String>,
    jobs: BTreeMap<u64, String>,
}

impl Names<'_> {
    /// The word of what was lost for one of [`filters::CONFLICTS`], or for [`FULL_NAME`]; empty as in a row. An error where a name can't be looked up.
    fn of(&mut self, lost: &Lost, field: &str) -> Result<String, Failure> {
        let (history, cell, group) = (self.history, self.cell, &lost.group);
        Ok(match field {
            "loser" => group.loser.clone(),
            "winner" => group.winner.clone(),
            "resource" => metrics::resource(group.resource).to_owned(),
            "job" | "namespace" | FULL_NAME => {
                let full = once(&mut self.jobs, group.job, || names::find_job(history, cell, group.job))?;
                let (namespace, name) = full.split_once('/').unwrap_or_default();
                match field {
                    "job" => name.to_owned(),
                    "namespace" => namespace.to_owned(),
                    _ => full,
                }
            }
            _ => {
                let Some(slot) = group.machine else { return Ok(String::new()) };
                let name = || names::find_machine_then(history, cell, slot, lost.revision, lost.time_micros);
                match group.machine_id {
                    // It may be another one each time.
                    0 => name()?.unwrap_or_default(),
                    id => once(&mut self.machines, (slot, id), name)?,
                }
            }
        })
    }
}

fn once<K: Ord>(
    known: &mut BTreeMap<K, String>,
    key: K,
    name: impl FnOnce() -> Result<Option<String>, Failure>,
) -> Result<String, Failure> {
    if let Some(name) = known.get(&key) {
        return Ok(name.clone());
    }
    let name = name()?.unwrap_or_default();
    if known.len() >= NAMES_MAX {
        known.clear();
    }
    known.insert(key, name.clone());
    Ok(name)
}

#[cfg(test)]
mod tests {
    use plenum_history::ConflictGroup;
    use plenum_model::{Delta, LogTime, Machine, MachineState, Revision};

    use super::*;

    // It said that there were no conflicts, also of days that are not retained.
    #[test]
    fn conflicts_from_before_what_is_retained_are_told_to_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let history = crate::api::past::tests::retiring(dir.path());
        let asked = |since_micros| {
            let wire = v1::ListConflictsRequest { since_micros, ..Default::default() };
            let conflicts = Conflicts::read(&wire, 10, &[]).unwrap();
            conflicts.list(&history, &Cell::default()).unwrap().oldest_revision
        };
        assert_eq!((asked(0), asked(1)), (0, 0));
        // All of them are of the first microsecond, and with this all but the last one are retired.
        history.entry(4).unwrap();
        assert_eq!((history.oldest_revision(), asked(0), asked(1), asked(2)), (4, 4, 4, 0));
    }

    // Nothing was known of what was retired but that it had been.
    #[test]
    fn what_is_retired_is_told_by_its_days_since_the_time_that_is_asked_for() {
        const DAY: i64 = 24 * 3600 * 1_000_000;
        let dir = tempfile::tempdir().unwrap();
        let deltas: Vec<_> = (1..=4_u64)
            .map(|revision| {
                Delta::new(Revision(revision), LogTime::from_micros(DAY * (revision / 3).cast_signed() + 9))
            })
            .collect();
        let (history, _) = crate::api::past::tests::retiring_at(dir.path(), &deltas, 0);
        let asked = |since_micros| {
            let wire = v1::ListConflictsRequest { since_micros, ..Default::default() };
            let conflicts = Conflicts::read(&wire, 10, &[]).unwrap();
            conflicts.list(&history, &Cell::default()).unwrap().retired
        };
        assert_eq!(asked(0), None);
        // With this all but the last one are retired.
        history.entry(4).unwrap();
        let told = |since_micros| {
            let past = asked(since_micros).unwrap();
            let days = past.days.iter().map(|day| (day.first_revision, day.last_revision, day.transactions));
            (days.collect::<Vec<_>>(), past.uncounted_revisions)
        };
        assert_eq!(told(0), (vec![(1, 2, 2), (3, 3, 1)], 0));
        assert_eq!((told(9), told(10)), (told(0), (vec![(3, 3, 1)], 0)));
        assert_eq!(asked(DAY + 10), None, "nothing is missing from then on");
    }

    // What could not be looked up while the store was opened again was passed over, and nothing was said to have been lost.
    #[test]
    fn a_conflict_whose_names_can_not_be_looked_up_now_is_not_left_out_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = History::open(folder.path(), plenum_history::Options::new(vec![7; 16])).unwrap();
        let cell = Cell::default();
        let group = ConflictGroup { machine: Some(3), machine_id: 1 << 32 | 3, job: 7, ..Default::default() };
        let lost = Lost { group, revision: 1, time_micros: 1 };
        let passes = |names: &mut Names<'_>, filter: &str, namespace: &str| {
            let (filter, namespace) = (filter.to_owned(), namespace.to_owned());
            let wire = v1::ListConflictsRequest { filter, namespace, ..Default::default() };
            Conflicts::read(&wire, 10, &[]).unwrap().passes(names, &lost)
        };
        let mut names = Names { history: &history, cell: &cell, machines: BTreeMap::new(), jobs: BTreeMap::new() };
        let asked = [("job=web", ""), ("job!=ml/web", ""), ("machine!=m1", ""), ("", "ml")];
        names::tests::while_closed(folder.path(), &history, || {
            for (filter, namespace) in asked {
                let failure = passes(&mut names, filter, namespace).unwrap_err();
                assert_eq!(failure.code, "HISTORY_BEHIND", "{filter}");
            }
            assert!(passes(&mut names, "winner!=web", "").unwrap(), "it is looked up where that matters");
        });
        let passed = asked.map(|(filter, namespace)| passes(&mut names, filter, namespace).unwrap());
        assert_eq!(passed, [false, true, true, false], "nothing has these names");
    }

    // When the newest one was decided was looked for in the log: a block of it was read for each of up to ten thousand rows.
    #[test]
    fn the_machine_of_a_conflict_is_named_without_a_look_into_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = History::open(folder.path(), plenum_history::Options::new(vec![7; 16])).unwrap();
        let registered = LogTime::from_micros(100);
        let machine = Machine { name: "m1".into(), registered, ..crate::agents::machine(3, 1, MachineState::Ready) };
        let mut delta = Delta::new(Revision(1), registered);
        delta.machines.push(Arc::new(machine));
        let mut cell = Cell::default();
        cell.apply(&delta).unwrap();
        let named = |newest_micros| {
            let group = ConflictGroup { machine: Some(3), ..Default::default() };
            let row = ConflictRow {
                group,
                transactions: 1,
                claims: 1,
                median_staleness_revisions: 0,
                wasted_micros: 0,
                newest_revision: 9,
                newest_micros,
                session: 1,
                number: 1,
            };
            in_words(&history, &cell, row).machine
        };
        assert_eq!((named(100), named(99)), ("m1".to_owned(), String::new()));
    }
}
