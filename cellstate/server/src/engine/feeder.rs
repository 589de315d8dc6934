//! The thread that writes history: batches, checkpoints, and what is given up. No commit waits for it, unless it is far behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use plenum_history::{ConflictNote, EncodedBatch, EndedAllocation, History, PageImage, TablePages, WriteError};
use plenum_model::{Cell, Revision};
use plenum_proto::pages::{self, Table};
use tokio::sync::watch;

use super::backlog::{Backlog, Received};
use crate::options::Settings;
use crate::publish::LoggedBatch;
use crate::shared::Shared;

/// Most batches that are written at a time.
const BATCHES_MAX: usize = 256;

/// A checkpoint waits for so many times the log bytes that the one before took in images: so that images are at most a part of what is
/// written, however large the cell is.
const LOG_BYTES_PER_IMAGE_BYTE: u64 = 4;

/// Between two pieces of clearing away.
const RETIRING_PAUSE: Duration = Duration::from_millis(100);

/// A batch on its way into the history.
#[derive(Debug)]
pub(crate) struct Fed {
    pub(crate) batch: Arc<LoggedBatch>,
    pub(crate) ended: Vec<EndedAllocation>,
    pub(crate) conflicts: Vec<ConflictNote>,
}

impl Fed {
    pub(crate) fn encoded(self) -> EncodedBatch {
        EncodedBatch {
            first: self.batch.first().0,
            last: self.batch.last().0,
            time_micros: self.batch.time().micros,
            bytes: self.batch.bytes().clone(),
            ended: self.ended,
            conflicts: self.conflicts,
        }
    }

    fn bytes(&self) -> usize {
        let ended: usize = self.ended.iter().map(|ended| ended.view.len() + 48).sum();
        self.batch.bytes().len() + ended
    }
}

/// The history, and what is on its way into it.
pub(crate) struct Feed {
    history: History,
    backlog: Backlog<Fed>,
    newest: watch::Sender<Revision>,
    /// Why nothing more is written, if so. The log then keeps everything, and the next start feeds the history again.
    broken: RwLock<Option<String>>,
}

impl Feed {
    pub(crate) fn new(history: History, backlog_bytes: usize) -> Self {
        let newest = watch::Sender::new(Revision(history.newest_revision()));
        Self { history, backlog: Backlog::new(backlog_bytes), newest, broken: RwLock::new(None) }
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Why nothing more is written.
    pub(crate) fn broken(&self) -> Option<String> {
        self.broken.read().clone()
    }

    /// Bytes that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.backlog.bytes()
    }

    /// Waits only when the history is far behind. Before that, when half of what may wait does, the rows of ended allocations are left
    /// out: they are most of the bytes, and what is needed to go on is in the batches.
    pub(crate) fn send(&self, mut fed: Fed) {
        if self.backlog.bytes() > self.backlog.bytes_max() / 2 {
            fed.ended = Vec::new();
        }
        if self.broken.read().is_none() {
            self.backlog.send(fed.bytes(), fed);
        }
    }

    pub(crate) fn close(&self) {
        self.backlog.close();
    }

    /// Waits until the history has a revision; false when it did not come in time.
    pub(crate) async fn reaches(&self, revision: Revision, patience: Duration) -> bool {
        let mut newest = self.newest.subscribe();
        let reached = newest.wait_for(|newest| *newest >= revision);
        tokio::time::timeout(patience, reached).await.is_ok()
    }
}

/// What the feeding thread remembers.
struct Feeder<'a> {
    shared: &'a Arc<Shared>,
    settings: &'a Settings,
    /// The cell of the newest checkpoint: pages that are not its very own have changed.
    before: Option<Cell>,
    bytes_since: u64,
    /// Of the newest checkpoint.
    image_bytes: u64,
    checkpoint_due: Instant,
    changed: bool,
    retiring: bool,
}

/// The feeding thread. `before` is the cell of the newest checkpoint, where it is known.
pub(crate) fn run(shared: &Arc<Shared>, before: Option<Cell>) {
    let settings = &shared.settings;
    let mut feeder = Feeder {
        shared,
        settings,
        before,
        bytes_since: 0,
        image_bytes: 0,
        checkpoint_due: Instant::now() + settings.checkpoint_interval,
        changed: false,
        retiring: false,
    };
    loop {
        let until = (feeder.changed || feeder.retiring).then_some(feeder.checkpoint_due);
        let received = shared.feed.backlog.receive(BATCHES_MAX, until);
        let closed = matches!(received, Received::Closed);
        if shared.has_failed() {
            return;
        }
        let done = match received {
            Received::Items(batches) => feeder.feed(batches),
            Received::TimedOut => feeder.go_on_retiring(),
            Received::Closed => Ok(()),
        };
        let done = done.and_then(|()| feeder.checkpoint_when_due(closed));
        if let Err(error) = done {
            tracing::error!(%error, "the history takes nothing more until the next start; the log keeps it all");
            *shared.feed.broken.write() = Some(error.to_string());
            shared.feed.backlog.close();
            return;
        }
        if closed {
            return;
        }
    }
}

