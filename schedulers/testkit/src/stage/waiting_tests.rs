//! Stories of work that waits: who has its turn, and who tries whose jobs.

use std::cell::RefCell;
use std::rc::Rc;

use plenum_model::{AllocationRef, Port};
use plenum_sdk::{Decision, Plan, Scheduler, Settings, View, Work};

use super::quota_tests::quota;
use super::tests::{FirstFit, OneByOne, all_on_the_first, job};
use super::*;

/// The second group of a job was never offered: the first, as large as a decision, fitted nowhere, and with it the whole job was
/// passed over, in every pass.
#[test]
fn a_group_behind_a_sibling_that_fits_nowhere_has_its_turn() {
    for (wide, more) in [(2, 0), (3, 0), (2, 4)] {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        let settings = Settings { tasks_max: 2, ..Settings::default() };
        let seat = stage.seat_with(FirstFit("blue"), settings);
        let both = JobBuilder::new("both", "blue").group("wide", wide, 9000).group("small", 1 + more, 500);
        let both = stage.submit(&both);
        let other = stage.submit(&job("other", "blue", 1));
        stage.advance(100_000);
        let placed = |job| stage.placed(job).len();
        assert_eq!((placed(both), placed(other)), (1 + more as usize, 1), "{wide} that fit nowhere");
        assert_eq!(stage.passed_over(both, 0), "no room");
        let before = stage.runtime(seat).counters().decisions;
        stage.advance(10_000_000);
        assert!(stage.runtime(seat).counters().decisions <= before + 2, "then there is rest");
    }
}

/// Claims of each group what it needs at once, on the first machine.
struct AtOnce;

impl Scheduler for AtOnce {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan) = (Decision::default(), Plan::incremental());
        for work in view.work() {
            let tasks = &work.tasks[..work.least as usize];
            plan.claim(work, tasks, &vec![0; tasks.len()]);
        }
        decision.commit(plan);
        decision
    }
}

/// One was offered where four are needed at once: who took the first four of what is offered panicked, and again after each start.
#[test]
fn of_a_group_of_which_too_few_can_be_placed_none_is_offered_and_it_says_why() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    stage.seat(AtOnce);
    let gang = stage.submit(&job("gang", "blue", 4).min(4).single_instance());
    stage.settle();
    assert_eq!(stage.placed(gang).len(), 4);
    let placed: Vec<_> = stage.cell().allocations().map(|found| found.id).collect();
    for &allocation in &placed {
        stage.ask("owner", Command::StopAllocation(allocation));
    }
    stage.report(placed[0], AllocationState::Stopped, 143);
    stage.advance(1_000_000);
    assert_eq!(stage.placed(gang), []);
    let why =
        "it starts with 4 at once, and 1 of them can be placed now: the others wait for their predecessors to end";
    assert_eq!(stage.passed_over(gang, 0), why);
    placed[1..].iter().for_each(|&allocation| stage.report(allocation, AllocationState::Stopped, 143));
    stage.advance(1_000_000);
    assert_eq!((stage.placed(gang).len(), stage.passed_over(gang, 0)), (4, ""));
}

/// What was planned beyond the window was dropped, and the pass went on behind it: jobs that came later took the room.
#[test]
fn what_the_window_cut_off_goes_before_all_that_is_behind_it() {
    let mut stage = Stage::new();
    let settings = Settings { tasks_max: 3, window: 2, ..Settings::default() };
    let seat = stage.seat_with(OneByOne, settings);
    stage.cut_off(seat);
    let jobs: Vec<_> = (0..6).map(|number| stage.submit(&job(&format!("job{number}"), "one-by-one", 1))).collect();
    stage.machine("m1", 4000, &[]);
    stage.let_back(seat);
    stage.advance(1_000_000);
    let placed: Vec<_> = jobs.iter().map(|&job| stage.placed(job).len()).collect();
    assert_eq!(placed, [1, 1, 1, 1, 0, 0]);
}

/// Places on the first machine, and moves what it finds there to another one, once there is one, but for jobs that rest; after the first try
/// to a third one. Asks for nothing, but to be called as it begins.
struct Moving {
    to: u32,
    then: u32,
}

