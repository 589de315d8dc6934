//! A session that comes to the end of its numbers.

use plenum_model::session::NUMBER_MAX;

use super::refusing::{Eager, beginning, encoded_deltas, refused};
use super::too_large::{Apart, commits, given};
use super::*;

/// A runtime in session 2 that has used all of its numbers but so many, and what it did about a job of two tasks.
fn with_numbers_left<S: Scheduler>(scheduler: S, left: u64) -> (SchedulerRuntime<S>, Vec<Output>) {
    let mut runtime = SchedulerRuntime::new(Settings::default(), scheduler).unwrap();
    runtime.handle(0, Input::Start);
    runtime.handle(0, Input::Connected);
    given(&mut runtime, 0, welcome(2, 1, 0));
    runtime.number = NUMBER_MAX - left;
    let outputs = encoded_deltas(&beginning()).flat_map(|deltas| given(&mut runtime, 0, deltas)).collect();
    (runtime, outputs)
}

fn numbers(outputs: &[Output]) -> Vec<u64> {
    commits(outputs).map(|commit| commit.number).collect()
}

/// The only transaction of these, which loses all its races; what follows from that.
fn lost<S: Scheduler>(runtime: &mut SchedulerRuntime<S>, now: i64, sent: &[Output], revision: u64) -> Vec<Output> {
    let transaction = commits(sent).next().expect("a transaction").clone();
    refused(transaction, revision).into_iter().flat_map(|tell| given(runtime, now, tell)).collect()
}

pub(super) fn changed(revision: u64, change: SessionChange) -> Delta {
    let mut delta = Delta::new(Revision(revision), LogTime::from_micros(5));
    delta.sessions.push(change);
    delta
}

/// Rows keep a number in 32 bits. Behind the last one, each transaction was refused and tried again under the next number, which was refused, too, for ever.
#[test]
fn a_session_whose_numbers_are_used_up_is_closed_and_followed_by_another_one() {
    let (mut runtime, outputs) = with_numbers_left(Eager, 2);
    assert_eq!(numbers(&outputs), [NUMBER_MAX - 1]);
    assert!(!lost(&mut runtime, 0, &outputs, 5).contains(&Output::Disconnect));
    let outputs = runtime.handle(1_000_000, Input::Tick);
    assert_eq!(numbers(&outputs), [NUMBER_MAX]);
    // What becomes of it is told in this session only.
    assert!(runtime.handle(2_000_000, Input::Tick).is_empty());
    let outputs = lost(&mut runtime, 2_000_000, &outputs, 6);
    let close = Output::Close(v1::CloseRequest { session: 2, incarnation: 1 });
    assert!(matches!(&outputs[..], [first, Output::Disconnect, .., Output::ConnectAfter { .. }] if *first == close));

    let outputs = runtime.handle(2_100_000, Input::Connected);
    let [Output::Send(v1::SessionRequest { ask: Some(Ask::Hello(hello)) })] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((hello.session, hello.revision, hello.seen_revision), (0, 0, 6));
    let mut outputs = given(&mut runtime, 2_100_000, welcome(8, 1, 0));
    let mut deltas = beginning();
    deltas.extend([5, 6].map(|revision| Delta::new(Revision(revision), LogTime::from_micros(5))));
    deltas.push(changed(7, SessionChange::Closed(SessionId(2))));
    let (scheduler, principal, namespace) = ("idle".into(), "local".into(), "".into());
    deltas.push(changed(8, SessionChange::Opened { scheduler, principal, namespace }));
    outputs
        .extend(encoded_deltas(&deltas).flat_map(|deltas| given(&mut runtime, 2_100_000, deltas)).collect::<Vec<_>>());
    outputs.extend(runtime.handle(9_000_000, Input::Tick));
    let sent: Vec<_> = commits(&outputs).map(|commit| (commit.session, commit.number)).collect();
    assert_eq!(sent, [(8, 1)]);
}

#[test]
fn no_more_transactions_are_sent_than_there_are_numbers_left() {
    let (runtime, outputs) = with_numbers_left(Apart, 1);
    assert_eq!(numbers(&outputs), [NUMBER_MAX]);
    assert_eq!(runtime.counters().dropped, 1, "it comes back in the next session");
}
