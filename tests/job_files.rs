//! Files that no cell should take, and what people are told.
//!
//! That each rule of the format is checked is tested beside the reader; here, that people and programs see it, and that
//! nothing is started for such a file.

use crate::{
    rivals::Rivals,
    stage::{Done, Stage},
};

/// A right head, and a right group.
const HEAD: &str = "name = \"story\"\nscheduler = \"batch\"\n";
const GROUP: &str = "[group.main]\ncommand = [\"/bin/true\"]\nresources = { cpu = \"100m\", memory = \"16MiB\" }\n";

/// `dev` refuses the file with this code and these words, and starts nothing.
#[track_caller]
fn check(text: &str, code: &str, words: &[&str]) {
    let stage = Stage::new();
    let file = stage.file("job.toml", text);
    let done = stage.run(&["dev", &file, "--until-done", "--dir", &stage.word("cell")]);
    done.says(1, &[&format!("error[{code}]")]).says(1, words);
    assert!(!stage.path("cell/server/log").exists(), "no server was started: {done}");
    let error = stage.run(&["job", "run", &file, "-o", "json"]).error();
    assert_eq!(error["code"], code, "the same for programs: {error}");
}

#[test]
fn malformed_toml_is_told_with_line_and_column() {
    check(&format!("{HEAD}priority = = 3\n{GROUP}"), "JOB_FILE_SYNTAX", &["job.toml:3:12", "priority = = 3", "^"]);
}

#[test]
fn an_unknown_field_is_told_with_the_nearest_name() {
    let text = format!("{HEAD}{GROUP}comand = [\"/bin/true\"]\n");
    check(&text, "JOB_FILE_UNKNOWN_FIELD", &["job.toml:6:1", "comand", "`command`"]);
}

#[test]
fn a_cycle_of_groups_is_told_group_by_group() {
    let group = |name: &str, after: &str| GROUP.replace("main", name) + &format!("after = [\"{after}\"]\n");
    let text = format!("{HEAD}{}{}{}", group("a", "b"), group("b", "c"), group("c", "a"));
    check(&text, "JOB_FILE_CYCLE", &["job.toml:", "a", "b", "c"]);
}

#[test]
fn names_that_are_paths_are_refused() {
    check(
        &format!("name = \"../../etc\"\nscheduler = \"batch\"\n{GROUP}"),
        "JOB_FILE_VALUE",
        &["job.toml:1:8", "name"],
    );
    check(&format!("{HEAD}{}", GROUP.replace("group.main", "group.\"a/b\"")), "JOB_FILE_VALUE", &["a/b"]);
    check(&format!("{HEAD}namespace = \"/tmp\"\n{GROUP}"), "JOB_FILE_VALUE", &["namespace"]);
}

// What a file says of its name was printed as it is: it coloured, cleared or named the window of whoever looked at it.
#[test]
fn a_file_speaks_to_no_terminal() {
    let stage = Stage::new();
    let file = stage.file("job.toml", &format!("name = \"a\\u001b[2J\\u009bm\"\nscheduler = \"batch\"\n{GROUP}"));
    let done = stage.run(&["-o", "json", "job", "run", &file]);
    assert!(done.error()["message"].as_str().unwrap().contains("`a\u{1b}[2J\u{9b}m` is no name"), "{done}");
    let spoken = |text: &str| text.contains(|each: char| each.is_control() && each != '\n');
    assert!(!spoken(&done.out) && !spoken(&done.err), "{done}");
}

#[test]
fn what_is_not_built_yet_is_refused_with_its_place() {
    check(
        &format!("{HEAD}{GROUP}driver = \"oci\"\nimage = \"busybox\"\n"),
        "UNIMPLEMENTED",
        &["job.toml:6", "take it out"],
    );
    check(&format!("{HEAD}{GROUP}[update]\nmax_parallel = 1\n"), "UNIMPLEMENTED", &["job.toml:6", "`update`"]);
}

