//! The file as a whole: the job's own fields, its groups, and what they must be together.

use std::{collections::BTreeMap, ops::Range};

use plenum_model::{LAUNCH_SCHEDULER_OPTION, RECURRING_NAME_BYTES_MAX};
use plenum_proto::{
    bounds::{CONSTRAINT_VALUES_MAX, SHAPE_BYTES_MAX},
    jobs,
    v1::{JobBody, JobKind, JobShape, JobSpec},
};
use prost::Message;

use super::{
    fault::{Fault, Faults},
    fields::{self, Fields},
    group::{self, Custom, JobFacts},
    order, sharing,
    tree::Node,
    units,
};

pub(super) const KNOWN: &[&str] = &[
    "name",
    "scheduler",
    "priority",
    "namespace",
    "same_machine",
    "runs",
    "group",
    "options",
    "elastic",
    "schedule",
    "update",
];
pub(super) const UNBUILT: &[&str] = &["elastic", "schedule", "update"];

/// The namespace of a job that names none.
const NAMESPACE: &str = "default";
/// What the cell itself reads of the options begins so.
const LAUNCH_OPTIONS: &str = "launch.";
const GROUPS_MAX: usize = 64;
const BODY_BYTES_MAX: usize = 64 << 10;

/// A job as read.
pub(super) struct Job {
    pub(super) spec: JobSpec,
    pub(super) names_namespace: bool,
    /// Each with the place of its group.
    pub(super) custom: Vec<(usize, Custom)>,
}

/// Reads the whole tree, also behind what is wrong in it.
pub(super) fn read(tree: &Node) -> Result<Job, Faults> {
    let mut faults = Faults::default();
    let expected = "one job, as { \"name\": \"word-count\", … }";
    let Some(fields) = Fields::open_noting(tree, "", KNOWN, expected, &mut faults) else { return Err(faults) };
    for unbuilt in UNBUILT {
        faults.note(fields.refuse(unbuilt));
    }
    let needed = |name, example| fields.name(name).and_then(|found| found.ok_or_else(|| missing(name, example)));
    let name = faults.note(needed("name", "name = \"word-count\"")).unwrap_or_default();
    let scheduler = faults.note(needed("scheduler", "scheduler = \"batch\"")).unwrap_or_default();
    let namespace = faults.note(fields.name("namespace")).flatten();
    let kind = faults.note(kind(&fields, scheduler)).unwrap_or(JobKind::ToCompletion);
    if kind == JobKind::Recurring && name.len() > RECURRING_NAME_BYTES_MAX {
        let at = fields.node("name").map_or_else(|| fields.at(), |node| node.at.clone());
        let found = name.len();
        let what = format!(
            "`name` has {found} bytes; expected at most {RECURRING_NAME_BYTES_MAX} of a recurring job, so that the names of launched jobs fit"
        );
        faults.add(Fault::value(at, what));
    }
    let same_machine = faults.note(fields.boolean("same_machine")).flatten().unwrap_or(false);
    let mut job = Job {
        spec: JobSpec {
            shape: Some(JobShape {
                namespace: namespace.unwrap_or(NAMESPACE).to_owned(),
                name: name.to_owned(),
                scheduler: scheduler.to_owned(),
                priority: faults.note(fields.number("priority", 0, 99)).flatten().unwrap_or(50),
                kind: kind.into(),
                same_machine,
                options: options(&fields, scheduler, kind, &mut faults),
                ..JobShape::default()
            }),
            body: None,
        },
        names_namespace: namespace.is_some(),
        custom: Vec::new(),
    };
    let read = groups(&fields, JobFacts { kind, same_machine }, &mut job, &mut faults);
    faults.note(read);
    if faults.is_empty() { Ok(job) } else { Err(faults) }
}

