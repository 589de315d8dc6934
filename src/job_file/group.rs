//! One `[group.NAME]`: what its tasks need and what they do.

use std::{collections::BTreeMap, ops::Range};

use plenum_model::AMOUNT_MAX;
use plenum_proto::{
    bounds::{MEMORY_BYTES_MIN, RESTARTS_MAX},
    names,
    v1::{
        Affinity, Constraint, Device, GroupBody, GroupShape, JobKind, Port, Resources, RestartPolicy, RetryPolicy,
        Spread,
    },
};

use super::{
    ATTEMPTS_UNLIMITED, constraint,
    fault::{Fault, Faults},
    fields::{self, Fields},
    order::GroupOrder,
    tree::{Entry, Node, Value},
    units,
};

pub(super) const KNOWN: &[&str] = &[
    "after",
    "count",
    "driver",
    "image",
    "command",
    "env",
    "resources",
    "constraints",
    "affinities",
    "spread",
    "per_machine",
    "single_instance",
    "retry",
    "restart",
    "kill_timeout",
    "lost_after",
    "min",
    "topology",
    "check",
];
/// Without `image`: of that it depends on the driver what is wrong.
pub(super) const UNBUILT: &[&str] = &["topology", "check"];
pub(super) const KNOWN_RESOURCES: &[&str] = &["cpu", "memory", "disk", "gpu", "ports"];
/// An example of resources.
pub(super) const RESOURCES: &str = "{ cpu = \"500m\", memory = \"64MiB\" }";
/// The same with a device.
pub(super) const RESOURCES_WITH_GPU: &str = "{ cpu = \"500m\", memory = \"64MiB\", gpu = 1 }";
/// Those without which nothing is placed.
const NEEDED_RESOURCES: &[&str] = &["cpu", "memory"];

const TASKS_MAX: u32 = 1_000_000;
/// Tasks that one transaction can place.
const TOGETHER_MAX: u32 = 16_384;
const _: () = assert!(TOGETHER_MAX as usize == plenum_model::CLAIMS_MAX, "more would wait for ever");
/// Of allocations after failures: a task counts its failures in 8 bits.
const RETRY_ATTEMPTS_MAX: u32 = 254;
const CONSTRAINTS_MAX: usize = 64;
const PORTS_MAX: usize = 64;
const DEVICES_MAX: i64 = 64;
const SPREADS_MAX: usize = 4;

/// What the job says that its groups depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobFacts {
    pub(super) kind: JobKind,
    pub(super) same_machine: bool,
}

/// A group as read.
pub(super) struct Group<'file> {
    pub(super) shape: GroupShape,
    pub(super) body: GroupBody,
    /// `None`: what it comes after could not be read.
    pub(super) order: Option<GroupOrder<'file>>,
    /// Amounts of resources that only a cell can number.
    pub(super) custom: Vec<Custom>,
}

/// An amount of a resource that the cell named, if it is one. Its place in the wire's list is the cell's to say.
#[derive(Clone, Debug)]
pub(super) struct Custom {
    pub(super) resource: String,
    pub(super) amount: i64,
    pub(super) at: Range<usize>,
    /// What is told where the cell has none of that name, which looks like a slip in another one.
    pub(super) slip: Option<Fault>,
}

