//! A whole server in this process, spoken to over loopback.
#![allow(clippy::unwrap_used, missing_docs)]

mod agents;
mod backups;
mod bad_input;
mod client;
mod commits;
mod crowded;
mod decisions;
mod directory;
mod extremes;
mod failing;
mod fitness;
mod formats;
mod govern;
mod history;
mod inspection;
mod job_stories;
mod kept;
mod large_jobs;
mod named;
mod offline;
mod read_back;
mod returns;
mod scaling;
mod sizes;
mod stalled;
