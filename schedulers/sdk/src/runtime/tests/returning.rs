//! Streams that end soon after they began, again and again.

use plenum_model::JobId;

use super::numbers::changed;
use super::refusing::{Eager, encoded_deltas, refused};
use super::too_large::{commits, given, welcome_of, with_work};
use super::*;
use crate::seen::OTHER_CELL;

/// How long it waits for the next attempt.
fn wait_micros(outputs: &[Output]) -> i64 {
    let Some(Output::ConnectAfter { micros }) = outputs.last() else { panic!("{outputs:?}") };
    *micros
}

/// The last of as many streams as bring the longest pause, each of which went on at once and ended.
fn worn<S: Scheduler>(runtime: &mut SchedulerRuntime<S>, revision: u64) -> Vec<i64> {
    let mut waits = Vec::new();
    for _ in 0..12 {
        waits.push(wait_micros(&runtime.handle(0, disconnected(8, "QUEUE_FULL", "gone"))));
        runtime.handle(0, Input::Connected);
        assert!(!is_left(&given(runtime, 0, welcome_of(revision, 0))));
    }
    waits
}

// A mirror that could go on was taken for a success: the whole window was sent again every 50 ms to a server that had no room for it.
#[test]
fn who_comes_back_only_to_be_sent_away_again_comes_back_less_and_less_often() {
    let waits = worn(&mut at_five(), 5);
    assert!(waits[0] <= 50_000 && (1_000_000..=2_000_000).contains(&waits[11]), "{waits:?}");
}

#[test]
fn a_connection_that_lasted_or_brought_an_outcome_was_of_use() {
    let mut runtime = at_five();
    worn(&mut runtime, 5);
    let waits = wait_micros(&runtime.handle(1_999_999, disconnected(14, "", "gone")));
    assert!(waits >= 1_000_000, "{waits}");
    let mut runtime = at_five();
    worn(&mut runtime, 5);
    assert!(wait_micros(&runtime.handle(2_000_000, disconnected(14, "", "gone"))) <= 50_000);

    let (mut runtime, outputs) = with_work(Eager, 0);
    let transaction = commits(&outputs).next().expect("a transaction").clone();
    worn(&mut runtime, 4);
    refused(transaction, 5).into_iter().for_each(|tell| drop(given(&mut runtime, 0, tell)));
    assert!(wait_micros(&runtime.handle(0, disconnected(14, "", "gone"))) <= 50_000);
}

// Whoever is welcomed comes to be heard: that the server said when to try again was not.
#[test]
fn a_server_that_ends_a_stream_says_when_to_try_again_and_is_heeded_up_to_the_longest_pause() {
    for (retry_micros, least) in [(100_000, 100_000), (1_000_000, 1_000_000), (630_000_000, 2_000_000), (-1, 0)] {
        let mut runtime = at_five();
        let ended = Input::Disconnected { status: 8, code: "QUEUE_FULL".into(), reason: "full".into(), retry_micros };
        let waits = wait_micros(&runtime.handle(0, ended));
        // Apart from others who were told the same.
        assert!((least + 25_000..=least + 50_000).contains(&waits), "{retry_micros}: {waits}");
    }
}

// It decided with the welcome, on the mirror of before its connection hung: what had been undrained or come free meanwhile was still on its way to it.
#[test]
fn who_goes_on_decides_nothing_before_it_has_come_to_where_the_cell_is() {
    let mut runtime = SchedulerRuntime::new(Settings::default(), Curious::default()).unwrap();
    let mut now = 0;
    let mut decisions_after = |input: Input| {
        now += 10_000;
        let outputs = runtime.handle(now, input);
        let is_woken = outputs.iter().any(|output| matches!(output, Output::WakeAt { micros } if *micros <= now));
        assert!(!is_woken || runtime.mirror.revision() >= runtime.decides_from, "it would be woken without end");
        runtime.scheduler().oldest.len()
    };
    let told = |tell| Input::Received(v1::SessionResponse { tell: Some(tell) });
    decisions_after(Input::Start);
    decisions_after(Input::Connected);
    decisions_after(told(welcome(2, 1, 0)));
    let before = decisions_after(told(deltas(1..=5)));
    assert!(before > 0);
    decisions_after(disconnected(14, "", "gone"));
    decisions_after(Input::Connected);
    let Tell::Welcome(again) = welcome(2, 1, 5) else { panic!() };
    let again = v1::Welcome { snapshot: false, newest: 8, ..again };
    assert_eq!(decisions_after(told(Tell::Welcome(again.clone()))), before);
    assert_eq!(decisions_after(Input::Tick), before);
    assert_eq!(decisions_after(told(deltas(6..=7))), before);
    assert_eq!(decisions_after(told(deltas(8..=8))), before + 1);
    // A server that does not tell, as of an earlier version, keeps nobody waiting.
    decisions_after(disconnected(14, "", "gone"));
    decisions_after(Input::Connected);
    let untold = v1::Welcome { revision: 8, newest: 0, ..again };
    assert_eq!(decisions_after(told(Tell::Welcome(untold))), before + 2);
}