/// Reads a group, also behind what is wrong in it. `None`: it is none, or has no name to speak of.
pub(super) fn read<'file>(entry: &'file Entry, job: JobFacts, faults: &mut Faults) -> Option<Group<'file>> {
    if let Some(what) = units::name_fault(&entry.name) {
        faults.add(Fault::value(entry.name_at.clone(), format!("the name of this group {what}")));
        return None;
    }
    let path = format!("group.{}", entry.name);
    let fields = Fields::open_noting(&entry.node, &path, KNOWN, "a table with `command` and `resources`", faults)?;
    for unbuilt in UNBUILT {
        faults.note(fields.refuse(unbuilt));
    }
    faults.note(refuse_other_drivers(&fields));
    let order = after(&fields, job.kind, faults).map(|after| GroupOrder { name: &entry.name, after });
    let count = faults.note(fields.number("count", 0, TASKS_MAX)).map(|count| count.unwrap_or(1));
    let (amounts, custom) = resources(&fields, faults);
    let after = order.iter().flat_map(|order| &order.after);
    let shape = GroupShape {
        name: entry.name.clone(),
        count: count.unwrap_or(1),
        after: after.map(|(name, _)| (*name).to_owned()).collect(),
        resources: Some(amounts.resources),
        constraints: constraints(&fields, faults),
        affinities: affinities(&fields, faults),
        spread: spread(&fields, job.same_machine, faults),
        per_machine: faults.note(fields.number("per_machine", 0, TASKS_MAX)).flatten().unwrap_or(0),
        devices: amounts.devices,
        ports: amounts.ports,
        single_instance: faults.note(fields.boolean("single_instance")).flatten().unwrap_or(false),
        retry: Some(retry(&fields, job.kind, faults)),
        lost_after_micros: faults.note(lost_after(&fields)).unwrap_or_default(),
        min: count.and_then(|count| faults.note(min(&fields, count))).unwrap_or(0),
    };
    let body = GroupBody {
        name: entry.name.clone(),
        driver: "exec".to_owned(),
        command: command(&fields, faults),
        env: env(&fields, faults),
        restart: Some(restart(&fields, faults)),
        kill_timeout_micros: faults.note(fields.duration("kill_timeout")).flatten().unwrap_or(10_000_000),
        image: String::new(),
    };
    Some(Group { shape, body, order, custom })
}

fn refuse_other_drivers(fields: &Fields<'_>) -> Result<(), Fault> {
    let Some(driver) = fields.entry("driver") else { return fields.refuse("image") };
    match fields.text("driver")? {
        Some("exec") | None => match fields.entry("image") {
            Some(image) => Err(Fault::value(
                image.name_at.clone(),
                format!("`{}` says nothing to the driver `exec`", fields.path_of("image")),
            )
            .with_hint("take it out: `exec` runs a program of the machine itself")),
            None => Ok(()),
        },
        Some("oci") => Err(Fault::unimplemented(driver.node.at.clone(), "the driver `oci`")),
        Some(other) => Err(Fault::value(
            driver.node.at.clone(),
            format!("`{}` is `{}`; expected \"exec\"", fields.path_of("driver"), units::shortened(other)),
        )),
    }
}

/// `None`: not all of it could be read.
fn after<'file>(fields: &Fields<'file>, kind: JobKind, faults: &mut Faults) -> Option<Vec<(&'file str, Range<usize>)>> {
    let names = faults.note(fields.list("after", "a list of names of groups, such as [\"split\"]"))?;
    if let (Some(first), JobKind::Forever) = (names.first(), kind) {
        let path = fields.path_of("after");
        let what =
            format!("`{path}`: the tasks of a job that runs for ever never succeed, so nothing starts after them");
        let hint = "say runs = \"to-completion\", or take `after` out of the file";
        faults.add(Fault::value(first.at.clone(), what).with_hint(hint));
        return None;
    }
    let each = fields.each("after", names);
    let read: Vec<_> =
        each.filter_map(|(path, node)| Some((faults.note(fields::text(node, &path))?, node.at.clone()))).collect();
    (read.len() == names.len()).then_some(read)
}

fn min(fields: &Fields<'_>, count: u32) -> Result<u32, Fault> {
    let min = fields.number("min", 0, TASKS_MAX)?.unwrap_or(0);
    if min > TOGETHER_MAX {
        let at = fields.node("min").map_or_else(|| fields.at(), |node| node.at.clone());
        let what = format!("`{}` is {min}; at most {TOGETHER_MAX} tasks can be placed at once", fields.path_of("min"));
        return Err(Fault::value(at, what));
    }
    if min > count {
        let at = fields.node("min").map_or_else(|| fields.at(), |node| node.at.clone());
        return Err(Fault::value(at, format!("`{}` is {min}, above the count of {count}", fields.path_of("min"))));
    }
    Ok(min)
}

fn retry(fields: &Fields<'_>, kind: JobKind, faults: &mut Faults) -> RetryPolicy {
    let attempts = if kind == JobKind::Forever { ATTEMPTS_UNLIMITED } else { 2 };
    let default = RetryPolicy { attempts, delay_micros: 1_000_000 };
    let Some(node) = fields.node("retry") else { return default };
    let path = fields.path_of("retry");
    let expected = "a table, such as { attempts = 3, delay = \"2s\" }";
    let Some(fields) = Fields::open_noting(node, &path, &["attempts", "delay"], expected, faults) else {
        return default;
    };
    RetryPolicy {
        attempts: faults.note(retry_attempts(&fields, kind)).flatten().unwrap_or(default.attempts),
        delay_micros: faults.note(fields.duration("delay")).flatten().unwrap_or(default.delay_micros),
    }
}