impl Moving {
    /// A plan for each move.
    fn moves(&self, view: &View<'_>) -> Vec<Plan> {
        let (cell, mut plans) = (view.cell(), Vec::new());
        let stays = |found: &AllocationRef<'_>| found.row.machine == 0 && found.status.state.is_active();
        for found in cell.allocations().filter(|found| cell.machine_in(self.to).is_some() && stays(found)) {
            let job = cell.job(found.row.job()).expect("a job of the test").clone();
            if view.rests(&job) {
                continue;
            }
            let work = Work { job, group: found.row.group, tasks: vec![found.row.task], attempt: 1, least: 0 };
            let mut plan = Plan::all_or_nothing();
            plan.claim(&work, &work.tasks, &[self.to]).stop(found.id);
            plans.push(plan);
        }
        plans
    }
}

impl Scheduler for Moving {
    fn name(&self) -> &str {
        "blue"
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        decision.commit(all_on_the_first(view));
        let moves = self.moves(view);
        if !moves.is_empty() {
            self.to = self.then;
        }
        moves.into_iter().for_each(|plan| decision.commit(plan));
        decision
    }
}

/// The second move was dropped, as one transaction may be in flight; nothing waited, so that nobody asked for it again, and the task stayed.
#[test]
fn a_move_beyond_the_window_is_asked_for_again_once_there_is_an_answer() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let seat = stage.seat_with(Moving { to: 1, then: 1 }, Settings { window: 1, ..Settings::default() });
    let words = stage.submit(&job("words", "blue", 2));
    stage.advance(1_000_000);
    assert_eq!(stage.placed(words), [(0, 0, 0), (0, 1, 0)]);
    stage.machine("m2", 4000, &[]);
    stage.settle();
    stage.cut(seat);
    stage.advance(5_000_000);
    assert_eq!(stage.placed(words), [(0, 0, 1), (0, 1, 1)]);
    assert_eq!(stage.runtime(seat).counters().dropped, 1);
    let decisions = stage.runtime(seat).counters().decisions;
    stage.advance(60_000_000);
    assert_eq!(stage.runtime(seat).counters().decisions, decisions, "then there is rest");
}

/// It was asked again while the job of the move before it rested, left that alone, and was asked no more; or asked then for the work of another one.
#[test]
fn a_move_beyond_the_window_is_not_lost_where_the_one_before_it_is_refused() {
    for is_asked_meanwhile in [false, true] {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        let seat = stage.seat_with(Moving { to: 1, then: 2 }, Settings { window: 1, ..Settings::default() });
        let words = stage.submit(&job("words", "blue", 2));
        stage.advance(1_000_000);
        stage.machine("small", 100, &[]);
        stage.machine("m3", 4000, &[]);
        stage.settle();
        stage.cut_off(seat);
        stage.advance(1_000_000);
        stage.transcript();
        stage.let_back(seat);
        stage.settle();
        assert!(stage.transcript().starts_with("blue: 0 of 1 granted\n"), "the first move finds no room");
        stage.advance(1_000);
        if is_asked_meanwhile {
            let decisions = stage.runtime(seat).counters().decisions;
            stage.submit(&job("other", "blue", 1));
            stage.settle();
            assert_eq!(stage.runtime(seat).counters().decisions, decisions + 1);
            assert_eq!(stage.placed(words), [(0, 0, 0), (0, 1, 0)], "it rests");
        }
        stage.advance(1_000_000);
        assert_eq!(stage.placed(words), [(0, 0, 2), (0, 1, 2)], "with other work meanwhile: {is_asked_meanwhile}");
        let decisions = stage.runtime(seat).counters().decisions;
        stage.advance(60_000_000);
        assert_eq!(stage.runtime(seat).counters().decisions, decisions, "then there is rest");
    }
}

/// Each refusal of one that fits nowhere put off what was dropped until its next try: one move in two seconds, though all of them were granted.
#[test]
fn one_job_that_is_always_refused_does_not_hold_up_the_moves_of_others() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    stage.seat_with(Moving { to: 1, then: 1 }, Settings { window: 2, ..Settings::default() });
    let jobs: Vec<_> = (0..4).map(|number| stage.submit(&job(&format!("job{number}"), "blue", 1))).collect();
    stage.advance(1_000_000);
    stage.submit(&JobBuilder::new("big", "blue").group("main", 1, 5000));
    stage.advance(20_000_000);
    assert!(jobs.iter().all(|&job| stage.placed(job) == [(0, 0, 0)]));
    stage.machine("m2", 4000, &[]);
    stage.advance(2_500_000);
    assert!(jobs.iter().all(|&job| stage.placed(job) == [(0, 0, 1)]), "{}", stage.transcript());
}

