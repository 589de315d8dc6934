//! Agents that are killed at any moment: tasks go on, are found again, and are started once.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{SigHandler, Signal, kill, signal},
    unistd::Pid,
};
use plenum_agent::{
    cgroup::{AgentCgroup, Mounts},
    driver::{DriverEvent, Exit, FailureKind, Found, Recovered, TaskSpec},
    logs,
    process::ProcessIdentity,
};

use crate::bench::{PROGRAM, content_of, is_alive, task, unique_machine_name};

/// An agent's driver as a process of its own.
pub(crate) struct Agent {
    pub(crate) process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    recovered: Vec<Recovered>,
}

impl Agent {
    fn start(directory: &Path, machine: Option<&str>) -> Self {
        Self::start_by(Command::new(PROGRAM).arg("drive").arg(directory).args(machine))
    }

    /// One that begins with this limit of open files, by `ulimit`.
    fn start_limited(limit: &str, directory: &Path, machine: Option<&str>) -> Self {
        Self::start_by(&mut limited(limit, directory, machine))
    }

    pub(crate) fn start_by(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let commands = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut agent = Self { process, commands, answers, recovered: Vec::new() };
        loop {
            let line = agent.line();
            match serde_json::from_str(&line) {
                Ok(recovered) => agent.recovered.push(recovered),
                Err(_) => break,
            }
        }
        agent
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the agent ended");
        line
    }

    fn send(&mut self, command: &serde_json::Value) {
        writeln!(self.commands, "{command}").unwrap();
    }

    pub(crate) fn run(&mut self, task: &TaskSpec) {
        self.send(&serde_json::json!({ "start": task }));
    }

    pub(crate) fn event(&mut self) -> DriverEvent {
        loop {
            let event = serde_json::from_str(&self.line()).unwrap();
            if !matches!(event, DriverEvent::Recorded { .. }) {
                return event;
            }
        }
    }

    pub(crate) fn exit(&mut self) -> Exit {
        loop {
            if let DriverEvent::Exited { exit, .. } = self.event() {
                assert!(matches!(self.event(), DriverEvent::Gone { .. }));
                return exit;
            }
        }
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn limited(limit: &str, directory: &Path, machine: Option<&str>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("ulimit {limit}; exec \"$@\""), "sh", PROGRAM, "drive"]).arg(directory).args(machine);
    command
}

/// Two ways to run agents: with all isolation, and with none.
fn each_way(story: impl Fn(&Path, Option<&str>)) {
    for machine in [Some(unique_machine_name()), None] {
        let directory = tempfile::tempdir().unwrap();
        story(directory.path(), machine.as_deref());
        if let (Some(machine), Some(mounts)) = (&machine, Mounts::detect())
            && let Some(cgroup) = AgentCgroup::prepare(&mounts, machine).0
        {
            assert_eq!(cgroup.names().unwrap(), [""; 0]);
            cgroup.remove();
        }
    }
}

fn sole(agent: &Agent) -> &Recovered {
    let [recovered] = agent.recovered.as_slice() else { panic!("{:?}", agent.recovered) };
    recovered
}

#[test]
fn a_task_is_found_again_and_its_exit_code_kept() {
    each_way(|directory, machine| {
        let mut agent = Agent::start(directory, machine);
        agent.run(&task(
            1,
            &[
                "/bin/sh",
                "-c",
                "echo up > $PLENUM_JOB_DIR/up; until test -e $PLENUM_JOB_DIR/go; do sleep 0.02; done; exit 42",
            ],
        ));
        assert!(matches!(agent.event(), DriverEvent::Started { .. }));
        content_of(&directory.join("jobs/job-9-1-v1/up"));
        agent.kill();

        let mut agent = Agent::start(directory, machine);
        assert_eq!(sole(&agent).found, Found::Alive { running: true });
        assert!(matches!(agent.event(), DriverEvent::Started { .. }), "told again to the new agent");
        std::fs::write(directory.join("jobs/job-9-1-v1/go"), "").unwrap();
        assert_eq!(agent.exit().code, Some(42));
        agent.kill();
    });
}

