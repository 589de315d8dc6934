//! The end-to-end tests, in one binary: each further one would link everything once more.
//!
//! A test here drives the built `plenum` or several parts together. What one crate promises alone is
//! tested in that crate. (`tidy.rs`, beside this file, belongs to `xtask`.)
