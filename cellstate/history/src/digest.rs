//! What the index keeps of batches: gathered while their block does, and written with it.
use crate::batch::{EncodedBatch, Loss, losses_of};
use crate::error::WriteError;
use crate::filter::{Subject, Subjects};
use crate::heads::{self, EntryView, OutcomeView, Unusual, content, small, varint};
use crate::keys;
use crate::records::{
    CommandHead, ConflictRecord, CountsRecord, DeltaHead, JobRecord, LeaverRecord, LogBatchHead, LossRecord,
    MachineRecord,
};
use plenum_proto::fields::fields;
use plenum_proto::v1;
use plenum_proto::v1::job_change::Change as JobChange;
use plenum_proto::v1::session_change::Change as SessionChange;
use prost::Message;
use std::collections::BTreeMap;

/// Rows of the index, by key.
pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Fields of a `Delta`.
const CELL: u64 = 3;
const MACHINES: u64 = 6;
const JOBS: u64 = 7;
const GRANTS: u64 = 8;
const MOVES: u64 = 9;
const ENDS: u64 = 10;
const TASKS: u64 = 11;
const SESSIONS: u64 = 12;
const QUOTAS: u64 = 13;
const PARTITIONS: u64 = 15;
const PAUSED: u64 = 18;
const RIGHTS: u64 = 21;
/// Of its `Grants`.
const GRANTED_JOB: u64 = 1;
const GRANTED_SLOTS: u64 = 9;
/// Of its `TaskChanges`.
const GROUP_ROW: u64 = 1;
/// Of its `Moves` and `Ends`.
const SLOTS: u64 = 1;
/// Of its `SessionChange`.
const SESSION_NUMBER: u64 = 3;
/// Of its `SessionNumber`: a hash, in a field of 8 bytes.
const DIGEST: u64 = 3;
const FIXED_64: u8 = 1;

/// What the entries of a block are about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Digest {
    /// The transactions that lost claims to somebody, oldest first.
    pub(crate) conflicts: Vec<ConflictRecord>,
    /// Names, and what goes with them one day.
    pub(crate) rows: Rows,
    /// Whether a quota, a partition, a pause or a right was set.
    pub(crate) governs: bool,
    /// Whether a server started, a machine came, went or became another one than before, or a job failed.
    pub(crate) has_news: bool,
    pub(crate) counts: CountsRecord,
}

impl Digest {
    /// Reads a batch, and notes what it is about. `machine_in` tells which machine is known to be in a slot.
    pub(crate) fn of(
        batch: &EncodedBatch,
        subjects: &mut Subjects,
        machine_in: &mut Machines<'_>,
    ) -> Result<Self, WriteError> {
        let malformed = |what: String| WriteError::Malformed { revision: batch.first, what };
        let head;
        let entries = match heads::entries(&batch.bytes) {
            Ok(entries) => entries,
            Err(Unusual) => {
                let decoded = LogBatchHead::decode(batch.bytes.clone());
                head = decoded.map_err(|error| malformed(format!("it can't be decoded: {error}")))?;
                head.entries.iter().map(EntryView::from).collect()
            }
        };
        let revisions = entries.iter().map(|entry| entry.revision);
        if !revisions.eq(batch.first..=batch.last) {
            return Err(malformed(format!(
                "its entries are not the revisions {} to {}, in order",
                batch.first, batch.last
            )));
        }
        let mut digest = Self::default();
        digest.counts.revisions = entries.len() as u64;
        let mut rest = Vec::new();
        for entry in entries {
            let undecodable = |error| malformed(format!("revision {} can't be decoded: {error}", entry.revision));
            digest.note_answer(subjects, batch.time_micros, entry).map_err(undecodable)?;
            rest.clear();
            let delta = match note_slots(subjects, entry.delta, &mut rest) {
                Ok(()) if rest.is_empty() => continue,
                Ok(()) => DeltaHead::decode(&*rest),
                Err(Unusual) => DeltaHead::decode(entry.delta),
            };
            digest.note_changes(subjects, entry.revision, &delta.map_err(undecodable)?, machine_in);
        }
        Ok(digest)
    }

