//! Exit codes, errors for programs, and directories and ports that belong to others.

use std::{fs, net::TcpListener};

use crate::stage::{Stage, eventually};

/// A job that runs until it is told to stop.
const FOREVER: &str = "name = \"web\"\nscheduler = \"service\"\n[group.web]\ncommand = [\"/bin/sleep\", \"1000\"]\n\
                       env = { STAGE = \"$STAGE\" }\nresources = { cpu = \"10m\", memory = \"16MiB\" }\n";

#[test]
fn a_cell_that_does_not_answer_is_told_with_what_to_do() {
    let stage = Stage::new();
    // A port that nobody listens on: it was taken and given back.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("http://127.0.0.1:{port}");
    stage.run(&["--addr", &address, "status"]).says(1, &["error[UNAVAILABLE]", &address, "hint:", "plenum dev"]);
    let done = stage.run(&["--addr", &address, "job", "list", "-o", "json"]);
    let error = done.says(1, &[]).error();
    assert_eq!(error["code"], "UNAVAILABLE");
    assert!(done.err.contains("error[UNAVAILABLE]"), "people are told, too: {done}");
    assert!(error["message"].is_string() && error["hint"].is_string(), "{error}");
}

#[test]
fn wrong_usage_ends_with_two() {
    let stage = Stage::new();
    stage.run(&["frobnicate"]).says(2, &["frobnicate"]);
    stage.run(&["dev", "--until-done"]).says(2, &["--until-done"]);
    stage.run(&["dev", "--machines", "0"]).says(2, &["machines"]);
    stage.run(&["--namespace", "../up", "job", "list"]).says(2, &["error[USAGE]", "namespace"]);
    stage.run(&["txn", "show", "nonsense"]).says(2, &["nonsense", "txn-"]);
    stage.run(&["job", "scale", "web", "c=3"]).says(2, &["'c=3'", "expected a number of tasks", "COUNT --group c"]);
    let error = stage.run(&["job", "list", "--limit", "many", "-o", "json"]).says(2, &[]).error();
    assert_eq!(error["code"], "USAGE");
    let error = stage.run(&["-o", "json", "job"]).says(2, &["error[USAGE]: `plenum job` needs a command"]).error();
    assert_eq!(error["code"], "USAGE");
    assert_eq!(stage.run(&["--help"]).code(), Some(0));
    let (version, core) = (env!("CARGO_PKG_VERSION"), plenum_proto::log::CORE_VERSION);
    let told = stage.run(&["version", "-o", "json"]).json();
    assert_eq!((&told["version"], &told["core_version"]), (&version.into(), &core.into()));
    assert_eq!(stage.run(&["version"]).out, format!("plenum {version}, core {core}\n"));
}

// A word that is no text ended the program with a panic when anything else was wrong.
#[test]
fn words_that_are_no_texts_are_wrong_usage() {
    use std::os::unix::ffi::OsStrExt;
    let stage = Stage::new();
    let word = std::ffi::OsStr::from_bytes(b"\xff");
    for words in [["job", "list", "--limit"], ["-o", "yaml", "frobnicate"]] {
        let (mut process, ()) = stage.start_by("strange", &words, |command| (command.arg(word).spawn().unwrap(), ()));
        assert_eq!(process.ended().code(), Some(2), "{}", stage.text("strange.err"));
    }
    let told: serde_json::Value = serde_json::from_str(&stage.text("strange.out")).unwrap();
    assert_eq!(told["error"]["code"], "USAGE", "who asked for YAML is told there, too");
}

#[test]
fn a_file_without_an_end_is_no_job_file() {
    let stage = Stage::new();
    stage.run(&["job", "run", "/dev/zero"]).says(1, &["error[JOB_FILE_UNREADABLE]", "/dev/zero", "more than"]);
    fs::write(stage.path("binary.toml"), b"name = \"\xff\"").unwrap();
    stage.run(&["job", "run", &stage.word("binary.toml")]).says(1, &["error[JOB_FILE_UNREADABLE]", "no text in UTF-8"]);
}

#[test]
fn pages_can_be_read_whatever_is_wrong_with_the_users_file() {
    let stage = Stage::new();
    fs::create_dir_all(stage.path("home/.config/plenum")).unwrap();
    stage.file("home/.config/plenum/config.toml", "adr = 3\n");
    stage.run(&["status"]).says(1, &["error[CONFIG]", "config.toml"]);
    assert_eq!(stage.run(&["explain", "CONFIG"]).code(), Some(0));
    assert_eq!(stage.run(&["version"]).code(), Some(0));
}

