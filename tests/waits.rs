//! Waiting until all tasks of a job run: for as long as that takes, and saying why where it takes too long.

use std::{
    os::unix::process::CommandExt,
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::stage::{Stage, eventually};

/// A service whose one group never needs a restart; further groups may follow.
const SERVICE: &str = r#"
name = "web"
scheduler = "service"
[group.main]
count = 3
command = ["/bin/sleep", "1007"]
env = { STAGE = "$STAGE" }
resources = { cpu = "10m", memory = "16MiB" }
"#;

/// A group that no machine has room for.
const TOO_LARGE: &str = r#"
[group.large]
command = ["/bin/sleep", "1007"]
env = { STAGE = "$STAGE" }
resources = { cpu = "100000", memory = "16MiB" }
"#;

fn group<'job>(job: &'job Value, name: &str) -> &'job Value {
    job["groups"].as_array().unwrap().iter().find(|group| group["name"] == name).unwrap()
}

// A script had to look at the counts of each group again and again, and those count a task that is down as running.
#[test]
fn who_waits_until_a_service_runs_is_told_a_revision_at_which_all_of_it_did() {
    let stage = Stage::new();
    let dev = stage.dev(&["--no-isolation"]);
    let file = stage.file("web.toml", SERVICE);
    let run = ["--addr", &dev.address, "job", "run", &file, "--wait=running", "--timeout", "50s"];
    let done = stage.run(&[&run[..], &["-o", "json"]].concat());
    done.says(0, &[]);
    let job = done.json();
    assert_eq!((&job["state"], &job["groups"][0]["running"]), (&json!("running"), &json!(3)));
    let (revision, filter) = (job["running_revision"].to_string(), "state=running,ready=true");
    let then = ["alloc", "list", "--job", "web", "--filter", filter, "--at", &revision];
    let then = stage.ask(&dev.address, &then);
    assert_eq!(then["items"].as_array().map(Vec::len), Some(3), "{then:#}");
    // It runs already.
    let again = stage.run(&run);
    assert!(again.says(0, &[]).out.starts_with("job web has 3 of 3 tasks running (revision "), "{again}");
    assert_eq!(dev.stop().code(), Some(0));
}

