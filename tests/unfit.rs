//! Machines whose own agents want no new tasks there: one that was asked to end, and one that can't write its state.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    disk::SmallDisk,
    skips::skipped,
    stage::{Stage, eventually, is_root},
};

/// A job of one task, which waits for a file of its own.
fn job(name: &str) -> String {
    format!(
        r#"
name = "{name}"
scheduler = "batch"
[group.wait]
command = ["/bin/sh", "-c", "while ! [ -e $STAGE/end-{name} ]; do sleep 0.1; done"]
env = {{ STAGE = "$STAGE" }}
resources = {{ cpu = "100m", memory = "16MiB" }}
"#
    )
}

/// A cell that gives nobody up while this is told: whatever is told of the machine, its agent said.
const PATIENT: &str = "lease = \"10m\"\n";

fn machine(stage: &Stage, address: &str, state: &str) -> Value {
    eventually(&format!("the machine is {state}"), || {
        let machine = stage.try_ask(address, &["machine", "show", "m1"]).ok()?;
        (machine["state"] == state).then_some(machine)
    })
}

/// Lets the task of a job end.
fn completes(stage: &Stage, address: &str, name: &str) {
    stage.file(&format!("end-{name}"), "");
    eventually(&format!("{name} is complete"), || {
        let job = stage.try_ask(address, &["job", "show", name]).ok()?;
        (job["state"] == "complete").then_some(())
    });
}

fn runs(stage: &Stage, address: &str, name: &str) {
    eventually(&format!("{name} runs"), || {
        let job = stage.try_ask(address, &["job", "show", name]).ok()?;
        (job["groups"][0]["running"] == 1).then_some(())
    });
}

fn waits(stage: &Stage, address: &str, name: &str) {
    eventually(&format!("it is known why {name} waits"), || {
        let job = stage.try_ask(address, &["job", "show", name]).ok()?;
        assert_eq!(job["groups"][0]["running"], 0, "{job:#}");
        job["waiting_reason"].as_str()?.contains("cordoned").then_some(())
    });
}

/// Its machine stayed ready until the lease ended, and what was placed there meanwhile waited for that.
#[test]
fn an_agent_that_is_asked_to_end_says_so_and_its_tasks_go_on() {
    let stage = Stage::new();
    let config = stage.file("server.toml", PATIENT);
    let server = stage.server("cell", None, &["--config", &config]);
    let address = server.address.clone();
    let (_scheduler, mut agent) = (stage.scheduler(&address, "batch"), stage.agent(&address, "agent"));
    stage.submit(&address, "first.toml", &job("first"));
    runs(&stage, &address, "first");
    let before = machine(&stage, &address, "ready");
    let processes = stage.processes("end-first");

    agent.signal(Signal::SIGTERM);
    assert!(agent.ended().success());
    let left = stage.ask(&address, &["machine", "show", "m1"]);
    assert_eq!((&left["state"], &left["unfit"]), (&json!("cordoned"), &json!("agent-leaves")), "{left:#}");
    assert_eq!(left["cordoned"], false, "no operator did that");
    let shown = stage.run(&["--addr", &address, "machine", "show", "m1", "--history"]).out;
    for words in
        ["its agent was asked to end; what runs there goes on", "its agent leaves", "report-fitness by agent/m1"]
    {
        assert!(shown.contains(words), "expected {words:?} in:\n{shown}");
    }
    stage.submit(&address, "second.toml", &job("second"));
    waits(&stage, &address, "second");
    runs(&stage, &address, "first");

    let _agent = stage.agent(&address, "agent");
    let after = machine(&stage, &address, "ready");
    assert_eq!((&after["epoch"], &after["unfit"]), (&before["epoch"], &Value::Null));
    runs(&stage, &address, "second");
    assert!(processes.iter().all(|process| process.is_there()), "they never stopped: {processes:?}");
    assert!(server.stop().success());
}

