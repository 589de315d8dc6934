//! What grows with what: sizes at which a square would take minutes, and counters of what is walked.

use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationState, CPU_MILLIS_MAX, CellIdentity, ClaimExtra, Command, Constraint, Decision, Device,
    FoundMachine, GroupShape, Inventory, JobId, JobShape, JobState, LogTime, MachineId, Operator, Outcome, Placement,
    Port, Preemption, RefusalReason, RejectionCode, Request, Resources, RetryPolicy, Revision, SessionId, Spread,
    TakeOver, TaskTraces, Transaction, TransactionId, Transition,
};

use crate::invariants::check_cell;
use crate::{Core, CoreOptions, Decided};

/// A core with one session of the scheduler `batch`.
pub(super) struct Large {
    pub(super) core: Core,
    pub(super) now: LogTime,
    txn: TransactionId,
}

impl Large {
    pub(super) fn new(options: CoreOptions) -> Self {
        let mut large = Self { core: Core::new(options), now: LogTime::from_micros(1), txn: TransactionId::default() };
        large.ask(Command::OpenServer(CellIdentity { incarnation: 1, term: 1, ..CellIdentity::default() }));
        let Decision::Accepted { id, .. } = large.ask(Command::OpenSession { scheduler: "batch".into() }) else {
            panic!("a session is opened")
        };
        large.txn.session = plenum_model::SessionId(id);
        large
    }

    /// The cell was restored: what it does not know may be of before that, and need not have ended in it.
    pub(super) fn restore(&mut self) {
        self.ask(Command::OpenServer(CellIdentity { incarnation: 2, term: 2, ..CellIdentity::default() }));
    }

    pub(super) fn ask(&mut self, command: Command) -> Decision {
        let request = Request { principal: "local".into(), namespace: "default".into(), command };
        match self.core.decide(&request, self.now) {
            Decided::Changed { decision, .. } | Decided::Unchanged(decision) => decision,
            Decided::Repeated(revision) => panic!("repeated {revision}"),
        }
    }

    pub(super) fn machine(&mut self, name: String) -> MachineId {
        self.machine_with(name, Vec::new())
    }

    pub(super) fn machine_with(&mut self, name: String, devices: Vec<Device>) -> MachineId {
        let command = Command::RegisterMachine(FoundMachine {
            name: name.into(),
            boot_id: "boot".into(),
            capacity: Resources::new(1_000_000, 1 << 40),
            attributes: Arc::new([("rack".into(), "r1".into())].into_iter().collect()),
            devices,
            seen: self.core.cell().revision(),
            ..FoundMachine::default()
        });
        let Decision::Accepted { id, .. } = self.ask(command) else { panic!("registering is accepted") };
        MachineId::from_bits(id).expect("an id")
    }

    /// Takes or renews a hold, as an operator.
    pub(super) fn hold(&mut self, job: JobId, machines: &[u32], resources: Resources, deadline: LogTime) {
        let (session, machines) = (SessionId::default(), machines.to_vec());
        let answer = self.ask(Command::TakeHold { session, job, machines, resources, deadline });
        assert!(matches!(answer, Decision::Accepted { .. }), "{answer:?}");
    }

    pub(super) fn job(&mut self, group: GroupShape) -> JobId {
        self.job_at(0, GroupShape { resources: Resources::new(1, 1), ..group })
    }

    pub(super) fn job_at(&mut self, priority: u8, group: GroupShape) -> JobId {
        let shape = JobShape {
            namespace: "default".into(),
            name: format!("job-{}", self.core.cell().revision().0).into(),
            scheduler: "batch".into(),
            priority,
            groups: vec![GroupShape { name: "main".into(), ..group }],
            ..JobShape::default()
        };
        let command = Command::submit(shape);
        let Decision::Accepted { id, .. } = self.ask(command) else { panic!("submitting is accepted") };
        JobId::from_bits(id).expect("an id")
    }

    pub(super) fn commit(&mut self, placements: Vec<Placement>) -> Outcome {
        let base = self.core.cell().revision();
        self.commit_on(Transaction { base, placements, ..Transaction::default() })
    }

    pub(super) fn commit_on(&mut self, txn: Transaction) -> Outcome {
        let (Decided::Changed { decision, .. } | Decided::Unchanged(decision)) = self.decide_commit(txn) else {
            panic!("each has a number of its own")
        };
        let Decision::Outcome(outcome) = decision else { panic!("it is decided") };
        *outcome
    }

    pub(super) fn decide_commit(&mut self, txn: Transaction) -> Decided {
        self.txn.number += 1;
        let txn = Transaction { id: self.txn, incarnation: 1, ..txn };
        let command = Command::Commit(Box::new(txn), self.txn.number);
        self.core.decide(&Request { principal: "local".into(), namespace: "default".into(), command }, self.now)
    }
}

