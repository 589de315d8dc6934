//! Jobs whose tasks share one machine, where what they ask for could never be there: the cell found it, which knows neither file nor line, and of a file
//! that `plenum dev` was given only once its parts ran.

use super::{HEAD, JobFile, check, read};

/// A group with these fields, and these resources besides.
fn group(name: &str, fields: &str, resources: &str) -> String {
    format!(
        "[group.{name}]\n{fields}command = [\"/bin/true\"]\nresources = {{ cpu = 1, memory = \"1MiB\"{resources} }}\n"
    )
}

/// A job of these groups that runs for ever on one machine.
fn service(groups: &[String]) -> String {
    format!("name = \"web\"\nscheduler = \"service\"\nsame_machine = true\n{}", groups.concat())
}

const PORT: &str = ", ports = { admin = 0, http = 8080 }";

#[test]
fn tasks_that_share_a_machine_at_once_need_ports_of_their_own() {
    let told = ["job.toml:7:69: `group.main.resources.ports.http` is 8080", "2 tasks share", "0 lets the cell choose"];
    check(&service(&[group("main", "count = 2\n", PORT)]), "JOB_FILE_VALUE", &told);
    read(&service(&[group("main", "count = 1\n", PORT)]));
    read(&service(&[group("main", "count = 2\n", PORT)]).replace("same_machine = true", "same_machine = false"));
    let batch = |fields: &str| format!("same_machine = true\n{HEAD}{}", group("main", fields, PORT));
    read(&batch("count = 2\n"));
    check(&batch("count = 3\nmin = 2\n"), "JOB_FILE_VALUE", &["`group.main.resources.ports.http`", "2 tasks share"]);
}

#[test]
fn tasks_that_share_a_machine_at_once_need_places_there() {
    let told = ["job.toml:6:15: `group.main.per_machine` is 1; expected at least 2", "2 tasks share"];
    check(&service(&[group("main", "count = 2\nper_machine = 1\n", "")]), "JOB_FILE_VALUE", &told);
    read(&service(&[group("main", "count = 2\nper_machine = 2\n", "")]));
    let batch = |fields: &str| format!("same_machine = true\n{HEAD}{}", group("main", fields, ""));
    read(&batch("count = 4\nper_machine = 1\n"));
    check(&batch("count = 4\nmin = 2\nper_machine = 1\n"), "JOB_FILE_VALUE", &["expected at least 2"]);
}

#[test]
fn groups_that_share_a_machine_for_ever_have_no_port_in_common() {
    let two = |number: &str| {
        let port = format!(", ports = {{ http = {number} }}");
        [group("a", "", PORT), group("b", "count = 0\n", &port)]
    };
    let told =
        ["job.toml:10:58: `group.b.resources.ports.http` is 8080, and so is `group.a.resources.ports.http`", "0 lets"];
    check(&service(&two("8080")), "JOB_FILE_VALUE", &told);
    read(&service(&two("8081")));
    read(&service(&two("0")));
    read(&format!("same_machine = true\n{HEAD}{}", two("8080").concat()));
}

// One place had two faults.
#[test]
fn a_port_that_a_groups_own_tasks_cannot_share_is_told_once() {
    let groups = [group("a", "", PORT), group("b", "count = 2\n", PORT)];
    let error = JobFile::parse("job.toml", &service(&groups)).expect_err("the file should be refused");
    assert_eq!(error.message.matches("`group.b.resources.ports.http`").count(), 1, "{}", error.message);
    assert!(error.message.contains("2 tasks share"), "{}", error.message);
}

#[test]
fn what_cannot_be_shared_is_told_with_other_mistakes() {
    let text = service(&[group("main", "count = 2\nper_machine = 1\nmin = 3\n", PORT)]);
    let error = JobFile::parse("job.toml", &text).expect_err("the file should be refused");
    for told in ["`group.main.min` is 3", "`group.main.per_machine` is 1", "`group.main.resources.ports.http` is 8080"]
    {
        assert!(error.message.contains(told), "{}", error.message);
    }
}
