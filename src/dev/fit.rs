//! Whether a job could ever run on these machines; if not, which comes nearest and what lacks there.

use std::slice;

use plenum_model::{Attributes, Constraint, Device, DeviceRoom, Resource, Resources, choose_devices, shortages};
use plenum_proto::v1::{self, GroupShape, JobShape, MachineView};

use crate::output;

/// Says why no machine could ever run the job; nothing if each group has one.
pub(super) fn misfit(job: &JobShape, machines: &[MachineView]) -> Option<String> {
    if job.same_machine && job.groups.len() > 1 {
        return lacking(&together(job), &job.groups, machines)
            .map(|what| format!("no machine fits all groups of the job: {what}"));
    }
    job.groups.iter().find_map(|group| {
        lacking(group, slice::from_ref(group), machines)
            .map(|what| format!("no machine fits group `{}`: {what}", group.name))
    })
}

/// What the one machine of the job must have: the most that any group asks for, and what all of them demand.
fn together(job: &JobShape) -> GroupShape {
    let mut whole = GroupShape::default();
    let mut most = v1::Resources::default();
    for group in &job.groups {
        let resources = group.resources.clone().unwrap_or_default();
        most.cpu_millis = most.cpu_millis.max(resources.cpu_millis);
        most.memory_bytes = most.memory_bytes.max(resources.memory_bytes);
        most.disk_bytes = most.disk_bytes.max(resources.disk_bytes);
        most.custom.resize(most.custom.len().max(resources.custom.len()), 0);
        for (most, amount) in most.custom.iter_mut().zip(resources.custom) {
            *most = amount.max(*most);
        }
        whole.constraints.extend(group.constraints.iter().cloned());
    }
    whole.resources = Some(most);
    whole
}

/// How far a machine is from a group. The smallest comes nearest; compared from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Distance {
    constraints: usize,
    resources: usize,
    /// Sum over resources of what lacks, in thousandths of what is asked for.
    short_permille: i64,
}

/// `groups` are those that `group` stands for: devices are not added up, and there is no most of them.
fn lacking(group: &GroupShape, groups: &[GroupShape], machines: &[MachineView]) -> Option<String> {
    let judged: Vec<_> = machines.iter().map(|machine| judge(group, groups, machine)).collect();
    if judged.iter().any(|(_, lacks)| lacks.is_empty()) {
        return None;
    }
    let nearest = judged.iter().zip(machines).min_by_key(|((distance, _), machine)| (*distance, machine.name.clone()));
    Some(match nearest {
        Some(((_, lacks), machine)) => format!("{} comes nearest, where {}", machine.name, lacks.join(" and ")),
        None => "the cell has no machines".to_owned(),
    })
}

fn judge(group: &GroupShape, groups: &[GroupShape], machine: &MachineView) -> (Distance, Vec<String>) {
    let attributes: Attributes =
        machine.attributes.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
    let mut lacks: Vec<String> = Vec::new();
    for rule in &group.constraints {
        // They were validated when they were read.
        let Ok(rule) = Constraint::try_from(rule.clone()) else { continue };
        if !rule.holds(&attributes) {
            let found = attributes.get(&*rule.attribute);
            let found = found.map_or_else(|| "it has none".to_owned(), |value| format!("it is {value:?}"));
            let text = rule.to_string();
            let (attribute, values) = text.split_once(' ').unwrap_or((&text, ""));
            lacks.push(format!("`{attribute}` is not {values} ({found})"));
        }
    }
    let constraints = lacks.len();
    // Both were validated when they were read; what is not an amount counts as none.
    let amounts =
        |wire: &Option<v1::Resources>| Resources::try_from(wire.clone().unwrap_or_default()).unwrap_or_default();
    let (need, capacity) = (amounts(&group.resources), amounts(&machine.capacity));
    let short = shortages(&capacity, &need);
    let mut short_permille: i64 = 0;
    for shortage in &short {
        let (asked, there) = (need.get(shortage.resource), capacity.get(shortage.resource));
        let permille = u128::from(shortage.short_by) * 1000 / u128::from(asked.max(1));
        short_permille = short_permille.saturating_add(i64::try_from(permille).unwrap_or(i64::MAX));
        let amount = |amount: u64| amount_words(shortage.resource, amount);
        lacks.push(format!(
            "{} is short by {} (asked for {}, the machine has {})",
            resource_words(shortage.resource),
            amount(shortage.short_by),
            amount(asked),
            amount(there)
        ));
    }
    for device in groups.iter().filter_map(|group| lacking_device(group, machine)) {
        if !lacks.contains(&device) {
            lacks.push(device);
        }
    }
    (Distance { constraints, resources: lacks.len() - constraints, short_permille }, lacks)
}

/// The kind of device of which an empty machine has too little for one task of a group, in words.
fn lacking_device(group: &GroupShape, machine: &MachineView) -> Option<String> {
    let read = |devices: &[v1::Device]| -> Vec<Device> {
        devices.iter().filter_map(|device| Device::try_from(device.clone()).ok()).collect()
    };
    let (wanted, there) = (read(&group.devices), read(&machine.devices));
    let mut rooms: Vec<DeviceRoom> = there.iter().map(DeviceRoom::all_of).collect();
    let kind = &wanted[choose_devices(&mut rooms, &wanted).err()?].kind;
    let sum = |devices: &[Device]| {
        output::cpu(devices.iter().filter(|device| device.kind == *kind).map(|device| i64::from(device.millis)).sum())
    };
    Some(format!("{kind} is short (asked for {}, the machine has {})", sum(&wanted), sum(&there)))
}

