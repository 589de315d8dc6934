//! What a scheduler hears of ends.

use std::cell::RefCell;
use std::rc::Rc;

use plenum_sdk::{Decision, Ended, Scheduler, View};

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

    stage.ask("operator", Command::StopJob(stopped));
    stage.settle();
    assert_eq!(*heard.borrow(), [], "it is told to stop, and has not ended");
    let receipt = stage.transition(granted, machine, AllocationState::Stopped);
    stage.ask("agent", Command::ReportStatus(vec![receipt]));
    stage.settle();
    let ended = heard.borrow()[0].clone();
    assert_eq!((ended.allocation, ended.machine, ended.state), (granted, machine, AllocationState::Stopped));
}
