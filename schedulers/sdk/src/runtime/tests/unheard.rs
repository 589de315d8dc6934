//! Outcomes that come a good while after the mirror's news of them.

use plenum_model::{Delta, JobChange, LogTime, Revision, SessionChange, SessionId};

use super::refusing::{Eager, encoded_deltas, refused};
use super::too_large::{commits, given, with_work};
use super::*;

// What was granted had ended and waited again before its outcome came. Nobody looked at it any more until something else happened.
#[test]
fn what_waits_again_before_its_outcome_is_heard_is_placed_once_it_is() {
    let (mut runtime, outputs) = with_work(Eager, 0);
    let transaction = commits(&outputs).next().unwrap().clone();
    let mut waits_again = Delta::new(Revision(5), LogTime::from_micros(5));
    let (session, number) = (SessionId(transaction.session), transaction.number);
    waits_again.sessions.push(SessionChange::Number { session, number, digest: 0 });
    waits_again.jobs.push(JobChange::Group { row: 0, count: 2, not_before: LogTime::default(), task_base: 0 });
    for delta in encoded_deltas(&[waits_again]) {
        let outputs = given(&mut runtime, 1000, delta);
        assert_eq!(commits(&outputs).count(), 0, "its outcome may say when it may be tried again");
    }
    let outputs = runtime.handle(1_000_000, Input::Tick);
    assert_eq!(commits(&outputs).count(), 0);

    let [_, Tell::Outcome(mut outcome)] = refused(transaction, 5) else { panic!("an outcome") };
    outcome.outcome = v1::TransactionOutcome::Committed.into();
    outcome.refusals.clear();
    outcome.placements[0].allocations = vec![1 << 32, 1 << 32 | 1];
    let outputs = given(&mut runtime, 1_000_000, Tell::Outcome(outcome));
    assert_eq!(commits(&outputs).map(|commit| commit.number).collect::<Vec<_>>(), [2]);
}
