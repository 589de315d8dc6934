//! Tasks that run and that a restored cell has never heard of: listed, adopted, stopped on request or after a time.

use serde_json::{Value, json};

use crate::stage::{Stage, eventually};

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
kill_timeout = "1s"
"#
    )
}

/// Submits the job, and waits until it runs.
fn run(stage: &Stage, address: &str, name: &str) {
    stage.submit(address, &format!("{name}.toml"), &job(name));
    eventually(&format!("{name} runs"), || {
        let job = stage.try_ask(address, &["job", "show", name]).ok()?;
        (job["groups"][0]["running"] == 1).then_some(())
    });
}

/// Three unknown tasks are told of where people look first.
fn are_counted(stage: &Stage, address: &str) {
    let list = stage.run(&["--addr", address, "machine", "list"]);
    list.says(0, &[&format!("`plenum --addr {address} machine show m1` lists")]);
    assert!(list.out.contains("0 +3 unknown"), "{list}");
    let status = stage.run(&["--addr", address, "status"]).out;
    assert!(status.contains("3 tasks on 1 machine (3 to be stopped unless adopted)"), "{status}");
}

/// Adopts an unknown task, and stops it after all.
fn changes_their_mind(stage: &Stage, address: &str, id: &str) {
    stage.ask(address, &["machine", "adopt", "m1", id]);
    let stopped = stage.ask(address, &["alloc", "stop", id]);
    assert_eq!((&stopped["name"], &stopped["changed"]), (&json!(id), &json!(true)));
}

#[test]
fn an_unknown_task_runs_on_when_it_is_adopted_and_is_stopped_on_request_or_after_its_time() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let (address, port) = (server.address.clone(), server.port());
    let (_scheduler, _agent) = (stage.scheduler(&address, "batch"), stage.agent(&address, "agent"));
    let machine = || stage.try_ask(&address, &["machine", "show", "m1"]).ok();
    eventually("the machine is there", || machine().filter(|machine| machine["state"] == "ready"));
    let backup = stage.word("before.backup");
    stage.ask(&address, &["backup", "--out", &backup]);
    let names = ["kept", "left", "unwanted"];
    names.iter().for_each(|name| run(&stage, &address, name));
    let processes = |name: &str| stage.processes(&format!("end-{name}")).len();
    assert!(names.iter().all(|name| processes(name) > 0));
    drop(server);

    stage.run(&["restore", "--from", &backup, "--dir", &stage.word("restored")]).says(0, &[]);
    let config = stage.file("server.toml", "unknown_after = \"10s\"\n");
    let server = stage.server("restored", Some(port), &["--config", &config]);
    assert_eq!(server.address, address);
    let unknown = |count: usize| {
        eventually(&format!("{count} unknown tasks are listed"), || {
            let machine = machine()?;
            let tasks = machine["unknown"].as_array()?.clone();
            (tasks.len() == count && machine["unknown_tasks"] == count).then_some(tasks)
        })
    };
    let tasks = unknown(3);
    let of = |tasks: &[Value], name: &str| tasks.iter().find(|task| task["job"] == name).unwrap().clone();
    let (kept, left) = (of(&tasks, "kept"), of(&tasks, "left"));
    let id = kept["allocation"].as_str().unwrap();
    assert!(id.starts_with("alloc-") && kept["since"].is_string() && kept["until"].is_string(), "{kept:#}");
    let named = (&kept["machine"], &kept["namespace"], &kept["group"], &kept["task_index"]);
    assert_eq!(named, (&json!("m1"), &json!("default"), &json!("wait"), &json!(0)));
    assert_eq!((&kept["adopted"], &kept["resources"]["cpu_millis"]), (&json!(false), &json!(100)));
    assert_eq!(machine().unwrap()["allocated"]["cpu_millis"], 300, "they have their room");

    are_counted(&stage, &address);
    let adopted = stage.ask(&address, &["machine", "adopt", "m1", id]);
    assert_eq!((&adopted["name"], &adopted["changed"]), (&json!(id), &json!(true)));
    let wrong = stage.run(&["--addr", &address, "-o", "json", "machine", "adopt", "m1", "alloc-77-1"]);
    assert_eq!((wrong.code(), wrong.error()["code"].as_str()), (Some(1), Some("NO_SUCH_TASK")), "{wrong}");
    let shown = stage.run(&["--addr", &address, "machine", "show", "m1"]);
    shown.says(0, &[]);
    assert!(
        ["UNKNOWN TASK", "FATE", "adopted", "kept", "wait[0]"].iter().all(|words| shown.out.contains(words)),
        "{shown}"
    );

    let unwanted = of(&tasks, "unwanted");
    let unwanted = unwanted["allocation"].as_str().unwrap();
    changes_their_mind(&stage, &address, unwanted);
    eventually("it is stopped, and off the list", || {
        let tasks = machine()?["unknown"].as_array()?.clone();
        (processes("unwanted") == 0 && tasks.iter().all(|task| task["job"] != "unwanted")).then_some(())
    });

    // The other one's time ends, its agent stops it, and with the receipt it goes off the list.
    let tasks = unknown(1);
    let kept = of(&tasks, "kept");
    assert_eq!((&kept["adopted"], &kept["until"], &kept["stopping"]), (&json!(true), &Value::Null, &json!(false)));
    assert_eq!((processes("left"), machine().unwrap()["allocated"]["cpu_millis"].as_u64()), (0, Some(100)));
    assert!(processes("kept") > 0, "{left:#} was stopped, and only that");
    stage.run(&["--addr", &address, "alloc", "stop", unwanted]).says(1, &["has ended"]);
    stage.file("end-kept", "");
    unknown(0);
    assert_eq!(machine().unwrap()["allocated"]["cpu_millis"], 0);
    assert!(server.stop().success());
    let verified = stage.run(&["verify", "--dir", &stage.word("restored"), "-o", "json"]).json();
    assert!(verified["sound"] == true, "{verified:#}");
}
