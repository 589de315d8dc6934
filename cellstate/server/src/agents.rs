//! The agents' side of the server: what each machine shall run, leases, and what agents report.
//!
//! [`WantedIndex`], [`Follower`], [`Leases`] and [`Standstill`] are state machines without I/O; the hub ties them to the publishing thread and to the
//! streams of agents.

mod fitness;
mod hub;
mod leases;
mod logs;
mod reports;
mod standstill;
mod wanted;

pub(crate) use hub::Hub;
#[cfg(test)]
pub(crate) use leases::tests::machine;
pub use leases::{Grant, Leases};
pub(crate) use logs::{LogRelay, NoLogs, Reading};
pub(crate) use reports::Reports;
pub use standstill::{Look, Standstill};
pub use wanted::{EpochOver, Follower, WantedIndex};
