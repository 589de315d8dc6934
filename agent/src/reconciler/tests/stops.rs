//! What is told of how tasks ended beside their exit codes: those that the cell stops, where that was not as they were asked to, and those that are complete.

use super::*;
use crate::driver::{Failure, FailureKind};

#[test]
fn a_task_whose_record_can_not_be_read_is_lost_alone_once_nothing_of_it_is_left() {
    let mut story = Story::new(|_| Fate { stops_after_ms: 50, ..Fate::runs_for_ever() });
    let policy = RestartPolicy { attempts: 9, delay_ms: 0, within_ms: 0 };
    let wanted = || vec![with_restarts(1, policy), assignment(2)];
    story.registered();
    story.assignments(true, wanted(), &[]);
    story.answer_reports();
    assert_eq!(story.driver.spoil_record(2), Some(id(1)));
    story.crash();
    story.registered();
    story.assignments(true, wanted(), &[]);
    story.pass_ms(20, true);
    assert_eq!((story.running(), story.reported(1).contains(&EndedLost)), (vec![1, 2], false));
    story.pass_ms(1000, true);
    assert_eq!((story.running(), story.reported(1).last()), (vec![2], Some(&EndedLost)));
    assert_eq!(story.starts(), [(1, 0), (2, 0)]);
}

/// The exit code and the reason that the cell is told of the first task, which it has stopped.
fn told(story: &Story) -> (i32, String) {
    let status = story.status(1).unwrap();
    assert_eq!((status.state, status.restarts), (Stopped, 0));
    (status.exit_code, status.reason.to_string())
}

// It had exit code 0, as if it had never started: what a loop of crashes had ended with was nowhere any more.
#[test]
fn what_is_stopped_while_it_waits_for_its_restart_ended_as_its_last_start_did() {
    let mut story = Story::new(|_| Fate::exits_after_ms(10, 7));
    story.registered();
    let policy = RestartPolicy { attempts: 50, delay_ms: 20_000, within_ms: 0 };
    story.assignments(true, vec![with_restarts(1, policy)], &[]);
    story.pass_ms(4000, true);
    story.assignments(false, vec![], &[1]);
    assert_eq!(told(&story), (7, "exit code 7".to_owned()));
}

#[test]
fn what_is_stopped_before_it_started_has_nothing_to_tell() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![Assignment { takes_over: vec![id(9)], ..assignment(1) }], &[]);
    story.assignments(false, vec![], &[1]);
    assert_eq!((told(&story), story.starts()), ((0, String::new()), vec![]));
}

// Of tasks that failed in one moment, only the first one to be told of had its own words. Those of the others were the cell's: that another task had
// failed, as if they had been stopped for that.
#[test]
fn what_ended_by_itself_before_it_heard_of_its_stop_says_how() {
    let not_there = Failure::new(FailureKind::CommandNotFound, "command not found: x");
    for (exit, expected) in [
        (Fate::exits_after_ms(0, 42).exit, (42, "exit code 42")),
        (Exit::failed(not_there, 0), (127, "command not found: x")),
    ] {
        let mut story =
            Story::new(move |_| Fate { gone_after_ms: 500, exit: exit.clone(), ..Fate::succeeds_after_ms(10) });
        story.registered();
        story.assignments(true, vec![assignment(1)], &[]);
        story.pass_ms(100, true);
        story.assignments(false, vec![], &[1]);
        story.pass_ms(1000, false);
        assert_eq!(told(&story), (expected.0, expected.1.to_owned()));
    }
}

/// What is told of a task that runs until it is stopped, and then ends so.
fn told_of_one_that_runs(exit: Exit) -> (i32, String) {
    let exit = Exit { started_unix_ms: Some(0), ..exit };
    let mut story = Story::new(move |_| Fate { stops_after_ms: 100, exit: exit.clone(), ..Fate::runs_for_ever() });
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(100, true);
    story.assignments(false, vec![], &[1]);
    story.pass_ms(500, false);
    told(&story)
}

// It was killed while it saved what it had, and read as if it had not ended within its kill timeout.
#[test]
fn what_runs_out_of_memory_while_it_is_being_stopped_says_so() {
    let failure = Some(Failure::new(FailureKind::OutOfMemory, "out of memory"));
    let (_, reason) = told_of_one_that_runs(Exit { failure, oom_kills: 1, ..Exit::default() });
    assert_eq!(reason, "out of memory, while it was being stopped");
    let (_, reason) = told_of_one_that_runs(Exit { oom_kills: 1, ..Exit::default() });
    assert!(reason.contains("had been killed for want of memory") && reason.ends_with(" stopped"), "{reason}");
    assert_eq!(told_of_one_that_runs(Exit::default()), (143, String::new()), "it obeyed: the cell says why it was to");
}

// Nothing said so but exit code 137, for who knows that number.
#[test]
fn what_does_not_end_within_its_kill_timeout_says_so() {
    let (_, reason) = told_of_one_that_runs(Exit { overstayed_ms: Some(30_000), ..Exit::default() });
    assert!(reason.contains("did not end within its kill_timeout") && reason.contains("30s"), "{reason}");
}

// Its workers had been killed, it went on without them, and nothing was told of that.
#[test]
fn what_is_complete_says_if_processes_of_it_were_killed_for_memory() {
    let told = |oom_kills| {
        let exit = Exit { oom_kills, ..Fate::succeeds_after_ms(10).exit };
        let mut story = Story::new(move |_| Fate { exit: exit.clone(), ..Fate::succeeds_after_ms(10) });
        story.registered();
        story.assignments(true, vec![assignment(1)], &[]);
        story.pass_ms(100, false);
        let status = story.status(1).unwrap();
        (status.state, status.reason.to_string())
    };
    assert_eq!(told(0), (Complete, String::new()));
    let reason = "exit code 0 (2 of its processes had been killed for want of memory)";
    assert_eq!(told(2), (Complete, reason.to_owned()));
}