pub(super) fn placement(job: JobId, tasks: std::ops::Range<u32>, machine: impl Fn(u32) -> u32, min: u32) -> Placement {
    let machines = tasks.clone().map(machine).collect();
    Placement { job, job_version: 1, machines, tasks: tasks.collect(), min, ..Placement::default() }
}

/// An agent's report that an allocation is complete.
pub(super) fn complete(machine: MachineId, allocation: AllocationId) -> Transition {
    Transition::new(machine, 1, allocation, AllocationState::Complete)
}

// All that was promised of ports was copied before each placement that has a minimum: at the most that one transaction may have, a
// hundred million entries.
#[test]
fn placements_with_minimums_and_ports_cost_what_they_ask_for() {
    let mut large = Large::new(CoreOptions::default());
    let machines: Vec<_> = (0..1024).map(|number| large.machine(format!("m{number}")).slot).collect();
    let ports = vec![Port { name: "http".into(), number: 0 }];
    let tasks = 16_384;
    let job = large.job(GroupShape { count: tasks, ports, ..GroupShape::default() });
    let on = |task: u32| machines[task as usize % machines.len()];
    let placements = (0..tasks).map(|task| placement(job, task..task + 1, on, 1)).collect();
    assert_eq!(large.commit(placements).granted(), tasks as usize);
}

// All devices were looked at for all that the group declares, again with each victim that lends some: with 16,000 claims that took two
// minutes and a half, in a release build.
#[test]
fn devices_of_victims_are_looked_at_again_only_where_more_could_fit() {
    let mut large = Large::new(CoreOptions::default());
    let device =
        |index: u32, millis: u32, model: &str| Device { kind: "gpu".into(), index, millis, model: model.into() };
    let machine = large.machine_with("m1".to_owned(), (0..256).map(|index| device(index, 1000, "m")).collect()).slot;
    let low = large.job(GroupShape { count: 64, devices: vec![device(0, 1000, "m"); 4], ..GroupShape::default() });
    let victims = large.commit(vec![placement(low, 0..64, |_| machine, 0)]).placements.concat();
    let mut devices = vec![device(0, 1, "m"); 63];
    devices.push(device(0, 1, "another"));
    let ports = vec![Port { name: "http".into(), number: 0 }];
    let high = GroupShape { count: 2000, devices, ports: ports.clone(), ..GroupShape::default() };
    let high = large.job_at(90, high);
    let mut claims = placement(high, 0..2000, |_| machine, 0);
    // What names something of its own is judged by itself.
    claims.extras = vec![ClaimExtra { ports, ..ClaimExtra::default() }; 2000];
    claims.preemptions = victims.into_iter().flatten().map(|victim| Preemption { machine, victim }).collect();
    assert_eq!(claims.preemptions.len(), 64);
    let outcome = large.commit(vec![claims]);
    assert!(outcome.refusals.iter().all(|refusal| refusal.reason == RefusalReason::DeviceTaken));
    assert_eq!(outcome.refusals.len(), 2000);
}

// Each refused claim walked its whole group to find out who came last.
#[test]
fn a_group_is_walked_once_for_all_claims_that_are_refused_over_one_rule() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned()).slot;
    let spread = vec![Spread { attribute: "rack".into(), at_most: 10 }];
    let job = large.job(GroupShape { count: 5000, spread, ..GroupShape::default() });
    let base = large.core.cell().revision();
    // What the ring knew is forgotten.
    large.ask(Command::OpenServer(CellIdentity { incarnation: 1, term: 2, ..CellIdentity::default() }));
    let placements = vec![placement(job, 0..5000, |_| machine, 0)];
    let outcome = large.commit_on(Transaction { base, placements, ..Transaction::default() });
    assert_eq!((outcome.granted(), outcome.refusals.len()), (10, 4990));
    assert_eq!(large.core.derived.newcomers.borrow().walked, 5000);
}

// Each expiry, and each machine that was given up, walked the rows of all allocations.
#[test]
fn the_rows_are_walked_once_for_all_machines_that_vanish_together() {
    let options = CoreOptions { lost_millis_a_minute: 1000, ..CoreOptions::default() };
    let mut large = Large::new(options);
    let machines: Vec<_> = (0..300).map(|number| large.machine(format!("m{number}"))).collect();
    let group = GroupShape { count: 3000, lost_after_micros: Some(60_000_000), ..GroupShape::default() };
    let job = large.job(group);
    let on = |task: u32| machines[task as usize % machines.len()].slot;
    assert_eq!(large.commit(vec![placement(job, 0..2000, on, 0)]).granted(), 2000);
    for (number, &machine) in machines.iter().enumerate() {
        large.ask(Command::ExpireMachine { machine, epoch: 1 });
        if number == 100 {
            // What is granted later is found, too.
            let spare = machines[299].slot;
            assert_eq!(large.commit(vec![placement(job, 2000..3000, |_| spare, 0)]).granted(), 1000);
        }
    }
    large.now = large.now.plus_micros(61_000_000);
    while large.core.next_due().is_some_and(|due| due <= large.now) {
        large.ask(Command::Tick);
    }
    assert_eq!(large.core.cell().allocations().filter(|found| found.status.state.is_active()).count(), 0);
    assert_eq!(large.core.derived.tenants.walks, 1);
}

