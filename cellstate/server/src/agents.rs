//! The agents' side of the server: what each machine shall run, leases, and what agents report.
//!
//! [`WantedIndex`], [`Follower`], [`Leases`], [`Registrations`] and [`Standstill`] are state machines without I/O; the hub ties them to the publishing thread and to the
//! streams of agents.

mod boots;
mod fitness;
mod hub;
mod inventory;
mod leases;
mod logs;
mod machine_names;
mod noting;
mod registrations;
mod reports;
mod standstill;
mod wanted;

pub(crate) use hub::{Hub, Registering};
pub use inventory::leave_out_known;
#[cfg(test)]
pub(crate) use leases::tests::machine;
pub use leases::{Grant, Leases};
pub(crate) use logs::{Chunk, LogRelay, NoLogs, Reading};
pub(crate) use machine_names::MachineNames;
pub(crate) use noting::Noting;
pub use registrations::{Asking, Hindrance, Registrations};
pub(crate) use reports::{Booked, Reports};
pub use standstill::{Look, Respite, Standstill};
pub use wanted::{EpochOver, Follower, WantedIndex};