    /// Adds what came after.
    pub(crate) fn extend(&mut self, mut later: Self) {
        self.conflicts.append(&mut later.conflicts);
        // Not `append`, which walks all that is there already for each batch.
        self.rows.extend(later.rows);
        self.governs |= later.governs;
        self.has_news |= later.has_news;
        self.counts.add(later.counts);
    }

    fn note_answer(
        &mut self,
        subjects: &mut Subjects,
        time_micros: i64,
        entry: EntryView<'_>,
    ) -> Result<(), prost::DecodeError> {
        let decided = entry.decided;
        let outcome = heads::outcome(decided).or_else(|Unusual| heads::outcome_by_generated_code(decided))?;
        // A repeated number has the revision of the first time, a dry run 0.
        let Some(outcome) = outcome.filter(|outcome| outcome.revision == entry.revision) else {
            return Ok(());
        };
        let OutcomeView { session, number, claims, granted, lost, .. } = outcome;
        self.counts.transactions += 1;
        self.counts.claims += u64::from(claims);
        self.counts.refused_claims += u64::from(claims.saturating_sub(granted));
        subjects.about(Subject::Session(session));
        subjects.about(Subject::Transaction(session, number));
        if lost.is_empty() {
            return Ok(());
        }
        let losses = losses_of(lost.into_iter());
        let asked = CommandHead::decode(entry.asked)?.commit.unwrap_or_default();
        self.conflicts.push(ConflictRecord {
            time_micros,
            session,
            number,
            revision: entry.revision,
            claims,
            staleness_revisions: entry.revision.saturating_sub(asked.base_revision),
            deciding_micros: asked.decision.map_or(0, |decision| decision.deciding_micros.max(0)),
            losses: losses.into_iter().map(loss_record).collect(),
        });
        Ok(())
    }

    fn note_changes(
        &mut self,
        subjects: &mut Subjects,
        revision: u64,
        delta: &DeltaHead,
        machine_in: &mut Machines<'_>,
    ) {
        for grants in &delta.grants {
            subjects.about(Subject::Job(grants.job));
            grants.slots.iter().for_each(|slot| subjects.about(Subject::AllocationSlot(*slot)));
        }
        for slots in delta.moves.iter().chain(&delta.ends) {
            slots.slots.iter().for_each(|slot| subjects.about(Subject::AllocationSlot(*slot)));
        }
        delta.tasks.iter().for_each(|changes| subjects.about(Subject::GroupRow(changes.group_row)));
        let laid_down = [&delta.quotas, &delta.partitions, &delta.paused, &delta.rights];
        self.governs |= laid_down.into_iter().any(|changes| !changes.is_empty());
        self.has_news |= has_news(delta);
        let mut leavers = 0;
        let mut leave = |rows: &mut Rows, key: Vec<u8>| {
            rows.insert(keys::leaver(revision, leavers), LeaverRecord { key }.encode_to_vec());
            leavers += 1;
        };
        for change in delta.jobs.iter().filter_map(|change| change.change.as_ref()) {
            match change {
                JobChange::Put(put) => {
                    subjects.about(Subject::Job(put.id));
                    self.rows.insert(keys::job(put.id), job_record(put, revision).encode_to_vec());
                }
                JobChange::State(state) => subjects.about(Subject::Job(state.id)),
                JobChange::Home(home) => subjects.about(Subject::Job(home.id)),
                JobChange::Launched(launched) => subjects.about(Subject::Job(launched.id)),
                JobChange::Group(group) => subjects.about(Subject::GroupRow(group.group)),
                JobChange::Removed(id) => {
                    subjects.about(Subject::Job(*id));
                    leave(&mut self.rows, keys::job(*id));
                }
            }
        }
        for machine in &delta.machines {
            let slot = slot_of(machine.id);
            subjects.about(Subject::MachineSlot(slot));
            if machine.state == i32::from(v1::MachineState::Gone) {
                if let Some(from) = machine_in.forget(slot) {
                    leave(&mut self.rows, keys::machine(slot, from));
                }
            } else if let New::Is { outdated } = machine_in.meets(slot, machine.id, revision) {
                if let Some(from) = outdated {
                    leave(&mut self.rows, keys::machine(slot, from));
                }
                let record = MachineRecord { id: machine.id, name: machine.name.clone() };
                self.rows.insert(keys::machine(slot, revision), record.encode_to_vec());
            }
        }
        for change in delta.sessions.iter().filter_map(|change| change.change.as_ref()) {
            match change {
                SessionChange::Opened(opened) => {
                    subjects.about(Subject::Session(opened.id));
                    self.rows.insert(keys::session(opened.id), opened.encode_to_vec());
                }
                SessionChange::Closed(id) => {
                    subjects.about(Subject::Session(*id));
                    leave(&mut self.rows, keys::session(*id));
                }
                SessionChange::Number(_) => {}
            }
        }
    }
}

