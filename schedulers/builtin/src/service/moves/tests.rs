//! Stories of machines that are drained, against the real core.

use plenum_model::{AllocationRef, AllocationState, Command, JobId, Quota, Transition};
use plenum_sdk::Settings;
use plenum_testkit::{JobBuilder, Seat, Stage};

use crate::batch::Batch;
use crate::service::Service;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

fn web(count: u32) -> JobBuilder {
    JobBuilder::new("web", "service").group("web", count, 500).forever()
}

/// Machines m0, m1, … with so much CPU each, and a scheduler.
fn stage(millis: &[u64]) -> (Stage, Seat) {
    let mut stage = Stage::new();
    for (number, &millis) in millis.iter().enumerate() {
        stage.machine(&format!("m{number}"), millis, &[]);
    }
    let seat = stage.seat(Service::default());
    (stage, seat)
}

/// Submits a job, and agents start all of it.
fn running(stage: &mut Stage, job: &JobBuilder) -> JobId {
    let job = stage.submit(job);
    stage.advance(SECOND / 100);
    run(stage, job);
    job
}

/// An agent says where some of a job's allocations stand now.
fn report(stage: &mut Stage, job: JobId, next: impl Fn(&AllocationRef<'_>) -> Option<(AllocationState, bool)>) {
    let cell = stage.cell();
    let own = cell.allocations().filter(|found| found.row.job() == job);
    let told = own.filter_map(|found| {
        let (state, ready) = next(&found)?;
        let machine = cell.machine_in(found.row.machine)?;
        Some(Transition { ready, ..Transition::new(machine.id, machine.epoch, found.id, state) })
    });
    let told = told.collect();
    stage.ask("agents", Command::ReportStatus(told));
    stage.settle();
}

/// Agents start what was granted, and end what was told to stop.
fn run(stage: &mut Stage, job: JobId) {
    report(stage, job, |found| match found.status.state {
        AllocationState::Granted | AllocationState::Starting => Some((AllocationState::Running, true)),
        AllocationState::Stopping => Some((AllocationState::Stopped, false)),
        _ => None,
    });
}

fn drain(stage: &mut Stage, slot: u32, micros: i64) {
    let deadline = Some(stage.cell().time().plus_micros(micros));
    let machine = stage.cell().machine_in(slot).unwrap().id;
    stage.ask("operator", Command::DrainMachine { machine, deadline });
    stage.settle();
}

fn undrain(stage: &mut Stage, slot: u32) {
    let machine = stage.cell().machine_in(slot).unwrap().id;
    stage.ask("operator", Command::DrainMachine { machine, deadline: None });
    stage.settle();
}

/// The namespace has so much CPU at most.
fn limit(stage: &mut Stage, millis: Option<u64>) {
    let mut limits = Quota::default().limits;
    limits[0] = millis;
    let limit = millis.map(|_| Quota { limits });
    stage.ask("operator", Command::SetQuota { namespace: "default".into(), limit });
}

/// Machines of the tasks that run and are not told to stop.
fn serving(stage: &Stage, job: JobId) -> Vec<u32> {
    let is_running = |state| state == AllocationState::Running;
    let own = stage.cell().allocations().filter(|found| found.row.job() == job && is_running(found.status.state));
    let mut machines: Vec<u32> = own.map(|found| found.row.machine).collect();
    machines.sort_unstable();
    machines
}

/// Machines of the tasks that are there or on their way.
fn placed(stage: &Stage, job: JobId) -> Vec<u32> {
    let mut machines: Vec<u32> = stage.placed(job).iter().map(|&(_, _, machine)| machine).collect();
    machines.sort_unstable();
    machines
}

/// Time passes, and agents start each successor as soon as it is there.
fn let_move(stage: &mut Stage, jobs: &[JobId], seconds: u32) {
    for _ in 0..seconds {
        stage.advance(SECOND);
        jobs.iter().for_each(|&job| run(stage, job));
    }
}

/// They were stopped at the deadline, all at once, and only then placed elsewhere.
#[test]
fn tasks_leave_a_machine_that_is_drained_one_after_the_other_before_its_deadline() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(3));
    stage.machine("m1", 4_000, &[]);
    stage.machine("m2", 4_000, &[]);
    drain(&mut stage, 0, 10 * MINUTE);
    for left in [2, 1, 0] {
        stage.advance(2 * SECOND);
        assert_eq!(serving(&stage, job).len(), 2, "one is on its way, and no other before it is there");
        stage.advance(20 * SECOND);
        assert_eq!((serving(&stage, job).len(), placed(&stage, job).len()), (2, 3));
        run(&mut stage, job);
        assert_eq!(serving(&stage, job).len(), 3);
        assert_eq!(serving(&stage, job).iter().filter(|&&machine| machine == 0).count(), left);
    }
    stage.advance(20 * SECOND);
    assert_eq!(serving(&stage, job).len(), 3, "those that are elsewhere stay where they are");
}

