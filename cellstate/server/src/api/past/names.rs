//! Names for the numbers that transactions and deltas speak of: the cell's own or, of what it has no more, those that the history
//! remembers.
//!
//! Who shows a name does without one that can't be looked up. What is passed or left out by its name is found, or it is an error, also where its row is
//! damaged: it would be left out without a word.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use plenum_history::{BlockSummary, History, Logged, Order, Subject};
use plenum_model::{Cell, JobChange, JobId, SessionId};

use super::ended::delta_of;
use crate::api::failure::Failure;

/// The scheduler of a session, closed ones included, as far as the history goes; empty where it is not known, or can't be looked up now.
pub(in crate::api) fn scheduler(history: &History, cell: &Cell, session: u64) -> String {
    find_scheduler(history, cell, session).unwrap_or_default()
}

/// The same; an error where it can't be looked up.
fn find_scheduler(history: &History, cell: &Cell, session: u64) -> Result<String, Failure> {
    if let Some(found) = cell.session(SessionId(session)) {
        return Ok(found.scheduler.to_string());
    }
    let found = history.session(session).map_err(|error| Failure::history(&error))?.found();
    Ok(found.map(|opened| opened.scheduler).unwrap_or_default())
}

/// The machine that was in a slot at a revision, which was decided at that time. A slot is given away again, and transactions and deltas
/// speak of slots: a machine that came later is not the one that was meant, and a number is better than a wrong name.
pub(in crate::api) fn machine_then(
    history: &History,
    cell: &Cell,
    slot: u32,
    revision: u64,
    time_micros: i64,
) -> Option<String> {
    let found = find_machine_then(history, cell, slot, revision, time_micros);
    found.unwrap_or_else(|_| machine_of_cell(cell, slot, time_micros))
}

/// The same; an error where it can't be looked up.
pub(in crate::api) fn find_machine_then(
    history: &History,
    cell: &Cell,
    slot: u32,
    revision: u64,
    time_micros: i64,
) -> Result<Option<String>, Failure> {
    let found = history.machine_name(slot, revision).map_err(|error| Failure::history(&error))?;
    Ok(found.map(|found| found.name).or_else(|| machine_of_cell(cell, slot, time_micros)))
}

fn machine_of_cell(cell: &Cell, slot: u32, time_micros: i64) -> Option<String> {
    let machine = cell.machine_in(slot).filter(|machine| machine.registered.micros <= time_micros);
    machine.map(|machine| machine.name.to_string())
}

/// Names of a kind that are remembered: of all machines of a large cell.
const NAMES_MAX: usize = 1 << 16;

/// What schedulers, jobs and machines are called in a listing of what speaks of the same ones again and again: each is looked up once.
pub(in crate::api) struct Names<'a> {
    history: &'a History,
    cell: &'a Cell,
    /// By session.
    schedulers: BTreeMap<u64, String>,
    /// By id.
    jobs: BTreeMap<u64, Option<String>>,
    /// By slot: what the history calls the machine there, and at which revisions.
    machines: BTreeMap<u32, (Option<String>, RangeInclusive<u64>)>,
}

impl<'a> Names<'a> {
    pub(in crate::api) const fn new(history: &'a History, cell: &'a Cell) -> Self {
        Self { history, cell, schedulers: BTreeMap::new(), jobs: BTreeMap::new(), machines: BTreeMap::new() }
    }

    /// As [`scheduler`].
    pub(in crate::api) fn scheduler(&mut self, session: u64) -> String {
        self.find_scheduler(session).unwrap_or_default()
    }

    /// The same; an error where it can't be looked up.
    pub(in crate::api) fn find_scheduler(&mut self, session: u64) -> Result<String, Failure> {
        if let Some(known) = self.schedulers.get(&session) {
            return Ok(known.clone());
        }
        let found = find_scheduler(self.history, self.cell, session)?;
        remember(&mut self.schedulers, session, found.clone());
        Ok(found)
    }

    /// As [`job`].
    pub(in crate::api) fn job(&mut self, id: u64) -> Option<&str> {
        self.find_job(id).ok().flatten()
    }

    /// As [`find_job`].
    pub(in crate::api) fn find_job(&mut self, id: u64) -> Result<Option<&str>, Failure> {
        if !self.jobs.contains_key(&id) {
            let found = find_job(self.history, self.cell, id)?;
            remember(&mut self.jobs, id, found);
        }
        Ok(self.jobs.get(&id).and_then(Option::as_deref))
    }

    /// Spares a test the history and the cell in which the name would be looked up.
    #[cfg(test)]
    pub(in crate::api) fn know_job(&mut self, id: u64, full: &str) {
        self.jobs.insert(id, Some(full.to_owned()));
    }