/// A core whose commands stop a hundred tasks at most, with a job of a thousand on twenty machines.
fn crowd() -> (Large, JobId, Vec<MachineId>) {
    let options = CoreOptions { stops_max: 100, lost_millis_a_minute: 1000, ..CoreOptions::default() };
    let mut large = Large::new(options);
    let machines: Vec<_> = (0..20).map(|number| large.machine(format!("m{number}"))).collect();
    let retry = RetryPolicy { attempts: Some(0), delay_micros: 0 };
    let job =
        large.job(GroupShape { count: 1000, retry, lost_after_micros: Some(60_000_000), ..GroupShape::default() });
    let on = |task: u32| machines[task as usize % machines.len()].slot;
    assert_eq!(large.commit(vec![placement(job, 0..1000, on, 0)]).granted(), 1000);
    (large, job, machines)
}

impl Large {
    pub(super) fn in_state(&self, state: AllocationState) -> usize {
        self.core.cell().allocations().filter(|found| found.status.state == state).count()
    }

    /// Ticks until nothing is due; how many there were. A core that is recovered before each of them does the same.
    pub(super) fn tick_all(&mut self) -> usize {
        let request = Request { principal: "server".into(), namespace: "".into(), command: Command::Tick };
        let mut ticks = 0;
        while self.core.next_due().is_some_and(|due| due <= self.now) {
            let mut recovered = Core::from_cell(self.core.cell().clone(), self.core.options().clone());
            let decided = [&mut self.core, &mut recovered].map(|core| core.decide(&request, self.now));
            let [Decided::Changed { delta, .. }, Decided::Changed { delta: again, .. }] = decided else {
                panic!("what is due changes something")
            };
            assert_eq!(delta, again);
            assert!(delta.moves.len() <= self.core.options().stops_max, "{} at once", delta.moves.len());
            ticks += 1;
        }
        ticks
    }
}

// All tasks of a job that failed were stopped with one command. With some hundred thousand of them that did not fit the log, and the
// server ended, again and again.
#[test]
fn the_tasks_of_a_job_that_fails_are_stopped_in_steps() {
    let (mut large, job, _) = crowd();
    let failed = large.core.cell().allocations().next().expect("some are there");
    let machine = large.core.cell().machine_in(failed.row.machine).expect("its machine");
    let transition =
        Transition { exit_code: 1, ..Transition::new(machine.id, machine.epoch, failed.id, AllocationState::Failed) };
    large.ask(Command::ReportStatus(vec![transition]));
    assert_eq!(large.core.cell().job(job).expect("it is there").state, JobState::Failed);
    assert_eq!(large.in_state(AllocationState::Stopping), 100);
    assert_eq!(large.tick_all(), 9);
    assert_eq!(large.in_state(AllocationState::Stopping), 999);
}

#[test]
fn the_tasks_of_a_job_that_is_stopped_are_stopped_in_steps() {
    let (mut large, job, machines) = crowd();
    large.ask(Command::StopJob { job, version: None });
    assert_eq!(large.in_state(AllocationState::Stopping), 100);
    // What ends meanwhile need not be stopped.
    large.ask(Command::RemoveMachine { machine: machines[19], unless_alive: false });
    assert_eq!(large.tick_all(), 9);
    assert_eq!(large.in_state(AllocationState::Stopping), 950);
}

#[test]
fn machines_that_are_lost_or_drained_together_stop_what_they_run_in_steps() {
    let (mut large, _, machines) = crowd();
    for &machine in &machines[..10] {
        large.ask(Command::ExpireMachine { machine, epoch: 1 });
    }
    let deadline = Some(large.now.plus_micros(60_000_000));
    for &machine in &machines[10..] {
        large.ask(Command::DrainMachine { machine, deadline });
    }
    large.now = large.now.plus_micros(60_000_000);
    assert_eq!(large.tick_all(), 10, "two machines each");
    assert_eq!((large.in_state(AllocationState::Lost), large.in_state(AllocationState::Stopping)), (500, 500));
}

