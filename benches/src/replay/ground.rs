//! The cell of a replay: the production core decides, the production policies place, and what agents would report is reported.
//!
//! Nothing here judges whether a task fits: a policy reads columns that follow the core's cell, and the core grants the claim. That the two
//! agree is asserted at every transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{
    AllocationId, AllocationState, Attributes, CellIdentity, Command, DIMENSIONS, Decision, DecisionMetadata,
    FoundMachine, GroupCounts, GroupShape, JobId, JobShape, LogTime, MachineState, Placement, Request, Requirement,
    Resources, Room, SessionId, Special, Spoken, Transaction, TransactionId, Transition,
};
use plenum_policies::{Columns, Eligible, Suits};

use super::placing::{Asks, Placing};
use crate::figure::number;
use crate::traces::work::{Declared, Laws, MachineClass, TraceJob};

/// Jobs that are over before the core is asked to retire them: so many it takes at once.
const RETIRED_AT_ONCE: u32 = 256;

/// Nobody claims on an old picture here, so hardly any change has to be remembered.
const RING_CHANGES: usize = 1 << 12;

/// What a transaction claims at most.
pub(crate) const CLAIMS_MAX: u32 = 16_384;

/// Sums over a cell, by resource. Whole numbers as long as they are below 2^53; above, a part in 2^53 is lost.
pub(crate) type Sums = [f64; DIMENSIONS];

/// A cell in which jobs are replayed.
pub(crate) struct Ground {
    core: Core,
    /// Sessions and the numbers of their last transactions, by scheduler.
    sessions: BTreeMap<Arc<str>, (SessionId, u64)>,
    /// What namespaces with a quota use.
    used: BTreeMap<Arc<str>, Resources>,
    /// The core's time at the replay's 0.
    began: LogTime,
    columns: Columns,
    /// Machines that changed since the columns followed last; `None`: all of them.
    changed: Option<Vec<u32>>,
    placing: Placing,
    /// Decisions so far.
    choices: u64,
    capacity: Sums,
    free: Sums,
    over: u32,
    principal: Arc<str>,
    namespace: Arc<str>,
    scheduler: Arc<str>,
}

/// Tasks that run: machines and allocations.
pub(crate) type Running = Vec<(u32, AllocationId)>;

impl Ground {
    /// An empty cell of these machines.
    pub(crate) fn new(classes: &[MachineClass], placing: Placing) -> anyhow::Result<Self> {
        let mut ground = Self::on(Core::new(options()), 1, placing)?;
        for class in classes {
            let kinds = u64::try_from(class.attributes.len()).context("so many kinds of machines")?;
            for member in 0..class.count {
                // Of fewer machines than there are, and of more, each kind has its share.
                let kind = usize::try_from(u64::from(member) * kinds / u64::from(class.count))?;
                let attributes = class.attributes.get(kind).cloned().unwrap_or_default();
                ground.register(&format!("{}-{member}", class.name), class.capacity, attributes)?;
            }
        }
        ground.measure();
        Ok(ground)
    }

    /// A core that goes on, in an incarnation of its own.
    pub(crate) fn on(mut core: Core, incarnation: u64, placing: Placing) -> anyhow::Result<Self> {
        let began = core.cell().time().max(LogTime::from_micros(1));
        let identity = CellIdentity { incarnation, term: 1, ..core.cell().identity().clone() };
        let (principal, namespace): (Arc<str>, Arc<str>) = ("replay".into(), "replay".into());
        let scheduler: Arc<str> = "replay".into();
        let command = Command::OpenServer(identity);
        decided(core.decide(&Request { principal: principal.clone(), namespace: namespace.clone(), command }, began))?;
        let mut ground = Self {
            core,
            sessions: BTreeMap::new(),
            used: BTreeMap::new(),
            began,
            columns: Columns::default(),
            changed: None,
            placing,
            choices: 0,
            capacity: Sums::default(),
            free: Sums::default(),
            over: 0,
            principal,
            namespace,
            scheduler,
        };
        ground.measure();
        Ok(ground)
    }

    /// The cell itself.
    #[cfg(test)]
    pub(crate) fn cell(&self) -> &plenum_model::Cell {
        self.core.cell()
    }

    /// What all machines have that take claims.
    pub(crate) fn capacity(&self) -> &Sums {
        &self.capacity
    }

    /// What is free of it.
    pub(crate) fn free(&self) -> &Sums {
        &self.free
    }

