//! The ring of changes: what happened on each machine lately. It tells conflict from misfit, and who the culprits are.
//!
//! Bounded: the oldest change is forgotten first, and a base older than that is *stale*. Not part of the cell: it begins empty
//! when a server opens, in production as in replay.

mod by_number;

use std::collections::BTreeSet;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    AllocationId, AllocationRow, Cell, DIMENSIONS, Device, DeviceRoom, GrantExtra, Grants, JobId, Resources, Revision,
    Room, STEPS_AHEAD, SessionId, TakeOver, TransactionId, coming,
};

use self::by_number::ByNumber;

/// No earlier change.
const NONE: u64 = u64::MAX;

/// Changes of one machine that are looked at for the claims of one transaction: beyond them a base is stale. Bounds what refusals can cost.
const WALK_MAX: usize = 4096;

/// What happened to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    /// Room was taken by a grant.
    Take,
    /// Room was given back by an end.
    Release,
    /// The machine itself changed; the details stand apart.
    Machine,
}

/// One change of one machine: 48 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    /// The change before, on the same machine.
    previous: u64,
    pub(crate) session: u64,
    pub(crate) number: u32,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) shape: u32,
    pub(crate) scheduler: u16,
    pub(crate) kind: ChangeKind,
}

impl Change {
    pub(crate) fn transaction(&self) -> TransactionId {
        TransactionId { session: SessionId(self.session), number: self.number.into() }
    }

    pub(crate) fn allocation(&self) -> AllocationId {
        AllocationId { slot: self.slot, generation: self.generation }
    }
}

/// The word for a task that an agent runs and the cell does not know, when it was found.
pub(crate) const UNKNOWN_TASK: &str = "unknown task";
/// The word for one that has ended.
pub(crate) const UNKNOWN_ENDED: &str = "unknown task ended";

/// What changed of a machine itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MachineEvent {
    /// A word for people, such as "registered", "epoch", "capacity", "cordoned", "ready", "expired", "removed", "hold".
    pub(crate) word: &'static str,
    /// By how much the capacity grew; negative where it shrank, or where room is held.
    pub(crate) grown: Room,
    /// Whose hold it is.
    pub(crate) holder: Option<Holder>,
    /// Of these kinds it has less of some device, or another model of it.
    pub(crate) lost_devices: Kinds,
    /// It took claims before. Of holds and unknown tasks nobody asks.
    pub(crate) took_claims: bool,
}

/// Kinds of devices, as places in a few bits: two kinds may have one place, and count as one then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u16);

impl Kinds {
    pub(crate) const PLACES: usize = 16;

    /// The place of a kind. Decisions go by it: it must be the same in each core.
    pub(crate) fn place_of(kind: &str) -> usize {
        // FNV-1a, of which the upper bits are mixed best.
        let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        (kind.bytes().fold(0x811c_9dc5, mix) >> 28) as usize
    }

    pub(crate) fn insert(&mut self, kind: &str) {
        self.0 |= 1 << Self::place_of(kind);
    }

    /// The places of those that are in it.
    pub(crate) fn places(self) -> impl Iterator<Item = usize> {
        (0..Self::PLACES).filter(move |place| self.0 & (1 << place) != 0)
    }
}

/// Whose room grows or shrinks with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    /// The machine itself has more or less.
    Machine,
    /// Tasks that the cell does not know occupy it.
    Unknown,
    /// The hold of this job does.
    Hold(JobId),
}

impl MachineEvent {
    /// Whose room it is about.
    pub(crate) fn whose(&self) -> Whose {
        match self.holder {
            Some(holder) => Whose::Hold(holder.job),
            None if self.word == UNKNOWN_TASK || self.word == UNKNOWN_ENDED => Whose::Unknown,
            None => Whose::Machine,
        }
    }

    /// Nothing but room comes back: a hold ends or shrinks, or an unknown task has ended.
    pub(crate) fn is_release(&self) -> bool {
        let gives = self.grown.0.iter().all(|&grown| grown >= 0);
        gives && (self.holder.is_some() || self.word == UNKNOWN_ENDED)
    }
}

