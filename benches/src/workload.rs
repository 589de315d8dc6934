//! A cell in steady state, for the suites that measure deciding: so many machines and live allocations, and transactions whose
//! claims are one grant plus one stop of an older allocation picked at random.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{
    AllocationId, AllocationState, Attributes, Cell, CellIdentity, Command, ConflictCheck, Constraint, Decision,
    DecisionMetadata, FoundMachine, GroupShape, JobId, JobShape, LogTime, MachineId, Operator, Placement, Quota,
    Request, Resources, Revision, SessionId, Spread, Transaction, TransactionId, TransactionOutcome, Transition,
};

use crate::random::Random;

/// Memory that each task gets; its CPU follows from the machines' size, so that 60% are used.
const TASK_MEMORY_BYTES: u64 = 64 << 20;

/// Live allocations a machine, of which `MACHINE_TASKS_MAX` would fit: 60% used.
const MACHINE_TASKS_MAX_PERCENT: u64 = 167;

/// Machines that are kept full, so that claims on them lose.
const RACES: usize = 8;

/// Tasks of a job; a thousand of them are live.
const TASKS_OF_A_JOB: u32 = 1200;

/// Machines of a rack.
const RACK: usize = 40;

/// Shape of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) machines: u32,
    pub(crate) live: u32,
    /// Claims of one transaction.
    pub(crate) claims: u32,
    /// Transactions of one batch: their base is the end of the batch before.
    pub(crate) batch: u32,
    /// Claims of a hundred that lose a race against the first transaction of their batch.
    pub(crate) losers_percent: u32,
    /// When a claim conflicts. The load is one session, whose own commits never count as changes by others.
    pub(crate) check: ConflictCheck,
    /// Whether jobs declare rules, which then hold for each claim and have to be looked at.
    pub(crate) rules: bool,
    /// Snapshots that are alive, one for each of the last batches.
    pub(crate) snapshots: usize,
}

#[derive(Clone, Copy)]
struct Live {
    id: AllocationId,
    machine: u32,
    job: u32,
    task: u32,
}

/// The steady cell, and what is needed to go on loading it.
pub(crate) struct Steady {
    core: Core,
    shape: Shape,
    random: Random,
    jobs: Vec<JobId>,
    machines: Vec<MachineId>,
    /// Machines for races: the last ones, kept out of the usual load. Each has room for one task.
    race_machines: Vec<u32>,
    race_job: JobId,
    /// By job, tasks that wait.
    waiting: Vec<Vec<u32>>,
    live: Vec<Live>,
    /// By machine, tasks that are claimed, live or leaving there: nothing but a race is to be lost.
    taken: Vec<u32>,
    /// Tasks that a machine has room for.
    fitting: u32,
    /// Claims granted since the stops were last planned: as many are stopped by the next batch, so that the number of live
    /// allocations stays what it is, however many claims lose.
    granted: u64,
    /// Stops of this batch that no transaction has yet.
    stops_due: u64,
    /// Hundredths of a loser that are due: a transaction of one claim has one in twenty.
    losers_due: u32,
    next_job: usize,
    session: SessionId,
    rival: SessionId,
    number: u64,
    now: LogTime,
    stopped: Vec<Live>,
    raced: Vec<(AllocationId, u32)>,
}

/// One batch of requests: a rival that takes the race machines, the transactions, and the receipts of what they stopped.
pub(crate) struct Batch {
    pub(crate) rival: Request,
    pub(crate) transactions: Vec<Request>,
}

/// What became of the claims of one transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) granted: u64,
    pub(crate) refused: u64,
}

/// What agents report of what was stopped.
pub(crate) struct Receipts {
    /// Allocations of the load, without its rival's.
    pub(crate) stopped: u64,
    pub(crate) request: Request,
}

fn request(command: Command) -> Request {
    Request { principal: "local".into(), namespace: "default".into(), command }
}