#[test]
fn a_task_that_ended_meanwhile_tells_how() {
    each_way(|directory, machine| {
        let mut agent = Agent::start(directory, machine);
        let task = task(1, &["/bin/sh", "-c", "sleep 0.3; exit 42"]);
        agent.run(&task);
        assert!(matches!(agent.event(), DriverEvent::Started { .. }));
        agent.kill();
        content_when_there(&directory.join("allocs/alloc-1-1/exit-0"));

        let mut agent = Agent::start(directory, machine);
        let Found::Ended(exit) = &sole(&agent).found else { panic!("{:?}", agent.recovered) };
        assert_eq!(exit.code, Some(42));
        agent.send(&serde_json::json!({ "forget": task.allocation.to_bits() }));
        let kept = directory.join("allocs/alloc-1-1");
        // What is forgotten is marked aside, behind its files.
        content_when_there(&kept.join("ended"));
        agent.send(&serde_json::json!({ "stop": task.allocation.to_bits() }));
        std::thread::sleep(Duration::from_millis(200));
        agent.kill();
        assert!(kept.join("exit-0").exists() && !kept.join("task").exists(), "its files go, its record stays");
        assert_eq!(Agent::start(directory, machine).recovered, [], "forgotten");
    });
}

#[test]
fn a_kill_at_any_moment_starts_nothing_twice() {
    each_way(|directory, machine| {
        // The pause before the kill walks over the start: record, shim, command, end.
        for pause_ms in 0..12 {
            let number = 100 + pause_ms;
            let script = format!("echo once >> $PLENUM_JOB_DIR/starts-{number}; exit 6");
            let task = task(number, &["/bin/sh", "-c", &script]);
            let mut agent = Agent::start(directory, machine);
            agent.run(&task);
            std::thread::sleep(Duration::from_millis(u64::from(pause_ms) * 2));
            agent.kill();
            let mut agent = Agent::start(directory, machine);
            agent.run(&task);
            let mut exit = agent.exit();
            while exit.code != Some(6) {
                exit = agent.exit();
            }
            agent.send(&serde_json::json!({ "forget": task.allocation.to_bits() }));
            agent.run(&task);
            assert_eq!(agent.exit().code, Some(6));
            agent.kill();
            let starts = std::fs::read_to_string(directory.join(format!("jobs/job-9-1-v1/starts-{number}"))).unwrap();
            assert_eq!(starts, "once\n", "pause of {pause_ms} ms");
        }
    });
}

#[test]
fn what_was_recorded_and_never_started_can_be_given_up() {
    each_way(|directory, machine| {
        let mut agent = Agent::start(directory, machine);
        let task = task(1, &["/bin/sh", "-c", "echo once > $PLENUM_JOB_DIR/starts; sleep 600"]);
        agent.run(&task);
        assert!(matches!(agent.event(), DriverEvent::Started { .. }));
        content_of(&directory.join("jobs/job-9-1-v1/starts"));
        agent.send(&serde_json::json!({ "stop": task.allocation.to_bits() }));
        agent.exit();
        agent.kill();
        // As if the agent had died between writing the spec and the shim's record.
        std::fs::remove_file(directory.join("jobs/job-9-1-v1/starts")).unwrap();
        for trace in ["record-0", "running-0", "exit-0"] {
            std::fs::remove_file(directory.join("allocs/alloc-1-1").join(trace)).unwrap();
        }
        let mut agent = Agent::start(directory, machine);
        assert_eq!(sole(&agent).found, Found::NotStarted);
        agent.send(&serde_json::json!({ "stop": task.allocation.to_bits() }));
        let exit = agent.exit();
        assert!(exit.stop_requested && exit.started_unix_ms.is_none());
        // Now not even a shim that was on its way can take it.
        let late = Command::new(PROGRAM).arg("shim").arg(directory.join("allocs/alloc-1-1")).status().unwrap();
        assert_eq!(late.code(), Some(3));
        agent.run(&task);
        assert!(agent.exit().stop_requested);
        assert!(!directory.join("jobs/job-9-1-v1/starts").exists());
        agent.kill();
    });
}

