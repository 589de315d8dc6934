//! Stories of the runtime, against the real core.

use plenum_sdk::{Decision, Notice, Plan, Scheduler, Settings, View};

use super::*;

/// Claims the first machine that fits, in the order of their slots; says of what doesn't fit that there is no room.
pub(super) struct FirstFit(pub(super) &'static str);

impl Scheduler for FirstFit {
    fn name(&self) -> &str {
        self.0
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let (mut decision, mut plan, mut ledger) = (Decision::default(), Plan::incremental(), view.ledger());
        for work in view.work() {
            let (mut tasks, mut machines) = (Vec::new(), Vec::new());
            for &task in &work.tasks {
                let fits = view.cell().machines().map(|machine| machine.id.slot).find(|&slot| ledger.take(work, slot));
                if let Some(slot) = fits {
                    tasks.push(task);
                    machines.push(slot);
                }
            }
            plan.claim(work, &tasks, &machines);
            if tasks.len() < work.tasks.len() {
                decision.pass_over(work, work.tasks.len() - tasks.len(), "no room");
            }
        }
        decision.commit(plan);
        decision
    }
}

pub(super) fn job(name: &str, scheduler: &str, count: u32) -> JobBuilder {
    JobBuilder::new(name, scheduler).group("main", count, 1000)
}

#[test]
fn a_job_that_is_submitted_is_placed_at_once() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let seat = stage.seat(FirstFit("blue"));
    let job = stage.submit(&job("words", "blue", 3));
    stage.settle();
    assert_eq!(stage.placed(job), [(0, 0, 0), (0, 1, 0), (0, 2, 0)]);
    assert_eq!(stage.transcript(), "blue: 3 of 3 granted\n");
    assert_eq!(stage.runtime(seat).counters().decisions, 1);
}

/// Claims the first machine for everything.
pub(super) fn all_on_the_first(view: &View<'_>) -> Plan {
    let mut plan = Plan::incremental();
    for work in view.work() {
        plan.claim(work, &work.tasks, &vec![0; work.tasks.len()]);
    }
    plan
}

/// Looks every second, and stops what it finds running in the end.
struct Watchful(std::rc::Rc<std::cell::RefCell<Vec<usize>>>);

impl Scheduler for Watchful {
    fn name(&self) -> &str {
        "blue"
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        let mut plan = all_on_the_first(view);
        self.0.borrow_mut().push(view.work().len());
        let idle = self.0.borrow().iter().filter(|&&work| work == 0).count();
        if let (4, Some(running)) = (idle, view.cell().allocation_in(0)) {
            plan.stop(running.id);
        }
        decision.again_after(1_000_000);
        decision.commit(plan);
        decision
    }
}

/// It was called only while tasks waited, and could stop or move nothing by itself.
#[test]
fn a_scheduler_is_called_at_the_time_that_it_asked_for() {
    let mut stage = Stage::new();
    stage.machine("m1", 1000, &[]);
    let calls = std::rc::Rc::default();
    stage.seat(Watchful(std::rc::Rc::clone(&calls)));
    assert_eq!(*calls.borrow(), [0], "once it has a mirror");
    let words = stage.submit(&job("words", "blue", 1));
    stage.settle();
    stage.advance(2_500_000);
    assert_eq!(*calls.borrow(), [0, 1, 0, 0]);
    assert_eq!(stage.placed(words).len(), 1);
    stage.advance(1_000_000);
    assert_eq!(calls.borrow()[..5], [0, 1, 0, 0, 0], "what it stopped waits again");
    assert!(stage.transcript().starts_with("blue: 1 of 1 granted\nblue: 0 of 0 granted\n"), "a grant and a stop");
}

/// The pause after a look at nothing held up what came in that millisecond.
#[test]
fn a_look_at_nothing_holds_up_no_work_that_comes_after_it() {
    let mut stage = Stage::new();
    stage.machine("m1", 1000, &[]);
    let calls = std::rc::Rc::default();
    stage.seat(Watchful(std::rc::Rc::clone(&calls)));
    let words = stage.submit(&job("words", "blue", 1));
    stage.settle();
    assert_eq!(stage.placed(words).len(), 1, "no time has passed");
    assert_eq!(*calls.borrow(), [0, 1]);
}

