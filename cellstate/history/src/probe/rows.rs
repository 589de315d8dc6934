//! One row of each kind that a store has: what the fuzzer begins with.

use bytes::Bytes;
use plenum_proto::v1;
use prost::Message;

use crate::block::PLACED;
use crate::filter::{Subject, Subjects};
use crate::image_files;
use crate::keys::{self, ImageKey};
use crate::records::{
    CheckpointRecord, ConflictRecord, ConflictsRecord, CountsRecord, JobRecord, LeaverRecord, LossRecord,
    MachineRecord, NumberRecord, PlacedRecord, SummaryRecord, TimeRecord,
};

/// A row as a store has it, unsealed.
#[derive(Clone, Debug)]
pub struct ProbeRow {
    /// What its value is: the record's name.
    pub kind: &'static str,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

impl ProbeRow {
    fn of(kind: &'static str, key: impl Into<Vec<u8>>, value: &impl Message) -> Self {
        Self { kind, key: key.into(), value: value.encode_to_vec() }
    }
}

/// A row of each kind, with all that its record may say; of some kinds as earlier formats have them, too. Blocks that hold their batches are
/// not among them: whoever has a log makes these.
#[must_use]
pub fn rows() -> Vec<ProbeRow> {
    let image = |set| ProbeRow {
        kind: "image",
        key: ImageKey { set, table: 3, page: 2, revision: 90 }.encode(),
        // Pages are bytes to a history.
        value: vec![8, 1, 18, 1, 5],
    };
    let mut rows = about_blocks();
    rows.extend(names());
    rows.extend([
        ProbeRow::of("CheckpointRecord", keys::checkpoint(90), &checkpoint(80)),
        ProbeRow::of("CheckpointRecord", keys::checkpoint(90), &checkpoint(0)),
        image(80),
        image(0),
        ProbeRow::of("NumberRecord", keys::HEAD, &NumberRecord { number: 90 }),
        ProbeRow::of("LeaverRecord", keys::leaver(90, 1), &LeaverRecord { key: keys::job(JOB) }),
        ProbeRow::of("RetiredDay", keys::retired(20_785), &retired_day()),
        ProbeRow { kind: "index of images", key: Vec::new(), value: image_files::an_index() },
    ]);
    rows
}

const JOB: u64 = 1 << 32 | 7;
const MACHINE: u64 = 1 << 32 | 3;

/// Of the block from revision 9 on.
fn about_blocks() -> Vec<ProbeRow> {
    let counts = CountsRecord { revisions: 8, transactions: 6, claims: 40, refused_claims: 3 };
    let time = TimeRecord { bytes_so_far: 4096, uncounted_micros: 1_000_000, counts: Some(counts) };
    let placed = PlacedRecord {
        last: 16,
        segment: 2,
        offset: 1024,
        frame_bytes: 2048,
        bytes: 1800,
        time_micros: 1_000_000,
        newest_time_micros: 2_000_000,
    };
    let placed = [&PLACED[..], &placed.encode_to_vec()].concat();
    let mut subjects = Subjects::default();
    for subject in [Subject::Job(JOB), Subject::Session(2), Subject::Transaction(2, 5), Subject::MachineSlot(3)] {
        subjects.about(subject);
    }
    let filter = Bytes::from(subjects.filter());
    let summary = SummaryRecord { last: 16, time_micros: 1_000_000, ..SummaryRecord::default() };
    let told = SummaryRecord { governs: Some(true), has_news: Some(true), ..summary.clone() };
    vec![
        ProbeRow { kind: "PlacedRecord", key: keys::block(9), value: placed },
        ProbeRow::of("TimeRecord", keys::time(1_000_000, 9), &time),
        ProbeRow::of("SummaryRecord", keys::block(9), &SummaryRecord { filter: filter.clone(), ..told.clone() }),
        ProbeRow::of("SummaryRecord", keys::block(9), &SummaryRecord { mixed_filter: filter.clone(), ..told }),
        ProbeRow::of("SummaryRecord", keys::summary(9), &SummaryRecord { old_filter: filter, ..summary }),
        ProbeRow::of("ConflictsRecord", keys::conflicts(9), &conflicts()),
    ]
}

/// Two of the same transactions that a block has.
fn conflicts() -> ConflictsRecord {
    let loss =
        |winner: &str, machine| LossRecord { winner: winner.to_owned(), machine, job: JOB, resource: 1, claims: 2 };
    let conflict = ConflictRecord {
        time_micros: 1_500_000,
        session: 2,
        number: 5,
        revision: 12,
        claims: 4,
        staleness_revisions: 3,
        deciding_micros: 700,
        losses: vec![loss("service", 4), loss("batch", 0)],
    };
    ConflictsRecord { conflicts: vec![conflict.clone(), ConflictRecord { number: 6, ..conflict }] }
}

/// Of what outlives those that bear them.
fn names() -> Vec<ProbeRow> {
    let groups = ["split", "map"].map(str::to_owned).to_vec();
    let job = JobRecord { namespace: "default".to_owned(), name: "words".to_owned(), groups, revision: 9 };
    let session = v1::SessionOpened {
        id: 2,
        scheduler: "batch".to_owned(),
        principal: "scheduler/batch".to_owned(),
        namespace: "default".to_owned(),
    };
    vec![
        ProbeRow::of("JobRecord", keys::job(JOB), &job),
        ProbeRow::of("MachineRecord", keys::machine(3, 9), &MachineRecord { id: MACHINE, name: "m-3".to_owned() }),
        ProbeRow::of("SessionOpened", keys::session(2), &session),
    ]
}

/// Of a set that began with this checkpoint; 0: of a format that had no sets.
fn checkpoint(set: u64) -> CheckpointRecord {
    CheckpointRecord {
        time_micros: 1_000_000,
        images: 3,
        image_bytes: 12_000,
        tables: vec![1, 3],
        pages: vec![2, 1],
        set,
        whole_bytes: 9000,
        added_bytes: 3000,
        in_file: set > 0,
    }
}

fn retired_day() -> v1::RetiredDay {
    let pair = v1::RetiredPair { loser: "batch".to_owned(), winner: "service".to_owned(), transactions: 2, claims: 3 };
    v1::RetiredDay {
        first_revision: 1,
        last_revision: 8,
        from_micros: 1,
        to_micros: 999_999,
        counted_revisions: 8,
        transactions: 6,
        claims: 40,
        refused_claims: 3,
        lost_claims: 3,
        pairs: vec![pair],
    }
}
