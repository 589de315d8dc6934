//! What separates a task from the machine besides its cgroup, and finding out what the kernel lets us have.

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid},
};
use serde::{Deserialize, Serialize};

/// Namespaces of a task.
///
/// Tasks run as the agent's user. A root agent's tasks stay root without the capabilities that
/// [`crate::shim`] drops; a user of their own for each task comes later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// A user namespace with the same user in it: how an ordinary user gets the others.
    pub user: bool,
    /// Its own processes only. With it nothing can outlive the task.
    pub pid: bool,
    /// Its own mounts.
    pub mount: bool,
    /// Its own `/proc`, which needs both of the above.
    pub proc: bool,
    /// Its own System V and POSIX message queues and shared memory.
    pub ipc: bool,
}

impl Isolation {
    /// Everything that a task can have of it.
    #[must_use]
    pub fn full(user: bool) -> Self {
        Self { user, pid: true, mount: true, proc: true, ipc: true }
    }

    /// From most to least: what a probe tries, until one works.
    #[must_use]
    pub fn ladder() -> Vec<Self> {
        let user = !Uid::effective().is_root();
        let full = Self::full(user);
        vec![full, Self { proc: false, ..full }, Self { proc: false, mount: false, ..full }, Self::default()]
    }

    /// What is not there, in words for people.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let parts = [
            (self.pid, "pid namespace"),
            (self.mount, "mount namespace"),
            (self.proc, "own /proc"),
            (self.ipc, "ipc namespace"),
        ];
        parts.into_iter().filter(|(there, _)| !there).map(|(_, name)| name.to_owned()).collect()
    }

    /// Leaves the namespaces that a child must be born outside of: user and pid. The caller stays in its pid namespace;
    /// its next child is the first process of the new one.
    pub(crate) fn unshare_for_child(self) -> Result<(), String> {
        if self.user {
            let (user, group) = (Uid::effective(), Gid::effective());
            unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| format!("a new user namespace: {error}"))?;
            write("/proc/self/setgroups", "deny")?;
            write("/proc/self/uid_map", &format!("{user} {user} 1"))?;
            write("/proc/self/gid_map", &format!("{group} {group} 1"))?;
        }
        if self.pid {
            unshare(CloneFlags::CLONE_NEWPID).map_err(|error| format!("a new pid namespace: {error}"))?;
        }
        Ok(())
    }

    /// Enters the namespaces that begin with the caller: mount and ipc. To be called in the first process of the new pid
    /// namespace, so that `/proc` shows that one.
    pub(crate) fn unshare_self(self) -> Result<(), String> {
        use nix::mount::{MsFlags, mount};
        if self.ipc {
            unshare(CloneFlags::CLONE_NEWIPC).map_err(|error| format!("a new ipc namespace: {error}"))?;
        }
        if self.mount {
            unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("a new mount namespace: {error}"))?;
            // Otherwise what is mounted here would show outside, too.
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .map_err(|error| format!("private mounts: {error}"))?;
        }
        if self.proc {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
                .map_err(|error| format!("mounting /proc: {error}"))?;
        }
        Ok(())
    }
}

fn write(path: &str, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("writing {text:?} to {path}: {error}"))
}
