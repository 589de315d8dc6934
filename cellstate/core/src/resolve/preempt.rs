//! Room of those who leave: which allocations a claim may take over from, in which order, and how much.
//!
//! A claim may name leaving allocations, and those that its own transaction stops; a placement may name victims. Each gives only
//! what free room lacks, and a victim that gives nothing is not evicted.
//!
//! Where a machine has less than it gave, or than others hold, who leaves makes up for that first. A claim waits for as many as it takes until it fits,
//! and takes over what it needs and no more: the rest of their room stays theirs until they have gone, and free room as negative as it was.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use plenum_model::planted::{self, Bug};
use plenum_model::{
    AllocationId, AllocationRef, Cell, ClaimExtra, Device, DeviceRoom, Job, Placement, Resources, Room, TakeOver,
};

use super::promised::Promised;
use super::specials::Specials;

/// What one allocation can still give.
#[derive(Clone, Debug)]
struct Source<'a> {
    slot: u32,
    /// Before the claim. Shared by all claims, so never changed by one: a copy would cost what all its devices cost.
    left: Rc<TakeOver>,
    /// No more than the claim names: of what it names nothing of, it may have all.
    most: Option<&'a TakeOver>,
    /// It must be evicted for that.
    is_victim: bool,
    taken: TakeOver,
    /// Its end is waited for, whatever is taken over: it makes up for what the machine lacks.
    makes_up: bool,
}

/// Everybody that one claim may take over from, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandOff<'a> {
    sources: Vec<Source<'a>>,
}

/// What was taken over on one machine, before the transaction that is being resolved, and is not there yet: by whom it was taken over
/// from. One pass over those who have such serves all victims of all claims.
#[derive(Debug, Default)]
pub(crate) struct Heirs {
    taken: BTreeMap<AllocationId, TakeOver>,
    /// What those who were asked for can still give: thousands of claims may name the same ones.
    left: RefCell<BTreeMap<u32, Rc<TakeOver>>>,
}

impl Heirs {
    pub(crate) fn on(cell: &Cell, machine: u32) -> Self {
        let slots = cell.in_use(machine).into_iter().flat_map(|used| &used.heirs);
        let mut heirs = Self::default();
        for entry in slots.filter_map(|&slot| cell.allocation_in(slot)?.extra).flat_map(|extra| &extra.takes_over) {
            let sum = heirs.taken.entry(entry.victim).or_insert_with(|| nothing_of(entry.victim));
            add(sum, entry);
        }
        heirs
    }

    /// What somebody can still give, before the transaction that is being resolved.
    pub(crate) fn left_of(&self, cell: &Cell, found: &AllocationRef<'_>) -> Rc<TakeOver> {
        self.left.borrow_mut().entry(found.id.slot).or_insert_with(|| Rc::new(self.count(cell, found))).clone()
    }

    fn count(&self, cell: &Cell, found: &AllocationRef<'_>) -> TakeOver {
        let mut left = TakeOver {
            victim: found.id,
            amount: cell.resources_of(found.row),
            devices: Vec::new(),
            ports: found.extra.into_iter().flat_map(|extra| &extra.ports).map(|port| port.number).collect(),
        };
        // It may have one device twice.
        let devices = found.extra.into_iter().flat_map(|extra| &extra.devices);
        devices.for_each(|device| add_device(&mut left.devices, device));
        // What it took over itself is not there yet, and what others took over from it is gone.
        let awaited = found.extra.filter(|_| !planted::is(Bug::HandsOverWhatIsAwaited));
        let own = awaited.into_iter().flat_map(|extra| &extra.takes_over);
        let others = self.taken.get(&found.id).filter(|_| !planted::is(Bug::HandsOverTwice));
        own.chain(others).for_each(|entry| subtract(&mut left, entry));
        left
    }
}

/// What allocations that were asked for can still give, by slot, after all that the transaction in hand promised of them: thousands of
/// claims may name the same ones, and each changes few of them.
#[derive(Debug, Default)]
pub(crate) struct Remains(RefCell<BTreeMap<u32, Rc<TakeOver>>>);

