//! Single tasks: how they start, end, and what they see.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use plenum_agent::driver::{DriverEvent, FailureKind, Found, TaskSpec};
use plenum_model::AllocationId;

use crate::bench::{Bench, PROGRAM, allocation_directory, content_of, is_alive, is_isolated, is_root};
use crate::skips::skipped;

#[tokio::test]
async fn exit_codes_and_signals_come_back() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let success = bench.task(&["true"]);
        let exit = bench.run(success).await;
        assert!(exit.succeeded() && exit.started_unix_ms.is_some(), "{exit:?}");
        let failing = bench.shell("exit 7");
        assert_eq!(bench.run(failing).await.to_string(), "exit code 7");
        let killed = bench.shell("kill -9 $$");
        assert_eq!(bench.run(killed).await.to_string(), "signal 9");
    }
}

// The kernel told of the end, and what reads it for us knew no such signal. The task was gone, and ran on for ever as far as anybody could see: no
// stop ended it. Where an orphan ended so, whatever else was left of a task was not killed.
#[tokio::test]
async fn a_task_that_a_real_time_signal_ends_has_ended() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let killed = bench.shell("kill -40 $$");
        assert_eq!(bench.run(killed).await.to_string(), "signal 40");
        let left = bench.shell("setsid sh -c 'sleep 0.3; kill -40 $$' & sleep 0.6; exit 3");
        assert_eq!(bench.run(left).await.to_string(), "exit code 3");
    }
}

#[tokio::test]
async fn a_command_that_is_not_there_is_named() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let absent = bench.task(&["/bin/nope", "x"]);
        let exit = bench.run(absent).await;
        assert_eq!(exit.to_string(), "command not found: /bin/nope");
        let failure = exit.failure.unwrap();
        assert_eq!((failure.kind, exit.code, exit.started_unix_ms), (FailureKind::CommandNotFound, None, None));

        let absent = bench.task(&["no-such-program"]);
        let exit = bench.run(absent).await;
        assert!(
            exit.to_string().starts_with("command not found: no-such-program (looked in /usr/local/sbin:"),
            "{exit}"
        );
    }
}

// Its name stood in what its shim read of a bounded length, could not read then, and took for a machine that can't set tasks up.
#[tokio::test]
async fn a_command_that_is_not_there_is_not_the_machines_fault_however_long_its_name_is() {
    let mut bench = Bench::bare();
    let task = bench.task(&[&"\"".repeat(40_000)]);
    let failure = bench.run(task).await.failure.unwrap();
    assert_eq!(failure.kind, FailureKind::CommandNotFound, "{}", failure.message);
}

// The kernel says of such a program what it says of a disk that fails. The machine was taken for one that can't set tasks up.
#[tokio::test]
async fn a_program_that_ends_too_early_is_not_the_machines_fault() {
    let mut bench = Bench::bare();
    let program = bench.directory.path().join("program");
    std::fs::write(&program, that_ends_too_early()).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let task = bench.task(&[program.to_str().unwrap()]);
    let exit = bench.run(task).await;
    assert!(
        exit.to_string().starts_with(&format!("can't execute {}: not a whole program", program.display())),
        "{exit}"
    );
    assert_eq!(exit.failure.unwrap().kind, FailureKind::NotExecutable);
}

#[tokio::test]
async fn what_can_not_be_executed_says_why() {
    let mut bench = Bench::bare();
    let plain_file = bench.task(&["/etc/passwd"]);
    let exit = bench.run(plain_file).await;
    assert!(exit.to_string().starts_with("can't execute /etc/passwd: permission denied"), "{exit}");
    let script = bench.directory.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let broken = bench.task(&[script.to_str().unwrap()]);
    let exit = bench.run(broken).await;
    assert!(exit.to_string().ends_with("the interpreter or loader that it names was not found"), "{exit}");
    assert_eq!(exit.failure.unwrap().kind, FailureKind::NotExecutable);
    let empty = bench.task(&[]);
    assert_eq!(bench.run(empty).await.to_string(), "the command is empty: expected a program");
}

