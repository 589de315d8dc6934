//! A small cell that grows by valid deltas, chosen by numbers: material for pages and mirrors. It decides nothing well.

#[path = "world/governing.rs"]
pub(crate) mod governing;

use std::sync::Arc;

use plenum_model::{
    AllocationState, AllocationStatus, Attributes, Cell, CellIdentity, Deadline, Delta, Device, End, GrantExtra,
    Grants, GroupShape, Job, JobChange, JobId, JobShape, JobState, LogTime, Machine, MachineId, MachineState, Move,
    Port, Resources, SessionChange, SessionId, TakeOver, TaskChange, TaskState,
};

/// Numbers below stand for steps of machines, jobs and sessions; those from here to `STEPS` for what is held, reserved and limited.
const STEPS_OF_JOBS: u32 = 100_000;
/// Numbers of steps.
pub(crate) const STEPS: u32 = 140_000;

/// A cell, and all deltas that led to it.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) cell: Cell,
    pub(crate) deltas: Vec<Delta>,
}

impl World {
    /// A cell that did one step for each number.
    pub(crate) fn after(steps: &[u32]) -> Self {
        let mut world = Self::default();
        let identity = CellIdentity {
            cell_id: *b"a cell of a test",
            incarnation: 1,
            term: 1,
            custom_resources: vec!["licences".into()],
        };
        let shapes = vec![Resources::new(500, 64 << 20), Resources { disk_bytes: 1 << 30, ..Resources::new(1, 1) }];
        let first = world.delta();
        world.fold(Delta { cell: Some(identity), scheduler_names: vec!["batch".into()], shapes, ..first });
        steps.iter().for_each(|&step| world.step(step));
        world
    }

    /// Does what a number says, if that is possible now; otherwise nothing changes.
    pub(crate) fn step(&mut self, number: u32) {
        let empty = self.delta();
        if let Some(number) = number.checked_sub(STEPS_OF_JOBS) {
            let delta = self.govern(number, empty);
            return self.fold(delta);
        }
        let (kind, which) = (number % 14, number / 14 % 10_000);
        let delta = match kind {
            0 => self.register(which, empty),
            1 => Self::open_session(which, empty),
            2 => self.submit(which, empty),
            3..=5 => self.grant(which, empty),
            6 => self.move_one(which, empty),
            7 => self.end_one(which, empty),
            8 => self.decide_number(which, empty),
            9 => self.remove_machine(which, empty),
            10 => self.change_job(which, empty),
            11 => self.remove_job(which, empty),
            12 => self.close_session(which, empty),
            _ => self.cancel_task(which, empty),
        };
        self.fold(delta);
    }

    pub(crate) fn delta(&self) -> Delta {
        Delta::new(self.cell.revision().next(), LogTime { micros: self.cell.time().micros + 1000 })
    }

    pub(crate) fn fold(&mut self, delta: Delta) {
        self.cell.apply(&delta).unwrap();
        self.deltas.push(delta);
    }

    fn register(&self, which: u32, empty: Delta) -> Delta {
        let name: Arc<str> = format!("m{}.example", which % 300).into();
        let known = self.cell.machine_named(&name);
        let slots = self.cell.machine_slots();
        let free = (0..slots.len()).find(|&slot| slots.get(slot).is_some_and(|slot| slot.machine.is_none()));
        let new = || {
            let slot = free.unwrap_or(slots.len());
            MachineId { slot, generation: slots.get(slot).map_or(0, |slot| slot.generation) + 1 }
        };
        let rack: Arc<str> = format!("r{}", which % 3).into();
        let gpu = Device { kind: "gpu".into(), index: which % 2, millis: 1000, model: "a100".into() };
        let machine = Machine {
            id: known.map_or_else(new, |known| known.id),
            name,
            state: if which.is_multiple_of(5) { MachineState::Draining } else { MachineState::Ready },
            epoch: known.map_or(1, |known| known.epoch + 1),
            capacity: Arc::new(Resources { disk_bytes: 1 << 40, ..Resources::new(64_000, 64 << 30) }),
            attributes: Arc::new(Attributes::from([("rack".into(), rack)])),
            devices: vec![gpu].into(),
            boot_id: "boot".into(),
            since: empty.time,
            drain_deadline: Deadline::new(LogTime { micros: if which.is_multiple_of(5) { 99 } else { 0 } }),
            registered: known.map_or(empty.time, |known| known.registered),
            epoch_began: empty.revision,
            cordoned: false,
            unfit: None,
        };
        Delta { machines: vec![Arc::new(machine)], ..empty }
    }