/// A job that holds room, with the number of its scheduler's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) job: JobId,
    pub(crate) scheduler: Option<u16>,
}

/// The ring. Invariant: it knows every change above `floor`.
#[derive(Debug)]
pub(crate) struct Ring {
    changes: Vec<Change>,
    capacity: usize,
    /// Number of the next change; a change lives at its number modulo `capacity`.
    next: u64,
    /// That place of the next change: a division for each change would cost as much as all else about it.
    next_place: usize,
    /// By machine slot: its newest change.
    heads: Vec<u64>,
    /// Details of changes of machines, by number.
    events: ByNumber<MachineEvent>,
    /// What few grants and ends have beyond room, by number.
    details: ByNumber<Detail>,
    floor: Revision,
    /// Up to here a change may have the number of resources that it stands for no more.
    amounts_floor: Revision,
    /// Changes that were gone through for claims.
    #[cfg(test)]
    pub(crate) walked: std::cell::Cell<usize>,
}

// Each queue has an entry a change at most, and one more while that is noted: the next power of two. docs/benchmarks.md has the sums.
const _: () = assert!(size_of::<Change>() == 48 && size_of::<(u64, MachineEvent)>() <= 104);
const _: () = assert!(size_of::<(u64, Detail)>() <= 120 && size_of::<Device>() <= 40);

/// What a grant took, or an end gave back, beyond the room of its shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detail {
    /// Room that it did not take of what was free, or did not give back: it was taken over.
    pub(crate) taken_over: Resources,
    /// Devices, without what was taken over.
    pub(crate) devices: Box<[Device]>,
    /// Ports.
    pub(crate) ports: Box<[u16]>,
}

/// What a walk along a machine's changes since a base found.
#[derive(Debug)]
pub(crate) struct Since<'a> {
    /// Newest first.
    pub(crate) changes: Vec<&'a Change>,
    /// Of those changes that have some: the position in `changes`.
    pub(crate) details: Vec<(usize, &'a Detail)>,
    /// Changes of the machine itself, newest first.
    pub(crate) events: Vec<(Revision, MachineEvent)>,
    /// False: some were forgotten.
    pub(crate) complete: bool,
    /// False: how much they took is not known of all of them.
    pub(crate) amounts: bool,
}

impl Ring {
    pub(crate) fn new(capacity: usize, floor: Revision) -> Self {
        let capacity = capacity.max(1);
        Self {
            changes: Vec::new(),
            capacity,
            next: 0,
            next_place: 0,
            heads: Vec::new(),
            events: ByNumber::new(),
            details: ByNumber::new(),
            floor,
            amounts_floor: floor,
            #[cfg(test)]
            walked: std::cell::Cell::default(),
        }
    }

    #[allow(clippy::inline_always, reason = "a change is made where it stays: passed on, it is copied twice")]
    #[inline(always)]
    fn push(&mut self, machine: u32, mut change: Change) {
        let machine = machine as usize;
        if machine >= self.heads.len() {
            self.heads.resize(machine + 1, NONE);
        }
        change.previous = self.heads[machine];
        self.heads[machine] = self.next;
        if self.changes.len() < self.capacity {
            self.changes.push(change);
        } else {
            let place = self.next_place;
            plenum_model::rare!("the ring of changes forgets");
            self.floor = self.floor.max(self.changes[place].revision);
            self.changes[place] = change;
        }
        self.next += 1;
        if !(self.events.is_empty() && self.details.is_empty()) {
            self.events.forget_below(self.oldest());
            self.details.forget_below(self.oldest());
        }
        self.next_place = if self.next_place + 1 == self.capacity { 0 } else { self.next_place + 1 };
    }

    #[inline]
    fn place(&self, number: u64) -> usize {
        usize::try_from(number % self.capacity as u64).expect("below a usize")
    }