fn groups(fields: &Fields<'_>, facts: JobFacts, job: &mut Job, faults: &mut Faults) -> Result<(), Fault> {
    let node = fields.node("group").ok_or_else(|| missing("group", "[group.main]"))?;
    let table = Fields::open_any(node, "group", "a table of groups");
    let table = table.map_err(|fault| fault.with_hint("each group has a name: for example [group.main]"))?;
    let count = table.entries().len();
    if count == 0 || count > GROUPS_MAX {
        let what = format!("the job has {count} groups; expected 1 to {GROUPS_MAX}");
        return Err(Fault::value(node.at.clone(), what));
    }
    let mut orders = Vec::with_capacity(count);
    let mut entries = Vec::with_capacity(count);
    let mut shapes = Vec::with_capacity(count);
    let mut bodies = Vec::with_capacity(count);
    for (position, entry) in table.entries().iter().enumerate() {
        let Some(group) = group::read(entry, facts, faults) else { continue };
        orders.extend(group.order);
        entries.push(entry);
        shapes.push(group.shape);
        bodies.push(group.body);
        job.custom.extend(group.custom.into_iter().map(|custom| (position, custom)));
    }
    // A group that could not be read may be the one that others come after.
    if orders.len() == count {
        order::check(&orders, faults);
    }
    let read: Vec<_> = entries.into_iter().zip(&shapes).collect();
    sharing::check(&read, facts, faults);
    let values = jobs::constraint_values(&shapes);
    if values > CONSTRAINT_VALUES_MAX {
        let what = format!(
            "`constraints` and `affinities` of all groups have {values} values; expected at most {CONSTRAINT_VALUES_MAX}"
        );
        let hint = "give machines an attribute that stands for many values, or make several jobs of it";
        faults.add(Fault::value(node.at.clone(), what).with_hint(hint));
    }
    let body = JobBody { groups: bodies };
    let size = body.encoded_len();
    if size > BODY_BYTES_MAX {
        let what = format!("commands and environments take {size} bytes; expected at most {BODY_BYTES_MAX}");
        let hint = "put long scripts into files that the command reads";
        faults.add(Fault::value(node.at.clone(), what).with_hint(hint));
    }
    job.spec.body = Some(body);
    let Some(shape) = &mut job.spec.shape else { return Ok(()) };
    shape.groups = shapes;
    let size = shape.encoded_len();
    if size > SHAPE_BYTES_MAX {
        let what = format!("all but commands and environments takes {size} bytes; expected at most {SHAPE_BYTES_MAX}");
        let hint = "shorten `options` and the lists of its groups, or make several jobs of it";
        return Err(Fault::value(node.at.clone(), what).with_hint(hint));
    }
    Ok(())
}

/// What a team's own scheduler reads. The built-in ones would not hear it.
fn options(fields: &Fields<'_>, scheduler: &str, kind: JobKind, faults: &mut Faults) -> BTreeMap<String, String> {
    let Some(entry) = fields.entry("options") else { return BTreeMap::new() };
    let options = fields::options(&entry.node, "options", faults);
    // The others are of the scheduler, which alone knows them.
    for name in options.keys().filter(|name| name.starts_with(LAUNCH_OPTIONS)) {
        let wrong = match (name == LAUNCH_SCHEDULER_OPTION, kind) {
            (true, JobKind::Recurring) => continue,
            (true, _) => format!("`{name}` is of no use here: only recurring jobs are launched from"),
            (false, _) => {
                format!("unknown option `{}`; did you mean `{LAUNCH_SCHEDULER_OPTION}`?", units::shortened(name))
            }
        };
        faults.add(Fault::value(entry.name_at.clone(), wrong));
    }
    if options.is_empty() || !plenum_schedulers::NAMES.contains(&scheduler) {
        return options;
    }
    let what = format!("only a team's own scheduler reads `options`; the built-in scheduler `{scheduler}` takes none");
    let hint = "take them out of the file: a job that runs without them would not be the job you asked for";
    faults.add(Fault::value(entry.name_at.clone(), what).with_code("UNIMPLEMENTED").with_hint(hint));
    options
}

/// How the job ends; the default depends on its scheduler.
fn kind(fields: &Fields<'_>, scheduler: &str) -> Result<JobKind, Fault> {
    match fields.text("runs")? {
        Some("to-completion") => Ok(JobKind::ToCompletion),
        Some("forever") => Ok(JobKind::Forever),
        Some("recurring") => Ok(JobKind::Recurring),
        Some(other) => {
            let at = fields.node("runs").map_or_else(|| fields.at(), |node| node.at.clone());
            let what = format!(
                "`runs` is `{}`; expected \"to-completion\", \"forever\" or \"recurring\"",
                units::shortened(other)
            );
            Err(Fault::value(at, what))
        }
        None if matches!(scheduler, "service" | "system") => Ok(JobKind::Forever),
        None => Ok(JobKind::ToCompletion),
    }
}

/// A resource that the cell does not have.
pub(super) fn no_such_resource(name: &str, cell: &[String], at: Range<usize>) -> Fault {
    let known = ["cpu", "memory", "disk", "gpu", "ports"].into_iter().chain(cell.iter().map(String::as_str));
    let guess = super::guess(name, known.clone());
    Fault::value(at, format!("this cell has no resource `{}`{guess}", units::shortened(name)))
        .with_code("NO_SUCH_RESOURCE")
        .with_hint(format!("known here: {}", known.collect::<Vec<_>>().join(", ")))
}

fn missing(name: &str, example: &str) -> Fault {
    Fault { code: "JOB_FILE_VALUE", at: None, message: format!("the job file has no `{name}`"), hint: None }
        .with_hint(format!("for example: {example}"))
}
