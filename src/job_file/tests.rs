//! Stories: a job file, and what reading it says.

#![allow(clippy::unwrap_used)]

mod advice;
mod sharing;
mod syntax;

use plenum_proto::v1::{JobKind, Operator};
use regex::Regex;

use super::{ATTEMPTS_UNLIMITED, JobFile};

/// A right group, for stories about something else.
const GROUP: &str = "[group.main]\ncommand = [\"/bin/true\"]\nresources = { cpu = \"1\", memory = \"64MiB\" }\n";

/// A right head, for stories about groups.
const HEAD: &str = "name = \"story\"\nscheduler = \"batch\"\n";

/// The file is refused, with this code and with each of these words in the message or the hint.
#[track_caller]
fn check(text: &str, code: &str, words: &[&str]) {
    let error = JobFile::parse("job.toml", text).expect_err("the file should be refused");
    let whole = format!("{}\n{}", error.message, error.hint.clone().unwrap_or_default());
    assert_eq!(error.code, code, "{whole}");
    for word in words {
        assert!(whole.contains(word), "expected {word:?} in:\n{whole}");
    }
}

/// A file with this line in its only group is refused.
#[track_caller]
fn check_group(line: &str, words: &[&str]) {
    check(&format!("{HEAD}{GROUP}{line}\n"), "JOB_FILE_VALUE", words);
}

/// A file whose only group asks for these resources is refused.
#[track_caller]
fn check_resources(resources: &str, words: &[&str]) {
    let group = format!("[group.main]\ncommand = [\"/bin/true\"]\nresources = {resources}\n");
    check(&format!("{HEAD}{group}"), "JOB_FILE_VALUE", words);
}

/// The file is read, and what was read passes the cell's own edge.
fn read(text: &str) -> JobFile {
    match JobFile::parse("job.toml", text) {
        Ok(file) => {
            plenum_proto::jobs::submit(file.spec.clone()).unwrap();
            file
        }
        Err(error) => panic!("the file should be read: {error}"),
    }
}

#[test]
fn the_word_count_of_the_interface_is_read() {
    let file = read(
        r#"
name = "word-count"
scheduler = "batch"
priority = 50
namespace = "default"
same_machine = true
runs = "to-completion"

[group.split]
command = ["/bin/sh", "-c", "cat $TEXTS/* | split -n r/8 -d -a 1 - $PLENUM_JOB_DIR/part-"]
env = { TEXTS = "/usr/share/common-licenses" }
resources = { cpu = "500m", memory = "64MiB" }

[group.map]
after = ["split"]
count = 8
driver = "exec"
command = ["/bin/true"]
env = { LC_ALL = "C" }
resources = { cpu = "500m", memory = "64MiB", disk = "100MiB" }
constraints = ['attr.kernel >= "5.10"']
retry = { attempts = 3, delay = "2s" }
restart = { attempts = 2, delay = "1s", within = "5m" }
kill_timeout = "10s"
lost_after = "60s"

[group.reduce]
after = ["map"]
command = ["/bin/true"]
resources = { cpu = "1", memory = "128MiB" }
"#,
    );
    let shape = file.spec.shape.unwrap();
    let names: Vec<_> = shape.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["split", "map", "reduce"], "groups stay in the order of the file");
    let map = &shape.groups[1];
    assert_eq!(map.count, 8);
    assert_eq!(map.resources.as_ref().unwrap().cpu_millis, 500);
    assert_eq!(map.resources.as_ref().unwrap().disk_bytes, 100 << 20);
    assert_eq!(map.constraints[0].operator(), Operator::GreaterOrEqual);
    assert_eq!(map.retry.unwrap().delay_micros, 2_000_000);
    let body = file.spec.body.unwrap();
    assert_eq!(body.groups[1].restart.unwrap().within_micros, 300_000_000);
    assert_eq!(body.groups[0].env["TEXTS"], "/usr/share/common-licenses");
    assert!(shape.same_machine);
}

#[test]
fn json_with_the_same_fields_gives_the_same_job() {
    let toml = read(&format!("{HEAD}{GROUP}after = []\nconstraints = ['attr.os == \"linux\"']\n"));
    let json = read(
        r#"{"name": "story", "scheduler": "batch", "group": {"main": {"command": ["/bin/true"], "after": [],
            "resources": {"cpu": 1, "memory": "64MiB"}, "constraints": ["attr.os == \"linux\""]}}}"#,
    );
    assert_eq!(toml.spec, json.spec);
}

#[test]
fn what_a_file_leaves_out_is_filled_in() {
    let shape = read(&format!("{HEAD}{GROUP}")).spec.shape.unwrap();
    assert_eq!((shape.namespace.as_str(), shape.priority), ("default", 50));
    assert_eq!(shape.kind(), JobKind::ToCompletion);
    let group = &shape.groups[0];
    assert_eq!((group.count, group.lost_after_micros), (1, 60_000_000));
    assert_eq!((group.retry.unwrap().attempts, group.retry.unwrap().delay_micros), (2, 1_000_000));
    let body = &read(&format!("{HEAD}{GROUP}")).spec.body.unwrap().groups[0];
    assert_eq!((body.driver.as_str(), body.kill_timeout_micros), ("exec", 10_000_000));
    assert_eq!(body.restart.unwrap().attempts, 0);
}

#[test]
fn a_draft_of_the_sdk_is_filled_in_as_a_file_is() {
    for (scheduler, kind) in [("batch", JobKind::ToCompletion), ("service", JobKind::Forever)] {
        let mut draft = plenum_sdk::JobDraft::new("story", scheduler, kind);
        draft.groups.push(plenum_sdk::GroupDraft::new("main", ["/bin/true"], 1000, 64 << 20));
        let file = read(&format!("name = \"story\"\nscheduler = \"{scheduler}\"\n{GROUP}"));
        assert_eq!(draft.spec(), file.spec);
    }
}

