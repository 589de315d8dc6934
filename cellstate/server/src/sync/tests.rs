//! Stories of one watcher.

use std::sync::Arc;

use bytes::Bytes;
use plenum_core::{Core, CoreOptions};
use plenum_model::{
    AllocationId, Cell, CellIdentity, Command, FoundMachine, LogTime, Request, Resources, Revision, SessionId,
    Transaction, TransactionId,
};
use plenum_proto::pages::Decoder;
use plenum_proto::sections::Sections;
use plenum_proto::{delta, v1};
use prost::Message as _;
use v1::session_response::Tell;

use super::{Lending, LendingBounds, Lent, MISSED_MAX, OutcomeBounds, Resume, Step, SyncOptions, SyncSession};
use crate::commit::{Asked, CommitOptions, Committer, Input, Output};
use crate::publish::{LoggedBatch, Mirror, Recent};

/// A cell that commits, and publishes to watchers.
struct Source {
    committer: Committer<()>,
    recent: Recent,
    mirror: Mirror,
    machines: u32,
    session: SessionId,
    /// What is kept for long; nothing in a source that forgets.
    log: Option<Vec<Arc<LoggedBatch>>>,
    /// What is durable, and not shown yet; `None`: it is shown at once.
    unshown: Option<Vec<Arc<LoggedBatch>>>,
}

impl Source {
    fn new(recent_bytes: usize) -> Self {
        let mut source = Self {
            committer: Committer::new(Core::new(CoreOptions::default()), CommitOptions::default()),
            recent: Recent::new(Revision(0), LogTime::default(), recent_bytes),
            mirror: Mirror::new(Cell::default()),
            machines: 0,
            session: SessionId(0),
            log: None,
            unshown: None,
        };
        source.commit(Command::OpenServer(identity()));
        source
    }

    fn commit(&mut self, command: Command) {
        let request = Request { principal: "local".into(), namespace: "".into(), command };
        self.committer.handle(LogTime::from_micros(1), Input::Request { ticket: None, asked: Asked::new(request) });
        while let Some(output) = self.committer.poll() {
            match output {
                Output::Write(_) => self.committer.handle(LogTime::default(), Input::Durable),
                Output::Publish(published) => {
                    self.mirror.fold(&published.batch, &published.deltas).unwrap();
                    self.log.iter_mut().for_each(|log| log.push(published.batch.clone()));
                    match &mut self.unshown {
                        Some(unshown) => unshown.push(published.batch),
                        None => self.recent.push(published.batch),
                    }
                }
                Output::Answer { .. } | Output::Snapshot(_) => {}
            }
        }
    }

    fn machine(&mut self) {
        self.machines += 1;
        self.commit(Command::RegisterMachine(FoundMachine {
            name: format!("m{}", self.machines).into(),
            boot_id: "boot".into(),
            capacity: Resources { cpu_millis: 4000, memory_bytes: 1 << 30, ..Resources::default() },
            ..FoundMachine::default()
        }));
    }

    /// A transaction of this number, the first of which opens its session; gives when it was decided.
    fn transaction(&mut self, number: u64) -> Revision {
        if number == 1 {
            self.commit(Command::OpenSession { scheduler: "batch".into() });
            self.session = SessionId(self.recent.newest().0);
        }
        let id = TransactionId { session: self.session, number };
        let idle = AllocationId { slot: 7, generation: 1 };
        let content = Transaction { id, incarnation: 1, stops: vec![idle], ..Transaction::default() };
        self.commit(Command::Commit(Box::new(content), number));
        self.recent.newest()
    }

    fn lent(&self, now_micros: i64) -> Arc<Lent> {
        Lent::new(self.mirror.cell().clone(), now_micros)
    }

    /// Two deltas after a revision.
    fn missed(&self, after: Revision) -> Vec<Bytes> {
        self.logged(after).into_iter().take(2).collect()
    }

    /// All deltas after a revision.
    fn logged(&self, after: Revision) -> Vec<Bytes> {
        let later = |batch: &Arc<LoggedBatch>| {
            let revisions = batch.revisions().filter(|revision| *revision > after);
            revisions.filter_map(|revision| batch.delta(revision)).collect::<Vec<_>>()
        };
        self.log.iter().flatten().flat_map(later).collect()
    }