/// A program of this machine's kind, that ends before what its header says of its loader: executing it, the kernel reads what is not there.
fn that_ends_too_early() -> Vec<u8> {
    let mut program = std::fs::read("/proc/self/exe").unwrap();
    program.resize(64 + 56, 0);
    // Of its own headers it has one, right behind: PT_INTERP, of 32 bytes far away.
    program[32..40].copy_from_slice(&64_u64.to_ne_bytes());
    program[56..58].copy_from_slice(&1_u16.to_ne_bytes());
    let mut interpreter = [0; 56];
    interpreter[..4].copy_from_slice(&3_u32.to_ne_bytes());
    interpreter[8..16].copy_from_slice(&(1_u64 << 20).to_ne_bytes());
    interpreter[32..40].copy_from_slice(&32_u64.to_ne_bytes());
    program[64..].copy_from_slice(&interpreter);
    program
}

#[tokio::test]
async fn a_task_sees_only_the_environment_that_it_was_given() {
    let mut bench = Bench::isolated();
    let task = bench.task(&["env"]);
    let allocation = task.allocation;
    assert!(bench.run(task).await.succeeded());
    let output = bench.output(allocation);
    let mut names: Vec<&str> = output.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    assert_eq!(names, ["PATH", "PLENUM_JOB", "PLENUM_JOB_DIR", "PLENUM_TASK_DIR"]);
}

#[tokio::test]
async fn tasks_of_a_job_share_its_directory_and_each_has_one_of_its_own() {
    let mut bench = Bench::isolated();
    let writer = bench.shell("echo shared > $PLENUM_JOB_DIR/note; echo mine > note; test $PWD = $PLENUM_TASK_DIR");
    assert!(bench.run(writer).await.succeeded());
    let reader = bench.shell("cat $PLENUM_JOB_DIR/note; test ! -e note");
    let allocation = reader.allocation;
    assert!(bench.run(reader).await.succeeded());
    assert_eq!(bench.output(allocation), "shared\n");
}

#[tokio::test]
async fn a_stopped_task_may_end_by_itself() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let task = bench.shell("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
        let allocation = until_ready(&mut bench, task).await;
        bench.stop(allocation);
        let exit = bench.ended().await;
        assert_eq!((exit.code, exit.stop_requested, exit.overstayed_ms), (Some(3), true, None));
        assert_eq!(bench.output(allocation), "ready\nbye\n");
    }
}

#[tokio::test]
async fn a_task_that_does_not_end_is_killed_after_its_timeout() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let mut task = bench.shell("trap '' TERM; echo ready; while :; do sleep 0.05; done");
        task.kill_timeout_ms = 300;
        let allocation = until_ready(&mut bench, task).await;
        let asked = Instant::now();
        bench.stop(allocation);
        let exit = bench.ended().await;
        assert_eq!((exit.signal, exit.stop_requested), (Some(9), true));
        assert_eq!(exit.to_string(), "signal 9: did not end within its kill_timeout (300ms)");
        assert!(asked.elapsed() >= Duration::from_millis(300));
    }
}

// A shell that obeyed took with it, in the same moment, whoever it had started: a server that was told to end, and was saving what it had.
#[tokio::test]
async fn who_was_asked_with_its_command_has_the_time_to_end_too() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let mut task = bench.shell(
            "sh -c 'trap \"sleep 0.3; echo saved; exit 0\" TERM; echo ready; while :; do sleep 0.05; done'; echo never",
        );
        task.kill_timeout_ms = 50_000;
        let allocation = until_ready(&mut bench, task).await;
        bench.stop(allocation);
        let exit = bench.ended().await;
        assert_eq!((exit.signal, exit.stop_requested), (Some(15), true));
        assert_eq!(bench.output(allocation), "ready\nsaved\n");
    }
}

#[tokio::test]
async fn who_was_asked_with_its_command_and_does_not_end_is_killed_after_the_timeout() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let mut task = bench.shell("sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.05; done'; echo never");
        task.kill_timeout_ms = 300;
        let allocation = until_ready(&mut bench, task).await;
        let asked = Instant::now();
        bench.stop(allocation);
        let exit = bench.ended().await;
        assert_eq!((exit.signal, exit.stop_requested), (Some(15), true), "that of the command");
        assert_eq!(exit.overstayed_ms, Some(300));
        assert!(asked.elapsed() >= Duration::from_millis(300));
    }
}

// Nobody told it to end: it would keep its task's room for the whole time.
#[tokio::test]
async fn who_left_the_group_of_its_command_is_not_waited_for() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let mut task = bench.shell("setsid sh -c 'echo ready; exec sleep 600' & sleep 601; echo never");
        task.kill_timeout_ms = 600_000;
        let allocation = until_ready(&mut bench, task).await;
        bench.stop(allocation);
        assert_eq!(bench.ended().await.signal, Some(15));
    }
}

