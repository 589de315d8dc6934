//! Stories of plans that are never decided, of a scheduler that keeps books of what is under way.

use std::cell::RefCell;
use std::rc::Rc;

use plenum_model::AllocationRef;
use plenum_sdk::{Decision, Plan, Scheduler, Settings, Unanswered, View, Work};

use super::tests::{all_on_the_first, job};
use super::*;

/// Places on the first machine, and moves what it finds there to the second one, once there is one. What is under way it does not plan again.
#[derive(Default)]
struct Moving {
    tag: u64,
    under_way: BTreeMap<u64, AllocationId>,
    told: Rc<RefCell<Vec<Unanswered>>>,
}

impl Moving {
    fn moves(&mut self, view: &View<'_>, decision: &mut Decision) {
        let cell = view.cell();
        let stays = |found: &AllocationRef<'_>| found.row.machine == 0 && found.status.state.is_active();
        for found in cell.allocations().filter(stays) {
            if self.under_way.values().any(|moves| *moves == found.id) {
                continue;
            }
            let job = cell.job(found.row.job()).expect("a job of the test").clone();
            let work = Work { job, group: found.row.group, tasks: vec![found.row.task], attempt: 1, least: 0 };
            self.tag += 1;
            self.under_way.insert(self.tag, found.id);
            let mut plan = Plan::all_or_nothing().tagged(self.tag);
            plan.claim(&work, &work.tasks, &[1]).stop(found.id);
            decision.commit(plan);
        }
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
        if view.cell().machine_in(1).is_some() {
            self.moves(view, &mut decision);
        }
        decision
    }

    fn answered(&mut self, tag: u64, _: &Outcome) {
        self.under_way.remove(&tag);
    }

    fn unanswered(&mut self, tag: u64, why: &Unanswered) {
        self.under_way.remove(&tag);
        self.told.borrow_mut().push(why.clone());
    }
}

/// So many tasks stand on the first machine, the second one is there, and nobody has looked at it yet.
struct Scene {
    stage: Stage,
    seat: Seat,
    words: JobId,
    told: Rc<RefCell<Vec<Unanswered>>>,
}

impl Scene {
    fn set(tasks: u32, window: usize) -> Self {
        let mut stage = Stage::new();
        stage.machine("m1", 8000, &[]);
        let scheduler = Moving::default();
        let told = Rc::clone(&scheduler.told);
        let seat = stage.seat_with(scheduler, Settings { window, ..Settings::default() });
        let words = stage.submit(&job("words", "blue", tasks));
        stage.advance(1_000_000);
        stage.machine("m2", 8000, &[]);
        stage.settle();
        assert!(stage.placed(words).iter().all(|&(_, _, machine)| machine == 0));
        Self { stage, seat, words, told }
    }

    fn decisions(&self) -> u64 {
        self.stage.runtime(self.seat).counters().decisions
    }
}

// Nothing waited: the move was lost without a word, and its task stayed where it was.
#[test]
fn a_move_that_the_cell_rejects_is_asked_for_again() {
    for code in ["QUEUE_FULL", "READ_ONLY", "SCHEDULER_PAUSED", "INVALID_REQUEST"] {
        let mut scene = Scene::set(1, 4);
        (0..3).for_each(|_| scene.stage.reject_next(scene.seat, code));
        scene.stage.cut(scene.seat);
        scene.stage.advance(5_000_000);
        assert_eq!(scene.stage.placed(scene.words), [(0, 0, 1)], "{code}");
        assert_eq!(*scene.told.borrow(), vec![Unanswered::Rejected { code: code.into() }; 3]);
        let decisions = scene.decisions();
        scene.stage.advance(60_000_000);
        assert_eq!(scene.decisions(), decisions, "then there is rest");
    }
}

#[test]
fn a_move_of_who_is_paused_for_long_is_made_once_he_may() {
    let mut scene = Scene::set(1, 4);
    let pause = |paused| Command::PauseScheduler { scheduler: "blue".into(), paused };
    scene.stage.ask("operator", pause(true));
    scene.stage.cut(scene.seat);
    scene.stage.advance(60_000_000);
    assert_eq!(scene.stage.placed(scene.words), [(0, 0, 0)]);
    let tried = scene.told.borrow().len();
    assert!((20..80).contains(&tried), "{tried} times in a minute");
    scene.stage.ask("operator", pause(false));
    scene.stage.advance(3_000_000);
    assert_eq!(scene.stage.placed(scene.words), [(0, 0, 1)]);
}

#[test]
fn who_plans_beyond_the_window_hears_which_plans_were_dropped() {
    let mut scene = Scene::set(2, 1);
    scene.stage.cut(scene.seat);
    scene.stage.advance(5_000_000);
    assert_eq!(scene.stage.placed(scene.words), [(0, 0, 1), (0, 1, 1)]);
    assert_eq!(*scene.told.borrow(), [Unanswered::BeyondWindow]);
}

#[test]
fn a_move_that_is_lost_with_its_session_is_planned_again() {
    let mut scene = Scene::set(1, 4);
    scene.stage.hold(scene.seat);
    scene.stage.submit(&job("other", "blue", 1));
    scene.stage.settle();
    assert_eq!(scene.stage.runtime(scene.seat).counters().transactions, 3, "a placement, another one, and a move");
    scene.stage.close_session(scene.stage.runtime(scene.seat).session());
    scene.stage.cut(scene.seat);
    scene.stage.release(scene.seat);
    scene.stage.advance(5_000_000);
    assert_eq!(*scene.told.borrow(), [Unanswered::Unread, Unanswered::Unread]);
    assert_eq!(scene.stage.placed(scene.words), [(0, 0, 1)]);
}
