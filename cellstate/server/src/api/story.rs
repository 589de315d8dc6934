//! What happened to a job, an allocation, a machine or the whole cell, or was laid down for that, and who asked for it: read from the log, the newest events
//! first, from the few blocks that tell of it.

mod ends;
pub(super) mod gone;
mod governed;
pub(super) mod stay;
mod whole;

use std::collections::{BTreeMap, BTreeSet};

use plenum_history::{BlockSummary, History, Logged, Order, Subject};
use plenum_model::{
    AllocationId, AllocationState, Cell, Delta, End, Grants, Job, JobChange, JobId, Machine, MachineId, MachineState,
    Move, Revision, TaskState, Unfit, counted,
};
use plenum_proto::v1;
use prost::Message;

use super::ended::delta_of;
use super::evictions;
use super::failure::Failure;
use super::tenants::Tenants;
use super::{moved, names, past};

pub(super) use governed::Governed;
pub(super) use whole::first_since;

/// Most bytes of log that one story is read from; of a job twice, as what became of its allocations is looked for once it is known which
/// they were.
const READ_BYTES_MAX: u64 = 256 << 20;

/// Whom a story is about.
pub(super) enum Hero<'a> {
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
pub(super) fn tell(
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

    fn job(&mut self, job: &Job, logged: &Logged, delta: &Delta) -> Result<(), Failure> {
        // What became of the job follows from what became of its tasks.
        for change in delta.jobs.iter().rev() {
            // Where tasks end, a group changes by when it is tried again, and not by how many of its tasks are wanted.
            if delta.ends.is_empty() || !matches!(change, JobChange::Group { .. }) {
                self.job_change(job, logged, delta, change)?;
            }
        }
        let mut by_state: BTreeMap<(u32, u8), Vec<u32>> = BTreeMap::new();
        let rows = job.group_base..job.group_base.saturating_add(u32::try_from(job.shape.groups.len()).unwrap_or(0));
        for task in delta.tasks.iter().filter(|task| rows.contains(&task.group_row)) {
            by_state.entry((task.group_row - rows.start, task.state as u8)).or_default().push(task.task);
        }
        if self.is_at_the_beginning() {
            return Ok(());
        }
        for ((group, state), tasks) in by_state.into_iter().rev() {
            let Some(word) = TaskState::from_number(state.into()).and_then(task_word) else { continue };
            let group = job.shape.groups.get(group as usize).map_or("", |group| &group.name);
            // Each failed attempt is told by itself.
            let finally = if word == "failed" { ", for good" } else { "" };
            self.push(logged, word, format!("{group}: {}{finally}", tasks_of(&tasks)))?;
        }
        for grants in delta.grants.iter().rev().filter(|grants| grants.job == job.id) {
            self.slots.extend(&grants.slots);
            let placed = self.placed(job, grants, delta)?;
            self.push(logged, "placed", placed)?;
        }
        Ok(())
    }

    fn placed(&mut self, job: &Job, grants: &Grants, delta: &Delta) -> Result<String, Failure> {
        let group = job.shape.groups.get(usize::from(grants.group)).map_or("", |group| &group.name);
        let on = self.on_machines(grants.machines.iter().copied(), delta.revision.0, delta.time.micros);
        let why = match grants.slots.first().and_then(|slot| moved::reason(delta, *slot)) {
            Some(reason) => format!(": {reason}"),
            None => self.in_place_of(grants, delta)?,
        };
        Ok(format!("{group}: {} on {on}{why}", tasks_of(&grants.tasks)))
    }

    /// Who was evicted for these: the first of them, and how many there are.
    fn in_place_of(&mut self, grants: &Grants, delta: &Delta) -> Result<String, Failure> {
        let evicted = evictions::evicted(delta);
        let victims = grants.extras.iter().flat_map(|extra| &extra.takes_over).map(|entry| entry.victim);
        let mut victims: Vec<AllocationId> = victims.filter(|victim| evicted.contains(&victim.slot)).collect();
        let Some(&first) = victims.first() else { return Ok(String::new()) };
        victims.sort_unstable();
        victims.dedup();
        let more = match victims.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let found = self.tenants.find([first].into(), delta.revision.0.saturating_sub(1))?;
        let who = found
            .get(&first)
            .map_or_else(|| first.to_string(), |tenant| self.task_name(delta, tenant.job, tenant.group, tenant.task));
        Ok(format!(", in place of {who}{more}"))
    }

    /// The machine by its name, or how many they are.
    fn on_machines(&self, slots: impl Iterator<Item = u32>, revision: u64, time_micros: i64) -> String {
        let slots: Vec<u32> = slots.collect::<BTreeSet<u32>>().into_iter().collect();
        match slots[..] {
            [only] => format!("machine {}", self.machine_then(only, Revision(revision), time_micros)),
            _ => counted(slots.len() as u64, "machine"),
        }
    }

    fn job_change(&mut self, job: &Job, logged: &Logged, delta: &Delta, change: &JobChange) -> Result<(), Failure> {
        match change {
            JobChange::Put { job: put, .. } if put.id == job.id => {
                let first = put.version <= 1;
                let parent = put.shape.parent.map(|parent| self.job_name(parent));
                let from = parent.map_or_else(String::new, |parent| format!(", launched from {parent}"));
                self.push(
                    logged,
                    if first { "submitted" } else { "replaced" },
                    format!("version {}{from}", put.version),
                )?;
                // Nothing is older than the first version of an id.
                self.over = first;
                self.submitted_after = (!first).then(|| logged.entry.revision.saturating_sub(1));
            }
            JobChange::State { id, state, reason } if *id == job.id => {
                self.push(logged, state.word(), reason.to_string())?;
            }
            JobChange::Group { row, count, .. } => {
                let position = row.checked_sub(job.group_base).and_then(|at| usize::try_from(at).ok());
                if let Some(group) = position.and_then(|position| job.shape.groups.get(position)) {
                    self.push(logged, "group", format!("{}: {} wanted", group.name, counted((*count).into(), "task")))?;
                }
            }
            JobChange::Home { id, machine } if *id == job.id => {
                let then = |slot| self.machine_then(slot, Revision(logged.entry.revision), logged.time_micros);
                let detail = machine.map_or_else(|| "none".to_owned(), then);
                self.push(logged, "home", detail)?;
            }
            JobChange::Launched { id, .. } if *id == job.id => {
                let child = delta.jobs.iter().find_map(|change| match change {
                    JobChange::Put { job, .. } if job.shape.parent == Some(*id) => Some(job.shape.name.to_string()),
                    _ => None,
                });
                self.push(logged, "launched", child.unwrap_or_default())?;
            }
            _ => {}
        }
        Ok(())
    }

    fn job_name(&self, id: JobId) -> String {
        names::job(self.history, self.cell, id.to_bits()).unwrap_or_else(|| id.to_string())
    }

    /// A task by its job and its group as they were called then.
    fn task_name(&self, delta: &Delta, job: JobId, group: u16, task: u32) -> String {
        let group = self.groups.name(job, group, delta.revision.0, delta.time.micros);
        format!("{} {group}[{task}]", self.job_name(job))
    }

    fn machine(&mut self, id: MachineId, logged: &Logged, delta: &Delta) -> Result<(), Failure> {
        for machine in delta.machines.iter().filter(|machine| machine.id.slot == id.slot) {
            if machine.id.generation < id.generation {
                self.over = true;
                return Ok(());
            }
            if machine.id == id {
                let event = self.event(logged, "", String::new())?;
                self.events.push(event.clone());
                self.machines.push((event, machine.clone()));
                self.over = came(machine, delta);
            }
        }
        Ok(())
    }

    /// Says of each row of a machine what differs from the one before. `is_all`: all that is retained was looked at.
    fn finish_machines(&mut self, is_all: bool) {
        if self.machines.is_empty() {
            return;
        }
        // A slot's first tenant has nobody before it.
        let begins = self.over || (is_all && self.history.oldest_revision() <= 1);
        self.over = begins;
        let rows: Vec<_> = self.machines.iter().map(|(_, machine)| machine.clone()).collect();
        self.events.clear();
        for (position, (mut event, machine)) in std::mem::take(&mut self.machines).into_iter().enumerate() {
            let (word, detail) = difference(rows.get(position + 1).map(AsRef::as_ref), &machine, begins);
            (event.event, event.detail) = (word.to_owned(), detail);
            self.events.push(event);
        }
    }
}

