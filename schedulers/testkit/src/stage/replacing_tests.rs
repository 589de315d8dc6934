//! Stories of schedulers that claim tasks in the place of others, and keep books of that with a ledger.

use plenum_model::JobState;
use plenum_sdk::{Decision, Plan, Scheduler, View, Work};

use super::quota_tests::quota;
use super::*;

/// Places what fits. For what does not it stops what runs of the job `old`, in whose place that comes, and does not place that again.
struct InPlace;

impl Scheduler for InPlace {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        let is_old = |job: JobId| view.cell().job(job).is_some_and(|job| &*job.shape.name == "old");
        let victim = view.cell().allocations().find(|found| is_old(found.row.job()));
        let mut is_stopped = victim.is_none_or(|victim| victim.status.state.is_leaving());
        for work in view.work().iter().filter(|work| victim.is_none() || !is_old(work.job.id)) {
            for &task in &work.tasks {
                if ledger.take(work, 0) {
                    plan.claim(work, &[task], &[0]);
                    continue;
                }
                let Some(victim) = victim else { continue };
                if !is_stopped {
                    assert!(!ledger.take_over(work, 0, &[victim.id]), "nobody has said that it goes");
                }
                ledger.gives_back(victim.id);
                // Named twice, it gives what it has once.
                if ledger.take_over(work, 0, &[victim.id, victim.id]) {
                    plan.claim(work, &[task], &[0]).take_over(task, victim.id);
                    if !std::mem::replace(&mut is_stopped, true) {
                        plan.stop(victim.id);
                    }
                } else {
                    decision.pass_over(work, 1, "no room");
                }
            }
        }
        decision.commit(plan);
        decision
    }
}

/// How many claims of a scheduler were granted, and how many were not.
fn claimed(stage: &Stage, seat: Seat) -> (u64, u64) {
    let counters = stage.runtime(seat).counters();
    (counters.claims_granted, counters.claims_other + counters.claims_conflict + counters.claims_misfit)
}

fn job(name: &str, count: u32, cpu_millis: i64) -> JobBuilder {
    JobBuilder::new(name, "blue").group("main", count, cpu_millis)
}

// The ledger knew nothing of room that is taken over: who claimed in the place of others had to reckon all of that himself.
#[test]
fn who_comes_in_the_place_of_another_has_its_room_in_the_ledger_and_no_more() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let seat = stage.seat(InPlace);
    let old = stage.submit(&job("old", 1, 3000));
    stage.settle();
    assert_eq!(stage.placed(old).len(), 1);
    // 1000 are free: the first lacks 500, the second all of its own, and what is left of 3000 is less than the third needs.
    let new = stage.submit(&job("new", 3, 1500));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(old).len(), stage.placed(new).len()), (0, 2));
    assert_eq!(stage.passed_over(new, 0), "no room");
    assert_eq!(claimed(&stage, seat), (3, 0), "nothing was claimed that is refused");
    // Of one who leaves already, what others took over from it is gone.
    let (small, more) = (stage.submit(&job("small", 1, 1000)), stage.submit(&job("more", 1, 1)));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(small).len(), stage.placed(more).len()), (1, 0));
    assert_eq!(claimed(&stage, seat), (4, 0));
}

/// One that fills the machine, and was granted to the job `new` in the place of the other, which has not ended.
fn replaced() -> (Stage, AllocationId, JobId) {
    let mut stage = Stage::new();
    stage.machine("m1", 1000, &[]);
    stage.seat(InPlace);
    stage.submit(&job("old", 1, 1000));
    stage.settle();
    let old = stage.cell().allocations().map(|found| found.id).next().expect("it was placed");
    let new = stage.submit(&job("new", 1, 1000));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(new).len(), 1);
    (stage, old, new)
}

// It ran and ended while the other one was there: no test of a scheduler that replaces or evicts could fail for what comes of that too early.
#[test]
fn who_comes_in_the_place_of_another_runs_on_the_stage_once_that_has_ended() {
    let (mut stage, old, new) = replaced();
    let state = |stage: &Stage| stage.cell().job(new).map(|job| job.state);
    stage.finish(new, true);
    assert_ne!(state(&stage), Some(JobState::Complete));
    assert_eq!(stage.placed(new).len(), 1);
    stage.report(old, AllocationState::Stopped, 143);
    stage.finish(new, true);
    assert_eq!(state(&stage), Some(JobState::Complete));
}

#[test]
#[should_panic(expected = "it takes over room of")]
fn that_it_runs_before_is_not_reported() {
    let (mut stage, _, new) = replaced();
    let found = stage.cell().allocations().find(|found| found.row.job() == new).map(|found| found.id);
    stage.report(found.expect("it was placed"), AllocationState::Running, 0);
}

#[test]
fn devices_and_ports_of_who_leaves_are_taken_over_in_the_ledger_too() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 4000, &[], 2);
    let seat = stage.seat(InPlace);
    stage.submit(&job("old", 1, 100).gpu(1000).port("http", 8080));
    stage.settle();
    // One GPU is free, and the port is not.
    let new = stage.submit(&job("new", 1, 100).gpu(1000).gpu(600).port("http", 8080));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(new).len(), 1);
    let (rest, more) = (stage.submit(&job("rest", 1, 100).gpu(400)), stage.submit(&job("more", 1, 100).gpu(100)));
    let same = stage.submit(&job("same", 1, 100).port("http", 8080));
    stage.advance(1_000_000);
    let placed = [rest, more, same].map(|job| stage.placed(job).len());
    assert_eq!((placed, claimed(&stage, seat)), ([1, 0, 0], (3, 0)));
}

