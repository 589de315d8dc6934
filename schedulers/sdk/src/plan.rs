//! A transaction in the making.

use plenum_model::{
    AllocationId, CLAIMS_MAX, ClaimExtra, ConflictCheck, Device, Guard, JobId, Placement, Port, Preemption, Resources,
    TakeOver, Transaction, VICTIMS_MAX, counted,
};
use plenum_proto::bounds::{CONFIGURATION_BYTES_MAX, LIST_MAX, NAME_BYTES_MAX, TRANSACTION_ENTRIES_MAX};

use crate::view::Work;

/// Claims, stops and guards that shall be decided together. The runtime adds number, base revision and metadata.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    atomic: bool,
    check: ConflictCheck,
    placements: Vec<Placed>,
    stops: Vec<AllocationId>,
    guards: Vec<Guard>,
    policy: Box<str>,
    configuration: Box<[u8]>,
    tag: u64,
    /// The last claim was one of nothing: what is said of it is not said of the placement before it.
    claims_nothing: bool,
    /// The first that was said of no claim.
    stray: Option<&'static str>,
}

/// Tasks of one group with their machines, and what the runtime must remember of them.
#[derive(Clone, Debug)]
struct Placed {
    placement: Placement,
    resources: Resources,
    attempt: u32,
    shares_machine: bool,
    has_devices: bool,
}

/// One claim of a plan, as the books need it.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) job: JobId,
    pub(crate) group: u16,
    pub(crate) task: u32,
    /// The slot.
    pub(crate) machine: u32,
    pub(crate) resources: Resources,
    /// All tasks of the job go there.
    pub(crate) shares_machine: bool,
    /// The very devices, where the plan names them; empty where the cell chooses.
    pub(crate) devices: Vec<Device>,
    /// It has devices, and the cell chooses them.
    pub(crate) leaves_devices_open: bool,
    /// The same of ports.
    pub(crate) ports: Vec<Port>,
}

impl Claim {
    /// Whose it is: job, group and index of the task.
    pub(crate) const fn whose(&self) -> (JobId, u16, u32) {
        (self.job, self.group, self.task)
    }
}

/// What a single claim has too many of.
const TAKEN_OVER: &str = "allocations whose room one claim takes over";

/// A plan that the cell would not even look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Claims, stops, and what stands beside them have a bound each.
    #[error("a transaction has at most {most} {what}; found {found}: plan less at once")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
        /// How many there are.
        found: usize,
    },
    /// What is within its bounds may still come to more than one message holds.
    #[error("a transaction has at most {most} bytes on the way to this cell; found {bytes}: plan less at once")]
    TooManyBytes {
        /// How many it would have.
        bytes: usize,
        /// What the server takes.
        most: usize,
    },
    /// Each claim needs a machine.
    #[error(
        "each task needs one machine; found {} and {}",
        counted(*tasks as u64, "task"),
        counted(*machines as u64, "machine")
    )]
    Unequal {
        /// How many tasks.
        tasks: usize,
        /// How many machines.
        machines: usize,
    },
    /// A task runs in one place.
    #[error("each task is claimed once in a placement; found task {task} twice")]
    TaskTwice {
        /// Its index.
        task: u32,
    },
    /// What is said of a claim must come after it, or it says nothing of anybody.
    #[error("{what} is about the last claim; found none that it could be about: claim first")]
    AboutNoClaim {
        /// The method.
        what: &'static str,
    },
    /// A minimum that cannot be met.
    #[error("a gang's minimum is at most its tasks; found a minimum of {min} for {}", counted(*tasks as u64, "task"))]
    Minimum {
        /// The minimum.
        min: u32,
        /// How many tasks.
        tasks: usize,
    },
}

impl PlanError {
    /// Whether a plan of fewer claims may be within the bound.
    pub(crate) fn passes_with_fewer_claims(&self) -> bool {
        match self {
            Self::TooManyBytes { .. } => true,
            Self::TooLarge { what, .. } => *what != TAKEN_OVER,
            _ => false,
        }
    }
}

