//! What those who leave can still give to who is claimed in their place, in the books of one decision. It must not know who may leave, or why.
//!
//! As the cell reckons it: each gives only what is lacking, in the order in which a claim names them, and no more than it has. What it waits for itself is
//! not there yet, and what others took over from it is gone.

use std::collections::BTreeMap;

use plenum_model::{AllocationId, AllocationRef, Cell, Device, DeviceRoom, Resources, Room, TakeOver, choose_lent};

/// What is left of those who were asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving(BTreeMap<AllocationId, TakeOver>);

/// Those whom one claim names, with what is left of them. Nothing of it is booked before [`Leaving::book`].
#[derive(Debug)]
pub(crate) struct HandOff(Vec<TakeOver>);

impl Leaving {
    /// Those who can give something to a claim, each once.
    pub(crate) fn asked<'c>(&self, cell: &Cell, leaving: impl Iterator<Item = AllocationRef<'c>>) -> HandOff {
        let mut asked: Vec<TakeOver> = Vec::new();
        for found in leaving {
            if !asked.iter().any(|entry| entry.victim == found.id) {
                let left = self.0.get(&found.id).cloned();
                asked.push(left.unwrap_or_else(|| left_of(cell, &found)));
            }
        }
        HandOff(asked)
    }

    /// The claim is made.
    pub(crate) fn book(&mut self, hand_off: HandOff) {
        self.0.extend(hand_off.0.into_iter().map(|left| (left.victim, left)));
    }
}

impl HandOff {
    /// Takes over what of the need no room is free for; false where these have not all that is lacking. What the machine has less than it gave, or than
    /// others hold, stays theirs: all claims wait for it.
    pub(crate) fn take_room(&mut self, free: &Room, need: &Resources) -> bool {
        let (mut lacking, mut own) = (free.lack(need), free.uncovered(need));
        for left in &mut self.0 {
            let part = left.amount.at_most(&lacking);
            let taken = part.at_most(&own);
            left.amount = left.amount.without(&taken);
            (lacking, own) = (lacking.without(&part), own.without(&taken));
        }
        lacking.is_nothing()
    }

    /// Chooses devices from those that are free, with what these lend, and takes that over; gives what of the free ones is taken. `None`: too few.
    pub(crate) fn take_devices(&mut self, free: &[DeviceRoom], wanted: &[Device]) -> Option<Vec<Device>> {
        let lend = |lender: usize, rooms: &mut [DeviceRoom]| {
            let Some(left) = self.0.get(lender) else { return false };
            for device in &left.devices {
                let room = rooms.iter_mut().find(|room| room.is(device));
                room.into_iter().for_each(|room| room.free_millis += i64::from(device.millis));
            }
            true
        };
        let (chosen, lenders) = choose_lent(free, wanted, lend, |_| false).ok()?;
        let (mut free, mut own) = (free.to_vec(), Vec::new());
        for device in chosen {
            let mut lacking = device.millis;
            if let Some(room) = free.iter_mut().find(|room| room.is(&device)) {
                let there = u32::try_from(room.free_millis.max(0)).unwrap_or(u32::MAX).min(lacking);
                room.free_millis -= i64::from(there);
                lacking -= there;
            }
            if lacking < device.millis {
                own.push(Device { millis: device.millis - lacking, ..device.clone() });
            }
            for &lender in &lenders {
                let devices = self.0.get_mut(lender).into_iter().flat_map(|left| &mut left.devices);
                for left in devices.filter(|left| is_same(left, &device)) {
                    let part = left.millis.min(lacking);
                    left.millis -= part;
                    lacking -= part;
                }
            }
        }
        Some(own)
    }

    /// Takes a port over; false where none of them has it.
    pub(crate) fn take_port(&mut self, port: u16) -> bool {
        self.0.iter_mut().any(|left| {
            let place = left.ports.iter().position(|&own| own == port);
            place.map(|place| left.ports.swap_remove(place)).is_some()
        })
    }
}

/// What the mirror shows that somebody can still give.
fn left_of(cell: &Cell, found: &AllocationRef<'_>) -> TakeOver {
    let mut left = TakeOver {
        victim: found.id,
        amount: cell.resources_of(found.row),
        devices: Vec::new(),
        ports: found.extra.into_iter().flat_map(|extra| &extra.ports).map(|port| port.number).collect(),
    };
    for device in found.extra.into_iter().flat_map(|extra| &extra.devices) {
        // It may have one device twice.
        match left.devices.iter_mut().find(|sum| is_same(sum, device)) {
            Some(sum) => sum.millis = sum.millis.saturating_add(device.millis),
            None => left.devices.push(device.clone()),
        }
    }
    let awaited = found.extra.into_iter().flat_map(|extra| &extra.takes_over);
    let heirs = cell.in_use(found.row.machine).into_iter().flat_map(|used| used.heirs_of(found.id.slot));
    let taken = heirs.filter_map(|heir| cell.extra(heir)).flat_map(|extra| &extra.takes_over);
    for entry in awaited.chain(taken.filter(|entry| entry.victim == found.id)) {
        left.amount = left.amount.without(&entry.amount);
        for device in &entry.devices {
            let own = left.devices.iter_mut().find(|own| is_same(own, device));
            own.into_iter().for_each(|own| own.millis = own.millis.saturating_sub(device.millis));
        }
        left.ports.retain(|port| !entry.ports.contains(port));
    }
    left
}

fn is_same(one: &Device, other: &Device) -> bool {
    one.index == other.index && one.kind == other.kind
}
