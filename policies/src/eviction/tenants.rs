//! Who has room on which machine, of those who may be evicted or leave already.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use plenum_model::{AllocationId, AllocationRef, Cell, JobKind, Resources, Revision, Room, VICTIMS_MAX};

/// Leaving allocations of a machine that are counted on, with those that are spoken for: as many victims can be named beside them.
const LEAVING_MAX: usize = VICTIMS_MAX / 2;

/// An allocation that may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Which.
    pub id: AllocationId,
    /// When it was granted.
    pub created: Revision,
    /// The number of what it has.
    pub(super) shape: u32,
    /// Of its job.
    pub priority: u8,
    /// Of a gang, or of a job whose tasks share a machine.
    pub is_torn: bool,
    /// It runs for ever.
    pub is_service: bool,
    /// It has devices or ports: it is like no other.
    pub is_special: bool,
}

/// A band of one machine, with those below it. Who was chosen since counts, too: it is for ruling machines out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) band: u8,
    /// The lowest priority in this band.
    pub(super) lowest: u8,
    /// What all of them have.
    room: Room,
    /// The most that one of them has, in each dimension.
    pub(super) most: Room,
}

/// What leaves a machine, by itself or because it was chosen to.
#[derive(Clone, Debug, Default)]
struct Leaving {
    /// First those that leave by themselves, then those that are spoken for, then those that were chosen since.
    ids: Vec<AllocationId>,
    /// What of these nobody took over yet.
    room: Room,
    /// The bands of the others, and what they have.
    chosen: Vec<(u8, Resources)>,
}

impl Leaving {
    /// Those that leave by themselves.
    fn alone(&self) -> &[AllocationId] {
        &self.ids[..self.ids.len() - self.chosen.len()]
    }

    /// Of the others those that could be evicted for a job of this band as well: on them, too, it may count, whatever becomes of other claims.
    fn chosen(&self, band: u8) -> impl Iterator<Item = &AllocationId> + Clone {
        let chosen = &self.ids[self.alone().len()..];
        let below = chosen.iter().zip(&self.chosen).filter(move |(_, (of, _))| *of < band);
        below.map(|(id, _)| id)
    }
}

/// All of them, by machine: a walk over the allocations of a cell, some 30 ms for a million, which serves all tasks of one decision. What is chosen is
/// counted as leaving from then on.
#[derive(Clone, Debug, Default)]
pub struct Tenants {
    /// Of one machine next to each other.
    all: Vec<Tenant>,
    /// By machine: where its tenants begin, and how many of them there are still. Behind these stand those that were chosen, the last one first.
    places: Vec<(u32, u32)>,
    levels: Vec<Level>,
    /// By machine: where its levels begin; one more than machines.
    level_places: Vec<u32>,
    leaving: BTreeMap<u32, Leaving>,
    shapes: Vec<Resources>,
    /// Machines on which somebody was chosen, one after the other.
    pub(super) touched: Vec<u32>,
}