/// By a server of a cell in a life of it, which sends a snapshot of revision 5. It has a session 2, too.
fn met(cell_id: u8, incarnation: u64) -> Tell {
    let Tell::Welcome(welcome) = welcome(2, incarnation, 5) else { panic!("a welcome") };
    Tell::Welcome(v1::Welcome { cell_id: vec![cell_id; 16].into(), ..welcome })
}

// A job rested, and its gang was held no room, for what had become of the one that had its number in the cell of before.
#[test]
fn what_is_known_of_a_job_is_not_known_of_the_one_that_has_its_number_elsewhere() {
    let job = JobId { slot: 0, generation: 1 };
    for (cell_id, incarnation, refuses) in [(9, 1, false), (9, 1, true), (1, 2, false)] {
        let (mut runtime, outputs) = with_work(Eager, 0);
        let transaction = commits(&outputs).next().expect("a transaction").clone();
        refused(transaction, 5).into_iter().for_each(|tell| drop(given(&mut runtime, 0, tell)));
        let times_refused = |runtime: &SchedulerRuntime<Eager>| runtime.queue.get(job).map(|standing| standing.refused);
        assert_eq!(times_refused(&runtime), Some(1));
        let cell = runtime.mirror().unwrap().clone();

        runtime.handle(0, disconnected(14, "", "gone"));
        runtime.handle(0, Input::Connected);
        if refuses {
            runtime.handle(0, disconnected(7, OTHER_CELL, "another"));
            runtime.handle(0, Input::Connected);
        } else if is_left(&given(&mut runtime, 0, met(cell_id, incarnation))) {
            runtime.handle(0, Input::Connected);
        }
        given(&mut runtime, 0, met(cell_id, incarnation));
        let pages = plenum_proto::pages::every(&cell)
            .map(|(table, page)| plenum_proto::pages::encode_page(&cell, table, page))
            .collect();
        given(&mut runtime, 0, Tell::Snapshot(v1::SnapshotPart { revision: 5, pages, last: true }));
        assert_eq!(times_refused(&runtime), Some(0), "cell {cell_id}, life {incarnation}, refuses: {refuses}");
    }
}

fn opening() -> SessionChange {
    SessionChange::Opened { scheduler: "idle".into(), principal: "local".into(), namespace: "".into() }
}

// It had nothing to commit, so that nobody told it: what it said of its jobs was heard by nobody, and a peer looked after them beside it.
#[test]
fn who_sees_its_own_session_closed_goes_on_in_another_one() {
    let mut runtime = at_five();
    let closed = |revision, session| changed(revision, SessionChange::Closed(SessionId(session)));
    for deltas in encoded_deltas(&[changed(6, opening()), closed(7, 6)]) {
        assert!(!is_left(&receive(&mut runtime, deltas)), "that was a peer's");
    }
    let outputs: Vec<_> = encoded_deltas(&[closed(8, 2)]).flat_map(|deltas| receive(&mut runtime, deltas)).collect();
    assert!(is_left(&outputs), "{outputs:?}");
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.revision, hello.seen_revision), (0, 0, 8));
}

// The stream may end before the delta comes: the closed session was asked for once more then, over another connection.
#[test]
fn who_is_told_by_the_end_of_its_stream_that_its_session_is_closed_goes_on_in_another_one() {
    let mut runtime = at_five();
    refuse(&mut runtime, 5, "NO_SUCH_SESSION");
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.revision, hello.seen_revision), (0, 0, 5));
}

#[test]
fn who_finds_its_own_session_closed_in_a_snapshot_goes_on_in_another_one() {
    let mut other = begun();
    greeting(&mut other);
    receive(&mut other, welcome(7, 1, 0));
    receive(&mut other, deltas(1..=5));
    for deltas in encoded_deltas(&[changed(6, SessionChange::Closed(SessionId(2))), changed(7, opening())]) {
        assert!(!is_left(&receive(&mut other, deltas)));
    }
    let cell = other.mirror().unwrap();
    let pages =
        plenum_proto::pages::every(cell).map(|(table, page)| plenum_proto::pages::encode_page(cell, table, page));
    let part = v1::SnapshotPart { revision: 7, pages: pages.collect(), last: true };
    let mut runtime = at_five();
    receive(&mut runtime, welcome(2, 1, 7));
    assert!(is_left(&receive(&mut runtime, Tell::Snapshot(part))));
    assert_eq!(greeting(&mut runtime).session, 0);
}
