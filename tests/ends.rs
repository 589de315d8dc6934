//! What the end of `plenum dev` leaves behind, however it comes: nothing but the directory that was named.

use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    screen::Screen,
    stage::{Stage, eventually},
};

/// A job of two tasks: one ends when asked to, the other one does not listen.
const STUBBORN: &str = r#"
name = "stubborn"
scheduler = "service"
[group.good]
command = ["/bin/sleep", "1001"]
env = { STAGE = "$STAGE" }
resources = { cpu = "10m", memory = "16MiB" }
[group.bad]
command = ["/bin/sh", "-c", "trap '' TERM INT; exec sleep 1002"]
env = { STAGE = "$STAGE" }
kill_timeout = "KILL_TIMEOUT"
resources = { cpu = "10m", memory = "16MiB" }
"#;

/// Both tasks run: not just the shells that will be them, of which one does listen yet.
#[track_caller]
fn both_run(stage: &Stage) {
    for words in ["/bin/sleep 1001", "sleep 1002"] {
        eventually(&format!("`{words}` runs"), || {
            stage.processes(words).into_iter().find(|found| found.words.trim_end() == words)
        });
    }
}

/// Nothing of the test runs any more, and the kernel knows nothing of it.
#[track_caller]
fn nothing_is_left(stage: &Stage) {
    assert_eq!(stage.processes(""), [], "processes");
    assert_eq!(stage.kernel_traces(), Vec::<String>::new(), "cgroups and mounts");
    let left: Vec<_> = fs::read_dir(stage.path("tmp")).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "temporary folders: {left:?}");
}

#[test]
fn ctrl_c_leaves_nothing_behind_even_of_tasks_that_do_not_listen() {
    let stage = Stage::new();
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "1s"));
    let mut dev = stage.start("dev", &["dev", &file, "--machines", "2"]);
    both_run(&stage);
    assert!(!stage.kernel_traces().is_empty() || !crate::stage::is_root(), "tasks have cgroups while they run");
    dev.signal(Signal::SIGINT);
    assert_eq!(dev.ended().code(), Some(0), "a cell without an end is ended like this");
    assert!(stage.text("dev.err").contains("stopping tasks"), "people see why it takes its time");
    nothing_is_left(&stage);
}

// Ctrl-\ ended it at once: its parts were left to find that out, and its folder stayed.
#[test]
fn ctrl_backslash_leaves_nothing_behind_either() {
    let stage = Stage::new();
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "100ms"));
    let mut dev = stage.start("dev", &["dev", &file, "--no-isolation"]);
    both_run(&stage);
    dev.signal(Signal::SIGQUIT);
    assert_eq!(dev.ended().code(), Some(0));
    nothing_is_left(&stage);
}

#[test]
fn a_second_ctrl_c_does_not_wait_and_leaves_nothing_behind_either() {
    let stage = Stage::new();
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "10m"));
    let mut dev = stage.start("dev", &["dev", &file]);
    both_run(&stage);
    dev.signal(Signal::SIGINT);
    eventually("the task that listens has ended", || stage.processes("sleep 1001").is_empty().then_some(()));
    assert_eq!(stage.processes("sleep 1002").len(), 1, "the other one is given its ten minutes");
    dev.signal(Signal::SIGINT);
    assert_eq!(dev.ended().code(), Some(0));
    nothing_is_left(&stage);
}

// Only the files that were named when it was started told how long tasks are given. Those of all other jobs were killed after as long.
#[test]
fn tasks_of_jobs_that_were_submitted_later_have_their_time_to_end() {
    let stage = Stage::new();
    let hasty =
        STUBBORN.replace("[group.good]", "[group.good]\nkill_timeout = \"100ms\"").replace("KILL_TIMEOUT", "100ms");
    let file = stage.file("hasty.toml", &hasty);
    let mut dev = stage.dev(&["--no-isolation", &file]);
    both_run(&stage);
    let script =
        "trap 'sleep 7; echo flushed > $STAGE/said; exit 0' TERM; echo up > $STAGE/said; while :; do sleep 0.1; done";
    let job = format!(
        "name = \"db\"\nscheduler = \"service\"\n[group.main]\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n\
         env = {{ STAGE = \"$STAGE\" }}\nkill_timeout = \"50s\"\nresources = {{ cpu = \"10m\", memory = \"16MiB\" }}\n"
    );
    stage.submit(&dev.address, "db.toml", &job);
    eventually("the later one runs", || (stage.text("said") == "up\n").then_some(()));
    dev.process.signal(Signal::SIGINT);
    assert_eq!(dev.process.ended().code(), Some(0));
    let told = stage.text("dev.err");
    assert_eq!(stage.text("said"), "flushed\n", "{told}");
    assert!(told.contains("tasks are still ending: each is given its kill_timeout"), "{told}");
    nothing_is_left(&stage);
}

