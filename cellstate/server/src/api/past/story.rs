//! What happened to a job, an allocation, a machine or the whole cell, or was laid down for that, and who asked for it: read from the log, the newest events
//! first, from the few blocks that tell of it.

mod ends;
pub(in crate::api) mod gone;
mod governed;
mod job;
mod machine;
pub(in crate::api) mod stay;
mod whole;
mod words;

use std::collections::BTreeSet;

use plenum_history::{BlockSummary, History, Logged, Order, ReadError, Subject};
use plenum_model::{AllocationId, Cell, Delta, Job, JobId, Machine, MachineId, Revision, counted};
use plenum_proto::v1;
use prost::Message;

use super::ended::delta_of;
use super::names;
use super::tenants::Tenants;
use crate::api::failure::Failure;
use crate::api::past;

pub(in crate::api) use governed::Governed;
pub(in crate::api) use whole::first_since;
use words::command_word;

/// Most bytes of log that one story is read from; of a job twice, as what became of its allocations is looked for once it is known which
/// they were.
const READ_BYTES_MAX: u64 = 256 << 20;

/// Whom a story is about.
pub(in crate::api) enum Hero<'a> {
    Job(&'a Job),
    Allocation(AllocationId),
    Machine(MachineId),
    /// What operators lay down.
    Governed(&'a Governed),
    /// The whole cell, from a revision on.
    Cell {
        from: u64,
    },
}

impl Hero<'_> {
    /// The revision from which on its story is asked for.
    fn first(&self) -> u64 {
        if let Hero::Cell { from } = self { *from } else { 1 }
    }
}

/// A story up to the cell's revision: the newest `limit` events, oldest first, and what else happened in the revision of the first of these. None, and
/// nothing more, where nothing is retained that tells of it.
pub(in crate::api) fn tell(
    history: &History,
    cell: &Cell,
    hero: &Hero<'_>,
    limit: usize,
) -> Result<v1::HistoryResponse, Failure> {
    tell_until(|| Teller::new(history, cell), hero, cell.revision(), limit)
}

/// The same up to an earlier revision than the cell's, which is asked for names only. `teller`: who tells it, at each try. What is retired between two
/// readings would be missing without a word: the story is told anew then, of less of the log each time, so that it comes to an end.
fn tell_until<'a>(
    teller: impl Fn() -> Teller<'a>,
    hero: &Hero<'_>,
    until: Revision,
    limit: usize,
) -> Result<v1::HistoryResponse, Failure> {
    let mut parts = 1;
    loop {
        let mut teller = teller();
        teller.read_bytes_max /= parts;
        let (history, oldest) = (teller.history, teller.history.oldest_revision());
        let told = tell_once(teller, hero, until, limit);
        if history.oldest_revision() == oldest {
            return told;
        }
        parts = parts.saturating_mul(2);
    }
}

