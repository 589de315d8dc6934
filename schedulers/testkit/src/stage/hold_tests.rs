//! Stories of room that a job holds, as who places by sums of room sees it.

use plenum_model::{Command, Resources, SessionId};
use plenum_sdk::{Decision, Plan, Scheduler, View};

use super::tests::job;
use super::*;

/// Claims a machine for the first task of each group, where there is room for it by the view's sums.
struct BySums;

impl Scheduler for BySums {
    fn name(&self) -> &str {
        "sums"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan) = (Decision::default(), Plan::incremental());
        for work in view.work() {
            let fits = |slot: &u32| view.room_for(*slot, work.job.id).shortage(&work.shape().resources).is_none();
            let slot = view.cell().machines().map(|machine| machine.id.slot).find(fits);
            slot.into_iter().for_each(|slot| {
                plan.claim(work, &work.tasks[..1], &[slot]);
            });
        }
        decision.commit(plan);
        decision
    }
}

fn hold(stage: &mut Stage, job: JobId, machine: u32, cpu_millis: u64) {
    let (resources, deadline) = (Resources::new(cpu_millis, 1), stage.cell().time().plus_micros(600_000_000));
    stage.ask(
        "owner",
        Command::TakeHold { session: SessionId::default(), job, machines: vec![machine], resources, deadline },
    );
}

/// It was free by the view, and the cell refused each claim as one that could never fit, for as long as the hold stood.
#[test]
fn what_others_hold_is_not_free() {
    let mut stage = Stage::new();
    let machine = stage.machine("m1", 4000, &[]);
    let gang = stage.submit(&job("gang", "nobody", 4));
    hold(&mut stage, gang, machine, 4000);
    let seat = stage.seat(BySums);
    let words = stage.submit(&job("words", "sums", 1));
    stage.advance(10_000_000);
    assert_eq!(stage.runtime(seat).counters().claims_misfit, 0, "{:?}", stage.notices(seat));
    stage.machine("m2", 1000, &[]);
    stage.advance(10_000_000);
    assert_eq!(stage.placed(words), [(0, 0, 1)]);
}

#[test]
fn what_a_job_holds_itself_is_free_for_it() {
    let mut stage = Stage::new();
    let machine = stage.machine("m1", 4000, &[]);
    let words = stage.submit(&job("words", "sums", 1));
    hold(&mut stage, words, machine, 4000);
    stage.seat(BySums);
    stage.advance(10_000_000);
    assert_eq!(stage.placed(words), [(0, 0, machine)]);
}
