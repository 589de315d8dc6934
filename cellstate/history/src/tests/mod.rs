//! Stories about a history.
#![allow(clippy::unwrap_used)]

mod bearers;
mod beginnings;
mod checkpoints;
mod crashes;
mod damage;
mod feeding;
mod found;
mod governing;
mod image_files;
mod inspection;
mod placed;
mod reopening;
mod retention;
mod retired;
mod sets;
mod twin;

use crate::{EncodedBatch, History, LoggedTransaction, Opened, Options, Order, PageImage, TablePages};
use bytes::Bytes;
use plenum_proto::v1;
use prost::Message;
use std::ops::RangeInclusive;
use std::path::Path;

const SECOND: i64 = 1_000_000;

fn options() -> Options {
    Options { memtable_bytes: 64 << 10, block_bytes: 4 << 10, block_batches: 16, ..Options::new(*b"the cell") }
}

fn open(folder: &Path) -> (History, Opened) {
    History::open(folder, options()).unwrap()
}

/// A delta that names its revision, and is `padding` bytes larger than need be.
fn delta(revision: u64, padding: usize) -> v1::Delta {
    let names = (0..padding / 64).map(|part| format!("{revision:020}-{part:042}")).collect();
    v1::Delta { revision, scheduler_names: names, ..Default::default() }
}

fn entry(revision: u64, padding: usize) -> v1::LogEntry {
    let accepted = v1::Accepted { id: revision, version: 1 };
    let decision = v1::Decision { answer: Some(v1::decision::Answer::Accepted(accepted)) };
    v1::LogEntry {
        revision,
        asked: Bytes::new(),
        decided: decision.encode_to_vec().into(),
        delta: delta(revision, padding).encode_to_vec().into(),
    }
}

/// The entry of a transaction with this many refused claims.
fn transaction(revision: u64, session: u64, number: u64, refused: u32) -> v1::LogEntry {
    let outcome = v1::Outcome { session, number, revision, claims: 10, granted: 10 - refused, ..Default::default() };
    let decision = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) };
    v1::LogEntry { decided: decision.encode_to_vec().into(), ..entry(revision, 0) }
}

fn opening(revision: u64, scheduler: &str) -> v1::LogEntry {
    let opened = v1::SessionOpened { id: revision, scheduler: scheduler.to_owned(), ..Default::default() };
    session_change(revision, v1::session_change::Change::Opened(opened))
}

fn closing(revision: u64, session: u64) -> v1::LogEntry {
    session_change(revision, v1::session_change::Change::Closed(session))
}

fn session_change(revision: u64, change: v1::session_change::Change) -> v1::LogEntry {
    let sessions = vec![v1::SessionChange { change: Some(change) }];
    let delta = v1::Delta { revision, sessions, ..Default::default() };
    v1::LogEntry { delta: delta.encode_to_vec().into(), ..entry(revision, 0) }
}

fn batch(time_micros: i64, entries: Vec<v1::LogEntry>) -> EncodedBatch {
    let (first, last) = (entries.first().unwrap().revision, entries.last().unwrap().revision);
    let bytes = v1::LogBatch { core_version: 1, time_micros, entries, ..Default::default() }.encode_to_vec().into();
    EncodedBatch { first, last, time_micros, bytes, place: None }
}

/// Batches of three revisions each, a second apart: revision r is decided at second ⌈r / 3⌉.
fn batches(from: u64, to: u64, padding: usize) -> Vec<EncodedBatch> {
    assert_eq!((from - 1) % 3, 0, "batches begin at 1, 4, 7, …");
    let starts = (from..=to).step_by(3);
    starts
        .map(|first| {
            let time_micros = i64::try_from(first / 3 + 1).unwrap() * SECOND;
            batch(time_micros, (first..first + 3).map(|revision| entry(revision, padding)).collect())
        })
        .collect()
}

fn revisions(history: &History, from: u64, to: u64) -> Vec<u64> {
    history.entries(from, to).unwrap().map(|logged| logged.unwrap().entry.revision).collect()
}

/// Revisions of the first transactions that pass, and where the rest begins.
fn listed(
    history: &History,
    revisions: RangeInclusive<u64>,
    order: Order,
    limit: usize,
    mut passes: impl FnMut(&LoggedTransaction) -> bool,
) -> (Vec<u64>, Option<u64>) {
    let mut transactions = history.transactions(revisions, order);
    let mut found = Vec::new();
    for transaction in transactions.by_ref().map(Result::unwrap) {
        if !passes(&transaction) {
            continue;
        }
        if found.len() == limit {
            return (found, Some(transaction.revision));
        }
        found.push(transaction.revision);
    }
    (found, transactions.resume())
}

fn page(table: u8, number: u32, text: &str) -> PageImage {
    PageImage { table, number, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

const fn pages(table: u8, pages: u32) -> TablePages {
    TablePages { table, pages }
}

/// The pages of a checkpoint, as "table/page=text".
fn images(history: &History, revision: u64) -> Vec<String> {
    let text = |image: PageImage| {
        format!("{}/{}={}", image.table, image.number, String::from_utf8(image.bytes.to_vec()).unwrap())
    };
    history.pages_at(revision).unwrap().map(|image| text(image.unwrap())).collect()
}

/// The entry of a transaction of ten claims that lost some: to whom, on which machine, and how many.
fn lost(revision: u64, session: u64, staleness: u64, losses: &[(&str, u32, usize)]) -> v1::LogEntry {
    let refusals = losses.iter().flat_map(|(winner, machine, claims)| {
        let (scheduler, event) = match winner.strip_prefix('(') {
            Some(event) => (String::new(), event.trim_end_matches(')').to_owned()),
            None => ((*winner).to_owned(), String::new()),
        };
        let culprits = vec![v1::Culprit { scheduler, event, ..Default::default() }];
        let kind = v1::RefusalKind::Conflict.into();
        let refusal = v1::Refusal { kind, machine: *machine, job: 7, resource: 1, culprits, ..Default::default() };
        std::iter::repeat_n(refusal, *claims)
    });
    let outcome = v1::Outcome {
        session,
        number: revision,
        revision,
        claims: 10,
        refusals: refusals.collect(),
        ..Default::default()
    };
    let decision = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) };
    let decided = v1::DecisionMetadata { deciding_micros: 1000, ..Default::default() };
    let asked = v1::Transaction { base_revision: revision - staleness, decision: Some(decided), ..Default::default() };
    let asked = v1::Command { ask: Some(v1::command::Ask::Commit(asked)), ..Default::default() };
    v1::LogEntry { asked: asked.encode_to_vec().into(), decided: decision.encode_to_vec().into(), ..entry(revision, 0) }
}

/// The entry of this delta.
fn changing(delta: v1::Delta) -> v1::LogEntry {
    v1::LogEntry { delta: delta.encode_to_vec().into(), ..entry(delta.revision, 0) }
}

/// What a kill -9 leaves: the files as they are while the history is open. Waits until nobody changes them, as a copy
/// takes time.
fn copy_of(history: &History, from: &Path, to: &Path) {
    history.store().unwrap().wait_until_idle();
    copy_folder(from, to);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