#[test]
fn what_the_cell_does_not_decide_yet_is_refused_and_never_ignored() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let files = [(format!("{GROUP}driver = \"oci\"\n"), "oci")];
    for (group, what) in files {
        let file = stage.file("job.toml", &format!("{HEAD}{group}"));
        let error = stage.run(&["--addr", &server.address, "-o", "json", "job", "run", &file]).error();
        assert_eq!(error["code"], "UNIMPLEMENTED", "{error}");
        assert!(error["message"].as_str().unwrap().contains(what), "{error}");
    }
    assert_eq!(stage.ask(&server.address, &["job", "list"])["items"], serde_json::json!([]), "no job came of them");
}

#[test]
fn a_file_that_is_not_there_is_told() {
    let stage = Stage::new();
    stage.run(&["job", "run", "nowhere.toml"]).says(1, &["error[JOB_FILE_UNREADABLE]", "nowhere.toml", "hint:"]);
}

#[test]
fn what_fits_no_machine_is_told_with_the_machine_that_comes_nearest() {
    let stage = Stage::new();
    let group = GROUP.replace("100m", "5000").replace("16MiB", "900TiB");
    let file = stage.file("huge.toml", &format!("{HEAD}{group}"));
    let done = stage.run(&["dev", &file, "--until-done", "--machines", "2"]);
    let lacks =
        ["error[NO_MACHINE_FITS]", "group `main`", "machine-1 comes nearest", "cpu is short by", "memory is short by"];
    done.says(1, &lacks).says(1, &["asked for 900TiB", "hint: ask for less, or run with fewer --machines"]);

    let file = stage.file("picky.toml", &format!("{HEAD}{GROUP}constraints = ['attr.os == \"plan9\"']\n"));
    let lacks = ["NO_MACHINE_FITS", "`attr.os` is not == \"plan9\" (it is \"linux\")", "`plenum agent --config FILE`"];
    stage.run(&["dev", &file, "--until-done"]).says(1, &lacks);
    assert_eq!(stage.processes(""), [], "nothing goes on");
}

// It was submitted without a word, and waited for ever: who meant megahertz learned it from nothing but that.
#[test]
fn a_job_that_fits_no_machine_of_its_cell_is_taken_with_a_warning() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    let run = |cpu: &str, name: &str| {
        let group = GROUP.replace("100m", cpu);
        let file = stage.file("job.toml", &format!("{HEAD}{group}").replace("story", name));
        stage.run(&["--addr", &server.address, "-o", "json", "job", "run", &file])
    };
    run("1", "early").says(0, &["warning: the cell has no machines; the job waits until one comes"]);
    Rivals::new(&server.address).machine("m1", 4).unwrap();
    let small = run("4", "small");
    assert!(small.code() == Some(0) && !small.err.contains("machine"), "{small}");
    let large = run("500", "large");
    large
        .says(0, &["warning: no machine fits group `main`: m1", "asked for 500, the machine has 4", "cpu is in cores"]);
    let keys = |done: &Done| done.json().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&large), keys(&small), "programs read what they did");
    // Of more machines than are looked at first the last one is large enough.
    let rivals = Rivals::new(&server.address);
    for number in 10..74 {
        rivals.machine(&format!("m{number}"), 4).unwrap();
    }
    rivals.machine("z1", 512).unwrap();
    let fits = run("500", "fits");
    assert!(fits.code() == Some(0) && !fits.err.contains("machine"), "{fits}");
}

// What finds it out was tested by itself, and not that `dev` asks it before it submits the job, which would wait for ever.
#[test]
fn a_minimum_that_can_never_be_reached_is_told() {
    let stage = Stage::new();
    let file = stage.file("gang.toml", &format!("{HEAD}{GROUP}count = 2\nmin = 2\nper_machine = 1\n"));
    let told =
        "group `main` never has its `min` of 2 tasks at once: `per_machine` allows 1 on the one machine that fits";
    let done = stage.run(&["dev", &file, "--until-done"]);
    done.says(1, &["error[NO_MACHINE_FITS]", "gang.toml: ", told, "hint: make `min` smaller, or the limit greater"]);
    assert!(!done.err.contains("story: "), "it was not submitted: {done}");
    assert_eq!(stage.processes(""), [], "nothing goes on");
}