    fn watch(&self, resume: Resume) -> SyncSession {
        self.follow(Sections::MIRROR, resume)
    }

    fn follow(&self, sections: Sections, resume: Resume) -> SyncSession {
        let options = SyncOptions { message_bytes: 200, ..SyncOptions::default() };
        SyncSession::new(options, identity(), SessionId(1), sections, resume, 0)
    }
}

fn identity() -> CellIdentity {
    CellIdentity { cell_id: [7; 16], incarnation: 1, term: 1, custom_resources: Vec::new() }
}

/// The other end of the stream: a mirror, and the words in which it was told.
#[derive(Default)]
struct Watcher {
    cell: Cell,
    decoder: Option<Decoder>,
    story: Vec<&'static str>,
}

impl Watcher {
    fn take(&mut self, message: v1::SessionResponse) {
        let word = match message.tell.unwrap() {
            Tell::Welcome(welcome) => {
                self.decoder = welcome.snapshot.then(|| Decoder::new(Sections::MIRROR));
                if welcome.snapshot { "welcome+snapshot" } else { "welcome" }
            }
            Tell::Snapshot(part) => {
                let decoder = self.decoder.as_mut().unwrap();
                part.pages.into_iter().for_each(|page| decoder.add(page).unwrap());
                if part.last {
                    self.cell = self.decoder.take().unwrap().finish().unwrap();
                }
                "part"
            }
            Tell::Deltas(deltas) => {
                for encoded in deltas.deltas {
                    self.cell.apply(&delta::decode(encoded).unwrap()).unwrap();
                }
                "deltas"
            }
            Tell::Outcome(_) => "outcome",
            Tell::Heartbeat(_) => "heartbeat",
            Tell::Error(_) => "error",
        };
        if self.story.last() != Some(&word) {
            self.story.push(word);
        }
    }
}

/// Sends all there is to send.
fn drain(session: &mut SyncSession, source: &Source, watcher: &mut Watcher, now_micros: i64) {
    loop {
        match session.poll(now_micros, &source.recent) {
            Step::Send(message) => watcher.take(message),
            Step::SendOutcome(_) => watcher.story.push("outcome"),
            Step::NeedSnapshot => session.snapshot(source.lent(now_micros), now_micros),
            Step::NeedMissed(after) => session.missed(source.missed(after)),
            Step::NeedAnswer { .. } => session.read_back(Ok(Bytes::new())),
            Step::NeedRoom { .. } => panic!("outcomes have no bound"),
            Step::Wait { .. } => return,
        }
    }
}

#[test]
fn a_new_watcher_gets_a_snapshot_in_parts_and_then_every_delta() {
    let mut source = Source::new(1 << 20);
    (0..20).for_each(|_| source.machine());
    let (mut session, mut watcher) = (source.watch(Resume::default()), Watcher::default());
    drain(&mut session, &source, &mut watcher, 0);
    (0..20).for_each(|_| source.machine());
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome+snapshot", "part", "deltas"]);
    assert_eq!(watcher.cell.first_difference(source.mirror.cell()), None);
}

#[test]
fn a_known_revision_resumes_and_one_of_another_incarnation_does_not() {
    let mut source = Source::new(1 << 20);
    source.machine();
    let cell = source.mirror.cell().clone();
    source.machine();
    let resume = Resume { incarnation: 1, revision: cell.revision() };
    let (mut session, mut watcher) = (source.watch(resume), Watcher { cell, ..Watcher::default() });
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome", "deltas"]);
    assert_eq!(watcher.cell.revision(), source.recent.newest());

    let (mut session, mut watcher) = (source.watch(Resume { incarnation: 2, ..resume }), Watcher::default());
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome+snapshot", "part"]);
}

#[test]
fn a_revision_that_was_never_offered_gets_a_snapshot() {
    let source = Source::new(1 << 20);
    let resume = Resume { incarnation: 1, revision: Revision(99) };
    let (mut session, mut watcher) = (source.watch(resume), Watcher::default());
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome+snapshot", "part"]);
}

/// A source whose server has started since this cell was its own.
fn started(log: Option<Vec<Arc<LoggedBatch>>>) -> (Source, Cell) {
    let mut source = Source { log, ..Source::new(500) };
    source.machine();
    let cell = source.mirror.cell().clone();
    (0..50).for_each(|_| source.machine());
    source.recent = Recent::new(source.recent.newest(), LogTime::from_micros(1), 500);
    (source, cell)
}