// Its end is told to a parent that has left the group and lives on: the task would keep its room for the whole time.
#[tokio::test]
async fn the_end_of_who_was_asked_is_seen_also_where_its_parent_has_left_the_group() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        // The inner one is asked with its command, and ends when that is gone. Its parent, who has left, says when.
        let mut task = bench.shell(
            r#"( (trap "until test -e gone; do sleep 0.05; done; exit 0" TERM; : > trapped; while :; do sleep 0.05; done) &
            exec setsid sh -c "until test -e trapped; do sleep 0.05; done; echo ready
                while kill -0 $$ 2> /dev/null; do sleep 0.05; done; : > gone; while :; do sleep 0.05; done") &
            sleep 601; echo never"#,
        );
        task.kill_timeout_ms = 600_000;
        let allocation = until_ready(&mut bench, task).await;
        bench.stop(allocation);
        let exit = bench.ended().await;
        assert_eq!((exit.signal, exit.stop_requested), (Some(15), true));
        let directory = allocation_directory(bench.directory.path(), allocation);
        assert!(directory.join("task/gone").exists(), "it was waited for");
    }
}

// The kernel keeps one of each signal: where the task's own comes first, that is all that its first process hears of the stop.
#[tokio::test]
async fn a_stop_that_meets_a_signal_of_the_task_itself_ends_it() {
    let mut bench = Bench::isolated();
    if !is_isolated("processes of their own", |isolation| isolation.pid) {
        return;
    }
    let mut task = bench.shell(
        "test $$ = 2 || exit 9; echo ready; until test -e go; do sleep 0.05; done; kill -TERM 1; echo sent; sleep 600; echo never",
    );
    task.kill_timeout_ms = 600_000;
    let allocation = until_ready(&mut bench, task).await;
    let directory = allocation_directory(bench.directory.path(), allocation);
    let shim = shim_of(&directory);
    let first = child_of(shim);
    let send = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), signal).unwrap();
    send(nix::sys::signal::Signal::SIGSTOP);
    until(|| state_and_parent(first).is_some_and(|(state, _)| state == 'T')).await;
    std::fs::write(directory.join("task/go"), "").unwrap();
    wait_for_output(&bench, allocation, "ready\nsent\n").await;
    let waits = || state_and_parent(shim).is_some_and(|(state, _)| state == 'S');
    until(waits).await;
    let before = waits_begun(shim);
    bench.stop(allocation);
    // It has handed that on, and waits again.
    until(|| waits_begun(shim) > before && waits()).await;
    send(nix::sys::signal::Signal::SIGCONT);
    let exit = bench.ended().await;
    assert_eq!((exit.signal, exit.stop_requested), (Some(15), true));
}

// No agent asked for it, so that no shim bounds it.
#[tokio::test]
async fn a_task_that_asks_itself_to_end_leaves_nobody_behind() {
    let mut bench = Bench::isolated();
    if !is_isolated("processes of their own", |isolation| isolation.pid) {
        return;
    }
    // Not to the first process of the machine, should that be the one that it sees.
    let task = bench.shell(
        "test $$ = 2 || exit 9; sh -c 'trap \"\" TERM; kill -TERM 1; while :; do sleep 0.05; done' & sleep 600; echo never",
    );
    let exit = bench.run(task).await;
    assert_eq!((exit.code, exit.signal, exit.stop_requested), (None, Some(15), false));
}

// In groups of version 1 nothing of a task may fork any more before all of it is killed. A shell that was about to do so said that it can't and ended by
// itself, with an exit code that told of no kill.
#[tokio::test]
async fn a_task_that_is_killed_while_it_forks_tells_of_the_kill() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        for _ in 0..8 {
            let mut task = bench.shell("trap '' TERM; echo ready; while :; do (:); done");
            task.kill_timeout_ms = 20;
            let allocation = task.allocation;
            bench.start(task);
            bench.started().await;
            wait_for_output(&bench, allocation, "ready\n").await;
            bench.stop(allocation);
            let told = bench.ended().await.to_string();
            assert!(told.starts_with("signal 9"), "{told}");
        }
    }
}

