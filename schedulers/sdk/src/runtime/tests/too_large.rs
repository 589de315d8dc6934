//! Transactions of more bytes than a server takes: it reads none of them, so it can't even say which one it was.

use plenum_model::AllocationId;

use super::refusing::{Eager, beginning, claims_of, encoded_deltas};
use super::*;
use crate::plan::Plan;

/// Claims a machine for each task in a transaction of its own, and names victims for the last one only, which makes it the largest.
pub(super) struct Apart;

impl Scheduler for Apart {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            for task in &work.tasks {
                let mut plan = Plan::incremental();
                plan.claim(work, &[*task], &[0]);
                for slot in 0..20 * task {
                    plan.take_over(*task, AllocationId { slot, generation: 1 });
                }
                decision.commit(plan);
            }
        }
        decision
    }
}

/// Names twenty allocations whose room each of its tasks may have.
struct Wordy;

impl Scheduler for Wordy {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        let mut decision = Decision::default();
        for work in view.work() {
            let mut plan = Plan::incremental();
            plan.claim(work, &work.tasks, &vec![0; work.tasks.len()]);
            for task in &work.tasks {
                for slot in 0..20 {
                    plan.take_over(*task, AllocationId { slot, generation: 1 });
                }
            }
            decision.commit(plan);
        }
        decision
    }
}

pub(super) fn given<S: Scheduler>(runtime: &mut SchedulerRuntime<S>, now: i64, tell: Tell) -> Vec<Output> {
    runtime.handle(now, Input::Received(v1::SessionResponse { tell: Some(tell) }))
}

/// What a server says of itself that takes messages up to so many bytes; 0 where it does not say. The stream goes on after `revision`.
pub(super) fn welcome_of(revision: u64, message_bytes_max: u64) -> Tell {
    let Tell::Welcome(welcome) = welcome(2, 1, revision) else { panic!("a welcome") };
    Tell::Welcome(v1::Welcome { snapshot: false, message_bytes_max, ..welcome })
}

/// A runtime with a job of two tasks before it, and what it did about them.
pub(super) fn with_work<S: Scheduler>(scheduler: S, message_bytes_max: u64) -> (SchedulerRuntime<S>, Vec<Output>) {
    let mut runtime = SchedulerRuntime::new(Settings::default(), scheduler).unwrap();
    runtime.handle(0, Input::Start);
    runtime.handle(0, Input::Connected);
    let mut outputs = given(&mut runtime, 0, welcome_of(0, message_bytes_max));
    for deltas in encoded_deltas(&beginning()) {
        outputs.extend(given(&mut runtime, 0, deltas));
    }
    (runtime, outputs)
}

fn too_large() -> Input {
    disconnected(8, "MESSAGE_TOO_LARGE", "a message of 5 MiB")
}

/// Number and claims of each transaction.
fn sent(outputs: &[Output]) -> Vec<(u64, usize)> {
    commits(outputs).map(|commit| (commit.number, claims_of(commit))).collect()
}

pub(super) fn commits(outputs: &[Output]) -> impl Iterator<Item = &v1::Transaction> {
    outputs.iter().filter_map(|output| match output {
        Output::Send(v1::SessionRequest { ask: Some(Ask::Commit(transaction)) }) => Some(transaction),
        _ => None,
    })
}

fn rejected(outputs: &[Output]) -> Vec<u64> {
    let number = |output: &Output| match output {
        Output::Notice(Notice::Rejected { number, .. }) => Some(*number),
        _ => None,
    };
    outputs.iter().filter_map(number).collect()
}

/// It was sent again at each welcome, which ended the next stream, too: every 50 ms, for ever.
#[test]
fn what_ended_its_stream_by_its_size_is_not_sent_again() {
    let (mut runtime, outputs) = with_work(Eager, 0);
    assert_eq!(sent(&outputs), [(1, 2)]);
    assert_eq!(rejected(&runtime.handle(1000, too_large())), [1]);
    runtime.handle(60_000, Input::Connected);
    let mut outputs = given(&mut runtime, 60_000, welcome_of(4, 0));
    outputs.extend(runtime.handle(1_000_000, Input::Tick));
    assert_eq!(sent(&outputs), [(2, 1), (3, 1)], "in parts, under numbers of their own");
    assert_eq!((runtime.counters().sent_again, runtime.counters().rejected), (0, 1));
}

#[test]
fn of_several_on_their_way_only_the_largest_can_have_ended_the_stream() {
    let (mut runtime, outputs) = with_work(Apart, 0);
    assert_eq!(sent(&outputs), [(1, 1), (2, 1)]);
    assert_eq!(rejected(&runtime.handle(1000, too_large())), [2]);
    runtime.handle(60_000, Input::Connected);
    assert_eq!(sent(&given(&mut runtime, 60_000, welcome_of(4, 0))), [(1, 1), (3, 1)]);
}

/// Where no transaction is to blame there is none to leave out, and the next stream may end alike.
#[test]
fn who_has_sent_nothing_that_could_be_too_large_does_not_come_back_at_once() {
    let mut runtime = at_five();
    let outputs = runtime.handle(0, too_large());
    assert!(matches!(outputs.last(), Some(Output::ConnectAfter { micros: 2_000_000 })), "{outputs:?}");
}

/// Claims and stops have bounds, and what is beside them was counted by nobody: 16,384 claims of 8 devices each come to more than 4 MiB.
#[test]
fn a_plan_of_more_bytes_than_the_server_takes_gets_no_number_and_is_tried_in_parts() {
    let (_, outputs) = with_work(Wordy, 0);
    let whole = commits(&outputs).next().map(plenum_proto::transaction::commit_bytes).unwrap();
    let (_, outputs) = with_work(Wordy, whole as u64);
    assert_eq!(sent(&outputs), [(1, 2)], "just as large as may be");
    let (mut runtime, mut outputs) = with_work(Wordy, whole as u64 - 1);
    let fault = PlanError::TooManyBytes { bytes: whole, most: whole - 1 };
    assert!(outputs.contains(&Output::Notice(Notice::Plan(fault))));
    for now in 1..100 {
        outputs.extend(runtime.handle(now * 1000, Input::Tick));
    }
    assert_eq!(sent(&outputs), [(1, 1), (2, 1)]);
}

/// The server was started anew, with a lower bound. People were told that it was not executed, which nobody knows.
#[test]
fn what_the_next_server_would_not_take_is_not_sent_to_it_again() {
    let (mut runtime, outputs) = with_work(Wordy, 0);
    assert_eq!(sent(&outputs), [(1, 2)]);
    runtime.handle(1000, disconnected(14, "", "gone"));
    runtime.handle(60_000, Input::Connected);
    let outputs = given(&mut runtime, 60_000, welcome_of(4, 400));
    let is_unread = |output: &Output| matches!(output, Output::Notice(Notice::Unread { number: 1, .. }));
    assert!(outputs.iter().any(is_unread), "{outputs:?}");
    assert_eq!((rejected(&outputs), sent(&outputs)), (vec![], vec![]));
    assert_eq!(sent(&runtime.handle(1_000_000, Input::Tick)), [(2, 1)]);
    assert_eq!((runtime.counters().rejected, runtime.counters().unread), (0, 1));
}