// A slip in what a user's commands read stopped the user's server, too, and checks and copies of stopped cells.
#[test]
fn what_asks_no_cell_and_what_is_told_its_address_does_without_the_users_file() {
    let stage = Stage::new();
    fs::create_dir_all(stage.path("home/.config/plenum")).unwrap();
    stage.file("home/.config/plenum/config.toml", "adr = 3\n");
    let dev = stage.dev(&[]);
    eventually("its agent registers", || {
        let status = stage.ask(&dev.address, &["status"]);
        (status["machines"]["ready"] == 1).then_some(())
    });
    assert_eq!(dev.stop().code(), Some(0));
    let (cell, copy, new) = (stage.word("cell/server"), stage.word("copy"), stage.word("new"));
    for words in [
        &["verify", "--dir", &cell][..],
        &["backup", "--dir", &cell, "--out", &copy],
        &["restore", "--from", &copy, "--dir", &new],
    ] {
        stage.run(words).says(0, &[]);
    }
    assert_eq!(stage.server("new", None, &[]).stop().code(), Some(0));
    let file = stage.file("web.toml", FOREVER);
    stage.run(&["dev", &file]).says(1, &["error[CONFIG]"]);
}

// It went by the port alone: at the usual one it told no address, and where the user's file named another cell the job went there; at any other one it
// told its address also where the file named that one. Whether the usual one is free is luck: only the other half finds it each time.
#[test]
fn a_development_cell_tells_its_address_where_the_users_file_names_another_cell() {
    let stage = Stage::new();
    fs::create_dir_all(stage.path("home/.config/plenum")).unwrap();
    let config = |port: &str| {
        stage.file("home/.config/plenum/config.toml", &format!("addr = \"http://127.0.0.1:{port}\"\n"));
    };
    config("1");
    let dev = stage.dev(&["--no-isolation"]);
    let told = format!("submit jobs with `plenum --addr {} job run FILE`", dev.address);
    eventually("it tells how", || stage.text("dev.err").contains(&told).then_some(()));
    assert_eq!(dev.stop().code(), Some(0));
    // A port that nobody listens on: it was taken and given back.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    config(&port);
    let dev = stage.dev(&["--no-isolation", "--port", &port]);
    let told = "submit jobs with `plenum job run FILE`";
    eventually("it tells how", || stage.text("dev.err").contains(told).then_some(()));
    assert_eq!(dev.stop().code(), Some(0));
}

// What asked for a variable that was not set asked another cell than the one of PLENUM_ADDR, which was passed over: that at the usual port.
#[test]
fn an_empty_flag_is_none_that_was_left_out() {
    let stage = Stage::new();
    for flag in ["--addr", "--namespace"] {
        stage.run(&[flag, "", "job", "list"]).says(2, &["error[USAGE]", &format!("{flag} is empty"), "leave"]);
    }
    stage.run(&["alloc", "list", "--machine", ""]).says(2, &["--machine", "it is empty", "leave"]);
}

#[test]
fn parts_take_the_addresses_that_commands_take() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let bare = server.address.trim_start_matches("http://").to_owned();
    let _scheduler = stage.scheduler(&bare, "batch");
    let _agent = stage.agent(&bare, "agent");
    let job = "name = \"short\"\nscheduler = \"batch\"\n[group.main]\ncommand = [\"/bin/true\"]\n\
               resources = { cpu = \"10m\", memory = \"16MiB\" }\n";
    let file = stage.file("short.toml", job);
    stage.run(&["--addr", &bare, "job", "run", &file, "--wait", "--timeout", "1m"]).says(0, &[]);
    for part in [&["scheduler", "batch"][..], &["agent", "--dir", &stage.word("other")]] {
        stage.run(&[&["--addr", "a cell"], part].concat()).says(2, &["error[USAGE]", "`a cell` is no address"]);
    }
    stage.run(&["agent", "--name", "../m1"]).says(2, &["error[USAGE]", "../m1"]);
}

// `plenum server --addr URL` served at another address than that, `plenum dev` as well, and `plenum verify` read another cell; none of them
// said a word of it.
#[test]
fn an_address_is_refused_by_what_asks_no_cell() {
    let stage = Stage::new();
    let dir = stage.word("cell");
    let out = ["--out", "file", "--dir", &dir];
    for (part, more) in [
        ("dev", &[][..]),
        ("server", &["--dir", &dir]),
        ("verify", &["--dir", &dir]),
        ("restore", &["--from", "file", "--dir", &dir]),
        ("backup", &out),
    ] {
        let words = [&[part, "--addr", "http://127.0.0.1:1"], more].concat();
        stage.run(&words).says(2, &["error[USAGE]", "--addr is of no use to it", "hint:"]);
    }
    assert!(!stage.path("cell").exists());
}