/// A core whose commands stop a hundred tasks at most, with 250 on each of two machines. One machine may be given up a minute.
fn crowded_machines() -> (Large, [MachineId; 2]) {
    let mut large = Large::new(CoreOptions { stops_max: 100, ..CoreOptions::default() });
    let machines = ["m0", "m1"].map(|name| large.machine(name.into()));
    let job = large.job(GroupShape { count: 500, lost_after_micros: Some(60_000_000), ..GroupShape::default() });
    let on = |task: u32| machines[task as usize % 2].slot;
    assert_eq!(large.commit(vec![placement(job, 0..500, on, 0)]).granted(), 500);
    (large, machines)
}

// All that ran on one machine was lost or stopped with one command. With small segments and some ten thousands of tasks on it that did
// not fit the log, and the server ended, again and again.
#[test]
fn a_crowded_machine_is_drained_in_steps() {
    let (mut large, machines) = crowded_machines();
    let deadline = Some(large.now.plus_micros(60_000_000));
    for machine in machines {
        large.ask(Command::DrainMachine { machine, deadline });
    }
    large.now = large.now.plus_micros(60_000_000);
    assert_eq!(large.tick_all(), 6);
    assert_eq!(large.in_state(AllocationState::Stopping), 500);
    assert_eq!(large.core.next_due(), None);
}

#[test]
fn a_crowded_machine_is_lost_in_steps_and_given_up_once() {
    let (mut large, machines) = crowded_machines();
    for machine in machines {
        large.ask(Command::ExpireMachine { machine, epoch: 1 });
    }
    large.now = large.now.plus_micros(60_000_000);
    let mut ticks = 0;
    while large.core.next_due().is_some_and(|due| due <= large.now) {
        let before = large.in_state(AllocationState::Lost);
        large.ask(Command::Tick);
        assert!((1..=100).contains(&(large.in_state(AllocationState::Lost) - before)));
        ticks += 1;
    }
    assert_eq!((ticks, large.in_state(AllocationState::Lost)), (3, 250), "the other machine waits for its minute");
    assert!(large.core.held_back_since().is_some_and(|since| since <= large.now));
    assert_eq!(large.core.held_back().filter(|time| *time <= large.now).count(), 1, "and that can be seen");
    large.now = large.now.plus_micros(60_000_000);
    while large.core.next_due().is_some_and(|due| due <= large.now) {
        large.ask(Command::Tick);
    }
    assert_eq!((large.core.held_back_since(), large.core.held_back().count()), (None, 0));
    assert_eq!(large.in_state(AllocationState::Lost), 500);
    assert_eq!(large.core.next_due(), None);
}

// Each different time after which something of a machine is lost took another machine's turn, and waited for one.
#[test]
fn what_else_a_machine_ran_that_was_given_up_is_lost_without_another_turn() {
    for restarts in [false, true] {
        let mut large = Large::new(CoreOptions::default());
        let machines = ["m0", "m1"].map(|name| large.machine(name.into()));
        for (machine, seconds) in [(0, 60), (0, 70), (0, 80), (1, 60)] {
            let lost_after_micros = Some(seconds * 1_000_000);
            let job = large.job(GroupShape { count: 1, lost_after_micros, ..GroupShape::default() });
            assert_eq!(large.commit(vec![placement(job, 0..1, |_| machines[machine].slot, 0)]).granted(), 1);
        }
        for machine in machines {
            large.ask(Command::ExpireMachine { machine, epoch: 1 });
        }
        if restarts {
            large.now = large.now.plus_micros(60_000_000);
            large.tick_all();
            large.core = Core::from_cell(large.core.cell().clone(), large.core.options().clone());
            large.ask(Command::OpenServer(CellIdentity { incarnation: 1, term: 2, ..CellIdentity::default() }));
        }
        let (began, mut lost) = (large.now, Vec::new());
        while let Some(due) = large.core.next_due() {
            large.now = due;
            let before = large.in_state(AllocationState::Lost);
            large.ask(Command::Tick);
            let waiting = large.core.held_back().filter(|time| *time <= due).count();
            lost.push((
                (due.micros - began.micros) / 1_000_000,
                large.in_state(AllocationState::Lost) - before,
                waiting,
            ));
        }
        // After a restart the machine counts as given up just then, and all times begin anew.
        let expected: &[_] = if restarts {
            &[(60, 1, 0), (70, 1, 0), (80, 1, 0)]
        } else {
            &[(60, 1, 1), (70, 1, 1), (80, 1, 1), (120, 1, 0)]
        };
        assert_eq!(lost, expected);
    }
}

#[test]
fn a_crowded_machine_that_comes_back_meanwhile_keeps_the_rest() {
    let (mut large, machines) = crowded_machines();
    large.ask(Command::ExpireMachine { machine: machines[0], epoch: 1 });
    large.now = large.now.plus_micros(60_000_000);
    large.ask(Command::Tick);
    let found = large.core.cell().machine(machines[0]).expect("it is there").clone();
    large.ask(Command::RegisterMachine(FoundMachine {
        name: found.name.clone(),
        boot_id: found.boot_id.to_string().into(),
        capacity: *found.capacity,
        attributes: found.attributes.clone(),
        seen: large.core.cell().revision(),
        ..FoundMachine::default()
    }));
    assert_eq!(large.tick_all(), 0);
    assert_eq!(large.in_state(AllocationState::Lost), 100);
}

