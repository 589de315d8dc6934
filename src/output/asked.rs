//! What the tasks of a group run, and under which rules: in the words of job files for people, with units for programs.

use plenum_proto::v1::{GroupBody, GroupShape, RestartPolicy, RetryPolicy};
use serde_json::{Value, json};

use super::{command::word, device, govern::rule, or_null, quantity, quantity::short_span, table::fields_as_they_are};

/// Stands for retries without limit.
const UNLIMITED: u32 = u32::MAX;

/// Puts it into a group's object. What tasks run is told in the answer about one job, and not to everybody: its fields are missing elsewhere.
pub(super) fn put(object: &mut Value, shape: &GroupShape, body: Option<&GroupBody>) {
    let some = |count: u32| (count > 0).then_some(count);
    let wishes =
        shape.affinities.iter().map(|wish| json!({"rule": wish.rule.as_ref().map(rule), "weight": wish.weight}));
    let spread = shape.spread.iter().map(|one| json!({"by": attribute(&one.attribute), "at_most": one.at_most}));
    object["constraints"] = shape.constraints.iter().map(rule).collect();
    object["affinities"] = wishes.collect();
    object["spread"] = spread.collect();
    object["per_machine"] = json!(some(shape.per_machine));
    object["min"] = json!(some(shape.min));
    object["single_instance"] = json!(shape.single_instance);
    object["retry"] = json!(
        shape
            .retry
            .as_ref()
            .map(|retry| { json!({"attempts": limited(retry.attempts), "delay_micros": retry.delay_micros}) })
    );
    object["lost_after_micros"] = json!(lost_after(shape));
    let Some(body) = body else { return };
    object["driver"] = json!(body.driver);
    object["image"] = or_null(&body.image);
    object["command"] = json!(body.command);
    object["env"] = json!(body.env);
    object["restart"] = json!(body.restart.as_ref().map(|restart| {
        json!({
            "attempts": restart.attempts,
            "delay_micros": restart.delay_micros,
            "within_micros": restart.within_micros,
        })
    }));
    object["kill_timeout_micros"] = json!(body.kill_timeout_micros);
}

/// The same for people, one thing a line. What a group does not say is left out.
pub(crate) fn asked_text(shape: &GroupShape, body: Option<&GroupBody>) -> String {
    let mut pairs = vec![("group", shape.name.clone())];
    if let Some(body) = body {
        if !body.image.is_empty() {
            pairs.push(("image", body.image.clone()));
        }
        let words: Vec<String> = body.command.iter().map(|text| word(text)).collect();
        pairs.push(("command", words.join(" ")));
        pairs.extend(body.env.iter().map(|(name, value)| ("env", format!("{name}={}", word(value)))));
    }
    if !shape.after.is_empty() {
        pairs.push(("after", shape.after.join(", ")));
    }
    pairs.push(("resources", resources(shape)));
    pairs.extend(shape.constraints.iter().map(|constraint| ("constraint", rule(constraint))));
    let wishes = shape.affinities.iter().filter_map(|wish| Some((rule(wish.rule.as_ref()?), wish.weight)));
    pairs.extend(wishes.map(|(rule, weight)| ("affinity", format!("{rule} (weight {weight})"))));
    for spread in &shape.spread {
        let by = attribute(&spread.attribute);
        pairs.push(("spread", format!("at most {} on machines with the same {by}", spread.at_most)));
    }
    if shape.per_machine > 0 {
        pairs.push(("spread", format!("at most {} on one machine", shape.per_machine)));
    }
    if shape.min > 0 {
        pairs.push(("min", format!("at least {} at once", shape.min)));
    }
    if shape.single_instance {
        pairs.push(("single_instance", "of each task only one may run".to_owned()));
    }
    pairs.push(("retry", retry(shape.retry.as_ref())));
    let restart = body.and_then(|body| body.restart.as_ref()).filter(|restart| restart.attempts > 0);
    pairs.extend(restart.map(|policy| ("restart", restarts(policy))));
    pairs.extend(body.map(|body| ("kill_timeout", short_span(body.kill_timeout_micros))));
    pairs.push(("lost_after", lost_after(shape).map_or_else(|| "never".to_owned(), short_span)));
    fields_as_they_are(&pairs)
}

/// What each task asks for of its machine.
fn resources(shape: &GroupShape) -> String {
    let port = |(name, number): (&String, u32)| match number {
        0 => format!("port {name}"),
        fixed => format!("port {name}={fixed}"),
    };
    let amounts = quantity::short_resources(Some(&shape.resources.clone().unwrap_or_default()));
    let ports = shape.ports.iter().map(|each| port((&each.name, each.number)));
    [amounts].into_iter().chain(device::wanted(&shape.devices)).chain(ports).collect::<Vec<_>>().join(", ")
}

fn attribute(name: &str) -> String {
    format!("attr.{name}")
}

fn limited(attempts: u32) -> Option<u32> {
    (attempts != UNLIMITED).then_some(attempts)
}

fn lost_after(shape: &GroupShape) -> Option<i64> {
    (shape.lost_after_micros >= 0).then_some(shape.lost_after_micros)
}

fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn retry(policy: Option<&RetryPolicy>) -> String {
    let RetryPolicy { attempts, delay_micros } = policy.copied().unwrap_or_default();
    match limited(attempts) {
        Some(0) => "none: the first failure of a task is the job's".to_owned(),
        attempts => {
            let attempts = attempts.map_or_else(|| "without limit".to_owned(), times);
            format!("{attempts}, {} after a failure", short_span(delay_micros))
        }
    }
}

