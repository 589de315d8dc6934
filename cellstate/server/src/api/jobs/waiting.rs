//! Why tasks of a job wait, or stay where they are not to, in words.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    Cell, GroupShape, Job, JobKind, LogTime, MachineState, NotWanted, Resource, Resources, SessionId, Sum, TaskState,
    UnknownId, agreeing, counted, group_is_wanted,
};
use plenum_proto::v1;

use crate::api::past;
use crate::notes::Note;
use crate::shared::Shared;
use crate::view;

/// Why tasks of jobs wait: what the cell itself knows, or else what their schedulers said last.
pub(in crate::api) struct Reasons<'a> {
    /// `None`: of the past the cell alone tells; what was said and who was connected then is kept nowhere.
    present: Option<&'a Shared>,
    cell: &'a Cell,
    /// When it was as it is, where it is of the past.
    then: LogTime,
    /// What is used of each quota, by namespace: summed once, as soon as somebody asks.
    used: OnceCell<BTreeMap<Arc<str>, Sum>>,
    /// What holds take, by namespace; the same.
    held: OnceCell<BTreeMap<Arc<str>, Sum>>,
    /// Who has fallen silent; the same.
    silent: OnceCell<BTreeSet<SessionId>>,
    /// Sessions that nobody uses; the same.
    away: OnceCell<Vec<SessionId>>,
    /// Whether any machine is drained; the same.
    drains: OnceCell<bool>,
}

/// Who of a job's scheduler is there.
struct Present {
    /// Nobody is connected.
    is_away: bool,
    /// Somebody is, and has not fallen silent.
    is_heard: bool,
}

impl<'a> Reasons<'a> {
    /// What waits in the cell as it was `at` a moment, or as it is.
    pub(in crate::api) fn new(shared: &'a Shared, at: Option<v1::At>, cell: &'a Cell) -> Self {
        let present = if past::is_asked(at) { None } else { Some(shared) };
        // A time that is yet to come is taken for now.
        let then = then(at.unwrap_or_default(), cell).min(shared.clock.now());
        let (used, held, silent, away, drains) = Default::default();
        Self { present, cell, then, used, held, silent, away, drains }
    }

    /// The time that what waits is held against.
    pub(in crate::api) fn now(&self) -> LogTime {
        self.present.map_or(self.then, |shared| shared.clock.now())
    }

    /// Says in a job's view why its tasks wait, and of each group why tasks stay on machines that are drained; nothing where none does.
    pub(in crate::api) fn tell(&self, job: &Arc<Job>, view: &mut v1::JobView) {
        if view::places_tasks(job) {
            for (position, group) in (0_u16..).zip(&mut view.groups) {
                group.staying = self.staying(job, position).unwrap_or_default();
            }
        }
        view.waiting_reason = self.of(job, &view.groups);
    }

    /// Why this one's tasks wait, or stay where its groups say so; empty when none does.
    fn of(&self, job: &Arc<Job>, groups: &[v1::GroupView]) -> String {
        if job.state.is_final() {
            return String::new();
        }
        if job.shape.kind == JobKind::Recurring {
            return self.next_launch(job);
        }
        let mut reasons = Vec::new();
        for ((position, shape), group) in (0_u16..).zip(&job.shape.groups).zip(groups) {
            let tasks_in = |state| self.cell.group(job, position).map_or(0, |row| row.tasks_in(state));
            let blocked = tasks_in(TaskState::Blocked);
            if blocked > 0 {
                let (group, name) = (&shape.name, &job.shape.name);
                let namespace = job.shape.own_namespace().map(|namespace| format!("--namespace {namespace} "));
                let namespace = namespace.unwrap_or_default();
                reasons.push(format!(
                    "{group}: {blocked} waiting: of each only one may run (single_instance), and the one before is not known to be gone; `plenum alloc list {namespace}--job {name}` \
                     says where it is"
                ));
            }
            let behind_unknown = self.behind_unknown(job, position);
            if let Some((tasks, what)) = &behind_unknown {
                reasons.push(format!("{}: {tasks} waiting {what}", shape.name));
            }
            let waiting = tasks_in(TaskState::Waiting) - behind_unknown.map_or(0, |(tasks, _)| tasks);
            if waiting > 0 {
                reasons.push(format!("{}: {waiting} waiting: {}", shape.name, self.why_waiting(job, position, shape)));
            }
            // Why others wait is no reason to stay: who drains a machine would wait for room, and nothing would move.
            if !group.staying.is_empty() {
                reasons.push(format!("{}: {}", shape.name, group.staying));
            }
        }
        if reasons.is_empty() && self.asks_for_nothing(job) {
            return format!("none of its groups has a task; {}", ask_for_tasks(job));
        }
        reasons.join("; ")
    }

