//! The agent on the real kernel: real processes, cgroups and namespaces, as root and, for what needs none, as whoever
//! runs the tests.

#![allow(clippy::unwrap_used)]

mod bench;
mod crash;
mod groups;
mod limits;
mod mounts;
mod namespaces;
mod removal;
mod service;
#[path = "../../../tests/skips.rs"]
mod skips;
mod tasks;