// It was stopped without a word: why, one had to find out by its transaction.
#[test]
fn a_task_that_moves_says_off_which_machine() {
    let (mut stage, _) = stage(&[4_000, 4_000]);
    let job = running(&mut stage, &web(2));
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(2 * SECOND);
    let cell = stage.cell();
    let stopping = cell.allocations().find(|found| found.status.state == AllocationState::Stopping).unwrap();
    let reason = stopping.extra.and_then(|extra| extra.reason.as_deref());
    assert_eq!((stopping.row.machine, reason), (0, Some("moved off m0, which is drained")));
    let granted = cell.allocations().filter(|found| found.status.state == AllocationState::Granted).collect::<Vec<_>>();
    assert_eq!(granted.len(), 1, "its task is placed elsewhere");
    assert_eq!(placed(&stage, job), [1, 1]);
}

#[test]
fn a_task_for_which_there_is_no_room_elsewhere_runs_on_until_the_deadline() {
    let (mut stage, seat) = stage(&[4_000, 400]);
    let job = running(&mut stage, &web(1));
    let before = stage.runtime(seat).counters().transactions;
    drain(&mut stage, 0, MINUTE);
    stage.advance(MINUTE - SECOND);
    assert_eq!(serving(&stage, job), [0]);
    assert_eq!(stage.runtime(seat).counters().transactions, before, "nothing is asked in vain");
    stage.advance(2 * SECOND);
    assert_eq!(serving(&stage, job), []);
}

#[test]
fn what_has_no_room_elsewhere_moves_when_there_is_some() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(2));
    drain(&mut stage, 0, MINUTE);
    stage.advance(30 * SECOND);
    assert_eq!(serving(&stage, job), [0, 0]);
    stage.machine("m1", 500, &[]);
    let_move(&mut stage, &[job], 5);
    assert_eq!(serving(&stage, job), [0, 1], "there is room for one of them");
}

/// It would begin anew, or its tasks would not be together.
#[test]
fn what_can_not_be_replaced_first_is_left_to_the_deadline() {
    let (mut stage, _) = stage(&[8_000]);
    let ends = JobBuilder::new("ends", "service").group("main", 1, 500);
    let together = JobBuilder::new("together", "service").group("main", 2, 500).forever().same_machine();
    let gang = JobBuilder::new("gang", "service").group("main", 2, 500).min(2).forever();
    let alone = JobBuilder::new("alone", "service").group("main", 1, 500).single_instance().forever();
    let jobs = [ends, together, gang, alone].map(|job| running(&mut stage, &job));
    stage.machine("m1", 8_000, &[]);
    drain(&mut stage, 0, MINUTE);
    stage.advance(MINUTE - SECOND);
    assert_eq!(jobs.map(|job| serving(&stage, job).len()), [1, 2, 2, 1]);
    assert!(jobs.iter().all(|&job| serving(&stage, job).iter().all(|&machine| machine == 0)));
    let told = jobs.map(|job| stage.passed_over(job, 0));
    assert_eq!(
        told,
        [
            "what ends by itself is not moved, as it would begin anew",
            "tasks that share a machine are not moved",
            "tasks of a group with min are not moved",
            "a task of which only one may run (single_instance) is not moved",
        ]
    );
}

