//! Plans that get no answer.

use plenum_model::AllocationId;

use super::refusing::{Eager, encoded_deltas, refused, rejected};
use super::too_large::{commits, given, welcome_of, with_work};
use super::*;
use crate::plan::Plan;
use crate::scheduler::Unanswered;

/// Stops so many at once, until it is heard; half as many where that is too much.
struct Halving(u32);

impl Scheduler for Halving {
    fn name(&self) -> &str {
        "idle"
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decide(&mut self, _: &View<'_>) -> Decision {
        let (mut plan, mut decision) = (Plan::incremental(), Decision::default());
        for slot in 0..self.0 {
            plan.stop(AllocationId { slot, generation: 1 });
        }
        decision.commit(plan);
        decision
    }

    fn unanswered(&mut self, _: u64, why: &Unanswered) {
        let is_too_much = match why {
            Unanswered::NotSent(error) => matches!(error, PlanError::TooLarge { what: "stops", .. }),
            Unanswered::Rejected { code } => code == "LIMIT_REACHED",
            Unanswered::BeyondWindow | Unanswered::Unread => false,
        };
        assert!(is_too_much, "{why:?}");
        self.0 /= 2;
    }
}

// Nothing waited, so that nobody asked it again: what was to be stopped ran on, and its scheduler could not know that it had planned too much.
#[test]
fn who_stops_more_at_once_than_may_be_is_told_so_and_asked_again() {
    let mut runtime = SchedulerRuntime::new(Settings::default(), Halving(20_000)).unwrap();
    runtime.handle(0, Input::Start);
    runtime.handle(0, Input::Connected);
    let mut outputs = given(&mut runtime, 0, welcome_of(0, 0));
    let mut stops = Vec::new();
    for now in (0..1_000_000).step_by(1_000) {
        let sent: Vec<_> = commits(&outputs).cloned().collect();
        outputs = runtime.handle(now, Input::Tick);
        for transaction in sent {
            stops.push(transaction.stops.len());
            if stops.len() < 3 {
                outputs.extend(given(&mut runtime, now, rejected(transaction.number, "LIMIT_REACHED")));
            }
        }
    }
    assert_eq!(stops, [10_000, 5_000, 2_500]);
    let counters = runtime.counters();
    assert_eq!((counters.decisions, counters.dropped, counters.rejected), (4, 1, 2), "and then there is rest");
}

/// Claims the first machine for all its work, and remembers what is not answered.
#[derive(Default)]
struct Attentive(Vec<Unanswered>);

impl Scheduler for Attentive {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        Eager.decide(view)
    }

    fn unanswered(&mut self, _: u64, why: &Unanswered) {
        self.0.push(why.clone());
    }
}

// Of one that was decided, and whose outcome the cell had not kept, people were told that it was not executed, and that its job was refused.
#[test]
fn what_was_decided_is_not_called_rejected_where_its_outcome_can_not_be_read() {
    for (code, is_decided) in [("REVISION_RETIRED", true), ("NUMBER_REUSED", true), ("NUMBER_RETIRED", false)] {
        let (mut runtime, outputs) = with_work(Attentive::default(), 0);
        assert_eq!(commits(&outputs).map(|commit| commit.number).collect::<Vec<_>>(), [1]);
        runtime.handle(1_000, disconnected(14, "", "gone"));
        runtime.handle(60_000, Input::Connected);
        given(&mut runtime, 60_000, welcome_of(4, 0));
        // Of one that came too late the mirror shows a higher number.
        let number = if is_decided { 1 } else { 2 };
        let mut decided = Delta::new(Revision(5), LogTime::from_micros(5));
        decided.sessions.push(SessionChange::Number { session: SessionId(2), number, digest: 0 });
        for delta in encoded_deltas(&[decided]) {
            given(&mut runtime, 60_000, delta);
        }
        let outputs = given(&mut runtime, 60_000, rejected(1, code));
        let is_unread = is_decided && code != "NUMBER_REUSED";
        let notices = outputs.iter().filter_map(|output| match output {
            Output::Notice(Notice::Unread { number: 1, .. }) => Some(true),
            Output::Notice(Notice::Rejected { number: 1, .. }) => Some(false),
            _ => None,
        });
        assert_eq!(notices.collect::<Vec<_>>(), [is_unread], "{code}");
        let again = if is_unread { Unanswered::Unread } else { Unanswered::Rejected { code: code.into() } };
        assert_eq!(runtime.scheduler().0, [again]);
        let outputs = runtime.handle(1_000_000, Input::Tick);
        let attempts: Vec<_> = commits(&outputs).flat_map(|commit| &commit.decision).map(|one| one.attempt).collect();
        assert_eq!(attempts, [if is_unread { 1 } else { 2 }], "{code}: whether its job was refused before");
        let counters = runtime.counters();
        assert_eq!((counters.rejected, counters.unread), (u64::from(!is_unread), u64::from(is_unread)));
    }
}

