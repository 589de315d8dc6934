//! What operators lay down: quotas, partitions, pauses and drains. Real servers, schedulers and agents; what waits says why.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    rivals::Rivals,
    stage::{Process, Served, Stage, eventually},
};

/// A cell with one machine, whose tasks run until the file `end` is there.
struct Governed {
    server: Served,
    _parts: Vec<Process>,
    stage: Stage,
}

fn job(name: &str, count: u32) -> String {
    format!(
        r#"
name = "{name}"
scheduler = "batch"
[group.wait]
count = {count}
command = ["/bin/sh", "-c", "while ! [ -e $STAGE/end ]; do sleep 0.1; done"]
env = {{ STAGE = "$STAGE" }}
resources = {{ cpu = "100m", memory = "16MiB" }}
kill_timeout = "1s"
"#
    )
}

impl Governed {
    fn new() -> Self {
        Self::with("", "name = \"m1\"\n[attributes]\nrack = \"lab\"\n")
    }

    /// A cell with these files of settings for server and agent.
    fn with(server: &str, agent: &str) -> Self {
        let stage = Stage::new();
        let settings = stage.file("server.toml", server);
        let server = stage.server("cell", None, &["--config", &settings]);
        let config = stage.file("agent.toml", agent);
        let words = ["--addr", &server.address, "agent", "--config", &config, "--dir", &stage.word("agent")];
        let parts = vec![stage.scheduler(&server.address, "batch"), stage.start("agent", &words)];
        Self { stage, server, _parts: parts }
    }

    #[track_caller]
    fn ask(&self, arguments: &[&str]) -> Value {
        self.stage.ask(&self.server.address, arguments)
    }

    #[track_caller]
    fn submit(&self, name: &str, count: u32) {
        self.stage.submit(&self.server.address, &format!("{name}.toml"), &job(name, count));
    }

    /// Waits until so many tasks of a job run, and so many wait; gives the job.
    #[track_caller]
    fn stands(&self, name: &str, running: u64, waiting: u64) -> Value {
        eventually(&format!("{running} tasks of {name} run, and {waiting} wait"), || {
            let job = self.stage.try_ask(&self.server.address, &["job", "show", name]).ok()?;
            let group = &job["groups"][0];
            (group["running"] == running && group["waiting"] == waiting).then_some(job)
        })
    }

    /// Waits until a job says that it waits for a reason with these words.
    #[track_caller]
    fn waits_for(&self, name: &str, words: &str) {
        eventually(&format!("{name} says that it waits for {words}"), || {
            let job = self.stage.try_ask(&self.server.address, &["job", "show", name]).ok()?;
            job["waiting_reason"].as_str()?.contains(words).then_some(())
        });
    }
}

