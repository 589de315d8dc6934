//! Jobs: what users submit, and what deltas carry of it.

mod body;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{Affinity, Command, Constraint, GroupShape, JobKind, JobShape, Operator, RetryPolicy, Spread};
use prost::Message;

pub use body::check_body;

use super::enums::Known;
use super::resources::{DEVICE_MILLIS_MAX, devices, list, ports, resources};
use super::{each, required};
use crate::bounds::{
    self, BODY_BYTES_MAX, CLAIMS_MAX, CONSTRAINT_VALUES, CONSTRAINT_VALUES_MAX, COUNT_MAX, GROUPS_MAX, LIST_MAX,
    MEMORY_BYTES_MIN, OPTION_BYTES_MAX, PRIORITY_MAX, SHAPE_BYTES_MAX, SPREAD_MAX,
};
use crate::error::{Invalid, SubmitError, Within, quoted};
use crate::{names, v1};

/// Stands for no limit of attempts.
const UNLIMITED: u32 = u32::MAX;

/// Stands for: never by itself.
const NEVER: i64 = -1;

/// The command of a job that somebody submits, whichever version of it is there. Its body is encoded anew, so that equal bodies have equal digests.
///
/// # Errors
/// Names the field that breaks a rule, or that asks for something which is not there yet.
pub fn submit(wire: v1::JobSpec) -> Result<Command, SubmitError> {
    let shape = required("spec.shape", "the shape of a job", wire.shape)?;
    let (shape_bytes, values) = (shape.encoded_len(), constraint_values(&shape.groups));
    bounds::at_most("groups", CONSTRAINT_VALUES, values, CONSTRAINT_VALUES_MAX).within("spec.shape")?;
    let shape = JobShape::try_from(shape).within("spec.shape")?;
    check_minimums(&shape).within("spec.shape")?;
    check_ports(&shape).within("spec.shape")?;
    check_order(&shape).within("spec.shape")?;
    check_sharing(&shape).within("spec.shape")?;
    check_shared_ports(&shape).within("spec.shape")?;
    check_resources(&shape).within("spec.shape")?;
    check_devices(&shape).within("spec.shape")?;
    if shape_bytes > SHAPE_BYTES_MAX {
        let expected = format!(
            "at most {SHAPE_BYTES_MAX} bytes (shorten its options and the lists of its groups, or make several jobs of it)"
        );
        return Err(Invalid::new("spec.shape", expected, format_args!("{shape_bytes} bytes")).into());
    }
    let body = required("spec.body", "the body of a job", wire.body)?;
    check_body(&shape, &body)?;
    let encoded = body.encode_to_vec();
    names::short("spec.body", encoded.len(), BODY_BYTES_MAX)?;
    Ok(submission(Arc::new(shape), encoded.into(), None))
}

/// Values of all constraints and affinities of these groups: at most [`CONSTRAINT_VALUES_MAX`] of a job that is submitted.
#[must_use]
pub fn constraint_values(groups: &[v1::GroupShape]) -> usize {
    let of_group = |group: &v1::GroupShape| {
        let affinities = group.affinities.iter().filter_map(|affinity| affinity.rule.as_ref());
        group.constraints.iter().chain(affinities).map(|rule| rule.values.len()).sum::<usize>()
    };
    groups.iter().map(of_group).sum()
}

/// More tasks than there are can't be placed together, nor more than one transaction may claim. Not asked of what is read back: earlier
/// versions launched children of a scaled job so, and took what no transaction could place.
fn check_minimums(shape: &JobShape) -> Result<(), Invalid> {
    let is_too_large = |group: &GroupShape| group.min > group.count || group.min as usize > CLAIMS_MAX;
    let Some(at) = shape.groups.iter().position(is_too_large) else { return Ok(()) };
    let GroupShape { min, count, .. } = shape.groups[at];
    let expected = if min > count {
        format!("at most {count}, the number of tasks")
    } else {
        format!("at most {CLAIMS_MAX}, as one transaction places them")
    };
    Err(Invalid::new("min", expected, min)).within_at("groups", at)
}