    /// How many tasks of a group wait as an agent runs the same unknown to the cell, or may turn out to, and for what.
    fn behind_unknown(&self, job: &Job, position: u16) -> Option<(u32, String)> {
        let row = self.cell.group(job, position).filter(|row| self.cell.may_run_any_unknown(row))?;
        let waits = |task: &u32| self.cell.task_state(row, *task) == Some(TaskState::Waiting);
        let (mut tasks, mut unknown) = (0, None);
        for task in (0..row.count).filter(waits).filter(|task| self.cell.may_run_unknown(row, *task)) {
            tasks += 1;
            unknown = unknown.or_else(|| self.cell.unknown_predecessor(row, task));
        }
        let why = "as of each only one may run (single_instance)";
        let what = match unknown {
            _ if tasks == 0 => return None,
            Some(UnknownId { machine, allocation }) if self.cell.unheard_machines() == 0 => {
                let which = if tasks == 1 { "an unknown task" } else { "an unknown task each, the first" };
                let name = self.cell.machine_in(machine).map_or("", |machine| &machine.name);
                format!(
                    "for {which} on {name}, {why}; `plenum machine show {name}` says what becomes of it, `plenum alloc stop {allocation}` stops it"
                )
            }
            _ => {
                let machines = counted(self.cell.unheard_machines().into(), "machine");
                format!(
                    "until the agents of {machines} have registered after the restore, or their leases have run out, {why}"
                )
            }
        };
        Some((tasks, what))
    }

    /// Why tasks of a group wait of which some do.
    fn why_waiting(&self, job: &Job, position: u16, shape: &GroupShape) -> String {
        match group_is_wanted(self.cell, job, position, self.now()) {
            Err(NotWanted::After(before)) => {
                let before = job.shape.groups.get(usize::from(before)).map_or("another group", |group| &group.name);
                format!("group {before} is not done")
            }
            Err(NotWanted::Backoff(until)) => {
                format!("{}; {}", NotWanted::Backoff(until), self.failures(job, position))
            }
            Err(not_wanted) => not_wanted.to_string(),
            Ok(()) => self.governed(job, position, shape).unwrap_or_else(|| match self.present {
                Some(shared) => self.scheduler_says(shared, job, position),
                None => self.not_placed_then(job),
            }),
        }
    }

    /// Of the past it is known who was there, and not what anybody said.
    fn not_placed_then(&self, job: &Job) -> String {
        let scheduler = &job.shape.scheduler;
        let mut sessions = self.cell.sessions();
        if sessions.any(|session| job.shape.is_served_by(&session.scheduler, &session.namespace)) {
            format!("scheduler {scheduler} had not placed them; why is kept of the present only")
        } else {
            format!("no scheduler {scheduler} had a session")
        }
    }

    /// What a recurring job waits for, of which nothing is placed itself.
    fn next_launch(&self, job: &Job) -> String {
        let name = job.shape.called();
        if self.asks_for_nothing(job) {
            let ask = ask_for_tasks(job);
            return format!("it is recurring, and launched once a group of it has a task; {ask}");
        }
        let launch = match job.last_instant_micros {
            None => "first launch".to_owned(),
            Some(last) => format!("next launch, after the one for {}", LogTime::from_micros(last)),
        };
        format!("it is recurring, and waits for its {launch}; `plenum job launch {name}` launches it by hand")
    }

