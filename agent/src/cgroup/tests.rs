//! What is written where, on fake trees of both versions. The real kernel's answer is tested with the exec driver.

#![allow(clippy::unwrap_used)]

use super::*;

const LIMITS: Limits = Limits { cpu_millis: 1500, memory_bytes: 64 << 20, pids: 32 };

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn version_one_gets_a_directory_and_limits_in_each_hierarchy() {
    let tree = tempfile::tempdir().unwrap();
    let mount = |name: &str| tree.path().join(name);
    let mounts = Mounts::per_controller(
        Controller::ALL.into_iter().map(|controller| (controller, mount(controller.name()))).collect(),
    );
    let (agent, missing) = AgentCgroup::prepare(&mounts, "m1");
    let agent = agent.unwrap();
    assert_eq!(missing, [""; 0]);
    let task = agent.task("7-1");
    task.create(&LIMITS).unwrap();
    assert_eq!(read(&mount("cpu").join("plenum/m1/7-1/cpu.cfs_quota_us")), "150000");
    assert_eq!(read(&mount("cpu").join("plenum/m1/7-1/cpu.cfs_period_us")), "100000");
    assert_eq!(read(&mount("memory").join("plenum/m1/7-1/memory.limit_in_bytes")), "67108864");
    assert_eq!(read(&mount("pids").join("plenum/m1/7-1/pids.max")), "32");
    assert_eq!(task.in_unified_hierarchy(), None);
    assert!(!mount("memory").join("plenum/m1/7-1/memory.memsw.limit_in_bytes").exists(), "swap isn't counted here");
    assert_eq!(agent.names().unwrap(), ["7-1"]);

    let memory = mount("memory").join("plenum/m1/7-1");
    fs::write(memory.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap();
    assert_eq!(task.oom_kills(), 3);
    fs::write(memory.join("command/memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n").unwrap();
    assert_eq!(task.oom_kills(), 7, "each group counts its own");
    agent.task("8-1").create(&LIMITS).unwrap();
    assert_eq!(agent.oom_kills(), BTreeMap::from([("7-1".to_owned(), 7)]), "of the other one none was killed");
}

// Before Linux 5.11 a group did not answer for those below it unless it was told to: the memory of a command below it had no limit.
#[test]
fn a_version_one_group_answers_for_the_memory_of_its_command() {
    let tree = tempfile::tempdir().unwrap();
    let mounts = Mounts::per_controller(BTreeMap::from([(Controller::Memory, tree.path().join("memory"))]));
    let agent = AgentCgroup::prepare(&mounts, "m1").0.unwrap();
    let directory = tree.path().join("memory/plenum/m1/1-0");
    fs::create_dir(&directory).unwrap();
    for (before, after) in [("0\n", "1"), ("1\n", "1\n")] {
        fs::write(directory.join("memory.use_hierarchy"), before).unwrap();
        agent.task("1-0").create(&LIMITS).unwrap();
        assert_eq!(read(&directory.join("memory.use_hierarchy")), after);
    }
}

// What stands at the root of a task's namespace of control groups it can write. Those were its limits.
#[test]
fn a_command_enters_a_group_below_its_limits() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    let agent = AgentCgroup::prepare(&Mounts::unified(tree.path()).unwrap(), "m1").0.unwrap();
    let task = agent.task("1-0");
    task.create(&LIMITS).unwrap();
    let directory = tree.path().join("plenum/m1/1-0");
    let refused = task.open_entries().unwrap_err().to_string();
    assert!(refused.contains("plenum/m1/1-0/command/cgroup.procs"), "{refused}");
    let inside: Vec<_> = fs::read_dir(directory.join("command")).unwrap().collect();
    assert!(inside.is_empty(), "no limit is written there, and no controller handed down: {inside:?}");
    assert!(!directory.join("cgroup.subtree_control").exists());
}

#[test]
fn version_two_hands_controllers_down_and_writes_one_directory() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
    let mounts = Mounts::unified(tree.path()).unwrap();
    let (agent, missing) = AgentCgroup::prepare(&mounts, "m1");
    assert_eq!(missing, [""; 0]);
    let task = agent.unwrap().task("7-1");
    let directory = tree.path().join("plenum/m1/7-1");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("memory.swap.max"), "max").unwrap();
    fs::write(directory.join("memory.oom.group"), "0").unwrap();
    task.create(&LIMITS).unwrap();
    assert!(read(&tree.path().join("plenum/m1/cgroup.subtree_control")).starts_with('+'));
    assert_eq!(read(&directory.join("cpu.max")), "150000 100000");
    assert_eq!(read(&directory.join("memory.max")), "67108864");
    assert_eq!(read(&directory.join("memory.swap.max")), "0");
    assert_eq!(read(&directory.join("memory.oom.group")), "1");
    assert_eq!(read(&directory.join("pids.max")), "32");
    assert_eq!(task.in_unified_hierarchy(), Some((directory.join("command"), tree.path().to_owned())));
    fs::write(directory.join("memory.events"), "low 0\noom 2\noom_kill 2\noom_group_kill 1\n").unwrap();
    assert_eq!(task.oom_kills(), 2);
}