impl Remains {
    fn of(&self, cell: &Cell, (specials, heirs): (&Specials, &Heirs), found: &AllocationRef<'_>) -> Rc<TakeOver> {
        let count = || {
            #[cfg(test)]
            specials.counted.set(specials.counted.get() + 1);
            let mut left = heirs.left_of(cell, found);
            if let Some(entry) = specials.taken_over(found.id.slot) {
                subtract(Rc::make_mut(&mut left), entry);
            }
            left
        };
        self.0.borrow_mut().entry(found.id.slot).or_insert_with(count).clone()
    }

    /// Notes what a claim is promised.
    pub(crate) fn take_over(&mut self, entries: &[TakeOver]) {
        for entry in entries {
            if let Some(left) = self.0.get_mut().get_mut(&entry.victim.slot) {
                subtract(Rc::make_mut(left), entry);
            }
        }
    }

    /// Forgets those in these slots: some of what was promised of them is taken back.
    pub(crate) fn forget(&mut self, slots: impl Iterator<Item = u32>) {
        slots.for_each(|slot| {
            self.0.get_mut().remove(&slot);
        });
    }
}

/// Victims that a placement names, by machine, in the order of their ranks. Nobody stands there twice: what it has would count twice.
pub(crate) type Victims = BTreeMap<u32, Vec<AllocationId>>;

/// Groups the victims of a placement, so that a claim looks only at those of its machine: each once, with its first rank.
pub(crate) fn victims_by_machine(placement: &Placement) -> Victims {
    let mut victims = Victims::new();
    for preemption in &placement.preemptions {
        // At most `VICTIMS_MAX` on a machine.
        let of_machine = victims.entry(preemption.machine).or_default();
        if !of_machine.contains(&preemption.victim) {
            of_machine.push(preemption.victim);
        }
    }
    victims
}

/// Whether an allocation leaves already, or with the transaction that is being resolved.
pub(crate) fn leaves(promised: &Promised, found: &AllocationRef<'_>) -> bool {
    found.status.state.is_leaving() || promised.stops(found.id.slot) || promised.specials.evicts(found.id.slot)
}

/// Whether a task of this job may evict an active allocation: of a strictly lower band, and not waiting for a victim itself.
pub(crate) fn may_evict(cell: &Cell, job: &Job, victim: &AllocationRef<'_>) -> bool {
    let waits = victim.extra.is_some_and(|extra| !extra.takes_over.is_empty());
    let band = |job: &Job| job.shape.priority / 10;
    !waits && (cell.job(victim.row.job()).is_none_or(|of| band(of) < band(job)) || planted::is(Bug::EvictsAnybody))
}

pub(crate) fn nothing_of(victim: AllocationId) -> TakeOver {
    TakeOver { victim, amount: Resources::default(), devices: Vec::new(), ports: Vec::new() }
}

pub(crate) fn is_nothing(entry: &TakeOver) -> bool {
    entry.amount.is_nothing() && entry.devices.is_empty() && entry.ports.is_empty()
}

/// Of what somebody has, as much as is wanted of it: all, where no room is named.
pub(crate) fn room_within(most: Option<&TakeOver>, has: &Resources) -> Resources {
    let most = most.map(|most| &most.amount).filter(|most| !most.is_nothing());
    most.map_or(*has, |most| has.at_most(most))
}

/// Of a device that somebody has, as much as is wanted of it: all, where no device is named.
pub(crate) fn lent_within(most: Option<&TakeOver>, device: &Device) -> u32 {
    let of_it = |all: &[Device]| {
        let same = all.iter().filter(|other| is_same(other, device));
        same.fold(0_u32, |sum, other| sum.saturating_add(other.millis))
    };
    let most = most.filter(|most| !most.devices.is_empty());
    most.map_or(device.millis, |most| device.millis.min(of_it(&most.devices)))
}