impl Steady {
    /// Builds the cell: machines, jobs, and live allocations spread at random.
    pub(crate) fn build(shape: Shape, seed: u64) -> anyhow::Result<Self> {
        let mut core = Core::new(CoreOptions::default());
        let now = LogTime::from_micros(1);
        let identity = CellIdentity { incarnation: 1, term: 1, ..CellIdentity::default() };
        decide(&mut core, Command::OpenServer(identity), now)?;
        let per_machine = u64::from(shape.live / shape.machines).max(1);
        let fitting = per_machine * MACHINE_TASKS_MAX_PERCENT / 100 + 1;
        let task = Resources::new(100, TASK_MEMORY_BYTES);
        let full = Resources::new(100 * fitting, TASK_MEMORY_BYTES * fitting);
        for number in 0..shape.machines as usize + RACES {
            let capacity = if number < shape.machines as usize { full } else { task };
            decide(&mut core, register(number, capacity, shape.rules), now)?;
        }
        let machines = core.cell().machines().map(|machine| machine.id).collect::<Vec<_>>();
        let session = open(&mut core, "load", now)?;
        let rival = open(&mut core, "rival", now)?;
        if shape.rules {
            decide(&mut core, quota(shape, task), now)?;
        }
        let job_count = (shape.live / 1000).max(1);
        let mut jobs = Vec::new();
        for number in 0..job_count {
            let mut job = job(&format!("job-{number}"), "load", TASKS_OF_A_JOB, task);
            if shape.rules {
                declare_rules(&mut job, number);
            }
            jobs.push(submit(&mut core, job, now)?);
        }
        let race_job = submit(&mut core, job("race", "rival", u32::try_from(RACES)?, task), now)?;
        let mut steady = Self {
            core,
            shape,
            random: Random::new(seed),
            race_machines: (shape.machines..shape.machines + u32::try_from(RACES)?).collect(),
            race_job,
            waiting: vec![(0..TASKS_OF_A_JOB).rev().collect(); jobs.len()],
            jobs,
            machines,
            live: Vec::with_capacity(shape.live as usize + 65_536),
            taken: vec![0; shape.machines as usize],
            fitting: u32::try_from(fitting)?,
            granted: 0,
            stops_due: 0,
            losers_due: 0,
            next_job: 0,
            session,
            rival,
            number: 0,
            now,
            stopped: Vec::new(),
            raced: Vec::new(),
        };
        steady.fill()?;
        Ok(steady)
    }

    /// Places tasks until so many are live.
    fn fill(&mut self) -> anyhow::Result<()> {
        while self.live.len() < self.shape.live as usize {
            let base = self.core.cell().revision();
            let request = self.transaction(base, 0);
            let decided = self.core.decide(&request, self.now);
            self.follow(&request, &decided)?;
        }
        self.granted = u64::from(self.shape.claims * self.shape.batch * (100 - self.shape.losers_percent) / 100);
        Ok(())
    }

    /// What it was built for.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Live allocations that are not leaving.
    pub(crate) fn live(&self) -> usize {
        self.live.len()
    }

    /// The core, and the time at which everything is decided.
    pub(crate) fn core_and_time(&mut self) -> (&mut Core, LogTime) {
        (&mut self.core, self.now)
    }

    /// The cell as it is now.
    pub(crate) fn cell(&self) -> &Cell {
        self.core.cell()
    }

