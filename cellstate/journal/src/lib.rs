//! The log of truth: segment files, frames, checksums and recovery.