    /// What is free by machine; nothing where a machine takes no claims.
    pub(crate) fn rooms(&self) -> Vec<Room> {
        let cell = self.core.cell();
        let ready = |slot: u32| cell.machine_row(slot).is_some_and(|row| row.state == MachineState::Ready);
        (0..cell.machine_rows().len()).map(|slot| if ready(slot) { cell.room(slot) } else { Room::default() }).collect()
    }

    /// What would be free by machine if nothing ran; nothing where a machine takes no claims.
    pub(crate) fn empty_rooms(&self) -> Vec<Room> {
        let ready = self.core.cell().machines().filter(|machine| machine.state == MachineState::Ready);
        ready.map(|machine| Room::all_of(&machine.capacity)).collect()
    }

    /// The core decides.
    pub(crate) fn ask(&mut self, command: Command, at_micros: i64) -> anyhow::Result<Decision> {
        let request = Request { principal: self.principal.clone(), namespace: self.namespace.clone(), command };
        decided(self.core.decide(&request, self.time(at_micros)))
    }

    fn time(&self, at_micros: i64) -> LogTime {
        LogTime::from_micros(self.began.micros.saturating_add(at_micros))
    }

    /// A machine comes. [`Ground::measure`] has to follow.
    pub(crate) fn register(
        &mut self,
        name: &str,
        capacity: Resources,
        attributes: Arc<Attributes>,
    ) -> anyhow::Result<()> {
        let command = Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: "boot".into(),
            capacity,
            attributes,
            ..FoundMachine::default()
        });
        self.ask(command, 0).with_context(|| format!("machine {name} of {capacity:?}"))?;
        Ok(())
    }

    /// What operators laid down holds from now on. Before the first job.
    pub(crate) fn lay_down(&mut self, laws: &Laws) -> anyhow::Result<()> {
        for (name, partition) in &laws.partitions {
            self.ask(Command::SetPartition { name: name.clone(), partition: Some(partition.clone()) }, 0)?;
        }
        for (namespace, limit) in &laws.quotas {
            self.ask(Command::SetQuota { namespace: namespace.clone(), limit: Some(*limit) }, 0)?;
            self.used.insert(namespace.clone(), Resources::default());
        }
        Ok(())
    }

    /// The session of a scheduler, and the number of its next transaction.
    fn next_number(&mut self, scheduler: &Arc<str>) -> anyhow::Result<TransactionId> {
        if !self.sessions.contains_key(scheduler) {
            self.ask(Command::OpenSession { scheduler: scheduler.clone() }, 0)?;
            self.sessions.insert(scheduler.clone(), (SessionId(self.core.cell().revision().0), 0));
        }
        let (session, number) = self.sessions.get_mut(scheduler).context("a session that was just opened")?;
        *number += 1;
        Ok(TransactionId { session: *session, number: *number })
    }

    /// How many more tasks of a job its namespace may have.
    pub(crate) fn within_quota(&self, job: &TraceJob) -> u32 {
        let namespace = job.asks.as_ref().map_or(&self.namespace, |asks| &asks.namespace);
        let found = self.core.cell().quota(namespace).zip(self.used.get(namespace));
        let times = found.map_or(u64::MAX, |(quota, used)| quota.headroom(used, &job.each));
        u32::try_from(times).unwrap_or(u32::MAX)
    }

    /// Sums up what is there, after machines came or went.
    pub(crate) fn measure(&mut self) {
        let cell = self.core.cell();
        let ready = || cell.machines().filter(|machine| machine.state == MachineState::Ready);
        let mut capacity = Sums::default();
        ready().for_each(|machine| add(&mut capacity, &machine.capacity, 1.0));
        let mut free = Sums::default();
        ready().for_each(|machine| add(&mut free, &cell.room(machine.id.slot).positive(), 1.0));
        (self.capacity, self.free) = (capacity, free);
        self.changed = None;
    }

    /// A job is submitted.
    pub(crate) fn submit(&mut self, job: &TraceJob, at_micros: i64) -> anyhow::Result<JobId> {
        let group = GroupShape {
            name: "main".into(),
            count: job.tasks,
            resources: job.each,
            min: if job.gang { job.tasks } else { 0 },
            after: Vec::new(),
            devices: Vec::new(),
            ..job.asks.as_ref().map(|asks| asks.shape.clone()).unwrap_or_default()
        };
        let shape = JobShape {
            namespace: job.asks.as_ref().map_or(&self.namespace, |asks| &asks.namespace).clone(),
            name: job.name.as_str().into(),
            scheduler: job.asks.as_ref().map_or(&self.scheduler, |asks| &asks.scheduler).clone(),
            priority: 50,
            groups: vec![group],
            ..JobShape::default()
        };
        let command = Command::submit(shape);
        match self.ask(command, at_micros).with_context(|| format!("job {:?}", job.name))? {
            Decision::Accepted { id, .. } => JobId::from_bits(id).context("a job's id"),
            other => bail!("expected a job's id, found {other:?}"),
        }
    }

    /// The machines that a job's constraints and the partitions leave it; `None`: all of them.
    pub(crate) fn eligible_for(&mut self, job: &TraceJob) -> Option<Arc<Eligible>> {
        let cell = self.core.cell();
        self.columns.follow(cell, self.changed.as_deref(), &BTreeMap::new());
        self.changed = Some(Vec::new());
        match job.asks.as_deref() {
            None => self.columns.eligible_for(&self.scheduler, &[], &[], cell),
            Some(Declared { scheduler, shape, .. }) => {
                self.columns.eligible_for(scheduler, &shape.constraints, &shape.affinities, cell)
            }
        }
    }

    /// Machines for up to `count` tasks of a job, as the policy has them. Of one that is special only one at a time: what it asks for is judged against the
    /// cell as it is.
    pub(crate) fn choose(&mut self, job: &TraceJob, id: JobId, count: u32) -> Vec<u32> {
        let count = count.min(self.within_quota(job));
        if count == 0 {
            return Vec::new();
        }
        let eligible = self.eligible_for(job);
        let cell = self.core.cell();
        self.choices += 1;
        let plain = Asks { turn: self.choices, ..Asks::default() };
        if !job.is_special() {
            let asks = Asks { eligible: eligible.as_deref(), ..plain };
            return self.placing.choose(&self.columns, &job.each, count, asks);
        }
        let Some(submitted) = cell.job(id) else { return Vec::new() };
        let Some(group) = submitted.shape.groups.first() else { return Vec::new() };
        let counts = GroupCounts::are_needed_by(group).then(|| GroupCounts::of(cell, submitted, 0));
        let special = Special::of(group, counts.as_ref());
        let requirement = Requirement { resources: &job.each, classes: None, home: None, job: id, special };
        let suits = |slot: u32| requirement.special_obstacle(cell, slot, &Spoken::default()).is_none();
        let asks = Asks { eligible: eligible.as_deref(), suits: Some(Suits(&suits)), ..plain };
        self.placing.choose(&self.columns, &job.each, count.min(1), asks)
    }

    /// Claims these machines for the job's tasks from `first` on, at most [`CLAIMS_MAX`].
    ///
    /// # Errors
    /// When a claim is refused: nobody else claims here, so policy and core would judge differently.
    pub(crate) fn claim(
        &mut self,
        job: JobId,
        first: u32,
        each: &Resources,
        machines: &[u32],
        at_micros: i64,
    ) -> anyhow::Result<Running> {
        let count = u32::try_from(machines.len())?;
        let shape = self.core.cell().job(job).context("a job that was submitted")?.shape.clone();
        let id = self.next_number(&shape.scheduler)?;
        let placement = Placement {
            job,
            job_version: 1,
            machines: machines.to_vec(),
            tasks: (first..first + count).collect(),
            min: count,
            ..Placement::default()
        };
        let txn = Transaction {
            id,
            incarnation: self.core.cell().identity().incarnation,
            base: self.core.cell().revision(),
            atomic: true,
            placements: vec![placement],
            decision: DecisionMetadata {
                attempt: 1,
                policy: self.placing.name().into(),
                ..DecisionMetadata::default()
            },
            ..Transaction::default()
        };
        let Decision::Outcome(outcome) = self.ask(Command::Commit(Box::new(txn), id.number), at_micros)? else {
            bail!("expected an outcome of a transaction");
        };
        let granted = outcome.placements.first().map(Vec::as_slice).unwrap_or_default();
        let running: Running =
            machines.iter().zip(granted).filter_map(|(&machine, granted)| Some((machine, (*granted)?))).collect();
        ensure!(
            running.len() == machines.len(),
            "the policy chose machines on which the core refuses the task: {:?}",
            outcome.refusals.first()
        );
        add(&mut self.free, each, -number(u64::from(count)));
        if let Some(used) = self.used.get_mut(&shape.namespace) {
            let sum = times(each, count).and_then(|sum| used.checked_add(&sum));
            *used = sum.context("amounts of a namespace that can be added up")?;
        }
        self.note(machines.iter().copied());
        Ok(running)
    }

    /// Tasks ended well.
    pub(crate) fn end(&mut self, running: &Running, each: &Resources, at_micros: i64) -> anyhow::Result<()> {
        let cell = self.core.cell();
        let reason: Arc<str> = "".into();
        let receipt = |&(slot, allocation): &(u32, AllocationId)| {
            let machine = cell.machine_in(slot).context("a machine that runs something")?;
            let (machine, epoch) = (machine.id, machine.epoch);
            let (state, reason) = (AllocationState::Complete, reason.clone());
            anyhow::Ok(Transition { reason, ..Transition::new(machine, epoch, allocation, state) })
        };
        let receipts = running.iter().map(receipt).collect::<anyhow::Result<Vec<_>>>()?;
        let live = cell.live();
        // All of them are tasks of one job.
        let first = running.first().and_then(|&(_, allocation)| cell.allocation_in(allocation.slot));
        let job = first.and_then(|found| cell.job_in(found.row.job_slot));
        let used = job.and_then(|job| self.used.get_mut(&job.shape.namespace));
        if let (Some(used), Some(sum)) = (used, times(each, u32::try_from(running.len())?)) {
            *used = used.without(&sum);
        }
        self.ask(Command::ReportStatus(receipts), at_micros)?;
        let ended = u64::from(live - self.core.cell().live());
        ensure!(ended == running.len() as u64, "{} tasks ended, and the cell knows of {ended}", running.len());
        add(&mut self.free, each, number(running.len() as u64));
        self.note(running.iter().map(|&(machine, _)| machine));
        self.over += 1;
        if self.over >= RETIRED_AT_ONCE {
            self.over = 0;
            let request = Request {
                principal: self.principal.clone(),
                namespace: self.namespace.clone(),
                command: Command::Tick,
            };
            // Nothing may be due yet; then nothing changes.
            let _ = self.core.decide(&request, self.time(at_micros));
        }
        Ok(())
    }

    fn note(&mut self, machines: impl Iterator<Item = u32>) {
        if let Some(changed) = &mut self.changed {
            changed.extend(machines);
        }
    }

    /// Checks that nothing leaked: the core's own invariants hold, and the sums here are what the cell has.
    pub(crate) fn settle(&mut self) -> anyhow::Result<()> {
        plenum_core::invariants::check_cell(self.core.cell())
            .map_err(|violation| anyhow::anyhow!("the cell is not sound: {violation}"))?;
        let before = self.free;
        self.measure();
        for (before, now) in before.iter().zip(self.free) {
            let near = (before - now).abs() <= 1e-9 * now.abs().max(1.0);
            ensure!(near, "free by the cell {now}, and by what was claimed and ended {before}");
        }
        Ok(())
    }
}

