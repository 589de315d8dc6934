//! What tasks that share the one machine of their job must find beside each other there: a place for each, and ports with numbers of their own.
//!
//! The cell refuses what could never be there, too, and knows neither file nor line.

use std::{collections::BTreeMap, ops::Range};

use plenum_proto::v1::{GroupShape, JobKind};

use super::{
    fault::{Fault, Faults},
    group::JobFacts,
    tree::{Entry, Value},
};

/// What helps where a port has a number of its own.
const HINT: &str = "0 lets the cell choose a free one";

/// Checks groups as they were read, each with what stands for it in the file.
pub(super) fn check(groups: &[(&Entry, &GroupShape)], job: JobFacts, faults: &mut Faults) {
    if !job.same_machine {
        return;
    }
    for (entry, group) in groups {
        // So many are to be there at once. Of all other jobs one after the other will do.
        let together = if job.kind == JobKind::Forever { group.count } else { group.min };
        check_group(entry, group, together, faults);
    }
    if job.kind == JobKind::Forever {
        check_ports(groups, faults);
    }
}

fn check_group(entry: &Entry, group: &GroupShape, together: u32, faults: &mut Faults) {
    let (name, tasks) = (&group.name, format!("{together} tasks share the job's machine at once"));
    if group.per_machine > 0 && group.per_machine < together {
        let what =
            format!("`group.{name}.per_machine` is {}; expected at least {together}, as {tasks}", group.per_machine);
        faults.add(Fault::value(place(entry, &["per_machine"]), what));
    }
    for (port, number) in fixed_ports(group).filter(|_| together > 1) {
        let what = format!("`{}` is {number}, which one task alone can have, and {tasks}", path(group, port));
        faults.add(Fault::value(place(entry, &["resources", "ports", port]), what).with_hint(HINT));
    }
}

/// All groups of a job that runs for ever are there at once, and those without tasks may be given some. That a group's own tasks can't share a port is told
/// by then.
fn check_ports(groups: &[(&Entry, &GroupShape)], faults: &mut Faults) {
    let mut owners = BTreeMap::new();
    for (entry, group) in groups.iter().filter(|(_, group)| group.count <= 1) {
        for (port, number) in fixed_ports(group) {
            if let Some(other) = owners.insert(number, path(group, port)) {
                let what = format!(
                    "`{}` is {number}, and so is `{other}`: all groups share the job's machine at once",
                    path(group, port)
                );
                faults.add(Fault::value(place(entry, &["resources", "ports", port]), what).with_hint(HINT));
            }
        }
    }
}

/// Ports with a number of their own: names and numbers.
fn fixed_ports(group: &GroupShape) -> impl Iterator<Item = (&str, u32)> {
    group.ports.iter().filter(|port| port.number > 0).map(|port| (port.name.as_str(), port.number))
}

/// How messages name a port.
fn path(group: &GroupShape, port: &str) -> String {
    format!("group.{}.resources.ports.{port}", group.name)
}

/// The place of a value below a group in the file; where it isn't found, that of the group's name.
fn place(group: &Entry, names: &[&str]) -> Range<usize> {
    let mut found = group;
    for name in names {
        let Value::Table(entries) = &found.node.value else { return group.name_at.clone() };
        let Some(next) = entries.iter().find(|entry| entry.name == *name) else { return group.name_at.clone() };
        found = next;
    }
    found.node.at.clone()
}