    /// As [`machine_then`].
    pub(in crate::api) fn machine_then(&mut self, slot: u32, revision: u64, time_micros: i64) -> Option<String> {
        let found = self.find_machine_then(slot, revision, time_micros);
        found.unwrap_or_else(|_| machine_of_cell(self.cell, slot, time_micros))
    }

    /// As [`find_machine_then`].
    pub(in crate::api) fn find_machine_then(
        &mut self,
        slot: u32,
        revision: u64,
        time_micros: i64,
    ) -> Result<Option<String>, Failure> {
        let known = self.machines.get(&slot).filter(|(_, revisions)| revisions.contains(&revision));
        let name = match known {
            Some((name, _)) => name.clone(),
            None => self.look_up(slot, revision)?,
        };
        Ok(name.or_else(|| machine_of_cell(self.cell, slot, time_micros)))
    }

    fn look_up(&mut self, slot: u32, revision: u64) -> Result<Option<String>, Failure> {
        let found = self.history.machine_name_around(slot, revision);
        let (found, revisions) = found.map_err(|error| Failure::history(&error))?;
        let name = found.map(|found| found.name);
        remember(&mut self.machines, slot, (name.clone(), revisions));
        Ok(name)
    }
}

fn remember<K: Ord, V>(known: &mut BTreeMap<K, V>, key: K, value: V) {
    if known.len() >= NAMES_MAX {
        known.clear();
    }
    known.insert(key, value);
}

/// What a job is called, or was, with its namespace.
pub(in crate::api) fn job(history: &History, cell: &Cell, id: u64) -> Option<String> {
    find_job(history, cell, id).ok().flatten()
}

/// The same; an error where it can't be looked up.
pub(in crate::api) fn find_job(history: &History, cell: &Cell, id: u64) -> Result<Option<String>, Failure> {
    if let Some(job) = JobId::from_bits(id).and_then(|id| cell.job(id)) {
        return Ok(Some(format!("{}/{}", job.shape.namespace, job.shape.name)));
    }
    let found = history.job_name(id).map_err(|error| Failure::history(&error))?;
    Ok(found.map(|found| format!("{}/{}", found.namespace, found.name)))
}

/// Most bytes of log that are read of one `Groups` for what groups were called. Those that are not found by then stay numbers.
const READ_BYTES_MAX: u64 = 32 << 20;

/// Names of jobs' groups as they were when something was decided. A job that is over and is submitted again keeps its id, and may have
/// other groups then: a number is better than a wrong name.
pub(in crate::api) struct Groups<'a> {
    history: &'a History,
    cell: &'a Cell,
    past: RefCell<Past>,
}

/// What was read from the history.
struct Past {
    bytes_left: u64,
    /// Of each job the version that was looked up last.
    versions: BTreeMap<JobId, Version>,
}

/// A version of a job.
struct Version {
    /// At which revisions it was known to be the newest one.
    revisions: RangeInclusive<u64>,
    /// None where it is not known.
    groups: Vec<String>,
}

impl<'a> Groups<'a> {
    pub(in crate::api) const fn new(history: &'a History, cell: &'a Cell) -> Self {
        let past = Past { bytes_left: READ_BYTES_MAX, versions: BTreeMap::new() };
        Self { history, cell, past: RefCell::new(past) }
    }

    /// What a group was called at a revision, which was decided at that time, where that is known. Of what was submitted at that very time
    /// the cell can't tell whether it was before: all of a batch has one time.
    pub(in crate::api) fn known(&self, id: JobId, group: usize, revision: u64, time_micros: i64) -> Option<String> {
        if let Some(job) = self.cell.job(id).filter(|job| job.submitted.micros < time_micros) {
            return job.shape.groups.get(group).map(|group| group.name.to_string());
        }
        self.past.borrow_mut().groups(self.history, id, revision).get(group).cloned()
    }

    /// The same; where it is not known, the group's number.
    pub(in crate::api) fn name(&self, id: JobId, group: u16, revision: u64, time_micros: i64) -> String {
        self.known(id, group.into(), revision, time_micros).unwrap_or_else(|| format!("group {group}"))
    }
}

impl Past {
    /// The groups of a job as it had been submitted last at a revision, as far as that is retained and may be read.
    fn groups(&mut self, history: &History, id: JobId, revision: u64) -> &[String] {
        if self.versions.get(&id).is_none_or(|version| !version.revisions.contains(&revision)) {
            let version = self.read(history, id, revision);
            self.versions.insert(id, version);
        }
        self.versions.get(&id).map_or(&[], |version| &version.groups)
    }