/// Bounds of a core that replays.
pub(crate) fn options() -> CoreOptions {
    CoreOptions {
        ring_changes: RING_CHANGES,
        shapes_max: 1 << 22,
        tasks_max: 1 << 28,
        retire_after_micros: 1,
        // Jobs that wait are jobs of the cell, too.
        jobs_max: 1 << 22,
        job_bytes_max: u64::MAX,
        ..CoreOptions::default()
    }
}

fn decided(decided: Decided) -> anyhow::Result<Decision> {
    match decided {
        Decided::Changed { decision, .. } => Ok(decision),
        Decided::Unchanged(Decision::Rejected(rejection)) => bail!("the cell does not take it: {rejection:?}"),
        other => bail!("the cell was asked for something that it should do, and answered {other:?}"),
    }
}

/// So many times an amount.
fn times(each: &Resources, count: u32) -> Option<Resources> {
    let mut product = Resources::default();
    let amounts = |resources: &Resources| {
        [resources.cpu_millis, resources.memory_bytes, resources.disk_bytes].map(|one| one.checked_mul(count.into()))
    };
    let [cpu, memory, disk] = amounts(each);
    (product.cpu_millis, product.memory_bytes, product.disk_bytes) = (cpu?, memory?, disk?);
    for (product, units) in product.custom.iter_mut().zip(each.custom) {
        *product = units.checked_mul(count.into())?;
    }
    Some(product)
}

/// Adds an amount so many times.
pub(crate) fn add(sums: &mut Sums, amount: &Resources, times: f64) {
    for (sum, resource) in sums.iter_mut().zip(plenum_model::Resource::ALL) {
        *sum += number(amount.get(resource)) * times;
    }
}

/// How many more equal tasks a machine has room for.
pub(crate) fn fitting(room: &Room, each: &Resources) -> u64 {
    let of = |resource: plenum_model::Resource| match each.get(resource) {
        0 => None,
        need => Some(u64::try_from(room.get(resource)).unwrap_or(0) / need),
    };
    plenum_model::Resource::ALL.into_iter().filter_map(of).min().unwrap_or_else(|| u32::MAX.into())
}
