//! Whoever does what a message or the page says gets on: entries, fields and quantities are called what they are, and where they belong is told.

use super::{GROUP, HEAD, JobFile, check, check_group, check_resources, read};
use crate::job_file::{group, job};

/// What is told of a file that is refused: each mistake's first line, and its hint where it is the only one.
fn told(text: &str) -> (Vec<String>, Option<String>) {
    let error = JobFile::parse("job.toml", text).expect_err("the file should be refused");
    let places = error.message.lines().filter(|line| line.starts_with("job.toml")).map(str::to_owned);
    (places.collect(), error.hint)
}

// A number in a list was told to be the list: to be a text in its place, which was then told to be a list again.
#[test]
fn an_entry_of_a_list_is_told_by_its_place_in_it() {
    let text = format!("{HEAD}{}", GROUP.replace("\"/bin/true\"", "\"/bin/echo\", 1"));
    check(
        &text,
        "JOB_FILE_VALUE",
        &["job.toml:4:25: `group.main.command[1]` is an integer; expected a text in quotes"],
    );
    check_group("constraints = [1]", &["`group.main.constraints[0]` is an integer; expected a text in quotes"]);
    check_group("constraints = ['arch']", &["`group.main.constraints[0]`: `arch` is no condition"]);
    check_group("after = [1]", &["`group.main.after[0]` is an integer; expected a text in quotes"]);
    let wish = "{ rule = 'attr.disk == \"ssd\"', weight = 10 }";
    let expected = format!("`group.main.affinities[0]` is a text; expected a table, such as {wish}");
    check_group("affinities = [\"attr.disk\"]", &[&expected]);
    read(&format!("{HEAD}{GROUP}affinities = [{wish}]\n"));
    let limit = "{ by = \"attr.rack\", at_most = 2 }";
    let expected = format!("`group.main.spread[0]` is a text; expected a table, such as {limit}");
    check_group("spread = [\"attr.rack\"]", &[&expected]);
    read(&format!("{HEAD}{GROUP}spread = [{limit}]\n"));
}

// Below a group's line, a field of the job was unknown, and what was known there was told, all but where it belongs.
#[test]
fn a_field_of_another_table_is_told_where_it_belongs() {
    let belongs = |text: String, place: &str, hint: &str| {
        let (places, told) = told(&text);
        assert_eq!(places, [place]);
        assert_eq!(told.as_deref(), Some(hint));
    };
    belongs(
        format!("{HEAD}{GROUP}priority = 3\n"),
        "job.toml:6:1: unknown field `priority` in `group.main`",
        "`priority` belongs to the job: put it beside `group`, in TOML above the first [group.…]",
    );
    belongs(
        format!("count = 3\n{HEAD}{GROUP}"),
        "job.toml:1:1: unknown field `count` in a job file",
        "`count` belongs to a group: put it into one, in TOML below a line such as [group.main]",
    );
    let resources =
        "`memory` belongs to `resources` of a group: for example resources = { cpu = \"500m\", memory = \"64MiB\" }";
    belongs(
        format!("{HEAD}{GROUP}memory = \"1GiB\"\n"),
        "job.toml:6:1: unknown field `memory` in `group.main`",
        resources,
    );
    belongs(
        format!("{HEAD}{GROUP}mem = \"1GiB\"\n"),
        "job.toml:6:1: unknown field `mem` in `group.main`; did you mean `memory`?",
        resources,
    );
    // Machines and allocations have `devices`: who wanted one wrote that.
    let gpu = "`gpu` belongs to `resources` of a group: for example resources = { cpu = \"500m\", memory = \"64MiB\", gpu = 1 }";
    for (name, value) in [("devices", "{ gpu = 1 }"), ("gpus", "2")] {
        let place = format!("job.toml:6:1: unknown field `{name}` in `group.main`; did you mean `gpu`?");
        belongs(format!("{HEAD}{GROUP}{name} = {value}\n"), &place, gpu);
    }
    // Where it is refused, nobody is sent.
    check(&format!("{HEAD}{GROUP}schedule = 1\n"), "JOB_FILE_UNKNOWN_FIELD", &["known here: after, count"]);
}