#[test]
fn a_service_runs_for_ever_and_is_retried_for_ever() {
    let shape = read(&format!("name = \"web\"\nscheduler = \"service\"\n{GROUP}")).spec.shape.unwrap();
    assert_eq!(shape.kind(), JobKind::Forever);
    assert_eq!(shape.groups[0].retry.unwrap().attempts, ATTEMPTS_UNLIMITED);
}

#[test]
fn malformed_toml_shows_line_column_and_place() {
    check("name = \"story\"\nscheduler = \n", "JOB_FILE_SYNTAX", &["job.toml:2:", "2 | scheduler =", "^"]);
    check("name = \"story", "JOB_FILE_SYNTAX", &["job.toml:1:"]);
    check("name = \"a\"\nname = \"b\"\n", "JOB_FILE_SYNTAX", &["job.toml:2:1", "duplicate key"]);
}

#[test]
fn malformed_json_shows_line_and_column() {
    check("{\n  \"name\": story\n}", "JOB_FILE_SYNTAX", &["job.toml:2:11", "^"]);
    check("{\"name\": \"a\", \"name\": \"b\"}", "JOB_FILE_SYNTAX", &["job.toml:1:15", "duplicate key"]);
    check("{\"name\": \"a\"", "JOB_FILE_SYNTAX", &["EOF"]);
}

#[test]
fn an_unknown_field_shows_its_line_and_the_nearest_known_name() {
    let text = format!("{HEAD}priorty = 3\n{GROUP}");
    check(
        &text,
        "JOB_FILE_UNKNOWN_FIELD",
        &["job.toml:3:1", "`priorty`", "did you mean `priority`?", "3 | priorty = 3"],
    );
    let text = format!("{HEAD}{GROUP}comand = []\n");
    check(&text, "JOB_FILE_UNKNOWN_FIELD", &["job.toml:6:1", "`group.main`", "did you mean `command`?"]);
    let text = format!("{HEAD}{GROUP}retry = {{ attempst = 1 }}\n");
    check(&text, "JOB_FILE_UNKNOWN_FIELD", &["job.toml:6:11", "did you mean `attempts`?"]);
}

#[test]
fn groups_without_names_are_told_how_to_get_them() {
    let text = format!("{HEAD}[[group]]\ncommand = [\"/bin/true\"]\n");
    check(&text, "JOB_FILE_VALUE", &["job.toml:3:1", "`group` is a list", "for example [group.main]"]);
}

#[test]
fn an_unknown_field_in_json_shows_its_line() {
    check("{\n\"name\": \"a\",\n\"schedular\": \"batch\"}", "JOB_FILE_UNKNOWN_FIELD", &["job.toml:3:1", "`scheduler`"]);
}

#[test]
fn a_slip_in_a_resource_is_no_custom_resource() {
    let text = format!("{HEAD}[group.main]\ncommand = [\"x\"]\nresources = {{ cpus = 1, memory = \"1GiB\" }}\n");
    check(&text, "JOB_FILE_UNKNOWN_FIELD", &["`cpus`", "did you mean `cpu`?"]);
    let text = format!("{HEAD}[group.main]\ncommand = [\"x\"]\nresources = {{ cpu = 1, licences = \"2\" }}\n");
    let told = ["`licences`", "what the cell itself names takes a whole number"];
    check(&text, "JOB_FILE_UNKNOWN_FIELD", &told);
}

// Servers took these names, and no job could ask for one of them.
#[test]
fn a_resource_of_the_cell_may_look_like_one_of_all_cells() {
    for (name, known) in [("disk2", "disk"), ("gpus", "gpu"), ("cpus", "cpu"), ("port", "ports"), ("mem-ory", "memory")]
    {
        let text = format!(
            "{HEAD}[group.main]\ncommand = [\"x\"]\nresources = {{ cpu = 1, memory = \"1GiB\", {name} = 2 }}\n"
        );
        let file = read(&text);
        let slip = file.clone().with_custom_resources(&["licences".to_owned()]).expect_err("the cell has none");
        assert_eq!(slip.code, "JOB_FILE_UNKNOWN_FIELD");
        assert!(slip.message.contains(&format!("did you mean `{known}`?")), "{slip}");
        let file = file.with_custom_resources(&[name.to_owned()]).unwrap();
        assert_eq!(file.spec.shape.unwrap().groups[0].resources.clone().unwrap().custom, [2]);
    }
}

#[test]
fn a_custom_resource_takes_its_place_in_the_cells_order() {
    let text = "[group.main]\ncommand = [\"x\"]\nresources = { cpu = 1, memory = \"1GiB\", licences = 2 }\n";
    let file = read(&format!("{HEAD}{text}"));
    assert!(file.has_custom_resources());
    let error = file.clone().with_custom_resources(&["license".to_owned()]).expect_err("the cell has none");
    assert_eq!(error.code, "NO_SUCH_RESOURCE");
    assert!(error.message.contains("did you mean `license`?"), "{error}");
    let file = file.with_custom_resources(&["slots".to_owned(), "licences".to_owned()]).unwrap();
    let resources = file.spec.shape.unwrap().groups[0].resources.clone().unwrap();
    assert_eq!(resources.custom, [0, 2]);
}

