//! Devices and ports: which ones of a machine a task gets. Planners and the committer choose with the same code.

use std::sync::Arc;

use crate::{Cell, Device, InUse, Machine};

/// Dynamic ports are chosen from these. Below stands what services ask for by number, above what kernels give to clients.
const DYNAMIC_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What is free of one device of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRoom {
    /// Such as `gpu`.
    pub kind: Arc<str>,
    /// Position among the machine's devices of its kind.
    pub index: u32,
    /// The maker's model.
    pub model: Arc<str>,
    /// Thousandths that are free. Negative only after the machine lost devices, or found tasks that nobody knew.
    pub free_millis: i64,
}

/// What is free of each device of a machine, in the machine's order.
#[must_use]
pub fn device_rooms(cell: &Cell, machine: &Machine) -> Vec<DeviceRoom> {
    let used = cell.in_use(machine.id.slot);
    let used_millis = |position: usize| used.and_then(|used| used.devices.get(position)).copied().unwrap_or(0);
    let room = |(position, device): (usize, &Device)| DeviceRoom {
        kind: device.kind.clone(),
        index: device.index,
        model: device.model.clone(),
        free_millis: i64::from(device.millis) - used_millis(position),
    };
    machine.devices.iter().enumerate().map(room).collect()
}

/// Chooses devices for a request, one for each entry of `wanted`, and takes them from `rooms`.
///
/// Each entry wants thousandths of one device of its kind, and of its model where one is given; its index does not count. Of
/// those with enough, the one with least left is taken, so that whole devices stay whole; among equals the first.
/// A device may serve two entries when both fit into it, unless they ask for whole ones.
///
/// # Errors
/// The position of the first entry that nothing is left for; `rooms` are then changed in part.
pub fn choose_devices(rooms: &mut [DeviceRoom], wanted: &[Device]) -> Result<Vec<Device>, usize> {
    let mut chosen = Vec::with_capacity(wanted.len());
    for (position, want) in wanted.iter().enumerate() {
        let suits = |room: &&mut DeviceRoom| is_of(room, want) && room.free_millis >= want.millis.into();
        let best = rooms.iter_mut().filter(suits).min_by_key(|room| room.free_millis).ok_or(position)?;
        best.free_millis -= i64::from(want.millis);
        chosen.push(Device {
            kind: best.kind.clone(),
            index: best.index,
            millis: want.millis,
            model: best.model.clone(),
        });
    }
    Ok(chosen)
}

/// Whether a device is of the wanted kind, and of the wanted model.
#[must_use]
pub(crate) fn is_of(room: &DeviceRoom, want: &Device) -> bool {
    room.kind == want.kind && (want.model.is_empty() || room.model == want.model)
}

/// Whether named devices are what a group declares: as many thousandths, of the same kinds and models, in the same order.
#[must_use]
pub fn devices_satisfy(named: &[Device], declared: &[Device]) -> bool {
    let same = |(named, declared): (&Device, &Device)| {
        named.kind == declared.kind
            && named.millis == declared.millis
            && (declared.model.is_empty() || named.model.is_empty() || named.model == declared.model)
    };
    named.len() == declared.len() && named.iter().zip(declared).all(same)
}

/// A dynamic port that is free: the first from `hint` on, around the range. `None` when all are in use.
///
/// The hint moves, so that a port that was just given back rests before somebody else gets it.
#[must_use]
pub fn choose_port(used: Option<&InUse>, spoken: &[u16], hint: u64) -> Option<u16> {
    let count = DYNAMIC_PORTS.end - DYNAMIC_PORTS.start;
    let start = u16::try_from(hint % u64::from(count)).expect("below the count");
    let free = |port: &u16| !used.is_some_and(|used| used.has_port(*port)) && !spoken.contains(port);
    (0..count).map(|step| DYNAMIC_PORTS.start + (start + step) % count).find(free)
}