// A server of a later version had a reason that this one did not know. The whole cell was asked for anew, and the transaction sent again, which was answered alike:
// twenty times a second, for ever, and nothing more was placed.
#[test]
fn an_outcome_that_this_version_does_not_know_costs_neither_mirror_nor_connection() {
    let (mut runtime, outputs) = with_work(Attentive::default(), 0);
    let transaction = commits(&outputs).next().expect("a transaction").clone();
    let [delta, Tell::Outcome(mut outcome)] = refused(transaction, 5) else { panic!("an outcome") };
    outcome.refusals[0].reason = 9_999;
    given(&mut runtime, 1_000, delta);
    given(&mut runtime, 1_000, Tell::Outcome(v1::Outcome { session: 3, ..outcome.clone() }));
    assert_eq!(runtime.scheduler().0, [], "that was of another session");

    let is_unread = |output: &Output| matches!(output, Output::Notice(Notice::Unread { number: 1, .. }));
    let told = |outputs: &[Output]| outputs.iter().filter(|output| is_unread(output)).count();
    let outputs = given(&mut runtime, 1_000, Tell::Outcome(outcome.clone()));
    assert_eq!((told(&outputs), outputs.contains(&Output::Disconnect)), (1, false), "{outputs:?}");
    assert_eq!(told(&given(&mut runtime, 1_000, Tell::Outcome(outcome))), 0, "it is not in flight any more");
    assert_eq!(runtime.scheduler().0, [Unanswered::Unread]);
    assert_eq!(runtime.mirror().map(plenum_model::Cell::revision), Some(Revision(5)));

    let outputs = runtime.handle(1_000_000, Input::Tick);
    assert_eq!(commits(&outputs).map(|commit| commit.number).collect::<Vec<_>>(), [2]);
    let counters = runtime.counters();
    assert_eq!((counters.unread, counters.connections, counters.sent_again), (1, 1, 0));
}

#[test]
fn what_is_unanswered_when_a_stream_ends_with_its_session_is_not_sent_again_in_the_next_one() {
    let (mut runtime, outputs) = with_work(Attentive::default(), 0);
    assert_eq!(commits(&outputs).count(), 1);
    runtime.handle(1_000, disconnected(5, "NO_SUCH_SESSION", "gone"));
    assert_eq!(runtime.scheduler().0, [Unanswered::Unread], "whether it was executed the next mirror shows");
    let outputs = runtime.handle(60_000, Input::Connected);
    let [Output::Send(v1::SessionRequest { ask: Some(Ask::Hello(hello)) })] = &outputs[..] else {
        panic!("a greeting")
    };
    assert_eq!((hello.session, hello.revision), (0, 0));
    let Tell::Welcome(another) = welcome_of(4, 0) else { panic!("a welcome") };
    let outputs = given(&mut runtime, 60_000, Tell::Welcome(v1::Welcome { session: 5, snapshot: true, ..another }));
    assert_eq!((commits(&outputs).count(), runtime.counters().sent_again), (0, 0));
}
