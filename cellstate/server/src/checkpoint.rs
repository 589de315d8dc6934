//! A cell as a checkpoint of the history: images of the pages that changed are written, and those of all pages read back.

use plenum_history::{CheckpointInfo, History, PageImage, TablePages, WriteError};
use plenum_model::Cell;
use plenum_proto::pages::{self, PageError, Table};
use plenum_proto::sections::Sections;

use crate::error::ServerError;

/// Pages that are read ahead.
const PAGES_AHEAD: usize = 256;

/// Writes a checkpoint of this cell: images of the pages that differ from those `before`, the cell of the newest checkpoint; without it, or
/// when the history wants them, of all.
pub(crate) fn write(history: &History, cell: &Cell, before: Option<&Cell>) -> Result<CheckpointInfo, WriteError> {
    let live = pages::tables(cell).map(|(table, pages)| TablePages { table: number_of(table), pages });
    let all = live.iter().map(|table| table.pages as usize).sum();
    let changed = before.map(|before| pages::changed(before, cell));
    let changed = changed.filter(|changed| !history.wants_all_pages(changed.len(), all));
    let image = |(table, number): (Table, u32)| PageImage {
        table: number_of(table),
        number,
        bytes: pages::encode_page(cell, table, number),
    };
    let (revision, micros) = (cell.revision().0, cell.time().micros);
    let info = match changed {
        Some(changed) => history.checkpoint(revision, micros, &live, changed.into_iter().map(image))?,
        None => history.checkpoint_of_all(revision, micros, &live, pages::every(cell).map(image))?,
    };
    tracing::debug!(revision = info.revision, images = info.images, bytes = info.image_bytes, "checkpoint");
    Ok(info)
}

fn number_of(table: Table) -> u8 {
    u8::try_from(i32::from(table)).expect("tables have small numbers")
}

/// The cell that a checkpoint shows. A second thread reads the pages, while this one makes rows of them.
pub(crate) fn read(history: &History, revision: u64) -> Result<Cell, ServerError> {
    let images = history.pages_at(revision).map_err(ServerError::ReadHistory)?;
    let unfit = |error: PageError| ServerError::Checkpoint { revision, what: error.to_string() };
    let (sender, read) = std::sync::mpsc::sync_channel(PAGES_AHEAD);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            for image in images {
                let page = pages::read(image.map_err(ServerError::ReadHistory)?.bytes).map_err(unfit)?;
                if sender.send(page).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let mut decoder = pages::Decoder::new(Sections::ALL);
        for page in read {
            decoder.add_read(page).map_err(unfit)?;
        }
        match reading.join() {
            Ok(done) => done.and_then(|()| decoder.finish().map_err(unfit)),
            Err(_) => Err(ServerError::Thread { name: "recovery", what: "it panicked while reading pages".to_owned() }),
        }
    })
}