// Nothing held that a wait in which something happens again and again ends at its limit: the limit counts from the submission.
#[test]
fn the_time_limit_of_a_wait_counts_from_the_submission_however_much_happens_to_the_job() {
    const LIMIT: Duration = Duration::from_secs(3);
    let stage = Stage::new();
    // Nobody is there to place its tasks.
    let server = stage.server("cell", None, &[]);
    let file = stage.file("web.toml", SERVICE);
    let begun = Instant::now();
    let limit = format!("{}s", LIMIT.as_secs());
    let mut run = stage.start("run", &["--addr", &server.address, "job", "run", &file, "--wait", "--timeout", &limit]);
    eventually("it is submitted", || stage.try_ask(&server.address, &["job", "show", "web"]).ok());
    let mut scaled = 0;
    let status = loop {
        if let Some(status) = run.has_ended() {
            break status;
        }
        assert!(begun.elapsed() < 10 * LIMIT, "it waits on after {scaled} changes: {}", stage.text("run.err"));
        let count = (4 + scaled % 2).to_string();
        stage.ask(&server.address, &["job", "scale", "web", "--group", "main", &count]);
        scaled += 1;
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(status.code(), Some(3), "{}", stage.text("run.err"));
    assert!(begun.elapsed() >= LIMIT && scaled > 1, "{scaled} changes in {:?}", begun.elapsed());
    assert!(stage.text("run.err").contains("error[TIME_LIMIT]"), "{}", stage.text("run.err"));
}

// It went on waiting for what somebody else had submitted, and ended with the result of that.
#[test]
fn who_waits_for_the_end_of_a_job_is_told_where_another_submission_takes_its_place() {
    let stage = Stage::new();
    let dev = stage.dev(&["--no-isolation"]);
    let file = stage.file("web.toml", SERVICE);
    let mut run = stage.start("run", &["--addr", &dev.address, "job", "run", &file, "--wait", "--timeout", "50s"]);
    eventually("it is submitted", || stage.try_ask(&dev.address, &["job", "show", "web"]).ok());
    // It does not look meanwhile.
    run.signal(Signal::SIGSTOP);
    stage.run(&["--addr", &dev.address, "job", "stop", "web", "--wait"]).says(0, &[]);
    let later = stage.file("later.toml", &SERVICE.replace("1007", "1008"));
    stage.ask(&dev.address, &["job", "run", &later]);
    run.signal(Signal::SIGCONT);
    assert_eq!(run.ended().code(), Some(1));
    assert!(stage.text("run.err").contains("JOB_OVER"), "{}", stage.text("run.err"));
    assert_eq!(dev.stop().code(), Some(0));
}

#[test]
fn who_waits_until_a_service_runs_that_never_fits_is_told_how_much_of_it_runs_and_why_no_more() {
    let stage = Stage::new();
    let dev = stage.dev(&["--no-isolation"]);
    let file = stage.file("web.toml", &format!("{SERVICE}{TOO_LARGE}"));
    stage.ask(&dev.address, &["job", "run", &file]);
    let shown = || stage.ask(&dev.address, &["job", "show", "web"]);
    eventually("what fits runs", || (group(&shown(), "main")["running"] == 3).then_some(()));
    eventually("it is told why no more", || {
        shown()["waiting_reason"].as_str().is_some_and(|why| why.contains("cpu")).then_some(())
    });
    let run = ["--addr", &dev.address, "-o", "json", "job", "run", &file, "--wait=running", "--timeout", "300ms"];
    let error = stage.run(&run).says(3, &["error[TIME_LIMIT]", "it goes on; see"]).error();
    let message = error["message"].as_str().unwrap();
    let told = "job web has 3 of 4 tasks running at the time limit: large: 1 waiting: ";
    assert!(message.starts_with(told) && message.contains("cpu"), "{message}");
    assert_eq!(dev.stop().code(), Some(0));
}

#[test]
fn a_failure_of_a_service_that_is_waited_for_is_told_once_and_its_stop_ends_the_wait() {
    let stage = Stage::new();
    let dev = stage.dev(&["--no-isolation"]);
    let crash = "[group.crash]\ncommand = [\"/bin/sh\", \"-c\", \"exit 9\"]\nretry = { delay = \"200ms\" }\n\
                 resources = { cpu = \"10m\", memory = \"16MiB\" }\n";
    // Without the large one there is a moment at which all run.
    let file = stage.file("web.toml", &format!("{SERVICE}{TOO_LARGE}{crash}"));
    let words = ["--addr", &dev.address, "job", "run", &file, "--wait=running"];
    let mut waiting = stage.start("waiting", &words);
    let told = "job web: task crash[0] failed: exit code 9; it is tried again\n";
    eventually("it says so", || stage.text("waiting.err").contains(told).then_some(()));
    eventually("it failed again", || {
        let job = stage.ask(&dev.address, &["job", "show", "web"]);
        (group(&job, "crash")["failures"].as_u64() >= Some(4)).then_some(())
    });
    assert!(waiting.has_ended().is_none(), "{}", stage.text("waiting.err"));
    let late = stage.run(&[&words[..], &["--timeout", "5s"]].concat());
    late.says(3, &["error[TIME_LIMIT]", "large: 1 waiting: ", "; task crash[0] failed: exit code 9"]);
    stage.ask(&dev.address, &["job", "stop", "web"]);
    assert_eq!(waiting.ended().code(), Some(1));
    assert!(stage.text("waiting.out").starts_with("job web stopped"), "{}", stage.text("waiting.out"));
    assert_eq!(stage.text("waiting.err").matches(told).count(), 1, "{}", stage.text("waiting.err"));
    assert_eq!(dev.stop().code(), Some(0));
}

// Its state is `running`, and `running` of its group is its `count`.
#[test]
fn a_task_that_is_down_until_its_agent_starts_it_again_is_waited_for() {
    let stage = Stage::new();
    let dev = stage.dev(&["--no-isolation"]);
    let job = "name = \"down\"\nscheduler = \"service\"\n[group.main]\ncommand = [\"/bin/sh\", \"-c\", \"sleep 1; exit 9\"]\n\
               env = { STAGE = \"$STAGE\" }\nrestart = { attempts = 5, delay = \"10m\" }\n\
               resources = { cpu = \"10m\", memory = \"16MiB\" }\n";
    let file = stage.file("down.toml", job);
    stage.ask(&dev.address, &["job", "run", &file]);
    let down = ["alloc", "list", "--job", "down", "--filter", "state=running,ready=false"];
    eventually("it is down", || stage.ask(&dev.address, &down)["items"][0].is_object().then_some(()));
    assert_eq!(stage.ask(&dev.address, &["job", "show", "down"])["groups"][0]["running"], 1);
    let late = stage.run(&["--addr", &dev.address, "job", "run", &file, "--wait=running", "--timeout", "300ms"]);
    let told = "job down has 0 of 1 task running at the time limit: main: 1 down until started again";
    late.says(3, &["error[TIME_LIMIT]", told]);
    assert_eq!(dev.stop().code(), Some(0));
}

// It said that the group was scaled, and nothing waited for that to be so.
#[test]
fn who_scales_a_service_and_waits_is_told_once_all_of_it_runs_or_why_it_does_not() {
    let stage = Stage::new();
    let dev = stage.dev(&["--no-isolation"]);
    let file =
        stage.file("web.toml", &format!("{SERVICE}{TOO_LARGE}").replace("[group.large]", "[group.large]\ncount = 0"));
    stage.ask(&dev.address, &["job", "run", &file]);
    let scale = ["job", "scale", "web", "--group"];
    let scaled = stage.ask(&dev.address, &[&scale[..], &["main", "5", "--wait", "--timeout", "50s"]].concat());
    assert_eq!((&scaled["changed"], &scaled["state"], &scaled["count"]), (&json!(true), &json!("running"), &json!(5)));
    assert!(scaled["running_revision"].as_u64() >= scaled["revision"].as_u64(), "{scaled:#}");
    let revision = scaled["running_revision"].to_string();
    let then = ["alloc", "list", "--job", "web", "--filter", "state=running,ready=true", "--at", &revision];
    let then = stage.ask(&dev.address, &then);
    assert_eq!(then["items"].as_array().map(Vec::len), Some(5), "{then:#}");
    let address = ["--addr", &dev.address];
    let fewer = stage.run(&[&address, &scale[..], &["main", "1", "--wait"]].concat());
    assert!(fewer.says(0, &[]).out.starts_with("job web has 1 of 1 task running (revision "), "{fewer}");
    let late = stage.run(&[&address, &scale[..], &["large", "1", "--wait", "--timeout", "300ms"]].concat());
    late.says(3, &["error[TIME_LIMIT]", "job web has 1 of 2 tasks running at the time limit: large: 1 waiting: "]);
    let shown = stage.ask(&dev.address, &["job", "show", "web"]);
    assert_eq!(group(&shown, "large")["count"], 1, "it stays scaled");
    // It is over before it has all of them.
    let words = [&address, &scale[..], &["large", "2", "--wait", "-o", "json"]].concat();
    let mut waiting = stage.start("waiting", &words);
    let is_scaled = || (group(&stage.ask(&dev.address, &["job", "show", "web"]), "large")["count"] == 2).then_some(());
    eventually("it is scaled", is_scaled);
    stage.ask(&dev.address, &["job", "stop", "web"]);
    assert_eq!(waiting.ended().code(), Some(1), "{}", stage.text("waiting.err"));
    let told: Value = serde_json::from_str(&stage.text("waiting.out")).unwrap();
    assert_eq!((&told["state"], &told["running_revision"]), (&json!("stopped"), &Value::Null), "{told:#}");
    assert_eq!(dev.stop().code(), Some(0));
}

// Nothing of it ever runs itself, and that was found out behind the change.
#[test]
fn a_recurring_job_is_not_scaled_where_its_tasks_were_to_be_waited_for() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let recurring = "scheduler = \"cron\"\nruns = \"recurring\"\noptions = { \"launch.scheduler\" = \"batch\" }";
    stage.submit(&server.address, "web.toml", &SERVICE.replace("scheduler = \"service\"", recurring));
    let words = ["--addr", &server.address, "job", "scale", "web", "5", "--wait"];
    stage.run(&words).says(2, &["error[USAGE]", "waits for ever to be launched", "leave --wait out"]);
    assert_eq!(group(&stage.ask(&server.address, &["job", "show", "web"]), "main")["count"], 3);
    // It was said to wait for ever.
    stage.ask(&server.address, &["job", "stop", "web"]);
    stage.run(&words).says(1, &["error[JOB_OVER]"]);
}

