//! Limits that hold. Skipped, and said so, where the kernel gives no controllers.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use plenum_agent::{cgroup::Version, driver::FailureKind};
use plenum_model::AllocationId;

use crate::bench::{Bench, allocation_directory, limits_are_testable};
use crate::skips::skipped;

#[tokio::test]
async fn too_much_memory_ends_a_task_and_is_named() {
    if !limits_are_testable() {
        return;
    }
    let mut bench = Bench::isolated();
    let mut task = bench.shell("everything=$(head -c 200000000 /dev/zero | tr '\\0' x)");
    task.memory_bytes = 32 << 20;
    let exit = bench.run(task).await;
    assert!(exit.oom_kills > 0, "{exit:?}");
    assert_eq!(exit.to_string(), "out of memory: its limit is 32MiB (signal 9)");
    assert_eq!(exit.failure.unwrap().kind, FailureKind::OutOfMemory);
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_pids() {
    if !limits_are_testable() {
        return;
    }
    let mut bench = Bench::isolated();
    let mut task = bench.shell("i=0; while [ $i -lt 40 ]; do sleep 600 & i=$((i+1)); done; echo all");
    task.pids_max = 16;
    let allocation = task.allocation;
    let exit = bench.run(task).await;
    assert!(!exit.succeeded(), "{exit:?}");
    assert!(!bench.output(allocation).contains("all"));
}

// All tasks together had no limit: eight of these had all numbers of processes that the machine has.
#[tokio::test]
async fn fork_bombs_stay_together_within_what_all_tasks_may_have() {
    if !limits_are_testable() {
        return;
    }
    let mut bench = Bench::isolated();
    bench.cgroup.as_ref().unwrap().limit_pids(16).unwrap();
    let task = bench.shell("i=0; while [ $i -lt 40 ]; do sleep 600 & i=$((i+1)); done; echo all");
    assert!(task.pids_max > 40, "its own limit is none to it");
    let allocation = task.allocation;
    let exit = bench.run(task).await;
    assert!(!exit.succeeded(), "{exit:?}");
    assert!(!bench.output(allocation).contains("all"));
}

// The kernel killed the largest process of the machine, which may have been anybody's.
#[tokio::test]
async fn who_is_killed_as_all_tasks_take_too_much_memory_is_not_said_to_have_come_to_its_limit() {
    if !limits_are_testable() {
        return;
    }
    let mut bench = Bench::isolated();
    let cgroup = bench.cgroup.as_ref().unwrap();
    let swaps = std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1);
    if swaps && cgroup.version() == Version::V1 {
        skipped("a group of version 1 swaps before it comes to its limit of memory");
        return;
    }
    cgroup.limit_memory(32 << 20).unwrap();
    let mut task = bench.shell("everything=$(head -c 200000000 /dev/zero | tr '\\0' x)");
    task.memory_bytes = 1 << 30;
    let exit = bench.run(task).await;
    assert_eq!(exit.to_string(), "killed as the machine was out of memory (signal 9)");
    assert_eq!(exit.failure.unwrap().kind, FailureKind::OutOfMemory);
}

#[tokio::test]
async fn processor_time_is_throttled() {
    if !limits_are_testable() {
        return;
    }
    let mut bench = Bench::isolated();
    // 100 milli-cores during some 1.5 s are 150 ms. Unlimited it would use ten times as much, or, on a busy machine, at
    // least several times.
    let mut task = bench.shell("timeout 1.5 sh -c 'while :; do :; done'; cat /proc/self/stat > /dev/null; times");
    task.cpu_millis = 100;
    let allocation = task.allocation;
    bench.run(task).await;
    let output = bench.output(allocation);
    let children = output.lines().nth(1).unwrap_or_else(|| panic!("{output:?}"));
    let seconds_of = |time: &str| time.strip_prefix("0m").unwrap().trim_end_matches('s').parse::<f64>().unwrap();
    let seconds: f64 = children.split_ascii_whitespace().map(seconds_of).sum();
    assert!((0.03..0.45).contains(&seconds), "it ran, and was throttled: {output}");
}

// With groups of version 2 it tried nothing, and counted as skipped.
#[tokio::test]
async fn a_root_task_can_not_lift_its_own_limits() {
    if !limits_are_testable() {
        return;
    }
    let mut bench = Bench::isolated();
    let task = bench.shell(
        "tried=0; for file in $(find /sys/fs/cgroup -name pids.max '(' -path '*plenum*' -o -path /sys/fs/cgroup/pids.max ')'); do \
         tried=$((tried+1)); echo max > $file && echo lifted; done 2>&1; echo tried $tried; \
         mkdir /sys/fs/cgroup/x 2>/dev/null && echo made && rmdir /sys/fs/cgroup/x; \
         mount -t tmpfs t /mnt 2>/dev/null && echo mounted; true",
    );
    let allocation = task.allocation;
    assert!(bench.run(task).await.succeeded());
    let output = bench.output(allocation);
    assert!(output.contains("tried "), "{output}");
    assert!(["lifted", "made", "mounted"].iter().all(|done| !output.contains(done)), "{output}");
    let sees_no_limits = output.contains("tried 0\n");
    if bench.cgroup.as_ref().unwrap().version() == Version::V2 {
        assert!(sees_no_limits, "it sees another group than its own: {output}");
    } else if sees_no_limits {
        skipped("a task sees no limits of groups here");
    }
}

