//! What users submit.

use plenum_model::{Command, JobShape};
use plenum_proto::{command, jobs, v1};
use prost::Message;

use super::cpu;

/// What each task of a group gets.
fn amounts(cpu_millis: i64, memory_bytes: i64) -> Option<v1::Resources> {
    Some(v1::Resources { cpu_millis, memory_bytes, ..v1::Resources::default() })
}

/// split → map → reduce.
pub(super) fn valid() -> v1::JobSpec {
    let group = |name: &str, after: &[&str]| v1::GroupShape {
        name: name.into(),
        count: 2,
        after: after.iter().map(|&name| name.into()).collect(),
        resources: amounts(500, 1 << 20),
        ..v1::GroupShape::default()
    };
    let body = |name: &str| v1::GroupBody {
        name: name.into(),
        driver: "exec".into(),
        command: vec!["/bin/true".into()],
        ..v1::GroupBody::default()
    };
    let shape = v1::JobShape {
        namespace: "default".into(),
        name: "word-count".into(),
        scheduler: "batch".into(),
        kind: v1::JobKind::ToCompletion.into(),
        groups: vec![group("split", &[]), group("map", &["split"]), group("reduce", &["map"])],
        ..v1::JobShape::default()
    };
    let body = v1::JobBody { groups: vec![body("split"), body("map"), body("reduce")] };
    v1::JobSpec { shape: Some(shape), body: Some(body) }
}

#[track_caller]
fn check(change: impl FnOnce(&mut v1::JobShape), expected: &str) {
    let mut spec = valid();
    change(spec.shape.as_mut().unwrap());
    assert_eq!(jobs::submit(spec).unwrap_err().to_string(), expected);
}

#[track_caller]
fn check_group(change: impl FnOnce(&mut v1::GroupShape), expected: &str) {
    check(|shape| change(&mut shape.groups[1]), expected);
}

#[track_caller]
fn check_body(change: impl FnOnce(&mut v1::GroupBody), expected: &str) {
    let mut spec = valid();
    change(&mut spec.body.as_mut().unwrap().groups[1]);
    assert_eq!(jobs::submit(spec).unwrap_err().to_string(), expected);
}

#[test]
fn a_valid_job_becomes_a_command_with_the_digest_of_its_body() {
    let Command::SubmitJob { shape, body, body_digest, expected_version: None } = jobs::submit(valid()).unwrap() else {
        panic!("no submission")
    };
    assert_eq!(shape.groups[2].after, [1]);
    assert_eq!(body_digest, *blake3::hash(&body).as_bytes());
}

