//! Bounds of what all tasks of an agent take together, on the group above theirs. Then the kernel finds whoever takes too much among them, and nobody
//! else on the machine has to go.

use std::{fs, io, path::Path};

use super::{
    AgentCgroup, Controller, Version,
    task::{about, count_what_is_below, keyed_value, write},
};

/// Version 1 says that of groups without a limit, and no machine has as much.
const UNLIMITED_FROM: u64 = 1 << 60;

impl AgentCgroup {
    /// Bounds the memory of all tasks together; nothing is done where there is no controller for it.
    ///
    /// What tasks that are here already were granted stays theirs: where that comes to more, as an earlier agent offered more, that is the bound until
    /// the next call.
    ///
    /// # Errors
    /// When it can't be bounded, or more is in use already. The message names the file.
    pub fn limit_memory(&self, memory_bytes: u64) -> io::Result<()> {
        let Some(group) = self.parents.get(&Controller::Memory) else { return Ok(()) };
        let limit = memory_bytes.max(self.granted_memory(group)?);
        match self.version {
            Version::V1 => {
                count_what_is_below(group)?;
                // Where more is in use, the kernel refuses.
                write(&group.join("memory.limit_in_bytes"), limit)
            }
            // There it would kill until less is.
            Version::V2 => match memory_held(group)? {
                held if held > limit => {
                    let group = group.display();
                    Err(io::Error::other(format!("{group}: {held} bytes are in use already, more than {limit}")))
                }
                _ => write(&group.join("memory.max"), limit),
            },
        }
    }

    /// Bounds the number of processes and threads of all tasks together; nothing is done where there is no controller for it. What is there already
    /// stays, also if that is more.
    ///
    /// # Errors
    /// When it can't be bounded. The message names the file.
    pub fn limit_pids(&self, pids: u32) -> io::Result<()> {
        self.parents.get(&Controller::Pids).map_or(Ok(()), |group| write(&group.join("pids.max"), pids))
    }

    /// What the tasks below this group may have in all. One that has no limit yet is about to get one.
    fn granted_memory(&self, group: &Path) -> io::Result<u64> {
        let file = match self.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        };
        let limit = |name: String| fs::read_to_string(group.join(name).join(file)).ok()?.trim().parse::<u64>().ok();
        let limits = self.names()?.into_iter().filter_map(limit).filter(|bytes| *bytes < UNLIMITED_FROM);
        Ok(limits.fold(0, u64::saturating_add))
    }
}

/// What is in use in a group of version 2 and can't be taken back at once, as what stands in files as well can.
fn memory_held(group: &Path) -> io::Result<u64> {
    let read = |file: &str| {
        let path = group.join(file);
        fs::read_to_string(&path).map_err(|error| about(&path, &error))
    };
    let statistics = read("memory.stat")?;
    let sum =
        |keys: [&str; 2]| keys.iter().filter_map(|key| keyed_value(&statistics, key)).fold(0, u64::saturating_add);
    let files = sum(["active_file", "inactive_file"]).saturating_sub(sum(["file_dirty", "file_writeback"]));
    let all = read("memory.current")?.trim().parse::<u64>().map_err(io::Error::other)?;
    Ok(all.saturating_sub(files))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{collections::BTreeMap, path::PathBuf};

    use super::*;
    use crate::cgroup::Mounts;

    /// An agent's group on a fake tree of this version, in which nothing is in use, and where its files of memory are.
    fn agent_in(tree: &Path, version: Version) -> (AgentCgroup, PathBuf) {
        let mounts = match version {
            Version::V1 => {
                let mount = |controller: Controller| (controller, tree.join(controller.name()));
                Mounts::per_controller(BTreeMap::from(Controller::ALL.map(mount)))
            }
            Version::V2 => {
                fs::write(tree.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
                Mounts::unified(tree).unwrap()
            }
        };
        let agent = AgentCgroup::prepare(&mounts, "m1").0.unwrap();
        let group = agent.parents[&Controller::Memory].clone();
        fs::write(group.join("memory.current"), "0\n").unwrap();
        fs::write(group.join("memory.stat"), "anon 0\n").unwrap();
        (agent, group)
    }

    fn number(path: &Path) -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    // Each task stayed within its own limits, and all of them together took the last memory, or the last number of a process, from the rest of the
    // machine.
    #[test]
    fn what_all_tasks_take_together_is_bounded_above_them() {
        for (version, file) in [(Version::V1, "memory.limit_in_bytes"), (Version::V2, "memory.max")] {
            let tree = tempfile::tempdir().unwrap();
            let (agent, memory) = agent_in(tree.path(), version);
            // Before Linux 5.11 a group of version 1 did not answer for those below it, unless it was told to.
            fs::write(memory.join("memory.use_hierarchy"), "0\n").unwrap();
            agent.limit_memory(1 << 30).unwrap();
            agent.limit_pids(100).unwrap();
            assert_eq!(number(&memory.join(file)), Some(1 << 30));
            assert_eq!(number(&agent.parents[&Controller::Pids].join("pids.max")), Some(100));
            let answers = u64::from(version == Version::V1);
            assert_eq!(number(&memory.join("memory.use_hierarchy")), Some(answers));
        }
    }

    // With the first agent that offered less than all, tasks that had been granted the rest before would have come to a limit that was not theirs.
    #[test]
    fn tasks_keep_what_they_were_granted_before() {
        let unlimited =
            [(Version::V1, "memory.limit_in_bytes", "9223372036854771712\n"), (Version::V2, "memory.max", "max\n")];
        for (version, file, none) in unlimited {
            let tree = tempfile::tempdir().unwrap();
            let (agent, memory) = agent_in(tree.path(), version);
            for (task, limit) in [("1-1", "400\n"), ("2-1", "500\n"), ("3-1", none)] {
                fs::create_dir_all(memory.join(task)).unwrap();
                fs::write(memory.join(task).join(file), limit).unwrap();
            }
            for (offered, limit) in [(800, 900), (1000, 1000)] {
                agent.limit_memory(offered).unwrap();
                assert_eq!(number(&memory.join(file)), Some(limit));
            }
        }
    }

    // The kernel kills whoever it likes in a group of version 2 of which more is in use than it may have from now on.
    #[test]
    fn a_limit_below_what_is_in_use_is_not_written() {
        let tree = tempfile::tempdir().unwrap();
        let (agent, group) = agent_in(tree.path(), Version::V2);
        fs::write(group.join("memory.current"), "1000\n").unwrap();
        let statistics = "anon 700\nactive_file 100\ninactive_file 150\nfile_dirty 30\nfile_writeback 20\n";
        fs::write(group.join("memory.stat"), statistics).unwrap();
        let refused = agent.limit_memory(799).unwrap_err().to_string();
        assert!(refused.contains("plenum/m1: 800 bytes are in use already"), "{refused}");
        assert!(!group.join("memory.max").exists());
        agent.limit_memory(800).unwrap();
        assert_eq!(number(&group.join("memory.max")), Some(800));
    }
}