#[test]
fn a_machine_that_was_given_up_an_hour_ago_holds_nobody_back() {
    let (mut large, machines) = crowded_machines();
    let [one, other] = machines[..] else { panic!("two machines") };
    let lose = |large: &mut Large, machine| {
        large.ask(Command::ExpireMachine { machine, epoch: 1 });
        assert_eq!(large.core.held_back_since(), None);
        large.now = large.now.plus_micros(60_000_000);
        while large.core.next_due().is_some_and(|due| due <= large.now) {
            assert_eq!(large.core.held_back_since(), None);
            large.ask(Command::Tick);
        }
    };
    lose(&mut large, one);
    large.now = large.now.plus_micros(3_600_000_000);
    lose(&mut large, other);
    assert_eq!(large.in_state(AllocationState::Lost), 500);
}

// Each start forgot who had been given up: a server that crashed again and again while a network failed gave its whole cell up.
#[test]
fn a_server_that_starts_again_remembers_that_machines_were_given_up() {
    let (mut large, machines) = crowded_machines();
    for machine in machines {
        large.ask(Command::ExpireMachine { machine, epoch: 1 });
    }
    large.now = large.now.plus_micros(60_000_000);
    large.tick_all();
    assert_eq!(large.in_state(AllocationState::Lost), 250);
    for term in 2..5 {
        large.core = Core::from_cell(large.core.cell().clone(), large.core.options().clone());
        large.ask(Command::OpenServer(CellIdentity { incarnation: 1, term, ..CellIdentity::default() }));
        large.now = large.now.plus_micros(10_000_000);
        assert_eq!((large.tick_all(), large.in_state(AllocationState::Lost)), (0, 250), "the other one waits");
    }
    large.now = large.now.plus_micros(60_000_000);
    large.tick_all();
    assert_eq!(large.in_state(AllocationState::Lost), 500);
}

// What was lost in an earlier absence counted for the present one as long as its end was not told: with a start of the server meanwhile all that had been given up
// before was lost at once, however many machines were away.
#[test]
fn a_server_that_starts_again_gives_nobody_up_for_what_was_lost_in_an_earlier_absence() {
    let (mut large, machines) = crowded_machines();
    let away = |large: &mut Large, epoch| {
        for &machine in &machines {
            large.ask(Command::ExpireMachine { machine, epoch });
        }
    };
    away(&mut large, 1);
    for _ in 0..2 {
        large.now = large.now.plus_micros(60_000_000);
        large.tick_all();
    }
    assert_eq!(large.in_state(AllocationState::Lost), 500);
    for slot in [0, 1] {
        let found = large.core.cell().machine_in(slot).unwrap().clone();
        large.ask(Command::RegisterMachine(FoundMachine {
            name: found.name.clone(),
            boot_id: found.boot_id.to_string().into(),
            capacity: *found.capacity,
            attributes: found.attributes.clone(),
            seen: large.core.cell().revision(),
            ..FoundMachine::default()
        }));
    }
    let job = large.job(GroupShape { count: 2, lost_after_micros: Some(60_000_000), ..GroupShape::default() });
    large.commit(vec![placement(job, 0..2, |task| machines[task as usize].slot, 0)]);
    away(&mut large, 2);
    large.core = Core::from_cell(large.core.cell().clone(), large.core.options().clone());
    large.ask(Command::OpenServer(CellIdentity { incarnation: 1, term: 2, ..CellIdentity::default() }));
    for lost in [501, 502] {
        large.now = large.now.plus_micros(61_000_000);
        large.tick_all();
        assert_eq!(large.in_state(AllocationState::Lost), lost, "one a minute");
    }
}

