//! Whether a job could ever run on these machines; if not, which comes nearest and what lacks there, or which limit is in the way.

use std::{collections::BTreeMap, iter, slice};

use plenum_model::{Attributes, Constraint, Device, DeviceRoom, Resource, Resources, choose_devices, shortages};
use plenum_proto::v1::{self, GroupShape, JobShape, MachineView, Spread};

use crate::output;

/// Why no machine could ever run a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    pub(crate) what: String,
    /// Cpu is what the nearest machine lacks, or one of the things: it may have been counted in other units than cores.
    pub(crate) short_of_cpu: bool,
    /// The nearest machine lacks nothing else but room of the kinds that each has some of.
    only_room: bool,
}

impl Misfit {
    /// What to do about it, where the machines have equal shares of one.
    pub(crate) const fn hint(&self, machines: u32) -> &'static str {
        match (self.only_room, machines) {
            (true, 0..=1) => {
                "ask for less: the machine offers all that there is here, but for some memory that is set aside"
            }
            (true, _) => "ask for less, or run with fewer --machines: each offers an equal share",
            (false, _) => {
                "correct what is asked for; or start the cell with `plenum dev`, beside it an agent with a file that \
                 says what its machine has (`plenum agent --config FILE`), and then the job with `plenum job run FILE`"
            }
        }
    }
}

/// Says why no machine could ever run the job; nothing if each group that has tasks has one.
pub(crate) fn misfit(job: &JobShape, machines: &[MachineView]) -> Option<Misfit> {
    let told = |lacking: Option<Misfit>, whom: &str| {
        lacking.map(|misfit| Misfit { what: format!("no machine fits {whom}: {}", misfit.what), ..misfit })
    };
    // Of one without tasks nothing is placed.
    let groups: Vec<GroupShape> = job.groups.iter().filter(|group| group.count > 0).cloned().collect();
    if job.same_machine && groups.len() > 1 {
        return told(lacking(&together(&groups), &groups, machines), "all groups of the job");
    }
    groups
        .iter()
        .find_map(|group| told(lacking(group, slice::from_ref(group), machines), &format!("group `{}`", group.name)))
}

/// Says which limit of a group never lets as many of its tasks be there at once as its `min` demands; nothing if each group's do. To be asked
/// of what is no [`misfit`]. Whether there is room for so many is not looked at.
pub(crate) fn too_few(job: &JobShape, machines: &[MachineView]) -> Option<String> {
    // Where its limits allow too few on its one machine, its file was refused.
    if job.same_machine {
        return None;
    }
    job.groups.iter().find_map(|group| {
        let fits = |machine: &&MachineView| judge(group, slice::from_ref(group), machine).lacks.is_empty();
        let fitting: Vec<&MachineView> = machines.iter().filter(fits).collect();
        let places = match fitting.len() {
            1 => "the one machine that fits".to_owned(),
            several => format!("the {several} machines that fit"),
        };
        let on_each = if group.per_machine == 0 { u64::MAX } else { u64::from(group.per_machine) };
        let on_all = ("`per_machine`".to_owned(), on_each.saturating_mul(fitting.len() as u64));
        let over = |rule: &Spread| {
            (
                format!("`spread` over `attr.{}`", rule.attribute),
                most_over(&rule.attribute, rule.at_most, on_each, &fitting),
            )
        };
        let mut limits = iter::once(on_all).chain(group.spread.iter().map(over));
        let (limit, most) = limits.find(|(_, most)| *most < u64::from(group.min))?;
        let (name, min) = (&group.name, group.min);
        Some(format!("group `{name}` never has its `min` of {min} tasks at once: {limit} allows {most} on {places}"))
    })
}

/// The most tasks on these machines with `at_most` beside each value of the attribute, and `on_each` machine.
fn most_over(attribute: &str, at_most: u32, on_each: u64, machines: &[&MachineView]) -> u64 {
    let mut machines_with: BTreeMap<&str, u64> = BTreeMap::new();
    for value in machines.iter().filter_map(|machine| machine.attributes.get(attribute)) {
        *machines_with.entry(value.as_str()).or_default() += 1;
    }
    machines_with.values().map(|count| on_each.saturating_mul(*count).min(u64::from(at_most))).sum()
}

