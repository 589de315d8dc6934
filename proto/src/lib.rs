//! The `plenum.v1` protocol: generated types, and conversions that validate at the edge.
//!
//! Nothing from the wire reaches the core before it went through here: enum values are known, names are names, quantities
//! are within their bounds, columns are of equal length. Whether what a message refers to exists is the core's business,
//! and so is what it does not decide yet.
//!
//! | module | from the wire, and to it |
//! |---|---|
//! | [`transaction`] | transactions of schedulers |
//! | [`jobs`] | what users submit |
//! | [`machines`] | what agents register and report |
//! | [`command`] | requests, as the log keeps them |
//! | [`outcome`] | decisions and outcomes |
//! | [`delta`] | what a command changed: for the log, the watchers and the history alike |
//! | [`pages`] | page images of a whole cell |
//! | [`log`] | batches of the log |
//! | [`codec`] | messages of a stream |
//! | [`census`] | what is in a request, counted before it is decoded |
//! | [`fields`] | pieces of encoded messages, for what need not be decoded |
//! | [`address`] | addresses of cells |
//! | [`filters`] | the fields that listings are narrowed down by |
//!
//! Must not know: the state of a cell beyond its rows, clocks, connections, files.

pub mod address;
pub mod bounds;
pub mod census;
pub mod codec;
pub mod error;
pub mod fields;
pub mod filters;
pub mod names;

mod convert;

pub use convert::{command, delta, jobs, log, machines, outcome, pages, resources, sections, transaction};
pub use error::{Invalid, ReadError, SubmitError, Unsupported};

/// The generated messages, clients and servers of `plenum.v1`.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used)]
    tonic::include_proto!("plenum.v1");
}

/// The encoded descriptors of `plenum.v1`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plenum_descriptor.bin"));
