//! What programs read: the least fields of each object, also of the past, also of lost races.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    rivals::{Machine, Rivals},
    stage::{Served, Stage, eventually},
};

/// The object has all of these fields.
#[track_caller]
fn has(object: &Value, fields: &[&str]) {
    for field in fields {
        assert!(object.get(field).is_some(), "expected the field {field} in {object:#}");
    }
}

/// A cell in which blue took the only room that green wanted on the same base.
struct Race {
    stage: Stage,
    server: Served,
    rivals: Rivals,
    machine: Machine,
    base: u64,
    winner: String,
    loser: String,
}

fn race() -> Race {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let rivals = Rivals::new(&server.address);
    let machine = rivals.machine("m1", 4).unwrap();
    let (blue, green) = (rivals.open("blue").unwrap(), rivals.open("green").unwrap());
    let (sky, grass) = (rivals.job("sky", "blue", 3).unwrap(), rivals.job("grass", "green", 3).unwrap());
    let base = rivals.revision().unwrap();
    let won = rivals.commit(blue.claims(1, base, sky, &machine, &[0, 1, 2])).unwrap();
    assert_eq!((won.claims, won.granted), (3, 3));
    let lost = rivals.commit(green.claims(1, base, grass, &machine, &[0, 1, 2])).unwrap();
    assert_eq!((lost.claims, lost.granted), (3, 1), "one of three still had room");
    let [winner, loser] = [&blue, &green].map(|rival| format!("txn-{}-1", rival.session));
    Race { stage, server, rivals, machine, base, winner, loser }
}

impl Race {
    #[track_caller]
    fn ask(&self, arguments: &[&str]) -> Value {
        self.stage.ask(&self.server.address, arguments)
    }
}