#[test]
fn a_limit_for_answers_is_refused_by_what_waits_for_none() {
    let stage = Stage::new();
    for part in ["dev", "server", "agent", "verify"] {
        let words = [part, "--request-timeout", "10s"];
        stage.run(&words).says(2, &["error[USAGE]", "--request-timeout is of no use to it", "hint:"]);
    }
    stage.run(&["scheduler", "batch", "--request-timeout", "10s"]).says(2, &["error[USAGE]", "of no use to it"]);
}

// It said nothing, and waited.
#[test]
fn who_waits_for_a_job_without_an_end_is_told_so() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let file = stage.file("web.toml", FOREVER);
    let mut waiting = stage.start("waiting", &["--addr", &server.address, "job", "run", &file, "--wait"]);
    let words = "job web runs for ever: waiting until it fails or is stopped";
    eventually("it says so", || stage.text("waiting.err").contains(words).then_some(()));
    stage.ask(&server.address, &["job", "stop", "web"]);
    assert_eq!(waiting.ended().code(), Some(1));
}

// In a cell that was gone by the time that somebody looked, nothing told why the job had waited.
#[test]
fn who_waits_for_a_job_in_vain_is_told_why_it_waits() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let file = stage.file("web.toml", FOREVER);
    let run = ["--addr", &server.address, "job", "run", &file, "--wait"];
    let why = "web: 1 waiting: no scheduler service is connected; start one";
    let late = stage.run(&[&run[..], &["--timeout", "100ms", "-o", "json"]].concat());
    let error = late.says(3, &["error[TIME_LIMIT]"]).error();
    assert_eq!(error["message"], format!("job web is waiting at the time limit: {why}"));
    let mut waiting = stage.start("waiting", &run);
    let told = format!("job web waits: {why}");
    eventually("it says so", || stage.text("waiting.err").contains(&told).then_some(()));
    stage.ask(&server.address, &["job", "stop", "web"]);
    assert_eq!(waiting.ended().code(), Some(1));
}

#[test]
fn waiting_for_the_end_of_what_has_none_is_wrong_usage() {
    let stage = Stage::new();
    let file = stage.file("web.toml", FOREVER);
    stage.run(&["dev", &file, "--until-done"]).says(2, &["error[USAGE]", "web.toml", "runs for ever", "hint:"]);
    // It waited without a word, and of no cell at all: nothing is submitted.
    let recurring = format!("runs = \"recurring\"\n{}", FOREVER.replace("runs = \"forever\"\n", ""));
    let file = stage.file("nightly.toml", &recurring);
    stage
        .run(&["job", "run", &file, "--wait"])
        .says(2, &["error[USAGE]", "waits for ever to be launched", "leave --wait out"]);
}