#[test]
fn a_task_of_an_earlier_boot_is_lost_and_never_started_again() {
    each_way(|directory, machine| {
        let mut agent = Agent::start(directory, machine);
        let task = task(1, &["true"]);
        agent.run(&task);
        agent.exit();
        agent.kill();
        let allocation = directory.join("allocs/alloc-1-1");
        let spec = std::fs::read_to_string(allocation.join("spec.json")).unwrap();
        let boot_id = plenum_agent::process::boot_id();
        std::fs::write(allocation.join("spec.json"), spec.replace(boot_id, "an-earlier-boot")).unwrap();
        for trace in ["record-0", "running-0", "exit-0"] {
            std::fs::remove_file(allocation.join(trace)).unwrap();
        }
        let agent = Agent::start(directory, machine);
        let Found::Ended(exit) = &sole(&agent).found else { panic!("{:?}", agent.recovered) };
        assert_eq!(exit.to_string(), "the machine was booted while it ran");
        assert_eq!(agent.recovered[0].allocation, crate::bench::allocation(1));
        agent.kill();
    });
}

// A power cut at a start left an empty file in the place of what was to run. Its task counted as failed, by itself, and a job without retries
// with it, where all others of that machine counted as lost.
#[test]
fn a_task_whose_record_a_power_cut_took_is_lost_and_did_not_fail() {
    each_way(|directory, machine| {
        let mut agent = Agent::start(directory, machine);
        agent.run(&task(1, &["true"]));
        agent.exit();
        agent.kill();
        let allocation = directory.join("allocs/alloc-1-1");
        std::fs::write(allocation.join("spec.json"), "").unwrap();
        for trace in ["record-0", "running-0", "exit-0"] {
            std::fs::remove_file(allocation.join(trace)).unwrap();
        }
        let agent = Agent::start(directory, machine);
        let Found::Ended(Exit { failure: Some(failure), .. }) = &sole(&agent).found else {
            panic!("{:?}", agent.recovered)
        };
        assert_eq!(failure.kind, FailureKind::Booted);
        assert!(failure.message.starts_with("what it was to run can't be read any more"), "{}", failure.message);
        agent.kill();
    });
}

/// In the place of a file that is there: reading it fails as in an unreadable sector.
fn make_unreadable(file: &Path) {
    std::fs::remove_file(file).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", file).unwrap();
}

/// How an allocation ended, of all that an agent says.
fn exit_of(agent: &mut Agent, number: u32) -> Exit {
    loop {
        match agent.event() {
            DriverEvent::Exited { allocation, exit, .. } if allocation == crate::bench::allocation(number) => {
                return exit;
            }
            _ => {}
        }
    }
}

// One unreadable sector below the folder of one task kept an agent from starting, and with it all tasks of its machine from being started, stopped
// and told of.
#[test]
fn a_task_of_which_something_can_not_be_read_is_stopped_and_lost_and_the_others_go_on() {
    const SCRIPT: &str = "trap 'echo told > $PLENUM_JOB_DIR/told-$1; exit 3' TERM; echo up > $PLENUM_JOB_DIR/up-$1
        until test -e $PLENUM_JOB_DIR/go; do sleep 0.02; done; exit 42";
    for file in ["spec.json", "record-0"] {
        each_way(|directory, machine| {
            let mut agent = Agent::start(directory, machine);
            for number in 1..=2 {
                agent.run(&task(number, &["/bin/sh", "-c", SCRIPT, "sh", &number.to_string()]));
            }
            let job = directory.join("jobs/job-9-1-v1");
            (1..=2).for_each(|number| drop(content_of(&job.join(format!("up-{number}")))));
            agent.kill();
            let own = directory.join("allocs/alloc-1-1");
            make_unreadable(&own.join(file));

            let mut agent = Agent::start(directory, machine);
            let found: Vec<_> = agent.recovered.iter().map(|one| one.found.clone()).collect();
            assert_eq!(found, [Found::Leaving { ran: true }, Found::Alive { running: true }], "{file}");
            let told = exit_of(&mut agent, 1).failure.unwrap();
            assert_eq!(told.kind, FailureKind::Unreadable);
            assert!(
                told.message.starts_with(&format!("{} can't be read", own.join(file).display())),
                "{}",
                told.message
            );
            assert_eq!(content_of(&job.join("told-1")), "told\n", "it had ended when its end was told");
            let late = Command::new(PROGRAM).arg("shim").arg(&own).status().unwrap();
            assert!(!late.success(), "nor does a shim that was on its way take it");
            assert!(!job.join("told-2").exists());
            std::fs::write(job.join("go"), "").unwrap();
            assert_eq!(exit_of(&mut agent, 2).code, Some(42));
            agent.kill();

            let agent = Agent::start(directory, machine);
            let Found::Ended(exit) = &agent.recovered[0].found else { panic!("{:?}", agent.recovered) };
            assert_eq!(exit.failure.as_ref(), Some(&told), "the next agent comes to the same end");
            agent.kill();
        });
    }
}

