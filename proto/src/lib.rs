//! The `plenum.v1` protocol: generated types, and conversions that validate at the edge.

/// The generated messages, clients and servers of `plenum.v1`.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used)]
    tonic::include_proto!("plenum.v1");
}

/// The encoded descriptors of `plenum.v1`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plenum_descriptor.bin"));
