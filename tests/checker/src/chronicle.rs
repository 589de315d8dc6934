//! The history of a cell, put together from what watchers were told, and what can be looked up in it.

use std::collections::{BTreeMap, BTreeSet};

use plenum_proto::v1;

use crate::amounts::Amounts;
use crate::fold::Fault;
use crate::picture::{Allocation, Picture, id_of, slot_of};
use crate::room;
use crate::stream::{Event, Recording};
use crate::words::Words;

/// Consecutive revisions whose deltas are all known.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The picture before the first delta.
    pub start: Picture,
    /// All of them, in order.
    pub deltas: Vec<v1::Delta>,
}

/// What is remembered of an allocation after its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// As it was granted.
    pub granted: Allocation,
    /// What it got.
    pub amounts: Amounts,
    /// The revision at which its end was decided.
    pub left: Option<u64>,
    /// The revision at which its room became free.
    pub ended: Option<u64>,
}

/// The history of one incarnation.
#[derive(Clone, Debug, Default)]
pub struct Chronicle {
    /// Whose.
    pub incarnation: u64,
    /// Between them, revisions are not known.
    pub segments: Vec<Segment>,
    /// All allocations by id.
    pub allocations: BTreeMap<u64, Facts>,
    /// Of all that were ever on each machine, by its slot, the revision of the grant and the id.
    pub places: BTreeMap<u32, BTreeSet<(u64, u64)>>,
    /// Ids that were granted at each revision.
    pub granted: BTreeMap<u64, Vec<u64>>,
    /// Ids that were evicted at each revision.
    pub evicted: BTreeMap<u64, Vec<u64>>,
    /// Revisions at which anything of an allocation, a machine, a job, a hold, a task that nobody knows, or of what operators set changed,
    /// apart from the record of a number.
    pub effects: BTreeSet<u64>,
    /// Revisions at which a number of a session was decided.
    pub numbers: BTreeMap<(u64, u64), Vec<u64>>,
    /// What was free on each machine, from each revision on.
    pub free: BTreeMap<u32, Vec<(u64, Amounts)>>,
    /// Revisions at which the row of a machine changed, or tasks on it that nobody knows, by slot.
    pub machine_changes: BTreeMap<u32, BTreeSet<u64>>,
    /// Revisions at which a job, a task of it or an allocation of it changed.
    pub job_changes: BTreeMap<u64, BTreeSet<u64>>,
    /// What each job declared, from each revision on.
    pub shapes: BTreeMap<u64, Vec<(u64, v1::JobShape)>>,
    /// Revisions at which a hold of room of each machine changed.
    pub held_changes: BTreeMap<u32, BTreeSet<u64>>,
    /// Whether somebody held room of each machine, from each revision on.
    pub held: BTreeMap<u32, Vec<(u64, bool)>>,
    /// Whether tasks that nobody knows were on each machine, from each revision on.
    pub strange: BTreeMap<u32, Vec<(u64, bool)>>,
    /// The row of each machine, from each revision on; `None`: nobody is in that slot.
    pub machines: BTreeMap<u32, Vec<(u64, Option<v1::MachineChange>)>>,
    /// Revisions at which a server opened the cell.
    pub openings: BTreeSet<u64>,
    /// Revisions at which numbers of resources were given to others.
    pub reshaped: BTreeSet<u64>,
    /// How many changes of machines, and of what is on them, each revision had, where it had any.
    pub touches: BTreeMap<u64, u64>,
    /// The version of each job, from each revision on; `None`: it is not there.
    pub versions: BTreeMap<u64, Vec<(u64, Option<u32>)>>,
    /// Each partition by its name, from each revision on; `None`: it is not there.
    pub partitions: BTreeMap<String, Vec<(u64, Option<v1::PartitionChange>)>>,
    /// What each revision did to machines and jobs, by the words of refusals.
    pub words: Words,
}

/// Sees a history step by step.
pub trait Visitor {
    /// The picture before a delta.
    fn before(&mut self, _picture: &Picture, _delta: &v1::Delta) {}
    /// The picture after it.
    fn after(&mut self, _picture: &Picture, _delta: &v1::Delta) {}
    /// The beginning, and after revisions that are not known.
    fn begin(&mut self, _picture: &Picture) {}
}

