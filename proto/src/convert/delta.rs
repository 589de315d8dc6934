//! Deltas: the hot path. Each is encoded once, for the log, for every watcher and for the history.

mod encode;
mod read;
mod rows;
mod wire;

pub use encode::{Spans, encode};
pub use read::decode;