/// Nobody has the same port twice: such tasks would wait for ever. Not asked of what is read back, as above.
fn check_ports(shape: &JobShape) -> Result<(), Invalid> {
    for (at, group) in shape.groups.iter().enumerate() {
        let mut numbers = BTreeSet::new();
        let twice = group.ports.iter().find(|port| port.number > 0 && !numbers.insert(port.number));
        if let Some(twice) = twice {
            let found = format_args!("{} twice", twice.number);
            return Err(Invalid::new("ports", "each number once, or 0 for one that the cell chooses", found))
                .within_at("groups", at);
        }
    }
    Ok(())
}

/// In a job that runs for ever no task ever succeeds, so that what comes after one would wait for ever. Not asked of what is read back, as above.
fn check_order(shape: &JobShape) -> Result<(), Invalid> {
    if shape.kind != JobKind::Forever {
        return Ok(());
    }
    let waits = shape.groups.iter().enumerate().find_map(|(at, group)| Some((at, group.after.first()?)));
    let Some((at, before)) = waits else { return Ok(()) };
    let before = shape.groups.get(usize::from(*before)).map_or("", |group| &group.name);
    let expected = "nothing in a job that runs for ever, none of whose tasks ever succeeds";
    Err(Invalid::new("after", expected, quoted(before))).within_at("groups", at)
}

/// Tasks that are to be there at once, on the one machine that their job has, have to find room beside each other: for want of a second place, or of the
/// same port once more, they would wait for ever. Not asked of what is read back, as above.
fn check_sharing(shape: &JobShape) -> Result<(), Invalid> {
    for (at, group) in shape.groups.iter().enumerate().filter(|_| shape.same_machine) {
        let together = if shape.kind == JobKind::Forever { group.count } else { group.min };
        if group.per_machine > 0 && group.per_machine < together {
            let expected = format!("at least {together}, as so many tasks share the job's machine at once");
            return Err(Invalid::new("per_machine", expected, group.per_machine)).within_at("groups", at);
        }
        if let Some(fixed) = group.ports.iter().find(|port| port.number > 0 && together > 1) {
            let expected =
                format!("0, for ports that the cell chooses, as {together} tasks share the job's machine at once");
            return Err(Invalid::new("ports", expected, fixed.number)).within_at("groups", at);
        }
    }
    Ok(())
}

/// All groups of a job that runs for ever are there at once: on the one machine that they share no two of them have the same port, nor those without
/// tasks, which may be given some. Not asked of what is read back, as above.
fn check_shared_ports(shape: &JobShape) -> Result<(), Invalid> {
    if !shape.same_machine || shape.kind != JobKind::Forever {
        return Ok(());
    }
    let mut owners = BTreeMap::new();
    for (at, group) in shape.groups.iter().enumerate() {
        for number in group.ports.iter().map(|port| port.number).filter(|&number| number > 0) {
            if let Some(other) = owners.insert(number, &group.name) {
                let expected = "a number that no other group has, as all share the job's machine at once, or 0 for one \
                                that the cell chooses";
                let other = quoted(other);
                return Err(Invalid::new("ports", expected, format_args!("{number}, which {other} has")))
                    .within_at("groups", at);
            }
        }
    }
    Ok(())
}

/// Who asks for no CPU or no memory would count as nothing and have no limit. Not asked of what is read back, as above.
fn check_resources(shape: &JobShape) -> Result<(), Invalid> {
    for (at, GroupShape { resources, .. }) in shape.groups.iter().enumerate() {
        let too_little = if resources.cpu_millis == 0 {
            Some(("resources.cpu_millis", 1, 0))
        } else if resources.memory_bytes < MEMORY_BYTES_MIN {
            Some(("resources.memory_bytes", MEMORY_BYTES_MIN, resources.memory_bytes))
        } else {
            None
        };
        if let Some((field, least, found)) = too_little {
            return Err(Invalid::new(field, format!("at least {least}"), found)).within_at("groups", at);
        }
    }
    Ok(())
}

