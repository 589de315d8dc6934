//! What goes over a bare connection: messages of Protocol Buffers, each behind its length.

/// Claims of one shape, and stops.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Transaction {
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) base: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) job: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) cpu_millis: u32,
    #[prost(uint64, tag = "5")]
    pub(crate) memory_bytes: u64,
    #[prost(uint32, repeated, tag = "6")]
    pub(crate) machines: Vec<u32>,
    #[prost(uint32, repeated, tag = "7")]
    pub(crate) tasks: Vec<u32>,
    #[prost(uint64, repeated, tag = "8")]
    pub(crate) stops: Vec<u64>,
}

/// What became of it: by claim the allocation, or 0.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Outcome {
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) revision: u64,
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) allocations: Vec<u64>,
}