fn tell_once(
    mut teller: Teller<'_>,
    hero: &Hero<'_>,
    until: Revision,
    limit: usize,
) -> Result<v1::HistoryResponse, Failure> {
    let subjects = subjects(hero);
    let history = teller.history;
    let up_to = until.0.min(history.newest_revision());
    if let Hero::Allocation(id) = hero {
        teller.begin_stay(*id, Revision(up_to));
    }
    let from = hero.first();
    let mut walk = history.walk(from..=up_to, Order::NewestFirst);
    // Up to where it was not looked at, because that would have been too much.
    let mut left_before = None;
    while !teller.is_at_the_beginning() {
        let is_too_much = walk.read_bytes() > teller.read_bytes_max;
        if let Hero::Allocation(id) = hero
            && (is_too_much || teller.events.len() > limit)
        {
            teller.settle_stay(*id, *walk.rest().end())?;
        }
        if (is_too_much || teller.events.len() > limit) && !walk.rest().is_empty() {
            left_before = Some(*walk.rest().end());
            break;
        }
        let about = |block: &BlockSummary| match hero {
            Hero::Governed(_) => block.may_govern(),
            Hero::Cell { .. } => block.may_have_news(),
            _ => subjects.iter().any(|subject| block.may_tell_of(*subject)),
        };
        let Some(entries) = walk.next(about).map_err(|error| Failure::history(&error))? else { break };
        for logged in &entries {
            let delta = delta_of(&logged.entry)?;
            match hero {
                Hero::Job(job) => teller.job(job, logged, &delta)?,
                Hero::Allocation(id) => teller.allocation(*id, logged, &delta)?,
                Hero::Machine(id) => teller.machine(*id, logged, &delta)?,
                Hero::Governed(governed) => governed.tell(&mut teller, logged, &delta)?,
                Hero::Cell { .. } => teller.cell(logged, &delta)?,
            }
            if teller.is_at_the_beginning() {
                break;
            }
        }
    }
    teller.check_submission(hero, up_to, until.0)?;
    if let Hero::Allocation(id) = hero {
        teller.settle_stay(*id, *walk.rest().end())?;
    }
    teller.finish_machines(left_before.is_none());
    teller.finish_cell((*walk.rest().end()).max(from.saturating_sub(1)))?;
    let mut events = std::mem::take(&mut teller.events);
    events.reverse();
    // What an earlier submission came to is told where that was the job.
    left_before = teller.submitted_after.or(left_before);
    if let Hero::Job(job) = hero {
        let from = teller.submitted_after.unwrap_or_else(|| *walk.rest().end());
        left_before = teller.add_ends(job, from, up_to, limit, &mut events)?.or(left_before);
    }
    let dropped = cut(&mut events, limit);
    let oldest = history.oldest_revision();
    let oldest_revision = if oldest > 1 && oldest > from && !teller.over { oldest } else { 0 };
    // What is from before is retired, where a submission is the first that is retained.
    let left_before = left_before.filter(|revision| teller.submitted_after != Some(*revision) || *revision >= oldest);
    let older_at = dropped.or(left_before).map_or(0, |revision| revision.max(oldest));
    Ok(v1::HistoryResponse { revision: up_to, events, truncated: older_at > 0, oldest_revision, older_at })
}

/// Leaves of a story, oldest first, the newest `limit` events and what else happened in the revision of the first of these. If anything was before: its
/// newest revision.
///
/// Of a revision that is told in part nobody could ask for the rest: what is older is asked for by revision. So there are more than `limit` by what one
/// revision has, which is in memory anyway: 65,536 tasks of one report at most, of which each ended with words of its own.
fn cut(events: &mut Vec<v1::HistoryEvent>, limit: usize) -> Option<u64> {
    let most = events.len().saturating_sub(limit);
    let first = events.get(most).map(|event| event.revision);
    let older = first.map_or(most, |first| events.partition_point(|event| event.revision < first));
    events.drain(..older).next_back().map(|event| event.revision)
}

fn subjects(hero: &Hero<'_>) -> Vec<Subject> {
    match hero {
        Hero::Job(job) => {
            let rows = (job.group_base..).take(job.shape.groups.len()).map(Subject::GroupRow);
            rows.chain([Subject::Job(job.id.to_bits())]).collect()
        }
        Hero::Allocation(id) => vec![Subject::AllocationSlot(id.slot)],
        Hero::Machine(id) => vec![Subject::MachineSlot(id.slot)],
        // Of each block it is known whether it tells of any.
        Hero::Governed(_) | Hero::Cell { .. } => Vec::new(),
    }
}

/// Gathers events, the newest first.
struct Teller<'a> {
    history: &'a History,
    cell: &'a Cell,
    /// Most bytes of log that the story is read from.
    read_bytes_max: u64,
    events: Vec<v1::HistoryEvent>,
    /// Rows of the machine, the newest first: what happened is what differs from the row before.
    machines: Vec<(v1::HistoryEvent, std::sync::Arc<Machine>)>,
    /// Rows of all machines, where the story is the cell's; the same.
    rows: Vec<whole::Row>,
    /// The beginning was found.
    over: bool,
    /// The revision before the one at which the job was submitted again: from then on it has other rows, and those that it has now were
    /// others' before.
    submitted_after: Option<u64>,
    /// The version of the job whose submission was come to.
    submitted_version: Option<u32>,
    /// Whose the slot is, at the revision that is looked at: a generation. None: that is not known yet, and nor is whether the events are of the
    /// allocation that is told of.
    tenant: Option<u32>,
    /// Where tasks of the job were placed.
    slots: BTreeSet<u32>,
    /// Whose the room was that some of them got.
    tenants: Tenants<'a>,
    /// What groups of jobs were called.
    groups: names::Groups<'a>,
}

