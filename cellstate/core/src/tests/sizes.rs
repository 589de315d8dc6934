//! What one command changes is bounded: by steps, by refusing it as it is decided, and by the rows that tables may have.

use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationState, Command, Decision, FoundMachine, GroupShape, Inventory, JobId, JobKind, JobShape,
    JobState, LogTime, MachineId, Port, Rejection, RejectionCode, Request, Resources, TaskState, TaskTraces,
    Transition,
};

use super::costs::{Large, complete, placement};
use crate::{Core, CoreOptions, Decided};

fn request(command: Command) -> Request {
    Request { principal: "local".into(), namespace: "default".into(), command }
}

pub(super) fn submit(name: &str, shape: JobShape, groups: &[u32]) -> Command {
    let group = |(number, &count): (usize, &u32)| GroupShape {
        name: format!("g{number}").into(),
        count,
        resources: Resources::new(1, 1),
        lost_after_micros: Some(60_000_000),
        ..GroupShape::default()
    };
    let shape = JobShape {
        namespace: "default".into(),
        name: name.into(),
        scheduler: "batch".into(),
        groups: groups.iter().enumerate().map(group).collect(),
        ..shape
    };
    Command::submit(shape)
}

impl Large {
    pub(super) fn submit(&mut self, command: Command) -> JobId {
        let Decision::Accepted { id, .. } = self.ask(command) else { panic!("submitting is accepted") };
        JobId::from_bits(id).expect("an id")
    }

    pub(super) fn refused(&mut self, command: Command) -> Rejection {
        let Decision::Rejected(rejection) = self.ask(command) else { panic!("it is refused") };
        assert_eq!(rejection.code, RejectionCode::LimitReached, "{}", rejection.message);
        rejection
    }

    /// Tasks of a job's only group that stand so.
    fn tasks_in(&self, job: JobId, state: TaskState) -> u32 {
        let job = self.core.cell().job(job).expect("it is there");
        self.core.cell().groups().get(job.group_base).expect("its group").tasks_in(state)
    }

    fn home(&self, job: JobId) -> Option<u32> {
        self.core.cell().job(job).expect("it is there").home
    }

    /// A machine booted, and its agent tells what it found.
    fn boot(&mut self, machine: MachineId, inventory: Vec<Inventory>) {
        let before = self.core.cell().machine(machine).expect("it is there").clone();
        self.ask(Command::RegisterMachine(FoundMachine {
            name: before.name.clone(),
            boot_id: "another".into(),
            capacity: *before.capacity,
            attributes: before.attributes.clone(),
            devices: before.devices.to_vec(),
            inventory,
            seen: self.core.cell().revision(),
        }));
    }
}

/// A core whose commands stop ten tasks at most, so that ticks let at most 640 done ones wait again; and two jobs, each of which has
/// 900 done and four running tasks, and others that wait, on a machine that they share.
fn homes() -> (Large, [JobId; 2], MachineId) {
    let mut large = Large::new(CoreOptions { stops_max: 10, ..CoreOptions::default() });
    let machine = large.machine("m0".to_owned());
    large.machine("m1".to_owned());
    let shared = || JobShape { same_machine: true, ..JobShape::default() };
    let jobs = ["one", "other"].map(|name| large.submit(submit(name, shared(), &[1000])));
    for job in jobs {
        assert_eq!(large.commit(vec![placement(job, 0..904, |_| machine.slot, 0)]).granted(), 904);
        let done = large.core.cell().allocations().filter(|found| found.row.job() == job && found.row.task < 900);
        let done = done.map(|found| Transition::new(machine, found.row.epoch, found.id, AllocationState::Complete));
        let done = done.collect();
        large.ask(Command::ReportStatus(done));
        assert_eq!((large.tasks_in(job, TaskState::Done), large.home(job)), (900, Some(machine.slot)));
    }
    (large, jobs, machine)
}

