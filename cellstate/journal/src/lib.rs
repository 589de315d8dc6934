//! The log of truth: segment files, frames, checksums and recovery.
//!
//! Everything goes through [`Disk`]; only [`RealDisk`] touches files.

mod disk;
mod flaw;
mod format;
mod frame;
mod scan;
mod segment;

pub use disk::{Disk, DiskError, DiskFile, DiskLock, LockError, OpenMode, RealDisk, SimCounts, SimDisk, SimOperation};
pub use flaw::{Damage, Flaw, Proof};
pub use format::{CellId, ChainHash, FORMAT_VERSION, SECTOR_BYTES};
pub use scan::Tail;
