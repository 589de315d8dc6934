//! A gang that takes room aside, and recurring jobs that are launched.

use serde_json::json;

use crate::{
    rivals::Rivals,
    stage::{Stage, eventually},
};

/// The gang lost a race; with a hold it gets its room as soon as somebody leaves, whoever else asks first.
#[test]
fn a_gang_that_holds_room_gets_it_before_those_who_came_later() {
    let stage = Stage::new();
    let config = stage.file("server.toml", "lease = \"10m\"\n");
    let server = stage.server("cell", None, &["--config", &config]);
    let ask = |arguments: &[&str]| stage.ask(&server.address, arguments);
    let rivals = Rivals::new(&server.address);
    let machines = ["m1", "m2"].map(|name| rivals.machine(name, 1).unwrap());
    let [gang, other] = ["gang", "other"].map(|name| rivals.open(name).unwrap());
    let (train, filler) = (rivals.job("train", "gang", 2).unwrap(), rivals.job("filler", "other", 3).unwrap());
    let base = rivals.revision().unwrap();
    let first = rivals.commit(other.claims(1, base, filler, &machines[0], &[0])).unwrap();
    let all_or_nothing = |number, base| {
        let mut asked = gang.claims(number, base, train, &machines[0], &[0, 1]);
        asked.placements[0].machines = machines.iter().map(|machine| machine.slot).collect();
        asked.placements[0].min = 2;
        asked.atomic = true;
        asked
    };
    let lost = rivals.commit(all_or_nothing(1, base)).unwrap();
    assert_eq!((lost.claims, lost.granted), (2, 0));
    let told = ask(&["txn", "show", &format!("txn-{}-1", gang.session)]);
    let mut kinds: Vec<_> = told["refusals"].as_array().unwrap().iter().map(|each| each["kind"].clone()).collect();
    kinds.sort_by_key(ToString::to_string);
    assert_eq!((&told["outcome"], kinds), (&json!("refused"), vec![json!("conflict"), json!("mate")]));

    // There is room on m2 only; it is held, and the others do not get it.
    assert!(rivals.hold(&gang, train, &[&machines[1]]).unwrap().changed);
    let short = rivals.hold(&gang, train, &[&machines[0], &machines[1]]).unwrap_err();
    assert!(short.message().contains("m1 is short of cpu by 1000m"), "{short}");
    let held = &ask(&["hold", "list"])["items"][0];
    assert_eq!((&held["job"], &held["machines"], &held["priority"]), (&json!("train"), &json!(["m2"]), &json!(50)));
    assert!(held["deadline"].is_string() && held["resources"]["cpu_millis"] == 1000, "{held:#}");
    let refused = rivals.commit(other.claims(2, base, filler, &machines[1], &[1])).unwrap();
    assert_eq!(refused.granted, 0);
    let told = ask(&["txn", "show", &format!("txn-{}-2", other.session)]);
    let refusal = &told["refusals"][0];
    assert_eq!((&refusal["kind"], &refusal["culprit"]["event"]), (&json!("conflict"), &json!("hold")), "{refusal:#}");

    // Whoever was first leaves, its agent says so, and the gang has both machines; then the hold is over.
    let leaving = first.placements[0].allocations[0];
    let mut stop = other.claims(3, rivals.revision().unwrap(), filler, &machines[0], &[]);
    (stop.placements, stop.stops) = (Vec::new(), vec![leaving]);
    rivals.commit(stop).unwrap();
    let ended = plenum_proto::v1::Transition {
        allocation: leaving,
        state: plenum_proto::v1::AllocationState::Stopped.into(),
        ..Default::default()
    };
    let (machine, epoch) = (machines[0].id, machines[0].epoch);
    let receipt = plenum_proto::v1::ReportRequest { machine, epoch, transitions: vec![ended], ..Default::default() };
    rivals.report(receipt).unwrap();
    let won = rivals.commit(all_or_nothing(2, rivals.revision().unwrap())).unwrap();
    assert_eq!((won.claims, won.granted), (2, 2), "{won:?}");
    assert_eq!(ask(&["hold", "list"])["items"], json!([]), "a hold ends with what it was for");
    let allocations = ask(&["alloc", "list", "--job", "train"]);
    let places: Vec<_> = allocations["items"].as_array().unwrap().iter().map(|each| each["machine"].clone()).collect();
    assert_eq!(places, [json!("m1"), json!("m2")]);
    // What a transaction did can be gone on with.
    let ids: Vec<_> = allocations["items"].as_array().unwrap().iter().map(|each| each["id"].clone()).collect();
    let told = ask(&["txn", "show", &format!("txn-{}-2", gang.session)]);
    assert_eq!((&told["allocations"], &told["stopped_allocations"]), (&json!(ids), &json!([])), "{told:#}");
    let told = ask(&["txn", "show", &format!("txn-{}-3", other.session)]);
    assert_eq!(told["stopped_allocations"].as_array().map(Vec::len), Some(1), "{told:#}");
}

/// Its children wait for a file of their own.
const NIGHTLY: &str = r#"
name = "nightly"
scheduler = "cron"
runs = "recurring"
options = { "launch.scheduler" = "batch" }
[group.wait]
command = ["/bin/sh", "-c", "while ! [ -e $STAGE/$PLENUM_JOB ]; do sleep 0.1; done"]
env = { STAGE = "$STAGE" }
resources = { cpu = "100m", memory = "16MiB" }
"#;