// For each job that failed with a report, all that was reported was gone through: at these sizes hundreds of millions of moves.
#[test]
fn what_was_reported_is_gone_through_once_for_all_jobs_that_fail_with_it() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned());
    let tasks = large.job(GroupShape { count: 8000, ..GroupShape::default() });
    let retry = RetryPolicy { attempts: Some(0), delay_micros: 0 };
    let jobs: Vec<_> = (0..2000).map(|_| large.job(GroupShape { count: 2, retry, ..GroupShape::default() })).collect();
    let on = |_: u32| machine.slot;
    let running = large.commit(vec![placement(tasks, 0..8000, on, 0)]);
    let failing = large.commit(jobs.iter().map(|&job| placement(job, 0..2, on, 0)).collect());
    let transition = |allocation: Option<plenum_model::AllocationId>, state, restarts| Transition {
        exit_code: 1,
        restarts,
        ..Transition::new(machine, 1, allocation.expect("it was granted"), state)
    };
    let mut report: Vec<_> =
        running.placements[0].iter().map(|&id| transition(id, AllocationState::Running, 3)).collect();
    for ids in &failing.placements {
        report.push(transition(ids[1], AllocationState::Running, 5));
        report.push(transition(ids[0], AllocationState::Failed, 0));
    }
    large.ask(Command::ReportStatus(report));
    assert_eq!(large.in_state(AllocationState::Stopping), 2000);
    let mates = failing.placements.iter().filter_map(|ids| ids[1]);
    let restarts = |id: plenum_model::AllocationId| large.core.cell().extra(id.slot).map(|extra| extra.restarts);
    assert!(mates.map(restarts).all(|restarts| restarts == Some(5)), "restarts that came with the report count, too");
}

// With each end, what all others on its machine had in use was counted anew: what 8,000 tasks with ports left took half a minute.
#[test]
fn what_is_in_use_is_counted_for_those_who_come_and_go_alone() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m1".to_owned());
    let ports = vec![Port { name: "http".into(), number: 0 }];
    let job = large.job(GroupShape { count: 8000, ports, ..GroupShape::default() });
    let claims =
        |from: u32| (from..from + 2000).map(|task| placement(job, task..task + 1, |_| machine.slot, 0)).collect();
    let mut ids = Vec::new();
    for from in [0, 2000, 4000, 6000] {
        ids.extend(large.commit(claims(from)).placements.concat().into_iter().flatten());
    }
    let used =
        |large: &Large| large.core.cell().in_use(machine.slot).map(|used| (used.tenants.len(), used.ports.len()));
    assert_eq!(used(&large), Some((8000, 8000)));
    let end = |&allocation: &plenum_model::AllocationId| complete(machine, allocation);
    large.ask(Command::ReportStatus(ids[1..].iter().map(end).collect()));
    let port = large.core.cell().extra(ids[0].slot).map(|extra| extra.ports[0].number);
    let used = large.core.cell().in_use(machine.slot).expect("one is left");
    assert_eq!((&used.tenants[..], &used.ports[..]), (&[ids[0].slot][..], port.as_slice()));
    large.ask(Command::ReportStatus(ids[..1].iter().map(end).collect()));
    assert_eq!(large.core.cell().in_use(machine.slot), None);
}

// With each end, all who take over something on its machine were gone through, twice: that took these 32,000 more than eight minutes.
#[test]
fn who_takes_over_from_one_that_ends_is_found_without_all_who_take_over() {
    const COUNT: u32 = 32_000;
    const EACH: u32 = 4000;
    let mut large = Large::new(CoreOptions::default());
    let device = |index, millis| Device { kind: "gpu".into(), index, millis, model: "m".into() };
    let id = large.machine_with("m1".to_owned(), (0..COUNT / 1000).map(|index| device(index, 1000)).collect());
    let group = || GroupShape { count: COUNT, devices: vec![device(0, 1)], ..GroupShape::default() };
    let (low, high) = (large.job(group()), large.job_at(90, group()));
    let mut victims = Vec::new();
    for first in (0..COUNT).step_by(EACH as usize) {
        victims.extend(large.commit(vec![placement(low, first..first + EACH, |_| id.slot, 0)]).placements.concat());
    }
    large.ask(Command::StopJob { job: low, version: None });
    large.tick_all();
    assert_eq!(large.in_state(AllocationState::Stopping), COUNT as usize);
    let nothing = |victim| TakeOver { victim, amount: Resources::default(), devices: vec![], ports: vec![] };
    let named = victims
        .iter()
        .flatten()
        .map(|&victim| ClaimExtra { take_overs: vec![nothing(victim)], ..ClaimExtra::default() });
    let named: Vec<_> = named.collect();
    for (first, extras) in (0..COUNT).step_by(EACH as usize).zip(named.chunks(EACH as usize)) {
        let claims = Placement { extras: extras.to_vec(), ..placement(high, first..first + EACH, |_| id.slot, 0) };
        let outcome = large.commit(vec![claims]);
        assert_eq!(outcome.granted(), EACH as usize, "{:?}", outcome.refusals.first());
    }
    let heirs = |large: &Large| large.core.cell().in_use(id.slot).map_or(0, |used| used.heirs.len());
    assert_eq!(heirs(&large), COUNT as usize);
    let end = |&allocation: &plenum_model::AllocationId| complete(id, allocation);
    large.ask(Command::ReportStatus(victims.iter().flatten().map(end).collect()));
    assert_eq!((heirs(&large), large.in_state(AllocationState::Granted)), (0, COUNT as usize));
}

