//! How batches get in: their rows at once, themselves gathered into blocks.
use crate::batch::{ConflictNote, EncodedBatch};
use crate::error::{StoreError, WriteError};
use crate::history::{History, Writer};
use crate::keys::{self, Shelf};
use crate::records::{
    BatchRecord, BlockRecord, ConflictRecord, DecisionHead, DeltaHead, EndedPlaceRecord, EndedRecord, LogBatchHead,
    LossRecord, NumberRecord, TimeRecord,
};
use crate::store::Changes;
use plenum_proto::v1::session_change::Change;
use prost::Message;
use std::collections::BTreeMap;

/// Largest batch. The log's own frames are smaller.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Changes are committed in pieces of about this size, so that feeding much at once takes little memory.
const COMMIT_BYTES: u64 = 1 << 20;
/// Ended allocations in one row: small enough to be read for one of them.
const ENDED_PER_ROW: usize = 64;

impl History {
    /// Takes batches of the log, in order. Batches that are there already are skipped, so that after a crash the log
    /// may be fed from any earlier batch on.
    ///
    /// What was taken can be read at once. It survives when [`History::durable_revision`] has reached it.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: a gap, an overlap, a batch that contradicts itself, or the store's failure. The batches before
    /// the one that is refused have been taken. After a failure of the store nothing more is taken: end the server.
    pub fn append(&self, batches: &[EncodedBatch]) -> Result<(), WriteError> {
        let mut writer = self.writer();
        let mut changes = self.store().changes();
        let mut taken: Vec<BatchRecord> = Vec::new();
        let (mut base, mut newest) = {
            let view = self.view();
            (view.base, view.newest)
        };
        let mut refused = None;
        for batch in batches {
            match self.place(batch, base, newest, &writer) {
                Ok(Place::Known) => continue,
                Ok(Place::Next) => {}
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
            match rows_of(batch) {
                Ok(rows) => rows.into_iter().for_each(|(key, value)| changes.put(Shelf::Index, key, &value)),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
            if base.is_none() {
                base = Some(batch.first - 1);
                changes.put_message(Shelf::Index, keys::BASE, &NumberRecord { number: batch.first - 1 });
            }
            newest = batch.last;
            writer.time_micros = batch.time_micros;
            taken.push(BatchRecord {
                first: batch.first,
                last: batch.last,
                time_micros: batch.time_micros,
                bytes: batch.bytes.clone(),
            });
            if changes.bytes() >= COMMIT_BYTES || self.fills_block(&writer, &taken) {
                self.take(
                    &mut writer,
                    std::mem::replace(&mut changes, self.store().changes()),
                    base,
                    newest,
                    &mut taken,
                )?;
            }
        }
        self.take(&mut writer, changes, base, newest, &mut taken)?;
        refused.map_or(Ok(()), Err)
    }

    /// Where a batch belongs.
    fn place(
        &self,
        batch: &EncodedBatch,
        base: Option<u64>,
        newest: u64,
        writer: &Writer,
    ) -> Result<Place, WriteError> {
        let malformed = |what: String| Err(WriteError::Malformed { revision: batch.first, what });
        if batch.first == 0 || batch.first > batch.last || batch.last == u64::MAX {
            return malformed(format!(
                "it goes from {} to {}; expected at least 1, and not backwards",
                batch.first, batch.last
            ));
        }
        if base.is_some() && batch.last <= newest {
            return Ok(Place::Known);
        }
        if base.is_some() && batch.first <= newest {
            return Err(WriteError::Overlap { first: batch.first, last: batch.last, newest });
        }
        if base.is_some() && batch.first != newest + 1 {
            return Err(WriteError::Gap { expected: newest + 1, found: batch.first });
        }
        if batch.time_micros < writer.time_micros {
            return malformed(format!(
                "its time is {}, and the one before had {}",
                batch.time_micros, writer.time_micros
            ));
        }
        if batch.bytes.len() > BATCH_BYTES_MAX {
            return malformed(format!("it has {} bytes; expected at most {BATCH_BYTES_MAX}", batch.bytes.len()));
        }
        Ok(Place::Next)
    }

    fn fills_block(&self, writer: &Writer, taken: &[BatchRecord]) -> bool {
        let gathered = self.view().gathering.len();
        let bytes: usize = taken.iter().map(|batch| batch.bytes.len()).sum();
        gathered + taken.len() >= self.options().block_batches
            || writer.gathering_bytes + bytes >= self.options().block_bytes
    }

    /// Commits rows, shows their batches to readers, and closes the block if it is full.
    fn take(
        &self,
        writer: &mut Writer,
        mut changes: Changes<'_>,
        base: Option<u64>,
        newest: u64,
        taken: &mut Vec<BatchRecord>,
    ) -> Result<(), WriteError> {
        if taken.is_empty() {
            return Ok(());
        }
        changes.put_message(Shelf::Index, keys::HEAD, &NumberRecord { number: newest });
        writer.rows_waiting_bytes += changes.bytes();
        changes.commit()?;
        let full = self.fills_block(writer, taken);
        writer.gathering_bytes += taken.iter().map(|batch| batch.bytes.len()).sum::<usize>();
        self.change_view(|view| {
            view.base = base;
            view.newest = newest;
            view.gathering.append(taken);
        });
        if full {
            self.close_block(writer)?;
        }
        self.rotate_when_due(writer)?;
        Ok(())
    }

    /// Writes what gathered in memory as a block.
    pub(crate) fn close_block(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let batches = self.view().gathering.clone();
        let Some(first) = batches.first() else { return Ok(()) };
        let bytes_so_far = writer.bytes_so_far + writer.gathering_bytes as u64;
        let mut changes = self.store().changes();
        changes.put_message(Shelf::Index, keys::time(first.time_micros, first.first), &TimeRecord { bytes_so_far });
        let key = keys::block(first.first);
        changes.put_message(Shelf::Blocks, key, &BlockRecord { batches });
        writer.rows_waiting_bytes += changes.bytes();
        changes.commit()?;
        writer.bytes_so_far = bytes_so_far;
        writer.gathering_bytes = 0;
        self.change_view(|view| view.gathering.clear());
        Ok(())
    }

    /// Starts to move rows and blocks to tables when enough of them wait in memory.
    fn rotate_when_due(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.rows_waiting_bytes >= self.options().memtable_bytes {
            self.rotate(writer, &[Shelf::Index, Shelf::Blocks])?;
        }
        self.note_durable(writer);
        Ok(())
    }

    /// Starts to move these shelves to tables.
    pub(crate) fn rotate(&self, writer: &mut Writer, shelves: &[Shelf]) -> Result<(), StoreError> {
        // What was rotated before is in tables when `rotate` returns: it waits for that.
        self.store().rotate(shelves)?;
        if let Some(durable) = writer.rotated_to.take() {
            self.change_view(|view| view.durable = view.durable.max(durable));
        }
        if shelves.contains(&Shelf::Pages) {
            writer.pages_waiting_bytes = 0;
        }
        if shelves.contains(&Shelf::Blocks) {
            writer.rows_waiting_bytes = 0;
            let view = self.view();
            writer.rotated_to = Some(view.gathering.first().map_or(view.newest, |batch| batch.first - 1));
        }
        Ok(())
    }

    pub(crate) fn note_durable(&self, writer: &mut Writer) {
        if writer.rotated_to.is_some() && self.store().is_caught_up() {
            let durable = writer.rotated_to.take();
            self.change_view(|view| view.durable = view.durable.max(durable.unwrap_or_default()));
        }
    }

    /// Makes everything durable, and waits for it: to be called before a planned end.
    ///
    /// # Errors
    ///
    /// [`WriteError::Store`].
    pub fn persist(&self) -> Result<(), WriteError> {
        let mut writer = self.writer();
        self.close_block(&mut writer)?;
        self.rotate(&mut writer, &Shelf::ALL)?;
        self.store().catch_up()?;
        self.note_durable(&mut writer);
        Ok(())
    }
}

enum Place {
    Known,
    Next,
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// What the index has about a batch.
fn rows_of(batch: &EncodedBatch) -> Result<Rows, WriteError> {
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
    let mut rows = Rows::new();
    for entry in &head.entries {
        let undecodable = |error| malformed(format!("revision {} can't be decoded: {error}", entry.revision));
        let decision = DecisionHead::decode(entry.decided.clone()).map_err(undecodable)?;
        // A dry run has revision 0. A repeated number has that of the first time.
        if let Some(outcome) = decision.outcome.filter(|outcome| outcome.revision != 0) {
            let row = NumberRecord { number: outcome.revision };
            rows.push((keys::transaction(outcome.session, outcome.number), row.encode_to_vec()));
        }
        let delta = DeltaHead::decode(entry.delta.clone()).map_err(undecodable)?;
        for change in delta.sessions.into_iter().filter_map(|change| change.change) {
            match change {
                Change::Opened(opened) => rows.push((keys::session(opened.id), opened.encode_to_vec())),
                Change::Closed(session) => rows.push((keys::closed(entry.revision, session), Vec::new())),
                Change::Number(_) => {}
            }
        }
    }
    for note in &batch.conflicts {
        check_within(batch, note.revision, "a conflict")?;
        rows.push((keys::conflict(note.revision), conflict_record(batch.time_micros, note).encode_to_vec()));
    }
    ended_rows(batch, &mut rows)?;
    Ok(rows)
}

fn check_within(batch: &EncodedBatch, revision: u64, what: &str) -> Result<(), WriteError> {
    if (batch.first..=batch.last).contains(&revision) {
        return Ok(());
    }
    let what = format!("{what} of it is at revision {revision}, outside of {} to {}", batch.first, batch.last);
    Err(WriteError::Malformed { revision: batch.first, what })
}

fn ended_rows(batch: &EncodedBatch, rows: &mut Rows) -> Result<(), WriteError> {
    let mut by_revision: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for ended in &batch.ended {
        check_within(batch, ended.revision, "an ended allocation")?;
        by_revision.entry(ended.revision).or_default().push(ended);
    }
    for (revision, ended) in by_revision {
        for (chunk, ended) in (0_u64..).zip(ended.chunks(ENDED_PER_ROW)) {
            let row = EndedRecord {
                ids: ended.iter().map(|ended| ended.id).collect(),
                views: ended.iter().map(|ended| ended.view.clone()).collect(),
            };
            rows.push((keys::ended_at(revision, chunk), row.encode_to_vec()));
            for ended in ended {
                let place = EndedPlaceRecord { revision, chunk };
                rows.push((keys::ended(ended.id), place.encode_to_vec()));
            }
        }
    }
    Ok(())
}

fn conflict_record(time_micros: i64, note: &ConflictNote) -> ConflictRecord {
    let loss = |loss: &crate::batch::Loss| LossRecord {
        winner: loss.winner.clone(),
        machine: loss.machine.map_or(0, |machine| u64::from(machine) + 1),
        job: loss.job,
        resource: loss.resource,
        claims: loss.claims,
    };
    ConflictRecord {
        time_micros,
        session: note.session,
        number: note.number,
        loser: note.loser.clone(),
        claims: note.claims,
        staleness_revisions: note.staleness_revisions,
        deciding_micros: note.deciding_micros,
        losses: note.losses.iter().map(loss).collect(),
    }
}
