//! Publishing: what is durable, cut once for everybody who follows the cell.
//!
//! Nothing here knows of disks, clocks or connections. [`LoggedBatch`] is a batch as it stands in the log, [`Recent`] holds the
//! newest of them for all watchers, and [`Mirror`] folds them while recovering.

mod batch;
mod losses;
mod mirror;
mod recent;
mod times;

pub use batch::{LoggedBatch, NotABatch};
pub use mirror::{Mirror, MirrorError};
pub use recent::Recent;

pub(crate) use batch::BatchEncoder;
pub(crate) use losses::{Divergence, Losses, losses};
pub(crate) use times::Times;