#[test]
fn a_file_means_the_job_of_the_namespace_in_which_it_was_submitted() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let file = stage.file("web.toml", FOREVER);
    let in_prod = |words: &[&str]| stage.run(&[&["--addr", &server.address, "--namespace", "prod"], words].concat());
    stage.ask(&server.address, &["job", "run", &file]);
    assert_eq!(in_prod(&["job", "run", &file]).code(), Some(0));
    assert_eq!(in_prod(&["job", "stop", &file]).code(), Some(0));
    let state = |namespace: &str| {
        stage.ask(&server.address, &["--namespace", namespace, "job", "show", "web"])["state"].clone()
    };
    assert_eq!((state("prod"), state("default")), ("stopped".into(), "waiting".into()));
    // Names of a listing lead to the jobs that it lists: the one of another namespace was stopped.
    let names = stage.run(&["--addr", &server.address, "job", "list", "--filter", "namespace=prod", "-o", "name"]).out;
    assert_eq!(names, "prod/web\n");
    let shown = stage.ask(&server.address, &["job", "show", names.trim()]);
    assert_eq!((&shown["namespace"], &shown["state"]), (&"prod".into(), &"stopped".into()));
    // Each took the job that was named, of another namespace than the flag's, and told nobody: a script stopped another team's.
    for words in [&["show"][..], &["history"], &["stop"], &["launch"], &["scale", "3"]] {
        let words = [&["job", words[0], "default/web"], &words[1..]].concat();
        in_prod(&words).says(2, &["error[USAGE]", "`default/web` names the namespace `default`", "`prod`"]);
    }
    assert_eq!(state("default"), "waiting");
    // A variable is for names that say none.
    let words = ["--addr", &server.address, "job", "show", "default/web", "-o", "name"];
    let by_variable =
        |command: &mut std::process::Command| (command.env("PLENUM_NAMESPACE", "prod").spawn().unwrap(), ());
    let (mut process, ()) = stage.start_by("by-variable", &words, by_variable);
    assert_eq!((process.ended().code(), stage.text("by-variable.out").as_str()), (Some(0), "web\n"));
    // What is asked for is so already, as with all that is done twice.
    assert!(in_prod(&["job", "stop", "web"]).says(0, &[]).out.contains("web: has ended already"));
    let own = stage.file("own.toml", &FOREVER.replace("name = \"web\"", "name = \"web\"\nnamespace = \"mine\""));
    in_prod(&["job", "stop", &own]).says(2, &["names the namespace `mine`", "`prod`"]);
    // What each command calls a job leads to that one: it was the name alone, which means another one's.
    let named = |words: &[&str]| stage.run(&[&["--addr", &server.address, "-o", "name"], words].concat()).out;
    for words in [&["run", &own][..], &["show", "mine/web"], &["scale", "mine/web", "2"], &["stop", "mine/web"]] {
        assert_eq!(named(&[&["job"], words].concat()), "mine/web\n", "{words:?}");
    }
    assert_eq!(named(&["job", "stop", "mine/web"]), "mine/web\n", "also where it is over");
    assert_eq!(named(&["job", "show", "default/web"]), "web\n");
    // It was taken for a job file, which can't be read.
    fs::create_dir_all(stage.path("mine/web")).unwrap();
    assert_eq!(named(&["job", "show", "mine/web"]), "mine/web\n", "a folder of that name is no job");
    let again = stage.ask(&server.address, &["job", "run", &own]);
    assert_eq!((&again["name"], &again["namespace"]), (&"web".into(), &"mine".into()), "programs read both");
    let scaled = stage.ask(&server.address, &["job", "scale", "mine/web", "3"]);
    let told = ["name", "namespace", "group"].map(|field| scaled[field].as_str().unwrap_or_default());
    assert_eq!((told, &scaled["count"]), (["web", "mine", "web"], &3.into()));
    let stopped = stage.ask(&server.address, &["job", "stop", "mine/web"]);
    assert_eq!((&stopped["name"], &stopped["namespace"]), (&"web".into(), &"mine".into()));
    let launched = FOREVER.replace("name = \"web\"", "name = \"tick\"\nnamespace = \"mine\"\nruns = \"recurring\"");
    stage.submit(&server.address, "tick.toml", &launched);
    let child = named(&["job", "launch", "mine/tick"]);
    assert!(child.starts_with("mine/tick-"), "{child}");
    assert_eq!(server.stop().code(), Some(0));
}

// `plenum job show` said to list the allocations of `ml/web`, and the list that there is no such job.
#[test]
fn allocations_are_listed_of_a_job_by_what_it_is_called() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let _parts = (stage.scheduler(&server.address, "service"), stage.agent(&server.address, "agent"));
    stage.submit(&server.address, "web.toml", FOREVER);
    let of_ml = FOREVER.replace("name = \"web\"", "name = \"web\"\nnamespace = \"ml\"");
    stage.submit(&server.address, "ml.toml", &of_ml);
    let namespaces = |words: &[&str]| -> Vec<String> {
        let listed = stage.ask(&server.address, &[&["alloc", "list", "--job"], words].concat());
        let items = listed["items"].as_array().unwrap();
        items.iter().map(|each| each["namespace"].as_str().unwrap().to_owned()).collect()
    };
    eventually("both have a task that is live", || (namespaces(&["web"]).len() == 2).then_some(()));
    assert_eq!(namespaces(&["ml/web"]), ["ml"]);
    assert_eq!(namespaces(&["default/web"]), ["default"]);
    assert_eq!(namespaces(&["web", "--namespace", "ml"]), ["ml"]);
    assert_eq!(namespaces(&["ml/web", "--namespace", "ml"]), ["ml"]);

    let list = |words: &[&str]| stage.run(&[&["--addr", &server.address, "alloc", "list", "--job"], words].concat());
    list(&["ml/wbe"]).says(0, &["there is no job ml/wbe"]);
    list(&["ml/web", "--namespace", "prod"]).says(2, &["error[USAGE]", "names the namespace `ml`", "`prod`"]);
    list(&["../web"]).says(2, &["error[USAGE]", "the namespace", "looks like a path"]);
    list(&["ml/a/b"]).says(2, &["error[USAGE]", "the job's name", "looks like a path"]);
    // What stands for all names gives way to one that says more.
    let words = ["--addr", &server.address, "alloc", "list", "--job", "ml/web", "-o", "name"];
    let in_prod = |command: &mut std::process::Command| (command.env("PLENUM_NAMESPACE", "prod").spawn().unwrap(), ());
    let (mut process, ()) = stage.start_by("in-prod", &words, in_prod);
    assert_eq!((process.ended().code(), stage.text("in-prod.out").lines().count()), (Some(0), 1));
}

