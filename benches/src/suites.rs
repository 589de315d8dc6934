//! One module for each suite.

pub(crate) mod core;
