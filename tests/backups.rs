//! A cell goes on from its backup: what ran goes on running, and everybody comes back by themselves.

use nix::sys::signal::Signal;

use crate::stage::{Process, Stage, eventually};

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
command = ["/bin/sh", "-c", "echo I am later; while ! [ -e $STAGE/end ]; do sleep 0.1; done; echo and done"]
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
    let machine = stage.ask(&server.address, &["machine", "show", "m1"]);
    let unknown = machine["unknown"][0]["allocation"].as_str().unwrap();
    stage
        .run(&["--addr", &server.address, "alloc", "show", unknown])
        .says(1, &["NO_SUCH_ALLOCATION", "runs on m1, and the cell knows nothing more of it", "machine show m1`"]);
    // Who had to say whether it runs on could not see what it is.
    let logs = ["--addr", &server.address, "alloc", "logs", unknown];
    assert_eq!(stage.run(&logs).out, "I am later\n");
    let mut follows = stage.start("follows", &[&logs[..], &["--follow"]].concat());
    eventually("it is followed", || (stage.text("follows.out") == "I am later\n").then_some(()));
    stage.file("end", "");
    eventually("its end frees its room", || taken(0));
    assert_eq!((follows.ended().code(), stage.text("follows.out").as_str()), (Some(0), "I am later\nand done\n"));
    assert!(server.stop().success());
    let verified = stage.run(&["verify", "--dir", &stage.word("restored"), "-o", "json"]).json();
    assert!(verified["sound"] == true && verified["violations"].as_array().unwrap().is_empty(), "{verified:#}");
}

/// Ends well as soon as it may.
const ONCE: &str = r#"
name = "once"
scheduler = "batch"
[group.main]
command = ["/bin/sh", "-c", "while ! [ -e $STAGE/go ]; do sleep 0.1; done; echo fine"]
env = { STAGE = "$STAGE" }
resources = { cpu = "100m", memory = "16MiB" }
retry = { attempts = 0 }
"#;

// The restored cell took it for failed, as nobody knew of it any more, and what it had printed was removed.
#[test]
fn what_was_complete_before_the_restore_is_complete_after_it_and_can_be_read() {
    let stage = Stage::new();
    let mut server = stage.server("cell", None, &[]);
    let (address, port) = (server.address.clone(), server.port());
    let _scheduler = stage.scheduler(&address, "batch");
    let _agent = stage.agent(&address, "agent");
    stage.submit(&address, "once.toml", ONCE);
    let is = |state: &'static str| {
        let reached = || (stage.try_ask(&address, &["job", "show", "once"]).ok()?["state"] == state).then_some(());
        eventually(&format!("the job is {state}"), reached);
    };
    // A job is running from the grant on; what its agent says of the task until that runs would come between the two backups.
    eventually("its task runs", || {
        let job = stage.try_ask(&address, &["job", "show", "once"]).ok()?;
        (job["groups"][0]["running"] == 1).then_some(())
    });
    let id = stage.ask(&address, &["alloc", "list"])["items"][0]["id"].as_str().unwrap().to_owned();
    std::fs::create_dir(stage.path("backups")).unwrap();
    let taken = stage.ask(&address, &["backup", "--out", &stage.word("backups")]);
    // A cell in which nothing happens is backed up again, on time. Who removed backups by the age of their files then removed the only one.
    let file = taken["path"].as_str().unwrap();
    let modified = || std::fs::metadata(file).unwrap().modified().unwrap();
    let week = std::time::Duration::from_secs(7 * 24 * 3600);
    std::fs::File::open(file).unwrap().set_modified(modified() - week).unwrap();
    let old = modified();
    assert_eq!(stage.ask(&address, &["backup", "--out", &stage.word("backups")])["path"], taken["path"]);
    assert!(modified() > old + week / 2);
    stage.file("go", "");
    is("complete");
    server.process.signal(Signal::SIGKILL);
    server.process.ended();

    stage.run(&["restore", "--from", file, "--dir", &stage.word("restored")]).says(0, &[]);
    let server = stage.server("restored", Some(port), &[]);
    is("complete");
    let ended = stage.ask(&server.address, &["alloc", "show", &id]);
    assert_eq!((&ended["state"], &ended["exit_code"]), (&"complete".into(), &0.into()), "{ended:#}");
    assert_eq!(stage.run(&["--addr", &server.address, "alloc", "logs", &id]).out, "fine\n");
    assert!(server.stop().success());
}

// Machines of the backup seemed ready until their leases ended. What was placed there waited for that, and then to be given up.
#[test]
fn a_development_cell_goes_on_from_its_backup_with_the_machines_that_it_has_now() {
    let stage = Stage::new();
    let first = stage.dev(&["--machines", "3"]);
    let machines = |address: &str| -> Vec<String> {
        let listed = stage.ask(address, &["machine", "list"]);
        listed["items"].as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap().to_owned()).collect()
    };
    eventually("all machines are there", || (machines(&first.address).len() == 3).then_some(()));
    let file = stage.word("cell.backup");
    stage.ask(&first.address, &["backup", "--out", &file]);
    assert_eq!(first.stop().code(), Some(0));

    std::fs::create_dir(stage.path("later")).unwrap();
    stage.run(&["restore", "--from", &file, "--dir", &stage.word("later/server")]).says(0, &[]);
    let job = "name = \"quick\"\nscheduler = \"batch\"\n[group.main]\ncount = 8\ncommand = [\"/bin/true\"]\n\
               resources = { cpu = \"10m\", memory = \"16MiB\" }\n";
    let job = stage.file("quick.toml", job);
    stage.run(&["dev", &job, "--until-done", "--dir", &stage.word("later")]).says(0, &["quick: complete"]);
    let server = stage.server("later/server", None, &[]);
    let placed = stage.ask(&server.address, &["alloc", "list", "--all", "--filter", "job=quick"])["items"].clone();
    let placed: Vec<_> = placed.as_array().unwrap().iter().map(|each| each["machine"].as_str().unwrap()).collect();
    assert_eq!(placed, ["machine-1"; 8], "nothing waited on another one, or was given up there");
    assert_eq!(machines(&server.address), ["machine-1"]);
}

// Whoever interrupted a backup was left with a file of a name that no listing shows, as large as what had come by then.
#[test]
fn a_backup_that_is_interrupted_leaves_nothing() {
    let stage = Stage::new();
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    std::fs::create_dir(stage.path("backups")).unwrap();
    let drafts = || std::fs::read_dir(stage.path("backups")).unwrap().count();
    // The last of them is what a terminal sends that is closed.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let words = ["--addr", &address, "backup", "--out", &stage.word("backups")];
        let mut backup = stage.start("backup", &words);
        eventually("it has begun", || (drafts() == 1 && listens(&backup)).then_some(()));
        backup.signal(signal);
        assert_eq!((backup.ended().code(), drafts()), (Some(1), 0));
        assert!(stage.text("backup.err").contains("the backup was interrupted"), "{}", stage.text("backup.err"));
    }
}

/// Whether a process has handlers for being asked to end.
fn listens(process: &Process) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let asked = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].map(|signal| 1_u64 << (signal as u32 - 1));
    let asked = asked.into_iter().sum::<u64>();
    u64::from_str_radix(caught.trim(), 16).unwrap() & asked == asked
}
