//! Machines: what agents register and report, and what deltas say of a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_model::{
    AllocationState, Attributes, Command, Deadline, Device, FoundMachine, Inventory, LogTime, Machine, MachineId,
    MachineState, Resources, Revision, TaskTraces, Transition, Unfit,
};

use super::enums::Known;
use super::resources::{list, resources};
use super::{each, required};
use crate::bounds::{self, ATTRIBUTES_MAX, DEVICES_MAX, REPORTED_MACHINES_MAX, TEXT_BYTES_MAX, TRANSITIONS_MAX};
use crate::error::{Invalid, Within};
use crate::{names, v1};

/// The command of an agent that reports for service. Reasons that are too long are cut.
///
/// # Errors
/// Names the field that breaks a rule.
pub fn register(wire: v1::RegisterMachine) -> Result<Command, Invalid> {
    bounds::at_most("inventory", "allocations", wire.inventory.len(), TRANSITIONS_MAX)?;
    Ok(Command::RegisterMachine(FoundMachine {
        name: names::machine_name("name", &wire.name)?,
        boot_id: names::principal("boot_id", &wire.boot_id)?,
        capacity: resources("capacity", wire.capacity)?,
        attributes: Arc::new(attributes_from_wire(&wire.attributes)?),
        devices: devices(wire.devices)?,
        inventory: each("inventory", wire.inventory, Inventory::try_from)?,
        seen: Revision(wire.seen_revision),
    }))
}

/// Why an agent wants no new claims, as the wire has it.
#[must_use]
pub fn unfit_to_wire(unfit: Option<Unfit>) -> i32 {
    unfit.map_or(v1::Unfit::Unspecified, Into::into).into()
}

/// Why an agent wants no new claims; `None`: it does.
///
/// # Errors
/// Names the field when it is none of the known reasons.
pub fn unfit(field: &str, number: i32) -> Result<Option<Unfit>, Invalid> {
    if number == 0 { Ok(None) } else { Unfit::known(field, number).map(Some) }
}

/// The transitions that an agent reports, for the command that gathers those of many. Reasons that are too long are cut.
///
/// # Errors
/// Names the field that breaks a rule.
pub fn transitions(wire: v1::ReportRequest) -> Result<Vec<Transition>, Invalid> {
    bounds::at_most("transitions", "transitions", wire.transitions.len(), TRANSITIONS_MAX)?;
    let machine = bounds::machine("machine", wire.machine)?;
    let epoch = bounds::epoch("epoch", wire.epoch)?;
    let mut reasons = Reasons::default();
    each("transitions", wire.transitions, |wire| {
        Ok(Transition {
            machine,
            epoch,
            allocation: bounds::allocation("allocation", wire.allocation)?,
            state: reported("state", wire.state)?,
            ready: wire.ready,
            exit_code: wire.exit_code,
            restarts: wire.restarts,
            reason: reasons.cut(&wire.reason),
        })
    })
}

/// What a machine uses, as its agent says: amounts that a machine may have.
///
/// # Errors
/// Names the field that breaks a rule.
pub fn telemetry(wire: Option<v1::MachineTelemetry>) -> Result<Option<v1::MachineTelemetry>, Invalid> {
    if let Some(used) = wire.as_ref().and_then(|telemetry| telemetry.used.clone()) {
        Resources::try_from(used).within("used").within("telemetry")?;
    }
    Ok(wire)
}

/// Reasons of transitions. Nearly all are the same, empty or not: one copy of that is shared, as each would be an allocation.
#[derive(Default)]
pub(super) struct Reasons {
    last: Option<Arc<str>>,
}

impl Reasons {
    /// One that an agent tells. That it is too long must not keep the rest of its report from the cell.
    fn cut(&mut self, reason: &str) -> Arc<str> {
        self.shared(names::cut_reason(reason))
    }

