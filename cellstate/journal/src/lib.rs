//! The log of truth: segment files, frames, checksums and recovery.
//!
//! One batch is one frame: one write, one sync. What was synced is never lost without being noticed: each frame
//! carries a checksum over everything and the hash of the frame before, and a high-water mark in a file of its own
//! knows how far the log had come. Opening refuses what it cannot explain by a crash, and names the place.
//!
//! - [`Journal`] is the commit path, owned by one thread. [`Keeper`] is the other side: readers, and a background
//!   thread that makes the next segment, gives up old ones and watches the free room. [`HighWater`] is flushed by
//!   a background thread within 100 ms of a batch.
//! - [`Journal::open`] and [`verify`] judge by one and the same walk over the log.
//! - A payload is opaque here: this crate knows nothing of cells, transactions or their encoding.
//! - With [`Options::keep_released`], what is released stays until it is given up, and [`Archive`] reads it by its place.
//! - Everything goes through [`Disk`]; only [`RealDisk`] touches files, and no module knows a clock or a thread.
//!   [`SimDisk`] is part of the library, because the simulation of the whole cell runs on it.
//!
//! ```
//! use plenum_journal::{BatchLabel, CellId, Journal, Options, SimDisk};
//! use std::sync::Arc;
//!
//! let disk = SimDisk::new(1);
//! let options = Options { create: Some(CellId([7; 16])), segment_bytes: 65_536, frame_bytes_max: 4096, ..Options::default() };
//! let (mut journal, _) = Journal::open(Arc::new(disk.clone()), options.clone()).expect("an empty disk");
//! let label = BatchLabel { term: 1, first_revision: 1, last_revision: 3 };
//! journal.append_and_sync(label, &[b"three ", b"commands"]).expect("a disk that works");
//! drop(journal);
//! disk.crash(42);
//!
//! let (journal, recovered) = Journal::open(Arc::new(disk.reboot()), options).expect("nothing is lost");
//! assert_eq!(recovered.tail.revision, 3);
//! let mut reader = journal.keeper().reader(1).expect("it is still there");
//! let frame = reader.next_frame().expect("it is whole").expect("there is one");
//! assert_eq!(frame.payload, b"three commands");
//! ```

mod archive;
mod disk;
mod flaw;
mod forgiving;
mod format;
mod frame;
mod identity;
mod journal;
mod kept;
mod mark;
mod options;
mod planting;
mod reader;
mod recovery;
mod scan;
mod segment;
mod shelf;
mod survey;
mod verify;

#[cfg(test)]
mod tests;

pub use archive::{Archive, FramePlace, FrameRange, FramesRead};
pub use disk::{
    Disk, DiskError, DiskFile, DiskLock, LockError, OpenMode, RealDisk, SimCounts, SimDisk, SimOperation, SimStrikes,
};
pub use flaw::{Damage, Flaw, Proof};
pub use format::{CellId, ChainHash, FORMAT_VERSION, SECTOR_BYTES};
pub use identity::{Identity, NAME as IDENTITY_FILE};
pub use journal::{AppendError, BatchLabel, Journal};
pub use mark::{HighWater, Mark};
pub use options::{Options, OptionsError};
pub use planting::plant;
pub use reader::{Frame, ReadError, Reader};
pub use recovery::{Claimed, Cut, Judged, OpenError, Recovered, identity};
pub use scan::Tail;
pub use shelf::{Keeper, PrepareError, Space};
pub use verify::{KeptReport, Report, verify, verify_kept};
