//! The production core on a stage: what stands around it in a cell that serves, without servers and agents.
//!
//! Whether a claim is granted is decided by [`plenum_core::Core`] and by nobody else. Here its deltas are folded into packed columns,
//! which schedulers copy what changed from, and what is used is summed up over time.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{
    AllocationId, AllocationState, Attributes, CellIdentity, Command, Constraint, Decision, FoundMachine, GroupShape,
    JobId, JobShape, LogTime, MachineId, Outcome, Request, Resources, Revision, SessionId, Transaction, Transition,
};

use super::workload::float;

/// Changes of machines that are remembered for mirrors. One that is further behind reads all machines.
const CHANGES: usize = 1 << 15;

/// Jobs that are finished before the core is asked to retire them: so many it takes at once.
const RETIRED_AT_ONCE: u32 = 256;

/// What is free on a machine, in the units of the core's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
}

impl Free {
    pub(crate) fn of(amount: &Resources) -> Self {
        Self { cpu: amount.cpu_millis.cast_signed(), memory: amount.memory_bytes.cast_signed() }
    }

    #[inline]
    pub(crate) const fn fits(self, need: Self) -> bool {
        need.cpu <= self.cpu && need.memory <= self.memory
    }

    #[inline]
    pub(crate) const fn less(self, amount: Self) -> Self {
        Self { cpu: self.cpu - amount.cpu, memory: self.memory - amount.memory }
    }

    #[inline]
    pub(crate) const fn plus(self, amount: Self) -> Self {
        Self { cpu: self.cpu + amount.cpu, memory: self.memory + amount.memory }
    }

    /// `self`, `count` times.
    #[inline]
    pub(crate) const fn times(self, count: i64) -> Self {
        Self { cpu: self.cpu * count, memory: self.memory * count }
    }
}

/// What is used of something, over time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OverTime {
    now: f64,
    sum: f64,
    since_micros: i64,
}

impl OverTime {
    /// From `at` on it is so much.
    pub(crate) fn set(&mut self, at_micros: i64, value: f64) {
        self.sum += self.now * seconds(at_micros - self.since_micros);
        (self.now, self.since_micros) = (value, at_micros);
    }

    /// The mean from 0 to `at`.
    pub(crate) fn mean(mut self, at_micros: i64) -> f64 {
        self.set(at_micros, 0.0);
        self.sum / seconds(at_micros).max(1e-9)
    }
}

/// Microseconds as seconds.
#[allow(clippy::cast_precision_loss, reason = "a run is shorter than 2^53 microseconds")]
pub(crate) fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// What a job asks for, apart from the number of its tasks.
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) scheduler: Arc<str>,
    pub(crate) tasks: u32,
    pub(crate) resources: Resources,
    pub(crate) constraints: Vec<Constraint>,
}

/// The cell: the core, and what its deltas say.
pub(crate) struct Stage {
    core: Core,
    machines: Vec<MachineId>,
    capacity: Free,
    /// What is free by machine, as the core has it.
    free: Vec<Free>,
    /// The last changes of machines, by number modulo the length.
    changes: Vec<u32>,
    /// Changes so far.
    changed: u64,
    used: Free,
    cpu_used: OverTime,
    memory_used: OverTime,
    finished: u32,
    local: Arc<str>,
    namespace: Arc<str>,
    body: Arc<[u8]>,
    /// Claims that were granted, and allocations that ended.
    pub(crate) granted: u64,
    pub(crate) ended: u64,
}

impl Stage {
    /// A cell of equal machines. `attributes` gives those of each machine.
    pub(crate) fn new(
        machines: u32,
        capacity: Resources,
        attributes: impl Fn(u32) -> Attributes,
    ) -> anyhow::Result<Self> {
        // Nobody looks back further than a think time, in which far fewer changes happen.
        let options = CoreOptions {
            ring_changes: 1 << 18,
            shapes_max: 1 << 22,
            tasks_max: 1 << 28,
            retire_after_micros: 1,
            ..CoreOptions::default()
        };
        let mut stage = Self {
            core: Core::new(options),
            machines: Vec::new(),
            capacity: Free::of(&capacity),
            free: Vec::new(),
            changes: vec![0; CHANGES],
            changed: 0,
            used: Free::default(),
            cpu_used: OverTime::default(),
            memory_used: OverTime::default(),
            finished: 0,
            local: "local".into(),
            namespace: "default".into(),
            body: Arc::new([]),
            granted: 0,
            ended: 0,
        };
        let identity = CellIdentity { incarnation: 1, term: 1, ..CellIdentity::default() };
        stage.ask(Command::OpenServer(identity), 0)?;
        for number in 0..machines {
            let register = Command::RegisterMachine(FoundMachine {
                name: format!("machine-{number}").into(),
                boot_id: "boot".into(),
                capacity,
                attributes: Arc::new(attributes(number)),
                ..FoundMachine::default()
            });
            stage.ask(register, 0)?;
        }
        stage.machines = stage.core.cell().machines().map(|machine| machine.id).collect();
        let in_order = (0..).zip(&stage.machines).all(|(slot, id)| id.slot == slot);
        ensure!(
            in_order && stage.machines.len() == machines as usize,
            "an empty cell gives machines their slots in order"
        );
        stage.free = vec![stage.capacity; machines as usize];
        Ok(stage)
    }

