//! Plans beyond the window, of a scheduler that moves what runs: it is asked for them again, and must not run hot over that.

use super::refusing::{paused, refused, sent_in_a_second};
use super::too_large::with_work;
use super::*;
use crate::plan::Plan;
use crate::view::Work;

/// Goes on moving what it was once offered, each time one more than may be sent, and does not heed that its job rests.
#[derive(Default)]
struct Restless(Option<Work>);

impl Scheduler for Restless {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        if let Some(work) = view.work().first() {
            self.0 = Some(work.clone());
        }
        let mut decision = Decision::default();
        for work in self.0.iter().flat_map(|work| std::iter::repeat_n(work, view.window() + 1)) {
            let mut plan = Plan::incremental();
            plan.claim(work, &work.tasks, &vec![0; work.tasks.len()]);
            decision.commit(plan);
        }
        decision
    }
}

// It was asked again for what was dropped a millisecond later, whatever the answers were, and sent four more each time.
#[test]
fn who_plans_beyond_the_window_waits_as_long_as_the_cell_says() {
    let sent = sent_in_a_second(Restless::default(), |sent| vec![paused(sent.number)]);
    assert_eq!(sent, Settings::default().window);
}

#[test]
fn who_plans_beyond_the_window_and_has_no_success_tries_less_and_less_often() {
    let mut revision = 4;
    let sent = sent_in_a_second(Restless::default(), |sent| {
        revision += 1;
        refused(sent, revision).into()
    });
    assert!((8..=16).contains(&sent), "{sent}");
}

#[test]
fn who_plans_beyond_the_window_what_is_not_even_sent_tries_less_and_less_often() {
    let (mut runtime, _) = with_work(Restless::default(), 1);
    for now in (0..1_000_000).step_by(1_000) {
        runtime.handle(now, Input::Tick);
    }
    let decisions = runtime.counters().decisions;
    assert!((2..=5).contains(&decisions), "{decisions}");
}

// Each time the second one lost the task, as if to somebody else: nothing said that it was the scheduler itself.
#[test]
fn who_claims_a_task_in_two_plans_is_told_so() {
    let (_, outputs) = with_work(Restless::default(), 0);
    let told = outputs.iter().filter_map(|output| match output {
        Output::Notice(notice @ Notice::Twice { task: 0, .. }) => Some(notice.to_string()),
        _ => None,
    });
    let told: Vec<String> = told.collect();
    assert_eq!(told.len(), Settings::default().window - 1, "not of the first: {outputs:?}");
    assert!(told[0].ends_with("claim each task once, in one plan"), "{}", told[0]);
}
