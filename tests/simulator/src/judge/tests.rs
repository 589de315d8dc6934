//! Steps that the core would never decide: the judge finds them by its own rules.

use std::sync::Arc;

use plenum_core::{Core, CoreOptions, Decided};
use plenum_model::{
    AllocationId, Cell, CellIdentity, Command, Decision, Delta, GroupShape, Hold, JobId, JobShape, LogTime, MachineId,
    Placement, Port, Quota, Request, Resources, SessionId, TaskTraces, Transaction, TransactionId, UnknownId,
    UnknownTask,
};

use super::{Step, rules};
use crate::books::Checked;

const NOW: LogTime = LogTime::from_micros(1);

/// A core with a machine and a job of one task, the first of each.
struct Stage {
    core: Core,
    machine: MachineId,
    job: JobId,
    /// What was asked last, and what came of it.
    last: Option<(Request, Decided)>,
}

impl Stage {
    fn new(group: GroupShape) -> Self {
        let core = Core::new(CoreOptions::default());
        let mut stage = Self { core, machine: MachineId::default(), job: JobId::default(), last: None };
        stage.ask(Command::OpenServer(CellIdentity { incarnation: 1, term: 1, ..CellIdentity::default() }));
        let seen = stage.core.cell().revision();
        let machine = stage.ask(Command::RegisterMachine {
            name: "m1".into(),
            boot_id: "boot".into(),
            capacity: Resources::new(8000, 1 << 30),
            attributes: Arc::default(),
            devices: Vec::new(),
            inventory: Vec::new(),
            seen,
        });
        let group = GroupShape { name: "main".into(), count: 1, resources: Resources::new(1, 1), ..group };
        let shape = JobShape {
            namespace: "default".into(),
            name: "job".into(),
            scheduler: "batch".into(),
            groups: vec![group],
            ..JobShape::default()
        };
        let job = stage.ask(Command::SubmitJob { shape: Arc::new(shape), body: Arc::new([]), body_digest: [0; 32] });
        stage.machine = MachineId::from_bits(machine).expect("an id");
        stage.job = JobId::from_bits(job).expect("an id");
        stage
    }

    /// What was made, or nothing.
    fn ask(&mut self, command: Command) -> u64 {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        let decided = self.core.decide(&request, NOW);
        let Decided::Changed { decision, .. } = &decided else { panic!("{decided:?}") };
        let id = if let Decision::Accepted { id, .. } = decision { *id } else { 0 };
        self.last = Some((request, decided));
        id
    }

    /// Places the task: the cell before, and what was granted.
    fn place(&mut self) -> (Cell, Delta) {
        let session = SessionId(self.ask(Command::OpenSession { scheduler: "batch".into() }));
        let (before, machines) = (self.core.cell().clone(), vec![self.machine.slot]);
        let claim = Placement { job: self.job, job_version: 1, machines, tasks: vec![0], ..Placement::default() };
        let txn = Transaction {
            id: TransactionId { session, number: 1 },
            incarnation: 1,
            base: before.revision(),
            placements: vec![claim],
            ..Transaction::default()
        };
        self.ask(Command::Commit(Box::new(txn), 1));
        match &self.last {
            Some((_, Decided::Changed { delta, .. })) if !delta.grants.is_empty() => (before, delta.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// A check's word on a step from one cell to another, whatever was asked.
    fn judged(&self, before: &Cell, after: &Cell, delta: &Delta, check: impl Fn(&Step<'_>) -> Checked) -> Checked {
        let (request, decided) = self.last.as_ref().expect("something was asked");
        check(&Step { before, request, decided, after, delta })
    }
}

/// The delta that comes next, without any change yet.
fn next(cell: &Cell) -> Delta {
    Delta::new(cell.revision().next(), cell.time())
}

// Only where it got more machines was a hold held to the quota: on as many it could grow a hundredfold.
#[test]
fn a_hold_that_is_renewed_with_more_than_its_quota_allows_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (job, machines) = (stage.job, [stage.machine.slot]);
    let (resources, deadline) = (Resources::new(1000, 10), LogTime::from_micros(60_000_000));
    stage.ask(Command::TakeHold { job, machines: machines.to_vec(), resources, deadline });
    // Far below what is held already: that stays.
    let mut limits = Quota::default().limits;
    limits[0] = Some(500);
    stage.ask(Command::SetQuota { namespace: "default".into(), limit: Some(Quota { limits }) });
    let before = stage.core.cell().clone();
    let held = before.hold(job).expect("it holds room").clone();
    let found = |machines: &[u32], resources: Resources| {
        let hold = Hold { machines: machines.to_vec(), resources, ..held.clone() };
        let delta = Delta { holds: vec![(job, Some(hold))], ..next(&before) };
        let mut after = before.clone();
        after.apply(&delta).expect("it folds");
        stage.judged(&before, &after, &delta, rules::invariant_no_grant_exceeds_a_quota).is_err()
    };
    assert!(!found(&machines, resources), "it is renewed");
    assert!(!found(&[], resources), "it lost its machine");
    assert!(!found(&machines, Resources::new(1000, 11)), "it has more of what has no limit");
    assert!(found(&machines, Resources::new(1001, 10)));
}

// Only ports of allocations were counted.
#[test]
fn a_grant_of_a_port_that_an_unknown_task_has_is_found() {
    let ports = |number| vec![Port { name: "http".into(), number }];
    let mut stage = Stage::new(GroupShape { ports: ports(8080), ..GroupShape::default() });
    let (before, granted) = stage.place();
    // As if the cell had heard of the task before the claim.
    let judged = |number| {
        let machine = stage.machine;
        let id = UnknownId { machine: machine.slot, allocation: AllocationId { slot: 7, generation: 1 } };
        let traces = Arc::new(TaskTraces { ports: ports(number), ..TaskTraces::default() });
        let task = UnknownTask { machine, traces, since: NOW, until: None, stopping: false };
        let mut before = before.clone();
        let heard = Delta { unknown: vec![(id, Some(Arc::new(task)))], ..next(&before) };
        before.apply(&heard).expect("it folds");
        let granted = Delta { revision: before.revision().next(), ..granted.clone() };
        let mut after = before.clone();
        after.apply(&granted).expect("it folds");
        stage.judged(&before, &after, &granted, rules::check)
    };
    assert_eq!(judged(8081), Ok(()));
    let violation = judged(8080).expect_err("both listen on it");
    assert!(violation.facts.ends_with("has port Some(8080)"), "{violation}");
}