    fn open_session(which: u32, empty: Delta) -> Delta {
        let opened = SessionChange::Opened {
            scheduler: if which.is_multiple_of(2) { "batch".into() } else { "service".into() },
            principal: "local".into(),
            namespace: if which.is_multiple_of(3) { Arc::default() } else { "default".into() },
        };
        Delta { sessions: vec![opened], ..empty }
    }

    fn submit(&self, which: u32, empty: Delta) -> Delta {
        let slots = self.cell.job_slots();
        let slot = (0..slots.len()).find(|&slot| self.cell.job_in(slot).is_none()).unwrap_or(slots.len());
        let generation = slots.get(slot).map_or(0, |slot| slot.generation) + 1;
        let group = |name: &str, count, after| GroupShape {
            name: name.into(),
            count,
            after,
            resources: self.cell.shapes()[0],
            ..GroupShape::default()
        };
        let counts = [1 + which % 5, 1 + which % 300];
        let shape = JobShape {
            namespace: "default".into(),
            name: format!("job-{slot}-{generation}").into(),
            scheduler: "batch".into(),
            priority: 50,
            groups: vec![group("split", counts[0], vec![]), group("map", counts[1], vec![0])],
            ..JobShape::default()
        };
        let body: Arc<[u8]> = vec![1, 2, 3].into();
        let job = Job {
            id: JobId { slot, generation },
            version: 1,
            shape: Arc::new(shape),
            body_digest: *blake3::hash(&body).as_bytes(),
            body: Some(body),
            submitted: empty.time,
            state: JobState::Waiting,
            state_since: empty.time,
            reason: if which.is_multiple_of(2) { Arc::default() } else { "why not".into() },
            group_base: self.cell.groups().len(),
            home: which.is_multiple_of(7).then_some(which),
            last_instant_micros: None,
        };
        // A place begins at a multiple of its size, as the core has it: there are rows that nobody wrote.
        let sizes = counts.map(u32::next_power_of_two);
        let first = self.cell.task_states().len().next_multiple_of(sizes[0]);
        let second = (first + sizes[0]).next_multiple_of(sizes[1]);
        let put = JobChange::Put { job: Arc::new(job), task_bases: vec![first, second] };
        Delta { jobs: vec![put], ..empty }
    }

    fn grant(&self, which: u32, empty: Delta) -> Delta {
        let jobs: Vec<_> = self.cell.jobs().collect();
        let machines: Vec<_> = self.cell.machines().collect();
        let (Some(job), Some(machine)) = (pick(&jobs, which), pick(&machines, which / 3)) else { return empty };
        let group = u16::try_from(which % 2).unwrap();
        let row = self.cell.group(job, group).unwrap();
        let waiting = (0..row.count).filter(|&task| self.cell.task(row, task).unwrap().state == TaskState::Waiting);
        let tasks: Vec<u32> = waiting.take(1 + which as usize % 100).collect();
        if tasks.is_empty() {
            return empty;
        }
        let rows = self.cell.allocation_rows();
        let live: Vec<_> = self.cell.allocations().collect();
        let slots: Vec<u32> = (0..).filter(|&slot| self.cell.allocation_in(slot).is_none()).take(tasks.len()).collect();
        let port = Port { name: "http".into(), number: 8080 };
        let leaving: Vec<_> = live
            .iter()
            .filter(|found| found.status.state.is_leaving() && found.row.machine == machine.id.slot)
            .collect();
        let victim = pick(&leaving, which / 5).map(|victim| TakeOver {
            victim: victim.id,
            amount: Resources::new(1, 0),
            devices: vec![],
            ports: vec![],
        });
        let extra =
            GrantExtra { claim: 0, ports: vec![port], takes_over: Vec::from_iter(victim), ..GrantExtra::default() };
        let grants = Grants {
            job: job.id,
            group,
            group_row: job.group_row(group).unwrap(),
            job_version: job.version,
            shape: which % 2,
            scheduler: 0,
            session: SessionId(2),
            number: which + 1,
            machines: vec![machine.id.slot; tasks.len()],
            generations: slots.iter().map(|&slot| rows.get(slot).map_or(0, |row| row.generation) + 1).collect(),
            slots,
            tasks,
            extras: if which.is_multiple_of(4) { vec![extra] } else { vec![] },
        };
        Delta { grants: vec![grants], ..empty }
    }