/// Both start over, in steps, and neither leaves its machine before all that it did there counts as undone.
fn start_over_in_steps(mut large: Large, jobs: [JobId; 2], is_recovered: bool) {
    large.now = large.now.plus_micros(60_000_000);
    let mut ticks = 0;
    while large.core.next_due().is_some_and(|due| due <= large.now) {
        let before = jobs.map(|job| large.tasks_in(job, TaskState::Done));
        if is_recovered {
            large.core = Core::from_cell(large.core.cell().clone(), large.core.options().clone());
        }
        large.ask(Command::Tick);
        let after = jobs.map(|job| large.tasks_in(job, TaskState::Done));
        assert!(before.iter().sum::<u32>() - after.iter().sum::<u32>() <= 640, "{before:?} to {after:?}");
        for (job, done) in jobs.into_iter().zip(after) {
            assert_eq!(large.home(job).is_none(), done == 0, "{done} are done");
        }
        ticks += 1;
    }
    assert_eq!(ticks, 3);
    assert_eq!(jobs.map(|job| (large.tasks_in(job, TaskState::Waiting), large.home(job))), [(1000, None); 2]);
}

// All done tasks of a job that lost its machine were named by one tick. With some three millions of them that did not fit the log, and
// the server ended, again at each start.
#[test]
fn jobs_whose_shared_machine_is_drained_start_over_in_steps() {
    let (mut large, jobs, machine) = homes();
    let deadline = Some(large.now.plus_micros(60_000_000));
    large.ask(Command::DrainMachine { machine, deadline });
    start_over_in_steps(large, jobs, true);
}

#[test]
fn jobs_whose_shared_machine_is_lost_start_over_in_steps() {
    let (mut large, jobs, machine) = homes();
    large.ask(Command::ExpireMachine { machine, epoch: 1 });
    start_over_in_steps(large, jobs, false);
}

// The first step took the machine away from the job: what was lost with it was placed elsewhere, and the rest was there again when the
// machine came back.
#[test]
fn a_job_of_which_a_part_is_lost_keeps_the_machine_that_its_tasks_share() {
    let mut large = Large::new(CoreOptions { stops_max: 10, ..CoreOptions::default() });
    let [home, other] = ["m0", "m1"].map(|name| large.machine(name.to_owned()));
    let job = large.submit(submit("one", JobShape { same_machine: true, ..JobShape::default() }, &[25]));
    assert_eq!(large.commit(vec![placement(job, 0..25, |_| home.slot, 0)]).granted(), 25);
    large.ask(Command::ExpireMachine { machine: home, epoch: 1 });
    large.now = large.now.plus_micros(60_000_000);
    large.ask(Command::Tick);
    assert_eq!((large.tasks_in(job, TaskState::Waiting), large.home(job)), (10, Some(home.slot)));
    large.machine("m0".to_owned());
    assert_eq!(large.commit(vec![placement(job, 0..10, |_| other.slot, 0)]).granted(), 0);
    assert_eq!(large.commit(vec![placement(job, 0..10, |_| home.slot, 0)]).granted(), 10);
    large.ask(Command::ExpireMachine {
        machine: home,
        epoch: large.core.cell().machine(home).expect("it is there").epoch,
    });
    large.now = large.now.plus_micros(60_000_000);
    // A server that starts between two of these lets the rest wait for a turn: what is lost first was granted before the machine was last away.
    (0..3).for_each(|_| drop(large.ask(Command::Tick)));
    assert_eq!(large.core.next_due(), None);
    assert_eq!((large.tasks_in(job, TaskState::Waiting), large.home(job)), (25, None));
}