/// Claims the first machine for everything, and judges nothing.
struct Boundless(&'static str);

impl Scheduler for Boundless {
    fn name(&self) -> &str {
        self.0
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        decision.commit(all_on_the_first(view));
        decision
    }
}

/// Notes how many tasks it was offered, and how many share the jobs.
struct Watched {
    inner: FirstFit,
    offered: Rc<RefCell<Vec<(usize, u32)>>>,
}

impl Scheduler for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let tasks = view.work().iter().map(|work| work.tasks.len()).sum();
        self.offered.borrow_mut().push((tasks, view.place_among_peers().1));
        self.inner.decide(view)
    }
}

/// Members of one name thought each other dead when no job found room for a second: from then on each tried all jobs, and all of
/// them claimed the same room as soon as there was some.
#[test]
fn in_a_full_cell_members_leave_each_others_jobs_alone() {
    let mut stage = Stage::new();
    let seen: Vec<_> = (0..2).map(|_| Rc::new(RefCell::new(Vec::new()))).collect();
    let watched = |seen: &Rc<_>| Watched { inner: FirstFit("blue"), offered: Rc::clone(seen) };
    let seats: Vec<_> = seen.iter().map(|seen| stage.seat(watched(seen))).collect();
    let jobs: Vec<_> = (0..20).map(|number| stage.submit(&job(&format!("job{number}"), "blue", 1))).collect();
    stage.advance(10_300_000);
    for seen in &seen {
        let seen = seen.borrow();
        assert!(seen.iter().all(|&(_, members)| members == 2), "both live: {seen:?}");
        assert!(seen.len() < 50, "a look at the other's jobs now and then: {seen:?}");
    }
    assert!(jobs.iter().all(|&job| stage.passed_over(job, 0) == "no room"));
    // Both decide before the cell hears of either.
    seats.iter().for_each(|&seat| stage.hold(seat));
    seen.iter().for_each(|seen| seen.borrow_mut().clear());
    stage.machine("m1", 100_000, &[]);
    stage.advance(100_000);
    let offered: usize = seen.iter().flat_map(|seen| seen.borrow().clone()).map(|(tasks, _)| tasks).sum();
    assert_eq!(offered, 20, "each has its own jobs: {seen:?}");
    seats.iter().for_each(|&seat| stage.release(seat));
    stage.advance(1_000_000);
    assert!(jobs.iter().all(|&job| stage.placed(job).len() == 1));
    assert!(!stage.transcript().contains("conflict"));
}

/// The time for which it could hear nobody was taken for their silence: each that came back tried all jobs at once, and all of them claimed the same.
#[test]
fn members_that_come_back_leave_each_others_jobs_alone() {
    let mut stage = Stage::new();
    let seen: Vec<_> = (0..2).map(|_| Rc::new(RefCell::new(Vec::new()))).collect();
    let watched = |seen: &Rc<_>| Watched { inner: FirstFit("blue"), offered: Rc::clone(seen) };
    let seats: Vec<_> = seen.iter().map(|seen| stage.seat(watched(seen))).collect();
    let jobs: Vec<_> = (0..20).map(|number| stage.submit(&job(&format!("job{number}"), "blue", 1))).collect();
    stage.advance(1_000_000);
    seats.iter().for_each(|&seat| stage.cut_off(seat));
    stage.machine("m1", 100_000, &[]);
    stage.advance(3_000_000);
    seen.iter().for_each(|seen| seen.borrow_mut().clear());
    seats.iter().for_each(|&seat| stage.let_back(seat));
    stage.advance(500_000);
    let mut offered = seen.iter().flat_map(|seen| seen.borrow().clone());
    assert!(offered.all(|(tasks, _)| tasks < 20), "each has its own jobs: {seen:?}");
    assert!(jobs.iter().all(|&job| stage.placed(job).len() == 1));
    assert!(!stage.transcript().contains("conflict"));
}

