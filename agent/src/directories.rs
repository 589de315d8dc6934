//! Where an agent keeps what: the layout of its directory. Every path component is made here, from numbers only.
//!
//! ```text
//! <agent>/lock                     held while an agent uses the directory
//! <agent>/allocs/<slot>-<generation>/
//!     spec.json                    what to run, with the number of the restart; written before a shim is started
//!     record-<restart>             the one shim that may run this restart: made by it, once
//!     running-<restart>            the command was started
//!     exit-<restart>               how it ended; nothing of it ran any more when this was written
//!     ended                        the cell knows of the end; kept for its logs only
//!     stdout-<offset>.log, stderr-<offset>.log
//!     task/                        the task's working directory
//! <agent>/jobs/<slot>-<generation>/    shared by a job's tasks on this machine
//! ```

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// An allocation's id as it is on the wire: the slot in the low 32 bits, its generation in the high 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllocationKey(pub u64);

/// A job's id as it is on the wire, made like [`AllocationKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobKey(pub u64);

impl fmt::Display for AllocationKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_slot_and_generation(self.0, formatter)
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_slot_and_generation(self.0, formatter)
    }
}

fn write_slot_and_generation(id: u64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(formatter, "{}-{}", id & u64::from(u32::MAX), id >> 32)
}

/// The text is not `<slot>-<generation>`, as [`AllocationKey`] prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected <slot>-<generation>, two decimal numbers of 32 bits")]
pub struct NotAKey;

impl FromStr for AllocationKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        parse_slot_and_generation(text).map(Self)
    }
}

impl FromStr for JobKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        parse_slot_and_generation(text).map(Self)
    }
}

fn parse_slot_and_generation(text: &str) -> Result<u64, NotAKey> {
    let parse = || {
        let (slot, generation) = text.split_once('-')?;
        let id = u64::from(generation.parse::<u32>().ok()?) << 32 | u64::from(slot.parse::<u32>().ok()?);
        // One spelling only: `+1-1` and `01-1` are not ours.
        (AllocationKey(id).to_string() == text).then_some(id)
    };
    parse().ok_or(NotAKey)
}

/// True when `name` may become one path component: 1 to 63 characters of letters, digits, `-`, `_` and inner dots.
#[must_use]
pub fn is_safe_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=63).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.') && !name.ends_with('.')
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

    /// Where allocations are.
    #[must_use]
    pub fn allocations(&self) -> PathBuf {
        self.0.join("allocs")
    }

    /// Where one allocation is.
    #[must_use]
    pub fn allocation(&self, key: AllocationKey) -> AllocationDirectory {
        AllocationDirectory(self.allocations().join(key.to_string()))
    }

    /// Where jobs are.
    #[must_use]
    pub fn jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }

    /// What the tasks of one job share.
    #[must_use]
    pub fn job(&self, key: JobKey) -> PathBuf {
        self.jobs().join(key.to_string())
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

    pub(crate) fn ended(&self) -> PathBuf {
        self.0.join("ended")
    }

    /// The task's working directory.
    #[must_use]
    pub fn task(&self) -> PathBuf {
        self.0.join("task")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_print_and_parse_in_one_spelling_only() {
        let key = AllocationKey(7 << 32 | 42);
        assert_eq!(key.to_string(), "42-7");
        assert_eq!("42-7".parse(), Ok(key));
        for wrong in ["", "42", "-7", "042-7", "+42-7", "42-7-1", "4294967296-0", "../1-1"] {
            assert_eq!(wrong.parse::<AllocationKey>(), Err(NotAKey), "{wrong}");
        }
    }

    #[test]
    fn names_that_are_paths_are_not_safe() {
        for safe in ["m1", "dev-0", "host.example.org", "a_b"] {
            assert!(is_safe_name(safe), "{safe}");
        }
        for unsafe_name in ["", ".", "..", "a/b", "../x", ".hidden", "a.", "a b", "a\0", &"x".repeat(64)] {
            assert!(!is_safe_name(unsafe_name), "{unsafe_name}");
        }
    }
}