// One report of both gave the machine up, and two reports of one each kept it: where what failed was tried again was up to how its agent
// sends reports.
#[test]
fn a_failure_that_comes_last_keeps_the_machine_also_in_one_report_with_an_end_that_was_asked_for() {
    let plays = |failed_first: bool, reports: usize| {
        let mut large = Large::new(CoreOptions::default());
        let machine = large.machine("m0".to_owned());
        let job = large.submit(submit("one", JobShape { same_machine: true, ..JobShape::default() }, &[2]));
        let ids = large.commit(vec![placement(job, 0..2, |_| machine.slot, 0)]).placements.concat();
        let [stopped, failed] = [0, 1].map(|task: usize| ids[task].expect("it was granted"));
        large.ask(Command::StopAllocation(stopped));
        let end = |allocation, state| Transition { state, ..complete(machine, allocation) };
        let mut ends = [end(stopped, AllocationState::Stopped), end(failed, AllocationState::Failed)];
        if failed_first {
            ends.reverse();
        }
        for told in ends.chunks(2 / reports) {
            large.ask(Command::ReportStatus(told.to_vec()));
        }
        assert_eq!(large.tasks_in(job, TaskState::Waiting), 2);
        large.home(job) == Some(machine.slot)
    };
    for reports in [1, 2] {
        assert!(plays(false, reports), "{reports} reports");
        assert!(!plays(true, reports), "{reports} reports, of which an end that was asked for is the last");
    }
}

// An agent that could not read what it had written down of the last task said that it was lost. All that was done on that machine, which was
// there, ran again; and with more of it than the log has room for, the cell took no word of that task for ever.
#[test]
fn a_task_that_is_lost_alone_takes_no_machine_from_its_job() {
    let mut large = Large::new(CoreOptions::default());
    let [machine, other] = ["m0", "m1"].map(|name| large.machine(name.to_owned()));
    let job = large.submit(submit("one", JobShape { same_machine: true, ..JobShape::default() }, &[2]));
    let place = |large: &mut Large, tasks: std::ops::Range<u32>, slot: u32| {
        large.commit(vec![placement(job, tasks, |_| slot, 0)]).placements.concat()
    };
    let ids = place(&mut large, 0..2, machine.slot);
    let [done, lost] = [0, 1].map(|task: usize| ids[task].expect("it was granted"));
    large.ask(Command::ReportStatus(vec![complete(machine, done)]));
    let lost = Transition { state: AllocationState::EndedLost, ..complete(machine, lost) };
    large.ask(Command::ReportStatus(vec![lost]));
    assert_eq!([TaskState::Done, TaskState::Waiting].map(|state| large.tasks_in(job, state)), [1, 1]);
    assert_eq!(large.home(job), Some(machine.slot));
    assert_eq!(place(&mut large, 1..2, other.slot), [None], "what it needs of the other one is not there");
    let again = place(&mut large, 1..2, machine.slot)[0].expect("it is granted where the other one was done");
    large.ask(Command::ReportStatus(vec![complete(machine, again)]));
    assert_eq!(large.core.cell().job(job).expect("it is there").state, JobState::Complete);
}

#[test]
fn a_job_of_which_nothing_is_done_may_go_elsewhere_when_the_last_that_runs_of_it_is_lost_alone() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m0".to_owned());
    let job = large.submit(submit("one", JobShape { same_machine: true, ..JobShape::default() }, &[2]));
    let ids = large.commit(vec![placement(job, 0..2, |_| machine.slot, 0)]).placements.concat();
    for (id, home) in ids.into_iter().zip([Some(machine.slot), None]) {
        let lost = complete(machine, id.expect("it was granted"));
        large.ask(Command::ReportStatus(vec![Transition { state: AllocationState::EndedLost, ..lost }]));
        assert_eq!(large.home(job), home);
    }
    assert_eq!(large.tasks_in(job, TaskState::Waiting), 2);
}

