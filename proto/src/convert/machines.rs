//! Machines: what agents register and report, and what deltas say of a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    AllocationState, Attributes, Command, Device, Inventory, LogTime, Machine, MachineState, Revision, TaskTraces,
    Transition,
};

use super::enums::Known;
use super::resources::{list, resources};
use super::{each, required};
use crate::bounds::{self, ATTRIBUTES_MAX, TEXT_BYTES_MAX, TRANSITIONS_MAX};
use crate::error::{Invalid, Within};
use crate::{names, v1};

/// Devices of a machine.
const DEVICES_MAX: usize = 256;

/// The command of an agent that reports for service.
///
/// # Errors
/// Names the field that breaks a rule.
pub fn register(wire: v1::RegisterMachine) -> Result<Command, Invalid> {
    bounds::at_most("inventory", "allocations", wire.inventory.len(), TRANSITIONS_MAX)?;
    Ok(Command::RegisterMachine {
        name: names::machine_name("name", &wire.name)?,
        boot_id: names::principal("boot_id", &wire.boot_id)?,
        capacity: resources("capacity", wire.capacity)?,
        attributes: Arc::new(attributes(&wire.attributes)?),
        devices: devices(wire.devices)?,
        inventory: each("inventory", wire.inventory, Inventory::try_from)?,
        seen: Revision(wire.seen_revision),
    })
}

/// The transitions that an agent reports, for the command that gathers those of many.
///
/// # Errors
/// Names the field that breaks a rule.
pub fn transitions(wire: v1::ReportRequest) -> Result<Vec<Transition>, Invalid> {
    bounds::at_most("transitions", "transitions", wire.transitions.len(), TRANSITIONS_MAX)?;
    let machine = bounds::machine("machine", wire.machine)?;
    let epoch = bounds::epoch("epoch", wire.epoch)?;
    each("transitions", wire.transitions, |wire| {
        Ok(Transition {
            machine,
            epoch,
            allocation: bounds::allocation("allocation", wire.allocation)?,
            state: reported("state", wire.state)?,
            ready: wire.ready,
            exit_code: wire.exit_code,
            restarts: wire.restarts,
            reason: names::reason("reason", &wire.reason)?,
        })
    })
}

/// A state that an agent can bring about: starting, running, or an end.
pub(super) fn reported(field: &str, number: i32) -> Result<AllocationState, Invalid> {
    let state = AllocationState::known(field, number)?;
    if state.is_end() || matches!(state, AllocationState::Starting | AllocationState::Running) {
        Ok(state)
    } else {
        Err(Invalid::new(field, "starting, running, or an end: others are the cell's to decide", format!("{state:?}")))
    }
}

fn attributes(wire: &BTreeMap<String, String>) -> Result<Attributes, Invalid> {
    bounds::at_most("attributes", "attributes", wire.len(), ATTRIBUTES_MAX)?;
    wire.iter()
        .map(|(name, value)| {
            let value = names::text(name, value, TEXT_BYTES_MAX).within("attributes")?;
            Ok((names::attribute("attributes", name)?, value))
        })
        .collect()
}

fn devices(wire: Vec<v1::Device>) -> Result<Vec<Device>, Invalid> {
    bounds::at_most("devices", "devices", wire.len(), DEVICES_MAX)?;
    let devices = each("devices", wire, Device::try_from)?;
    let mut seen = BTreeSet::new();
    match devices.iter().find(|device| !seen.insert((&device.kind, device.index))) {
        None => Ok(devices),
        Some(twice) => {
            let found = format_args!("{} {} twice", twice.kind, twice.index);
            Err(Invalid::new("devices", "each kind and index once", found))
        }
    }
}

impl From<&Inventory> for v1::InventoryItem {
    fn from(item: &Inventory) -> Self {
        Self {
            allocation: item.allocation.to_bits(),
            state: v1::AllocationState::from(item.state).into(),
            exit_code: item.exit_code,
            reason: item.reason.to_string(),
            task: item.task.as_deref().map(Into::into),
        }
    }
}

