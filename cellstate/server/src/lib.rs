//! The cell's server: ingress, group commit, publishing, sync sessions and the API.
//!
//! | module | what it is |
//! |---|---|
//! | [`commit`] | decides, gathers into batches, answers when durable |
//! | [`publish`] | what is durable, cut once for everybody, and folded for readers |
//! | [`sync`] | what one watcher is sent, and when |
//! | [`agents`] | what each machine shall run, and leases |
//! | [`authorise`] | who may call what |
//! | [`allocator`] | where memory comes from |
//!
//! These are state machines without I/O: no clock, file, thread or connection. Around them stands a thin shell: `engine` has the
//! threads, `api` gRPC and HTTP, `recovery`, `verify` and `backup` the directory, `checkpoint` the history's pages.

pub mod agents;
pub mod allocator;
pub mod authorise;
pub mod commit;
pub mod publish;
mod pulses;
pub mod sync;

mod ahead;
mod api;
mod backup;
mod calls;
mod checkpoint;
mod engine;
mod error;
mod frames;
mod ingress;
mod listen;
mod metrics;
mod notes;
mod options;
mod planted_bugs;
mod recovery;
mod seldom;
mod server;
mod sessions;
mod shared;
mod tasks;
mod verify;
mod view;

/// What is written is what the core decided: both must mean the same by a version.
const _: () = assert!(plenum_core::CORE_VERSION == plenum_proto::log::CORE_VERSION);
const _: () = assert!(plenum_core::ROWS_MAX == plenum_proto::bounds::ROWS_MAX);

pub use api::probe;
pub use backup::{
    BackupError, FILE_VERSION, Loss, LostRevision, RestoreOptions, Restored, back_up_folder, check as check_backup,
    read_backup, restore,
};
pub use engine::step_forward;
pub use error::ServerError;
pub use frames::frames_in;
pub use ingress::QueueBounds;
pub use options::{ServerOptions, Settings};
pub use server::{ADDRESS_NOT_TOLD, Handle, Server, Waiting, event_loop, run};
pub use verify::{VerifyReport, Violation, verify};
