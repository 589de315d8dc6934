//! A small cell on which a situation is played: each command with a meaning of its own, and each told.

use std::collections::BTreeMap;

use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{Cell, Decision, JobId};
use plenum_proto::v1;
use prost::Message;
use v1::command::Ask;

use super::Told;

/// What the one who is refused has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All: it asks for what can't be.
    Newest,
    /// Only what was before.
    Before,
    /// Only what was before, and since then the server has started again: nobody knows any more what came between.
    BeforeAStart,
}

/// Log time from one command to the next: a second.
const STEP_MICROS: i64 = 1_000_000;

pub(super) struct Stage<'a> {
    told: &'a mut Told,
    core: Core,
    look: Look,
    /// The revision that was looked at.
    looked: u64,
    pub(super) time: i64,
    term: u64,
    pub(super) incarnation: u64,
    commands: u32,
    machines: u32,
    jobs: u32,
    /// By their names: each session with the number that comes next.
    sessions: BTreeMap<&'static str, (u64, u64)>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(told: &'a mut Told, look: Look) -> Self {
        let bounds = CoreOptions {
            retire_after_micros: 60 * STEP_MICROS,
            unknown_micros: 60 * STEP_MICROS,
            quotas_max: 2,
            ..CoreOptions::default()
        };
        let mut stage = Self {
            told,
            core: Core::new(bounds),
            look,
            looked: 0,
            time: 1_700_000_000 * STEP_MICROS,
            term: 0,
            incarnation: 1,
            commands: 0,
            machines: 0,
            jobs: 0,
            sessions: BTreeMap::new(),
        };
        stage.start();
        stage
    }

    pub(super) fn cell(&self) -> &Cell {
        self.core.cell()
    }

    /// Decides a command, and tells of it: the id that it was answered with, 0 if there is none.
    pub(super) fn ask(&mut self, ask: Ask) -> u64 {
        self.time += STEP_MICROS;
        let wire = v1::Command { principal: "local".to_owned(), namespace: "default".to_owned(), ask: Some(ask) };
        let decided = self.told.play(&mut self.core, self.commands, &wire, self.time);
        self.commands += 1;
        match decided {
            Decided::Changed { decision: Decision::Accepted { id, .. }, .. }
            | Decided::Unchanged(Decision::Accepted { id, .. }) => id,
            _ => 0,
        }
    }

    /// A start of the server.
    pub(super) fn start(&mut self) {
        self.term += 1;
        let (incarnation, term) = (self.incarnation, self.term);
        let custom_resources = vec!["licences".to_owned()];
        self.ask(Ask::OpenServer(v1::OpenServer { cell_id: vec![7; 16].into(), incarnation, term, custom_resources }));
    }

    /// Lets so many seconds pass, and then what is due.
    pub(super) fn pass(&mut self, seconds: i64) {
        self.time += seconds * STEP_MICROS;
        self.ask(Ask::Tick(v1::Tick {}));
    }

    /// Registers one more machine, with 2000 thousandths of a CPU: its registration, to be made again, and its slot.
    pub(super) fn machine(&mut self, edit: impl FnOnce(&mut v1::RegisterMachine)) -> (v1::RegisterMachine, u32) {
        let slot = self.machines;
        self.machines += 1;
        let mut machine = v1::RegisterMachine {
            name: format!("m{slot}"),
            boot_id: "boot-1".to_owned(),
            capacity: Some(v1::Resources { cpu_millis: 2000, memory_bytes: 1 << 30, ..Default::default() }),
            ..Default::default()
        };
        edit(&mut machine);
        self.ask(Ask::RegisterMachine(machine.clone()));
        (machine, slot)
    }

    /// The ids of a machine, as commands have them.
    pub(super) fn machine_id(&self, slot: u32) -> (u64, u32) {
        self.cell().machine_in(slot).map_or((0, 0), |machine| (machine.id.to_bits(), machine.epoch))
    }

    /// Submits one more job of a scheduler: one group with two tasks of 500 thousandths.
    pub(super) fn job(&mut self, scheduler: &str, edit: impl FnOnce(&mut v1::JobShape)) -> u64 {
        let group = v1::GroupShape {
            name: "g0".to_owned(),
            count: 2,
            resources: Some(v1::Resources { cpu_millis: 500, memory_bytes: 1 << 20, ..Default::default() }),
            lost_after_micros: 30 * STEP_MICROS,
            ..Default::default()
        };
        let mut shape = v1::JobShape {
            namespace: "default".to_owned(),
            name: format!("job-{}", self.jobs),
            scheduler: scheduler.to_owned(),
            priority: 50,
            kind: v1::JobKind::ToCompletion.into(),
            groups: vec![group],
            ..Default::default()
        };
        self.jobs += 1;
        edit(&mut shape);
        self.submit(shape)
    }

    pub(super) fn submit(&mut self, shape: v1::JobShape) -> u64 {
        self.submit_at(shape, None)
    }

    pub(super) fn submit_at(&mut self, shape: v1::JobShape, expected_version: Option<u32>) -> u64 {
        let body = |group: &v1::GroupShape| v1::GroupBody {
            name: group.name.clone(),
            driver: "exec".to_owned(),
            command: vec!["/bin/true".to_owned()],
            kill_timeout_micros: STEP_MICROS,
            ..Default::default()
        };
        let body = v1::JobBody { groups: shape.groups.iter().map(body).collect() };
        let body = body.encode_to_vec().into();
        self.ask(Ask::SubmitJob(v1::SubmitJob { shape: Some(shape), body, expected_version }))
    }

    /// From here on the one who is refused sees nothing more, unless it is to see everything.
    pub(super) fn look(&mut self) {
        self.session("batch");
        self.looked = self.cell().revision().0;
    }

    /// Claims what has become impossible since it looked, as the scheduler "batch".
    pub(super) fn lose(&mut self, placement: v1::Placement) {
        self.lose_with(placement, |_| {});
    }

    pub(super) fn lose_with(&mut self, placement: v1::Placement, edit: impl FnOnce(&mut v1::Transaction)) {
        if self.look == Look::BeforeAStart {
            self.start();
        }
        let mut transaction = self.transaction("batch", vec![placement]);
        if self.look != Look::Newest {
            transaction.base_revision = self.looked;
        }
        edit(&mut transaction);
        self.ask(Ask::Commit(transaction));
    }

    /// Claims what should be granted.
    pub(super) fn place(&mut self, who: &'static str, job: u64, machines: &[u32], tasks: &[u32]) {
        self.claim(who, placement(job, machines, tasks));
    }

    pub(super) fn claim(&mut self, who: &'static str, placement: v1::Placement) {
        let transaction = self.transaction(who, vec![placement]);
        self.ask(Ask::Commit(transaction));
    }

    /// The next transaction of a session, with everything seen.
    pub(super) fn transaction(&mut self, who: &'static str, placements: Vec<v1::Placement>) -> v1::Transaction {
        self.session(who);
        let (session, number) = self.sessions[who];
        self.sessions.insert(who, (session, number + 1));
        v1::Transaction {
            session,
            number,
            incarnation: self.incarnation,
            base_revision: self.cell().revision().0,
            check: v1::ConflictCheck::Fit.into(),
            placements,
            ..Default::default()
        }
    }

    /// A session by its name: its scheduler has that name, but for "rival", which is another one of "batch".
    pub(super) fn session(&mut self, who: &'static str) -> u64 {
        if let Some((session, _)) = self.sessions.get(who) {
            return *session;
        }
        let scheduler = if who == "rival" { "batch" } else { who };
        let session = self.ask(Ask::OpenSession(v1::OpenSession { scheduler: scheduler.to_owned() }));
        self.sessions.insert(who, (session, 1));
        session
    }

    /// The allocation that a task of a job's first group has.
    pub(super) fn allocation(&self, job: u64, task: u32) -> u64 {
        let job = JobId::from_bits(job).and_then(|id| self.cell().job(id));
        let group = job.and_then(|job| self.cell().group(job, 0));
        let row = group.and_then(|group| self.cell().task(group, task));
        let found = row.and_then(|row| self.cell().allocation_in(row.allocation.checked_sub(1)?));
        found.map_or(0, |found| found.id.to_bits())
    }

    /// An agent tells what became of an allocation.
    pub(super) fn report(&mut self, allocation: u64, state: v1::AllocationState) {
        self.report_of(allocation, state, 0);
    }

    /// The same of one that was started again so often.
    pub(super) fn report_of(&mut self, allocation: u64, state: v1::AllocationState, restarts: u32) {
        let known = plenum_model::AllocationId::from_bits(allocation).and_then(|id| self.cell().allocation(id));
        let (machine, epoch) =
            known.map_or((1 << 32, 1), |found| (self.machine_id(found.row.machine).0, found.row.epoch));
        self.ask(Ask::ReportStatus(v1::ReportStatus {
            machines: vec![machine],
            epochs: vec![epoch],
            allocations: vec![allocation],
            states: vec![state as u32],
            ready: vec![state == v1::AllocationState::Running],
            exit_codes: vec![i32::from(state == v1::AllocationState::Failed)],
            restarts: vec![restarts],
            reasons: Vec::new(),
        }));
    }
}

pub(super) fn placement(job: u64, machines: &[u32], tasks: &[u32]) -> v1::Placement {
    let (machines, tasks) = (machines.to_vec(), tasks.to_vec());
    v1::Placement { job, group: 0, job_version: 1, machines, tasks, ..Default::default() }
}

pub(super) fn cpu(cpu_millis: i64) -> v1::Resources {
    v1::Resources { cpu_millis, memory_bytes: 1 << 20, ..Default::default() }
}

pub(super) fn gpu(index: u32, millis: i32) -> v1::Device {
    v1::Device { kind: "gpu".to_owned(), index, millis, model: String::new() }
}

pub(super) fn port(number: u32) -> v1::Port {
    v1::Port { name: "http".to_owned(), number }
}

/// What an agent found that runs there, and the cell does not know.
pub(super) fn runs_unknown(task: v1::TaskTraces) -> v1::InventoryItem {
    let state = v1::AllocationState::Running.into();
    let resources = Some(cpu(500));
    let task = v1::TaskTraces { namespace: "default".into(), job: "old".into(), group: "g0".into(), resources, ..task };
    v1::InventoryItem { allocation: 3 << 32 | 9, state, task: Some(task), ..Default::default() }
}
