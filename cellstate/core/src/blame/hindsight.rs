//! What happened on machines after the base of the transaction that is being resolved: walked once for each machine that refused
//! claims ask about, and sorted so that each of these looks only at what it names.
//!
//! Good for one transaction: neither the cell nor the ring changes meanwhile. What the transaction itself promises, stops or evicts
//! must not come in here: it differs from claim to claim.

mod suspects;

use std::cell::{OnceCell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::repeat;
use std::rc::Rc;
use std::sync::Arc;

use plenum_model::{
    AllocationId, AllocationRef, Cell, DIMENSIONS, DYNAMIC_PORTS, Device, DeviceRoom, JobId, Resource, Resources,
    Revision, Room, SessionId, TakeOver, TaskTraces, device_rooms,
};

pub(crate) use self::suspects::{Suspect, Suspects, Who};
use super::group_events::{Changed, GroupEvents};
use super::ring::{Change, ChangeKind, Kinds, MachineEvent, Ring, Since, UNKNOWN_TASK, Whose};
use crate::derived::occupies;
use crate::resolve::preempt::{Heirs, add, nothing_of};

/// Changes that are gone through anew for each claim that checks them one by one; of longer walks the answer is kept.
const WALK_ANEW: usize = 64;

/// What is known of machines so far, by slot.
#[derive(Debug, Default)]
pub(crate) struct Hindsight<'a> {
    machines: RefCell<BTreeMap<u32, Rc<Past<'a>>>>,
    /// Whether others changed a machine, where that took a long walk.
    changed: RefCell<BTreeMap<u32, Option<bool>>>,
    heirs: RefCell<BTreeMap<u32, Rc<Heirs>>>,
    groups: OnceCell<Option<Changed>>,
}

impl<'a> Hindsight<'a> {
    /// What happened on a machine above `base`, which is the same for the whole transaction.
    pub(crate) fn of(&self, cell: &'a Cell, ring: &'a Ring, machine: u32, base: Revision) -> Rc<Past<'a>> {
        let mut machines = self.machines.borrow_mut();
        machines.entry(machine).or_insert_with(|| Rc::new(Past::new(cell, ring.since(machine, base), machine))).clone()
    }

    /// As [`Ring::changed_by_others`], for the one session, of the one scheduler, whose transaction it is.
    pub(crate) fn changed_by_others(
        &self,
        ring: &Ring,
        machine: u32,
        base: Revision,
        (session, scheduler): (SessionId, (u16, Revision)),
    ) -> Option<bool> {
        if let Some(&known) = self.changed.borrow().get(&machine) {
            return known;
        }
        let (changed, walked) = ring.changed_by_others(machine, base, session, scheduler);
        if walked > WALK_ANEW {
            self.changed.borrow_mut().insert(machine, changed);
        }
        changed
    }

    /// The groups and tasks that changed above `base`, of all jobs; `None` where some of that is forgotten.
    pub(crate) fn groups(&self, events: &GroupEvents, base: Revision) -> Option<&Changed> {
        self.groups.get_or_init(|| events.since(base)).as_ref()
    }

    /// Who takes over from whom on a machine, by what was decided before this transaction.
    pub(crate) fn heirs(&self, cell: &Cell, machine: u32) -> Rc<Heirs> {
        self.heirs.borrow_mut().entry(machine).or_insert_with(|| Rc::new(Heirs::on(cell, machine))).clone()
    }
}