#[tokio::test]
async fn plain_programs_end_at_once_when_stopped() {
    let mut bench = Bench::isolated();
    let task = bench.task(&["sleep", "600"]);
    let allocation = task.allocation;
    bench.start(task);
    bench.started().await;
    bench.stop(allocation);
    assert_eq!(bench.ended().await.signal, Some(15));
}

// Where a hundred tasks were stopped as soon as they had been started, some shims were told so before they could heed it, and were gone. Their
// tasks counted as such that can't be set up: three of them, and the machine took none for half a minute.
#[tokio::test]
async fn a_stop_that_comes_before_its_shim_can_heed_it_waits_for_that() {
    let mut bench = Bench::by(&[PROGRAM, "late"]);
    let task = bench.task(&["sleep", "600"]);
    let allocation = task.allocation;
    bench.start(task);
    let written = allocation_directory(bench.directory.path(), allocation).join("spec.json");
    while !written.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.stop(allocation);
    let exit = bench.ended().await;
    assert_eq!((exit.signal, exit.stop_requested, exit.failure), (Some(15), true, None));
}

#[tokio::test]
async fn what_a_task_left_behind_dies_with_it() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let task =
            bench.shell("setsid sleep 600 & trap '' TERM HUP; setsid setsid sh -c 'sleep 601' & sleep 0.2; exit 0");
        let mark = format!("{}/allocs", bench.directory.path().display());
        assert!(bench.run(task).await.succeeded());
        let left: Vec<_> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("environ")).ok())
            .filter(|environment| environment.contains(&mark))
            .collect();
        assert_eq!(left, [""; 0]);
    }
}

// The kernel cuts names after 15 bytes, here within a letter. Nobody found such a process, and the task never ended.
#[tokio::test]
async fn what_a_task_left_behind_dies_with_it_whatever_its_name_is() {
    let mut bench = Bench::bare();
    let script =
        r"printf '#!/bin/sh\nsleep 600\n:\n' > ééééééééx && chmod +x ééééééééx && ./ééééééééx & sleep 0.5; exit 0";
    let task = bench.shell(script);
    bench.start(task);
    let exit = tokio::time::timeout(Duration::from_secs(20), bench.ended()).await;
    assert!(exit.is_ok_and(|exit| exit.succeeded()), "the end of a task whose command ended long ago");
}

#[tokio::test]
async fn a_task_dies_with_its_shim_and_counts_as_lost() {
    for mut bench in [Bench::isolated(), Bench::bare()] {
        let task = bench.shell("sleep 600 & sleep 601");
        let directory = bench.directory.path().join("allocs").join(task.allocation.to_string());
        bench.start(task);
        bench.started().await;
        let shim = shim_of(&directory);
        assert!(is_alive(shim));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
        let exit = bench.ended().await;
        assert_eq!(exit.failure.unwrap().kind, FailureKind::LostTrack);
        let mark = format!("PLENUM_TASK_DIR={}", directory.join("task").display());
        let left = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("environ")).ok());
        assert!(!left.into_iter().any(|environment| environment.contains(&mark)), "processes are left");
    }
}

#[tokio::test]
async fn loud_tasks_keep_only_their_newest_output() {
    let mut bench = Bench::isolated();
    let task = bench.shell("i=0; while [ $i -lt 20000 ]; do echo line number $i; i=$((i+1)); done; echo end");
    let allocation = task.allocation;
    assert!(bench.run(task).await.succeeded());
    let output = bench.output(allocation);
    assert!(output.ends_with("line number 19999\nend\n"));
    assert!((64 << 10..=128 << 10).contains(&output.len()), "{}", output.len());
}

#[tokio::test]
async fn an_isolated_task_sees_its_own_processes_only() {
    let mut bench = Bench::isolated();
    if !is_isolated("/proc of their own", |isolation| isolation.proc) {
        return;
    }
    let task = bench
        .shell("echo $(ls /proc | grep -c '^[0-9]') $(cat /proc/sys/kernel/ostype); grep NoNewPrivs /proc/self/status");
    let allocation = task.allocation;
    assert!(bench.run(task).await.succeeded());
    let output = bench.output(allocation);
    let count: u32 = output.split(' ').next().unwrap().parse().unwrap();
    assert!(count <= 6, "{output}");
    assert!(output.contains("NoNewPrivs:\t1"), "{output}");
}

