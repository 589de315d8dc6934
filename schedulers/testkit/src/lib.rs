//! A cell for testing schedulers: on one thread with a clock that tests advance, or in the process over real connections.
//!
//! | type | what it is |
//! |---|---|
//! | [`Stage`] | the real core and real runtimes without I/O, step by step, the same each time |
//! | [`JobBuilder`] | jobs in one line |
//!
//! Everything here panics with a reason where a test is wrong: it is a tool for tests only.

mod job;
mod stage;

pub use job::JobBuilder;
pub use stage::{Seat, Stage};