// What its job did there was undone with the machine, and the failure with it: told with the registration it was none, and a task that
// fails at each boot was tried for ever.
#[test]
fn a_failure_that_is_told_with_a_registration_counts_also_where_a_mate_was_lost_with_the_boot() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m0".to_owned());
    let job = large.submit(submit("one", JobShape { same_machine: true, ..JobShape::default() }, &[4]));
    let ids = large.commit(vec![placement(job, 0..4, |_| machine.slot, 0)]).placements.concat();
    let [done, told_done, failed] = [0, 1, 2].map(|task: usize| ids[task].expect("it was granted"));
    large.ask(Command::ReportStatus(vec![complete(machine, done)]));
    let item =
        |allocation, state| Inventory { allocation, state, exit_code: 1, reason: "".into(), restarts: 0, task: None };
    let inventory = vec![item(told_done, AllocationState::Complete), item(failed, AllocationState::Failed)];
    large.boot(machine, inventory);
    assert_eq!((large.tasks_in(job, TaskState::Waiting), large.home(job)), (4, None));
    let cell = large.core.cell();
    let group = cell.groups().get(cell.job(job).expect("it is there").group_base).expect("its group");
    let failures: Vec<_> = (0..4).map(|task| cell.task(group, task).expect("it is there").failures).collect();
    assert_eq!(failures, [0, 0, 1, 0]);
}

// Whichever of them had the later row decided, and rows are given out anyhow.
#[test]
fn a_failure_that_is_told_with_a_registration_keeps_the_machine_whichever_row_it_has() {
    let plays = |failed: Option<usize>| {
        let mut large = Large::new(CoreOptions::default());
        let machine = large.machine("m0".to_owned());
        let job = large.submit(submit("one", JobShape { same_machine: true, ..JobShape::default() }, &[3]));
        let ids = large.commit(vec![placement(job, 0..3, |_| machine.slot, 0)]).placements.concat();
        let ids = [0, 1, 2].map(|task: usize| ids[task].expect("it was granted"));
        assert!(ids.is_sorted_by_key(|id| id.slot));
        let stopped = (0..3).filter(|&task| Some(task) != failed).map(|task| ids[task]);
        stopped.for_each(|id| drop(large.ask(Command::StopAllocation(id))));
        let item = |allocation| {
            let (state, reason) = (AllocationState::Failed, "".into());
            Inventory { allocation, state, exit_code: 1, reason, restarts: 0, task: None }
        };
        large.boot(machine, failed.map(|task| item(ids[task])).into_iter().collect());
        assert_eq!(large.tasks_in(job, TaskState::Waiting), 3);
        large.home(job) == Some(machine.slot)
    };
    assert!(!plays(None), "all were told to end");
    (0..3).for_each(|task| assert!(plays(Some(task)), "task {task} failed"));
}

#[test]
fn many_jobs_that_run_nothing_leave_a_drained_machine_in_steps() {
    let mut large = Large::new(CoreOptions { stops_max: 1, ..CoreOptions::default() });
    let machine = large.machine("m0".to_owned());
    let shared = || JobShape { same_machine: true, ..JobShape::default() };
    let jobs: Vec<_> = (0..20).map(|number| large.submit(submit(&format!("j{number}"), shared(), &[2]))).collect();
    for &job in &jobs {
        large.commit(vec![placement(job, 0..1, |_| machine.slot, 0)]);
    }
    let found: Vec<_> = large.core.cell().allocations().map(|found| found.id).collect();
    for allocation in found {
        let (state, reason) = (AllocationState::Complete, "".into());
        let done = Transition { reason, ..Transition::new(machine, 1, allocation, state) };
        large.ask(Command::ReportStatus(vec![done]));
    }
    let deadline = Some(large.now.plus_micros(60_000_000));
    large.ask(Command::DrainMachine { machine, deadline });
    large.now = large.now.plus_micros(60_000_000);
    assert_eq!(large.tick_all(), 7, "of 64 that one tick has for them, a home with one done task takes 17");
    assert!(jobs.iter().all(|&job| large.home(job).is_none()));
}

