//! Stories of an agent whose cell is there and writes nothing down, as on a full disk, or on one that does not answer.

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

/// A story of a registered machine with two tasks that fail once and are started again in place: one soon, one when the first lease is long over.
fn of_two_that_fail_once() -> Story {
    let mut story = Story::new(|task| match (task.allocation.slot, task.restart) {
        (1, 0) => Fate::exits_after_ms(1000, 3),
        (2, 0) => Fate::exits_after_ms(4 * LEASE_MS, 3),
        _ => Fate::runs_for_ever(),
    });
    story.registered();
    let policy = RestartPolicy { attempts: 5, delay_ms: 10, within_ms: 0 };
    story.assignments(true, vec![with_restarts(1, policy), with_restarts(2, policy)], &[]);
    story
}

// What was news made each report fail, those that renewed the lease with it. The lease ended, and what failed on that machine was not started again
// before the disk of the server had room.
#[test]
fn an_agent_with_news_keeps_its_lease_and_restarts_tasks_while_the_cell_is_read_only() {
    let mut story = of_two_that_fail_once();
    story.answer_reports();
    let refused = pass_read_only_ms(&mut story, 5 * LEASE_MS);
    assert_eq!((story.agent.leases_lost(), story.starts()), (0, vec![(1, 0), (2, 0), (1, 1), (2, 1)]));
    assert!((5..30).contains(&refused), "it is tried more and more seldom: {refused}");
    assert!(!story.agent.is_settled());
    story.pass_ms(Settings::default().retry_ms_max, true);
    assert!(story.agent.is_settled(), "now the cell knows");
}

/// Lets time pass in which the cell answers reports without news and none with some, which fail when their calls have had their time. Says how many did.
fn pass_hanging_ms(story: &mut Story, span_ms: u64) -> usize {
    const CALL_MS: u64 = 10_000;
    let (end_ms, mut waiting, mut failed) = (story.now_ms + span_ms, None, 0);
    while story.now_ms < end_ms {
        for report in story.take(|output| matches!(output, Output::Report { .. })) {
            let Output::Report { number, transitions, .. } = &report else { panic!("{report:?}") };
            let number = *number;
            if transitions.is_empty() {
                story.input(Input::ReportAnswered { number, revision: 7, register: false });
            } else {
                let before = waiting.replace((number, story.now_ms + CALL_MS));
                assert_eq!(before, None, "news of a machine comes in order");
            }
        }
        if let Some((number, _)) = waiting.take_if(|(_, fails_at_ms)| *fails_at_ms <= story.now_ms) {
            failed += 1;
            story.input(Input::ReportFailed { number });
        }
        story.pass_ms(10, false);
    }
    failed
}

// The one report that there was at a time waited for the server's disk for longer than the lease: the lease ended, and what failed on that machine was
// not started again before that disk answered.
#[test]
fn an_agent_whose_news_waits_for_a_disk_keeps_its_lease_and_restarts_tasks_meanwhile() {
    let mut story = of_two_that_fail_once();
    let failed = pass_hanging_ms(&mut story, 5 * LEASE_MS);
    assert_eq!((story.agent.leases_lost(), story.starts()), (0, vec![(1, 0), (2, 0), (1, 1), (2, 1)]));
    assert!((3..=5).contains(&failed), "{failed}");
}

// Its machine's fitness was to be written down, and it waited for that as for what its tasks had done.
#[test]
fn who_waits_to_hear_that_its_fitness_is_known_renews_its_lease_meanwhile() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.input(Input::Fitness(Some(Unfit::StateUnwritable)));
    let [Output::Report { number: first, .. }] = story.take(|_| true)[..] else { panic!("what it is unfit for") };
    story.pass_ms(RENEW_MS, false);
    let [Output::Report { number, unfit, .. }] = story.take(|_| true)[..] else { panic!("what renews its lease") };
    assert_eq!(unfit, Some(Unfit::StateUnwritable), "it says nothing else");
    story.input(Input::ReportAnswered { number, revision: 7, register: false });
    story.pass_ms(LEASE_MS - 1, false);
    assert_eq!(story.agent.leases_lost(), 0);
    story.take(|_| true);
    story.input(Input::ReportFailed { number: first });
    story.pass_ms(1, false);
    assert_eq!(story.agent.leases_lost(), 1, "the next one was not answered");
}

// What it had said before had been answered without being written down, so that its renewal waited for the disk as well. None went beside it, and the
// lease ended.
#[test]
fn a_renewal_that_waits_for_its_answer_has_another_one_beside_it() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.pass_ms(RENEW_MS, false);
    assert_eq!(story.take(|output| matches!(output, Output::Report { .. })).len(), 1);
    story.pass_ms(RENEW_MS, false);
    let [Output::Report { number, .. }] = story.take(|_| true)[..] else { panic!("another one") };
    story.input(Input::ReportAnswered { number, revision: 7, register: false });
    story.pass_ms(LEASE_MS - 1, false);
    assert_eq!(story.agent.leases_lost(), 0);
}

#[test]
fn who_leaves_says_so_when_what_was_sent_before_is_answered_and_what_renewed_its_lease_too() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    let [Output::Report { number: news, .. }] = story.take(|_| true)[..] else { panic!("that it runs") };
    story.pass_ms(RENEW_MS, false);
    let [Output::Report { number: renewal, .. }] = story.take(|_| true)[..] else { panic!("what renews its lease") };
    story.input(Input::Leave);
    story.input(Input::ReportAnswered { number: news, revision: 7, register: false });
    assert!(!story.agent.has_left() && story.sent.is_empty(), "an earlier word must not come after the last one");
    story.input(Input::ReportAnswered { number: renewal, revision: 7, register: false });
    let [Output::Report { number, unfit, .. }] = story.take(|_| true)[..] else { panic!("a farewell") };
    assert_eq!(unfit, Some(Unfit::AgentLeaves));
    story.input(Input::ReportAnswered { number, revision: 7, register: false });
    assert!(story.agent.has_left());
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