    /// The core decides.
    fn decide(&mut self, command: Command, at_micros: i64) -> Decided {
        let request = Request { principal: self.local.clone(), namespace: self.namespace.clone(), command };
        // Log time begins at 1: 0 is "never".
        self.core.decide(&request, LogTime::from_micros(at_micros + 1))
    }

    fn ask(&mut self, command: Command, at_micros: i64) -> anyhow::Result<Decision> {
        match self.decide(command, at_micros) {
            Decided::Changed { decision, .. } => Ok(decision),
            other => bail!("the cell was asked for something that it should do, and answered {other:?}"),
        }
    }

    /// A scheduler begins.
    pub(crate) fn open(&mut self, scheduler: &Arc<str>) -> anyhow::Result<SessionId> {
        self.ask(Command::OpenSession { scheduler: scheduler.clone() }, 0)?;
        Ok(SessionId(self.core.cell().revision().0))
    }

    /// A job is submitted.
    pub(crate) fn submit(&mut self, asked: Asked, at_micros: i64) -> anyhow::Result<JobId> {
        let group = GroupShape {
            name: "main".into(),
            count: asked.tasks,
            resources: asked.resources,
            constraints: asked.constraints,
            ..GroupShape::default()
        };
        let shape = JobShape {
            namespace: self.namespace.clone(),
            name: asked.name.into(),
            scheduler: asked.scheduler,
            priority: 50,
            groups: vec![group],
            ..JobShape::default()
        };
        let command = Command::SubmitJob {
            shape: Arc::new(shape),
            body: self.body.clone(),
            body_digest: [0; 32],
            expected_version: None,
        };
        match self.ask(command, at_micros)? {
            Decision::Accepted { id, .. } => JobId::from_bits(id).context("a job's id"),
            other => bail!("expected a job's id, found {other:?}"),
        }
    }

    /// A transaction is decided, and what it was granted is folded.
    pub(crate) fn commit(&mut self, txn: Transaction, at_micros: i64) -> anyhow::Result<Outcome> {
        let digest = txn.id.number;
        match self.decide(Command::Commit(Box::new(txn), digest), at_micros) {
            Decided::Changed { decision: Decision::Outcome(outcome), delta } => {
                for grants in &delta.grants {
                    let each = self.core.cell().shapes().get(grants.shape as usize).context("a shape of the delta")?;
                    let each = Free::of(each);
                    for &machine in &grants.machines {
                        let free = &mut self.free[machine as usize];
                        *free = free.less(each);
                        self.note(machine);
                    }
                    let count = grants.machines.len();
                    self.granted += count as u64;
                    self.use_more(each.times(i64::try_from(count)?), at_micros);
                }
                Ok(*outcome)
            }
            other => bail!("a transaction of the simulator was not decided: {other:?}"),
        }
    }

    /// Tasks of one job ended well; each is given with its machine, and with what it had.
    pub(crate) fn end(
        &mut self,
        ended: &[(u32, AllocationId)],
        each: &Resources,
        at_micros: i64,
    ) -> anyhow::Result<()> {
        let reason: Arc<str> = "".into();
        let receipts = ended.iter().map(|&(machine, allocation)| Transition {
            reason: reason.clone(),
            ..Transition::new(self.machines[machine as usize], 1, allocation, AllocationState::Complete)
        });
        let report = Command::ReportStatus(receipts.collect());
        let Decided::Changed { delta, .. } = self.decide(report, at_micros) else {
            bail!("receipts of tasks that ran changed nothing");
        };
        ensure!(
            delta.ends.len() == ended.len(),
            "{} tasks ended, and the cell knows of {}",
            ended.len(),
            delta.ends.len()
        );
        let each = Free::of(each);
        for &(machine, _) in ended {
            let free = &mut self.free[machine as usize];
            *free = free.plus(each);
            self.note(machine);
        }
        self.ended += ended.len() as u64;
        self.use_more(each.times(-i64::try_from(ended.len())?), at_micros);
        if !delta.jobs.is_empty() {
            self.finished += 1;
            if self.finished >= RETIRED_AT_ONCE {
                self.finished = 0;
                self.decide(Command::Tick, at_micros);
            }
        }
        Ok(())
    }

    fn note(&mut self, machine: u32) {
        let place = usize::try_from(self.changed % CHANGES as u64).expect("below a usize");
        self.changes[place] = machine;
        self.changed += 1;
    }

    fn use_more(&mut self, more: Free, at_micros: i64) {
        self.used = self.used.plus(more);
        self.cpu_used.set(at_micros, signed(self.used.cpu));
        self.memory_used.set(at_micros, signed(self.used.memory));
    }

    /// Where the cell is.
    pub(crate) fn revision(&self) -> Revision {
        self.core.cell().revision()
    }