// Where root may not lower its bounds, as in a container, each task failed.
#[tokio::test]
async fn a_root_that_may_not_lower_its_bounds_runs_tasks_with_no_more_capabilities() {
    if !is_root() {
        return;
    }
    let words = ["/usr/bin/setpriv", "--bounding-set=-setpcap", "--inh-caps=-setpcap"];
    for mut bench in [Bench::bare(), Bench::by(&words)] {
        let task = bench.shell("grep -E 'Cap(Prm|Eff)' /proc/self/status");
        let allocation = task.allocation;
        let exit = bench.run(task).await;
        assert!(exit.succeeded(), "{exit}");
        assert_eq!(bench.output(allocation), "CapPrm:\t00000000000004fb\nCapEff:\t00000000000004fb\n");
    }
}

// An agent that was started in a container, or in a unit with ambient capabilities, handed on what it had inherited: its tasks could mount, and
// lift their limits.
#[tokio::test]
async fn a_task_inherits_no_capabilities_of_its_agent() {
    if !is_root() {
        return;
    }
    let inherited = "--inh-caps=+sys_admin,+mknod";
    for words in [&["setpriv", inherited][..], &["setpriv", inherited, "--ambient-caps=+sys_admin"]] {
        let mut bench = Bench::by(words);
        let task = bench.shell("grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status");
        let allocation = task.allocation;
        let exit = bench.run(task).await;
        assert!(exit.succeeded(), "{exit}");
        let (none, kept) = ("0000000000000000", "00000000000004fb");
        let expected = format!("CapInh:\t{none}\nCapPrm:\t{kept}\nCapEff:\t{kept}\nCapAmb:\t{none}\n");
        assert_eq!(bench.output(allocation), expected, "{words:?}");
    }
}

// A wrapper's lock that its agent had inherited was held by each task's shim after that agent's end: the next one was refused for as long as one ran.
#[tokio::test]
async fn a_shim_holds_nothing_that_its_agents_parent_had_open() {
    let mut bench = Bench::by(&["/bin/sh", "-c", "exec 9</dev/zero; exec \"$@\"", "sh"]);
    let task = bench.shell("readlink /proc/$PPID/fd/* /proc/self/fd/*");
    let allocation = task.allocation;
    bench.run(task).await;
    let open = bench.output(allocation);
    assert!(open.contains("/dev/null") && !open.contains("/dev/zero"), "{open}");
}

// Under `UMask=0077` a task that changes its user could not come into its own directory.
#[tokio::test]
async fn directories_of_tasks_can_be_passed_through_whatever_mask_the_agent_was_started_with() {
    let mut modes = Vec::new();
    for mask in ["022", "077"] {
        let mut bench = Bench::by(&["/bin/sh", "-c", &format!("umask {mask}; exec \"$@\""), "sh"]);
        let task = bench.shell("stat -c %a \"$PLENUM_TASK_DIR\" \"$PLENUM_JOB_DIR\"; umask");
        let allocation = task.allocation;
        assert!(bench.run(task).await.succeeded());
        modes.push(bench.output(allocation));
    }
    assert_eq!(modes[0], modes[1]);
}

// Tasks of an agent that was to be spared when memory is short were spared, too: the kernel killed everything else before. One of -1000 stood
// still at its limit instead of being killed.
#[tokio::test]
async fn a_task_is_not_spared_when_memory_is_short_as_its_agent_is() {
    let lower = |by: &str| format!("echo {by} > /proc/self/oom_score_adj && exec \"$@\"");
    let mut own = std::process::Command::new("/bin/sh");
    let own = own.args(["-c", &lower("-500"), "sh", "grep", "-qx", "-e", "-500", "/proc/self/oom_score_adj"]);
    if !own.stderr(std::process::Stdio::null()).status().unwrap().success() {
        skipped("a spared agent needs CAP_SYS_RESOURCE");
        return;
    }
    let mut bench = Bench::by(&["/bin/sh", "-c", &lower("-1000"), "sh"]);
    let task = bench.task(&["cat", "/proc/self/oom_score_adj"]);
    let allocation = task.allocation;
    assert!(bench.run(task).await.succeeded());
    assert_eq!(bench.output(allocation), "0\n");
}