/// A machine on which 20 tasks run that the cell does not know, each as large as all that one tick tells to stop.
fn with_large_unknown_tasks() -> (Large, MachineId) {
    let mut large = Large::new(CoreOptions { stops_max: 10, ..CoreOptions::default() });
    let machine = large.machine("m0".to_owned());
    // What it does not know and gave out itself it would tell to stop at once.
    large.restore();
    let item = |task: u16| {
        let port = |port: u16| Port { name: format!("{port:060}").into(), number: 1 + 64 * task + port };
        let ports = (0..64).map(port).collect();
        Inventory {
            allocation: AllocationId { slot: task.into(), generation: 1 },
            state: AllocationState::Running,
            exit_code: 0,
            reason: "".into(),
            restarts: 0,
            task: Some(Arc::new(TaskTraces { task: task.into(), ports, ..TaskTraces::default() })),
        }
    };
    large.boot(machine, (0..20).map(item).collect());
    let unknown = large.core.cell().unknown_tasks();
    assert_eq!(unknown.filter(|(_, task)| !task.stopping).count(), 20);
    (large, machine)
}

#[test]
fn large_unknown_tasks_are_told_to_stop_in_steps() {
    let (mut large, _) = with_large_unknown_tasks();
    large.now = large.now.plus_micros(large.core.options().unknown_micros);
    assert_eq!(large.tick_all(), 20);
    assert!(large.core.cell().unknown_tasks().all(|(_, task)| task.stopping));
}

#[test]
fn large_unknown_tasks_of_a_drained_machine_are_told_to_stop_in_steps() {
    let (mut large, machine) = with_large_unknown_tasks();
    let deadline = Some(large.now.plus_micros(60_000_000));
    large.ask(Command::DrainMachine { machine, deadline });
    large.now = large.now.plus_micros(60_000_000);
    assert_eq!(large.tick_all(), 20);
    assert!(large.core.cell().unknown_tasks().all(|(_, task)| task.stopping));
}

#[test]
fn so_many_schedulers_are_singled_out_and_no_more() {
    let mut large = Large::new(CoreOptions::default());
    let rights = |number: usize, evicts, priority| {
        let scheduler = format!("s{number}").into();
        Command::SetRights { scheduler, evicts: Some(evicts), priority: Some(priority) }
    };
    let pause = |number: usize, paused| Command::PauseScheduler { scheduler: format!("s{number}").into(), paused };
    for number in 0..4096 {
        large.ask(rights(number, number % 2 == 0, 2));
        large.ask(pause(number, true));
    }
    let full = large.core.cell().clone();
    let told = large.refused(rights(4096, false, 1)).message;
    assert!(told.contains("at most 4096 schedulers can be granted something unusual at once"), "{told}");
    assert!(large.refused(pause(4096, true)).message.contains("at most 4096 schedulers can be paused at once"));
    assert_eq!(large.core.cell().first_difference(&full), None);
    // Who has the usual rights is not counted, and who is counted already may have others.
    large.ask(rights(4096, true, 1));
    large.ask(pause(4096, false));
    large.ask(rights(7, true, 100));
    assert_eq!(large.core.cell().rights_of("s7").priority, 100);
    large.ask(rights(8, true, 1));
    large.ask(pause(8, false));
    assert!(matches!(large.ask(rights(4096, false, 1)), Decision::Accepted { .. }));
    assert!(matches!(large.ask(pause(4096, true)), Decision::Accepted { .. }));
    assert_eq!((large.core.cell().rights().len(), large.core.cell().paused().count()), (4096, 4096));
}

