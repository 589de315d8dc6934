//! What is due by log time, and is not done, or is done too soon.

use plenum_model::{AllocationState, JobState, RetryPolicy, Transition};

use super::*;
use crate::judge::dues::Dues;
use crate::judge::leaving::MINUTE_MICROS;

impl Stage {
    /// Room for the job until then, on the machine.
    fn hold(&mut self, deadline: LogTime) {
        let (session, job, machines) = (SessionId::default(), self.job, vec![self.machine.slot]);
        self.ask(Command::TakeHold { session, job, machines, resources: Resources::new(1, 1), deadline });
    }

    /// Lets happen what is due then: the cell before, and what came of it.
    fn tick(&mut self, now: LogTime) -> (Cell, Delta) {
        let before = self.core.cell().clone();
        let request = Request { principal: "local".into(), namespace: "default".into(), command: Command::Tick };
        let decided = self.core.decide(&request, now);
        let Decided::Changed { delta, .. } = &decided else { panic!("{decided:?}") };
        let delta = delta.clone();
        self.last = Some((request, decided));
        (before, delta)
    }

    /// What is said of a step as if it had been decided then.
    fn judged_at(&self, before: &Cell, delta: &Delta, time: LogTime) -> Checked {
        let (dues, delta) = (self.dues(), Delta { time, ..delta.clone() });
        self.judged(before, self.core.cell(), &delta, |step| dues.invariant_nothing_happens_before_its_time(step))
    }

    /// Of its cell, as if a server had opened it just now.
    fn dues(&self) -> Dues {
        let mut dues = Dues::of(&CoreOptions::default());
        dues.opened(self.core.cell());
        dues
    }

    fn is_overdue(&self, dues: &Dues, by: LogTime) -> bool {
        is_overdue(dues, self.core.cell(), by)
    }

    /// What its machine runs and the cell does not know, as a delta tells of it.
    fn unknown(&self, until: Option<LogTime>, stopping: bool) -> (UnknownId, Option<Arc<UnknownTask>>) {
        let (machine, traces) = (self.machine, Arc::new(TaskTraces::default()));
        let id = UnknownId { machine: machine.slot, allocation: AllocationId { slot: 7, generation: 1 } };
        (id, Some(Arc::new(UnknownTask { machine, traces, since: NOW, until, stopping })))
    }
}

fn is_overdue(dues: &Dues, cell: &Cell, by: LogTime) -> bool {
    dues.invariant_what_is_due_happens_in_time(cell, by).is_err()
}

/// The cell with what this changes.
fn folded(cell: &Cell, delta: &Delta) -> Cell {
    let mut after = cell.clone();
    after.apply(delta).expect("it folds");
    after
}

/// Whether a tick that does this is said to come too soon.
fn is_early(dues: &Dues, before: &Cell, delta: &Delta) -> bool {
    let request = &Request { principal: "local".into(), namespace: "default".into(), command: Command::Tick };
    let decided = &Decided::Unchanged(Decision::Accepted { id: 0, version: 0 });
    dues.invariant_nothing_happens_before_its_time(&Step { before, request, decided, after: before, delta }).is_err()
}

// What was due by time was only looked for when it came too soon: what never came ended no run.
#[test]
fn what_a_hold_a_drain_or_a_job_that_is_over_leaves_behind_its_time_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let dues = stage.dues();
    let (job, machine) = (stage.job, stage.machine);
    let goes_with = |stage: &mut Stage, due: LogTime| {
        let found = [due.plus_micros(-1), due].map(|by| stage.is_overdue(&dues, by));
        stage.tick(due);
        found == [false, true] && !stage.is_overdue(&dues, due)
    };
    let [held, drained] = [5, 9].map(|micros| NOW.plus_micros(micros));
    stage.hold(held);
    assert!(goes_with(&mut stage, held));
    stage.place();
    stage.ask(Command::DrainMachine { machine, deadline: Some(drained) });
    assert!(goes_with(&mut stage, drained));

    // One of which nothing is left: what ran was on that machine.
    stage.ask(Command::RemoveMachine { machine, unless_alive: false });
    stage.ask(Command::StopJob { job, version: None });
    let over = stage.core.cell().time();
    assert!(goes_with(&mut stage, over.plus_micros(CoreOptions::default().retire_after_micros)));
}