// The shims stood still. Their agent was killed after a while, as it had not ended either, and the tasks went on for ever.
#[test]
fn tasks_whose_shims_stand_still_end_with_their_cell() {
    for isolated in [true, false] {
        let stage = Stage::new();
        let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "1s"));
        let more: &[&str] = if isolated { &[] } else { &["--no-isolation"] };
        let mut dev = stage.start("dev", &[&["dev", &file], more].concat());
        both_run(&stage);
        let mut shims = stage.processes("allocs/alloc-");
        let all: Vec<i32> = shims.iter().map(|found| found.id).collect();
        // The first process of a pid namespace is a child of its shim, and has its words.
        shims.retain(|found| found.parent().is_some_and(|parent| !all.contains(&parent)));
        assert_eq!(shims.len(), 2, "{shims:?}");
        shims.iter().for_each(|shim| kill(Pid::from_raw(shim.id), Signal::SIGSTOP).unwrap());
        // Without the others it takes the same way, after ten seconds for each step.
        while dev.has_ended().is_none() {
            dev.signal(Signal::SIGINT);
            std::thread::sleep(Duration::from_millis(300));
        }
        assert_eq!(dev.ended().code(), Some(0));
        let told = stage.text("dev.err");
        assert!(told.contains("machine-1: 2 tasks did not end in time: killed"), "{told}");
        nothing_is_left(&stage);
    }
}

// It ended as after a job that had failed: nobody could tell a run that was cancelled from one that went wrong.
#[test]
fn jobs_that_were_to_be_waited_for_and_were_interrupted_neither_completed_nor_failed() {
    let stage = Stage::new();
    let file = stage.file("job.toml", &STUBBORN.replace("service", "batch").replace("KILL_TIMEOUT", "100ms"));
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut dev = stage.start("dev", &["dev", &file, "--until-done", "--no-isolation"]);
        both_run(&stage);
        dev.signal(signal);
        assert_eq!(dev.ended().code(), Some(130));
        nothing_is_left(&stage);
    }
}

// A cell that was started with `nohup` was stopped all the same, with all that ran in it, when its terminal went away.
#[test]
fn a_cell_that_is_to_outlive_its_terminal_does() {
    let mut stage = Stage::new();
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "100ms"));
    for prefix in [&["nohup"][..], &[]] {
        stage.prefix = prefix.iter().map(|&word| word.to_owned()).collect();
        let mut dev = stage.dev(&["--no-isolation", &file]);
        both_run(&stage);
        dev.process.signal(Signal::SIGHUP);
        let is_told = || stage.text("dev.err").contains("stopping tasks");
        if prefix.is_empty() {
            eventually("a cell that nobody keeps from it stops its tasks", || is_told().then_some(()));
        } else {
            // Nothing comes of it that could be waited for.
            std::thread::sleep(Duration::from_millis(300));
            assert!(!is_told(), "{}", stage.text("dev.err"));
        }
        dev.process.signal(Signal::SIGTERM);
        assert_eq!(dev.process.ended().code(), Some(0));
        nothing_is_left(&stage);
    }
}

// A shell passes a hang-up on, and the kernel sends another one when the shell has ended: the second was taken for somebody's wish that tasks are killed.
#[test]
fn a_terminal_that_goes_away_leaves_tasks_their_time_to_end() {
    let stage = Stage::new();
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "60s"));
    let mut dev = stage.dev(&["--no-isolation", &file]);
    both_run(&stage);
    dev.process.signal(Signal::SIGHUP);
    eventually("the cell stops its tasks", || stage.text("dev.err").contains("stopping tasks").then_some(()));
    dev.process.signal(Signal::SIGHUP);
    // Nothing comes of it that could be waited for.
    std::thread::sleep(Duration::from_millis(500));
    assert!(!stage.processes("sleep 1002").is_empty(), "it has a minute");
    dev.process.signal(Signal::SIGTERM);
    assert_eq!(dev.process.ended().code(), Some(0));
    nothing_is_left(&stage);
}