    /// How often the task of a group failed that failed most often: whoever looks between two starts sees a job that runs.
    fn failures(&self, job: &Job, position: u16) -> String {
        let Some(row) = self.cell.group(job, position) else { return String::new() };
        let failures = (0..row.count).filter_map(|task| Some((self.cell.task(row, task)?.failures, task)));
        let most = failures.max_by_key(|&(failures, task)| (failures, Reverse(task)));
        let (failures, task) = most.unwrap_or_default();
        let times = match failures {
            1 => "once".to_owned(),
            u8::MAX => format!("{failures} times or more"),
            _ => format!("{failures} times"),
        };
        format!("task {task} failed {times}, `plenum job history {}` tells how", job.shape.called())
    }

    /// A job that has nothing to do, and is not over: it waits to be scaled.
    fn asks_for_nothing(&self, job: &Job) -> bool {
        view::group_rows(self.cell, job).all(|row| row.count == 0)
    }

    /// That a job's scheduler is paused, where it is.
    fn paused(&self, job: &Job) -> Option<String> {
        let scheduler = &job.shape.scheduler;
        let is_paused = self.cell.is_paused(scheduler);
        is_paused.then(|| {
            format!("the scheduler {scheduler} is paused; `plenum scheduler resume {scheduler}` lets it go on")
        })
    }

    /// What operators laid down that stands in the way: no scheduler can do anything about that.
    fn governed(&self, job: &Job, position: u16, shape: &GroupShape) -> Option<String> {
        let namespace = &job.shape.namespace;
        if let Some(paused) = self.paused(job) {
            return Some(paused);
        }
        let quota = self.cell.quota(namespace)?;
        let used = self.used.get_or_init(|| self.cell.used_of_quotas());
        // A gang needs it for all that it starts with.
        let at_once = self.cell.group(job, position).map_or(1, |row| shape.least_at_once(row)).max(1);
        let mut wanted = Sum::default();
        wanted.add(&shape.resources, at_once as usize);
        let wanted = wanted.total();
        let used = self.cell.used_beside(job.id, used.get(namespace).copied().unwrap_or_default());
        let used = used.total();
        let shortage = quota.shortage(&used, &wanted)?;
        let short = shortage.words_in(&self.cell.identity().custom_resources);
        let resource = shortage.resource;
        let limit = Resource::ALL.iter().zip(quota.limits).find_map(|(one, limit)| limit.filter(|_| *one == resource));
        let (used, held) = (used.get(resource), self.held_beside(job).get(resource));
        // Who lists the allocations of the namespace finds that much less, and room in its quota.
        let by_whom = if held > 0 {
            let (allocated, held) = (resource.lack(used.saturating_sub(held)), resource.lack(held));
            format!(
                ", {allocated} by allocations and {held} by holds; `plenum hold list --namespace {namespace}` tells for whom"
            )
        } else {
            String::new()
        };
        // What lists the use of quotas counts that, too.
        let mut own = Sum::default();
        self.cell.hold(job.id).into_iter().for_each(|hold| own.add(&hold.resources, hold.machines.len()));
        let own = match own.total().get(resource) {
            0 => String::new(),
            own => format!(" beside {} that it holds itself", resource.lack(own)),
        };
        let (used, limit) = (resource.lack(used), resource.lack(limit.unwrap_or_default()));
        let what = if at_once > 1 { format!("the {at_once} that it starts with") } else { "one more".to_owned() };
        let beyond = quota.shortage(&Resources::default(), &wanted);
        let beyond = if beyond.is_some() { ", which is more than it has in all" } else { "" };
        Some(format!(
            "the quota of {namespace} is short of {short} for {what}{beyond}: {used} of {limit} are used{own}{by_whom}"
        ))
    }

    /// What of the use of its namespace's quota is not by allocations: holds of other jobs. Its own one is room for it.
    fn held_beside(&self, job: &Job) -> Resources {
        let held = self.held.get_or_init(|| {
            let mut held: BTreeMap<Arc<str>, Sum> = BTreeMap::new();
            for (holder, hold) in self.cell.holds() {
                if let Some(holder) = self.cell.job(holder) {
                    let of_namespace = held.entry(holder.shape.namespace.clone()).or_default();
                    of_namespace.add(&hold.resources, hold.machines.len());
                }
            }
            held
        });
        let held = held.get(&job.shape.namespace).copied().unwrap_or_default();
        self.cell.used_beside(job.id, held).total()
    }