/// Jobs that run for ever have no limit unless the file names one, so that nobody needs to write a huge one.
fn retry_attempts(fields: &Fields<'_>, kind: JobKind) -> Result<Option<u32>, Fault> {
    let number = fields.number("attempts", 0, RETRY_ATTEMPTS_MAX);
    number.map_err(|fault| match kind {
        JobKind::Forever => fault.with_hint(format!("at most {RETRY_ATTEMPTS_MAX}, or leave it out for no limit")),
        _ => fault.with_hint(format!("at most {RETRY_ATTEMPTS_MAX} further allocations after failures")),
    })
}

fn restart(fields: &Fields<'_>, faults: &mut Faults) -> RestartPolicy {
    let default = RestartPolicy { attempts: 0, delay_micros: 1_000_000, within_micros: 0 };
    let Some(node) = fields.node("restart") else { return default };
    let path = fields.path_of("restart");
    let known = &["attempts", "delay", "within"];
    let expected = "a table, such as { attempts = 2, delay = \"1s\", within = \"5m\" }";
    let Some(fields) = Fields::open_noting(node, &path, known, expected, faults) else { return default };
    RestartPolicy {
        attempts: faults.note(fields.number("attempts", 0, RESTARTS_MAX)).flatten().unwrap_or(default.attempts),
        delay_micros: faults.note(fields.duration("delay")).flatten().unwrap_or(default.delay_micros),
        within_micros: faults.note(fields.duration("within")).flatten().unwrap_or(default.within_micros),
    }
}

/// How long after its machine became unreachable a task is lost: a time, or `"never"`.
fn lost_after(fields: &Fields<'_>) -> Result<i64, Fault> {
    match fields.node("lost_after") {
        Some(Node { value: Value::Text(text), .. }) if text == "never" => Ok(-1),
        _ => match fields.duration("lost_after") {
            Ok(micros) => Ok(micros.unwrap_or(60_000_000)),
            Err(fault) => Err(Fault { message: format!("{}, or \"never\"", fault.message), ..fault }),
        },
    }
}

fn constraints(fields: &Fields<'_>, faults: &mut Faults) -> Vec<Constraint> {
    let expected = "a list of conditions, such as ['attr.kernel >= \"5.10\"']";
    let nodes = entries(fields, "constraints", expected, CONSTRAINTS_MAX, faults);
    fields.each("constraints", nodes).filter_map(|(path, node)| faults.note(rule(node, &path))).collect()
}

fn rule(node: &Node, path: &str) -> Result<Constraint, Fault> {
    constraint::parse(fields::text(node, path)?)
        .map_err(|what| Fault::value(node.at.clone(), format!("`{path}`: {what}")))
}

/// The nodes of a list that has at most so many.
fn entries<'file>(
    fields: &Fields<'file>,
    name: &str,
    expected: &str,
    most: usize,
    faults: &mut Faults,
) -> &'file [Node] {
    let nodes = fields.list(name, expected);
    let nodes = nodes.and_then(|nodes| bounded(fields, name, nodes.len(), most).map(|()| nodes));
    faults.note(nodes).unwrap_or_default()
}

fn affinities(fields: &Fields<'_>, faults: &mut Faults) -> Vec<Affinity> {
    let nodes = entries(fields, "affinities", "a list of tables { rule, weight }", CONSTRAINTS_MAX, faults);
    fields.each("affinities", nodes).filter_map(|(path, node)| affinity(node, &path, faults)).collect()
}

fn affinity(node: &Node, path: &str, faults: &mut Faults) -> Option<Affinity> {
    let expected = "a table, such as { rule = 'attr.disk == \"ssd\"', weight = 10 }";
    let table = Fields::open_noting(node, path, &["rule", "weight"], expected, faults)?;
    let written = table.node("rule").ok_or_else(|| missing(&table, "rule"));
    let rule = faults.note(written.and_then(|node| rule(node, &table.path_of("rule"))));
    let weight = faults.note(weight(&table));
    Some(Affinity { rule: Some(rule?), weight: weight? })
}