#[test]
fn a_recurring_job_is_launched_once_for_each_instant_and_its_children_may_overlap() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let (_scheduler, _agent) = (stage.scheduler(&server.address, "batch"), stage.agent(&server.address, "agent"));
    let ask = |arguments: &[&str]| stage.ask(&server.address, arguments);
    let fails = |arguments: &[&str]| stage.run(&[&["--addr", &server.address, "-o", "json"], arguments].concat());
    let state = |name: &str| {
        let job = stage.try_ask(&server.address, &["job", "show", name]).ok()?;
        Some((job["state"].as_str()?.to_owned(), job["groups"][0]["running"].as_u64()?))
    };
    let stands = |name: &str, wanted: (&str, u64)| {
        eventually(&format!("{name} is {wanted:?}"), || {
            state(name).filter(|(state, running)| (state.as_str(), *running) == wanted)
        })
    };
    stage.submit(&server.address, "nightly.toml", NIGHTLY);
    let nightly = ask(&["job", "show", "nightly"]);
    assert_eq!((&nightly["runs"], &nightly["scheduler"]), (&json!("recurring"), &json!("cron")), "{nightly:#}");
    assert!(nightly["waiting_reason"].as_str().unwrap().contains("waits for its first launch"), "{nightly:#}");

    let monday = ask(&["job", "launch", "nightly", "--at", "2026-11-16T03:00:00Z"]);
    assert_eq!((&monday["name"], &monday["parent"]), (&json!("nightly-1794798000"), &json!("nightly")));
    assert_eq!(monday["instant"], "2026-11-16T03:00:00Z");
    stands("nightly-1794798000", ("running", 1));
    // The next instant comes while the first child still runs.
    let tuesday = ask(&["job", "launch", "nightly", "--at", "2026-11-17T03:00:00Z"]);
    assert_eq!(tuesday["name"], "nightly-1794884400");
    stands("nightly-1794884400", ("running", 1));
    stands("nightly-1794798000", ("running", 1));
    // An answer may have been lost.
    for (again, child) in [("2026-11-17T03:00:00Z", &tuesday), ("2026-11-16T03:00:00Z", &monday)] {
        let answer = ask(&["job", "launch", "nightly", "--at", again]);
        assert_eq!((&answer["name"], &answer["changed"]), (&child["name"], &json!(false)), "{answer:#}");
    }
    let nightly = ask(&["job", "show", "nightly"]);
    assert_eq!(
        (&nightly["last_instant"], &nightly["groups"][0]["waiting"]),
        (&tuesday["instant"], &json!(0)),
        "{nightly:#}"
    );
    let next = "waits for its next launch, after the one for 2026-11-17T03:00:00Z";
    assert!(nightly["waiting_reason"].as_str().unwrap().contains(next), "{nightly:#}");
    assert_eq!(ask(&["status"])["jobs"]["recurring"], 1);
    let schedulers = ask(&["scheduler", "list"]);
    let cron = schedulers["items"].as_array().unwrap().iter().find(|row| row["name"] == "cron").unwrap();
    assert_eq!((&cron["jobs"], &cron["waiting_tasks"]), (&json!(1), &json!(0)), "{cron:#}");
    assert_eq!(nightly["options"], json!({"launch.scheduler": "batch"}));
    let child = ask(&["job", "show", "nightly-1794798000"]);
    assert_eq!((&child["parent"], &child["instant"]), (&json!("nightly"), &monday["instant"]), "{child:#}");
    assert_eq!(child["last_instant"], json!(null), "{child:#}");
    let story = ask(&["job", "history", "nightly"]);
    let told: Vec<_> = story["items"].as_array().unwrap().iter().map(|event| event["detail"].clone()).collect();
    assert!(told.contains(&json!("nightly-1794884400")) && told.contains(&json!("nightly-1794798000")), "{story:#}");
    for over in ["2026-11-17T02:59:59Z", "2026-11-15T03:00:00Z"] {
        let passed = fails(&["job", "launch", "nightly", "--at", over]);
        assert_eq!((passed.code(), passed.error()["code"].as_str()), (Some(1), Some("INSTANT_PASSED")), "{passed}");
    }
    stage.file("nightly-1794798000", "");
    stands("nightly-1794798000", ("complete", 0));
    stands("nightly-1794884400", ("running", 1));

    // A stopped parent launches nothing more; what was launched runs on.
    ask(&["job", "stop", "nightly"]);
    let stopped = fails(&["job", "launch", "nightly", "--at", "2026-11-18T03:00:00Z"]);
    assert_eq!(stopped.code(), Some(1), "{stopped}");
    stage.file("nightly-1794884400", "");
    stands("nightly-1794884400", ("complete", 0));
    let listed = ask(&["job", "list"]);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3), "{listed:#}");
}

#[test]
fn who_launches_a_job_waits_for_what_becomes_of_it_and_finds_it_by_its_parent() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let (_scheduler, _agent) = (stage.scheduler(&server.address, "batch"), stage.agent(&server.address, "agent"));
    stage.submit(&server.address, "nightly.toml", NIGHTLY);
    stage.file("nightly-1794798000", "");
    let launch = ["--addr", &server.address, "-o", "json", "job", "launch", "nightly", "--at"];
    let wait =
        |instant: &str, limit: &str| stage.run(&[&launch[..], &[instant, "--wait", "--timeout", limit]].concat());
    let waited = wait("2026-11-16T03:00:00Z", "1m");
    assert_eq!((waited.code(), &waited.json()["state"]), (Some(0), &json!("complete")), "{waited}");
    assert_eq!(wait("2026-11-17T03:00:00Z", "100ms").code(), Some(3));
    let names =
        |filter: &str| stage.run(&["--addr", &server.address, "job", "list", "-o", "name", "--filter", filter]).out;
    assert_eq!(names("parent=nightly"), "nightly-1794798000\nnightly-1794884400\n");
    assert_eq!(names("runs=recurring,parent="), "nightly\n");
}
