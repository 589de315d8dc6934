//! Names of what is there where a history begins, or goes on behind a leap: what named it lies before that, and is not there.
//!
//! They are as many as the cell has jobs, machines and sessions, so they are written in pieces. A row says that they are wanted, from the
//! beginning, with which it is written in one step, until they are all there: what a crash leaves of them is written anew.
use crate::block::key_number;
use crate::digest::KnownMachines;
use crate::error::{StoreError, WriteError};
use crate::history::{History, Writer, number};
use crate::keys::{self, Shelf};
use crate::names::JobName;
use crate::records::{JobBearer, JobRecord, MachineRecord};
use crate::store::{Changes, Row, Store, decode};
use plenum_proto::v1;
use prost::Message;

/// About so many bytes of changes are committed at a time.
const COMMIT_BYTES: u64 = 512 << 10;

/// Something whose name is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// The job with this id.
    Job(u64),
    /// The machine with this id.
    Machine(u64),
    /// The session with this id.
    Session(u64),
}

/// What something is called.
#[derive(Clone, Debug, PartialEq)]
pub enum Name {
    /// A job.
    Job {
        /// Its id.
        id: u64,
        /// Its name. When it was submitted nobody knows: at that revision, or at the one before where another one of its name came later.
        name: JobName,
    },
    /// A machine.
    Machine {
        /// Its id.
        id: u64,
        /// Its name.
        name: String,
    },
    /// A session.
    Session(v1::SessionOpened),
}

impl History {
    /// The revision that the history began with, or that it leapt to, where [`History::settle_names`] is still to be called: at once, before
    /// anything is appended, and after a crash in between.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn wants_names_of(&self) -> Result<Option<u64>, StoreError> {
        number(&*self.store()?, &keys::UNNAMED)
    }

    /// Remembers the `names` of what is in the cell as it was at [`History::wants_names_of`], and forgets all others: what bore them went
    /// unseen in what a leap left out, and nothing else would ever say so. `is_there` tells whether something is in that cell. Names of what
    /// came after that revision stay, where some of that was appended already. Does nothing where no names are wanted.
    ///
    /// # Errors
    ///
    /// [`WriteError::Store`].
    pub fn settle_names(
        &self,
        names: impl IntoIterator<Item = Name>,
        is_there: impl Fn(Named) -> bool,
    ) -> Result<(), WriteError> {
        let mut writer = self.writer();
        let store = self.store()?;
        let Some(revision) = number(&store, &keys::UNNAMED)? else { return Ok(()) };
        // Who lost in what a leap retires has a name until then.
        self.sum_up_all(&mut writer, revision)?;
        let goes_on = self.view().newest > revision;
        let mut changes = store.changes();
        for name in names {
            if goes_on && is_outdated(&store, &name, revision)? {
                continue;
            }
            let (key, value) = row_of(name, revision);
            changes.put(Shelf::Index, key, &value);
            changes = self.commit_when_full(&mut writer, changes)?;
        }
        let ranges = [
            keys::session(0)..=keys::session(u64::MAX),
            keys::job(0)..=keys::job(u64::MAX),
            keys::machine(0, 0)..=keys::machine(u32::MAX, u64::MAX),
        ];
        for row in ranges.into_iter().flat_map(|keys| store.rows(Shelf::Index, keys)) {
            let row = row?;
            if is_kept(&row, revision, &is_there)? {
                continue;
            }
            changes.remove(Shelf::Index, row.key);
            writer.cleaning.removed_index_rows += 1;
            changes = self.commit_when_full(&mut writer, changes)?;
        }
        // The last of all: whoever does not find it has all that went before.
        changes.remove(Shelf::Index, keys::UNNAMED);
        writer.rows_waiting_bytes += changes.bytes();
        changes.commit()?;
        writer.machines = KnownMachines::default();
        Ok(self.rotate_when_due(&mut writer)?)
    }

    /// Commits changes when they are many; gives those to go on with.
    fn commit_when_full(&self, writer: &mut Writer, changes: Changes) -> Result<Changes, StoreError> {
        if changes.bytes() < COMMIT_BYTES {
            return Ok(changes);
        }
        writer.rows_waiting_bytes += changes.bytes();
        changes.commit()?;
        self.rotate_when_due(writer)?;
        Ok(self.store()?.changes())
    }
}

/// The row of what was there at a revision: of a machine it tells who is in its slot from then on.
fn row_of(name: Name, revision: u64) -> (Vec<u8>, Vec<u8>) {
    match name {
        Name::Job { id, name: JobName { namespace, name, groups, submitted } } => {
            let revision = submitted.min(revision);
            (keys::job(id), JobRecord { namespace, name, groups, revision }.encode_to_vec())
        }
        Name::Machine { id, name } => {
            (keys::machine(crate::digest::slot_of(id), revision), MachineRecord { id, name }.encode_to_vec())
        }
        Name::Session(opened) => (keys::session(opened.id), opened.encode_to_vec()),
    }
}

/// Whether a name is that of a job that was submitted again after the revision.
fn is_outdated(store: &Store, name: &Name, revision: u64) -> Result<bool, StoreError> {
    let Name::Job { id, .. } = name else { return Ok(false) };
    let known: Option<JobBearer> = store.message(Shelf::Index, &keys::job(*id))?;
    Ok(known.is_some_and(|known| known.revision > revision))
}

/// Whether a row tells of what is there, or came after the revision. Of a machine that there is one from before tells of nothing that is retained.
fn is_kept(row: &Row, revision: u64, is_there: impl Fn(Named) -> bool) -> Result<bool, StoreError> {
    let number = key_number(Shelf::Index, &row.key, 0)?;
    if row.key == keys::session(number) {
        // A session's id is the revision of its opening.
        return Ok(number > revision || is_there(Named::Session(number)));
    }
    if row.key == keys::job(number) {
        if is_there(Named::Job(number)) {
            return Ok(true);
        }
        let known: JobBearer = decode(Shelf::Index, &row.key, row.value.clone())?;
        return Ok(known.revision > revision);
    }
    let from = key_number(Shelf::Index, &row.key, 1)?;
    let record: MachineRecord = decode(Shelf::Index, &row.key, row.value.clone())?;
    Ok(from > revision || (from == revision && is_there(Named::Machine(record.id))))
}