/// What the one machine of a job must have: the most that any of these groups asks for, and what all of them demand.
fn together(groups: &[GroupShape]) -> GroupShape {
    let mut whole = GroupShape::default();
    let mut most = v1::Resources::default();
    for group in groups {
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
    /// With attributes that `spread` needs.
    constraints: usize,
    resources: usize,
    /// Sum over resources of what lacks, in thousandths of what is asked for.
    short_permille: i64,
}

/// What lacks on a machine, in words, and how far that is.
struct Judged {
    distance: Distance,
    lacks: Vec<String>,
    /// As in [`Misfit`].
    short_of_cpu: bool,
    /// As in [`Misfit`].
    only_room: bool,
}

/// `groups` are those that `group` stands for: devices are not added up, and there is no most of them.
fn lacking(group: &GroupShape, groups: &[GroupShape], machines: &[MachineView]) -> Option<Misfit> {
    let mut judged = Vec::with_capacity(machines.len());
    for machine in machines {
        let one = judge(group, groups, machine);
        if one.lacks.is_empty() {
            return None;
        }
        judged.push(one);
    }
    let nearest = judged.iter().zip(machines).min_by_key(|(judged, machine)| (judged.distance, machine.name.clone()));
    Some(match nearest {
        Some((Judged { lacks, short_of_cpu, only_room, .. }, machine)) => {
            let what = format!("{} comes nearest, where {}", machine.name, lacks.join(" and "));
            Misfit { what, short_of_cpu: *short_of_cpu, only_room: *only_room }
        }
        None => Misfit { what: "the cell has no machines".to_owned(), short_of_cpu: false, only_room: false },
    })
}

fn judge(group: &GroupShape, groups: &[GroupShape], machine: &MachineView) -> Judged {
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
    for rule in group.spread.iter().filter(|rule| !machine.attributes.contains_key(&rule.attribute)) {
        lacks.push(format!("`attr.{}`, over which it is spread, is missing", rule.attribute));
    }
    let constraints = lacks.len();
    // Both were validated when they were read; what is not an amount counts as none.
    let amounts =
        |wire: &Option<v1::Resources>| Resources::try_from(wire.clone().unwrap_or_default()).unwrap_or_default();
    let (need, capacity) = (amounts(&group.resources), amounts(&machine.capacity));
    let short = shortages(&capacity, &need);
    let short_of_cpu = short.iter().any(|shortage| shortage.resource == Resource::CpuMillis);
    let mut only_room = constraints == 0;
    let mut short_permille: i64 = 0;
    for shortage in &short {
        // Others are what an agent's own file says.
        only_room &= !matches!(shortage.resource, Resource::Custom(_));
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
        only_room = false;
        if !lacks.contains(&device) {
            lacks.push(device);
        }
    }
    let distance = Distance { constraints, resources: lacks.len() - constraints, short_permille };
    Judged { distance, lacks, short_of_cpu, only_room }
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

    /// The words alone.
    fn misfit(job: &JobShape, machines: &[MachineView]) -> Option<String> {
        super::misfit(job, machines).map(|misfit| misfit.what)
    }

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

    // Whatever lacked, fewer machines were advised; of the one that there is by itself, that is wrong usage.
    #[test]
    fn what_helps_goes_by_what_lacks() {
        let hint = |head: &str, lines: &str, machines: u32| {
            super::misfit(&job(head, lines), &[machine("m1", 1000, "5.10")]).unwrap().hint(machines)
        };
        let large = "resources = { cpu = 2, memory = \"1MiB\" }";
        assert!(hint("", large, 2).contains("fewer --machines"));
        assert!(hint("same_machine = true\n", large, 2).contains("fewer --machines"));
        let alone = hint("", large, 1);
        assert!(alone.starts_with("ask for less") && !alone.contains("--machines"), "{alone}");
        let small = "resources = { cpu = 1, memory = \"1MiB\" }";
        for lines in [
            format!("{large}\nconstraints = ['attr.kernel >= \"7.0\"']"),
            format!("{small}\nspread = [{{ by = \"attr.rack\", at_most = 2 }}]"),
            "resources = { cpu = 1, memory = \"1MiB\", gpu = 1 }".to_owned(),
        ] {
            let hint = hint("", &lines, 2);
            assert!(hint.contains("`plenum agent --config FILE`") && !hint.contains("--machines"), "{lines}: {hint}");
        }
    }

    #[test]
    fn a_failing_constraint_is_told_with_the_attribute_found() {
        let lines = "resources = { cpu = 1, memory = \"1MiB\" }\nconstraints = ['attr.kernel >= \"7.0\"', 'attr.gpu in [\"a\"]']";
        let what = misfit(&job("", lines), &[machine("m1", 4000, "5.10")]).unwrap();
        assert!(what.contains("`attr.kernel` is not >= \"7.0\" (it is \"5.10\")"), "{what}");
        assert!(what.contains("`attr.gpu` is not in [\"a\"] (it has none)"), "{what}");
    }

    // It was submitted, and the run waited for ever: no task may be where the attribute is missing.
    #[test]
    fn a_spread_over_an_attribute_that_no_machine_has_fits_none() {
        let lines = "resources = { cpu = 1, memory = \"1MiB\" }\nspread = [{ by = \"attr.rack\", at_most = 2 }]";
        let mut machines = [machine("m1", 4000, "5.10")];
        let expected =
            "no machine fits group `map`: m1 comes nearest, where `attr.rack`, over which it is spread, is missing";
        assert_eq!(misfit(&job("", lines), &machines).unwrap(), expected);
        machines[0].attributes.insert("rack".to_owned(), "r1".to_owned());
        assert_eq!(misfit(&job("", lines), &machines), None);
    }

    // So did one whose minimum was above what its own limits allow.
    #[test]
    fn a_minimum_above_what_the_limits_of_a_group_allow_is_told() {
        let told = |head: &str, lines: &str, machines: &[MachineView]| {
            let job = job(head, &format!("resources = {{ cpu = 1, memory = \"1MiB\" }}\ncount = 6\n{lines}"));
            assert_eq!(misfit(&job, machines), None);
            too_few(&job, machines).unwrap_or_default()
        };
        let mut machines = vec![machine("m1", 4000, "5.10"), machine("m2", 4000, "5.10"), machine("m3", 100, "5.4")];
        assert_eq!(
            told("", "min = 4\nper_machine = 1", &machines),
            "group `map` never has its `min` of 4 tasks at once: `per_machine` allows 2 on the 2 machines that fit"
        );
        assert_eq!(told("", "min = 4\nper_machine = 2", &machines), "");
        assert_eq!(told("", "per_machine = 1", &machines), "", "the others come later");
        assert_eq!(told("", "min = 4", &machines), "");
        assert_eq!(told("same_machine = true\n", "min = 4\nper_machine = 4", &machines), "");

        let spread = |min: u32, at_most: u32| {
            let rule = format!("spread = [{{ by = \"attr.kernel\", at_most = {at_most} }}]");
            format!("min = {min}\nper_machine = 2\n{rule}")
        };
        let over = told("", &spread(4, 3), &machines);
        assert!(over.ends_with("`spread` over `attr.kernel` allows 3 on the 2 machines that fit"), "{over}");
        assert_eq!(told("", &spread(4, 4), &machines), "");
        machines.push(machine("m4", 4000, "5.15"));
        assert_eq!(told("", &spread(4, 3), &machines), "", "each value of the attribute has its own");
        let over = told("", &spread(6, 3), &machines);
        assert!(over.ends_with("allows 5 on the 3 machines that fit"), "one machine of a value has no more: {over}");
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

    // A file that keeps one for later was refused.
    #[test]
    fn a_group_of_no_tasks_needs_no_machine() {
        let machines = [machine("m1", 1000, "5.10")];
        for head in ["", "same_machine = true\n"] {
            let told = |count: u32| {
                let wants =
                    "resources = { cpu = 8, memory = \"1MiB\", gpu = 1 }\nconstraints = ['attr.kernel >= \"7.0\"']";
                misfit(&job(head, &format!("count = {count}\n{wants}")), &machines).unwrap_or_default()
            };
            assert_eq!(told(0), "");
            for lacks in ["cpu is short", "gpu is short", "`attr.kernel` is not"] {
                assert!(told(1).contains(lacks), "{}", told(1));
            }
        }
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
