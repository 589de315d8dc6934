//! Refusals for what does not stand in the way.

use plenum_model::{Constraint, FoundMachine, JobState, Operator, Spread, TaskState};

use super::*;

/// Whether a refusal of the first claim is believed, of a transaction with these tasks on the stage's machine.
fn is_believed(stage: &Stage, tasks: &[u32], refusal: &Refusal) -> bool {
    let cell = stage.core.cell();
    let machines = vec![refusal.machine; tasks.len()];
    let placement =
        Placement { job: stage.job, job_version: 1, machines, tasks: tasks.to_vec(), ..Placement::default() };
    let txn = Transaction { base: cell.revision(), placements: vec![placement], ..Transaction::default() };
    let outcome = Outcome { refusals: vec![refusal.clone()], ..super::refused(&txn, cell) };
    let check = |step: &Step<'_>| reasons::invariant_what_refuses_a_claim_is_there(step, &txn, &outcome, refusal);
    stage.judged(cell, cell, &next(cell), check).is_ok()
}

// That culprits had taken some of it since the base was enough: whether anything was lacking by then nobody asked.
#[test]
fn room_that_is_blamed_though_it_is_there_or_for_too_much_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let no_room = |stage: &Stage, resource: Resource, short_by: u64| Refusal {
        short: Some((resource, short_by)),
        ..conflict(stage, RefusalReason::NoRoom, &[])
    };
    let cpu = Resource::CpuMillis;
    assert!(!is_believed(&stage, &[0], &no_room(&stage, cpu, 1)), "all of it is free");
    let shape = JobShape::clone(&stage.core.cell().job(stage.job).expect("it is there").shape);
    let shape = Arc::new(JobShape { name: "other".into(), ..shape });
    let other = stage.ask(Command::submit(shape));
    let hold = |stage: &mut Stage, millis: u64| {
        let (resources, deadline) = (Resources::new(millis, 1), LogTime::from_micros(60_000_000));
        let (job, machines) = (JobId::from_bits(other).expect("an id"), vec![stage.machine.slot]);
        stage.ask(Command::TakeHold { session: SessionId::default(), job, machines, resources, deadline });
    };
    hold(&mut stage, 8000);
    // Each task needs one.
    assert!(is_believed(&stage, &[0], &no_room(&stage, cpu, 1)));
    assert!(!is_believed(&stage, &[0], &no_room(&stage, cpu, 2)), "it is short by one");
    assert!(!is_believed(&stage, &[0], &no_room(&stage, cpu, 0)), "it is short of nothing");
    assert!(!is_believed(&stage, &[0], &no_room(&stage, Resource::DiskBytes, 1)), "it needs none of that");
    hold(&mut stage, 7999);
    let second = |short_by| Refusal { claim: Some((0, 1)), task: 1, ..no_room(&stage, cpu, short_by) };
    assert!(!is_believed(&stage, &[0, 1], &no_room(&stage, cpu, 1)), "there is room for the first");
    assert!(is_believed(&stage, &[0, 1], &second(1)), "the first has taken that");
    assert!(!is_believed(&stage, &[0, 1], &second(2)));
}

// Only what came between was looked for.
#[test]
fn what_is_blamed_though_it_is_over_is_found() {
    let values = vec!["r9".into()];
    let constraint = Constraint { attribute: "rack".into(), operator: Operator::NotEqual, values };
    let mut stage = Stage::new(GroupShape { constraints: vec![constraint], ..GroupShape::default() });
    let refused = |stage: &Stage, reason| conflict(stage, reason, &[]);
    let nowhere =
        |stage: &Stage| Refusal { machine: stage.machine.slot + 1, ..refused(stage, RefusalReason::NoSuchMachine) };
    assert!(is_believed(&stage, &[0], &refused(&stage, RefusalReason::Constraint)), "it has no rack");
    let seen = stage.core.cell().revision();
    let rack = [("rack".into(), "r8".into())].into();
    stage.ask(Command::RegisterMachine(FoundMachine {
        name: "m1".into(),
        boot_id: "boot".into(),
        capacity: Resources::new(8000, 1 << 30),
        attributes: Arc::new(rack),
        seen,
        ..FoundMachine::default()
    }));
    for reason in [
        RefusalReason::NoSuchMachine,
        RefusalReason::MachineNotReady,
        RefusalReason::TaskTaken,
        RefusalReason::Constraint,
    ] {
        assert!(!is_believed(&stage, &[0], &refused(&stage, reason)), "{reason:?}");
    }
    assert!(is_believed(&stage, &[0], &nowhere(&stage)));
    let twice = Refusal { claim: Some((0, 1)), ..refused(&stage, RefusalReason::TaskTaken) };
    assert!(is_believed(&stage, &[0, 0], &twice), "the first may have got it");
    stage.place();
    assert!(is_believed(&stage, &[0], &refused(&stage, RefusalReason::TaskTaken)));
    let machine = stage.machine;
    stage.ask(Command::CordonMachine { machine, cordoned: true });
    assert!(is_believed(&stage, &[0], &refused(&stage, RefusalReason::MachineNotReady)));
}

