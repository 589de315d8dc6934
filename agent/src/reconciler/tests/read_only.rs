//! Stories of an agent whose cell is there and writes nothing down, as on a full disk.

use super::*;

/// Lets time pass in which the cell answers reports without news and refuses those with some. Says how many it refused.
fn pass_read_only_ms(story: &mut Story, span_ms: u64) -> usize {
    let (end_ms, mut refused) = (story.now_ms + span_ms, 0);
    while story.now_ms < end_ms {
        while let [Output::Report { number, transitions, .. }] =
            &story.take(|output| matches!(output, Output::Report { .. }))[..]
        {
            let number = *number;
            let is_refused = !transitions.is_empty();
            refused += usize::from(is_refused);
            story.input(if is_refused {
                Input::ReportFailed { number }
            } else {
                Input::ReportAnswered { number, revision: 7, register: false }
            });
        }
        story.pass_ms(10, false);
    }
    refused
}

// What was news made each report fail, those that renewed the lease with it. The lease ended, and what failed on that machine was not started again
// before the disk of the server had room.
#[test]
fn an_agent_with_news_keeps_its_lease_and_restarts_tasks_while_the_cell_is_read_only() {
    let mut story = Story::new(|task| match (task.allocation.slot, task.restart) {
        (1, 0) => Fate::exits_after_ms(1000, 3),
        (2, 0) => Fate::exits_after_ms(4 * LEASE_MS, 3),
        _ => Fate::runs_for_ever(),
    });
    story.registered();
    let policy = RestartPolicy { attempts: 5, delay_ms: 10, within_ms: 0 };
    story.assignments(true, vec![with_restarts(1, policy), with_restarts(2, policy)], &[]);
    story.answer_reports();
    let refused = pass_read_only_ms(&mut story, 5 * LEASE_MS);
    assert_eq!((story.agent.leases_lost(), story.starts()), (0, vec![(1, 0), (2, 0), (1, 1), (2, 1)]));
    assert!((5..30).contains(&refused), "it is tried more and more seldom: {refused}");
    assert!(!story.agent.is_settled());
    story.pass_ms(Settings::default().retry_ms_max, true);
    assert!(story.agent.is_settled(), "now the cell knows");
}

#[test]
fn who_leaves_tells_its_news_also_where_they_were_refused_just_before() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    let [Output::Report { number, .. }] = story.take(|_| true)[..] else { panic!("that it runs") };
    story.input(Input::ReportFailed { number });
    story.input(Input::Leave);
    let [Output::Report { number, transitions, .. }] = &story.take(|_| true)[..] else { panic!("a farewell") };
    assert_eq!(transitions.len(), 1);
    let number = *number;
    story.input(Input::ReportFailed { number });
    story.pass_ms(Settings::default().retry_ms_max, false);
    let [Output::Report { transitions, .. }] = &story.take(|_| true)[..] else { panic!("another one") };
    assert_eq!(transitions.len(), 1);
}
