//! Devices, such as GPUs: of machines, of allocations, and as groups ask for them.

use std::collections::BTreeMap;

use plenum_proto::v1::Device;
use serde_json::{Value, json};

use super::{cpu, or_dash};

/// A device of a machine, or what an allocation has of one.
pub(super) fn to_json(device: &Device) -> Value {
    json!({"kind": device.kind, "index": device.index, "millis": device.millis, "model": device.model})
}

/// What a group asks for of one device. Which one it is, the cell says with the grant.
pub(super) fn wanted_json(device: &Device) -> Value {
    json!({"kind": device.kind, "millis": device.millis, "model": device.model})
}

/// What a group asks for, equal ones together, in the order in which they come: `2 gpu`, `500m of gpu a100`.
pub(super) fn wanted(devices: &[Device]) -> Vec<String> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for device in devices {
        let part = part_of(device, named(&device.kind, &device.model));
        match counts.iter_mut().find(|(known, _)| *known == part) {
            Some((_, count)) => *count += 1,
            None => counts.push((part, 1)),
        }
    }
    counts.into_iter().map(|(part, count)| if count == 1 { part } else { format!("{count} {part}") }).collect()
}

/// What an allocation has, such as `gpu[0], 500m of gpu[1]`; a dash for nothing.
pub(super) fn names(devices: &[Device]) -> String {
    let name = |device: &Device| part_of(device, place(device));
    or_dash(&devices.iter().map(name).collect::<Vec<_>>().join(", "))
}

/// What a claim names, each with its model: `gpu[0] a100, 500m of gpu[1]`.
pub(super) fn with_models(devices: &[Device]) -> String {
    let name = |device: &Device| part_of(device, named(&place(device), &device.model));
    devices.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// How much of a machine's devices is in use, all of one kind and model together: `gpu a100=1500m/2`; a dash for none.
pub(super) fn parts(devices: &[Device], used_millis: &[i64]) -> String {
    let mut sums: BTreeMap<(&str, &str), (Option<i64>, i64)> = BTreeMap::new();
    for (position, device) in devices.iter().enumerate() {
        let (used, all) = sums.entry((&device.kind, &device.model)).or_insert((Some(0), 0));
        *used = used.zip(used_millis.get(position)).map(|(sum, more)| sum.saturating_add(*more));
        *all = all.saturating_add(device.millis.into());
    }
    let part = |((kind, model), (used, all))| format!("{}={}", named(kind, model), part(used, all));
    or_dash(&sums.into_iter().map(part).collect::<Vec<_>>().join(","))
}

/// Each of a machine's devices, such as `gpu[0] a100: 500m/1`.
pub(crate) fn device_lines(devices: &[Device], used_millis: &[i64]) -> Vec<String> {
    let line = |(position, device): (usize, &Device)| {
        let used = used_millis.get(position).copied();
        format!("{}: {}", named(&place(device), &device.model), part(used, device.millis.into()))
    };
    devices.iter().enumerate().map(line).collect()
}

/// What tasks hold of devices that are not among the machine's any more, as after its agent found one less: `gpu[1] a100: 1/0, not there any more`.
/// What they wait for is held by others still.
pub(crate) fn missing_device_lines<'a>(
    devices: &[Device],
    held: impl Iterator<Item = &'a Device>,
    waited_for: impl Iterator<Item = &'a Device>,
) -> Vec<String> {
    let is_there = |one: &Device| devices.iter().any(|there| (&there.kind, there.index) == (&one.kind, one.index));
    let mut missing: BTreeMap<(&str, u32), (&Device, i64)> = BTreeMap::new();
    for (one, sign) in held.map(|one| (one, 1)).chain(waited_for.map(|one| (one, -1))) {
        if !is_there(one) {
            missing.entry((&one.kind, one.index)).or_insert((one, 0)).1 += sign * i64::from(one.millis);
        }
    }
    let line = |(one, millis): (&Device, i64)| {
        format!("{}: {}, not there any more", named(&place(one), &one.model), part(Some(millis), 0))
    };
    missing.into_values().filter(|(_, millis)| *millis > 0).map(line).collect()
}

fn place(device: &Device) -> String {
    format!("{}[{}]", device.kind, device.index)
}

fn named(name: &str, model: &str) -> String {
    if model.is_empty() { name.to_owned() } else { format!("{name} {model}") }
}

/// The name of a device, with how much of it where that is not all.
fn part_of(device: &Device, name: String) -> String {
    if device.millis == 1000 { name } else { format!("{} of {name}", cpu(device.millis.into())) }
}

/// "Used/all"; a dash where a server of before does not tell what is used.
fn part(used_millis: Option<i64>, all_millis: i64) -> String {
    format!("{}/{}", used_millis.map_or_else(|| "-".to_owned(), cpu), cpu(all_millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(kind: &str, index: u32, millis: i32, model: &str) -> Device {
        Device { kind: kind.to_owned(), index, millis, model: model.to_owned() }
    }

    #[test]
    fn equal_devices_that_a_group_asks_for_are_told_together() {
        let asked = [device("gpu", 0, 1000, ""), device("gpu", 0, 500, "a100"), device("gpu", 0, 1000, "")];
        assert_eq!(wanted(&asked), ["2 gpu", "500m of gpu a100"]);
    }

    // Who had a device that the machine lost was seen nowhere but in the list of allocations.
    #[test]
    fn devices_that_tasks_hold_and_the_machine_lost_are_told() {
        let gpu = |index, millis| device("gpu", index, millis, "");
        let there = [gpu(0, 1000), gpu(1, 1000)];
        let held = [gpu(0, 500), gpu(3, 500), gpu(1, 1000), gpu(3, 250), device("gpu", 4, 1000, "a100"), gpu(5, 1000)];
        let told = |waited_for: &[Device]| missing_device_lines(&there, held.iter(), waited_for.iter());
        let missing = [
            "gpu[3]: 750m/0, not there any more",
            "gpu[4] a100: 1/0, not there any more",
            "gpu[5]: 1/0, not there any more",
        ];
        assert_eq!(told(&[]), missing);
        assert_eq!(told(&[gpu(3, 250)])[0], "gpu[3]: 500m/0, not there any more", "a successor counts once");
        assert_eq!(told(&[gpu(5, 1000)]), missing[..2]);
        assert!(missing_device_lines(&there, there.iter(), [].iter()).is_empty());
    }

    #[test]
    fn people_see_which_devices_and_how_much_of_them() {
        let gpu = |index, millis| device("gpu", index, millis, "");
        assert_eq!(names(&[gpu(0, 1000), gpu(1, 500)]), "gpu[0], 500m of gpu[1]");
        assert_eq!(names(&[]), "-");
        let mixed = [gpu(0, 1000), gpu(1, 1000), device("gpu", 2, 1000, "a100"), device("npu", 0, 500, "")];
        assert_eq!(parts(&mixed, &[1000, 500, 0, 0]), "gpu=1500m/2,gpu a100=0/1,npu=0/500m");
        assert_eq!(parts(&[], &[]), "-");
        assert_eq!(device_lines(&mixed[1..3], &[500, 0]), ["gpu[1]: 500m/1", "gpu[2] a100: 0/1"]);
        // A server that does not tell is not taken to say that all are free.
        assert_eq!(
            (parts(&mixed[..2], &[]), device_lines(&mixed[..1], &[])),
            ("gpu=-/2".into(), vec!["gpu[0]: -/1".into()])
        );
    }
}