// An agent that was killed while it stopped such a task would have left it to one that took it for lost already.
#[test]
fn the_next_agent_goes_on_stopping_a_task_of_which_something_can_not_be_read() {
    each_way(|directory, machine| {
        let mut agent = Agent::start(directory, machine);
        let script = "trap 'echo told > $PLENUM_JOB_DIR/told' TERM; echo up > $PLENUM_JOB_DIR/up
            until test -e $PLENUM_JOB_DIR/go; do sleep 0.02; done; echo done > $PLENUM_JOB_DIR/done";
        agent.run(&task(1, &["/bin/sh", "-c", script]));
        let job = directory.join("jobs/job-9-1-v1");
        content_of(&job.join("up"));
        agent.kill();
        make_unreadable(&directory.join("allocs/alloc-1-1/spec.json"));
        let agent = Agent::start(directory, machine);
        content_of(&job.join("told"));
        agent.kill();
        let mut agent = Agent::start(directory, machine);
        assert_eq!(sole(&agent).found, Found::Leaving { ran: true });
        std::fs::write(job.join("go"), "").unwrap();
        assert_eq!(exit_of(&mut agent, 1).failure.unwrap().kind, FailureKind::Unreadable);
        assert_eq!(content_of(&job.join("done")), "done\n");
        agent.kill();
    });
}

// Its shim was gone, too: nobody was left who could stop it in order.
#[test]
fn what_is_left_without_a_shim_of_a_task_of_which_something_can_not_be_read_is_killed() {
    each_way(|directory, machine| {
        let mut agent = Agent::start(directory, machine);
        agent.run(&task(1, &["/bin/sh", "-c", "echo $$ > $PLENUM_JOB_DIR/pid; exec sleep 600"]));
        let pid: i32 = content_of(&directory.join("jobs/job-9-1-v1/pid")).trim().parse().unwrap();
        agent.kill();
        let record = directory.join("allocs/alloc-1-1/record-0");
        let shim: ProcessIdentity = serde_json::from_str(&std::fs::read_to_string(&record).unwrap()).unwrap();
        kill(Pid::from_raw(shim.pid), Signal::SIGKILL).unwrap();
        make_unreadable(&record);
        let mut agent = Agent::start(directory, machine);
        let failure = match sole(&agent).found.clone() {
            Found::Ended(exit) => exit.failure,
            _ => exit_of(&mut agent, 1).failure,
        };
        assert_eq!(failure.unwrap().kind, FailureKind::Unreadable);
        // In a namespace it has another number, and its group tells.
        assert!(machine.is_some() || !is_alive(pid));
        agent.kill();
    });
}

#[test]
fn an_end_that_can_not_be_read_is_an_end() {
    each_way(|directory, machine| {
        let mut agent = Agent::start(directory, machine);
        agent.run(&task(1, &["/bin/sh", "-c", "exit 42"]));
        agent.exit();
        agent.kill();
        make_unreadable(&directory.join("allocs/alloc-1-1/exit-0"));
        let agent = Agent::start(directory, machine);
        let Found::Ended(exit) = &sole(&agent).found else { panic!("{:?}", agent.recovered) };
        assert_eq!(exit.failure.as_ref().unwrap().kind, FailureKind::Unreadable);
        agent.kill();
    });
}