/// Sends each task as a plan of its own, tagged by its index, and says how gangs stand.
#[derive(Default)]
struct Tagging {
    answers: std::rc::Rc<std::cell::RefCell<Vec<(u64, usize)>>>,
    least: std::rc::Rc<std::cell::RefCell<Vec<u32>>>,
}

impl Scheduler for Tagging {
    fn name(&self) -> &str {
        "blue"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            self.least.borrow_mut().push(work.least);
            for &task in work.tasks.iter().rev() {
                let mut plan = Plan::incremental().tagged(100 + u64::from(task));
                // A plan that no transaction can be made of takes no number.
                let machines: &[u32] = if task == 1 { &[] } else { &[0] };
                decision.commit(plan.claim(work, &[task], machines).clone());
            }
        }
        decision
    }

    fn answered(&mut self, tag: u64, outcome: &Outcome) {
        self.answers.borrow_mut().push((tag, outcome.granted()));
    }
}

/// By the numbers of transactions it was not to be told: one that is dropped has none.
#[test]
fn an_answer_names_the_plan_that_it_is_about() {
    let mut stage = Stage::new();
    stage.machine("m1", 1000, &[]);
    let scheduler = Tagging::default();
    let (answers, least) = (scheduler.answers.clone(), scheduler.least.clone());
    stage.seat(scheduler);
    stage.submit(&job("words", "blue", 3));
    stage.settle();
    assert_eq!(answers.borrow()[..2], [(102, 1), (100, 0)], "the machine has room for one");
    assert_eq!(least.borrow()[0], 0);
    stage.submit(&job("gang", "blue", 2).min(2));
    stage.advance(1_000_000);
    assert!(least.borrow().contains(&2));
}

/// The books of the SDK knew nothing of partitions: such a scheduler claimed the same machine for ever, and was refused.
#[test]
fn machines_that_are_reserved_for_others_are_not_claimed() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[("rack", "lab")]);
    stage.machine("m2", 2000, &[("rack", "b")]);
    let rack = plenum_model::Constraint {
        attribute: "rack".into(),
        operator: plenum_model::Operator::Equal,
        values: vec!["lab".into()],
    };
    let partition = plenum_model::Partition { machines: vec![rack], schedulers: vec!["green".into()] };
    stage.ask("operator", Command::SetPartition { name: "lab".into(), partition: Some(partition) });
    stage.seat(FirstFit("blue"));
    stage.seat(FirstFit("green"));
    let blue = stage.submit(&job("words", "blue", 3));
    stage.settle();
    assert_eq!(stage.placed(blue), [(0, 0, 1), (0, 1, 1)]);
    let green = stage.submit(&job("others", "green", 1));
    stage.settle();
    assert_eq!(stage.placed(green), [(0, 0, 0)]);
    assert_eq!(stage.transcript(), "blue: 2 of 2 granted\ngreen: 1 of 1 granted\n");
}

#[test]
fn whoever_decided_on_an_older_snapshot_loses_to_a_named_culprit_and_tries_again() {
    let mut stage = Stage::new();
    stage.machine("m1", 1000, &[]);
    let blue = stage.seat(FirstFit("blue"));
    stage.seat(FirstFit("green"));
    stage.hold(blue);
    let late = stage.submit(&job("late", "blue", 1));
    stage.settle();
    let quick = stage.submit(&job("quick", "green", 1));
    stage.settle();
    stage.release(blue);
    assert_eq!(
        stage.transcript(),
        "green: 1 of 1 granted\n\
         blue: 0 of 1 granted\n  task 0 on m1: conflict NoRoom, culprit green\n"
    );
    stage.advance(10_000_000);
    assert_eq!(stage.passed_over(late, 0), "no room");
    assert_eq!(stage.transcript(), "", "nothing is claimed that the mirror shows as taken");
    stage.finish(quick, true);
    assert_eq!(stage.transcript(), "blue: 1 of 1 granted\n");
    assert_eq!(stage.placed(late), [(0, 0, 0)]);
}

