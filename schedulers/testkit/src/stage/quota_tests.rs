//! Stories of schedulers that judge quotas with the ledger.

use plenum_model::{AllocationState, Command, Resources, SessionId};
use plenum_sdk::{Decision, Plan, Scheduler, Settings, View};

use super::tests::{FirstFit, job};
use super::*;

pub(super) fn quota(cpu_millis: u64) -> Command {
    let limit = plenum_model::Quota { limits: [Some(cpu_millis), None, None, None, None, None, None, None] };
    Command::SetQuota { namespace: "default".into(), limit: Some(limit) }
}

// The ledger knew nothing of quotas: what was over one was claimed and refused again and again, each time a line of the log.
#[test]
fn a_ledger_takes_no_more_than_the_quota_has_and_its_scheduler_is_asked_when_there_is_more() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    stage.ask("operator", quota(3000));
    stage.seat(FirstFit("green"));
    let before = stage.submit(&job("before", "green", 1));
    stage.settle();
    let seat = stage.seat(FirstFit("blue"));
    let (words, more) = (stage.submit(&job("words", "blue", 3)), stage.submit(&job("more", "blue", 1)));
    stage.advance(10_000_000);
    assert_eq!((stage.placed(before).len(), stage.placed(words).len(), stage.placed(more).len()), (1, 2, 0));
    assert_eq!((stage.passed_over(words, 0), stage.passed_over(more, 0)), ("no room", "no room"));
    let claimed = |stage: &Stage| {
        let counters = stage.runtime(seat).counters();
        (counters.claims_granted, counters.claims_other + counters.claims_conflict + counters.claims_misfit)
    };
    assert_eq!(claimed(&stage), (2, 0), "nothing was claimed that is refused");
    // Another scheduler's task is told to stop: its quota is free with that, and its room is there.
    stage.ask("operator", Command::StopJob { job: before, version: None });
    stage.advance(100_000);
    assert_eq!((stage.placed(words).len(), stage.placed(more).len()), (3, 0));
    stage.ask("operator", quota(4000));
    stage.advance(100_000);
    assert_eq!((stage.placed(words).len(), stage.placed(more).len()), (3, 1));
    assert_eq!(claimed(&stage), (4, 0));
}

/// One transaction was not answered yet, and the next decision had the quota once more.
#[test]
fn what_transactions_in_flight_may_take_of_a_quota_is_counted() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    stage.ask("operator", quota(2000));
    let seat = stage.seat_with(FirstFit("blue"), Settings { window: 4, ..Settings::default() });
    stage.hold(seat);
    let first = stage.submit(&job("first", "blue", 2));
    stage.settle();
    let second = stage.submit(&job("second", "blue", 2));
    stage.settle();
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(first).len(), stage.placed(second).len()), (2, 0));
    assert_eq!(stage.runtime(seat).counters().claims_other, 0, "nothing was refused");
}

/// A hold counts, and is free room for its own job.
#[test]
fn a_hold_takes_quota_from_others_and_not_from_its_own_job() {
    let mut stage = Stage::new();
    let machine = stage.machine("m1", 8000, &[]);
    stage.ask("operator", quota(3000));
    let seat = stage.seat(FirstFit("blue"));
    stage.hold(seat);
    let (gang, other) = (stage.submit(&job("gang", "blue", 2)), stage.submit(&job("other", "blue", 2)));
    let resources = Resources { cpu_millis: 2000, ..Resources::default() };
    let deadline = stage.cell().time().plus_micros(300_000_000);
    stage.ask(
        "operator",
        Command::TakeHold { session: SessionId::default(), job: gang, machines: vec![machine], resources, deadline },
    );
    stage.release(seat);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(gang).len(), stage.placed(other).len()), (2, 1));
    assert_eq!(stage.runtime(seat).counters().claims_other, 0, "nothing was refused");
}

#[test]
fn the_quota_of_one_namespace_is_nothing_to_another() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    stage.ask("operator", quota(1000));
    stage.seat(FirstFit("blue"));
    let (here, elsewhere) = (job("here", "blue", 2), job("elsewhere", "blue", 2).namespace("other"));
    let (here, elsewhere) = (stage.submit(&here), stage.submit(&elsewhere));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(here).len(), stage.placed(elsewhere).len()), (1, 2));
}

/// Stops one task for another that waits, once, in the plan that claims that one.
#[derive(Default)]
struct Replacing {
    has_replaced: bool,
}

impl Scheduler for Replacing {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::all_or_nothing(), view.ledger());
        for work in view.work() {
            let is_short = !self.has_replaced && ledger.quota_shortage(work).is_some();
            if let Some(oldest) = view.cell().allocations().next().filter(|_| is_short) {
                self.has_replaced = true;
                plan.stop(oldest.id);
                // Said twice, it is given back once.
                ledger.gives_back(oldest.id);
                ledger.gives_back(oldest.id);
            }
            let fitting: Vec<u32> = work.tasks.iter().copied().filter(|_| ledger.take(work, 0)).collect();
            plan.claim(work, &fitting, &vec![0; fitting.len()]);
        }
        decision.commit(plan);
        decision
    }
}

/// A namespace at its quota had nothing of it moved: what a plan stops is quota for what it claims.
#[test]
fn who_stops_one_task_for_another_has_its_quota() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    stage.ask("operator", quota(2000));
    let seat = stage.seat(Replacing::default());
    let first = stage.submit(&job("first", "blue", 2));
    stage.settle();
    assert_eq!(stage.placed(first).len(), 2);
    let second = stage.submit(&job("second", "blue", 1));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(second).len(), 1);
    let leaving = stage.cell().allocations().filter(|found| found.status.state == AllocationState::Stopping);
    assert_eq!(leaving.count(), 1);
    assert_eq!(stage.runtime(seat).counters().claims_other, 0, "nothing was refused");
}

/// Any stop anywhere woke everybody who waited for anything.
#[test]
fn what_leaves_a_namespace_without_a_quota_wakes_nobody_who_waits() {
    for (namespace, woken) in [("other", 0), ("default", 1)] {
        let mut stage = Stage::new();
        stage.machine("m1", 8000, &[]);
        stage.ask("operator", quota(2000));
        stage.seat(FirstFit("green"));
        let before = stage.submit(&job("before", "green", 1).namespace(namespace));
        stage.settle();
        let seat = stage.seat(FirstFit("blue"));
        stage.submit(&job("words", "blue", 3));
        stage.advance(10_000_000);
        let decisions = stage.runtime(seat).counters().decisions;
        stage.ask("operator", Command::StopJob { job: before, version: None });
        stage.advance(100_000);
        let decided = stage.runtime(seat).counters().decisions - decisions;
        assert!((decided > 0) == (woken > 0), "{decided} decisions after a stop in {namespace}");
    }
}