#[test]
fn every_code_that_people_are_told_has_a_page() {
    let stage = Stage::new();
    for code in ["NO_ROOM", "READ_ONLY", "DAMAGED_LOG", "NO_MACHINE_FITS", "COMMAND_NOT_FOUND", "UNIMPLEMENTED"] {
        let page = stage.run(&["explain", code]);
        assert!(page.code() == Some(0) && page.out.contains(code), "{page}");
    }
    stage.run(&["explain", "NO_SUCH_CODE"]).says(2, &["error[USAGE]", "NO_SUCH_CODE"]);
}

#[test]
fn a_port_in_use_is_told() {
    let stage = Stage::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let done = stage.run(&["server", "--dir", &stage.word("cell"), "--listen", &address]);
    done.says(1, &["error[ADDRESS_IN_USE]", &address, "stop that one, or listen elsewhere"]);
}

// A second development cell took any free port, and a script had to read its first line to learn which.
#[test]
fn a_development_cell_listens_where_it_is_told_or_not_at_all() {
    let stage = Stage::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    stage.run(&["dev", "--port", &port]).says(1, &["error[ADDRESS_IN_USE]", &port]);
    drop(taken);
    let dev = stage.dev(&["--port", &port]);
    assert!(dev.address.ends_with(&format!(":{port}")), "{}", dev.address);
    assert_eq!(dev.stop().code(), Some(0));
    // As what is said of a port that is taken recommends.
    let dev = stage.dev(&["--port", "0"]);
    assert!(![":0", ":7070"].iter().any(|port| dev.address.ends_with(port)), "{}", dev.address);
    assert_eq!(dev.stop().code(), Some(0));
}

// What a variable said was shown in the usage as if the flag had to be there.
#[test]
fn variables_stand_for_flags_and_a_flag_comes_first() {
    let stage = Stage::new();
    let by = |variables: &'static [(&str, &str)], words: &[&str]| {
        let start =
            |command: &mut std::process::Command| (command.envs(variables.iter().copied()).spawn().unwrap(), ());
        let (mut process, ()) = stage.start_by("by", words, start);
        (process.ended().code(), stage.text("by.out") + &stage.text("by.err"))
    };
    let nowhere = &[("PLENUM_ADDR", "http://127.0.0.1:1")];
    let (code, told) = by(nowhere, &["status"]);
    assert!(code == Some(1) && told.contains("http://127.0.0.1:1"), "{told}");
    let (code, told) = by(nowhere, &["--addr", "http://127.0.0.1:2", "status"]);
    assert!(code == Some(1) && told.contains("http://127.0.0.1:2"), "{told}");
    let (code, told) = by(&[("PLENUM_NAMESPACE", "../up")], &["job", "list"]);
    assert!(code == Some(2) && told.contains("PLENUM_NAMESPACE: the namespace"), "{told}");
    // Nobody has typed it, and no word led to where it stands.
    let portless = &[("PLENUM_ADDR", "7601")];
    for words in [&["status"][..], &["scheduler", "batch"], &["agent"]] {
        let (code, told) = by(portless, words);
        assert!(code == Some(2) && told.contains("PLENUM_ADDR: `7601` is no address: it names no port"), "{told}");
    }
    let (code, told) = by(portless, &["--addr", "http://127.0.0.1:2", "status"]);
    assert!(code == Some(1) && told.contains("http://127.0.0.1:2"), "{told}");
    let (code, told) = by(&[("PLENUM_NAMESPACE", "../up")], &["version"]);
    assert!(code == Some(0), "it has no use for one: {told}");
    let asking = ["--addr", "http://127.0.0.1:2"];
    let (code, told) = by(&[("PLENUM_NAMESPACE", "../up")], &[&asking[..], &["machine", "list"]].concat());
    assert!(code == Some(1) && told.contains("http://127.0.0.1:2"), "nor has this: {told}");
    let (_, told) = by(nowhere, &["job", "list", "--help"]);
    assert!(told.contains("Usage: plenum job list [OPTIONS]\n") && told.contains("PLENUM_ADDR"), "{told}");
    assert_eq!(told.matches("/plenum/config.toml").count(), 2, "the file comes between variable and default: {told}");
}