    #[inline]
    fn get(&self, number: u64) -> Option<&Change> {
        let known = number < self.next && self.next - number <= self.changes.len() as u64;
        known.then(|| &self.changes[self.place(number)])
    }

    /// The next change has these details.
    fn note_detail(&mut self, detail: Detail) {
        if detail != Detail::default() {
            self.details.push(self.next, detail);
        }
    }

    /// The number of the oldest change that it knows.
    fn oldest(&self) -> u64 {
        self.next - self.changes.len() as u64
    }

    /// Brings the newest changes of these machines into the cache.
    #[inline]
    pub(crate) fn warm(&self, machines: impl Iterator<Item = u32>) {
        machines.filter_map(|machine| self.heads.get(machine as usize)).for_each(plenum_model::prefetch);
    }

    /// Room was taken by each of these grants.
    pub(crate) fn note_grants(&mut self, revision: Revision, grants: &Grants) {
        let mut extras = grants.extras.iter().peekable();
        for (position, &machine) in grants.machines.iter().enumerate() {
            self.warm(coming(&grants.machines, position, STEPS_AHEAD).iter().copied());
            if let Some(extra) = extras.next_if(|extra| extra.claim as usize == position) {
                self.note_detail(detail_of_grant(extra));
            }
            let change = Change {
                revision,
                previous: NONE,
                session: grants.session.0,
                number: grants.number,
                slot: grants.slots[position],
                generation: grants.generations[position],
                shape: grants.shape,
                scheduler: grants.scheduler,
                kind: ChangeKind::Take,
            };
            self.push(machine, change);
        }
    }

    /// A live allocation is about to end. `ended`, where devices, ports or take-overs are in use on its machine: those that have
    /// with the same delta.
    #[inline]
    pub(crate) fn note_end(
        &mut self,
        revision: Revision,
        cell: &Cell,
        row: &AllocationRow,
        slot: u32,
        ended: Option<&BTreeSet<u32>>,
    ) {
        if let Some(ended) = ended {
            self.note_detail(detail_of_end(cell, row.machine, row.id(slot), ended));
        }
        let change = Change {
            revision,
            previous: NONE,
            session: row.session,
            number: row.number,
            slot,
            generation: row.generation,
            shape: row.shape,
            scheduler: row.scheduler,
            kind: ChangeKind::Release,
        };
        self.push(row.machine, change);
    }

    /// A machine itself changed.
    pub(crate) fn note_machine(&mut self, revision: Revision, machine: u32, event: MachineEvent) {
        self.events.push(self.next, event);
        let change = Change {
            revision,
            previous: NONE,
            session: 0,
            number: 0,
            slot: 0,
            generation: 0,
            shape: 0,
            scheduler: 0,
            kind: ChangeKind::Machine,
        };
        self.push(machine, change);
    }

    /// A number of resources that nobody had since then stands for others.
    pub(crate) fn forget_amounts(&mut self, since: Revision) {
        self.amounts_floor = self.amounts_floor.max(since);
    }