/// What happened on one machine. What takes a pass over all of it is found when the first claim asks.
#[derive(Debug)]
pub(crate) struct Past<'a> {
    cell: &'a Cell,
    machine: u32,
    since: Since<'a>,
    /// By word, the position of the newest event.
    words: OnceCell<BTreeMap<&'static str, usize>>,
    first_change: OnceCell<Option<usize>>,
    by_others: OnceCell<Option<usize>>,
    /// By the place of its kind, the position of the newest event that left less of some device.
    lost_devices: OnceCell<[Option<usize>; Kinds::PLACES]>,
    newest_take: OnceCell<Option<usize>>,
    allocations_more: OnceCell<i64>,
    take_by_others: OnceCell<Option<usize>>,
    granted: OnceCell<BTreeSet<AllocationId>>,
    released: OnceCell<BTreeMap<AllocationId, u32>>,
    room: OnceCell<RoomTaken>,
    /// By resource, who took some of it.
    takers: [OnceCell<Suspects<'a>>; DIMENSIONS],
    rows: OnceCell<Vec<AllocationRef<'a>>>,
    handed_over: OnceCell<BTreeMap<AllocationId, TakeOver>>,
    unknown: OnceCell<Vec<Unknown<'a>>>,
    devices: OnceCell<Vec<i64>>,
    /// By kind of device, by model, and by device, who has some.
    device_takers: OnceCell<BTreeMap<Devices, Suspects<'a>>>,
    ports: OnceCell<PortTakers>,
    /// By port, who had it at the base, as far as allocations go.
    port_holders: OnceCell<BTreeMap<u16, Vec<AllocationId>>>,
    fewer_ports: OnceCell<bool>,
}

/// Devices of a kind: all of them, those of a model, or the one with an index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Devices {
    Of(Arc<str>),
    OfModel(Arc<str>, Arc<str>),
    One(Arc<str>, u32),
}

/// An unknown task of a machine, with when it was found, if that was after the base.
#[derive(Debug)]
struct Unknown<'a> {
    found: Option<Revision>,
    traces: &'a TaskTraces,
}

/// By how much a machine's room shrank since the base, when all holds are in the way.
#[derive(Debug)]
struct RoomTaken {
    taken: Room,
    /// By the jobs that hold room, or did: what its hold grew, negative where it took room.
    holds: BTreeMap<JobId, Room>,
}

/// Those whose holds of a machine are free room for a claim, as far as these changed since the base.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    /// Sorted, each once.
    pub(crate) jobs: Vec<JobId>,
    /// How much their holds grew, all in all; negative where they took room.
    grown: Room,
}

/// Positions in the rows of those who were granted last of all who have a port.
#[derive(Debug, Default)]
struct PortTakers {
    /// A dynamic one.
    any: Option<usize>,
    by_port: BTreeMap<u16, usize>,
    /// When the newest unknown task with a dynamic one was found, and the one with each port: of those that were found after the base.
    any_unknown: Option<Revision>,
    unknown: BTreeMap<u16, Revision>,
}

impl<'a> Past<'a> {
    fn new(cell: &'a Cell, since: Since<'a>, machine: u32) -> Self {
        Self {
            cell,
            machine,
            since,
            words: OnceCell::new(),
            first_change: OnceCell::new(),
            by_others: OnceCell::new(),
            lost_devices: OnceCell::new(),
            newest_take: OnceCell::new(),
            allocations_more: OnceCell::new(),
            take_by_others: OnceCell::new(),
            granted: OnceCell::new(),
            released: OnceCell::new(),
            room: OnceCell::new(),
            takers: Default::default(),
            rows: OnceCell::new(),
            handed_over: OnceCell::new(),
            unknown: OnceCell::new(),
            devices: OnceCell::new(),
            device_takers: OnceCell::new(),
            ports: OnceCell::new(),
            port_holders: OnceCell::new(),
            fewer_ports: OnceCell::new(),
        }
    }

    /// False: some of it was forgotten.
    pub(crate) const fn is_complete(&self) -> bool {
        self.since.complete
    }

    /// False: of some of it nobody knows any more how much it took.
    pub(crate) const fn knows_amounts(&self) -> bool {
        self.since.complete && self.since.amounts
    }