    /// Checks that the load is still what it is said to be.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        let (expected, found) = (f64::from(self.shape.live), crate::figure::number(self.live.len() as u64));
        ensure!((found / expected - 1.0).abs() < 0.02, "expected about {expected} live allocations, found {found}");
        Ok(())
    }

    /// The requests of one batch.
    pub(crate) fn next_batch(&mut self) -> Batch {
        let base = self.core.cell().revision();
        let rival = self.race(base);
        self.stops_due += std::mem::take(&mut self.granted);
        let transactions = (0..self.shape.batch).map(|number| {
            self.losers_due += self.shape.claims * self.shape.losers_percent;
            self.transaction(base, self.shape.batch - number)
        });
        let transactions = transactions.collect();
        Batch { rival, transactions }
    }

    fn next_id(&mut self, session: SessionId) -> TransactionId {
        self.number += 1;
        TransactionId { session, number: self.number }
    }

    fn race(&mut self, base: Revision) -> Request {
        let placement = Placement {
            job: self.race_job,
            job_version: 1,
            machines: self.race_machines.clone(),
            tasks: (0..).take(RACES).collect(),
            ..Placement::default()
        };
        let id = self.next_id(self.rival);
        let txn = Transaction { id, incarnation: 1, base, placements: vec![placement], ..Transaction::default() };
        request(Command::Commit(Box::new(txn), id.number))
    }

    /// Claims for tasks that wait, and its part of the stops, of live allocations picked at random. So many transactions of
    /// the batch are still to come, this one included.
    fn transaction(&mut self, base: Revision, transactions_left: u32) -> Request {
        let stops = if transactions_left == 0 { 0 } else { self.stops_due / u64::from(transactions_left) };
        self.stops_due -= stops;
        let mut losers = (self.losers_due / 100) as usize;
        self.losers_due %= 100;
        let mut left = self.shape.claims as usize;
        let mut placements = Vec::new();
        while left > 0 {
            self.next_job = (self.next_job + 1) % self.jobs.len();
            let waiting = &mut self.waiting[self.next_job];
            let mut tasks = waiting.split_off(waiting.len() - left.min(waiting.len()));
            tasks.sort_unstable();
            left -= tasks.len();
            let machines = tasks.iter().map(|_| {
                if losers > 0 {
                    losers -= 1;
                    self.race_machines[losers % RACES]
                } else {
                    draw(&mut self.random, &mut self.taken, self.fitting)
                }
            });
            let machines = machines.collect();
            let job = self.jobs[self.next_job];
            placements.push(Placement { job, job_version: 1, machines, tasks, ..Placement::default() });
        }
        let mut stopped = Vec::new();
        for _ in 0..stops {
            let victim = self.random.below(u32::try_from(self.live.len()).expect("fits"));
            let victim = self.live.swap_remove(victim as usize);
            stopped.push(victim.id);
            self.stopped.push(victim);
        }
        let id = self.next_id(self.session);
        let decision = DecisionMetadata { attempt: 1, policy: "random".into(), ..DecisionMetadata::default() };
        let check = self.shape.check;
        let txn = Transaction {
            id,
            incarnation: 1,
            base,
            check,
            placements,
            stops: stopped,
            decision,
            ..Transaction::default()
        };
        request(Command::Commit(Box::new(txn), id.number))
    }

    /// Takes note of what a transaction was granted, and counts it: the load's claims only, not those of its rival.
    ///
    /// # Errors
    /// When a claim was neither granted nor refused, or a stop found nothing to stop: the work was not done.
    pub(crate) fn follow(&mut self, request: &Request, decided: &Decided) -> anyhow::Result<Counted> {
        let (Command::Commit(txn, _), Decided::Changed { decision: Decision::Outcome(outcome), .. }) =
            (&request.command, decided)
        else {
            bail!("expected an outcome, found {decided:?}");
        };
        // One of a single claim is refused when that claim loses.
        let wholly = txn.claims() > outcome.refusals.len() && outcome.outcome == TransactionOutcome::Refused;
        ensure!(!wholly, "a transaction of the load was refused: {:?}", outcome.refusals.first());
        let racing = txn.id.session == self.rival;
        ensure!(
            outcome.idle_stops.is_empty(),
            "stops of allocations that were live found none: {:?}",
            outcome.idle_stops
        );
        ensure!(
            outcome.claims() == txn.claims(),
            "expected {} claims answered, found {}",
            txn.claims(),
            outcome.claims()
        );
        let mut counted = Counted::default();
        for (placement, claims) in txn.placements.iter().zip(&outcome.placements) {
            for (claim, id) in claims.iter().enumerate() {
                let (machine, task) = (placement.machines[claim], placement.tasks[claim]);
                match id {
                    Some(id) if racing => self.raced.push((*id, machine)),
                    Some(id) => {
                        counted.granted += 1;
                        let job = self.job_number(placement.job)?;
                        self.live.push(Live { id: *id, machine, job, task });
                    }
                    None => {
                        let job = self.job_number(placement.job)? as usize;
                        self.waiting[job].push(task);
                        counted.refused += 1;
                        self.left(machine);
                    }
                }
            }
        }
        ensure!(racing || counted.refused == outcome.refusals.len() as u64, "a claim was refused without a reason");
        self.granted += counted.granted;
        Ok(counted)
    }

    /// A task is not on a machine any more, or never was; those of the rival are not counted.
    fn left(&mut self, machine: u32) {
        if let Some(taken) = self.taken.get_mut(machine as usize) {
            *taken -= 1;
        }
    }

    fn job_number(&self, job: JobId) -> anyhow::Result<u32> {
        // Jobs were submitted one after the other into an empty cell: slots are their numbers.
        let number = job.slot;
        (self.jobs.get(number as usize) == Some(&job)).then_some(number).context("a job of the load")
    }

    /// The receipts of all that was stopped since the last ones, rivals too.
    pub(crate) fn receipts(&mut self) -> Receipts {
        let stopped = std::mem::take(&mut self.stopped);
        let count = stopped.len() as u64;
        let mut transitions = Vec::with_capacity(stopped.len() + self.raced.len());
        for live in stopped {
            transitions.push(receipt(self.machines[live.machine as usize], live.id));
            self.waiting[live.job as usize].push(live.task);
            self.left(live.machine);
        }
        for (id, machine) in std::mem::take(&mut self.raced) {
            transitions.push(receipt(self.machines[machine as usize], id));
        }
        Receipts { stopped: count, request: request(Command::ReportStatus(transitions)) }
    }
}