    /// The cell itself, to look at.
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// What is free, by machine.
    pub(crate) fn free(&self) -> &[Free] {
        &self.free
    }

    /// Number of the next change.
    pub(crate) const fn changed(&self) -> u64 {
        self.changed
    }

    /// The machines that changed from change `since` on; `None` when some of these changes are forgotten.
    pub(crate) fn changes_since(&self, since: u64) -> Option<impl Iterator<Item = u32>> {
        let place = |number: u64| usize::try_from(number % CHANGES as u64).expect("below a usize");
        let known = self.changed - since <= CHANGES as u64;
        known.then(|| (since..self.changed).map(move |number| self.changes[place(number)]))
    }

    /// What all machines have.
    pub(crate) fn whole(&self) -> Free {
        self.capacity.times(i64::try_from(self.machines.len()).unwrap_or(i64::MAX))
    }

    /// What is used of all machines.
    pub(crate) const fn used(&self) -> Free {
        self.used
    }

    /// Mean parts of CPU and memory that were used until then.
    pub(crate) fn utilisation(&self, at_micros: i64) -> (f64, f64) {
        let whole = self.whole();
        (self.cpu_used.mean(at_micros) / signed(whole.cpu), self.memory_used.mean(at_micros) / signed(whole.memory))
    }

    /// Checks that nothing leaked: the core's own invariants hold, and the columns here are what the core has.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        let cell = self.core.cell();
        plenum_core::invariants::check_cell(cell)
            .map_err(|violation| anyhow::anyhow!("the cell is not sound: {violation}"))?;
        let live = cell.allocations().count() as u64;
        ensure!(
            live == self.granted - self.ended,
            "{} granted less {} ended, and {live} are live",
            self.granted,
            self.ended
        );
        for (slot, free) in (0..).zip(&self.free) {
            let row = cell.machine_row(slot).context("a machine of the cell")?;
            let there = Free { cpu: row.free_cpu_millis.into(), memory: row.free_memory_bytes };
            ensure!(there == *free, "machine {slot} has {there:?} free, and the fold says {free:?}");
        }
        Ok(())
    }
}

/// An amount below 2^53.
fn signed(amount: i64) -> f64 {
    let size = float(amount.unsigned_abs());
    if amount < 0 { -size } else { size }
}

#[cfg(test)]
pub(super) mod tests {
    use plenum_model::{Placement, TransactionId};

    use super::*;

    /// One task of a new job gets room on a machine.
    pub(in super::super) fn grant(stage: &mut Stage, machine: u32, resources: Resources) -> (JobId, AllocationId) {
        let name: Arc<str> = "tester".into();
        let session = stage.open(&name).unwrap();
        let asked =
            Asked { name: format!("job-{}", session.0), scheduler: name, tasks: 1, resources, constraints: Vec::new() };
        let job = stage.submit(asked, 0).unwrap();
        let placement =
            Placement { job, job_version: 1, machines: vec![machine], tasks: vec![0], ..Placement::default() };
        let id = TransactionId { session, number: 1 };
        let base = stage.revision();
        let txn = Transaction { id, incarnation: 1, base, placements: vec![placement], ..Transaction::default() };
        let outcome = stage.commit(txn, 0).unwrap();
        (job, outcome.placements[0][0].expect("it is granted"))
    }

    #[test]
    fn what_is_free_and_used_is_what_the_core_has() {
        let each = Resources::new(30, 500);
        let mut stage = Stage::new(3, Resources::new(100, 1000), |_| Attributes::new()).unwrap();
        let (_, allocation) = grant(&mut stage, 1, each);
        stage.settle().unwrap();
        assert_eq!(stage.free()[1], Free { cpu: 70, memory: 500 });
        assert_eq!(stage.used(), Free::of(&each));
        stage.end(&[(1, allocation)], &each, 10_000_000).unwrap();
        stage.settle().unwrap();
        assert_eq!(stage.used(), Free::default());
        // 30 of 300 and 500 of 3000 for half of the time.
        let (cpu, memory) = stage.utilisation(20_000_000);
        assert!((cpu - 0.05).abs() < 1e-12 && (memory - 500.0 / 6000.0).abs() < 1e-12);
    }

    #[test]
    fn tasks_that_end_twice_are_an_error() {
        let each = Resources::new(30, 500);
        let mut stage = Stage::new(1, Resources::new(100, 1000), |_| Attributes::new()).unwrap();
        let (_, allocation) = grant(&mut stage, 0, each);
        stage.end(&[(0, allocation)], &each, 1).unwrap();
        assert!(stage.end(&[(0, allocation)], &each, 2).is_err());
    }

    #[test]
    fn changes_that_are_forgotten_are_not_given() {
        let mut stage = Stage::new(1, Resources::new(100, 1000), |_| Attributes::new()).unwrap();
        let since = stage.changed();
        stage.note(0);
        assert_eq!(stage.changes_since(since).unwrap().collect::<Vec<_>>(), [0]);
        (0..CHANGES).for_each(|_| stage.note(0));
        assert!(stage.changes_since(since).is_none());
    }
}
