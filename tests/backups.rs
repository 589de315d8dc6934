//! A cell goes on from its backup: what ran goes on running, and everybody comes back by themselves.

use nix::sys::signal::Signal;

use crate::stage::{Stage, eventually};

/// Two tasks that wait for a file of the test's folder.
const WAITING: &str = r#"
name = "waiting"
scheduler = "batch"
[group.wait]
count = 2
command = ["/bin/sh", "-c", "while ! [ -e $STAGE/go ]; do sleep 0.1; done"]
env = { STAGE = "$STAGE" }
resources = { cpu = "100m", memory = "16MiB" }
"#;

/// One more, which the backup does not know.
const LATER: &str = r#"
name = "later"
scheduler = "batch"
[group.wait]
command = ["/bin/sh", "-c", "while ! [ -e $STAGE/end ]; do sleep 0.1; done"]
env = { STAGE = "$STAGE" }
resources = { cpu = "100m", memory = "16MiB" }
"#;

/// The words of its tasks.
const TASK: &str = "while ! [ -e";

#[test]
fn a_restored_cell_finds_its_tasks_running_and_brings_them_to_their_end() {
    let stage = Stage::new();
    let mut server = stage.server("cell", None, &[]);
    let (address, port) = (server.address.clone(), server.port());
    let _scheduler = stage.scheduler(&address, "batch");
    let _agent = stage.agent(&address, "agent");
    stage.submit(&address, "waiting.toml", WAITING);
    eventually("both tasks run", || {
        let job = stage.try_ask(&address, &["job", "show", "waiting"]).ok()?;
        (job["groups"][0]["running"] == 2).then_some(())
    });

    std::fs::create_dir(stage.path("backups")).unwrap();
    let taken = stage.ask(&address, &["backup", "--out", &stage.word("backups")]);
    let file = taken["path"].as_str().unwrap().to_owned();
    assert!(taken["incarnation"] == 1 && taken["revision"].as_u64() > Some(1), "{taken:#}");
    let again = stage.run(&["backup", "--addr", &address, "--out", &file, "-o", "json"]);
    assert_eq!(again.error()["code"], "ALREADY_THERE");
    stage.submit(&address, "later.toml", LATER);
    eventually("the later task runs", || {
        let job = stage.try_ask(&address, &["job", "show", "later"]).ok()?;
        (job["groups"][0]["running"] == 1).then_some(())
    });
    let before: Vec<i32> = stage.processes(TASK).iter().map(|found| found.id).collect();
    server.process.signal(Signal::SIGKILL);
    server.process.ended();

    let restored = stage.run(&["restore", "--from", &file, "--dir", &stage.word("restored"), "-o", "json"]).json();
    assert!(restored["incarnation"] == 2 && restored["loss"].is_null(), "{restored:#}");
    let twice = stage.run(&["restore", "--from", &file, "--dir", &stage.word("restored"), "-o", "json"]);
    assert_eq!(twice.error()["code"], "ALREADY_THERE");
    let server = stage.server("restored", Some(port), &[]);
    assert_eq!(stage.ask(&server.address, &["status"])["incarnation"], 2);
    eventually("the agent is back under the new incarnation", || {
        let machines = stage.try_ask(&server.address, &["machine", "list"]).ok()?;
        (machines["items"][0]["epoch"].as_u64()? > 1000).then_some(())
    });
    let taken = |cpu_millis: u64| {
        let machines = stage.try_ask(&server.address, &["machine", "list"]).ok()?;
        (machines["items"][0]["allocated"]["cpu_millis"] == cpu_millis).then_some(())
    };
    eventually("what the backup does not know has its room", || taken(300));
    let after: Vec<i32> = stage.processes(TASK).iter().map(|found| found.id).collect();
    assert!(before.iter().all(|id| after.contains(id)), "{before:?} went on, and {after:?} are there");
    stage.file("go", "");
    eventually("the job is complete", || {
        let job = stage.try_ask(&server.address, &["job", "show", "waiting"]).ok()?;
        (job["state"] == "complete").then_some(())
    });
    eventually("the unknown task alone is left", || taken(100));
    stage.file("end", "");
    eventually("its end frees its room", || taken(0));
    assert!(server.stop().success());
    let verified = stage.run(&["verify", "--dir", &stage.word("restored"), "-o", "json"]).json();
    assert!(verified["sound"] == true && verified["violations"].as_array().unwrap().is_empty(), "{verified:#}");
}