/// Who asks for nothing of a device would be told to use one all the same, also one that others have whole. Not asked of what is read back, as above.
fn check_devices(shape: &JobShape) -> Result<(), Invalid> {
    for (at, group) in shape.groups.iter().enumerate() {
        if let Some(device) = group.devices.iter().position(|device| device.millis == 0) {
            let nothing = Invalid::new("millis", format!("1 to {DEVICE_MILLIS_MAX}"), 0);
            return Err(nothing).within_at("devices", device).within_at("groups", at);
        }
    }
    Ok(())
}

/// The command of a job, with the digest of its body.
pub(super) fn submission(shape: Arc<JobShape>, body: Arc<[u8]>, expected_version: Option<u32>) -> Command {
    let body_digest = *blake3::hash(&body).as_bytes();
    Command::SubmitJob { shape, body, body_digest, expected_version }
}

impl From<&JobShape> for v1::JobShape {
    fn from(shape: &JobShape) -> Self {
        let name = |group: u16| shape.groups.get(usize::from(group)).map_or("", |group| &group.name);
        Self {
            namespace: shape.namespace.to_string(),
            name: shape.name.to_string(),
            scheduler: shape.scheduler.to_string(),
            priority: shape.priority.into(),
            kind: v1::JobKind::from(shape.kind).into(),
            same_machine: shape.same_machine,
            groups: shape.groups.iter().map(|group| group_to_wire(group, name)).collect(),
            parent: shape.parent.map_or(0, plenum_model::JobId::to_bits),
            instant_micros: shape.instant_micros,
            options: shape.options.clone(),
        }
    }
}

impl TryFrom<v1::JobShape> for JobShape {
    type Error = Invalid;

    fn try_from(wire: v1::JobShape) -> Result<Self, Invalid> {
        let priority = bounds::up_to("priority", wire.priority, PRIORITY_MAX)?;
        Ok(Self {
            namespace: names::name("namespace", &wire.namespace)?,
            name: names::name("name", &wire.name)?,
            scheduler: names::name("scheduler", &wire.scheduler)?,
            priority: bounds::narrow("priority", priority, u64::from(PRIORITY_MAX))?,
            kind: JobKind::known("kind", wire.kind)?,
            same_machine: wire.same_machine,
            groups: groups(wire.groups, wire.same_machine)?,
            parent: (wire.parent > 0).then(|| bounds::job("parent", wire.parent)).transpose()?,
            instant_micros: wire.instant_micros,
            options: options(wire.options)?,
        })
    }
}

