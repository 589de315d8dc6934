//! What is kept behind the log: page images, delta blocks, transactions and conflicts.
//!
//! The log is the truth; history is a view of it, kept in fjall and written by one background thread of the server, so
//! that no commit ever waits for it. It holds
//!
//! - **blocks**: many consecutive batches of the log, each block with a small filter of what it is about ([`History::append`],
//!   [`History::walk`]). Where the log keeps its segments, a block is a place in one of them ([`Frames`]); otherwise one compressed value;
//! - **page images**: pages of the cell state as they were at a checkpoint ([`History::checkpoint`]). The newest image
//!   of each page at or before a revision, and the deltas from there on, give the cell at that revision: recovery,
//!   `--at` and what-if all start from [`History::start_for`]. Images come in sets: one begins with images of all pages, of a large cell in a
//!   file of their own, those that changed later are added, and it goes as a whole;
//! - **index rows**: a few for each block (its filter, its conflicts, its time), and names of sessions, jobs and machines
//!   that outlive them. None for each claim: a store takes a microsecond for a row, and the core a quarter of that for a claim;
//! - **sums of what is retired**, by day ([`History::retired`]).
//!
//! It knows neither the cell nor the core: pages and batches are bytes, and what it needs of a batch it reads from the
//! messages of `plenum.v1`. It knows no clock; time comes with the batches.
//!
//! Where to start reading: `history.rs` (what there is), `append.rs` (how it gets in), `store.rs` (fjall, and what to
//! mind).

mod append;
mod batch;
mod beginnings;
mod block;
mod checkpoint;
mod conflicts;
mod digest;
mod entries;
mod error;
mod filter;
mod frames;
mod heads;
mod history;
mod identity;
mod image_files;
mod images;
mod keys;
mod names;
mod options;
mod packing;
pub mod probe;
mod records;
mod retire;
mod retired;
mod sessions;
mod staleness;
mod store;
mod transactions;
mod walk;

#[cfg(test)]
mod tests;

pub use batch::{ConflictNote, EncodedBatch, LOSSES_MAX, Loss};
pub use beginnings::{Name, Named};
pub use checkpoint::{CheckpointInfo, PageImage, StartingPoint, TablePages};
pub use conflicts::{ConflictGroup, ConflictRow, ConflictTable, Counts, GroupBy, Lost};
pub use entries::{Entries, Logged};
pub use error::{OpenError, ReadError, StoreError, WriteError};
pub use filter::Subject;
pub use frames::{Frames, FramesError, LogPlace, LogRange};
pub use history::History;
pub use identity::FORMATS;
pub use images::PagesAt;
pub use names::{Bearer, JobName, MachineName, Search};
pub use options::{JournalSetAside, Opened, Options};
pub use retire::Retirement;
pub use sessions::Lookup;
pub use transactions::{LoggedTransaction, Order, Transactions};
pub use walk::{BlockSummary, Walk};