    /// What happened on a machine above `base`.
    pub(crate) fn since(&self, machine: u32, base: Revision) -> Since<'_> {
        let complete = base >= self.floor;
        let amounts = base >= self.amounts_floor;
        let mut since = Since { changes: Vec::new(), details: Vec::new(), events: Vec::new(), complete, amounts };
        let mut number = self.heads.get(machine as usize).copied().unwrap_or(NONE);
        while let Some(change) = self.get(number).filter(|change| change.revision > base) {
            if change.kind == ChangeKind::Machine {
                since.events.extend(self.events.get(number).map(|event| (change.revision, *event)));
            } else {
                if let Some(detail) = self.details.get(number) {
                    since.details.push((since.changes.len(), detail));
                }
                since.changes.push(change);
            }
            number = change.previous;
            if since.changes.len() + since.events.len() >= WALK_MAX {
                since.complete = false;
                break;
            }
        }
        self.note_walked(since.changes.len() + since.events.len());
        since
    }

    /// What happened on all machines above `base`, newest first, and whether that is all: no more than so many of the newest changes.
    pub(crate) fn all_since(&self, base: Revision, most: usize) -> (Vec<&Change>, bool) {
        let newest = (self.oldest()..self.next).rev().map(|number| &self.changes[self.place(number)]);
        let mut newest = newest.take_while(|change| change.revision > base);
        let changes: Vec<&Change> = newest.by_ref().take(most).collect();
        self.note_walked(changes.len());
        (changes, base >= self.floor && newest.next().is_none())
    }

    /// Slots of allocations that were granted on a machine above `base`, newest first, whatever became of them; `None`: too long ago
    /// to tell.
    pub(crate) fn taken_since(&self, machine: u32, base: Revision) -> Option<Vec<u32>> {
        let mut taken = Vec::new();
        let mut number = self.heads.get(machine as usize).copied().unwrap_or(NONE);
        let mut walked = 0;
        while let Some(change) = self.get(number).filter(|change| change.revision > base) {
            walked += 1;
            if walked > WALK_MAX {
                return None;
            }
            if change.kind == ChangeKind::Take {
                taken.push(change.slot);
            }
            number = change.previous;
        }
        (base >= self.floor).then_some(taken)
    }

    /// Whether anybody but this session, of this scheduler, whose number it is since `named`, granted, held or changed anything on a machine above `base`. Ends, also
    /// of holds and of unknown tasks, don't count. `None`: too long ago to tell. With how many changes were gone through for it.
    pub(crate) fn changed_by_others(
        &self,
        machine: u32,
        base: Revision,
        session: SessionId,
        (scheduler, named): (u16, Revision),
    ) -> (Option<bool>, usize) {
        let mut number = self.heads.get(machine as usize).copied().unwrap_or(NONE);
        let mut walked = 0;
        while let Some(change) = self.get(number).filter(|change| change.revision > base) {
            walked += 1;
            self.note_walked(1);
            if walked > WALK_MAX {
                return (None, walked);
            }
            match change.kind {
                ChangeKind::Machine => {
                    let event = self.events.get(number);
                    let own = |holder: Holder| {
                        let is_own = holder.scheduler == Some(scheduler) && change.revision >= named;
                        is_own || planted::is(Bug::SequenceIgnoresHolds)
                    };
                    let is_own = event.and_then(|event| event.holder).is_some_and(own);
                    if !is_own && !event.is_some_and(MachineEvent::is_release) {
                        return (Some(true), walked);
                    }
                    number = change.previous;
                }
                ChangeKind::Take if change.session != session.0 => return (Some(true), walked),
                ChangeKind::Take | ChangeKind::Release => number = change.previous,
            }
        }
        ((base >= self.floor).then_some(false), walked)
    }

    /// Counts what is gone through.
    #[inline]
    fn note_walked(&self, changes: usize) {
        #[cfg(test)]
        self.walked.set(self.walked.get() + changes);
        #[cfg(not(test))]
        let _ = changes;
    }
}

fn detail_of_grant(extra: &GrantExtra) -> Detail {
    let taken = &extra.takes_over;
    Detail {
        taken_over: taken.iter().fold(Resources::default(), |sum, entry| sum.with(&entry.amount)),
        devices: without(&extra.devices, taken.iter().flat_map(|entry| &entry.devices)).into(),
        ports: extra.ports.iter().map(|port| port.number).collect(),
    }
}