    fn changes(&self, kind: ChangeKind) -> impl Iterator<Item = &'a Change> {
        self.since.changes.iter().copied().filter(move |change| change.kind == kind)
    }

    /// The newest event of the machine itself that did not only give something back, nor was about a hold of the scheduler whose transaction it
    /// is: that with a number, since a revision.
    pub(crate) fn change_by_others(&self, (scheduler, named): (u16, Revision)) -> Option<(Revision, MachineEvent)> {
        let events = &self.since.events;
        let by_others = |(revision, event): &(Revision, MachineEvent)| {
            let is_own = event.holder.is_some_and(|holder| holder.scheduler == Some(scheduler)) && *revision >= named;
            !is_own && !event.is_release()
        };
        let position = self.by_others.get_or_init(|| events.iter().position(by_others));
        position.and_then(|position| events.get(position).copied())
    }

    /// The newest event with one of these words.
    pub(crate) fn event_of(&self, words: &[&'static str]) -> Option<(Revision, MachineEvent)> {
        let newest = self.words.get_or_init(|| {
            let mut newest = BTreeMap::new();
            for (position, (_, event)) in self.since.events.iter().enumerate() {
                newest.entry(event.word).or_insert(position);
            }
            newest
        });
        let position = words.iter().filter_map(|word| newest.get(word)).min()?;
        self.since.events.get(*position).copied()
    }

    /// The oldest event of the machine itself: what that was before it, it was at the base, as far as the ring goes.
    pub(crate) fn first_change(&self) -> Option<MachineEvent> {
        let events = &self.since.events;
        let is_own = |(_, event): &(Revision, MachineEvent)| event.whose() == Whose::Machine;
        let position = self.first_change.get_or_init(|| events.iter().rposition(is_own));
        position.and_then(|position| events.get(position)).map(|(_, event)| *event)
    }

    /// How many allocations more the machine has than at the base.
    pub(crate) fn allocations_more(&self) -> i64 {
        let more = |change: &&Change| match change.kind {
            ChangeKind::Take => 1,
            ChangeKind::Release => -1,
            ChangeKind::Machine => 0,
        };
        *self.allocations_more.get_or_init(|| self.since.changes.iter().map(more).sum())
    }

    /// The newest event that left the machine less of some device of a kind.
    pub(crate) fn loss_of_devices(&self, kind: &str) -> Option<(Revision, MachineEvent)> {
        let newest = self.lost_devices.get_or_init(|| {
            let mut newest = [None; Kinds::PLACES];
            for (position, (_, event)) in self.since.events.iter().enumerate() {
                for place in event.lost_devices.places() {
                    newest[place].get_or_insert(position);
                }
            }
            newest
        });
        newest[Kinds::place_of(kind)].and_then(|position| self.since.events.get(position).copied())
    }

    /// The newest grant.
    pub(crate) fn newest_take(&self) -> Option<&'a Change> {
        let changes = &self.since.changes;
        let is_take = |change: &&Change| change.kind == ChangeKind::Take;
        let position = self.newest_take.get_or_init(|| changes.iter().position(is_take));
        position.and_then(|position| changes.get(position).copied())
    }

    /// The newest grant to others than the session whose transaction it is.
    pub(crate) fn take_by_others(&self, session: SessionId) -> Option<&'a Change> {
        let by_others = |change: &&Change| change.kind == ChangeKind::Take && change.session != session.0;
        let position = self.take_by_others.get_or_init(|| self.since.changes.iter().position(by_others));
        position.and_then(|position| self.since.changes.get(position).copied())
    }

    /// Whatever was granted since, also if it has ended.
    fn granted(&self) -> &BTreeSet<AllocationId> {
        self.granted.get_or_init(|| self.changes(ChangeKind::Take).map(Change::allocation).collect())
    }

    /// What the shape of an allocation was that was there at the base and has ended since.
    pub(crate) fn released(&self, id: AllocationId) -> Option<Resources> {
        let released = self.released.get_or_init(|| {
            let was_there = |change: &&Change| !self.granted().contains(&change.allocation());
            let ended = self.changes(ChangeKind::Release).filter(was_there);
            ended.map(|change| (change.allocation(), change.shape)).collect()
        });
        self.cell.shapes().get(*released.get(&id)? as usize).copied()
    }

    fn room_taken(&self) -> &RoomTaken {
        self.room.get_or_init(|| {
            let taken = self.since.room_taken(self.cell);
            let mut holds = BTreeMap::<JobId, Room>::new();
            for (event, holder) in self.since.events.iter().filter_map(|(_, event)| Some((event, event.holder?))) {
                let sum = holds.entry(holder.job).or_default();
                (0..DIMENSIONS).for_each(|dimension| sum.0[dimension] += event.grown.0[dimension]);
            }
            RoomTaken { taken, holds }
        })
    }

    /// The room that the machine had at the base, given what it has free now: what its owners hold is free in both.
    pub(crate) fn room_at_base(&self, mut now: Room, owners: &Owners) -> Room {
        for room in [&self.room_taken().taken, &owners.grown] {
            (0..DIMENSIONS).for_each(|dimension| now.0[dimension] += room.0[dimension]);
        }
        now
    }

    /// Notes one of those whose holds are free room, if its hold of the machine changed.
    pub(crate) fn note_owner(&self, owners: &mut Owners, job: JobId) {
        let Some(grown) = self.room_taken().holds.get(&job) else { return };
        if let Err(place) = owners.jobs.binary_search(&job) {
            owners.jobs.insert(place, job);
            (0..DIMENSIONS).for_each(|dimension| owners.grown.0[dimension] += grown.0[dimension]);
        }
    }

    /// Who took some of a resource: live allocations, and what left less of it.
    pub(crate) fn takers(&self, resource: Resource) -> &Suspects<'a> {
        self.takers[resource.index()].get_or_init(|| {
            let takers = self.changes(ChangeKind::Take).filter_map(|change| {
                let amount = self.cell.shapes().get(change.shape as usize)?.get(resource);
                let live = self.cell.allocation(change.allocation()).is_some();
                (amount > 0 && live).then_some(Suspect { revision: change.revision, amount, who: Who::Grant(change) })
            });
            Suspects::of(takers.chain(self.shrunk(resource)).collect())
        })
    }

    /// What left less of a resource, as far as it did not come back since: nobody lacks room for a hold or an unknown task that has ended, nor for
    /// what a machine has again.
    fn shrunk(&self, resource: Resource) -> Vec<Suspect<'a>> {
        let mut given_back = BTreeMap::<Whose, i64>::new();
        let mut shrunk = Vec::new();
        // Newest first: what comes back is taken off whatever took last before it.
        for &(revision, event) in &self.since.events {
            let back = given_back.entry(event.whose()).or_default();
            *back = back.saturating_add(event.grown.get(resource));
            if *back < 0 {
                let who = Who::Event(event.word, event.holder.map(|holder| holder.job));
                shrunk.push(Suspect { revision, amount: back.unsigned_abs(), who });
                *back = 0;
            }
        }
        shrunk
    }

    /// Live allocations that were granted on the machine, newest first as far as the ring goes.
    fn rows(&self) -> &[AllocationRef<'a>] {
        let live = |change: &Change| self.cell.allocation(change.allocation());
        self.rows.get_or_init(|| self.changes(ChangeKind::Take).filter_map(live).collect())
    }

    /// What those who were granted since take over from somebody, and is not there yet: he had it at the base.
    pub(crate) fn handed_over_by(&self, victim: AllocationId) -> Option<&TakeOver> {
        let handed_over = self.handed_over.get_or_init(|| {
            let mut sums = BTreeMap::new();
            let extras = self.rows().iter().filter_map(|found| found.extra);
            for entry in extras.flat_map(|extra| &extra.takes_over) {
                add(sums.entry(entry.victim).or_insert_with(|| nothing_of(entry.victim)), entry);
            }
            sums
        });
        handed_over.get(&victim)
    }

    /// The unknown tasks that are in anybody's way, newest first. The ring knows when some were found, and not which: as many of the newest are
    /// those. Where one of them has ended, one that was there before counts in its place.
    fn unknown(&self) -> &[Unknown<'a>] {
        self.unknown.get_or_init(|| {
            let tasks = self.cell.unknown_on(self.machine).map(|(_, task)| task);
            let mut tasks: Vec<_> = tasks.filter(|task| occupies(&task.traces)).collect();
            tasks.sort_by_key(|task| Reverse(task.since));
            let events = self.since.events.iter().filter(|(_, event)| event.word == UNKNOWN_TASK);
            let found = events.map(|(revision, _)| Some(*revision)).chain(repeat(None));
            tasks.into_iter().zip(found).map(|(task, found)| Unknown { found, traces: &task.traces }).collect()
        })
    }

    /// Those of them that were found since, newest first.
    fn found(&self) -> impl Iterator<Item = (Revision, &'a TaskTraces)> {
        self.unknown().iter().filter_map(|task| Some((task.found?, task.traces)))
    }

    /// The devices that the machine had free at the base, given what it has free of them now.
    pub(crate) fn devices_at_base(&self, now: &[DeviceRoom]) -> Vec<DeviceRoom> {
        let grown = self.devices.get_or_init(|| {
            let Some(machine) = self.cell.machine_in(self.machine) else { return Vec::new() };
            let mut rooms = device_rooms(self.cell, machine);
            rooms.iter_mut().for_each(|room| room.free_millis = 0);
            let mut rooms = self.since.devices_at_base(rooms);
            for device in self.found().flat_map(|(_, task)| &task.devices) {
                let room = rooms.iter_mut().find(|room| room.kind == device.kind && room.index == device.index);
                room.into_iter().for_each(|room| room.free_millis += i64::from(device.millis));
            }
            rooms.into_iter().map(|room| room.free_millis).collect()
        });
        let mut rooms = now.to_vec();
        rooms.iter_mut().zip(grown).for_each(|(room, grown)| room.free_millis += grown);
        rooms
    }

    /// Who has some of these devices; `None`: nobody.
    pub(crate) fn device_takers(&self, devices: &Devices) -> Option<&Suspects<'a>> {
        let takers = self.device_takers.get_or_init(|| {
            let known =
                self.cell.machine_in(self.machine).map(|machine| machine.devices.as_slice()).unwrap_or_default();
            let model = |device: &Device| {
                let known = known.iter().find(|known| known.kind == device.kind && known.index == device.index);
                known.unwrap_or(device).model.clone()
            };
            let mut takers: BTreeMap<Devices, Vec<Suspect<'a>>> = BTreeMap::new();
            let mut note = |devices: &mut dyn Iterator<Item = &Device>, revision: Revision, who: Who<'a>| {
                let mut sums: BTreeMap<Devices, u64> = BTreeMap::new();
                for device in devices.filter(|device| device.millis > 0) {
                    let kind = || device.kind.clone();
                    let those = [
                        Devices::Of(kind()),
                        Devices::OfModel(kind(), model(device)),
                        Devices::One(kind(), device.index),
                    ];
                    those.into_iter().for_each(|those| *sums.entry(those).or_default() += u64::from(device.millis));
                }
                for (those, amount) in sums {
                    takers.entry(those).or_default().push(Suspect { revision, amount, who });
                }
            };
            for found in self.rows() {
                let mut devices = found.extra.into_iter().flat_map(|extra| &extra.devices);
                note(&mut devices, found.row.created, Who::Row(*found));
            }
            for (revision, task) in self.found() {
                note(&mut task.devices.iter(), revision, Who::Event(UNKNOWN_TASK, None));
            }
            takers.into_iter().map(|(those, all)| (those, Suspects::of(all))).collect()
        });
        takers.get(devices)
    }

    /// Who had each port at the base: allocations that are there still, and those that have ended since. Of unknown tasks that have ended
    /// nobody remembers the ports.
    fn port_holders(&self) -> &BTreeMap<u16, Vec<AllocationId>> {
        self.port_holders.get_or_init(|| {
            let mut holders: BTreeMap<u16, Vec<AllocationId>> = BTreeMap::new();
            let mut note = |id: AllocationId, ports: &mut dyn Iterator<Item = u16>| {
                if !self.granted().contains(&id) {
                    ports.for_each(|port| holders.entry(port).or_default().push(id));
                }
            };
            for (position, detail) in &self.since.details {
                let change = self.since.changes[*position];
                if change.kind == ChangeKind::Release {
                    note(change.allocation(), &mut detail.ports.iter().copied());
                }
            }
            let tenants = self.cell.in_use(self.machine).map(|used| used.tenants.as_slice()).unwrap_or_default();
            for found in tenants.iter().filter_map(|&slot| self.cell.allocation_in(slot)) {
                let ports = found.extra.into_iter().flat_map(|extra| &extra.ports);
                note(found.id, &mut ports.map(|port| port.number));
            }
            holders
        })
    }

    /// Who had a port at the base.
    pub(crate) fn holders_of(&self, port: u16) -> &[AllocationId] {
        self.port_holders().get(&port).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether more of the dynamic ports are in use than at the base.
    pub(crate) fn has_fewer_ports(&self) -> bool {
        *self.fewer_ports.get_or_init(|| {
            let unknown = self.unknown().iter().filter(|task| task.found.is_none());
            let unknown = unknown.flat_map(|task| &task.traces.ports).map(|port| port.number);
            let had: BTreeSet<u16> = self.port_holders().keys().copied().chain(unknown).collect();
            let mut has = self.cell.in_use(self.machine).map(|used| used.ports.clone()).unwrap_or_default();
            has.dedup();
            has.iter().filter(|port| DYNAMIC_PORTS.contains(port)).count() > had.range(DYNAMIC_PORTS).count()
        })
    }

    /// Who got a port last; 0 for any dynamic one.
    pub(crate) fn port_taker(&self, port: u16) -> Option<Suspect<'a>> {
        let PortTakers { any, by_port, any_unknown, unknown } = self.ports.get_or_init(|| {
            let mut takers = PortTakers::default();
            for (position, found) in self.rows().iter().enumerate() {
                for port in found.extra.into_iter().flat_map(|extra| &extra.ports) {
                    if DYNAMIC_PORTS.contains(&port.number) {
                        takers.any.get_or_insert(position);
                    }
                    takers.by_port.entry(port.number).or_insert(position);
                }
            }
            for (revision, task) in self.found() {
                for port in task.ports.iter().map(|port| port.number) {
                    if DYNAMIC_PORTS.contains(&port) {
                        takers.any_unknown.get_or_insert(revision);
                    }
                    takers.unknown.entry(port).or_insert(revision);
                }
            }
            takers
        });
        let position = if port == 0 { *any } else { by_port.get(&port).copied() };
        let row = position.and_then(|position| self.rows().get(position)).map(|found| Suspect {
            revision: found.row.created,
            amount: 1,
            who: Who::Row(*found),
        });
        let unknown = if port == 0 { *any_unknown } else { unknown.get(&port).copied() };
        let unknown = unknown.map(|revision| Suspect { revision, amount: 1, who: Who::Event(UNKNOWN_TASK, None) });
        // Of those that came with the same revision, the one that is known.
        match (row, unknown) {
            (Some(row), Some(unknown)) if unknown.revision <= row.revision => Some(row),
            (row, unknown) => unknown.or(row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_passed_once_for_a_transaction() {
        let (cell, ring) = (Cell::default(), Ring::new(8, Revision(0)));
        let hindsight = Hindsight::default();
        let [past, again, other] = [1, 1, 2].map(|machine| hindsight.of(&cell, &ring, machine, Revision(0)));
        assert!(Rc::ptr_eq(&past, &again) && !Rc::ptr_eq(&past, &other));
        let [heirs, again, other] = [1, 1, 2].map(|machine| hindsight.heirs(&cell, machine));
        assert!(Rc::ptr_eq(&heirs, &again) && !Rc::ptr_eq(&heirs, &other));
    }
}
