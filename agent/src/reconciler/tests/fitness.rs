//! What an agent says of its machine's fitness, and how it takes its leave.

use super::*;

/// What the last report that was sent says.
fn said(story: &mut Story) -> (u64, Option<Unfit>) {
    match story.take(|output| matches!(output, Output::Report { .. })).pop() {
        Some(Output::Report { number, unfit, .. }) => (number, unfit),
        _ => panic!("nothing is reported"),
    }
}

fn answer(story: &mut Story, number: u64) {
    story.input(Input::ReportAnswered { number, revision: 7, register: false });
}

#[test]
fn a_change_of_fitness_is_reported_at_once_and_each_report_says_it() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    assert!(story.sent.is_empty(), "that it is fit, the cell knows");
    story.input(Input::Fitness(Some(Unfit::StateUnwritable)));
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, Some(Unfit::StateUnwritable));
    answer(&mut story, number);
    assert!(story.sent.is_empty(), "once is enough");
    story.pass_ms(RENEW_MS, false);
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, Some(Unfit::StateUnwritable), "the renewal says it, too");
    story.input(Input::Fitness(None));
    assert!(story.sent.is_empty(), "one report at a time");
    answer(&mut story, number);
    assert_eq!(said(&mut story).1, None);
}

/// The agent before it was asked to end: until the next one says so, the machine takes no tasks.
#[test]
fn an_agent_that_is_fit_says_so_where_the_cell_has_heard_otherwise() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.heard_unfit = Some(Unfit::AgentLeaves);
    story.registered();
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, None);
    answer(&mut story, number);
    assert!(story.sent.is_empty());
}

#[test]
fn who_leaves_says_so_after_what_is_under_way_and_starts_nothing_more() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, None);
    story.input(Input::Leave);
    assert!(!story.agent.has_left() && story.sent.is_empty(), "an earlier word must not come after the last one");
    answer(&mut story, number);
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, Some(Unfit::AgentLeaves));
    assert!(!story.agent.has_left());
    story.assignments(false, vec![assignment(2)], &[]);
    answer(&mut story, number);
    assert!(story.agent.has_left());
    assert_eq!(story.running(), [1], "it goes on, and no other was begun");
}

// The agent before it had left, and its own first word was under way when it was told to leave: it ended with that, and
// the machine stood as ready.
#[test]
fn who_leaves_right_after_it_came_back_says_so_itself() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.heard_unfit = Some(Unfit::AgentLeaves);
    story.registered();
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, None);
    story.input(Input::Leave);
    assert!(!story.agent.has_left(), "the cell is being told that it is here");
    answer(&mut story, number);
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, Some(Unfit::AgentLeaves));
    assert!(!story.agent.has_left());
    answer(&mut story, number);
    assert!(story.agent.has_left());
}

#[test]
fn who_leaves_does_not_wait_for_a_cell_that_does_not_answer() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.input(Input::Leave);
    assert!(story.agent.has_left(), "it was not there yet");
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.input(Input::Leave);
    let (number, _) = said(&mut story);
    assert!(!story.agent.has_left());
    story.input(Input::ReportFailed { number });
    assert!(story.agent.has_left());
}

// The server had been down for a moment, and the agent waited to try again: it left without a word, and tasks went on being placed on its machine.
#[test]
fn who_leaves_says_so_at_once_whatever_failed_before() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    let (number, _) = said(&mut story);
    story.input(Input::ReportFailed { number });
    story.input(Input::Leave);
    let (number, unfit) = said(&mut story);
    assert_eq!((unfit, story.agent.has_left()), (Some(Unfit::AgentLeaves), false));
    answer(&mut story, number);
    assert!(story.agent.has_left());
}

// The same of one that stops its tasks: it ended before it had told how they ended, and its machine stood as ready until its lease was over.
#[test]
fn who_shuts_down_says_so_at_once_whatever_failed_before() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    let (number, _) = said(&mut story);
    story.input(Input::ReportFailed { number });
    story.input(Input::Shutdown);
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, Some(Unfit::AgentLeaves));
    answer(&mut story, number);
    story.answer_reports();
    assert_eq!((story.reported(1).last(), story.agent.is_settled()), (Some(&Failed), true));
}

