//! Stories of an agent whose cell is restored, or whose server is another one than before.

use super::*;
use crate::driver::{Failure, FailureKind};

impl Story {
    /// A restored cell is there, which does not know the first allocation and lets it run on if it has begun.
    fn meets_a_restored_cell(&mut self) {
        self.sent.clear();
        self.input(offered(2, 4));
        let (wanted, stop, keep) = (Vec::new(), Vec::new(), vec![id(1)]);
        self.input(Input::Assignments { machine: MACHINE, epoch: 2, revision: 4, full: true, wanted, stop, keep });
    }
}

#[test]
fn a_server_with_an_older_state_is_refused() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.agent = AgentReconciler::new(Settings::default(), 1, 99);
    story.begin();
    story.sent.clear();
    let registration = Registration {
        machine: MACHINE,
        epoch: 1,
        lease_ms: LEASE_MS,
        renew_ms: RENEW_MS,
        revision: 98,
        incarnation: 1,
        unfit: None,
    };
    story.input(Input::Registered(registration));
    assert_eq!(story.sent, [Output::Refuse { offered: (1, 98), seen: (1, 99) }]);
    story.pass_ms(200, false);
    assert!(matches!(story.sent.pop(), Some(Output::Register { revision: 99, .. })), "tried again");
    story.input(Input::Registered(Registration { incarnation: 2, ..registration }));
    assert!(matches!(story.sent.pop(), Some(Output::Follow { .. })), "a later incarnation may have less");
}

// Its server was put back to an older copy within the lease. It went on in its epoch without a word of what it had seen, and stopped what that copy did
// not know.
#[test]
fn who_follows_again_says_what_was_seen_and_goes_on_where_it_is_refused_for_that() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.answer_reports();
    story.input(Input::FollowEnded);
    story.pass_ms(Settings::default().retry_ms_min, true);
    let followed = story.take(|output| matches!(output, Output::Follow { .. }));
    assert!(matches!(followed[..], [Output::Follow { revision: 10, incarnation: 1, .. }]), "{followed:?}");
    story.take(|_| true);
    story.input(Input::FollowRefused { machine: MACHINE, epoch: 1 });
    story.pass_ms(Settings::default().retry_ms_min, false);
    assert!(matches!(story.take(|_| true)[..], [Output::Register { revision: 10, incarnation: 1, .. }]));
    assert_eq!(story.running(), [1]);
}

// Reports did not say it, and an older copy was believed.
#[test]
fn a_report_says_what_was_seen() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.input(offered(3, 12));
    story.pass_ms(RENEW_MS, false);
    let reports = story.take(|output| matches!(output, Output::Report { .. }));
    assert!(matches!(reports[..], [Output::Report { revision: 12, incarnation: 3, .. }]), "{reports:?}");
}

// The server of before a restore was still there, and the agent came back to that one: it stopped all that the restored cell had placed.
#[test]
fn a_server_of_an_earlier_life_of_the_cell_is_refused_whatever_its_revision() {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    let of = |incarnation, revision| {
        let (machine, lease_ms, renew_ms) = (MACHINE, LEASE_MS, RENEW_MS);
        Input::Registered(Registration { machine, epoch: 1, lease_ms, renew_ms, revision, incarnation, unfit: None })
    };
    story.input(of(2, 10));
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(LEASE_MS, false);
    story.sent.clear();
    story.input(of(1, 5000));
    assert_eq!(story.sent, [Output::Refuse { offered: (1, 5000), seen: (2, 10) }]);
    story.assignments(true, vec![], &[]);
    assert_eq!((story.running(), story.agent.seen()), (vec![1], (2, 10)));
    story.pass_ms(Settings::default().retry_ms_max, false);
    story.input(of(3, 4));
    assert_eq!(story.agent.seen(), (3, 4), "a later one begins anew");
}

// A restored cell took what had completed since its backup for failed: the agent had forgotten it, and its output was removed.
#[test]
fn what_ended_after_a_backup_is_told_to_the_restored_cell_as_it_was() {
    let mut story = Story::new(|_| Fate { runs_ms: Some(100), ..Fate::runs_for_ever() });
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(200, true);
    story.answer_reports();
    assert_eq!(story.reported(1).last(), Some(&Complete));
    story.pass_ms(LEASE_MS, false);
    story.reported.clear();
    story.sent.clear();
    story.input(offered(2, 4));
    story.epoch = 2;
    let again = Assignment { may_start: false, ..assignment(1) };
    story.assignments(true, vec![again], &[]);
    story.pass_ms(RENEW_MS, true);
    assert_eq!((story.reported(1), story.running()), (vec![Complete], vec![]));
}

