//! Streams that end soon after they began, again and again.

use super::refusing::{Eager, refused};
use super::too_large::{commits, given, welcome_of, with_work};
use super::*;

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
