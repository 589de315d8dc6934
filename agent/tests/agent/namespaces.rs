//! What a probe says of the namespaces that the kernel gives, and of those that it has none left of.

use std::process::{Command, Stdio};

use plenum_agent::{exec::ShimProgram, isolation::Isolation};

use crate::bench::{PROGRAM, is_root, shim};
use crate::skips::skipped;

/// Whether programs that know nothing of ours get all namespaces, and may mount in them what tasks need.
fn others_get_everything() -> bool {
    let mounts = "mount --bind /dev/null /dev/null && mount -t tmpfs tmpfs /dev && \
                  mount -t proc -o nosuid,nodev,noexec proc /proc";
    let mut attempt = Command::new("unshare");
    attempt.args(["--fork", "--pid", "--ipc", "--mount", "/bin/sh", "-c", mounts]);
    let attempt = attempt.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    attempt.is_ok_and(|status| status.success())
}

// The tests of what tasks see ask a probe whether they can be told here. One that found less than there is skipped them all, and tasks had less.
#[test]
fn root_separates_its_tasks_in_each_way_that_the_kernel_lets_anybody() {
    if !is_root() {
        return;
    }
    if !others_get_everything() {
        skipped("needs unshare, and a kernel that gives root namespaces and mounts");
        return;
    }
    let probed = shim().probe();
    let everything = Isolation { user: false, pid: true, mount: true, hidden: true, proc: true, ipc: true };
    assert_eq!(probed.isolation, everything, "{probed:?}");
}

/// Shims of a user namespace in which there may be so many pid namespaces.
fn with_pid_namespaces(count: u32) -> ShimProgram {
    let set = format!("echo {count} > /proc/sys/user/max_pid_namespaces && exec \"$@\"");
    let arguments = ["--user", "--map-root-user", "/bin/sh", "-c", &set, "sh", PROGRAM, "shim"];
    ShimProgram { program: "unshare".into(), arguments: arguments.map(Into::into).to_vec() }
}

// The agent took it for what this kernel gives, and asked no more: none of its tasks was separated from the others until its next start.
#[test]
fn what_there_is_none_left_of_may_be_had_later() {
    let most = with_pid_namespaces(100).probe();
    if !most.isolation.pid {
        skipped("needs user namespaces that are left");
        return;
    }
    assert_eq!(most.hindrance, None);
    let without = with_pid_namespaces(0).probe();
    assert!(!without.isolation.pid, "{without:?}");
    assert_eq!(without.hindrance.as_deref(), Some("No space left on device"));
}