    fn read(&mut self, history: &History, id: JobId, revision: u64) -> Version {
        let newest = history.job_name(id.to_bits()).ok().flatten();
        if let Some(newest) = newest.filter(|newest| newest.submitted <= revision) {
            return Version { revisions: newest.submitted..=revision, groups: newest.groups };
        }
        let mut walk = history.walk(1..=revision, Order::NewestFirst);
        let mut found = None;
        while found.is_none() && walk.read_bytes() < self.bytes_left {
            let about = |block: &BlockSummary| block.may_tell_of(Subject::Job(id.to_bits()));
            let Ok(Some(entries)) = walk.next(about) else { break };
            found = entries.iter().find_map(|logged| Some((logged.entry.revision, submitted(logged, id)?)));
        }
        self.bytes_left = self.bytes_left.saturating_sub(walk.read_bytes());
        // What was not found from there on is not looked for again.
        let (from, groups) = found.unwrap_or_default();
        Version { revisions: from..=revision, groups }
    }
}

/// The groups of the job that an entry submits, if it has this id.
fn submitted(logged: &Logged, id: JobId) -> Option<Vec<String>> {
    delta_of(&logged.entry).ok()?.jobs.iter().find_map(|change| match change {
        JobChange::Put { job, .. } if job.id == id => {
            Some(job.shape.groups.iter().map(|group| group.name.to_string()).collect())
        }
        _ => None,
    })
}

#[cfg(test)]
pub(in crate::api) mod tests {
    use std::sync::Arc;

    use super::super::story::gone::tests::{append, at};
    use super::*;
    use plenum_model::{
        Delta, GroupShape, Job, JobShape, JobState, LogTime, Machine, MachineId, MachineState, Revision, SessionChange,
    };

    // A story named the machine that is in the slot now, also where it was told of one that was there before.
    #[test]
    fn a_machine_that_came_later_is_not_the_one_that_was_meant() {
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = History::open(folder.path(), plenum_history::Options::new(vec![7; 16])).unwrap();
        let registered = LogTime::from_micros(100);
        let id = MachineId { slot: 3, generation: 2 };
        let machine =
            Machine { id, name: "m2".into(), registered, ..crate::agents::machine(3, 1, MachineState::Ready) };
        let mut delta = Delta::new(Revision(1), LogTime::from_micros(100));
        delta.machines.push(Arc::new(machine));
        let mut cell = Cell::default();
        cell.apply(&delta).unwrap();
        assert_eq!(machine_then(&history, &cell, 3, 8, 99), None);
        assert_eq!(machine_then(&history, &cell, 3, 9, 100).as_deref(), Some("m2"));
        assert_eq!(machine_then(&history, &cell, 4, 9, 100), None);
    }

    // Each machine of each transaction was looked for in the store: a million times for a hundred gangs that were refused in a large cell.
    #[test]
    fn what_a_listing_has_looked_up_is_not_looked_up_again() {
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = History::open(folder.path(), plenum_history::Options::new(vec![7; 16])).unwrap();
        append(&history, &[at(1), at(2)]);
        let cell = Cell::default();
        let mut names = Names::new(&history, &cell);
        assert_eq!((names.machine_then(3, 2, 1), names.scheduler(1)), (None, String::new()));
        assert_eq!(names.machines.get(&3), Some(&(None, 1..=2)), "of all revisions that there are");
        // Nobody else has these names.
        names.machines.insert(3, (Some("m1".to_owned()), 2..=7));
        names.schedulers.insert(1, "batch".to_owned());
        names.know_job(7, "ml/train");
        let machines = [2, 7, 8, 1].map(|revision| names.machine_then(3, revision, 1));
        assert_eq!(machines, [Some("m1".to_owned()), Some("m1".to_owned()), None, None]);
        assert_eq!((names.scheduler(1), names.job(7)), ("batch".to_owned(), Some("ml/train")));
    }

    /// Looks at what a history says while its store can't be opened again; afterwards it is open.
    pub(in crate::api) fn while_closed(folder: &std::path::Path, history: &History, look: impl FnOnce()) {
        let (lock, aside) = (folder.join("store/lock"), folder.join("lock"));
        std::fs::rename(&lock, &aside).unwrap();
        std::fs::create_dir(&lock).unwrap();
        assert!(history.reopen().is_err());
        look();
        std::fs::remove_dir(&lock).unwrap();
        std::fs::rename(&aside, &lock).unwrap();
        history.reopen().unwrap();
    }