/// Whether a server starts, a machine comes, goes or is another one than before, or a job fails.
fn has_news(delta: &DeltaHead) -> bool {
    let failed = i32::from(v1::JobState::JobFailed);
    let fails = |change: &v1::JobChange| matches!(&change.change, Some(JobChange::State(job)) if job.state == failed);
    delta.cell.is_some() || !delta.machines.is_empty() || delta.jobs.iter().any(fails)
}

/// Notes the slots of allocations in an encoded delta, and gives what else in it is looked at. They are nearly all of it, and
/// generated code takes longer to read such a column than all else here takes together. Where it is unusual, generated code is to
/// read it all the same, and what was noted until then is noted twice.
fn note_slots(subjects: &mut Subjects, delta: &[u8], rest: &mut Vec<u8>) -> Result<(), Unusual> {
    for field in fields(delta) {
        let field = field?;
        let slots = match field.number {
            GRANTS => GRANTED_SLOTS,
            MOVES | ENDS => SLOTS,
            TASKS => GROUP_ROW,
            SESSIONS if is_number(content(delta, &field)?) => continue,
            CELL | MACHINES | JOBS | SESSIONS | QUOTAS | PARTITIONS | PAUSED | RIGHTS => {
                rest.extend_from_slice(&delta[field.whole]);
                continue;
            }
            _ => continue,
        };
        let message = content(delta, &field)?;
        // Where they are not written, they are 0.
        let (mut group_row, mut job) = (0, 0);
        for column in fields(message) {
            let column = column?;
            if (field.number, column.number) == (TASKS, GROUP_ROW) {
                group_row = small(message, &column)?;
            } else if column.number == slots {
                note_column(subjects, content(message, &column)?)?;
            } else if (field.number, column.number) == (GRANTS, GRANTED_JOB) {
                job = varint(message, &column)?;
            }
        }
        match field.number {
            TASKS => subjects.about(Subject::GroupRow(group_row)),
            GRANTS => subjects.about(Subject::Job(job)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a `SessionChange` is the number that a session has got to: each transaction has one, and nothing is noted of it.
fn is_number(change: &[u8]) -> bool {
    let mut all = fields(change);
    let first = all.next().and_then(Result::ok).filter(|field| field.number == SESSION_NUMBER);
    let number = first.and_then(|field| content(change, &field).ok());
    number.is_some_and(is_session_number) && all.next().is_none()
}

/// Whether a `SessionNumber` is as servers write it.
fn is_session_number(bytes: &[u8]) -> bool {
    fields(bytes).all(|field| match field {
        Ok(field) if field.number == DIGEST => bytes[field.whole.start] & 7 == FIXED_64,
        Ok(field) => varint(bytes, &field).is_ok(),
        Err(_) => false,
    })
}

/// Slots that are noted together.
const SLOTS_TOGETHER: usize = 64;

/// Notes the slots of a packed column.
fn note_column(subjects: &mut Subjects, column: &[u8]) -> Result<(), Unusual> {
    let (mut together, mut count) = ([0; SLOTS_TOGETHER], 0);
    let mut rest = column;
    loop {
        if count == together.len() {
            subjects.about_slots(&together);
            count = 0;
        }
        // Slots of a large cell have three bytes, and the processor guesses so.
        let (slot, after) = match *rest {
            [] => {
                subjects.about_slots(&together[..count]);
                return Ok(());
            }
            [a, ref after @ ..] if a < 0x80 => (u32::from(a), after),
            [a, b, ref after @ ..] if b < 0x80 => (seven(a) | u32::from(b) << 7, after),
            [a, b, c, ref after @ ..] if c < 0x80 => (seven(a) | seven(b) << 7 | u32::from(c) << 14, after),
            [a, b, c, d, ref after @ ..] if d < 0x80 => {
                (seven(a) | seven(b) << 7 | seven(c) << 14 | u32::from(d) << 21, after)
            }
            // Of the fifth byte four bits are left.
            [a, b, c, d, e, ref after @ ..] if e < 0x10 => {
                (seven(a) | seven(b) << 7 | seven(c) << 14 | seven(d) << 21 | u32::from(e) << 28, after)
            }
            _ => return Err(Unusual),
        };
        together[count] = slot;
        count += 1;
        rest = after;
    }
}

/// What a byte of a number has that is not its last.
fn seven(byte: u8) -> u32 {
    u32::from(byte & 0x7f)
}

/// The slot of an id.
pub(crate) fn slot_of(id: u64) -> u32 {
    u32::try_from(id & 0xffff_ffff).unwrap_or(u32::MAX)
}

/// What is known of the machine in a slot: 16 bytes a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Known {
    /// The store was not asked yet.
    #[default]
    Unasked,
    /// None is there.
    Nobody,
    /// The generation of the machine's id, and the revision of its row.
    Machine(u32, u64),
}

const _: () = assert!(size_of::<Known>() <= 16, "there is one for each machine");

/// What is known of the machines in all slots.
#[derive(Debug, Default)]
pub(crate) struct KnownMachines {
    near: Vec<Known>,
    /// Slots beyond the column: nothing in a batch may make that long.
    far: BTreeMap<u32, Known>,
}

/// Slots of the column: 16 MiB when all are there. It grows as slots are given, from the first on; one far beyond its end waits apart.
const NEAR_SLOTS: usize = 1 << 20;
const NEAR_SLOTS_LEAST: usize = 1 << 12;

impl KnownMachines {
    fn entry(&mut self, slot: u32) -> &mut Known {
        let at = slot as usize;
        let reach = NEAR_SLOTS_LEAST.max(self.near.len().saturating_mul(2)).min(NEAR_SLOTS);
        if (self.near.len()..reach).contains(&at) {
            self.near.resize(at + 1, Known::Unasked);
            let further = self.far.split_off(&(slot + 1));
            for (slot, known) in std::mem::replace(&mut self.far, further) {
                self.near[slot as usize] = known;
            }
        }
        if at < self.near.len() { &mut self.near[at] } else { self.far.entry(slot).or_default() }
    }
}

/// Which machine is in each slot, and since which revision it is known: read from the store when first asked for.
pub(crate) struct Machines<'a> {
    pub(crate) known: &'a mut KnownMachines,
    /// The id of the machine in a slot, and the revision of its row.
    pub(crate) read: &'a dyn Fn(u32) -> Option<(u64, u64)>,
    /// The revision that the history continues from. What was in a slot before may have gone since, unseen; what was there then has a row of it.
    pub(crate) base: u64,
}

/// Whether a machine gets a row.
enum New {
    Is {
        /// The revision of a row of its slot that tells of nothing that is retained.
        outdated: Option<u64>,
    },
    IsNot,
}

impl Machines<'_> {
    fn entry(&mut self, slot: u32) -> &mut Known {
        let entry = self.known.entry(slot);
        if *entry == Known::Unasked {
            *entry = (self.read)(slot).map_or(Known::Nobody, |(id, from)| Known::Machine(generation_of(id), from));
        }
        entry
    }

    /// Whether this machine is another one than was there, as far as that is known, and remembers it.
    fn meets(&mut self, slot: u32, id: u64, revision: u64) -> New {
        let (generation, base) = (generation_of(id), self.base);
        let entry = self.entry(slot);
        let outdated = match *entry {
            Known::Machine(known, from) if known == generation && from >= base => return New::IsNot,
            Known::Machine(_, from) => Some(from),
            Known::Unasked | Known::Nobody => None,
        };
        *entry = Known::Machine(generation, revision);
        New::Is { outdated }
    }

    /// The revision of the row of the machine that was there.
    fn forget(&mut self, slot: u32) -> Option<u64> {
        match std::mem::replace(self.entry(slot), Known::Nobody) {
            Known::Machine(_, from) => Some(from),
            Known::Unasked | Known::Nobody => None,
        }
    }
}

/// The generation of an id.
fn generation_of(id: u64) -> u32 {
    u32::try_from(id >> 32).expect("half of 64 bits")
}

fn job_record(put: &v1::JobPut, revision: u64) -> JobRecord {
    let Some(shape) = &put.shape else { return JobRecord { revision, ..JobRecord::default() } };
    JobRecord {
        namespace: shape.namespace.clone(),
        name: shape.name.clone(),
        groups: shape.groups.iter().map(|group| group.name.clone()).collect(),
        revision,
    }
}

fn loss_record(loss: Loss) -> LossRecord {
    LossRecord {
        winner: loss.winner,
        machine: loss.machine.map_or(0, |machine| u64::from(machine) + 1),
        job: loss.job,
        resource: loss.resource,
        claims: loss.claims,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What generated code reads of a delta.
    fn by_generated_code(delta: &[u8]) -> Vec<u64> {
        let mut subjects = Subjects::default();
        note(&mut subjects, &DeltaHead::decode(delta).unwrap());
        subjects.noted()
    }

    fn by_hand(delta: &[u8]) -> Option<Vec<u64>> {
        let (mut subjects, mut rest) = (Subjects::default(), Vec::new());
        note_slots(&mut subjects, delta, &mut rest).ok()?;
        note(&mut subjects, &DeltaHead::decode(&*rest).ok()?);
        Some(subjects.noted())
    }

    fn note(subjects: &mut Subjects, head: &DeltaHead) {
        let mut machines = Machines { known: &mut KnownMachines::default(), read: &|_| None, base: 0 };
        Digest::default().note_changes(subjects, 1, head, &mut machines);
    }

    // A batch of some hundred bytes that spoke of one machine far away took megabytes.
    #[test]
    fn one_machine_far_away_makes_no_column_and_is_known_when_the_column_gets_there() {
        let mut known = KnownMachines::default();
        let there = |slot: u32| Known::Machine(slot, 7);
        let slots = [0, 4095, 4096, 5000, 8000, 10_000, 20_000, 39_999, 200_000, 1 << 20, u32::MAX];
        for slot in slots.into_iter().rev() {
            *known.entry(slot) = there(slot);
        }
        assert_eq!((known.near.len(), known.far.len()), (4096, 9));
        for slot in 4096..300_000 {
            let expected = if slots.contains(&slot) { there(slot) } else { Known::Unasked };
            assert_eq!(*known.entry(slot), expected);
        }
        assert_eq!((known.near.len(), known.far.len()), (300_000, 2));
        assert!(slots.into_iter().all(|slot| *known.entry(slot) == there(slot)));
    }

    #[test]
    fn slots_are_noted_as_generated_code_reads_them() {
        let ends_of_lengths =
            [7, 14, 21, 28].map(|bits| 1_u32 << bits).into_iter().flat_map(|least| [least - 1, least]);
        let slots: Vec<u32> = ends_of_lengths.chain([0, 70_000, u32::MAX]).collect();
        let number = v1::SessionNumber { session: 3, number: 4, ..Default::default() };
        let number = v1::SessionChange { change: Some(SessionChange::Number(number)) };
        let closed = v1::SessionChange { change: Some(SessionChange::Closed(4)) };
        let grants = v1::Grants { job: 5 << 32, slots, machines: vec![3], ..Default::default() };
        let tasks = v1::TaskChanges { group_row: 11, tasks: vec![0], ..Default::default() };
        let delta = v1::Delta {
            revision: 9,
            scheduler_names: vec!["batch".to_owned()],
            grants: vec![grants.clone(), v1::Grants { job: 7, ..grants }],
            moves: Some(v1::Moves { slots: vec![6, 7, 300], states: vec![3], ..Default::default() }),
            ends: Some(v1::Ends { slots: vec![8, 9], ..Default::default() }),
            tasks: vec![tasks],
            sessions: vec![number, closed],
            ..Default::default()
        };
        let bytes = delta.encode_to_vec();
        assert_eq!(by_hand(&bytes), Some(by_generated_code(&bytes)));
        assert_eq!(by_hand(&bytes).unwrap().len(), 11 + 2 + 3 + 2 + 1 + 1);
        for end in 0..bytes.len() {
            if let Some(found) = by_hand(&bytes[..end]) {
                assert_eq!(found, by_generated_code(&bytes[..end]), "the first {end} bytes");
            }
        }
        let mut read = 0;
        for at in 0..bytes.len() {
            for changed in 1..=u8::MAX {
                let mut bytes = bytes.clone();
                bytes[at] ^= changed;
                if let Some(found) = by_hand(&bytes) {
                    assert_eq!(found, by_generated_code(&bytes), "byte {at} ^ {changed}");
                    read += 1;
                }
            }
        }
        assert!(read > bytes.len(), "only {read} were read");
    }

    #[test]
    fn a_grant_that_names_no_job_or_two_is_noted_as_generated_code_reads_it() {
        for grants in [&[0x4a, 1, 5][..], &[0x08, 5, 0x08, 6][..]] {
            let length = u8::try_from(grants.len()).unwrap();
            let bytes = [&[0x42, length][..], grants].concat();
            assert_eq!(by_hand(&bytes), Some(by_generated_code(&bytes)));
        }
    }

    #[test]
    fn the_group_in_the_first_row_is_noted_too() {
        let tasks = v1::TaskChanges { group_row: 0, tasks: vec![0, 1], ..Default::default() };
        let bytes = v1::Delta { revision: 9, tasks: vec![tasks], ..Default::default() }.encode_to_vec();
        assert_eq!(by_hand(&bytes), Some(vec![Subject::GroupRow(0).hash()]));
    }

    // The filter of a block that lacks one denies that anything is there of the job: its story would be without that.
    #[test]
    fn each_change_of_a_job_is_noted_under_it_or_its_group() {
        let changes = [
            (JobChange::Put(v1::JobPut { id: 5, ..Default::default() }), Subject::Job(5)),
            (JobChange::State(v1::JobStateChange { id: 5, ..Default::default() }), Subject::Job(5)),
            (JobChange::Home(v1::JobHome { id: 5, ..Default::default() }), Subject::Job(5)),
            (JobChange::Launched(v1::JobLaunched { id: 5, ..Default::default() }), Subject::Job(5)),
            (JobChange::Group(v1::GroupChange { group: 5, ..Default::default() }), Subject::GroupRow(5)),
            (JobChange::Removed(5), Subject::Job(5)),
        ];
        for (change, subject) in changes {
            let told = format!("{change:?}");
            let jobs = vec![v1::JobChange { change: Some(change) }];
            let bytes = v1::Delta { revision: 9, jobs, ..Default::default() }.encode_to_vec();
            assert_eq!(by_generated_code(&bytes), [subject.hash()], "{told}");
            assert_eq!(by_hand(&bytes), Some(vec![subject.hash()]), "{told}");
        }
    }

    #[test]
    fn columns_that_are_not_packed_or_have_too_long_numbers_are_left_to_generated_code() {
        let loose = [0x4a, 2, 0x08, 5];
        assert_eq!((by_hand(&loose), by_generated_code(&loose).len()), (None, 1));
        let long = [0x4a, 7, 0x0a, 5, 0x80, 0x80, 0x80, 0x80, 0x10];
        assert_eq!((by_hand(&long), by_generated_code(&long).len()), (None, 1));
    }
}