// Hundreds of starts waited for their turn when the cell was restored from a backup of before. It let them run on as tasks that it does not know: all of
// them were made then, beside those that it had placed in their stead.
#[test]
fn a_start_that_only_an_earlier_life_of_the_cell_ordered_and_that_was_not_made_is_not_made() {
    let mut story = Story::new(|_| Fate { recorded_after_ms: 2 * LEASE_MS, ..Fate::runs_for_ever() });
    story.registered();
    story.assignments(true, vec![assignment(1)], &[]);
    story.pass_ms(LEASE_MS, false);
    assert_eq!(story.starts(), [(1, 0)]);
    story.meets_a_restored_cell();
    story.pass_ms(RENEW_MS, true);
    assert_eq!((story.reported(1), story.running()), (vec![Stopped], vec![]), "its receipt frees the room");
}

// What could not be set up counted as begun, and was started again after its pause, beside what the restored cell had placed in its stead.
#[test]
fn a_start_that_could_not_be_made_for_an_earlier_life_of_the_cell_is_not_made_again() {
    let policy = RestartPolicy { attempts: 5, delay_ms: 60_000, within_ms: 0 };
    for pauses in [true, false] {
        let mut story = Story::new(|_| Fate { recorded_after_ms: 2 * LEASE_MS, ..Fate::runs_for_ever() });
        story.registered();
        story.assignments(true, vec![with_restarts(1, policy)], &[]);
        story.pass_ms(LEASE_MS, false);
        let (allocation, restart) = (id(1), 0);
        let exit = Exit::failed(Failure::new(FailureKind::Setup, "no memory"), story.now_ms);
        story.input(Input::Driver(DriverEvent::Exited { allocation, restart, exit }));
        let gone = || Input::Driver(DriverEvent::Gone { allocation, restart });
        if pauses {
            story.input(gone());
        }
        story.meets_a_restored_cell();
        if !pauses {
            story.input(gone());
        }
        story.pass_ms(RENEW_MS, true);
        assert_eq!(story.reported(1), [Stopped], "it pauses: {pauses}");
    }
}

/// A story in which a report was sent and not answered when the lease was over, and its number. The machine registers again.
fn unanswered() -> (Story, u64) {
    let mut story = Story::new(|_| Fate::runs_for_ever());
    story.registered();
    story.pass_ms(RENEW_MS, false);
    let [Output::Report { number, .. }] = story.take(|_| true)[..] else { panic!("a renewal") };
    story.pass_ms(LEASE_MS, false);
    assert!(matches!(story.take(|_| true)[..], [Output::Report { .. }, Output::Register { revision: 10, .. }]));
    (story, number)
}

fn offered(incarnation: u64, revision: u64) -> Input {
    let (machine, lease_ms, renew_ms) = (MACHINE, LEASE_MS, RENEW_MS);
    Input::Registered(Registration { machine, epoch: 2, lease_ms, renew_ms, revision, incarnation, unfit: None })
}

// The answer to a report came while the machine was registering, with a later revision than the registration's own: the server was thought
// to have lost data.
#[test]
fn an_answer_that_overtakes_the_registration_is_no_older_state() {
    let (mut story, number) = unanswered();
    story.input(Input::ReportAnswered { number, revision: 99, register: false });
    story.input(offered(1, 98));
    assert!(story.agent.is_in(MACHINE, 2));
    assert_eq!(story.agent.seen(), (1, 99));
}

// It was taken for a revision of the restored cell, which was as yet far from it: that one refused the agent from then on, as one that had
// seen more.
#[test]
fn an_answer_of_an_earlier_life_of_the_cell_tells_nothing_of_this_one() {
    let (mut story, number) = unanswered();
    story.input(offered(2, 20));
    story.input(Input::ReportAnswered { number, revision: 5000, register: false });
    assert_eq!(story.agent.seen(), (2, 20));
}