// Whoever came from another system got a list of names.
#[test]
fn what_other_systems_call_a_field_is_asked_about() {
    for (other, own) in [("cmd", "command"), ("args", "command"), ("replicas", "count"), ("environment", "env")] {
        let asked = format!("unknown field `{other}` in `group.main`; did you mean `{own}`?");
        check(&format!("{HEAD}{GROUP}{other} = []\n"), "JOB_FILE_UNKNOWN_FIELD", &[&asked]);
    }
    let text = format!("{HEAD}{}", GROUP.replace("memory", "mem"));
    check(&text, "JOB_FILE_UNKNOWN_FIELD", &["`mem` in `group.main.resources`; did you mean `memory`?"]);
    for (other, own) in super::super::fields::SYNONYMS {
        let known = [super::super::group::KNOWN, super::super::group::KNOWN_RESOURCES].concat();
        assert!(known.contains(own) && !known.contains(other), "{other} is asked about as {own}");
    }
}

// One slip was told as two mistakes: as a name that nobody knows, and as one that is missing.
#[test]
fn what_a_slip_was_meant_for_is_not_missing_but_read() {
    let text = "nmae = \"story\"\nscheduler = \"batch\"\n[groups.a]\ncmd = [\"/bin/true\"]\n\
                resources = { cpus = \"1\", mem = \"1MiB\" }\n";
    let expected = [
        "job.toml:1:1: unknown field `nmae` in a job file; did you mean `name`?",
        "job.toml:3:2: unknown field `groups` in a job file; did you mean `group`?",
        "job.toml:4:1: unknown field `cmd` in `group.a`; did you mean `command`?",
        "job.toml:5:15: unknown field `cpus` in `group.a.resources`; did you mean `cpu`?",
        "job.toml:5:27: unknown field `mem` in `group.a.resources`; did you mean `memory`?",
    ];
    assert_eq!(told(text).0, expected);
    let (places, _) = told(&format!("{HEAD}prioritty = 200\n{GROUP}"));
    let expected = [
        "job.toml:3:1: unknown field `prioritty` in a job file; did you mean `priority`?",
        "job.toml:3:13: `priority` is 200; expected an integer from 0 to 99",
    ];
    assert_eq!(places, expected, "what is wrong in it is told at once");
    // Who says both means the right one.
    let (places, _) = told(&format!("{HEAD}prioritty = 200\npriority = 3\n{GROUP}"));
    assert_eq!(places.len(), 1, "{places:?}");
}

// A number with a unit was told to have one.
#[test]
fn a_quantity_is_told_what_it_lacks() {
    let whole = ["`1.5GiB` is no amount of bytes; expected a whole number and a unit, such as \"64MiB\""];
    check_resources("{ cpu = 1, memory = \"1.5GiB\" }", &whole);
    check_group("kill_timeout = \"1.5s\"", &["`1.5s` is no time; expected whole numbers with units, such as \"10s\""]);
    check_group("lost_after = \"forever\"", &["`forever` is no time", "h, d), or \"never\""]);
    check_group("lost_after = 60", &["is an integer; expected a time with a unit, such as \"10s\", or \"never\""]);
    // Of what is no quantity at all an example was missing.
    for (wrong, found, example) in [
        ("cpu = [1], memory = 1", "cpu` is a list", "\"500m\""),
        ("cpu = 1, memory = true", "memory` is a boolean", "\"64MiB\""),
        ("cpu = 1, memory = \"1MiB\", disk = {}", "disk` is a table", "\"64MiB\""),
        ("cpu = 1, memory = \"1MiB\", gpu = false", "gpu` is a boolean", "2 or \"250m\""),
    ] {
        check_resources(&format!("{{ {wrong} }}"), &[&format!("{found}; expected a quantity, such as {example}")]);
    }
    let gpu = |gpu: &str| format!("{{ cpu = 1, memory = \"1MiB\", gpu = {gpu} }}");
    check_resources(&gpu("1.5"), &["`group.main.resources.gpu` is 1.5; expected whole GPUs, at most 64"]);
    check_resources(&gpu("\"1500m\""), &["`group.main.resources.gpu` is 1500m; expected"]);
}