// All that had been there came back at once, a batch or two behind the log, and each of them was sent the whole cell.
#[test]
fn who_comes_back_to_a_server_that_started_is_told_what_it_missed() {
    let (mut source, cell) = started(Some(Vec::new()));
    let resume = Resume { incarnation: 1, revision: cell.revision() };
    let (mut session, mut watcher) = (source.watch(resume), Watcher { cell, ..Watcher::default() });
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome", "deltas"]);
    assert_eq!((session.resyncs(), watcher.cell.first_difference(source.mirror.cell())), (0, None));
    // It has joined: from here on it has to keep up.
    (0..50).for_each(|_| source.machine());
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!((session.resyncs(), session.position()), (1, Some(source.recent.newest())));
}

#[test]
fn who_comes_back_and_missed_what_is_nowhere_any_more_begins_anew() {
    let (source, cell) = started(None);
    let resume = Resume { incarnation: 1, revision: cell.revision() };
    let (mut session, mut watcher) = (source.watch(resume), Watcher { cell, ..Watcher::default() });
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome", "welcome+snapshot", "part"]);
    assert_eq!((session.resyncs(), watcher.cell.first_difference(source.mirror.cell())), (1, None));
}

#[test]
fn who_comes_back_after_long_gets_a_snapshot() {
    let (source, newest) = (Source::new(500), 2 * MISSED_MAX);
    let recent = Recent::new(Revision(newest), LogTime::default(), 500);
    let has_snapshot = |behind: u64| {
        let resume = Resume { incarnation: 1, revision: Revision(newest - behind) };
        match source.watch(resume).poll(0, &recent) {
            Step::Send(v1::SessionResponse { tell: Some(Tell::Welcome(welcome)) }) => welcome.snapshot,
            other => panic!("a welcome comes first: {other:?}"),
        }
    };
    assert_eq!([0, 1, MISSED_MAX, MISSED_MAX + 1].map(has_snapshot), [false, false, false, true]);
}

#[test]
fn a_watcher_that_falls_behind_begins_anew_and_costs_no_memory() {
    let mut source = Source { log: Some(Vec::new()), ..Source::new(500) };
    let (mut session, mut watcher) = (source.watch(Resume::default()), Watcher::default());
    drain(&mut session, &source, &mut watcher, 0);
    (0..50).for_each(|_| source.machine());
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome+snapshot", "part", "welcome+snapshot", "part"]);
    assert_eq!(session.resyncs(), 1);
    assert_eq!(watcher.cell.first_difference(source.mirror.cell()), None);
}

/// The first part of a snapshot of several, of a cell that goes on.
fn begun(source: &mut Source, lending: &Lending, watcher: &mut Watcher) -> SyncSession {
    (0..600).for_each(|_| source.machine());
    let mut session = source.watch(Resume::default());
    let Step::Send(welcome) = session.poll(0, &source.recent) else { panic!("a welcome comes first") };
    watcher.take(welcome);
    assert!(matches!(session.poll(0, &source.recent), Step::NeedSnapshot));
    let lent = source.lent(0);
    lending.lend(&lent);
    session.snapshot(lent, 0);
    let Step::Send(part) = session.poll(0, &source.recent) else { panic!("its first part comes next") };
    watcher.take(part);
    assert!(matches!(session.phase, super::Phase::Snapshot(_)), "the snapshot has several parts");
    session
}

/// It began anew again and again, when the cell went on faster than it read.
#[test]
fn a_snapshot_that_is_read_slowly_is_continued() {
    let mut source = Source { log: Some(Vec::new()), ..Source::new(500) };
    let (lending, mut watcher) = (Lending::default(), Watcher::default());
    let mut session = begun(&mut source, &lending, &mut watcher);
    (0..50).for_each(|_| source.machine());
    session.outcome(Revision(620), Bytes::new());
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome+snapshot", "part", "deltas", "outcome", "deltas"]);
    assert_eq!((session.resyncs(), watcher.cell.first_difference(source.mirror.cell())), (0, None));
    drop(session.take_read(false));
    assert!(lending.is_empty());
    // It has joined: from here on it has to keep up.
    (0..50).for_each(|_| source.machine());
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!((session.resyncs(), session.position()), (1, Some(source.recent.newest())));
}

