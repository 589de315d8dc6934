//! Stories of one runtime and hand-made messages: what a server may say, right or wrong. Stories against the real core stand in
//! the testkit.

mod beyond;
mod blocked;
mod books;
mod numbers;
mod refusing;
mod returning;
mod said;
mod staying;
mod too_large;
mod unanswered;
mod unheard;

use plenum_model::{CellIdentity, Delta, LogTime, Revision, SessionChange};
use plenum_proto::delta;
use plenum_proto::v1::{self, session_request::Ask, session_response::Tell};

use super::*;
use crate::backoff::Backoff;
use crate::scheduler::Decision;
use crate::view::View;

/// Never wants anything.
struct Idle;

impl Scheduler for Idle {
    fn name(&self) -> &str {
        "idle"
    }

    fn decide(&mut self, _: &View<'_>) -> Decision {
        panic!("it has no jobs, and should be left alone");
    }
}

fn begun() -> SchedulerRuntime<Idle> {
    let mut runtime = SchedulerRuntime::new(Settings::default(), Idle).unwrap();
    assert_eq!(runtime.handle(0, Input::Start), [Output::ConnectAfter { micros: 0 }]);
    runtime
}

fn greeting(runtime: &mut SchedulerRuntime<Idle>) -> v1::Hello {
    match runtime.handle(0, Input::Connected).as_slice() {
        [Output::Send(v1::SessionRequest { ask: Some(Ask::Hello(hello)) })] => hello.clone(),
        other => panic!("expected a greeting, found {other:?}"),
    }
}

fn receive(runtime: &mut SchedulerRuntime<Idle>, message: Tell) -> Vec<Output> {
    runtime.handle(0, Input::Received(v1::SessionResponse { tell: Some(message) }))
}

fn welcome(session: u64, incarnation: u64, revision: u64) -> Tell {
    let cell_id = vec![1; 16].into();
    Tell::Welcome(v1::Welcome {
        session,
        incarnation,
        term: 1,
        revision,
        snapshot: revision > 0,
        cell_id,
        pulse_micros: 0,
        message_bytes_max: 0,
        newest: 0,
    })
}

/// The delta of a revision; the first two open the server and a session, all others do nothing.
fn encoded(revision: u64) -> bytes::Bytes {
    let mut delta = Delta::new(Revision(revision), LogTime::from_micros(5));
    if revision == 1 {
        delta.cell = Some(CellIdentity { cell_id: [1; 16], incarnation: 1, ..CellIdentity::default() });
    }
    if revision == 2 {
        delta.scheduler_names.push("idle".into());
        let (scheduler, principal, namespace) = ("idle".into(), "local".into(), "".into());
        delta.sessions.push(SessionChange::Opened { scheduler, principal, namespace });
    }
    let mut bytes = Vec::new();
    delta::encode(&delta, &mut bytes);
    bytes.into()
}

fn deltas(revisions: impl IntoIterator<Item = u64>) -> Tell {
    Tell::Deltas(v1::Deltas { deltas: revisions.into_iter().map(encoded).collect() })
}

/// A runtime at revision 5 of incarnation 1, in session 2.
fn at_five() -> SchedulerRuntime<Idle> {
    let mut runtime = begun();
    greeting(&mut runtime);
    receive(&mut runtime, welcome(2, 1, 0));
    assert_eq!(receive(&mut runtime, deltas(1..=5)), []);
    runtime
}

fn lose(runtime: &mut SchedulerRuntime<Idle>, status: i32) {
    let outputs = refuse(runtime, status, "");
    assert!(matches!(outputs.as_slice(), [Output::Notice(Notice::Lost { .. }), Output::ConnectAfter { .. }]));
}

fn refuse(runtime: &mut SchedulerRuntime<Idle>, status: i32, code: &str) -> Vec<Output> {
    runtime.handle(0, disconnected(status, code, "gone"))
}

