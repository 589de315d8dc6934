//! Control groups: one per task, below `plenum/<machine>`, in whichever of the two versions the machine has.
//!
//! Which version is mounted where is asked of `cgroups-rs`. Everything else is plain files here: that crate doesn't
//! read version 2's out-of-memory events, can't kill a version 1 group, and hides the file that a failure is about.
//! The mount points come in as an argument, so that a fake tree tests what is written.

mod task;
mod together;
mod tree;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use cgroups_rs::{Controllers, hierarchies};
use plenum_model::is_name;
use serde::{Deserialize, Serialize};

pub use self::task::{Limits, TaskCgroup};

/// Which of the kernel's two interfaces is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

impl Version {
    /// The value of `attr.cgroup`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// What a task can be limited in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// Memory, with swap where the kernel counts it.
    Memory,
    /// The number of processes and threads.
    Pids,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    /// The kernel's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// Where the controllers are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounts {
    version: Version,
    /// Version 1: the mount point of each controller. Version 2: the one mount point, under each controller that the
    /// kernel offers there.
    controllers: BTreeMap<Controller, PathBuf>,
}

impl Mounts {
    /// What this machine has; `None` when no controller of ours is mounted.
    #[must_use]
    pub fn detect() -> Option<Self> {
        let hierarchy = hierarchies::auto();
        if hierarchy.v2() {
            return Self::unified(&hierarchy.root());
        }
        let controllers: BTreeMap<_, _> = hierarchy
            .subsystems()
            .iter()
            .filter_map(|subsystem| {
                let controller = subsystem.to_controller();
                let ours = match controller.control_type() {
                    Controllers::Cpu => Controller::Cpu,
                    Controllers::Mem => Controller::Memory,
                    Controllers::Pids => Controller::Pids,
                    _ => return None,
                };
                Some((ours, controller.path().to_path_buf()))
            })
            .collect();
        (!controllers.is_empty()).then_some(Self { version: Version::V1, controllers })
    }

    /// Version 1 with these mount points.
    #[must_use]
    pub fn per_controller(controllers: BTreeMap<Controller, PathBuf>) -> Self {
        Self { version: Version::V1, controllers }
    }

    /// Version 2 mounted at `root`, with the controllers that `cgroup.controllers` names there; `None` when it names
    /// none of ours.
    #[must_use]
    pub fn unified(root: &Path) -> Option<Self> {
        let offered = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
        let controllers: BTreeMap<_, _> = Controller::ALL
            .into_iter()
            .filter(|controller| offered.split_ascii_whitespace().any(|name| name == controller.name()))
            .map(|controller| (controller, root.to_path_buf()))
            .collect();
        (!controllers.is_empty()).then_some(Self { version: Version::V2, controllers })
    }

    /// The interface's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }
}

/// The groups of one agent: the parent of its tasks' groups in each hierarchy.
#[derive(Clone, Debug)]
pub struct AgentCgroup {
    version: Version,
    /// One entry per usable controller; in version 2 all name the same directory.
    parents: BTreeMap<Controller, PathBuf>,
}

impl AgentCgroup {
    /// Makes `<mount>/plenum/<machine>` in each hierarchy and hands the controllers down to it.
    ///
    /// `machine` must be one path component (see [`is_name`]). Returns what could not be had,
    /// in words for people; the group is `None` when nothing could.
    #[must_use]
    pub fn prepare(mounts: &Mounts, machine: &str) -> (Option<Self>, Vec<String>) {
        debug_assert!(is_name(machine, true));
        let mut missing = Vec::new();
        let mut parents = BTreeMap::new();
        for controller in Controller::ALL {
            let made = match mounts.controllers.get(&controller) {
                None => Err("the kernel doesn't offer it here".to_owned()),
                Some(mount) => {
                    let parent = mount.join("plenum").join(machine);
                    make_parent(mounts.version, controller, mount, &parent)
                        .map(|()| parent)
                        .map_err(|error| error.to_string())
                }
            };
            match made {
                Ok(parent) => drop(parents.insert(controller, parent)),
                Err(why) => missing.push(format!("{} limits ({why})", controller.name())),
            }
        }
        let group = (!parents.is_empty()).then_some(Self { version: mounts.version, parents });
        (group, missing)
    }

    /// The interface's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The group of the task that is known by `name`, one path component. Nothing is made yet.
    #[must_use]
    pub fn task(&self, name: &str) -> TaskCgroup {
        debug_assert!(is_name(name, false));
        let directories = self.parents.iter().map(|(&controller, parent)| (controller, parent.join(name))).collect();
        TaskCgroup::new(self.version, directories)
    }

    /// The names of the groups below this one: tasks of this agent, or what a crash left of them.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for parent in self.parents.values() {
            let children = tree::children(parent)?;
            names.extend(children.into_iter().filter_map(|child| child.into_string().ok()));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// How many processes of each task that has a group the kernel killed for want of memory, where it killed any. Waits for the kernel, some microseconds
    /// a task.
    pub(crate) fn oom_kills(&self) -> BTreeMap<String, u64> {
        let names = self.names().unwrap_or_default().into_iter().filter(|name| is_name(name, false));
        let counted = names.map(|name| (self.task(&name).oom_kills(), name));
        counted.filter(|(kills, _)| *kills > 0).map(|(kills, name)| (name, kills)).collect()
    }

    /// Removes the agent's own groups, and `plenum` above it when no other agent uses it. Groups of tasks that are
    /// left keep theirs, which is no error.
    pub fn remove(&self) {
        for parent in self.parents.values() {
            if fs::remove_dir(parent).is_ok()
                && let Some(above) = parent.parent()
            {
                let _ = fs::remove_dir(above);
            }
        }
    }
}

/// How many processes the kernel has killed for want of memory since the machine was booted, in any group or none; 0 also where it does not tell.
pub(crate) fn oom_kills_of_machine() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    task::keyed_value(&text, "oom_kill").unwrap_or(0)
}

fn make_parent(version: Version, controller: Controller, mount: &Path, parent: &Path) -> io::Result<()> {
    let named = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    // Another agent may just be removing the directory above, as its last user.
    let mut made = fs::create_dir_all(parent);
    for _ in 0..10 {
        if !matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
        made = fs::create_dir_all(parent);
    }
    made.map_err(|error| named(parent, error))?;
    if version == Version::V1 {
        return Ok(());
    }
    let plenum = parent.parent().unwrap_or(mount);
    for level in [mount, plenum, parent] {
        let file = level.join("cgroup.subtree_control");
        fs::write(&file, format!("+{}", controller.name())).map_err(|error| named(&file, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