impl Source<'_> {
    /// The room that it may give.
    fn room(&self) -> Resources {
        room_within(self.most, &self.left.amount)
    }

    /// How much it may give of one of its devices.
    fn lends(&self, device: &Device) -> u32 {
        lent_within(self.most, device)
    }

    /// Whether it has to leave for the claim.
    fn is_needed(&self) -> bool {
        self.makes_up || !is_nothing(&self.taken)
    }

    fn has_port(&self, port: u16) -> bool {
        let named = self.most.is_none_or(|most| most.ports.is_empty() || most.ports.contains(&port));
        named && self.left.ports.contains(&port) && !self.taken.ports.contains(&port)
    }
}

impl<'a> HandOff<'a> {
    /// Collects who can give on a machine: first those that the claim names, then the placement's victims, and of these first who leaves anyway, so that
    /// nobody is evicted for what they have.
    pub(crate) fn new(
        cell: &Cell,
        (promised, heirs, remains): (&Promised, &Heirs, &Remains),
        job: &Job,
        machine: u32,
        named: &'a [TakeOver],
        victims: &[AllocationId],
    ) -> Self {
        let mut hand_off = Self::default();
        let left = |found: &AllocationRef<'_>| remains.of(cell, (&promised.specials, heirs), found);
        for entry in named {
            if let Some(found) = cell.allocation(entry.victim).filter(|found| leaves(promised, found)) {
                hand_off.add(&found, machine, left, false, Some(entry));
            }
        }
        for &victim in victims {
            let Some(found) = cell.allocation(victim) else { continue };
            // One that leaves already gives its room without being evicted.
            let leaves = leaves(promised, &found);
            if leaves || may_evict(cell, job, &found) {
                hand_off.add(&found, machine, left, !leaves, None);
            }
        }
        hand_off.sources.sort_by_key(|source| source.is_victim);
        hand_off
    }