// The kernel counts what it killed in a group, also where the whole machine was out of memory: tasks were said to have
// come to their limit that were far from it.
#[test]
fn a_group_tells_whether_it_came_to_its_own_limit_of_memory() {
    let tree = tempfile::tempdir().unwrap();
    let mounts = Mounts::per_controller(BTreeMap::from([(Controller::Memory, tree.path().join("memory"))]));
    let task = AgentCgroup::prepare(&mounts, "m1").0.unwrap().task("1-0");
    task.create(&LIMITS).unwrap();
    assert!(!task.has_reached_memory_limit());
    let directory = tree.path().join("memory/plenum/m1/1-0");
    fs::write(directory.join("memory.limit_in_bytes"), "33554432\n").unwrap();
    for (most, has_reached) in [("33550336\n", false), ("33554432\n", true)] {
        fs::write(directory.join("memory.max_usage_in_bytes"), most).unwrap();
        assert_eq!(task.has_reached_memory_limit(), has_reached, "{most}");
    }

    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    let task = AgentCgroup::prepare(&Mounts::unified(tree.path()).unwrap(), "m1").0.unwrap().task("1-0");
    task.create(&LIMITS).unwrap();
    assert!(!task.has_reached_memory_limit());
    let events = tree.path().join("plenum/m1/1-0/memory.events");
    for (text, has_reached) in [("max 7\noom 0\noom_kill 1\n", false), ("max 7\noom 1\noom_kill 1\n", true)] {
        fs::write(&events, text).unwrap();
        assert_eq!((task.oom_kills(), task.has_reached_memory_limit()), (1, has_reached), "{text}");
    }
}

// A group whose processes could not be listed, as without a descriptor left, counted as empty: the cell was told that nothing was left of
// a task that ran on.
#[test]
fn a_group_that_can_not_be_looked_at_is_not_empty() {
    let tree = tempfile::tempdir().unwrap();
    let mounts = Mounts::per_controller(BTreeMap::from([(Controller::Cpu, tree.path().join("cpu"))]));
    let agent = AgentCgroup::prepare(&mounts, "m1").0.unwrap();
    let task = agent.task("1-0");
    assert!(task.is_empty().unwrap(), "there is none");
    task.create(&LIMITS).unwrap();
    // A directory can't be read as a file.
    let unreadable = tree.path().join("cpu/plenum/m1/1-0/below/cgroup.procs");
    fs::create_dir_all(&unreadable).unwrap();
    let message = task.is_empty().unwrap_err().to_string();
    assert!(message.contains("plenum/m1/1-0"), "{message}");
    assert!(task.kill_until_empty(std::time::Duration::from_millis(10)).is_err());
    fs::remove_dir(&unreadable).unwrap();
    assert!(task.is_empty().unwrap());
}

#[test]
fn a_hierarchy_without_our_controllers_is_none() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("cgroup.controllers"), "hugetlb\n").unwrap();
    assert_eq!(Mounts::unified(tree.path()), None);
}

#[test]
fn what_is_missing_is_named() {
    let tree = tempfile::tempdir().unwrap();
    let file = tree.path().join("a-file-in-the-way");
    fs::write(&file, "").unwrap();
    let mounts = Mounts::per_controller(BTreeMap::from([
        (Controller::Cpu, tree.path().join("cpu")),
        (Controller::Memory, file),
    ]));
    let (agent, missing) = AgentCgroup::prepare(&mounts, "m1");
    assert!(agent.is_some());
    assert_eq!(missing.len(), 2);
    assert!(missing[0].starts_with("memory limits (") && missing[0].contains("a-file-in-the-way"), "{missing:?}");
    assert_eq!(missing[1], "pids limits (the kernel doesn't offer it here)");
}

#[test]
fn tiny_claims_are_lifted_to_what_the_kernel_takes_and_zero_is_no_limit() {
    let tree = tempfile::tempdir().unwrap();
    let mounts = Mounts::per_controller(BTreeMap::from([(Controller::Cpu, tree.path().join("cpu"))]));
    let agent = AgentCgroup::prepare(&mounts, "m1").0.unwrap();
    agent.task("1-0").create(&Limits { cpu_millis: 1, ..LIMITS }).unwrap();
    assert_eq!(read(&tree.path().join("cpu/plenum/m1/1-0/cpu.cfs_quota_us")), "1000");
    agent.task("2-0").create(&Limits::default()).unwrap();
    assert!(!tree.path().join("cpu/plenum/m1/2-0/cpu.cfs_quota_us").exists());
}

// Killing keeps a group from forking. A task without a limit of processes, whose earlier start had been killed there and left its group, could
// not be started again.
#[test]
fn a_group_that_was_killed_may_fork_when_it_is_used_again() {
    let tree = tempfile::tempdir().unwrap();
    let mounts = Mounts::per_controller(BTreeMap::from([(Controller::Pids, tree.path().join("pids"))]));
    let agent = AgentCgroup::prepare(&mounts, "m1").0.unwrap();
    let (task, file) = (agent.task("1-0"), tree.path().join("pids/plenum/m1/1-0/pids.max"));
    for (pids, written) in [(0, "max"), (32, "32"), (0, "max")] {
        task.create(&Limits { pids, ..LIMITS }).unwrap();
        assert_eq!(read(&file), written);
        task.kill();
        assert_eq!(read(&file), "0");
    }
}