/// Of a server that does not say when to try again.
fn disconnected(status: i32, code: &str, reason: &str) -> Input {
    Input::Disconnected { status, code: code.into(), reason: reason.into(), retry_micros: 0 }
}

fn is_left(outputs: &[Output]) -> bool {
    outputs.contains(&Output::Disconnect) && matches!(outputs.last(), Some(Output::ConnectAfter { .. }))
}

#[test]
fn the_first_greeting_asks_for_everything() {
    let hello = greeting(&mut begun());
    assert_eq!((hello.scheduler.as_str(), hello.session, hello.incarnation, hello.revision), ("idle", 0, 0, 0));
    assert_eq!(hello.pulse_micros, 100_000, "it promises pulses, so that it is missed where it hangs before the first");
}

// It was told that there is no connection, as if the cell were away, and asked twenty times a second.
#[test]
fn who_is_not_let_in_is_told_so_and_asks_again_slowly() {
    let mut runtime = begun();
    greeting(&mut runtime);
    let outputs = refuse(&mut runtime, 7, "NOT_PERMITTED");
    let [
        Output::Notice(notice @ Notice::Lost { loss: Loss::TurnedAway, .. }),
        Output::ConnectAfter { micros: 2_000_000 },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(notice.to_string(), "the cell does not let this scheduler in: gone; next attempt in 2000 ms");
}

// It was told that there is no connection, where the cell had answered: that its disk is full, or that it has been restored; and of a stream that had begun, whatever the
// cell ended it for.
#[test]
fn that_the_cell_ended_or_refused_the_stream_is_told_as_such() {
    let told = |runtime: &mut SchedulerRuntime<Idle>, status: i32, code: &str| {
        let outputs = refuse(runtime, status, code);
        match outputs.first() {
            Some(Output::Notice(notice)) => notice.to_string(),
            other => panic!("{other:?}"),
        }
    };
    for (status, code) in [(8, "READ_ONLY"), (10, "OTHER_INCARNATION"), (8, "QUEUE_FULL")] {
        let mut greeted = begun();
        greeting(&mut greeted);
        for mut runtime in [greeted, at_five()] {
            let ended = told(&mut runtime, status, code);
            assert!(ended.starts_with("the cell ended the stream: gone; next attempt in "), "{code}: {ended}");
        }
    }
    let away = told(&mut at_five(), 14, "");
    assert!(away.starts_with("no connection to the cell: gone; next attempt in "), "{away}");
}

#[test]
fn who_was_let_in_and_may_not_resume_is_not_turned_away() {
    for code in ["NOT_PERMITTED", "OTHER_CELL"] {
        let mut runtime = at_five();
        lose(&mut runtime, 14);
        greeting(&mut runtime);
        let outputs = refuse(&mut runtime, 7, code);
        assert!(matches!(outputs[0], Output::Notice(Notice::Lost { loss: Loss::ByCell, .. })), "{outputs:?}");
    }
}

#[test]
fn who_meets_another_cell_begins_anew_there_without_a_pause() {
    let mut runtime = at_five();
    lose(&mut runtime, 14);
    greeting(&mut runtime);
    let outputs = refuse(&mut runtime, 7, "OTHER_CELL");
    let [Output::Notice(Notice::Lost { loss: Loss::ByCell, .. }), Output::ConnectAfter { micros }] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    // As after any second attempt in a row.
    assert!(*micros <= 2 * Settings::default().reconnect.first_micros, "{micros}");
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.incarnation, hello.revision, hello.cell_id.len()), (0, 0, 0, 0));
    assert_eq!((hello.seen_incarnation, hello.seen_term, hello.seen_revision), (0, 0, 0));
}

#[test]
fn a_broken_connection_goes_on_with_what_the_mirror_has() {
    let mut runtime = at_five();
    lose(&mut runtime, 14);
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.incarnation, hello.revision), (2, 1, 5));
}

