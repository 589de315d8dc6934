//! What an agent is told.

use std::{collections::BTreeMap, path::PathBuf};

use crate::exec::ShimProgram;

/// How an agent runs. Begin with [`Options::new`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The cell's address, such as `http://127.0.0.1:7070`.
    pub server: String,
    /// Where tasks, their output and what is known of them are kept. One agent at a time.
    pub directory: PathBuf,
    /// The machine's name; `None`: the host's.
    pub name: Option<String>,
    /// Offer one part in this many of the machine; at least 1.
    pub shares: u32,
    /// Memory of the machine that is not offered, before it is divided into shares; `None`: the larger of 256 MiB and a twentieth, and at most a
    /// quarter.
    pub memory_aside: Option<u64>,
    /// Use neither cgroups nor namespaces.
    pub no_isolation: bool,
    /// Stop all tasks before ending, and leave no cgroup behind.
    pub stop_tasks_on_exit: bool,
    /// Attributes besides those that are found; they win over those.
    pub attributes: BTreeMap<String, String>,
    /// Devices that the machine offers, whole ones.
    pub devices: Vec<plenum_model::Device>,
    /// Resources that the machine offers beside those that are found, by the names that the cell has given them.
    pub resources: BTreeMap<String, u64>,
    /// Output kept of each task and stream: two files of at most this size.
    pub log_file_bytes_max: u64,
    /// Ended allocations whose output is kept. Those that printed nothing, those that printed something and ended well or were asked to end, and those
    /// that did and failed have a third each, as long as they need it; within each the oldest go.
    pub ended_kept_max: usize,
    /// Output kept of these, in bytes, each task's as a whole: shared in the same way.
    pub ended_bytes_max: u64,
    /// Processes and threads of one task.
    pub pids_max: u32,
    /// Wait for an agent of the same directory that is ending. Otherwise whoever starts this one tries again by himself.
    pub waits_for_predecessor: bool,
    /// How shims are started.
    pub shim: ShimProgram,
}

impl Options {
    /// An agent of the cell at `server`, with everything in `directory`, and defaults for the rest.
    #[must_use]
    pub fn new(server: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        Self {
            server: server.into(),
            directory: directory.into(),
            name: None,
            shares: 1,
            memory_aside: None,
            no_isolation: false,
            stop_tasks_on_exit: false,
            attributes: BTreeMap::new(),
            devices: Vec::new(),
            resources: BTreeMap::new(),
            log_file_bytes_max: 8 << 20,
            ended_kept_max: 256,
            ended_bytes_max: 1 << 30,
            pids_max: 4096,
            waits_for_predecessor: true,
            shim: ShimProgram::own_binary(),
        }
    }
}