fn options(wire: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Invalid> {
    bounds::at_most("options", "options", wire.len(), LIST_MAX)?;
    for (name, value) in &wire {
        names::attribute("options", name)?;
        names::short("options", value.len(), OPTION_BYTES_MAX).within(name).within("options")?;
    }
    Ok(wire)
}

fn groups(wire: Vec<v1::GroupShape>, same_machine: bool) -> Result<Vec<GroupShape>, Invalid> {
    if !(1..=GROUPS_MAX).contains(&wire.len()) {
        return Err(Invalid::new("groups", format!("1 to {GROUPS_MAX} groups"), wire.len()));
    }
    let mut positions = BTreeMap::new();
    for (position, group) in (0u16..).zip(&wire) {
        if positions.insert(group.name.clone(), position).is_some() {
            return Err(Invalid::new("groups", "each name once", format_args!("{} twice", quoted(&group.name))));
        }
    }
    let groups = each("groups", wire, |group| group_from_wire(group, &positions))?;
    if let Some(position) = groups.iter().position(|group| same_machine && !group.spread.is_empty()) {
        return Err(Invalid::new("spread", "none in a job whose tasks share one machine", "one"))
            .within_at("groups", position);
    }
    refuse_cycles(&groups)?;
    Ok(groups)
}

/// Groups that wait for each other would wait for ever.
fn refuse_cycles(groups: &[GroupShape]) -> Result<(), Invalid> {
    let mut free = vec![false; groups.len()];
    let is_free = |free: &[bool], group: &GroupShape| group.after.iter().all(|&after| free[usize::from(after)]);
    while let Some(next) = (0..groups.len()).find(|&one| !free[one] && is_free(&free, &groups[one])) {
        free[next] = true;
    }
    let Some(start) = free.iter().position(|&free| !free) else { return Ok(()) };
    // Each group that is left waits for another one that is left; so walking on comes back.
    let blocked_by = |one: usize| groups[one].after.iter().map(|&after| usize::from(after)).find(|&after| !free[after]);
    let mut path = vec![start];
    while let Some(next) = path.last().and_then(|&last| blocked_by(last)) {
        if let Some(begin) = path.iter().position(|&seen| seen == next) {
            path.push(next);
            let names: Vec<&str> = path[begin..].iter().map(|&one| &*groups[one].name).collect();
            return Err(Invalid::new("after", "no cycle", names.join(" after "))).within_at("groups", path[begin]);
        }
        path.push(next);
    }
    Ok(())
}

fn group_to_wire<'a>(group: &GroupShape, name: impl Fn(u16) -> &'a str) -> v1::GroupShape {
    v1::GroupShape {
        name: group.name.to_string(),
        count: group.count,
        after: group.after.iter().map(|&after| name(after).to_owned()).collect(),
        resources: Some((&group.resources).into()),
        constraints: list(&group.constraints),
        affinities: list(&group.affinities),
        spread: list(&group.spread),
        per_machine: group.per_machine,
        devices: list(&group.devices),
        ports: list(&group.ports),
        single_instance: group.single_instance,
        retry: Some(v1::RetryPolicy {
            attempts: group.retry.attempts.unwrap_or(UNLIMITED),
            delay_micros: group.retry.delay_micros,
        }),
        lost_after_micros: group.lost_after_micros.unwrap_or(NEVER),
        min: group.min,
    }
}

fn group_from_wire(wire: v1::GroupShape, positions: &BTreeMap<String, u16>) -> Result<GroupShape, Invalid> {
    let name = names::name("name", &wire.name)?;
    let count = bounds::up_to("count", wire.count, COUNT_MAX)?;
    Ok(GroupShape {
        name,
        count,
        after: after(&wire.after, positions)?,
        resources: resources("resources", wire.resources)?,
        constraints: constraints("constraints", wire.constraints)?,
        affinities: affinities(wire.affinities)?,
        spread: spread(wire.spread)?,
        per_machine: wire.per_machine,
        devices: devices("devices", wire.devices)?,
        ports: ports("ports", wire.ports)?,
        single_instance: wire.single_instance,
        retry: retry(wire.retry.unwrap_or_default()).within("retry")?,
        lost_after_micros: match wire.lost_after_micros {
            NEVER => None,
            micros => Some(lost_after(micros)?),
        },
        min: wire.min,
    })
}

fn lost_after(micros: i64) -> Result<i64, Invalid> {
    bounds::span("lost_after_micros", micros)
        .map_err(|invalid| Invalid { expected: format!("{NEVER}, or {}", invalid.expected), ..invalid })
}

fn after(wire: &[String], positions: &BTreeMap<String, u16>) -> Result<Vec<u16>, Invalid> {
    bounds::at_most("after", "groups", wire.len(), GROUPS_MAX)?;
    let mut after = Vec::with_capacity(wire.len());
    for name in wire {
        let found = positions.get(name).copied();
        let position = found.ok_or_else(|| Invalid::new("after", "a group of this job", quoted(name)))?;
        if after.contains(&position) {
            return Err(Invalid::new("after", "each group once", format_args!("{} twice", quoted(name))));
        }
        after.push(position);
    }
    Ok(after)
}