impl Plan {
    /// What fits is granted, the rest is refused.
    #[must_use]
    pub fn incremental() -> Self {
        Self::default()
    }

    /// Nothing of it if a claim is refused: each [`Plan::claim`] needs all of its tasks, and a [`Plan::gang`] its minimum. A stop that comes too late, or is
    /// refused, undoes nothing: what must hold for it stands in a [`Plan::guard`].
    #[must_use]
    pub fn all_or_nothing() -> Self {
        Self { atomic: true, ..Self::default() }
    }

    /// Claims a machine for each of the tasks, as [`Plan::gang`]: in a [`Plan::all_or_nothing`] with all of them as the minimum, otherwise with none.
    pub fn claim(&mut self, work: &Work, tasks: &[u32], machines: &[u32]) -> &mut Self {
        let min = if self.atomic { u32::try_from(tasks.len()).unwrap_or(u32::MAX) } else { 0 };
        self.gang(work, tasks, machines, min)
    }

    /// Claims a machine for each of the tasks, and takes none of them if fewer than `min` are granted: `machines` are slots, as many as tasks, of which each is
    /// named once ([`PlanError::TaskTwice`]). Of no tasks it changes nothing, and neither do spare machines and victims that are named for it.
    pub fn gang(&mut self, work: &Work, tasks: &[u32], machines: &[u32], min: u32) -> &mut Self {
        self.claims_nothing = tasks.is_empty() && machines.is_empty();
        if self.claims_nothing {
            return self;
        }
        let placement = Placement {
            job: work.job.id,
            group: work.group,
            job_version: work.job.version,
            machines: machines.to_vec(),
            tasks: tasks.to_vec(),
            min,
            ..Placement::default()
        };
        let resources = work.shape().resources;
        let shares_machine = work.job.shape.same_machine;
        let has_devices = !work.shape().devices.is_empty();
        self.placements.push(Placed { placement, resources, attempt: work.attempt, shares_machine, has_devices });
        self
    }

    /// Slots of machines that the cell may take instead for claims of the last placement that lost their race, the best first. It takes them by the limits
    /// that it knows itself: who keeps others names only machines that may have all of these claims.
    pub fn spare(&mut self, machines: &[u32]) -> &mut Self {
        self.last("spare", |placement| placement.alternates.extend_from_slice(machines))
    }

    /// An allocation on a machine of the last placement (by its slot) that may be evicted for it. The cell takes victims in the order in which they are
    /// named, only of lower bands, and only until the claims fit; none at all if the scheduler may not evict (`Cell::rights_of`). One that leaves
    /// already gives its room before any of them is evicted, whatever its band. Of one that does not, the same plan may not claim the task: it would be
    /// rejected as a whole. At most 64 on one machine for one placement: a plan with more is not sent ([`PlanError::TooLarge`]).
    pub fn evict(&mut self, machine: u32, victim: AllocationId) -> &mut Self {
        self.last("evict", |placement| placement.preemptions.push(Preemption { machine, victim }))
    }

    /// Lets a task of the last placement have room, devices and ports of an allocation that leaves, or that this plan stops: as much as
    /// it lacks. It starts when that one has ended. At most 64 for one task: a plan with more is not sent ([`PlanError::TooLarge`]).
    ///
    /// Whether that is enough says [`Ledger::take_over`](crate::Ledger::take_over), and the cell judges: there is what is free on the machine and what the
    /// victim has, less what it waits for itself and what others take over from it already.
    pub fn take_over(&mut self, task: u32, victim: AllocationId) -> &mut Self {
        let amount = Resources::default();
        self.extra("take_over", task, |extra| {
            extra.take_overs.push(TakeOver { victim, amount, devices: Vec::new(), ports: Vec::new() });
        })
    }

    /// Names the very devices for a task of the last placement: as many and as much as its group declares. Without, the cell chooses. In the books,
    /// [`Ledger::take_named`](crate::Ledger::take_named) takes these.
    pub fn devices(&mut self, task: u32, devices: &[Device]) -> &mut Self {
        self.extra("devices", task, |extra| extra.devices.extend_from_slice(devices))
    }

