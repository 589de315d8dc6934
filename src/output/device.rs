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