/// What an unreachable machine ran is lost in two steps, and the end of it has no words but those of the first: the machine is given up, and later,
/// if ever, it tells that nothing of it is left.
const GIVEN_UP: &str = " is unreachable";

fn why_it_moved(moved: &Move) -> Option<String> {
    let reason = moved.reason.as_deref()?;
    let is_given_up = moved.status.state == AllocationState::Lost && reason.ends_with(GIVEN_UP);
    Some(if is_given_up { format!("given up: {reason}") } else { reason.to_owned() })
}

fn why_it_ended(end: &End) -> Option<&str> {
    let reason = end.reason.as_deref()?;
    let was_given_up = end.state == AllocationState::EndedLost && reason.ends_with(GIVEN_UP);
    Some(if was_given_up { "its machine is back, and it has ended for sure" } else { reason })
}

/// Whether a machine came with a delta that has its row. Where its first epoch began it did, whatever of its slot is retained.
fn came(machine: &Machine, delta: &Delta) -> bool {
    machine.registered == delta.time && machine.epoch_began == delta.revision
}

fn difference(before: Option<&Machine>, machine: &Machine, begins: bool) -> (&'static str, String) {
    let state = machine.state.word();
    let Some(before) = before else {
        return if begins {
            ("registered", format!("{state}, epoch {}", machine.epoch))
        } else {
            (state, String::new())
        };
    };
    if machine.state == MachineState::Gone {
        // What else is said of it then is nothing that it had.
        return (state, String::new());
    }
    let mut facts = Vec::new();
    if machine.epoch != before.epoch {
        facts.push(format!("epoch {}", machine.epoch));
    }
    if machine.boot_id != before.boot_id {
        facts.push("it booted".to_owned());
    }
    if machine.capacity != before.capacity || machine.devices != before.devices {
        facts.push("its capacity changed".to_owned());
    }
    if machine.attributes != before.attributes {
        facts.push("its attributes changed".to_owned());
    }
    if let Some(deadline) = machine.drain_deadline.filter(|_| machine.drain_deadline != before.drain_deadline) {
        facts.push(format!("what is left is stopped at {}", deadline.time().whole_second()));
    }
    if machine.unfit != before.unfit {
        facts.push(match machine.unfit {
            Some(Unfit::AgentLeaves) => "its agent leaves".to_owned(),
            Some(Unfit::StateUnwritable) => "its agent can't write its state".to_owned(),
            Some(Unfit::SetupFails) => "its agent can't set tasks up".to_owned(),
            None => "its agent wants tasks again".to_owned(),
        });
    }
    let word = match (machine.state == before.state, machine.cordoned == before.cordoned) {
        (false, _) => state,
        (true, false) if machine.cordoned => "cordoned",
        (true, false) => "uncordoned",
        (true, true) if machine.epoch != before.epoch => "registered",
        (true, true) => "changed",
    };
    (word, facts.join(", "))
}

