//! What things were called, also after they are gone: as long as anything is retained that speaks of them.
use crate::block::key_number;
use crate::error::{ReadError, StoreError};
use crate::history::History;
use crate::keys::{self, Shelf};
use crate::records::{JobBearer, JobRecord, MachineRecord};
use crate::store::{Row, Store, decode};
use prost::Message;
use std::ops::RangeInclusive;

/// What a job is or was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The names of its groups, in their order: those of its newest version.
    pub groups: Vec<String>,
    /// The revision at which it was last submitted.
    pub submitted: u64,
}

/// What a machine is or was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineName {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
}

/// What was found under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Its id.
    pub id: u64,
    /// Of a job the revision at which it was last submitted, of a machine the one from which on it is known.
    pub revision: u64,
}

/// What came of looking for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// The newest one that bears it.
    Found(Bearer),
    /// Nothing that is remembered does.
    NotThere,
    /// There are more names than were to be read.
    TooMany,
}

impl History {
    /// What the job with this id is or was called; nothing if that is not retained.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn job_name(&self, id: u64) -> Result<Option<JobName>, ReadError> {
        let found: Option<JobRecord> = self.message(&keys::job(id))?;
        let name = |record: JobRecord| {
            let JobRecord { namespace, name, groups, revision } = record;
            JobName { namespace, name, groups, submitted: revision }
        };
        Ok(found.map(name))
    }

    /// What the machine was called that was in a slot at a revision; nothing if that is not retained.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn machine_name(&self, slot: u32, revision: u64) -> Result<Option<MachineName>, ReadError> {
        let found = self.machine_then(slot, revision)?;
        Ok(found.map(|(_, row)| MachineName { id: row.id, name: row.name }))
    }

    /// The same, and at which revisions around that one, as far as is known by now, it is so: for who asks for many.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn machine_name_around(
        &self,
        slot: u32,
        revision: u64,
    ) -> Result<(Option<MachineName>, RangeInclusive<u64>), ReadError> {
        let (newest, base) = {
            let view = self.view();
            (view.newest, view.base.unwrap_or(0))
        };
        let found = self.machine_then(slot, revision)?;
        let next = self.next_machine(slot, revision)?;
        let until = next.map_or(newest, |next| newest.min(next.saturating_sub(1))).max(revision);
        let from = found.as_ref().map(|(from, _)| *from);
        // What is told of revisions after a leap and of those before it has nothing to do with each other.
        let revisions = if revision <= base {
            from.unwrap_or(0)..=until.min(base)
        } else {
            from.unwrap_or_else(|| base.saturating_add(1))..=until
        };
        Ok((found.map(|(_, row)| MachineName { id: row.id, name: row.name }), revisions))
    }

    /// The first revision after this one from which on another machine is known in a slot.
    fn next_machine(&self, slot: u32, revision: u64) -> Result<Option<u64>, StoreError> {
        let keys = keys::machine(slot, revision.saturating_add(1))..=keys::machine(slot, u64::MAX);
        // What gathers in memory is first written, then forgotten.
        let gathering = self.view().digest.rows.range(keys.clone()).next().map(|(key, _)| key.clone());
        let stored = self.store()?.first(Shelf::Index, keys)?.map(|row| row.key);
        let next = gathering.into_iter().chain(stored).min();
        next.map(|key| key_number(Shelf::Index, &key, 1)).transpose()
    }

    /// The row of the machine that was in a slot at a revision, and from which one on; nothing if that is not retained.
    pub(crate) fn machine_then(&self, slot: u32, revision: u64) -> Result<Option<(u64, MachineRecord)>, StoreError> {
        let (gathering, base) = {
            let view = self.view();
            let rows = view.digest.rows.range(keys::machine(slot, 0)..=keys::machine(slot, revision));
            let found = rows.last().map(|(key, value)| Row { key: key.clone(), value: value.clone().into() });
            (found, view.base.unwrap_or(0))
        };
        match gathering {
            Some(row) => machine_of(row).map(Some),
            None => {
                let found = machine_row(&*self.store()?, slot, revision)?;
                // Who was there before a leap may have gone since, unseen; who was there at it has a row of then.
                Ok(found.filter(|(from, _)| *from >= base || revision <= base))
            }
        }
    }

    /// The newest job of this name that was submitted up to a revision. Those that were retired are among them for as long as that is
    /// retained, and now and then a little longer. Reads the names of all jobs there are, up to so many bytes.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn find_job(&self, namespace: &str, name: &str, until: u64, bytes_max: u64) -> Result<Search, ReadError> {
        Ok(newest(self.jobs_called(Some(namespace), name, bytes_max)?, until))
    }

    /// All jobs of this name, in one namespace or in all, in no order, and perhaps some of them twice; `None` where there are more names than
    /// were to be read. Otherwise as [`History::find_job`].
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn jobs_called(
        &self,
        namespace: Option<&str>,
        name: &str,
        bytes_max: u64,
    ) -> Result<Option<Vec<Bearer>>, ReadError> {
        let bearer = |row: &Row| {
            let record: JobBearer = decode(Shelf::Index, &row.key, row.value.clone())?;
            let is_so = record.name == name && namespace.is_none_or(|namespace| record.namespace == namespace);
            let revision = record.revision;
            is_so.then(|| Ok(Bearer { id: key_number(Shelf::Index, &row.key, 0)?, revision })).transpose()
        };
        self.bearers((keys::job(0), keys::job(u64::MAX)), bytes_max, bearer)
    }

    /// As [`History::find_job`], of machines: the newest one that was there up to a revision. Those that were removed are among them as retired
    /// jobs are.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn find_machine(&self, name: &str, until: u64, bytes_max: u64) -> Result<Search, ReadError> {
        let bearer = |row: &Row| {
            let record: MachineRecord = decode(Shelf::Index, &row.key, row.value.clone())?;
            let revision = key_number(Shelf::Index, &row.key, 1)?;
            Ok((record.name == name).then_some(Bearer { id: record.id, revision }))
        };
        let keys = (keys::machine(0, 0), keys::machine(u32::MAX, u64::MAX));
        Ok(newest(self.bearers(keys, bytes_max, bearer)?, until))
    }

    /// The bearers among rows of the index, which are in no order that would help; `None` where these have more bytes.
    fn bearers(
        &self,
        (from, to): (Vec<u8>, Vec<u8>),
        bytes_max: u64,
        bearer: impl Fn(&Row) -> Result<Option<Bearer>, StoreError>,
    ) -> Result<Option<Vec<Bearer>>, ReadError> {
        // What gathers in memory is first written, then forgotten.
        let gathering: Vec<Row> = {
            let view = self.view();
            let rows = view.digest.rows.range(from.clone()..=to.clone());
            rows.map(|(key, value)| Row { key: key.clone(), value: value.clone().into() }).collect()
        };
        let store = self.store()?;
        let (mut bearers, mut read_bytes) = (Vec::new(), 0);
        for row in gathering.into_iter().map(Ok).chain(store.rows(Shelf::Index, from..=to)) {
            let row = row?;
            read_bytes += (row.key.len() + row.value.len()) as u64;
            if read_bytes > bytes_max {
                return Ok(None);
            }
            bearers.extend(bearer(&row)?);
        }
        Ok(Some(bearers))
    }

    /// A row of the index, of the store or of what still gathers in memory.
    pub(crate) fn message<M: Message + Default>(&self, key: &[u8]) -> Result<Option<M>, StoreError> {
        let gathering = self.view().digest.rows.get(key).cloned();
        match gathering {
            Some(value) => decode(Shelf::Index, key, value.into()).map(Some),
            None => self.store()?.message(Shelf::Index, key),
        }
    }
}

/// The newest of these up to a revision.
fn newest(bearers: Option<Vec<Bearer>>, until: u64) -> Search {
    let Some(bearers) = bearers else { return Search::TooMany };
    let up_to = bearers.into_iter().filter(|found| found.revision <= until);
    up_to.max_by_key(|found| (found.revision, found.id)).map_or(Search::NotThere, Search::Found)
}

/// The row of the machine that was in a slot at a revision, and from which one on.
pub(crate) fn machine_row(store: &Store, slot: u32, revision: u64) -> Result<Option<(u64, MachineRecord)>, StoreError> {
    store.last(Shelf::Index, keys::machine(slot, 0)..=keys::machine(slot, revision))?.map(machine_of).transpose()
}

fn machine_of(row: Row) -> Result<(u64, MachineRecord), StoreError> {
    let from = key_number(Shelf::Index, &row.key, 1)?;
    Ok((from, decode(Shelf::Index, &row.key, row.value)?))
}