/// Moves one task once to where it is.
#[derive(Default)]
struct Renewing {
    has_renewed: bool,
}

impl Scheduler for Renewing {
    fn name(&self) -> &str {
        "blue"
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::all_or_nothing(), view.ledger());
        for work in view.work().iter().filter(|work| ledger.take(work, 0)) {
            plan.claim(work, &work.tasks, &[0]);
        }
        let active = view.cell().allocations().find(|found| found.status.state.is_active());
        if let Some(found) = active.filter(|_| !self.has_renewed) {
            let job = view.cell().job(found.row.job()).expect("a job of the cell");
            let work = Work::to_move(job, found.row.group, vec![found.row.task]).expect("a group of the job");
            ledger.gives_back(found.id);
            assert!(!ledger.take(&work, 0), "its room is not free yet");
            assert!(ledger.take_over(&work, 0, &[found.id]));
            plan.claim(&work, &work.tasks, &[0]).take_over(found.row.task, found.id).stop(found.id);
            self.has_renewed = true;
        }
        decision.again_after(10_000);
        decision.commit(plan);
        decision
    }
}

// The limits of its group counted whom the plan stops.
#[test]
fn a_task_comes_in_its_own_place_where_its_group_has_one_on_a_machine() {
    let mut stage = Stage::new();
    stage.machine("m1", 1000, &[]);
    let seat = stage.seat(Renewing::default());
    let web = stage.submit(&job("web", 1, 1000).per_machine(1).forever());
    stage.advance(1_000_000);
    assert_eq!((stage.placed(web), claimed(&stage, seat)), (vec![(0, 0, 0)], (2, 0)));
    let leaving = stage.cell().allocations().filter(|found| found.status.state.is_leaving());
    assert_eq!(leaving.count(), 1);
}

/// Would move each task that runs to where it is, or to the second machine.
struct Restless;

impl Scheduler for Restless {
    fn name(&self) -> &str {
        "blue"
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut ledger) = (Decision::default(), view.ledger());
        let mut plan = Plan::incremental();
        for work in view.work().iter().filter(|work| ledger.take(work, 0)) {
            plan.claim(work, &work.tasks, &[0]);
        }
        decision.commit(plan);
        for found in view.cell().allocations() {
            let job = view.cell().job(found.row.job()).expect("a job of the cell");
            let work = Work::to_move(job, found.row.group, vec![found.row.task]).expect("a group of the job");
            ledger.gives_back(found.id);
            let mut plan = Plan::all_or_nothing();
            if ledger.take(&work, 1) {
                plan.claim(&work, &work.tasks, &[1]).stop(found.id);
            } else if ledger.take_over(&work, 0, &[found.id]) {
                plan.claim(&work, &work.tasks, &[0]).take_over(found.row.task, found.id).stop(found.id);
            }
            ledger.keeps(found.id);
            decision.commit(plan);
        }
        decision.again_after(10_000);
        decision
    }
}

// The books had room for its successor, and the cell refused that as often as it was asked: nothing of the group moved, and each try stood in the log.
#[test]
fn a_task_of_which_one_runs_at_a_time_has_no_room_in_the_ledger_before_its_end() {
    let mut stage = Stage::new();
    (0..2).for_each(|number| {
        stage.machine(&format!("m{number}"), 1000, &[]);
    });
    let seat = stage.seat(Restless);
    let web = stage.submit(&job("web", 1, 1000).single_instance().forever());
    stage.advance(100_000);
    assert_eq!((stage.placed(web), claimed(&stage, seat)), (vec![(0, 0, 0)], (1, 0)));
    let running = stage.cell().allocations().map(|found| found.id).next().expect("it was placed");
    stage.ask("owner", Command::StopAllocation(running));
    stage.advance(100_000);
    assert_eq!(claimed(&stage, seat), (1, 0), "as long as it leaves, too");
    stage.report(running, AllocationState::Stopped, 143);
    stage.advance(100_000);
    assert_eq!((stage.placed(web), claimed(&stage, seat)), (vec![(0, 0, 0)], (2, 0)));
}

/// Would move what runs to a machine that is too small for it, and then fills the other one with what waits.
struct Staying;

impl Scheduler for Staying {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        for found in view.cell().allocations().filter(|found| found.status.state.is_active()) {
            let job = view.cell().job(found.row.job()).expect("a job of the cell");
            let work = Work::to_move(job, found.row.group, vec![found.row.task]).expect("a group of the job");
            ledger.gives_back(found.id);
            assert!(!ledger.take(&work, 1), "it is too small");
            // Said twice, it is taken back once.
            ledger.keeps(found.id);
            ledger.keeps(found.id);
        }
        for work in view.work() {
            let slots = ledger.fill(work, [0]);
            plan.claim(work, &work.tasks[..slots.len()], &slots);
        }
        decision.commit(plan);
        decision
    }
}

// What was counted as one that goes went on counting so where it could not go: what was claimed on by these books was refused, for the quota and for the limits.
#[test]
fn what_stays_after_all_counts_for_quotas_and_limits_as_before() {
    let mut stage = Stage::new();
    stage.machine("m0", 8000, &[]);
    stage.machine("m1", 100, &[]);
    stage.ask("operator", quota(2000));
    let seat = stage.seat(Staying);
    let web = stage.submit(&job("web", 2, 1000).per_machine(1));
    stage.settle();
    let other = stage.submit(&job("other", 2, 1000));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(web), stage.placed(other)), (vec![(0, 0, 0)], vec![(0, 0, 0)]));
    assert_eq!(claimed(&stage, seat), (2, 0), "nothing was claimed that is refused");
}
