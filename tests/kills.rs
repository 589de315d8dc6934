//! `kill -9` of each part while jobs run: nothing is placed twice, and the others come back by themselves. That nothing is lost which a server
//! had acknowledged, `crash::kills` shows.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::stage::{Found, Served, Stage, eventually};

/// Tasks that wait for a file of the test's folder, then others that wait for them.
const WAITING: &str = r#"
name = "waiting"
scheduler = "batch"
[group.first]
count = 3
command = ["/bin/sh", "-c", "while ! [ -e $STAGE/go ]; do sleep 0.1; done"]
env = { STAGE = "$STAGE" }
resources = { cpu = "100m", memory = "16MiB" }
[group.second]
after = ["first"]
count = 3
command = ["/bin/true"]
resources = { cpu = "100m", memory = "16MiB" }
"#;

/// The words of a task of the first group.
const TASK: &str = "while ! [ -e";

/// A cell under `dev` in which the three tasks of the first group run.
fn waiting_cell() -> (Stage, Served, Vec<Found>) {
    let stage = Stage::new();
    let file = stage.file("waiting.toml", WAITING);
    let dev = stage.dev(&[&file, "--until-done"]);
    let tasks = tasks(&stage, 3);
    eventually("the cell knows that they run", || {
        let job = stage.try_ask(&dev.address, &["job", "show", "waiting"]).ok()?;
        (job["groups"][0]["running"] == 3).then_some(())
    });
    (stage, dev, tasks)
}

/// The commands of tasks, once there are so many: not their shims, whose command line is the binary's, and not what a shell
/// forks, which has its command line until it is another program.
#[track_caller]
fn tasks(stage: &Stage, count: usize) -> Vec<Found> {
    eventually(&format!("{count} tasks run"), || {
        let mut found = stage.processes(TASK);
        found.retain(|process| process.words.starts_with("/bin/sh"));
        let ids: Vec<i32> = found.iter().map(|process| process.id).collect();
        found.retain(|process| process.parent().is_some_and(|parent| !ids.contains(&parent)));
        (found.len() == count).then_some(found)
    })
}

/// A part under `dev` is killed, and there is another one.
#[track_caller]
fn kill_part(stage: &Stage, words: &str) {
    let part = stage.process(words);
    part.kill();
    eventually(&format!("another `{words}`"), || stage.processes(words).into_iter().find(|found| found.id != part.id));
}

/// The job runs to its end, and each of its tasks was placed once.
#[track_caller]
fn ends_well(stage: &Stage, mut dev: Served) {
    stage.file("go", "");
    // While it still answers: the end of the job is the end of the cell.
    assert_eq!(dev.process.ended().code(), Some(0), "{}", stage.text("dev.err"));
    let told = stage.text("dev.err");
    assert!(told.contains("6 tasks run in 6 allocations"), "nothing is placed twice: {told}");
    stage.run(&["verify", "--dir", &stage.word("cell/server")]).says(0, &[]);
}

#[test]
fn a_job_goes_on_when_the_server_is_killed() {
    let (stage, dev, tasks) = waiting_cell();
    kill_part(&stage, " server --dir");
    eventually("the cell answers again", || stage.try_ask(&dev.address, &["status"]).ok());
    assert!(tasks.iter().all(Found::is_there), "the tasks did not notice");
    ends_well(&stage, dev);
    let told = stage.text("dev.err");
    assert!(told.contains("with conflicts, since the server was last started"), "what it counts: {told}");
}

#[test]
fn a_job_goes_on_when_its_scheduler_is_killed() {
    let (stage, dev, _) = waiting_cell();
    kill_part(&stage, " scheduler batch");
    ends_well(&stage, dev);
}

#[test]
fn tasks_are_adopted_when_the_agent_is_killed() {
    let (stage, dev, tasks) = waiting_cell();
    let before = stage.ask(&dev.address, &["alloc", "list"]);
    kill_part(&stage, " agent --name");
    let running = |allocations: &Value| {
        let items = allocations["items"].as_array().unwrap();
        items.iter().filter(|each| each["state"] == "running").count()
    };
    eventually("the new agent has a lease", || {
        let log = stage.text("cell/logs/agent-machine-1.log");
        (log.matches("registered").count() == 2).then_some(())
    });
    let after = stage.ask(&dev.address, &["alloc", "list"]);
    let ids = |allocations: &Value| -> Vec<String> {
        allocations["items"].as_array().unwrap().iter().map(|each| each["id"].to_string()).collect()
    };
    assert_eq!((ids(&after), running(&after)), (ids(&before), 3), "the same allocations, running");
    assert!(tasks.iter().all(Found::is_there), "and the same processes");
    assert_eq!(stage.ask(&dev.address, &["machine", "list"])["items"][0]["epoch"], 1, "its lease did not expire");
    ends_well(&stage, dev);
}

/// Prints a number ten times a second, until the file of its name is there.
const COUNTING: &str = r#"
name = "counting"
scheduler = "batch"
[group.main]
command = ["/bin/sh", "-c", "i=0; while ! [ -e $STAGE/go ]; do i=$((i+1)); echo $i; sleep 0.1; done; echo done"]
env = { STAGE = "$STAGE" }
resources = { cpu = "100m", memory = "16MiB" }
"#;

