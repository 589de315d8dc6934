//! What a probe says of namespaces that the kernel has none left of.

use plenum_agent::exec::ShimProgram;

use crate::bench::PROGRAM;

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
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "LEFT OUT: namespaces that are used up: needs user namespaces");
        return;
    }
    assert_eq!(most.hindrance, None);
    let without = with_pid_namespaces(0).probe();
    assert!(!without.isolation.pid, "{without:?}");
    assert_eq!(without.hindrance.as_deref(), Some("No space left on device"));
}
