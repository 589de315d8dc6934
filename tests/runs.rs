//! Whole jobs: done, failed, crashed and started again; as root and as an ordinary user.

use std::{fs, os::unix::fs::chown, path::Path};

use serde_json::Value;

use crate::stage::{Stage, eventually, is_root};

/// The job of the README.
fn word_count() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/word-count.toml")).unwrap()
}

/// Words and their counts, the most frequent first, of texts that the test writes.
const TEXTS: [&str; 2] = ["one two two three three three\n", "four four four four, three-two\n"];
const COUNTED: &str = "4 four\n4 three\n3 two\n1 one\n";

/// The example, with texts of the test's own.
fn small_word_count(stage: &Stage) -> String {
    fs::create_dir(stage.path("texts")).unwrap();
    for (number, text) in TEXTS.iter().enumerate() {
        stage.file(&format!("texts/{number}"), text);
    }
    let text = word_count().replace("/usr/share/common-licenses", "$STAGE/texts");
    assert!(text.contains("$STAGE"), "the example names its folder of texts");
    stage.file("word-count.toml", &text)
}

#[test]
fn words_are_counted_right_and_the_log_of_it_is_sound() {
    let stage = Stage::new();
    let file = small_word_count(&stage);
    let done = stage.run(&["dev", &file, "--until-done", "--dir", &stage.word("cell"), "--machines", "2"]);
    done.says(0, &["word-count: complete", "10 tasks run in 10 allocations"]);
    assert_eq!(done.out, COUNTED);
    let verified = stage.run(&["verify", "--dir", &stage.word("cell/server"), "-o", "json"]);
    assert_eq!(verified.code(), Some(0), "{verified}");
    assert_eq!(verified.json()["violations"], serde_json::json!([]), "{verified}");
}

// Where a system has no such folder all was done, with 0, and no words were found.
#[test]
fn words_of_a_folder_without_texts_are_not_counted_as_none() {
    let stage = Stage::new();
    fs::create_dir(stage.path("empty")).unwrap();
    let text = word_count().replace("/usr/share/common-licenses", "$STAGE/empty");
    let text = text.replace("[group.split]\n", "[group.split]\nretry = { attempts = 0 }\n");
    let file = stage.file("word-count.toml", &text);
    let done = stage.run(&["dev", &file, "--until-done"]);
    done.says(1, &["word-count: failed", "split[0], attempt 1", "there are no texts in", "/empty"]);
}

#[test]
fn an_ordinary_user_runs_a_job_and_is_told_what_isolation_is_missing() {
    let mut stage = Stage::new();
    let file = small_word_count(&stage);
    if is_root() {
        stage.become_nobody();
    }
    let done = stage.run(&["dev", &file, "--until-done"]);
    done.says(0, &["word-count: complete", "10 tasks run in 10 allocations"]);
    assert_eq!(done.out, COUNTED);
    let missing: Vec<&str> = done.err.lines().filter(|line| line.starts_with("tasks run without: ")).collect();
    assert_eq!(missing.len(), 1, "in one line: {done}");
    assert!(missing[0].contains("limits of cpu, memory and pids"), "{done}");
    assert_eq!(stage.processes(""), []);
}

/// A job of one task that is not tried again.
fn once(name: &str, command: &str) -> String {
    format!(
        "name = \"{name}\"\nscheduler = \"batch\"\n[group.main]\ncommand = [{command}]\nretry = {{ attempts = 0 }}\n\
         env = {{ STAGE = \"$STAGE\" }}\nresources = {{ cpu = \"100m\", memory = \"16MiB\" }}\n"
    )
}

#[test]
fn a_command_that_is_not_there_fails_the_job_with_that_reason() {
    let stage = Stage::new();
    let file = stage.file("job.toml", &once("nowhere", "\"/nowhere/to/be/found\""));
    let done = stage.run(&["dev", &file, "--until-done"]);
    done.says(1, &["nowhere: failed", "command not found", "/nowhere/to/be/found", "explain COMMAND_NOT_FOUND"]);
    done.says(1, &["main[0], attempt 1"]);
}