#[test]
fn names_are_names_and_never_paths() {
    let rule = "1 to 63 bytes of a-z, 0-9 and -, with a letter or a digit at both ends";
    for (text, shown) in [("", r#""""#), ("../up", r#""../up""#), ("a/b", r#""a/b""#), ("Up", r#""Up""#)] {
        check(|shape| shape.name = text.into(), &format!("spec.shape.name: expected {rule}, found {shown}"));
        check(|shape| shape.namespace = text.into(), &format!("spec.shape.namespace: expected {rule}, found {shown}"));
        check_group(
            |group| group.name = text.into(),
            &format!("spec.shape.groups[1].name: expected {rule}, found {shown}"),
        );
    }
}

#[test]
fn groups_are_one_to_sixty_four_each_with_its_name() {
    check(|shape| shape.groups.clear(), "spec.shape.groups: expected 1 to 64 groups, found 0");
    check(
        |shape| shape.groups = vec![v1::GroupShape::default(); 65],
        "spec.shape.groups: expected 1 to 64 groups, found 65",
    );
    check(
        |shape| shape.groups[2].name = "map".into(),
        r#"spec.shape.groups: expected each name once, found "map" twice"#,
    );
}

#[test]
fn groups_wait_for_known_groups_and_never_in_a_circle() {
    check_group(
        |group| group.after = vec!["shuffle".into()],
        r#"spec.shape.groups[1].after: expected a group of this job, found "shuffle""#,
    );
    check_group(
        |group| group.after.push("split".into()),
        r#"spec.shape.groups[1].after: expected each group once, found "split" twice"#,
    );
    check(
        |shape| shape.groups[0].after = vec!["reduce".into()],
        "spec.shape.groups[0].after: expected no cycle, found split after reduce after map after split",
    );
    check_group(
        |group| group.after = vec!["map".into()],
        "spec.shape.groups[1].after: expected no cycle, found map after map",
    );
}

// They were taken, and waited for ever: on any other machine for the job's own, and there for room beside each other.
#[test]
fn tasks_that_share_a_machine_at_once_find_room_beside_each_other() {
    let together = |change: fn(&mut v1::GroupShape)| {
        move |shape: &mut v1::JobShape| {
            shape.same_machine = true;
            (shape.groups[0].count, shape.groups[0].min) = (2, 2);
            shape.groups[0].ports.clear();
            change(&mut shape.groups[0]);
        }
    };
    let port = |number| v1::Port { name: "http".into(), number };
    check(
        together(|group| group.per_machine = 1),
        "spec.shape.groups[0].per_machine: expected at least 2, as so many tasks share the job's machine at once, found 1",
    );
    check(
        together(|group| group.ports = vec![v1::Port { name: "http".into(), number: 8080 }]),
        "spec.shape.groups[0].ports: expected 0, for ports that the cell chooses, as 2 tasks share the job's machine at once, found 8080",
    );
    // One after the other they have it all.
    let mut spec = valid();
    let shape = spec.shape.as_mut().unwrap();
    together(|group| (group.min, group.per_machine) = (0, 1))(shape);
    shape.groups[0].ports = vec![port(8080)];
    assert!(jobs::submit(spec.clone()).is_ok());
    // Not where all of them run for ever.
    let shape = spec.shape.as_mut().unwrap();
    shape.kind = v1::JobKind::Forever.into();
    shape.groups.iter_mut().for_each(|group| group.after.clear());
    assert!(jobs::submit(spec).is_err());
}

// It was taken, and waited for ever: only ports of one group were compared.
#[test]
fn groups_that_share_a_machine_for_ever_have_no_port_in_common() {
    let port = |number| vec![v1::Port { name: "http".into(), number }];
    let with = |first, second| {
        move |shape: &mut v1::JobShape| {
            (shape.same_machine, shape.kind) = (true, v1::JobKind::Forever.into());
            for group in &mut shape.groups {
                group.count = 1;
                group.after.clear();
            }
            (shape.groups[0].ports, shape.groups[2].ports) = (port(first), port(second));
        }
    };
    check(
        with(80, 80),
        "spec.shape.groups[2].ports: expected a number that no other group has, as all share the job's machine at once, or 0 for one \
         that the cell chooses, found 80, which \"split\" has",
    );
    let is_taken = |first, second, change: fn(&mut v1::JobShape)| {
        let mut spec = valid();
        let shape = spec.shape.as_mut().unwrap();
        with(first, second)(shape);
        change(shape);
        jobs::submit(spec).is_ok()
    };
    assert!(!is_taken(80, 80, |_| {}));
    assert!(is_taken(80, 81, |_| {}) && is_taken(0, 0, |_| {}));
    assert!(is_taken(80, 80, |shape| shape.same_machine = false));
    let one_by_one = |shape: &mut v1::JobShape| shape.kind = v1::JobKind::ToCompletion.into();
    assert!(is_taken(80, 80, one_by_one));
    assert!(!is_taken(80, 80, |shape| shape.groups[0].count = 0), "it may be given some");
    // A log of before it was refused has it.
    let mut spec = valid();
    with(80, 80)(spec.shape.as_mut().unwrap());
    let body = spec.body.unwrap().encode_to_vec().into();
    let logged = v1::command::Ask::SubmitJob(v1::SubmitJob { shape: spec.shape, body, ..Default::default() });
    assert!(matches!(command::command(logged), Ok(Command::SubmitJob { .. })));
}

// It was taken, and waited for ever for a group that is never done.
#[test]
fn nothing_of_a_job_that_runs_for_ever_comes_after_a_group_of_it() {
    check(
        |shape| shape.kind = v1::JobKind::Forever.into(),
        r#"spec.shape.groups[1].after: expected nothing in a job that runs for ever, none of whose tasks ever succeeds, found "split""#,
    );
    let mut spec = valid();
    let shape = spec.shape.as_mut().unwrap();
    shape.kind = v1::JobKind::Forever.into();
    // A log of before it was refused has it.
    let body = spec.body.as_ref().unwrap().encode_to_vec().into();
    let logged = v1::command::Ask::SubmitJob(v1::SubmitJob { shape: Some(shape.clone()), body, ..Default::default() });
    assert!(matches!(command::command(logged), Ok(Command::SubmitJob { .. })));
    shape.groups.iter_mut().for_each(|group| group.after.clear());
    assert!(jobs::submit(spec).is_ok());
}

#[test]
fn a_job_says_how_it_ends_and_how_urgent_it_is() {
    check(
        |shape| shape.kind = 0,
        "spec.shape.kind: expected one of TO_COMPLETION, FOREVER, RECURRING, found JOB_KIND_UNSPECIFIED",
    );
    check(|shape| shape.priority = 100, "spec.shape.priority: expected 0 to 99, found 100");
    check(|shape| shape.parent = 5, "spec.shape.parent: expected the id of a job, with a generation above 0, found 5");
}

#[test]
fn counts_are_bounded() {
    check_group(|group| group.count = 1_000_001, "spec.shape.groups[1].count: expected 0 to 1000000, found 1000001");
    check_group(|group| group.min = 3, "spec.shape.groups[1].min: expected at most 2, the number of tasks, found 3");
    // Such a group waited for ever: no transaction claims so much.
    check_group(
        |group| (group.count, group.min) = (20_000, 16_385),
        "spec.shape.groups[1].min: expected at most 16384, as one transaction places them, found 16385",
    );
}

// It was taken, and its tasks were refused for ever: the second port was always in use by the first.
#[test]
fn no_group_asks_for_the_same_port_twice() {
    let port = |name: &str, number| v1::Port { name: name.into(), number };
    check_group(
        |group| group.ports = vec![port("a", 80), port("b", 0), port("c", 80)],
        "spec.shape.groups[1].ports: expected each number once, or 0 for one that the cell chooses, found 80 twice",
    );
}

#[test]
fn every_group_says_what_its_tasks_get() {
    check_group(
        |group| group.resources = None,
        "spec.shape.groups[1].resources: expected amounts of resources, found nothing",
    );
    check_group(
        |group| group.resources = cpu(-1),
        "spec.shape.groups[1].resources.cpu_millis: expected 0 to 1000000000, found -1",
    );
}

// They were taken, counted as nothing, and ran without any limit.
#[test]
fn no_task_asks_for_no_cpu_or_hardly_any_memory() {
    let field = |name: &str| format!("spec.shape.groups[1].resources.{name}: expected at least");
    check_group(|group| group.resources = amounts(0, 1 << 20), &format!("{} 1, found 0", field("cpu_millis")));
    check_group(
        |group| group.resources = amounts(1, (1 << 20) - 1),
        &format!("{} 1048576, found 1048575", field("memory_bytes")),
    );
    let mut spec = valid();
    spec.shape.as_mut().unwrap().groups[1].resources = amounts(1, 1 << 20);
    assert!(jobs::submit(spec).is_ok());
}

/// A log of before they were refused has them.
#[test]
fn a_job_of_before_whose_tasks_ask_for_nothing_is_still_read() {
    let mut spec = valid();
    spec.shape.as_mut().unwrap().groups[1].resources = amounts(0, 0);
    let body = spec.body.unwrap().encode_to_vec().into();
    let logged = v1::command::Ask::SubmitJob(v1::SubmitJob { shape: spec.shape, body, ..Default::default() });
    assert!(matches!(command::command(logged), Ok(Command::SubmitJob { .. })));
}

// `millis` was left out, and six tasks were told to use a GPU that another job had whole.
#[test]
fn no_task_asks_for_nothing_of_a_device() {
    let gpu = |millis| v1::Device { kind: "gpu".into(), millis, ..v1::Device::default() };
    check_group(
        |group| group.devices = vec![gpu(1), gpu(0)],
        "spec.shape.groups[1].devices[1].millis: expected 1 to 1000, found 0",
    );
    let mut spec = valid();
    spec.shape.as_mut().unwrap().groups[1].devices = vec![gpu(1), gpu(1000)];
    assert!(jobs::submit(spec.clone()).is_ok());
    // A log of before it was refused, and pages, have such groups.
    spec.shape.as_mut().unwrap().groups[1].devices = vec![gpu(0)];
    assert!(JobShape::try_from(spec.shape.clone().unwrap()).is_ok());
    let body = spec.body.unwrap().encode_to_vec().into();
    let logged = v1::command::Ask::SubmitJob(v1::SubmitJob { shape: spec.shape, body, ..Default::default() });
    assert!(matches!(command::command(logged), Ok(Command::SubmitJob { .. })));
}

#[test]
fn tasks_that_share_a_machine_are_not_spread() {
    let spread = || vec![v1::Spread { attribute: "rack".into(), at_most: 1 }];
    check(
        |shape| {
            shape.same_machine = true;
            shape.groups[1].spread = spread();
        },
        "spec.shape.groups[1].spread: expected none in a job whose tasks share one machine, found one",
    );
    check_group(
        |group| group.spread = vec![v1::Spread { attribute: "rack".into(), at_most: 0 }],
        "spec.shape.groups[1].spread[0].at_most: expected 1 or more, found 0",
    );
    check_group(
        |group| group.spread = [spread(), spread(), spread(), spread(), spread()].concat(),
        "spec.shape.groups[1].spread: expected at most 4 rules about spread, found 5",
    );
}

#[test]
fn constraints_compare_with_as_many_values_as_they_can() {
    let rule = |operator: v1::Operator, values: &[&str]| v1::Constraint {
        attribute: "rack".into(),
        operator: operator.into(),
        values: values.iter().map(|&value| value.into()).collect(),
    };
    check_group(
        |group| group.constraints = vec![rule(v1::Operator::Equal, &["a", "b"])],
        "spec.shape.groups[1].constraints[0].values: expected 1 to 1 values for this operator, found 2",
    );
    check_group(
        |group| group.constraints = vec![rule(v1::Operator::In, &[])],
        "spec.shape.groups[1].constraints[0].values: expected 1 to 64 values for this operator, found 0",
    );
    check_group(
        |group| group.affinities = vec![v1::Affinity { rule: Some(rule(v1::Operator::Equal, &["a"])), weight: 0 }],
        "spec.shape.groups[1].affinities[0].weight: expected -100 to 100, and not 0, found 0",
    );
    check_group(
        |group| group.constraints = vec![rule(v1::Operator::Unspecified, &["a"])],
        "spec.shape.groups[1].constraints[0].operator: expected one of EQUAL, NOT_EQUAL, LESS, LESS_OR_EQUAL, GREATER, \
         GREATER_OR_EQUAL, IN, found OPERATOR_UNSPECIFIED",
    );
}

/// A valid job with so many values of three bytes each, at least 63 times 64: nearly half of them are those of affinities.
fn of_constraint_values(values: usize) -> v1::JobSpec {
    let rule =
        v1::Constraint { attribute: "rack".into(), operator: v1::Operator::In.into(), values: vec!["a".into(); 64] };
    let mut spec = valid();
    let groups = &mut spec.shape.as_mut().unwrap().groups;
    groups[0].constraints = vec![rule.clone(); 32];
    groups[1].affinities = vec![v1::Affinity { rule: Some(rule.clone()), weight: 1 }; 31];
    let left = vec!["a".to_owned(); values - 63 * 64];
    groups[2].constraints =
        left.chunks(64).map(|values| v1::Constraint { values: values.to_vec(), ..rule.clone() }).collect();
    spec
}

/// Jobs with 83,000 of them were taken: each took 3.3 MB in the cell, and as much in each mirror.
#[test]
fn all_constraints_and_affinities_of_a_job_have_at_most_so_many_values() {
    assert!(jobs::submit(of_constraint_values(4096)).is_ok());
    let spec = of_constraint_values(4097);
    let expected = "spec.shape.groups: expected at most 4096 values of all constraints and affinities (give machines an \
                    attribute that stands for many values, or make several jobs of it), found 4097";
    assert_eq!(jobs::submit(spec.clone()).unwrap_err().to_string(), expected);
    // A log of before the bound has it.
    let body = spec.body.unwrap().encode_to_vec().into();
    let logged = v1::command::Ask::SubmitJob(v1::SubmitJob { shape: spec.shape, body, ..Default::default() });
    assert!(matches!(command::command(logged), Ok(Command::SubmitJob { .. })));
}

#[test]
fn spans_of_time_are_not_negative() {
    check_group(
        |group| group.lost_after_micros = -2,
        "spec.shape.groups[1].lost_after_micros: expected -1, or 0 to 316224000000000 microseconds, found -2",
    );
    check_group(
        |group| group.retry = Some(v1::RetryPolicy { attempts: 1, delay_micros: -1 }),
        "spec.shape.groups[1].retry.delay_micros: expected 0 to 316224000000000 microseconds, found -1",
    );
}

#[test]
fn a_body_has_the_groups_of_its_shape() {
    let mut spec = valid();
    spec.body.as_mut().unwrap().groups.pop();
    let error = jobs::submit(spec).unwrap_err().to_string();
    assert_eq!(error, "spec.body.groups: expected 3, one for each row, found 2");
    check_body(
        |body| body.name = "reduce".into(),
        r#"spec.body.groups[1].name: expected "map", as in the shape, found "reduce""#,
    );
}

#[test]
fn a_command_begins_with_a_program() {
    let expected =
        "spec.body.groups[1].command: expected a program: an absolute path, or a name that is looked up in PATH";
    check_body(|body| body.command.clear(), &format!("{expected}, found nothing"));
    check_body(|body| body.command = vec![String::new()], &format!(r#"{expected}, found """#));
    check_body(|body| body.command = vec!["../up".into()], &format!(r#"{expected}, found "../up""#));
    check_body(
        |body| body.command.push("a\0b".into()),
        "spec.body.groups[1].command[1]: expected text without a zero byte, found one",
    );
}

/// A file was refused with more, and a call was not.
#[test]
fn an_agent_restarts_a_task_at_most_a_million_times() {
    let with = |attempts| {
        move |body: &mut v1::GroupBody| {
            body.restart = Some(v1::RestartPolicy { attempts, ..v1::RestartPolicy::default() });
        }
    };
    check_body(with(1_000_001), "spec.body.groups[1].restart.attempts: expected 0 to 1000000, found 1000001");
    let mut spec = valid();
    with(1_000_000)(&mut spec.body.as_mut().unwrap().groups[1]);
    assert!(jobs::submit(spec).is_ok());
}

#[test]
fn variables_have_names_that_shells_know() {
    for name in ["", "1A", "A-B", "A=B"] {
        let expected = format!(
            "spec.body.groups[1].env: expected A-Z, a-z, 0-9 and _, not beginning with a digit, found {name:?}"
        );
        check_body(|body| body.env = [(name.to_owned(), String::new())].into(), &expected);
    }
}

/// They were taken, kept and shown, and the agent dropped them: the task never saw them.
#[test]
fn variables_that_the_agent_sets_are_not_a_jobs_to_set() {
    let set = |name: &str| {
        let name = name.to_owned();
        move |body: &mut v1::GroupBody| drop(body.env.insert(name, "x".into()))
    };
    for name in ["PLENUM_JOB", "PLENUM_", "PLENUM_OF_MY_OWN"] {
        let expected =
            "spec.body.groups[1].env: expected names that don't begin with PLENUM_, as those of the agent do";
        check_body(set(name), &format!("{expected}, found {name:?}"));
    }
    let mut spec = valid();
    for name in ["PLENUM", "plenum_job", "MY_PLENUM_JOB"] {
        set(name)(&mut spec.body.as_mut().unwrap().groups[1]);
    }
    assert!(jobs::submit(spec).is_ok());
}

/// A log of before they were refused has them.
#[test]
fn a_job_of_before_that_sets_variables_of_the_agent_is_still_read() {
    let mut spec = valid();
    spec.body.as_mut().unwrap().groups[1].env.insert("PLENUM_JOB".into(), "another".into());
    let body = spec.body.unwrap().encode_to_vec().into();
    let logged = v1::command::Ask::SubmitJob(v1::SubmitJob { shape: spec.shape, body, ..Default::default() });
    assert!(matches!(command::command(logged), Ok(Command::SubmitJob { .. })));
}

#[test]
fn a_body_is_at_most_sixty_four_kibibytes() {
    let mut spec = valid();
    spec.body.as_mut().unwrap().groups[0].command.push("x".repeat(64 << 10));
    let error = jobs::submit(spec).unwrap_err().to_string();
    assert!(error.starts_with("spec.body: expected at most 65536 bytes, found 65"), "{error}");
}

/// A valid job whose shape has so many bytes.
fn of_shape_bytes(bytes: usize) -> v1::JobSpec {
    let mut spec = valid();
    let shape = spec.shape.as_mut().unwrap();
    let long = |number: usize| (format!("{number:03}"), "x".repeat(1000));
    shape.options = (0..60).map(long).collect();
    let value = "y".repeat(255);
    let constraint =
        v1::Constraint { attribute: "a".into(), operator: v1::Operator::In.into(), values: vec![value; 8] };
    while shape.encoded_len() < bytes.saturating_sub(4096) {
        let group = shape.groups.iter_mut().find(|group| group.constraints.len() < 40).unwrap();
        group.constraints.push(constraint.clone());
    }
    // The rest in steps of one byte: of options that are shorter than they may be, and one that is longer.
    let mut add = |name: &str, length: usize| shape.options.insert(name.to_owned(), "z".repeat(length));
    add("fill-1", 1);
    add("fill-2", 1000);
    add("fill-3", 1000);
    add("fill-4", 1);
    let shape = spec.shape.as_mut().unwrap();
    for name in ["fill-1", "fill-2", "fill-3", "fill-4"] {
        for length in 1..=1024 {
            if shape.encoded_len() == bytes {
                return spec;
            }
            shape.options.insert(name.to_owned(), "z".repeat(length));
        }
    }
    panic!("{} bytes are not {bytes}", shape.encoded_len());
}

/// Shapes of nearly 4 MiB were taken, and 64 of them share a page: no checkpoint, no backup and no watcher took that any more.
#[test]
fn a_shape_is_at_most_256_kibibytes() {
    assert!(jobs::submit(of_shape_bytes(256 << 10)).is_ok());
    let error = jobs::submit(of_shape_bytes((256 << 10) + 1)).unwrap_err().to_string();
    let expected = "spec.shape: expected at most 262144 bytes (shorten its options and the lists of its groups, or make \
                    several jobs of it), found 262145 bytes";
    assert_eq!(error, expected);
}

/// A log and pages of before the bound have larger ones.
#[test]
fn a_larger_shape_of_before_is_still_read() {
    let spec = of_shape_bytes(300 << 10);
    let body = spec.body.unwrap().encode_to_vec().into();
    let logged = v1::command::Ask::SubmitJob(v1::SubmitJob { shape: spec.shape.clone(), body, ..Default::default() });
    assert!(matches!(command::command(logged), Ok(Command::SubmitJob { .. })));
    let shape = JobShape::try_from(spec.shape.clone().unwrap()).unwrap();
    assert_eq!(v1::JobShape::from(&shape).groups.len(), spec.shape.unwrap().groups.len());
}