impl Feeder<'_> {
    fn feed(&mut self, batches: Vec<Fed>) -> Result<(), WriteError> {
        self.bytes_since += batches.iter().map(|fed| fed.batch.bytes().len() as u64).sum::<u64>();
        if !self.changed {
            self.changed = true;
            self.checkpoint_due = Instant::now() + self.settings.checkpoint_interval;
        }
        let batches: Vec<EncodedBatch> = batches.into_iter().map(Fed::encoded).collect();
        let feed = &self.shared.feed;
        feed.history.append(&batches)?;
        feed.newest.send_replace(Revision(feed.history.newest_revision()));
        Ok(())
    }

    fn checkpoint_when_due(&mut self, closed: bool) -> Result<(), WriteError> {
        let enough = self.settings.checkpoint_bytes.max(self.image_bytes * LOG_BYTES_PER_IMAGE_BYTE);
        let due = Instant::now() >= self.checkpoint_due || self.bytes_since >= enough;
        if self.changed && (due || closed) {
            self.checkpoint(closed)?;
        }
        if closed {
            self.shared.feed.history.persist()?;
        }
        Ok(())
    }

    /// Writes images of the pages that changed. The picture may be ahead of what was fed: then it is fed first.
    fn checkpoint(&mut self, closed: bool) -> Result<(), WriteError> {
        let history = &self.shared.feed.history;
        let ask = || self.shared.ingress.want_snapshot();
        let Some(cell) = self.shared.picture.wait_for(Revision(history.newest_revision()), ask) else { return Ok(()) };
        while cell.revision().0 > history.newest_revision() {
            let Received::Items(batches) = self.shared.feed.backlog.receive(BATCHES_MAX, None) else { return Ok(()) };
            self.feed(batches)?;
        }
        self.image_bytes = take_checkpoint(history, &cell, self.before.as_ref())?;
        self.before = (!closed).then_some(cell);
        self.bytes_since = 0;
        self.changed = false;
        self.checkpoint_due = Instant::now() + self.settings.checkpoint_interval;
        self.give_up();
        Ok(())
    }

    /// Clears more of the old history away, a bounded piece at a time.
    fn go_on_retiring(&mut self) -> Result<(), WriteError> {
        if self.retiring && !self.changed {
            self.give_up();
            self.checkpoint_due = Instant::now() + RETIRING_PAUSE;
        }
        Ok(())
    }

    /// Lets go of what is not needed any more: segments of the log, and old history.
    fn give_up(&mut self) {
        let history = &self.shared.feed.history;
        let checkpoint = history.newest_checkpoint().map_or(0, |checkpoint| checkpoint.revision);
        self.shared.keeper.release(history.durable_revision().min(checkpoint));
        if let Err(error) = self.shared.keeper.prepare() {
            tracing::warn!(%error, "segments of the log could not be given back");
        }
        let retired = history
            .retention_floor(self.shared.clock.now().micros)
            .map_err(|error| error.to_string())
            .and_then(|floor| history.retire(floor).map_err(|error| error.to_string()));
        match retired {
            Ok(retirement) => self.retiring = !retirement.done,
            Err(error) => tracing::warn!(error, "old history could not be cleared away"),
        }
    }
}

/// Writes a checkpoint of this cell: images of the pages that differ from those of the newest one. Gives their bytes.
fn take_checkpoint(history: &History, cell: &Cell, before: Option<&Cell>) -> Result<u64, WriteError> {
    let live = pages::tables(cell).map(|(table, pages)| TablePages { table: number_of(table), pages });
    let changed = before.map_or_else(|| pages::every(cell).collect(), |before| pages::changed(before, cell));
    let images = changed.into_iter().map(|(table, number)| PageImage {
        table: number_of(table),
        number,
        bytes: pages::encode_page(cell, table, number),
    });
    let info = history.checkpoint(cell.revision().0, cell.time().micros, &live, images)?;
    tracing::debug!(revision = info.revision, images = info.images, bytes = info.image_bytes, "checkpoint");
    Ok(info.image_bytes)
}

fn number_of(table: Table) -> u8 {
    u8::try_from(i32::from(table)).expect("tables have small numbers")
}
