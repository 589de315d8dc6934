//! A whole server in this process, spoken to over loopback.
#![allow(clippy::unwrap_used, missing_docs)]

mod client;
mod commits;
mod directory;