// After a restore there may be another session of that number, which somebody else opened.
#[test]
fn a_session_is_closed_in_the_incarnation_that_it_was_opened_in() {
    assert_eq!(at_five().close(), v1::CloseRequest { session: 2, incarnation: 1 });
}

#[test]
fn a_session_that_the_server_no_longer_knows_is_given_up() {
    for status in [5, 7, 9, 10] {
        let mut runtime = at_five();
        lose(&mut runtime, 14);
        greeting(&mut runtime);
        lose(&mut runtime, status);
        let hello = greeting(&mut runtime);
        assert_eq!((hello.session, hello.revision), (0, 0), "status {status}");
    }
}

#[test]
fn a_server_of_the_same_incarnation_that_offers_less_is_refused() {
    let mut runtime = at_five();
    lose(&mut runtime, 14);
    greeting(&mut runtime);
    let outputs = receive(&mut runtime, welcome(2, 1, 4));
    assert_eq!(outputs[0], Output::Notice(Notice::Behind { seen: (1, 5), offered: Some((1, 4)) }));
    assert!(is_left(&outputs));
    assert_eq!(runtime.mirror().unwrap().revision(), Revision(5), "what was seen is not forgotten");
}

/// A folder was wiped, and its server started again: there, the number is of a scheduler that came before.
#[test]
fn a_session_of_another_cell_is_not_taken_over_for_having_the_same_number() {
    let mut runtime = at_five();
    lose(&mut runtime, 14);
    greeting(&mut runtime);
    let Tell::Welcome(other) = welcome(2, 1, 9) else { panic!("a welcome") };
    let other = |session| Tell::Welcome(v1::Welcome { cell_id: vec![9; 16].into(), session, ..other.clone() });
    assert!(is_left(&receive(&mut runtime, other(2))));
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.incarnation, hello.revision), (0, 0, 0));
    let outputs = receive(&mut runtime, other(3));
    assert_eq!(outputs, [Output::Notice(Notice::Session { session: SessionId(3), resumed: false })]);
    assert_eq!(runtime.mirror.log_time(0), LogTime::default(), "nor is its time that of the other one");
}

/// A cell that was restored from a backup of the start before has the term of the server that was there.
#[test]
fn a_restored_cell_does_not_go_on_from_the_time_of_before() {
    let mut runtime = at_five();
    assert_ne!(runtime.mirror.log_time(0), LogTime::default());
    lose(&mut runtime, 14);
    greeting(&mut runtime);
    receive(&mut runtime, welcome(3, 2, 4));
    assert_eq!(runtime.mirror.log_time(0), LogTime::default());
}

#[test]
fn a_heartbeat_tells_what_time_it_is_though_nothing_was_logged() {
    const HOUR: i64 = 3_600_000_000;
    let mut runtime = at_five();
    let beat = v1::Heartbeat { revision: 5, time_micros: 7, now_micros: 2 * HOUR, ..v1::Heartbeat::default() };
    receive(&mut runtime, Tell::Heartbeat(beat));
    assert!((HOUR..2 * HOUR).contains(&runtime.mirror.log_time(0).micros));
}

/// A new session is written into its log: each attempt would bring it nearer to what was seen, until it is believed.
#[test]
fn a_server_that_has_not_come_so_far_is_asked_for_the_same_session_again() {
    let mut runtime = at_five();
    lose(&mut runtime, 14);
    for _ in 0..10 {
        greeting(&mut runtime);
        let outputs = refuse(&mut runtime, 11, "NO_SUCH_REVISION");
        assert_eq!(outputs[0], Output::Notice(Notice::Behind { seen: (1, 5), offered: None }));
        assert!(matches!(outputs[2], Output::ConnectAfter { micros: 2_000_000.. }), "{outputs:?}");
    }
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.revision), (2, 5));
}

