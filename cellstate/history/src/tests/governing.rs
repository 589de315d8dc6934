//! Finding where quotas, partitions, pauses and rights were set, and where there is news of the cell.
use super::*;
use crate::keys::{Shelf, block};
use crate::records::SummaryRecord;
use crate::{BlockSummary, Order};

/// The revisions of blocks that are read for what was set, and how many blocks there are.
fn read(history: &History) -> (Vec<u64>, usize) {
    read_where(history, BlockSummary::may_govern)
}

/// The same of blocks that are `wanted`.
fn read_where(history: &History, wanted: impl Fn(&BlockSummary) -> bool) -> (Vec<u64>, usize) {
    let blocks = std::cell::Cell::new(0);
    let wanted = |block: &BlockSummary| {
        blocks.set(blocks.get() + 1);
        wanted(block)
    };
    let mut walk = history.walk(1..=u64::MAX, Order::OldestFirst);
    let mut revisions = Vec::new();
    while let Some(entries) = walk.next(wanted).unwrap() {
        revisions.extend(entries.iter().map(|logged| logged.entry.revision));
    }
    (revisions, blocks.get())
}

/// One block for each revision.
fn one_by_one(folder: &Path) -> History {
    History::open(folder, Options { block_batches: 1, ..options() }).unwrap().0
}

fn governing(revision: u64) -> v1::Delta {
    let mut delta = v1::Delta { revision, ..Default::default() };
    match revision {
        2 | 9 => delta.quotas.push(v1::QuotaChange { namespace: "ml".to_owned(), limit: None }),
        4 => delta.partitions.push(v1::PartitionChange { name: "lab".to_owned(), ..Default::default() }),
        6 => delta.paused.push(v1::PausedChange { scheduler: "batch".to_owned(), paused: true }),
        8 => delta.rights.push(v1::RightsChange { scheduler: "batch".to_owned(), ..Default::default() }),
        _ => delta.sessions.push(v1::SessionChange { change: Some(v1::session_change::Change::Closed(revision)) }),
    }
    delta
}

/// What is news at some revisions, and at others only looks like it.
fn news(revision: u64) -> v1::Delta {
    let mut delta = v1::Delta { revision, ..Default::default() };
    let became = |state: v1::JobState| v1::JobChange {
        change: Some(v1::job_change::Change::State(v1::JobStateChange {
            id: 1,
            state: state.into(),
            ..Default::default()
        })),
    };
    match revision {
        1 => delta.cell = Some(v1::CellChange::default()),
        3 => delta.machines.push(v1::MachineChange { name: "m1".to_owned(), ..Default::default() }),
        5 => delta.jobs.push(became(v1::JobState::JobFailed)),
        6 => delta.jobs.push(became(v1::JobState::JobComplete)),
        _ => delta.ends = Some(v1::Ends { slots: vec![7], ..Default::default() }),
    }
    delta
}

// A story of the whole cell would have read all of the log.
#[test]
fn of_all_blocks_only_those_are_read_that_have_news_of_the_cell() {
    let folder = tempfile::tempdir().unwrap();
    let history = one_by_one(folder.path());
    history.append(&(1..=7).map(|revision| batch(SECOND, vec![changing(news(revision))])).collect::<Vec<_>>()).unwrap();
    assert_eq!(read_where(&history, BlockSummary::may_have_news), (vec![1, 3, 5], 7));
    let (folder, gathered) = (tempfile::tempdir().unwrap(), [6, 7, 1]);
    let (history, _) = open(folder.path());
    let entries = (1_u64..).zip(gathered).map(|(revision, of)| changing(v1::Delta { revision, ..news(of) }));
    history.append(&[batch(SECOND, entries.collect())]).unwrap();
    history.persist().unwrap();
    assert_eq!(read_where(&history, BlockSummary::may_have_news), (vec![1, 2, 3], 1), "the last of its block is some");
}

#[test]
fn of_all_blocks_only_those_are_read_that_set_something() {
    let folder = tempfile::tempdir().unwrap();
    let history = one_by_one(folder.path());
    let mut entries: Vec<_> = (1..=12).map(|revision| changing(governing(revision))).collect();
    // A grant whose slots are not packed, in front of what was set, is read by generated code.
    let loose = [&[0x42, 2, 0x48, 5][..], &entries[8].delta].concat();
    entries[8].delta = loose.into();
    history.append(&entries.into_iter().map(|entry| batch(SECOND, vec![entry])).collect::<Vec<_>>()).unwrap();
    assert_eq!(read(&history), (vec![2, 4, 6, 8, 9], 12));
}

// Blocks of before say nothing of it, and what they set would be passed over.
#[test]
fn what_was_written_before_this_was_noted_is_read_in_any_case() {
    let folder = tempfile::tempdir().unwrap();
    let history = one_by_one(folder.path());
    history
        .append(&(1..=6).map(|revision| batch(SECOND, vec![changing(governing(revision))])).collect::<Vec<_>>())
        .unwrap();
    let store = history.store().unwrap();
    let mut changes = store.changes();
    for first in 1..=3 {
        let record: SummaryRecord = store.message(Shelf::Filters, &block(first)).unwrap().unwrap();
        changes.put_message(Shelf::Filters, block(first), &SummaryRecord { governs: None, has_news: None, ..record });
    }
    changes.commit().unwrap();
    assert_eq!(read(&history), (vec![1, 2, 3, 4, 6], 6));
    assert_eq!(read_where(&history, BlockSummary::may_have_news), (vec![1, 2, 3], 6));
}

#[test]
fn what_still_gathers_is_read_in_any_case() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(folder.path());
    history
        .append(&[batch(SECOND, vec![changing(governing(1)), changing(governing(2)), changing(governing(3))])])
        .unwrap();
    assert_eq!(read(&history), (vec![1, 2, 3], 1));
    history.persist().unwrap();
    assert_eq!(read(&history), (vec![1, 2, 3], 1), "one of its block sets a quota");
}