    /// Names ports for a task of the last placement that its group leaves open. Without, the cell chooses. In the books,
    /// [`Ledger::take_named`](crate::Ledger::take_named) takes these.
    pub fn ports(&mut self, task: u32, ports: &[Port]) -> &mut Self {
        self.extra("ports", task, |extra| extra.ports.extend_from_slice(ports))
    }

    /// What the last claim is part of; `None` where there is none, or it was one of nothing.
    fn last_placement(&mut self) -> Option<&mut Placement> {
        self.placements.last_mut().filter(|_| !self.claims_nothing).map(|placed| &mut placed.placement)
    }

    /// Changes what is said of all tasks of the last claim.
    fn last(&mut self, what: &'static str, change: impl FnOnce(&mut Placement)) -> &mut Self {
        if let Some(placement) = self.last_placement() {
            change(placement);
        } else if !self.claims_nothing {
            self.stray = self.stray.or(Some(what));
        }
        self
    }

    /// Changes what a claim asks for beyond room.
    fn extra(&mut self, what: &'static str, task: u32, change: impl FnOnce(&mut ClaimExtra)) -> &mut Self {
        let found = self.last_placement().and_then(|placement| {
            let claim = placement.tasks.iter().position(|&one| one == task)?;
            placement.extras.resize_with(placement.tasks.len(), ClaimExtra::default);
            placement.extras.get_mut(claim)
        });
        match found {
            Some(extra) => change(extra),
            None => self.stray = self.stray.or(Some(what)),
        }
        self
    }

    /// Stops an allocation, which counts for nothing from then on, however it ends: it costs its task none of its `retry`, and one that still exits with 0 is
    /// not done. The task waits, and runs again: it is offered as work in the next decision, of a `single_instance` group once it has ended, so that who
    /// stops it for others holds it back ([`Decision::pass_over`](crate::Decision::pass_over)).
    pub fn stop(&mut self, allocation: AllocationId) -> &mut Self {
        self.stops.push(allocation);
        self
    }

    /// A fact without which the whole plan shall have no effect.
    pub fn guard(&mut self, guard: Guard) -> &mut Self {
        self.guards.push(guard);
        self
    }

    /// When a claim conflicts; only when its room is really gone, unless said otherwise. Who keeps a limit of its own, which no group declares, needs
    /// [`ConflictCheck::Sequence`]: else another process of the same name fills it meanwhile, and the cell sees nothing wrong.
    #[must_use]
    pub fn checked_by(mut self, check: ConflictCheck) -> Self {
        self.check = check;
        self
    }

    /// Names the policy that decided, with a digest of its settings: inspection shows both. Cut at 63 bytes and at 32, and on one line, as no cell takes more.
    #[must_use]
    pub fn decided_by(mut self, policy: &str, configuration: &[u8]) -> Self {
        let policy = &policy[..policy.floor_char_boundary(NAME_BYTES_MAX)];
        self.policy = policy.replace(char::is_control, " ").into();
        self.configuration = configuration.iter().copied().take(CONFIGURATION_BYTES_MAX).collect();
        self
    }

    /// Whatever the scheduler wants to know the plan by once it is answered: see [`Scheduler::answered`](crate::Scheduler::answered). The cell does not see it.
    #[must_use]
    pub fn tagged(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// What it was tagged with; 0 for nothing.
    #[must_use]
    pub const fn tag(&self) -> u64 {
        self.tag
    }

    /// Neither claims nor stops.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.placements.is_empty() && self.stops.is_empty()
    }

    /// Whether it stops anything.
    pub(crate) fn has_stops(&self) -> bool {
        !self.stops.is_empty()
    }