#[test]
fn who_shuts_down_tells_the_ends_at_once_whatever_failed_while_its_tasks_were_on_their_way_out() {
    let mut story = Story::new(|_| Fate { stops_after_ms: 3000, ..Fate::runs_for_ever() });
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.answer_reports();
    story.input(Input::Shutdown);
    while !story.sent.contains(&Output::Finished) {
        while let [Output::Report { number, .. }] = story.take(|output| matches!(output, Output::Report { .. }))[..] {
            story.input(Input::ReportFailed { number });
        }
        story.pass_ms(1, false);
    }
    assert_eq!(said(&mut story).1, Some(Unfit::AgentLeaves));
    assert_eq!(story.reported(1).last(), Some(&Failed));
}

// It ended before its word was on its way: until its lease was over the machine stood as ready, and what was placed there was not started.
#[test]
fn who_shuts_down_with_nothing_to_stop_has_left_when_the_cell_knows() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.input(Input::Shutdown);
    assert!(story.sent.contains(&Output::Finished) && !story.agent.has_left());
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, Some(Unfit::AgentLeaves));
    answer(&mut story, number);
    assert!(story.agent.has_left());
}

// That an earlier word came to nothing says nothing of the last one, which was not yet said.
#[test]
fn who_leaves_says_so_also_after_what_was_under_way_has_failed() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    let (number, _) = said(&mut story);
    story.input(Input::Leave);
    story.input(Input::ReportFailed { number });
    assert!(!story.agent.has_left() && story.sent.is_empty(), "it is tried again in a moment");
    story.pass_ms(Settings::default().retry_ms_min, false);
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, Some(Unfit::AgentLeaves));
    story.input(Input::ReportFailed { number });
    assert!(story.agent.has_left());
}

/// Each of them failed within milliseconds, and its room was free for the next one.
#[test]
fn a_machine_that_sets_no_task_up_takes_none_for_a_while() {
    let mut story = Story::new(|_| Fate { starts_after_ms: 1_000_000_000, ..Fate::runs_for_ever() });
    story.registered();
    let fail = |story: &mut Story, slot: u32| {
        story.assignments(false, vec![assignment(slot)], &[]);
        let (allocation, restart) = (id(slot), 0);
        let exit = Exit::failed(crate::driver::Failure::new(crate::driver::FailureKind::Setup, "no cgroup"), 0);
        story.input(Input::Driver(DriverEvent::Exited { allocation, restart, exit }));
        story.input(Input::Driver(DriverEvent::Gone { allocation, restart }));
        story.answer_reports();
    };
    story.assignments(true, Vec::new(), &[]);
    fail(&mut story, 1);
    fail(&mut story, 2);
    assert!(!story.agent.fails_setups());
    story.assignments(false, vec![assignment(3)], &[]);
    let exit = Exit::failed(crate::driver::Failure::new(crate::driver::FailureKind::Setup, "no cgroup"), 0);
    story.input(Input::Driver(DriverEvent::Exited { allocation: id(3), restart: 0, exit }));
    let (number, unfit) = said(&mut story);
    assert_eq!(unfit, Some(Unfit::SetupFails));
    answer(&mut story, number);
    story.answer_reports();
    let wakes_at_ms = story.agent.next_wake_millis().unwrap();
    assert!(wakes_at_ms <= story.now_ms + 30_000);
    story.pass_ms(30_000, true);
    assert!(!story.agent.fails_setups(), "it is tried again");
    fail(&mut story, 4);
    assert!(story.agent.fails_setups(), "one is enough now");
}

/// A process that hung, and was to end, kept its agent from starting anything after a registration. The machine stood as ready, and got the next ones.
#[test]
fn a_machine_on_which_something_does_not_end_takes_no_tasks_until_it_is_gone() {
    let mut story = Story::new(|task| match task.allocation.slot {
        1 => Fate { stops_after_ms: 100_000, ..Fate::runs_for_ever() },
        _ => Fate::runs_for_ever(),
    });
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.answer_reports();
    story.crash();
    story.registered();
    story.assignments(true, vec![assignment(2)], &[]);
    story.pass_ms(29_000, true);
    assert!(!story.agent.is_held_up(), "it may have that long");
    let wakes_at_ms = story.agent.next_wake_millis().unwrap();
    assert!(wakes_at_ms <= story.now_ms + 1000);
    story.pass_ms(1000, false);
    assert_eq!((said(&mut story).1, story.starts()), (Some(Unfit::SetupFails), vec![(1, 0)]));
    story.sent.clear();
    story.agent.handle(story.now_ms, Input::ReportFailed { number: story.agent.report_number() });
    story.pass_ms(80_000, true);
    assert!(!story.agent.is_held_up());
    assert_eq!((story.running(), story.starts()), (vec![2], vec![(1, 0), (2, 0)]));
}