/// An end gives back what the allocation had, without what it was still to take over, and without what others took over from it.
fn detail_of_end(cell: &Cell, machine: u32, id: AllocationId, ended: &BTreeSet<u32>) -> Detail {
    let found = cell.allocation(id);
    let own = found.and_then(|found| found.extra);
    let still = |entry: &&TakeOver| !ended.contains(&entry.victim.slot);
    let own_entries: Vec<&TakeOver> = own.into_iter().flat_map(|extra| &extra.takes_over).filter(still).collect();
    let heirs = cell.in_use(machine).into_iter().flat_map(|used| used.heirs_of(id.slot));
    let heirs = heirs.filter(|slot| !ended.contains(slot));
    let others = heirs.filter_map(|slot| cell.allocation_in(slot)?.extra).flat_map(|extra| &extra.takes_over);
    let others: Vec<&TakeOver> = others.filter(|entry| entry.victim == id).collect();
    let entries = || own_entries.iter().chain(&others).copied();
    let taken_over = entries().fold(Resources::default(), |sum, entry| sum.with(&entry.amount));
    let devices = own.map(|extra| extra.devices.as_slice()).unwrap_or_default();
    let ports = own.map(|extra| extra.ports.as_slice()).unwrap_or_default();
    Detail {
        taken_over,
        devices: without(devices, entries().flat_map(|entry| &entry.devices)).into(),
        ports: ports.iter().map(|port| port.number).collect(),
    }
}

/// Devices, one of which may stand there twice, without those that were taken over.
fn without<'a>(devices: &[Device], taken: impl Iterator<Item = &'a Device>) -> Vec<Device> {
    let mut left = devices.to_vec();
    for taken in taken {
        let mut more = taken.millis;
        for same in left.iter_mut().filter(|left| left.kind == taken.kind && left.index == taken.index) {
            let part = same.millis.min(more);
            (same.millis, more) = (same.millis - part, more - part);
        }
    }
    left.retain(|device| device.millis > 0);
    left
}

impl Since<'_> {
    /// The devices that the machine had free at the base, given what it has free now.
    pub(crate) fn devices_at_base(&self, mut rooms: Vec<DeviceRoom>) -> Vec<DeviceRoom> {
        for (position, detail) in &self.details {
            let sign = if self.changes[*position].kind == ChangeKind::Take { 1 } else { -1 };
            for device in &detail.devices {
                let room = rooms.iter_mut().find(|room| room.kind == device.kind && room.index == device.index);
                room.into_iter().for_each(|room| room.free_millis += sign * i64::from(device.millis));
            }
        }
        rooms
    }

    /// By how much the machine's room shrank since the base; what is held counts as taken.
    pub(crate) fn room_taken(&self, cell: &Cell) -> Room {
        let mut room = Room::default();
        for change in &self.changes {
            let shape = cell.shapes().get(change.shape as usize).copied().unwrap_or_default();
            match change.kind {
                ChangeKind::Take => room.add(&shape),
                ChangeKind::Release => room.take(&shape),
                ChangeKind::Machine => {}
            }
        }
        for (position, detail) in &self.details {
            match self.changes[*position].kind {
                ChangeKind::Take => room.take(&detail.taken_over),
                ChangeKind::Release => room.add(&detail.taken_over),
                ChangeKind::Machine => {}
            }
        }
        for (_, event) in &self.events {
            (0..DIMENSIONS).for_each(|dimension| room.0[dimension] -= event.grown.0[dimension]);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: Change = Change {
        revision: Revision(2),
        previous: NONE,
        session: 1,
        number: 1,
        slot: 0,
        generation: 1,
        shape: 0,
        scheduler: 0,
        kind: ChangeKind::Take,
    };

    #[test]
    fn what_changed_of_machines_is_forgotten_when_only_grants_come() {
        let mut ring = Ring::new(1000, Revision(0));
        for machine in 0..1000 {
            ring.note_machine(Revision(1), machine, MachineEvent { word: "registered", ..MachineEvent::default() });
        }
        assert_eq!(ring.since(999, Revision(0)).events.len(), 1);
        (0..999).for_each(|machine| ring.push(machine, GRANT));
        assert_eq!((ring.events.len(), ring.since(999, Revision(0)).events.len()), (1, 1));
        ring.push(0, GRANT);
        assert_eq!((ring.events.len(), ring.since(999, Revision(0)).events.len()), (0, 0));
    }
}