fn weight(table: &Fields<'_>) -> Result<i32, Fault> {
    let node = table.node("weight").ok_or_else(|| missing(table, "weight"))?;
    let (path, expected) = (table.path_of("weight"), "an integer from -100 to 100, not 0");
    let Value::Integer(amount) = node.value else { return Err(node.unexpected(&path, expected)) };
    let weight = i32::try_from(amount).ok().filter(|weight| (-100..=100).contains(weight) && *weight != 0);
    weight.ok_or_else(|| Fault::value(node.at.clone(), format!("`{path}` is {amount}; expected {expected}")))
}

fn spread(fields: &Fields<'_>, same_machine: bool, faults: &mut Faults) -> Vec<Spread> {
    let nodes = entries(fields, "spread", "a list of tables { by, at_most }", SPREADS_MAX, faults);
    if let (Some(first), true) = (nodes.first(), same_machine) {
        let path = fields.path_of("spread");
        let what = format!("`{path}`: a job with `same_machine` has all its tasks on one machine, nothing to spread");
        faults.add(Fault::value(first.at.clone(), what));
        return Vec::new();
    }
    let read = |(path, node): (String, &Node)| {
        let expected = "a table, such as { by = \"attr.rack\", at_most = 2 }";
        let table = Fields::open_noting(node, &path, &["by", "at_most"], expected, faults)?;
        let attribute = table.attribute("by").and_then(|by| by.ok_or_else(|| missing(&table, "by")));
        let at_most = table.number("at_most", 1, TASKS_MAX);
        let at_most = at_most.and_then(|at_most| at_most.ok_or_else(|| missing(&table, "at_most")));
        let (attribute, at_most) = (faults.note(attribute), faults.note(at_most));
        Some(Spread { attribute: attribute?, at_most: at_most? })
    };
    fields.each("spread", nodes).filter_map(read).collect()
}

fn command(fields: &Fields<'_>, faults: &mut Faults) -> Vec<String> {
    let path = fields.path_of("command");
    let nodes = fields.list("command", "a list of texts: the program and its arguments");
    let Some(nodes) = faults.note(nodes) else { return Vec::new() };
    let Some(first) = nodes.first() else {
        let at = fields.node("command").map_or_else(|| fields.at(), |node| node.at.clone());
        let what = format!("`{path}` is missing or empty; expected the program and its arguments");
        faults.add(Fault::value(at, what).with_hint("for example: command = [\"/bin/sh\", \"-c\", \"echo hello\"]"));
        return Vec::new();
    };
    let read = |path: &str, node| match fields::text(node, path)? {
        text if text.contains('\0') => Err(Fault::value(node.at.clone(), format!("`{path}` contains a NUL character"))),
        text => Ok(text.to_owned()),
    };
    let each = fields.each("command", nodes);
    let command: Vec<String> = each.filter_map(|(path, node)| faults.note(read(&path, node))).collect();
    if let Value::Text(program) = &first.value
        && (program.is_empty() || (program.contains('/') && !program.starts_with('/')))
    {
        let what = format!(
            "`{path}` begins with `{}`; expected an absolute path, or a name to look up in the task's PATH",
            units::shortened(program)
        );
        let hint = "a task starts in a directory of its own, where a relative path leads nowhere";
        faults.add(Fault::value(first.at.clone(), what).with_hint(hint));
    }
    command
}

fn env(fields: &Fields<'_>, faults: &mut Faults) -> BTreeMap<String, String> {
    let path = fields.path_of("env");
    let Some(node) = fields.node("env") else { return BTreeMap::new() };
    let table = Fields::open_any(node, &path, "a table, such as { LC_ALL = \"C\" }");
    let Some(table) = faults.note(table) else { return BTreeMap::new() };
    let variables = table.entries().iter().filter_map(|entry| faults.note(variable(entry, &table, &path)));
    variables.collect()
}