/// A job of a dead member must not wait for the end of its session, which takes minutes, when room comes late.
#[test]
fn in_a_full_cell_jobs_of_a_dead_member_get_the_first_room() {
    let mut stage = Stage::new();
    let (_alive, dead) = (stage.seat(FirstFit("blue")), stage.seat(FirstFit("blue")));
    stage.cut_off(dead);
    let jobs: Vec<_> = (0..20).map(|number| stage.submit(&job(&format!("job{number}"), "blue", 1))).collect();
    stage.advance(10_300_000);
    stage.machine("m1", 100_000, &[]);
    stage.advance(1_100_000);
    assert!(jobs.iter().all(|&job| stage.placed(job).len() == 1));
    let late = stage.submit(&job("late", "blue", 20));
    stage.advance(10_000);
    assert_eq!(stage.placed(late).len(), 20);
}

/// Claims two machines for one task: such a plan is not even sent.
struct Muddled;

impl Scheduler for Muddled {
    fn name(&self) -> &str {
        "muddled"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            let mut plan = Plan::incremental();
            plan.claim(work, &work.tasks, &[0, 0]);
            decision.commit(plan);
        }
        decision
    }
}

/// A plan that is none was dropped, and then nobody spoke of its job any more: it waited without a reason, and for ever.
#[test]
fn a_job_whose_plan_is_none_says_so_and_is_tried_again() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let seat = stage.seat(Muddled);
    let muddled = stage.submit(&job("words", "muddled", 1));
    stage.advance(10_000_000);
    let why = "not sent, and tried again in a moment: each task needs one machine; found 1 task and 2 machines";
    assert_eq!(stage.passed_over(muddled, 0), why, "it was not refused: the cell has heard nothing of it");
    let counters = stage.runtime(seat).counters();
    assert_eq!(counters.transactions, 0);
    assert!((5..60).contains(&counters.dropped), "tried again, and not in a tight loop: {counters:?}");
}

#[test]
fn a_job_whose_quota_is_used_up_says_so_all_the_time() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    stage.ask("operator", quota(2000));
    let seat = stage.seat(Boundless("blue"));
    let words = stage.submit(&job("words", "blue", 3));
    stage.advance(10_000_000);
    assert_eq!(stage.placed(words).len(), 2);
    let first = stage.passed_over(words, 0).to_owned();
    assert!(first.contains("QUOTA_EXCEEDED"), "{first}");
    for _ in 0..100 {
        stage.advance(50_000);
        assert_eq!(stage.passed_over(words, 0), first, "a reason is as stable as what it tells of");
    }
    let transactions = stage.runtime(seat).counters().transactions;
    assert!(transactions < 40, "{transactions} in 15 seconds");
}

/// The mates of the one claim that was refused for a reason came first, and it said that the minimum was missed.
#[test]
fn a_gang_that_is_refused_says_why_and_not_that_its_mates_were() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    stage.ask("operator", quota(2000));
    stage.seat(Boundless("blue"));
    let gang = stage.submit(&job("gang", "blue", 3).min(3));
    stage.advance(10_000_000);
    assert!(stage.placed(gang).is_empty());
    assert!(stage.passed_over(gang, 0).contains("QUOTA_EXCEEDED"), "{}", stage.passed_over(gang, 0));
}

#[test]
fn a_job_of_a_paused_scheduler_says_so() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    let seat = stage.seat(FirstFit("blue"));
    let pause = |paused| Command::PauseScheduler { scheduler: "blue".into(), paused };
    stage.ask("operator", pause(true));
    let words = stage.submit(&job("words", "blue", 2));
    stage.advance(10_000_000);
    assert!(stage.passed_over(words, 0).contains("blue is paused by an operator"), "{}", stage.passed_over(words, 0));
    let rejected = stage.runtime(seat).counters().rejected;
    assert!((5..40).contains(&rejected), "{rejected} in 10 seconds");
    stage.ask("operator", pause(false));
    stage.advance(3_000_000);
    assert_eq!((stage.placed(words).len(), stage.passed_over(words, 0)), (2, ""));
}