// Tasks were counted, and each group takes rows for the next power of two: whoever read the delta back refused it, the next start of the
// server above all.
#[test]
fn a_job_is_refused_whose_tasks_would_need_more_rows_than_there_may_be() {
    let mut large = Large::new(CoreOptions { tasks_max: 1024, ..CoreOptions::default() });
    let job = |name: &str, groups: &[u32]| submit(name, JobShape::default(), groups);
    let refused = large.refused(job("a", &[300, 300, 300]));
    assert!(refused.message.contains("at most 1024 rows"), "{}", refused.message);
    let first = large.submit(job("b", &[300, 300]));
    assert_eq!(large.core.mark().task_rows, 1024);
    large.refused(job("c", &[1]));
    large.refused(Command::ScaleJob { job: first, version: None, group: 0, count: 513 });
    large.refused(job("b", &[300, 513]));
    large.ask(Command::ScaleJob { job: first, version: None, group: 0, count: 512 });
    large.ask(Command::ScaleJob { job: first, version: None, group: 1, count: 256 });
    large.submit(job("d", &[256]));
    assert_eq!(large.core.mark().task_rows, 1024);
}

/// Decides it where it is accepted, and where it was rejected before: both must come to the same.
fn decide_twice(once: &mut Core, again: &mut Core, command: Command) -> Decision {
    let (request, now) = (request(command), LogTime::from_micros(1));
    let before = again.cell().clone();
    let no = |_: &Decision, _: &_| Err(Rejection::new(RejectionCode::LimitReached, "no".to_owned()));
    let rejected = again.decide_if(&request, now, no);
    let changed = match rejected {
        Decided::Unchanged(Decision::Rejected(rejection)) => rejection.message == "no",
        Decided::Unchanged(_) => false,
        other => panic!("{other:?}"),
    };
    assert_eq!(again.cell().first_difference(&before), None);
    let decided = [once.decide(&request, now), again.decide(&request, now)];
    assert_eq!(format!("{:?}", decided[0]), format!("{:?}", decided[1]));
    let rows = |core: &Core| {
        let derived = &core.derived;
        format!("{:?} {:?} {:?}", derived.allocation_slots, derived.group_rows, derived.task_rows)
    };
    assert_eq!(rows(once), rows(again));
    match decided {
        [Decided::Changed { decision, .. }, _] => {
            assert!(changed);
            decision
        }
        [other, _] => panic!("{other:?}"),
    }
}

#[test]
fn what_was_decided_and_not_accepted_leaves_no_trace() {
    let mut large = Large::new(CoreOptions::default());
    let machines: Vec<_> = (0..3).map(|number| large.machine(format!("m{number}")).slot).collect();
    let session = large.core.cell().sessions().next().expect("it is open").id;
    let mut session = plenum_model::TransactionId { session, number: 0 };
    let (cell, options) = (large.core.cell().clone(), large.core.options().clone());
    let [mut once, mut again] = [(); 2].map(|()| Core::from_cell(cell.clone(), options.clone()));
    let base = cell.revision();
    let mut both = |command: Command| decide_twice(&mut once, &mut again, command);
    let id = |decision: Decision| match decision {
        Decision::Accepted { id, .. } => JobId::from_bits(id).expect("an id"),
        other => panic!("{other:?}"),
    };
    let jobs = [3, 100, 300].map(|count| id(both(submit(&format!("j{count}"), JobShape::default(), &[count, 5]))));
    let recurring = JobShape { kind: JobKind::Recurring, ..JobShape::default() };
    let recurring = id(both(submit("nightly", recurring, &[70, 9])));
    both(Command::Launch { parent: recurring, instant_micros: 5_000_000 });
    let mut commit = |both: &mut dyn FnMut(Command) -> Decision, placements, stops| {
        session.number += 1;
        let txn =
            plenum_model::Transaction { id: session, incarnation: 1, base, placements, stops, ..Default::default() };
        let Decision::Outcome(outcome) = both(Command::Commit(Box::new(txn), session.number)) else {
            panic!("it is decided")
        };
        outcome.granted()
    };
    let on = |task: u32| machines[task as usize % machines.len()];
    // Over several pages of rows, and in the middle of one.
    let some = vec![placement(jobs[1], 0..70, on, 0), placement(jobs[2], 0..200, on, 0)];
    assert_eq!(commit(&mut both, some, Vec::new()), 270);
    assert_eq!(commit(&mut both, vec![placement(jobs[0], 0..3, on, 0)], Vec::new()), 3);
    // They grow out of their rows, and shrink.
    both(Command::ScaleJob { job: jobs[0], version: None, group: 0, count: 500 });
    both(submit("j100", JobShape::default(), &[700, 20]));
    both(submit("j300", JobShape::default(), &[10, 5]));
    assert_eq!(commit(&mut both, vec![placement(jobs[0], 3..300, on, 0)], Vec::new()), 297);
    both(Command::StopJob { job: jobs[1], version: None });
    both(Command::RemoveMachine { machine: MachineId { slot: machines[0], generation: 1 }, unless_alive: false });
    both(submit("last", JobShape::default(), &[40, 40, 40]));
    assert_eq!(commit(&mut both, vec![placement(jobs[0], 300..400, |_| machines[1], 0)], Vec::new()), 100);
}