fn retry(wire: v1::RetryPolicy) -> Result<RetryPolicy, Invalid> {
    if wire.attempts != UNLIMITED && wire.attempts > bounds::RETRY_ATTEMPTS_MAX {
        let expected = format!("at most {}, or {UNLIMITED} for no limit", bounds::RETRY_ATTEMPTS_MAX);
        return Err(Invalid::new("attempts", expected, wire.attempts));
    }
    Ok(RetryPolicy {
        attempts: (wire.attempts != UNLIMITED).then_some(wire.attempts),
        delay_micros: bounds::span("delay_micros", wire.delay_micros)?,
    })
}

/// Conditions on attributes, at most 64.
pub(super) fn constraints(field: &str, wire: Vec<v1::Constraint>) -> Result<Vec<Constraint>, Invalid> {
    bounds::at_most(field, "constraints", wire.len(), LIST_MAX)?;
    each(field, wire, Constraint::try_from)
}

impl From<&Constraint> for v1::Constraint {
    fn from(constraint: &Constraint) -> Self {
        Self {
            attribute: constraint.attribute.to_string(),
            operator: v1::Operator::from(constraint.operator).into(),
            values: constraint.values.iter().map(|value| value.to_string()).collect(),
        }
    }
}

impl TryFrom<v1::Constraint> for Constraint {
    type Error = Invalid;

    fn try_from(wire: v1::Constraint) -> Result<Self, Invalid> {
        let operator = Operator::known("operator", wire.operator)?;
        let values = match operator {
            Operator::In => 1..=LIST_MAX,
            _ => 1..=1,
        };
        if !values.contains(&wire.values.len()) {
            let expected = format!("{} to {} values for this operator", values.start(), values.end());
            return Err(Invalid::new("values", expected, wire.values.len()));
        }
        Ok(Self {
            attribute: names::attribute("attribute", &wire.attribute)?,
            operator,
            values: each("values", wire.values, |value| names::text("", &value, bounds::TEXT_BYTES_MAX))?,
        })
    }
}

fn affinities(wire: Vec<v1::Affinity>) -> Result<Vec<Affinity>, Invalid> {
    bounds::at_most("affinities", "affinities", wire.len(), LIST_MAX)?;
    each("affinities", wire, Affinity::try_from)
}

impl From<&Affinity> for v1::Affinity {
    fn from(affinity: &Affinity) -> Self {
        Self { rule: Some((&affinity.rule).into()), weight: affinity.weight }
    }
}

impl TryFrom<v1::Affinity> for Affinity {
    type Error = Invalid;

    fn try_from(wire: v1::Affinity) -> Result<Self, Invalid> {
        if wire.weight == 0 || !(-100..=100).contains(&wire.weight) {
            return Err(Invalid::new("weight", "-100 to 100, and not 0", wire.weight));
        }
        Ok(Self { rule: required("rule", "a condition", wire.rule)?.try_into().within("rule")?, weight: wire.weight })
    }
}

fn spread(wire: Vec<v1::Spread>) -> Result<Vec<Spread>, Invalid> {
    bounds::at_most("spread", "rules about spread", wire.len(), SPREAD_MAX)?;
    each("spread", wire, Spread::try_from)
}

impl From<&Spread> for v1::Spread {
    fn from(spread: &Spread) -> Self {
        Self { attribute: spread.attribute.to_string(), at_most: spread.at_most }
    }
}

impl TryFrom<v1::Spread> for Spread {
    type Error = Invalid;

    fn try_from(wire: v1::Spread) -> Result<Self, Invalid> {
        if wire.at_most == 0 {
            return Err(Invalid::new("at_most", "1 or more", wire.at_most));
        }
        Ok(Self { attribute: names::attribute("attribute", &wire.attribute)?, at_most: wire.at_most })
    }
}