// It was passed over: whoever had set it was taken for anybody else, and not told so.
#[test]
fn a_token_is_refused_by_what_asks_a_cell() {
    let stage = Stage::new();
    let by = |token: &str, words: &[&str]| {
        let start = |command: &mut std::process::Command| (command.env("PLENUM_TOKEN", token).spawn().unwrap(), ());
        let (mut process, ()) = stage.start_by("by", words, start);
        (process.ended().code(), stage.text("by.out") + &stage.text("by.err"))
    };
    let nowhere = ["--addr", "http://127.0.0.1:1"];
    for words in [&["status"][..], &["job", "list"], &["scheduler", "batch"], &["agent"]] {
        let (code, told) = by("hush", &[&nowhere, words].concat());
        assert!(code == Some(1) && told.contains("error[UNIMPLEMENTED]: PLENUM_TOKEN"), "{words:?}: {told}");
        assert!(!told.contains("hush"), "it is a secret: {told}");
    }
    let (code, told) = by("hush", &["dev"]);
    assert!(code == Some(1) && told.contains("UNIMPLEMENTED"), "what it starts would be refused: {told}");
    let (_, told) = by("", &[&nowhere[..], &["status"]].concat());
    assert!(told.contains("UNAVAILABLE"), "an empty one is none: {told}");
    let (code, told) = by("hush", &["version"]);
    assert!(code == Some(0), "it has no use for one: {told}");
}

#[test]
fn a_log_is_printed_as_it_is_or_not_at_all() {
    let stage = Stage::new();
    for format in ["json", "yaml"] {
        stage.run(&["alloc", "logs", "alloc-1-1", "-o", format]).says(2, &["printed as the task printed it"]);
        stage.run(&["dev", "-o", format]).says(2, &["error[USAGE]", "printed as they printed it", "leave -o out"]);
    }
}

#[test]
fn a_job_file_may_come_from_standard_input() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let words = ["--addr", &server.address, "job", "run", "-"];
    let file = stage.file("web.toml", FOREVER);
    let read = |path: &str| {
        let path = path.to_owned();
        stage.start_by("read", &words, |command| (command.stdin(fs::File::open(path).unwrap()).spawn().unwrap(), ()))
    };
    assert_eq!(read(&file).0.ended().code(), Some(0));
    assert_eq!(stage.ask(&server.address, &["job", "show", "web"])["name"], "web");
    let wrong = stage.file("wrong.toml", "name = 3\n");
    assert_eq!(read(&wrong).0.ended().code(), Some(1));
    assert!(stage.text("read.err").contains("standard input:1:8"), "{}", stage.text("read.err"));
}

// Of a job that lives nobody who lacked its file could see what it runs.
#[test]
fn a_job_shows_what_it_runs_and_under_which_rules() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let job = FOREVER.replace("resources =", "constraints = ['attr.rack == \"a\"']\nresources =");
    stage.submit(&server.address, "web.toml", &job);
    let group = stage.ask(&server.address, &["job", "show", "web"])["groups"][0].clone();
    assert_eq!(group["command"], serde_json::json!(["/bin/sleep", "1000"]));
    assert_eq!(group["env"]["STAGE"], stage.word("").trim_end_matches('/'));
    assert_eq!(group["constraints"], serde_json::json!(["attr.rack == \"a\""]));
    let text = stage.run(&["--addr", &server.address, "job", "show", "web"]).out;
    for words in ["/bin/sleep 1000\n", "attr.rack == \"a\"\n", "cpu 10m, memory 16MiB\n", "retry:"] {
        assert!(text.contains(words), "expected {words:?} in:\n{text}");
    }
}

#[test]
fn a_filter_that_is_none_is_wrong_usage() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    for filter in ["state=runing", "state", "foo=bar", "runs=never", "failing=x"] {
        stage
            .run(&["--addr", &server.address, "job", "list", "--filter", filter])
            .says(2, &["error[INVALID_REQUEST]", "filter: expected"]);
    }
}