// Nobody was told before the deadline, at which they were stopped.
#[test]
fn what_stays_says_why_for_as_long_as_it_does() {
    let (mut stage, _) = stage(&[4_000, 400]);
    let job = running(&mut stage, &web(1));
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(2 * SECOND);
    assert_eq!(
        stage.passed_over(job, 0),
        "no other machine takes one: of 2 machines 1 lacks cpu by at least 100m, 1 is draining; \
         nearest is m1, short of cpu by 100m, and too small even when empty"
    );
    // Much happens, and there is nothing to decide, between two looks at what is drained.
    for number in 0..40 {
        stage.machine(&format!("small{number}"), 100, &[]);
        stage.advance(SECOND / 20);
        let told = stage.passed_over(job, 0);
        assert!(told.starts_with("no other machine takes one: of "), "after {number}: {told}");
    }
    undrain(&mut stage, 0);
    stage.advance(3 * SECOND);
    assert_eq!(stage.passed_over(job, 0), "");
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(3 * SECOND);
    assert_ne!(stage.passed_over(job, 0), "");
    stage.machine("m2", 4_000, &[]);
    let_move(&mut stage, &[job], 5);
    assert_eq!((serving(&stage, job).len(), stage.passed_over(job, 0)), (1, ""));
}

// Nobody is evicted for a move. It said the same as what waits and needs as much, of which it was remembered that no lower band has enough.
#[test]
fn what_stays_does_not_speak_of_evictions_that_others_of_its_needs_were_denied() {
    let (mut stage, _) = stage(&[600]);
    stage.seat(Batch::default());
    for (name, millis, priority) in [("same", 300, 50), ("low", 100, 10)] {
        stage.submit(&JobBuilder::new(name, "batch").group("main", 1, millis).priority(priority));
    }
    stage.advance(SECOND);
    stage.machine("m1", 500, &[]);
    let job = running(&mut stage, &web(1));
    assert_eq!(serving(&stage, job), [1]);
    let more = stage.submit(&JobBuilder::new("more", "service").group("web", 1, 500).forever());
    drain(&mut stage, 1, 10 * MINUTE);
    for _ in 0..3 {
        stage.advance(SECOND);
        let told = stage.passed_over(more, 0);
        assert!(told.starts_with("no lower band has enough on any machine to be evicted; of 2 machines"), "{told}");
        let told = stage.passed_over(job, 0);
        assert!(told.is_empty() || told.starts_with("no other machine takes one: of 2 machines"), "{told}");
    }
    assert_ne!(stage.passed_over(job, 0), "");
}

/// Claim and stop stand or fall together.
#[test]
fn a_move_that_loses_its_race_leaves_the_task_where_it_is() {
    let (mut stage, seat) = stage(&[4_000]);
    let job = running(&mut stage, &web(1));
    stage.machine("m1", 500, &[]);
    stage.seat(Batch::default());
    stage.hold(seat);
    drain(&mut stage, 0, MINUTE);
    stage.advance(2 * SECOND);
    let rival = stage.submit(&JobBuilder::new("rival", "batch").group("main", 1, 500));
    stage.settle();
    stage.transcript();
    stage.release(seat);
    assert_eq!(stage.transcript(), "service: 0 of 1 granted\n  task 0 on m1: conflict NoRoom, culprit batch\n");
    stage.advance(20 * SECOND);
    assert_eq!((serving(&stage, job), placed(&stage, rival)), (vec![0], vec![1]));
    stage.finish(rival, true);
    let_move(&mut stage, &[job], 3);
    assert_eq!(serving(&stage, job), [1]);
}

// Where a walk came between the two, the very move that was refused was sent once more, without a pause.
#[test]
fn a_move_that_the_mirror_shows_as_refused_is_not_planned_again_before_its_outcome_is_heard() {
    let (mut stage, seat) = stage(&[4_000]);
    let job = running(&mut stage, &web(1));
    let wider = running(&mut stage, &JobBuilder::new("wider", "service").group("main", 1, 600).forever());
    stage.machine("m1", 500, &[]);
    stage.seat(Batch::default());
    stage.hold(seat);
    drain(&mut stage, 0, 10 * MINUTE);
    let sent = |stage: &Stage| stage.runtime(seat).counters().transactions;
    let before = sent(&stage);
    for _ in 0..3_000 {
        if sent(&stage) == before {
            stage.advance(SECOND / 1_000);
        }
    }
    assert_eq!(sent(&stage), before + 1, "less than a millisecond ago");
    stage.submit(&JobBuilder::new("rival", "batch").group("main", 1, 500));
    stage.settle();
    stage.transcript();
    stage.cut_answers(seat);
    assert_eq!(stage.transcript(), "service: 0 of 1 granted\n  task 0 on m1: conflict NoRoom, culprit batch\n");
    stage.cut_off(seat);
    stage.release(seat);
    // The log is thought to be two milliseconds behind. With the deltas that it hears once it is back, and before the outcome, a second has passed there.
    stage.advance(SECOND - 3 * SECOND / 2_000);
    stage.machine("m2", 4_000, &[]);
    stage.submit(&JobBuilder::new("more", "service").group("main", 1, 100).forever());
    stage.let_back(seat);
    stage.settle();
    assert_eq!(placed(&stage, wider), [2], "the walk was made");
    assert_eq!(placed(&stage, job), [0]);
    let_move(&mut stage, &[job], 3);
    assert_eq!(serving(&stage, job), [2]);
}