impl<'a> Teller<'a> {
    fn new(history: &'a History, cell: &'a Cell) -> Self {
        let (events, machines, rows, slots) = (Vec::new(), Vec::new(), Vec::new(), BTreeSet::new());
        let tenants = Tenants::new(history, cell);
        Self {
            history,
            cell,
            read_bytes_max: READ_BYTES_MAX,
            events,
            machines,
            rows,
            over: false,
            submitted_after: None,
            submitted_version: None,
            tenant: None,
            slots,
            tenants,
            groups: names::Groups::new(history, cell),
        }
    }

    /// Whether what is older is not of this story.
    fn is_at_the_beginning(&self) -> bool {
        self.over || self.submitted_after.is_some()
    }

    /// An error where the history, which ends with `up_to`, may lack the submission that gave a job its rows: what it has of these is another job's then.
    fn check_submission(&self, hero: &Hero<'_>, up_to: u64, until: u64) -> Result<(), Failure> {
        let Hero::Job(job) = hero else { return Ok(()) };
        if up_to == 0 || up_to >= until || self.submitted_version == Some(job.version) {
            return Ok(());
        }
        match self.history.entry(up_to) {
            Ok(newest) if newest.time_micros > job.submitted.micros => Ok(()),
            Ok(_) => Err(Failure::history(&ReadError::NotThere { asked: until, newest: up_to })),
            // It begins behind that, and nothing was told.
            Err(ReadError::Retired { .. }) => Ok(()),
            Err(error) => Err(Failure::history(&error)),
        }
    }

    /// Adds what became of the job's allocations to what else happened to it above a revision. If older events were left, because there are
    /// more than `limit` without them or too much would have had to be read: up to where.
    fn add_ends(
        &self,
        job: &Job,
        from: u64,
        up_to: u64,
        limit: usize,
        events: &mut Vec<v1::HistoryEvent>,
    ) -> Result<Option<u64>, Failure> {
        // Those that were granted before are in the cell of then. There are none of a job that is submitted.
        let then = if self.is_at_the_beginning() { Cell::default() } else { self.then(from)? };
        let (ends, left_before) = ends::tell(self, job, then, from.saturating_add(1)..=up_to, limit)?;
        // Whatever else happened in the same revision, it followed from them.
        let rest = std::mem::replace(events, ends);
        events.extend(rest);
        events.sort_by_key(|event| event.revision);
        events.retain(|event| left_before.is_none_or(|revision| event.revision > revision));
        Ok(left_before)
    }

    /// The cell at a revision, or at the oldest one of which it can be had.
    fn then(&self, revision: u64) -> Result<Cell, Failure> {
        past::fold_retained(self.history, revision)
    }

    fn push(&mut self, logged: &Logged, event: &str, detail: String) -> Result<(), Failure> {
        let event = self.event(logged, event, detail)?;
        self.events.push(event);
        Ok(())
    }

    /// An event, with what made it happen.
    fn event(&self, logged: &Logged, event: &str, detail: String) -> Result<v1::HistoryEvent, Failure> {
        let asked = v1::Command::decode(logged.entry.asked.clone()).map_err(|error| {
            Failure::internal(format!("the request of revision {} can't be read: {error}", logged.entry.revision))
        })?;
        let (session, number) = match &asked.ask {
            Some(v1::command::Ask::Commit(transaction)) => (transaction.session, transaction.number),
            _ => (0, 0),
        };
        Ok(v1::HistoryEvent {
            revision: logged.entry.revision,
            time_micros: logged.time_micros,
            event: event.to_owned(),
            detail,
            command: asked.ask.as_ref().map_or("", command_word).to_owned(),
            principal: asked.principal,
            session,
            number,
            scheduler: if session == 0 { String::new() } else { names::scheduler(self.history, self.cell, session) },
        })
    }