    /// How many tasks of a group are on drained machines, and why they stay there, where their scheduler says so.
    fn staying(&self, job: &Job, position: u16) -> Option<String> {
        let is_drained = |slot: u32| self.cell.machine_row(slot).is_some_and(|row| row.state == MachineState::Draining);
        let any = || (0..self.cell.machine_rows().len()).any(is_drained);
        if !self.drains.get_or_init(any) {
            return None;
        }
        let row = self.cell.group(job, position)?;
        let slots = (0..row.count).filter_map(|task| self.cell.task(row, task)?.allocation.checked_sub(1));
        let found = slots.filter_map(|slot| self.cell.allocation_in(slot));
        let tasks = found.filter(|found| is_drained(found.row.machine)).count() as u64;
        if tasks == 0 {
            return None;
        }
        let heard = self.present.filter(|shared| self.who_is_there(shared, job).is_heard);
        let note = heard.and_then(|shared| last_word(shared, job, position, true));
        let (stay, are) = (agreeing(tasks, "stays", "stay"), agreeing(tasks, "is", "are"));
        let (scheduler, which) = (&job.shape.scheduler, agreeing(tasks, "a machine that is", "machines that are"));
        Some(match note {
            Some(note) => {
                format!("{tasks} {stay} on {which} drained, and {are} stopped at the deadline: {}", dated(&note))
            }
            // Whether it would move them nobody knows: that is seen once it goes on.
            None => {
                let paused = self.paused(job).map(|paused| format!("; {paused}")).unwrap_or_default();
                format!(
                    "{tasks} {are} on {which} drained; what scheduler {scheduler} does not move is stopped at the deadline{paused}"
                )
            }
        })
    }

    fn who_is_there(&self, shared: &Shared, job: &Job) -> Present {
        let silent = self.silent.get_or_init(|| shared.silent_sessions());
        let (sessions, now) = (shared.sessions.lock(), shared.clock.monotonic_micros());
        let of_it =
            self.cell.sessions().filter(|session| job.shape.is_served_by(&session.scheduler, &session.namespace));
        let mut connected = of_it.map(|session| session.id).filter(|&id| sessions.is_connected(id, now)).peekable();
        Present { is_away: connected.peek().is_none(), is_heard: connected.any(|id| !silent.contains(&id)) }
    }

    /// The namespace of a session of a job's scheduler that is connected, and is there for others alone.
    fn other_namespace(&self, shared: &Shared, job: &Job) -> Option<&str> {
        let (sessions, now) = (shared.sessions.lock(), shared.clock.monotonic_micros());
        let mut of_name = self.cell.sessions().filter(|session| session.scheduler == job.shape.scheduler);
        let other = of_name.find(|session| {
            !job.shape.is_served_by(&session.scheduler, &session.namespace) && sessions.is_connected(session.id, now)
        });
        other.map(|session| &*session.namespace)
    }

    /// Sessions of a job's scheduler that nobody uses, and that are not closed yet: what is theirs to place may be left to them.
    fn away_of(&self, shared: &Shared, job: &Job) -> Vec<SessionId> {
        let away = self.away.get_or_init(|| {
            let (sessions, now) = (shared.sessions.lock(), shared.clock.monotonic_micros());
            let ids = self.cell.sessions().map(|session| session.id);
            ids.filter(|&id| !sessions.is_connected(id, now)).collect()
        });
        let is_its = |id: &SessionId| {
            let session = self.cell.session(*id);
            session.is_some_and(|session| job.shape.is_served_by(&session.scheduler, &session.namespace))
        };
        away.iter().copied().filter(is_its).collect()
    }

