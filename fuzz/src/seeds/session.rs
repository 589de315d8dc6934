//! What goes over the streams of sessions and agents.

use bytes::Bytes;
use plenum_model::{Delta, Transaction};
use plenum_proto::v1::{self, session_request::Ask, session_response::Tell};
use prost::Message;

use super::{busy, encoded, rest, some, strategies, world::World, worlds};
use crate::job_file::JobFile;

/// A row of messages, each behind its length.
pub(super) fn row(messages: &[impl Message]) -> Vec<u8> {
    messages.iter().flat_map(Message::encode_length_delimited_to_vec).collect()
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let ask = |ask: Ask| v1::SessionRequest { ask: Some(ask) }.encode_to_vec();
    let (scheduler, namespace) = ("batch".to_owned(), "default".to_owned());
    let first = v1::Hello { scheduler, namespace, ..v1::Hello::default() };
    let sections = vec![v1::Section::Bodies.into()];
    let again = v1::Hello { session: 7, incarnation: 1, revision: 4711, sections, ..first.clone() };
    let note = v1::PassedOverNote { job: 1 << 32 | 7, reason: "no room".to_owned(), ..v1::PassedOverNote::default() };
    let notes = v1::PassedOver { notes: vec![note.clone()] };
    let mut inputs = vec![ask(Ask::Hello(first)), ask(Ask::Hello(again.clone())), ask(Ask::PassedOver(notes))];
    let commit = |transaction: Transaction| Bytes::from(ask(Ask::Commit((&transaction).into())));
    inputs.extend(some(strategies::transaction(), commit));
    // What else a scheduler may say that is back, and knows its cell.
    let seen = v1::Hello {
        cell_id: b"a cell of a test".to_vec().into(),
        seen_incarnation: 1,
        seen_revision: 4711,
        seen_term: 2,
        pulse_micros: 5_000_000,
        ..again
    };
    let whole = v1::PassedOverNote { group: 1, tasks: 3, revision: 4711, job_version: 2, staying: true, ..note };
    let pulse = v1::Pulse { over_micros: 5_000_000, busy_micros: 4711, waiting_jobs: 3, revision: 4711 };
    let asks = [Ask::Hello(seen), Ask::PassedOver(v1::PassedOver { notes: vec![whole] }), Ask::Pulse(pulse)];
    inputs.extend(asks.map(ask));
    rest::with_the_rest(inputs, "SessionRequest", strategies::transaction(), commit)
}

/// Bodies of requests, each behind how many bytes of it come at a time: of one message, of several, of nothing, and cut where no message ends.
pub(super) fn bodies() -> Vec<Vec<u8>> {
    let message = |content: &[u8]| {
        let length = u32::try_from(content.len()).expect("it is short").to_be_bytes();
        [&[0_u8][..], &length, content].concat()
    };
    let behind = |piece: u8, body: &[u8]| [&[piece][..], body].concat();
    let (one, empty) = (message(b"a message of its own"), message(b""));
    let several = [one.clone(), empty.clone(), message(&[7; 300]), one.clone()].concat();
    let mut inputs = vec![behind(255, &one), behind(3, &empty), behind(0, b"")];
    inputs.extend([1, 4, 5, 6, 255].map(|piece| behind(piece, &several)));
    // In the last message, and in its head.
    inputs.extend([3, one.len() - 2].map(|missing| behind(7, &several[..several.len() - missing])));
    inputs.push(behind(2, b"\0\xff\xff\xff\xff, which nobody sends"));
    inputs
}

pub(super) fn responses() -> Vec<Vec<u8>> {
    let worlds = worlds();
    let mut inputs: Vec<Vec<u8>> = worlds.iter().take(4).map(|world| row(&from_the_beginning(world))).collect();
    inputs.extend(worlds.iter().take(4).map(|world| row(&by_snapshot(world))));
    // Behind the server's memory: it begins anew in the middle of the stream.
    inputs.push(row(&[from_the_beginning(&worlds[0]), by_snapshot(&worlds[1])].concat()));
    // A snapshot that is broken off, and one that nobody announced.
    let mut broken = by_snapshot(&worlds[1]);
    broken.truncate(2);
    inputs.push(row(&[broken, from_the_beginning(&worlds[1])].concat()));
    inputs.push(row(&by_snapshot(&worlds[2])[1..]));
    // With allocations that come, change and end; also behind a snapshot that has some.
    let (busy, later) = (busy::world(), busy::later());
    let further = vec![deltas(&later.deltas[busy.deltas.len()..])];
    inputs.extend([row(&from_the_beginning(&later)), row(&[by_snapshot(&busy), further].concat())]);
    inputs.push(row(&answers()));
    inputs
}

