//! What a scheduler hears of ends.

use std::cell::RefCell;
use std::rc::Rc;

use plenum_model::{AllocationRef, JobState, TaskState};
use plenum_sdk::{Decision, Ended, Plan, Scheduler, View};

use super::tests::{FirstFit, job};
use super::*;

/// Writes down what it hears.
struct Hearing {
    inner: FirstFit,
    heard: Rc<RefCell<Vec<Ended>>>,
}

impl Scheduler for Hearing {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        self.inner.decide(view)
    }

    fn ended(&mut self, ended: &Ended) {
        self.heard.borrow_mut().push(ended.clone());
    }
}

#[test]
fn a_scheduler_hears_how_allocations_of_its_jobs_end_also_of_those_that_are_over() {
    let mut stage = Stage::new();
    let machine = stage.machine("m1", 8000, &[]);
    let heard: Rc<RefCell<Vec<Ended>>> = Rc::default();
    stage.seat(Hearing { inner: FirstFit("blue"), heard: heard.clone() });
    stage.seat(FirstFit("green"));
    let submitted = [("words", "blue", 2), ("wrong", "blue", 1), ("stopped", "blue", 1), ("others", "green", 1)];
    let [words, wrong, stopped, others] =
        submitted.map(|(name, scheduler, count)| stage.submit(&job(name, scheduler, count)));
    stage.settle();
    let granted = stage.cell().allocations().find(|found| found.row.job() == stopped).unwrap().id;
    stage.finish(others, true);
    assert_eq!(*heard.borrow(), []);

    stage.finish(words, true);
    let told = |ended: &Ended| (ended.job, ended.task, ended.attempt, ended.state, ended.exit_code);
    let of_words = [0, 1].map(|task| (words, task, 1, AllocationState::Complete, 0));
    assert_eq!(heard.borrow().iter().map(told).collect::<Vec<_>>(), of_words);
    heard.borrow_mut().clear();

    stage.finish(wrong, false);
    assert_eq!(heard.borrow().iter().map(told).collect::<Vec<_>>(), [(wrong, 0, 1, AllocationState::Failed, 1)]);
    assert_eq!(heard.borrow()[0].reason.as_deref(), Some("exit code 1"));
    heard.borrow_mut().clear();

    stage.ask("operator", Command::StopJob { job: stopped, version: None });
    stage.settle();
    assert_eq!(*heard.borrow(), [], "it is told to stop, and has not ended");
    stage.report(granted, AllocationState::Stopped, 0);
    let ended = heard.borrow()[0].clone();
    assert_eq!((ended.allocation, ended.machine, ended.state), (granted, machine, AllocationState::Stopped));
}

/// Places, and stops what is left of a job as soon as one of its tasks has failed.
struct AllOrNone {
    inner: FirstFit,
    decisions: Rc<RefCell<usize>>,
}

impl Scheduler for AllOrNone {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        *self.decisions.borrow_mut() += 1;
        let mut decision = self.inner.decide(view);
        let mut plan = Plan::incremental();
        let is_torn = |found: &AllocationRef<'_>| {
            let group = view.cell().job(found.row.job()).and_then(|job| view.cell().group(job, found.row.group));
            group.is_some_and(|group| group.tasks_in(TaskState::Waiting) > 0) && !found.status.state.is_leaving()
        };
        let torn = view.cell().allocations().filter(is_torn);
        torn.for_each(|found| {
            plan.stop(found.id);
        });
        decision.commit(plan);
        decision
    }

    fn decides_after(&self, ended: &Ended) -> bool {
        ended.state == AllocationState::Failed
    }
}

// Nothing of the group waited, and until the next time that it had asked for the rest of the gang ran on in vain.
#[test]
fn a_scheduler_that_wants_to_decides_as_soon_as_one_of_a_gang_has_ended() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    let decisions = Rc::<RefCell<usize>>::default();
    stage.seat(AllOrNone { inner: FirstFit("blue"), decisions: decisions.clone() });
    let gang = stage.submit(&job("gang", "blue", 3).retry(1, 60_000_000));
    stage.settle();
    let [(first, ..), (second, ..), (third, ..)] = standing(&stage, gang)[..] else { panic!("three are placed") };
    let before = *decisions.borrow();
    stage.report(first, AllocationState::Complete, 0);
    stage.advance(1_000_000);
    assert_eq!(*decisions.borrow(), before, "nothing waits, and it did not ask");
    stage.report(second, AllocationState::Failed, 1);
    stage.advance(1_000_000);
    assert_eq!(*decisions.borrow(), before + 1, "its task rests, and nothing else waits");
    assert_eq!(standing(&stage, gang), [(third, AllocationState::Stopping, false)]);
}