#[test]
fn when_the_drain_is_ended_midway_the_rest_stays() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(3));
    stage.machine("m1", 4_000, &[]);
    drain(&mut stage, 0, MINUTE);
    stage.advance(2 * SECOND);
    assert_eq!((serving(&stage, job), placed(&stage, job)), (vec![0, 0], vec![0, 0, 1]));
    undrain(&mut stage, 0);
    let_move(&mut stage, &[job], 90);
    assert_eq!(serving(&stage, job), [0, 0, 1], "the one that was on its way arrives");
}

#[test]
fn at_a_deadline_that_is_over_all_is_stopped_and_placed_elsewhere_once() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(3));
    stage.machine("m1", 4_000, &[]);
    drain(&mut stage, 0, 0);
    stage.advance(SECOND);
    assert_eq!((serving(&stage, job), placed(&stage, job)), (vec![], vec![1, 1, 1]));
    let_move(&mut stage, &[job], 3);
    assert_eq!(serving(&stage, job), [1, 1, 1]);
    assert_eq!(stage.cell().allocations().count(), 3, "nothing is left behind");
}

#[test]
fn no_machine_that_is_drained_takes_what_leaves_another() {
    let (mut stage, _) = stage(&[4_000, 4_000]);
    let job = running(&mut stage, &web(4));
    stage.machine("m2", 1_000, &[]);
    drain(&mut stage, 0, MINUTE);
    drain(&mut stage, 1, MINUTE);
    let_move(&mut stage, &[job], 50);
    assert_eq!(serving(&stage, job), [0, 1, 2, 2], "there is room for two, and the first go first");
    stage.machine("m3", 4_000, &[]);
    let_move(&mut stage, &[job], 5);
    assert_eq!(serving(&stage, job), [2, 2, 3, 3]);
}

/// The task that leaves was counted beside its own successor, in its own rack: there was none for it.
#[test]
fn who_leaves_does_not_count_among_its_siblings_there() {
    let mut stage = Stage::new();
    for (name, rack) in [("m0", "a"), ("m1", "b")] {
        stage.machine(name, 4_000, &[("rack", rack)]);
    }
    let seat = stage.seat(Service::default());
    let racks = running(&mut stage, &web(2).spread("rack", 1));
    let each = running(&mut stage, &JobBuilder::new("each", "service").group("each", 2, 500).per_machine(1).forever());
    stage.machine("m2", 4_000, &[("rack", "a")]);
    drain(&mut stage, 0, MINUTE);
    let_move(&mut stage, &[racks, each], 3);
    assert_eq!((serving(&stage, racks), serving(&stage, each)), (vec![1, 2], vec![1, 2]));
    drain(&mut stage, 1, MINUTE);
    let_move(&mut stage, &[racks, each], 10);
    assert_eq!((serving(&stage, racks), serving(&stage, each)), (vec![1, 2], vec![1, 2]), "nothing fits elsewhere");
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0, "planned with the code that commits");
}

/// What it had sent counts or does not; the next one sees which, and begins nothing anew.
#[test]
fn a_scheduler_that_dies_in_the_middle_of_a_move_leaves_each_task_once() {
    for is_read in [false, true] {
        let (mut stage, seat) = stage(&[4_000]);
        let job = running(&mut stage, &web(2));
        stage.machine("m1", 4_000, &[]);
        stage.hold(seat);
        drain(&mut stage, 0, 10 * MINUTE);
        stage.advance(2 * SECOND);
        assert_eq!(stage.runtime(seat).counters().transactions, 2, "the job, and a move");
        if is_read {
            stage.cut_answers(seat);
        }
        stage.cut_off(seat);
        assert_eq!(placed(&stage, job), [0, u32::from(is_read)]);
        stage.close_session(stage.runtime(seat).session());
        stage.seat(Service::default());
        stage.advance(10 * SECOND);
        assert_eq!((placed(&stage, job), serving(&stage, job)), (vec![0, 1], vec![0]), "one is on its way");
        let_move(&mut stage, &[job], 5);
        assert_eq!((placed(&stage, job), serving(&stage, job)), (vec![1, 1], vec![1, 1]));
        assert_eq!(stage.cell().allocations().count(), 2);
    }
}

