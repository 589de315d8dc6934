//! Parts that are stopped for longer than their leases, and go on: nobody starts a task twice, and whoever watched catches up.

mod watcher;

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use crate::stage::{Process, Served, Stage, eventually};

/// Leases of four seconds, to which the server adds two: short, and longer than whoever is not stopped is silent.
const SHORT_LEASES: &str = "lease = \"4s\"\n";

/// Leases that don't run out under the test, as nobody renews them: what the cell says at its end stays. And a memory for watchers of one MiB.
const LONG_LEASES: &str = "lease = \"10m\"\nrecent_bytes = 1048576\n";

/// Tasks that write down when they start and then wait for a file. Where theirs are lost, they are not waited for.
const WRITTEN_DOWN: &str = r#"
name = "written-down"
scheduler = "batch"
[group.main]
count = 4
lost_after = "1s"
command = ["/bin/sh", "-c", "echo $PLENUM_TASK_INDEX $PLENUM_ALLOC_ID >> $STAGE/starts; while ! [ -e $STAGE/go ]; do sleep 0.1; done"]
env = { STAGE = "$STAGE" }
resources = { cpu = "50m", memory = "16MiB" }
"#;

/// A cell whose server has this configuration.
fn server_with(stage: &Stage, configuration: &str) -> Served {
    let config = stage.file("server.toml", configuration);
    stage.server("cell", None, &["--config", &config])
}

fn agent(stage: &Stage, address: &str, name: &str) -> Process {
    let dir = stage.word(&format!("agents/{name}"));
    stage.start(name, &["--addr", address, "agent", "--dir", &dir, "--name", name])
}

/// What tasks wrote when they started: their index and their allocation.
fn starts(stage: &Stage) -> Vec<(String, String)> {
    let text = stage.text("starts");
    // A line under way has no end yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let line = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap().to_owned();
        (word(), word())
    };
    whole.lines().map(line).collect()
}

/// Whether the command of an allocation runs.
fn runs(stage: &Stage, allocation: &str) -> bool {
    let found = stage.processes_with("while !", &format!("PLENUM_ALLOC_ID={allocation}\0"));
    found.iter().any(|process| process.words.starts_with("/bin/sh"))
}

fn machine_state(stage: &Stage, address: &str, name: &str) -> Option<String> {
    let listed = stage.try_ask(address, &["machine", "list"]).ok()?;
    let found = listed["items"].as_array()?.iter().find(|each| each["name"] == name)?.clone();
    found["state"].as_str().map(str::to_owned)
}

#[test]
fn an_agent_that_slept_past_its_lease_stops_what_runs_elsewhere_by_now() {
    let stage = Stage::new();
    let server = server_with(&stage, SHORT_LEASES);
    let _scheduler = stage.scheduler(&server.address, "batch");
    let sleeper = agent(&stage, &server.address, "sleeper");
    stage.submit(&server.address, "written-down.toml", WRITTEN_DOWN);
    eventually("all four run", || (starts(&stage).len() == 4).then_some(()));
    let _other = agent(&stage, &server.address, "other");
    eventually("the other one is there", || machine_state(&stage, &server.address, "other").filter(|s| s == "ready"));

    sleeper.signal(Signal::SIGSTOP);
    assert!(starts(&stage).iter().all(|(_, id)| runs(&stage, id)), "they run on without their agent");
    let lost = eventually("its tasks run elsewhere", || {
        let starts = starts(&stage);
        (starts.len() == 8).then_some(starts)
    });
    sleeper.signal(Signal::SIGCONT);
    eventually("it comes back", || machine_state(&stage, &server.address, "sleeper").filter(|state| state == "ready"));
    let [old, new] = [&lost[..4], &lost[4..]];
    eventually("what was lost is stopped", || old.iter().all(|(_, id)| !runs(&stage, id)).then_some(()));
    assert!(new.iter().all(|(_, id)| runs(&stage, id)), "and the others run on: {new:?}");

    stage.file("go", "");
    eventually("the job completes", || {
        let job = stage.ask(&server.address, &["job", "show", "written-down"]);
        (job["state"] == "complete").then_some(())
    });
    let mut by_allocation: BTreeMap<String, usize> = BTreeMap::new();
    let mut by_task: BTreeMap<String, usize> = BTreeMap::new();
    for (task, allocation) in starts(&stage) {
        *by_allocation.entry(allocation).or_default() += 1;
        *by_task.entry(task).or_default() += 1;
    }
    assert!(by_allocation.values().all(|starts| *starts == 1), "each allocation was started once: {by_allocation:?}");
    assert!(by_task.values().all(|starts| *starts == 2), "each task once, and once more when it was lost: {by_task:?}");
    assert_eq!(server.stop().code(), Some(0));
    stage.run(&["verify", "--dir", &stage.word("cell")]).says(0, &[]);
}