#[test]
fn beyond_loopback_a_server_does_not_listen() {
    let stage = Stage::new();
    let done = stage.run(&["server", "--dir", &stage.word("cell"), "--listen", "0.0.0.0:0"]);
    done.says(1, &["error[NOT_LOOPBACK]", "127.0.0.1"]);
}

#[test]
fn a_second_server_on_one_directory_is_refused_and_the_first_goes_on() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let done = stage.run(&["server", "--dir", &stage.word("cell"), "--listen", "127.0.0.1:0"]);
    done.says(1, &["error[DIRECTORY_LOCKED]", &stage.word("cell"), &server.process.id().to_string()]);
    let done = stage.run(&["verify", "--dir", &stage.word("cell")]);
    done.says(1, &["error[DIRECTORY_LOCKED]"]);
    let done = stage.run(&["restore", "--from", &stage.word("cell"), "--dir", &stage.word("new")]);
    done.says(1, &["error[DIRECTORY_LOCKED]", "back that cell up with `plenum backup --out FILE`"]);
    assert_eq!(stage.ask(&server.address, &["status"])["read_only"], serde_json::Value::Null);
}

#[test]
fn a_second_cell_in_one_directory_is_refused_and_the_first_goes_on() {
    let stage = Stage::new();
    let dev = stage.dev(&[]);
    let done = stage.run(&["dev", "--dir", &stage.word("cell")]);
    done.says(1, &["error[DIRECTORY_LOCKED]"]);
    stage.ask(&dev.address, &["status"]);
    assert_eq!(dev.stop().code(), Some(0));
}

#[test]
fn the_history_of_another_cell_is_refused() {
    let stage = Stage::new();
    for cell in ["one", "other"] {
        assert_eq!(stage.server(cell, None, &[]).stop().code(), Some(0));
    }
    fs::remove_dir_all(stage.path("one/history")).unwrap();
    fs::rename(stage.path("other/history"), stage.path("one/history")).unwrap();
    let done = stage.run(&["server", "--dir", &stage.word("one"), "--listen", "127.0.0.1:0"]);
    done.says(1, &["error[OTHER_CELL]", &stage.word("one/history"), "is the history of cell", "not of"]);
}

#[test]
fn a_directory_whose_identity_is_damaged_is_refused_and_left_alone() {
    let stage = Stage::new();
    assert_eq!(stage.server("cell", None, &[]).stop().code(), Some(0));
    let identity = stage.path("cell/log/CELL");
    let mut bytes = fs::read(&identity).unwrap();
    bytes[8] = 99;
    fs::write(&identity, &bytes).unwrap();
    // A version that stands there against the checksum is no other version.
    let words = ["error[DAMAGED_LOG]", "cell/log", "the identity is unreadable", "header checksum"];
    stage.run(&["server", "--dir", &stage.word("cell"), "--listen", "127.0.0.1:0"]).says(1, &words);
    let looked = stage.run(&["verify", "--dir", &stage.word("cell"), "-o", "json"]);
    looked.says(1, &[]);
    let violations = looked.json()["violations"].clone();
    let told = violations[0]["message"].as_str().unwrap();
    assert!(told.contains("CELL") && told.contains("header checksum"), "{violations}");
    assert_eq!(violations.as_array().map(Vec::len), Some(1), "{violations}");
    let moved = stage.run(&["restore", "--from", &stage.word("cell"), "--dir", &stage.word("new"), "-o", "json"]);
    moved.says(0, &[]);
    let moved = moved.json();
    assert_eq!(moved["loss"]["revisions"], 0, "{moved}");
    assert_eq!(moved["incarnation"], 2, "{moved}");
    assert_eq!(fs::read(&identity).unwrap(), bytes);
}

