//! A full cell, and a job of a higher band: real parts, whose tasks are processes.

use serde_json::{Value, json};

use crate::stage::{Stage, eventually};

/// One task that has all of the machine's CPU, says that it is up, and ends when a file of its name is there, whatever it was told.
fn job(name: &str, priority: u32, cpu_millis: u64) -> String {
    format!(
        r#"
name = "{name}"
scheduler = "batch"
priority = {priority}
[group.wait]
command = ["/bin/sh", "-c", "trap '' TERM; touch $STAGE/$PLENUM_JOB.up; while ! [ -e $STAGE/$PLENUM_JOB ]; do sleep 0.1; done"]
env = {{ STAGE = "$STAGE" }}
resources = {{ cpu = "{cpu_millis}m", memory = "16MiB" }}
kill_timeout = "10m"
"#
    )
}

/// One transaction evicted `whom`, of low, for high.
fn assert_evicts(ask: &dyn Fn(&[&str]) -> Value, whom: &Value) {
    let list = ask(&["txn", "list"]);
    let evict: Vec<&Value> = list["items"].as_array().unwrap().iter().filter(|txn| txn["evicted"] != 0).collect();
    let [txn] = evict[..] else { panic!("{list:#}") };
    let txn = ask(&["txn", "show", txn["id"].as_str().unwrap()]);
    let (ids, eviction) = (&txn["evicted_allocations"], &txn["evictions"][0]);
    let told = (ids, &eviction["job"], &eviction["for"]["job"]);
    assert_eq!(told, (&json!([whom]), &json!("low"), &json!("high")), "{txn:#}");
}

#[test]
fn a_job_of_a_higher_band_starts_on_a_full_cell_and_who_was_evicted_completes_later() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let (_scheduler, _agent) = (stage.scheduler(&server.address, "batch"), stage.agent(&server.address, "agent"));
    let ask = |arguments: &[&str]| stage.ask(&server.address, arguments);
    let cpu_millis = eventually("the machine is there", || {
        let machines = stage.try_ask(&server.address, &["machine", "list"]).ok()?;
        machines["items"][0]["capacity"]["cpu_millis"].as_u64()
    });
    let submit =
        |name: &str, priority| stage.submit(&server.address, &format!("{name}.toml"), &job(name, priority, cpu_millis));
    let stands = |name: &str, (state, running, waiting): (&str, u64, u64)| {
        eventually(&format!("{name} is {state}, {running} of it run and {waiting} wait"), || {
            let job = stage.try_ask(&server.address, &["job", "show", name]).ok()?;
            let group = &job["groups"][0];
            (job["state"] == state && group["running"] == running && group["waiting"] == waiting).then_some(job)
        })
    };
    submit("low", 10);
    stands("low", ("running", 1, 0));
    let first = ask(&["alloc", "list", "--job", "low"])["items"][0]["id"].clone();
    // It does not listen from then on.
    eventually("low is up", || stage.path("low.up").exists().then_some(()));
    submit("high", 90);
    let waits_for = |whom: Value| {
        eventually(&format!("high waits for {whom}"), || {
            let list = stage.try_ask(&server.address, &["alloc", "list", "--job", "high"]).ok()?;
            (list["items"][0]["waits_for_allocations"] == whom).then_some(())
        });
    };
    waits_for(json!([first]));
    stage.file("low", "");
    waits_for(json!([]));
    // Its next attempt is to run until it may end, too.
    std::fs::remove_file(stage.path("low")).unwrap();
    stands("high", ("running", 1, 0));
    let low = eventually("low says why it waits", || {
        let job = ask(&["job", "show", "low"]);
        job["waiting_reason"].as_str()?.contains("short of cpu").then_some(job)
    });
    assert_eq!((&low["groups"][0]["waiting"], &low["groups"][0]["failed"]), (&json!(1), &json!(0)), "{low:#}");

    // Who went for whom is told from both sides.
    let evicted = ask(&["alloc", "show", first.as_str().unwrap()]);
    assert_eq!(
        (&evicted["state"], &evicted["reason"]),
        (&json!("evicted"), &json!("evicted for default/high")),
        "{evicted:#}"
    );
    assert_evicts(&ask, &first);

    // One of its own band waits, and is told that nobody goes for it.
    submit("equal", 99);
    let told = eventually("equal says why it waits", || {
        let job = ask(&["job", "show", "equal"]);
        job["waiting_reason"].as_str().filter(|reason| reason.contains("short of cpu")).map(str::to_owned)
    });
    assert!(!told.contains("evict"), "nobody of a lower band is left: {told}");
    stage.file("high", "");
    stands("high", ("complete", 0, 0));
    stands("equal", ("running", 1, 0));
    stage.file("equal", "");
    stands("equal", ("complete", 0, 0));
    stands("low", ("running", 1, 0));
    stage.file("low", "");
    stands("low", ("complete", 0, 0));
}