#[test]
fn an_unanswered_transaction_is_sent_again_and_takes_effect_once() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let blue = stage.seat(FirstFit("blue"));
    stage.hold(blue);
    let job = stage.submit(&job("words", "blue", 2));
    stage.settle();
    // The cell decides, and its answer is lost on the way.
    stage.cut_answers(blue);
    stage.release(blue);
    stage.advance(1_000_000);
    assert_eq!(stage.transcript(), "blue: 2 of 2 granted\nblue: 2 of 2 granted (again)\n");
    assert_eq!(stage.placed(job).len(), 2);
    assert_eq!(stage.runtime(blue).counters().committed, 1);
    let sessions = stage.notices(blue).iter().filter(|notice| matches!(notice, Notice::Session { resumed: true, .. }));
    assert_eq!(sessions.count(), 1);
}

#[test]
fn a_transaction_that_never_arrived_is_decided_after_the_connection_is_back() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let blue = stage.seat(FirstFit("blue"));
    stage.hold(blue);
    let job = stage.submit(&job("words", "blue", 2));
    stage.settle();
    stage.cut(blue);
    stage.release(blue);
    stage.advance(1_000_000);
    assert_eq!(stage.transcript(), "blue: 2 of 2 granted\n");
    assert_eq!(stage.placed(job).len(), 2);
}

#[test]
fn a_session_that_the_cell_ended_is_replaced_and_nothing_is_placed_twice() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    let blue = stage.seat(FirstFit("blue"));
    stage.hold(blue);
    let first = stage.submit(&job("words", "blue", 2));
    stage.settle();
    stage.cut_answers(blue);
    let session = stage.runtime(blue).session();
    stage.cut_off(blue);
    stage.close_session(session);
    let second = stage.submit(&job("more", "blue", 1));
    stage.let_back(blue);
    stage.release(blue);
    stage.advance(5_000_000);
    assert_ne!(stage.runtime(blue).session(), session);
    assert_eq!(stage.runtime(blue).counters().connections, 3, "the second one is refused, as no such session is there");
    assert_eq!((stage.placed(first).len(), stage.placed(second).len()), (2, 1));
    assert_eq!(stage.transcript(), "blue: 2 of 2 granted\nblue: 1 of 1 granted\n");
}

#[test]
fn a_reconnected_mirror_goes_on_where_it_stood() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let blue = stage.seat(FirstFit("blue"));
    stage.cut(blue);
    stage.machine("m2", 4000, &[]);
    stage.advance(1_000_000);
    let counters = stage.runtime(blue).counters();
    assert_eq!((counters.snapshots, counters.connections), (1, 2));
    let mirror = stage.runtime(blue).mirror().unwrap();
    assert_eq!(mirror.first_difference(stage.cell()), None);
}

#[test]
fn sessions_of_one_name_share_the_jobs_and_do_not_collide() {
    let mut stage = Stage::new();
    stage.machine("m1", 100_000, &[]);
    let seats = [stage.seat(FirstFit("blue")), stage.seat(FirstFit("blue"))];
    for number in 0..20 {
        stage.submit(&job(&format!("job{number}"), "blue", 1));
    }
    stage.settle();
    stage.advance(10_000);
    let granted = seats.map(|seat| stage.runtime(seat).counters().claims_granted);
    assert_eq!(granted.iter().sum::<u64>(), 20);
    assert!(granted.iter().all(|&claims| claims > 0), "one did all the work: {granted:?}");
    assert!(!stage.transcript().contains("conflict"));
}