// Whoever started the agent ignored the ends of his children, as some daemons do, and so did all that the agent started: no task was ever over,
// and none had a namespace, as it was not known which there are.
#[test]
fn an_agent_hears_of_ends_that_its_parent_ignores() {
    let ignoring = || {
        // SAFETY: ignoring a signal runs no code of ours.
        #[allow(unsafe_code)]
        let set = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
        Ok(set.map(drop)?)
    };
    each_way(|directory, machine| {
        let mut command = Command::new(PROGRAM);
        command.arg("drive").arg(directory).args(machine);
        // SAFETY: between fork and exec, it makes one call to the kernel.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(ignoring);
        }
        let mut agent = Agent::start_by(&mut command);
        agent.run(&task(1, &["/bin/sh", "-c", "exit 42"]));
        assert_eq!(agent.exit().code, Some(42));
        agent.kill();
        let spec = std::fs::read_to_string(directory.join("allocs/alloc-1-1/spec.json")).unwrap();
        let isolation =
            serde_json::to_string(&machine.map(|_| crate::bench::shim().probe().isolation).unwrap_or_default())
                .unwrap();
        assert!(spec.contains(&format!("\"isolation\":{isolation}")), "{spec}");
    });
}

fn content_when_there(file: &Path) -> String {
    for _ in 0..6000 {
        if let Ok(text) = std::fs::read_to_string(file) {
            return text;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{} does not appear", file.display());
}

#[test]
fn a_new_agent_frees_what_nothing_uses_for_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let [old, young] = ["job-1-1-v1", "job-1-1-v2"].map(|name| directory.path().join("jobs").join(name));
    for job in [&old, &young] {
        std::fs::create_dir_all(job).unwrap();
        std::fs::write(job.join("result"), "").unwrap();
    }
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
    std::fs::File::open(&old).unwrap().set_modified(long_ago).unwrap();
    let agent = Agent::start(directory.path(), None);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while old.exists() {
        assert!(std::time::Instant::now() < deadline, "it stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(young.join("result").exists());
    agent.kill();
}

/// More tasks than an agent with 40 open files can watch.
const MANY: u32 = 60;

/// Tasks that wait for a file of their job, under an agent that is killed then.
fn many_waiting(directory: &Path, machine: Option<&str>) {
    let mut agent = Agent::start(directory, machine);
    // At most two minutes, whatever becomes of the test.
    let script = "n=0; until test -e $PLENUM_JOB_DIR/go || test $n -gt 1200; do sleep 0.1; n=$((n+1)); done; exit 7";
    for number in 1..=MANY {
        agent.run(&task(number, &["/bin/sh", "-c", script]));
    }
    for _ in 0..MANY {
        assert!(matches!(agent.event(), DriverEvent::Started { .. }));
    }
    agent.kill();
}

fn all_exit_with(agent: &mut Agent, code: i32) {
    assert_eq!(agent.recovered.len(), MANY as usize);
    assert!(agent.recovered.iter().all(|one| one.found == Found::Alive { running: true }), "{:?}", agent.recovered);
    let mut codes = Vec::new();
    while codes.len() < MANY as usize {
        if let DriverEvent::Exited { exit, .. } = agent.event() {
            codes.push(exit.code);
        }
    }
    assert!(codes.iter().all(|each| *each == Some(code)), "{codes:?}");
}

// An agent that was started again with fewer open files than it had tasks took those for gone that it could not look at, killed
// them, and said that their shims had been killed.
#[test]
fn tasks_that_can_not_be_looked_at_are_not_taken_for_gone() {
    let directory = tempfile::tempdir().unwrap();
    many_waiting(directory.path(), None);
    for limit in ["-n 40", "-n 9"] {
        let refused = limited(limit, directory.path(), None).stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && told.contains("Too many open files"), "{told}");
    }
    let mut agent = Agent::start(directory.path(), None);
    std::fs::write(directory.path().join("jobs/job-9-1-v1/go"), "").unwrap();
    all_exit_with(&mut agent, 7);
    agent.kill();
}

#[test]
fn an_agent_opens_as_many_files_as_it_may_and_its_tasks_as_many_as_before() {
    let directory = tempfile::tempdir().unwrap();
    many_waiting(directory.path(), None);
    let mut agent = Agent::start_limited("-Sn 40", directory.path(), None);
    std::fs::write(directory.path().join("jobs/job-9-1-v1/go"), "").unwrap();
    all_exit_with(&mut agent, 7);
    agent.run(&task(MANY + 1, &["/bin/sh", "-c", "ulimit -Sn"]));
    assert_eq!(agent.exit().code, Some(0));
    let printed = logs::read_tail(&directory.path().join(format!("allocs/alloc-{}-1", MANY + 1)), "stdout", 0).unwrap();
    assert_eq!(String::from_utf8_lossy(&printed.0), "40\n");
    agent.kill();
}
