//! Amounts, devices, ports and room that is taken over.

use std::collections::BTreeSet;

use plenum_model::{AMOUNT_MAX, CPU_MILLIS_MAX, CUSTOM_RESOURCES, Device, Port, Resource, Resources, TakeOver};

use super::{each, required};
use crate::bounds::{self, LIST_MAX, NAME_BYTES_MAX, signed};
use crate::error::{Invalid, Within};
use crate::{names, v1};

/// Thousandths of a whole device.
pub(super) const DEVICE_MILLIS_MAX: u32 = 1000;

impl From<&Resources> for v1::Resources {
    fn from(resources: &Resources) -> Self {
        // Trailing zeros are left out: most cells name no resources, and an empty list costs no allocation.
        let used = resources.custom.iter().rposition(|&amount| amount > 0).map_or(0, |last| last + 1);
        Self {
            cpu_millis: signed(resources.cpu_millis),
            memory_bytes: signed(resources.memory_bytes),
            disk_bytes: signed(resources.disk_bytes),
            custom: resources.custom[..used].iter().map(|&amount| signed(amount)).collect(),
        }
    }
}

impl TryFrom<v1::Resources> for Resources {
    type Error = Invalid;

    fn try_from(wire: v1::Resources) -> Result<Self, Invalid> {
        bounds::at_most("custom", "named resources", wire.custom.len(), CUSTOM_RESOURCES)?;
        let mut resources = Self {
            cpu_millis: amount("cpu_millis", wire.cpu_millis, CPU_MILLIS_MAX)?,
            memory_bytes: amount("memory_bytes", wire.memory_bytes, AMOUNT_MAX)?,
            disk_bytes: amount("disk_bytes", wire.disk_bytes, AMOUNT_MAX)?,
            ..Self::default()
        };
        for (position, (mine, &theirs)) in resources.custom.iter_mut().zip(&wire.custom).enumerate() {
            *mine = amount("", theirs, AMOUNT_MAX).within_at("custom", position)?;
        }
        Ok(resources)
    }
}

fn amount(field: &str, found: i64, max: u64) -> Result<u64, Invalid> {
    u64::try_from(found)
        .ok()
        .filter(|&amount| amount <= max)
        .ok_or_else(|| Invalid::new(field, format!("0 to {max}"), found))
}

/// Amounts that must be there.
pub(super) fn resources(field: &str, wire: Option<v1::Resources>) -> Result<Resources, Invalid> {
    required(field, "amounts of resources", wire)?.try_into().within(field)
}

/// A named dimension; 0 stands for none.
pub(super) fn resource(field: &str, number: i32) -> Result<Option<Resource>, Invalid> {
    let position = usize::try_from(number).ok();
    match position.map(|number| number.checked_sub(1)) {
        Some(None) => Ok(None),
        Some(Some(position)) if position < Resource::ALL.len() => Ok(Some(Resource::ALL[position])),
        _ => Err(Invalid::new(field, "the number of a resource, or 0 for none", number)),
    }
}

/// The number of a dimension on the wire.
pub(super) fn resource_name(resource: Resource) -> v1::ResourceName {
    match resource {
        Resource::CpuMillis => v1::ResourceName::CpuMillis,
        Resource::MemoryBytes => v1::ResourceName::MemoryBytes,
        Resource::DiskBytes => v1::ResourceName::DiskBytes,
        Resource::Custom(0) => v1::ResourceName::Custom1,
        Resource::Custom(1) => v1::ResourceName::Custom2,
        Resource::Custom(2) => v1::ResourceName::Custom3,
        Resource::Custom(3) => v1::ResourceName::Custom4,
        Resource::Custom(_) => v1::ResourceName::Custom5,
    }
}

impl From<&Device> for v1::Device {
    fn from(device: &Device) -> Self {
        Self {
            kind: device.kind.to_string(),
            index: device.index,
            millis: i32::try_from(device.millis).unwrap_or(i32::MAX),
            model: device.model.to_string(),
        }
    }
}

impl TryFrom<v1::Device> for Device {
    type Error = Invalid;

    fn try_from(wire: v1::Device) -> Result<Self, Invalid> {
        let millis = u32::try_from(wire.millis).ok().filter(|&millis| millis <= DEVICE_MILLIS_MAX);
        Ok(Self {
            kind: names::attribute("kind", &wire.kind)?,
            index: wire.index,
            millis: millis.ok_or_else(|| Invalid::new("millis", format!("0 to {DEVICE_MILLIS_MAX}"), wire.millis))?,
            model: names::text("model", &wire.model, NAME_BYTES_MAX)?,
        })
    }
}

/// Devices, at most 64.
pub(super) fn devices(field: &str, wire: Vec<v1::Device>) -> Result<Vec<Device>, Invalid> {
    bounds::at_most(field, "devices", wire.len(), LIST_MAX)?;
    each(field, wire, Device::try_from)
}

impl From<&Port> for v1::Port {
    fn from(port: &Port) -> Self {
        Self { name: port.name.to_string(), number: port.number.into() }
    }
}

impl TryFrom<v1::Port> for Port {
    type Error = Invalid;

    fn try_from(wire: v1::Port) -> Result<Self, Invalid> {
        Ok(Self {
            name: names::name("name", &wire.name)?,
            number: bounds::narrow("number", wire.number, u64::from(u16::MAX))?,
        })
    }
}

/// Ports, at most 64, each name once.
pub(super) fn ports(field: &str, wire: Vec<v1::Port>) -> Result<Vec<Port>, Invalid> {
    bounds::at_most(field, "ports", wire.len(), LIST_MAX)?;
    let ports = each(field, wire, Port::try_from)?;
    let mut names = BTreeSet::new();
    match ports.iter().find(|port| !names.insert(&port.name)) {
        None => Ok(ports),
        Some(port) => Err(Invalid::new(field, "each name once", format_args!("{:?} twice", port.name))),
    }
}

impl From<&TakeOver> for v1::TakeOver {
    fn from(entry: &TakeOver) -> Self {
        Self {
            victim: entry.victim.to_bits(),
            amount: Some((&entry.amount).into()),
            devices: list(&entry.devices),
            ports: entry.ports.iter().map(|&port| port.into()).collect(),
        }
    }
}

impl TryFrom<v1::TakeOver> for TakeOver {
    type Error = Invalid;

    fn try_from(wire: v1::TakeOver) -> Result<Self, Invalid> {
        bounds::at_most("ports", "ports", wire.ports.len(), LIST_MAX)?;
        Ok(Self {
            victim: bounds::allocation("victim", wire.victim)?,
            amount: wire.amount.unwrap_or_default().try_into().within("amount")?,
            devices: devices("devices", wire.devices)?,
            ports: each("ports", wire.ports, |port| bounds::narrow("", port, u64::from(u16::MAX)))?,
        })
    }
}

/// Room that is taken over, of at most so many allocations.
pub(super) fn take_overs(field: &str, wire: Vec<v1::TakeOver>, max: usize) -> Result<Vec<TakeOver>, Invalid> {
    bounds::at_most(field, "allocations to take over from", wire.len(), max)?;
    each(field, wire, TakeOver::try_from)
}

/// Each element of a list, as the wire has it.
pub(super) fn list<'a, M, W: From<&'a M>>(model: &'a [M]) -> Vec<W> {
    model.iter().map(W::from).collect()
}
