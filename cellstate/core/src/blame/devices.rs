//! Why a claim is refused for its devices, and who took them.

use plenum_model::{
    Device, DeviceRoom, GroupShape, Machine, RefusalKind, RefusalReason, choose_devices, choosing_before, device_rooms,
    take_named_devices, take_parts,
};

use super::hindsight::{Devices, Suspects};
use super::{About, Facts, Judge, event_culprit};
use crate::resolve::preempt::{add_device, find_from, lent_within, subtract_devices};

impl Judge<'_, '_> {
    /// A claim gets no device for the one at this position of what its group declares.
    pub(super) fn no_device(&self, position: u16, about: &About<'_>) -> Facts {
        let facts = Facts::plain(RefusalKind::Misfit, RefusalReason::DeviceTaken);
        let place = usize::from(position);
        let wants =
            Wants { declared: about.shape.map_or(&[], |shape: &GroupShape| &shape.devices), named: about.devices };
        let (Some(want), Some(machine)) = (wants.declared.get(place), self.cell.machine_in(about.machine)) else {
            return facts;
        };
        let past = self.past(about.machine);
        let (mut before, mut now) = self.rooms(machine, about);
        // What a source had that has ended since, nobody remembers; that the claim fitted on it is taken for granted.
        let ended = about.sources.iter().any(|wanted| past.released(wanted.id).is_some());
        let is_seen = wants.fit(&mut before);
        let (best, is_there) = wants.best(place, want, &mut now);
        let lacking = u64::from(want.millis).saturating_sub(best);
        let index = wants.named.get(place).map(|named| named.index);
        let takers = past.device_takers(&wants.meant(place, want));
        // Nobody took what it names where that is of another model.
        let takers = takers.filter(|_| (ended || is_seen) && lacking > 0 && (index.is_none() || is_there));
        // Of several devices, those before it may lie elsewhere than they did: no more is short than was taken of all.
        let most = takers.filter(|_| is_seen).map_or(lacking, Suspects::total);
        let short_by = lacking.min(most);
        let facts = Facts { short_device: Some((want.kind.clone(), short_by)), ..facts };
        if !past.is_complete() {
            return Facts { kind: RefusalKind::Stale, ..facts };
        }
        // What is not short was refused for its model.
        let misfit = Facts { short_device: facts.short_device.clone(), ..Facts::plain(facts.kind, facts.reason) };
        let blamed = takers.map(|takers| self.blame(facts, takers, short_by, &[]));
        let blamed = blamed.filter(|blamed| !blamed.culprits.is_empty() && blamed.total >= short_by);
        // Which devices of that kind it had before nobody remembers; that the claim fitted on those is taken for granted.
        let lost = past.loss_of_devices(&want.kind).filter(|_| index.is_none() || !is_there);
        // Of one that is there, and of another model, nothing is short: then it is all that is wanted.
        let gone = if short_by == 0 { want.millis.into() } else { short_by };
        let lost = lost.map(|(revision, event)| event_culprit(revision, event.word, gone));
        match (blamed, lost) {
            (Some(blamed), _) => blamed,
            (None, Some(lost)) => misfit.blame(vec![lost], gone),
            (None, None) => misfit,
        }
    }

    /// The devices that there were for the claim at the base, and that there are, each with what those lend whose room it wanted.
    fn rooms(&self, machine: &Machine, about: &About<'_>) -> (Vec<DeviceRoom>, Vec<DeviceRoom>) {
        let mut now = device_rooms(self.cell, machine);
        let short: Vec<bool> = now.iter().map(|room| room.free_millis < 0).collect();
        take_parts(&mut now, about.promised_devices);
        let past = self.past(about.machine);
        let mut before = past.devices_at_base(&now);
        let heirs = self.hindsight.heirs(self.cell, about.machine);
        for (source, wanted) in self.sources(about) {
            let mut left = heirs.left_of(self.cell, &source).devices.clone();
            for taken in about.handed_over.iter().filter(|entry| entry.victim == source.id) {
                subtract_devices(&mut left, &taken.devices);
            }
            let lends = |device: &Device| lent_within(wanted.most, device);
            if source.row.created <= self.base {
                let mut had = left.clone();
                let since = past.handed_over_by(source.id).into_iter().flat_map(|since| &since.devices);
                since.for_each(|device| add_device(&mut had, device));
                lend(&mut before, &had, lends);
            }
            lend(&mut now, &left, lends);
        }
        // Of a device that has less than it lent, nothing is given until its tenants have gone.
        now.iter_mut().zip(short).filter(|(_, short)| *short).for_each(|(room, _)| room.free_millis = 0);
        (before, now)
    }
}

/// The devices that a claim wants: those that its group declares, or the very ones that it names for them.
struct Wants<'a> {
    declared: &'a [Device],
    named: &'a [Device],
}

impl Wants<'_> {
    /// Whether there is enough for all of them.
    fn fit(&self, rooms: &mut [DeviceRoom]) -> bool {
        if self.named.is_empty() {
            return choose_devices(rooms, self.declared).is_ok();
        }
        take_named_devices(rooms, self.named, self.declared)
    }

    /// The devices, of which somebody who took some may be to blame for the one at this position.
    fn meant(&self, position: usize, want: &Device) -> Devices {
        match self.named.get(position) {
            Some(named) => Devices::One(want.kind.clone(), named.index),
            None if want.model.is_empty() => Devices::Of(want.kind.clone()),
            None => Devices::OfModel(want.kind.clone(), want.model.clone()),
        }
    }

    /// The most that there is of one device for the one at this position, once those that come before it were served; and whether there
    /// is such a device, of the model that is wanted.
    fn best(&self, position: usize, want: &Device, rooms: &mut [DeviceRoom]) -> (u64, bool) {
        let named = self.named.get(position);
        if named.is_some() {
            take_parts(rooms, &self.named[..position]);
        } else {
            let before: Vec<Device> = choosing_before(self.declared, position).cloned().collect();
            let _ = choose_devices(rooms, &before);
        }
        let is_meant = |room: &&DeviceRoom| named.map_or_else(|| suits(room, want), |named| room.is(named));
        let mut meant = rooms.iter().filter(is_meant);
        let best = meant.clone().map(|room| room.free_millis.max(0)).max();
        let is_there = meant.any(|room| suits(room, want) && named.is_none_or(|named| suits(room, named)));
        (best.unwrap_or(0).unsigned_abs(), is_there)
    }
}

/// Whether a device is of a kind, and of a model where one is given.
fn suits(room: &DeviceRoom, want: &Device) -> bool {
    room.kind == want.kind && (want.model.is_empty() || want.model == room.model)
}

/// Adds to what is free how much is lent of each of these devices.
fn lend(rooms: &mut [DeviceRoom], devices: &[Device], lends: impl Fn(&Device) -> u32) {
    let mut at = 0;
    for device in devices {
        let place = find_from(rooms, &mut at, |room| room.is(device));
        place.into_iter().for_each(|place| rooms[place].free_millis += i64::from(lends(device)));
    }
}