    /// One that was logged.
    pub(super) fn checked(&mut self, reason: &str) -> Result<Arc<str>, Invalid> {
        names::short("reason", reason.len(), TEXT_BYTES_MAX)?;
        Ok(self.shared(reason))
    }

    fn shared(&mut self, reason: &str) -> Arc<str> {
        match &self.last {
            // Nearly all are empty, and to compare nothing with nothing is dear: the C library's comparison of bytes loads them under an
            // empty mask, from where an empty text of Rust's may stand, which is no memory at all. That is 40 ns of the processor's.
            Some(last) if last.is_empty() && reason.is_empty() => last.clone(),
            Some(last) if **last == *reason => last.clone(),
            _ => {
                let new: Arc<str> = if reason.is_empty() { Arc::default() } else { reason.into() };
                self.last = Some(new.clone());
                new
            }
        }
    }
}

/// A machine of a report about many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedMachine {
    /// Which one.
    pub machine: MachineId,
    /// In which epoch its agent is.
    pub epoch: u32,
    /// Which agent it is; empty for those who don't say. Not checked here.
    pub instance: String,
    /// The newest revision that its agent has seen; 0: it doesn't say.
    pub revision: u64,
    /// Of which incarnation of the cell.
    pub incarnation: u64,
}

/// Whether a machine's agent wants new claims there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitness {
    /// Whose.
    pub machine: MachineId,
    /// In which epoch.
    pub epoch: u32,
    /// Why not; `None`: it does.
    pub unfit: Option<Unfit>,
}

/// A report about many machines, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Many {
    /// Machines of which nothing was taken.
    pub refused: Vec<ReportedMachine>,
    /// What happened on all others.
    pub transitions: Vec<Transition>,
    /// Of all others; none where the report says nothing of it.
    pub fitness: Vec<Fitness>,
}

/// Takes a report about many machines apart; nothing is taken of those for which `takes` is false. Each machine is asked about once,
/// and none when the report breaks a rule.
///
/// # Errors
/// Names the field that breaks a rule.
pub fn many(wire: v1::ReportManyRequest, mut takes: impl FnMut(&ReportedMachine) -> bool) -> Result<Many, Invalid> {
    let (machines, rows) = (wire.machines.len(), wire.allocations.len());
    bounds::at_most("machines", "machines", machines, REPORTED_MACHINES_MAX)?;
    bounds::column("epochs", machines, wire.epochs.len())?;
    optional("instances", machines, wire.instances.len())?;
    optional("unfit", machines, wire.unfit.len())?;
    optional("revisions", machines, wire.revisions.len())?;
    optional("incarnations", machines, wire.incarnations.len())?;
    if wire.revisions.is_empty() != wire.incarnations.is_empty() {
        let (seen, of) = (wire.revisions.len(), wire.incarnations.len());
        return Err(Invalid::new("incarnations", "one for each of revisions", format_args!("{of} for {seen}")));
    }
    bounds::at_most("allocations", "transitions", rows, TRANSITIONS_MAX)?;
    bounds::column("of", rows, wire.of.len())?;
    bounds::column("states", rows, wire.states.len())?;
    optional("ready", rows, wire.ready.len())?;
    optional("exit_codes", rows, wire.exit_codes.len())?;
    optional("restarts", rows, wire.restarts.len())?;
    optional("reasons", rows, wire.reasons.len())?;
    let mut instances = wire.instances.into_iter();
    let mut seen = BTreeSet::new();
    let mut reported_of = Vec::with_capacity(machines);
    for (row, (machine, epoch)) in wire.machines.into_iter().zip(wire.epochs).enumerate() {
        let machine = bounds::machine("", machine).within_at("machines", row)?;
        if !seen.insert(machine) {
            return Err(Invalid::new("machines", "each machine once", format_args!("{machine} twice")));
        }
        let epoch = bounds::epoch("", epoch).within_at("epochs", row)?;
        reported_of.push(ReportedMachine {
            machine,
            epoch,
            instance: instances.next().unwrap_or_default(),
            revision: wire.revisions.get(row).copied().unwrap_or_default(),
            incarnation: wire.incarnations.get(row).copied().unwrap_or_default(),
        });
    }
    let said = reported_of.iter().zip(wire.unfit).enumerate().map(|(row, (of, number))| {
        let unfit = unfit("", number).within_at("unfit", row)?;
        Ok(Fitness { machine: of.machine, epoch: of.epoch, unfit })
    });
    let mut fitness = said.collect::<Result<Vec<_>, Invalid>>()?;
    let mut reasons = Reasons::default();
    let mut transitions = Vec::with_capacity(rows);
    for row in 0..rows {
        let place = usize::try_from(wire.of[row]).unwrap_or(usize::MAX);
        let Some(of) = reported_of.get(place) else {
            return Err(Invalid::new("of", format!("the position of one of {machines} machines"), wire.of[row]));
        };
        transitions.push(Transition {
            machine: of.machine,
            epoch: of.epoch,
            allocation: bounds::allocation("", wire.allocations[row]).within_at("allocations", row)?,
            state: reported("", wire.states[row]).within_at("states", row)?,
            ready: wire.ready.get(row).copied().unwrap_or_default(),
            exit_code: wire.exit_codes.get(row).copied().unwrap_or_default(),
            restarts: wire.restarts.get(row).copied().unwrap_or_default(),
            reason: reasons.cut(wire.reasons.get(row).map_or("", |reason| reason)),
        });
    }
    // Asked only now: a report that breaks a rule renews nothing.
    let refused: BTreeSet<MachineId> = reported_of.iter().filter(|of| !takes(of)).map(|of| of.machine).collect();
    if refused.is_empty() {
        return Ok(Many { refused: Vec::new(), transitions, fitness });
    }
    transitions.retain(|transition| !refused.contains(&transition.machine));
    fitness.retain(|said| !refused.contains(&said.machine));
    reported_of.retain(|of| refused.contains(&of.machine));
    Ok(Many { refused: reported_of, transitions, fitness })
}