// It ended when the agent was started again, and who began anew had lines twice.
#[test]
fn who_follows_a_log_has_each_line_once_whoever_is_killed_meanwhile() {
    let stage = Stage::new();
    let file = stage.file("counting.toml", COUNTING);
    let dev = stage.dev(&[&file]);
    let id = stage.running(&dev.address, "counting");
    let follow = ["--addr", &dev.address, "alloc", "logs", &id, "--follow"];
    let mut follows = stage.start("follows", &follow);
    let lines = || stage.text("follows.out").lines().count();
    let goes_on = |what: &str| {
        let before = lines();
        eventually(what, || (lines() > before + 3).then_some(()));
    };
    goes_on("it is followed");
    kill_part(&stage, " agent --name");
    goes_on("it is followed past the agent's end");
    kill_part(&stage, " server --dir");
    goes_on("it is followed past the server's end");
    stage.file("go", "");
    assert_eq!(follows.ended().code(), Some(0), "{}", stage.text("follows.err"));
    let text = stage.text("follows.out");
    let numbers = text.lines().count() - 1;
    let expected: String = (1..=numbers).map(|number| format!("{number}\n")).chain(["done\n".to_owned()]).collect();
    assert_eq!(text, expected);
    let told = stage.text("follows.err");
    assert!(told.contains("its log goes on when it is back"), "{told}");
    assert_eq!(dev.stop().code(), Some(0));
}

#[test]
fn a_cell_that_was_killed_as_a_whole_goes_on_where_it_was() {
    let (stage, mut dev, tasks) = waiting_cell();
    // Stopped first, so that it starts nothing again; killed last, so that no part is asked to end.
    dev.process.signal(Signal::SIGSTOP);
    for part in [" agent --name", " scheduler batch", " server --dir"] {
        stage.process(part).kill();
    }
    dev.process.kill();
    assert!(tasks.iter().all(Found::is_there), "tasks need none of them");
    stage.file("go", "");
    eventually("the tasks have ended while nobody looked", || tasks.iter().all(|task| !task.is_there()).then_some(()));

    let dev = stage.dev(&[]);
    let job = eventually("the job completes", || {
        let job = stage.ask(&dev.address, &["job", "show", "waiting"]);
        (job["state"] == "complete").then_some(job)
    });
    let allocations = job["allocations"].as_array().unwrap();
    assert_eq!(allocations.len(), 6, "nothing is placed twice: {allocations:#?}");
    assert!(allocations.iter().all(|each| each["state"] == "complete" && each["attempt"] == 1), "{allocations:#?}");
    assert_eq!(dev.stop().code(), Some(0));
}

// Those of before were taken for this run's: as ready as when they were killed, with a third of this machine each, and the job was
// refused. What had fitted was placed on one without an agent.
#[test]
fn a_cell_that_was_killed_and_has_fewer_machines_now_judges_by_these() {
    let stage = Stage::new();
    let mut dev = stage.dev(&["--machines", "3"]);
    let machines = eventually("all machines are ready", || {
        let machines = stage.try_ask(&dev.address, &["machine", "list"]).ok()?;
        (machines["items"].as_array()?.len() == 3).then_some(machines)
    });
    dev.process.signal(Signal::SIGSTOP);
    for part in [" server --dir", " agent --name", " scheduler"] {
        stage.processes(part).iter().for_each(Found::kill);
    }
    dev.process.kill();

    let share = machines["items"][0]["capacity"]["cpu_millis"].as_i64().unwrap();
    let text = format!(
        "name = \"large\"\nscheduler = \"batch\"\n[group.main]\ncommand = [\"/bin/true\"]\n\
         resources = {{ cpu = \"{}m\", memory = \"16MiB\" }}\n",
        share * 2
    );
    let file = stage.file("large.toml", &text);
    let done = stage.run(&["dev", &file, "--until-done", "--dir", &stage.word("cell"), "--machines", "1"]);
    done.says(0, &["large: complete"]);

    let dev = stage.dev(&[]);
    let known = stage.ask(&dev.address, &["machine", "list"]);
    let known: Vec<&str> = known["items"].as_array().unwrap().iter().filter_map(|each| each["name"].as_str()).collect();
    assert_eq!(known, ["machine-1"], "what has no agent any more is gone");
}

/// Thirty tasks that write down that they ran. The last of them wait for a file of the test's folder: until then the job is not over.
const COUNTED: &str = r#"
name = "counted"
scheduler = "batch"
[group.main]
count = 30
command = ["/bin/sh", "-c", """
echo $PLENUM_TASK_INDEX >> $STAGE/ran; sleep 0.3
[ $PLENUM_TASK_INDEX -lt 27 ] || until [ -e $STAGE/go ]; do sleep 0.1; done"""]
env = { STAGE = "$STAGE" }
resources = { cpu = "200m", memory = "16MiB" }
"#;