#[test]
fn a_namespace_at_its_quota_waits_until_that_is_raised() {
    let cell = Governed::new();
    let set = cell.ask(&["quota", "set", "default", "--cpu", "200m"]);
    assert_eq!((&set["name"], &set["changed"]), (&json!("default"), &json!(true)));
    cell.submit("many", 4);
    let job = cell.stands("many", 2, 2);
    assert_eq!(job["state"], "running");
    cell.waits_for("many", "the quota of default is short of cpu by 100m");

    let quotas = cell.ask(&["quota", "list"]);
    let quota = &quotas["items"][0];
    assert!(quotas["revision"].as_u64() >= set["revision"].as_u64(), "{quotas:#}");
    assert_eq!((&quota["namespace"], &quota["limit"]["cpu_millis"]), (&json!("default"), &json!(200)));
    assert_eq!(quota["limit"]["memory_bytes"], Value::Null, "what is not named is not limited");
    assert_eq!((&quota["used"]["cpu_millis"], &quota["used"]["memory_bytes"]), (&json!(200), &json!(32 << 20)));
    // Nobody claims what there is no quota for.
    assert_eq!(cell.ask(&["txn", "list", "--refused"])["items"], json!([]));

    let raised = cell.ask(&["quota", "set", "default", "--cpu", "300m"]);
    assert_eq!(raised["changed"], true);
    cell.stands("many", 3, 1);
    let again = cell.ask(&["quota", "set", "default", "--cpu", "300m"]);
    assert_eq!((&again["changed"], &again["name"]), (&json!(false), &json!("default")));
    cell.ask(&["quota", "remove", "default"]);
    let job = cell.stands("many", 4, 0);
    assert_eq!(job["waiting_reason"], Value::Null);
    assert_eq!(cell.ask(&["quota", "list"])["items"], json!([]));
    let story = cell.ask(&["quota", "history", "default"]);
    let told: Vec<_> =
        story["items"].as_array().unwrap().iter().map(|item| (&item["event"], &item["detail"])).collect();
    let set = |limit: &str| (json!("set"), json!(format!("default: cpu {limit}")));
    let expected = [set("200m"), set("300m"), (json!("removed"), json!("default"))];
    assert_eq!(told, expected.each_ref().map(|(event, detail)| (event, detail)));
    assert_eq!(
        (&story["items"][0]["principal"], &story["items"][0]["command"]),
        (&json!("local"), &json!("set-quota"))
    );
    let none = cell.stage.run(&["--addr", &cell.server.address, "quota", "history", "other"]);
    assert!(none.code() == Some(0) && none.err.contains("nothing of that up to revision"), "{none}");
    let gone = cell.stage.run(&["--addr", &cell.server.address, "-o", "json", "quota", "remove", "default"]);
    assert_eq!((gone.code(), gone.error()["code"].as_str()), (Some(1), Some("NO_SUCH_QUOTA")), "{gone}");
    assert_eq!(cell.stage.run(&["quota", "set", "default"]).code(), Some(2), "a quota without a limit is none");
    let slip = cell.stage.run(&["--addr", &cell.server.address, "quota", "set", "defualt", "--cpu", "1"]);
    slip.says(0, &["note: no job is in the namespace defualt now"]);
    let meant = cell.stage.run(&["--addr", &cell.server.address, "quota", "set", "defualt", "--cpu", "2"]);
    assert_eq!((meant.code(), meant.err.as_str()), (Some(0), ""), "it had one before");
    assert_eq!(meant.out.lines().count(), 1, "{meant}");
}

#[test]
fn a_claim_beyond_a_quota_is_refused_with_what_is_short() {
    let stage = Stage::new();
    let config = stage.file("server.toml", "lease = \"10m\"\n");
    let server = stage.server("cell", None, &["--config", &config]);
    let rivals = Rivals::new(&server.address);
    let (machine, rival) = (rivals.machine("m1", 4).unwrap(), rivals.open("blue").unwrap());
    let many = rivals.job("many", "blue", 2).unwrap();
    stage.ask(&server.address, &["quota", "set", "default", "--cpu", "1900m"]);
    let claims = rival.claims(1, rivals.revision().unwrap(), many, &machine, &[0, 1]);
    assert_eq!(rivals.commit(claims).unwrap().granted, 1);
    let refused = stage.ask(&server.address, &["txn", "list", "--refused"])["items"][0]["id"].clone();
    let refusal = &stage.ask(&server.address, &["txn", "show", refused.as_str().unwrap()])["refusals"][0];
    assert_eq!((&refusal["kind"], &refusal["resource"]), (&json!("quota"), &json!("cpu_millis")), "{refusal:#}");
    assert_eq!((&refusal["job"], &refusal["short_by"]), (&json!("many"), &json!(100)));
}

