//! What the index keeps of batches: gathered while their block does, and written with it.
use crate::batch::{EncodedBatch, Loss, LostClaim, losses_of, winner};
use crate::error::WriteError;
use crate::filter::{Subject, Subjects};
use crate::keys;
use crate::records::{
    CommandHead, ConflictRecord, CulpritHead, DecisionHead, DeltaHead, JobRecord, LeaverRecord, LogBatchHead,
    LogEntryHead, LossRecord, MachineRecord, RefusalHead,
};
use bytes::Bytes;
use plenum_proto::fields::{fields, number};
use plenum_proto::v1;
use plenum_proto::v1::job_change::Change as JobChange;
use plenum_proto::v1::session_change::Change as SessionChange;
use prost::Message;
use std::collections::BTreeMap;

/// Rows of the index, by key.
pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Fields of a `Delta`.
const SCHEDULER_NAMES: u64 = 4;
const SHAPES: u64 = 5;
const GRANTS: u64 = 8;
const MOVES: u64 = 9;
const ENDS: u64 = 10;
const TASKS: u64 = 11;
/// Of its `Grants`.
const GRANTED_JOB: u64 = 1;
const GRANTED_SLOTS: u64 = 9;
/// Of its `TaskChanges`.
const GROUP_ROW: u64 = 1;
/// Of its `Moves` and `Ends`.
const SLOTS: u64 = 1;

/// What the entries of a block are about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Digest {
    /// The transactions that lost claims to somebody, oldest first.
    pub(crate) conflicts: Vec<ConflictRecord>,
    /// Names, and what goes with them one day.
    pub(crate) rows: Rows,
}

impl Digest {
    /// Reads a batch, and notes what it is about. `machine_in` tells which machine is known to be in a slot.
    pub(crate) fn of(
        batch: &EncodedBatch,
        subjects: &mut Subjects,
        machine_in: &mut Machines<'_>,
    ) -> Result<Self, WriteError> {
        let malformed = |what: String| WriteError::Malformed { revision: batch.first, what };
        let head = LogBatchHead::decode(batch.bytes.clone())
            .map_err(|error| malformed(format!("it can't be decoded: {error}")))?;
        let revisions = head.entries.iter().map(|entry| entry.revision);
        if !revisions.eq(batch.first..=batch.last) {
            return Err(malformed(format!(
                "its entries are not the revisions {} to {}, in order",
                batch.first, batch.last
            )));
        }
        let mut digest = Self::default();
        for entry in &head.entries {
            let undecodable = |error| malformed(format!("revision {} can't be decoded: {error}", entry.revision));
            digest.note_answer(subjects, batch.time_micros, entry).map_err(undecodable)?;
            let rest = note_slots(subjects, &entry.delta).map_or_else(|| entry.delta.clone(), Bytes::from);
            let delta = DeltaHead::decode(rest).map_err(undecodable)?;
            digest.note_changes(subjects, entry.revision, &delta, machine_in);
        }
        Ok(digest)
    }

    /// Adds what came after.
    pub(crate) fn extend(&mut self, mut later: Self) {
        self.conflicts.append(&mut later.conflicts);
        // Not `append`, which walks all that is there already for each batch.
        self.rows.extend(later.rows);
    }

