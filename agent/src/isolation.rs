//! What separates a task from the machine besides its cgroup, and finding out what the kernel lets us have.

use std::{fs, io, os::fd::AsRawFd, path::Path};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
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
    /// Of the agent's directory it sees its own and its job's only: nobody else's output, and not what its shim writes of
    /// it. Needs its own mounts.
    #[serde(default)]
    pub hidden: bool,
    /// Its own `/proc`, which needs both of the above.
    pub proc: bool,
    /// Its own System V and POSIX message queues and shared memory.
    pub ipc: bool,
}

impl Isolation {
    /// Everything that a task can have of it.
    #[must_use]
    pub fn full(user: bool) -> Self {
        Self { user, pid: true, mount: true, hidden: true, proc: true, ipc: true }
    }

    /// From most to least: what a probe tries, until one works.
    #[must_use]
    pub fn ladder() -> Vec<Self> {
        let user = !Uid::effective().is_root();
        let full = Self::full(user);
        let no_mounts = Self { mount: false, hidden: false, proc: false, ..full };
        vec![
            full,
            Self { proc: false, ..full },
            Self { hidden: false, proc: false, ..full },
            no_mounts,
            Self::default(),
        ]
    }

    /// What is not there, in words for people.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let parts = [
            (self.pid, "pid namespace"),
            (self.mount, "mount namespace"),
            (self.hidden, "hidden agent directory"),
            (self.proc, "own /proc"),
            (self.ipc, "ipc namespace"),
        ];
        parts.into_iter().filter(|(there, _)| !there).map(|(_, name)| name.to_owned()).collect()
    }

    /// Leaves the namespaces that a child must be born outside of: user and pid. The caller stays in its pid namespace;
    /// its next child is the first process of the new one.
    pub(crate) fn unshare_for_child(self) -> Result<(), Refused> {
        if self.user {
            let (user, group) = (Uid::effective(), Gid::effective());
            unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| Refused::new("a new user namespace", errno))?;
            write("/proc/self/setgroups", "deny")?;
            write("/proc/self/uid_map", &format!("{user} {user} 1"))?;
            write("/proc/self/gid_map", &format!("{group} {group} 1"))?;
        }
        if self.pid {
            unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| Refused::new("a new pid namespace", errno))?;
        }
        Ok(())
    }

    /// Enters the namespaces that begin with the caller: mount and ipc. To be called in the first process of the new pid
    /// namespace, so that `/proc` shows that one.
    pub(crate) fn unshare_self(self, probing: bool) -> Result<(), Refused> {
        if self.ipc {
            unshare(CloneFlags::CLONE_NEWIPC).map_err(|errno| Refused::new("a new ipc namespace", errno))?;
        }
        if self.mount {
            unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| Refused::new("a new mount namespace", errno))?;
            // What is mounted here does not show outside. What is unmounted outside must go here, too: each task that runs would hold
            // the disk, which nobody could find out who has it.
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
                .map_err(|errno| Refused::new("mounts of its own", errno))?;
            // But nothing of the kernel's comes that was not there when it was closed. Where these are no mounts there is nothing to do.
            for tree in ["/proc", "/sys"] {
                let _ = mount(None::<&str>, tree, None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
            }
        }
        if self.mount && probing {
            // As its group is shown to a task in place of all groups.
            mount(Some("/dev/null"), "/dev/null", None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|errno| Refused::new("a mount of what is there", errno))?;
        }
        if self.hidden && probing {
            mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::MS_NOSUID, None::<&str>)
                .map_err(|errno| Refused::new("mounting a tmpfs", errno))?;
        }
        if self.proc {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
                .map_err(|errno| Refused::new("mounting /proc", errno))?;
        }
        Ok(())
    }
}

/// What the kernel did not give, and why.
#[derive(Debug)]
pub(crate) struct Refused {
    what: String,
    pub(crate) errno: Errno,
}

impl Refused {
    fn new(what: &str, errno: Errno) -> Self {
        Self { what: what.to_owned(), errno }
    }
}

impl From<Refused> for String {
    fn from(refused: Refused) -> Self {
        format!("{}: {}", refused.what, refused.errno)
    }
}

/// What a probe found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// The most that works.
    pub isolation: Isolation,
    /// What kept more from working and may pass, in words for people.
    pub hindrance: Option<String>,
}

/// Hides everything below `root` but the directories in `kept`, which must be below it, for this mount namespace.
pub(crate) fn hide(root: &Path, kept: &[&Path]) -> Result<(), String> {
    let step = |what: &str, path: &Path, outcome: nix::Result<()>| {
        outcome.map_err(|error| format!("{what} {}: {error}", path.display()))
    };
    // Opened before they are covered, and in this namespace: those of another one can't be mounted.
    let mut open = Vec::new();
    for &path in kept {
        let file = fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        open.push((path, file));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    step("covering", root, mount(Some("tmpfs"), root, Some("tmpfs"), flags, Some("size=64k,mode=755")))?;
    for (path, file) in open {
        fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        step("showing", path, mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>))?;
    }
    let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    step("closing", root, mount(None::<&str>, root, None::<&str>, flags, None::<&str>))
}

fn write(path: &str, text: &str) -> Result<(), Refused> {
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
    fs::write(path, text).map_err(|error| Refused::new(&format!("writing {text:?} to {path}"), errno(error)))
}