/// Its connection broke when the cell had read the move: the same number is sent again, and takes effect once.
#[test]
fn a_move_that_is_sent_again_moves_nothing_twice() {
    let (mut stage, seat) = stage(&[4_000]);
    let job = running(&mut stage, &web(2));
    stage.machine("m1", 4_000, &[]);
    stage.hold(seat);
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(2 * SECOND);
    stage.cut_answers(seat);
    stage.release(seat);
    stage.advance(5 * SECOND);
    assert_eq!((placed(&stage, job), serving(&stage, job)), (vec![0, 1], vec![0]));
    let_move(&mut stage, &[job], 5);
    assert_eq!(serving(&stage, job), [1, 1]);
}

#[test]
fn a_job_that_is_stopped_or_scaled_down_meanwhile_gets_no_successor() {
    for stops in [false, true] {
        let (mut stage, seat) = stage(&[4_000, 4_000]);
        let job = running(&mut stage, &web(2));
        assert_eq!(stage.placed(job), [(0, 0, 0), (0, 1, 1)]);
        stage.hold(seat);
        drain(&mut stage, 1, 10 * MINUTE);
        stage.advance(2 * SECOND);
        assert_eq!(stage.runtime(seat).counters().transactions, 2, "the job, and a move");
        let command = if stops {
            Command::StopJob { job, version: None }
        } else {
            Command::ScaleJob { job, version: None, group: 0, count: 1 }
        };
        stage.ask("owner", command);
        stage.release(seat);
        let_move(&mut stage, &[job], 5);
        let left = if stops { vec![] } else { vec![0] };
        assert_eq!((serving(&stage, job), stage.cell().allocations().count()), (left.clone(), left.len()));
    }
}

/// Quota comes back with the stop, in the same transaction.
#[test]
fn a_namespace_at_its_quota_has_its_tasks_moved() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(2));
    stage.machine("m1", 4_000, &[]);
    limit(&mut stage, Some(1_000));
    drain(&mut stage, 0, 10 * MINUTE);
    let_move(&mut stage, &[job], 4);
    assert_eq!(serving(&stage, job), [1, 1]);
}

/// They were claimed, refused and claimed again, each time a line of the log.
#[test]
fn a_namespace_above_its_quota_keeps_what_it_has_where_it_is() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(2));
    stage.machine("m1", 4_000, &[]);
    limit(&mut stage, Some(700));
    drain(&mut stage, 0, 10 * MINUTE);
    stage.transcript();
    stage.advance(10 * SECOND);
    assert_eq!((serving(&stage, job), stage.transcript()), (vec![0, 0], String::new()));
    limit(&mut stage, Some(1_000));
    let_move(&mut stage, &[job], 4);
    assert_eq!(serving(&stage, job), [1, 1]);
}

#[test]
fn tasks_that_a_job_is_scaled_up_by_are_placed_before_others_move() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(2));
    stage.machine("m1", 4_000, &[]);
    drain(&mut stage, 0, 10 * MINUTE);
    stage.ask("owner", Command::ScaleJob { job, version: None, group: 0, count: 3 });
    stage.advance(5 * SECOND);
    assert_eq!((placed(&stage, job), serving(&stage, job)), (vec![0, 0, 1], vec![0, 0]));
    let_move(&mut stage, &[job], 5);
    assert_eq!(serving(&stage, job), [1, 1, 1]);
}

/// It would be refused as not wanted yet, and look like a bug of the planner.
#[test]
fn nothing_of_a_group_moves_while_it_sleeps_over_a_failure() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(2));
    stage.machine("m1", 4_000, &[]);
    stage.advance(2 * SECOND + SECOND / 2);
    report(&mut stage, job, |found| (found.row.task == 1).then_some((AllocationState::Failed, false)));
    stage.ask("owner", Command::ScaleJob { job, version: None, group: 0, count: 1 });
    drain(&mut stage, 0, 10 * MINUTE);
    stage.transcript();
    stage.advance(SECOND * 3 / 4);
    assert_eq!(serving(&stage, job), [0], "its second is not over");
    let_move(&mut stage, &[job], 2);
    assert_eq!(serving(&stage, job), [1]);
    assert_eq!(stage.transcript(), "service: 1 of 1 granted\n");
}