// The first line about a part that had died ended whoever watched over that one, and the next line the whole cell: its agent was killed, and its
// tasks went on without.
#[test]
fn a_cell_whose_bars_have_lost_their_terminal_goes_on() {
    let stage = Stage::new();
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "100ms"));
    let dir = stage.word("cell");
    let (mut dev, mut screen) = Screen::start(&stage, &["dev", "--dir", &dir, "--no-isolation", &file]);
    screen.shows("stubborn [");
    drop(screen);
    both_run(&stage);
    for part in [" scheduler service", " server --dir", " scheduler service"] {
        let killed = stage.process(part);
        killed.kill();
        eventually(&format!("there is another{part}"), || {
            assert!(dev.has_ended().is_none(), "dev ended");
            stage.processes(part).into_iter().find(|found| found.id != killed.id)
        });
    }
    both_run(&stage);
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.ended().code(), Some(0));
    nothing_is_left(&stage);
}

// With `| head`, the cell ended as if nothing had been: its parts were left to find out, its folder stayed, and a job that had failed
// was said to have done well.
#[test]
fn a_reader_that_goes_away_changes_neither_the_end_nor_the_exit_code() {
    let stage = Stage::new();
    let tasks = |second: &str| {
        let group = |name: &str, script: &str| {
            let command = format!("command = [\"/bin/sh\", \"-c\", \"{script}\"]\nenv = {{ STAGE = \"$STAGE\" }}");
            format!(
                "[group.{name}]\n{command}\nretry = {{ attempts = 0 }}\nresources = {{ cpu = \"10m\", memory = \"16MiB\" }}\n"
            )
        };
        format!("name = \"words\"\nscheduler = \"batch\"\n{}{}", group("one", "echo one"), group("two", second))
    };
    let good = stage.file("good.toml", &tasks("echo two"));
    assert_eq!(stage.unread(&["dev", &good, "--until-done"]), Some(0));
    assert!(stage.text("unread.err").contains("2 tasks run in 2 allocations"), "{}", stage.text("unread.err"));
    nothing_is_left(&stage);

    let server = stage.server("cell", None, &[]);
    let bad = stage.file("bad.toml", &tasks("exit 3"));
    let (_scheduler, _agent) = (stage.scheduler(&server.address, "batch"), stage.agent(&server.address, "agent"));
    assert_eq!(stage.unread(&["--addr", &server.address, "job", "run", &bad, "--wait"]), Some(1));
}

#[test]
fn kill_9_of_dev_ends_its_parts_and_their_tasks() {
    let stage = Stage::new();
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "500ms"));
    let mut dev = stage.dev(&[&file]);
    both_run(&stage);
    dev.process.kill();
    eventually("all parts and all tasks have ended", || stage.processes("").is_empty().then_some(()));
    // The directory is whole: the next cell goes on where the first one was killed, and ends as if nothing had been.
    let dev = stage.dev(&[]);
    both_run(&stage);
    assert_eq!(stage.ask(&dev.address, &["job", "show", "stubborn"])["version"], 1);
    assert_eq!(dev.stop().code(), Some(0));
    nothing_is_left(&stage);
}

// The next cell removed what was written down of tasks whose agent had been killed with its cell: they went on, and nobody could end them any more.
#[test]
fn tasks_of_a_cell_that_was_killed_with_its_agent_end_before_it_is_swept_away() {
    let stage = Stage::new();
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "1m"));
    let mut dev = stage.start("dev", &["dev", &file, "--no-isolation"]);
    both_run(&stage);
    // It would start another agent.
    dev.signal(Signal::SIGSTOP);
    stage.process(" agent --name").kill();
    dev.kill();
    for part in [" server --dir", " scheduler "] {
        eventually(&format!("no{part} is left"), || stage.processes(part).is_empty().then_some(()));
    }
    both_run(&stage);
    let mut next = stage.start("next", &["dev", "--no-isolation"]);
    eventually("the earlier cell is removed", || {
        let cells = fs::read_dir(stage.path("tmp")).unwrap().count();
        (cells == 1 && stage.text("next.err").contains("submit jobs with")).then_some(())
    });
    for task in ["sleep 1001", "sleep 1002"] {
        assert_eq!(stage.processes(task), [], "its tasks have ended");
    }
    next.signal(Signal::SIGTERM);
    assert_eq!(next.ended().code(), Some(0));
    nothing_is_left(&stage);
}

