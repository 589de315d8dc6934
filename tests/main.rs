//! The end-to-end tests, in one binary: each further one would link everything once more.
//!
//! A test here drives the built `plenum` or several parts together. What one crate promises alone is
//! tested in that crate. (`tidy.rs`, beside this file, belongs to `xtask`.)
//!
//! | module | stories about |
//! |---|---|
//! | `stage` | nothing: the folder, the processes and the questions of one test |
//! | `skips` | nothing: how a story that can't be told here is left out |
//! | `rivals` | nothing: machines and schedulers played by the test, over gRPC |
//! | `job_files` | files that no cell should take, and what people are told |
//! | `usage` | exit codes, errors for programs, directories and ports of others |
//! | `runs` | whole jobs: done, failed, crashed and started again, as root and as an ordinary user |
//! | `screen` | what commands show on a terminal |
//! | `waits` | waiting until all tasks of a job run |
//! | `kills` | `kill -9` of each part |
//! | `crash` | crashes of all kinds under load: what was acknowledged is there, once, and nothing else |
//! | `pauses` | parts that are stopped for long, and go on |
//! | `disk` | a full disk, and a damaged log |
//! | `backups` | a cell that goes on from its backup |
//! | `ends` | what Ctrl-C leaves behind: nothing |
//! | `governs` | quotas, partitions, pauses and drains, and what waits because of them |
//! | `strangers` | tasks that a restored cell has never heard of |
//! | `unfit` | machines whose agents want no tasks: asked to end, or without room |
//! | `unheard` | parts whose logs nobody takes, and commands without a reader |
//! | `evicts` | a full cell, and a job of a higher band |
//! | `takes` | a gang that holds room, and jobs that are launched |
//! | `listings` | what programs read, also of the past, also of lost races |
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that unwraps fails at the right line; what it prints is shown when it fails"
)]

mod rivals;
mod skips;
mod stage;

mod backups;
mod crash;
mod disk;
mod ends;
mod evicts;
mod governs;
mod job_files;
mod kills;
mod listings;
mod pauses;
mod runs;
mod screen;
mod strangers;
mod takes;
mod unfit;
mod unheard;
mod usage;
mod waits;
