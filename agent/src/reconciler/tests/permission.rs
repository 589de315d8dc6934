//! Until when what was ordered may be made.

use super::*;

// What waited at the driver when the lease ended was made after that, beside what had to be gone first.
#[test]
fn what_was_ordered_may_be_made_while_the_lease_holds_and_nothing_must_be_gone_first() {
    let mut story = Story::new(|_| Fate { stops_after_ms: 500, ..Fate::runs_for_ever() });
    assert_eq!(story.agent.starts_until_ms(), None);
    story.registered();
    assert_eq!(story.agent.starts_until_ms(), None, "what is wanted is not known");
    story.assignments(true, vec![assignment(1)], &[]);
    assert_eq!(story.agent.starts_until_ms(), Some(story.now_ms + LEASE_MS));
    story.pass_ms(RENEW_MS, true);
    assert_eq!(story.agent.starts_until_ms(), Some(story.now_ms + LEASE_MS), "it was renewed");
    story.pass_ms(LEASE_MS, false);
    assert_eq!(story.agent.starts_until_ms(), None);
    story.take(|output| matches!(output, Output::Report { .. }));
    story.registered();
    story.assignments(true, vec![assignment(2)], &[]);
    assert_eq!((story.agent.starts_until_ms(), story.running()), (None, vec![1]), "that one must be gone");
    story.pass_ms(500, true);
    assert_eq!(story.running(), [2]);
    assert!(story.agent.starts_until_ms().is_some_and(|until_ms| until_ms > story.now_ms));
    story.input(Input::Leave);
    assert_eq!(story.agent.starts_until_ms(), None);
}

// Its restart was written down and not made when its agent died. For as long as another task hung, the cell went on to have it as ready.
#[test]
fn what_ran_and_waits_to_be_made_again_is_told_as_not_ready() {
    let mut story = Story::new(|_| Fate { stops_after_ms: LEASE_MS, ..Fate::runs_for_ever() });
    story.registered();
    story.assignments(true, vec![assignment(2)], &[]);
    story.answer_reports();
    story.crash();
    story.input(Input::Recovered(vec![recovered(1, vec![], true, Found::NotStarted)]));
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(RENEW_MS, true);
    assert_eq!((story.starts(), story.agent.fenced()), (vec![(2, 0)], Some(1)), "that one must be gone");
    let status = story.status(1).unwrap();
    assert_eq!((status.state, status.ready, status.restarts), (Running, false, 1));
    assert_eq!(story.reported(1), [Running]);
}
