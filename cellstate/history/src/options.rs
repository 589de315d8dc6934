//! Settings of a history, and what opening it found.
use crate::checkpoint::CheckpointInfo;
use crate::frames::Frames;
use std::path::PathBuf;
use std::sync::Arc;

/// Settings of a history. The defaults suit one server beside its schedulers on one machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cell that this history belongs to; 1 to 64 bytes. Another cell's folder is refused.
    pub cell_id: Vec<u8>,
    /// Memory for blocks of fjall's tables that were read. Filled only by reading.
    pub cache_bytes: u64,
    /// Changes that may wait in memory before they go to tables. Twice this is used while they do. Each table is synced as a whole, and
    /// what is on the same disk waits for it; and with each three lists of tables are synced.
    pub memtable_bytes: u64,
    /// Sets of at least so many pages begin with a file of images, smaller ones with rows of the store: a small cell begins one with nearly each checkpoint,
    /// some ten thousand of them in a week.
    pub image_file_pages: usize,
    /// Where batches are read from that stand in the log.
    pub frames: Option<Arc<dyn Frames>>,
    /// A block is closed when its batches reach this size. A larger batch is a block by itself.
    pub block_bytes: usize,
    /// A block is closed when it has so many batches. At least 1.
    pub block_batches: usize,
    /// How long batches are retained, in microseconds of log time.
    pub retain_micros: i64,
    /// How many bytes of batches are retained, as they were logged (what tables hold is compressed). Images, and what the
    /// index has about the retained batches, come on top.
    pub retain_bytes: u64,
}

impl Options {
    /// The defaults, for this cell: 4 MiB of cache, 4 MiB of changes in memory, files of images from 1024 pages on, blocks of 1 MiB or 1024 batches, seven
    /// days, one GiB.
    #[must_use]
    pub fn new(cell_id: impl Into<Vec<u8>>) -> Self {
        Self {
            cell_id: cell_id.into(),
            cache_bytes: 4 << 20,
            memtable_bytes: 4 << 20,
            image_file_pages: 1 << 10,
            frames: None,
            block_bytes: 1 << 20,
            block_batches: 1024,
            retain_micros: 7 * 24 * 3_600_000_000,
            retain_bytes: 1 << 30,
        }
    }
}

/// What opening a history found. The server feeds it the log from `newest_revision + 1` on.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The newest revision whose batch is there, and durable; 0 if none is.
    pub newest_revision: u64,
    /// The oldest revision whose batch is there; 0 if none is.
    pub oldest_revision: u64,
    /// The newest complete checkpoint.
    pub newest_checkpoint: Option<CheckpointInfo>,
    /// Set when fjall's own journal could not be read, as after a power cut: what had not gone to tables has to be fed
    /// again.
    pub journal_set_aside: Option<JournalSetAside>,
}

/// Fjall's journal was unreadable and was moved out of the way.
#[derive(Clone, Debug)]
pub struct JournalSetAside {
    /// Where it is now. The next such event replaces it; it may be deleted.
    pub folder: PathBuf,
    /// What fjall said about it.
    pub reason: String,
}