/// A server that was put back to before the session began does not know it, and a new one was opened there.
#[test]
fn who_begins_a_new_session_still_says_what_was_seen_in_the_old_one() {
    let seen = |hello: &v1::Hello| (hello.cell_id.to_vec(), hello.seen_incarnation, hello.seen_revision);
    let mut runtime = begun();
    assert_eq!(seen(&greeting(&mut runtime)), (vec![], 0, 0));
    let mut runtime = at_five();
    receive(&mut runtime, Tell::Heartbeat(v1::Heartbeat { revision: 9, time_micros: 7, ..v1::Heartbeat::default() }));
    lose(&mut runtime, 14);
    assert_eq!(seen(&greeting(&mut runtime)), (vec![1; 16], 1, 9));
    refuse(&mut runtime, 5, "NO_SUCH_SESSION");
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.revision, seen(&hello)), (0, 0, (vec![1; 16], 1, 9)));
}

/// A copy of the cell's directory that had been put back was believed as soon as it had as many revisions.
#[test]
fn who_goes_on_says_of_which_server_is_what_was_seen() {
    let mut runtime = begun();
    assert_eq!(greeting(&mut runtime).seen_term, 0);
    let mut runtime = at_five();
    lose(&mut runtime, 14);
    assert_eq!(greeting(&mut runtime).seen_term, 1);
    let Tell::Welcome(again) = welcome(2, 1, 5) else { panic!() };
    receive(&mut runtime, Tell::Welcome(v1::Welcome { term: 7, snapshot: false, ..again }));
    lose(&mut runtime, 14);
    let hello = greeting(&mut runtime);
    assert_eq!((hello.seen_incarnation, hello.seen_term, hello.seen_revision), (1, 7, 5));
    refuse(&mut runtime, 11, "NO_SUCH_REVISION");
    assert_eq!(greeting(&mut runtime).seen_term, 7, "it does not forget whom it had seen");
}

#[test]
fn what_was_seen_of_one_cell_is_not_asked_of_another() {
    let mut runtime = at_five();
    lose(&mut runtime, 14);
    greeting(&mut runtime);
    refuse(&mut runtime, 10, "OTHER_CELL");
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.cell_id.len(), hello.seen_incarnation, hello.seen_revision), (0, 0, 0, 0));
    assert_eq!(hello.seen_term, 0);
}

#[test]
fn a_revision_that_only_a_heartbeat_told_of_counts_as_seen() {
    let mut runtime = at_five();
    receive(&mut runtime, Tell::Heartbeat(v1::Heartbeat { revision: 9, time_micros: 7, ..v1::Heartbeat::default() }));
    lose(&mut runtime, 14);
    greeting(&mut runtime);
    assert!(is_left(&receive(&mut runtime, welcome(2, 1, 8))));
}

/// Decides whenever it can, and remembers what it was shown.
#[derive(Default)]
struct Curious {
    oldest: Vec<Option<u64>>,
}

impl Scheduler for Curious {
    fn name(&self) -> &str {
        "idle"
    }

    fn decides_unasked(&self) -> bool {
        true
    }

    fn decide(&mut self, view: &View<'_>) -> Decision {
        self.oldest.push(view.oldest_readable().map(|revision| revision.0));
        let mut decision = Decision::default();
        decision.again_after(1);
        decision
    }
}

