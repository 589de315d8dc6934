//! The node agent: it carries out what was committed, with real isolation.
//!
//! The agent knows no scheduler and decides on no placement.

pub mod cgroup;
pub mod directories;
pub mod machine;
pub mod process;