/// A machine at random that has room, and takes it: with few tasks a machine, one drawn blindly would now and then be full.
fn draw(random: &mut Random, taken: &mut [u32], fitting: u32) -> u32 {
    let machines = u32::try_from(taken.len()).expect("machines have slots");
    loop {
        let machine = random.below(machines);
        let tasks = &mut taken[machine as usize];
        if *tasks < fitting {
            *tasks += 1;
            return machine;
        }
    }
}

fn receipt(machine: MachineId, allocation: AllocationId) -> Transition {
    Transition::new(machine, 1, allocation, AllocationState::Stopped)
}

fn decide(core: &mut Core, command: Command, now: LogTime) -> anyhow::Result<Decision> {
    match core.decide(&request(command), now) {
        Decided::Changed { decision, .. } => Ok(decision),
        other => bail!("expected a change, found {other:?}"),
    }
}

fn register(number: usize, capacity: Resources, rules: bool) -> Command {
    let mut attributes = Attributes::new();
    if rules {
        attributes.insert("kernel".into(), "6.1".into());
        attributes.insert("disk".into(), if number.is_multiple_of(3) { "ssd" } else { "nvme" }.into());
        attributes.insert("rack".into(), format!("rack-{}", number / RACK).into());
    }
    Command::RegisterMachine(FoundMachine {
        name: format!("machine-{number}").into(),
        boot_id: "boot".into(),
        capacity,
        attributes: Arc::new(attributes),
        ..FoundMachine::default()
    })
}

fn open(core: &mut Core, scheduler: &str, now: LogTime) -> anyhow::Result<SessionId> {
    decide(core, Command::OpenSession { scheduler: scheduler.into() }, now)?;
    Ok(SessionId(core.cell().revision().0))
}

/// The shape of a job of one group.
fn job(name: &str, scheduler: &str, count: u32, task: Resources) -> JobShape {
    let group = GroupShape { name: "main".into(), count, resources: task, ..GroupShape::default() };
    JobShape {
        namespace: "default".into(),
        name: name.into(),
        scheduler: scheduler.into(),
        priority: 50,
        kind: plenum_model::JobKind::Forever,
        groups: vec![group],
        ..JobShape::default()
    }
}

/// Lets a job declare rules that hold wherever its tasks come to stand: a claim that breaks one is refused early, and costs less. All
/// have constraints; one in ten a limit for each rack, and another one in ten a limit for each machine.
fn declare_rules(shape: &mut JobShape, number: u32) {
    for group in &mut shape.groups {
        group.constraints = vec![
            Constraint { attribute: "kernel".into(), operator: Operator::GreaterOrEqual, values: vec!["5.10".into()] },
            Constraint { attribute: "disk".into(), operator: Operator::In, values: vec!["nvme".into(), "ssd".into()] },
        ];
        if number.is_multiple_of(10) {
            group.spread = vec![Spread { attribute: "rack".into(), at_most: TASKS_OF_A_JOB }];
        }
        if number % 10 == 5 {
            group.per_machine = TASKS_OF_A_JOB;
        }
    }
}

/// A limit that the load stays below, so that it is looked at and never reached.
fn quota(shape: Shape, task: Resources) -> Command {
    let most = u64::from(shape.live) * 10;
    let mut limits = Quota::default();
    (limits.limits[0], limits.limits[1]) = (Some(task.cpu_millis * most), Some(task.memory_bytes * most));
    Command::SetQuota { namespace: "default".into(), limit: Some(limits) }
}

fn submit(core: &mut Core, shape: JobShape, now: LogTime) -> anyhow::Result<JobId> {
    let command = Command::submit(shape);
    match decide(core, command, now)? {
        Decision::Accepted { id, .. } => JobId::from_bits(id).context("a job's id"),
        other => bail!("expected an id, found {other:?}"),
    }
}