    // While the store was opened again after a failed write, or had too many files open, what was asked for by its name was left out without a word; and so it
    // went on for all of that listing.
    #[test]
    fn a_name_that_can_not_be_looked_up_now_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = History::open(folder.path(), plenum_history::Options::new(vec![7; 16])).unwrap();
        let opening = SessionChange::Opened { scheduler: "batch".into(), principal: "a".into(), namespace: "a".into() };
        let mut opened = at(1);
        opened.sessions.push(opening);
        let machine = Machine { name: "m1".into(), ..crate::agents::machine(3, 1, MachineState::Ready) };
        opened.machines.push(Arc::new(machine));
        append(&history, &[opened, submits(2, &["split"])]);
        history.persist().unwrap();
        let (cell, id) = (Cell::default(), JobId { slot: 3, generation: 1 }.to_bits());
        let mut names = Names::new(&history, &cell);
        while_closed(folder.path(), &history, || {
            let found = [
                names.find_scheduler(1).err(),
                names.find_job(id).err(),
                names.find_machine_then(3, 2, 1).err(),
                find_job(&history, &cell, id).err(),
                find_machine_then(&history, &cell, 3, 2, 1).err(),
            ];
            assert_eq!(found.map(|failure| failure.unwrap().code), ["HISTORY_BEHIND"; 5]);
            let shown = (names.scheduler(1), names.machine_then(3, 2, 1), names.job(id));
            assert_eq!(shown, (String::new(), None, None), "who shows them does without");
        });
        assert_eq!(names.find_scheduler(1).unwrap(), "batch");
        assert_eq!(names.find_job(id).unwrap(), Some("default/work"));
        assert_eq!(names.find_machine_then(3, 2, 1).unwrap().as_deref(), Some("m1"));
    }

    /// Submits a job of these groups under the same id.
    fn submits(revision: u64, groups: &[&str]) -> Delta {
        let group = |name: &&str| GroupShape { name: (*name).into(), count: 1, ..GroupShape::default() };
        let (name, namespace, scheduler) = ("work".into(), "default".into(), "batch".into());
        let groups = groups.iter().map(group).collect::<Vec<_>>();
        let task_bases = vec![0; groups.len()];
        let job = Job {
            id: JobId { slot: 3, generation: 1 },
            version: 1,
            shape: Arc::new(JobShape { name, namespace, scheduler, groups, ..JobShape::default() }),
            body: Some(Arc::from([])),
            body_digest: [0; 32],
            submitted: LogTime::from_micros(1),
            state: JobState::Waiting,
            state_since: LogTime::from_micros(1),
            reason: "".into(),
            group_base: 0,
            home: None,
            last_instant_micros: None,
        };
        let mut delta = at(revision);
        delta.jobs.push(JobChange::Put { job: Arc::new(job), task_bases });
        delta
    }

    #[test]
    fn groups_of_a_job_that_is_gone_are_called_as_they_were_and_by_number_where_that_is_not_retained() {
        let (folder, id) = (tempfile::tempdir().unwrap(), JobId { slot: 3, generation: 1 });
        let deltas = [submits(1, &["split", "map"]), at(2), submits(3, &["fetch", "split", "map"]), at(4)];
        for (retained, first) in [(&deltas[..], ["split", "map"]), (&deltas[1..], ["group 0", "group 1"])] {
            let folder = folder.path().join(first[1]);
            let (history, _) = History::open(folder, plenum_history::Options::new(vec![7; 16])).unwrap();
            append(&history, retained);
            let cell = Cell::default();
            let groups = Groups::new(&history, &cell);
            let names = |revision| [0, 1].map(|group| groups.name(id, group, revision, 1));
            assert_eq!(names(4), ["fetch", "split"]);
            assert_eq!(names(2), first);
            assert_eq!(names(3), ["fetch", "split"]);
            assert_eq!(groups.name(id, 7, 4, 1), "group 7", "there are not so many");
        }
    }

    // Where both were decided in one batch, what the older version ran was called as the newer one's groups are.
    #[test]
    fn a_group_has_no_name_of_a_version_that_was_submitted_later_at_the_same_time() {
        let (folder, id) = (tempfile::tempdir().unwrap(), JobId { slot: 3, generation: 1 });
        let deltas = [submits(1, &["split", "map"]), at(2), submits(3, &["fetch", "split", "map"])];
        let (history, _) = History::open(folder.path(), plenum_history::Options::new(vec![7; 16])).unwrap();
        append(&history, &deltas);
        let mut cell = Cell::default();
        deltas.iter().for_each(|delta| cell.apply(delta).unwrap());
        let groups = Groups::new(&history, &cell);
        let names = |revision, time| [0, 1].map(|group| groups.name(id, group, revision, time));
        assert_eq!(
            (names(2, 1), names(3, 1)),
            (["split", "map"].map(str::to_owned), ["fetch", "split"].map(str::to_owned))
        );
        assert_eq!(names(4, 2), ["fetch", "split"], "the cell knows what was submitted before");
    }
}