#[test]
fn a_lost_race_is_told_with_its_culprit() {
    let race = race();
    let transaction = race.ask(&["txn", "show", &race.loser]);
    let fields = ["scheduler", "base_revision", "revision", "time", "atomic", "check", "claims", "granted", "refusals"];
    has(&transaction, &fields);
    assert_eq!(transaction["id"], race.loser);
    assert_eq!((&transaction["outcome"], &transaction["check"]), (&"partial".into(), &"fit".into()));
    assert_eq!(transaction["base_revision"], race.base);

    let refusals = transaction["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), 2);
    let refusal = &refusals[0];
    has(refusal, &["namespace", "job", "group", "task_index", "machine", "kind", "reason", "resource", "short_by"]);
    has(refusal, &["culprit", "culprits", "culprits_total"]);
    assert_eq!((&refusal["job"], &refusal["group"]), (&"grass".into(), &"work".into()));
    assert_eq!((&refusal["machine"], &refusal["kind"]), (&"m1".into(), &"conflict".into()));
    assert_eq!((&refusal["resource"], &refusal["short_by"]), (&"cpu_millis".into(), &1000.into()));
    let culprit = &refusal["culprit"];
    has(culprit, &["transaction", "revision", "scheduler", "amount"]);
    assert_eq!((&culprit["transaction"], &culprit["scheduler"]), (&race.winner.as_str().into(), &"blue".into()));

    let text = race.stage.run(&["--addr", &race.server.address, "txn", "show", &race.loser]).out;
    for words in ["partial: 1 of 3 claims granted", "conflict, cpu short by 1000m", &race.winner, "explain NO_ROOM"] {
        assert!(text.contains(words), "expected {words:?} in:\n{text}");
    }
}

#[test]
fn conflicts_are_counted_by_who_lost_to_whom() {
    let race = race();
    let conflicts = race.ask(&["conflicts"]);
    has(&conflicts, &["revision"]);
    let row = &conflicts["items"][0];
    has(row, &["loser", "winner", "transactions", "claims", "median_staleness_revisions"]);
    assert_eq!((&row["loser"], &row["winner"]), (&"green".into(), &"blue".into()));
    assert_eq!((&row["transactions"], &row["claims"]), (&1.into(), &2.into()));
    for (by, value) in [("machine", "m1"), ("job", "default/grass"), ("resource", "cpu_millis")] {
        let row = &race.ask(&["conflicts", "--by", by])["items"][0];
        assert_eq!(row[by], value, "by {by}: {row}");
    }
    // Those of all namespaces were told as if they were of that one, and a job by its name had lost nothing.
    let count = |words: &[&str]| race.ask(&[&["conflicts"], words].concat())["items"].as_array().unwrap().len();
    assert_eq!((count(&["--namespace", "default"]), count(&["--namespace", "ml"])), (1, 0));
    assert_eq!((count(&["--filter", "job=grass"]), count(&["--filter", "job=ml/grass"])), (1, 0));
    let listed = race.ask(&["txn", "list", "--refused"]);
    let ids: Vec<_> = listed["items"].as_array().unwrap().iter().map(|each| each["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [race.loser.as_str()], "only the transaction that lost something");
}

#[test]
fn objects_have_the_fields_that_programs_rely_on() {
    let race = race();
    let machines = race.ask(&["machine", "list"]);
    has(&machines, &["revision", "items"]);
    let machine = &machines["items"][0];
    has(machine, &["id", "name", "state", "epoch", "attributes", "capacity", "allocated"]);
    for side in ["capacity", "allocated"] {
        has(&machine[side], &["cpu_millis", "memory_bytes", "disk_bytes"]);
    }
    assert_eq!((&machine["state"], &machine["attributes"]["rack"]), (&"ready".into(), &"r1".into()));
    assert_eq!(machine["allocated"]["cpu_millis"], 4000);
    let shown = race.ask(&["machine", "show", "m1"]);
    assert_eq!((&shown["id"], &shown["allocations"]), (&machine["id"], &4.into()));

    let allocations = race.ask(&["alloc", "list"]);
    let ids = |rows: &Value| -> BTreeSet<String> {
        rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&shown["live"]), ids(&allocations["items"]), "what lives on the only machine is all there is");
    let items = allocations["items"].as_array().unwrap();
    assert_eq!(items.len(), 4);
    let fields = ["id", "namespace", "job", "group", "task_index", "attempt", "machine", "scheduler", "state", "ready"];
    has(&items[0], &fields);
    let fields = ["restarts", "resources", "transaction", "created_revision", "created_at", "exit_code", "reason"];
    has(&items[0], &fields);
    assert!(items.iter().all(|each| each["state"] == "granted" && each["attempt"] == 1), "{allocations:#}");
    let id = items[0]["id"].as_str().unwrap();
    assert!(id.starts_with("alloc-"));
    assert_eq!(race.ask(&["alloc", "show", id])["transaction"], items[0]["transaction"]);

    let jobs = race.ask(&["job", "list"]);
    let job = &jobs["items"].as_array().unwrap().iter().find(|job| job["name"] == "grass").unwrap();
    let fields = ["namespace", "version", "scheduler", "state", "priority", "groups", "waiting_reason"];
    has(job, &fields);
    assert_eq!((&job["groups"][0]["granted"], &job["groups"][0]["waiting"]), (&1.into(), &2.into()));

    let names = race.stage.run(&["--addr", &race.server.address, "machine", "list", "-o", "name"]).out;
    assert_eq!(names, "m1\n");
}

#[test]
fn listings_show_the_past() {
    let race = race();
    let before = race.base.to_string();
    let at = |arguments: &[&str]| race.ask(&[arguments, &["--at", &before]].concat());
    assert_eq!(at(&["alloc", "list"])["items"], serde_json::json!([]));
    assert_eq!(at(&["alloc", "list"])["revision"], race.base);
    assert_eq!(at(&["machine", "show", "m1"])["allocated"]["cpu_millis"], 0);
    assert_eq!(at(&["job", "list"])["items"].as_array().unwrap().len(), 2);
    assert_eq!(race.ask(&["job", "list", "--at", "1"])["items"], serde_json::json!([]), "before there was a job");

    // A moment after everything: as it is now.
    let moment = race.ask(&["txn", "show", &race.loser])["time"].as_str().unwrap().to_owned();
    assert_eq!(race.ask(&["alloc", "list", "--at", &moment])["items"].as_array().unwrap().len(), 4);

    let future = race.stage.run(&["--addr", &race.server.address, "-o", "json", "job", "list", "--at", "1000000"]);
    assert_eq!((future.code(), future.error()["code"].as_str()), (Some(1), Some("NO_SUCH_REVISION")), "{future}");
}

#[test]
fn a_moment_may_be_told_by_how_long_ago_it_was() {
    let race = race();
    let now = race.ask(&["alloc", "list", "--at", "-0s"]);
    assert_eq!(now["items"].as_array().unwrap().len(), 4);
    // The cell is younger than an hour.
    let long_ago = race.stage.run(&["--addr", &race.server.address, "-o", "json", "alloc", "list", "--at", "-1h"]);
    assert_eq!((long_ago.code(), long_ago.error()["code"].as_str()), (Some(1), Some("NO_SUCH_REVISION")), "{long_ago}");
    // All there is was listed as what had been before that.
    for list in [&["txn", "list"][..], &["history"], &["job", "history", "sky"]] {
        let none = race.stage.run(&[&["--addr", &race.server.address][..], list, &["--before", "-1h"]].concat());
        none.says(1, &["error[NO_SUCH_REVISION]"]);
        assert_eq!(none.out, "", "{none}");
    }
    assert_eq!(race.ask(&["conflicts", "--at", &race.base.to_string()])["items"], serde_json::json!([]));
    assert_eq!(race.ask(&["txn", "list", "--at", &race.base.to_string()])["items"], serde_json::json!([]));
}

// The rest of a list was gone on with by --at, and its ages counted up to there: each part was seen from another moment.
#[test]
fn the_rest_of_a_list_is_seen_from_the_same_moment() {
    let race = race();
    let listed = race.ask(&["txn", "list", "--limit", "1"]);
    let (newest, resume) =
        (listed["items"][0]["revision"].as_u64().unwrap(), listed["resume_revision"].as_u64().unwrap());
    assert!(resume < newest);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for list in [&["txn", "list"][..], &["job", "history", "sky"]] {
        let rest = |flag: &str, revision: u64| {
            let revision = revision.to_string();
            let told = race.stage.run(&[&["--addr", &race.server.address][..], list, &[flag, &revision]].concat());
            let rows: Vec<Vec<String>> =
                told.out.lines().map(|row| row.split_whitespace().map(str::to_owned).collect()).collect();
            let age = rows[0].iter().position(|title| title == "AGE").unwrap_or_else(|| panic!("{told}"));
            assert!(rows.len() > 1, "{told}");
            // In both the age stands behind words without spaces.
            let age = rows[1][age].clone();
            (age, told.out)
        };
        let (age, told) = rest("--before", resume + 1);
        assert_ne!(age, "0s", "{told}");
        let (age, told) = rest("--at", resume);
        assert_eq!(age, "0s", "{told}");
    }
    let below = race.ask(&["txn", "list", "--before", &(resume + 1).to_string()]);
    assert_eq!(below["items"][0]["revision"], resume);
    // It was refused, for the sake of a revision that nobody had named.
    for list in [&["txn", "list"][..], &["job", "history", "sky"], &["quota", "history"]] {
        let all = |more: &[&str]| race.ask(&[list, more].concat())["items"].as_array().unwrap().len();
        assert_eq!(all(&["--before", "1000000"]), all(&[]), "{list:?}");
    }
}

#[test]
fn what_happened_is_told_with_who_asked_for_it() {
    let race = race();
    let story = race.ask(&["job", "history", "sky"]);
    let items = story["items"].as_array().unwrap();
    for item in items {
        has(item, &["revision", "time", "event", "detail", "command", "principal", "transaction", "scheduler"]);
    }
    let events: Vec<_> = items.iter().map(|item| item["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["submitted", "placed", "running"]);
    assert_eq!((&items[1]["transaction"], &items[1]["scheduler"]), (&race.winner.as_str().into(), &"blue".into()));
    assert_eq!(
        race.ask(&["job", "history", "sky", "--at", &race.base.to_string()])["items"].as_array().unwrap().len(),
        1
    );

    let id = race.ask(&["alloc", "list", "--job", "sky"])["items"][0]["id"].as_str().unwrap().to_owned();
    let shown = race.ask(&["alloc", "show", &id, "--history"]);
    assert_eq!((&shown["id"], &shown["history"]["items"][0]["event"]), (&id.as_str().into(), &"granted".into()));
    let machine = race.ask(&["machine", "show", "m1", "--history"]);
    assert_eq!(machine["history"]["items"][0]["event"], "registered");
    assert_eq!(machine["history"]["items"][0]["command"], "register-machine");
    let text = race.stage.run(&["--addr", &race.server.address, "alloc", "show", &id, "--history"]).out;
    for words in ["REVISION", "granted", "default/sky work[", "on machine m1", &format!("{} by blue", race.winner)] {
        assert!(text.contains(words), "expected {words:?} in:\n{text}");
    }
    let never = race.stage.run(&["--addr", &race.server.address, "-o", "json", "alloc", "show", "alloc-0-9"]);
    assert_eq!((never.code(), never.error()["code"].as_str()), (Some(1), Some("NO_SUCH_ALLOCATION")), "{never}");
}

// Who did not know a revision at which it had been there read that there is no such job, or machine, and no more.
#[test]
fn what_the_cell_has_no_more_is_told_by_its_name_with_how_to_see_it() {
    let stage = Stage::new();
    let settings = stage.file("server.toml", "retire_after = \"1ms\"\n");
    let server = stage.server("cell", None, &["--config", &settings]);
    let rivals = Rivals::new(&server.address);
    rivals.machine("m1", 4).unwrap();
    rivals.job("sky", "blue", 3).unwrap();
    let run = |words: &[&str]| stage.run(&[&["--addr", &server.address], words].concat());
    stage.ask(&server.address, &["job", "stop", "sky"]);
    // Each command that is told asks the same cell.
    let told_as = |words: &str| format!("`plenum --addr {} {words}", server.address);
    let absent = eventually("the job is retired", || {
        let shown = run(&["-o", "json", "job", "show", "sky"]);
        (shown.code() == Some(1)).then_some(shown)
    });
    assert_eq!(absent.error()["code"], "NO_SUCH_JOB");
    assert!(absent.error()["hint"].as_str().unwrap().contains(&told_as("job history default/sky`")), "{absent}");
    let story = stage.ask(&server.address, &["job", "history", "sky"]);
    let events: Vec<_> =
        story["items"].as_array().unwrap().iter().map(|item| item["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["submitted", "stopped", "retired"]);
    let before = (story["items"][2]["revision"].as_u64().unwrap() - 1).to_string();
    let told = run(&["job", "history", "sky"]);
    assert!(told.err.contains(&told_as(&format!("job show default/sky --at {before}`"))), "{told}");
    assert_eq!(stage.ask(&server.address, &["job", "show", "sky", "--at", &before])["state"], "stopped");

    stage.ask(&server.address, &["machine", "remove", "m1", "--force"]);
    let absent = run(&["-o", "json", "machine", "show", "m1"]);
    assert_eq!((absent.code(), &absent.error()["code"]), (Some(1), &"NO_SUCH_MACHINE".into()), "{absent}");
    assert!(absent.error()["hint"].as_str().unwrap().contains(&told_as("machine show m1 --history`")), "{absent}");
    let gone = stage.ask(&server.address, &["machine", "show", "m1", "--history"]);
    has(&gone, &["name", "state", "revision", "history"]);
    let items = gone["history"]["items"].as_array().unwrap();
    assert_eq!(
        (&gone["state"], &items[0]["event"], &items[1]["event"]),
        (&"gone".into(), &"registered".into(), &"gone".into())
    );
    assert_eq!((&items[1]["command"], &items[1]["principal"]), (&"remove-machine".into(), &"local".into()));
    let told = run(&["machine", "show", "m1", "--history"]);
    assert!(
        told.out.contains("remove-machine by local") && told.err.contains(&told_as("machine show m1 --at")),
        "{told}"
    );
    let never = run(&["-o", "json", "machine", "show", "m2", "--history"]);
    assert!(never.error()["message"].as_str().unwrap().contains("there never was one"), "{never}");
    let never = run(&["-o", "json", "job", "history", "sea"]);
    assert!(never.error()["message"].as_str().unwrap().contains("there never was one"), "{never}");
}

// A job of 12,000 tasks was shown with 10,000, and nothing said so.
#[test]
fn what_is_left_out_is_said() {
    let race = race();
    let config = race.stage.path("server.toml");
    std::fs::write(&config, "listing_rows = 2\n").unwrap();
    let Race { stage, server, .. } = race;
    drop(server);
    let server = stage.server("cell", None, &["--config", config.to_str().unwrap()]);
    let shown = stage.ask(&server.address, &["job", "show", "sky"]);
    assert_eq!((shown["allocations"].as_array().unwrap().len(), &shown["truncated"]), (2, &true.into()));
    let whole = stage.ask(&server.address, &["job", "show", "grass"]);
    assert_eq!((whole["allocations"].as_array().unwrap().len(), whole.get("truncated")), (1, None));
    for arguments in [["job", "show", "sky"], ["machine", "show", "m1"]] {
        let told = stage.run(&[&["--addr", &server.address][..], &arguments].concat());
        assert_eq!(told.code(), Some(0), "{told}");
        assert!(told.err.contains("there are more allocations"), "{told}");
    }
    let (by_server, by_limit) =
        ("than the 2 that the server told", "than the 1 asked for: narrow the list with --filter");
    let few = [("table", "3", by_server), ("name", "0", by_server), ("table", "1", by_limit), ("wide", "1", by_limit)];
    for (format, limit, words) in few {
        let told = stage.run(&["--addr", &server.address, "-o", format, "alloc", "list", "--limit", limit]);
        assert_eq!((told.code(), told.err.contains(words)), (Some(0), true), "{told}");
    }
    for (format, list, limit) in [("name", "alloc", "2"), ("json", "alloc", "1"), ("table", "machine", "1")] {
        let told = stage.run(&["--addr", &server.address, "-o", format, list, "list", "--limit", limit]);
        assert_eq!((told.code(), told.err.contains("there are more")), (Some(0), false), "{told}");
    }
    let told = stage.run(&["--addr", &server.address, "txn", "list", "--limit", "1"]);
    assert!(told.err.contains("there may be more, older than these: go on with --before"), "{told}");
}

#[test]
fn a_repeated_number_gives_the_first_outcome() {
    let race = race();
    let green = race.rivals.open("green").unwrap();
    let job = race.rivals.job("again", "green", 1).unwrap();
    let machine = race.rivals.machine("m2", 1).unwrap();
    let base = race.rivals.revision().unwrap();
    let transaction = green.claims(1, base, job, &machine, &[0]);
    let first = race.rivals.commit(transaction.clone()).unwrap();
    assert_eq!(first.granted, 1);
    assert_eq!(race.rivals.commit(transaction).unwrap(), first, "and nothing is placed twice");
    let other = race.rivals.commit(green.claims(1, base, job, &race.machine, &[0])).unwrap_err();
    assert_eq!(other.code(), tonic::Code::InvalidArgument, "other content under a known number: {other}");
}

// It ended with the server, which came back within the second.
#[test]
fn a_watched_listing_goes_on_when_its_server_was_restarted() {
    let stage = Stage::new();
    let mut server = stage.server("cell", None, &[]);
    let (address, port) = (server.address.clone(), server.port());
    let mut watch = stage.start("watch", &["--addr", &address, "quota", "list", "--watch", "-o", "json"]);
    let told = |count: usize| {
        eventually(&format!("{count} lines"), || {
            let lines: Vec<Value> =
                stage.text("watch.out").lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (lines.len() >= count).then_some(lines)
        })
    };
    told(1);
    server.process.kill();
    eventually("the watcher has noticed", || stage.text("watch.err").contains("does not answer").then_some(()));
    let _server = stage.server("cell", Some(port), &[]);
    stage.ask(&address, &["quota", "set", "ml", "--cpu", "1"]);
    let lines = eventually("the change is told", || {
        let lines = told(2);
        lines.iter().any(|line| line["items"][0]["namespace"] == "ml").then_some(lines)
    });
    assert!(lines.iter().all(|line| line["error"].is_null()), "{lines:#?}");
    assert!(watch.has_ended().is_none());
}