#[test]
fn impossible_amounts_are_refused_with_what_is_possible() {
    let memory = "memory = \"64MiB\"";
    check_resources(&format!("{{ cpu = \"-1\", {memory} }}"), &["`-1` is no amount of CPU", "\"500m\""]);
    check_resources(&format!("{{ cpu = -1, {memory} }}"), &["no amount of CPU"]);
    check_resources(&format!("{{ cpu = \"0\", {memory} }}"), &["is nothing", "1m"]);
    check_resources(&format!("{{ cpu = \"0.0001\", {memory} }}"), &["no amount of CPU"]);
    check_resources(&format!("{{ cpu = 99999999999, {memory} }}"), &["expected at most 1000000 cores"]);
    check_resources(&format!("{{ cpu = \"99999999999999999999\", {memory} }}"), &["expected at most 1000000 cores"]);
    check_resources("{ cpu = 1, memory = \"64\" }", &["64 bytes", "without a unit is bytes"]);
    check_resources("{ cpu = 1, memory = \"64 megs\" }", &["no amount of bytes", "MiB"]);
    check_resources("{ cpu = 1, memory = \"9999999TiB\" }", &["expected at most 1024TiB"]);
    check_resources("{ cpu = 1, memory = \"99999999999999999999\" }", &["expected at most 1024TiB"]);
    check_resources("{ cpu = 1 }", &["`group.main.resources.memory` is missing"]);
    check_resources("{ cpu = true, memory = \"1GiB\" }", &["is a boolean"]);
    check_resources(&format!("{{ cpu = 1, {memory}, gpu = 1.5 }}"), &["whole GPUs"]);
    check_resources(&format!("{{ cpu = 1, {memory}, licences = -1 }}"), &["expected 0 to"]);
    check_resources(&format!("{{ cpu = 1, {memory}, ports = {{ http = 70000 }} }}"), &["70000", "0 to 65535"]);
    // The cell found it, which knows neither file nor line.
    check_resources(
        &format!("{{ cpu = 1, {memory}, ports = {{ a = 0, b = 0, c = 80, d = 80 }} }}"),
        &["job.toml:5:", "`group.main.resources.ports.d` is 80, and so is `c`"],
    );
}

#[test]
fn an_integer_beyond_sixty_four_bits_is_no_panic() {
    check(&format!("{HEAD}priority = 99999999999999999999\n{GROUP}"), "JOB_FILE_VALUE", &["64 bits"]);
    check(&format!("{HEAD}priority = 0x\n{GROUP}"), "JOB_FILE_VALUE", &["no digits"]);
    check("{\"name\": \"a\", \"priority\": 99999999999999999999}", "JOB_FILE_VALUE", &["64 bits"]);
}

#[test]
fn names_that_are_paths_empty_or_over_long_are_refused() {
    let name = |name: &str| format!("name = \"{name}\"\nscheduler = \"batch\"\n{GROUP}");
    check(&name("../../etc/passwd"), "JOB_FILE_VALUE", &["job.toml:1:8", "looks like a path", "1 to 63"]);
    check(&name(".."), "JOB_FILE_VALUE", &["looks like a path"]);
    check(&name(""), "JOB_FILE_VALUE", &["is empty"]);
    check(&name(&"a".repeat(64)), "JOB_FILE_VALUE", &["has 64 bytes"]);
    check(&name("Word Count"), "JOB_FILE_VALUE", &["is no name"]);
    check(&name("-a"), "JOB_FILE_VALUE", &["the first and the last"]);
    check(&name("a-"), "JOB_FILE_VALUE", &["the first and the last"]);
    check(&name("é"), "JOB_FILE_VALUE", &["is no name"]);
    let group = GROUP.replace("group.main", "group.\"a/b\"");
    check(&format!("{HEAD}{group}"), "JOB_FILE_VALUE", &["looks like a path"]);
    check(&format!("namespace = \"a/b\"\n{HEAD}{GROUP}"), "JOB_FILE_VALUE", &["`namespace`", "path"]);
    let scheduler = HEAD.replace("batch", "my scheduler");
    check(&format!("{scheduler}{GROUP}"), "JOB_FILE_VALUE", &["`scheduler`"]);
}

// The cell refused it, without a line of the file.
#[test]
fn a_name_that_leaves_no_room_for_instants_is_told_with_its_line() {
    let text =
        |bytes| format!("name = \"{}\"\nscheduler = \"batch\"\nruns = \"recurring\"\n{GROUP}", "n".repeat(bytes));
    assert!(JobFile::parse("job.toml", &text(43)).is_ok());
    check(
        &text(44),
        "JOB_FILE_VALUE",
        &["job.toml:1:8", "`name` has 44 bytes; expected at most 43 of a recurring job"],
    );
}

// A slip was taken, and what was launched was placed by somebody else than was meant.
#[test]
fn options_of_launches_are_known_ones_of_jobs_that_are_launched_from() {
    let text = |more: &str| format!("name = \"a\"\nscheduler = \"cron\"\n{more}{GROUP}");
    let option = |name: &str| format!("options = {{ \"{name}\" = \"batch\", every = 5 }}\n");
    let recurring = |name: &str| text(&format!("runs = \"recurring\"\n{}", option(name)));
    assert!(JobFile::parse("job.toml", &recurring("launch.scheduler")).is_ok());
    check(
        &recurring("launch.schedulr"),
        "JOB_FILE_VALUE",
        &["job.toml:4:1", "unknown option `launch.schedulr`; did you mean `launch.scheduler`?"],
    );
    check(&text(&option("launch.scheduler")), "JOB_FILE_VALUE", &["of no use here: only recurring jobs"]);
    assert!(JobFile::parse("job.toml", &text(&option("launcher"))).is_ok(), "of its scheduler");
}