/// What became of a task; being placed is told by its grant.
fn task_word(state: TaskState) -> Option<&'static str> {
    match state {
        TaskState::Waiting => Some("waiting"),
        TaskState::Live => None,
        TaskState::Done => Some("done"),
        TaskState::Failed => Some("failed"),
        TaskState::Cancelled => Some("cancelled"),
        TaskState::Blocked => Some("blocked"),
    }
}

fn tasks_of(tasks: &[u32]) -> String {
    match tasks {
        [only] => format!("task {only}"),
        _ => counted(tasks.len() as u64, "task"),
    }
}

fn command_word(ask: &v1::command::Ask) -> &'static str {
    use v1::command::Ask;
    match ask {
        Ask::OpenServer(_) => "open-server",
        Ask::OpenSession(_) => "open-session",
        Ask::CloseSession(_) => "close-session",
        Ask::Commit(_) => "transaction",
        Ask::SubmitJob(_) => "submit-job",
        Ask::StopJob(_) => "stop-job",
        Ask::ScaleJob(_) => "scale-job",
        Ask::StopAllocation(_) => "stop-allocation",
        Ask::RegisterMachine(_) => "register-machine",
        Ask::ExpireMachine(_) => "expire-machine",
        Ask::ReportStatus(_) => "report-status",
        Ask::ReportFitness(_) => "report-fitness",
        Ask::CordonMachine(cordon) if cordon.cordoned => "cordon-machine",
        Ask::CordonMachine(_) => "uncordon-machine",
        Ask::DrainMachine(drain) if drain.deadline_micros != 0 => "drain-machine",
        Ask::DrainMachine(_) => "undrain-machine",
        Ask::RemoveMachine(_) => "remove-machine",
        Ask::Tick(_) => "tick",
        Ask::Launch(_) => "launch",
        Ask::TakeHold(_) => "take-hold",
        Ask::SetQuota(_) => "set-quota",
        Ask::SetPartition(_) => "set-partition",
        Ask::AdoptUnknown(_) => "adopt-unknown",
        Ask::PauseScheduler(pause) if pause.paused => "pause-scheduler",
        Ask::PauseScheduler(_) => "resume-scheduler",
        Ask::SetRights(_) => "set-rights",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_core::{Core, CoreOptions};
    use plenum_model::{CellIdentity, Command, GroupShape, JobShape, LogTime, Request, Resources};
    use std::sync::Arc;

    /// A cell with a job, and what made it.
    fn course_of_a_job() -> (Cell, Vec<Delta>) {
        let group = GroupShape { name: "g".into(), count: 1, resources: Resources::default(), ..GroupShape::default() };
        let (name, namespace) = ("early".into(), "default".into());
        let shape = JobShape { name, namespace, scheduler: "batch".into(), groups: vec![group], ..JobShape::default() };
        let submit = Command::SubmitJob {
            shape: Arc::new(shape),
            body: Arc::from([]),
            body_digest: [0; 32],
            expected_version: None,
        };
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

    fn with_a_job() -> Cell {
        course_of_a_job().0
    }

    // Where a story was cut because more of the log would have had to be read, its oldest event was called the registration.
    #[test]
    fn a_machine_is_said_to_have_registered_only_where_its_story_begins() {
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), plenum_history::Options::new(vec![1; 16])).unwrap();
        let cell = Cell::default();
        let machine = crate::agents::machine(0, 7, plenum_model::MachineState::Ready);
        let oldest = |is_all| {
            let mut teller = Teller::new(&history, &cell);
            teller.machines.push((v1::HistoryEvent::default(), Arc::new(machine.clone())));
            teller.finish_machines(is_all);
            (teller.events[0].event.clone(), teller.over)
        };
        assert_eq!(oldest(true), ("registered".to_owned(), true));
        assert_eq!(oldest(false), ("ready".to_owned(), false));
    }

    // Once anything had been retired, a machine in a slot that was never given before was told as "ready", and its story as one whose beginning
    // is no longer retained.
    #[test]
    fn a_new_machine_registers_also_where_older_revisions_are_retired() {
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), plenum_history::Options::new(vec![1; 16])).unwrap();
        let mut cell = with_a_job();
        crate::checkpoint::write(&history, &cell, None).unwrap();
        let revision = cell.revision().next();
        let began = LogTime::from_micros(1);
        let new =
            Machine { registered: began, epoch_began: revision, ..crate::agents::machine(0, 7, MachineState::Ready) };
        // One that had registered before, and is back in another epoch.
        let back = Machine {
            id: MachineId { slot: 1, generation: 1 },
            name: "back".into(),
            registered: LogTime::from_micros(0),
            ..new.clone()
        };
        let mut delta = gone::tests::at(revision.0);
        delta.machines = [&new, &back].map(|machine| Arc::new(machine.clone())).to_vec();
        cell.apply(&delta).unwrap();
        gone::tests::append(&history, &[delta]);
        let told = |machine: &Machine| {
            let story = tell(&history, &cell, &Hero::Machine(machine.id), 10).unwrap();
            (story.events[0].event.clone(), story.oldest_revision)
        };
        assert_eq!(told(&new), ("registered".to_owned(), 0));
        assert_eq!(told(&back), ("ready".to_owned(), revision.0));
    }

    // Who gave a drain another deadline read that the machine had changed, and not in what.
    #[test]
    fn a_drain_is_told_with_its_deadline() {
        let ready = crate::agents::machine(0, 7, plenum_model::MachineState::Ready);
        let drained = |micros| Machine {
            state: plenum_model::MachineState::Draining,
            drain_deadline: plenum_model::Deadline::new(LogTime::from_micros(micros)),
            ..ready.clone()
        };
        let told = |before: &Machine, after: &Machine| difference(Some(before), after, false);
        let until = |time: &str| format!("what is left is stopped at 1970-01-01T00:{time}Z");
        assert_eq!(told(&ready, &drained(60_000_000)), ("draining", until("01:00")));
        assert_eq!(told(&drained(60_000_000), &drained(90_000_000)), ("changed", until("01:30")));
        assert_eq!(told(&drained(60_000_000), &ready), ("ready", String::new()));
    }

    // `ready` by `drain-machine`: it read as if the drain had made it ready.
    #[test]
    fn the_end_of_a_cordon_or_a_drain_is_not_told_as_its_beginning() {
        use v1::command::Ask;
        let cordon = |cordoned| command_word(&Ask::CordonMachine(v1::CordonMachine { machine: 1, cordoned }));
        let drain =
            |deadline_micros| command_word(&Ask::DrainMachine(v1::DrainMachine { machine: 1, deadline_micros }));
        assert_eq!([cordon(true), cordon(false)], ["cordon-machine", "uncordon-machine"]);
        assert_eq!([drain(60_000_000), drain(0)], ["drain-machine", "undrain-machine"]);
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
