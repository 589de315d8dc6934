//! What the kernel gives this agent for its tasks.

use std::io;

use plenum_model::is_name;

use super::Options;
use crate::{
    cgroup::{AgentCgroup, Mounts},
    directories::AgentDirectory,
    isolation::{Isolation, Probed},
    machine, shim,
};

/// Isolation as this machine, this user and the options allow it.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The parent of the tasks' cgroups.
    pub cgroup: Option<AgentCgroup>,
    /// The tasks' namespaces.
    pub isolation: Isolation,
    /// What is not there, in words for people; one line when joined.
    pub missing: Vec<String>,
    /// What kept namespaces from them and may pass, in words for people.
    pub hindrance: Option<String>,
}

impl Surroundings {
    /// Finds out by trying. Makes the agent's own cgroups.
    #[must_use]
    pub fn find(options: &Options, machine: &str, directory: &AgentDirectory) -> Self {
        if options.no_isolation {
            let isolation = Isolation::default();
            let mut missing = vec!["cgroups and namespaces (by --no-isolation)".to_owned()];
            missing.extend(shim::not_in_kernel(isolation));
            return Self { cgroup: None, isolation, missing, hindrance: None };
        }
        let Probed { isolation, hindrance } = options.shim.probe();
        let (cgroup, mut missing) = match Mounts::detect() {
            Some(mounts) => AgentCgroup::prepare(&mounts, &cgroup_name(machine, directory)),
            None => (None, vec!["cgroups (none are mounted)".to_owned()]),
        };
        if cgroup.is_none() && !nix::unistd::Uid::effective().is_root() {
            missing = vec!["limits of cpu, memory and pids (cgroups need root)".to_owned()];
        }
        missing.extend(isolation.missing());
        missing.extend(shim::not_in_kernel(isolation));
        Self { cgroup, isolation, missing, hindrance }
    }

    /// Bounds what all tasks take together: memory to so much, and processes, of which this is one share in so many. What can't be
    /// bounded is missing as well.
    pub(super) fn bound(&mut self, memory_bytes: u64, shares: u32) {
        let Some(cgroup) = &self.cgroup else { return };
        let memory = cgroup.limit_memory(memory_bytes);
        let pids = machine::pids_of_tasks(shares).and_then(|pids| cgroup.limit_pids(pids));
        let missing = |what: &str, outcome: io::Result<()>| {
            outcome.err().map(|error| format!("a limit of {what} of all tasks together ({error})"))
        };
        let all = [missing("the memory", memory), missing("the processes", pids)];
        self.missing.extend(all.into_iter().flatten());
    }
}

/// The machine's name, and the directory as a number: agents of two cells on one host may have the same name, and each
/// sweeps what it doesn't know below its own. The path of it, and not its instance: an agent whose directory was emptied has a new one, and is to
/// sweep what ran there before. Of a name that does not fit, the whole counts for the number, too.
fn cgroup_name(machine: &str, directory: &AgentDirectory) -> String {
    let kept = machine.get(..50).unwrap_or(machine);
    // Behind a byte that no path has: the same bytes in all may be those of another path and another name.
    let cut = if kept == machine { String::new() } else { format!("\0{machine}") };
    // FNV-1a: it must be the same for the same directory, and needs no strength.
    let bytes = directory.root().as_os_str().as_encoded_bytes().iter().chain(cut.as_bytes());
    let number = bytes.fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let name = format!("{}-{number:08x}", kept.trim_end_matches(['-', '.']));
    debug_assert!(is_name(&name, true));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_of_one_name_have_cgroups_of_their_own() {
        let of = |machine: &str, directory: &str| cgroup_name(machine, &AgentDirectory::new(directory.into()));
        assert_ne!(of("m1", "/a"), of("m1", "/b"));
        assert_eq!(of("m1", "/a"), of("m1", "/a"));
        let long = format!("{}.{}", "a".repeat(49), "b".repeat(13));
        assert!(is_name(&of(&long, "/a"), true));
    }

    // In two containers with directories of the same path, agents whose names were alike for fifty bytes had one group: each killed the other's tasks
    // when it started.
    #[test]
    fn agents_of_long_names_have_cgroups_of_their_own_wherever_these_differ() {
        let of = |machine: &str, directory: &str| cgroup_name(machine, &AgentDirectory::new(directory.into()));
        let alike = "a".repeat(50);
        assert_ne!(of(&format!("{alike}-1"), "/a"), of(&format!("{alike}-2"), "/a"));
        assert_ne!(of(&format!("{alike}-1"), "/a"), of(&alike, "/a"));
        assert_ne!(of(&format!("{alike}aa"), "/a"), of(&format!("{alike}a"), "/aa"));
        let own = format!("{alike}-{}", &of("m1", "/a")[3..]);
        assert_eq!(of(&alike, "/a"), own, "one that fits has the number of its directory");
    }
}