// With each unknown task that came or went, what all others on its machine had in use was counted anew: a machine that registered with
// all these, as after a restore, kept a release build busy for more than four minutes, and their receipts were counted like that, too.
fn registers_with(large: &mut Large, tasks: &[(u32, u64)]) -> Decision {
    let item = |&(slot, cpu_millis): &(u32, u64)| Inventory {
        allocation: AllocationId { slot, generation: 1 },
        state: AllocationState::Running,
        exit_code: 0,
        reason: "".into(),
        restarts: 0,
        task: Some(Arc::new(TaskTraces { resources: Resources::new(cpu_millis, 0), ..TaskTraces::default() })),
    };
    large.ask(Command::RegisterMachine(FoundMachine {
        name: "m".into(),
        boot_id: "boot".into(),
        capacity: Resources::new(1000, 1 << 30),
        inventory: tasks.iter().map(item).collect(),
        seen: large.core.cell().revision(),
        ..FoundMachine::default()
    }))
}

// What its agent says of it now was added up, and what it said first was taken: a machine's free cores went over the end of their number, and
// came back as cores that are not there.
#[test]
fn an_unknown_task_counts_with_what_was_taken_for_it_whatever_its_agent_says_later() {
    let mut large = Large::new(CoreOptions::default());
    let accepted = |decision: &Decision| matches!(decision, Decision::Accepted { .. });
    assert!(accepted(&registers_with(&mut large, &[(1, CPU_MILLIS_MAX)])));
    let more = registers_with(&mut large, &[(1, 0), (2, CPU_MILLIS_MAX)]);
    assert!(matches!(&more, Decision::Rejected(why) if why.code == RejectionCode::LimitReached), "{more:?}");
    assert!(accepted(&registers_with(&mut large, &[(1, 0), (2, 0)])));
    check_cell(large.core.cell()).unwrap();
}

#[test]
fn unknown_tasks_that_come_and_go_together_are_counted_together() {
    const COUNT: u32 = 4096;
    const EACH: u32 = 62;
    let mut large = Large::new(CoreOptions::default());
    let device = |index: u32, millis| Device { kind: "gpu".into(), index, millis, model: "m".into() };
    let found = |number: u32| {
        let ports = (0..EACH).map(|port| Port {
            name: format!("p{port}").into(),
            number: u16::try_from(1 + number + port * 7).expect("small"),
        });
        let devices = (0..EACH).map(|step| device((number + step) % 256, 1)).collect();
        let traces = TaskTraces { devices, ports: ports.collect(), ..TaskTraces::default() };
        Inventory {
            allocation: AllocationId { slot: number, generation: 1 },
            state: AllocationState::Running,
            exit_code: 0,
            reason: "".into(),
            restarts: 0,
            task: Some(Arc::new(traces)),
        }
    };
    let register = |inventory: Vec<Inventory>, seen| {
        Command::RegisterMachine(FoundMachine {
            name: "m1".into(),
            boot_id: "boot".into(),
            capacity: Resources::new(1_000_000, 1 << 40),
            devices: (0..256).map(|index| device(index, 1000)).collect(),
            inventory,
            seen,
            ..FoundMachine::default()
        })
    };
    let Decision::Accepted { id, .. } = large.ask(register((0..COUNT).map(found).collect(), Revision(0))) else {
        panic!("registering is accepted")
    };
    let machine = MachineId::from_bits(id).expect("an id");
    let used = large.core.cell().in_use(machine.slot).expect("they have some");
    assert_eq!((used.ports.len(), used.devices.iter().sum::<i64>()), (253_952, 253_952));
    let end = |slot| complete(machine, AllocationId { slot, generation: 1 });
    large.ask(Command::ReportStatus((1..COUNT).map(end).collect()));
    let used = large.core.cell().in_use(machine.slot).expect("one is left");
    assert_eq!((used.ports.len(), used.devices.iter().sum::<i64>()), (62, 62));
    large.ask(Command::ReportStatus(vec![end(0)]));
    assert_eq!(large.core.cell().in_use(machine.slot), None);
}

