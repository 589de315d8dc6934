//! Stories of room that a job holds, as who places by sums of room sees it.

use std::cell::RefCell;
use std::rc::Rc;

use plenum_model::{Command, Resource, Resources, SessionId};
use plenum_sdk::{Decision, Plan, Scheduler, Settings, View};

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

/// What each job might hold on the first machine, in thousandths of a core, by the job's name.
type MayHold = Rc<RefCell<BTreeMap<String, i64>>>;

/// Does the same, and writes down what it sees before.
struct WritesDown(MayHold);

impl Scheduler for WritesDown {
    fn name(&self) -> &str {
        "sums"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let may_hold = |id| view.room_to_hold(0, id).get(Resource::CpuMillis);
        *self.0.borrow_mut() = view.cell().jobs().map(|job| (job.shape.name.to_string(), may_hold(job.id))).collect();
        BySums.decide(view)
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

/// Who asks for a hold of room that an own transaction on its way takes gets fewer machines than the view promised, or none.
#[test]
fn what_a_job_may_hold_is_less_what_own_transactions_may_still_take() {
    let mut stage = Stage::new();
    let machine = stage.machine("m1", 4000, &[]);
    let low = stage.submit(&job("low", "nobody", 4).priority(20));
    stage.submit(&job("high", "nobody", 4).priority(70));
    stage.submit(&job("late", "nobody", 4).priority(20));
    hold(&mut stage, low, machine, 2000);
    let seen = MayHold::default();
    let seat = stage.seat_with(WritesDown(Rc::clone(&seen)), Settings { window: 4, ..Settings::default() });
    let may_hold = || ["low", "high", "late"].map(|name| seen.borrow()[name]);
    stage.hold(seat);
    let first = stage.submit(&job("first", "sums", 1));
    stage.advance(100_000);
    assert_eq!(may_hold(), [4000, 4000, 2000], "a hold that comes first is not to be had");
    // It fits nowhere, and only has the scheduler look once more.
    stage.submit(&JobBuilder::new("huge", "sums").group("main", 1, 9000));
    stage.advance(100_000);
    assert!(stage.placed(first).is_empty(), "the cell has heard of nothing");
    assert_eq!(may_hold(), [3000, 3000, 1000], "less the claim that is on its way");
    stage.release(seat);
    stage.advance(10_000_000);
    assert_eq!(stage.placed(first), [(0, 0, machine)]);
    assert_eq!(may_hold(), [3000, 3000, 1000], "and not twice, once it was granted");
}
