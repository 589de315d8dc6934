//! What is mounted and unmounted under tasks that run.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use plenum_agent::{
    cgroup::{AgentCgroup, Mounts},
    driver::DriverEvent,
};

use crate::{
    bench::{PROGRAM, content_of, shim, task, unique_machine_name},
    crash::Agent,
    skips::skipped,
};

/// An agent among mounts that only it and its tasks see, as on a machine where mounts are told to others: with a disk of this size at `place`.
/// `None` where that can't be had.
fn agent_with_a_disk(directory: &Path, machine: &str, (place, size): (&str, &str)) -> Option<Agent> {
    let mount = format!("mount -t tmpfs -o size={size} disk \"$0\"/{place} && \"$@\"");
    let within = |command: &mut Command| {
        command.args(["--mount", "--propagation", "shared", "/bin/sh", "-c", &mount]).arg(directory);
    };
    let mut attempt = Command::new("unshare");
    within(&mut attempt);
    let attempt = attempt.arg("nsenter").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !attempt.is_ok_and(|status| status.success()) || !shim().probe().isolation.mount {
        skipped("mounts under tasks need root, unshare and nsenter");
        return None;
    }
    let mut command = Command::new("unshare");
    within(&mut command);
    command.args(["exec", PROGRAM, "drive"]).arg(directory.join("agent")).arg(machine);
    Some(Agent::start_by(&mut command))
}

// A disk that was unmounted under a machine's tasks stayed with each of them: it could not be checked, or formatted, and nothing said who had
// it. What was mounted anew, they did not see.
#[test]
fn what_is_mounted_and_unmounted_under_a_task_is_so_for_the_task() {
    let directory = tempfile::tempdir().unwrap();
    for place in ["before", "after", "agent"] {
        fs::create_dir(directory.path().join(place)).unwrap();
    }
    let machine = unique_machine_name();
    let Some(mut agent) = agent_with_a_disk(directory.path(), &machine, ("before", "1m")) else { return };
    let script = "until test -e $PLENUM_JOB_DIR/go; do sleep 0.02; done; \
                  while read -r _ _ _ _ place rest; do case $rest in *'- tmpfs disk '*) echo ${place##*/};; esac; \
                  done < /proc/self/mountinfo > $PLENUM_JOB_DIR/seen; echo end >> $PLENUM_JOB_DIR/seen";
    agent.run(&task(1, &["/bin/sh", "-c", script]));
    assert!(matches!(agent.event(), DriverEvent::Started { .. }));
    let there = format!("--mount=/proc/{}/ns/mnt", agent.process.id());
    let change = |words: &[&str], place: &str| {
        let changed = Command::new("nsenter").arg(&there).args(words).arg(directory.path().join(place)).status();
        assert!(changed.unwrap().success());
    };
    change(&["umount"], "before");
    change(&["mount", "-t", "tmpfs", "disk"], "after");
    let shared = directory.path().join("agent/jobs/job-9-1-v1");
    fs::write(shared.join("go"), "").unwrap();
    assert!(agent.exit().succeeded());
    assert_eq!(content_of(&shared.join("seen")), "after\nend\n");
    change(&["umount"], "after");
    agent.kill();
    if let Some(cgroup) = Mounts::detect().and_then(|mounts| AgentCgroup::prepare(&mounts, &machine).0) {
        cgroup.remove();
    }
}

// A task filled the disk, and the ends of all that ended on that machine could not be written down: after a minute in which they ran on as far as
// anybody could see, they had failed, whatever their exit codes were, and were run again.
#[test]
fn the_end_of_a_task_is_written_down_on_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("agent")).unwrap();
    let machine = unique_machine_name();
    let Some(mut agent) = agent_with_a_disk(directory.path(), &machine, ("agent", "1m")) else { return };
    agent.run(&task(1, &["/bin/sh", "-c", "cat /dev/zero > all; echo no room; exit 7"]));
    let begun = Instant::now();
    assert_eq!(agent.exit().to_string(), "exit code 7");
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for room");
    agent.kill();
    if let Some(cgroup) = Mounts::detect().and_then(|mounts| AgentCgroup::prepare(&mounts, &machine).0) {
        cgroup.remove();
    }
}