impl Chronicle {
    /// The histories of all incarnations that were watched.
    ///
    /// # Errors
    /// When a delta does not fold.
    pub fn of(recordings: &[Recording]) -> Result<Vec<Self>, Fault> {
        let mut told: BTreeMap<u64, Told<'_>> = BTreeMap::new();
        for recording in recordings {
            let mut incarnation = 0;
            for event in &recording.events {
                match event {
                    Event::Welcome(welcome) => {
                        incarnation = welcome.incarnation;
                        // Revision 1 is the first start of a server: there is nothing in the cell yet.
                        if !welcome.snapshot && welcome.revision <= 1 {
                            told.entry(incarnation).or_default().from_nothing = Some(welcome.revision);
                        }
                    }
                    Event::Snapshot(picture) => {
                        told.entry(incarnation).or_default().pictures.insert(picture.revision, picture);
                    }
                    Event::Delta { delta, .. } => {
                        told.entry(incarnation).or_default().deltas.insert(delta.revision, delta);
                    }
                    Event::Outcome(_) | Event::Heartbeat(_) => {}
                }
            }
        }
        told.into_iter().map(|(incarnation, told)| told.chronicle(incarnation)).collect()
    }

    /// Shows every step.
    ///
    /// # Panics
    /// Never: all deltas were folded before.
    pub fn walk(&self, visitor: &mut impl Visitor) {
        for segment in &self.segments {
            let mut picture = segment.start.clone();
            visitor.begin(&picture);
            for delta in &segment.deltas {
                visitor.before(&picture, delta);
                picture.fold(delta).expect("it was folded when the history was put together");
                visitor.after(&picture, delta);
            }
        }
    }

    /// The picture at a revision, folded from the beginning of its segment; `None` where that is not known.
    #[must_use]
    pub fn picture_at(&self, revision: u64) -> Option<Picture> {
        let segment = self.segments.iter().find(|segment| segment.has_picture(revision))?;
        let mut picture = segment.start.clone();
        let count = usize::try_from(revision - picture.revision).ok()?;
        segment.deltas[..count].iter().try_for_each(|delta| picture.fold(delta)).ok()?;
        Some(picture)
    }

    /// Whether the delta of a revision is known.
    #[must_use]
    pub fn has_delta(&self, revision: u64) -> bool {
        self.segments.iter().any(|segment| segment.has_picture(revision) && revision > segment.start.revision)
    }

    /// Whether all deltas from one revision (exclusive) to another are known.
    #[must_use]
    pub fn has_all(&self, after: u64, to: u64) -> bool {
        self.segments.iter().any(|segment| segment.has_picture(after) && segment.has_picture(to))
    }

    /// The last revision.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.segments.last().map_or(0, Segment::newest)
    }

    /// Revisions whose deltas are known.
    #[must_use]
    pub fn folded(&self) -> usize {
        self.segments.iter().map(|segment| segment.deltas.len()).sum()
    }

    /// Who was granted on a machine from one revision on and before another, in order.
    pub fn granted_on(&self, slot: u32, from: u64, before: u64) -> impl Iterator<Item = &Facts> {
        let since = self.places.get(&slot).into_iter().flat_map(move |all| all.range((from, 0)..));
        let until = since.take_while(move |(at, _)| *at < before);
        until.filter_map(|(_, id)| self.allocations.get(id))
    }

    /// How many allocations ever were on a machine.
    #[must_use]
    pub fn count_on(&self, slot: u32) -> usize {
        self.places.get(&slot).map_or(0, BTreeSet::len)
    }

    /// What was free on a machine at a revision; nothing before it came.
    #[must_use]
    pub fn free_at(&self, machine: u32, revision: u64) -> Amounts {
        self.free.get(&machine).and_then(|history| last(history, revision)).copied().unwrap_or_default()
    }

    /// Whether anybody held room of a machine at any revision of these, both included.
    #[must_use]
    pub fn was_held(&self, machine: u32, from: u64, to: u64) -> bool {
        was(&self.held, machine, from, to)
    }

    /// Whether tasks that nobody knows were on a machine at any revision of these, both included.
    #[must_use]
    pub fn was_strange(&self, machine: u32, from: u64, to: u64) -> bool {
        was(&self.strange, machine, from, to)
    }

    /// Whether a machine's row, or tasks on it that nobody knows, changed after one revision and before another.
    #[must_use]
    pub fn has_changed(&self, slot: u32, after: u64, before: u64) -> bool {
        let between = after + 1..before.max(after + 1);
        self.machine_changes.get(&slot).is_some_and(|changes| changes.range(between).next().is_some())
    }

    /// The row of the machine in a slot at a revision.
    #[must_use]
    pub fn machine_at(&self, slot: u32, revision: u64) -> Option<&v1::MachineChange> {
        last(self.machines.get(&slot)?, revision)?.as_ref()
    }

    /// What a job declared at a revision.
    #[must_use]
    pub fn shape_at(&self, job: u64, revision: u64) -> Option<&v1::JobShape> {
        last(self.shapes.get(&job)?, revision)
    }

    /// The version of a job at a revision, if it was there.
    #[must_use]
    pub fn version_at(&self, job: u64, revision: u64) -> Option<u32> {
        *last(self.versions.get(&job)?, revision)?
    }

    /// The partitions at a revision.
    pub fn partitions_at(&self, revision: u64) -> impl Iterator<Item = &v1::PartitionChange> {
        self.partitions.values().filter_map(move |history| last(history, revision)?.as_ref())
    }

    /// What a job's group declared at a revision.
    #[must_use]
    pub fn group_at(&self, job: u64, group: u32, revision: u64) -> Option<&v1::GroupShape> {
        self.shape_at(job, revision)?.groups.get(group as usize)
    }
}