/// Each job had a backoff of its own, drawn at random: a hundred that were over their quota made a hundred transactions a second or two,
/// each written to the log, for ever.
#[test]
fn many_jobs_that_are_refused_are_tried_again_together() {
    let mut stage = Stage::new();
    stage.machine("m1", 1_000_000, &[]);
    stage.ask("operator", quota(0));
    let seat = stage.seat(Boundless("blue"));
    for number in 0..100 {
        stage.submit(&job(&format!("job{number}"), "blue", 1));
    }
    stage.advance(20_000_000);
    let counters = stage.runtime(seat).counters();
    assert!(counters.claims_other >= 1000, "each is tried again: {counters:?}");
    assert!(counters.transactions < 150, "in few transactions: {counters:?}");
}

/// While a job rested only its first group had a reason, and those of the others came and went with each attempt.
#[test]
fn each_group_of_a_job_that_is_refused_has_its_reason_all_the_time() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    stage.ask("operator", quota(100));
    stage.seat(Boundless("blue"));
    let both = stage.submit(&JobBuilder::new("both", "blue").group("a", 1, 500).group("b", 1, 500));
    stage.advance(3_000_000);
    for _ in 0..40 {
        stage.advance(290_000);
        for group in [0, 1] {
            let why = stage.passed_over(both, group);
            assert!(why.contains("QUOTA_EXCEEDED"), "group {group}: {why:?}");
        }
    }
}

/// Claims the first machine that fits, and names all others to fall back on.
struct Sparing(&'static str);

impl Scheduler for Sparing {
    fn name(&self) -> &str {
        self.0
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        for work in view.work() {
            let slots = || view.cell().machines().map(|machine| machine.id.slot);
            for &task in &work.tasks {
                match slots().find(|&slot| ledger.take(work, slot)) {
                    Some(slot) => {
                        plan.claim(work, &[task], &[slot]);
                        plan.spare(&slots().filter(|&other| other != slot).collect::<Vec<_>>());
                    }
                    None => decision.pass_over(work, 1, "no room"),
                }
            }
        }
        decision.commit(plan);
        decision
    }
}

/// What it was promised was offered to nobody once it had gone elsewhere: all of it was granted, and nothing had come free.
#[test]
fn room_that_a_claim_left_for_a_spare_machine_is_offered_to_who_waits() {
    let mut stage = Stage::new();
    stage.machine("m0", 1000, &[("name", "m0")]);
    stage.machine("m1", 1000, &[("name", "m1")]);
    let blue = stage.seat(Sparing("blue"));
    stage.seat(FirstFit("green"));
    stage.hold(blue);
    let big = stage.submit(&JobBuilder::new("big", "blue").group("main", 1, 1000).priority(90));
    stage.settle();
    let small = stage.submit(&JobBuilder::new("small", "blue").group("main", 1, 500).on("name", "m0"));
    stage.advance(10_000);
    assert_eq!(stage.runtime(blue).counters().transactions, 1, "the room for it is promised");
    let rival = stage.submit(&JobBuilder::new("rival", "green").group("main", 1, 400).on("name", "m0"));
    stage.settle();
    stage.release(blue);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(rival), stage.placed(big)), (vec![(0, 0, 0)], vec![(0, 0, 1)]));
    assert_eq!(stage.placed(small), [(0, 0, 0)], "{}", stage.passed_over(small, 0));
}

/// The books take the devices that the cell would choose by what the mirror shows; where a rival was faster it chooses others.
#[test]
fn a_device_that_the_cell_chose_another_one_for_is_offered_to_who_waits() {
    let mut stage = Stage::new();
    stage.machine_with_models("m0", 4000, &[], &["old", "new"]);
    let blue = stage.seat(FirstFit("blue"));
    stage.seat(FirstFit("green"));
    stage.hold(blue);
    let any = stage.submit(&JobBuilder::new("any", "blue").group("main", 1, 100).gpu(1000).priority(90));
    stage.settle();
    let picky = stage.submit(&JobBuilder::new("picky", "blue").group("main", 1, 100).gpu_of("old", 600));
    stage.advance(10_000);
    assert_eq!(stage.runtime(blue).counters().transactions, 1, "the only one of its model is spoken for");
    let rival = stage.submit(&JobBuilder::new("rival", "green").group("main", 1, 100).gpu_of("old", 100));
    stage.settle();
    stage.release(blue);
    stage.advance(1_000_000);
    assert_eq!((stage.placed(rival).len(), stage.placed(any).len()), (1, 1));
    assert_eq!(stage.placed(picky), [(0, 0, 0)], "{}", stage.passed_over(picky, 0));
}

