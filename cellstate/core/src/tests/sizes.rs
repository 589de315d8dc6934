//! What one command changes is bounded: what is due by itself happens in steps.

use std::sync::Arc;

use plenum_model::{
    AllocationState, Command, Decision, GroupShape, JobId, JobShape, MachineId, Resources, TaskState, Transition,
};

use super::costs::{Large, placement};
use crate::{Core, CoreOptions};

fn submit(name: &str, shape: JobShape, groups: &[u32]) -> Command {
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
    Command::SubmitJob { shape: Arc::new(shape), body: Arc::new([]), body_digest: [0; 32] }
}

impl Large {
    fn submit(&mut self, command: Command) -> JobId {
        let Decision::Accepted { id, .. } = self.ask(command) else { panic!("submitting is accepted") };
        JobId::from_bits(id).expect("an id")
    }

    /// Tasks of a job's only group that stand so.
    fn tasks_in(&self, job: JobId, state: TaskState) -> u32 {
        let job = self.core.cell().job(job).expect("it is there");
        self.core.cell().groups().get(job.group_base).expect("its group").tasks_in(state)
    }

    fn home(&self, job: JobId) -> Option<u32> {
        self.core.cell().job(job).expect("it is there").home
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
        let done = done.map(|found| Transition {
            machine,
            epoch: found.row.epoch,
            allocation: found.id,
            state: AllocationState::Complete,
            ready: false,
            exit_code: 0,
            restarts: 0,
            reason: "".into(),
        });
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
        let done = Transition { machine, epoch: 1, allocation, state, ready: false, exit_code: 0, restarts: 0, reason };
        large.ask(Command::ReportStatus(vec![done]));
    }
    let deadline = Some(large.now.plus_micros(60_000_000));
    large.ask(Command::DrainMachine { machine, deadline });
    large.now = large.now.plus_micros(60_000_000);
    assert_eq!(large.tick_all(), 7, "of 64 that one tick has for them, a home with one done task takes 17");
    assert!(jobs.iter().all(|&job| large.home(job).is_none()));
}