#[test]
fn whatever_is_killed_meanwhile_each_task_runs_once() {
    let stage = Stage::new();
    let file = stage.file("counted.toml", COUNTED);
    let mut dev = stage.dev(&[&file, "--until-done"]);
    let ran = || stage.text("ran").lines().count();
    for (number, part) in [" agent --name", " server --dir", " scheduler batch"].into_iter().cycle().take(6).enumerate()
    {
        eventually("the job goes on", || (ran() > number * 2).then_some(()));
        kill_part(&stage, part);
    }
    stage.file("go", "");
    assert_eq!(dev.process.ended().code(), Some(0), "{}", stage.text("dev.err"));
    let mut tasks: Vec<u32> = stage.text("ran").lines().map(|line| line.parse().unwrap()).collect();
    tasks.sort_unstable();
    assert_eq!(tasks, (0..30).collect::<Vec<_>>(), "each once");
    assert!(stage.text("dev.err").contains("30 tasks run in 30 allocations"), "{}", stage.text("dev.err"));
    stage.run(&["verify", "--dir", &stage.word("cell/server")]).says(0, &[]);
}

/// Two jobs, each of one task that waits for a file; the first one fails then.
const TWO: [&str; 2] = [
    "name = \"ends\"\nscheduler = \"batch\"\n[group.main]\nretry = { attempts = 0 }\nenv = { STAGE = \"$STAGE\" }\n\
     command = [\"/bin/sh\", \"-c\", \"while ! [ -e $STAGE/end ]; do sleep 0.1; done; exit 7\"]\n\
     resources = { cpu = \"100m\", memory = \"16MiB\" }\n",
    "name = \"stays\"\nscheduler = \"batch\"\n[group.main]\nenv = { STAGE = \"$STAGE\" }\n\
     command = [\"/bin/sh\", \"-c\", \"while ! [ -e $STAGE/go ]; do sleep 0.1; done\"]\n\
     resources = { cpu = \"100m\", memory = \"16MiB\" }\n",
];

#[test]
fn an_exit_code_is_kept_while_no_agent_looks() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let _scheduler = stage.scheduler(&server.address, "batch");
    let mut agent = stage.agent(&server.address, "agent");
    stage.submit(&server.address, "ends.toml", TWO[0]);
    stage.submit(&server.address, "stays.toml", TWO[1]);
    let tasks = tasks(&stage, 2);
    agent.kill();
    stage.file("end", "");
    eventually("one task has ended", || (tasks.iter().filter(|task| task.is_there()).count() == 1).then_some(()));
    let _agent = stage.agent(&server.address, "agent");
    let allocation = |job: &str| {
        let filter = format!("job={job}");
        let listed = stage.ask(&server.address, &["alloc", "list", "--all", "--filter", &filter]);
        let items = listed["items"].as_array().unwrap();
        assert_eq!(items.len(), 1, "one attempt: {listed:#}");
        items[0].clone()
    };
    let ended = eventually("the end is told", || Some(allocation("ends")).filter(|each| each["state"] == "failed"));
    assert_eq!((&ended["exit_code"], &ended["attempt"]), (&7.into(), &1.into()));
    stage.file("go", "");
    let ended =
        eventually("the other one completes", || Some(allocation("stays")).filter(|each| each["state"] == "complete"));
    assert_eq!(ended["attempt"], 1);
}

// A server that was started once on an empty directory, as of a disk that was not mounted, ended all agents for good.
#[test]
fn a_cell_that_took_the_address_of_another_is_left_alone_by_that_ones_agent_which_waits_for_its_own() {
    let stage = Stage::new();
    let mut one = stage.server("one", None, &[]);
    let _scheduler = stage.scheduler(&one.address, "batch");
    let mut agent = stage.agent(&one.address, "agent");
    stage.submit(&one.address, "stays.toml", TWO[1]);
    let task = tasks(&stage, 1).remove(0);
    let runs = |address: &str| {
        let listed = stage.try_ask(address, &["alloc", "list"]).ok()?;
        (listed["items"][0]["state"] == "running").then_some(())
    };
    eventually("the agent has told that it runs", || runs(&one.address));
    let port = one.port();
    one.process.kill();

    let mut other = stage.server("other", Some(port), &[]);
    let told = "its tasks belong to cell";
    eventually("the agent says so", || stage.text("agent.err").contains(told).then_some(()));
    let machines = stage.ask(&other.address, &["machine", "list"]);
    assert_eq!(machines["items"], serde_json::json!([]), "the other cell has not even heard of the machine");
    other.process.kill();

    let one = stage.server("one", Some(port), &[]);
    eventually("its own cell has it again", || {
        let listed = stage.try_ask(&one.address, &["machine", "list"]).ok()?;
        (listed["items"][0]["state"] == "ready").then_some(())
    });
    eventually("and it runs", || runs(&one.address));
    assert!(task.is_there() && agent.has_ended().is_none(), "{}", stage.text("agent.err"));
    let said = stage.text("agent.err");
    assert!(said.contains("OTHER_CELL") && said.matches(told).count() == 1, "{said}");
    stage.file("go", "");
    eventually("it completes", || {
        let listed = stage.ask(&one.address, &["alloc", "list", "--all"]);
        (listed["items"][0]["state"] == "complete").then_some(())
    });
}
