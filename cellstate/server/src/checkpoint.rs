//! A cell as a checkpoint of the history: images of the pages that changed are written, and those of all pages read back.

use plenum_history::{CheckpointInfo, History, JobName, Name, Named, PageImage, TablePages, WriteError};
use plenum_model::{Cell, Job, JobId, MachineId, Revision, SessionId};
use plenum_proto::pages::{self, PageError, ReadPage, Table};
use plenum_proto::sections::Sections;
use plenum_proto::v1;

use crate::error::ServerError;
use crate::recovery;

/// Pages that are read ahead.
const PAGES_AHEAD: usize = 256;

/// Writes a checkpoint of this cell: images of the pages that differ from those `before`, the cell of the newest checkpoint; without it, or
/// when the history wants them, of all. A history that begins with it is told the names of what is in the cell.
pub(crate) fn write(history: &History, cell: &Cell, before: Option<&Cell>) -> Result<CheckpointInfo, WriteError> {
    write_beside(history, cell, before, || ())
}

/// The same, for who has something else to write: `between` is called before each page.
pub(crate) fn write_beside(
    history: &History,
    cell: &Cell,
    before: Option<&Cell>,
    mut between: impl FnMut(),
) -> Result<CheckpointInfo, WriteError> {
    let live = pages::tables(cell).map(|(table, pages)| TablePages { table: number_of(table), pages });
    let wants_all = |changed| history.wants_all_pages(changed, &live);
    // Under full load nearly all pages have changed: then their rows need not be compared.
    let before = before.filter(|before| !wants_all(pages::with_grants(before, cell)));
    let changed = before.map(|before| pages::changed(before, cell)).filter(|changed| !wants_all(changed.len()));
    let image = |(table, number): (Table, u32)| {
        between();
        PageImage { table: number_of(table), number, bytes: pages::encode_image(cell, table, number) }
    };
    let (revision, micros) = (cell.revision().0, cell.time().micros);
    let info = match changed {
        Some(changed) => history.checkpoint(revision, micros, &live, changed.into_iter().map(image))?,
        None => history.checkpoint_of_all(revision, micros, &live, pages::every(cell).map(image))?,
    };
    if history.wants_names_of()? == Some(revision) {
        settle_names(history, cell)?;
    }
    tracing::debug!(revision = info.revision, images = info.images, bytes = info.image_bytes, "checkpoint");
    Ok(info)
}

/// Tells a history that begins with this cell, or has leapt to it, what is called how there.
pub(crate) fn settle_names(history: &History, cell: &Cell) -> Result<(), WriteError> {
    let jobs = cell.jobs().map(|job| job_name(cell, job));
    let machines =
        cell.machines().map(|machine| Name::Machine { id: machine.id.to_bits(), name: machine.name.to_string() });
    let sessions = cell.sessions().map(|session| {
        Name::Session(v1::SessionOpened {
            id: session.id.0,
            scheduler: session.scheduler.to_string(),
            principal: session.principal.to_string(),
            namespace: session.namespace.to_string(),
        })
    });
    history.settle_names(jobs.chain(machines).chain(sessions), |named| match named {
        Named::Job(id) => JobId::from_bits(id).is_some_and(|id| cell.job(id).is_some()),
        Named::Machine(id) => MachineId::from_bits(id).is_some_and(|id| cell.machine(id).is_some()),
        Named::Session(id) => cell.session(SessionId(id)).is_some(),
    })
}

fn job_name(cell: &Cell, job: &Job) -> Name {
    let (namespace, name) = (&job.shape.namespace, &job.shape.name);
    let is_newest = cell.job_named(namespace, name).is_none_or(|newest| newest.id == job.id);
    Name::Job {
        id: job.id.to_bits(),
        name: JobName {
            namespace: namespace.to_string(),
            name: name.to_string(),
            groups: job.shape.groups.iter().map(|group| group.name.to_string()).collect(),
            submitted: cell.revision().0.saturating_sub(u64::from(!is_newest)),
        },
    }
}

fn number_of(table: Table) -> u8 {
    u8::try_from(i32::from(table)).expect("tables have small numbers")
}

/// The cell that a checkpoint shows. A second thread reads the pages, while this one makes rows of them; where the system gives none, this one does both.
pub(crate) fn read(history: &History, revision: u64) -> Result<Cell, ServerError> {
    let pages = pages_of(history, revision)?;
    let (sender, read) = std::sync::mpsc::sync_channel(PAGES_AHEAD);
    std::thread::scope(|scope| {
        let reading = move || {
            for page in pages {
                if sender.send(page).is_err() {
                    break;
                }
            }
        };
        // As an error it would pass for damage of the checkpoint.
        let Ok(reading) = recovery::spawn_scoped(scope, "recovery", reading) else {
            return read_alone(history, revision);
        };
        let cell = cell_of(revision, read);
        // A panic goes before whatever came of the pages until then.
        match reading.join() {
            Ok(()) => cell,
            Err(_) => Err(ServerError::Thread { name: "recovery", what: "it panicked while reading pages".to_owned() }),
        }
    })
}

/// As [`read`], on one thread.
fn read_alone(history: &History, revision: u64) -> Result<Cell, ServerError> {
    cell_of(revision, pages_of(history, revision)?)
}

/// The pages of a checkpoint, read one after the other.
fn pages_of(
    history: &History,
    revision: u64,
) -> Result<impl Iterator<Item = Result<ReadPage, ServerError>> + use<>, ServerError> {
    let images = history.pages_at(revision).map_err(ServerError::ReadHistory)?;
    Ok(images.map(move |image| {
        let bytes = image.map_err(ServerError::ReadHistory)?.bytes;
        pages::read_whole(bytes).map_err(|error| unfit(revision, &error))
    }))
}

/// The cell of these pages. The first that can't be read ends it.
fn cell_of(revision: u64, pages: impl IntoIterator<Item = Result<ReadPage, ServerError>>) -> Result<Cell, ServerError> {
    let unfit = |error: PageError| unfit(revision, &error);
    let mut decoder = pages::Decoder::new(Sections::ALL);
    for page in pages {
        decoder.add_read(page?).map_err(unfit)?;
    }
    decoder.finish().map_err(unfit)
}

/// Why the pages of a checkpoint are no cell.
fn unfit(revision: u64, error: &PageError) -> ServerError {
    let damaged = || ServerError::Checkpoint { revision, what: error.to_string() };
    ServerError::newer_in(Revision(revision), error).unwrap_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use plenum_model::{Delta, LogTime, MachineState};

    // Where the system gave no second thread, a checkpoint passed for damaged: what was behind the one before was given up, or all names in it.
    #[test]
    fn a_checkpoint_is_read_on_one_thread_as_on_two() {
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), plenum_history::Options::new(vec![1; 16])).unwrap();
        let machine = |slot| Arc::new(crate::agents::machine(slot, 1, MachineState::Ready));
        let delta = Delta::new(Revision(1), LogTime::from_micros(5));
        let mut cell = Cell::default();
        cell.apply(&Delta { machines: (0..2000).map(machine).collect(), ..delta }).unwrap();
        assert!(pages::every(&cell).count() > 2, "more than one page of machines");
        write(&history, &cell, None).unwrap();
        for found in [read(&history, 1).unwrap(), read_alone(&history, 1).unwrap()] {
            assert_eq!(found.first_difference(&cell), None);
        }
        let absent = [read(&history, 2).unwrap_err(), read_alone(&history, 2).unwrap_err()].map(|error| error.code());
        assert_eq!(absent[0], absent[1]);
    }
}