    fn note_answer(
        &mut self,
        subjects: &mut Subjects,
        time_micros: i64,
        entry: &LogEntryHead,
    ) -> Result<(), prost::DecodeError> {
        // A repeated number has the revision of the first time, a dry run 0.
        let decision = DecisionHead::decode(entry.decided.clone())?;
        let Some(outcome) = decision.outcome.filter(|outcome| outcome.revision == entry.revision) else {
            return Ok(());
        };
        subjects.about(Subject::Session(outcome.session));
        subjects.about(Subject::Transaction(outcome.session, outcome.number));
        let losses = losses_of(lost_claims(&outcome.refusals)?.into_iter());
        if losses.is_empty() {
            return Ok(());
        }
        let asked = CommandHead::decode(entry.asked.clone())?.commit.unwrap_or_default();
        self.conflicts.push(ConflictRecord {
            time_micros,
            session: outcome.session,
            number: outcome.number,
            revision: entry.revision,
            claims: outcome.claims,
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
            } else if machine_in.is_new(slot, machine.id, revision) {
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

/// The claims among these that were lost as conflicts.
fn lost_claims(refusals: &[RefusalHead]) -> Result<Vec<LostClaim>, prost::DecodeError> {
    let conflicts = refusals.iter().filter(|refusal| refusal.kind == i32::from(v1::RefusalKind::Conflict));
    let lost = conflicts.map(|refusal| {
        let culprit = refusal.culprits.first().map(|culprit| CulpritHead::decode(culprit.clone())).transpose()?;
        Ok(LostClaim {
            winner: winner(culprit.as_ref().map(|culprit| (culprit.scheduler.as_str(), culprit.event.as_str()))),
            machine: refusal.machine,
            job: refusal.job,
            resource: refusal.resource,
        })
    });
    lost.collect()
}

/// Notes the slots of allocations in an encoded delta, and gives what else in it is looked at. They are nearly all of it, and
/// generated code takes longer to read such a column than all else here takes together. `None` when it is to do that all the same,
/// because something is unusual: it is the judge of what is a message. What was noted until then is noted twice.
fn note_slots(subjects: &mut Subjects, delta: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Vec::new();
    for field in fields(delta) {
        let field = field.ok()?;
        let content = &delta[field.content.clone()];
        let slots = match field.number {
            GRANTS => GRANTED_SLOTS,
            MOVES | ENDS => SLOTS,
            TASKS => GROUP_ROW,
            SCHEDULER_NAMES | SHAPES => continue,
            _ => {
                rest.extend_from_slice(&delta[field.whole]);
                continue;
            }
        };
        if !field.is_delimited(delta) {
            return None;
        }
        let mut group_row = 0;
        for column in fields(content) {
            let column = column.ok()?;
            if (field.number, column.number) == (TASKS, GROUP_ROW) {
                group_row = number(&content[column.content])?;
            } else if column.number == slots {
                if !column.is_delimited(content) {
                    return None;
                }
                note_column(subjects, &content[column.content])?;
            } else if (field.number, column.number) == (GRANTS, GRANTED_JOB) {
                subjects.about(Subject::Job(number(&content[column.content])?));
            }
        }
        // Also where it is not written, because it is 0.
        if field.number == TASKS {
            subjects.about(Subject::GroupRow(u32::try_from(group_row).ok()?));
        }
    }
    Some(rest)
}

/// Notes the slots of a packed column; `None` where it is none.
fn note_column(subjects: &mut Subjects, column: &[u8]) -> Option<()> {
    let (mut slot, mut shift) = (0_u64, 0);
    for &byte in column {
        if shift > 28 {
            return None;
        }
        slot |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            subjects.about(Subject::AllocationSlot(u32::try_from(slot).ok()?));
            (slot, shift) = (0, 0);
        }
    }
    (shift == 0).then_some(())
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
    /// Slots that no cell of today gets to: nothing in a batch may make the column long.
    far: BTreeMap<u32, Known>,
}

/// Slots of the column: 16 MiB when all are there.
const NEAR_SLOTS: usize = 1 << 20;

impl KnownMachines {
    fn entry(&mut self, slot: u32) -> &mut Known {
        let at = slot as usize;
        if at >= NEAR_SLOTS {
            return self.far.entry(slot).or_default();
        }
        if at >= self.near.len() {
            self.near.resize(at + 1, Known::Unasked);
        }
        &mut self.near[at]
    }
}

/// Which machine is in each slot, and since which revision it is known: read from the store when first asked for.
pub(crate) struct Machines<'a> {
    pub(crate) known: &'a mut KnownMachines,
    /// The id of the machine in a slot, and the revision of its row.
    pub(crate) read: &'a dyn Fn(u32) -> Option<(u64, u64)>,
}

impl Machines<'_> {
    fn entry(&mut self, slot: u32) -> &mut Known {
        let entry = self.known.entry(slot);
        if *entry == Known::Unasked {
            *entry = (self.read)(slot).map_or(Known::Nobody, |(id, from)| Known::Machine(generation_of(id), from));
        }
        entry
    }

    /// Whether this machine is another one than was there, and remembers it.
    fn is_new(&mut self, slot: u32, id: u64, revision: u64) -> bool {
        let generation = generation_of(id);
        let entry = self.entry(slot);
        let is_new = !matches!(entry, Known::Machine(known, _) if *known == generation);
        if is_new {
            *entry = Known::Machine(generation, revision);
        }
        is_new
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
        let mut subjects = Subjects::default();
        let rest = note_slots(&mut subjects, delta)?;
        note(&mut subjects, &DeltaHead::decode(&*rest).unwrap());
        Some(subjects.noted())
    }

    fn note(subjects: &mut Subjects, head: &DeltaHead) {
        let mut machines = Machines { known: &mut KnownMachines::default(), read: &|_| None };
        Digest::default().note_changes(subjects, 1, head, &mut machines);
    }

    #[test]
    fn slots_are_noted_as_generated_code_reads_them() {
        let slots = [0, 127, 128, 70_000, u32::MAX];
        let grants = v1::Grants { job: 5 << 32, slots: slots.to_vec(), machines: vec![3], ..Default::default() };
        let tasks = v1::TaskChanges { group_row: 11, tasks: vec![0], ..Default::default() };
        let delta = v1::Delta {
            revision: 9,
            scheduler_names: vec!["batch".to_owned()],
            grants: vec![grants.clone(), v1::Grants { job: 7, ..grants }],
            moves: Some(v1::Moves { slots: vec![6, 7, 300], states: vec![3], ..Default::default() }),
            ends: Some(v1::Ends { slots: vec![8, 9], ..Default::default() }),
            tasks: vec![tasks],
            ..Default::default()
        };
        let bytes = delta.encode_to_vec();
        assert_eq!(by_hand(&bytes), Some(by_generated_code(&bytes)));
        assert_eq!(by_hand(&bytes).unwrap().len(), 5 + 2 + 3 + 2 + 1);
        for end in 0..bytes.len() {
            // Where generated code reads something else than nothing, it is the same.
            if let Some(found) = DeltaHead::decode(&bytes[..end]).ok().and_then(|_| by_hand(&bytes[..end])) {
                assert_eq!(found, by_generated_code(&bytes[..end]), "the first {end} bytes");
            }
        }
    }

    #[test]
    fn the_group_in_the_first_row_is_noted_too() {
        let tasks = v1::TaskChanges { group_row: 0, tasks: vec![0, 1], ..Default::default() };
        let bytes = v1::Delta { revision: 9, tasks: vec![tasks], ..Default::default() }.encode_to_vec();
        assert_eq!(by_hand(&bytes), Some(vec![Subject::GroupRow(0).hash()]));
    }

    #[test]
    fn columns_that_are_not_packed_are_left_to_generated_code() {
        let loose = [0x4a, 2, 0x08, 5];
        assert_eq!((by_hand(&loose), by_generated_code(&loose).len()), (None, 1));
    }
}