#[test]
fn what_is_missing_is_named_with_an_example() {
    check(GROUP, "JOB_FILE_VALUE", &["no `name`", "name = \"word-count\""]);
    check("name = \"a\"\n", "JOB_FILE_VALUE", &["no `scheduler`"]);
    check(HEAD, "JOB_FILE_VALUE", &["no `group`", "[group.main]"]);
    check("", "JOB_FILE_VALUE", &["no `name`"]);
    check(
        &format!("{HEAD}[group.main]\ncommand = [\"x\"]\n"),
        "JOB_FILE_VALUE",
        &["`group.main.resources` is missing"],
    );
    let group = "[group.main]\nresources = { cpu = 1, memory = \"1GiB\" }\n";
    check(&format!("{HEAD}{group}"), "JOB_FILE_VALUE", &["`group.main.command` is missing or empty", "/bin/sh"]);
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_the_right_one() {
    check(&format!("priority = \"high\"\n{HEAD}{GROUP}"), "JOB_FILE_VALUE", &["is a text", "0 to 99"]);
    check(&format!("priority = 100\n{HEAD}{GROUP}"), "JOB_FILE_VALUE", &["is 100", "0 to 99"]);
    check(&format!("same_machine = 1\n{HEAD}{GROUP}"), "JOB_FILE_VALUE", &["true or false"]);
    check(&format!("runs = \"sometimes\"\n{HEAD}{GROUP}"), "JOB_FILE_VALUE", &["\"forever\""]);
    check(&format!("name = 1979-05-27\n{GROUP}"), "JOB_FILE_VALUE", &["is a date"]);
    check_group("count = -1", &["is -1", "0 to 1000000"]);
    check_group("count = 1000001", &["1000001"]);
    check_group("min = 2", &["above the count of 1"]);
    // They waited for ever, as no transaction claims so much.
    check_group("count = 20000\nmin = 16385", &["job.toml:7:7", "at most 16384 tasks can be placed at once"]);
    read(&format!("{HEAD}{GROUP}count = 20000\nmin = 16384\n"));
    check_group("kill_timeout = 10", &["is an integer", "\"10s\""]);
    check_group("kill_timeout = \"10\"", &["no time"]);
    check_group("kill_timeout = \"-1s\"", &["no time"]);
    check_group("kill_timeout = \"999999999999999999d\"", &["too long"]);
    check_group("kill_timeout = \"400d\"", &["366d"]);
    check_group("env = { PLENUM_JOB = \"x\" }", &["the agent's to set"]);
    check_group("env = { A = 1 }", &["`group.main.env.A` is an integer"]);
}

#[test]
fn a_relative_program_is_refused() {
    let group = GROUP.replace("/bin/true", "./run.sh");
    check(&format!("{HEAD}{group}"), "JOB_FILE_VALUE", &["`./run.sh`", "absolute path"]);
}

#[test]
fn groups_that_wait_for_each_other_are_named() {
    let group = |name: &str, after: &str| GROUP.replace("main", name) + &format!("after = [{after}]\n");
    let ring = [group("a", "\"b\""), group("b", "\"c\""), group("c", "\"a\"")].concat();
    check(&format!("{HEAD}{ring}"), "JOB_FILE_CYCLE", &["a → b → c → a"]);
    check(&format!("{HEAD}{}", group("a", "\"a\"")), "JOB_FILE_CYCLE", &["a → a"]);
    let beside = [group("x", ""), group("a", "\"x\", \"b\""), group("b", "\"x\", \"a\"")].concat();
    check(&format!("{HEAD}{beside}"), "JOB_FILE_CYCLE", &["a → b → a"]);
    let diamond = [group("a", ""), group("b", "\"a\""), group("c", "\"a\""), group("d", "\"b\", \"c\"")].concat();
    read(&format!("{HEAD}{diamond}"));
}

#[test]
fn after_names_a_group_of_the_job_once() {
    let two = format!("{HEAD}{}{}", GROUP.replace("main", "split"), GROUP);
    check(&format!("{two}after = [\"splt\"]\n"), "JOB_FILE_VALUE", &["no group of this job", "did you mean `split`?"]);
    check(&format!("{two}after = [\"split\", \"split\"]\n"), "JOB_FILE_VALUE", &["named twice"]);
}

#[test]
fn nothing_starts_after_tasks_that_never_succeed() {
    let two = format!("runs = \"forever\"\n{HEAD}{}{}after = [\"split\"]\n", GROUP.replace("main", "split"), GROUP);
    check(&two, "JOB_FILE_VALUE", &["never succeed", "to-completion"]);
}

#[test]
fn conditions_are_read_and_wrong_ones_explained() {
    let text = format!("{HEAD}{GROUP}constraints = ['attr.arch in [\"x86_64\", \"aarch64\"]', 'attr.cores > 4']\n");
    let group = read(&text).spec.shape.unwrap().groups[0].clone();
    assert_eq!(group.constraints[0].operator(), Operator::In);
    assert_eq!(group.constraints[0].values, ["x86_64", "aarch64"]);
    assert_eq!((group.constraints[1].attribute.as_str(), group.constraints[1].values[0].as_str()), ("cores", "4"));
    check_group("constraints = ['kernel >= \"5\"']", &["does not begin with `attr.`", "attr.kernel"]);
    check_group("constraints = ['attr.kernel']", &["no comparison"]);
    check_group("constraints = ['attr.kernel ~ \"5\"']", &["no comparison"]);
    check_group("constraints = ['attr.kernel == five']", &["neither a quoted text nor a number"]);
    check_group("constraints = ['attr.k >= -3']", &["neither a quoted text nor a number of digits and dots"]);
    check_group("constraints = ['attr.kernel in []']", &["0 values"]);
    check_group("constraints = ['attr.kernel in \"5\"']", &["list of quoted texts"]);
    check_group("constraints = ['attr.k == \"5']", &["neither a quoted text"]);
    check_group("constraints = 'attr.k == \"5\"'", &["a list of conditions"]);
    check_group("affinities = [{ rule = 'attr.k == 1', weight = 0 }]", &["-100 to 100, not 0"]);
    check_group("affinities = [{ rule = 'attr.k == 1' }]", &["`group.main.affinities[0].weight` is missing"]);
    check_group("spread = [{ by = \"rack\", at_most = 2 }]", &["attr."]);
    check_group("spread = [{ by = \"attr.rack\", at_most = 0 }]", &["1 to 1000000"]);
}

#[test]
fn spread_and_one_machine_exclude_each_other() {
    let text = format!("same_machine = true\n{HEAD}{GROUP}spread = [{{ by = \"attr.rack\", at_most = 2 }}]\n");
    check(&text, "JOB_FILE_VALUE", &["nothing to spread"]);
}

#[test]
fn what_is_known_but_not_built_is_refused_and_never_ignored() {
    for line in ["driver = \"oci\"", "image = \"x\"", "check = { tcp = \"http\" }", "topology = \"attr.rack\""] {
        check(&format!("{HEAD}{GROUP}{line}\n"), "UNIMPLEMENTED", &["job.toml:6:", "cannot do it"]);
    }
    for table in ["[elastic]\nmax_parallel = 3", "[schedule]\ncron = \"* * * * *\"", "[update]\ncanary = 1"] {
        check(&format!("{HEAD}{GROUP}{table}\n"), "UNIMPLEMENTED", &["job.toml:6:"]);
    }
    check_group("driver = \"docker\"", &["`docker`", "\"exec\""]);
}

// A slip was answered with a list of fields of which six would have been refused next.
#[test]
fn nobody_is_led_to_what_is_not_built() {
    for text in [format!("{HEAD}schedul = 1\n{GROUP}"), format!("{HEAD}{GROUP}chek = 1\n")] {
        let error = JobFile::parse("job.toml", &text).expect_err("no such field");
        let hint = error.hint.unwrap();
        let known: Vec<&str> = hint.strip_prefix("known here: ").unwrap().split(", ").collect();
        for unbuilt in [super::job::UNBUILT, super::group::UNBUILT, &["image"][..]].concat() {
            assert!(!known.contains(&unbuilt), "{hint}");
            assert!(!error.message.contains(&format!("`{unbuilt}`")), "{}", error.message);
        }
    }
}

#[test]
fn what_the_cell_decides_later_is_in_the_spec() {
    let text = "[group.main]\ncommand = [\"x\"]\nsingle_instance = true\nper_machine = 1\nlost_after = \"never\"\nspread = \
                [{ by = \"attr.rack\", at_most = 2 }]\naffinities = [{ rule = 'attr.disk == \"ssd\"', weight = -5 }]\n[group.main.resources]\ncpu = 1\nmemory = \"1GiB\"\ngpu = \
                2\nports = { http = 0, admin = 9100 }\n";
    let group = read(&format!("{HEAD}{text}")).spec.shape.unwrap().groups[0].clone();
    assert_eq!(group.devices.len(), 2);
    assert_eq!((group.ports[1].name.as_str(), group.ports[1].number), ("admin", 9100));
    assert_eq!(group.spread[0].attribute, "rack");
    let wish = &group.affinities[0];
    assert_eq!((wish.rule.as_ref().unwrap().attribute.as_str(), wish.weight), ("disk", -5));
    assert!(group.single_instance);
    assert_eq!((group.per_machine, group.lost_after_micros), (1, -1));
}

#[test]
fn options_of_a_teams_own_scheduler_are_flattened() {
    let options = "[options]\npolicy = \"fifo\"\nlimits.tasks = 3\nlimits.share = 0.5\n";
    let head = HEAD.replace("batch", "fair");
    let shape = read(&format!("{head}{GROUP}{options}")).spec.shape.unwrap();
    assert_eq!(shape.options["limits.tasks"], "3");
    assert_eq!(shape.options["limits.share"], "0.5");
    assert_eq!(shape.options["policy"], "fifo");
    check(&format!("{HEAD}{GROUP}[options]\na = [1]\n"), "JOB_FILE_VALUE", &["`options.a` is a list"]);
}

// Files had bounds of their own, below those of the cell: 255 bytes of an option's value, 256 variables of a group.
#[test]
fn a_file_takes_what_the_cell_takes() {
    let head = HEAD.replace("batch", "gangs");
    let with = |bytes: usize| format!("{head}{GROUP}[options]\npolicy = \"{}\"\n", "x".repeat(bytes));
    assert_eq!(read(&with(1024)).spec.shape.unwrap().options["policy"].len(), 1024);
    check(&with(1025), "JOB_FILE_VALUE", &["`options.policy`", "at most 1024 bytes"]);
    let variables: Vec<String> = (0..1000).map(|number| format!("V{number} = \"\"")).collect();
    let many = format!("{HEAD}{GROUP}env = {{ {} }}\n", variables.join(", "));
    assert_eq!(read(&many).spec.body.unwrap().groups[0].env.len(), 1000);
}

// One of them overwrote the other without a word.
#[test]
fn an_option_that_is_given_twice_is_refused() {
    let head = HEAD.replace("batch", "gangs");
    let options = "[options]\n\"limits.tasks\" = 3\nlimits = { tasks = 4 }\n";
    check(
        &format!("{head}{GROUP}{options}"),
        "JOB_FILE_VALUE",
        &["job.toml:8:12", "`options.limits.tasks` is given twice"],
    );
    let options = "[options]\nlimits = { \"a.b\" = 3, a = { b = 3 } }\n";
    check(
        &format!("{head}{GROUP}{options}"),
        "JOB_FILE_VALUE",
        &["job.toml:7:", "`options.limits.a.b` is given twice"],
    );
}

// Each name below began with a copy of it: a file of a megabyte took 24 GiB.
#[test]
fn nothing_is_read_below_a_name_of_options_that_is_too_long() {
    let (head, long) = (HEAD.replace("batch", "gangs"), "x".repeat(64));
    let options = format!("[options]\nlimits = {{ {long} = {{ a = {{}}, b = 1, c = [1] }} }}\n");
    let refused = JobFile::parse("job.toml", &format!("{head}{GROUP}{options}")).unwrap_err();
    assert!(refused.message.starts_with("job.toml:7:12: `options.limits.xxx"), "{}", refused.message);
    assert!(refused.message.contains("expected a name of 1 to 63 letters"), "{}", refused.message);
    assert_eq!((refused.code, refused.hint), ("JOB_FILE_VALUE", None), "there is no other mistake");
}

#[test]
fn options_that_nobody_reads_are_refused() {
    let options = "[options]\npolicy = \"fifo\"\n";
    check(&format!("{HEAD}{GROUP}{options}"), "UNIMPLEMENTED", &["job.toml:6:2", "a team's own scheduler", "`batch`"]);
    read(&format!("{HEAD}{GROUP}[options]\n"));
}

#[test]
fn more_retries_than_are_counted_are_refused_with_the_way_out() {
    check_group("retry = { attempts = 255 }", &["is 255", "0 to 254", "at most 254"]);
    let web = format!("name = \"web\"\nscheduler = \"service\"\n{GROUP}");
    check(
        &format!("{web}retry = {{ attempts = 1000 }}\n"),
        "JOB_FILE_VALUE",
        &["job.toml:6:", "at most 254, or leave it out for no limit"],
    );
    assert_eq!(
        read(&format!("{web}retry = {{ attempts = 254 }}\n")).spec.shape.unwrap().groups[0].retry.unwrap().attempts,
        254
    );
}

#[test]
fn values_of_all_conditions_above_their_bound_are_refused() {
    let rule = format!("'attr.rack in [{}]'", ["\"a\""; 64].join(", "));
    let most = format!("{HEAD}{GROUP}constraints = [{}]\n", [rule.as_str(); 64].join(", "));
    read(&most);
    let more = format!("{most}affinities = [{{ rule = 'attr.rack == 1', weight = 1 }}]\n");
    check(&more, "JOB_FILE_VALUE", &["have 4097 values; expected at most 4096", "make several jobs of it"]);
}

#[test]
fn a_body_above_its_bound_is_refused() {
    let long = format!("{HEAD}{}", GROUP.replace("/bin/true", &format!("/bin/sh\", \"-c\", \"{}", "x".repeat(70_000))));
    check(&long, "JOB_FILE_VALUE", &["expected at most 65536"]);
}

#[test]
fn odd_bytes_never_panic() {
    for text in
        ["{", "[", "\"", "{\"a\":\"\\", "= =", "[[group]]", "group = 1", "[group]\nmain = 3", "\u{feff}{}", "é = 1"]
    {
        assert!(JobFile::parse("job.toml", text).is_err(), "{text:?}");
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(JobFile::parse("deep.json", &deep).is_err());
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(JobFile::parse("deep.toml", &deep).is_err());
}

#[test]
fn times_add_up() {
    assert_eq!(super::duration_micros("1m30s"), Ok(90_000_000));
    assert_eq!(super::duration_micros("500ms"), Ok(500_000));
}

// The cell found them, which knows neither file nor line; of a file that `plenum dev` was given, once its parts ran.
#[test]
fn names_that_no_cell_takes_are_told_with_their_line() {
    check_group("env = { \"A-B\" = \"x\" }", &["job.toml:6:9", "`A-B` is no name of a variable"]);
    check_group("constraints = ['attr.a/b == \"1\"']", &["job.toml:6:16", "`a/b` is no name of an attribute"]);
    check_resources(
        "{ cpu = 1, memory = \"1MiB\", ports = { -http = 0 } }",
        &["job.toml:5:", "`-http` is no name of a port"],
    );
    let head = HEAD.replace("batch", "gangs");
    check(
        &format!("{head}{GROUP}[options]\n\"a b\" = 1\n"),
        "JOB_FILE_VALUE",
        &["job.toml:7:1", "`options.a b`: expected"],
    );
}

/// The schema for editors.
fn schema() -> serde_json::Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/job-file.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

// Of some numbers it named no maximum, and took what the reader refuses.
#[test]
fn the_schema_for_editors_has_the_same_maxima() {
    let schema = schema();
    let group = &schema["properties"]["group"]["additionalProperties"]["properties"];
    let numbers = [
        (&group["count"], "count = MOST"),
        (&group["min"], "count = 1000000\nmin = MOST"),
        (&group["per_machine"], "per_machine = MOST"),
        (&group["retry"]["properties"]["attempts"], "retry = { attempts = MOST }"),
        (&group["restart"]["properties"]["attempts"], "restart = { attempts = MOST }"),
        (&group["spread"]["items"]["properties"]["at_most"], "spread = [{ by = \"attr.rack\", at_most = MOST }]"),
    ];
    for (number, line) in numbers {
        let most = number["maximum"].as_u64().unwrap_or_else(|| panic!("no maximum for {line}"));
        read(&format!("{HEAD}{GROUP}{}\n", line.replace("MOST", &most.to_string())));
        check_group(&line.replace("MOST", &(most + 1).to_string()), &[]);
    }
    let resources = &group["resources"];
    assert_eq!(resources["additionalProperties"]["maximum"].as_u64(), Some(plenum_model::AMOUNT_MAX));
    let most = resources["properties"]["ports"]["maxProperties"].as_u64().unwrap();
    let ports = |count: u64| {
        let ports: Vec<String> = (0..count).map(|number| format!("p{number} = 0")).collect();
        format!("{{ cpu = 1, memory = \"1MiB\", ports = {{ {} }} }}", ports.join(", "))
    };
    read(&format!("{HEAD}[group.main]\ncommand = [\"/bin/true\"]\nresources = {}\n", ports(most)));
    check_resources(&ports(most + 1), &["at most 64"]);
}

// An editor that was told of the schema by the file itself wrote a file that was refused.
#[test]
fn a_json_file_may_say_where_its_schema_is() {
    let file = |first: &str| {
        format!(
            r#"{{ {first}, "name": "a", "scheduler": "batch",
                "group": {{ "g": {{ "command": ["/bin/true"], "resources": {{ "cpu": 1, "memory": "1MiB" }} }} }} }}"#
        )
    };
    read(&file(r#""$schema": "docs/job-file.schema.json""#));
    check(&file(r#""$schema": 7"#), "JOB_FILE_UNKNOWN_FIELD", &["`$schema`"]);
}

// Editors said nothing of times without a unit, amounts of nothing that is one, and conditions on nothing.
#[test]
fn the_schema_for_editors_takes_quantities_and_conditions_as_the_reader_does() {
    let schema = schema();
    let group = &schema["properties"]["group"]["additionalProperties"]["properties"];
    let resources = &group["resources"]["properties"];
    let pattern = |value: &serde_json::Value| Regex::new(value["pattern"].as_str().unwrap()).unwrap();
    let texts = [
        "1",
        "0.25",
        "1.2345",
        "500m",
        "500 m",
        "1.5m",
        "-1",
        "many",
        "",
        "64MiB",
        "64 MiB",
        "64Mib",
        "1.5MiB",
        "7B",
        "1KB",
        "5s",
        "1m30s",
        "1m 30 s",
        "5",
        "5 parsecs",
        "never",
        "Never",
        "attr.os == \"linux\"",
        "os == \"linux\"",
    ];
    type Reads = fn(&str) -> bool;
    let kinds: [(&serde_json::Value, Reads); 7] = [
        (&resources["cpu"], |text| super::units::cpu_millis(text).is_ok()),
        (&resources["gpu"], |text| super::units::device_millis(text).is_ok()),
        (&resources["memory"], |text| super::units::bytes(text).is_ok()),
        (&group["kill_timeout"], |text| super::units::duration_micros(text).is_ok()),
        (&group["retry"]["properties"]["delay"], |text| super::units::duration_micros(text).is_ok()),
        (&group["lost_after"], |text| text == "never" || super::units::duration_micros(text).is_ok()),
        (&group["constraints"]["items"], |text| super::constraint::parse(text).is_ok()),
    ];
    for (value, reads) in kinds {
        let pattern = pattern(value);
        texts.iter().for_each(|text| assert_eq!(pattern.is_match(text), reads(text), "{text:?} by {pattern}"));
    }
    // No GPU at all is one of the amounts: editors refused it.
    assert_eq!(resources["gpu"]["minimum"], serde_json::json!(0));
    let none = "resources = { cpu = 1, memory = \"1MiB\", gpu = 0 }";
    read(&format!("{HEAD}[group.main]\ncommand = [\"/bin/true\"]\n{none}\n"));
}

// It took names of ports that the reader refuses.
#[test]
fn the_schema_for_editors_takes_names_of_ports_that_are_as_long() {
    let schema = schema();
    let group = &schema["properties"]["group"]["additionalProperties"]["properties"];
    let pattern = group["resources"]["properties"]["ports"]["propertyNames"]["pattern"].as_str().unwrap();
    let most = pattern.strip_prefix("^[a-z0-9]([a-z0-9-]{0,").and_then(|rest| rest.strip_suffix("}[a-z0-9])?$"));
    let most = most.unwrap().parse::<usize>().unwrap() + 2;
    let port = |name: &str| format!("{{ cpu = 1, memory = \"1MiB\", ports = {{ {name} = 0 }} }}");
    let longest = "a".repeat(most);
    read(&format!("{HEAD}[group.main]\ncommand = [\"/bin/true\"]\nresources = {}\n", port(&longest)));
    for wrong in [format!("{longest}a"), "HTTP".to_owned(), "http-".to_owned()] {
        check_resources(&port(&wrong), &["is no name of a port"]);
    }
}

#[test]
fn the_schema_for_editors_knows_the_same_names() {
    let schema = schema();
    let names = |value: &serde_json::Value| -> Vec<String> {
        let mut names: Vec<String> = value["properties"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let sorted = |known: &[&str]| {
        let mut names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    };
    let group = &schema["properties"]["group"]["additionalProperties"];
    assert_eq!(names(&schema), sorted(&[super::job::KNOWN, &[super::json::FOR_EDITORS]].concat()));
    assert_eq!(names(group), sorted(super::group::KNOWN));
    assert_eq!(names(&group["properties"]["resources"]), sorted(super::group::KNOWN_RESOURCES));
    // It refused what the reader takes long since.
    let most = |name: &str| group["properties"][name]["maximum"].as_u64();
    assert_eq!([most("min"), most("count")], [Some(16_384), Some(1_000_000)]);
    // It took a wish of no weight, which the reader refuses.
    let weight = &group["properties"]["affinities"]["items"]["properties"]["weight"];
    assert_eq!(weight["not"], serde_json::json!({ "const": 0 }));
}

// One mistake was told at a time: a file with five of them was mended and refused five times.
#[test]
fn all_mistakes_that_can_be_found_are_told_at_once_in_their_order() {
    let text = "nmae = \"story\"\nscheduler = \"batch\"\npriority = 200\n[group.a]\ncomand = [\"/bin/true\"]\n\
                resources = { cpu = \"none\", memory = \"1MiB\" }\n[group.b]\ncommand = [\"/bin/true\"]\ncount = -1\nmin = 4\n\
                resources = { cpu = 1 }\nenv = { PLENUM_A = \"\", \"1\" = \"\" }\n[group.c]\nafter = [\"a\", \"nobody\"]\n\
                command = [\"/bin/true\"]\nresources = { cpu = 1, memory = \"1MiB\" }\n";
    let error = JobFile::parse("job.toml", text).expect_err("the file should be refused");
    let places: Vec<&str> = error.message.lines().filter(|line| line.starts_with("job.toml")).collect();
    let expected = [
        "job.toml:1:1: unknown field `nmae` in a job file; did you mean `name`?",
        "job.toml:3:12: `priority` is 200; expected an integer from 0 to 99",
        "job.toml:5:1: unknown field `comand` in `group.a`; did you mean `command`?",
        "job.toml:6:21: `group.a.resources.cpu`",
        "job.toml:9:9: `group.b.count` is -1",
        "job.toml:11:13: `group.b.resources.memory` is missing",
        "job.toml:12:9: `group.b.env`: `PLENUM_A` is the agent's to set",
        "job.toml:12:24: `group.b.env`: `1` is no name of a variable",
        "job.toml:14:15: ",
    ];
    assert_eq!(places.len(), expected.len(), "{}", error.message);
    for (place, expected) in places.iter().zip(expected) {
        assert!(place.starts_with(expected), "expected {expected:?}, found {place:?}");
    }
    assert_eq!(error.code, "JOB_FILE_UNKNOWN_FIELD", "the first one's");
    assert!(
        error.message.contains("   known here: name, scheduler"),
        "what to do stands below each: {}",
        error.message
    );
}

// Of each list the first one alone was told; and what was wrong in line 7 stood below what was in line 11.
#[test]
fn all_mistakes_within_lists_are_told_at_once() {
    let text = "name = \"story\"\nscheduler = \"gangs\"\n[options]\na = [1]\n\"b c\" = 1\n[group.a]\n\
                command = [\"bin/x\", 1, \"\\u0000\"]\nresources = { cpu = 1, memory = \"1MiB\", ports = { A = 1, b = 70000, c = 5, d = 5 } }\n\
                constraints = ['arch', 3]\n\
                affinities = [{ rul = 'attr.k == 1', weight = 0 }, { rule = 'k', weight = \"1\" }, 7]\n\
                spread = [{ by = \"rack\", at_most = 0 }, { by = \"attr.rack\" }]\n\
                after = [\"b\", \"nobody\", \"b\"]\n\
                [group.b]\ncommand = [\"x\"]\nresources = { cpu = 1, memory = \"1MiB\" }\nafter = [\"a\", \"c\"]\n";
    let error = JobFile::parse("job.toml", text).expect_err("the file should be refused");
    let places: Vec<&str> = error.message.lines().filter(|line| line.starts_with("job.toml")).collect();
    let expected = [
        "job.toml:4:5: `options.a` is a list",
        "job.toml:5:1: `options.b c`: expected",
        "job.toml:7:12: `group.a.command` begins with `bin/x`",
        "job.toml:7:21: `group.a.command[1]` is an integer",
        "job.toml:7:24: `group.a.command[2]` contains a NUL",
        "job.toml:8:51: `A` is no name of a port",
        "job.toml:8:62: `group.a.resources.ports.b` is 70000",
        "job.toml:8:80: `group.a.resources.ports.d` is 5, and so is `c`",
        "job.toml:9:16: `group.a.constraints[0]`: `arch` is no condition",
        "job.toml:9:24: `group.a.constraints[1]` is an integer",
        "job.toml:10:17: unknown field `rul` in `group.a.affinities[0]`; did you mean `rule`?",
        "job.toml:10:47: `group.a.affinities[0].weight` is 0",
        "job.toml:10:61: `group.a.affinities[1].rule`: `k` is no condition",
        "job.toml:10:75: `group.a.affinities[1].weight` is a text",
        "job.toml:10:82: `group.a.affinities[2]` is an integer",
        "job.toml:11:18: `group.a.spread[0].by`",
        "job.toml:11:36: `group.a.spread[0].at_most` is 0",
        "job.toml:11:41: `group.a.spread[1].at_most` is missing",
        "job.toml:12:15: `group.a.after` names `nobody`",
        "job.toml:12:25: `b` is named twice",
        "job.toml: and 1 more",
    ];
    assert_eq!(places.len(), expected.len(), "{}", error.message);
    for (place, expected) in places.iter().zip(expected) {
        assert!(place.starts_with(expected), "expected {expected:?}, found {place:?}");
    }
}

#[test]
fn very_many_mistakes_are_counted_and_not_told() {
    let fields: String = (0..1000).map(|number| format!("nobody-knows-{number} = 1\n")).collect();
    let error = JobFile::parse("job.toml", &format!("{fields}{HEAD}{GROUP}")).expect_err("the file should be refused");
    let places: Vec<&str> = error.message.lines().filter(|line| line.starts_with("job.toml")).collect();
    assert_eq!((places.len(), places[20]), (21, "job.toml: and 980 more"));
    assert!(error.message.len() < 20_000);
}