    /// How many claims it has.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.placements.iter().map(|placed| placed.placement.machines.len()).sum()
    }

    /// How many claims it has for each group.
    pub(crate) fn claims_by_group(&self) -> impl Iterator<Item = ((JobId, u16), usize)> {
        let claims = self.placements.iter().map(|placed| &placed.placement);
        claims.map(|placement| ((placement.job, placement.group), placement.machines.len()))
    }

    /// Each task that it claims: job, group and index.
    pub(crate) fn each_task(&self) -> impl Iterator<Item = (JobId, u16, u32)> {
        let placements = self.placements.iter().map(|placed| &placed.placement);
        placements.flat_map(|placement| placement.tasks.iter().map(|&task| (placement.job, placement.group, task)))
    }

    /// Each claim.
    pub(crate) fn each_claim(&self) -> impl Iterator<Item = Claim> {
        self.placements.iter().flat_map(|Placed { placement, resources, shares_machine, has_devices, .. }| {
            let columns = placement.tasks.iter().zip(&placement.machines).enumerate();
            columns.map(|(position, (&task, &machine))| {
                let extra = placement.extras.get(position);
                Claim {
                    job: placement.job,
                    group: placement.group,
                    task,
                    machine,
                    resources: *resources,
                    shares_machine: *shares_machine,
                    leaves_devices_open: *has_devices && extra.is_none_or(|extra| extra.devices.is_empty()),
                    devices: extra.map(|extra| extra.devices.clone()).unwrap_or_default(),
                    ports: extra.map(|extra| extra.ports.clone()).unwrap_or_default(),
                }
            })
        })
    }

    /// Each allocation that may be evicted for it.
    pub(crate) fn each_victim(&self) -> impl Iterator<Item = AllocationId> {
        let preemptions = self.placements.iter().flat_map(|placed| &placed.placement.preemptions);
        preemptions.map(|preemption| preemption.victim)
    }

    /// Each allocation that it stops.
    pub(crate) fn each_stop(&self) -> impl Iterator<Item = AllocationId> {
        self.stops.iter().copied()
    }

    /// What it has more of than the cell reads in one transaction, be it in however few bytes.
    fn too_large(&self) -> Option<PlanError> {
        type Count = fn(&Placement) -> usize;
        let each = |of: Count| self.placements.iter().map(move |placed| of(&placed.placement));
        let total = |of: Count| each(of).sum::<usize>();
        let largest = |of: Count| each(of).max().unwrap_or(0);
        let counts = [
            ("claims", CLAIMS_MAX, self.claims()),
            ("stops", CLAIMS_MAX, self.stops.len()),
            ("spare machines", CLAIMS_MAX, total(|placement| placement.alternates.len())),
            ("victims", CLAIMS_MAX, total(|placement| placement.preemptions.len())),
            ("guards", CLAIMS_MAX, self.guards.len()),
            ("victims of one placement on one machine", VICTIMS_MAX, largest(victims_on_one_machine)),
            (TAKEN_OVER, LIST_MAX, largest(taken_over_by_one_claim)),
            ("entries that name devices, ports and whose room is taken over", TRANSACTION_ENTRIES_MAX, total(entries)),
        ];
        let above = counts.into_iter().find(|&(_, most, found)| found > most);
        above.map(|(what, most, found)| PlanError::TooLarge { what, most, found })
    }

    /// The transaction, without what only the runtime knows. The highest attempt of its work counts.
    ///
    /// # Errors
    /// When the cell would reject it whatever its state.
    pub(crate) fn into_transaction(self) -> Result<Transaction, PlanError> {
        if let Some(too_large) = self.too_large() {
            return Err(too_large);
        }
        if let Some(what) = self.stray {
            return Err(PlanError::AboutNoClaim { what });
        }
        for Placed { placement, .. } in &self.placements {
            let (tasks, machines) = (placement.tasks.len(), placement.machines.len());
            if tasks != machines {
                return Err(PlanError::Unequal { tasks, machines });
            }
            if let Some(task) = named_twice(&placement.tasks) {
                return Err(PlanError::TaskTwice { task });
            }
            if placement.min as usize > tasks {
                return Err(PlanError::Minimum { min: placement.min, tasks });
            }
        }
        let attempt = self.placements.iter().map(|placed| placed.attempt).max().unwrap_or(1);
        let mut transaction = Transaction {
            atomic: self.atomic,
            check: self.check,
            placements: self.placements.into_iter().map(|placed| placed.placement).collect(),
            stops: self.stops,
            guards: self.guards,
            ..Transaction::default()
        };
        transaction.decision.attempt = attempt;
        transaction.decision.policy = self.policy;
        transaction.decision.configuration = self.configuration;
        Ok(transaction)
    }
}