#[test]
fn a_machine_that_is_not_given_up_is_found_when_it_is_its_turn() {
    let after_micros = 10;
    let mut stage = Stage::new(GroupShape { lost_after_micros: Some(after_micros), ..GroupShape::default() });
    let first = stage.machine;
    stage.place();
    let shape = JobShape::clone(&stage.core.cell().job(stage.job).expect("it is there").shape);
    stage.submit(JobShape { name: "other".into(), ..shape });
    stage.machine = MachineId::from_bits(stage.register("m2")).expect("an id");
    stage.place();
    let mut dues = stage.dues();
    for machine in [first, stage.machine] {
        stage.ask(Command::ExpireMachine { machine, epoch: 1 });
    }
    let due = NOW.plus_micros(after_micros);
    assert_eq!([due.plus_micros(-1), due].map(|by| stage.is_overdue(&dues, by)), [false, true]);
    let (before, _) = stage.tick(due);
    dues.ticked(&before, stage.core.cell());
    let turn = due.plus_micros(MINUTE_MICROS);
    let found = [due, turn.plus_micros(-1), turn].map(|by| stage.is_overdue(&dues, by));
    assert_eq!(found, [false, false, true], "one is given up in a minute");
    let (before, _) = stage.tick(turn);
    dues.ticked(&before, stage.core.cell());
    assert!(!stage.is_overdue(&dues, turn));
}

// That holds end, unknown tasks are told to stop and jobs are retired was counted, whenever it came.
#[test]
fn a_hold_or_a_job_that_goes_before_its_time_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let job = stage.job;
    let is_judged_by_its_time = |stage: &mut Stage, due: LogTime| {
        let (before, delta) = stage.tick(due);
        let early = stage.judged_at(&before, &delta, due.plus_micros(-1));
        stage.judged_at(&before, &delta, due) == Ok(()) && early.is_err()
    };
    let held = NOW.plus_micros(5);
    stage.hold(held);
    assert!(is_judged_by_its_time(&mut stage, held));
    stage.ask(Command::StopJob { job, version: None });
    let over = stage.core.cell().time();
    let retired = over.plus_micros(CoreOptions::default().retire_after_micros);
    assert!(is_judged_by_its_time(&mut stage, retired));
}

#[test]
fn a_group_that_sleeps_too_short_over_a_failure_is_found() {
    let retry = RetryPolicy { attempts: None, delay_micros: 10 };
    let mut stage = Stage::new(GroupShape { retry, ..GroupShape::default() });
    stage.place();
    let before = stage.core.cell().clone();
    let allocation = before.allocations().next().expect("it was placed").id;
    let (machine, state) = (stage.machine, AllocationState::Failed);
    let (epoch, ready, exit_code, restarts, reason) = (1, false, 1, 0, "".into());
    let failed = Transition { machine, epoch, allocation, state, ready, exit_code, restarts, reason };
    stage.ask(Command::ReportStatus(vec![failed]));
    let Some((_, Decided::Changed { delta, .. })) = &stage.last else { panic!("{:?}", stage.last) };
    assert_eq!(stage.judged_at(&before, delta, NOW), Ok(()));
    assert!(stage.judged_at(&before, delta, NOW.plus_micros(1)).is_err());
}

#[test]
fn an_unknown_task_that_is_told_to_stop_too_late_or_too_soon_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    // A server gives all of them the whole time.
    let heard = NOW.plus_micros(CoreOptions::default().unknown_micros);
    let with = |stage: &Stage, until: Option<LogTime>, stopping: bool| {
        let cell = stage.core.cell();
        folded(cell, &Delta { unknown: vec![stage.unknown(until, stopping)], ..next(cell) })
    };
    let late = |until: Option<LogTime>, stopping: bool, due: LogTime| {
        let (dues, cell) = (stage.dues(), with(&stage, until, stopping));
        [due.plus_micros(-1), due].map(|by| is_overdue(&dues, &cell, by))
    };
    let later = heard.plus_micros(5);
    assert_eq!(late(Some(NOW), false, heard), [false, true]);
    assert_eq!(late(Some(later), false, later), [false, true]);
    assert_eq!(late(Some(NOW), true, heard), [false, false], "it was told");
    assert_eq!(late(None, false, heard), [false, false], "it was adopted");
    let early = |stage: &Stage, until: Option<LogTime>, due: LogTime| {
        let (dues, before) = (stage.dues(), with(stage, until, false));
        [due.plus_micros(-1), due].map(|time| {
            let told = Delta { time, unknown: vec![stage.unknown(until, true)], ..next(&before) };
            is_early(&dues, &before, &told)
        })
    };
    assert_eq!(early(&stage, Some(NOW), heard), [true, false]);
    assert_eq!(early(&stage, None, heard), [true, true], "it was adopted");
    let (machine, drained) = (stage.machine, NOW.plus_micros(9));
    stage.ask(Command::DrainMachine { machine, deadline: Some(drained) });
    assert_eq!(early(&stage, Some(NOW), drained), [true, false]);
}