/// It was told what was durable and not shown yet, was ahead of all that is recent by then, and began anew, with a whole snapshot.
#[test]
fn a_watcher_that_catches_up_is_told_no_more_than_is_shown() {
    let mut source = Source { log: Some(Vec::new()), ..Source::new(500) };
    let (lending, mut watcher) = (Lending::default(), Watcher::default());
    let mut session = begun(&mut source, &lending, &mut watcher);
    (0..50).for_each(|_| source.machine());
    source.unshown = Some(Vec::new());
    (0..2).for_each(|_| source.machine());
    loop {
        match session.poll(0, &source.recent) {
            Step::Send(message) => watcher.take(message),
            Step::NeedMissed(after) => session.missed(source.logged(after)),
            Step::Wait { .. } => break,
            other => panic!("it has a snapshot, and asked for nothing: {other:?}"),
        }
    }
    assert_eq!((session.resyncs(), session.position()), (0, Some(source.recent.newest())));
    source.unshown.take().into_iter().flatten().for_each(|batch| source.recent.push(batch));
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome+snapshot", "part", "deltas"]);
    assert_eq!((session.resyncs(), watcher.cell.first_difference(source.mirror.cell())), (0, None));
}

#[test]
fn a_snapshot_that_nothing_continues_anywhere_is_begun_anew() {
    let mut source = Source::new(500);
    let (lending, mut watcher) = (Lending::default(), Watcher::default());
    let mut session = begun(&mut source, &lending, &mut watcher);
    (0..50).for_each(|_| source.machine());
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome+snapshot", "part", "welcome+snapshot", "part"]);
    assert_eq!((session.resyncs(), watcher.cell.first_difference(source.mirror.cell())), (1, None));
}

/// A watcher that stopped reading kept the pages of its snapshot until its connection ended.
#[test]
fn a_snapshot_that_nobody_reads_is_taken_back_and_its_watcher_begins_anew() {
    let mut source = Source { log: Some(Vec::new()), ..Source::new(500) };
    let (lending, mut watcher) = (Lending::default(), Watcher::default());
    let mut session = begun(&mut source, &lending, &mut watcher);
    (0..50).for_each(|_| source.machine());
    let bounds = LendingBounds { idle_micros: 1000, age_micros: 1_000_000 };
    assert_eq!(lending.take_back(bounds, 1000, |revision| source.recent.continues(revision)), 1);
    drain(&mut session, &source, &mut watcher, 1001);
    assert_eq!(watcher.story, ["welcome+snapshot", "part", "welcome+snapshot", "part"]);
    assert_eq!((session.resyncs(), watcher.cell.first_difference(source.mirror.cell())), (1, None));
}

#[test]
fn deltas_go_on_from_a_snapshot_that_is_newer_than_the_welcome() {
    let mut source = Source::new(1 << 20);
    let (mut session, mut watcher) = (source.watch(Resume::default()), Watcher::default());
    let Step::Send(welcome) = session.poll(0, &source.recent) else { panic!("a welcome comes first") };
    watcher.take(welcome);
    source.machine();
    assert!(matches!(session.poll(0, &source.recent), Step::NeedSnapshot));
    session.snapshot(source.lent(0), 0);
    source.machine();
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.cell.first_difference(source.mirror.cell()), None);
}