// It said nothing: whether the job had ended with the wait had to be looked up, and how it is stopped to be known.
#[test]
fn who_leaves_a_wait_is_told_that_the_job_goes_on() {
    let stage = Stage::new();
    // Nobody is there to place its tasks.
    let server = stage.server("cell", None, &[]);
    let file = stage.file("web.toml", SERVICE);
    let plenum = format!("plenum --addr {}", server.address);
    let told = format!(
        "job web goes on; `{plenum} job show default/web` tells how, and `{plenum} job stop default/web` stops it\n"
    );
    for wait in ["--wait", "--wait=running"] {
        let mut waiting = stage.start("waiting", &["--addr", &server.address, "job", "run", &file, wait]);
        eventually("it waits", || stage.text("waiting.err").contains("job web waits: ").then_some(()));
        waiting.signal(Signal::SIGINT);
        assert_eq!(waiting.ended().code(), Some(130));
        assert!(stage.text("waiting.err").ends_with(&told), "{}", stage.text("waiting.err"));
    }
}

#[test]
fn who_leaves_the_wait_for_a_stop_is_told_that_the_job_goes_on_stopping() {
    let stage = Stage::new();
    let dev = stage.dev(&["--no-isolation"]);
    let deaf = SERVICE
        .replace("count = 3\n", "kill_timeout = \"10m\"\n")
        .replace("[\"/bin/sleep\", \"1007\"]", "[\"/bin/sh\", \"-c\", \"trap '' TERM; exec sleep 1007\"]");
    stage.submit(&dev.address, "web.toml", &deaf);
    eventually("it does not listen", || {
        stage.processes("sleep 1007").into_iter().find(|found| found.words.starts_with("sleep"))
    });
    let mut waiting = stage.start("waiting", &["--addr", &dev.address, "job", "stop", "web", "--wait"]);
    eventually("it waits", || stage.text("waiting.err").contains("web: 1 task left\n").then_some(()));
    waiting.signal(Signal::SIGINT);
    assert_eq!(waiting.ended().code(), Some(130));
    let told =
        format!("job web goes on stopping; `plenum --addr {} job show default/web` tells what is left\n", dev.address);
    assert!(stage.text("waiting.err").ends_with(&told), "{}", stage.text("waiting.err"));
}

// In the background of a script, where a shell has it ignored, the Ctrl-C that was for something else ended each wait.
#[test]
fn a_wait_that_was_started_with_ctrl_c_ignored_goes_on() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let file = stage.file("web.toml", SERVICE);
    let words = ["--addr", &server.address, "job", "run", &file, "--wait"];
    let (mut waiting, ()) = stage.start_by("waiting", &words, |command| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "trap '' INT; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
        shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let printed = |kind: &str| std::fs::File::create(stage.path(&format!("waiting.{kind}"))).unwrap();
        let spawned = shell.process_group(0).stdout(printed("out")).stderr(printed("err")).spawn();
        (spawned.unwrap(), ())
    });
    eventually("it waits", || stage.text("waiting.err").contains("job web waits: ").then_some(()));
    waiting.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(500));
    assert!(waiting.has_ended().is_none(), "{}", stage.text("waiting.err"));
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.ended().code(), None);
}