#[test]
fn jobs_of_a_peer_that_died_are_taken_over_after_a_while() {
    let mut stage = Stage::new();
    stage.machine("m1", 100_000, &[]);
    let (alive, dead) = (stage.seat(FirstFit("blue")), stage.seat(FirstFit("blue")));
    stage.cut_off(dead);
    for number in 0..20 {
        stage.submit(&job(&format!("job{number}"), "blue", 1));
    }
    stage.settle();
    stage.advance(100_000);
    assert!(stage.runtime(alive).counters().claims_granted < 20);
    stage.advance(1_000_000);
    assert_eq!(stage.runtime(alive).counters().claims_granted, 20);
    // From now on it is known to be silent, and its jobs wait no longer.
    stage.submit(&job("late-a", "blue", 1));
    stage.submit(&job("late-b", "blue", 1));
    stage.submit(&job("late-c", "blue", 1));
    stage.advance(10_000);
    assert_eq!(stage.runtime(alive).counters().claims_granted, 23);
}

#[test]
fn a_task_that_failed_is_placed_again_when_its_delay_is_over() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    stage.seat(FirstFit("blue"));
    let job = stage.submit(&job("words", "blue", 1));
    stage.settle();
    stage.finish(job, false);
    stage.advance(900_000);
    assert!(stage.placed(job).is_empty());
    stage.advance(200_000);
    assert_eq!(stage.placed(job).len(), 1);
}

#[test]
fn groups_follow_each_other_and_an_idle_scheduler_is_left_alone() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let blue = stage.seat(FirstFit("blue"));
    let both = JobBuilder::new("words", "blue").group("map", 2, 1000).group("reduce", 1, 1000).after("map");
    let job = stage.submit(&both);
    stage.settle();
    assert_eq!(stage.placed(job).len(), 2);
    stage.finish(job, true);
    // Two decisions are at least a pause apart.
    stage.advance(1_000);
    assert_eq!(stage.placed(job), [(1, 0, 0)]);
    stage.finish(job, true);
    let decisions = stage.runtime(blue).counters().decisions;
    stage.machine("m2", 4000, &[]);
    stage.advance(60_000_000);
    assert_eq!(stage.runtime(blue).counters().decisions, decisions, "nothing waits, so nothing is decided");
    assert_eq!(stage.runtime(blue).jobs(), 0);
}

#[test]
fn higher_priority_goes_first() {
    let mut stage = Stage::new();
    let blue = stage.seat(FirstFit("blue"));
    let low = stage.submit(&job("low", "blue", 1).priority(10));
    let high = stage.submit(&job("high", "blue", 1).priority(90));
    stage.settle();
    stage.machine("m1", 1000, &[]);
    stage.advance(10_000);
    assert_eq!((stage.placed(low).len(), stage.placed(high).len()), (0, 1));
    assert_eq!(stage.passed_over(low, 0), "no room");
    assert!(stage.runtime(blue).counters().claims_conflict == 0);
}

#[test]
fn more_tasks_than_one_decision_may_have_come_in_several() {
    let mut stage = Stage::new();
    stage.machine("m1", 100_000, &[]);
    let settings = Settings { tasks_max: 7, window: 2, ..Settings::default() };
    let blue = stage.seat_with(FirstFit("blue"), settings);
    let job = stage.submit(&job("words", "blue", 20));
    stage.advance(100_000);
    assert_eq!(stage.placed(job).len(), 20);
    assert_eq!(stage.runtime(blue).counters().transactions, 3);
}

/// Claims whatever machine there is, whether it fits or not.
struct Reckless;

impl Scheduler for Reckless {
    fn name(&self) -> &str {
        "reckless"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            let mut plan = Plan::all_or_nothing();
            plan.claim(work, &work.tasks, &vec![0; work.tasks.len()]);
            decision.commit(plan);
        }
        decision
    }
}

#[test]
fn a_scheduler_that_errs_is_told_so_and_slowed_down() {
    let mut stage = Stage::new();
    stage.machine("m1", 1000, &[]);
    let seat = stage.seat(Reckless);
    stage.submit(&job("words", "reckless", 2));
    stage.settle();
    stage.advance(60_000_000);
    let counters = *stage.runtime(seat).counters();
    let mut misfits = stage.notices(seat).iter().filter(|notice| matches!(notice, Notice::Misfit { .. }));
    let told = misfits.next().expect("a misfit").to_string();
    assert!(told.contains("plenum explain NO_ROOM") && told.contains("plenum txn show txn-"), "{told}");
    assert!(counters.transactions > 10, "it goes on trying: {counters:?}");
    assert!(counters.transactions < 60, "and not in a tight loop: {counters:?}");
    assert_eq!(counters.claims_granted, 0);
}