/// A column that is as long as the others, or left out.
fn optional(field: &str, rows: usize, found: usize) -> Result<(), Invalid> {
    if found == 0 { Ok(()) } else { bounds::column(field, rows, found) }
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

/// Attributes as the cell has them.
pub(super) fn attributes_from_wire(wire: &BTreeMap<String, String>) -> Result<Attributes, Invalid> {
    bounds::at_most("attributes", "attributes", wire.len(), ATTRIBUTES_MAX)?;
    wire.iter()
        .map(|(name, value)| {
            // Before it stands in an error about its value.
            let known = names::attribute("attributes", name)?;
            Ok((known, names::text(name, value, TEXT_BYTES_MAX).within("attributes")?))
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
            restarts: item.restarts,
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
            reason: names::reason("reason", names::cut_reason(&wire.reason))?,
            restarts: wire.restarts,
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
            drain_deadline_micros: machine.drain_deadline.map_or(0, |deadline| deadline.time().micros),
            registered_micros: machine.registered.micros,
            epoch_began: machine.epoch_began.0,
            cordoned: machine.cordoned,
            unfit: unfit_to_wire(machine.unfit),
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
            attributes: Arc::new(attributes_from_wire(&wire.attributes)?),
            devices: devices(wire.devices)?.into(),
            boot_id: names::text("boot_id", &wire.boot_id, TEXT_BYTES_MAX)?.as_ref().into(),
            since: LogTime { micros: wire.since_micros },
            drain_deadline: bounds::optional_time("drain_deadline_micros", wire.drain_deadline_micros)?
                .and_then(Deadline::new),
            registered: LogTime { micros: wire.registered_micros },
            epoch_began: Revision(wire.epoch_began),
            cordoned: wire.cordoned,
            unfit: unfit("unfit", wire.unfit)?,
        })
    }
}