// A script that killed a cell and started it again at once was told that its old server had the directory; a moment later, its old agent.
#[test]
fn a_cell_that_is_killed_and_started_again_at_once_waits_for_its_own_parts() {
    let stage = Stage::new();
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "1m"));
    let mut dev = stage.dev(&[&file]);
    both_run(&stage);
    let stubborn = stage.process("sleep 1002");
    dev.process.kill();
    let mut next = stage.start("next", &["dev", "--dir", &stage.word("cell"), &file]);
    eventually("the earlier agent is waited for", || {
        let told = stage.text("next.err");
        assert!(next.has_ended().is_none(), "dev ended: {told}");
        told.contains("agent-machine-1 of a cell that was killed here is still ending; waiting for it").then_some(())
    });
    // All that the earlier agent still waits for.
    stubborn.kill();
    eventually("the earlier task has ended", || {
        stage.processes("sleep 1002").iter().all(|found| found.id != stubborn.id).then_some(())
    });
    both_run(&stage);
    next.signal(Signal::SIGTERM);
    eventually("the task that listens has ended", || stage.processes("sleep 1001").is_empty().then_some(()));
    next.signal(Signal::SIGTERM);
    assert_eq!(next.ended().code(), Some(0), "{}", stage.text("next.err"));
    nothing_is_left(&stage);
}

// A script that ended a cell and started it again at once was told that the directory is locked.
#[test]
fn a_cell_that_is_ending_is_waited_for_by_its_successor() {
    let stage = Stage::new();
    // Long enough for the successor to see it.
    let file = stage.file("stubborn.toml", &STUBBORN.replace("KILL_TIMEOUT", "4s"));
    let mut dev = stage.dev(&[&file]);
    both_run(&stage);
    dev.process.signal(Signal::SIGTERM);
    let mut next = stage.start("next", &["dev", "--dir", &stage.word("cell"), &file]);
    assert_eq!(dev.process.ended().code(), Some(0));
    eventually("the next one serves", || {
        let address = fs::read_to_string(stage.path("cell/address")).ok()?;
        stage.try_ask(address.trim(), &["status"]).ok()
    });
    both_run(&stage);
    let told = stage.text("next.err");
    assert!(told.contains("another cell is ending in this directory; waiting for it"), "{told}");
    next.signal(Signal::SIGTERM);
    assert_eq!(next.ended().code(), Some(0));
    nothing_is_left(&stage);
}

// Its machine was waited for until it could be used, and the cell ended after that. Nobody could uncordon it: the cell had to run for that.
#[test]
fn a_cell_whose_machine_was_cordoned_or_drained_starts_again_and_says_so() {
    let stage = Stage::new();
    for (word, back) in [("cordon", "uncordon"), ("drain", "undrain")] {
        let dev = stage.dev(&["--no-isolation"]);
        let machine = |address: &str| stage.try_ask(address, &["machine", "show", "machine-1"]).ok();
        eventually("the machine is ready", || machine(&dev.address).filter(|machine| machine["state"] == "ready"));
        stage.ask(&dev.address, &["machine", word, "machine-1"]);
        assert_eq!(dev.stop().code(), Some(0));
        let dev = stage.dev(&["--no-isolation"]);
        let hint = format!("machine {back} machine-1` ends that");
        eventually("it says what ends that", || stage.text("dev.err").contains(&hint).then_some(()));
        stage.ask(&dev.address, &["machine", back, "machine-1"]);
        eventually("the machine is ready", || machine(&dev.address).filter(|machine| machine["state"] == "ready"));
        assert_eq!(dev.stop().code(), Some(0));
    }
    nothing_is_left(&stage);
}

// A script that ended a part and started it again at once was told that the directory is locked, by the very process that it had asked to end.
#[test]
fn a_server_or_an_agent_that_is_ending_is_waited_for_by_its_successor() {
    let stage = Stage::new();
    let mut server = stage.server("cell", None, &[]);
    let address = server.address.trim_start_matches("http://").to_owned();
    let mut agent = stage.agent(&server.address, "agent");
    let machine = |address: &str| stage.try_ask(address, &["machine", "show", "m1"]).ok();
    eventually("the machine is there", || machine(&server.address));
    for round in 0..3 {
        server.process.signal(Signal::SIGTERM);
        let name = format!("server-{round}");
        let next = stage.start(&name, &["server", "--dir", &stage.word("cell"), "--listen", &address]);
        assert_eq!(server.process.ended().code(), Some(0), "the one before ends");
        eventually("it serves, and tells its address", || {
            let told = fs::read_to_string(stage.path("cell/address")).ok()?;
            stage.try_ask(told.trim(), &["status"]).ok().filter(|_| told.trim() == address)
        });
        server.process = next;

        agent.signal(Signal::SIGTERM);
        let next = stage.agent(&server.address, "agent");
        assert_eq!(agent.ended().code(), Some(0), "{}", stage.text("agent.err"));
        agent = next;
        eventually("its successor is there", || machine(&server.address).filter(|machine| machine["state"] == "ready"));
    }
}