/// What was noted last, up to a revision.
fn last<T>(history: &[(u64, T)], revision: u64) -> Option<&T> {
    let after = history.partition_point(|(at, _)| *at <= revision);
    Some(&history[after.checked_sub(1)?].1)
}

/// Whether something was so of a machine at any revision of these, both included.
fn was(histories: &BTreeMap<u32, Vec<(u64, bool)>>, machine: u32, from: u64, to: u64) -> bool {
    let history = histories.get(&machine).map(Vec::as_slice).unwrap_or_default();
    let first = history.partition_point(|(at, _)| *at <= from).saturating_sub(1);
    history[first..].iter().take_while(|(at, _)| *at <= to).any(|(_, so)| *so)
}

/// Notes of which machines something is so from a revision on.
fn note(histories: &mut BTreeMap<u32, Vec<(u64, bool)>>, machines: &BTreeSet<u32>, revision: u64) {
    let known: Vec<u32> = histories.keys().copied().collect();
    for machine in machines.iter().copied().chain(known) {
        let history = histories.entry(machine).or_default();
        let now = machines.contains(&machine);
        if history.last().is_none_or(|(_, before)| *before != now) {
            history.push((revision, now));
        }
    }
}

impl Segment {
    /// Its last revision.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.deltas.last().map_or(self.start.revision, |delta| delta.revision)
    }

    fn has_picture(&self, revision: u64) -> bool {
        (self.start.revision..=self.newest()).contains(&revision)
    }
}

#[derive(Default)]
struct Told<'a> {
    from_nothing: Option<u64>,
    pictures: BTreeMap<u64, &'a Picture>,
    deltas: BTreeMap<u64, &'a v1::Delta>,
}

impl Told<'_> {
    fn chronicle(self, incarnation: u64) -> Result<Chronicle, Fault> {
        let nothing = self.from_nothing.map(|revision| Picture { revision, ..Picture::default() });
        let first = nothing.or_else(|| self.pictures.values().next().map(|picture| (*picture).clone()));
        let mut chronicle = Chronicle { incarnation, ..Chronicle::default() };
        let Some(mut picture) = first else { return Ok(chronicle) };
        loop {
            let mut segment = Segment { start: picture.clone(), deltas: Vec::new() };
            chronicle.index_start(&picture);
            while let Some(delta) = self.deltas.get(&(picture.revision + 1)) {
                let touched = chronicle.index_before(&picture, delta);
                picture.fold(delta)?;
                chronicle.index_after(&picture, delta, touched);
                segment.deltas.push((*delta).clone());
            }
            chronicle.segments.push(segment);
            let Some((_, next)) = self.pictures.range(picture.revision + 1..).next() else { break };
            picture = (*next).clone();
        }
        Ok(chronicle)
    }
}