// An agent that was started with a limit on the size of files handed it on to its shims. One whose task had printed more was killed by it, and so was
// each further attempt.
#[tokio::test]
async fn a_task_that_prints_more_than_a_file_may_have_goes_on_and_what_it_printed_last_is_kept() {
    let mut bench = Bench::by(&["/bin/sh", "-c", "ulimit -f 16 && exec \"$@\"", "sh"]);
    let task = bench.shell(
        "head -c 40000 /dev/zero | tr '\\0' x; head -c 40000 /dev/zero > long; test $? -gt 128 && echo killed; exit 3",
    );
    let allocation = task.allocation;
    let exit = bench.run(task).await;
    assert_eq!(exit.to_string(), "exit code 3");
    let output = bench.output(allocation);
    assert!(output.ends_with("xkilled\n"), "{} bytes: the task itself is under the limit as ever", output.len());
}

/// What the agent wrote into the groups of a task, by the names of the files.
fn written_limits(bench: &Bench, allocation: AllocationId) -> BTreeMap<String, String> {
    let spec = allocation_directory(bench.directory.path(), allocation).join("spec.json");
    let spec: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(spec).unwrap()).unwrap();
    let groups = spec["cgroup"]["directories"].as_object().unwrap().values();
    let groups: Vec<PathBuf> = groups.map(|path| path.as_str().unwrap().into()).collect();
    let files = [
        "pids.max",
        "memory.max",
        "cpu.max",
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "cpu.cfs_quota_us",
    ];
    let read = |file: &str| groups.iter().find_map(|group| std::fs::read_to_string(group.join(file)).ok());
    files.iter().filter_map(|&file| Some((file.to_owned(), read(file)?))).collect()
}

// The group that a task is in is the root of its own namespace of control groups, and what it mounts there it may write. That one had its limits.
#[tokio::test]
async fn a_root_task_can_not_lift_its_own_limits_by_a_namespace_of_its_own() {
    if !limits_are_testable() {
        return;
    }
    let mut bench = Bench::isolated();
    let lift = "for group in pids memory cpu; do mkdir $group; mount -t cgroup -o $group none $group || mount -t cgroup2 none $group; done; \
         for file in pids/pids.max memory/memory.max cpu/cpu.max; do echo max > $file; done; \
         for file in memory/memory.memsw.limit_in_bytes memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us; do echo -1 > $file; done; \
         test -e pids/cgroup.procs && echo mounted; echo tried; exec sleep 100";
    let task = bench.shell(&format!(
        "unshare --user --keep-caps --mount --cgroup sh -c '{lift}' 2>/dev/null || echo tried; sleep 100"
    ));
    let allocation = task.allocation;
    bench.start(task);
    bench.started().await;
    let before = written_limits(&bench, allocation);
    while !bench.output(allocation).contains("tried") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = written_limits(&bench, allocation);
    bench.stop(allocation);
    bench.ended().await;
    assert_eq!(after, before);
    assert_eq!(before["pids.max"], "64\n");
    if !bench.output(allocation).contains("mounted") {
        skipped("a task can't mount its groups here");
    }
}

// No path was short enough to name the last of its groups. Its shim could not look into that one, and waited for ever; so did each later agent of
// the machine, before it registered.
#[tokio::test]
async fn a_task_that_nests_its_groups_ends_all_the_same() {
    if !limits_are_testable() {
        return;
    }
    let mut bench = Bench::isolated();
    let name = "x".repeat(200);
    let task = bench.shell(&format!(
        "mkdir groups; unshare --user --keep-caps --mount --cgroup sh -c '(mount -t cgroup -o pids none groups || mount -t cgroup2 none groups) && \
         cd groups && i=0; while [ $i -lt 30 ]; do mkdir {name} && cd -P {name} || break; i=$((i+1)); done; echo $i' 2>&1"
    ));
    let allocation = task.allocation;
    bench.start(task);
    let ended = tokio::time::timeout(Duration::from_secs(20), bench.ended()).await;
    assert!(ended.is_ok(), "it did not end; nested: {}", bench.output(allocation));
    if bench.output(allocation) != "30\n" {
        skipped(&format!("a task can't nest groups here: {}", bench.output(allocation)));
    }
}
