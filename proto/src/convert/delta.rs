//! Deltas: the hot path. Each is encoded once, for the log, for every watcher and for the history.

mod cut;
mod encode;
mod read;
mod rows;
pub(super) mod wire;

pub use cut::cut;
pub use encode::encode;
pub use read::{decode, decode_whole};
pub(super) use rows::{
    cell_from_wire, cell_to_wire, extra_from_wire, extra_to_wire, job_from_wire, job_to_wire, name, position,
    reasons_by_position,
};