#[test]
fn a_group_that_is_short_of_a_task_elsewhere_is_not_made_shorter() {
    let (mut stage, _) = stage(&[4_000, 4_000]);
    let job = running(&mut stage, &web(2));
    stage.machine("m2", 4_000, &[]);
    drain(&mut stage, 0, 10 * MINUTE);
    // It begins anew on its machine.
    report(&mut stage, job, |found| (found.row.machine == 1).then_some((AllocationState::Running, false)));
    stage.advance(10 * SECOND);
    assert_eq!(placed(&stage, job), [0, 1]);
    report(&mut stage, job, |found| (found.row.machine == 1).then_some((AllocationState::Running, true)));
    stage.expire(1);
    stage.advance(10 * SECOND);
    assert_eq!(placed(&stage, job), [0, 1], "nobody knows whether the other one runs");
}

// Nobody was told before the deadline, at which they were stopped, that one task elsewhere kept them: it had only to be mended or stopped.
#[test]
fn what_stays_behind_a_task_that_does_not_run_elsewhere_says_so_after_a_while() {
    let (mut stage, _) = stage(&[4_000, 4_000]);
    let job = running(&mut stage, &web(2));
    stage.machine("m2", 4_000, &[]);
    report(&mut stage, job, |found| (found.row.machine == 1).then_some((AllocationState::Running, false)));
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(3 * SECOND);
    assert_eq!(stage.passed_over(job, 0), "", "so it is in the middle of each move");
    stage.advance(5 * SECOND);
    let behind = "task 1 on m1 is not known to run, and only one of a group is away at a time";
    assert_eq!(stage.passed_over(job, 0), behind);
    stage.expire(1);
    stage.advance(10 * SECOND);
    assert_eq!(stage.passed_over(job, 0), behind);
    undrain(&mut stage, 0);
    stage.advance(3 * SECOND);
    assert_eq!(stage.passed_over(job, 0), "");
}

// A service whose tasks start within seconds is moved without a word.
#[test]
fn a_move_that_is_under_way_is_no_reason_to_stay() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(4));
    stage.machine("m1", 4_000, &[]);
    drain(&mut stage, 0, 10 * MINUTE);
    for _ in 0..4 {
        stage.advance(3 * SECOND);
        assert_eq!(stage.passed_over(job, 0), "");
        run(&mut stage, job);
    }
    assert_eq!(serving(&stage, job), [1, 1, 1, 1]);
}

#[test]
fn a_task_that_does_not_run_anyway_moves_first() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(3));
    stage.machine("m1", 4_000, &[]);
    report(&mut stage, job, |found| (found.row.task == 2).then_some((AllocationState::Running, false)));
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(5 * SECOND);
    assert_eq!(stage.placed(job), [(0, 0, 0), (0, 1, 0), (0, 2, 1)]);
}

/// Of more groups than transactions may be sent at once, the first few had all the turns, and each look was a second after the last.
#[test]
fn each_of_many_services_has_its_turn_whatever_becomes_of_the_others() {
    let (mut stage, seat) = stage(&[16_000]);
    let service = |number: u32| {
        JobBuilder::new(&format!("web{number}"), "service").group("a", 1, 100).group("b", 1, 100).forever()
    };
    let jobs: Vec<JobId> = (0..10).map(|number| running(&mut stage, &service(number))).collect();
    stage.machine("m1", 16_000, &[]);
    // All moves are refused, and none is tried twice before all were once.
    let pause = |paused| Command::PauseScheduler { scheduler: "service".into(), paused };
    stage.ask("operator", pause(true));
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(SECOND + SECOND / 10);
    assert_eq!(stage.runtime(seat).counters().rejected, 20);
    stage.ask("operator", pause(false));
    let_move(&mut stage, &jobs, 3);
    assert!(jobs.iter().all(|&job| serving(&stage, job) == [1, 1]));
    assert_eq!(stage.runtime(seat).counters().dropped, 0);
}