#[test]
fn an_agent_does_not_take_the_tasks_of_one_cell_to_another() {
    let stage = Stage::new();
    let one = stage.server("one", None, &[]);
    let _scheduler = stage.scheduler(&one.address, "service");
    let mut first = stage.agent(&one.address, "agent");
    stage.submit(&one.address, "web.toml", FOREVER);
    stage.process("sleep 1000");
    let agent = ["agent", "--dir", &stage.word("agent"), "--name", "m1"];
    stage.run(&[&["--addr", &one.address][..], &agent].concat()).says(1, &["error[DIRECTORY_LOCKED]"]);
    first.kill();
    let renamed = ["--addr", &one.address, "agent", "--dir", &stage.word("agent"), "--name", "m2"];
    stage.run(&renamed).says(1, &["error[MACHINE_RENAMED]", "those of machine m1", "name is m2", "drain it first"]);
    let other = stage.server("other", None, &[]);
    let mut moved = stage.agent(&other.address, "agent");
    let words =
        ["OTHER_CELL", "its tasks belong to cell", "server is of cell", "name another directory, or the other server"];
    eventually("it says so", || words.iter().all(|words| stage.text("agent.err").contains(words)).then_some(()));
    assert!(moved.has_ended().is_none(), "it waits for the server of its cell");
    stage.process("sleep 1000");
}

// A disk that was not mounted, or a slip in a path, made a new cell with hardly a word.
#[test]
fn a_server_that_makes_a_new_cell_warns_of_it_and_of_what_else_is_there() {
    let stage = Stage::new();
    let made = |name: &str| format!("a new cell was made in {}", stage.path(name).canonicalize().unwrap().display());
    assert_eq!(stage.server("cell", None, &[]).stop().code(), Some(0));
    let told = stage.text("server.err");
    assert!(told.contains("WARN") && told.contains(&made("cell")) && !told.contains("not ours"), "{told}");
    assert_eq!(stage.server("cell", None, &[]).stop().code(), Some(0));
    assert!(!stage.text("server.err").contains("a new cell"), "{}", stage.text("server.err"));
    fs::create_dir_all(stage.path("home-of-others")).unwrap();
    stage.file("home-of-others/thing", "");
    assert_eq!(stage.server("home-of-others", None, &[]).stop().code(), Some(0));
    let told = stage.text("server.err");
    assert!(told.contains(&made("home-of-others")) && told.contains("not ours") && told.contains("thing"), "{told}");
}

#[test]
fn a_slip_in_a_configuration_is_told_with_its_line() {
    let stage = Stage::new();
    let file = stage.file("server.toml", "dir = \"$STAGE/cell\"\nlisten_on = \"127.0.0.1:0\"\n");
    stage.run(&["server", "--config", &file]).says(1, &["error[CONFIG]", "server.toml:2:1: ", "`listen_on`"]);
    let agent = stage.file("agent.toml", "devices = { gpu = 2 }\n");
    let told = "`devices.gpu` is an integer; expected a table, such as { count = 2 }";
    stage.run(&["agent", "--config", &agent]).says(1, &["error[CONFIG]", told]);
}

#[test]
fn each_setting_is_in_the_table_of_its_part() {
    let page = include_str!("../docs/operating.md");
    let stage = Stage::new();
    let file = stage.file("part.toml", "no_such_field = 1\n");
    for part in ["server", "agent"] {
        let told = stage.run(&[part, "--config", &file]).says(1, &["known here: "]).err.clone();
        let known = told.split("known here: ").nth(1).unwrap().lines().next().unwrap();
        let mut known: Vec<&str> = known.split(", ").collect();
        let table = page.split(&format!("| the {part}'s field |")).nth(1).unwrap().split("\n\n").next().unwrap();
        let rows = table.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next());
        let mut rows: Vec<&str> = rows.collect();
        known.sort_unstable();
        rows.sort_unstable();
        assert_eq!(rows, known, "the fields of the {part}'s file, in docs/operating.md");
    }
}

#[test]
fn schedulers_to_run_and_what_to_do_with_them_are_not_named_together() {
    let stage = Stage::new();
    let words = ["error[USAGE]", "`plenum scheduler batch` runs schedulers", "name either"];
    stage.run(&["scheduler", "batch", "list"]).says(2, &words);
    stage.run(&["scheduler", "batch", "pause", "batch"]).says(2, &words);
}

// It ran two sessions that shared the jobs on one thread, without a word.
#[test]
fn a_scheduler_is_not_named_twice() {
    let stage = Stage::new();
    let words = ["error[USAGE]", "scheduler `batch` is named twice", "start `plenum scheduler batch` once more"];
    stage.run(&["scheduler", "batch", "service", "batch"]).says(2, &words);
}

#[test]
fn a_scheduler_that_nobody_knows_is_told() {
    let stage = Stage::new();
    stage.run(&["scheduler", "astrology"]).says(1, &["error[NO_SUCH_SCHEDULER]", "astrology", "batch"]);
    stage.run(&["scheduler", "bacth"]).says(1, &["error[NO_SUCH_SCHEDULER]", "did you mean `batch`?"]);
}