/// Tasks that write down that they were asked to end, and don't.
const DEAF: &str = r#"
name = "deaf"
scheduler = "batch"
[group.main]
count = 6
kill_timeout = "1s"
command = ["/bin/sh", "-c", "trap 'echo >> $STAGE/asked' TERM; while ! [ -e $STAGE/go ]; do sleep 0.1; done"]
env = { STAGE = "$STAGE" }
resources = { cpu = "50m", memory = "16MiB" }
"#;

// An agent that went on found at once that its tasks had ended and that it was time to kill them, and told of shims that hung.
#[test]
fn an_agent_that_slept_takes_no_task_that_ended_meanwhile_for_one_that_hangs() {
    let stage = Stage::new();
    let server = server_with(&stage, LONG_LEASES);
    let _scheduler = stage.scheduler(&server.address, "batch");
    let sleeper = agent(&stage, &server.address, "sleeper");
    stage.submit(&server.address, "deaf.toml", DEAF);
    let states = || {
        let listed = stage.ask(&server.address, &["alloc", "list", "--all"])["items"].clone();
        listed.as_array().unwrap().iter().map(|each| each["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("all six run", || (states() == ["running"; 6]).then_some(()));
    stage.run(&["--addr", &server.address, "job", "stop", "deaf"]).says(0, &[]);
    eventually("all six are asked to end", || (stage.text("asked").lines().count() == 6).then_some(()));
    sleeper.signal(Signal::SIGSTOP);
    // Their shims have a second to kill them, and ten more until the agent would.
    std::thread::sleep(std::time::Duration::from_secs(12));
    assert_eq!(stage.processes("trap 'echo"), []);
    sleeper.signal(Signal::SIGCONT);
    eventually("it tells of their ends", || (states() == ["stopped"; 6]).then_some(()));
    assert!(!stage.text("sleeper.err").contains("in time: killing"), "{}", stage.text("sleeper.err"));
}

/// Thirty short tasks that write down that they ran. The last of them wait for a file: until then the job is not over.
const COUNTED: &str = r#"
name = "counted"
scheduler = "batch"
[group.main]
count = 30
command = ["/bin/sh", "-c", """
echo $PLENUM_TASK_INDEX $PLENUM_ALLOC_ID >> $STAGE/starts; sleep 0.2
[ $PLENUM_TASK_INDEX -lt 27 ] || until [ -e $STAGE/go ]; do sleep 0.1; done"""]
env = { STAGE = "$STAGE" }
resources = { cpu = "200m", memory = "16MiB" }
"#;

#[test]
fn whoever_is_paused_meanwhile_each_task_runs_once() {
    let stage = Stage::new();
    let server = server_with(&stage, SHORT_LEASES);
    let scheduler = stage.scheduler(&server.address, "batch");
    let agent = agent(&stage, &server.address, "m1");
    stage.submit(&server.address, "counted.toml", COUNTED);
    for (number, part) in [&scheduler, &agent, &server.process].into_iter().cycle().take(6).enumerate() {
        eventually("the job goes on", || (starts(&stage).len() > number * 3).then_some(()));
        part.signal(Signal::SIGSTOP);
        std::thread::sleep(std::time::Duration::from_millis(700));
        if number == 4 {
            let is_away = || machine_state(&stage, &server.address, "m1").filter(|state| state == "unreachable");
            eventually("the agent's lease runs out in its second pause", is_away);
        }
        part.signal(Signal::SIGCONT);
    }
    stage.file("go", "");
    eventually("the job completes", || {
        let job = stage.try_ask(&server.address, &["job", "show", "counted"]).ok()?;
        (job["state"] == "complete").then_some(())
    });
    let mut tasks: Vec<u32> = starts(&stage).iter().map(|(task, ..)| task.parse().unwrap()).collect();
    tasks.sort_unstable();
    assert_eq!(tasks, (0..30).collect::<Vec<_>>(), "each once");
    assert_eq!(server.stop().code(), Some(0));
    stage.run(&["verify", "--dir", &stage.word("cell")]).says(0, &[]);
}

// All leases had run out by the server's clock when it went on, before it had read what agents had sent meanwhile: all machines were unreachable
// at once, and what was not to be waited for was lost.
#[test]
fn a_server_that_slept_takes_no_agent_that_was_there_for_gone() {
    let stage = Stage::new();
    let server = server_with(&stage, SHORT_LEASES);
    let _scheduler = stage.scheduler(&server.address, "batch");
    let _agent = agent(&stage, &server.address, "m1");
    stage.submit(&server.address, "written-down.toml", &WRITTEN_DOWN.replace("\"1s\"", "\"0s\""));
    eventually("all four run", || (starts(&stage).len() == 4).then_some(()));
    server.process.signal(Signal::SIGSTOP);
    std::thread::sleep(std::time::Duration::from_secs(8));
    server.process.signal(Signal::SIGCONT);
    stage.file("go", "");
    eventually("the job completes", || {
        let job = stage.ask(&server.address, &["job", "show", "written-down"]);
        (job["state"] == "complete").then_some(())
    });
    assert_eq!(starts(&stage).len(), 4, "each once");
    let machine = stage.ask(&server.address, &["machine", "show", "m1", "--history"]);
    let events = machine["history"]["items"].as_array().unwrap().len();
    assert_eq!((events, &machine["epoch"]), (1, &1.into()), "{machine:#}");
}

// A stopped server hung every command without a word.
#[test]
fn who_asks_a_server_that_is_stopped_is_told_what_is_waited_for() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    server.process.signal(Signal::SIGSTOP);
    let mut asking = stage.start("asking", &["--addr", &server.address, "-o", "json", "job", "list"]);
    let told = format!("the server at {} accepts connections and does not answer; still waiting\n", server.address);
    eventually("the one who asks is told", || (stage.text("asking.err") == told).then_some(()));
    server.process.signal(Signal::SIGCONT);
    assert_eq!(asking.ended().code(), Some(0));
    assert_eq!(stage.text("asking.err"), told, "once");
}

// Whoever asked from a script had a minute to wait; and a change that was given up read as one that was not made.
#[test]
fn an_answer_is_waited_for_as_long_as_was_said_and_what_was_to_change_is_unknown_then() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    server.process.signal(Signal::SIGSTOP);
    // Time enough to connect, for which the same limit holds.
    let ask = |words: &[&str]| {
        stage.run(&[&["--addr", &server.address, "--request-timeout", "2s", "-o", "json"], words].concat())
    };
    let asked = ask(&["job", "list"]);
    assert_eq!((asked.code(), asked.error()["code"].as_str()), (Some(1), Some("UNAVAILABLE")), "{asked}");
    assert!(asked.error()["message"].as_str().unwrap().contains("2.0s (--request-timeout)"), "{asked}");
    let changed = ask(&["job", "stop", "web"]);
    assert_eq!((changed.code(), changed.error()["code"].as_str()), (Some(1), Some("OUTCOME_UNKNOWN")), "{changed}");
    let kept = ask(&["backup", "--out", &stage.word("cell.backup")]);
    assert_eq!((kept.code(), kept.error()["code"].as_str()), (Some(1), Some("UNAVAILABLE")), "{kept}");
    server.process.signal(Signal::SIGCONT);
}