#[test]
fn what_a_failed_task_said_is_shown() {
    let stage = Stage::new();
    let file = stage.file("job.toml", &once("sorry", r#""/bin/sh", "-c", "echo out of luck >&2; exit 7""#));
    stage.run(&["dev", &file, "--until-done"]).says(1, &["sorry: failed", "exit code 7", "out of luck"]);
}

// Standard error alone was told, and many programs say on standard output why they end: that was gone with the cell.
#[test]
fn what_a_failed_task_printed_on_standard_output_is_shown_as_well() {
    let stage = Stage::new();
    let script = "echo cannot open the input; echo deprecated >&2; exit 2";
    let file = stage.file("job.toml", &once("sorry", &format!(r#""/bin/sh", "-c", "{script}""#)));
    let done = stage.run(&["dev", &file, "--until-done"]);
    done.says(1, &["sorry: failed", "exit code 2"]);
    let told = ["    cannot open the input\n", "    deprecated\n"].map(|line| done.err.contains(line));
    assert_eq!((told, done.out.as_str()), ([true, true], ""), "{done}");
}

// The last lines of a job were printed of one that completed alone.
#[test]
fn the_last_lines_of_tasks_that_completed_are_printed_of_a_job_that_failed_too() {
    let stage = Stage::new();
    let script = "[ $PLENUM_TASK_INDEX = 1 ] || { echo one part; exit 0; }; \
                  while ! [ -e $STAGE/go ]; do sleep 0.1; done; exit 2";
    let job = once("halves", &format!(r#""/bin/sh", "-c", "{script}""#));
    let file = stage.file("job.toml", &job.replace("[group.main]\n", "[group.main]\ncount = 2\n"));
    let mut dev = stage.dev(&[&file, "--until-done"]);
    eventually("the first task is complete", || {
        let job = stage.try_ask(&dev.address, &["job", "show", "halves"]).ok()?;
        (job["groups"][0]["complete"] == 1).then_some(())
    });
    stage.file("go", "");
    assert_eq!(dev.process.ended().code(), Some(1), "{}", stage.text("dev.err"));
    let (out, told) = (stage.text("dev.out"), stage.text("dev.err"));
    assert!(out.ends_with("one part\n"), "{out}");
    assert!(told.contains("halves: task main[1], attempt 1") && !told.contains("can be read"), "{told}");
}

#[test]
fn waiting_for_a_job_ends_with_its_result() {
    let stage = Stage::new();
    let dev = stage.dev(&["--no-isolation"]);
    let run = |name: &str, command: &str, more: &[&str]| {
        let file = stage.file(&format!("{name}.toml"), &once(name, command));
        stage.run(&[&["--addr", &dev.address, "-o", "json", "job", "run", &file, "--wait"], more].concat())
    };
    let good = run("good", r#""/bin/sh", "-c", "echo well done; echo indeed >&2""#, &[]);
    assert_eq!((good.code(), good.json()["state"].as_str()), (Some(0), Some("complete")), "{good}");
    let bad = run("bad", "\"/bin/false\"", &[]);
    assert_eq!((bad.code(), bad.json()["state"].as_str()), (Some(1), Some("failed")), "{bad}");
    let worse = stage.file("worse.toml", &once("worse", "\"/bin/false\""));
    let worse = stage.run(&["--addr", &dev.address, "job", "run", &worse, "--wait"]);
    assert_eq!((worse.code(), worse.out.as_str()), (Some(1), "job worse failed: task main[0] failed: exit code 1\n"));
    worse.says(1, &[&format!("see what it printed: `plenum --addr {} alloc logs alloc-", dev.address), " --stderr`"]);
    let long = run("long", "\"/bin/sleep\", \"1000\"", &["--timeout", "300ms"]);
    assert_eq!((long.code(), long.error()["code"].as_str()), (Some(3), Some("TIME_LIMIT")), "{long}");
    let file = stage.file("far.toml", &format!("namespace = \"ml\"\n{}", once("far", "\"/bin/sleep\", \"1000\"")));
    let far = stage.run(&["--addr", &dev.address, "job", "run", &file, "--wait", "--timeout", "300ms"]);
    far.says(3, &[&format!("`plenum --addr {} job show ml/far`", dev.address)]);

    let stopped = stage.ask(&dev.address, &["job", "stop", "long", "--wait"]);
    assert!(stopped["state"] == "stopped" && stopped["unknown_tasks"] == 0, "{stopped:#}");
    assert!(stopped["changed"] == true && stopped["revision"].is_u64(), "{stopped:#}");
    assert!(stopped["ended_revision"].as_u64() > stopped["revision"].as_u64(), "{stopped:#}");
    let again = stage.ask(&dev.address, &["job", "stop", "long", "--wait"]);
    assert!(again["changed"] == false && again["state"] == "stopped", "it was over before: {again:#}");
    let shown = stage.ask(&dev.address, &["job", "show", "long"]);
    assert!(shown["groups"][0]["running"] == 0 && shown["groups"][0]["stopping"] == 0, "its task is gone: {shown:#}");
    let id = stage.ask(&dev.address, &["job", "show", "good"])["allocations"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(stage.ask(&dev.address, &["alloc", "show", &id])["exit_code"], 0);
    let logs = |more: &[&str]| stage.run(&[&["--addr", &dev.address, "alloc", "logs", &id], more].concat()).out;
    assert_eq!((logs(&[]).as_str(), logs(&["--stderr"]).as_str()), ("well done\n", "indeed\n"));
    assert_eq!((logs(&["--tail", "1"]).as_str(), logs(&["--tail", "0"]).as_str()), ("well done\n", ""));
    assert_eq!(logs(&["--tail", "0", "-f"]), "", "it prints nothing new any more");
    let hushed = run("hushed", r#""/bin/sh", "-c", "echo hush >&2""#, &[]);
    assert_eq!(hushed.code(), Some(0), "{hushed}");
    let told_of = |name: &str, more: &[&str]| {
        let job = stage.ask(&dev.address, &["job", "show", name]);
        let id = job["allocations"][0]["id"].as_str().unwrap();
        stage.run(&[&["--addr", &dev.address, "alloc", "logs", id], more].concat()).says(0, &[]).err.clone()
    };
    assert!(told_of("hushed", &[]).contains(" --stderr` has what it printed on standard error"));
    assert_eq!((told_of("hushed", &["--stderr"]), told_of("good", &[])), (String::new(), String::new()));
    assert!(told_of("bad", &[]).starts_with("nothing was printed; "), "neither here nor there");
    assert_eq!(dev.stop().code(), Some(0));
}

// A cell that keeps finished jobs for a moment only had retired it before it was looked at again: the job had completed, and whoever waited
// for it read that there is no such job.
#[test]
fn who_waits_for_a_job_learns_how_it_ended_though_it_is_retired_at_once() {
    let stage = Stage::new();
    let settings = stage.file("server.toml", "retire_after = \"1ms\"\n");
    let server = stage.server("cell", None, &["--config", &settings]);
    let (_scheduler, _agent) = (stage.scheduler(&server.address, "batch"), stage.agent(&server.address, "agent"));
    let asked = ["--addr", &server.address, "-o", "json", "job"];
    let ends = |name: &str, words: &[&str], code, state| {
        let done = stage.run(&[&asked, words, &["--wait"]].concat());
        assert_eq!((done.code(), done.json()["state"].as_str()), (Some(code), Some(state)), "{done}");
        eventually("it is retired", || stage.try_ask(&server.address, &["job", "show", name]).err());
    };
    // Long enough to be looked at seldom by then.
    for (script, code, state) in [("sleep 2", 0, "complete"), ("sleep 2; exit 3", 1, "failed")] {
        let file = stage.file("job.toml", &once(state, &format!(r#""/bin/sh", "-c", "{script}""#)));
        ends(state, &["run", &file], code, state);
    }
    let recurring = "scheduler = \"cron\"\nruns = \"recurring\"\noptions = { \"launch.scheduler\" = \"batch\" }\n";
    let nightly = once("nightly", "\"/bin/true\"").replace("scheduler = \"batch\"\n", recurring);
    stage.submit(&server.address, "nightly.toml", &nightly);
    ends("nightly-1794798000", &["launch", "nightly", "--at", "2026-11-16T03:00:00Z"], 0, "complete");
}

#[test]
fn who_waits_for_a_job_waits_through_a_restart_of_the_cell() {
    let stage = Stage::new();
    let mut server = stage.server("cell", None, &[]);
    let (port, address) = (server.port(), server.address.clone());
    let file = stage.file("job.toml", &once("patient", "\"/bin/true\""));
    let mut waiting = stage.start("waiting", &["--addr", &address, "-o", "json", "job", "run", &file, "--wait"]);
    let is_there = || stage.try_ask(&address, &["job", "show", "patient"]).ok();
    eventually("the job is there", is_there);
    server.process.kill();
    eventually("the one who waits has noticed", || stage.text("waiting.err").contains("does not answer").then_some(()));
    let server = stage.server("cell", Some(port), &[]);
    stage.ask(&address, &["job", "stop", "patient"]);
    assert_eq!(waiting.ended().code(), Some(1), "{}", stage.text("waiting.err"));
    let told: Value = serde_json::from_str(&stage.text("waiting.out")).unwrap();
    assert_eq!(told["state"], "stopped", "{told}");
    assert_eq!(server.stop().code(), Some(0));
}

/// A service of three, whose tasks say who they are and run until they are killed.
const SERVICE: &str = r#"
name = "three"
scheduler = "service"
[group.main]
count = 3
command = ["/bin/sleep", "1003"]
env = { STAGE = "$STAGE" }
retry = { delay = "100ms" }
restart = { attempts = 0 }
resources = { cpu = "50m", memory = "16MiB" }
"#;

// Between two of its starts it looked like any other that runs.
#[test]
fn a_service_that_fails_again_and_again_says_how_often() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let (_scheduler, _agent) = (stage.scheduler(&server.address, "service"), stage.agent(&server.address, "agent"));
    let job = "name = \"crash\"\nscheduler = \"service\"\n[group.main]\ncommand = [\"/bin/sh\", \"-c\", \"exit 9\"]\n\
               resources = { cpu = \"10m\", memory = \"16MiB\" }\nretry = { attempts = 50, delay = \"6s\" }\n";
    stage.submit(&server.address, "crash.toml", job);
    // What it says is true until the next failure: long enough to be read.
    let says = |words: &str| {
        eventually(&format!("it says {words}"), || {
            let job = stage.ask(&server.address, &["job", "show", "crash"]);
            job["waiting_reason"].as_str().is_some_and(|reason| reason.contains(words)).then_some(())
        });
    };
    says("task 0 failed once, `plenum job history crash` tells how");
    says("task 0 failed 2 times");
    // And while the next try runs, which the list says of it, too.
    stage.submit(&server.address, "three.toml", SERVICE);
    let listed = |filter: &str| stage.ask(&server.address, &["job", "list", "--filter", filter])["items"].clone();
    let (failing, sound) = (listed("state=running,failing=1"), listed("failing=0"));
    assert_eq!((&failing[0]["name"], &failing[0]["groups"][0]["failing"]), (&"crash".into(), &1.into()), "{failing:#}");
    assert!(failing[0]["groups"][0]["failures"].as_u64() >= Some(2), "{failing:#}");
    assert_eq!((&sound[0]["name"], &sound[1]), (&"three".into(), &Value::Null), "{sound:#}");
    let run = |words: &[&str]| stage.run(&[&["--addr", &server.address, "job"], words].concat()).out;
    let table = run(&["list"]);
    let crash = table.lines().find(|line| line.starts_with("crash ")).unwrap();
    assert!(crash.contains("  running (failing)  ") && table.matches("(failing)").count() == 1, "{table}");
    let shown = run(&["show", "crash"]);
    assert!(shown.contains("main: 1 of 1, up to ") && shown.contains("running (failing)"), "{shown}");
}

#[test]
fn a_service_keeps_its_number_and_one_that_crashes_comes_back() {
    let stage = Stage::new();
    let file = stage.file("three.toml", SERVICE);
    let dev = stage.dev(&[&file, "--machines", "2"]);
    let tasks = || stage.processes("/bin/sleep 1003").into_iter().filter(|found| found.words.starts_with("/bin/sleep"));
    let running = |count: usize| {
        let job = stage.try_ask(&dev.address, &["job", "show", "three"]).ok()?;
        (job["groups"][0]["running"] == count && tasks().count() == count).then_some(job)
    };
    eventually("three run", || running(3));
    let crashed = tasks().next().unwrap();
    crashed.kill();
    // The job may be of a moment before the crash, and the processes of one after it.
    let with_a_successor = |job: &Value| job["allocations"].as_array().is_some_and(|all| all.len() > 3);
    let job = eventually("three run again, one of them new", || running(3).filter(with_a_successor));
    assert!(!crashed.is_there());
    let allocations = job["allocations"].as_array().unwrap();
    assert_eq!(allocations.len(), 4, "{allocations:#?}");
    let failed: Vec<&Value> = allocations.iter().filter(|each| each["state"] == "failed").collect();
    assert_eq!(failed.len(), 1, "each exit is a failure: {allocations:#?}");
    let successor = |each: &&Value| each["attempt"] == 2 && each["task_index"] == failed[0]["task_index"];
    assert_eq!(allocations.iter().filter(successor).count(), 1, "{allocations:#?}");
    assert_eq!(job["state"], "running");

    stage.ask(&dev.address, &["job", "scale", "three", "1"]);
    eventually("one runs", || running(1));
    assert_eq!(dev.stop().code(), Some(0));
}

// It was told to stop the job first, in a cell that had just ended; and the file before it had been submitted all the same.
#[test]
fn a_file_that_was_changed_between_two_runs_in_a_directory_says_where_its_job_is_stopped() {
    let stage = Stage::new();
    let service = |name: &str, seconds: u32| {
        let text = format!(
            "name = \"{name}\"\nscheduler = \"service\"\n[group.main]\ncommand = [\"/bin/sleep\", \"{seconds}\"]\n\
             env = {{ STAGE = \"$STAGE\" }}\nresources = {{ cpu = \"10m\", memory = \"16MiB\" }}\n"
        );
        stage.file(&format!("{name}.toml"), &text)
    };
    let web = service("web", 1004);
    let dev = stage.dev(&["--no-isolation", &web]);
    eventually("the job is there", || stage.try_ask(&dev.address, &["job", "show", "web"]).ok());
    assert_eq!(dev.stop().code(), Some(0));

    let (db, web, dir) = (service("db", 1005), service("web", 1006), stage.word("cell"));
    let starts = format!("an earlier run left it in {dir}: `plenum dev --dir {dir}` without files");
    let done = stage.run(&["dev", "--dir", &dir, "--no-isolation", &db, &web]);
    done.says(1, &["error[JOB_CHANGED]", &starts, "stop default/web there"]);

    let dev = stage.dev(&["--no-isolation"]);
    let listed = stage.ask(&dev.address, &["job", "list"])["items"].clone();
    assert_eq!(
        (&listed[0]["name"], &listed[1]),
        (&"web".into(), &Value::Null),
        "nothing new was submitted: {listed:#}"
    );
    assert_eq!(stage.ask(&dev.address, &["job", "stop", "web"])["changed"], true);
    assert_eq!(dev.stop().code(), Some(0));
}

impl Stage {
    /// From now on everything is run as the user `nobody`, who owns the folder.
    fn become_nobody(&mut self) {
        const NOBODY: u32 = 65534;
        let mut paths = vec![self.path("")];
        while let Some(path) = paths.pop() {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            paths.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        // The built binary may be below a folder that only root can enter.
        let binary = self.path("plenum");
        fs::copy(env!("CARGO_BIN_EXE_plenum"), &binary).unwrap();
        self.binary = binary;
        self.prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned).to_vec();
    }
}

// It waited a minute for the address of a server that served all the while, and said that it could not be reached.
#[test]
fn a_server_that_cannot_write_down_where_it_listens_is_told_at_once() {
    let stage = Stage::new();
    let job = "name = \"quick\"\nscheduler = \"batch\"\n[group.main]\ncommand = [\"/bin/true\"]\nresources = { cpu = \"100m\", memory = \"16MiB\" }\n";
    let (file, dir) = (stage.file("quick.toml", job), stage.word("cell"));
    stage.run(&["dev", &file, "--until-done", "--dir", &dir]).says(0, &["quick: complete"]);
    fs::create_dir(stage.path("cell/server/address.tmp")).unwrap();
    let done = stage.run(&["dev", &file, "--until-done", "--dir", &dir]);
    done.says(1, &["the server cannot write down where it listens", "can't be told in a file", "see the logs in"]);
}