/// Names the same port for each of its plans, where the books say that it is free.
struct Naming(&'static str);

impl Scheduler for Naming {
    fn name(&self) -> &str {
        self.0
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            let (cell, port) = (view.cell(), [Port { name: "http".into(), number: 25_000 }]);
            let (mut specials, mut plan) = (view.specials(), Plan::incremental());
            if !specials.has_ports(cell, 0, &port) {
                decision.pass_over(work, 1, "its port is in use");
                continue;
            }
            specials.take_named(cell, &work.job, work.group, 0, (&[], &port));
            assert!(!specials.has_ports(cell, 0, &port), "it is spoken for");
            specials.give(cell, &work.job, work.group, 0);
            assert!(specials.has_ports(cell, 0, &port), "and given back");
            plan.claim(work, &work.tasks[..1], &[0]).ports(work.tasks[0], &port);
            decision.commit(plan);
        }
        decision
    }
}

/// It was claimed once more as long as the first claim was on its way, and refused.
#[test]
fn a_port_that_a_claim_on_its_way_names_is_spoken_for() {
    let mut stage = Stage::new();
    stage.machine("m0", 8000, &[]);
    let seat = stage.seat(Naming("blue"));
    stage.hold(seat);
    let first = stage.submit(&JobBuilder::new("first", "blue").group("main", 1, 100).port("http", 0));
    stage.settle();
    let second = stage.submit(&JobBuilder::new("second", "blue").group("main", 1, 100).port("http", 0));
    stage.advance(10_000);
    stage.release(seat);
    stage.advance(1_000_000);
    let counters = *stage.runtime(seat).counters();
    assert_eq!((counters.claims_granted, counters.claims_conflict, counters.claims_misfit), (1, 0, 0));
    assert_eq!((stage.placed(first).len(), stage.passed_over(second, 0)), (1, "its port is in use"));
}

/// Notes before each decision whether the first task of the first job is on its way.
struct Looking {
    inner: FirstFit,
    seen: Rc<RefCell<Vec<bool>>>,
}

impl Scheduler for Looking {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let first = view.cell().jobs().next().unwrap();
        self.seen.borrow_mut().push(view.is_claimed(first, 0, 0));
        self.inner.decide(view)
    }
}

/// Who kept a queue of its own claimed such tasks once more: nothing told which ones they were.
#[test]
fn who_looks_for_work_itself_sees_which_tasks_are_on_their_way() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let seen: Rc<RefCell<Vec<bool>>> = Rc::default();
    let seat = stage.seat(Looking { inner: FirstFit("blue"), seen: seen.clone() });
    stage.hold(seat);
    for name in ["first", "second"] {
        stage.submit(&job(name, "blue", 1));
        stage.advance(10_000);
    }
    stage.release(seat);
    stage.submit(&job("third", "blue", 1));
    stage.advance(10_000);
    assert_eq!(*seen.borrow(), [false, true, false]);
}

/// With a new connection log time is thought to be that of the last delta, and the end of a backoff was reckoned from that once: nine minutes late.
#[test]
fn a_backoff_is_over_in_time_whatever_becomes_of_the_connection() {
    for cuts in [false, true] {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        let seat = stage.seat(FirstFit("blue"));
        let job = stage.submit(&job("words", "blue", 1).retry(3, 600_000_000));
        stage.settle();
        stage.finish(job, false);
        let mut seconds = 0;
        while stage.placed(job).is_empty() && seconds < 3600 {
            if cuts && seconds == 540 {
                stage.cut(seat);
            }
            stage.advance(1_000_000);
            // As a server does each second.
            stage.beat(seat);
            stage.settle();
            seconds += 1;
        }
        assert!(seconds <= 602, "after {seconds} s, and not after 600: {cuts}");
    }
}