/// Each field of what answers transactions and keeps a session going.
fn answers() -> Vec<v1::SessionResponse> {
    let first = v1::Welcome { message_bytes_max: 4 << 20, newest: 9, ..greeting(0, false) };
    let pulse = v1::Heartbeat { revision: 9, time_micros: 5000, oldest_revision: 1, now_micros: 6000 };
    let outcomes = rest::of_decisions(Vec::new()).into_iter().filter_map(|decision| {
        match v1::Decision::decode(&*decision).expect("decisions are messages").answer {
            Some(v1::decision::Answer::Outcome(outcome)) => Some(told(Tell::Outcome(outcome))),
            _ => None,
        }
    });
    [told(Tell::Welcome(first)), told(Tell::Heartbeat(pulse))].into_iter().chain(outcomes).collect()
}

fn told(tell: Tell) -> v1::SessionResponse {
    v1::SessionResponse { tell: Some(tell) }
}

fn welcome(revision: u64, snapshot: bool) -> v1::SessionResponse {
    told(Tell::Welcome(greeting(revision, snapshot)))
}

fn greeting(revision: u64, snapshot: bool) -> v1::Welcome {
    v1::Welcome {
        session: 2,
        incarnation: 1,
        term: 1,
        revision,
        snapshot,
        cell_id: b"a cell of a test".to_vec().into(),
        pulse_micros: 5_000_000,
        message_bytes_max: 0,
        newest: revision,
    }
}

fn deltas(deltas: &[Delta]) -> v1::SessionResponse {
    told(Tell::Deltas(v1::Deltas { deltas: deltas.iter().map(encoded).collect() }))
}

fn from_the_beginning(world: &World) -> Vec<v1::SessionResponse> {
    let revision = world.cell.revision().0;
    let outcome = v1::TransactionOutcome::Committed.into();
    let outcome = v1::Outcome { session: 2, number: 1, revision, outcome, ..v1::Outcome::default() };
    let (status, code, message) = (8, "RESOURCE_EXHAUSTED".to_owned(), "later".to_owned());
    let error = v1::RequestError { number: 2, status, code, message, retry_after_micros: 1000 };
    vec![
        welcome(0, false),
        deltas(&world.deltas),
        told(Tell::Outcome(outcome)),
        told(Tell::Heartbeat(v1::Heartbeat {
            revision,
            time_micros: world.cell.time().micros,
            ..v1::Heartbeat::default()
        })),
        told(Tell::Error(error)),
    ]
}

fn by_snapshot(world: &World) -> Vec<v1::SessionResponse> {
    let revision = world.cell.revision().0;
    let pages = plenum_proto::pages::every(&world.cell);
    let mut pages: Vec<_> =
        pages.map(|(table, number)| plenum_proto::pages::encode_page(&world.cell, table, number)).collect();
    let rest = pages.split_off(pages.len() / 2);
    let part = |pages, last| told(Tell::Snapshot(v1::SnapshotPart { revision, pages, last }));
    vec![welcome(revision, true), part(pages, false), part(rest, true)]
}

pub(super) fn assignments() -> Vec<Vec<u8>> {
    let full =
        |wanted: Vec<v1::Assignment>| v1::Assignments { revision: 5, full: true, wanted, ..v1::Assignments::default() };
    let one = assignment(7, v1::AllocationState::Granted);
    let next = v1::Assignment { takes_over: vec![1 << 32 | 7], ..assignment(8, v1::AllocationState::Granted) };
    let more = v1::Assignments { revision: 6, wanted: vec![next.clone()], ..v1::Assignments::default() };
    let ending = v1::Assignments { stop: vec![1 << 32 | 7], keep: vec![1 << 32 | 9], ..more.clone() };
    let wrong = v1::Assignment { body: None, takes_over: vec![0], ..one.clone() };
    let nobody = v1::Assignment { allocation: 0, ..one.clone() };
    vec![
        row(&[full(Vec::new())]),
        row(&[full(vec![one.clone()])]),
        row(&[full(vec![one.clone(), next.clone()])]),
        row(&[full(vec![one.clone()]), more.clone(), ending.clone()]),
        row(&[ending, full(vec![assignment(7, v1::AllocationState::Running)])]),
        row(&[full(vec![one.clone(), one.clone()]), full(Vec::new()), full(vec![one])]),
        row(&[full(vec![wrong, nobody]), more]),
        row(&[full(of_a_job_file()), v1::Assignments { more: true, logs: logs(), ..full(Vec::new()) }]),
    ]
}