fn resource_words(resource: Resource) -> String {
    match resource {
        Resource::CpuMillis => "cpu".to_owned(),
        Resource::MemoryBytes => "memory".to_owned(),
        Resource::DiskBytes => "disk".to_owned(),
        other => other.to_string(),
    }
}

fn amount_words(resource: Resource, amount: u64) -> String {
    let amount = i64::try_from(amount).unwrap_or(i64::MAX);
    match resource {
        Resource::CpuMillis => output::cpu(amount),
        Resource::MemoryBytes | Resource::DiskBytes => output::bytes(amount),
        Resource::Custom(_) => amount.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::job_file::JobFile;

    fn machine(name: &str, cpu_millis: i64, kernel: &str) -> MachineView {
        let capacity = v1::Resources { cpu_millis, memory_bytes: 1 << 30, disk_bytes: 0, custom: Vec::new() };
        MachineView {
            name: name.to_owned(),
            capacity: Some(capacity),
            attributes: [("kernel".to_owned(), kernel.to_owned())].into(),
            ..MachineView::default()
        }
    }

    fn job(head: &str, lines: &str) -> JobShape {
        let text = format!(
            "name = \"j\"\nscheduler = \"batch\"\n{head}[group.map]\ncommand = [\"x\"]\n{lines}\n[group.other]\ncommand = \
             [\"x\"]\nresources = {{ cpu = 1, memory = \"1MiB\" }}\nconstraints = ['attr.kernel < \"6\"']\n"
        );
        JobFile::parse("job.toml", &text).unwrap().spec.shape.unwrap()
    }

    #[test]
    fn what_fits_somewhere_is_no_misfit() {
        let machines = [machine("m1", 1000, "5.10"), machine("m2", 8000, "6.1")];
        assert_eq!(misfit(&job("", "resources = { cpu = 8, memory = \"1GiB\" }"), &machines), None);
    }

    #[test]
    fn the_nearest_machine_and_what_lacks_there_are_named() {
        let machines = [machine("m1", 1000, "5.10"), machine("m2", 2500, "5.10")];
        let what = misfit(&job("", "resources = { cpu = 4, memory = \"2GiB\" }"), &machines).unwrap();
        assert_eq!(
            what,
            "no machine fits group `map`: m2 comes nearest, where cpu is short by 1500m (asked for 4, the machine has \
             2500m) and memory is short by 1GiB (asked for 2GiB, the machine has 1GiB)"
        );
    }

    #[test]
    fn a_failing_constraint_is_told_with_the_attribute_found() {
        let lines = "resources = { cpu = 1, memory = \"1MiB\" }\nconstraints = ['attr.kernel >= \"7.0\"', 'attr.gpu in [\"a\"]']";
        let what = misfit(&job("", lines), &[machine("m1", 4000, "5.10")]).unwrap();
        assert!(what.contains("`attr.kernel` is not >= \"7.0\" (it is \"5.10\")"), "{what}");
        assert!(what.contains("`attr.gpu` is not in [\"a\"] (it has none)"), "{what}");
    }

    // It was submitted, and the run waited for ever.
    #[test]
    fn a_machine_without_the_devices_fits_no_task_that_asks_for_them() {
        let gpus = job("", "resources = { cpu = 1, memory = \"1MiB\", gpu = 2 }");
        let mut machines = [machine("m1", 1000, "5.10")];
        let what = misfit(&gpus, &machines).unwrap();
        let expected =
            "no machine fits group `map`: m1 comes nearest, where gpu is short (asked for 2, the machine has 0)";
        assert_eq!(what, expected);
        let gpu = |index| v1::Device { kind: "gpu".to_owned(), index, millis: 1000, model: "t4".to_owned() };
        machines[0].devices = vec![gpu(0)];
        assert!(misfit(&gpus, &machines).unwrap().ends_with("(asked for 2, the machine has 1)"));
        machines[0].devices.push(gpu(1));
        assert_eq!(misfit(&gpus, &machines), None);

        let shared = job("same_machine = true\n", "resources = { cpu = 1, memory = \"1MiB\", gpu = 2 }");
        assert_eq!(misfit(&shared, &machines), None);
        machines[0].devices.pop();
        assert!(misfit(&shared, &machines).unwrap().starts_with("no machine fits all groups of the job: m1"));
    }

    #[test]
    fn groups_that_share_a_machine_must_fit_together() {
        let machines = [machine("m1", 1000, "5.10"), machine("m2", 8000, "6.1")];
        let what =
            misfit(&job("same_machine = true\n", "resources = { cpu = 8, memory = \"1GiB\" }"), &machines).unwrap();
        assert!(what.starts_with("no machine fits all groups"), "{what}");
    }

    #[test]
    fn a_cell_without_machines_says_so() {
        let what = misfit(&job("", "resources = { cpu = 1, memory = \"1GiB\" }"), &[]).unwrap();
        assert!(what.ends_with("the cell has no machines"), "{what}");
    }
}