#[test]
fn heartbeats_tell_which_revisions_can_still_be_read() {
    let mut runtime = SchedulerRuntime::new(Settings::default(), Curious::default()).unwrap();
    let mut now = 0;
    let mut give = |runtime: &mut SchedulerRuntime<Curious>, input: Input| {
        now += 10_000;
        runtime.handle(now, input);
    };
    let told = |tell| Input::Received(v1::SessionResponse { tell: Some(tell) });
    let beat = |oldest_revision| {
        Tell::Heartbeat(v1::Heartbeat { revision: 5, time_micros: 7, oldest_revision, ..v1::Heartbeat::default() })
    };
    give(&mut runtime, Input::Start);
    give(&mut runtime, Input::Connected);
    give(&mut runtime, told(welcome(2, 1, 0)));
    give(&mut runtime, told(deltas(1..=5)));
    assert_eq!((runtime.oldest_readable(), runtime.scheduler().oldest.last()), (None, Some(&None)));
    // An earlier version of the server does not tell.
    for (said, known) in [(3, 3), (4, 4), (0, 4)] {
        give(&mut runtime, told(beat(said)));
        give(&mut runtime, Input::Tick);
        assert_eq!(runtime.oldest_readable(), Some(Revision(known)));
        assert_eq!(runtime.scheduler().oldest.last(), Some(&Some(known)));
    }
    // Of another cell nothing is known.
    give(&mut runtime, disconnected(14, "", "gone"));
    give(&mut runtime, Input::Connected);
    give(&mut runtime, disconnected(10, "OTHER_CELL", "another"));
    assert_eq!(runtime.oldest_readable(), None);
}

#[test]
fn a_later_incarnation_is_another_life_and_begins_anew() {
    let mut runtime = at_five();
    lose(&mut runtime, 14);
    greeting(&mut runtime);
    let outputs = receive(&mut runtime, welcome(3, 2, 4));
    assert_eq!(outputs, [Output::Notice(Notice::Session { session: SessionId(3), resumed: false })]);
    lose(&mut runtime, 14);
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.incarnation, hello.revision), (3, 2, 0));
}

#[test]
fn whoever_fell_behind_is_welcomed_anew_in_the_middle_of_a_stream() {
    let mut runtime = at_five();
    assert_eq!(receive(&mut runtime, welcome(2, 1, 60)), []);
    assert_eq!(runtime.mirror().unwrap().revision(), Revision(5), "the old picture stays until the new one is there");
}

#[test]
fn a_gap_in_the_deltas_costs_the_mirror_and_not_the_session() {
    let mut runtime = at_five();
    let outputs = receive(&mut runtime, deltas([7]));
    assert!(
        matches!(&outputs[0], Output::Notice(Notice::Mirror { reason }) if reason.contains("expected revision 6, found 7"))
    );
    assert!(is_left(&outputs));
    let hello = greeting(&mut runtime);
    assert_eq!((hello.session, hello.revision), (2, 0));
}

#[test]
fn bytes_that_are_no_delta_or_page_cost_the_mirror_and_nothing_else() {
    let mut runtime = at_five();
    assert!(is_left(&receive(&mut runtime, Tell::Deltas(v1::Deltas { deltas: vec![vec![0xFF; 9].into()] }))));
    greeting(&mut runtime);
    receive(&mut runtime, welcome(2, 1, 6));
    let part = v1::SnapshotPart { revision: 6, pages: vec![vec![0xFF; 9].into()], last: true };
    assert!(is_left(&receive(&mut runtime, Tell::Snapshot(part))));
}

/// How many pages there are stands in the first one. Without it all that came was kept, for as long as it came.
#[test]
fn a_snapshot_that_does_not_begin_with_its_first_page_is_not_waited_for() {
    let mut runtime = at_five();
    let cell = runtime.mirror().unwrap().clone();
    let pages =
        || plenum_proto::pages::every(&cell).map(|(table, page)| plenum_proto::pages::encode_page(&cell, table, page));
    let part = |pages| Tell::Snapshot(v1::SnapshotPart { revision: 5, pages, last: false });
    receive(&mut runtime, welcome(2, 1, 60));
    assert_eq!(receive(&mut runtime, part(pages().take(1).collect())), []);
    assert_eq!(receive(&mut runtime, part(pages().skip(1).collect())), []);
    receive(&mut runtime, welcome(2, 1, 60));
    assert!(is_left(&receive(&mut runtime, part(pages().skip(1).collect()))));
}