    fn add(
        &mut self,
        found: &AllocationRef<'_>,
        machine: u32,
        left: impl Fn(&AllocationRef<'_>) -> Rc<TakeOver>,
        is_victim: bool,
        most: Option<&'a TakeOver>,
    ) {
        let known = self.sources.iter().any(|source| source.slot == found.id.slot);
        if known || found.row.machine != machine {
            return;
        }
        let (left, taken) = (left(found), nothing_of(found.id));
        self.sources.push(Source { slot: found.id.slot, left, most, is_victim, taken, makes_up: false });
    }

    /// Sees to it that those leave who have what `need` lacks in what is `free`, and takes over what of that is need. Gives what is lacking still.
    pub(crate) fn take_room(&mut self, free: &Room, need: &Resources) -> Resources {
        let (mut lacking, mut own) = (free.lack(need), free.uncovered(need));
        for source in &mut self.sources {
            if lacking.is_nothing() {
                break;
            }
            let has = source.room();
            let part = has.at_most(&lacking);
            let taken = if planted::is(Bug::TakesAllOver) { has } else { part.at_most(&own) };
            source.makes_up = !part.is_nothing();
            source.taken.amount = taken;
            (lacking, own) = (lacking.without(&part), own.without(&taken));
        }
        lacking
    }

    /// Adds what a source could give of devices, one source after the other: to be tried with ever more of them. False where there is
    /// no such source.
    pub(crate) fn lend_devices(&self, source: usize, rooms: &mut [DeviceRoom]) -> bool {
        let Some(source) = self.sources.get(source) else { return false };
        let mut at = 0;
        for device in &source.left.devices {
            let place = find_from(rooms, &mut at, |room| room.is(device));
            place.into_iter().for_each(|place| rooms[place].free_millis += i64::from(source.lends(device)));
        }
        true
    }

    /// Whether a source stays as long as nothing more is taken over from it.
    pub(crate) fn stays(&self, source: usize) -> bool {
        self.sources.get(source).is_some_and(|source| source.is_victim && !source.is_needed())
    }

    /// Takes over what `chosen` devices lack in `free`, from the first of these sources that have it. Gives what was not taken over.
    pub(crate) fn take_devices(&mut self, chosen: &[Device], free: &[DeviceRoom], lenders: &[usize]) -> Vec<Device> {
        let mut free = free.to_vec();
        let mut own = Vec::new();
        let mut at = 0;
        for device in chosen {
            let place = find_from(&free, &mut at, |room| room.is(device));
            let there = place.map_or(0, |place| {
                let there = free[place].free_millis.clamp(0, device.millis.into());
                free[place].free_millis -= there;
                u32::try_from(there).expect("at most what is asked for")
            });
            if there > 0 {
                own.push(Device { millis: there, ..device.clone() });
            }
            let mut lacking = device.millis - there;
            for &lender in lenders {
                if lacking == 0 {
                    break;
                }
                let source = &mut self.sources[lender];
                let Some(left) = source.left.devices.iter().find(|left| is_same(left, device)) else { continue };
                // A claim may be given one device twice.
                let taken = source.taken.devices.iter().filter(|taken| is_same(taken, device));
                let part = (source.lends(left) - taken.map(|taken| taken.millis).sum::<u32>()).min(lacking);
                lacking -= part;
                if part > 0 {
                    source.taken.devices.push(Device { millis: part, ..device.clone() });
                }
            }
        }
        own
    }

    /// Takes over a port; false if nobody has it.
    pub(crate) fn take_port(&mut self, port: u16) -> bool {
        let Some(source) = self.sources.iter_mut().find(|source| source.has_port(port)) else { return false };
        source.taken.ports.push(port);
        true
    }

    /// What was taken over, with the slots of those that must be evicted for it.
    pub(crate) fn conclude(self) -> (Vec<TakeOver>, Vec<u32>) {
        let is_used = |source: &Source<'_>| source.is_needed() || planted::is(Bug::EvictsForNothing);
        let used: Vec<_> = self.sources.into_iter().filter(is_used).collect();
        let victims = used.iter().filter(|source| source.is_victim).map(|source| source.slot).collect();
        (used.into_iter().map(|source| source.taken).collect(), victims)
    }
}

/// Adds one entry to a sum of such.
pub(crate) fn add(sum: &mut TakeOver, entry: &TakeOver) {
    sum.amount = sum.amount.with(&entry.amount);
    entry.devices.iter().for_each(|device| add_device(&mut sum.devices, device));
    sum.ports.extend(&entry.ports);
}

fn is_same(one: &Device, other: &Device) -> bool {
    one.index == other.index && one.kind == other.kind
}

/// The place of the first one that is meant, looked for where the last one was found, and only then from the beginning: devices mostly
/// come in the order in which they stand there.
pub(crate) fn find_from<T>(all: &[T], at: &mut usize, is_meant: impl Fn(&T) -> bool) -> Option<usize> {
    let next = all.get(*at).is_some_and(&is_meant).then_some(*at);
    let found = next.or_else(|| all.iter().position(is_meant))?;
    *at = found + 1;
    Some(found)
}

/// Adds one device to a sum of such.
pub(crate) fn add_device(sum: &mut Vec<Device>, device: &Device) {
    match sum.iter_mut().find(|sum| is_same(sum, device)) {
        Some(sum) => sum.millis += device.millis,
        None => sum.push(device.clone()),
    }
}

/// Takes devices away from what is left, where each stands once.
pub(crate) fn subtract_devices(left: &mut Vec<Device>, devices: &[Device]) {
    let mut at = 0;
    for device in devices {
        if let Some(place) = find_from(left, &mut at, |left| is_same(left, device)) {
            left[place].millis = left[place].millis.saturating_sub(device.millis);
        }
    }
    left.retain(|device| device.millis > 0);
}

/// Takes one entry away from what is left.
pub(crate) fn subtract(left: &mut TakeOver, entry: &TakeOver) {
    left.amount = left.amount.without(&entry.amount);
    subtract_devices(&mut left.devices, &entry.devices);
    left.ports.retain(|port| !entry.ports.contains(port));
}

/// What a claim names to take over from.
pub(crate) fn named(extra: Option<&ClaimExtra>) -> &[TakeOver] {
    extra.map(|extra| extra.take_overs.as_slice()).unwrap_or_default()
}