fn variable(entry: &Entry, table: &Fields<'_>, path: &str) -> Result<(String, String), Fault> {
    let name = &entry.name;
    let fault = |what: &str| Fault::value(entry.name_at.clone(), format!("`{path}`: {what}"));
    if names::variable("", name).is_err() {
        let what = format!("`{}` is no name of a variable", units::shortened(name));
        return Err(fault(&format!("{what}; expected letters, digits and `_`, the first no digit")));
    }
    if name.starts_with("PLENUM_") {
        return Err(fault(&format!("`{}` is the agent's to set", units::shortened(name)))
            .with_hint("choose a name that does not begin with PLENUM_"));
    }
    let value = fields::text(&entry.node, &table.path_of(name))?;
    if value.contains('\0') {
        return Err(fault("a value contains a NUL character"));
    }
    Ok((name.clone(), value.to_owned()))
}

/// What `resources` asks for.
#[derive(Default)]
struct Amounts {
    resources: Resources,
    devices: Vec<Device>,
    ports: Vec<Port>,
}

fn resources(fields: &Fields<'_>, faults: &mut Faults) -> (Amounts, Vec<Custom>) {
    let example = format!("for example: resources = {RESOURCES}");
    let path = fields.path_of("resources");
    let node = fields.node("resources").ok_or_else(|| missing(fields, "resources").with_hint(example.as_str()));
    let table = node.and_then(|node| Fields::open_any(node, &path, &format!("a table, such as {RESOURCES}")));
    let Some(mut table) = faults.note(table) else { return Default::default() };
    let others = table.entries().iter().filter(|entry| !KNOWN_RESOURCES.contains(&entry.name.as_str()));
    let custom = others.filter_map(|entry| custom(entry, &mut table, faults)).collect();
    let needed =
        |found: Option<i64>, name: &str| found.ok_or_else(|| missing(&table, name).with_hint(example.as_str()));
    let at = |name: &str| table.node(name).map_or_else(|| table.at(), |node| node.at.clone());
    let cpu_millis = amount(&table, "cpu", units::cpu_millis).and_then(|found| match needed(found, "cpu")? {
        0 => Err(Fault::value(at("cpu"), format!("`{}` is nothing; expected at least \"1m\"", table.path_of("cpu")))),
        millis => Ok(millis),
    });
    let memory_bytes = amount(&table, "memory", units::bytes).and_then(|found| match needed(found, "memory")? {
        few if few.unsigned_abs() < MEMORY_BYTES_MIN => {
            let what = format!("`{}` is {few} bytes; expected at least \"1MiB\"", table.path_of("memory"));
            Err(Fault::value(at("memory"), what).with_hint("a number without a unit is bytes"))
        }
        bytes => Ok(bytes),
    });
    let resources = Resources {
        cpu_millis: faults.note(cpu_millis).unwrap_or_default(),
        memory_bytes: faults.note(memory_bytes).unwrap_or_default(),
        disk_bytes: faults.note(amount(&table, "disk", units::bytes)).flatten().unwrap_or(0),
        custom: Vec::new(),
    };
    let devices = faults.note(gpus(&table)).unwrap_or_default();
    let ports = ports(&table, faults);
    (Amounts { resources, devices, ports }, custom)
}

/// An amount of a resource that the cell named.
fn custom<'file>(entry: &'file Entry, table: &mut Fields<'file>, faults: &mut Faults) -> Option<Custom> {
    let Value::Integer(amount) = entry.node.value else {
        table.note_unknown(entry, KNOWN_RESOURCES, faults);
        return None;
    };
    // One edit away from a known name is a slip, unless the cell has a resource of that name.
    let is_slip =
        |known: &str| super::fields::own_word(&entry.name) == known || super::nearest::edits(&entry.name, known) <= 1;
    let near = KNOWN_RESOURCES.iter().find(|known| is_slip(known));
    if near.is_some_and(|known| NEEDED_RESOURCES.contains(known) && table.node(known).is_none()) {
        table.note_unknown(entry, KNOWN_RESOURCES, faults);
        return None;
    }
    if u64::try_from(amount).is_ok_and(|amount| amount <= AMOUNT_MAX) {
        let (resource, at) = (entry.name.clone(), entry.name_at.clone());
        let slip = near.map(|_| table.unknown(entry, KNOWN_RESOURCES));
        return Some(Custom { resource, amount, at, slip });
    }
    let what = format!("`{}` is {amount}; expected 0 to {AMOUNT_MAX}", table.path_of(&entry.name));
    faults.add(Fault::value(entry.node.at.clone(), what));
    None
}