#[test]
fn an_unknown_task_or_a_job_without_tasks_that_stays_on_a_drained_machine_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    let (machine, drained) = (stage.machine, NOW.plus_micros(9));
    stage.ask(Command::DrainMachine { machine, deadline: Some(drained) });
    let (cell, dues) = (stage.core.cell(), stage.dues());
    let found = |delta: &Delta| {
        let left = folded(cell, delta);
        [drained.plus_micros(-1), drained].map(|by| is_overdue(&dues, &left, by))
    };
    let unknown = |stopping: bool| Delta { unknown: vec![stage.unknown(None, stopping)], ..next(cell) };
    assert_eq!(found(&unknown(false)), [false, true]);
    assert_eq!(found(&unknown(true)), [false, false], "it was told to stop");
    let at_home = |slot: u32| {
        let jobs = vec![JobChange::Home { id: stage.job, machine: Some(slot) }];
        Delta { jobs, ..next(cell) }
    };
    assert_eq!(found(&at_home(machine.slot)), [false, true]);
    assert_eq!(found(&at_home(machine.slot + 1)), [false, false], "it is elsewhere");
}

#[test]
fn a_job_without_tasks_that_waits_for_a_machine_that_is_lost_is_found() {
    let after_micros = 10;
    let mut stage = Stage::new(GroupShape { lost_after_micros: Some(after_micros), ..GroupShape::default() });
    let machine = stage.machine;
    stage.ask(Command::ExpireMachine { machine, epoch: 1 });
    let (cell, dues, due) = (stage.core.cell(), stage.dues(), NOW.plus_micros(after_micros));
    let found = |home: Option<u32>| {
        let jobs = vec![JobChange::Home { id: stage.job, machine: home }];
        let waits = folded(cell, &Delta { jobs, ..next(cell) });
        [due.plus_micros(-1), due].map(|by| is_overdue(&dues, &waits, by))
    };
    assert_eq!(found(Some(machine.slot)), [false, true]);
    assert_eq!(found(None), [false, false]);
}

#[test]
fn a_job_that_is_over_and_of_which_something_runs_is_found() {
    let mut stage = Stage::new(GroupShape::default());
    stage.place();
    let (cell, dues) = (stage.core.cell(), stage.dues());
    let found = |state: JobState| {
        let jobs = vec![JobChange::State { id: stage.job, state, reason: "".into() }];
        is_overdue(&dues, &folded(cell, &Delta { jobs, ..next(cell) }), NOW)
    };
    assert_eq!([JobState::Running, JobState::Stopped].map(found), [false, true]);
}

#[test]
fn of_jobs_that_are_over_those_that_are_too_many_are_retired_at_once_and_no_more() {
    let mut stage = Stage::new(GroupShape::default());
    let first = stage.job;
    let shape = JobShape::clone(&stage.core.cell().job(first).expect("it is there").shape);
    stage.submit(JobShape { name: "other".into(), ..shape });
    let jobs = [first, stage.job];
    for job in jobs {
        stage.ask(Command::StopJob { job, version: None });
    }
    let cell = stage.core.cell();
    let dues = |finished_jobs_max: usize| {
        let mut dues = Dues::of(&CoreOptions { finished_jobs_max, ..CoreOptions::default() });
        dues.opened(cell);
        dues
    };
    assert_eq!([1, 2].map(|most| is_overdue(&dues(most), cell, NOW)), [true, false]);
    let early = |most: usize, retired: &[JobId]| {
        let jobs = retired.iter().copied().map(JobChange::Removed).collect();
        is_early(&dues(most), cell, &Delta { jobs, ..next(cell) })
    };
    assert!(!early(1, &jobs[..1]), "one is too many");
    assert!(early(1, &jobs) && early(2, &jobs[..1]));
}
