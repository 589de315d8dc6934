//! Where an agent keeps what: the layout of its directory. Every path component is made here, from numbers only.
//!
//! ```text
//! <agent>/lock                     held while an agent uses the directory
//! <agent>/allocs/alloc-<slot>-<generation>/
//!     spec.json                    what to run, with the number of the restart; written before a shim is started
//!     record-<restart>             the one shim that may run this restart: made by it, once
//!     running-<restart>            the command was started
//!     exit-<restart>               how it ended; nothing of it ran any more when this was written
//!     exit.reserved                room for that, while it runs
//!     ended                        the cell knows of the end; kept for its logs only
//!     stdout-<offset>.log, stderr-<offset>.log
//!     task/                        the task's working directory; removed when the cell knows of the end
//! <agent>/jobs/job-<slot>-<generation>-v<version>/    shared by the tasks of one version of a job on this machine
//! <agent>/allocs/.removed-*, <agent>/jobs/.removed-*    what is being removed
//! <agent>/instance                 which agent this directory makes
//! <agent>/cell.json                which cell it belongs to, and what it has seen of it
//! ```

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use plenum_model::{AllocationId, JobId};

/// Ids of the model in files: as numbers, as they are on the wire.
pub(crate) mod id_as_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// An id that has a number.
    pub(crate) trait Id: Copy {
        fn to_number(self) -> u64;
        fn from_number(number: u64) -> Option<Self>;
    }

    impl Id for plenum_model::AllocationId {
        fn to_number(self) -> u64 {
            self.to_bits()
        }

        fn from_number(number: u64) -> Option<Self> {
            Self::from_bits(number)
        }
    }

    impl Id for plenum_model::JobId {
        fn to_number(self) -> u64 {
            self.to_bits()
        }

        fn from_number(number: u64) -> Option<Self> {
            Self::from_bits(number)
        }
    }

    pub(crate) fn serialize<I: Id, S: Serializer>(id: &I, serializer: S) -> Result<S::Ok, S::Error> {
        id.to_number().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, I: Id, D: Deserializer<'de>>(deserializer: D) -> Result<I, D::Error> {
        I::from_number(u64::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("an id's generation is never 0"))
    }
}

/// Gives the owner of a directory back what a task took from him with `chmod`, which without namespaces can also enter what is above its own: an
/// ordinary user could not enter it any more.
pub(crate) fn let_owner_in(directory: &Path) {
    const ALL: u32 = 0o700;
    let mode = fs::metadata(directory).map_or(ALL, |metadata| metadata.permissions().mode());
    if mode & ALL != ALL {
        // Where it fails, entering it says why.
        let _ = fs::set_permissions(directory, fs::Permissions::from_mode(mode | ALL));
    }
}

/// The directory of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentDirectory(PathBuf);

impl AgentDirectory {
    /// `root` need not exist yet. It should be absolute: shims have another working directory.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The file that is locked while an agent uses the directory.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// What is written to find out whether anything can be.
    #[must_use]
    pub(crate) fn probe(&self) -> PathBuf {
        self.0.join("probe")
    }

    /// Where allocations are.
    #[must_use]
    pub fn allocations(&self) -> PathBuf {
        self.0.join("allocs")
    }

    /// Where one allocation is.
    #[must_use]
    pub fn allocation(&self, key: AllocationId) -> AllocationDirectory {
        AllocationDirectory(self.allocations().join(key.to_string()))
    }

    /// Where jobs are.
    #[must_use]
    pub fn jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }

    /// What the tasks of one version of a job share.
    #[must_use]
    pub fn job(&self, key: JobId, version: u32) -> PathBuf {
        self.jobs().join(format!("{key}-v{version}"))
    }
}

/// The directory of one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationDirectory(PathBuf);

impl AllocationDirectory {
    /// The directory of a shim that was told this path.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Gives the owner of this directory, and of the agent's that it is in, back what a task took from him.
    pub(crate) fn let_owner_in(&self) {
        let own: Vec<_> = self.0.ancestors().take(3).collect();
        // From the outermost one: nobody can look into another before.
        own.into_iter().rev().for_each(let_owner_in);
    }

    /// The agent's directory that it is in.
    pub(crate) fn agent(&self) -> Option<PathBuf> {
        Some(self.0.parent()?.parent()?.to_owned())
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    pub(crate) fn record(&self, restart: u32) -> PathBuf {
        self.0.join(format!("record-{restart}"))
    }

    pub(crate) fn running(&self, restart: u32) -> PathBuf {
        self.0.join(format!("running-{restart}"))
    }

    pub(crate) fn exit(&self, restart: u32) -> PathBuf {
        self.0.join(format!("exit-{restart}"))
    }

    pub(crate) fn exit_reserved(&self) -> PathBuf {
        self.0.join("exit.reserved")
    }

    pub(crate) fn ended(&self) -> PathBuf {
        self.0.join("ended")
    }

    /// The task's working directory.
    #[must_use]
    pub fn task(&self) -> PathBuf {
        self.0.join("task")
    }
}