/// It stayed ready, and each task that it got there failed.
#[test]
fn a_machine_whose_agent_has_no_room_takes_no_tasks_until_there_is_some() {
    if !is_root() {
        skipped("only root can mount the small disk that this story needs");
        return;
    }
    let stage = Stage::new();
    let disk = SmallDisk::mount(stage.path("disk"), 64 << 20);
    let server = stage.server("cell", None, &[]);
    let address = server.address.clone();
    let (_scheduler, agent) = (stage.scheduler(&address, "batch"), stage.agent(&address, "disk/agent"));
    stage.submit(&address, "first.toml", &job("first"));
    runs(&stage, &address, "first");

    disk.fill_up_to(0);
    let full = machine(&stage, &address, "cordoned");
    assert_eq!(full["unfit"], "state-unwritable", "{full:#}");
    let list = stage.run(&["--addr", &address, "machine", "list"]).out;
    assert!(list.contains("cordoned (state-unwritable)"), "{list}");
    assert_eq!(stage.ask(&address, &["status"])["machines_unfit"]["state-unwritable"], 1);
    let status = stage.run(&["--addr", &address, "status"]).out;
    assert!(status.contains("1 cordoned (state-unwritable)"), "{status}");
    stage.submit(&address, "second.toml", &job("second"));
    waits(&stage, &address, "second");
    runs(&stage, &address, "first");

    disk.free();
    machine(&stage, &address, "ready");
    runs(&stage, &address, "second");
    for name in ["first", "second"] {
        completes(&stage, &address, name);
    }
    drop(agent);
    assert!(server.stop().success());
}

/// What ended tasks had printed filled the disk, and only after an end anything was given up: no new task came that could end, and the machine took none
/// until somebody deleted it by hand.
#[test]
fn a_disk_that_ended_tasks_have_filled_takes_tasks_again_by_itself() {
    if !is_root() {
        skipped("only root can mount the small disk that this story needs");
        return;
    }
    let stage = Stage::new();
    let disk = SmallDisk::mount(stage.path("disk"), 64 << 20);
    let server = stage.server("cell", None, &[]);
    let address = server.address.clone();
    let (_scheduler, agent) = (stage.scheduler(&address, "batch"), stage.agent(&address, "disk/agent"));
    let waiting = "while ! [ -e $STAGE/end-loud ]; do sleep 0.1; done";
    stage.submit(&address, "loud.toml", &job("loud").replace(waiting, "head -c 12000000 /dev/zero"));
    let id = eventually("the loud one is complete, and marked so", || {
        let ended = stage.try_ask(&address, &["alloc", "list", "--all", "--filter", "job=loud"]).ok()?;
        let id = ended["items"][0]["id"].as_str()?.to_owned();
        stage.path(&format!("disk/agent/allocs/{id}/ended")).exists().then_some(id)
    });

    disk.fill_up_to(0);
    eventually("what it printed is given up", || stage.text("agent.err").contains("was given up").then_some(()));
    machine(&stage, &address, "ready");
    stage.submit(&address, "second.toml", &job("second"));
    runs(&stage, &address, "second");
    let logs = stage.run(&["--addr", &address, "alloc", "logs", &id]);
    assert!(logs.out.is_empty() && logs.err.contains("skipped 12000000 bytes"), "{}", logs.err);
    completes(&stage, &address, "second");
    drop(agent);
    assert!(server.stop().success());
}

/// It failed what it got within milliseconds, had room again, and got the next ones: it used up the attempts of all that waited.
#[test]
fn a_machine_that_can_set_no_task_up_takes_none_for_a_while_and_says_so() {
    let stage = Stage::new();
    let config = stage.file("server.toml", PATIENT);
    let server = stage.server("cell", None, &["--config", &config]);
    let address = server.address.clone();
    let (_scheduler, agent) = (stage.scheduler(&address, "batch"), stage.agent(&address, "agent"));
    machine(&stage, &address, "ready");
    // No directory of a job can be made below a file.
    let jobs = stage.path("agent/jobs");
    std::fs::remove_dir_all(&jobs).unwrap();
    std::fs::write(&jobs, "").unwrap();
    let several = job("several").replace("[group.wait]", "[group.wait]\ncount = 3");
    stage.submit(&address, "several.toml", &several);
    let broken = machine(&stage, &address, "cordoned");
    assert_eq!((&broken["unfit"], &broken["cordoned"]), (&json!("setup-fails"), &json!(false)), "{broken:#}");
    let list = stage.run(&["--addr", &address, "machine", "list"]).out;
    assert!(list.contains("cordoned (setup-fails)"), "{list}");
    let shown = stage.run(&["--addr", &address, "machine", "show", "m1", "--history"]).out;
    for words in ["could not set several tasks up", "its agent can't set tasks up"] {
        assert!(shown.contains(words), "expected {words:?} in:\n{shown}");
    }
    stage.submit(&address, "second.toml", &job("second"));
    waits(&stage, &address, "second");
    let second = stage.ask(&address, &["job", "show", "second"]);
    assert_eq!(second["groups"][0]["failed"], 0, "{second:#}");
    drop(agent);
    assert!(server.stop().success());
}