// Some took it, and some did not.
#[test]
fn any_unit_may_stand_behind_a_space() {
    let group = GROUP.replace("\"1\"", "\"500 m\"").replace("64MiB", "64 MiB");
    let file = read(&format!("{HEAD}{group}kill_timeout = \"1 m 30 s\"\n"));
    let resources = file.spec.shape.unwrap().groups[0].resources.clone().unwrap();
    assert_eq!((resources.cpu_millis, resources.memory_bytes), (500, 64 << 20));
    assert_eq!(file.spec.body.unwrap().groups[0].kill_timeout_micros, 90_000_000);
    check_group("kill_timeout = \"10 \"", &["no time"]);
    check_group("kill_timeout = \"1 0s\"", &["no time"]);
}

// A table was expected, without a word of how one looks.
#[test]
fn where_a_table_is_expected_one_is_shown() {
    check_group("env = [\"A=1\"]", &["`group.main.env` is a list; expected a table, such as { LC_ALL = \"C\" }"]);
    check_group("retry = 3", &["expected a table, such as { attempts = 3, delay = \"2s\" }"]);
    check_group("restart = 3", &["expected a table, such as { attempts = 2, delay = \"1s\", within = \"5m\" }"]);
    check_resources("3", &["expected a table, such as { cpu = \"500m\", memory = \"64MiB\" }"]);
    let ports = "{ cpu = 1, memory = \"1MiB\", ports = [80] }";
    check_resources(ports, &["is a list; expected a table, such as { http = 0, admin = 9100 }"]);
    let group = format!("{HEAD}group.b = 3\n");
    check(&group, "JOB_FILE_VALUE", &["`group.b` is an integer; expected a table with `command` and `resources`"]);
    check(
        &format!("{HEAD}options = 3\n{GROUP}"),
        "JOB_FILE_VALUE",
        &["expected a table, such as { policy = \"fifo\" }"],
    );
}

// It had tasks after a group that was not there, and a limit that its `same_machine` refused: who pasted it had to find out which lines go together.
#[test]
fn the_file_on_the_page_of_job_files_can_be_submitted_and_has_every_field_that_can_be_set() {
    let page = include_str!("../../../docs/job-files.md");
    let file = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(read(file).spec.shape.unwrap().groups.len(), 2);
    let names: Vec<&str> = file.lines().filter_map(|line| line.trim_start_matches("# ").split(" = ").next()).collect();
    // Groups and options are tables of their own.
    let unset = ["group", "options", "image"];
    let unset = |name: &&&str| unset.contains(*name) || job::UNBUILT.contains(*name) || group::UNBUILT.contains(*name);
    for name in job::KNOWN.iter().chain(group::KNOWN).filter(|name| !unset(name)) {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn a_job_that_says_too_much_is_told_so_of_all_but_its_commands_and_of_these() {
    let value = format!("\"{}\"", "x".repeat(250));
    let rule = format!("'attr.rack in [{}]'", [value.as_str(); 20].join(", "));
    let rules = [rule.as_str(); 64].join(", ");
    let text = format!("{HEAD}{GROUP}constraints = [{rules}]\n");
    let told = ["all but commands and environments takes", "expected at most 262144", "make several jobs of it"];
    check(&text, "JOB_FILE_VALUE", &told);
    // Of both that were too large only this one was told.
    let long = text.replace("/bin/true", &format!("/bin/sh\", \"-c\", \"{}", "x".repeat(70_000)));
    let told = ["commands and environments take", "expected at most 65536", told[0], told[1]];
    check(&long, "JOB_FILE_VALUE", &told);
}