// Any of these was believed of any claim.
#[test]
fn what_is_said_of_a_claim_s_job_its_task_or_its_limits_and_is_not_so_is_found() {
    let stage = Stage::new(GroupShape::default());
    for reason in [
        RefusalReason::NoSuchJob,
        RefusalReason::JobVersion,
        RefusalReason::OtherScheduler,
        RefusalReason::ResourcesDiffer,
        RefusalReason::OtherMachine,
        RefusalReason::MachineChanged,
        RefusalReason::Predecessor,
        RefusalReason::PerMachineLimit,
        RefusalReason::SpreadLimit,
        RefusalReason::NotWanted,
    ] {
        assert!(!is_believed(&stage, &[0], &conflict(&stage, reason, &[])), "{reason:?}");
    }
    let unwanted = |stage: &Stage, task: u32, why: NotWanted| {
        let plain = conflict(stage, RefusalReason::NotWanted, &[]);
        is_believed(stage, &[task], &Refusal { task, not_wanted: Some(why), ..plain })
    };
    for why in [
        NotWanted::JobOver(JobState::Stopped),
        NotWanted::After(0),
        NotWanted::Backoff(LogTime::default()),
        NotWanted::Task(TaskState::Done),
        NotWanted::NoSuchTask,
        NotWanted::NoSuchGroup,
        NotWanted::Recurring,
    ] {
        assert!(!unwanted(&stage, 0, why), "{why:?}");
    }
    assert!(unwanted(&stage, 1, NotWanted::NoSuchTask), "it has one task");
    let limited = Stage::new(GroupShape { count: 2, per_machine: 1, ..GroupShape::default() });
    let limit = conflict(&limited, RefusalReason::PerMachineLimit, &[]);
    assert!(!is_believed(&limited, &[0, 1], &limit), "nobody is there");
    let second = Refusal { claim: Some((0, 1)), task: 1, ..limit };
    assert!(is_believed(&limited, &[0, 1], &second), "the first one may have come");
    let spread = vec![Spread { attribute: "rack".into(), at_most: 1 }];
    let spread = Stage::new(GroupShape { spread, ..GroupShape::default() });
    assert!(is_believed(&spread, &[0], &conflict(&spread, RefusalReason::SpreadLimit, &[])), "it has no rack");
}

// What a later version of a job needs was held against what an earlier one had needed.
#[test]
fn room_at_the_base_says_nothing_of_another_version() {
    let stage = Stage::new(GroupShape::default());
    let (cell, job) = (stage.core.cell(), stage.job);
    let short = Some((Resource::CpuMillis, 1));
    let plain = conflict(&stage, RefusalReason::NoRoom, &[]);
    let misfit = Refusal { kind: RefusalKind::Misfit, short, ..plain };
    let judged = |job_version: u32| {
        let (machines, tasks) = (vec![stage.machine.slot], vec![0]);
        let placements = vec![Placement { job, job_version, machines, tasks, ..Placement::default() }];
        let txn = Transaction { base: cell.revision(), placements, ..Transaction::default() };
        culprits::invariant_conflict_fitted_at_the_base_and_misfit_did_not(cell, cell, &txn, &misfit)
    };
    assert!(judged(1).is_err(), "it fitted");
    assert_eq!(judged(2), Ok(()));
}

// Whether the port or the device was taken at all nobody asked, only who had taken it.
#[test]
fn a_port_or_a_device_that_is_blamed_though_it_is_free_is_found() {
    let gpu = |millis: u32| Device { kind: "gpu".into(), index: 0, millis, model: "".into() };
    let http = Port { name: "http".into(), number: 8080 };
    let mut stage = Stage::new(GroupShape { devices: vec![gpu(600)], ports: vec![http], ..GroupShape::default() });
    stage.register_with("m1", &[gpu(1000)]);
    let port =
        |stage: &Stage, port: u16| Refusal { port: Some(port), ..conflict(stage, RefusalReason::PortTaken, &[]) };
    let device = |stage: &Stage, kind: &str| Refusal {
        short_device: Some((kind.into(), 200)),
        ..conflict(stage, RefusalReason::DeviceTaken, &[])
    };
    assert!(!is_believed(&stage, &[0], &port(&stage, 8080)), "nobody has it");
    assert!(!is_believed(&stage, &[0], &device(&stage, "gpu")), "nobody has it");
    let second = |refusal: Refusal| Refusal { claim: Some((0, 1)), task: 1, ..refusal };
    assert!(is_believed(&stage, &[0, 1], &second(port(&stage, 8080))), "the first may have got it");
    assert!(is_believed(&stage, &[0, 1], &second(device(&stage, "gpu"))), "the first may have got it");
    stage.place();
    assert!(is_believed(&stage, &[0], &port(&stage, 8080)));
    assert!(is_believed(&stage, &[0], &device(&stage, "gpu")));
    assert!(!is_believed(&stage, &[0], &device(&stage, "fpga")), "it asks for none");
    for other in [0, 8081] {
        assert!(!is_believed(&stage, &[0], &port(&stage, other)), "it asks for no port {other}");
    }
}