/// What a placement has beside its columns: job, group, version and minimum, victims, and an entry for each claim with what stands in it.
fn entries(placement: &Placement) -> usize {
    // Of each that room is taken over from: itself, who it is, and how much.
    let beside = |extra: &ClaimExtra| 1 + extra.devices.len() + extra.ports.len() + 3 * extra.take_overs.len();
    4 + placement.preemptions.len() + placement.extras.iter().map(beside).sum::<usize>()
}

/// Most victims that a placement has on any one machine.
fn victims_on_one_machine(placement: &Placement) -> usize {
    let mut machines: Vec<u32> = placement.preemptions.iter().map(|preemption| preemption.machine).collect();
    machines.sort_unstable();
    machines.chunk_by(|one, other| one == other).map(<[u32]>::len).max().unwrap_or(0)
}

/// From how many allocations any one claim of a placement takes room over.
fn taken_over_by_one_claim(placement: &Placement) -> usize {
    placement.extras.iter().map(|extra| extra.take_overs.len()).max().unwrap_or(0)
}

/// A task that is not there once only.
fn named_twice(tasks: &[u32]) -> Option<u32> {
    // Most schedulers claim tasks in their order; then nothing is sorted.
    if tasks.is_sorted_by(|one, other| one < other) {
        return None;
    }
    let mut sorted = tasks.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

#[cfg(test)]
pub(crate) mod tests {
    use plenum_model::{GroupShape, Job, JobShape, JobState, LogTime, SessionId, TransactionId};

    use super::*;
    use std::sync::Arc;

    pub(crate) fn work() -> Work {
        let shape = JobShape { groups: vec![GroupShape::default()], ..JobShape::default() };
        let job = Job {
            id: JobId { slot: 0, generation: 1 },
            version: 3,
            shape: Arc::new(shape),
            body: None,
            body_digest: [0; 32],
            submitted: LogTime::default(),
            state: JobState::Waiting,
            state_since: LogTime::default(),
            reason: "".into(),
            group_base: 0,
            home: None,
            last_instant_micros: None,
        };
        Work { job: Arc::new(job), group: 0, tasks: vec![0, 1], attempt: 2, least: 0 }
    }

    fn minima(plan: &Plan) -> Vec<u32> {
        plan.clone().into_transaction().unwrap().placements.iter().map(|placement| placement.min).collect()
    }

    #[test]
    fn the_sugar_says_how_few_are_enough() {
        let (mut some, mut gang, mut all) = (Plan::incremental(), Plan::incremental(), Plan::all_or_nothing());
        assert_eq!(minima(some.claim(&work(), &[0, 1], &[5, 5])), [0]);
        assert_eq!(minima(gang.gang(&work(), &[0, 1], &[5, 6], 1)), [1]);
        assert_eq!(minima(all.claim(&work(), &[0], &[5]).claim(&work(), &[1], &[6])), [1, 1]);
        assert!(all.into_transaction().unwrap().atomic);
    }

    #[test]
    fn the_transaction_says_on_which_version_and_attempt_it_was_decided() {
        let mut plan = Plan::incremental().decided_by("first-fit", &[7]);
        plan.claim(&work(), &[1], &[5]);
        let transaction = plan.into_transaction().unwrap();
        assert_eq!((transaction.placements[0].job_version, transaction.decision.attempt), (3, 2));
        assert_eq!((&*transaction.decision.policy, &*transaction.decision.configuration), ("first-fit", &[7][..]));
    }

    // Each such transaction was refused as a whole, and planned again, for ever.
    #[test]
    fn what_a_policy_is_called_is_cut_to_what_a_cell_takes() {
        let mut plan = Plan::incremental().decided_by(&format!("\n{}é", "p".repeat(61)), &[7; 33]);
        plan.claim(&work(), &[1], &[5]);
        let id = TransactionId { session: SessionId(1), number: 1 };
        let transaction = Transaction { id, incarnation: 1, ..plan.into_transaction().unwrap() };
        assert!(plenum_proto::transaction::commit_decoded(&(&transaction).into()).is_ok());
        assert_eq!(*transaction.decision.policy, *format!(" {}", "p".repeat(61)));
        assert_eq!(*transaction.decision.configuration, [7; 32]);
    }

    #[test]
    fn plans_that_no_cell_would_look_at_are_named() {
        let fault = |plan: &mut Plan| plan.clone().into_transaction().unwrap_err();
        let unequal = fault(Plan::incremental().claim(&work(), &[0, 1], &[5]));
        assert_eq!(unequal, PlanError::Unequal { tasks: 2, machines: 1 });
        let minimum = fault(Plan::incremental().gang(&work(), &[0], &[5], 2));
        assert_eq!(minimum, PlanError::Minimum { min: 2, tasks: 1 });
        let many: Vec<u32> = (0..).take(CLAIMS_MAX + 1).collect();
        let large = fault(Plan::incremental().claim(&work(), &many, &many));
        assert_eq!(large, PlanError::TooLarge { what: "claims", most: CLAIMS_MAX, found: CLAIMS_MAX + 1 });
        let early = fault(Plan::incremental().spare(&[6]).claim(&work(), &[0], &[5]));
        assert_eq!(early, PlanError::AboutNoClaim { what: "spare" });
        let victim = AllocationId { slot: 7, generation: 1 };
        let elsewhere = fault(Plan::incremental().claim(&work(), &[0], &[5]).take_over(9, victim));
        assert_eq!(elsewhere, PlanError::AboutNoClaim { what: "take_over" });
    }

    /// Whether the cell reads it, and what the plan itself says of it.
    fn is_read(plan: &Plan) -> (bool, Option<PlanError>) {
        let transaction = Transaction {
            id: TransactionId { session: SessionId(1), number: 1 },
            incarnation: 1,
            placements: plan.placements.iter().map(|placed| placed.placement.clone()).collect(),
            guards: plan.guards.clone(),
            ..Transaction::default()
        };
        let is_read = plenum_proto::transaction::commit_decoded(&(&transaction).into()).is_ok();
        (is_read, plan.too_large())
    }

    // Only claims and stops were counted here. Of all others the cell refused what was too much, and the same was planned again, for ever.
    #[test]
    fn a_plan_has_as_much_beside_its_claims_as_the_cell_reads() {
        let victim = AllocationId { slot: 7, generation: 1 };
        let guard = || Guard::JobVersion { job: work().job.id, version: 1 };
        for what in ["spare machines", "victims", "guards"] {
            let mut plan = Plan::incremental();
            plan.claim(&work(), &[0], &[5]);
            let one_more = |plan: &mut Plan| match what {
                "spare machines" => plan.spare(&[6]).is_empty(),
                "victims" => {
                    let named = plan.placements[0].placement.preemptions.len();
                    plan.evict(u32::try_from(named / VICTIMS_MAX).unwrap(), victim).is_empty()
                }
                _ => plan.guard(guard()).is_empty(),
            };
            (0..CLAIMS_MAX).for_each(|_| assert!(!one_more(&mut plan)));
            assert_eq!(is_read(&plan), (true, None), "{what}");
            assert!(!one_more(&mut plan));
            let fault = PlanError::TooLarge { what, most: CLAIMS_MAX, found: CLAIMS_MAX + 1 };
            assert_eq!(is_read(&plan), (false, Some(fault)));
        }
    }

    // Each such plan was rejected as a whole, and planned again, for ever.
    #[test]
    fn a_plan_names_as_many_for_one_claim_as_the_cell_takes() {
        let victim = AllocationId { slot: 7, generation: 1 };
        let mut plan = Plan::incremental();
        plan.claim(&work(), &[0, 1], &[5, 5]);
        (0..VICTIMS_MAX).for_each(|_| assert!(!plan.evict(5, victim).evict(6, victim).is_empty()));
        (0..LIST_MAX).for_each(|_| assert!(!plan.take_over(0, victim).take_over(1, victim).is_empty()));
        assert_eq!(is_read(&plan), (true, None));
        let fault = |what, most| Some(PlanError::TooLarge { what, most, found: most + 1 });
        let evicting = plan.clone().evict(6, victim).clone();
        assert_eq!(evicting.too_large(), fault("victims of one placement on one machine", VICTIMS_MAX));
        let taking = plan.take_over(1, victim).clone();
        let expected = fault(TAKEN_OVER, LIST_MAX);
        assert!(!expected.expect("it is above").passes_with_fewer_claims());
        assert!(evicting.too_large().expect("it is above").passes_with_fewer_claims());
        assert_eq!(is_read(&taking), (false, expected));
        let twice = Plan::incremental().claim(&work(), &[1, 0, 1], &[5, 6, 7]).clone();
        assert_eq!(is_read(&twice), (false, None));
        assert_eq!(twice.into_transaction().unwrap_err(), PlanError::TaskTwice { task: 1 });
    }

    // 4,096 claims of 64 ports each, as much as one may name, come to more entries than a transaction may have, and to less than 4 MiB.
    #[test]
    fn a_plan_names_as_much_for_its_claims_in_all_as_the_cell_reads() {
        let tasks: Vec<u32> = (0..4096).collect();
        let named: Vec<Port> = (1..=64).map(|number| Port { name: format!("p{number}").into(), number }).collect();
        let mut plan = Plan::incremental();
        plan.claim(&work(), &tasks, &tasks);
        for placed in &mut plan.placements {
            placed.placement.extras =
                tasks.iter().map(|_| ClaimExtra { ports: named.clone(), ..ClaimExtra::default() }).collect();
        }
        let (is_good, fault) = is_read(&plan);
        assert!(
            !is_good && matches!(fault, Some(PlanError::TooLarge { most: TRANSACTION_ENTRIES_MAX, .. })),
            "{fault:?}"
        );
        for placed in &mut plan.placements {
            placed.placement.extras.iter_mut().for_each(|extra| extra.ports.truncate(62));
        }
        assert_eq!(is_read(&plan), (true, None));
    }

    #[test]
    fn nothing_claimed_is_nothing_planned() {
        assert!(Plan::incremental().claim(&work(), &[], &[]).is_empty());
    }

    // Spare machines and victims that were chosen for a job of which nothing fitted served the job before it.
    #[test]
    fn what_is_said_of_a_claim_of_nothing_is_not_said_of_the_one_before_it() {
        let victim = AllocationId { slot: 7, generation: 1 };
        let mut plan = Plan::incremental();
        plan.claim(&work(), &[0], &[5]).claim(&work(), &[], &[]).spare(&[6]).evict(5, victim);
        let fault = plan.clone().take_over(0, victim).clone().into_transaction().unwrap_err();
        assert_eq!(fault, PlanError::AboutNoClaim { what: "take_over" });
        plan.claim(&work(), &[1], &[4]).spare(&[8]);
        let placements = plan.into_transaction().unwrap().placements;
        assert!(placements[0].alternates.is_empty() && placements[0].preemptions.is_empty());
        assert_eq!(placements[1].alternates, [8]);
    }

    #[test]
    fn what_a_claim_asks_for_beyond_room_stands_beside_its_task() {
        let victim = AllocationId { slot: 7, generation: 1 };
        let mut plan = Plan::incremental();
        plan.claim(&work(), &[0, 1], &[4, 5]).spare(&[6]).evict(5, victim).take_over(1, victim);
        let transaction = plan.into_transaction().unwrap();
        let placement = &transaction.placements[0];
        assert_eq!((placement.alternates.as_slice(), placement.preemptions[0].machine), (&[6][..], 5));
        let entries: Vec<usize> = placement.extras.iter().map(|extra| extra.take_overs.len()).collect();
        assert_eq!(entries, [0, 1], "one a claim");
    }
}
