//! What is followed by a restart, and how long a task waits for it.

use super::*;

const DELAYED: RestartPolicy = RestartPolicy { attempts: 1, delay_ms: 8000, within_ms: 0 };

// Each agent counted from its own start: under one that was started anew more often than the delay is long, a task never started again.
#[test]
fn a_delay_that_began_under_an_earlier_agent_goes_on() {
    let mut story = Story::new(|_| Fate::exits_after_ms(10, 3));
    story.registered();
    story.assignments(true, vec![with_restarts(1, DELAYED)], &[]);
    story.pass_ms(3000, true);
    story.now_ms += 3000;
    story.crash();
    story.registered();
    story.assignments(true, vec![Assignment { may_start: false, ..with_restarts(1, DELAYED) }], &[]);
    story.pass_ms(1900, true);
    assert_eq!(story.starts(), [(1, 0)]);
    story.pass_ms(200, true);
    assert_eq!(story.starts(), [(1, 0), (1, 1)], "eight seconds after its end");
}

#[test]
fn an_end_that_a_clock_put_into_the_future_is_waited_for_no_longer_than_the_delay() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    let exit = Exit { code: Some(3), ended_unix_ms: story.now_ms + 86_400_000, ..Exit::default() };
    story.input(Input::Recovered(vec![recovered(0, vec![], true, Found::Ended(exit))]));
    story.registered();
    story.assignments(true, vec![with_restarts(1, DELAYED)], &[]);
    story.pass_ms(7900, true);
    assert_eq!(story.starts(), []);
    story.pass_ms(200, true);
    assert_eq!(story.starts(), [(1, 1)]);
}

fn running_for_ever(slot: u32, restart: RestartPolicy) -> Assignment {
    let mut assignment = with_restarts(slot, restart);
    let mut work = (*assignment.work.unwrap()).clone();
    work.task.traces.as_mut().unwrap().every_end_fails = true;
    assignment.work = Ok(Arc::new(work));
    assignment
}

// Its agent told that it was complete, and never used its `restart`: each such end cost one of its job's `retry`, and its directory.
#[test]
fn a_task_that_is_to_run_for_ever_is_restarted_also_where_it_ended_well() {
    let mut story = Story::new(|_| Fate::exits_after_ms(10, 0));
    story.registered();
    let policy = RestartPolicy { attempts: 1, delay_ms: 100, within_ms: 0 };
    story.assignments(true, vec![running_for_ever(1, policy), with_restarts(2, policy)], &[]);
    story.pass_ms(1000, true);
    let starts = |story: &Story, slot| story.starts().iter().filter(|start| start.0 == slot).count();
    assert_eq!((starts(&story, 1), starts(&story, 2)), (2, 1));
    assert_eq!([1, 2].map(|slot| story.reported(slot).last().copied()), [Some(Complete); 2]);
}

#[test]
fn a_task_that_ended_well_while_no_agent_was_there_is_restarted_if_it_is_to_run_for_ever() {
    let mut story = Story::new(|_| Fate::exits_after_ms(10_000, 0));
    story.registered();
    story.assignments(true, vec![running_for_ever(1, DELAYED)], &[]);
    story.pass_ms(100, true);
    story.now_ms += 20_000;
    story.crash();
    story.registered();
    story.assignments(true, vec![Assignment { may_start: false, ..running_for_ever(1, DELAYED) }], &[]);
    story.pass_ms(9_000, true);
    assert_eq!(story.starts(), [(1, 0), (1, 1)]);
    assert!(!story.reported(1).contains(&Complete));
}