/// A quantity, written as a text or as a number.
fn amount(table: &Fields<'_>, name: &str, read: impl Fn(&str) -> Result<i64, String>) -> Result<Option<i64>, Fault> {
    let Some(node) = table.node(name) else { return Ok(None) };
    let example = match name {
        "cpu" => "\"500m\"",
        "gpu" => "2 or \"250m\"",
        _ => "\"64MiB\"",
    };
    let expected = || node.unexpected(&table.path_of(name), &format!("a quantity, such as {example}"));
    let written = written(node).ok_or_else(expected)?;
    read(&written).map(Some).map_err(|what| Fault::value(node.at.clone(), format!("`{}`: {what}", table.path_of(name))))
}

/// A quantity as it is written.
fn written(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(integer) => Some(integer.to_string()),
        Value::Decimal(number) => Some(number.clone()),
        _ => None,
    }
}

/// Whole GPUs, or a part of one.
fn gpus(table: &Fields<'_>) -> Result<Vec<Device>, Fault> {
    let Some(millis) = amount(table, "gpu", units::device_millis)? else { return Ok(Vec::new()) };
    let at = table.node("gpu").map_or_else(|| table.at(), |node| node.at.clone());
    let device = |index, millis| Device { kind: "gpu".to_owned(), index, millis, model: String::new() };
    match i32::try_from(millis) {
        Ok(part @ 0..=1000) => Ok(if part == 0 { Vec::new() } else { vec![device(0, part)] }),
        _ if millis % 1000 == 0 && millis / 1000 <= DEVICES_MAX => {
            Ok((0..).zip(0..millis / 1000).map(|(index, _)| device(index, 1000)).collect())
        }
        _ => {
            let (path, found) = (table.path_of("gpu"), table.node("gpu").and_then(written).unwrap_or_default());
            let found = units::shortened(&found);
            let what = format!("`{path}` is {found}; expected whole GPUs, at most {DEVICES_MAX}, or a part of one");
            Err(Fault::value(at, what))
        }
    }
}

fn ports(table: &Fields<'_>, faults: &mut Faults) -> Vec<Port> {
    let Some(node) = table.node("ports") else { return Vec::new() };
    let ports = Fields::open_any(node, &table.path_of("ports"), "a table, such as { http = 0, admin = 9100 }");
    let ports = ports.and_then(|ports| bounded(table, "ports", ports.entries().len(), PORTS_MAX).map(|()| ports));
    let Some(ports) = faults.note(ports) else { return Vec::new() };
    let mut read = Vec::new();
    for entry in ports.entries() {
        read.extend(faults.note(port(entry, &ports, &read)));
    }
    read
}

/// A port that none of the earlier ones is.
fn port(entry: &Entry, ports: &Fields<'_>, earlier: &[Port]) -> Result<Port, Fault> {
    if names::name("", &entry.name).is_err() || entry.name.len() > 32 {
        let what = format!(
            "`{}` is no name of a port; expected 1 to 32 characters of a to z, 0 to 9 and `-`, the first and the last a \
             letter or a digit",
            units::shortened(&entry.name)
        );
        return Err(Fault::value(entry.name_at.clone(), what));
    }
    let number = ports.number(&entry.name, 0, u32::from(u16::MAX))?.unwrap_or(0);
    if let Some(Port { name, .. }) = earlier.iter().find(|port| number > 0 && port.number == number) {
        let what = format!("`{}` is {number}, and so is `{name}`", ports.path_of(&entry.name));
        return Err(Fault::value(entry.node.at.clone(), what).with_hint("0 lets the cell choose a free one"));
    }
    Ok(Port { name: entry.name.clone(), number })
}

fn bounded(fields: &Fields<'_>, name: &str, found: usize, most: usize) -> Result<(), Fault> {
    if found <= most {
        return Ok(());
    }
    let at = fields.node(name).map_or_else(|| fields.at(), |node| node.at.clone());
    Err(Fault::value(at, format!("`{}` has {found} entries; expected at most {most}", fields.path_of(name))))
}

fn missing(fields: &Fields<'_>, name: &str) -> Fault {
    Fault::value(fields.at(), format!("`{}` is missing", fields.path_of(name)))
}