#[test]
fn jobs_behind_many_tasks_that_fit_nowhere_have_their_turn() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let settings = Settings { tasks_max: 8, ..Settings::default() };
    stage.seat_with(FirstFit("blue"), settings);
    for name in ["wide-a", "wide-b", "wide-c"] {
        stage.submit(&JobBuilder::new(name, "blue").group("main", 20, 9000).priority(90));
    }
    let small = stage.submit(&job("small", "blue", 2));
    stage.advance(100_000);
    assert_eq!(stage.placed(small).len(), 2);
}

/// The job behind a decision that was exactly full was passed over in every pass, and each step of a pass gave rise to the next
/// pass, a thousand times a second for ever.
#[test]
fn a_job_behind_a_full_decision_has_its_turn_and_then_there_is_rest() {
    let mut stage = Stage::new();
    stage.machine("m1", 4000, &[]);
    let settings = Settings { tasks_max: 2, ..Settings::default() };
    let seat = stage.seat_with(FirstFit("blue"), settings);
    stage.submit(&JobBuilder::new("wide", "blue").group("main", 2, 9000).priority(90));
    let small = stage.submit(&job("small", "blue", 1));
    stage.advance(100_000);
    assert_eq!(stage.placed(small).len(), 1);
    let before = stage.runtime(seat).counters().decisions;
    stage.advance(10_000_000);
    assert!(stage.runtime(seat).counters().decisions <= before + 2);
}

/// What was left of a decision was less than the gang starts with: it was offered a part, which nobody can place, and as others were
/// behind it, it was not looked at again before the next pass, which ended the same.
#[test]
fn a_gang_behind_what_fits_nowhere_is_offered_whole() {
    for tasks in [2, 3] {
        let mut stage = Stage::new();
        stage.machine("m1", 4000, &[]);
        let seat = stage.seat_with(FirstFit("blue"), Settings { tasks_max: 2, ..Settings::default() });
        stage.submit(&JobBuilder::new("wide", "blue").group("main", 1, 9000).priority(90));
        let gang = stage.submit(&JobBuilder::new("gang", "blue").group("main", tasks, 1000).min(tasks));
        let small = stage.submit(&job("small", "blue", 1).priority(10));
        stage.advance(1_000_000);
        assert_eq!((stage.placed(gang).len(), stage.placed(small).len()), (tasks as usize, 1));
        let before = stage.runtime(seat).counters().decisions;
        stage.advance(10_000_000);
        assert!(stage.runtime(seat).counters().decisions <= before + 2);
    }
}

/// Commits each job alone.
pub(super) struct OneByOne;

impl Scheduler for OneByOne {
    fn name(&self) -> &str {
        "one-by-one"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            let mut plan = Plan::incremental();
            plan.claim(work, &work.tasks, &vec![0; work.tasks.len()]);
            decision.commit(plan);
        }
        decision
    }
}

#[test]
fn plans_beyond_the_window_wait_for_answers_and_say_so() {
    let mut stage = Stage::new();
    let settings = Settings { window: 2, ..Settings::default() };
    let seat = stage.seat_with(OneByOne, settings);
    stage.cut_off(seat);
    let jobs: Vec<_> = (0..5).map(|number| stage.submit(&job(&format!("job{number}"), "one-by-one", 1))).collect();
    stage.machine("m1", 100_000, &[]);
    stage.let_back(seat);
    stage.advance(60_000);
    assert!(jobs.iter().all(|&job| stage.placed(job).len() == 1));
    assert!(stage.runtime(seat).counters().dropped >= 3);
    assert_eq!(stage.passed_over(jobs[4], 0), "placed as soon as earlier transactions are answered");
    stage.advance(1_000_000);
    assert_eq!(stage.passed_over(jobs[4], 0), "");
}