    /// The scheduler's last word of why they wait; of one that is gone, or silent, it says nothing of today.
    fn scheduler_says(&self, shared: &Shared, job: &Job, group: u16) -> String {
        let note = last_word(shared, job, group, false);
        let Present { is_away, is_heard } = self.who_is_there(shared, job);
        let scheduler = &job.shape.scheduler;
        if is_heard {
            return match note {
                Some(note) => dated(&note),
                None => format!(
                    "scheduler {scheduler} has not placed them yet, and has not said why; `plenum txn list --refused --scheduler {scheduler}` lists what it was refused{}",
                    left_to(&self.away_of(shared, job))
                ),
            };
        }
        let why = if is_away {
            let of_which = match self.other_namespace(shared, job) {
                Some(other) => format!(" for the namespace {} (one is for {other})", job.shape.namespace),
                None => String::new(),
            };
            let what = if shared.space.is_read_only() {
                "the cell is read-only and lets in none that begins now; `plenum status` says why"
            } else {
                "start one"
            };
            format!("no scheduler {scheduler} is connected{of_which}; {what}")
        } else {
            format!(
                "scheduler {scheduler} is silent: it stands still, or makes one long decision; `plenum scheduler list -o wide` says since when"
            )
        };
        let said = note.map(|note| match note.revision {
            0 => format!(" (it said: {})", note.reason),
            revision => format!(" (it said at revision {revision}: {})", note.reason),
        });
        why + &said.unwrap_or_default()
    }
}

/// A scheduler's word, with the revision on which it was found where the scheduler said that.
fn dated(note: &Note) -> String {
    match note.revision {
        0 => note.reason.clone(),
        revision => format!("{} (at revision {revision})", note.reason),
    }
}

/// Whose turn it may be where several share a scheduler's jobs: which has which, they alone know.
fn left_to(left: &[SessionId]) -> String {
    match left {
        [] => String::new(),
        [only] => format!("; its session {} is away, and it may be that one's turn to place them", only.0),
        [first, ..] => format!(
            "; {} sessions of it are away, {} among them, and it may be the turn of one of these to place them",
            left.len(),
            first.0
        ),
    }
}

/// What its scheduler said last of a group of this version of the job, if it is why tasks stay, or if it is why they wait.
fn last_word(shared: &Shared, job: &Job, group: u16, staying: bool) -> Option<Note> {
    let notes = shared.notes.lock();
    notes.of(job.id, group.into()).filter(|note| note.version == job.version && note.staying == staying).cloned()
}

/// When a moment was that this cell is of: its time, which may be long after the last change, or that of the revision that was asked for.
fn then(at: v1::At, cell: &Cell) -> LogTime {
    let is_of_time = at.time_micros != 0 && (at.revision == 0 || cell.revision().0 < at.revision);
    if is_of_time { cell.time().max(LogTime::from_micros(at.time_micros)) } else { cell.time() }
}

/// What asks for tasks of a job that has none. The group has to be named where there are several.
fn ask_for_tasks(job: &Job) -> String {
    let group = if job.shape.groups.len() > 1 { " --group GROUP" } else { "" };
    format!("`plenum job scale {} COUNT{group}` asks for some", job.shape.called())
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_model::{Delta, Revision};

    // Revision 0 is the empty cell: a job was told to wait for what its scheduler had never seen there.
    #[test]
    fn a_note_of_no_revision_is_told_without_one() {
        let note = |revision| Note { tasks: 1, reason: "no room".to_owned(), revision, version: 0, staying: false };
        assert_eq!([7, 0].map(|revision| dated(&note(revision))), ["no room (at revision 7)", "no room"]);
    }

    #[test]
    fn sessions_that_are_away_are_named_where_they_may_be_the_reason() {
        let told = |left: &[u64]| left_to(&left.iter().map(|&id| SessionId(id)).collect::<Vec<_>>());
        assert_eq!(told(&[]), "");
        assert_eq!(told(&[8]), "; its session 8 is away, and it may be that one's turn to place them");
        let both = "; 2 sessions of it are away, 8 among them, and it may be the turn of one of these to place them";
        assert_eq!(told(&[8, 9]), both);
    }

    // Of a cell that stood still it was told for hours that a task was about to fail again, and that another one waited for its next attempt.
    #[test]
    fn what_waits_is_held_against_the_time_that_was_asked_for_and_not_that_of_the_last_change() {
        let mut cell = Cell::default();
        cell.apply(&Delta::new(Revision(1), LogTime::from_micros(1))).unwrap();
        let micros = |revision, time_micros| then(v1::At { revision, time_micros }, &cell).micros;
        assert_eq!(micros(0, 700_000_000), 700_000_000);
        // Of both it is the earlier one: here the time, then the revision.
        assert_eq!(micros(2, 700_000_000), 700_000_000);
        assert_eq!(micros(1, 700_000_000), 1);
        assert_eq!(micros(1, 0), 1);
    }
}