/// The ids of a job's live allocations, and where each stands.
fn standing(stage: &Stage, job: JobId) -> Vec<(AllocationId, AllocationState, bool)> {
    let own = stage.cell().allocations().filter(|found| found.row.job() == job);
    own.map(|found| (found.id, found.status.state, found.status.ready)).collect()
}

/// Only all tasks of a job could run, and end, at once: whatever looks at the slowest one could not be told.
#[test]
fn one_allocation_runs_and_ends_and_its_mates_stay_as_they_are() {
    let mut stage = Stage::new();
    stage.machine("m1", 8000, &[]);
    let heard: Rc<RefCell<Vec<Ended>>> = Rc::default();
    stage.seat(Hearing { inner: FirstFit("blue"), heard: heard.clone() });
    let words = stage.submit(&job("words", "blue", 3).retry(1, 2_000_000));
    stage.settle();
    let [(first, ..), (second, ..), third] = standing(&stage, words)[..] else { panic!("three are placed") };
    stage.report(first, AllocationState::Running, 0);
    let runs = (first, AllocationState::Running, true);
    assert_eq!(standing(&stage, words), [runs, (second, AllocationState::Granted, false), third]);

    stage.report(second, AllocationState::Failed, 3);
    assert_eq!(standing(&stage, words), [runs, third]);
    let ended = heard.borrow()[0].clone();
    assert_eq!((ended.allocation, ended.state, ended.exit_code), (second, AllocationState::Failed, 3));
    assert_eq!(ended.reason.as_deref(), Some("exit code 3"));
    stage.advance(1_900_000);
    assert_eq!(stage.placed(words).len(), 2, "it rests");
    stage.advance(200_000);
    let again = standing(&stage, words).into_iter().map(|(id, ..)| id).find(|id| ![first, third.0].contains(id));
    stage.report(again.expect("it was tried again"), AllocationState::Failed, 1);
    assert_eq!(stage.cell().job(words).unwrap().state, JobState::Failed, "once more, and not twice");
}

#[test]
fn a_task_is_lost_so_long_after_its_machine_as_its_job_says() {
    let mut stage = Stage::new();
    let machine = stage.machine("m1", 8000, &[]);
    stage.seat(FirstFit("blue"));
    let soon = stage.submit(&job("soon", "blue", 1).lost_after(5_000_000));
    let never = stage.submit(&job("never", "blue", 1).lost_after(-1));
    stage.settle();
    stage.expire(machine);
    stage.advance(4_900_000);
    assert_eq!((stage.placed(soon).len(), stage.placed(never).len()), (1, 1));
    stage.advance(200_000);
    assert_eq!((stage.placed(soon).len(), stage.placed(never).len()), (0, 1));
    stage.advance(600_000_000);
    assert_eq!(stage.placed(never).len(), 1);
}

#[test]
fn a_job_on_the_stage_says_whatever_a_job_can_say() {
    let mut stage = Stage::new();
    let words = job("words", "blue", 1).option("workers", "2").option("speculate", "1s");
    let submitted = stage.submit(&words);
    let options: Vec<_> = stage.cell().job(submitted).unwrap().shape.options.clone().into_iter().collect();
    assert_eq!(
        options,
        [("speculate", "1s"), ("workers", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    let mut spec = job("large", "blue", 1).spec();
    let groups = &mut spec.shape.as_mut().unwrap().groups;
    groups[0].resources.as_mut().unwrap().disk_bytes = 1 << 30;
    let submitted = stage.submit_spec(spec);
    assert_eq!(stage.cell().job(submitted).unwrap().shape.groups[0].resources.disk_bytes, 1 << 30);
}