/// What a walk that had to be interrupted had found by then was said once more, of a machine that was not drained any more.
#[test]
fn what_was_found_before_a_drain_ended_is_not_said_behind_it() {
    let (mut stage, seat) = stage(&[16_000]);
    let stays =
        running(&mut stage, &JobBuilder::new("stays", "service").group("main", 2, 500).forever().same_machine());
    for number in 0..6 {
        running(&mut stage, &JobBuilder::new(&format!("web{number}"), "service").group("main", 1, 100).forever());
    }
    stage.machine("m1", 16_000, &[]);
    stage.hold(seat);
    drain(&mut stage, 0, 10 * MINUTE);
    let sent = |stage: &Stage| stage.runtime(seat).counters().transactions;
    let before = sent(&stage);
    for _ in 0..200 {
        if sent(&stage) == before {
            stage.advance(SECOND / 100);
        }
    }
    assert_eq!(sent(&stage), before + 4, "as many moves as may be in flight, and two more are to come");
    undrain(&mut stage, 0);
    stage.release(seat);
    // The next walk begins a second after this one.
    stage.advance(SECOND / 2);
    assert_eq!(stage.passed_over(stays, 0), "");
}

/// Of all that may be moved each was tried each second.
#[test]
fn moves_that_are_refused_are_tried_as_seldom_as_what_waits() {
    let (mut stage, seat) = stage(&[4_000]);
    let job = running(&mut stage, &web(1));
    stage.machine("m1", 4_000, &[]);
    let pause = |paused| Command::PauseScheduler { scheduler: "service".into(), paused };
    stage.ask("operator", pause(true));
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(MINUTE);
    let rejected = stage.runtime(seat).counters().rejected;
    assert!((20..45).contains(&rejected), "{rejected} in a minute");
    assert_eq!(serving(&stage, job), [0]);
    stage.ask("operator", pause(false));
    let_move(&mut stage, &[job], 5);
    assert_eq!(serving(&stage, job), [1]);
}

// While its job waited out a refused move of the other group nothing was said of this one: its reason came and went with each of them.
#[test]
fn what_stays_says_why_also_while_moves_of_another_group_of_its_job_are_refused() {
    let (mut stage, seat) = stage(&[4_000]);
    let both = JobBuilder::new("web", "service").group("moves", 1, 500).group("stays", 1, 500).single_instance();
    let job = running(&mut stage, &both.forever());
    stage.machine("m1", 4_000, &[]);
    stage.ask("operator", Command::PauseScheduler { scheduler: "service".into(), paused: true });
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(2 * SECOND);
    let rejected = |stage: &Stage| stage.runtime(seat).counters().rejected;
    let before = rejected(&stage);
    for number in 0..20 {
        stage.advance(SECOND / 2);
        let never = "a task of which only one may run (single_instance) is not moved";
        assert_eq!(stage.passed_over(job, 1), never, "after {number}");
    }
    assert!(rejected(&stage) > before, "moves of the first group were tried");
    undrain(&mut stage, 0);
    stage.advance(3 * SECOND);
    assert_eq!(stage.passed_over(job, 1), "");
}

// Each refused move of another group began the seconds anew that nobody is said to stay for: it was never said.
#[test]
fn what_stays_behind_a_task_says_so_however_often_moves_of_another_group_are_refused() {
    let mut stage = Stage::new();
    for (name, rack) in [("m0", "a"), ("m1", "b")] {
        stage.machine(name, 4_000, &[("rack", rack)]);
    }
    let seat = stage.seat(Service::default());
    let both = JobBuilder::new("web", "service").group("moves", 1, 500).on("rack", "a");
    let job = running(&mut stage, &both.group("stays", 2, 500).spread("rack", 1).forever());
    stage.machine("m2", 4_000, &[("rack", "a")]);
    report(&mut stage, job, |found| (found.row.machine == 1).then_some((AllocationState::Running, false)));
    stage.ask("operator", Command::PauseScheduler { scheduler: "service".into(), paused: true });
    drain(&mut stage, 0, 10 * MINUTE);
    stage.advance(15 * SECOND);
    assert!(stage.runtime(seat).counters().rejected > 3, "moves of the first group were tried");
    for _ in 0..20 {
        stage.advance(SECOND / 2);
        let told = stage.passed_over(job, 1);
        assert!(told.ends_with("on m1 is not known to run, and only one of a group is away at a time"), "{told}");
    }
}