/// The index.
impl Chronicle {
    fn index_start(&mut self, picture: &Picture) {
        for facts in self.allocations.values_mut().filter(|facts| facts.ended.is_none()) {
            if picture.allocation(facts.granted.id).is_none() {
                // Some time between; nobody knows when.
                facts.ended = Some(picture.revision);
            }
        }
        for allocation in picture.allocations.values() {
            let amounts = picture.amounts_of(allocation.shape);
            let left = allocation.is_leaving().then_some(picture.revision);
            let facts = Facts { granted: allocation.clone(), amounts, left, ended: None };
            self.note_place(allocation);
            let known = self.allocations.entry(allocation.id).or_insert(facts);
            known.left = known.left.or(left);
        }
        picture.machines.keys().for_each(|&slot| self.note_free(picture, slot));
        // Those that are gone by now have no row any more, which is noted, too.
        let mut slots: BTreeSet<u32> = self.machines.keys().copied().collect();
        slots.extend(picture.machines.keys());
        slots.into_iter().for_each(|slot| self.note_machine(picture, slot));
        for (job, history) in &mut self.versions {
            if !picture.jobs.contains_key(job) {
                history.push((picture.revision, None));
            }
        }
        picture.jobs.values().for_each(|put| self.note_shape(put, picture.revision));
        for (name, history) in &mut self.partitions {
            if !picture.partitions.contains_key(name) {
                history.push((picture.revision, None));
            }
        }
        picture.partitions.values().for_each(|row| self.note_partition(row, picture.revision));
        self.note_held(picture);
        self.note_strange(picture);
    }

    fn note_partition(&mut self, row: &v1::PartitionChange, revision: u64) {
        let history = self.partitions.entry(row.name.clone()).or_default();
        history.push((revision, (!row.removed).then(|| row.clone())));
    }

    fn note_place(&mut self, allocation: &Allocation) {
        self.places.entry(allocation.machine).or_default().insert((allocation.created, allocation.id));
    }

    fn note_shape(&mut self, put: &v1::JobPut, revision: u64) {
        self.versions.entry(put.id).or_default().push((revision, Some(put.version)));
        if let Some(shape) = &put.shape {
            self.shapes.entry(put.id).or_default().push((revision, shape.clone()));
        }
    }

    /// Machines that the delta touches, and what can be told only before it.
    fn index_before(&mut self, before: &Picture, delta: &v1::Delta) -> BTreeSet<u32> {
        let revision = delta.revision;
        let mut touched: BTreeSet<u32> = delta.machines.iter().map(|machine| slot_of(machine.id)).collect();
        touched.extend(delta.grants.iter().flat_map(|grants| grants.machines.iter().copied()));
        touched.extend(delta.unknown_tasks.iter().map(|row| slot_of(row.machine)));
        for hold in &delta.holds {
            let had = before.holds.get(&hold.job).map(|had| had.machines.as_slice()).unwrap_or_default();
            for machine in had.iter().chain(&hold.machines) {
                self.held_changes.entry(*machine).or_default().insert(revision);
            }
        }
        self.index_touches(before, delta);
        self.words.note(before, delta);
        let moved = delta.moves.iter().flat_map(|moves| moves.slots.iter().map(|slot| (slot, false)));
        let ended = delta.ends.iter().flat_map(|ends| ends.slots.iter().map(|slot| (slot, true)));
        for (slot, ends) in moved.chain(ended) {
            let Some(allocation) = before.allocations.get(slot) else { continue };
            touched.insert(allocation.machine);
            self.job_changes.entry(allocation.job).or_default().insert(revision);
            if ends && let Some(facts) = self.allocations.get_mut(&allocation.id) {
                facts.ended = Some(revision);
            }
        }
        touched
    }

    fn index_touches(&mut self, before: &Picture, delta: &v1::Delta) {
        let machines_of = |hold: Option<&v1::HoldChange>| hold.map_or(0, |hold| hold.machines.len());
        let holds = delta.holds.iter().map(|hold| machines_of(before.holds.get(&hold.job)) + machines_of(Some(hold)));
        let grants = delta.grants.iter().map(|grants| grants.slots.len());
        let ends = delta.ends.iter().map(|ends| ends.slots.len());
        let touches = holds.chain(grants).chain(ends).chain([delta.machines.len(), delta.unknown_tasks.len()]);
        let touches: usize = touches.sum();
        if touches > 0 {
            self.touches.insert(delta.revision, touches as u64);
        }
        if delta.cell.is_some() {
            self.openings.insert(delta.revision);
        }
        if !delta.reshaped.is_empty() {
            self.reshaped.insert(delta.revision);
        }
    }