impl Tenants {
    /// Reads those of a cell that a job of this band may evict. Those that are `spoken` for, as a transaction that was not answered names them, count as chosen: what that
    /// transaction claims is to be taken off what is free. Of those that leave the ones that are not `awaited` count as staying, and as nobody who could be evicted.
    #[must_use]
    pub fn of(
        cell: &Cell,
        band: u8,
        spoken: impl Fn(AllocationId) -> bool,
        mut awaited: impl FnMut(AllocationId) -> bool,
    ) -> Self {
        let rows = cell.machine_rows().len() as usize;
        let mut tenants = Self {
            places: vec![(0, 0); rows],
            shapes: cell.shapes().to_vec(),
            level_places: Vec::with_capacity(rows + 1),
            ..Self::default()
        };
        if Self::lowest_band(cell).is_none_or(|lowest| lowest >= band) {
            tenants.level_places.resize(rows + 1, 0);
            return tenants;
        }
        let mut found: Vec<(u32, Tenant)> = Vec::new();
        let mut leaving = BTreeMap::<u32, BTreeMap<AllocationId, Room>>::new();
        let mut chosen = BTreeMap::<u32, Vec<Tenant>>::new();
        for allocation in cell.allocations() {
            let machine = allocation.row.machine;
            let Some(place) = tenants.places.get_mut(machine as usize) else { continue };
            // Who waits for others is no victim, and what it has is not there yet.
            if allocation.extra.is_some_and(|extra| !extra.takes_over.is_empty()) {
                continue;
            }
            if allocation.status.state.is_leaving() {
                let room = tenants.shapes.get(allocation.row.shape as usize);
                if let Some(room) = room.filter(|_| awaited(allocation.id)) {
                    leaving.entry(machine).or_default().insert(allocation.id, Room::all_of(room));
                }
                continue;
            }
            match victim(cell, band, &allocation) {
                Some(tenant) if spoken(tenant.id) => chosen.entry(machine).or_default().push(tenant),
                Some(tenant) => {
                    place.1 += 1;
                    found.push((machine, tenant));
                }
                None => {}
            }
        }
        tenants.leave(cell, leaving);
        tenants.speak(chosen);
        tenants.seat(&found);
        tenants.sum_up();
        tenants
    }

    /// The lowest band of a job that is not over: nobody of this one or a lower one can evict anybody. A look at all jobs.
    #[must_use]
    pub fn lowest_band(cell: &Cell) -> Option<u8> {
        let jobs = (0..cell.job_slots().len()).filter_map(|slot| cell.job_in(slot));
        jobs.filter(|job| !job.state.is_final()).map(|job| job.shape.priority / 10).min()
    }