// With each claim that lacks a device, each device of each victim was looked for among all of the machine, to tell who is to blame: this
// one transaction took more than 19 seconds in a release build.
#[test]
fn claims_that_lack_the_same_device_are_told_so_at_the_cost_of_one() {
    let mut large = Large::new(CoreOptions::default());
    let device = |index: u32, millis, model: &str| Device { kind: "gpu".into(), index, millis, model: model.into() };
    let id = large.machine_with("m1".to_owned(), (0..256).map(|index| device(index, 1000, "m")).collect());
    let low = large.job(GroupShape { count: 64, devices: vec![device(0, 62, "m"); 64], ..GroupShape::default() });
    // The last ones of the machine first.
    let of_victim = |victim: u32| (0..64).map(move |step| device((victim + 1) % 4 * 64 + 63 - step, 62, "m")).collect();
    let extras = (0..64).map(|victim| ClaimExtra { devices: of_victim(victim), ..ClaimExtra::default() }).collect();
    let outcome = large.commit(vec![Placement { extras, ..placement(low, 0..64, |_| id.slot, 0) }]);
    let victims = outcome.placements.concat().into_iter().flatten();
    let preemptions: Vec<_> = victims.map(|victim| Preemption { machine: id.slot, victim }).collect();
    assert_eq!(preemptions.len(), 64);
    let mut devices = vec![device(0, 1, "m"); 63];
    devices.push(device(0, 1, "another"));
    let high = large.job_at(90, GroupShape { count: 16_384, devices, ..GroupShape::default() });
    let claims = Placement { preemptions, ..placement(high, 0..16_384, |_| id.slot, 0) };
    let outcome = large.commit(vec![claims]);
    assert!(outcome.refusals.iter().all(|refusal| refusal.reason == RefusalReason::DeviceTaken));
    assert_eq!(outcome.refusals.len(), 16_384);
}

// Who takes over from whom stood in one list for each machine, into which each pair was put by itself, and with each victim that ended all
// its heirs' entries were copied: these few requests took 26 seconds in a release build.
#[test]
fn many_who_take_over_from_the_same_ones_cost_what_they_name() {
    const HEIRS: u32 = 15_360;
    const EACH: u32 = 1024;
    let mut large = Large::new(CoreOptions::default());
    let id = large.machine("m1".to_owned());
    let group =
        |count, cpu: u32| GroupShape { count, resources: Resources::new(cpu.into(), 1), ..GroupShape::default() };
    // They fill it.
    let (low, rest) = (large.job_at(0, group(64, HEIRS)), large.job_at(0, group(1, 1_000_000 - 64 * HEIRS)));
    let on = |_: u32| id.slot;
    let victims = large.commit(vec![placement(low, 0..64, on, 0), placement(rest, 0..1, on, 0)]).placements;
    large.ask(Command::StopJob { job: low, version: None });
    let a_part = |&victim: &AllocationId| TakeOver {
        victim,
        amount: Resources::new(1, 0),
        devices: Vec::new(),
        ports: Vec::new(),
    };
    let take_overs: Vec<_> = victims[0].iter().flatten().map(a_part).collect();
    let high = large.job_at(90, group(HEIRS, 64));
    for first in (0..HEIRS).step_by(EACH as usize) {
        let extras = vec![ClaimExtra { take_overs: take_overs.clone(), ..ClaimExtra::default() }; EACH as usize];
        let outcome = large.commit(vec![Placement { extras, ..placement(high, first..first + EACH, on, 0) }]);
        assert_eq!(outcome.granted(), EACH as usize, "{:?}", outcome.refusals.first());
    }
    let heirs = |large: &Large| large.core.cell().in_use(id.slot).map_or(0, |used| used.heirs.len());
    assert_eq!(heirs(&large), HEIRS as usize);
    let end = |take_over: &TakeOver| complete(id, take_over.victim);
    large.ask(Command::ReportStatus(take_overs.iter().map(end).collect()));
    assert_eq!((heirs(&large), large.in_state(AllocationState::Granted)), (0, HEIRS as usize + 1));
}

// All constraints of all groups were judged anew for each machine that is held: each of these requests took more than a second and a half
// in a release build.
#[test]
fn what_a_job_is_constrained_by_is_judged_once_for_all_machines_alike() {
    let mut large = Large::new(CoreOptions::default());
    let machines: Vec<_> = (0..16_384).map(|number| large.machine(format!("m{number}")).slot).collect();
    let is_in =
        |rack: &str| Constraint { attribute: "rack".into(), operator: Operator::Equal, values: vec![rack.into()] };
    // No machine is for any group but the last.
    let group = |number: usize| GroupShape {
        name: format!("g{number}").into(),
        count: 1,
        resources: Resources::new(1, 1),
        constraints: (0..63).map(|_| is_in("r1")).chain([is_in(if number == 63 { "r1" } else { "r2" })]).collect(),
        ..GroupShape::default()
    };
    let shape = JobShape {
        namespace: "default".into(),
        name: "job".into(),
        scheduler: "batch".into(),
        groups: (0..64).map(group).collect(),
        ..JobShape::default()
    };
    let command = Command::submit(shape);
    let Decision::Accepted { id, .. } = large.ask(command) else { panic!("submitting is accepted") };
    let job = JobId::from_bits(id).expect("an id");
    for seconds in 1..9 {
        let deadline = large.now.plus_micros(seconds * 1_000_000);
        large.hold(job, &machines, Resources::new(1, 1), deadline);
    }
    assert_eq!(large.core.cell().hold(job).map(|hold| hold.machines.len()), Some(machines.len()));
}