#[test]
fn an_outcome_comes_after_the_deltas_up_to_it() {
    let mut source = Source::new(1 << 20);
    let (mut session, mut watcher) = (source.watch(Resume::default()), Watcher::default());
    session.outcome(Revision(4), Bytes::new());
    drain(&mut session, &source, &mut watcher, 0);
    (0..3).for_each(|_| source.machine());
    drain(&mut session, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome+snapshot", "part", "deltas", "outcome"]);
}

// Each outcome kept its whole batch in memory, of up to 256 transactions of each session, until it was read.
#[test]
fn an_outcome_that_waits_for_its_reader_holds_no_batch() {
    let mut source = Source::new(1 << 20);
    let mut session = source.follow(Sections::OUTCOMES, Resume::default());
    let mut watcher = Watcher::default();
    drain(&mut session, &source, &mut watcher, 0);
    let at = source.transaction(1);
    session.decided(at, 1);
    let is_held = |source: &Source| !source.recent.batch(at).unwrap().bytes().is_unique();
    assert!(!is_held(&source));
    let Step::SendOutcome(sent) = session.poll(0, &source.recent) else { panic!("it is recent") };
    assert!(!is_held(&source));
    let outcome = v1::Outcome::decode(sent).unwrap();
    assert_eq!((outcome.number, outcome.idle_stops), (1, vec![0]));
}

#[test]
fn answers_that_are_recent_no_more_are_read_back_and_come_in_order() {
    let mut source = Source::new(200);
    let mut session = source.follow(Sections::OUTCOMES, Resume::default());
    let mut watcher = Watcher::default();
    drain(&mut session, &source, &mut watcher, 0);
    for number in 1..=3 {
        let at = source.transaction(number);
        session.decided(at, number);
    }
    (0..50).for_each(|_| source.machine());
    let error = v1::RequestError { number: 2, code: "REVISION_RETIRED".to_owned(), ..Default::default() };
    let kept = [Ok(Bytes::from_static(b"first")), Err(error.clone()), Ok(Bytes::from_static(b"third"))];
    for (expected, answer) in (1..).zip(kept) {
        let Step::NeedAnswer { number, .. } = session.poll(0, &source.recent) else { panic!("it is not recent") };
        assert_eq!((number, session.answers_waiting()), (expected, 4 - usize::try_from(expected).unwrap()));
        session.read_back(answer.clone());
        match (session.poll(0, &source.recent), answer) {
            (Step::SendOutcome(sent), Ok(outcome)) => assert_eq!(sent, outcome),
            (Step::Send(sent), Err(error)) => assert_eq!(sent.tell, Some(Tell::Error(error))),
            other => panic!("another answer than was read back: {other:?}"),
        }
    }
    assert_eq!(session.answers_waiting(), 0);
}

/// A stream that gets outcomes alone, and no logged one of more than a byte.
fn bounded(source: &Source) -> SyncSession {
    let (mut session, mut watcher) = (source.follow(Sections::OUTCOMES, Resume::default()), Watcher::default());
    drain(&mut session, source, &mut watcher, 0);
    session.bound_outcomes(OutcomeBounds { logged: 1, ..OutcomeBounds::NONE });
    session
}

// The room may be that of a dry run behind it, which would wait for ever.
#[test]
fn an_outcome_without_room_waits_and_what_needs_none_goes_before_it() {
    let mut source = Source::new(1 << 20);
    let mut session = bounded(&source);
    for number in 1..=2 {
        let at = source.transaction(number);
        session.decided(at, number);
    }
    let Step::NeedRoom { bytes } = session.poll(0, &source.recent) else { panic!("it is above the bound") };
    assert!(bytes > 1);
    session.no_room(bytes, 100);
    assert!(matches!(session.poll(0, &source.recent), Step::Wait { until_micros: 100 }));
    session.outcome(source.recent.newest(), Bytes::from_static(b"dry run"));
    session.error(Revision(0), v1::RequestError { number: 3, ..v1::RequestError::default() });
    // It is told of once the deltas up to it were.
    session.outcome(source.recent.newest().next(), Bytes::from_static(b"later"));
    let Step::SendOutcome(sent) = session.poll(99, &source.recent) else { panic!("it is in memory") };
    assert_eq!(sent, b"dry run"[..]);
    let error = session.poll(99, &source.recent);
    assert!(matches!(error, Step::Send(v1::SessionResponse { tell: Some(Tell::Error(_)) })), "{error:?}");
    assert!(matches!(session.poll(99, &source.recent), Step::Wait { until_micros: 100 }));
    assert!(matches!(session.poll(100, &source.recent), Step::NeedRoom { .. }), "it is asked for again");
    session.bound_outcomes(OutcomeBounds::NONE);
    for number in 1..=2 {
        let Step::SendOutcome(sent) = session.poll(100, &source.recent) else { panic!("there is room") };
        assert_eq!((v1::Outcome::decode(sent.clone()).unwrap().number, sent.len() > 1), (number, true));
    }
    assert_eq!(session.answers_waiting(), 1);
}

#[test]
fn an_outcome_that_was_read_back_in_vain_is_read_again_when_there_is_room() {
    let mut source = Source::new(200);
    let mut session = bounded(&source);
    let at = source.transaction(1);
    session.decided(at, 1);
    (0..50).for_each(|_| source.machine());
    assert!(matches!(session.poll(0, &source.recent), Step::NeedAnswer { number: 1, .. }));
    session.no_room(5000, 100);
    assert!(matches!(session.poll(99, &source.recent), Step::Wait { .. }));
    assert!(matches!(session.poll(100, &source.recent), Step::NeedRoom { bytes: 5000 }));
    session.bound_outcomes(OutcomeBounds::NONE);
    assert!(matches!(session.poll(100, &source.recent), Step::NeedAnswer { number: 1, .. }));
    session.read_back(Ok(Bytes::from_static(b"large")));
    let Step::SendOutcome(sent) = session.poll(100, &source.recent) else { panic!("it was read") };
    assert_eq!((sent, session.answers_waiting()), (Bytes::from_static(b"large"), 0));
}

#[test]
fn who_wants_outcomes_alone_gets_them_at_once_and_never_a_snapshot_or_a_delta() {
    let mut source = Source::new(200);
    let mut watcher = Watcher::default();
    let mut session = source.follow(Sections::OUTCOMES, Resume::default());
    drain(&mut session, &source, &mut watcher, 0);
    // Far more than is kept for those who follow.
    (0..50).for_each(|_| source.machine());
    session.outcome(source.recent.newest(), Bytes::new());
    drain(&mut session, &source, &mut watcher, 0);
    drain(&mut session, &source, &mut watcher, 1_000_000);
    assert_eq!(watcher.story, ["welcome", "outcome", "heartbeat"]);
    assert_eq!((session.resyncs(), session.position()), (0, Some(source.recent.newest())));
    let mut again = source.follow(Sections::OUTCOMES, Resume { incarnation: 1, revision: Revision(1) });
    drain(&mut again, &source, &mut watcher, 0);
    assert_eq!(watcher.story, ["welcome", "outcome", "heartbeat", "welcome"]);
}

#[test]
fn a_heartbeat_tells_what_can_be_read_of_the_past() {
    let mut source = Source::new(1 << 20);
    (0..5).for_each(|_| source.machine());
    let (mut session, mut watcher) = (source.watch(Resume::default()), Watcher::default());
    drain(&mut session, &source, &mut watcher, 0);
    for (second, (oldest, expected)) in (1..).zip([(1, 1), (4, 4), (2, 4)]) {
        source.recent.compacted(Revision(oldest));
        let Step::Send(message) = session.poll(second * 1_000_000, &source.recent) else {
            panic!("a heartbeat is due")
        };
        let Some(Tell::Heartbeat(beat)) = message.tell else { panic!("it is a heartbeat") };
        assert_eq!((beat.revision, beat.oldest_revision), (source.recent.newest().0, expected));
    }
}

// Whose clock had stood still, as while its machine slept, was told of no time but that of the last revision.
#[test]
fn a_heartbeat_tells_what_time_it_is_though_nothing_is_logged() {
    let source = Source::new(1 << 20);
    let told = |session: &mut SyncSession| {
        drain(session, &source, &mut Watcher::default(), 0);
        let Step::Send(message) = session.poll(1_000_000, &source.recent) else { panic!("a heartbeat is due") };
        let Some(Tell::Heartbeat(beat)) = message.tell else { panic!("it is a heartbeat") };
        beat.now_micros
    };
    assert_eq!(told(&mut source.watch(Resume::default())), 0, "who has no log time tells none");
    assert_eq!(told(&mut source.watch(Resume::default()).telling_time(5_000)), 1_005_000);
}

#[test]
fn a_heartbeat_tells_the_revision_in_time_and_not_more_often() {
    let mut source = Source::new(1 << 20);
    let (mut session, mut watcher) = (source.watch(Resume::default()), Watcher::default());
    drain(&mut session, &source, &mut watcher, 0);
    assert!(matches!(session.poll(999_999, &source.recent), Step::Wait { until_micros: 1_000_000 }));
    drain(&mut session, &source, &mut watcher, 1_000_000);
    source.machine();
    drain(&mut session, &source, &mut watcher, 1_000_001);
    assert_eq!(watcher.story, ["welcome+snapshot", "part", "heartbeat", "deltas"]);
}
