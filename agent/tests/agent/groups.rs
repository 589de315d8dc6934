//! What a task can do with control groups of version 2: on a mount of them that only a shim and its task see, also where the machine's controllers
//! are those of version 1.

use std::{fs, process::Command};

use plenum_agent::{driver::Exit, logs};

use crate::{
    bench::{PROGRAM, allocation, allocation_directory, is_isolated, is_root, shim, task, unique_machine_name},
    skips::skipped,
};

/// Runs the last words, among groups of its own below the mount.
const AMONG_GROUPS: &str = "mount -t cgroup2 none \"$0\" && mkdir -p \"$0/$1/m1\" || exit 9; parent=$0/$1; shift; \
                            \"$@\"; code=$?; rmdir \"$parent/m1\" \"$parent\"; exit $code";

// The tree of groups was read-only to it. But no kernel asks for that where a process is started in another group, and with one at the root of
// the tree it left its own with all limits.
#[test]
fn a_root_task_starts_no_process_outside_of_its_group() {
    if !is_root() || !is_isolated("mounts of their own", |isolation| isolation.mount) {
        return;
    }
    let (place, parent) = (tempfile::tempdir().unwrap(), unique_machine_name());
    let (groups, agent) = (place.path().join("groups"), place.path().join("agent"));
    fs::create_dir(&groups).unwrap();
    let mut task = task(1, &[PROGRAM, "into", groups.to_str().unwrap()]);
    // Then no controller is needed.
    task.cpu_millis = 0;
    let spec = serde_json::json!({
        "task": task,
        "boot_id": plenum_agent::process::boot_id(),
        "job_directory": agent.join("jobs/job-9-1-v1"),
        "cgroup": { "version": "V2", "directories": { "cpu": groups.join(&parent).join("m1/alloc-1-1") } },
        "isolation": shim().probe().isolation,
        "log_file_bytes_max": 1 << 16,
    });
    let directory = allocation_directory(&agent, allocation(1));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("spec.json"), spec.to_string()).unwrap();

    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", AMONG_GROUPS]).arg(&groups).args([parent.as_str(), PROGRAM, "shim"]);
    let ended = command.arg(&directory).output();
    if !matches!(&ended, Ok(output) if output.status.code() != Some(9)) {
        skipped("needs unshare, and control groups of version 2");
        return;
    }
    let exit = fs::read_to_string(directory.join("exit-0")).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let exit: Exit = serde_json::from_str(&exit).unwrap();
    assert!(exit.succeeded(), "{exit}");
    let told = String::from_utf8(logs::read_tail(&directory, "stdout", 0).unwrap().0).unwrap();
    let group = told.lines().find_map(|line| line.strip_prefix("0::"));
    // Not in the one above, either: there its limits are written, which it could reach from a namespace of its own.
    assert_eq!(group, Some(&*format!("/{parent}/m1/alloc-1-1/command")), "{told}");
}