/// With all that a job may ask for, each group of it.
fn of_a_job_file() -> Vec<v1::Assignment> {
    let whole = JobFile::parse("job", super::job_files::WHOLE).expect("it is a job file").spec;
    let bodies = whole.body.expect("a job file gives a body").groups.into_iter();
    let of = |(slot, body): (u64, v1::GroupBody)| {
        let plain = assignment(slot, v1::AllocationState::Granted);
        let more = v1::Resources { disk_bytes: 1 << 30, custom: vec![0, 3], ..plain.resources.unwrap_or_default() };
        let (group, body, resources) = (body.name.clone(), Some(body), Some(more));
        v1::Assignment { group, body, resources, task: 3, attempt: 2, job_dir: true, ..plain }
    };
    (7..).zip(bodies).map(of).collect()
}

/// What is asked for of what tasks wrote: the end of it and what comes, from a place on, and no longer.
fn logs() -> Vec<v1::LogsAsked> {
    let last =
        v1::LogsAsked { request: 1, allocation: 1 << 32 | 7, tail_lines: 10, follow: true, ..Default::default() };
    let from = v1::LogsAsked { request: 2, stderr: true, only_new: true, from: Some(4711), tail_lines: 0, ..last };
    let enough = v1::LogsAsked { request: 1, cancelled: true, ..Default::default() };
    vec![last, from, enough]
}

pub(super) fn registrations() -> Vec<Vec<u8>> {
    let answer = v1::RegisterResponse {
        machine: 1 << 32 | 1,
        epoch: 3,
        lease_micros: 15_000_000,
        renew_micros: 5_000_000,
        revision: 4711,
        incarnation: 1,
        cell_id: vec![0xce; 16].into(),
        ..v1::RegisterResponse::default()
    };
    let again = v1::RegisterResponse { register_again: true, revision: 4712, incarnation: 2, ..Default::default() };
    let unfit = v1::RegisterResponse { unfit: v1::Unfit::AgentLeaves.into(), epoch: 4, ..answer.clone() };
    let soon = v1::RegisterResponse { lease_micros: 999, renew_micros: i64::MAX, ..answer.clone() };
    let long = v1::RegisterResponse { lease_micros: i64::MAX, renew_micros: 1_000, ..answer.clone() };
    vec![row(std::slice::from_ref(&answer)), row(&[answer.clone(), again, unfit]), row(&[soon, long, answer])]
}

fn assignment(slot: u64, state: v1::AllocationState) -> v1::Assignment {
    let resources = v1::Resources { cpu_millis: 500, memory_bytes: 1 << 26, ..v1::Resources::default() };
    let body = v1::GroupBody {
        name: "map".to_owned(),
        command: ["/bin/sh", "-c", "true"].map(str::to_owned).into(),
        env: [("LC_ALL".to_owned(), "C".to_owned())].into(),
        restart: Some(v1::RestartPolicy { attempts: 2, delay_micros: 1, within_micros: 5_000_000 }),
        kill_timeout_micros: 10_000_000,
        ..v1::GroupBody::default()
    };
    v1::Assignment {
        allocation: 1 << 32 | slot,
        namespace: "default".to_owned(),
        job: "word-count".to_owned(),
        job_id: 1 << 32 | 3,
        job_version: 1,
        group: "map".to_owned(),
        resources: Some(resources),
        body: Some(body),
        ports: vec![v1::Port { name: "http".to_owned(), number: 8080 }],
        devices: vec![v1::Device { kind: "gpu".to_owned(), index: 1, millis: 1000, model: "a100".to_owned() }],
        state: state.into(),
        group_count: 8,
        every_end_fails: true,
        ..v1::Assignment::default()
    }
}