    /// The machine that was in a slot then.
    fn machine_then(&self, slot: u32, revision: Revision, time_micros: i64) -> String {
        let found = names::machine_then(self.history, self.cell, slot, revision.0, time_micros);
        found.unwrap_or_else(|| format!("in slot {slot}"))
    }

    /// The machine by its name, or how many they are.
    fn on_machines(&self, slots: impl Iterator<Item = u32>, revision: u64, time_micros: i64) -> String {
        let slots: Vec<u32> = slots.collect::<BTreeSet<u32>>().into_iter().collect();
        match slots[..] {
            [only] => format!("machine {}", self.machine_then(only, Revision(revision), time_micros)),
            _ => counted(slots.len() as u64, "machine"),
        }
    }

    fn job_name(&self, id: JobId) -> String {
        names::job(self.history, self.cell, id.to_bits()).unwrap_or_else(|| id.to_string())
    }

    /// A task by its job and its group as they were called then.
    fn task_name(&self, delta: &Delta, job: JobId, group: u16, task: u32) -> String {
        let group = self.groups.name(job, group, delta.revision.0, delta.time.micros);
        format!("{} {group}[{task}]", self.job_name(job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_core::{Core, CoreOptions};
    use plenum_model::{
        AllocationState, CellIdentity, Command, End, Grants, GroupShape, JobShape, LogTime, MachineState, Request,
        Resources,
    };
    use std::sync::Arc;

    /// A cell with a job, and what made it.
    pub(in crate::api) fn course_of_a_job() -> (Cell, Vec<Delta>) {
        let group = GroupShape { name: "g".into(), count: 1, resources: Resources::default(), ..GroupShape::default() };
        let (name, namespace) = ("early".into(), "default".into());
        let shape = JobShape { name, namespace, scheduler: "batch".into(), groups: vec![group], ..JobShape::default() };
        let submit = Command::submit(shape);
        let mut core = Core::new(CoreOptions::default());
        let commands = [Command::OpenServer(CellIdentity { term: 1, ..CellIdentity::default() }), submit];
        let deltas = commands.map(|command| {
            let request = Request { principal: "local".into(), namespace: "default".into(), command };
            match core.decide(&request, LogTime::from_micros(1)) {
                plenum_core::Decided::Changed { delta, .. } => delta,
                decided => panic!("{decided:?}"),
            }
        });
        (core.cell().clone(), deltas.to_vec())
    }

    /// The same job, of which a task was placed in slot 0, has failed, and something else came after: six revisions.
    fn course_of_a_task() -> (Arc<Job>, Vec<Delta>) {
        let (cell, mut deltas) = course_of_a_job();
        let job = cell.jobs().next().unwrap().clone();
        let mut came = gone::tests::at(3);
        came.machines = vec![Arc::new(crate::agents::machine(0, 7, MachineState::Ready))];
        (came.scheduler_names, came.shapes) = (vec!["batch".into()], vec![Resources::default()]);
        deltas.extend([came, grant(&job, 4, 1), end(5), gone::tests::at(6)]);
        (job, deltas)
    }

    fn grant(job: &Job, revision: u64, generation: u32) -> Delta {
        let grants = Grants {
            job: job.id,
            group_row: job.group_base,
            slots: vec![0],
            generations: vec![generation],
            machines: vec![0],
            tasks: vec![0],
            ..Grants::default()
        };
        Delta { grants: vec![grants], ..gone::tests::at(revision) }
    }

    fn end(revision: u64) -> Delta {
        let end = End { slot: 0, state: AllocationState::Failed, exit_code: 3, reason: None };
        Delta { ends: vec![end], ..gone::tests::at(revision) }
    }

    pub(in crate::api) fn with_a_job() -> Cell {
        course_of_a_job().0
    }

    // A story was refused when the cell that it begins with was retired while it was read.
    #[test]
    fn a_story_begins_with_what_is_retained_when_it_comes_to_that() {
        let dir = tempfile::tempdir().unwrap();
        let (history, cell) = (past::tests::retiring(dir.path()), Cell::default());
        assert_eq!(Teller::new(&history, &cell).then(2).unwrap().revision(), Revision(4));
    }

    // A history that had leapt, or was begun with a checkpoint, said of jobs that their revision is not there until the cell went on.
    #[test]
    fn a_history_that_ends_with_its_first_checkpoint_has_nothing_to_tell_of_a_job() {
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), plenum_history::Options::new(vec![1; 16])).unwrap();
        let cell = with_a_job();
        crate::checkpoint::write(&history, &cell, None).unwrap();
        let job = cell.jobs().next().unwrap();
        let story = tell(&history, &cell, &Hero::Job(job), 10).unwrap();
        assert_eq!((story.events, story.oldest_revision), (Vec::new(), cell.revision().0 + 1));
    }

    /// What a history tells of a job, and the oldest revision that it has.
    fn words_of(history: &History, cell: &Cell, job: &Job) -> (Vec<String>, u64) {
        let story = tell(history, cell, &Hero::Job(job), 10).unwrap();
        (story.events.into_iter().map(|event| event.event).collect(), story.oldest_revision)
    }

    // Who ended in the first revision behind a leap was looked for in the cell after that, where he is not any more.
    #[test]
    fn a_history_that_goes_on_from_a_checkpoint_tells_what_ended_right_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), plenum_history::Options::new(vec![1; 16])).unwrap();
        let (job, deltas) = course_of_a_task();
        let (before, behind) = deltas.split_at(4);
        let mut cell = Cell::default();
        before.iter().for_each(|delta| cell.apply(delta).unwrap());
        crate::checkpoint::write(&history, &cell, None).unwrap();
        gone::tests::append(&history, behind);
        behind.iter().for_each(|delta| cell.apply(delta).unwrap());
        assert_eq!(words_of(&history, &cell, &job), (vec!["failed".to_owned()], 5));
    }

    // What ended in the oldest revision was told of whoever had the slot after it.
    #[test]
    fn what_ended_in_the_oldest_revision_is_told_of_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let (job, mut deltas) = course_of_a_task();
        deltas[4] = Delta { ends: end(5).ends, ..grant(&job, 5, 2) };
        let history = gone::tests::history_of(dir.path(), &deltas[..5]);
        let mut cell = Cell::default();
        deltas[..5].iter().for_each(|delta| cell.apply(delta).unwrap());
        crate::checkpoint::write(&history, &cell, None).unwrap();
        assert_eq!(history.retire(5).unwrap().oldest, 5);
        assert_eq!(words_of(&history, &cell, &job), (vec!["placed".to_owned()], 5));
    }

    // What became of its allocations was missing without a word, where it was retired after the rest of the story had been read.
    #[test]
    fn a_story_is_told_anew_when_something_is_retired_while_it_is_told() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (job, deltas) = course_of_a_task();
        let newest = deltas.len() as u64;
        let told = |dir, retired_at| {
            let (history, cell) = past::tests::retiring_at(dir, &deltas, retired_at);
            words_of(&history, &cell, &job)
        };
        let whole = ["submitted", "placed", "failed"].map(str::to_owned).to_vec();
        assert_eq!(told(dir.path(), u64::MAX), (whole, 0));
        // The submission is the last that is read before what became of allocations is looked for.
        assert_eq!(told(other.path(), 2), (Vec::new(), newest));
    }

    // Of a busy job all ends of 256 MiB of log were gathered, some 100,000, and all but a few thrown away.
    #[test]
    fn no_more_ends_are_gathered_than_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (job, mut deltas) = course_of_a_task();
        deltas.extend([grant(&job, 7, 2), end(8), grant(&job, 9, 3), end(10)]);
        let (history, cell) = (gone::tests::history_of(dir.path(), &deltas), Cell::default());
        let mut teller = Teller::new(&history, &cell);
        teller.slots.insert(0);
        let told = |limit| {
            let (events, left_before) = ends::tell(&teller, &job, Cell::default(), 1..=10, limit).unwrap();
            (events.iter().map(|event| event.revision).collect::<Vec<_>>(), left_before)
        };
        assert_eq!(told(3), (vec![5, 8, 10], None));
        // One more, so that it is known that there is more; what is before was not looked at.
        assert_eq!(told(1), (vec![8, 10], Some(6)));
    }
}