impl TryFrom<v1::InventoryItem> for Inventory {
    type Error = Invalid;

    fn try_from(wire: v1::InventoryItem) -> Result<Self, Invalid> {
        Ok(Self {
            allocation: bounds::allocation("allocation", wire.allocation)?,
            state: AllocationState::known("state", wire.state)?,
            exit_code: wire.exit_code,
            reason: names::reason("reason", &wire.reason)?,
            task: wire.task.map(|task| TaskTraces::try_from(task).map(Arc::new)).transpose().within("task")?,
        })
    }
}

impl From<&TaskTraces> for v1::TaskTraces {
    fn from(task: &TaskTraces) -> Self {
        Self {
            namespace: task.namespace.to_string(),
            job: task.job.to_string(),
            group: task.group.to_string(),
            task_index: task.task,
            resources: Some((&task.resources).into()),
            devices: list(&task.devices),
            ports: list(&task.ports),
        }
    }
}

impl TryFrom<v1::TaskTraces> for TaskTraces {
    type Error = Invalid;

    fn try_from(wire: v1::TaskTraces) -> Result<Self, Invalid> {
        Ok(Self {
            namespace: names::name("namespace", &wire.namespace)?,
            job: names::name("job", &wire.job)?,
            group: names::name("group", &wire.group)?,
            task: bounds::up_to("task_index", wire.task_index, bounds::COUNT_MAX)?,
            resources: resources("resources", wire.resources)?,
            devices: super::resources::devices("devices", wire.devices)?,
            ports: super::resources::ports("ports", wire.ports)?,
        })
    }
}

/// Attributes as the wire has them.
pub(super) fn attributes_to_wire(attributes: &Attributes) -> BTreeMap<String, String> {
    attributes.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

impl From<&Machine> for v1::MachineChange {
    fn from(machine: &Machine) -> Self {
        Self {
            id: machine.id.to_bits(),
            name: machine.name.to_string(),
            state: v1::MachineState::from(machine.state).into(),
            epoch: machine.epoch,
            capacity: Some(machine.capacity.as_ref().into()),
            attributes: attributes_to_wire(&machine.attributes),
            devices: list(&machine.devices),
            boot_id: machine.boot_id.to_string(),
            since_micros: machine.since.micros,
            drain_deadline_micros: machine.drain_deadline.map_or(0, |deadline| deadline.micros),
            registered_micros: machine.registered.micros,
            epoch_began: machine.epoch_began.0,
            cordoned: machine.cordoned,
        }
    }
}

impl TryFrom<v1::MachineChange> for Machine {
    type Error = Invalid;

    fn try_from(wire: v1::MachineChange) -> Result<Self, Invalid> {
        let id = bounds::machine("id", wire.id)?;
        bounds::row("id", id.slot)?;
        let state = MachineState::known("state", wire.state)?;
        let gone = state == MachineState::Gone;
        let capacity = match wire.capacity {
            // Of a slot without a machine, a page has the generation alone.
            None if gone => v1::Resources::default(),
            capacity => required("capacity", "amounts of resources", capacity)?,
        };
        let bare = gone && wire.name.is_empty();
        Ok(Self {
            id,
            name: if bare { Arc::default() } else { names::machine_name("name", &wire.name)? },
            state,
            epoch: if gone { wire.epoch } else { bounds::epoch("epoch", wire.epoch)? },
            capacity: Arc::new(capacity.try_into().within("capacity")?),
            attributes: Arc::new(attributes(&wire.attributes)?),
            devices: devices(wire.devices)?.into(),
            boot_id: names::text("boot_id", &wire.boot_id, TEXT_BYTES_MAX)?.as_ref().into(),
            since: LogTime { micros: wire.since_micros },
            drain_deadline: bounds::optional_time("drain_deadline_micros", wire.drain_deadline_micros)?,
            registered: LogTime { micros: wire.registered_micros },
            epoch_began: Revision(wire.epoch_began),
            cordoned: wire.cordoned,
        })
    }
}