fn restarts(policy: &RestartPolicy) -> String {
    let within = match policy.within_micros {
        0 => String::new(),
        within => format!(" within {}", short_span(within)),
    };
    format!("{}{within}, {} after an exit", times(policy.attempts), short_span(policy.delay_micros))
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{Affinity, Constraint, Device, Operator, Port, Resources, Spread};

    use super::*;

    fn group() -> (GroupShape, GroupBody) {
        let rule = Constraint { attribute: "rack".into(), operator: Operator::Equal.into(), values: vec!["a".into()] };
        let shape = GroupShape {
            name: "web".into(),
            after: vec!["split".into()],
            resources: Some(Resources { cpu_millis: 500, memory_bytes: 64 << 20, ..Resources::default() }),
            constraints: vec![rule.clone()],
            affinities: vec![Affinity { rule: Some(rule), weight: -10 }],
            spread: vec![Spread { attribute: "rack".into(), at_most: 2 }],
            devices: vec![Device { kind: "gpu".into(), millis: 1000, ..Device::default() }; 2],
            ports: vec![Port { name: "http".into(), number: 0 }, Port { name: "admin".into(), number: 9100 }],
            retry: Some(RetryPolicy { attempts: UNLIMITED, delay_micros: 2_000_000 }),
            lost_after_micros: -1,
            ..GroupShape::default()
        };
        let body = GroupBody {
            name: "web".into(),
            driver: "exec".into(),
            command: ["/bin/sh", "-c", "echo $A", ""].map(str::to_owned).to_vec(),
            env: [("B".to_owned(), "x y".to_owned()), ("A".to_owned(), "1".to_owned())].into(),
            restart: Some(RestartPolicy { attempts: 1, delay_micros: 1_500_000, within_micros: 300_000_000 }),
            kill_timeout_micros: 10_000_000,
            ..GroupBody::default()
        };
        (shape, body)
    }

    // Who had a job's name and not its file could see neither what it runs nor which rules keep it waiting.
    #[test]
    fn people_see_what_a_group_runs_and_under_which_rules() {
        let (shape, body) = group();
        let text = asked_text(&shape, Some(&body));
        let lines: Vec<(&str, &str)> =
            text.lines().filter_map(|line| line.split_once(':')).map(|(name, words)| (name, words.trim())).collect();
        let expected = [
            ("group", "web"),
            ("command", "/bin/sh -c 'echo $A' ''"),
            ("env", "A=1"),
            ("env", "B='x y'"),
            ("after", "split"),
            ("resources", "cpu 500m, memory 64MiB, 2 gpu, port http, port admin=9100"),
            ("constraint", "attr.rack == \"a\""),
            ("affinity", "attr.rack == \"a\" (weight -10)"),
            ("spread", "at most 2 on machines with the same attr.rack"),
            ("retry", "without limit, 2s after a failure"),
            ("restart", "once within 5m0s, 1.5s after an exit"),
            ("kill_timeout", "10s"),
            ("lost_after", "never"),
        ];
        assert_eq!(lines, expected);
        let unread = asked_text(&GroupShape { retry: None, ..shape }, None);
        assert!(!unread.contains("command") && unread.contains("none: the first failure of a task"), "{unread}");
    }

    // A script's lines stood on one line, quoted as if it could be run again, and in a command of its own stood the address of this call.
    #[test]
    fn a_command_is_shown_so_that_a_shell_reads_what_the_job_has() {
        crate::output::name_cell("a:1");
        let (shape, mut body) = group();
        body.command[2] = "set -e\n\tcd 'a\\b'\u{1b}7\u{202e}\n`plenum job list`".to_owned();
        body.env = [("KEY".to_owned(), "a\nb".to_owned()), ("LIST".to_owned(), "`plenum job list`".to_owned())].into();
        let text = asked_text(&shape, Some(&body));
        let value = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default();
        let shown: Vec<String> = text.lines().skip(1).take(3).map(value).collect();
        let expected = [
            r"/bin/sh -c $'set -e\n\tcd \'a\\b\'\0337\342\200\256\n`plenum job list`' ''",
            r"KEY=$'a\nb'",
            "LIST='`plenum job list`'",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn programs_read_it_with_units_and_what_tasks_run_only_where_that_is_told() {
        let (shape, body) = group();
        let (mut object, mut unread) = (json!({}), json!({}));
        put(&mut object, &shape, Some(&body));
        put(&mut unread, &shape, None);
        assert_eq!(
            (&object["constraints"], &object["lost_after_micros"]),
            (&json!(["attr.rack == \"a\""]), &Value::Null)
        );
        assert_eq!(object["affinities"], json!([{"rule": "attr.rack == \"a\"", "weight": -10}]));
        assert_eq!(object["spread"], json!([{"by": "attr.rack", "at_most": 2}]));
        assert_eq!(object["retry"], json!({"attempts": null, "delay_micros": 2_000_000}));
        assert_eq!((&object["command"][2], &object["env"]), (&json!("echo $A"), &json!({"A": "1", "B": "x y"})));
        assert_eq!((object["restart"]["attempts"].as_u64(), &object["per_machine"]), (Some(1), &Value::Null));
        assert_eq!((unread.get("command"), unread.get("env")), (None, None));
        assert_eq!(unread["spread"], object["spread"]);
    }
}
