//! Stories of schedulers that fill machines in an order of their own, with a ledger.

use plenum_sdk::{Decision, Ledger, Plan, Scheduler, View, Work};

use super::quota_tests::quota;
use super::*;

/// Fills machines in the order of their slots, and sees each time that its ledger does as one would by hand.
struct Filling;

impl Scheduler for Filling {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        for work in view.work() {
            let slots: Vec<u32> = view.cell().machines().map(|machine| machine.id.slot).collect();
            let mut by_hand = ledger.clone();
            let machines = ledger.fill(work, slots.iter().copied());
            assert_eq!(machines, filled_by_hand(&mut by_hand, work, &slots));
            assert_eq!(judged(view, &mut ledger, &slots), judged(view, &mut by_hand, &slots), "the books");
            let (placed, left) = work.tasks.split_at(machines.len());
            plan.claim(work, placed, &machines);
            if !left.is_empty() {
                decision.pass_over(work, left.len(), "no room");
            }
        }
        decision.commit(plan);
        decision
    }
}

/// What `fill` gives, task by task, with clones of the ledger and without haste.
fn filled_by_hand(ledger: &mut Ledger<'_>, work: &Work, slots: &[u32]) -> Vec<u32> {
    let tries: Vec<&[u32]> = if work.job.shape.same_machine { slots.chunks(1).collect() } else { vec![slots] };
    for slots in tries {
        let mut tried = ledger.clone();
        let first = |_: &u32| slots.iter().copied().find(|&slot| tried.take(work, slot));
        let taken: Vec<u32> = work.tasks.iter().filter_map(first).collect();
        if !taken.is_empty() && taken.len() >= work.least as usize {
            *ledger = tried;
            return taken;
        }
    }
    Vec::new()
}

/// What the books say to one more task of whatever waits, on each machine.
fn judged(view: &View<'_>, ledger: &mut Ledger<'_>, slots: &[u32]) -> Vec<String> {
    let mut judged = Vec::new();
    for work in view.work() {
        judged.push(format!("{:?}", ledger.quota_shortage(work)));
        judged.extend(slots.iter().map(|&slot| format!("{:?}", ledger.obstacle(work, slot))));
    }
    judged
}

fn job(name: &str, count: u32, cpu_millis: i64) -> JobBuilder {
    JobBuilder::new(name, "blue").group("main", count, cpu_millis)
}

/// How many claims of a scheduler were refused.
fn refused(stage: &Stage, seat: Seat) -> u64 {
    let counters = stage.runtime(seat).counters();
    counters.claims_other + counters.claims_conflict + counters.claims_misfit
}

// A scheduler that took task by task bound the job to the first machine with room for one of it. There was never room for the others, and on the machine with
// room for all it was not tried.
#[test]
fn a_gang_that_shares_a_machine_goes_to_the_first_one_with_room_for_all_that_start_at_once() {
    let mut stage = Stage::new();
    stage.machine("m0", 600, &[]);
    stage.machine("m1", 4000, &[]);
    let seat = stage.seat(Filling);
    let gang = stage.submit(&job("gang", 4, 500).min(4).same_machine());
    let small = stage.submit(&job("small", 1, 600));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(gang), [(0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 3, 1)]);
    assert_eq!(stage.placed(small), [(0, 0, 0)], "what was tried in vain is free");
    assert_eq!(refused(&stage, seat), 0);
}

#[test]
fn groups_that_share_a_machine_follow_the_first_one_of_them() {
    let mut stage = Stage::new();
    stage.machine("m0", 600, &[]);
    stage.machine("m1", 2000, &[]);
    let seat = stage.seat(Filling);
    let two = JobBuilder::new("two", "blue").group("first", 2, 500).min(2).group("second", 3, 400);
    let two = stage.submit(&two.same_machine());
    stage.advance(1_000_000);
    assert_eq!(stage.placed(two), [(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]);
    assert_eq!(stage.passed_over(two, 1), "no room");
    assert_eq!(refused(&stage, seat), 0);
}

#[test]
fn what_a_gang_would_take_in_vain_is_there_for_who_comes_next() {
    let mut stage = Stage::new();
    stage.machine_with_gpus("m0", 4000, &[], 2);
    stage.machine_with_gpus("m1", 4000, &[], 1);
    let seat = stage.seat(Filling);
    let gang = stage.submit(&job("gang", 4, 100).gpu(1000).min(4).priority(60));
    let apart = stage.submit(&job("apart", 3, 4000).per_machine(1).min(3).priority(60));
    let gpus = stage.submit(&job("gpus", 3, 100).gpu(1000));
    let cores = stage.submit(&job("cores", 77, 100));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(gang), stage.placed(apart)), (Vec::new(), Vec::new()));
    assert_eq!((stage.placed(gpus).len(), stage.placed(cores).len()), (3, 77));
    assert_eq!(refused(&stage, seat), 0);
}

#[test]
fn a_quota_bounds_what_is_filled_and_keeps_a_gang_out_whole() {
    let mut stage = Stage::new();
    stage.machine("m0", 2000, &[]);
    stage.machine("m1", 8000, &[]);
    stage.ask("operator", quota(3000));
    let seat = stage.seat(Filling);
    let gang = stage.submit(&job("gang", 4, 1000).min(4).priority(60));
    let some = stage.submit(&job("some", 5, 1000));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(gang).len(), stage.placed(some).len()), (0, 3));
    stage.ask("operator", quota(7000));
    stage.advance(3_000_000);
    assert_eq!((stage.placed(gang).len(), stage.placed(some).len()), (4, 3));
    assert_eq!(refused(&stage, seat), 0);
}

#[test]
fn what_is_filled_is_what_one_would_find_by_hand_and_none_of_it_is_refused() {
    let mut state = 7_u32;
    let mut below = move |bound: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % bound
    };
    let mut granted = 0;
    for case in 0..100 {
        let mut stage = Stage::new();
        for name in ["m0", "m1", "m2"] {
            stage.machine_with_gpus(name, u64::from(500 * (1 + below(8))), &[], below(3));
        }
        if below(2) == 0 {
            stage.ask("operator", quota(u64::from(500 * below(16))));
        }
        for number in 0..8 {
            let count = 1 + below(4);
            let mut job = job(&format!("job-{number}"), count, i64::from(250 * (1 + below(4)))).min(below(count + 1));
            if below(3) == 0 {
                job = job.gpu(if below(2) == 0 { 500 } else { 1000 });
            }
            let per_machine = (below(4) == 0).then(|| 1 + below(2));
            // With fewer tasks there than are to be at once, such a job is refused.
            job = match (below(3) == 0, per_machine) {
                (true, _) => job.same_machine(),
                (false, Some(most)) => job.per_machine(most),
                (false, None) => job,
            };
            stage.submit(&job);
        }
        let seat = stage.seat(Filling);
        stage.advance(1_000_000);
        assert_eq!(refused(&stage, seat), 0, "case {case}");
        granted += stage.runtime(seat).counters().claims_granted;
    }
    assert!(granted > 500, "only {granted} claims were made");
}