/// A machine's task that its cell does not know, of so many.
fn unknown(number: u32) -> Inventory {
    Inventory {
        allocation: AllocationId { slot: 1000 + number, generation: 1 },
        state: AllocationState::Running,
        exit_code: 0,
        reason: "".into(),
        restarts: 0,
        task: None,
    }
}

#[test]
fn what_is_due_of_hundreds_at_once_happens_in_two_ticks() {
    const HUNDREDS: u32 = 300;
    let mut large = Large::new(CoreOptions { retire_after_micros: 60_000_000, ..CoreOptions::default() });
    let machines: Vec<_> = (0..HUNDREDS).map(|number| large.machine(format!("m{number}"))).collect();
    large.restore();
    let deadline = large.now.plus_micros(60_000_000);
    for (number, &machine) in (0..).zip(&machines) {
        large.boot(machine, vec![unknown(number)]);
        large.ask(Command::DrainMachine { machine, deadline: Some(deadline) });
    }
    large.now = deadline;
    assert_eq!(large.tick_all(), 2, "all are drained");
    assert!(large.core.cell().unknown_tasks().all(|(_, task)| task.stopping));
    let ready = large.machine("ready".to_owned()).slot;
    let jobs: Vec<_> = (0..HUNDREDS).map(|_| large.job(GroupShape { count: 1, ..GroupShape::default() })).collect();
    let deadline = large.now.plus_micros(1_000_000);
    jobs.iter().for_each(|&job| large.hold(job, &[ready], Resources::new(1, 1), deadline));
    large.now = deadline;
    assert_eq!((large.tick_all(), large.core.cell().holds().len()), (2, 0));
    for &job in &jobs {
        large.ask(Command::StopJob { job, version: None });
    }
    large.now = large.now.plus_micros(60_000_000);
    assert_eq!((large.tick_all(), large.core.cell().jobs().count()), (2, 0), "all are retired");
}

// What it had taken out of its queues would have been due never again.
#[test]
fn a_tick_happens_whatever_is_said_of_it() {
    let mut large = Large::new(CoreOptions::default());
    let machine = large.machine("m0".to_owned());
    let job = large.job(GroupShape { count: 1, ..GroupShape::default() });
    assert_eq!(large.commit(vec![placement(job, 0..1, |_| machine.slot, 0)]).granted(), 1);
    let deadline = large.now.plus_micros(60_000_000);
    large.ask(Command::DrainMachine { machine, deadline: Some(deadline) });
    large.now = deadline;
    let refuses = |_: &Decision, _: &_| Err(Rejection::new(RejectionCode::LimitReached, "no".to_owned()));
    let decided = large.core.decide_if(&request(Command::Tick), large.now, refuses);
    assert!(matches!(decided, Decided::Changed { .. }), "{decided:?}");
    assert_eq!(large.in_state(AllocationState::Stopping), 1);
}