#[test]
fn a_reserved_machine_takes_only_those_it_is_reserved_for() {
    let cell = Governed::new();
    cell.submit("before", 1);
    cell.stands("before", 1, 0);
    let set = cell.ask(&["partition", "set", "lab", "--where", r#"attr.rack == "lab""#, "--for", "ml,vision"]);
    assert_eq!((&set["name"], &set["changed"]), (&json!("lab"), &json!(true)));
    let partition = &cell.ask(&["partition", "list"])["items"][0];
    assert_eq!((&partition["name"], &partition["machines"]), (&json!("lab"), &json!(1)));
    assert_eq!(
        (&partition["schedulers"], &partition["rules"]),
        (&json!(["ml", "vision"]), &json!([r#"attr.rack == "lab""#]))
    );
    assert_eq!(partition["allocated"]["cpu_millis"], 100);
    assert!(partition["capacity"]["cpu_millis"].as_u64() > Some(100), "{partition:#}");

    cell.submit("after", 1);
    let waits = cell.stands("after", 0, 1);
    assert_eq!(waits["state"], "waiting");
    cell.waits_for("after", "of 1 machine partition lab reserves 1 for others");
    cell.stands("before", 1, 0);
    // A machine that is anybody's: it is found, although the reserved one would suit better.
    let words =
        ["--addr", &cell.server.address, "agent", "--dir", &cell.stage.word("cell/agents/machine-2"), "--name", "m2"];
    let _second = cell.stage.start("agent-2", &words);
    cell.stands("after", 1, 0);
    assert_eq!(cell.ask(&["alloc", "list", "--job", "after"])["items"][0]["machine"], "m2");
    let refused = cell.ask(&["txn", "list", "--refused"]);
    assert_eq!(refused["items"], json!([]), "nobody claimed what is reserved");
    // By name only: nobody is kept away any more.
    cell.ask(&["partition", "set", "lab", "--where", r#"attr.rack == "lab""#]);
    cell.submit("later", 1);
    cell.stands("later", 1, 0);
    assert_eq!(cell.ask(&["partition", "list"])["items"][0]["schedulers"], json!([]));
    // A slip would reserve machines for nobody, or none at all.
    let mistaken = ["partition", "set", "lab", "--where", r#"attr.rack == "lba""#, "--for", "lm"];
    cell.stage
        .run(&[&["--addr", &cell.server.address], &mistaken[..]].concat())
        .says(0, &["has never seen a scheduler named \"lm\"", "no machine is in the partition lab"]);
    assert_eq!(cell.ask(&["partition", "remove", "lab"])["changed"], true);
    assert_eq!(cell.ask(&["partition", "list"])["items"], json!([]));
    let wrong = cell.stage.run(&["--addr", &cell.server.address, "partition", "set", "lab", "--where", "rack = lab"]);
    assert_eq!(wrong.code(), Some(2), "{wrong}");
}

// An agent had no way to offer any: jobs that ask for them waited for ever.
#[test]
fn tasks_get_of_a_named_resource_what_their_machine_s_agent_offers() {
    let cell = Governed::with("custom_resources = [\"seats\"]\n", "name = \"m1\"\n[resources]\nseats = 2\n");
    let seated = job("seated", 3).replace("memory = \"16MiB\"", "memory = \"16MiB\", seats = 1");
    cell.stage.submit(&cell.server.address, "seated.toml", &seated);
    cell.stands("seated", 2, 1);
    cell.waits_for("seated", "seats");
    assert_eq!(cell.ask(&["machine", "show", "m1"])["capacity"]["custom"]["seats"], 2);
}

#[test]
fn what_a_paused_scheduler_should_place_waits_and_what_it_placed_runs_on() {
    let cell = Governed::new();
    cell.submit("before", 1);
    cell.stands("before", 1, 0);
    let batch = || {
        let listed = cell.ask(&["scheduler", "list"]);
        let items = listed["items"].as_array().unwrap().clone();
        items.into_iter().find(|row| row["name"] == "batch").unwrap()
    };
    let row = batch();
    assert_eq!((&row["state"], &row["paused"], &row["live_tasks"]), (&json!("connected"), &json!(false), &json!(1)));
    assert_eq!(cell.ask(&["scheduler", "pause", "batch"])["changed"], true);
    cell.submit("after", 2);
    cell.waits_for("after", "the scheduler batch is paused; `plenum scheduler resume batch`");
    let row = batch();
    assert_eq!((&row["state"], &row["paused"], &row["sessions"]), (&json!("paused"), &json!(true), &json!(1)));
    assert_eq!((&row["jobs"], &row["waiting_tasks"], &row["live_tasks"]), (&json!(2), &json!(2), &json!(1)));
    cell.stands("before", 1, 0);
    cell.stands("after", 0, 2);
    let again = cell.stage.run(&["--addr", &cell.server.address, "scheduler", "pause", "batch"]);
    assert!(again.out.contains("batch: is paused already") && again.err.is_empty(), "{again}");
    // Titles without a row were the answer to a slip in the name.
    let txns = |name: &str| cell.stage.run(&["--addr", &cell.server.address, "txn", "list", "--scheduler", name]);
    txns("bacth").says(0, &["has never seen a scheduler named \"bacth\""]);
    assert_eq!(txns("batch").err, "", "it has decided something");
    let pause = |name: &str| cell.stage.run(&["--addr", &cell.server.address, "scheduler", "pause", name]);
    pause("bacth").says(0, &["has never seen a scheduler named \"bacth\""]);
    pause("a b").says(2, &["error[USAGE]"]);
    assert_eq!(cell.ask(&["status"])["paused_schedulers"], json!(["bacth", "batch"]));
    let set = |more: &[&str]| {
        cell.stage.run(&[&["--addr", &cell.server.address, "scheduler", "set", "batch"], more].concat())
    };
    let granted = set(&["--evict", "no"]);
    assert!(granted.out.contains("batch: may not evict from now on") && granted.err.is_empty(), "{granted}");
    // A slip in the name granted it to nobody, without a word.
    cell.stage
        .run(&["--addr", &cell.server.address, "scheduler", "set", "btach", "--evict", "no"])
        .says(0, &["has never seen a scheduler named \"btach\""]);
    assert!(set(&["--priority", "4"]).out.contains("batch: has priority 4 from now on"));
    assert!(set(&["--priority", "4", "--evict", "no"]).out.contains("batch: may not evict and has priority 4 already"));
    assert_eq!((&batch()["evicts"], &batch()["priority"]), (&json!(false), &json!(4)));
    set(&["--evict", "maybe"]).says(2, &["'maybe'", "possible values: yes, no"]);
    set(&["--priority", "101"]).says(2, &["expected a whole number from 1 to 100"]);
    set(&[]).says(2, &["--evict <yes|no>"]);
    let quota = |more: &[&str]| cell.stage.run(&[&["--addr", &cell.server.address, "quota"], more].concat());
    quota(&["set", "A B", "--cpu", "1"]).says(2, &["error[USAGE]", "the namespace `A B`"]);
    quota(&["remove", "A B"]).says(2, &["error[USAGE]"]);
    assert_eq!(cell.ask(&["scheduler", "resume", "batch"])["changed"], true);
    cell.stands("after", 2, 0);
    assert_eq!(batch()["state"], "connected");
}

#[test]
fn a_drained_machine_is_empty_at_its_deadline_and_takes_claims_again_when_told() {
    let cell = Governed::new();
    cell.submit("job", 2);
    cell.stands("job", 2, 0);
    let started =
        cell.stage.run(&["--addr", &cell.server.address, "machine", "drain", "m1", "--deadline", "10m", "--no-wait"]);
    assert_eq!((started.code(), started.out.contains("m1: draining")), (Some(0), true), "{started}");
    let machine = cell.ask(&["machine", "show", "m1"]);
    assert_eq!((&machine["state"], machine["drain_deadline"].is_string()), (&json!("draining"), true), "{machine:#}");
    cell.submit("late", 1);
    let late = cell.stands("late", 0, 1);
    assert!(late["waiting_reason"].is_string(), "{late:#}");
    cell.stands("job", 2, 0);

    // Who waits for it may leave, or says how long.
    cell.stage
        .run(&["--addr", &cell.server.address, "machine", "drain", "m1", "--deadline", "10m", "--timeout", "100ms"])
        .says(3, &["error[TIME_LIMIT]", "m1 is not empty", "the drain goes on"]);
    let drain = ["--addr", &cell.server.address, "machine", "drain", "m1", "--deadline", "10m"];
    let mut leaving = cell.stage.start("leaving", &drain);
    eventually("somebody waits", || cell.stage.text("leaving.err").contains("2 tasks left").then_some(()));
    let why = "2 are on machines that are drained; what scheduler batch does not move is stopped at the deadline";
    eventually("it is told what becomes of them", || cell.stage.text("leaving.err").contains(why).then_some(()));
    let shown = cell.stage.run(&["--addr", &cell.server.address, "machine", "show", "m1"]);
    assert!(shown.out.contains(why), "{shown}");
    assert_eq!(cell.ask(&["machine", "show", "m1"])["left"], json!([format!("job: wait: {why}")]));
    leaving.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(leaving.ended().code(), Some(130));
    assert!(cell.stage.text("leaving.err").contains("the drain of m1 goes on"), "{}", cell.stage.text("leaving.err"));

    // Who names no deadline leaves the one that is there: it was put off to ten minutes from then, without a word.
    let deadline = || cell.ask(&["machine", "show", "m1"])["drain_deadline"].as_str().unwrap().to_owned();
    let before = deadline();
    let already = format!("m1: is draining already, with the deadline {before}");
    let again =
        |more: &[&str]| cell.stage.run(&[&["--addr", &cell.server.address, "machine", "drain", "m1"], more].concat());
    let told = again(&["--no-wait"]);
    assert!(told.code() == Some(0) && told.out.contains(&already), "{told}");
    again(&["--timeout", "100ms"]).says(3, &["error[TIME_LIMIT]", &already]);
    let idle = cell.ask(&["machine", "drain", "m1", "--no-wait"]);
    assert_eq!((&idle["changed"], &idle["drain_deadline"]), (&json!(false), &json!(before)));
    assert_eq!(cell.ask(&["machine", "uncordon", "m1"])["state"], "draining", "it takes no claims again");
    assert_eq!(deadline(), before);

    // An earlier deadline, and this time somebody waits for it.
    let drained =
        cell.stage.run(&["--addr", &cell.server.address, "-o", "json", "machine", "drain", "m1", "--deadline", "3s"]);
    assert_eq!(drained.code(), Some(0), "{drained}");
    let told = drained.json();
    assert_eq!((&told["name"], &told["state"], &told["changed"]), (&json!("m1"), &json!("draining"), &json!(true)));
    assert!(told["ended_revision"].as_u64() > told["revision"].as_u64() && told["drain_deadline"].is_string());
    assert!(drained.err.contains("m1: 2 tasks left, stopped in"), "{drained}");
    let ended = cell.ask(&["alloc", "list", "--job", "job", "--all"]);
    let reasons: Vec<_> =
        ended["items"].as_array().unwrap().iter().map(|each| (&each["state"], &each["reason"])).collect();
    assert_eq!(reasons, [(&json!("stopped"), &json!("drained")); 2], "{ended:#}");
    cell.stands("job", 0, 2);
    assert_eq!(cell.ask(&["machine", "show", "m1"])["allocated"]["cpu_millis"], 0);

    // Nobody looked before the limit was over, and it was said not to be empty.
    again(&["--timeout", "0s"]).says(0, &[]);

    assert_eq!(cell.ask(&["machine", "undrain", "m1"])["changed"], true);
    cell.stands("job", 2, 0);
    cell.stands("late", 1, 0);
    let machine = cell.ask(&["machine", "show", "m1"]);
    assert_eq!((&machine["state"], &machine["drain_deadline"]), (&json!("ready"), &Value::Null));
}

/// All of it was stopped at the deadline, and only then placed elsewhere.
#[test]
fn a_service_has_left_a_drained_machine_long_before_the_deadline() {
    let cell = Governed::new();
    let address = &*cell.server.address;
    let _service = cell.stage.scheduler(address, "service");
    let web = job("web", 3).replace("batch", "service");
    cell.stage.submit(address, "web.toml", &web);
    cell.stands("web", 3, 0);
    let second = ["--addr", address, "agent", "--dir", &cell.stage.word("second"), "--name", "m2"];
    let _second = cell.stage.start("second", &second);
    eventually("m2 is there", || cell.stage.try_ask(address, &["machine", "show", "m2"]).ok());
    let mut drain =
        cell.stage.start("drain", &["--addr", address, "-o", "json", "machine", "drain", "m1", "--deadline", "1h"]);
    let ended = eventually("the drain has ended", || {
        let job = cell.ask(&["job", "show", "web"]);
        let running = job["groups"][0]["running"].as_u64().unwrap();
        assert!(running >= 2, "one of a group at a time: {job:#}");
        drain.has_ended()
    });
    assert_eq!(ended.code(), Some(0), "{}", cell.stage.text("drain.err"));
    let placed = cell.ask(&["alloc", "list", "--job", "web", "--all"]);
    let states: Vec<_> =
        placed["items"].as_array().unwrap().iter().map(|each| (&each["machine"], &each["state"])).collect();
    let count =
        |machine: &str, state: &str| states.iter().filter(|&&found| found == (&json!(machine), &json!(state))).count();
    assert_eq!(count("m1", "stopped"), 3, "{placed:#}");
    cell.stands("web", 3, 0);
    assert!(
        cell.ask(&["alloc", "list", "--job", "web"])["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|each| each["machine"] == "m2")
    );
}

#[test]
fn who_waits_for_a_drain_waits_through_a_restart_of_the_cell_and_another_one_at_its_address() {
    let mut cell = Governed::new();
    cell.submit("job", 1);
    cell.stands("job", 1, 0);
    let (port, address) = (cell.server.port(), cell.server.address.clone());
    let mut waiting = cell.stage.start("waiting", &["--addr", &address, "machine", "drain", "m1"]);
    let told = |stage: &Stage, words: &str| stage.text("waiting.err").contains(words).then_some(());
    eventually("somebody waits", || told(&cell.stage, "1 task left"));
    cell.server.process.kill();
    eventually("the one who waits has noticed", || told(&cell.stage, "does not answer"));
    // The drain ended well there, as this one knows no such machine.
    cell.server = cell.stage.server("other", Some(port), &[]);
    eventually("another cell is told from this one", || told(&cell.stage, "what answers now lacks revision"));
    cell.server.process.kill();
    cell.server = cell.stage.server("cell", Some(port), &[]);
    cell.ask(&["machine", "undrain", "m1"]);
    assert_eq!(waiting.ended().code(), Some(1));
    assert!(cell.stage.text("waiting.err").contains("NOT_DRAINING"), "{}", cell.stage.text("waiting.err"));
}

// `removed` was all that was said of a machine whose agent ran. A moment later it was there again, neither drained nor cordoned.
#[test]
fn who_removes_a_machine_whose_agent_runs_is_told_that_it_comes_back() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let mut agent = stage.agent(&server.address, "agent");
    let id = |state: &str| {
        eventually(&format!("the machine is {state}"), || {
            let machine = stage.try_ask(&server.address, &["machine", "show", "m1"]).ok()?;
            (machine["state"] == state).then(|| machine["id"].clone())
        })
    };
    let first = id("ready");
    let remove = || stage.run(&["--addr", &server.address, "machine", "remove", "m1"]);
    remove().says(0, &["warning: the lease of m1 had not run out", "stop that agent"]);
    assert_ne!(id("ready"), first, "it is back");
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended().success());
    id("cordoned");
    let done = remove();
    assert!(done.code() == Some(0) && done.out.starts_with("m1: removed ") && done.err.is_empty(), "{done}");
}
