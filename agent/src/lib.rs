//! The node agent: it carries out what was committed, with real isolation.
//!
//! Read [`driver`] first (what running a task means), then [`exec`] and [`shim`] (how), then [`reconciler`] (what
//! shall run). The agent knows no scheduler and decides on no placement.

pub mod assignments;
pub mod cgroup;
mod clock;
pub mod directories;
pub mod driver;
mod durable;
pub mod exec;
pub mod fake;
pub mod isolation;
pub mod logs;
pub mod machine;
mod open_files;
pub mod probe;
pub mod process;
pub mod reconciler;
pub mod removal;
mod service;
pub mod shim;
mod threads;
pub mod traces;

pub use service::{AgentError, Options, Surroundings, end_tasks_left, registration, run};