    fn index_after(&mut self, after: &Picture, delta: &v1::Delta, touched: BTreeSet<u32>) {
        let revision = delta.revision;
        for machine in &delta.machines {
            self.machine_changes.entry(slot_of(machine.id)).or_default().insert(revision);
            self.note_machine(after, slot_of(machine.id));
        }
        for row in &delta.unknown_tasks {
            self.machine_changes.entry(slot_of(row.machine)).or_default().insert(revision);
        }
        for grants in &delta.grants {
            self.job_changes.entry(grants.job).or_default().insert(revision);
            for (&slot, &generation) in grants.slots.iter().zip(&grants.generations) {
                let id = id_of(slot, generation);
                let Some(allocation) = after.allocation(id) else { continue };
                let amounts = after.amounts_of(allocation.shape);
                let facts = Facts { granted: allocation.clone(), amounts, left: None, ended: None };
                self.note_place(allocation);
                self.allocations.insert(id, facts);
                self.granted.entry(revision).or_default().push(id);
            }
        }
        for slot in delta.moves.iter().flat_map(|moves| &moves.slots) {
            let leaving = after.allocations.get(slot).filter(|allocation| allocation.is_leaving());
            let Some(allocation) = leaving else { continue };
            let Some(facts) = self.allocations.get_mut(&allocation.id).filter(|facts| facts.left.is_none()) else {
                continue;
            };
            facts.left = Some(revision);
            if allocation.state == v1::AllocationState::Evicting {
                self.evicted.entry(revision).or_default().push(allocation.id);
            }
        }
        self.index_jobs(after, delta);
        for change in &delta.jobs {
            match &change.change {
                Some(v1::job_change::Change::Put(put)) => self.note_shape(put, revision),
                Some(v1::job_change::Change::Removed(job)) => {
                    self.versions.entry(*job).or_default().push((revision, None));
                }
                _ => {}
            }
        }
        for change in &delta.sessions {
            if let Some(v1::session_change::Change::Number(number)) = &change.change {
                self.numbers.entry((number.session, number.number)).or_default().push(revision);
            }
        }
        delta.partitions.iter().for_each(|row| self.note_partition(row, revision));
        if has_effect(delta) {
            self.effects.insert(revision);
        }
        touched.into_iter().for_each(|slot| self.note_free(after, slot));
    }

    fn index_jobs(&mut self, after: &Picture, delta: &v1::Delta) {
        use v1::job_change::Change;
        let rows = delta.tasks.iter().map(|changes| changes.group_row);
        let scaled = delta.jobs.iter().filter_map(|change| match &change.change {
            Some(Change::Group(group)) => Some(group.group),
            _ => None,
        });
        let jobs =
            rows.chain(scaled).filter_map(|row| after.job_of_row(row)).chain(delta.jobs.iter().filter_map(|change| {
                match &change.change {
                    Some(Change::Put(put)) => Some(put.id),
                    Some(Change::State(state)) => Some(state.id),
                    Some(Change::Removed(id)) => Some(*id),
                    Some(Change::Home(home)) => Some(home.id),
                    Some(Change::Launched(launched)) => Some(launched.id),
                    Some(Change::Group(_)) | None => None,
                }
            }));
        for job in jobs {
            self.job_changes.entry(job).or_default().insert(delta.revision);
        }
        if !delta.holds.is_empty() {
            self.note_held(after);
        }
        if !delta.unknown_tasks.is_empty() {
            self.note_strange(after);
        }
    }

    fn note_held(&mut self, picture: &Picture) {
        let held: BTreeSet<u32> = picture.holds.values().flat_map(|hold| &hold.machines).copied().collect();
        note(&mut self.held, &held, picture.revision);
    }

    fn note_strange(&mut self, picture: &Picture) {
        let strange: BTreeSet<u32> = picture.unknown_tasks.keys().map(|(slot, _)| *slot).collect();
        note(&mut self.strange, &strange, picture.revision);
    }

    fn note_machine(&mut self, picture: &Picture, slot: u32) {
        let row = picture.machines.get(&slot).cloned();
        self.machines.entry(slot).or_default().push((picture.revision, row));
    }

    fn note_free(&mut self, picture: &Picture, slot: u32) {
        let free = room::free(picture, slot);
        let history = self.free.entry(slot).or_default();
        if history.last().is_none_or(|(_, before)| *before != free) {
            history.push((picture.revision, free));
        }
    }
}

/// Whether a delta says more than that a number was decided. Sessions, and numbers of names and shapes, are no effects.
fn has_effect(delta: &v1::Delta) -> bool {
    let grants = !delta.grants.is_empty() || delta.moves.is_some() || delta.ends.is_some();
    let rows = !(delta.machines.is_empty() && delta.jobs.is_empty() && delta.tasks.is_empty());
    let room = !(delta.holds.is_empty() && delta.unknown_tasks.is_empty());
    let set = !(delta.quotas.is_empty() && delta.partitions.is_empty());
    let of_schedulers = !(delta.paused.is_empty() && delta.rights.is_empty());
    grants || rows || room || set || of_schedulers
}