// A root task could name the program that the kernel runs, outside of all namespaces, for each crash on the machine; and take disks away.
#[tokio::test]
async fn an_isolated_task_can_not_write_to_the_kernel() {
    let mut bench = Bench::isolated();
    if !is_isolated("mounts of their own", |isolation| isolation.mount) {
        return;
    }
    let task = bench.shell(
        "for file in /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /proc/sysrq-trigger; do \
         (: >> $file) 2> /dev/null && echo $file; done; \
         for place in /proc/scsi /proc/acpi; do test -w $place && echo $place; done; \
         cat /proc/sys/kernel/ostype; echo 0 > /proc/self/oom_score_adj && echo own",
    );
    let allocation = task.allocation;
    assert!(bench.run(task).await.succeeded());
    assert_eq!(bench.output(allocation), "Linux\nown\n");
}

#[tokio::test]
async fn an_isolated_task_sees_nothing_else_of_its_agent() {
    let mut bench = Bench::isolated();
    if !is_isolated("the agent's directory hidden from them", |isolation| isolation.hidden) {
        return;
    }
    let other = bench.shell("echo secret; echo secret > $PLENUM_TASK_DIR/file");
    assert!(bench.run(other).await.succeeded());
    let task = bench.shell(
        "cd $PLENUM_TASK_DIR/../..; ls; ls alloc-*; echo '{}' > alloc-2-1/exit-0 || echo kept out; \
         grep -r secret .. ; echo mine > $PLENUM_TASK_DIR/file && echo ours > $PLENUM_JOB_DIR/file",
    );
    let allocation = task.allocation;
    assert!(bench.run(task).await.succeeded());
    assert_eq!(bench.output(allocation), "alloc-2-1\ntask\nkept out\n");
    let agent = bench.directory.path();
    assert_eq!(content_of(&agent.join("allocs/alloc-2-1/task/file")), "mine\n");
    assert_eq!(content_of(&agent.join("jobs/job-9-1-v1/file")), "ours\n");
}

#[tokio::test]
async fn a_start_is_made_once_however_often_it_is_asked_for() {
    let mut bench = Bench::isolated();
    let task = bench.shell("echo once >> $PLENUM_JOB_DIR/starts; exit 5");
    assert_eq!(bench.run(task.clone()).await.code, Some(5));
    assert_eq!(bench.run(task.clone()).await.code, Some(5));
    let again = TaskSpec { restart: 1, ..task };
    assert_eq!(bench.run(again).await.code, Some(5));
    let starts = content_of(&bench.directory.path().join("jobs/job-9-1-v1/starts"));
    assert_eq!(starts, "once\nonce\n");
    let kept = std::fs::read_dir(bench.directory.path().join("allocs/alloc-1-1")).unwrap().flatten();
    let mut kept: Vec<_> = kept.map(|entry| entry.file_name().into_string().unwrap()).collect();
    kept.sort();
    assert_eq!(kept, ["exit-0", "exit-1", "record-1", "running-1", "spec.json", "task"]);
}

// Tasks whose records could not be read waited for that with the four turns in which starts are made: nothing else was started on
// that machine any more.
#[tokio::test]
async fn tasks_that_can_not_be_looked_at_keep_no_others_from_being_started() {
    let mut bench = Bench::bare();
    let unreadable: Vec<_> = (0..8).map(|_| bench.task(&["true"])).collect();
    let record =
        |bench: &Bench, task: &TaskSpec| allocation_directory(bench.directory.path(), task.allocation).join("record-0");
    for task in &unreadable {
        std::fs::create_dir_all(record(&bench, task)).unwrap();
        bench.start(task.clone());
    }
    // Until all of them have been looked at.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let other = bench.shell("exit 3");
    assert_eq!(bench.run(other).await.code, Some(3));
    for task in &unreadable {
        std::fs::remove_dir(record(&bench, task)).unwrap();
    }
    for _ in &unreadable {
        assert!(bench.ended_among_others().await.succeeded());
    }
}

#[tokio::test]
async fn what_can_not_be_looked_at_has_not_ended_when_it_is_told_to_stop() {
    let mut bench = Bench::bare();
    let task = bench.task(&["true"]);
    let allocation = task.allocation;
    let directory = allocation_directory(bench.directory.path(), allocation);
    // Somebody took it, and neither who nor what can be read.
    for unreadable in ["record-0", "spec.json"] {
        std::fs::create_dir_all(directory.join(unreadable)).unwrap();
    }
    bench.start(task);
    bench.stop(allocation);
    bench.silent_for(Duration::from_millis(600)).await;
    for unreadable in ["record-0", "spec.json"] {
        std::fs::remove_dir(directory.join(unreadable)).unwrap();
    }
    let exit = bench.ended().await;
    assert_eq!((exit.stop_requested, exit.started_unix_ms), (true, None));
}