    fn move_one(&self, which: u32, empty: Delta) -> Delta {
        let live: Vec<_> = self.cell.allocations().collect();
        let Some(found) = pick(&live, which) else { return empty };
        let states = [AllocationState::Starting, AllocationState::Running, AllocationState::Stopping];
        let state = if found.status.state.is_leaving() { found.status.state } else { *pick(&states, which).unwrap() };
        let reason = state.is_leaving().then(|| "asked for".into());
        let status = AllocationStatus { state, ready: which.is_multiple_of(2) };
        Delta { moves: vec![Move { slot: found.id.slot, status, restarts: which % 3, reason }], ..empty }
    }

    fn end_one(&self, which: u32, empty: Delta) -> Delta {
        let live: Vec<_> = self.cell.allocations().collect();
        let Some(found) = pick(&live, which) else { return empty };
        let end = |state, exit_code| End { slot: found.id.slot, state, exit_code, reason: None };
        let end =
            if which.is_multiple_of(2) { end(AllocationState::Complete, 0) } else { end(AllocationState::Failed, -9) };
        let done =
            TaskChange { group_row: found.row.group_row, task: found.row.task, state: TaskState::Done, failures: 2 };
        let tasks = if found.status.state.is_active() { vec![done] } else { vec![] };
        Delta { ends: vec![end], tasks, ..empty }
    }

    fn decide_number(&self, which: u32, empty: Delta) -> Delta {
        let sessions: Vec<_> = self.cell.sessions().collect();
        let Some(session) = pick(&sessions, which) else { return empty };
        let number = session.decided.back().map_or(0, |last| last.number) + 1;
        let change = SessionChange::Number { session: session.id, number, digest: u64::from(which) << 40 };
        Delta { sessions: vec![change], ..empty }
    }

    fn remove_machine(&self, which: u32, empty: Delta) -> Delta {
        let held = |slot| self.cell.holds().any(|(_, hold)| hold.machines.contains(&slot));
        let unknown = |slot| self.cell.unknown_tasks().any(|(id, _)| id.machine == slot);
        let runs = |slot| self.cell.allocations().any(|found| found.row.machine == slot);
        let used = |slot| runs(slot) || held(slot) || unknown(slot);
        let machines: Vec<_> = self.cell.machines().filter(|machine| !used(machine.id.slot)).collect();
        let Some(machine) = pick(&machines, which) else { return empty };
        let gone = Machine { state: MachineState::Gone, ..machine.as_ref().clone() };
        Delta { machines: vec![Arc::new(gone)], ..empty }
    }

    fn change_job(&self, which: u32, empty: Delta) -> Delta {
        let jobs: Vec<_> = self.cell.jobs().collect();
        let Some(job) = pick(&jobs, which) else { return empty };
        let group = self.cell.group(job, 0).unwrap();
        let row = job.group_base;
        let change = match which % 4 {
            0 => JobChange::State { id: job.id, state: JobState::Running, reason: "runs".into() },
            1 => JobChange::Home { id: job.id, machine: Some(which) },
            2 => JobChange::Home { id: job.id, machine: None },
            _ => {
                let (count, not_before) = (group.count + 1, LogTime { micros: 77 });
                JobChange::Group { row, count, not_before, task_base: self.cell.task_states().len() }
            }
        };
        Delta { jobs: vec![change], ..empty }
    }

    fn remove_job(&self, which: u32, empty: Delta) -> Delta {
        let used = |id| self.cell.hold(id).is_some() || self.cell.allocations().any(|found| found.row.job() == id);
        let jobs: Vec<_> = self.cell.jobs().filter(|job| !used(job.id)).collect();
        let Some(job) = pick(&jobs, which) else { return empty };
        Delta { jobs: vec![JobChange::Removed(job.id)], ..empty }
    }

    fn close_session(&self, which: u32, empty: Delta) -> Delta {
        let sessions: Vec<_> = self.cell.sessions().collect();
        let Some(session) = pick(&sessions, which) else { return empty };
        Delta { sessions: vec![SessionChange::Closed(session.id)], ..empty }
    }

    fn cancel_task(&self, which: u32, empty: Delta) -> Delta {
        let jobs: Vec<_> = self.cell.jobs().collect();
        let Some(job) = pick(&jobs, which) else { return empty };
        let row = self.cell.group(job, 1).unwrap();
        let cancelled =
            |task| TaskChange { group_row: job.group_base + 1, task, state: TaskState::Cancelled, failures: 0 };
        let waiting = (0..row.count).filter(|&task| self.cell.task(row, task).unwrap().state == TaskState::Waiting);
        Delta { tasks: waiting.take(3).map(cancelled).collect(), ..empty }
    }
}

fn pick<T>(all: &[T], which: u32) -> Option<&T> {
    all.get(which as usize % all.len().max(1))
}