#[test]
fn answers_to_what_was_never_asked_change_nothing() {
    let mut runtime = at_five();
    let outcome = v1::Outcome { session: 2, number: 9, revision: 5, outcome: 1, ..v1::Outcome::default() };
    assert_eq!(receive(&mut runtime, Tell::Outcome(outcome)), []);
    assert_eq!(runtime.handle(0, Input::Tick), []);
    assert_eq!(receive(&mut runtime, deltas([6])), []);
}

#[test]
fn messages_after_the_end_of_a_connection_are_not_heard() {
    let mut runtime = at_five();
    lose(&mut runtime, 14);
    assert_eq!(receive(&mut runtime, deltas([6])), []);
    assert_eq!(runtime.mirror().unwrap().revision(), Revision(5));
}

#[test]
fn attempts_to_connect_become_rarer_up_to_a_bound() {
    let mut runtime = begun();
    let mut waits = Vec::new();
    for _ in 0..12 {
        greeting(&mut runtime);
        let outputs = refuse(&mut runtime, 14, "");
        let Some(Output::ConnectAfter { micros }) = outputs.last() else { panic!("{outputs:?}") };
        waits.push(*micros);
    }
    assert!(waits[0] <= 50_000 && waits[11] >= 1_000_000 && waits[11] <= 2_000_000, "{waits:?}");
}

/// Each welcome was taken for a success: a scheduler that could not read the snapshot asked for the whole of it again every 48 ms, for ever.
#[test]
fn attempts_become_rarer_while_no_mirror_gets_complete_and_begin_anew_with_one_that_is_kept() {
    let mut runtime = begun();
    let mut waits = Vec::new();
    for _ in 0..12 {
        greeting(&mut runtime);
        assert!(!is_left(&receive(&mut runtime, welcome(2, 1, 5))));
        let unreadable = v1::SnapshotPart { revision: 5, pages: vec![vec![0xff].into()], last: true };
        let outputs = receive(&mut runtime, Tell::Snapshot(unreadable));
        let Some(Output::ConnectAfter { micros }) = outputs.last() else { panic!("{outputs:?}") };
        waits.push(*micros);
    }
    assert!(waits[0] <= 50_000 && (1_000_000..=2_000_000).contains(&waits[11]), "{waits:?}");

    greeting(&mut runtime);
    receive(&mut runtime, welcome(2, 1, 5));
    let cell = at_five().mirror().unwrap().clone();
    let pages =
        plenum_proto::pages::every(&cell).map(|(table, page)| plenum_proto::pages::encode_page(&cell, table, page));
    let whole = v1::SnapshotPart { revision: 5, pages: pages.collect(), last: true };
    assert_eq!(receive(&mut runtime, Tell::Snapshot(whole)), []);
    let outputs = runtime.handle(2_000_000, disconnected(14, "", "gone"));
    assert!(matches!(outputs.last(), Some(Output::ConnectAfter { micros: ..=50_000 })), "{outputs:?}");
}

#[test]
fn settings_out_of_their_bounds_are_named() {
    let refused = |settings: Settings| SchedulerRuntime::new(settings, Idle).map(|_| ()).unwrap_err().to_string();
    assert_eq!(refused(Settings { window: 257, ..Settings::default() }), "window: expected 1 to 256, found 257");
    let namespace = Settings { namespace: "../etc".into(), ..Settings::default() };
    assert!(refused(namespace).starts_with("namespace: expected 1 to 63 bytes"));
    // It was taken, and who found no cell tried it a million times a second.
    let never = Backoff { first_micros: 50_000, most_micros: 0 };
    let retry = Settings { retry: never, ..Settings::default() };
    assert_eq!(refused(retry), "retry.most_micros: expected 1 or more, found 0");
    let reconnect = Settings { reconnect: never, ..Settings::default() };
    assert_eq!(refused(reconnect), "reconnect.most_micros: expected 1 or more, found 0");
}