// On a disk that was full just then, that a task runs was not marked. The next agent took it to be starting for as long as it ran.
#[tokio::test]
async fn that_a_task_runs_is_marked_as_soon_as_there_is_room_for_it() {
    let mut bench = Bench::bare();
    let task = bench.shell("sleep 100");
    let allocation = task.allocation;
    let directory = allocation_directory(bench.directory.path(), allocation);
    std::fs::create_dir_all(&directory).unwrap();
    // It can't be made before that folder is there.
    std::os::unix::fs::symlink(directory.join("room/mark"), directory.join("running-0")).unwrap();
    bench.start(task);
    bench.started().await;
    assert_eq!(bench.next_agent()[0].found, Found::Alive { running: false });
    std::fs::create_dir(directory.join("room")).unwrap();
    let event = bench.next_event().await;
    assert!(matches!(event, DriverEvent::Started { .. }), "{event:?}");
    bench.stop(allocation);
    assert!(bench.ended().await.stop_requested);
}

// The shim of an agent that was killed was still on its way when the next agent could not start one: the task had failed, its room was given away,
// and then it ran.
#[tokio::test]
async fn a_start_that_fails_is_not_made_by_a_shim_that_is_late() {
    let mut bench = Bench::by(&["false"]);
    let task = bench.shell("echo up > $PLENUM_JOB_DIR/up");
    let failed = bench.run(task.clone()).await.failure.map(|failure| failure.kind);
    assert_eq!(failed, Some(FailureKind::Setup), "it was written down, and its shim was none");
    let directory = allocation_directory(bench.directory.path(), task.allocation);
    // As if it had been killed before it knew of that.
    std::fs::remove_file(directory.join("exit-0")).unwrap();
    assert_eq!(bench.next_agent()[0].found, Found::NotStarted);
    let failed = bench.run(task.clone()).await.failure.map(|failure| failure.kind);
    assert_eq!(failed, Some(FailureKind::Setup));
    assert!(matches!(&bench.next_agent()[0].found, Found::Ended(exit) if exit.failure.is_some()));
    let late = std::process::Command::new(PROGRAM).arg("shim").arg(directory).status().unwrap();
    assert_eq!((late.code(), bench.directory.path().join("jobs/job-9-1-v1/up").exists()), (Some(3), false));
}

#[tokio::test]
async fn of_a_restart_the_next_agent_hears_whether_the_task_ran_before() {
    for (command, ran) in [("false", true), ("no-such-program", false)] {
        let mut bench = Bench::bare();
        let first = bench.task(&[command]);
        assert!(!bench.run(first.clone()).await.succeeded());
        assert!(!bench.next_agent()[0].ran_before, "this is its first start");
        let second = TaskSpec { restart: 1, command: ["sleep", "100"].map(str::to_owned).to_vec(), ..first };
        bench.start(second.clone());
        bench.started().await;
        let found = bench.next_agent();
        assert_eq!((found[0].restart, found[0].ran_before), (1, ran));
        bench.stop(second.allocation);
        assert!(bench.ended().await.stop_requested);
    }
}

/// Starts a task, which says when it can be asked to end.
async fn until_ready(bench: &mut Bench, task: TaskSpec) -> AllocationId {
    let allocation = task.allocation;
    bench.start(task);
    bench.started().await;
    wait_for_output(bench, allocation, "ready\n").await;
    allocation
}

/// The number of the shim that made a task's first start.
fn shim_of(directory: &Path) -> i32 {
    let record: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(directory.join("record-0")).unwrap()).unwrap();
    i32::try_from(record["pid"].as_i64().unwrap()).unwrap()
}

/// The only child of a process.
fn child_of(parent: i32) -> i32 {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let children: Vec<i32> =
        pids.filter(|pid| state_and_parent(*pid).is_some_and(|(_, found)| found == parent)).collect();
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// How often a process has begun to wait for something.
fn waits_begun(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    waits.trim().parse().unwrap()
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it did not come to that");
}

async fn wait_for_output(bench: &Bench, allocation: AllocationId, expected: &str) {
    for _ in 0..2000 {
        if bench.output(allocation) == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?} instead of {expected:?}", bench.output(allocation));
}