/// Each session moved what any session of its name had placed.
#[test]
fn sessions_that_share_the_jobs_move_each_task_once() {
    let (mut stage, _) = stage(&[16_000]);
    stage.seat(Service::default());
    let other = Settings { namespace: "other".into(), ..Settings::default() };
    let stranger = stage.seat_with(Service::default(), other);
    let service = |number: u32| JobBuilder::new(&format!("web{number}"), "service").group("main", 2, 100).forever();
    let jobs: Vec<JobId> = (0..10).map(|number| running(&mut stage, &service(number))).collect();
    stage.machine("m1", 16_000, &[]);
    drain(&mut stage, 0, 10 * MINUTE);
    stage.transcript();
    let_move(&mut stage, &jobs, 4);
    assert!(jobs.iter().all(|&job| serving(&stage, job) == [1, 1]));
    assert_eq!(stage.transcript().lines().filter(|line| *line == "service: 1 of 1 granted").count(), 20);
    assert_eq!(stage.runtime(stranger).counters().transactions, 0);
}

/// Ten services of two tasks on one machine, of the process that is there; and another empty machine.
fn ten_services(stage: &mut Stage) -> Vec<JobId> {
    let service = |number: u32| JobBuilder::new(&format!("web{number}"), "service").group("main", 2, 100).forever();
    let jobs = (0..10).map(|number| running(stage, &service(number))).collect();
    stage.machine("m1", 16_000, &[]);
    jobs
}

/// Its session stands for ten minutes, and what it owned nobody else looked after unless it waited: at the deadline all was stopped at once.
#[test]
fn services_of_a_process_that_is_gone_are_moved_by_another_one() {
    for is_there_before in [true, false] {
        let (mut stage, first) = stage(&[16_000]);
        let other = plenum_sdk::Settings { seed: 9, ..plenum_sdk::Settings::default() };
        if is_there_before {
            stage.seat_with(Service::default(), other.clone());
        }
        let jobs = ten_services(&mut stage);
        stage.cut_off(first);
        if !is_there_before {
            stage.seat_with(Service::default(), other);
        }
        drain(&mut stage, 0, MINUTE);
        let_move(&mut stage, &jobs, 20);
        let moved = jobs.iter().filter(|&&job| serving(&stage, job) == [1, 1]).count();
        assert_eq!(moved, 10, "there before: {is_there_before}");
    }
}

/// What a peer is slow with is nobody else's at once.
#[test]
fn services_of_a_peer_that_is_there_are_left_to_it() {
    let (mut stage, first) = stage(&[16_000]);
    let other = plenum_sdk::Settings { seed: 9, ..plenum_sdk::Settings::default() };
    let second = stage.seat_with(Service::default(), other);
    let jobs = ten_services(&mut stage);
    stage.advance(20 * SECOND);
    drain(&mut stage, 0, 10 * MINUTE);
    let_move(&mut stage, &jobs, 8);
    assert!(jobs.iter().all(|&job| serving(&stage, job) == [1, 1]));
    let refused = [first, second].map(|seat| stage.runtime(seat).counters().refused);
    assert_eq!(refused, [0, 0], "nobody tried what the other one did");
}

/// What the first group would have given back was counted for the second, though nothing came of the first one's move.
#[test]
fn a_move_that_is_not_made_gives_nobody_else_its_quota() {
    let (mut stage, seat) = stage(&[4_000]);
    let jobs = ["one", "other"]
        .map(|name| running(&mut stage, &JobBuilder::new(name, "service").group("main", 1, 500).forever()));
    stage.machine("m1", 4_000, &[]);
    limit(&mut stage, Some(700));
    drain(&mut stage, 0, 10 * MINUTE);
    stage.transcript();
    stage.advance(10 * SECOND);
    assert_eq!((stage.transcript(), stage.runtime(seat).counters().refused), (String::new(), 0));
    assert!(jobs.iter().all(|&job| serving(&stage, job) == [0]));
}

/// What the last walk had found was said until the next one, of a drain that the cell, put back to before that, knows nothing of.
#[test]
fn in_a_cell_that_was_restored_nothing_is_said_of_a_drain_of_before() {
    let (mut stage, _) = stage(&[4_000]);
    let job = running(&mut stage, &web(2).min(2));
    let backup = stage.cell().clone();
    drain(&mut stage, 0, MINUTE);
    let is_said = (0..200).any(|_| {
        stage.advance(SECOND / 100);
        !stage.passed_over(job, 0).is_empty()
    });
    assert!(is_said);
    stage.restore(backup);
    for _ in 0..200 {
        stage.advance(SECOND / 100);
        assert_eq!(stage.passed_over(job, 0), "");
    }
    assert_eq!(serving(&stage, job), [0, 0]);
}