    /// Whether there is nobody to evict, and nobody leaves.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.leaving.is_empty()
    }

    /// Those of a machine that may be evicted, in no order, of whatever band.
    #[must_use]
    pub fn on(&self, machine: u32) -> &[Tenant] {
        let (begin, count) = self.places.get(machine as usize).copied().unwrap_or_default();
        &self.all[begin as usize..(begin + count) as usize]
    }

    /// What a tenant has.
    #[must_use]
    pub fn room_of(&self, tenant: &Tenant) -> &Resources {
        const NOTHING: &Resources = &Resources::new(0, 0);
        self.shapes.get(tenant.shape as usize).unwrap_or(NOTHING)
    }

    /// Who leaves a machine, of those that a job of this band may count on: [`Tenants::alone`] and [`Tenants::chosen`]. To be named as victims of each claim there, at most
    /// [`VICTIMS_MAX`].
    pub fn leaving(&self, machine: u32, band: u8) -> impl Iterator<Item = &AllocationId> + Clone {
        self.alone(machine).chain(self.chosen(machine, band))
    }

    /// Who leaves a machine anyway.
    pub fn alone(&self, machine: u32) -> impl Iterator<Item = &AllocationId> + Clone {
        self.leaving.get(&machine).into_iter().flat_map(Leaving::alone)
    }

    /// Who was chosen on a machine, or is spoken for, and may be evicted for a job of this band, in their order. One that was chosen for a claim stays if that is refused,
    /// and nobody else took over from it: who names it as a victim names its own ones before it.
    pub fn chosen(&self, machine: u32, band: u8) -> impl Iterator<Item = &AllocationId> + Clone {
        self.leaving.get(&machine).into_iter().flat_map(move |leaving| leaving.chosen(band))
    }

    /// How many more victims a claim on a machine may name.
    pub(super) fn unnamed(&self, machine: u32) -> usize {
        VICTIMS_MAX.saturating_sub(self.leaving.get(&machine).map_or(0, |leaving| leaving.ids.len()))
    }

    /// What is free on a machine, and what comes free when all have left who leave and on whom a job of this band may count.
    #[must_use]
    pub fn coming(&self, machine: u32, free: &Room, band: u8) -> Room {
        let mut room = *free;
        if let Some(leaving) = self.leaving.get(&machine) {
            room.0.iter_mut().zip(leaving.room.0).for_each(|(sum, more)| *sum += more);
            leaving.chosen.iter().filter(|(of, _)| *of < band).for_each(|(_, amount)| room.add(amount));
        }
        room
    }

    /// The levels of a machine up to the lowest one without which the room is enough; `None`: it is not even without all of them. That level is at
    /// most as high as the true one.
    pub(super) fn levels(&self, machine: u32, coming: &Room, need: &Resources, below: u8) -> Option<&[Level]> {
        let ends = self.level_places.get(machine as usize..machine as usize + 2)?;
        let levels = &self.levels[ends[0] as usize..ends[1] as usize];
        let last = levels.iter().take_while(|level| level.band < below).position(|level| {
            let mut room = *coming;
            room.0.iter_mut().zip(level.room.0).for_each(|(sum, more)| *sum += more);
            room.shortage(need).is_none()
        });
        last.map(|last| &levels[..=last])
    }

    /// Counts these as leaving, who were chosen on a machine.
    pub fn choose(&mut self, machine: u32, victims: &[AllocationId]) {
        let Some(&(begin, count)) = self.places.get(machine as usize) else { return };
        let (begin, mut end) = (begin as usize, (begin + count) as usize);
        for &victim in victims {
            let Some(place) = self.all[begin..end].iter().position(|tenant| tenant.id == victim) else { continue };
            end -= 1;
            self.all.swap(begin + place, end);
            let chosen = (self.all[end].priority / 10, *self.room_of(&self.all[end]));
            let leaving = self.leaving.entry(machine).or_default();
            leaving.ids.push(victim);
            leaving.chosen.push(chosen);
        }
        self.places[machine as usize].1 = u32::try_from(end - begin).unwrap_or(0);
        self.touched.push(machine);
    }

    /// Undoes the last [`Tenants::choose`] on a machine that was not undone, of so many victims.
    pub fn spare(&mut self, machine: u32, victims: usize) {
        let Some(leaving) = self.leaving.get_mut(&machine) else { return };
        for _ in 0..victims {
            if leaving.chosen.pop().is_some() {
                leaving.ids.pop();
                self.places[machine as usize].1 += 1;
            }
        }
        self.touched.push(machine);
    }

    /// What was found on a machine is not taken: it is to be looked at again.
    pub fn leave_be(&mut self, machine: u32) {
        self.touched.push(machine);
    }

    /// Tenants of machines that are given by hand.
    #[cfg(test)]
    pub(super) fn made(machines: &[Vec<(Tenant, Resources)>]) -> Self {
        let mut tenants = Self { places: vec![(0, 0); machines.len()], ..Self::default() };
        let mut found = Vec::new();
        for (machine, made) in (0..).zip(machines) {
            for (tenant, resources) in made {
                let shape = u32::try_from(tenants.shapes.len()).unwrap();
                tenants.shapes.push(*resources);
                tenants.places[machine as usize].1 += 1;
                found.push((machine, Tenant { shape, ..*tenant }));
            }
        }
        tenants.seat(&found);
        tenants.sum_up();
        tenants
    }

    /// Counts on those who leave anyway, as far as they can be named: on those first who have most that nobody took over.
    fn leave(&mut self, cell: &Cell, all: BTreeMap<u32, BTreeMap<AllocationId, Room>>) {
        for (machine, mut rooms) in all {
            let heirs = cell.in_use(machine).into_iter().flat_map(|used| &used.heirs);
            let extras = heirs.filter_map(|&slot| cell.extra(slot));
            for entry in extras.flat_map(|extra| &extra.takes_over) {
                if let Some(room) = rooms.get_mut(&entry.victim) {
                    room.take(&entry.amount);
                }
            }
            let has_more = |id: AllocationId| {
                let extra = cell.allocation(id).and_then(|found| found.extra);
                extra.is_some_and(|extra| !(extra.devices.is_empty() && extra.ports.is_empty()))
            };
            rooms.retain(|&id, room| room.0.iter().any(|&left| left > 0) || has_more(id));
            let mut order: Vec<(AllocationId, Room)> = rooms.into_iter().collect();
            order.sort_by(|(one, left), (other, right)| right.0.cmp(&left.0).then(one.slot.cmp(&other.slot)));
            order.truncate(LEAVING_MAX);
            let leaving = self.leaving.entry(machine).or_default();
            for (id, room) in order {
                leaving.ids.push(id);
                leaving.room.0.iter_mut().zip(room.0).for_each(|(sum, more)| *sum += more);
            }
            if leaving.ids.is_empty() {
                self.leaving.remove(&machine);
            }
        }
    }

    /// Counts those as chosen that are spoken for, as far as they can be named beside those who leave anyway: on those first who have most.
    fn speak(&mut self, all: BTreeMap<u32, Vec<Tenant>>) {
        for (machine, mut tenants) in all {
            tenants.sort_by_key(|tenant| (Reverse(Room::all_of(self.room_of(tenant)).0), tenant.id.slot));
            let leaving = self.leaving.entry(machine).or_default();
            tenants.truncate(LEAVING_MAX.saturating_sub(leaving.ids.len()));
            for tenant in &tenants {
                let room = self.shapes.get(tenant.shape as usize).copied().unwrap_or_default();
                leaving.ids.push(tenant.id);
                leaving.chosen.push((tenant.priority / 10, room));
            }
        }
        self.leaving.retain(|_, leaving| !leaving.ids.is_empty());
    }

    /// Puts those of one machine next to each other.
    fn seat(&mut self, found: &[(u32, Tenant)]) {
        let mut begin = 0;
        for place in &mut self.places {
            place.0 = begin;
            begin += place.1;
            place.1 = 0;
        }
        let Some(&(_, any)) = found.first() else { return };
        self.all = vec![any; found.len()];
        for &(machine, tenant) in found {
            let place = &mut self.places[machine as usize];
            self.all[(place.0 + place.1) as usize] = tenant;
            place.1 += 1;
        }
    }

    fn sum_up(&mut self) {
        self.level_places.push(0);
        for &(begin, count) in &self.places {
            let mut bands = [None::<Level>; 26];
            for tenant in &self.all[begin as usize..(begin + count) as usize] {
                let band = tenant.priority / 10;
                let none = || Level { band, lowest: u8::MAX, room: Room::default(), most: Room::default() };
                let level = bands[usize::from(band)].get_or_insert_with(none);
                let amount = Room::all_of(self.room_of(tenant));
                level.lowest = level.lowest.min(tenant.priority);
                level.room.0.iter_mut().zip(amount.0).for_each(|(sum, more)| *sum += more);
                level.most.0.iter_mut().zip(amount.0).for_each(|(most, one)| *most = one.max(*most));
            }
            let first = self.levels.len();
            for mut level in bands.into_iter().flatten() {
                if let Some(before) = self.levels[first..].last() {
                    level.room.0.iter_mut().zip(before.room.0).for_each(|(sum, more)| *sum += more);
                    level.most.0.iter_mut().zip(before.most.0).for_each(|(most, one)| *most = one.max(*most));
                }
                self.levels.push(level);
            }
            self.level_places.push(u32::try_from(self.levels.len()).unwrap_or(u32::MAX));
        }
    }
}

fn victim(cell: &Cell, band: u8, found: &AllocationRef<'_>) -> Option<Tenant> {
    let job = cell.job(found.row.job()).filter(|job| job.shape.priority / 10 < band)?;
    let group = job.shape.groups.get(usize::from(found.row.group));
    Some(Tenant {
        id: found.id,
        created: found.row.created,
        shape: found.row.shape,
        priority: job.shape.priority,
        is_torn: job.shape.same_machine || group.is_some_and(|group| group.min > 0),
        is_service: job.shape.kind == JobKind::Forever,
        is_special: found.extra.is_some_and(|extra| !(extra.devices.is_empty() && extra.ports.is_empty())),
    })
}
