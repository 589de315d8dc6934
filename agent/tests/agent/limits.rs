//! Limits that hold. Left out, and said so, where the kernel gives no controllers.

use std::{io::Write, time::Duration};

use plenum_agent::driver::FailureKind;

use crate::bench::{Bench, limits_are_testable};

#[tokio::test]
async fn too_much_memory_ends_a_task_and_is_named() {
    if !limits_are_testable("too_much_memory_ends_a_task_and_is_named") {
        return;
    }
    let mut bench = Bench::isolated();
    let mut task = bench.shell("everything=$(head -c 200000000 /dev/zero | tr '\\0' x)");
    task.memory_bytes = 32 << 20;
    let exit = bench.run(task).await;
    assert!(exit.oom_kills > 0, "{exit:?}");
    assert_eq!(exit.to_string(), "out of memory: its limit is 33554432 bytes (signal 9)");
    assert_eq!(exit.failure.unwrap().kind, FailureKind::OutOfMemory);
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_pids() {
    if !limits_are_testable("a_fork_bomb_stays_within_its_pids") {
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

#[tokio::test]
async fn processor_time_is_throttled() {
    if !limits_are_testable("processor_time_is_throttled") {
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
    let children = output.lines().nth(1).unwrap_or_else(|| panic!("{output:?}")).split(' ').next().unwrap().to_owned();
    let seconds: f64 = children.trim_start_matches("0m").trim_end_matches('s').parse().unwrap();
    assert!(children.starts_with("0m") && seconds < 0.45, "{output}");
}

#[tokio::test]
async fn a_root_task_can_not_lift_its_own_limits() {
    if !limits_are_testable("a_root_task_can_not_lift_its_own_limits") {
        return;
    }
    let mut bench = Bench::isolated();
    let task = bench.shell(
        "for file in $(find /sys/fs/cgroup -name pids.max -path '*plenum*'); do echo max > $file && echo lifted; done 2>&1; \
         mount -t tmpfs t /mnt 2>/dev/null && echo mounted; true",
    );
    let allocation = task.allocation;
    assert!(bench.run(task).await.succeeded());
    let output = bench.output(allocation);
    assert!(!output.contains("lifted") && !output.contains("mounted"), "{output}");
}

// No path was short enough to name the last of its groups. Its shim could not look into that one, and waited for ever; so did each later agent of
// the machine, before it registered.
#[tokio::test]
async fn a_task_that_nests_its_groups_ends_all_the_same() {
    if !limits_are_testable("a_task_that_nests_its_groups_ends_all_the_same") {
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
        let _ = writeln!(std::io::stderr(), "LEFT OUT: a task can't nest groups here: {}", bench.output(allocation));
    }
}
