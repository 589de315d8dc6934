//! A cell for testing schedulers: on one thread with a clock that tests advance, or in the process over real connections.
//!
//! | type | what it is |
//! |---|---|
//! | [`Stage`] | the real core and real runtimes without I/O, step by step, the same each time |
//! | [`TestCell`] | the real server in this process, with fake agents |
//! | [`Rival`] | takes what a scheduler under test is about to take |
//! | [`JobBuilder`] | jobs in one line |
//!
//! Everything here panics with a reason where a test is wrong: it is a tool for tests only.

mod agent;
mod cell;
mod job;
mod rival;
mod stage;

pub use cell::{RunningScheduler, TestCell};
pub use job::JobBuilder;
pub use plenum_server::Settings as ServerSettings;
pub use rival::Rival;
pub use stage::{Seat, Stage};
